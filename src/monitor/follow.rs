//! Following: the commit log says which entries every slot held; the state machine takes the same.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    End, Monitor, Outage, RECORDS, Role, State,
    engine::{Arrival, Effects, Engine, EventSink, Mark},
    streams::{Feeds, Hole, Stream},
};
use crate::{
    detect::{self, GapReason, Item, Step},
    event::EntryId,
    metrics::unix_ms,
    store::{CommitRecord, Entry, Store, StoreError},
    wire::{self, SourceState, SourceStatus},
};

/// Entries asked of a stream at a time.
const PAGE: usize = 1000;

/// What a replay could not take in as the leader had done.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// By stream: entries that a record took in and that the stream has lost since.
    pub(super) holes: BTreeMap<String, Hole>,
    /// The records do not lead from nothing to here: the windows are not whole.
    pub(super) beginning: bool,
}

impl Missing {
    pub(super) fn any(&self) -> bool {
        self.beginning || !self.holes.is_empty()
    }

    /// One hole per stream is kept, however many records have one.
    fn hole(&mut self, key: &str, hole: Hole) {
        match self.holes.get_mut(key) {
            Some(known) => {
                known.to = hole.to;
                known.missed = known.missed.zip(hole.missed).map(|(a, b)| a.saturating_add(b));
            }
            None => drop(self.holes.insert(key.to_owned(), hole)),
        }
    }
}

/// Takes the entries of one commit record in, silently: their effects are stored. Gives how many they were. What fails has
/// changed nothing.
pub(super) async fn apply(
    store: &Store,
    engine: &mut Engine,
    before: u64,
    record: &CommitRecord,
    missing: &mut Missing,
    mut sink: EventSink<'_>,
) -> Result<u64, StoreError> {
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    let mut anew = false;
    for mark in &record.marks {
        match serde_json::from_value(mark.clone()) {
            Ok(Mark::Taken(n)) => taken = n,
            Ok(Mark::Anew) => anew = true,
            _ => {}
        }
    }
    // Without the record before this one nobody knows where its entries begin: it is where we begin.
    let first_known = before == 0 && record.n > 1;
    let mut beginning = first_known || anew || record.n > before + 1;
    let mut pages: Vec<(&str, Entry)> = Vec::new();
    let mut holes = Vec::new();
    for (key, done) in &record.done {
        let expected = taken.get(key).copied().unwrap_or(0);
        let Some(from) = engine.stream_index(key).map(|index| engine.streams[index].done) else {
            // A leader commits where a stream begins before it takes anything of it.
            beginning |= expected > 0 && engine.source_of(key).is_some();
            continue;
        };
        if expected == 0 || *done <= from || first_known {
            continue;
        }
        let mut after = from;
        let mut found = 0;
        while after < *done {
            let page = store.stream_range(key, after, *done, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            found += page.len() as u64;
            let short = page.len() < PAGE;
            pages.extend(page.into_iter().map(|entry| (key.as_str(), entry)));
            if short {
                break;
            }
        }
        if found < expected {
            let hole = Hole { reason: GapReason::Trimmed, from, to: Some(*done), missed: Some(expected - found) };
            holes.push((key, hole));
        }
    }

    // From here on nothing can fail.
    missing.beginning |= beginning;
    for (key, hole) in holes {
        if let (Some(index), Some(n)) = (engine.stream_index(key), hole.missed) {
            // They were there once: only what the leader never had is missed by it.
            let counted = &mut engine.streams[index].counted;
            *counted = counted.map(|counted| counted + n);
        }
        missing.hole(key, hole);
    }
    let entries = pages.len() as u64;
    let items: Vec<Item<Entry, (&str, usize)>> = pages
        .into_iter()
        .filter_map(|(key, entry)| Some(Item { stream: (key, engine.stream_index(key)?), entry: entry.id, item: entry }))
        .collect();
    for (key, done) in &record.done {
        let index = match engine.stream_index(key) {
            Some(index) => index,
            None => match engine.source_of(key) {
                Some(source) => engine.add_stream(Stream::new(key.clone(), Feeds::Source(source), *done)),
                None => continue,
            },
        };
        if !taken.contains_key(key) || *done <= engine.streams[index].done || first_known {
            engine.streams[index].move_to(*done);
        }
    }
    let mut effects = Effects::default();
    let last_slot = engine.detector.last_slot();
    if first_known {
        engine.detector.skip_to(record.slot);
    } else {
        let interval = engine.interval_ms();
        for step in detect::replay(items, record.slot, record.time, last_slot, interval) {
            // A reborrow: the sink outlives the step.
            let sink: EventSink<'_> = match &mut sink {
                Some(sink) => Some(&mut **sink),
                None => None,
            };
            take_step(engine, step, |(_, index)| index, record.time, &mut effects, sink);
            effects.alerts.clear();
            effects.dead_letters.clear();
        }
    }
    engine.apply_marks(record, &mut effects.alerts);
    for (key, done) in &record.done {
        if let Some(index) = engine.stream_index(key) {
            let stream = &mut engine.streams[index];
            if stream.done < *done {
                stream.move_to(*done);
            }
        }
    }
    for stream in &mut engine.streams {
        stream.moved = false;
        stream.taken = 0;
        stream.recounted = false;
    }
    Ok(entries)
}

