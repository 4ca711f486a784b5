//! Failed attempts at one name, and when the next may be made: pure, time is a parameter.
//!
//! Guessing is stopped in two ways. An address that fails too often at a name is locked out from that name, for longer each time.
//! And strangers together (addresses that the name's owner has not signed in from lately) are locked out when several of them
//! fail. So many addresses gain little over one, one address alone locks out nobody else, and nobody at all locks out the
//! owner where he has been before. A name that does not exist is treated as one that does.

use serde::{Deserialize, Serialize};

/// Addresses remembered for a name; at the bound the one that began longest ago goes.
const ADDRESSES_MAX: usize = 64;
/// So many addresses must fail before strangers are locked out together.
const STRANGERS: u32 = 4;

/// `[auth]`, the part on lock-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Failures within [`Limits::window_ms`] until a lock-out.
    pub failures: u32,
    pub window_ms: u64,
    /// The first lock-out; each further one takes twice as long, up to [`Limits::longest_ms`].
    pub first_ms: u64,
    pub longest_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    failures: u32,
    since_ms: u64,
    locked_until_ms: u64,
    /// Lock-outs in a row.
    locks: u32,
}

impl Tally {
    fn wait(&self, now_ms: u64) -> Option<u64> {
        self.locked_until_ms.checked_sub(now_ms).filter(|left| *left > 0)
    }

    /// Forgets what is over: failures after the window, lock-outs after the longest of them without another one.
    fn settle(&mut self, now_ms: u64, limits: &Limits) {
        if now_ms.abs_diff(self.since_ms) >= limits.window_ms {
            (self.failures, self.since_ms) = (0, now_ms);
        }
        if self.locks > 0 && now_ms.saturating_sub(self.locked_until_ms) >= limits.longest_ms {
            self.locks = 0;
        }
    }

    /// Whether this was one too many.
    fn count(&mut self, most: u32, now_ms: u64, limits: &Limits) -> bool {
        self.failures += 1;
        if self.failures < most {
            return false;
        }
        let doubled = limits.first_ms.saturating_mul(1_u64.checked_shl(self.locks).unwrap_or(u64::MAX));
        self.locked_until_ms = now_ms.saturating_add(doubled.min(limits.longest_ms));
        self.locks = (self.locks + 1).min(63);
        (self.failures, self.since_ms) = (0, now_ms);
        true
    }

    /// Takes back what [`Tally::count`] has just done.
    fn uncount(&mut self, most: u32, locked: bool) {
        if locked {
            self.failures = most;
            self.locked_until_ms = 0;
            self.locks = self.locks.saturating_sub(1);
        }
        self.failures = self.failures.saturating_sub(1);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct From {
    address: String,
    #[serde(flatten)]
    tally: Tally,
    /// What of it counts among the strangers, in the strangers' window that began then.
    counted: u32,
    counted_since_ms: u64,
}

/// Everything that is known of failures at one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    strangers: Tally,
    from: Vec<From>,
}

/// An attempt that may be made, counted as failed until [`Attempts::succeeded`] takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    counted_among_strangers: bool,
    /// This address is locked out unless the attempt succeeds, and for how long.
    pub locks_address_ms: Option<u64>,
    /// So are all strangers.
    pub locks_strangers_ms: Option<u64>,
}

impl Attempts {
    /// Counts an attempt before it is looked at, so that a thousand at once are no more than a thousand one by one. `known`: the
    /// name's owner has signed in from there. `Err`: locked out, for so many ms.
    pub fn take(&mut self, address: &str, known: bool, now_ms: u64, limits: &Limits) -> Result<Taken, u64> {
        if !known && let Some(wait) = self.strangers.wait(now_ms) {
            return Err(wait);
        }
        let at = match self.from.iter().position(|from| from.address == address) {
            Some(at) => at,
            None => {
                if self.from.len() >= ADDRESSES_MAX
                    && let Some(oldest) = (0..self.from.len()).min_by_key(|at| {
                        let tally = &self.from[*at].tally;
                        (tally.locked_until_ms, tally.since_ms)
                    })
                {
                    self.from.swap_remove(oldest);
                }
                let tally = Tally { since_ms: now_ms, ..Tally::default() };
                self.from.push(From { address: address.to_owned(), tally, counted: 0, counted_since_ms: 0 });
                self.from.len() - 1
            }
        };
        let from = &mut self.from[at];
        if let Some(wait) = from.tally.wait(now_ms) {
            return Err(wait);
        }
        from.tally.settle(now_ms, limits);
        let left = |tally: &Tally| tally.locked_until_ms.saturating_sub(now_ms);
        let locks_address_ms = from.tally.count(limits.failures, now_ms, limits).then(|| left(&from.tally));
        let mut taken = Taken { counted_among_strangers: false, locks_address_ms, locks_strangers_ms: None };
        if !known {
            self.strangers.settle(now_ms, limits);
            if from.counted_since_ms != self.strangers.since_ms {
                (from.counted, from.counted_since_ms) = (0, self.strangers.since_ms);
            }
            // No address counts for more than one that locks itself out: it takes several to lock out all.
            if from.counted < limits.failures {
                from.counted += 1;
                taken.counted_among_strangers = true;
                let most = limits.failures.saturating_mul(STRANGERS);
                taken.locks_strangers_ms = self.strangers.count(most, now_ms, limits).then(|| left(&self.strangers));
            }
        }
        Ok(taken)
    }

