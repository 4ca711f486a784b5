//! Leading: read every stream, let the state machine decide, commit. Nothing leaves this node that is not stored first.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{
    End, Monitor, Outage, Role, State,
    discover::{Found, Search},
    engine::{Effects, EventSink},
    follow::take_step,
    slots,
    streams::{Fault, Stream},
};
use crate::{
    detect::{Merge, Step},
    event::{EntryId, Event},
    metrics::unix_ms,
    store::{Entry, ReadReply, Reader, StoreError, StreamFault},
    wire::{self, SourceState},
};

/// Transitions in one commit at most, so that a script stays short.
pub(super) const ALERTS_MAX: usize = 256;
/// Dead letters in one commit at most.
const DEAD_LETTERS_MAX: usize = 256;
/// Entries taken in by one commit record at most, and their bytes: what a replay must hold at once.
const TAKEN_MAX: u64 = 20_000;
const TAKEN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Entries taken in before the lease, the heartbeat and the other tasks get their turn.
const TAKEN_AT_ONCE: usize = 1024;
/// Entries that one read gives at most, and at least of each stream.
const READ_MAX: usize = 50_000;
const READ_EACH_MIN: usize = 16;
/// A read waits no longer while a look is under way, or while a slot is held open by a stream that cannot be read.
const SHORT_WAIT: Duration = Duration::from_millis(100);
/// How often a stream that cannot be read is tried.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Streams held against the store at one slot's end; the others at the next ones.
const COMPARE_MAX: usize = 64;

/// The leader's own part of the state.
pub(super) struct Leader<'a> {
    pub(super) state: &'a mut State,
    pub(super) fence: u64,
    pub(super) merge: Merge<Entry>,
    pub(super) reader: Reader,
    /// The streams that the next read was asked for ahead.
    pub(super) ahead: Option<(Vec<usize>, usize)>,
    pub(super) effects: Effects,
    /// The store's clock when the newest batch had been read, and ours then.
    pub(super) store_ms: u64,
    pub(super) store_at: Instant,
    /// The store's clock before that batch was asked for.
    pub(super) before_ms: u64,
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
    /// When a slot was closed last, by our clock.
    pub(super) closed_at: Instant,
    /// A stream was read to less than its end: more is there.
    pub(super) behind: bool,
    /// Taken in since the last commit.
    pub(super) taken: u64,
    pub(super) taken_bytes: usize,
    /// A commit has begun and not ended well: the state machine is ahead of what is stored.
    pub(super) unsettled: bool,
    /// Streams that an earlier leader could not read, and said so.
    pub(super) unreadable: BTreeSet<String>,
    /// A look for streams that is under way, and one that has ended.
    pub(super) search: Option<Search>,
    pub(super) search_begun: Instant,
    pub(super) found: Option<Found>,
    /// It has been said that there are too many.
    pub(super) too_many: bool,
    /// What has been told of each source: after each read there is seldom anything new.
    pub(super) told: Vec<(SourceState, Option<u64>)>,
    /// Snapshots of metrics on their way: (slot's end, JSON).
    pub(super) metrics: VecDeque<(u64, String)>,
}

