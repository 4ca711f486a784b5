//! One rule: its entities, and the life of their alerts.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    By, Rule, RuleKind,
    entities::{Entities, Entity, SavedEntities},
    looked::Looked,
    memory::{Crossing, Memory, Sample, Taken},
    text,
};
use crate::{
    detect::{Alert, Kind, SourceIx, Status, contributors::evidence_text, cut::cut, ident::identity, threshold::Open},
    event::{EntryId, rfc3339},
    filter::Field,
};

/// Alerts of one rule that a slot tells one by one; who crosses it beyond them fires with his next event.
const TOLD_PER_SLOT: usize = 100;
/// Alerts of one rule that are open at a time.
const OPEN_MAX: usize = 1000;
const EVIDENCE_EACH: usize = 10;
/// Bounds of how long it is known who was taken out: what a generation has room for.
const GHOSTS_KEPT_MS_MIN: u64 = 60_000;
const GHOSTS_KEPT_MS_MAX: u64 = 3_600_000;
/// Between the parts of a key; a part has none of it.
const BETWEEN: char = '\u{1f}';
/// Longer parts are cut: a key must not cost what an event may.
const PART_BYTES_MAX: usize = 256;

/// Where the alert of an entity stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Life {
    /// Does not fire before this moment (`suppress`).
    Idle {
        quiet_until_ms: u64,
    },
    /// Crossed, but not for long enough yet.
    Pending {
        since_ms: u64,
    },
    Firing(Box<Firing>),
    /// Resolved by hand while it was still crossed: nothing fires before it has cleared.
    Held,
}

impl Default for Life {
    fn default() -> Life {
        Life::Idle { quiet_until_ms: 0 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Firing {
    pub open: Open,
    fired_ms: u64,
    /// Of what is crossed for an instant: the last time.
    clear_since_ms: Option<u64>,
    /// Events that crossed it, the first included.
    count: u64,
}

/// The entry that is looked at.
pub(super) struct Now<'a> {
    pub time_ms: u64,
    /// End of the open slot.
    pub slot_end: u64,
    pub interval_ms: u64,
    pub source: SourceIx,
    pub sources: &'a [String],
    pub stream: &'a str,
    pub entry: EntryId,
    pub entities_max: usize,
}

/// What there was no room for, since it was last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::detect) struct Lost {
    /// Entities that were taken out for others while they still mattered.
    pub evicted: u64,
    /// Entities that found no room.
    pub refused: u64,
    /// Crossings that were too many in their slot.
    pub untold: u64,
}

impl Lost {
    pub fn is_nothing(&self) -> bool {
        *self == Lost::default()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Running {
    pub rule: Rule,
    entities: Entities,
    /// Those that are pending, firing or held.
    live: BTreeSet<Arc<str>>,
    firing: usize,
    told: usize,
    pub lost: Lost,
}

/// What a snapshot keeps of a rule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedRule {
    /// What decides whether the entities still mean what they meant.
    shape: String,
    entities: SavedEntities,
    told: usize,
    lost: Lost,
}

/// What makes a rule fire.
enum Cause<'n, 'e> {
    Entry(&'n Now<'n>, &'n Looked<'e>),
    Slot(u64),
}

impl Running {
    pub fn new(rule: Rule) -> Running {
        Running { rule, entities: Entities::default(), live: BTreeSet::new(), firing: 0, told: 0, lost: Lost::default() }
    }

    /// Two rules of one shape look at the same and keep the same.
    fn shape(&self) -> String {
        let Rule { kind, on, by, window_ms, .. } = &self.rule;
        identity(&[&format!("{kind:?}"), &format!("{on:?}"), &format!("{by:?}"), &window_ms.to_string()])
    }

    /// Whether the end of a slot can change anything but what is kept for nothing.
    pub fn is_quiet(&self) -> bool {
        self.live.is_empty()
            && self.told == 0
            && self.lost.is_nothing()
            && (self.entities.len() == 0 || !matches!(self.rule.kind, RuleKind::Absence { .. }))
    }

