//! Revocations this node has seen, kept until the tokens would have ended anyway.

use std::collections::{BTreeSet, HashMap};

/// How many are kept. Only tokens with a good signature get here, so nobody fills it from outside; at the bound the one that
/// ends first goes.
const KEPT_MAX: usize = 100_000;

#[derive(Default)]
pub(super) struct Revoked {
    until: HashMap<String, u64>,
    by_end: BTreeSet<(u64, String)>,
}

impl Revoked {
    pub(super) fn contains(&self, jti: &str) -> bool {
        self.until.contains_key(jti)
    }

    /// Keeps `jti` until `expires_at_ms`; forgets those whose time is over.
    pub(super) fn remember(&mut self, jti: &str, expires_at_ms: u64, now_ms: u64) {
        // The leeway at connect lets a token in after its `exp`, so it is forgotten that much later.
        let forget_at = expires_at_ms.saturating_add(super::LEEWAY_MAX.as_millis() as u64);
        while self.by_end.first().is_some_and(|(end, _)| *end <= now_ms) || self.until.len() >= KEPT_MAX {
            let Some((_, jti)) = self.by_end.pop_first() else { break };
            self.until.remove(&jti);
        }
        if let Some(before) = self.until.insert(jti.to_owned(), forget_at) {
            self.by_end.remove(&(before, jti.to_owned()));
        }
        self.by_end.insert((forget_at, jti.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_until_the_token_ends_and_no_longer() {
        let mut revoked = Revoked::default();
        revoked.remember("a", 1_000_000, 0);
        revoked.remember("b", 2_000_000, 0);
        assert!(revoked.contains("a") && revoked.contains("b"));
        revoked.remember("c", 3_000_000, 1_060_000);
        assert!(!revoked.contains("a"), "its time is over");
        assert!(revoked.contains("b") && revoked.contains("c"));
    }

    #[test]
    fn the_bound_holds_and_the_first_to_end_goes() {
        let mut revoked = Revoked::default();
        for n in 0..KEPT_MAX + 10 {
            revoked.remember(&n.to_string(), 1_000_000 + n as u64, 0);
        }
        assert_eq!(revoked.until.len(), KEPT_MAX);
        assert_eq!(revoked.by_end.len(), KEPT_MAX);
        assert!(!revoked.contains("9") && revoked.contains("10"));
    }
}