/// What of these streams has not been read.
fn cursors<'s>(streams: &'s [Stream], indices: &[usize]) -> Vec<(&'s str, EntryId)> {
    indices.iter().filter_map(|index| streams.get(*index)).map(|stream| (stream.key.as_str(), stream.position)).collect()
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
        let store_ms = self.store.now_ms().await?;
        tracing::info!("this node leads (fence {fence}), from commit {} on", state.commit);
        let now = Instant::now();
        for stream in &mut state.engine.streams {
            stream.moved = true;
            stream.recounted = true;
            stream.fault = None;
        }
        // A store whose clock was set back does not make entries of the leader before into entries from the future.
        let mut merge = Merge::new(store_ms.max(state.time_ms));
        for stream in &state.engine.streams {
            merge.add(&stream.key);
        }
        let mut leader = Leader {
            merge,
            reader: self.store.reader(),
            ahead: None,
            effects: Effects::default(),
            store_ms: 0,
            store_at: now,
            before_ms: 0,
            compare_from: 0,
            compare_all: true,
            // The first renewal also holds the state against the store's.
            next_lease: now,
            next_discover: now,
            next_probe: now,
            next_checkpoint: now + self.options.checkpoint_interval,
            outage: Outage::new("the store"),
            reconnects: self.store.reconnects(),
            look_again: true,
            committed_slot: 0,
            closed_at: now,
            behind: false,
            taken: 0,
            taken_bytes: 0,
            unsettled: false,
            unreadable: state.engine.detector.unreadable().map(str::to_owned).collect(),
            search: None,
            search_begun: now,
            found: None,
            too_many: false,
            told: Vec::new(),
            metrics: VecDeque::new(),
            state,
            fence,
        };
        for (key, hole) in std::mem::take(&mut leader.state.missing).holes {
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
                    self.tell_sources(&mut leader, false);
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
        // Known to whoever leads.
        for source in &self.settings.borrow().sources {
            self.metrics.set_source_lag(&source.name, None);
        }
        end
    }

    /// One turn: the lease, what there is to read, what follows from it.
    async fn turn(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        if self.stop.is_cancelled() {
            return Err(Halt::Stopped);
        }
        self.health.beat(unix_ms());
        if self.settings.has_changed().unwrap_or(false) {
            // What the old ones decided is stored as such, and what they led to written down: a replay knows only the new ones.
            self.commit(l).await?;
            let settings = self.settings_now();
            match l.state.engine.reload(settings) {
                Ok(()) => {
                    tracing::info!("the new settings are in force");
                    l.next_checkpoint = Instant::now();
                }
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
        self.discover(l).await?;
        if l.compare_all {
            // What was taken in is stored under the positions that it had, before any of them is moved.
            self.commit(l).await?;
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
        if l.behind {
            self.ask_ahead(l).await;
        }
        self.take(l).await?;
        self.mind_faults(l);
        let open_for = l.closed_at.elapsed();
        if open_for > self.stale_after() {
            self.tell("positions", false, format!("no slot was closed for {:.0} s", open_for.as_secs_f64()));
        }
        if l.effects.urgent() {
            self.commit(l).await?;
        }
        if Instant::now() >= l.next_checkpoint {
            self.checkpoint(l).await?;
            l.next_checkpoint = Instant::now() + self.options.checkpoint_interval;
        }
        Ok(())
    }

    /// The streams to be read next: their numbers, and how many entries of each.
    fn wanted(&self, l: &mut Leader<'_>) -> (Vec<usize>, usize) {
        let probe = Instant::now() >= l.next_probe;
        if probe {
            l.next_probe = Instant::now() + PROBE_EVERY;
        }
        let mut indices = Vec::with_capacity(l.state.engine.streams.len());
        for (index, stream) in l.state.engine.streams.iter().enumerate() {
            // A stream whose entries wait for the others' is not read further, unless it is the one that is waited for.
            if !(l.merge.waits(index) || (stream.fault.is_some() && !probe)) {
                indices.push(index);
            }
        }
        // Many streams at once are read in smaller parts, so that what is in memory does not grow with their number.
        let batch = self.options.batch_max.min((READ_MAX / indices.len().max(1)).max(READ_EACH_MIN));
        (indices, batch)
    }

    /// With more to read behind this batch, the store is asked for it now and works while this node does.
    async fn ask_ahead(&mut self, l: &mut Leader<'_>) {
        let (indices, batch) = self.wanted(l);
        let Leader { reader, state, .. } = l;
        reader.ask_ahead(&cursors(&state.engine.streams, &indices), batch).await;
        l.ahead = Some((indices, batch));
    }

    /// Reads what there is, or waits for it until something else is due. `None`: told to stop.
    async fn read(&mut self, l: &mut Leader<'_>) -> Result<Option<(Vec<usize>, ReadReply)>, Halt> {
        let (indices, batch) = match l.ahead.take() {
            Some(asked) => asked,
            None => self.wanted(l),
        };
        let block = self.patience(l);
        let Leader { reader, search, found, state, .. } = l;
        let cursors = cursors(&state.engine.streams, &indices);
        let mut reading = pin!(reader.read(&cursors, batch, block));
        loop {
            tokio::select! {
                reply = &mut reading => return Ok(Some((indices, reply?))),
                keys = async { match search { Some(search) => search.await, None => std::future::pending().await } } => {
                    (*search, *found) = (None, Some(keys));
                }
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    /// How long a read may wait: to the open slot's end, the next renewal, the next look for streams.
    fn patience(&self, l: &Leader<'_>) -> Duration {
        if l.behind || l.store_ms == 0 {
            return Duration::ZERO;
        }
        let store_now = l.store_ms + u64::try_from(l.store_at.elapsed().as_millis()).unwrap_or(0);
        let slot = self.next_slot_end(l, store_now);
        // A slot that did not close although all was read that could be waits for a stream that cannot.
        let to_slot = if l.before_ms >= slot { SHORT_WAIT } else { Duration::from_millis(slot.saturating_sub(store_now)) };
        let now = Instant::now();
        let mut due = l.next_lease.min(l.next_checkpoint).saturating_duration_since(now);
        due = due.min(match l.search {
            Some(_) => SHORT_WAIT,
            None => l.next_discover.saturating_duration_since(now),
        });
        if l.state.engine.streams.iter().any(|s| s.fault.is_some()) {
            due = due.min(l.next_probe.saturating_duration_since(now));
        }
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
        let now = Instant::now();
        l.store_at = now.checked_sub(reply.age).unwrap_or(now);
        l.before_ms = reply.before_ms;
        l.behind = false;
        l.merge.tick(reply.before_ms, reply.after_ms);
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
                    l.unreadable.insert(stream.key.clone());
                }
            }
            if !l.unreadable.is_empty() {
                let key = stream.key.clone();
                if l.unreadable.remove(&key) {
                    l.state.engine.readable(&key, &mut l.effects);
                }
            }
            let stream = &mut l.state.engine.streams[index];
            l.behind |= full;
            stream.held += entries.len() as u64;
            if let Some(last) = entries.last() {
                stream.position = last.id;
            }
            let items = entries.into_iter().map(|entry| (entry.id, entry));
            l.merge.push(index, items, full, reply.before_ms, reply.after_ms);
        }
    }

    /// Everything that the arrival clock releases, into the state machine, with a commit wherever one must be.
    async fn take(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        let slot_before = l.state.engine.detector.last_slot();
        l.merge.begin_steps(slot_before, l.state.engine.interval_ms());
        // What the record will say, so that a replay reads every entry as it is read here.
        let now_ms = l.merge.time();
        let hub = self.hub.clone();
        let mut wanted = hub.wants_events();
        let mut since = 0;
        while let Some(step) = l.merge.next_step() {
            since += 1;
            if since == TAKEN_AT_ONCE {
                since = 0;
                self.breathe(l).await?;
                wanted = hub.wants_events();
            }
            match step {
                Step::CloseTo(slot_end) => self.close_to(l, slot_end).await?,
                Step::Observe { .. } | Step::Future { .. } => {
                    if let Step::Observe { item, .. } | Step::Future { item, .. } = &step {
                        l.taken += 1;
                        l.taken_bytes += item.item.size();
                    }
                    let mut push = |event: &Event<'_>, entry: EntryId, source: &str| {
                        if wanted.is_some_and(|at_least| event.severity >= at_least) {
                            let frame = wire::event_frame(event, entry, source, entry.ms.min(now_ms));
                            hub.push_event(event.severity, &std::sync::Arc::from(event.kind.normal.as_str()), frame);
                        }
                    };
                    let sink: EventSink<'_> = if wanted.is_some() { Some(&mut push) } else { None };
                    take_step(&mut l.state.engine, step, |index| index, now_ms, &mut l.effects, sink);
                }
            }
            let many = l.effects.alerts.len() >= ALERTS_MAX || l.effects.dead_letters.len() >= DEAD_LETTERS_MAX;
            if many || l.taken >= TAKEN_MAX || l.taken_bytes >= TAKEN_BYTES_MAX {
                self.try_metrics(l).await?;
                self.commit(l).await?;
            }
        }
        let slot = l.state.engine.detector.last_slot();
        let closed = slot > slot_before;
        if closed {
            self.try_metrics(l).await?;
        }
        if closed || l.effects.future || !l.effects.alerts.is_empty() || l.effects.dead_letters.len() >= DEAD_LETTERS_MAX {
            self.commit(l).await?;
        }
        if closed {
            self.metrics.slots_late.inc_by(slots::late(slot_before, slot, l.store_ms, l.state.engine.interval_ms()));
            self.publish(&l.state.engine, self.crossed_snapshot(slot_before, slot));
            l.closed_at = Instant::now();
            self.tell("positions", true, format!("slot {slot} closed"));
            self.compare(l, COMPARE_MAX).await?;
        }
        Ok(())
    }

    pub(super) fn stale_after(&self) -> Duration {
        let interval = Duration::from_millis(self.settings.borrow().detect.interval_ms);
        (interval * 3).max(Duration::from_secs(5)) + self.options.lease_ttl
    }

    /// Between two entries of a long batch, and between two parts of a long time. What cannot be renewed now is renewed later.
    pub(super) async fn breathe(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        self.health.beat(unix_ms());
        tokio::task::yield_now().await;
        if self.stop.is_cancelled() {
            // What was taken in so far is stored as such, the rest is read again.
            return Err(Halt::Stopped);
        }
        if Instant::now() >= l.next_lease {
            match self.renew(l).await {
                Err(Halt::Store(error)) if !matches!(error, StoreError::Format(_)) => {
                    self.store_down(&mut l.outage, &error);
                    l.next_lease = Instant::now() + self.options.lease_ttl / 6;
                }
                other => other?,
            }
        }
        Ok(())
    }
}
