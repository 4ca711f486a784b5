//! Alerts about one event, one hole or one clock: raised at once, open for a while, resolved at a slot's end (contract §4).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Alert, Gap, GapReason, Kind, SourceIx, Status, bits,
    contributors::evidence_text,
    cut::{self, cut},
    ident::identity,
    threshold::RESOLVED,
};
use crate::event::{EntryId, Event, Severity};

pub(super) const EVENT: &str = "event";
pub(super) const AUDIT_GAP: &str = "audit_gap";
pub(super) const AUDIT_CLOCK: &str = "audit_clock";
pub(super) const AUDIT_LIMIT: &str = "audit_limit";

/// Event alerts of one type in one slot that are told one by one.
const PER_TYPE_AND_SLOT: u64 = 100;
/// Summaries that one slot can end with; what is beyond them is only counted.
const SUMMARIES_PER_SLOT: usize = 100;
/// An id from the future is told of once per source and hour.
const CLOCK_QUIET_MS: u64 = 3_600_000;
/// What there was no room for is told of once in so long.
const LIMIT_QUIET_MS: u64 = 86_400_000;
/// Names kept of the people in an open event alert are cut to this.
const NAME_BYTES_MAX: usize = 256;
const EVIDENCE_EACH: usize = 10;

/// (when it fired, number): the order in which they end.
type Key = (u64, u64);
/// Rules that an `audit_limit` names in its message.
const LIMIT_NAMED_MAX: usize = 10;
/// Holes of one stream and reason within so long are one alert.
const GAP_QUIET_MS: u64 = 60_000;
/// Fired "at the end of time": not resolved by age.
const STANDING: u64 = u64::MAX;

/// What is kept of an open alert; the rest is in the alert log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    id: Box<str>,
    rule: Box<str>,
    event_type: Box<str>,
    severity: Severity,
    message: Box<str>,
    timestamp_ms: u64,
    source: Option<Box<str>>,
    user_id: Option<Box<str>>,
    username: Option<Box<str>>,
    details: Map<String, Value>,
    /// Events it stands for; told as `details.count` if it is more than one.
    count: u64,
}

/// What one type did in the open slot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SlotType {
    told: u64,
    untold: u64,
    severity: Option<Severity>,
    source: Option<String>,
    first: Vec<String>,
    last: Vec<String>,
}

/// Everything open that is not a threshold's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Alerts {
    #[serde(with = "bits::pairs")]
    open: BTreeMap<Key, Record>,
    serial: u64,
    /// (stream, reason) → its open alert.
    #[serde(with = "bits::pairs")]
    gaps: BTreeMap<(String, GapReason), Key>,
    /// Hash of (type, user, address) → when the first was told, and its alert.
    suppressed: BTreeMap<String, (u64, Key)>,
    suppressed_order: BTreeSet<(u64, String)>,
    slot_types: BTreeMap<String, SlotType>,
    /// Source → when its clock was last told of.
    clocks: BTreeMap<String, u64>,
    #[serde(with = "bits::pairs")]
    active: BTreeMap<(String, Severity), u64>,
}

/// What an entry is known by.
pub(super) struct Origin<'a> {
    pub source: SourceIx,
    pub sources: &'a [String],
    pub stream: &'a str,
    pub entry: EntryId,
}

impl Origin<'_> {
    fn source_name(&self) -> String {
        self.sources.get(usize::from(self.source)).map_or_else(|| "unknown".to_owned(), String::clone)
    }
}

/// The limits that matter here.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub suppress_ms: u64,
    pub entities_max: usize,
}

