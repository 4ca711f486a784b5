//! Leading: read every stream, let the state machine decide, commit. Nothing leaves this node that is not stored first.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    End, Monitor, Outage, Role, State,
    engine::Effects,
    follow::take_step,
    is_glob, start_position,
    streams::{Fault, Feeds, Stream},
};
use crate::{
    detect::Merge,
    event::{EntryId, Event},
    metrics::unix_ms,
    source,
    store::{Entry, ReadReply, Reader, StoreError, StreamFault},
    wire::{self, SourceState, SourceStatus},
};

/// Transitions in one commit at most, so that a script stays short.
const ALERTS_MAX: usize = 256;
/// Dead letters in one commit at most.
const DEAD_LETTERS_MAX: usize = 256;
/// Entries taken in by one commit record at most: what a replay must hold at once.
const TAKEN_MAX: u64 = 20_000;
/// How often names and globs are looked up again.
const DISCOVER_EVERY: Duration = Duration::from_millis(500);
/// How often a stream that cannot be read is tried.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Streams held against the store at one slot's end; the others at the next ones.
const COMPARE_MAX: usize = 64;
/// Streams of one installation at most.
const STREAMS_MAX: usize = 4096;
/// A snapshot of metrics lasts a day (contract §4).
const METRICS_TTL: Duration = Duration::from_secs(86_400);
/// Snapshots of metrics that wait for a store that is away.
const METRICS_HELD_MAX: usize = 64;

/// The leader's own part of the state.
pub(super) struct Leader<'a> {
    pub(super) state: &'a mut State,
    pub(super) fence: u64,
    pub(super) merge: Merge<(usize, Entry)>,
    pub(super) reader: Reader,
    pub(super) effects: Effects,
    /// The store's clock when the newest batch had been read, and ours then.
    pub(super) store_ms: u64,
    pub(super) store_at: Instant,
    /// Streams are compared from here on at the next slot's end.
    pub(super) compare_from: usize,
    pub(super) compare_all: bool,
    pub(super) next_lease: Instant,
    pub(super) next_discover: Instant,
    pub(super) next_probe: Instant,
    pub(super) next_checkpoint: Instant,
    pub(super) outage: Outage,
    /// Of the store, when they were last looked at; what it holds must be looked at again.
    pub(super) reconnects: u64,
    pub(super) look_again: bool,
    /// Slot of the last commit.
    pub(super) committed_slot: u64,
    /// A stream was read to less than its end: more is there.
    pub(super) behind: bool,
    /// Snapshots of metrics on their way: (slot's end, JSON).
    pub(super) metrics: VecDeque<(u64, String)>,
}

/// Before the first entry there is no time: what happens then happens in the slot that is open now, or that the oldest entry in
/// hand will open.
fn begin_time(l: &mut Leader<'_>) {
    if l.state.engine.detector.last_slot() == 0 {
        let now = l.merge.earliest_ms().unwrap_or(u64::MAX).min(l.merge.time());
        let interval = l.state.engine.interval_ms().max(1);
        l.state.engine.detector.skip_to(now.saturating_sub(1) / interval * interval);
    }
}

/// Why the leader cannot go on.
pub(super) enum Halt {
    /// Another node has the lease.
    Fenced,
    Stopped,
    Store(StoreError),
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Halt {
        match error {
            StoreError::Fenced => Halt::Fenced,
            other => Halt::Store(other),
        }
    }
}

