//! Sliding windows as rings of buckets (contract §4).
//!
//! A bucket holds the arrivals of `(end − width, end]`, ends at whole multiples of the width since the epoch. All of a bucket
//! leaves together, at the first bucket end at or after arrival + window; so a window costs at most a few hundred buckets,
//! whatever the load, and what it holds at a bucket end `t` is exactly `(t − W, t]`.

use std::collections::VecDeque;

/// Buckets a window is cut into at least (if it has that many milliseconds), and at most, to find a width that divides it.
const BUCKETS_MIN: u64 = 360;
const BUCKETS_MAX: u64 = 720;

/// Per-bucket values of a window, sparse and sorted by bucket end.
#[derive(Clone, Debug)]
pub(super) struct Ring<B> {
    pub window_ms: u64,
    bucket_ms: u64,
    /// The window as a whole number of buckets: an arrival leaves this long after its bucket's end.
    kept_ms: u64,
    buckets: VecDeque<(u64, B)>,
}

impl<B: Default> Ring<B> {
    pub fn new(window_ms: u64) -> Ring<B> {
        let window_ms = window_ms.max(1);
        // A width that divides the window keeps it exact; where there is none, the window is rounded up to whole buckets.
        let n = (BUCKETS_MIN..=BUCKETS_MAX).find(|n| window_ms.is_multiple_of(*n));
        let bucket_ms = n.map_or(window_ms / BUCKETS_MIN, |n| window_ms / n).max(1);
        let kept_ms = window_ms.div_ceil(bucket_ms).saturating_mul(bucket_ms);
        Ring { window_ms, bucket_ms, kept_ms, buckets: VecDeque::new() }
    }

    /// Buckets that can hold something at a slot end.
    pub fn buckets_max(&self) -> usize {
        usize::try_from(self.kept_ms / self.bucket_ms).unwrap_or(usize::MAX)
    }

    /// The bucket of an arrival; `None` if it will have left before the slot that ends at `slot_end`, so nobody would see it.
    pub fn at(&mut self, time_ms: u64, slot_end: u64) -> Option<&mut B> {
        // Nearly always the bucket of the arrival before, told without a division.
        let newest = self.buckets.back().map(|(last, _)| *last);
        if let Some(last) = newest.filter(|last| time_ms <= *last && time_ms > last.saturating_sub(self.bucket_ms)) {
            let seen = last.saturating_add(self.kept_ms) > slot_end;
            return self.buckets.back_mut().filter(|_| seen).map(|(_, b)| b);
        }
        let end = time_ms.div_ceil(self.bucket_ms).saturating_mul(self.bucket_ms);
        if end.saturating_add(self.kept_ms) <= slot_end {
            return None;
        }
        // Only late entries and long slots look further back than the last.
        let i = match self.buckets.back() {
            Some((last, _)) if *last == end => self.buckets.len() - 1,
            Some((last, _)) if *last > end => self.buckets.partition_point(|(e, _)| *e < end),
            _ => self.buckets.len(),
        };
        if self.buckets.get(i).is_none_or(|(e, _)| *e != end) {
            self.buckets.insert(i, (end, B::default()));
        }
        self.buckets.get_mut(i).map(|(_, b)| b)
    }