impl Alerts {
    /// Raises an event's alert, or counts it in one that stands for it. Answers what there was no room for.
    pub fn event(&mut self, time_ms: u64, o: &Origin<'_>, event: &Event<'_>, limits: Limits, out: &mut Vec<Alert>) -> u64 {
        let event_type = event.kind.normal.as_str();
        let address = event.ip_address();
        let mut overflow = 0;
        let sameness = (limits.suppress_ms > 0).then(|| {
            let (user, address) = (event.user_id.as_deref().or(event.username.as_deref()), address.as_deref());
            identity(&[event_type, user.unwrap_or(""), address.unwrap_or("")])
        });
        if let Some((first_ms, key)) = sameness.as_ref().and_then(|s| self.suppressed.get(s))
            && time_ms.saturating_sub(*first_ms) < limits.suppress_ms
            && let Some(first) = self.open.get_mut(key)
        {
            first.count = first.count.saturating_add(1);
            return 0;
        }

        if !self.slot_types.contains_key(event_type) && self.slot_types.len() >= limits.entities_max {
            return 1;
        }
        let slot = self.slot_types.entry(event_type.to_owned()).or_default();
        if slot.told >= PER_TYPE_AND_SLOT || self.open.len() >= limits.entities_max {
            if slot.told < PER_TYPE_AND_SLOT {
                overflow += 1;
            }
            slot.untold = slot.untold.saturating_add(1);
            slot.severity = slot.severity.max(Some(event.severity));
            slot.source.get_or_insert_with(|| o.source_name());
            let evidence = evidence_text(o.sources, o.source, o.entry);
            if slot.first.len() < EVIDENCE_EACH {
                slot.first.push(evidence);
            } else {
                if slot.last.len() >= EVIDENCE_EACH {
                    slot.last.remove(0);
                }
                slot.last.push(evidence);
            }
            return overflow;
        }
        slot.told += 1;

        let written = &event.kind.written;
        let alert = Alert {
            alert_id: identity(&[EVENT, o.stream, &o.entry.to_string()]),
            kind: Kind::Event,
            status: Status::Firing,
            rule: EVENT.to_owned(),
            event_type: event_type.to_owned(),
            severity: event.severity,
            message: event.message_line(),
            timestamp_ms: event.timestamp_ms,
            received_at_ms: o.entry.ms.min(time_ms),
            value: None,
            threshold: None,
            window_ms: None,
            user_id: event.user_id.as_deref().map(str::to_owned),
            username: event.username.as_deref().map(str::to_owned),
            details: cut::details(&event.details.map()),
            source: Some(o.source_name()),
            original_event_type: (written != event_type).then(|| written.clone()),
            evidence: vec![evidence_text(o.sources, o.source, o.entry)],
            labels: BTreeMap::new(),
            runbook_url: None,
        };
        let key = self.insert(time_ms, &alert);
        out.push(alert);
        if let Some(sameness) = sameness {
            if let Some((first_ms, _)) = self.suppressed.get(&sameness) {
                let stale = (*first_ms, sameness.clone());
                self.suppressed_order.remove(&stale);
            } else if self.suppressed.len() >= limits.entities_max {
                return overflow + 1;
            }
            self.suppressed_order.insert((time_ms, sameness.clone()));
            self.suppressed.insert(sameness, (time_ms, key));
        }
        overflow
    }

    /// Raises `audit_gap`; a further hole of the same stream and reason within a minute counts in it, a later one is told by itself.
    pub fn gap(&mut self, time_ms: u64, slot_end: u64, source: &str, gap: &Gap, limits: Limits, out: &mut Vec<Alert>) -> u64 {
        let index = (gap.stream.clone(), gap.reason);
        let standing = gap.reason == GapReason::Unreadable;
        // Not for ever: behind a small hole that is told a great one must not hide.
        if let Some(key) = self.gaps.get(&index).copied()
            && (standing || time_ms <= key.0.saturating_add(GAP_QUIET_MS))
            && let Some(record) = self.open.get_mut(&key)
        {
            record.count = record.count.saturating_add(1);
            let missed = record.details.get("missed").and_then(Value::as_u64);
            if let Some(missed) = missed.into_iter().chain(gap.missed).reduce(u64::saturating_add) {
                record.details.insert("missed".into(), missed.into());
            }
            if let Some(to) = &gap.to {
                record.details.insert("to".into(), to.clone().into());
            }
            return 0;
        }
        if self.open.len() >= limits.entities_max {
            return 1;
        }

        let reason = gap.reason.as_str();
        let mut details = Map::new();
        for (name, value) in [
            ("source", Some(Value::from(source))),
            ("stream", Some(Value::from(gap.stream.as_str()))),
            ("from", gap.from.as_deref().map(Value::from)),
            ("to", gap.to.as_deref().map(Value::from)),
            ("missed", gap.missed.map(Value::from)),
            ("reason", Some(Value::from(reason))),
        ] {
            if let Some(value) = value {
                details.insert(name.into(), value);
            }
        }
        let entries = match gap.missed {
            Some(1) => "1 entry was".to_owned(),
            Some(n) => format!("{n} entries were"),
            None => "entries were".to_owned(),
        };
        let message = match gap.reason {
            GapReason::Trimmed => format!("Audit gap in {source}: {entries} trimmed before they could be read"),
            GapReason::Rewound => format!("Audit gap in {source}: the stream went back behind what had been read"),
            GapReason::Reset => format!("Audit gap in {source}: the stream was deleted and made anew"),
            GapReason::Unreadable => format!("Audit source {source} cannot be read"),
            GapReason::Exhausted => format!("Audit source {source} cannot be read any further: ids or places are used up"),
        };
        let from = gap.from.as_deref().unwrap_or("");
        let alert = Alert {
            alert_id: identity(&["rule", AUDIT_GAP, &gap.stream, reason, from, &slot_end.to_string()]),
            rule: AUDIT_GAP.to_owned(),
            event_type: AUDIT_GAP.to_owned(),
            ..rule_alert(slot_end, time_ms, message, source, details)
        };
        let key = self.insert(if standing { STANDING } else { time_ms }, &alert);
        self.gaps.insert(index, key);
        out.push(alert);
        0
    }