    /// Takes in an event whose name the rule takes. `key` is lent, to write into.
    pub fn observe(&mut self, now: &Now<'_>, event: &Looked<'_>, key: &mut String, out: &mut Vec<Alert>) {
        if self.entities.len() == 0
            && matches!(&self.rule.kind, RuleKind::Sequence { after, .. } if !after.takes_name(&event.event.kind))
        {
            return;
        }
        let is_last = self.rule.on.takes(event);
        let is_first = matches!(&self.rule.kind, RuleKind::Sequence { after, .. } if after.takes(event));
        if !(is_last || is_first) || !write_key(&self.rule.by, event, key) {
            return;
        }
        let place = match self.entities.find(key) {
            Some(place) => place,
            // Nothing came before, so nothing can come after it.
            None if !is_first && matches!(self.rule.kind, RuleKind::Sequence { .. }) => return,
            None => match self.enter(now, key) {
                Some(place) => place,
                None => {
                    self.lost.refused += 1;
                    return;
                }
            },
        };
        let Some(entity) = self.entities.at_mut(place) else { return };
        // One entity's time does not run backwards, whatever streams its events come from.
        let sample = Sample { time_ms: now.time_ms.max(entity.last_ms), source: now.source, entry: now.entry };
        if matches!(self.rule.kind, RuleKind::Change { .. } | RuleKind::New { .. })
            && entity.events > 0
            && sample.time_ms - entity.last_ms >= self.rule.window_ms
        {
            // Whoever was away for so long is new, whether he was forgotten at a slot's end already or not.
            entity.memory = Memory::of(&self.rule.kind);
            entity.first_ms = sample.time_ms;
        }
        let known_for_ms = sample.time_ms - entity.first_ms;
        let taken = entity.memory.take(&self.rule, event, sample, known_for_ms, is_last);
        let crossing = match taken {
            Taken::No => None,
            Taken::Counted => {
                entity.seen(sample.time_ms);
                None
            }
            Taken::Crossed(crossing) => {
                entity.seen(sample.time_ms);
                Some(crossing)
            }
        };
        let Some(crossing) = crossing else { return };
        match &mut entity.life {
            Life::Firing(firing) => {
                firing.count += 1;
                firing.clear_since_ms = self.rule.kind.is_instant().then_some(sample.time_ms);
            }
            Life::Idle { quiet_until_ms } if sample.time_ms >= *quiet_until_ms => {
                if self.rule.for_ms > 0 {
                    entity.life = Life::Pending { since_ms: sample.time_ms };
                    let key = entity.key.clone();
                    self.live.insert(key);
                } else {
                    self.fire(place, sample.time_ms, crossing, Some(sample), &Cause::Entry(now, event), out);
                }
            }
            Life::Idle { .. } | Life::Pending { .. } | Life::Held => {}
        }
    }

    /// A place for a new entity; `None`: there is no room, and nobody can go.
    fn enter(&mut self, now: &Now<'_>, key: &str) -> Option<usize> {
        if self.entities.len() >= now.entities_max {
            let (rule, time) = (&self.rule, now.time_ms);
            let is_held = |e: &Entity| !matches!(e.life, Life::Idle { .. }) || e.memory.is_half_way(rule, time);
            if !self.entities.make_room(time, ghosts_kept_ms(rule), is_held) {
                return None;
            }
            self.lost.evicted += 1;
        }
        let entity = Entity::new(key.into(), now.time_ms, Memory::of(&self.rule.kind));
        let due_ms = due_ms(&self.rule, &entity, now.slot_end, now.interval_ms);
        Some(self.entities.insert(entity, due_ms))
    }

    fn fire(
        &mut self,
        place: usize,
        time_ms: u64,
        crossing: Crossing,
        own: Option<Sample>,
        cause: &Cause<'_, '_>,
        out: &mut Vec<Alert>,
    ) {
        if self.told >= TOLD_PER_SLOT || self.firing >= OPEN_MAX {
            self.lost.untold += 1;
            return;
        }
        let Some(entity) = self.entities.at_mut(place) else { return };
        self.told += 1;
        let alert = alert(&self.rule, entity, crossing, own, cause);
        let firing = Firing {
            open: Open::new(alert.clone()),
            fired_ms: time_ms,
            clear_since_ms: self.rule.kind.is_instant().then_some(time_ms),
            count: 1,
        };
        entity.life = Life::Firing(Box::new(firing));
        let key = entity.key.clone();
        self.live.insert(key);
        self.firing += 1;
        out.push(alert);
    }

