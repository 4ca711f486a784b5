//! The ring of alert frames, and cursors on it.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use serde_json::{Map, Value};

use super::{Frame, Hub, RING_BYTES_MAX};
use crate::{
    filter,
    store::LogEntry,
    wire::{self, AlertView, Pos, Subscription},
};

/// Resets a cursor can have slept through; one that slept longer starts again at the oldest entry.
const RESETS_KEPT: usize = 16;

/// One entry of the alert log as clients get it.
pub struct AlertFrame {
    pub pos: Pos,
    pub view: AlertView,
    /// With `pos`, as it goes out to who is there.
    pub frame: Frame,
    replayed: OnceLock<Frame>,
    members: OnceLock<Option<Map<String, Value>>>,
}

impl AlertFrame {
    /// `None`: the body is no frame of any version, which only somebody else's writing into the log can bring about.
    pub fn new(entry: LogEntry) -> Option<AlertFrame> {
        let view = AlertView::parse(&entry.body)?;
        let pos = Pos { seq: entry.seq, check: entry.check };
        let frame = wire::with_pos(&entry.body, &pos.to_string(), false).into();
        Some(AlertFrame { pos, view, frame, replayed: OnceLock::new(), members: OnceLock::new() })
    }

    /// The entry as the store had it: the frame without its position, which `with_pos` put last.
    pub(super) fn as_stored(&self) -> Option<LogEntry> {
        let open = self.frame.as_str().strip_suffix(&format!(",\"pos\":\"{}\"}}", self.pos))?;
        Some(LogEntry { seq: self.pos.seq, check: self.pos.check.clone(), body: format!("{open}}}") })
    }

    /// Whether a client gets it. The frame is taken apart for the first one with an expression, for all of them.
    pub fn is_wanted(&self, subscription: &Subscription) -> bool {
        let members = || self.members.get_or_init(|| filter::members(self.frame.as_str())).as_ref();
        subscription.wants(&self.view, members)
    }

    /// The same with `replayed`: made when the first client needs it.
    pub fn replayed(&self) -> &Frame {
        self.replayed.get_or_init(|| wire::mark_replayed(self.frame.as_str()).into())
    }
}

/// One place of the ring: an entry that is no frame keeps its place, so positions have no holes.
struct Slot {
    pos: Pos,
    frame: Option<Arc<AlertFrame>>,
}

impl Slot {
    fn bytes(frame: &Option<Arc<AlertFrame>>) -> usize {
        frame.as_ref().map_or(0, |frame| frame.frame.wire_len())
    }
}

/// The alert log is no longer what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    pub(super) generation: u64,
    /// `rewound`, `reset`, `trimmed`.
    pub reason: &'static str,
    /// The reader's place before it (in the hub: the head), and where reading goes on: cursors above go back to it; for
    /// `trimmed` those below go up to it.
    pub from: Pos,
    pub to: Pos,
    /// Entries that the reader will never see, where their number is known.
    pub missed: Option<u64>,
}

/// Where a reader of the alert log is: it has everything up to `pos`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Cursor {
    generation: u64,
    /// Entries up to here were in the log before the reader came: they go out as `replayed`.
    pub replay_to: u64,
    pub pos: Pos,
}

impl Cursor {
    /// Of the log it is a place in: a reset makes another one.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// What a read gave beside frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Everything there is.
    Head,
    /// There is more in the ring.
    More,
    /// The entry after the cursor is not in the ring any more: read the store from the cursor on.
    Below,
    /// The log changed under the cursor. It stands at a place that is good now; what it was told before may not be.
    Reset(Vec<Reset>),
}

pub(super) struct Ring {
    len_max: usize,
    slots: VecDeque<Slot>,
    bytes: usize,
    pub(super) head: Pos,
    pub(super) epoch: String,
    /// The log has been read once.
    pub(super) loaded: bool,
    generation: u64,
    resets: VecDeque<Reset>,
}

impl Ring {
    pub(super) fn new(len_max: usize) -> Ring {
        Ring {
            len_max,
            slots: VecDeque::new(),
            bytes: 0,
            head: Pos::origin(""),
            epoch: String::new(),
            loaded: false,
            generation: 0,
            resets: VecDeque::new(),
        }
    }

    /// The frames above `seq`, ascending.
    pub(super) fn frames_after(&self, seq: u64) -> impl Iterator<Item = &Arc<AlertFrame>> {
        self.slots.iter().filter(move |slot| slot.pos.seq > seq).filter_map(|slot| slot.frame.as_ref())
    }