    /// An alert that has ended takes no further holes; a younger one about the same may.
    fn forget_gap(&mut self, record: &Record, key: Key) {
        if let Some(index) = record.gap()
            && self.gaps.get(&index) == Some(&key)
        {
            self.gaps.remove(&index);
        }
    }

    /// The stream can be read again: ends its `unreadable`.
    pub fn readable(&mut self, time_ms: u64, stream: &str, out: &mut Vec<Alert>) {
        if let Some(key) = self.gaps.remove(&(stream.to_owned(), GapReason::Unreadable))
            && let Some(record) = self.remove(key)
        {
            out.push(record.resolved(time_ms));
        }
    }

    /// Raises `audit_clock`, once per source and hour.
    pub fn clock(&mut self, time_ms: u64, slot_end: u64, o: &Origin<'_>, ahead_ms: u64, out: &mut Vec<Alert>) {
        let source = o.source_name();
        if self.clocks.get(&source).is_some_and(|told| time_ms < told.saturating_add(CLOCK_QUIET_MS)) {
            return;
        }
        let mut details = Map::new();
        details.insert("source".into(), source.as_str().into());
        details.insert("stream".into(), o.stream.into());
        details.insert("entry".into(), o.entry.to_string().into());
        details.insert("ahead_ms".into(), ahead_ms.into());
        let message = format!("Audit clock of {source}: the id of entry {} is {ahead_ms} ms ahead of the store", o.entry);
        let alert = Alert {
            alert_id: identity(&["rule", AUDIT_CLOCK, &source, o.stream, &o.entry.to_string()]),
            rule: AUDIT_CLOCK.to_owned(),
            event_type: AUDIT_CLOCK.to_owned(),
            evidence: vec![evidence_text(o.sources, o.source, o.entry)],
            ..rule_alert(slot_end, time_ms, message, &source, details)
        };
        self.insert(time_ms, &alert);
        self.clocks.insert(source, time_ms);
        out.push(alert);
    }

    /// Raises `audit_limit`, once a day: `lost` says of each rule what there was no room for.
    pub fn limit(&mut self, slot_end: u64, lost: Map<String, Value>, out: &mut Vec<Alert>) {
        if self.clocks.get(AUDIT_LIMIT).is_some_and(|told| slot_end < told.saturating_add(LIMIT_QUIET_MS)) {
            return;
        }
        let names: Vec<&str> = lost.keys().map(String::as_str).take(LIMIT_NAMED_MAX).collect();
        let message = format!("Rules have more to watch than limits.entities allows for: {}", names.join(", "));
        let mut details = Map::new();
        details.insert("rules".into(), lost.into());
        let alert = Alert {
            alert_id: identity(&["rule", AUDIT_LIMIT, &slot_end.to_string()]),
            rule: AUDIT_LIMIT.to_owned(),
            event_type: AUDIT_LIMIT.to_owned(),
            severity: Severity::Medium,
            source: None,
            ..rule_alert(slot_end, slot_end, message, "", details)
        };
        self.insert(slot_end, &alert);
        // A source cannot have this name: it is a rule's.
        self.clocks.insert(AUDIT_LIMIT.to_owned(), slot_end);
        out.push(alert);
    }

