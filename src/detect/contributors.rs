//! Who and what stands behind a metric: the most frequent users and addresses, and entries to look at (contract §5).

use std::collections::{BTreeMap, VecDeque};

use ahash::AHashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{SourceIx, cut::cut, window::Ring};
use crate::event::EntryId;

/// How many of each are named.
const TOP: usize = 5;
/// Entries named from either end of the window.
const EVIDENCE_EACH: usize = 10;
/// Longer names are cut: a key must not cost what an event may.
const KEY_BYTES_MAX: usize = 256;

type Evidence = (SourceIx, EntryId);

/// How often each key was seen; in no order, so whoever gives them out sorts them.
type Keys = AHashMap<Box<str>, u64>;

/// What one bucket keeps. `last` also holds what is in `first` while there are few.
#[derive(Clone, Debug, Default)]
struct Share {
    users: Keys,
    addresses: Keys,
    first: Vec<Evidence>,
    last: VecDeque<Evidence>,
}

/// The same in a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedShare {
    users: BTreeMap<Box<str>, u64>,
    addresses: BTreeMap<Box<str>, u64>,
    first: Vec<Evidence>,
    last: VecDeque<Evidence>,
}

/// What a snapshot keeps: (bucket end, share).
pub(super) type SavedContributors = Vec<(u64, SavedShare)>;

/// Bounds the keys of one kind over all buckets. Half of the room is shared out evenly, so that a flood of names in one bucket
/// leaves later ones some; the other half goes to whoever comes first.
#[derive(Clone, Copy, Debug)]
struct Room {
    per_bucket: usize,
    pool: usize,
    pool_used: usize,
}

impl Room {
    fn new(entities_max: usize, buckets: usize) -> Room {
        Room { per_bucket: (entities_max / 2 / buckets.max(1)).max(1), pool: entities_max / 2, pool_used: 0 }
    }

    /// Counts a key if it is known or there is room; else says no.
    fn count(&mut self, keys: &mut Keys, key: &str, n: u64) -> bool {
        let key = cut(key, KEY_BYTES_MAX);
        if let Some(count) = keys.get_mut(key) {
            *count = count.saturating_add(n);
            return true;
        }
        if keys.len() >= self.per_bucket {
            if self.pool_used >= self.pool {
                return false;
            }
            self.pool_used += 1;
        }
        keys.insert(key.into(), n);
        true
    }

    fn give_back(&mut self, keys: usize) {
        self.pool_used = self.pool_used.saturating_sub(keys.saturating_sub(self.per_bucket));
    }
}

/// The entries that made a metric what it is, over the metric's window.
#[derive(Clone, Debug)]
pub(super) struct Contributors {
    ring: Ring<Share>,
    users: Room,
    addresses: Room,
}

impl Contributors {
    pub fn new(window_ms: u64, entities_max: usize) -> Contributors {
        let ring = Ring::new(window_ms);
        let room = Room::new(entities_max, ring.buckets_max());
        Contributors { ring, users: room, addresses: room }
    }

    /// Takes one entry in; answers how many keys there was no room for.
    pub fn add(&mut self, time_ms: u64, slot_end: u64, evidence: Evidence, user: Option<&str>, address: Option<&str>) -> u64 {
        let Some(share) = self.ring.at(time_ms, slot_end) else { return 0 };
        if share.first.len() < EVIDENCE_EACH {
            share.first.push(evidence);
        }
        if share.last.len() >= EVIDENCE_EACH {
            share.last.pop_front();
        }
        share.last.push_back(evidence);
        let mut refused = 0;
        if user.is_some_and(|u| !self.users.count(&mut share.users, u, 1)) {
            refused += 1;
        }
        if address.is_some_and(|a| !self.addresses.count(&mut share.addresses, a, 1)) {
            refused += 1;
        }
        refused
    }