impl Monitor {
    pub(super) async fn lead(&mut self, state: &mut State, fence: u64) -> Result<End, StoreError> {
        tracing::info!("this node leads (fence {fence}), from commit {} on", state.commit);
        let now = Instant::now();
        for stream in &mut state.engine.streams {
            stream.moved = true;
            stream.fault = None;
        }
        let mut merge = Merge::new(0);
        for stream in &state.engine.streams {
            merge.add(&stream.key);
        }
        let mut leader = Leader {
            merge,
            reader: self.store.reader(),
            effects: Effects::default(),
            store_ms: 0,
            store_at: now,
            compare_from: 0,
            compare_all: true,
            next_lease: now + self.options.lease_ttl / 3,
            next_discover: now,
            next_probe: now,
            next_checkpoint: now + self.options.checkpoint_interval,
            outage: Outage::new("the store"),
            reconnects: self.store.reconnects(),
            look_again: false,
            committed_slot: 0,
            behind: false,
            metrics: VecDeque::new(),
            state,
            fence,
        };
        for (key, hole) in std::mem::take(&mut leader.state.lost) {
            if let Some(index) = leader.state.engine.stream_index(&key) {
                leader.state.engine.hole(index, hole, &mut leader.effects);
            }
        }
        self.role.send_replace(Role::Leading);
        self.metrics.active.set(1);
        self.tell("positions", true, "taking over");
        self.tell("lease", true, "this node leads");
        let end = loop {
            match self.turn(&mut leader).await {
                Ok(()) => {}
                Err(Halt::Fenced) => {
                    tracing::warn!(
                        "another node has taken the lease: what this one has not stored is dropped and read again there"
                    );
                    break Ok(End::Again);
                }
                Err(Halt::Stopped) => {
                    self.resign(&mut leader).await;
                    break Ok(End::Stopped);
                }
                Err(Halt::Store(StoreError::Format(text))) => break Err(StoreError::Format(text)),
                Err(Halt::Store(error)) => {
                    self.store_down(&mut leader.outage, &error);
                    self.tell_sources(&leader, false);
                    if leader.outage.since.is_some_and(|s| s.elapsed() >= self.options.source_lag_max) {
                        self.tell("source", false, format!("not read: {error}"));
                    }
                    leader.compare_all = true;
                    leader.next_lease = Instant::now();
                    tokio::select! {
                        () = sleep_until(Instant::now() + leader.outage.pause()) => {}
                        () = self.stop.cancelled() => break Ok(End::Stopped),
                    }
                }
            }
        };
        self.role.send_replace(Role::Starting);
        self.metrics.active.set(0);
        end
    }

    /// One turn: the lease, what there is to read, what follows from it.
    async fn turn(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        if self.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
        self.health.beat(unix_ms());
        if self.settings.has_changed().unwrap_or(false) {
            let settings = self.settings_now();
            match l.state.engine.reload(settings) {
                Ok(()) => tracing::info!("the new settings are in force"),
                Err(why) => tracing::warn!("the new settings are not used: {why}"),
            }
        }
        let reconnects = self.store.reconnects();
        if reconnects != l.reconnects {
            // Another server may be at the other end, or the same one without what it had.
            l.reconnects = reconnects;
            l.next_lease = Instant::now();
            l.look_again = true;
        }
        if Instant::now() >= l.next_lease {
            self.renew(l).await?;
        }
        if l.effects.urgent() {
            // What an outage kept from being stored comes first.
            self.commit(l).await?;
        }
        self.store_metrics(l).await?;
        if Instant::now() >= l.next_discover {
            self.discover(l).await?;
            l.next_discover = Instant::now() + DISCOVER_EVERY;
        }
        if l.compare_all {
            self.compare(l, usize::MAX).await?;
            l.compare_all = false;
        }
        let reply_at = self.read(l).await?;
        let Some((indices, reply)) = reply_at else { return Err(Halt::Stopped) };
        if l.outage.since.is_some() {
            self.store_up(&mut l.outage);
            self.tell("source", true, "read".to_owned());
            self.tell_sources(l, true);
        }
        self.receive(l, &indices, reply);
        self.take(l).await?;
        self.mind_faults(l);
        if l.effects.urgent() {
            self.commit(l).await?;
        }
        if Instant::now() >= l.next_checkpoint {
            self.checkpoint(l).await?;
            l.next_checkpoint = Instant::now() + self.options.checkpoint_interval;
        }
        Ok(())
    }