    /// The slot's end: summaries of what was too much to tell one by one, and the end of what is old enough.
    pub fn close(&mut self, slot_end: u64, ttl_ms: u64, limits: Limits, out: &mut Vec<Alert>) -> u64 {
        let mut overflow = 0;
        while let Some((key, _)) = self.open.first_key_value()
            && key.0.saturating_add(ttl_ms) <= slot_end
        {
            let key = *key;
            if let Some(record) = self.remove(key) {
                self.forget_gap(&record, key);
                out.push(record.resolved(slot_end));
            }
        }
        let summaries = std::mem::take(&mut self.slot_types).into_iter().filter(|(_, s)| s.untold > 0);
        for (n, (event_type, slot)) in summaries.enumerate() {
            if n >= SUMMARIES_PER_SLOT {
                overflow += slot.untold;
                continue;
            }
            let mut details = Map::new();
            details.insert("count".into(), slot.untold.into());
            let mut evidence = slot.first;
            evidence.extend(slot.last);
            let alert = Alert {
                alert_id: identity(&["events", &event_type, &slot_end.to_string()]),
                kind: Kind::Event,
                rule: EVENT.to_owned(),
                severity: slot.severity.unwrap_or(Severity::Low),
                evidence,
                source: slot.source,
                ..rule_alert(slot_end, slot_end, format!("{} more {event_type} events", slot.untold), "", details)
            };
            let alert = Alert { event_type, ..alert };
            let key = self.insert(slot_end, &alert);
            if let Some(record) = self.open.get_mut(&key) {
                record.count = slot.untold;
            }
            out.push(alert);
        }
        while let Some((first_ms, _)) = self.suppressed_order.first()
            && first_ms.saturating_add(limits.suppress_ms) <= slot_end
        {
            if let Some((_, sameness)) = self.suppressed_order.pop_first() {
                self.suppressed.remove(&sameness);
            }
        }
        overflow
    }

    /// Ends one for somebody who says so.
    pub fn resolve_by_hand(&mut self, alert_id: &str, time_ms: u64) -> Option<Alert> {
        let key = *self.open.iter().find(|(_, record)| &*record.id == alert_id)?.0;
        let record = self.remove(key)?;
        self.forget_gap(&record, key);
        Some(record.resolved(time_ms))
    }

