//! Counts of what clients do. One node has them all, so they lie in memory; a restart begins new windows.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::store::{Rate, Used};

/// Counts kept at once; beyond, what is new is not counted here until some have ended.
const RATES_MAX: usize = 100_000;

/// `{limit}:{client}` → how often, until when (ms).
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<String, (u64, u64), ahash::RandomState>>);

impl Rates {
    pub(super) fn count(&self, counts: &[Rate], window: Duration, now_ms: u64) -> Vec<Option<Used>> {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut one = |count: &Rate| {
            let key = format!("{}:{}", count.limit, count.client);
            if rates.len() >= RATES_MAX && !rates.contains_key(&key) {
                rates.retain(|_, (_, ends_ms)| *ends_ms > now_ms);
                if rates.len() >= RATES_MAX {
                    return None;
                }
            }
            let (used, ends_ms) = rates.entry(key).or_default();
            if *ends_ms <= now_ms {
                (*used, *ends_ms) = (0, now_ms.saturating_add(window_ms));
            }
            *used += u64::from(count.by);
            Some(Used { used: *used, ends_in_ms: *ends_ms - now_ms })
        };
        counts.iter().map(&mut one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_is_bounded_and_ends() {
        let rates = Rates::default();
        let count = |n: usize, now_ms| {
            let rate = Rate { limit: "auth".into(), client: n.to_string(), by: 1 };
            rates.count(&[rate], Duration::from_secs(60), now_ms).pop().flatten()
        };
        for n in 0..RATES_MAX {
            assert_eq!(count(n, 1000), Some(Used { used: 1, ends_in_ms: 60_000 }));
        }
        assert_eq!(count(RATES_MAX, 1000), None);
        assert_eq!(count(0, 2000), Some(Used { used: 2, ends_in_ms: 59_000 }), "who is known is counted on");
        assert_eq!(count(RATES_MAX, 61_000), Some(Used { used: 1, ends_in_ms: 60_000 }));
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