    /// Streams that are configured by name, and those that a glob finds.
    async fn discover(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        let sources = self.settings.borrow().sources.clone();
        for (index, source) in sources.iter().enumerate() {
            let source::Kind::Stream { streams } = &source.kind else { continue };
            for name in streams {
                let found = if is_glob(name) { self.store.find_streams(name).await? } else { vec![name.clone()] };
                for key in found {
                    if l.state.engine.stream_index(&key).is_some() {
                        continue;
                    }
                    if l.state.engine.streams.len() >= STREAMS_MAX {
                        tracing::warn!("more than {STREAMS_MAX} streams: {name} is not followed any further");
                        return Ok(());
                    }
                    // Whole, if it came to be while we were looking or is not there yet; else from where the source says.
                    let new = self.seen_before(l, index) || matches!(self.store.stream_info(&key).await?, Ok(None));
                    let position = if new { EntryId::ZERO } else { start_position(source.start, self.store.now_ms().await?) };
                    let added = l.state.engine.add_stream(Stream::new(key.clone(), Feeds::Source(index as u16), position));
                    let at = l.merge.add(&key);
                    debug_assert_eq!(added, at);
                }
            }
        }
        // From now on a stream that appears is read whole.
        l.state.discovered = true;
        Ok(())
    }

    /// Whether the streams of a source have been looked up before, so that a new one is one that was made meanwhile.
    fn seen_before(&self, l: &Leader<'_>, source: usize) -> bool {
        l.state.discovered || l.state.engine.streams.iter().any(|s| s.feeds == Feeds::Source(source as u16) && s.existed)
    }

    /// Reads what there is, or waits for it until something else is due. `None`: told to stop.
    async fn read(&mut self, l: &mut Leader<'_>) -> Result<Option<(Vec<usize>, ReadReply)>, Halt> {
        let probe = Instant::now() >= l.next_probe;
        if probe {
            l.next_probe = Instant::now() + PROBE_EVERY;
        }
        let mut indices = Vec::with_capacity(l.state.engine.streams.len());
        let mut cursors = Vec::with_capacity(l.state.engine.streams.len());
        for (index, stream) in l.state.engine.streams.iter().enumerate() {
            // A stream whose entries wait for the others' is not read further, unless it is the one that is waited for.
            let waits = stream.held > 0 && l.merge.complete_through(index) > l.merge.watermark();
            if waits || (stream.fault.is_some() && !probe) {
                continue;
            }
            indices.push(index);
            cursors.push((stream.key.clone(), stream.position));
        }
        let block = self.patience(l);
        let batch = self.options.batch_max;
        tokio::select! {
            reply = l.reader.read(&cursors, batch, block) => Ok(Some((indices, reply?))),
            () = self.stop.cancelled() => Ok(None),
        }
    }

    /// How long a read may wait: to the open slot's end, the next renewal, the next look for streams.
    fn patience(&self, l: &Leader<'_>) -> Duration {
        if l.behind || l.store_ms == 0 {
            return Duration::ZERO;
        }
        let store_now = l.store_ms + u64::try_from(l.store_at.elapsed().as_millis()).unwrap_or(0);
        let slot = self.next_slot_end(l, store_now);
        let to_slot = Duration::from_millis(slot.saturating_sub(store_now));
        let now = Instant::now();
        let due = l.next_lease.min(l.next_discover).min(l.next_checkpoint).saturating_duration_since(now);
        to_slot.min(due.max(Duration::from_millis(1))).min(Duration::from_secs(1))
    }

    fn next_slot_end(&self, l: &Leader<'_>, store_now: u64) -> u64 {
        let interval = l.state.engine.interval_ms();
        let next = l.state.engine.detector.next_slot();
        // Before the first entry ever, slots begin with the present.
        if next + interval < store_now && l.state.engine.detector.quiescent_after() {
            (store_now / interval + 1) * interval
        } else {
            next
        }
    }