    /// The attempt was good: what it counted is taken back, and what failed from this address before is forgiven.
    pub fn succeeded(&mut self, address: &str, taken: &Taken, limits: &Limits) {
        self.from.retain(|from| from.address != address);
        if taken.counted_among_strangers {
            self.strangers.uncount(limits.failures.saturating_mul(STRANGERS), taken.locks_strangers_ms.is_some());
        }
    }

    /// Nothing worth keeping.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty() && self.strangers.failures == 0 && self.strangers.locks == 0
    }

    /// How long this may still matter, ms.
    pub fn ttl_ms(&self, now_ms: u64, limits: &Limits) -> u64 {
        let tallies = self.from.iter().map(|from| &from.tally).chain([&self.strangers]);
        let locked = tallies.map(|tally| if tally.locks > 0 { tally.locked_until_ms } else { 0 }).max().unwrap_or(0);
        let matters = if locked == 0 { 0 } else { locked.saturating_sub(now_ms).saturating_add(limits.longest_ms) };
        matters.max(limits.window_ms)
    }

    /// Until when strangers are locked out, and how many addresses are by themselves; for lists.
    pub fn locked(&self, now_ms: u64) -> Option<(Option<u64>, usize)> {
        let addresses = self.from.iter().filter(|from| from.tally.wait(now_ms).is_some()).count();
        let strangers = self.strangers.wait(now_ms).map(|_| self.strangers.locked_until_ms);
        (strangers.is_some() || addresses > 0).then_some((strangers, addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const LIMITS: Limits = Limits { failures: 5, window_ms: 15 * MINUTE, first_ms: MINUTE, longest_ms: 60 * MINUTE };

    fn fail(attempts: &mut Attempts, address: &str, times: usize, now_ms: u64) -> usize {
        (0..times).filter(|_| attempts.take(address, false, now_ms, &LIMITS).is_ok()).count()
    }

    #[test]
    fn one_address_is_locked_out_for_longer_each_time_and_nobody_else() {
        let mut attempts = Attempts::default();
        let mut now = 1_000_000;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(fail(&mut attempts, "a", 100, now), 5);
            assert_eq!(attempts.take("a", false, now + 1, &LIMITS), Err(expected * MINUTE - 1), "known or not");
            assert_eq!(attempts.take("a", true, now + 1, &LIMITS), Err(expected * MINUTE - 1));
            assert!(attempts.clone().take("b", false, now + 1, &LIMITS).is_ok(), "{expected}");
            now += expected * MINUTE;
        }
        now += 60 * MINUTE;
        assert_eq!(fail(&mut attempts, "a", 100, now), 5);
        assert_eq!(attempts.take("a", false, now, &LIMITS), Err(MINUTE), "a quiet hour forgives");
    }

    #[test]
    fn many_addresses_are_strangers_together_and_the_owner_is_none() {
        let mut attempts = Attempts::default();
        let now = 1_000_000;
        let checked: usize = (0..500).map(|n| fail(&mut attempts, &format!("a{n}"), 20, now)).sum();
        assert_eq!(checked, 20);
        assert!(attempts.from.len() <= ADDRESSES_MAX);
        assert_eq!(attempts.take("new", false, now, &LIMITS), Err(MINUTE));
        assert!(attempts.take("home", true, now, &LIMITS).is_ok());
        // An hour of it: twenty at each of the lock-outs that grow.
        let checked: usize =
            (0..3600).map(|s| (0..500).map(|n| fail(&mut attempts, &format!("a{n}"), 1, now + s * 1000)).sum::<usize>()).sum();
        assert!((60..=120).contains(&checked), "{checked}");
    }

    #[test]
    fn failures_far_apart_lock_nobody_out() {
        let mut attempts = Attempts::default();
        for n in 0..100 {
            assert_eq!(fail(&mut attempts, "a", 1, n * 4 * MINUTE), 1, "{n}");
        }
    }

    #[test]
    fn a_success_takes_back_what_it_counted() {
        let mut attempts = Attempts::default();
        assert_eq!(fail(&mut attempts, "a", 4, 1), 4);
        let taken = attempts.take("a", false, 1, &LIMITS).unwrap();
        assert_eq!((taken.locks_address_ms, taken.locks_strangers_ms), (Some(MINUTE), None));
        attempts.succeeded("a", &taken, &LIMITS);
        assert_eq!((attempts.from.len(), attempts.strangers.failures), (0, 4));
        for address in ["b", "c", "d"] {
            assert_eq!(fail(&mut attempts, address, 5, 2), 5);
        }
        // The twentieth locks strangers out, unless it is good.
        let taken = attempts.take("e", false, 2, &LIMITS).unwrap();
        assert_eq!(taken.locks_strangers_ms, Some(MINUTE));
        attempts.succeeded("e", &taken, &LIMITS);
        assert!(attempts.take("e", false, 2, &LIMITS).is_ok());
        assert!(attempts.take("f", false, 2, &LIMITS).is_err(), "and the next one that is not does");
    }

    #[test]
    fn kept_as_long_as_it_matters() {
        let mut attempts = Attempts::default();
        assert!(attempts.is_empty());
        fail(&mut attempts, "a", 1, 0);
        assert_eq!(attempts.ttl_ms(0, &LIMITS), 15 * MINUTE);
        fail(&mut attempts, "a", 4, 0);
        assert_eq!(attempts.ttl_ms(0, &LIMITS), 61 * MINUTE);
        assert_eq!(attempts.locked(1), Some((None, 1)));
        assert_eq!(attempts.locked(MINUTE), None);
        let text = serde_json::to_string(&attempts).unwrap();
        assert_eq!(serde_json::from_str::<Attempts>(&text).unwrap(), attempts);
    }
}
