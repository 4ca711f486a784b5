//! What has been seen since the store was first used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Alert, DurationTotals, GapReason, Options, SourceIx, SourceTotals, Status, Totals,
    alerts::{AUDIT_CLOCK, AUDIT_GAP, AUDIT_LIMIT, EVENT},
    bits,
};
use crate::event::{Category, Event, Severity};

/// The counters behind [`Totals`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    events: Vec<[u64; 4]>,
    sources: Vec<SourceTotals>,
    #[serde(with = "bits::pairs")]
    alerts: BTreeMap<(String, Severity, Status), u64>,
    pub slots_closed: u64,
    durations: Vec<u64>,
    #[serde(with = "bits::float")]
    duration_sum_seconds: Option<f64>,
    pub sessions_overflow: u64,
    pub entities_overflow: u64,
    severities_ignored: u64,
}

impl Tally {
    pub fn new(sources: &[String]) -> Tally {
        let mut tally = Tally {
            events: Vec::new(),
            sources: Vec::new(),
            alerts: BTreeMap::new(),
            slots_closed: 0,
            durations: Vec::new(),
            duration_sum_seconds: None,
            sessions_overflow: 0,
            entities_overflow: 0,
            severities_ignored: 0,
        };
        tally.configure(sources);
        tally
    }

    /// Puts the sources into the configuration's order; those that are gone are forgotten. Repairs what was read from outside.
    pub fn configure(&mut self, sources: &[String]) {
        let mut known = std::mem::take(&mut self.sources);
        for name in sources {
            let at = known.iter().position(|s| s.name == *name);
            let source = at.map(|i| known.swap_remove(i));
            self.sources.push(source.unwrap_or_else(|| SourceTotals { name: name.clone(), ..SourceTotals::default() }));
        }
        self.events.resize(Category::ALL.len(), [0; 4]);
        self.durations.resize(DurationTotals::BOUNDS.len() + 1, 0);
    }

    fn source(&mut self, source: SourceIx) -> Option<&mut SourceTotals> {
        self.sources.get_mut(usize::from(source))
    }

    pub fn event(&mut self, source: SourceIx, arrival_ms: u64, event: &Event<'_>, duration_ms: Option<f64>) {
        if let Some(row) = self.events.get_mut(event.kind.category as usize) {
            row[event.severity as usize] += 1;
        }
        if event.severity_ignored {
            self.severities_ignored += 1;
        }
        if let Some(seconds) = duration_ms.map(|ms| ms / 1000.0) {
            let at = DurationTotals::BOUNDS.partition_point(|bound| *bound < seconds);
            if let Some(n) = self.durations.get_mut(at) {
                *n += 1;
            }
            *self.duration_sum_seconds.get_or_insert(0.0) += seconds;
        }
        if let Some(source) = self.source(source) {
            source.events += 1;
            source.last_event_ms = source.last_event_ms.max(arrival_ms);
            if let Some(fault) = event.timestamp_fault {
                count(&mut source.timestamps_replaced, fault.as_str());
            }
        }
    }

    pub fn invalid(&mut self, source: SourceIx, reason: &str) {
        if let Some(source) = self.source(source) {
            count(&mut source.invalid, reason);
        }
    }

    pub fn gap(&mut self, source: SourceIx, reason: GapReason) {
        if let Some(source) = self.source(source) {
            count(&mut source.gaps, reason.as_str());
        }
    }

    pub fn alert(&mut self, alert: &Alert) {
        *self.alerts.entry((alert.rule.clone(), alert.severity, alert.status)).or_default() += 1;
    }

    /// The public form. Everything that the configuration names is there from the start, at 0.
    pub fn totals<'a>(&self, options: &Options, active: impl Iterator<Item = (&'a str, Severity, u64)>) -> Totals {
        let mut named: Vec<(&str, Severity)> =
            vec![(AUDIT_GAP, Severity::High), (AUDIT_CLOCK, Severity::High), (AUDIT_LIMIT, Severity::Medium)];
        named.extend(Severity::ALL.into_iter().filter(|s| *s >= options.alert_events_at).map(|s| (EVENT, s)));
        named.extend(options.thresholds.iter().filter(|t| t.enabled).map(|t| (t.name.as_str(), t.severity)));
        named.extend(options.rules.iter().filter(|r| r.enabled).map(|r| (r.name.as_str(), r.severity)));
        let mut alerts = self.alerts.clone();
        let mut firing: BTreeMap<(String, Severity), u64> = BTreeMap::new();
        for (rule, severity) in named {
            for status in [Status::Firing, Status::Resolved] {
                alerts.entry((rule.to_owned(), severity, status)).or_default();
            }
            firing.entry((rule.to_owned(), severity)).or_default();
        }
        for (rule, severity, n) in active {
            *firing.entry((rule.to_owned(), severity)).or_default() += n;
        }
        Totals {
            events: self.events.clone(),
            sources: self.sources.clone(),
            alerts: alerts.into_iter().map(|((rule, severity, status), n)| (rule, severity, status, n)).collect(),
            alerts_active: firing.into_iter().map(|((rule, severity), n)| (rule, severity, n)).collect(),
            slots_closed: self.slots_closed,
            operation_duration: DurationTotals {
                counts: self.durations.clone(),
                sum_seconds: self.duration_sum_seconds.unwrap_or(0.0),
            },
            sessions_overflow: self.sessions_overflow,
            entities_overflow: self.entities_overflow,
            severities_ignored: self.severities_ignored,
        }
    }
}

fn count(map: &mut BTreeMap<String, u64>, key: &str) {
    match map.get_mut(key) {
        Some(n) => *n += 1,
        None => {
            map.insert(key.to_owned(), 1);
        }
    }
}