    /// The end of a slot: what has been crossed or clear for long enough, what has been silent, what is forgotten.
    pub fn close(&mut self, slot_end: u64, interval_ms: u64, out: &mut Vec<Alert>) {
        self.told = 0;
        self.entities.forget_ghosts(slot_end, ghosts_kept_ms(&self.rule));
        for key in self.live.clone() {
            let Some(place) = self.entities.find(&key) else {
                self.live.remove(&key);
                continue;
            };
            self.look(place, slot_end, out);
        }
        for key in self.entities.due(slot_end) {
            let Some(entity) = self.entities.get(&key) else { continue };
            let due = due_ms(&self.rule, entity, slot_end, interval_ms);
            if due > slot_end {
                self.entities.again(key, due);
                continue;
            }
            if let RuleKind::Absence { min_count } = self.rule.kind
                && entity.events >= min_count
                && let Some(place) = self.entities.find(&key)
            {
                let silent_ms = slot_end.saturating_sub(entity.last_ms);
                let crossing = Crossing { value: Some(silent_ms as f64 / 1000.0), ..Crossing::default() };
                let cause = Cause::Slot(slot_end);
                self.fire(place, slot_end, crossing, None, &cause, out);
                // Told or not, it is looked at again: what could not be told now can be later.
                self.entities.again(key, slot_end.saturating_add(interval_ms));
                continue;
            }
            self.entities.remove(&key);
        }
    }

    fn look(&mut self, place: usize, slot_end: u64, out: &mut Vec<Alert>) {
        let rule = &self.rule;
        let Some(entity) = self.entities.at_mut(place) else { return };
        let (instant, value) = (rule.kind.is_instant(), entity.memory.value(rule, slot_end));
        let crossed = match rule.kind {
            RuleKind::Absence { .. } => entity.last_ms.saturating_add(rule.window_ms) <= slot_end,
            _ => entity.memory.is_crossed(rule, slot_end),
        };
        let clear = match (rule.clear_at, value) {
            (Some(clear_at), Some(value)) if !instant => value <= clear_at,
            _ => !crossed,
        };
        match &mut entity.life {
            Life::Pending { since_ms } if crossed => {
                if slot_end.saturating_sub(*since_ms) >= rule.for_ms {
                    let crossing = entity.memory.crossing(rule, slot_end);
                    return self.fire(place, slot_end, crossing, None, &Cause::Slot(slot_end), out);
                }
            }
            Life::Pending { .. } => entity.life = Life::default(),
            Life::Firing(firing) if clear => {
                let since = *firing.clear_since_ms.get_or_insert(slot_end);
                if slot_end.saturating_sub(since) >= rule.keep_firing_for_ms {
                    let quiet_until_ms = firing.fired_ms.saturating_add(rule.suppress_ms);
                    out.extend(end(rule, entity, slot_end, value, Life::Idle { quiet_until_ms }));
                    self.firing -= 1;
                }
            }
            Life::Firing(firing) => firing.clear_since_ms = None,
            Life::Held if clear => entity.life = Life::default(),
            Life::Held | Life::Idle { .. } => {}
        }
        if let Some(entity) = self.entities.at(place)
            && matches!(entity.life, Life::Idle { .. })
        {
            let key = entity.key.clone();
            self.live.remove(&key);
        }
    }

    /// Ends an alert for somebody who says so.
    pub fn resolve_by_hand(&mut self, alert_id: &str, time_ms: u64) -> Option<Alert> {
        let is = |entity: &Entity| matches!(&entity.life, Life::Firing(firing) if firing.open.id() == alert_id);
        let key = self.live.iter().find(|key| self.entities.get(key).is_some_and(is))?.clone();
        let place = self.entities.find(&key)?;
        let entity = self.entities.at_mut(place)?;
        let value = entity.memory.value(&self.rule, time_ms);
        let alert = end(&self.rule, entity, time_ms, value, Life::Held);
        self.firing -= 1;
        alert
    }

    /// Open alerts, by key.
    pub fn open(&self) -> impl Iterator<Item = &Open> {
        self.live.iter().filter_map(|key| match &self.entities.get(key)?.life {
            Life::Firing(firing) => Some(&firing.open),
            _ => None,
        })
    }

