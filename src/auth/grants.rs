//! What the store grants to users, as it was up to two seconds ago at most, and no longer than until it tells of a change.

use std::collections::HashMap;

/// How old an answer may be, ms.
const AGE_MAX_MS: u64 = 2_000;
/// Users whose answer is kept; beyond, the store is asked for whoever is new.
const KEPT_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Grants {
    /// User → when the store was asked (Unix ms), and what it granted.
    known: HashMap<String, (u64, Vec<String>), ahash::RandomState>,
    /// Counts up with each change that the store tells of.
    changes: u64,
}

impl Grants {
    pub(super) fn get(&self, user_id: &str, now_ms: u64) -> Option<Vec<String>> {
        let (asked_ms, granted) = self.known.get(user_id)?;
        // Also none from the future: a clock may be set back.
        (now_ms.abs_diff(*asked_ms) < AGE_MAX_MS).then(|| granted.clone())
    }

    /// To be given to [`Grants::put`] with the answer to a question that is asked now.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Keeps an answer, unless something has changed since it was asked for.
    pub(super) fn put(&mut self, user_id: &str, granted: &[String], asked_ms: u64, changes: u64) {
        if changes != self.changes {
            return;
        }
        if self.known.len() >= KEPT_MAX && !self.known.contains_key(user_id) {
            self.known.retain(|_, (asked, _)| asked_ms.abs_diff(*asked) < AGE_MAX_MS);
            if self.known.len() >= KEPT_MAX {
                return;
            }
        }
        self.known.insert(user_id.to_owned(), (asked_ms, granted.to_vec()));
    }

    /// This user's permissions may have changed, or anybody's.
    pub(super) fn forget(&mut self, user_id: Option<&str>) {
        self.changes += 1;
        match user_id {
            Some(user_id) => drop(self.known.remove(user_id)),
            None => self.known.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_for_two_seconds_and_until_a_change() {
        let mut grants = Grants::default();
        let names = ["audit.view".to_owned()];
        grants.put("7", &names, 10_000, grants.changes());
        assert_eq!(grants.get("7", 11_999).as_deref(), Some(&names[..]));
        assert_eq!((grants.get("7", 12_000), grants.get("7", 7_000), grants.get("8", 10_000)), (None, None, None));
        let asked = grants.changes();
        grants.forget(Some("7"));
        assert_eq!(grants.get("7", 10_000), None);
        grants.put("7", &names, 10_000, asked);
        assert_eq!(grants.get("7", 10_000), None, "asked before the change");
    }

    #[test]
    fn a_flood_of_users_is_bounded_and_what_is_old_makes_room() {
        let mut grants = Grants::default();
        for n in 0..KEPT_MAX + 5 {
            grants.put(&n.to_string(), &[], 1_000, 0);
        }
        assert!(grants.known.len() == KEPT_MAX && grants.get("3", 1_000).is_some());
        grants.put("late", &[], 3_000, 0);
        assert_eq!(grants.known.len(), 1);
    }
}