    /// Makes the store's open alerts the open ones; what is known of them beside is kept.
    pub fn adopt(&mut self, alerts: Vec<Alert>) {
        let mut known: BTreeMap<Box<str>, (Key, Record)> =
            std::mem::take(&mut self.open).into_iter().map(|(key, r)| (r.id.clone(), (key, r))).collect();
        self.active.clear();
        self.gaps.clear();
        for alert in alerts {
            let key = match known.remove(alert.alert_id.as_str()) {
                Some((key, record)) => {
                    self.count_active(&record.rule, record.severity, true);
                    self.open.insert(key, record);
                    key
                }
                None => {
                    let standing = alert.rule == AUDIT_GAP && alert.details.get("reason") == Some(&"unreadable".into());
                    self.insert(if standing { STANDING } else { alert.received_at_ms }, &alert)
                }
            };
            if let Some(index) = self.open.get(&key).and_then(Record::gap) {
                self.gaps.insert(index, key);
            }
        }
    }

    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.suppressed.is_empty() && self.slot_types.is_empty()
    }

    /// Streams with an open `audit_gap` of reason `unreadable`.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.gaps.keys().filter(|(_, reason)| *reason == GapReason::Unreadable).map(|(stream, _)| stream.as_str())
    }

    /// (rule, severity) → open.
    pub fn active(&self) -> impl Iterator<Item = (&str, Severity, u64)> {
        self.active.iter().map(|((rule, severity), n)| (rule.as_str(), *severity, *n))
    }

    /// Puts right what was read from outside: every index must point to what is there.
    pub fn repair(&mut self) {
        self.active.clear();
        for record in self.open.values() {
            *self.active.entry((record.rule.to_string(), record.severity)).or_default() += 1;
        }
        self.gaps = self.open.iter().filter_map(|(key, r)| Some((r.gap()?, *key))).collect();
        self.suppressed_order = self.suppressed.iter().map(|(s, (first_ms, _))| (*first_ms, s.clone())).collect();
        let newest = self.open.keys().map(|key| key.1).max().unwrap_or(0);
        self.serial = self.serial.max(newest);
    }

    fn key(&mut self, time_ms: u64) -> Key {
        self.serial = self.serial.wrapping_add(1);
        (time_ms, self.serial)
    }

    fn insert(&mut self, time_ms: u64, alert: &Alert) -> Key {
        let key = self.key(time_ms);
        let details = if alert.kind == Kind::Event {
            // Enough for whoever routes by address; the event itself is in the log.
            let address = alert.details.get("ip_address").and_then(Value::as_str);
            address.map(|a| ("ip_address".to_owned(), cut(a, NAME_BYTES_MAX).into())).into_iter().collect()
        } else {
            alert.details.clone()
        };
        let short = |text: &Option<String>| text.as_deref().map(|t| cut(t, NAME_BYTES_MAX).into());
        let record = Record {
            id: alert.alert_id.as_str().into(),
            rule: alert.rule.as_str().into(),
            event_type: alert.event_type.as_str().into(),
            severity: alert.severity,
            message: alert.message.as_str().into(),
            timestamp_ms: alert.timestamp_ms,
            source: short(&alert.source),
            user_id: short(&alert.user_id),
            username: short(&alert.username),
            details,
            // An event may have a `count` of its own; only a summary has more than one entry behind it.
            count: alert.details.get("count").and_then(Value::as_u64).filter(|_| alert.evidence.len() > 1).unwrap_or(1),
        };
        self.count_active(&record.rule, record.severity, true);
        self.open.insert(key, record);
        key
    }

    fn remove(&mut self, key: Key) -> Option<Record> {
        let record = self.open.remove(&key)?;
        self.count_active(&record.rule, record.severity, false);
        Some(record)
    }

    fn count_active(&mut self, rule: &str, severity: Severity, more: bool) {
        let key = (rule.to_owned(), severity);
        let n = self.active.get(&key).copied().unwrap_or(0);
        let n = if more { n.saturating_add(1) } else { n.saturating_sub(1) };
        if n == 0 {
            self.active.remove(&key);
        } else {
            self.active.insert(key, n);
        }
    }
}

impl Record {
    /// What an `audit_gap` is about.
    fn gap(&self) -> Option<(String, GapReason)> {
        if &*self.rule != AUDIT_GAP {
            return None;
        }
        let text = |name: &str| self.details.get(name).and_then(Value::as_str);
        let reason = text("reason")?;
        let reason = GapReason::ALL.into_iter().find(|r| r.as_str() == reason)?;
        Some((text("stream")?.to_owned(), reason))
    }

    /// An event's time stays the event's; everything else ends at `time_ms`.
    fn resolved(self, time_ms: u64) -> Alert {
        let kind = if &*self.rule == EVENT { Kind::Event } else { Kind::Rule };
        let mut details = self.details;
        if self.count > 1 {
            details.insert("count".into(), self.count.into());
        }
        Alert {
            alert_id: self.id.into(),
            kind,
            status: Status::Resolved,
            rule: self.rule.into(),
            event_type: self.event_type.into(),
            severity: self.severity,
            message: format!("{RESOLVED}{}", self.message),
            timestamp_ms: if kind == Kind::Event { self.timestamp_ms } else { time_ms },
            received_at_ms: time_ms,
            value: None,
            threshold: None,
            window_ms: None,
            user_id: self.user_id.map(String::from),
            username: self.username.map(String::from),
            details,
            source: self.source.map(String::from),
            original_event_type: None,
            evidence: Vec::new(),
            labels: BTreeMap::new(),
            runbook_url: None,
        }
    }
}

fn rule_alert(slot_end: u64, time_ms: u64, message: String, source: &str, details: Map<String, Value>) -> Alert {
    Alert {
        alert_id: String::new(),
        kind: Kind::Rule,
        status: Status::Firing,
        rule: String::new(),
        event_type: String::new(),
        severity: Severity::High,
        message,
        timestamp_ms: slot_end,
        received_at_ms: time_ms,
        value: None,
        threshold: None,
        window_ms: None,
        user_id: None,
        username: None,
        details,
        source: Some(source.to_owned()),
        original_event_type: None,
        evidence: Vec::new(),
        labels: BTreeMap::new(),
        runbook_url: None,
    }
}
