//! `auditcast_alert_delivery_seconds`: counted by the batch, for one batch goes to thousands of clients at the same moment.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Histogram, Metric, MetricFamily, MetricType},
};

use super::PROCESSING_BUCKETS;

/// The bounds of [`PROCESSING_BUCKETS`], and what is above them.
const BUCKETS: usize = PROCESSING_BUCKETS.len() + 1;

/// When the causes of live alerts arrived that go out together. Unix ms.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    each: Vec<u64>,
    sum: u64,
    first: u64,
    last: u64,
}

impl Arrivals {
    pub fn push(&mut self, received_ms: u64) {
        if self.each.is_empty() {
            (self.first, self.last) = (received_ms, received_ms);
        }
        self.first = self.first.min(received_ms);
        self.last = self.last.max(received_ms);
        self.sum = self.sum.saturating_add(received_ms);
        self.each.push(received_ms);
    }

    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }
}

/// Observations that are not in the histogram yet.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    buckets: [u64; BUCKETS],
    sum_ms: u64,
}

/// The bucket of a delay: the first one whose bound is not below it.
fn bucket(delay_ms: u64) -> usize {
    let seconds = delay_ms as f64 / 1000.0;
    PROCESSING_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1)
}

impl Delays {
    /// All of these are at one more client now.
    pub fn add(&mut self, arrivals: &Arrivals, now_ms: u64) {
        let count = arrivals.each.len() as u64;
        if count == 0 {
            return;
        }
        let (slowest, fastest) = (bucket(now_ms.saturating_sub(arrivals.first)), bucket(now_ms.saturating_sub(arrivals.last)));
        if slowest == fastest && arrivals.last <= now_ms {
            self.put(slowest, count, (now_ms * count).saturating_sub(arrivals.sum));
        } else {
            for received in &arrivals.each {
                let delay = now_ms.saturating_sub(*received);
                self.put(bucket(delay), 1, delay);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|count| *count == 0)
    }

    fn put(&mut self, bucket: usize, count: u64, sum_ms: u64) {
        if let Some(n) = self.buckets.get_mut(bucket) {
            *n += count;
        }
        self.sum_ms += sum_ms;
    }
}

/// The histogram; cloning gives the same one.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    desc: Desc,
    buckets: [AtomicU64; BUCKETS],
    sum_ms: AtomicU64,
}

impl Delivery {
    pub(super) fn new(name: &str, help: &str) -> Delivery {
        let desc = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), Default::default()).expect("the name is ours");
        Delivery(Arc::new(Inner { desc, buckets: Default::default(), sum_ms: AtomicU64::new(0) }))
    }

    /// Takes what was counted aside, and leaves nothing there.
    pub fn take(&self, delays: &mut Delays) {
        let Delays { buckets, sum_ms } = std::mem::take(delays);
        for (count, more) in self.0.buckets.iter().zip(buckets) {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        }
        self.0.sum_ms.fetch_add(sum_ms, Ordering::Relaxed);
    }

    /// Observations so far.
    pub fn get_sample_count(&self) -> u64 {
        self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Their sum in seconds.
    pub fn get_sample_sum(&self) -> f64 {
        self.0.sum_ms.load(Ordering::Relaxed) as f64 / 1000.0
    }
}

impl Collector for Delivery {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut seen = 0;
        let counts: Vec<u64> = self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let buckets = PROCESSING_BUCKETS.iter().zip(&counts).map(|(bound, count)| {
            seen += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(seen);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(self.get_sample_sum());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_like_its_parts() {
        let check = |received: &[u64], now: u64| {
            let mut together = Arrivals::default();
            let (mut batch, mut parts) = (Delays::default(), Delays::default());
            for at in received {
                together.push(*at);
                let mut alone = Arrivals::default();
                alone.push(*at);
                parts.add(&alone, now);
            }
            batch.add(&together, now);
            assert_eq!((batch.buckets, batch.sum_ms), (parts.buckets, parts.sum_ms), "{received:?} at {now}");
        };
        check(&[], 10);
        check(&[1000, 1001, 1001], 1002);
        check(&[1000, 3000, 900], 61_000);
        check(&[1000, 2000], 1500);
        check(&[5], 100_000);
    }

    #[test]
    fn what_was_counted_aside_is_taken_once() {
        let delivery = Delivery::new("auditcast_x_seconds", "X.");
        let (mut delays, mut arrivals) = (Delays::default(), Arrivals::default());
        arrivals.push(1000);
        arrivals.push(2000);
        delays.add(&arrivals, 2500);
        delivery.take(&mut delays);
        delivery.take(&mut delays);
        assert_eq!((delivery.get_sample_count(), delivery.get_sample_sum()), (2, 2.0));
        let families = delivery.collect();
        let histogram = families[0].get_metric()[0].get_histogram();
        let half = histogram.get_bucket().iter().find(|bucket| bucket.upper_bound() == 0.5).map(Bucket::cumulative_count);
        assert_eq!((half, histogram.get_sample_count()), (Some(1), 2));
    }
}