    /// Takes the store's open alerts of this rule for its open ones. What fires here and not there becomes `not_stored`; what
    /// fires there and not here goes on firing.
    pub fn adopt(&mut self, mut stored: Vec<Alert>, not_stored: &Life, slot_end: u64, interval_ms: u64) {
        for key in self.live.clone() {
            let Some(place) = self.entities.find(&key) else { continue };
            let Some(entity) = self.entities.at_mut(place) else { continue };
            let Life::Firing(firing) = &entity.life else { continue };
            match stored.iter().position(|alert| alert.alert_id == firing.open.id()) {
                Some(at) => drop(stored.swap_remove(at)),
                None => {
                    entity.life = not_stored.clone();
                    self.firing -= 1;
                    if matches!(not_stored, Life::Idle { .. }) {
                        self.live.remove(&key);
                    }
                }
            }
        }
        for alert in stored {
            let parts: Vec<&str> = self
                .rule
                .by
                .iter()
                .map(|by| alert.details.get("entity").and_then(|e| e.get(by.to_string())).and_then(Value::as_str).unwrap_or(""))
                .collect();
            let key: Arc<str> = parts.join(&BETWEEN.to_string()).into();
            let place = match self.entities.find(&key) {
                Some(place) => place,
                None => {
                    let entity = Entity::new(key.clone(), alert.received_at_ms, Memory::of(&self.rule.kind));
                    let due = due_ms(&self.rule, &entity, slot_end, interval_ms);
                    self.entities.insert(entity, due)
                }
            };
            let instant = self.rule.kind.is_instant();
            let Some(entity) = self.entities.at_mut(place) else { continue };
            if !matches!(entity.life, Life::Firing(_)) {
                self.firing += 1;
            }
            let fired_ms = alert.received_at_ms;
            let clear_since_ms = instant.then_some(entity.last_ms);
            entity.life = Life::Firing(Box::new(Firing { open: Open::new(alert), fired_ms, clear_since_ms, count: 1 }));
            self.live.insert(key);
        }
    }

    pub fn save(&self) -> SavedRule {
        SavedRule { shape: self.shape(), entities: self.entities.save(), told: self.told, lost: self.lost }
    }

