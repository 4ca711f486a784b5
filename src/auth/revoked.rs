//! Revocations this node has seen, kept until the tokens would have ended anyway.

use std::collections::{BTreeSet, HashMap};

/// How many are kept. Only tokens with a good signature get here, so nobody fills it from outside; at the bound the one that
/// ends first goes.
const KEPT_MAX: usize = 100_000;

/// Users whose cut-off is kept, a node's own memory beside the store's; at the bound the earliest goes.
const CUT_OFFS_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Revoked {
    until: HashMap<String, u64>,
    by_end: BTreeSet<(u64, String)>,
    /// User → Unix ms: tokens issued before are revoked.
    cut_offs: HashMap<String, u64>,
}

/// Whether a cut-off at `before_ms` concerns a token. One that does not say when it was issued cannot show that it is newer.
pub fn is_cut_off(issued_at_ms: Option<u64>, before_ms: u64) -> bool {
    issued_at_ms.is_none_or(|issued_at_ms| issued_at_ms < before_ms)
}

impl Revoked {
    pub(super) fn contains(&self, jti: &str) -> bool {
        self.until.contains_key(jti)
    }

    pub(super) fn cut_off_of(&self, user_id: &str) -> Option<u64> {
        self.cut_offs.get(user_id).copied()
    }

    /// Keeps a user's cut-off; an earlier one than is known changes nothing.
    pub(super) fn cut_off(&mut self, user_id: &str, before_ms: u64) {
        if let Some(known) = self.cut_offs.get_mut(user_id) {
            *known = before_ms.max(*known);
            return;
        }
        if self.cut_offs.len() >= CUT_OFFS_MAX
            && let Some(earliest) = self.cut_offs.iter().min_by_key(|(_, before)| **before).map(|(user, _)| user.clone())
        {
            self.cut_offs.remove(&earliest);
        }
        self.cut_offs.insert(user_id.to_owned(), before_ms);
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
    fn a_cut_off_only_moves_on_and_the_earliest_goes() {
        let mut revoked = Revoked::default();
        for n in 0..CUT_OFFS_MAX as u64 + 5 {
            revoked.cut_off(&n.to_string(), 1000 + n);
            revoked.cut_off(&n.to_string(), 10);
        }
        assert_eq!(revoked.cut_offs.len(), CUT_OFFS_MAX);
        assert_eq!((revoked.cut_off_of("4"), revoked.cut_off_of("5")), (None, Some(1005)));
        for (issued, out) in [(Some(999), true), (Some(1000), false), (Some(1001), false), (None, true)] {
            assert_eq!(is_cut_off(issued, 1000), out, "{issued:?}");
        }
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
