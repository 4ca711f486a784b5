//! The one loop that owns the detector: batches in, commits out.
//!
//! Every node runs one. One node at a time holds the lease and *leads*: it reads the streams, closes slots and commits. The others
//! *follow*: they take the same entries into the same slots, as the commit log says, and are ready to lead within `lease_ttl`.
//! A start is the same thing: the newest good snapshot, then the commit log, then lead or follow.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    detect,
    event::{self, EntryId},
    hub::Hub,
    metrics::{Health, Metrics, unix_ms},
    source,
    store::{CommitRecord, Glob, LogEntry, Store, StoreError},
    wire,
};

mod discover;
mod engine;
mod fenced;
mod follow;
mod holes;
mod lead;
mod slots;
mod streams;

use engine::Engine;

/// `[monitor]` as far as it is about the loop.
#[derive(Clone, Debug)]
pub struct Options {
    /// A source that has failed for so long leaves the vote on a slot's end.
    pub source_lag_max: Duration,
    pub lease_ttl: Duration,
    /// How often the state machine is written down.
    pub checkpoint_interval: Duration,
    /// Entries a read takes from each stream at most.
    pub batch_max: usize,
}

/// What decides: the rooms' options that a `SIGHUP` may change, and the sources, which it may not.
#[derive(Clone, Debug)]
pub struct Settings {
    pub detect: Arc<detect::Options>,
    pub event: event::Options,
    /// The configured sources and, last, the built-in [`source::HTTP`] and [`source::JOURNAL`].
    pub sources: Vec<source::Options>,
    pub fingerprint: String,
    pub external_url: Option<String>,
}

impl Settings {
    /// The source that a stream belongs to: the first that names it, else the first with a glob that fits.
    pub fn source_of(&self, stream: &str) -> Option<detect::SourceIx> {
        let mut by_glob = None;
        for (index, source) in self.sources.iter().enumerate() {
            let source::Kind::Stream { streams } = &source.kind else { continue };
            for name in streams {
                if name == stream {
                    return Some(index as detect::SourceIx);
                }
                if by_glob.is_none() && is_glob(name) && Glob::new(name).matches(stream.as_bytes()) {
                    by_glob = Some(index as detect::SourceIx);
                }
            }
        }
        by_glob
    }
}

/// Whether a configured stream name stands for several.
pub fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// What this node is doing; bridges run only on the node that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Starting,
    Following,
    Leading,
    /// The loop has ended: nothing will be committed by this node any more.
    Stopped,
}

/// Everything the loop talks to.
pub struct Monitor {
    pub store: Store,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    /// This node's name, as it stands in the lease.
    pub node: String,
    pub options: Options,
    pub settings: watch::Receiver<Arc<Settings>>,
    pub role: watch::Sender<Role>,
    pub stop: CancellationToken,
}

/// Why the loop ended, beside being told to stop.
#[derive(Debug)]
pub struct MonitorError(pub String);

impl std::fmt::Display for MonitorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MonitorError {}

/// How a phase of the loop ended.
enum End {
    Stopped,
    /// Another node leads, or the state must be read anew.
    Again,
    /// The lease is ours.
    Lead {
        fence: u64,
    },
}

/// The state machine as of a commit record.
struct State {
    engine: Engine,
    /// Number of the last commit record that is in it.
    commit: u64,
    /// Highest fencing number seen.
    fence: u64,
    epoch: String,
    /// Head of the alert log as far as this node knows.
    seq: u64,
    /// That record, unless only its snapshot has been seen, and its `time`.
    last: Option<CommitRecord>,
    time_ms: u64,
    /// What a replay could not take in.
    missing: follow::Missing,
    /// Another configuration decided some of what is in it.
    reconfigured: bool,
    /// The configured streams have been looked up: one that appears from now on is new.
    discovered: bool,
}

impl Monitor {
    /// Runs until told to stop.
    ///
    /// # Errors
    ///
    /// Only what waiting cannot mend: a store of a newer format, a store without scripts.
    pub async fn run(mut self) -> Result<(), MonitorError> {
        let ended = self.run_on().await;
        self.role.send_replace(Role::Stopped);
        ended
    }

