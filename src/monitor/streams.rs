//! One audit stream as the monitor knows it: where it has been read to, how many entries that were, and whether what the
//! store says of it still agrees. Nothing is read here.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    detect::{GapReason, SourceIx},
    event::EntryId,
    store::StreamInfo,
};

/// Ids remembered per stream, to tell a log that lost its tail from one that was made anew.
const RECENT_MAX: usize = 256;

/// Whose entries a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feeds {
    Source(SourceIx),
    /// The bridges' stream: each entry names its source.
    Intake,
}

/// Since when a stream cannot be read, and why.
#[derive(Clone, Debug)]
pub struct Fault {
    pub since: Instant,
    pub text: String,
    /// `audit_gap` (`unreadable`) has been raised, and the stream has left the vote.
    pub told: bool,
}

#[derive(Debug)]
pub struct Stream {
    pub key: String,
    pub feeds: Feeds,
    /// Last entry read.
    pub position: EntryId,
    /// Last entry the detector has taken in.
    pub done: EntryId,
    /// Entries ever added to the stream up to and including `done`; unknown until the stream was first at its end.
    pub counted: Option<u64>,
    /// Entries read that the detector has not taken in.
    pub held: u64,
    pub recent: VecDeque<EntryId>,
    pub existed: bool,
    pub fault: Option<Fault>,
    /// `done` has moved since the last commit record.
    pub moved: bool,
    /// Position when it was last held against the store.
    pub compared: EntryId,
    /// Entries taken in since the last commit record.
    pub taken: u64,
    /// `counted` was looked up since the last commit record: a replay could not know it.
    pub recounted: bool,
    pub lag: Option<u64>,
    /// It has been said that its ids are used up.
    pub exhausted: bool,
    /// Looks at it take long: until then it is not looked at, unless the store was away.
    pub rest_until: Option<Instant>,
}

/// The part of a [`Stream`] that a snapshot keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    pub key: String,
    pub done: EntryId,
    pub counted: Option<u64>,
    pub recent: Vec<EntryId>,
    pub existed: bool,
}

/// A hole that [`Stream::compare`] found; the stream's position is where reading goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub reason: GapReason,
    pub from: EntryId,
    pub to: Option<EntryId>,
    pub missed: Option<u64>,
}

impl Stream {
    pub fn new(key: String, feeds: Feeds, position: EntryId) -> Stream {
        Stream {
            key,
            feeds,
            position,
            done: position,
            counted: None,
            held: 0,
            recent: VecDeque::new(),
            existed: false,
            fault: None,
            moved: true,
            compared: position,
            taken: 0,
            recounted: false,
            lag: None,
            exhausted: false,
            rest_until: None,
        }
    }

    pub fn restore(saved: Saved, feeds: Feeds) -> Stream {
        let mut stream = Stream::new(saved.key, feeds, saved.done);
        stream.counted = saved.counted;
        stream.recent = saved.recent.into_iter().rev().take(RECENT_MAX).rev().collect();
        stream.existed = saved.existed;
        stream.moved = false;
        stream
    }

    pub fn save(&self) -> Saved {
        Saved {
            key: self.key.clone(),
            done: self.done,
            counted: self.counted,
            recent: self.recent.iter().copied().collect(),
            existed: self.existed,
        }
    }