    /// Takes out what has left at `t`.
    pub fn expire(&mut self, t: u64, mut gone: impl FnMut(B)) {
        while self.buckets.front().is_some_and(|(end, _)| end.saturating_add(self.kept_ms) <= t) {
            if let Some((_, bucket)) = self.buckets.pop_front() {
                gone(bucket);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &B)> {
        self.buckets.iter().map(|(end, b)| (*end, b))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut B> {
        self.buckets.iter_mut().map(|(_, b)| b)
    }
}

/// What a snapshot keeps of a [`Window`]: (bucket end, (lane, count)…).
pub(super) type SavedWindow = Vec<(u64, Vec<(u16, u64)>)>;

/// Counts over a window, in a fixed number of lanes (one for a plain count, one per severity, one per log bucket, …).
#[derive(Clone, Debug)]
pub(super) struct Window {
    ring: Ring<Vec<(u16, u64)>>,
    totals: Vec<u64>,
    sum: u64,
}

impl Window {
    pub fn new(window_ms: u64, lanes: usize) -> Window {
        Window { ring: Ring::new(window_ms), totals: vec![0; lanes], sum: 0 }
    }

    pub fn window_ms(&self) -> u64 {
        self.ring.window_ms
    }

    /// Counts `n` arrivals; lanes that do not exist are ignored.
    pub fn add(&mut self, time_ms: u64, slot_end: u64, lane: usize, n: u64) {
        let (Some(total), Ok(lane)) = (self.totals.get_mut(lane), u16::try_from(lane)) else { return };
        let Some(bucket) = self.ring.at(time_ms, slot_end) else { return };
        *total = total.saturating_add(n);
        self.sum = self.sum.saturating_add(n);
        match bucket.binary_search_by_key(&lane, |(l, _)| *l) {
            Ok(i) => bucket[i].1 = bucket[i].1.saturating_add(n),
            Err(i) => bucket.insert(i, (lane, n)),
        }
    }

    pub fn expire(&mut self, t: u64) {
        let (totals, sum) = (&mut self.totals, &mut self.sum);
        self.ring.expire(t, |bucket| {
            for (lane, n) in bucket {
                if let Some(total) = totals.get_mut(usize::from(lane)) {
                    *total = total.saturating_sub(n);
                    *sum = sum.saturating_sub(n);
                }
            }
        });
    }

    /// The count in one lane.
    pub fn lane(&self, lane: usize) -> u64 {
        self.totals.get(lane).copied().unwrap_or(0)
    }

    pub fn lanes(&self) -> &[u64] {
        &self.totals
    }

    /// The count in all lanes.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    pub fn save(&self) -> SavedWindow {
        self.ring.iter().map(|(end, lanes)| (end, lanes.clone())).collect()
    }

    /// Takes in what was saved, also by a window of another length (then by the old buckets' ends).
    pub fn load(&mut self, saved: SavedWindow) {
        for (end, lanes) in saved {
            for (lane, n) in lanes {
                self.add(end, 0, usize::from(lane), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_is_360_buckets_of_ten_seconds() {
        let ring: Ring<u64> = Ring::new(3_600_000);
        assert_eq!((ring.bucket_ms, ring.kept_ms), (10_000, 3_600_000));
        let ring: Ring<u64> = Ring::new(300_000);
        assert_eq!((ring.bucket_ms, ring.kept_ms), (800, 300_000));
        let ring: Ring<u64> = Ring::new(100);
        assert_eq!((ring.bucket_ms, ring.kept_ms), (1, 100));
    }

    #[test]
    fn an_arrival_leaves_at_the_first_bucket_end_at_or_after_the_window() {
        let mut w = Window::new(3_600_000, 1);
        w.add(7_200_001, 7_205_000, 0, 1);
        w.add(7_210_000, 7_210_000, 0, 1);
        w.expire(10_805_000);
        assert_eq!(w.lane(0), 2);
        w.expire(10_810_000);
        assert_eq!(w.lane(0), 0, "both are of the bucket that ends at 7 210 000");
        assert!(w.is_empty());
    }

    proptest! {
        /// Against a list of all arrivals, each with the moment at which the contract lets it go.
        #[test]
        fn holds_what_a_list_of_arrivals_holds(
            window in 1u64..200_000,
            interval in 100u64..20_000,
            gaps in prop::collection::vec((0u64..9_000, 0usize..3), 1..200),
        ) {
            let mut w = Window::new(window, 3);
            let (bucket, kept) = (w.ring.bucket_ms, w.ring.kept_ms);
            prop_assert!(bucket == 1 || bucket <= window / 360, "exact to W/360");
            prop_assert!(kept >= window && kept < window + bucket);
            let mut model: Vec<(u64, usize)> = Vec::new();
            let (mut now, mut slot) = (1_000_000_000u64, 1_000_000_000 / interval * interval);
            for (gap, lane) in gaps {
                now += gap;
                while slot + interval < now {
                    slot += interval;
                    w.expire(slot);
                    model.retain(|(a, _)| (a + kept).div_ceil(bucket) * bucket > slot);
                    for lane in 0..3 {
                        prop_assert_eq!(w.lane(lane), model.iter().filter(|(_, l)| *l == lane).count() as u64);
                    }
                }
                let time = now.max(slot + 1);
                w.add(time, slot + interval, lane, 1);
                model.push((time, lane));
            }
            prop_assert!(w.ring.buckets.len() <= 2 * w.ring.buckets_max() + 2);
        }
    }
}