    /// The reply goes to the streams and the arrival clock.
    fn receive(&mut self, l: &mut Leader<'_>, indices: &[usize], reply: ReadReply) {
        l.store_ms = reply.after_ms;
        l.store_at = Instant::now();
        l.behind = false;
        let mut failed = Vec::new();
        for (asked, fault) in reply.faults {
            if let Some(&index) = indices.get(asked) {
                failed.push(index);
                let stream = &mut l.state.engine.streams[index];
                if stream.fault.is_none() {
                    let text = match fault {
                        StreamFault::WrongType(t) | StreamFault::Forbidden(t) | StreamFault::Other(t) => t,
                    };
                    tracing::warn!("the stream {} cannot be read: {text}", stream.key);
                    stream.fault = Some(Fault { since: Instant::now(), text, told: false });
                }
            }
        }
        let mut got = vec![None; indices.len()];
        for entries in reply.streams {
            if let Some(slot) = got.get_mut(entries.index) {
                *slot = Some((entries.entries, entries.full));
            }
        }
        for (&index, got) in indices.iter().zip(got) {
            if failed.contains(&index) {
                continue;
            }
            let (entries, full) = got.unwrap_or_default();
            let stream = &mut l.state.engine.streams[index];
            if let Some(fault) = stream.fault.take() {
                tracing::info!("the stream {} can be read again", stream.key);
                if fault.told {
                    l.merge.set_voting(index, true);
                    l.state.engine.readable(index, &mut l.effects);
                }
            }
            let stream = &mut l.state.engine.streams[index];
            l.behind |= full;
            stream.held += entries.len() as u64;
            if let Some(last) = entries.last() {
                stream.position = last.id;
            }
            let items = entries.into_iter().map(|entry| (entry.id, (index, entry))).collect();
            l.merge.push(index, items, full, reply.before_ms, reply.after_ms);
        }
    }