    /// The detector has taken this entry in.
    pub fn took(&mut self, id: EntryId) {
        self.done = self.done.max(id);
        self.position = self.position.max(id);
        self.held = self.held.saturating_sub(1);
        self.taken += 1;
        self.moved = true;
        self.existed = true;
        if let Some(counted) = &mut self.counted {
            *counted += 1;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// Reading goes on behind `position`, whatever was there before.
    pub fn move_to(&mut self, position: EntryId) {
        self.position = position;
        self.done = position;
        self.held = 0;
        self.moved = true;
    }

    /// Whether the stream has been unreadable for so long that it must not hold the others up.
    pub fn out_of_vote(&self, lag_max: Duration) -> bool {
        self.fault.as_ref().is_some_and(|f| f.since.elapsed() >= lag_max)
    }

    /// Holds what the store says of the stream against what was read of it. Only while nothing is held: then `position == done`.
    ///
    /// - A stream that is gone, whose counter went back, or whose newest entry is older than what was read and was never seen: made
    ///   anew (`reset`), read whole.
    /// - A newest entry that was seen: the log lost its tail (`rewound`), reading goes on from there.
    /// - More entries added than were read up to the end, or more removed than were ever read: `trimmed`.
    pub fn compare(&mut self, info: Option<StreamInfo>) -> Option<Hole> {
        let before = self.counted;
        let hole = self.hold_against(info);
        self.recounted |= self.counted != before;
        self.compared = self.position;
        hole
    }

    fn hold_against(&mut self, info: Option<StreamInfo>) -> Option<Hole> {
        debug_assert_eq!(self.held, 0);
        let from = self.position;
        let Some(info) = info else {
            self.lag = Some(0);
            if !self.existed {
                self.counted = Some(0);
                return None;
            }
            self.existed = false;
            self.move_to(EntryId::ZERO);
            self.counted = Some(0);
            self.recent.clear();
            return Some(Hole { reason: GapReason::Reset, from, to: None, missed: None });
        };
        let removed = info.added.map(|added| added.saturating_sub(info.length));
        if info.last_generated < self.position && self.existed {
            let seen = self.recent.contains(&info.last_generated);
            if seen {
                self.recent.retain(|id| *id <= info.last_generated);
                self.move_to(info.last_generated);
                self.counted = info.added;
                self.lag = Some(0);
                return Some(Hole { reason: GapReason::Rewound, from, to: Some(info.last_generated), missed: None });
            }
            self.recent.clear();
            self.move_to(EntryId::ZERO);
            self.counted = removed;
            self.lag = Some(info.length);
            return Some(Hole { reason: GapReason::Reset, from, to: info.first, missed: None });
        }
        if info.last_generated < self.position {
            // Never seen, and set to be read from a moment that has not come: nothing is missing.
            self.lag = Some(0);
            return None;
        }
        self.existed = true;
        let at_end = info.last_generated == self.position || info.length == 0;
        let hole = match (info.added, self.counted) {
            (Some(added), Some(counted)) if added < counted => {
                // Between two looks it lost its newest entries and got others, or was deleted and made anew with greater ids:
                // they have been read like any others.
                self.counted = if at_end { Some(added) } else { None };
                let same = info.first.is_some_and(|first| first <= self.compared);
                let reason = if same { GapReason::Rewound } else { GapReason::Reset };
                Some(Hole { reason, from: self.compared, to: info.first, missed: None })
            }
            (Some(added), Some(counted)) if at_end && added > counted => {
                self.counted = Some(added);
                if info.length == 0 {
                    self.move_to(info.last_generated);
                }
                Some(Hole { reason: GapReason::Trimmed, from, to: Some(info.last_generated), missed: Some(added - counted) })
            }
            (Some(_), Some(counted)) if removed.is_some_and(|removed| removed > counted) => {
                let missed = removed.unwrap_or(0) - counted;
                self.counted = removed;
                Some(Hole { reason: GapReason::Trimmed, from, to: info.first, missed: Some(missed) })
            }
            (None, _) if !at_end && self.position > EntryId::ZERO && !self.recent.is_empty() => {
                // Redis 6.2 keeps no counter: if all that was read is gone, what came after may be gone too.
                let first = info.first.unwrap_or(EntryId::MAX);
                if first > self.position && self.recent.iter().all(|id| *id < first) && self.recent.len() == RECENT_MAX {
                    Some(Hole { reason: GapReason::Trimmed, from, to: info.first, missed: None })
                } else {
                    None
                }
            }
            _ => None,
        };
        if at_end && self.counted.is_none() {
            self.counted = info.added;
        } else if self.counted.is_none() && self.position == EntryId::ZERO {
            self.counted = removed;
        }
        self.look_behind(&info);
        let used_up = info.last_generated == EntryId::MAX;
        if used_up && hole.is_none() && !self.exhausted {
            self.exhausted = true;
            return Some(Hole { reason: GapReason::Exhausted, from, to: None, missed: None });
        }
        self.exhausted &= used_up;
        hole
    }

    /// How many entries wait to be read, as far as that can be told: also in the middle of a backlog.
    pub fn look_behind(&mut self, info: &StreamInfo) {
        let at_end = info.last_generated <= self.position || info.length == 0;
        self.lag = match (info.added, self.counted) {
            _ if at_end => Some(0),
            (Some(added), Some(counted)) => Some(added.saturating_sub(counted.saturating_add(self.held))),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(length: u64, first: u64, last: u64, added: u64) -> Option<StreamInfo> {
        Some(StreamInfo {
            length,
            first: (length > 0).then(|| EntryId::new(first, 0)),
            last_generated: EntryId::new(last, 0),
            added: Some(added),
            max_deleted: None,
        })
    }

    /// A stream of which 1-0 … n-0 were read.
    fn read(n: u64) -> Stream {
        let mut stream = Stream::new("s".into(), Feeds::Source(0), EntryId::ZERO);
        stream.compare(info(n, 1, n, n));
        for ms in 1..=n {
            stream.took(EntryId::new(ms, 0));
        }
        assert_eq!(stream.counted, Some(n));
        stream
    }

    #[test]
    fn agreement_is_no_hole() {
        let mut stream = read(5);
        assert_eq!(stream.compare(info(5, 1, 5, 5)), None);
        assert_eq!(stream.compare(info(8, 1, 8, 8)), None);
        assert_eq!(stream.lag, Some(3));
        // What has been read may be trimmed.
        assert_eq!(stream.compare(info(3, 6, 8, 8)), None);
    }

    #[test]
    fn entries_trimmed_unread_are_counted() {
        let mut stream = read(5);
        let hole = stream.compare(info(2, 9, 10, 10)).unwrap();
        assert_eq!((hole.reason, hole.missed, hole.from), (GapReason::Trimmed, Some(3), EntryId::new(5, 0)));
        assert_eq!(stream.compare(info(2, 9, 10, 10)), None, "told once");
        stream.took(EntryId::new(9, 0));
        stream.took(EntryId::new(10, 0));
        assert_eq!(stream.compare(info(2, 9, 10, 10)), None);
        assert_eq!(stream.lag, Some(0));
        // Trimmed to nothing while nobody looked.
        let hole = stream.compare(info(0, 0, 12, 12)).unwrap();
        assert_eq!((hole.reason, hole.missed), (GapReason::Trimmed, Some(2)));
        assert_eq!(stream.compare(info(0, 0, 12, 12)), None);
    }

    #[test]
    fn a_lost_tail_is_a_rewind_and_reading_goes_on_from_there() {
        let mut stream = read(5);
        let hole = stream.compare(info(3, 1, 3, 3)).unwrap();
        assert_eq!((hole.reason, hole.to), (GapReason::Rewound, Some(EntryId::new(3, 0))));
        assert_eq!(stream.position, EntryId::new(3, 0));
        assert_eq!(stream.compare(info(3, 1, 3, 3)), None);
    }

    #[test]
    fn a_stream_made_anew_is_read_whole() {
        let mut stream = Stream::new("s".into(), Feeds::Source(0), EntryId::ZERO);
        for ms in 100..110 {
            stream.took(EntryId::new(ms, 0));
        }
        let hole = stream.compare(info(2, 1, 2, 2)).unwrap();
        assert_eq!(hole.reason, GapReason::Reset);
        assert_eq!(stream.position, EntryId::ZERO);
        assert_eq!(stream.compare(info(2, 1, 2, 2)), None);
    }

    #[test]
    fn a_stream_that_is_gone_is_told_once_and_one_that_never_was_not() {
        let mut stream = read(5);
        assert_eq!(stream.compare(None).unwrap().reason, GapReason::Reset);
        assert_eq!(stream.compare(None), None);
        assert_eq!(stream.position, EntryId::ZERO);
        let mut stream = Stream::new("t".into(), Feeds::Source(0), EntryId::ZERO);
        assert_eq!(stream.compare(None), None);
    }

    #[test]
    fn made_anew_with_greater_ids_shows_in_the_counter() {
        let mut stream = read(5);
        stream.took(EntryId::new(20, 0));
        assert_eq!(stream.compare(info(1, 20, 20, 1)).unwrap().reason, GapReason::Reset);
        assert_eq!(stream.compare(info(1, 20, 20, 1)), None);
    }
}
