//! All rules: which event concerns which, and what is handed over and read back.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use serde::{Deserialize, Serialize};

use super::{
    Allowed, RuleKind,
    looked::Looked,
    running::{Life, Lost, Now, Running, SavedRule},
};
use crate::{
    detect::{Alert, Observed, Options, SourceIx, threshold::Open},
    event::{EventType, Lists, Severity},
};

/// Names whose rules are kept in mind; as many as the classifier keeps.
const NAMES_MAX: usize = 4096;

/// What a snapshot keeps, by rule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::detect) struct Saved(BTreeMap<String, SavedRule>);

/// Which rules a name concerns. The name is kept, so that its place in memory is nobody else's meanwhile.
type Concerned = (Arc<EventType>, Box<[u16]>);

#[derive(Clone, Debug, Default)]
pub(in crate::detect) struct Engine {
    allowed: Allowed,
    /// By name.
    rules: Vec<Running>,
    /// By the place of a shared name in memory: no part of the state, it only saves work.
    concerned: AHashMap<usize, Concerned>,
    by_name: AHashMap<Box<str>, Box<[u16]>>,
    /// Of one rule.
    entities_max: usize,
    /// Lent to whoever tells entities apart.
    key: String,
}

impl Engine {
    pub fn new(options: &Options) -> Engine {
        let mut rules: Vec<Running> = options.rules.iter().filter(|rule| rule.enabled).cloned().map(Running::new).collect();
        rules.sort_by(|a, b| a.rule.name.cmp(&b.rule.name));
        rules.dedup_by(|later, first| later.rule.name == first.rule.name);
        Engine {
            allowed: options.allowed.clone(),
            rules,
            concerned: AHashMap::new(),
            by_name: AHashMap::new(),
            entities_max: (options.entities_max / 4).max(16),
            key: String::new(),
        }
    }

    /// Takes in one entry. `slot_end` is the end of the open slot.
    pub fn observe(
        &mut self,
        time_ms: u64,
        slot_end: u64,
        options: &Options,
        o: &Observed<'_>,
        lists: Lists,
        out: &mut Vec<Alert>,
    ) {
        if self.rules.is_empty() {
            return;
        }
        let kind = &o.event.kind;
        let at = Arc::as_ptr(kind) as usize;
        let concerned = match self.concerned.get(&at) {
            Some((_, rules)) => rules,
            // One with arguments is made anew for each event, and what concerns its name is known by the name.
            None if kind.args.is_some() => {
                if self.by_name.len() >= NAMES_MAX {
                    self.by_name.clear();
                }
                if !self.by_name.contains_key(kind.matching.as_str()) {
                    self.by_name.insert(kind.matching.as_str().into(), concerned(&self.rules, kind));
                }
                match self.by_name.get(kind.matching.as_str()) {
                    Some(rules) => rules,
                    None => return,
                }
            }
            None => {
                if self.concerned.len() >= NAMES_MAX {
                    self.concerned.clear();
                }
                let rules = concerned(&self.rules, kind);
                &self.concerned.entry(at).or_insert((kind.clone(), rules)).1
            }
        };
        if concerned.is_empty() {
            return;
        }
        let source = options.sources.get(usize::from(o.source)).map_or("unknown", String::as_str);
        let event = Looked::new(o.event, source, lists);
        let now = Now {
            time_ms,
            slot_end,
            interval_ms: options.interval_ms.max(1),
            source: o.source,
            sources: &options.sources,
            stream: o.stream,
            entry: o.entry,
            entities_max: self.entities_max,
        };
        let mut allowed = None;
        for at in concerned {
            let Some(running) = self.rules.get_mut(usize::from(*at)) else { continue };
            if running.rule.allow_lists && *allowed.get_or_insert_with(|| self.allowed.holds(&event)) {
                continue;
            }
            running.observe(&now, &event, &mut self.key, out);
        }
    }

    /// The end of a slot, rule by rule.
    pub fn close(&mut self, slot_end: u64, options: &Options, out: &mut Vec<Alert>) {
        for running in &mut self.rules {
            running.close(slot_end, options.interval_ms.max(1), out);
        }
    }

    /// What there was no room for since this was last asked, by rule.
    pub fn take_lost(&mut self) -> Vec<(&str, Lost)> {
        let lost = self.rules.iter_mut().filter(|running| !running.lost.is_nothing());
        lost.map(|running| {
            let lost = std::mem::take(&mut running.lost);
            (running.rule.name.as_str(), lost)
        })
        .collect()
    }

    /// Whether closing slots would change nothing but the time.
    pub fn is_quiet(&self) -> bool {
        self.rules.iter().all(Running::is_quiet)
    }

    /// Open alerts: (rule, severity, 1).
    pub fn active(&self) -> impl Iterator<Item = (&str, Severity, u64)> {
        self.rules.iter().flat_map(Running::open).map(|open| (open.rule(), open.severity(), 1))
    }

    /// Whether an alert of this name is one of the engine's.
    pub fn has(&self, rule: &str) -> bool {
        self.rules.iter().any(|running| running.rule.name == rule)
    }

    /// Takes the store's open alerts of rules for the open ones. `anew`: what fires here and not there was never told.
    pub fn adopt(&mut self, stored: Vec<Alert>, anew: bool, slot_end: u64, interval_ms: u64) {
        let not_stored = if anew { Life::default() } else { Life::Held };
        let mut by_rule: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
        for alert in stored {
            by_rule.entry(alert.rule.clone()).or_default().push(alert);
        }
        for running in &mut self.rules {
            let stored = by_rule.remove(&running.rule.name).unwrap_or_default();
            running.adopt(stored, &not_stored, slot_end, interval_ms);
        }
    }

    pub fn resolve_by_hand(&mut self, alert_id: &str, time_ms: u64) -> Option<Alert> {
        self.rules.iter_mut().find_map(|running| running.resolve_by_hand(alert_id, time_ms))
    }

    pub fn save(&self) -> Saved {
        Saved(self.rules.iter().map(|running| (running.rule.name.clone(), running.save())).collect())
    }

    /// Goes on where it was. Open alerts of rules that are gone, or that look at something else now, are given back.
    pub fn load(&mut self, mut saved: Saved, renumbered: &[Option<SourceIx>], slot: u64, interval_ms: u64) -> Vec<Open> {
        let mut orphans = Vec::new();
        for running in &mut self.rules {
            if let Some(saved) = saved.0.remove(&running.rule.name) {
                orphans.extend(running.load(saved, renumbered, slot, interval_ms));
            }
        }
        orphans.extend(saved.0.into_values().flat_map(SavedRule::open));
        orphans
    }
}

fn concerned(rules: &[Running], kind: &EventType) -> Box<[u16]> {
    let takes = |running: &Running| {
        let first = matches!(&running.rule.kind, RuleKind::Sequence { after, .. } if after.takes_name(kind));
        first || running.rule.on.takes_name(kind)
    };
    let concerned = rules.iter().enumerate().filter(|(_, running)| takes(running));
    concerned.filter_map(|(at, _)| u16::try_from(at).ok()).collect()
}