    async fn run_on(&mut self) -> Result<(), MonitorError> {
        let mut outage = Outage::new("the store");
        let mut known_fence = 0;
        // Kept over an outage of the store: it may be all that is left of what the store had.
        let mut warm = None;
        loop {
            self.role.send_replace(Role::Starting);
            self.metrics.active.set(0);
            self.health.beat(unix_ms());
            let loaded = match warm.take() {
                Some(state) => Ok(state),
                None => self.load(known_fence).await,
            };
            let end = match loaded {
                Ok(mut state) => {
                    let end = match self.follow(&mut state, &mut outage).await {
                        Ok(End::Lead { fence }) => {
                            // It has just given the lease.
                            self.store_up(&mut outage);
                            self.lead(&mut state, fence).await
                        }
                        other => other,
                    };
                    known_fence = known_fence.max(state.fence);
                    warm = end.is_err().then_some(state);
                    end
                }
                Err(error) => Err(error),
            };
            match end {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Again | End::Lead { .. }) => {}
                Err(StoreError::Format(text) | StoreError::NoScripts(text)) => return Err(MonitorError(text)),
                Err(error) => {
                    self.store_down(&mut outage, &error);
                    tokio::select! {
                        () = sleep_until(Instant::now() + outage.pause()) => {}
                        () = self.stop.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }

    fn settings_now(&mut self) -> Arc<Settings> {
        self.settings.borrow_and_update().clone()
    }

    /// The newest good snapshot and every commit record behind it.
    async fn load(&mut self, known_fence: u64) -> Result<State, StoreError> {
        self.store.prepare().await?;
        let settings = self.settings_now();
        let intake = self.store.intake_stream();
        let recovered = self.store.recover().await?;
        let mut restored = None;
        for snapshot in self.store.snapshots().await? {
            if snapshot.commit > recovered.commit {
                // The store lost commits that this snapshot knows of: it is of another past.
                continue;
            }
            match Engine::restore(settings.clone(), &intake, &snapshot.data) {
                Ok(engine) => {
                    restored = Some((engine, snapshot.commit, snapshot.fingerprint != settings.fingerprint));
                    break;
                }
                Err(why) => tracing::warn!("the snapshot of commit {} is not used: {why}", snapshot.commit),
            }
        }
        let (engine, commit, reconfigured) = match restored {
            Some(found) => found,
            None => (Engine::new(settings.clone(), &intake).map_err(StoreError::Broken)?, 0, false),
        };
        let mut state = State {
            engine,
            commit,
            fence: known_fence,
            epoch: recovered.epoch.clone(),
            seq: recovered.seq,
            last: None,
            time_ms: 0,
            missing: follow::Missing::default(),
            reconfigured,
            discovered: false,
        };
        loop {
            let records = self.store.commits(state.commit, RECORDS).await?;
            if records.is_empty() {
                break;
            }
            self.health.beat(unix_ms());
            for record in &records {
                let entries =
                    follow::apply(&self.store, &mut state.engine, state.commit, record, &mut state.missing, None).await?;
                self.metrics.replayed_entries.inc_by(entries);
                state.stands_at(record);
                state.reconfigured |= record.fingerprint != settings.fingerprint;
                self.health.beat(unix_ms());
                if self.stop.is_cancelled() {
                    return Ok(state);
                }
            }
        }
        if state.commit > recovered.commit {
            // Records were added while we read: what is open is asked again.
            let again = self.store.recover().await?;
            state.adopt(&again.open);
            state.seq = again.seq;
        } else {
            state.adopt(&recovered.open);
        }
        Ok(state)
    }

    /// Sets one of the checks behind `/readyz`.
    fn tell(&self, check: &str, ok: bool, text: impl Into<String>) {
        self.health.set(check, ok, text, unix_ms());
    }

    fn store_down(&self, outage: &mut Outage, error: &StoreError) {
        outage.failed(error);
        self.hub.set_store_up(false);
        self.tell("store", false, error.to_string());
    }

    fn store_up(&self, outage: &mut Outage) {
        outage.over();
        self.hub.set_store_up(true);
        self.metrics.set_store_reconnects(self.store.reconnects());
        self.tell("store", true, self.store.describe());
    }

    /// Values and totals as of the last closed slot, to everyone who shows them.
    fn publish(&self, engine: &Engine, snapshot: bool) {
        let values = engine.detector.metrics().clone();
        self.metrics.apply(&engine.detector.totals(), &values);
        self.hub.push_metrics(values, snapshot);
    }
}

impl State {
    /// The store's open alerts win over the state machine's.
    fn adopt(&mut self, open: &[LogEntry]) {
        let alerts = open.iter().filter_map(|entry| wire::alert_from_body(&entry.body)).collect();
        if self.reconfigured {
            self.engine.detector.adopt_open_anew(alerts);
        } else {
            self.engine.detector.adopt_open(alerts);
        }
    }

    /// This record is in the state.
    fn stands_at(&mut self, record: &CommitRecord) {
        self.commit = record.n;
        self.time_ms = self.time_ms.max(record.time);
        self.last = Some(record.clone());
    }
}

/// Commit records asked for at a time.
const RECORDS: usize = 200;

/// A failure that lasts: told once when it begins and once when it is over, retried with growing pauses.
struct Outage {
    what: &'static str,
    since: Option<Instant>,
    pause: Duration,
}

impl Outage {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    fn new(what: &'static str) -> Outage {
        Outage { what, since: None, pause: Outage::FIRST }
    }

    fn failed(&mut self, error: &StoreError) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!("{} cannot be used, trying again: {error}", self.what);
        }
    }

    fn over(&mut self) {
        if let Some(since) = self.since.take() {
            tracing::info!("{} can be used again after {:.1} s", self.what, since.elapsed().as_secs_f64());
        }
        self.pause = Outage::FIRST;
    }

    /// How long to wait before the next try.
    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(Outage::LONGEST);
        pause
    }
}

/// Where a source of this `start` begins in a stream that the store has never seen.
fn start_position(start: source::Start, now_ms: u64) -> EntryId {
    match start {
        source::Start::Earliest => EntryId::ZERO,
        source::Start::Now => EntryId::new(now_ms, 0),
        source::Start::Ago(ago) => EntryId::new(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)), 0),
    }
}
