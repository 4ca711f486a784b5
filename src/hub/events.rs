//! The ring of live events: for who asked, and lost to who is too slow.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, atomic::Ordering},
};

use serde_json::{Map, Value};

use super::{Frame, Hub, RING_BYTES_MAX, unpoisoned};
use crate::{event::Severity, filter, wire::Subscription};

/// One live event.
#[derive(Clone)]
pub struct EventFrame {
    pub severity: Severity,
    /// Normal form, for `types`.
    pub event_type: Arc<str>,
    pub frame: Frame,
    members: OnceLock<Option<Map<String, Value>>>,
}

impl EventFrame {
    /// Whether a client gets it. The frame is taken apart for the first one with an expression, for all of them.
    pub fn is_wanted(&self, subscription: &Subscription) -> bool {
        let members = || self.members.get_or_init(|| filter::members(self.frame.as_str())).as_ref();
        subscription.wants_event(self.severity, &self.event_type, members)
    }
}

pub(super) struct Ring {
    len_max: usize,
    frames: VecDeque<EventFrame>,
    bytes: usize,
    /// Events ever put in.
    end: u64,
}

/// What a read of live events gave beside frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRead {
    /// Events that had left the ring before they could be read.
    pub missed: u64,
    /// There is more.
    pub more: bool,
}

impl Ring {
    pub(super) fn new(len_max: usize) -> Ring {
        Ring { len_max, frames: VecDeque::new(), bytes: 0, end: 0 }
    }

    fn push(&mut self, frame: EventFrame) {
        self.bytes += frame.frame.wire_len();
        self.frames.push_back(frame);
        self.end += 1;
        while self.frames.len() > self.len_max || (self.bytes > RING_BYTES_MAX && self.frames.len() > 1) {
            if let Some(oldest) = self.frames.pop_front() {
                self.bytes -= oldest.frame.wire_len();
            }
        }
    }

    fn read(&self, cursor: &mut u64, limit: usize, mut take: impl FnMut(&EventFrame) -> bool) -> EventRead {
        let start = self.end - self.frames.len() as u64;
        let missed = start.saturating_sub(*cursor);
        *cursor = (*cursor).max(start);
        let skip = usize::try_from(*cursor - start).unwrap_or(usize::MAX);
        for frame in self.frames.iter().skip(skip).take(limit) {
            *cursor += 1;
            if !take(frame) {
                break;
            }
        }
        EventRead { missed, more: *cursor < self.end }
    }
}

/// Somebody wants live events; gone with its drop.
pub struct Interest {
    hub: Arc<Hub>,
    severity: Severity,
}

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(clients) = self.hub.interest.get(self.severity as usize) {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Hub {
    /// A live event's frame for who asked for its severity. `event_type` is the normal form.
    pub fn push_event(&self, severity: Severity, event_type: &Arc<str>, frame: String) {
        let (event_type, frame) = (event_type.clone(), frame.into());
        unpoisoned(self.events.write()).push(EventFrame { severity, event_type, frame, members: OnceLock::new() });
        self.wake_events.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Says that somebody wants live events of at least this severity.
    pub fn interest(self: &Arc<Hub>, severity: Severity) -> Interest {
        if let Some(clients) = self.interest.get(severity as usize) {
            clients.fetch_add(1, Ordering::Relaxed);
        }
        Interest { hub: self.clone(), severity }
    }

    /// A cursor on the live events: from now on.
    pub fn events_cursor(&self) -> u64 {
        unpoisoned(self.events.read()).end
    }

    /// Gives at most `limit` events after the cursor to `take`, until it has enough and says `false`, and moves the cursor.
    /// Never waits.
    pub fn read_events(&self, cursor: &mut u64, limit: usize, take: impl FnMut(&EventFrame) -> bool) -> EventRead {
        unpoisoned(self.events.read()).read(cursor, limit, take)
    }
}