    /// The position after which the ring has everything.
    pub(super) fn floor(&self) -> u64 {
        self.slots.front().map_or(self.head.seq, |slot| slot.pos.seq.saturating_sub(1))
    }

    fn index(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.slots.front()?.pos.seq)?).ok()
    }

    /// The check of an entry, where the ring knows it.
    pub(super) fn check(&self, seq: u64) -> Option<&str> {
        if seq == self.head.seq {
            return Some(&self.head.check);
        }
        self.slots.get(self.index(seq)?).map(|slot| slot.pos.check.as_str())
    }

    fn push(&mut self, entry: LogEntry) {
        let pos = Pos { seq: entry.seq, check: entry.check.clone() };
        let frame = AlertFrame::new(entry).map(Arc::new);
        self.bytes += Slot::bytes(&frame);
        self.slots.push_back(Slot { pos: pos.clone(), frame });
        while self.slots.len() > self.len_max || (self.bytes > RING_BYTES_MAX && self.slots.len() > 1) {
            if let Some(oldest) = self.slots.pop_front() {
                self.bytes -= Slot::bytes(&oldest.frame);
            }
        }
        self.head = pos;
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.bytes = 0;
    }

    fn reset(&mut self, mut reset: Reset) {
        self.generation += 1;
        reset.generation = self.generation;
        if self.resets.len() == RESETS_KEPT {
            self.resets.pop_front();
        }
        self.resets.push_back(reset);
    }

    /// Moves a cursor over the resets since its last read.
    fn settle(&self, cursor: &mut Cursor) -> Vec<Reset> {
        let mut told = Vec::new();
        if self.resets.front().is_some_and(|oldest| oldest.generation > cursor.generation + 1) {
            // Slept through more than is kept: from the oldest entry, whatever it is.
            let to = Pos::origin(&self.epoch);
            told.push(Reset {
                generation: self.generation,
                reason: "reset",
                from: cursor.pos.clone(),
                to: to.clone(),
                missed: None,
            });
            cursor.pos = to;
        } else {
            for reset in self.resets.iter().filter(|reset| reset.generation > cursor.generation) {
                let trimmed = reset.reason == "trimmed";
                if trimmed && cursor.pos.seq >= reset.to.seq {
                    continue;
                }
                let mut reset = reset.clone();
                let head = std::mem::replace(&mut reset.from, cursor.pos.clone()).seq;
                match reset.reason {
                    "trimmed" => reset.missed = Some(reset.to.seq - cursor.pos.seq),
                    // Of what the log lost, this reader has what is up to its place already.
                    "rewound" => reset.missed = Some(head.saturating_sub(reset.to.seq.max(cursor.pos.seq))),
                    _ => {}
                }
                if reset.reason == "rewound" && cursor.pos.seq <= reset.to.seq {
                    // What this reader has is still there; what was lost came after it.
                    reset.to = cursor.pos.clone();
                }
                cursor.pos = reset.to.clone();
                told.push(reset);
            }
        }
        cursor.generation = self.generation;
        cursor.replay_to = self.head.seq;
        told
    }

    fn read(&self, cursor: &mut Cursor, limit: usize, mut take: impl FnMut(&Arc<AlertFrame>, bool) -> bool) -> Read {
        if cursor.generation != self.generation {
            return Read::Reset(self.settle(cursor));
        }
        if cursor.pos.seq >= self.head.seq {
            // At the head, or beyond it: this node's tail has yet to reach what another node has shown this client.
            return Read::Head;
        }
        if cursor.pos.seq < self.floor() {
            return Read::Below;
        }
        let start = self.index(cursor.pos.seq + 1).unwrap_or_default();
        let mut last = None;
        for slot in self.slots.iter().skip(start).take(limit) {
            last = Some(&slot.pos);
            if let Some(frame) = &slot.frame
                && !take(frame, slot.pos.seq <= cursor.replay_to)
            {
                break;
            }
        }
        if let Some(last) = last {
            cursor.pos.clone_from(last);
        }
        if cursor.pos.seq >= self.head.seq { Read::Head } else { Read::More }
    }
}

