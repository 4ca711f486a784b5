//! What is wrong with streams: those that cannot be read, and those that lost entries before they could be.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Monitor,
    lead::{Halt, Leader},
    streams::{Feeds, Stream},
};
use crate::wire::{SourceState, SourceStatus};

/// A look at a stream that takes so long, and the part of the time that such looks may take.
const LOOK_LONG: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 50;

/// Before the first entry there is no time: what happens then happens in the slot that is open now, or that the oldest entry in
/// hand will open.
pub(super) fn begin_time(l: &mut Leader<'_>) {
    if l.state.engine.detector.last_slot() == 0 {
        let now = l.merge.earliest_ms().unwrap_or(u64::MAX).min(l.merge.time());
        let interval = l.state.engine.interval_ms().max(1);
        // As a replay does it, which knows the slot only.
        l.state.engine.close_to(now.saturating_sub(1) / interval * interval, &mut l.effects);
    }
}

impl Monitor {
    /// Streams that have failed for too long leave the vote, and are told of.
    pub(super) fn mind_faults(&mut self, l: &mut Leader<'_>) {
        let lag_max = self.options.source_lag_max;
        let mut failing = Vec::new();
        for index in 0..l.state.engine.streams.len() {
            let stream = &mut l.state.engine.streams[index];
            let out = stream.out_of_vote(lag_max);
            let Some(fault) = &mut stream.fault else { continue };
            if out && !fault.told {
                fault.told = true;
                l.merge.set_voting(index, false);
                // An earlier leader may have raised it.
                if !l.unreadable.contains(&stream.key) {
                    begin_time(l);
                    l.state.engine.unreadable(index, &mut l.effects);
                }
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
    pub(super) fn tell_sources(&self, l: &mut Leader<'_>, store_up: bool) {
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
            if l.told.get(index) == Some(&(state, lag)) {
                continue;
            }
            match l.told.get_mut(index) {
                Some(told) => *told = (state, lag),
                // By their order; the sources of a leader stay the same.
                None => l.told.push((state, lag)),
            }
            self.metrics.set_source_lag(&source.name, lag);
            self.hub.push_source(SourceStatus { source: source.name.clone(), status: state, since_ms: l.store_ms });
        }
    }

    /// Holds positions against what the store says of the streams.
    pub(super) async fn compare(&mut self, l: &mut Leader<'_>, at_most: usize) -> Result<(), Halt> {
        let n = l.state.engine.streams.len();
        for step in 0..n.min(at_most) {
            let index = (l.compare_from + step) % n;
            let stream = &l.state.engine.streams[index];
            if stream.fault.is_some() {
                continue;
            }
            let begun = Instant::now();
            if at_most != usize::MAX && stream.rest_until.is_some_and(|until| begun < until) {
                continue;
            }
            let looked = self.store.stream_info(&stream.key).await?;
            // A look brings the first entry and the last, however large they are.
            let took = begun.elapsed();
            l.state.engine.streams[index].rest_until = (took >= LOOK_LONG).then(|| begun + took * LOOK_SHARE);
            let Ok(info) = looked else { continue };
            if l.state.engine.streams[index].held > 0 {
                // In the middle of a backlog there is nothing to compare, but a lag to be told.
                if let Some(info) = info {
                    l.state.engine.streams[index].look_behind(&info);
                }
                continue;
            }
            let found = l.state.engine.streams[index].compare(info);
            if let Some(hole) = found {
                tracing::error!(
                    "audit gap in the stream {} ({}): behind {}, {} missed",
                    l.state.engine.streams[index].key,
                    hole.reason.as_str(),
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