    /// Goes on where it was; gives back the open alerts that mean nothing here any more.
    pub fn load(&mut self, saved: SavedRule, renumbered: &[Option<SourceIx>], slot_end: u64, interval_ms: u64) -> Vec<Open> {
        let rule = &self.rule;
        let due = |entity: &Entity| due_ms(rule, entity, slot_end, interval_ms);
        if saved.shape != self.shape() {
            return saved.open();
        }
        self.entities = Entities::load(saved.entities, due);
        (self.told, self.lost) = (saved.told, saved.lost);
        let places = 0..self.entities.len();
        for place in places {
            let Some(entity) = self.entities.at_mut(place) else { continue };
            entity.memory.renumber(renumbered);
            if !matches!(entity.life, Life::Idle { .. }) {
                self.firing += usize::from(matches!(entity.life, Life::Firing(_)));
                let key = entity.key.clone();
                self.live.insert(key);
            }
        }
        Vec::new()
    }
}

impl SavedRule {
    /// The open alerts.
    pub fn open(self) -> Vec<Open> {
        Entities::load(self.entities, |_| 0)
            .iter()
            .filter_map(|entity| match &entity.life {
                Life::Firing(firing) => Some(firing.open.clone()),
                _ => None,
            })
            .collect()
    }
}

/// How long it is known who was taken out.
fn ghosts_kept_ms(rule: &Rule) -> u64 {
    Memory::kept_ms(rule).clamp(GHOSTS_KEPT_MS_MIN, GHOSTS_KEPT_MS_MAX)
}

/// The slot end at which an entity may have to go.
fn due_ms(rule: &Rule, entity: &Entity, slot_end: u64, interval_ms: u64) -> u64 {
    let over = entity.last_ms.saturating_add(Memory::kept_ms(rule));
    let due = match &entity.life {
        Life::Idle { quiet_until_ms } => over.max(*quiet_until_ms),
        // Not while its alert is open.
        _ => over.max(slot_end.saturating_add(1)),
    };
    due.div_ceil(interval_ms).saturating_mul(interval_ms)
}

/// Writes what tells an event's entity apart; `false`: a field is not there.
fn write_key(by: &[By], event: &Looked<'_>, key: &mut String) -> bool {
    use std::fmt::Write as _;
    key.clear();
    for (at, by) in by.iter().enumerate() {
        let Some(text) = event.text(&by.field) else { return false };
        if at > 0 {
            key.push(BETWEEN);
        }
        match by.prefix {
            Some(_) => match by.network(&text) {
                // Writing into a String cannot fail.
                Some(network) => {
                    let _ = write!(key, "{network}");
                }
                None => return false,
            },
            None => {
                let text = cut(&text, PART_BYTES_MAX);
                if text.contains(BETWEEN) {
                    key.extend(text.chars().map(|c| if c == BETWEEN { ' ' } else { c }));
                } else {
                    key.push_str(text);
                }
            }
        }
    }
    true
}

fn parts(key: &str) -> Vec<&str> {
    key.split(BETWEEN).collect()
}

fn alert(rule: &Rule, entity: &Entity, crossing: Crossing, own: Option<Sample>, cause: &Cause<'_, '_>) -> Alert {
    let Crossing { value, before, details: more } = crossing;
    let parts = parts(&entity.key);
    let mut details = Map::new();
    if !rule.by.is_empty() {
        let members: Map<String, Value> =
            rule.by.iter().zip(&parts).map(|(by, part)| (by.to_string(), Value::from(*part))).collect();
        details.insert("entity".into(), members.into());
    }
    let by = |fields: &[Field]| rule.by.iter().position(|by| by.prefix.is_none() && fields.contains(&by.field));
    let (slot_end, received_at_ms, id, source) = match cause {
        Cause::Entry(now, _) => {
            let id = identity(&["rule", &rule.name, &entity.key, now.stream, &now.entry.to_string()]);
            (now.slot_end, now.entry.ms.min(now.time_ms), id, now.sources.get(usize::from(now.source)).cloned())
        }
        Cause::Slot(end) => (*end, *end, identity(&["rule", &rule.name, &entity.key, "", &end.to_string()]), None),
    };
    let mut severity = rule.severity;
    let (mut user_id, mut username) = (None, None);
    let mut evidence = Vec::new();
    if let Cause::Entry(now, event) = cause {
        severity = rule.severity_if.iter().filter(|(_, filter)| filter.matches(*event)).fold(severity, |s, (to, _)| s.max(*to));
        // Of what is about one event the event says who; else only what all events of the entity have in common.
        let instant = rule.kind.is_instant();
        if instant || by(&[Field::User, Field::UserId, Field::Username]).is_some() {
            user_id = event.event.user_id.as_deref().map(str::to_owned);
            username = event.event.username.as_deref().map(str::to_owned);
        }
        if (instant || by(&[Field::IpAddress]).is_some())
            && let Some(address) = &event.address
        {
            details.insert("ip_address".into(), cut(address, PART_BYTES_MAX).into());
        }
        if instant {
            details.insert("event_type".into(), event.event.kind.normal.as_str().into());
        }
        let mut samples = before;
        samples.extend(own.filter(|own| !samples.contains(own)));
        details.insert("count".into(), samples.len().max(1).into());
        if let (Some(first), Some(last)) = (samples.first(), samples.last()) {
            details.insert("first_seen".into(), rfc3339(first.time_ms).into());
            details.insert("last_seen".into(), rfc3339(last.time_ms).into());
        }
        evidence = evidence_of(&samples, now.sources);
    } else {
        if let Some(at) = by(&[Field::User, Field::UserId]) {
            user_id = parts.get(at).map(|part| (*part).to_owned());
        }
        if let Some(at) = by(&[Field::IpAddress]) {
            details.insert("ip_address".into(), parts.get(at).copied().unwrap_or_default().into());
        }
        details.insert("first_seen".into(), rfc3339(entity.first_ms).into());
        details.insert("last_seen".into(), rfc3339(entity.last_ms).into());
    }
    details.extend(more);
    if !rule.tags.is_empty() {
        details.insert("tags".into(), rule.tags.clone().into());
    }
    Alert {
        alert_id: id,
        kind: Kind::Rule,
        status: Status::Firing,
        rule: rule.name.clone(),
        event_type: rule.name.clone(),
        severity,
        message: text::message(rule, &parts, value),
        timestamp_ms: slot_end,
        received_at_ms,
        value,
        threshold: rule.kind.threshold(),
        window_ms: (!matches!(rule.kind, RuleKind::Match)).then_some(rule.window_ms),
        user_id,
        username,
        details,
        source,
        original_event_type: None,
        evidence,
        labels: rule.labels.clone(),
        runbook_url: rule.runbook_url.clone(),
    }
}

/// The first ten and the last ten.
fn evidence_of(samples: &[Sample], sources: &[String]) -> Vec<String> {
    let text = |sample: &Sample| evidence_text(sources, sample.source, sample.entry);
    if samples.len() <= 2 * EVIDENCE_EACH {
        return samples.iter().map(text).collect();
    }
    let (first, last) = (samples.iter().take(EVIDENCE_EACH), samples.iter().skip(samples.len() - EVIDENCE_EACH));
    first.chain(last).map(text).collect()
}

/// The alert as it ends; `None` where there is none.
fn end(rule: &Rule, entity: &mut Entity, time_ms: u64, value: Option<f64>, then: Life) -> Option<Alert> {
    let Life::Firing(firing) = std::mem::replace(&mut entity.life, then) else { return None };
    let Firing { open, count, .. } = *firing;
    let message = text::message(rule, &parts(&entity.key), value.or_else(|| open.value()));
    let mut alert = open.resolved_saying(time_ms, &message, value);
    if count > 1 {
        alert.details.insert("crossings".into(), count.into());
    }
    alert.details.insert("last_seen".into(), rfc3339(entity.last_ms).into());
    Some(alert)
}
