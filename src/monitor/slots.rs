//! Closing slots, however many there are to close, and the snapshots of metrics that fall into them.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Monitor,
    lead::{ALERTS_MAX, Halt, Leader},
};
use crate::wire;

/// Slots closed before the lease, the heartbeat and the other tasks get their turn.
const SLOTS_AT_ONCE: u64 = 1000;
/// Slots are closed for so long before what they led to is stored and told.
const CLOSING_MAX: Duration = Duration::from_secs(1);
/// A snapshot of metrics lasts a day (contract §4).
const METRICS_TTL: Duration = Duration::from_secs(86_400);
/// Snapshots of metrics that wait to be stored: what a day at the default interval has.
const METRICS_HELD_MAX: usize = 1440;

/// How many of the slots that ended in `(before, last]` are closed at `now` more than an interval after their end. The first slot
/// of all begins with the present and is never late.
pub(super) fn late(before: u64, last: u64, now: u64, interval: u64) -> u64 {
    if before == 0 {
        return 0;
    }
    let last_late = last.min(now.saturating_sub(interval.saturating_add(1)));
    last_late.saturating_sub(before) / interval.max(1)
}

impl Monitor {
    /// Whether a snapshot of the metrics falls into the slots that were closed.
    pub(super) fn crossed_snapshot(&self, before: u64, now: u64) -> bool {
        let every = self.settings.borrow().detect.snapshot_interval_ms.max(1);
        now / every > before / every
    }

    /// Closes slots, in parts, and keeps the metrics of each that a snapshot falls into.
    pub(super) async fn close_to(&mut self, l: &mut Leader<'_>, slot_end: u64) -> Result<(), Halt> {
        let every = self.settings.borrow().detect.snapshot_interval_ms.max(1);
        let interval = l.state.engine.interval_ms().max(1);
        let oldest = l.merge.time().saturating_sub(u64::try_from(METRICS_TTL.as_millis()).unwrap_or(u64::MAX));
        let mut begun = Instant::now();
        loop {
            let before = l.state.engine.detector.last_slot();
            let snapshot = ((before.max(oldest) / every + 1) * every).div_ceil(interval) * interval;
            let part = before.saturating_add(SLOTS_AT_ONCE.saturating_mul(interval));
            let next = if before == 0 { slot_end } else { slot_end.min(snapshot).min(part) };
            l.state.engine.close_to(next, &mut l.effects);
            if before > 0 && next == snapshot {
                self.keep_metrics(l);
            }
            if next >= slot_end {
                return Ok(());
            }
            let late = begun.elapsed() >= CLOSING_MAX;
            if late || l.effects.alerts.len() >= ALERTS_MAX {
                self.try_metrics(l).await?;
                self.commit(l).await?;
            }
            if late {
                // A clock that was set years ahead, or an entry of years ago: nothing is read meanwhile.
                let left = (slot_end - next) / interval;
                self.tell(
                    "positions",
                    false,
                    format!("slot {next} closed, {left} are still to be closed up to the store's clock"),
                );
                self.publish(&l.state.engine, false);
                begun = Instant::now();
                l.closed_at = begun;
            }
            self.breathe(l).await?;
        }
    }

    /// [`Monitor::store_metrics`] in the middle of a batch: what cannot be stored waits.
    pub(super) async fn try_metrics(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        match self.store_metrics(l).await {
            Err(Halt::Store(error)) => {
                self.store_down(&mut l.outage, &error);
                Ok(())
            }
            other => other,
        }
    }

    /// The values of the slot that was just closed are a snapshot.
    fn keep_metrics(&self, l: &mut Leader<'_>) {
        let values = l.state.engine.detector.metrics();
        if l.metrics.len() == METRICS_HELD_MAX {
            l.metrics.pop_front();
        }
        l.metrics.push_back((values.timestamp_ms, wire::metrics_json(values).to_string()));
    }

    /// Stores the snapshots of metrics that wait for it; before the commit, and harmless if done again.
    pub(super) async fn store_metrics(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        while let Some((slot, json)) = l.metrics.front() {
            let age = Duration::from_millis(l.store_ms.saturating_sub(*slot));
            if age < METRICS_TTL {
                self.store.metrics_put(slot / 1000, json, METRICS_TTL - age).await?;
            }
            l.metrics.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::late;

    #[test]
    fn slots_closed_after_a_pause_are_late_but_for_the_newest() {
        for (before, last, now, count) in [
            (10_000, 15_000, 15_020, 0),
            (10_000, 15_000, 20_000, 0),
            (10_000, 15_000, 20_001, 1),
            (10_000, 35_000, 37_000, 4),
            (10_000, 35_000, 60_000, 5),
            (0, 1_000_000, 1_000_001, 0),
        ] {
            assert_eq!(late(before, last, now, 5_000), count, "({before}, {last}] at {now}");
        }
    }
}