    /// Everything that the arrival clock releases, into the state machine, with a commit wherever one must be.
    async fn take(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        let slot_before = l.state.engine.detector.last_slot();
        let steps = l.merge.steps(l.state.engine.detector.last_slot(), l.state.engine.interval_ms());
        let mut taken = 0;
        let now_ms = l.store_ms;
        for step in steps {
            {
                let wanted = self.hub.wants_events();
                let hub = &self.hub;
                let mut push = |event: &Event<'_>, entry: EntryId, source: &str| {
                    if wanted.is_some_and(|at_least| event.severity >= at_least) {
                        let frame = wire::event_frame(event, entry, source, entry.ms.min(now_ms));
                        hub.push_event(event.severity, &std::sync::Arc::from(event.kind.normal.as_str()), frame);
                    }
                };
                take_step(&mut l.state.engine, step, now_ms, &mut l.effects, &mut Some(&mut push));
            }
            taken += 1;
            let many = l.effects.alerts.len() >= ALERTS_MAX || l.effects.dead_letters.len() >= DEAD_LETTERS_MAX;
            if many || taken >= TAKEN_MAX {
                taken = 0;
                self.commit(l).await?;
            }
        }
        let slot = l.state.engine.detector.last_slot();
        let closed = slot > slot_before;
        if closed {
            self.keep_metrics(l, slot_before, slot);
            self.store_metrics(l).await?;
        }
        if closed || l.effects.future || !l.effects.alerts.is_empty() || l.effects.dead_letters.len() >= DEAD_LETTERS_MAX {
            self.commit(l).await?;
        }
        if closed {
            if l.store_ms > slot + 2 * l.state.engine.interval_ms() {
                self.metrics.slots_late.inc();
            }
            self.publish(&l.state.engine, self.crossed_snapshot(slot_before, slot));
            self.tell("positions", true, format!("slot {slot} closed"));
            self.compare(l, COMPARE_MAX).await?;
        }
        Ok(())
    }

    /// Whether a snapshot of the metrics falls into the slots that were closed.
    pub(super) fn crossed_snapshot(&self, before: u64, now: u64) -> bool {
        let every = self.settings.borrow().detect.snapshot_interval_ms.max(1);
        now / every > before / every
    }

    pub(super) fn stale_after(&self) -> Duration {
        let interval = Duration::from_millis(self.settings.borrow().detect.interval_ms);
        (interval * 3).max(Duration::from_secs(5)) + self.options.lease_ttl
    }

    /// The values of a slot's end are a snapshot if one falls into the slots that were closed.
    fn keep_metrics(&self, l: &mut Leader<'_>, before: u64, now: u64) {
        let values = l.state.engine.detector.metrics();
        if !self.crossed_snapshot(before, now) || values.timestamp_ms == 0 {
            return;
        }
        if l.metrics.len() == METRICS_HELD_MAX {
            l.metrics.pop_front();
        }
        l.metrics.push_back((values.timestamp_ms, wire::metrics_json(values).to_string()));
    }

    /// Stores the snapshots of metrics that wait for it; before the commit, and harmless if done again.
    async fn store_metrics(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        while let Some((slot, json)) = l.metrics.front() {
            let age = Duration::from_millis(l.store_ms.saturating_sub(*slot));
            if age < METRICS_TTL {
                self.store.metrics_put(slot / 1000, json, METRICS_TTL - age).await?;
            }
            l.metrics.pop_front();
        }
        Ok(())
    }

    /// Streams that have failed for too long leave the vote, and are told of.
    fn mind_faults(&mut self, l: &mut Leader<'_>) {
        let lag_max = self.options.source_lag_max;
        let mut failing = Vec::new();
        for index in 0..l.state.engine.streams.len() {
            let stream = &mut l.state.engine.streams[index];
            let out = stream.out_of_vote(lag_max);
            let Some(fault) = &mut stream.fault else { continue };
            if out && !fault.told {
                fault.told = true;
                l.merge.set_voting(index, false);
                begin_time(l);
                l.state.engine.unreadable(index, &mut l.effects);
            }
            let stream = &l.state.engine.streams[index];
            if let Some(fault) = &stream.fault {
                failing.push(format!("{}: {}", stream.key, fault.text));
            }
        }
        if failing.is_empty() {
            self.tell("source", true, "read".to_owned());
        } else {
            self.tell("source", false, failing.join("; "));
        }
        self.tell_sources(l, true);
    }

    /// The state of each source to the hub, which tells its clients of changes.
    pub(super) fn tell_sources(&self, l: &Leader<'_>, store_up: bool) {
        let settings = self.settings.borrow();
        for (index, source) in settings.sources.iter().enumerate() {
            let own = |s: &&Stream| s.feeds == Feeds::Source(index as u16);
            let mut state = SourceState::Ok;
            if !store_up {
                let long = l.outage.since.is_some_and(|s| s.elapsed() >= self.options.source_lag_max);
                state = if long { SourceState::Down } else { SourceState::Stalled };
            } else {
                for stream in l.state.engine.streams.iter().filter(own) {
                    match &stream.fault {
                        Some(fault) if fault.told => state = SourceState::Down,
                        Some(_) if state == SourceState::Ok => state = SourceState::Stalled,
                        _ => {}
                    }
                }
            }
            let lag = l.state.engine.streams.iter().filter(own).try_fold(0, |sum, s| s.lag.map(|lag| sum + lag));
            self.metrics.set_source_lag(&source.name, lag);
            self.hub.push_source(SourceStatus { source: source.name.clone(), status: state, since_ms: l.store_ms });
        }
    }

    /// Holds positions against what the store says of the streams.
    async fn compare(&mut self, l: &mut Leader<'_>, at_most: usize) -> Result<(), Halt> {
        let n = l.state.engine.streams.len();
        for step in 0..n.min(at_most) {
            let index = (l.compare_from + step) % n;
            let stream = &l.state.engine.streams[index];
            if stream.held > 0 || stream.fault.is_some() {
                continue;
            }
            let Ok(info) = self.store.stream_info(&stream.key).await? else { continue };
            let found = l.state.engine.streams[index].compare(info);
            if let Some(hole) = found {
                tracing::error!(
                    "entries of the stream {} were lost before they could be read ({:?}): behind {}, {} missed",
                    l.state.engine.streams[index].key,
                    hole.reason,
                    hole.from,
                    hole.missed.map_or("an unknown number".to_owned(), |n| n.to_string()),
                );
                begin_time(l);
                l.state.engine.hole(index, hole, &mut l.effects);
                self.commit(l).await?;
            }
        }
        l.compare_from = if n == 0 { 0 } else { (l.compare_from + at_most.min(n)) % n };
        Ok(())
    }
}
