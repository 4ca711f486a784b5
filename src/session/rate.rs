//! A bucket of permissions that refills.

use tokio::time::Instant;

/// Holds up to `burst` permissions, refills by `per_second`.
pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, per_second: u32, now: Instant) -> Bucket {
        let burst = f64::from(burst.max(1));
        Bucket { burst, per_second: f64::from(per_second), left: burst, at: now }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_second).min(self.burst);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2, start);
        let taken = |bucket: &mut Bucket, at| (0..10).filter(|_| bucket.take(start + Duration::from_secs(at))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 1), 2);
        assert_eq!(taken(&mut bucket, 100), 3);
    }
}
