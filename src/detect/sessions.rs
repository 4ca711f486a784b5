//! Live sessions (contract §4, `active_sessions`).
//!
//! An id is open, or ended and remembered as ended for the idle time, so that a straggler does not open it again. An end wins
//! over every sign of life within the idle time, before or after it, so the result does not depend on the order in which the
//! streams of one commit are read.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, hash_map::Entry},
    hash::{Hash, Hasher},
    sync::Arc,
};

use ahash::AHashMap;

use super::ident::identity;

/// Longer ids are known by their hash: a session must not cost what an event may.
const ID_BYTES_MAX: usize = 64;
/// A UUID as text has 36.
const ID_BYTES_SHORT: usize = 38;

/// A session's id where it is looked up: in the table itself if it is no longer than most are, so that telling two apart does not
/// look elsewhere in memory.
#[derive(Clone, Debug)]
enum Id {
    Short(u8, [u8; ID_BYTES_SHORT]),
    Long(Arc<str>),
}

impl Id {
    fn of(id: &str) -> Id {
        let mut bytes = [0; ID_BYTES_SHORT];
        match (bytes.get_mut(..id.len()), u8::try_from(id.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(id.as_bytes());
                Id::Short(len, bytes)
            }
            _ => Id::Long(Arc::from(id)),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Id::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Id::Long(id) => id.as_bytes(),
        }
    }
}

impl Borrow<[u8]> for Id {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Id {}

/// What an event says about its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// Opens it, or shows that it lives.
    Life,
    /// The event failed: prolongs, but opens none.
    Failed,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Session {
    /// The last sign of life, or the end, Unix ms.
    at_ms: u64,
    open: bool,
}

/// What a snapshot keeps: (id, last sign or end, open), sorted.
pub(super) type SavedSessions = Vec<(String, u64, bool)>;

#[derive(Clone, Debug)]
pub(super) struct Sessions {
    interval_ms: u64,
    timeout_ms: u64,
    /// Of open ones; open and ended together are at most twice as many.
    max: usize,
    sessions: AHashMap<Id, Session>,
    open: usize,
    /// Slot end → ids that may have to go then. Each session stands here exactly once; if it has lived on, it moves then.
    due: BTreeMap<u64, Vec<Id>>,
}

impl Sessions {
    pub fn new(interval_ms: u64, timeout_ms: u64, max: usize) -> Sessions {
        Sessions {
            interval_ms: interval_ms.max(1),
            timeout_ms: timeout_ms.max(1),
            max,
            sessions: AHashMap::new(),
            open: 0,
            due: BTreeMap::new(),
        }
    }

    /// Takes in a sign; `false` if there was no room for it.
    pub fn observe(&mut self, time_ms: u64, id: &str, sign: Sign) -> bool {
        let long;
        let id = if id.len() > ID_BYTES_MAX {
            long = format!("sha256:{}", identity(&[id]));
            &long
        } else {
            id
        };
        let over = |s: &Session| s.at_ms.saturating_add(self.timeout_ms) <= time_ms;
        let (room_open, room_any) = (self.open < self.max, self.sessions.len() < self.max.saturating_mul(2));
        let Some(session) = self.sessions.get_mut(id.as_bytes()) else {
            let room = match sign {
                Sign::Life => room_open && room_any,
                Sign::Failed => return true,
                // The end of a session that was never seen is remembered all the same: its life may be read after it.
                Sign::End => room_any,
            };
            if room {
                self.insert(Id::of(id), Session { at_ms: time_ms, open: sign == Sign::Life });
            }
            return room;
        };
        match (session.open, sign) {
            (true, Sign::Life) => session.at_ms = session.at_ms.max(time_ms),
            (true, Sign::Failed) if !over(session) => session.at_ms = session.at_ms.max(time_ms),
            (true, Sign::Failed) => {}
            (true, Sign::End) => {
                session.at_ms = time_ms;
                session.open = false;
                self.open -= 1;
            }
            // It has been forgotten in all but the next slot's end.
            (false, Sign::Life) if over(session) => {
                if !room_open {
                    return false;
                }
                session.at_ms = time_ms;
                session.open = true;
                self.open += 1;
            }
            (false, Sign::Life | Sign::Failed) => {}
            (false, Sign::End) => session.at_ms = session.at_ms.max(time_ms),
        }
        true
    }

    fn insert(&mut self, id: Id, session: Session) {
        self.due.entry(self.due_at(&session)).or_default().push(id.clone());
        self.open += usize::from(session.open);
        self.sessions.insert(id, session);
    }

    /// The slot end at which it is idle, or forgotten, if it shows no more life.
    fn due_at(&self, session: &Session) -> u64 {
        session.at_ms.saturating_add(self.timeout_ms).div_ceil(self.interval_ms).saturating_mul(self.interval_ms)
    }

    /// Takes out what is idle or forgotten at a slot's end.
    pub fn expire(&mut self, t: u64) {
        while let Some(first) = self.due.first_entry() {
            if *first.key() > t {
                break;
            }
            for id in first.remove() {
                let Entry::Occupied(entry) = self.sessions.entry(id.clone()) else { continue };
                let session = *entry.get();
                if session.at_ms.saturating_add(self.timeout_ms) > t {
                    let due = self.due_at(&session);
                    self.due.entry(due).or_default().push(id);
                } else {
                    entry.remove();
                    self.open -= usize::from(session.open);
                }
            }
        }
    }

    pub fn active(&self) -> usize {
        self.open
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub fn save(&self) -> SavedSessions {
        let mut all: SavedSessions =
            self.sessions.iter().map(|(id, s)| (String::from_utf8_lossy(id.bytes()).into_owned(), s.at_ms, s.open)).collect();
        all.sort_unstable();
        all
    }

    pub fn load(&mut self, saved: SavedSessions) {
        for (id, at_ms, open) in saved {
            let room = self.sessions.len() < self.max.saturating_mul(2) && (!open || self.open < self.max);
            if room && !self.sessions.contains_key(id.as_bytes()) {
                self.insert(Id::of(&id), Session { at_ms, open });
            }
        }
    }
}