/// One step of the arrival clock into the engine: the same for live and replay. `index` is the stream's number there.
pub(super) fn take_step<S>(
    engine: &mut Engine,
    step: Step<Entry, S>,
    index: impl Fn(S) -> usize,
    now_ms: u64,
    effects: &mut Effects,
    sink: EventSink<'_>,
) {
    match step {
        Step::Observe { time_ms, item } => {
            let arrival = Arrival { time_ms, arrival_ms: item.entry.ms.min(now_ms), ahead_ms: None };
            engine.observe(index(item.stream), &item.item, arrival, effects, sink);
        }
        Step::Future { time_ms, ahead_ms, item } => {
            let arrival = Arrival { time_ms, arrival_ms: now_ms, ahead_ms: Some(ahead_ms) };
            engine.observe(index(item.stream), &item.item, arrival, effects, sink);
        }
        Step::CloseTo(slot_end) => engine.close_to(slot_end, effects),
    }
}

impl Monitor {
    /// Whether the record that this node stands at is the one that the store has there.
    async fn agrees(&self, state: &State) -> Result<bool, StoreError> {
        let Some(before) = state.commit.checked_sub(1) else { return Ok(true) };
        let found = self.store.commits(before, 1).await?;
        Ok(found
            .first()
            .is_some_and(|found| found.n == state.commit && state.last.as_ref().is_none_or(|last| last.same_as(found))))
    }

    /// Which sources are read, as far as a follower can know it: from the leading node's records.
    fn tell_followed(&self, state: &State, quiet: bool) {
        let settings = self.settings.borrow();
        let down: Vec<_> = state.engine.detector.unreadable().filter_map(|stream| settings.source_of(stream)).collect();
        for (index, source) in settings.sources.iter().enumerate() {
            let status = match () {
                () if down.contains(&(index as u16)) => SourceState::Down,
                () if quiet => SourceState::Stalled,
                () => SourceState::Ok,
            };
            self.hub.push_source(SourceStatus { source: source.name.clone(), status, since_ms: unix_ms() });
        }
        let text = if down.is_empty() { "read by the leading node" } else { "the leading node cannot read all of them" };
        self.tell("source", down.is_empty(), text);
    }

