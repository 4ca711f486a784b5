//! The tail of the alert log and the live events in memory; cursors on it. Nobody is called, nobody is waited for.
//!
//! Two rings: frames of the alert log, whose older part is read from the store ([`Hub::read`] says when), and live events,
//! which are lost to who is too slow for them. Whoever puts something in wakes who waits and goes on; a client is a
//! [`Cursor`] and holds no queue here. What can change under a cursor (the store lost a part of its log, or all of it) is a
//! [`Reset`] that every cursor meets on its next read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use crate::{detect::Metrics, event::Severity, wire};

mod alerts;
mod connections;
mod events;
mod follow;
mod frame;
mod handover;
mod locate;
mod network;
mod restore;

pub use alerts::{AlertFrame, Cursor, Read, Reset};
pub use connections::{Bearer, Connection, ConnectionInfo, Full, Known, Places, Transport};
pub use events::{EventFrame, EventRead, Interest};
pub use frame::Frame;
pub use locate::Located;
pub use network::network;

/// `[feed]` as far as it is about memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Alert frames kept in memory; older ones are read from the store.
    pub ring: usize,
    /// Live events kept in memory.
    pub events_ring: usize,
}

/// Bytes of frames that each ring holds at most, however few frames that is.
const RING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Clients that are sent the list of firing alerts at once; the others wait their turn.
const ACTIVE_MAX: usize = 8;

/// See the room's own page.
pub struct Hub {
    options: Options,
    alerts: RwLock<alerts::Ring>,
    events: RwLock<events::Ring>,
    /// Clients that asked for events of at least this severity, by severity.
    interest: [AtomicUsize; 4],
    state: Mutex<State>,
    registry: Arc<Mutex<connections::Registry>>,
    store_up: AtomicBool,
    memory_full: AtomicBool,
    draining: OnceLock<Duration>,
    /// Counts of [`State`], to be looked at without its lock: every client asks at every turn.
    source_changes: AtomicU64,
    snapshots: AtomicU64,
    /// Counts up with each [`Hub::disconnect`], [`Hub::end`] and [`Hub::grant`] that concerned somebody.
    disconnections: AtomicU64,
    /// Lists of firing alerts that are on their way to clients: each may be long, so there are few at once.
    active: Arc<Semaphore>,
    /// Counts up with everything but live events: alerts, resets, sources, snapshots of metrics, drain.
    wake: watch::Sender<u64>,
    /// Counts up with live events.
    wake_events: watch::Sender<u64>,
}

/// What has a newest value only.
#[derive(Default)]
struct State {
    metrics: Option<Metrics>,
    snapshot: Option<(u64, Frame)>,
    sources: BTreeMap<String, (u64, wire::SourceStatus)>,
}