    pub fn expire(&mut self, t: u64) {
        let (users, addresses) = (&mut self.users, &mut self.addresses);
        self.ring.expire(t, |share| {
            users.give_back(share.users.len());
            addresses.give_back(share.addresses.len());
        });
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// `details.top`: `{"user_id": [{"value", "count"}…], "ip_address": […]}`, most frequent first, ties by name.
    pub fn top(&self) -> Value {
        let most = |keys: fn(&Share) -> &Keys| -> Value {
            let mut sums: AHashMap<&str, u64> = AHashMap::new();
            for (_, share) in self.ring.iter() {
                for (key, n) in keys(share) {
                    let sum = sums.entry(key).or_default();
                    *sum = sum.saturating_add(*n);
                }
            }
            let mut sums: Vec<(&str, u64)> = sums.into_iter().collect();
            sums.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            sums.truncate(TOP);
            sums.into_iter().map(|(value, count)| json!({ "value": value, "count": count })).collect()
        };
        let mut top = Map::new();
        top.insert("user_id".into(), most(|s| &s.users));
        top.insert("ip_address".into(), most(|s| &s.addresses));
        Value::Object(top)
    }

    /// At most 20 texts `source/entry-id`: the first ten of the window and the last ten.
    pub fn evidence(&self, sources: &[String]) -> Vec<String> {
        let first: Vec<Evidence> =
            self.ring.iter().flat_map(|(_, share)| share.first.iter().copied()).take(EVIDENCE_EACH).collect();
        let mut last: Vec<Evidence> = Vec::new();
        // A bucket's `last` goes back ten; what is before them in it is not needed, for ten are enough.
        for (_, share) in self.ring.iter().rev() {
            last.extend(share.last.iter().rev().copied());
            if last.len() >= EVIDENCE_EACH {
                break;
            }
        }
        last.truncate(EVIDENCE_EACH);
        let mut all = first;
        for evidence in last.into_iter().rev() {
            if !all.contains(&evidence) {
                all.push(evidence);
            }
        }
        all.into_iter().map(|e| evidence_text(sources, e.0, e.1)).collect()
    }

    pub fn save(&self) -> SavedContributors {
        let sorted = |keys: &Keys| keys.iter().map(|(key, n)| (key.clone(), *n)).collect();
        let saved = |share: &Share| SavedShare {
            users: sorted(&share.users),
            addresses: sorted(&share.addresses),
            first: share.first.clone(),
            last: share.last.clone(),
        };
        self.ring.iter().map(|(end, share)| (end, saved(share))).collect()
    }

    /// Takes in what was saved, also for a window of another length.
    pub fn load(&mut self, saved: SavedContributors) {
        for (end, from) in saved {
            let Some(share) = self.ring.at(end, 0) else { continue };
            for (key, n) in &from.users {
                self.users.count(&mut share.users, key, *n);
            }
            for (key, n) in &from.addresses {
                self.addresses.count(&mut share.addresses, key, *n);
            }
            share.first.extend(from.first);
            share.first.truncate(EVIDENCE_EACH);
            share.last.extend(from.last);
            while share.last.len() > EVIDENCE_EACH {
                share.last.pop_front();
            }
        }
    }

    /// Gives sources their new numbers; entries of sources that are gone are forgotten.
    pub fn renumber(&mut self, new: &[Option<SourceIx>]) {
        let number = |e: &mut Evidence| match new.get(usize::from(e.0)) {
            Some(Some(ix)) => {
                e.0 = *ix;
                true
            }
            _ => false,
        };
        for share in self.ring.iter_mut() {
            share.first.retain_mut(number);
            share.last.retain_mut(number);
        }
    }
}

/// `source/entry-id`.
pub(super) fn evidence_text(sources: &[String], source: SourceIx, entry: EntryId) -> String {
    let name = sources.get(usize::from(source)).map_or("unknown", String::as_str);
    format!("{name}/{entry}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> EntryId {
        EntryId::new(n, 0)
    }

    #[test]
    fn names_the_first_and_the_last_ten() {
        let sources = vec!["s".to_owned()];
        for n in [1u64, 9, 10, 11, 15, 20] {
            let mut c = Contributors::new(3_600_000, 1000);
            (1..=n).for_each(|i| assert_eq!(c.add(i * 7_000, 0, (0, at(i)), None, None), 0));
            let all: Vec<String> = (1..=n).map(|i| format!("s/{i}-0")).collect();
            assert_eq!(c.evidence(&sources), all, "{n} entries are all named");
        }
        for step in [1, 3_000, 20_000] {
            let mut c = Contributors::new(3_600_000, 1000);
            (1..=57).for_each(|i| assert_eq!(c.add(i * step, 0, (0, at(i)), None, None), 0));
            let ends: Vec<String> = (1..=10).chain(48..=57).map(|i| format!("s/{i}-0")).collect();
            assert_eq!(c.evidence(&sources), ends, "{step} ms apart");
        }
    }

    #[test]
    fn ties_are_by_name_and_five_are_named() {
        let mut c = Contributors::new(3_600_000, 100_000);
        for (i, user) in ["f", "e", "d", "c", "b", "a", "f"].into_iter().enumerate() {
            c.add(1000 * i as u64, 0, (0, at(i as u64)), Some(user), Some("::1"));
        }
        let names: Vec<_> = c.top()["user_id"].as_array().unwrap().iter().map(|t| t["value"].clone()).collect();
        assert_eq!(names, ["f", "a", "b", "c", "d"]);
        assert_eq!(c.top()["ip_address"], json!([{ "value": "::1", "count": 7 }]));
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_leaves_room_for_later_ones() {
        let mut c = Contributors::new(3_600_000, 7_200);
        let mut refused = 0;
        for i in 0..20_000u64 {
            refused += c.add(5_000, 0, (0, at(i)), Some(&format!("u{i}")), None);
        }
        assert_eq!(refused, 20_000 - 3_600 - 10);
        for i in 0..50 {
            assert_eq!(c.add(15_000, 0, (0, at(30_000 + i)), Some("attacker"), None), 0);
        }
        assert_eq!(c.top()["user_id"][0], json!({ "value": "attacker", "count": 50 }));
        c.expire(3_610_000);
        assert_eq!(c.users.pool_used, 0);
    }
}