    /// Follows the commit log until the lease can be taken.
    pub(super) async fn follow(&mut self, state: &mut State, outage: &mut Outage) -> Result<End, StoreError> {
        let ttl = self.options.lease_ttl;
        let mut tail = self.store.tail();
        let mut next_try = Instant::now();
        let mut last_record = Instant::now();
        let mut up = false;
        // When the leading node has surely written down what could not be followed.
        let renewed = Instant::now() + self.options.checkpoint_interval + ttl;
        loop {
            if self.stop.is_cancelled() {
                return Ok(End::Stopped);
            }
            self.health.beat(unix_ms());
            if self.settings.has_changed().unwrap_or(false) {
                let settings = self.settings_now();
                if let Err(why) = state.engine.reload(settings) {
                    tracing::warn!("the new settings are not used: {why}");
                }
            }
            if Instant::now() >= next_try {
                let agrees = self.agrees(state).await?;
                let lease = self.store.lease(&self.node, state.fence).await?;
                if !std::mem::replace(&mut up, true) {
                    self.store_up(outage);
                }
                state.fence = state.fence.max(lease.fence);
                if lease.node == self.node {
                    // What the last leader committed before its lease ended must be in the state first.
                    let recovered = self.store.recover().await?;
                    if recovered.commit < state.commit {
                        // The store lost commits, and nobody else leads: what this node knows is all there is. It is put back.
                        return Ok(End::Lead { fence: lease.fence });
                    }
                    if !agrees {
                        tracing::warn!("the store has other commits than those this node has followed: the state is read anew");
                        return Ok(End::Again);
                    }
                    if recovered.commit == state.commit {
                        state.adopt(&recovered.open);
                        state.seq = recovered.seq;
                        return Ok(End::Lead { fence: lease.fence });
                    }
                    next_try = Instant::now();
                } else {
                    if !agrees {
                        tracing::warn!("the store lost commits that this node has followed: the state is read anew");
                        return Ok(End::Again);
                    }
                    if state.missing.any() && Instant::now() >= renewed {
                        tracing::info!("what this node could not follow is looked for in the leading node's snapshot");
                        return Ok(End::Again);
                    }
                    next_try = Instant::now() + std::time::Duration::from_millis(lease.expires_in_ms).min(ttl / 3);
                    if *self.role.borrow() != Role::Following {
                        tracing::info!("{} leads; this node follows", lease.node);
                        self.role.send_replace(Role::Following);
                    }
                    self.tell("lease", true, format!("{} leads", lease.node));
                }
            }
            let wait = next_try.saturating_duration_since(Instant::now()).max(std::time::Duration::from_millis(1));
            let records = tokio::select! {
                records = tail.commits(state.commit, RECORDS, wait) => records?,
                () = self.stop.cancelled() => return Ok(End::Stopped),
            };
            if !records.is_empty() && !self.agrees(state).await? {
                tracing::warn!("the store has other commits than those this node has followed: the state is read anew");
                return Ok(End::Again);
            }
            for record in &records {
                let slot_before = state.engine.detector.last_slot();
                let hub = self.hub.clone();
                let wanted = hub.wants_events();
                let mut push = |event: &crate::event::Event<'_>, entry: EntryId, source: &str| {
                    if wanted.is_some_and(|at_least| event.severity >= at_least) {
                        let frame = wire::event_frame(event, entry, source, entry.ms.min(record.time));
                        hub.push_event(event.severity, &std::sync::Arc::from(event.kind.normal.as_str()), frame);
                    }
                };
                apply(&self.store, &mut state.engine, state.commit, record, &mut state.missing, Some(&mut push)).await?;
                state.stands_at(record);
                state.reconfigured |= record.fingerprint != self.settings.borrow().fingerprint;
                last_record = Instant::now();
                if state.engine.detector.last_slot() > slot_before {
                    let snapshot = self.crossed_snapshot(slot_before, state.engine.detector.last_slot());
                    self.publish(&state.engine, snapshot);
                }
            }
            let quiet = last_record.elapsed();
            let limit = self.stale_after();
            self.tell("positions", quiet < limit, format!("last commit seen {:.1} s ago", quiet.as_secs_f64()));
            self.tell_followed(state, quiet >= limit);
        }
    }
}