/// A panic elsewhere while a lock was held has ended the process's health already; what is behind the lock is whole.
fn unpoisoned<G>(result: Result<G, std::sync::PoisonError<G>>) -> G {
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Hub {
    /// Rings of no length are made one long.
    pub fn new(options: Options) -> Arc<Hub> {
        let options = Options { ring: options.ring.max(1), events_ring: options.events_ring.max(1) };
        Arc::new(Hub {
            alerts: RwLock::new(alerts::Ring::new(options.ring)),
            events: RwLock::new(events::Ring::new(options.events_ring)),
            interest: Default::default(),
            state: Mutex::new(State::default()),
            registry: Arc::default(),
            store_up: AtomicBool::new(false),
            memory_full: AtomicBool::new(false),
            draining: OnceLock::new(),
            source_changes: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
            disconnections: AtomicU64::new(0),
            active: Arc::new(Semaphore::new(ACTIVE_MAX)),
            wake: watch::Sender::new(0),
            wake_events: watch::Sender::new(0),
            options,
        })
    }

    /// Alert frames kept in memory at most.
    pub fn ring_len(&self) -> usize {
        self.options.ring
    }

    /// Wakes for everything but live events.
    pub fn waiter(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// A turn to hold the list of firing alerts; given back by its drop.
    pub fn active_turns(&self) -> Arc<Semaphore> {
        self.active.clone()
    }

    /// Wakes for live events.
    pub fn events_waiter(&self) -> watch::Receiver<u64> {
        self.wake_events.subscribe()
    }

    fn wake(&self) {
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    fn ring(&self) -> RwLockReadGuard<'_, alerts::Ring> {
        unpoisoned(self.alerts.read())
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, alerts::Ring> {
        unpoisoned(self.alerts.write())
    }

    /// The values of the last closed slot. With `snapshot` the clients that asked for metrics get them.
    pub fn push_metrics(&self, metrics: Metrics, snapshot: bool) {
        let frame = snapshot.then(|| Frame::from(wire::metrics_frame(&metrics)));
        {
            let mut state = self.state();
            state.metrics = Some(metrics);
            if let Some(frame) = frame {
                let n = self.snapshots.load(Ordering::Relaxed) + 1;
                state.snapshot = Some((n, frame));
                self.snapshots.store(n, Ordering::Release);
            }
        }
        if snapshot {
            self.wake();
        }
    }

    /// The values of the last closed slot; none before the first.
    pub fn metrics(&self) -> Option<Metrics> {
        self.state().metrics.clone()
    }

    /// The newest `security_metrics` frame, if it is another than the one numbered `seen`.
    pub fn snapshot_after(&self, seen: u64) -> Option<(u64, Frame)> {
        if self.snapshots.load(Ordering::Acquire) <= seen {
            return None;
        }
        self.state().snapshot.clone().filter(|(n, _)| *n > seen)
    }

    /// What is known of a source; clients are told when it changes.
    pub fn push_source(&self, status: wire::SourceStatus) {
        {
            let mut state = self.state();
            let known = state.sources.get(&status.source).is_some_and(|(_, known)| known.status == status.status);
            if known {
                return;
            }
            let change = self.source_changes.load(Ordering::Relaxed) + 1;
            state.sources.insert(status.source.clone(), (change, status));
            self.source_changes.store(change, Ordering::Release);
        }
        self.wake();
    }

    /// Whether [`Hub::sources_after`] or, where metrics are wanted, [`Hub::snapshot_after`] would have something new.
    pub fn has_news(&self, sources_seen: u64, metrics_seen: Option<u64>) -> bool {
        self.source_changes.load(Ordering::Acquire) != sources_seen
            || metrics_seen.is_some_and(|seen| self.snapshots.load(Ordering::Acquire) > seen)
    }

    /// Every source, by name.
    pub fn sources(&self) -> Vec<wire::SourceStatus> {
        self.state().sources.values().map(|(_, status)| status.clone()).collect()
    }

    /// Sources whose state changed after change number `seen`, and the number to ask with next.
    pub fn sources_after(&self, seen: u64) -> (u64, Vec<wire::SourceStatus>) {
        if self.source_changes.load(Ordering::Acquire) == seen {
            return (seen, Vec::new());
        }
        let state = self.state();
        let newest = state.sources.values().map(|(change, _)| *change).max().unwrap_or(seen);
        let changed = state.sources.values().filter(|(change, _)| *change > seen).map(|(_, status)| status.clone()).collect();
        (newest, changed)
    }

    /// Whether the store answers: without it nobody new gets in (contract §6.7).
    pub fn set_store_up(&self, up: bool) {
        self.store_up.store(up, Ordering::Relaxed);
    }

    pub fn store_up(&self) -> bool {
        self.store_up.load(Ordering::Relaxed)
    }

    /// Every client gets `bye` with a `retry_in_ms` spread over `window`, and nobody new gets in.
    pub fn start_drain(&self, window: Duration) {
        // The first window stays: it is what clients have been told.
        let _ = self.draining.set(window);
        self.wake();
    }

    pub fn draining(&self) -> Option<Duration> {
        self.draining.get().copied()
    }

    /// Live events of at least this severity are wanted by somebody; none: make no frames for nobody.
    pub fn wants_events(&self) -> Option<Severity> {
        Severity::ALL.into_iter().zip(&self.interest).find(|(_, clients)| clients.load(Ordering::Relaxed) > 0).map(|(s, _)| s)
    }
}
