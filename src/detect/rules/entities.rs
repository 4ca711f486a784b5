//! The entities of one rule, and who leaves when there is no room.
//!
//! The table is a list that a hand goes round: an event lifts its entity, the hand lowers those it passes and takes out the first
//! that has come down to nothing. So the least active go first; what is firing, or halfway there, is passed by. Whoever comes a
//! second time, or comes back after he was taken out, is lifted as high as it goes: a flood of names that come once leaves him in.
//! The order of the list and the hand are part of the state, so every node takes out the same.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use serde::{Deserialize, Serialize};

use super::{
    ghosts::{Ghosts, SavedGhosts},
    memory::Memory,
    running::Life,
};
use crate::detect::bits;

/// How often the hand must pass an entity before it goes, at most.
const ACTIVITY_MAX: u8 = 15;
/// Entities that the hand looks at for one that leaves.
const LOOKED_AT_MAX: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entity {
    #[serde(with = "bits::shared")]
    pub key: Arc<str>,
    pub first_ms: u64,
    pub last_ms: u64,
    /// Events ever.
    pub events: u64,
    pub memory: Memory,
    pub life: Life,
    activity: u8,
}

impl Entity {
    pub fn new(key: Arc<str>, time_ms: u64, memory: Memory) -> Entity {
        Entity { key, first_ms: time_ms, last_ms: time_ms, events: 0, memory, life: Life::default(), activity: 0 }
    }

    pub fn seen(&mut self, time_ms: u64) {
        if self.events == 0 {
            self.first_ms = time_ms;
        }
        self.last_ms = self.last_ms.max(time_ms);
        self.events += 1;
        self.activity = if self.events > 1 { ACTIVITY_MAX } else { self.activity.max(1) };
    }
}

/// What a snapshot keeps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedEntities {
    hand: usize,
    list: Vec<Entity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ghosts: Option<SavedGhosts>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Entities {
    list: Vec<Entity>,
    places: AHashMap<Arc<str>, usize>,
    hand: usize,
    /// Only while there is no room.
    ghosts: Option<Box<Ghosts>>,
    /// Slot end → entities that may have to go then. Each stands here exactly once; if it has lived on, it moves then.
    due: BTreeMap<u64, Vec<Arc<str>>>,
}

impl Entities {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn find(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }

    pub fn at(&self, place: usize) -> Option<&Entity> {
        self.list.get(place)
    }

    pub fn at_mut(&mut self, place: usize) -> Option<&mut Entity> {
        self.list.get_mut(place)
    }

    pub fn get(&self, key: &str) -> Option<&Entity> {
        self.at(self.find(key)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entity> {
        self.list.iter()
    }

    /// `due_ms`: the slot end at which it may have to go.
    pub fn insert(&mut self, mut entity: Entity, due_ms: u64) -> usize {
        if self.ghosts.as_ref().is_some_and(|ghosts| ghosts.has(&entity.key)) {
            entity.activity = ACTIVITY_MAX;
        }
        let place = self.list.len();
        self.due.entry(due_ms).or_default().push(entity.key.clone());
        self.places.insert(entity.key.clone(), place);
        self.list.push(entity);
        place
    }

    /// Comes back at a later slot's end.
    pub fn again(&mut self, key: Arc<str>, due_ms: u64) {
        self.due.entry(due_ms).or_default().push(key);
    }

    /// Those whose turn has come, sorted; each must be taken out, or come back by [`Entities::again`].
    pub fn due(&mut self, slot_end: u64) -> Vec<Arc<str>> {
        let mut due = Vec::new();
        while let Some(first) = self.due.first_entry() {
            if *first.key() > slot_end {
                break;
            }
            due.extend(first.remove());
        }
        // Those that were taken out for others stand here still.
        due.retain(|key| self.places.contains_key(key));
        due.sort_unstable();
        due.dedup();
        due
    }

    pub fn remove(&mut self, key: &str) -> Option<Entity> {
        let place = self.places.remove(key)?;
        let entity = self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            self.places.insert(moved.key.clone(), place);
        }
        if self.hand >= self.list.len() {
            self.hand = 0;
        }
        Some(entity)
    }

    /// Takes out the least active, who is known for `kept_ms`; `false`: nobody can go.
    pub fn make_room(&mut self, time_ms: u64, kept_ms: u64, is_held: impl Fn(&Entity) -> bool) -> bool {
        let mut least: Option<(u8, Arc<str>)> = None;
        for _ in 0..LOOKED_AT_MAX.min(self.list.len()) {
            let Some(entity) = self.list.get_mut(self.hand) else { break };
            self.hand = if self.hand + 1 >= self.places.len() { 0 } else { self.hand + 1 };
            if is_held(entity) {
                continue;
            }
            entity.activity = entity.activity.saturating_sub(1);
            if least.as_ref().is_none_or(|(activity, _)| entity.activity < *activity) {
                least = Some((entity.activity, entity.key.clone()));
            }
            if entity.activity == 0 {
                break;
            }
        }
        let Some((_, key)) = least else { return false };
        self.ghosts.get_or_insert_with(|| Box::new(Ghosts::new(time_ms))).put(&key, time_ms, kept_ms);
        self.remove(&key).is_some()
    }

    /// Those who were taken out are of no more interest, if it is long ago.
    pub fn forget_ghosts(&mut self, time_ms: u64, kept_ms: u64) {
        self.ghosts.take_if(|ghosts| ghosts.are_gone(time_ms, kept_ms));
    }

    pub fn save(&self) -> SavedEntities {
        SavedEntities { hand: self.hand, list: self.list.clone(), ghosts: self.ghosts.as_ref().map(|ghosts| ghosts.save()) }
    }

    /// `due` says when each may have to go.
    pub fn load(saved: SavedEntities, due: impl Fn(&Entity) -> u64) -> Entities {
        let mut entities = Entities::default();
        for entity in saved.list {
            if !entities.places.contains_key(&entity.key) {
                let due_ms = due(&entity);
                entities.insert(entity, due_ms);
            }
        }
        // Behind the entities, which keep the activity they had.
        entities.ghosts = saved.ghosts.as_ref().and_then(Ghosts::load).map(Box::new);
        entities.hand = if saved.hand < entities.list.len() { saved.hand } else { 0 };
        entities
    }
}