impl Hub {
    /// Takes entries of the alert log, ascending. Known ones are passed over. A jump forward (entries were trimmed before
    /// this node read them) and an entry that contradicts a known one are resets, which every cursor is told.
    pub fn push_alerts(&self, entries: Vec<LogEntry>) {
        if entries.is_empty() {
            return;
        }
        {
            let mut ring = self.ring_mut();
            for entry in entries {
                let head = ring.head.seq;
                if entry.seq <= head {
                    let known = ring.check(entry.seq).is_none_or(|check| check == entry.check);
                    if known {
                        continue;
                    }
                    let kept = entry.seq.saturating_sub(1);
                    let to = ring
                        .check(kept)
                        .map_or_else(|| Pos::origin(&ring.epoch), |check| Pos { seq: kept, check: check.to_owned() });
                    ring.rewind(to, "rewound");
                } else if entry.seq > head + 1 && (ring.loaded || !ring.slots.is_empty()) {
                    let from = ring.head.clone();
                    // The entry before is not known; a position that no entry has says so when it comes back.
                    let to = Pos { seq: entry.seq - 1, check: Pos::origin("trimmed").check };
                    ring.clear();
                    ring.reset(Reset { generation: 0, reason: "trimmed", missed: Some(to.seq - from.seq), from, to });
                } else if entry.seq > head + 1 {
                    // The first entries of a log that begins later.
                    ring.clear();
                }
                ring.push(entry);
            }
            ring.loaded = true;
        }
        self.wake();
    }

    /// The log goes back to `to`, which every cursor above it is told; what follows is read anew. `reason` is `rewound` (the
    /// entries up to `to` are as they were) or `reset` (another log).
    pub(super) fn rewind(&self, to: Pos, reason: &'static str, epoch: Option<String>) {
        {
            let mut ring = self.ring_mut();
            if let Some(epoch) = epoch {
                ring.epoch = epoch;
            }
            ring.rewind(to, reason);
        }
        self.wake();
    }

    /// First sight of the log: where it stands, before any entry is taken.
    pub(super) fn begin(&self, epoch: String, head: Pos) {
        let mut ring = self.ring_mut();
        ring.epoch = epoch;
        ring.clear();
        ring.head = head;
        ring.loaded = true;
    }

    /// Position of the newest entry of the alert log that this node knows.
    pub fn head(&self) -> u64 {
        self.ring().head.seq
    }

    /// The log's generation and the position of its newest entry that this node knows.
    pub fn view(&self) -> (u64, u64) {
        let ring = self.ring();
        (ring.generation, ring.head.seq)
    }

    pub fn head_pos(&self) -> Pos {
        self.ring().head.clone()
    }

    /// A cursor behind which `pos` and everything before it has been seen; what is in the log now counts as replayed.
    pub fn cursor(&self, pos: Pos) -> Cursor {
        let ring = self.ring();
        Cursor { pos, replay_to: ring.head.seq, generation: ring.generation }
    }

    /// A cursor at the head: everything from now on.
    pub fn cursor_at_head(&self) -> Cursor {
        let ring = self.ring();
        Cursor { pos: ring.head.clone(), replay_to: ring.head.seq, generation: ring.generation }
    }

    /// Gives at most `limit` entries after the cursor to `take` (with whether it is a replay), until it has enough and says
    /// `false`, and moves the cursor behind them. Never waits.
    pub fn read(&self, cursor: &mut Cursor, limit: usize, take: impl FnMut(&Arc<AlertFrame>, bool) -> bool) -> Read {
        self.ring().read(cursor, limit, take)
    }

    /// How many entries are between a cursor and the head.
    pub fn lag(&self, cursor: &Cursor) -> u64 {
        self.ring().head.seq.saturating_sub(cursor.pos.seq)
    }

    /// The log's entries after the cursor have left the ring.
    pub fn is_below(&self, cursor: &Cursor) -> bool {
        let ring = self.ring();
        cursor.pos.seq < ring.floor()
    }
}

impl Ring {
    fn rewind(&mut self, to: Pos, reason: &'static str) {
        let from = self.head.clone();
        while self.slots.back().is_some_and(|slot| slot.pos.seq > to.seq || reason == "reset") {
            if let Some(newest) = self.slots.pop_back() {
                self.bytes -= Slot::bytes(&newest.frame);
            }
        }
        self.head = to.clone();
        let missed = (reason == "rewound").then(|| from.seq.saturating_sub(to.seq));
        self.reset(Reset { generation: 0, reason, from, to, missed });
    }
}
