//! The daemon's own audit trail: sign-ins, refusals, revocations, grants, reloads and who watches become audit events of the
//! built-in source [`SOURCE`], in auditcast's own intake, so that its thresholds and rules see them as they see any other.
//!
//! [`Journal::note`] takes no time and cannot fail: entries are gathered for [`GATHERED_FOR`], then [`Journal::run`] hands them to
//! the store. Bounded on every side, because much of what is noted anybody can cause: alike entries of a second become one with
//! a count, of each type no more than `journal.burst` and then `journal.rate` a second are written and one more that counts the
//! rest, and while the store is away `journal.queue` entries wait; what is noted beyond is counted as dropped.
//!
//! Nothing that follows from an event (an alert, a frame, a page) is ever noted, so the journal cannot feed itself.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Refusal, issue::random_id};
use crate::store::{IntakeItem, Store, StoreError};

mod entry;
mod gather;

pub use entry::{AccountChange, Entry, Limited, LoginFailure};
use gather::{Became, Gather};

/// The built-in source of these events; no `[[source]]` can have the name.
pub const SOURCE: &str = "auditcast";

/// Alike entries within this are one.
const GATHERED_FOR: Duration = Duration::from_secs(1);
/// Items handed to the store at a time.
const BATCH_MAX: usize = 500;
/// A batch whose answer was lost is written once all the same, if it is tried again within this.
const DEDUP_TTL: Duration = Duration::from_secs(600);
/// A store that takes longer is asked again.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is left at the end has so long to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// `[journal]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub enabled: bool,
    /// Entries of one type that are written at once, and then a second.
    pub burst: u32,
    pub rate: u32,
    /// Entries that wait while the store is away.
    pub queue: usize,
}

/// What became of the entries so far; each stands in one of the four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub written: u64,
    pub merged: u64,
    pub summarised: u64,
    pub dropped: u64,
}

/// Takes what auditcast has to say about itself. Clones are cheap and write into the same.
#[derive(Clone, Default)]
pub struct Journal {
    /// `None`: switched off.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    options: Options,
    /// The time of day, Unix ms.
    clock: fn() -> u64,
    gather: Mutex<Gather>,
    /// Something was noted.
    noted: Notify,
    written: AtomicU64,
    merged: AtomicU64,
    summarised: AtomicU64,
    dropped: AtomicU64,
}

impl Journal {
    /// `clock`: the time of day, Unix ms.
    pub fn new(options: Options, clock: fn() -> u64) -> Journal {
        if !options.enabled {
            return Journal::default();
        }
        let inner = Inner {
            options,
            clock,
            gather: Mutex::default(),
            noted: Notify::new(),
            written: AtomicU64::new(0),
            merged: AtomicU64::new(0),
            summarised: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        };
        Journal { inner: Some(Arc::new(inner)) }
    }

    /// Notes an event. Never waits for anything, never fails.
    pub fn note(&self, entry: Entry) {
        let Some(inner) = &self.inner else { return };
        let became = inner.gather.lock().unwrap_or_else(PoisonError::into_inner).note(entry, (inner.clock)(), &inner.options);
        match became {
            Became::Own => {}
            Became::Merged => drop(inner.merged.fetch_add(1, Ordering::Relaxed)),
            Became::Summarised => drop(inner.summarised.fetch_add(1, Ordering::Relaxed)),
        }
        inner.noted.notify_one();
    }

    /// Notes that somebody was refused, with whom the token speaks for where that is known.
    pub fn refused(&self, refusal: &Refusal, user: Option<(&str, Option<&str>)>, address: Option<IpAddr>) {
        let Some(mut entry) = Entry::token_refused(refusal.kind) else { return };
        if let Some((user_id, username)) = user {
            entry = entry.user(user_id, username);
        }
        if let Some(address) = address {
            entry = entry.from(address);
        }
        self.note(entry);
    }

    pub fn counts(&self) -> Counts {
        let Some(inner) = &self.inner else { return Counts::default() };
        Counts {
            written: inner.written.load(Ordering::Relaxed),
            merged: inner.merged.load(Ordering::Relaxed),
            summarised: inner.summarised.load(Ordering::Relaxed),
            dropped: inner.dropped.load(Ordering::Relaxed),
        }
    }

    /// Writes what is noted, until told to stop; then what is left, if the store takes it soon.
    pub async fn run(self, store: Store, stop: CancellationToken) {
        let Some(inner) = self.inner else { return stop.cancelled().await };
        // Two processes must not take each other's entries for their own.
        let mut queue = Queue { waiting: VecDeque::new(), process: random_id().unwrap_or_default(), last: 0 };
        loop {
            let more = async {
                if queue.waiting.is_empty() {
                    inner.noted.notified().await;
                }
                sleep(GATHERED_FOR).await;
            };
            let stopped = stop.run_until_cancelled(more).await.is_none();
            inner.collect(&mut queue);
            let writing = inner.write(&mut queue, &store);
            if stopped {
                let _ = timeout(LAST_WORDS, writing).await;
                inner.dropped.fetch_add(queue.waiting.len() as u64, Ordering::Relaxed);
                return;
            }
            if let Some(Err(error)) = stop.run_until_cancelled(writing).await {
                tracing::debug!(%error, waiting = queue.waiting.len(), "could not write auditcast's own audit events yet");
            }
        }
    }
}

/// Entries on their way to the store, as JSON.
struct Queue {
    waiting: VecDeque<IntakeItem>,
    process: String,
    last: u64,
}

impl Inner {
    /// Moves what was gathered behind what waits; what finds no room is counted.
    fn collect(&self, queue: &mut Queue) {
        let bodies = self.gather.lock().unwrap_or_else(PoisonError::into_inner).take();
        for body in bodies {
            if queue.waiting.len() >= self.options.queue {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            queue.last += 1;
            let dedup = (!queue.process.is_empty()).then(|| format!("{SOURCE}:{}:{}", queue.process, queue.last));
            queue.waiting.push_back(IntakeItem { source: SOURCE.to_owned(), dedup, body });
        }
    }

    async fn write(&self, queue: &mut Queue, store: &Store) -> Result<(), StoreError> {
        while !queue.waiting.is_empty() {
            let batch: Vec<IntakeItem> = queue.waiting.iter().take(BATCH_MAX).cloned().collect();
            match timeout(STORE_TIMEOUT, store.intake(&batch, DEDUP_TTL)).await {
                Ok(taken) => drop(taken?),
                Err(_) => return Err(StoreError::Unavailable("the store did not answer in time".to_owned())),
            }
            queue.waiting.drain(..batch.len());
            self.written.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The items of entries that are written at once, by a command.
pub fn items(entries: &[Entry], now_ms: u64) -> Vec<IntakeItem> {
    entries.iter().map(|entry| IntakeItem { source: SOURCE.to_owned(), dedup: None, body: entry.body(now_ms, 1) }).collect()
}
