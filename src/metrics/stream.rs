//! The series that follow from the streams, rendered from the detector's last state.

use std::collections::BTreeSet;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::Counts;
use crate::{
    detect::{self, DurationTotals, GapReason, Status, Totals},
    event::{Category, Invalid, Severity, TimestampFault},
};

/// Every series of this file but the scalars.
pub(super) const FAMILIES: &[&str] = &[
    "auditcast_operation_duration_seconds",
    "auditcast_events_total",
    "auditcast_source_events_total",
    "auditcast_source_invalid_total",
    "auditcast_source_last_event_timestamp_seconds",
    "auditcast_source_gaps_total",
    "auditcast_timestamps_replaced_total",
    "auditcast_alerts_total",
    "auditcast_alerts_active",
    "auditcast_slots_closed_total",
];

/// Scalars of contract §4 that are there from the start; the others are absent until they have a value.
const COUNTS: [&str; 6] = [
    "failed_logins_last_hour",
    "rate_limit_violations",
    "permission_violations",
    "suspicious_activities",
    "session_timeouts",
    "active_sessions",
];

/// The alerts that no threshold stands for: (rule, severities).
const BUILT_IN: [(&str, &[Severity]); 4] = [
    ("event", &Severity::ALL),
    ("audit_gap", &[Severity::High]),
    ("audit_clock", &[Severity::High]),
    ("audit_limit", &[Severity::Medium]),
];

fn help(scalar: &str) -> &'static str {
    match scalar {
        "failed_logins_last_hour" => "Failed logins in the window.",
        "rate_limit_violations" => "Rate-limit violations in the window.",
        "permission_violations" => "Permission violations in the window.",
        "suspicious_activities" => "Suspicious activities in the window.",
        "session_timeouts" => "Sessions that timed out in the window.",
        "active_sessions" => "Sessions opened or seen, neither ended nor idle for too long.",
        "auth_success_ratio" => "Successful logins divided by all logins in the window; absent without any.",
        "error_ratio" => "Failures, denials and errors divided by all events in the window; absent without any.",
        "operation_p95_seconds" => "95th percentile of operations' durations in the window; absent without any.",
        _ => "Events of a metric of the configuration's own in its window.",
    }
}

/// The last state, and what must be there although nothing has happened.
pub(super) struct State {
    sources: Vec<String>,
    rules: BTreeSet<(String, Severity)>,
    totals: Totals,
    metrics: detect::Metrics,
}

impl State {
    pub(super) fn new(sources: &[String], rules: &[(String, Severity)]) -> State {
        let mut state = State {
            sources: sources.to_vec(),
            rules: BTreeSet::new(),
            totals: Totals::default(),
            metrics: detect::Metrics::default(),
        };
        state.set_rules(rules);
        state
    }

    pub(super) fn set_rules(&mut self, rules: &[(String, Severity)]) {
        let built_in = BUILT_IN.iter().flat_map(|(rule, list)| list.iter().map(|severity| ((*rule).to_owned(), *severity)));
        self.rules = rules.iter().cloned().chain(built_in).collect();
    }

    pub(super) fn has_source(&self, name: &str) -> bool {
        self.sources.iter().any(|source| source == name)
    }

    pub(super) fn apply(&mut self, totals: Totals, metrics: detect::Metrics) {
        self.totals = totals;
        self.metrics = metrics;
    }

    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.scalars();
        families.push(self.durations());
        families.push(self.events());
        families.extend(self.by_source());
        families.extend(self.alerts());
        families.push(counter(
            "auditcast_slots_closed_total",
            "Slots closed.",
            &[],
            Counts::from([(Vec::new(), self.totals.slots_closed as f64)]),
        ));
        families
    }

    fn scalars(&self) -> Vec<MetricFamily> {
        let names: BTreeSet<&str> = COUNTS.into_iter().chain(self.metrics.scalars.keys().map(String::as_str)).collect();
        names
            .into_iter()
            .filter(|name| is_name(name) && !super::is_reserved(name))
            .filter_map(|name| {
                let value = self.metrics.scalars.get(name).copied().or(COUNTS.contains(&name).then_some(0.0))?;
                Some(gauge(&format!("auditcast_{name}"), help(name), &[], Counts::from([(Vec::new(), value)])))
            })
            .collect()
    }

    fn durations(&self) -> MetricFamily {
        let totals = &self.totals.operation_duration;
        let mut seen = 0;
        let buckets = DurationTotals::BOUNDS
            .iter()
            .enumerate()
            .map(|(at, bound)| {
                seen += totals.counts.get(at).copied().unwrap_or(0);
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(seen);
                bucket
            })
            .collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(totals.counts.iter().sum());
        histogram.set_sample_sum(totals.sum_seconds);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        family(
            "auditcast_operation_duration_seconds",
            "Durations of the operations that events report.",
            MetricType::HISTOGRAM,
            vec![metric],
        )
    }

    fn events(&self) -> MetricFamily {
        let mut counts = Counts::new();
        for (at, category) in Category::ALL.into_iter().enumerate() {
            for (severity, word) in Severity::ALL.into_iter().enumerate() {
                let n = self.totals.events.get(at).and_then(|row| row.get(severity)).copied().unwrap_or(0);
                counts.insert(vec![category.as_str().to_owned(), word.as_str().to_owned()], n as f64);
            }
        }
        counter("auditcast_events_total", "Events classified.", &["category", "severity"], counts)
    }

    fn by_source(&self) -> Vec<MetricFamily> {
        let (mut events, mut last) = (Counts::new(), Counts::new());
        let (mut invalid, mut gaps, mut replaced) = (Counts::new(), Counts::new(), Counts::new());
        let reasons = |counts: &mut Counts, source: &str, list: &mut dyn Iterator<Item = &str>| {
            for reason in list {
                counts.insert(vec![source.to_owned(), reason.to_owned()], 0.0);
            }
        };
        for source in &self.sources {
            events.insert(vec![source.clone()], 0.0);
            last.insert(vec![source.clone()], 0.0);
            reasons(&mut invalid, source, &mut Invalid::ALL.into_iter().map(Invalid::as_str));
            reasons(&mut gaps, source, &mut GapReason::ALL.into_iter().map(GapReason::as_str));
            reasons(&mut replaced, source, &mut TimestampFault::ALL.into_iter().map(TimestampFault::as_str));
        }
        for source in &self.totals.sources {
            let name = &source.name;
            events.insert(vec![name.clone()], source.events as f64);
            last.insert(vec![name.clone()], source.last_event_ms as f64 / 1000.0);
            for (counts, totals) in
                [(&mut invalid, &source.invalid), (&mut gaps, &source.gaps), (&mut replaced, &source.timestamps_replaced)]
            {
                for (reason, n) in totals {
                    counts.insert(vec![name.clone(), reason.clone()], *n as f64);
                }
            }
        }
        vec![
            counter("auditcast_source_events_total", "Events read from a source.", &["source"], events),
            counter(
                "auditcast_source_invalid_total",
                "Entries of a source that could not be read.",
                &["source", "reason"],
                invalid,
            ),
            gauge(
                "auditcast_source_last_event_timestamp_seconds",
                "Arrival of a source's newest entry, Unix time; 0 before the first.",
                &["source"],
                last,
            ),
            counter("auditcast_source_gaps_total", "Holes found in a source.", &["source", "reason"], gaps),
            counter(
                "auditcast_timestamps_replaced_total",
                "Events whose own time was not used.",
                &["source", "reason"],
                replaced,
            ),
        ]
    }

    fn alerts(&self) -> Vec<MetricFamily> {
        let (mut total, mut active) = (Counts::new(), Counts::new());
        let key = |rule: &str, severity: Severity| vec![rule.to_owned(), severity.as_str().to_owned()];
        let with = |mut key: Vec<String>, status: Status| {
            key.push(status_name(status).to_owned());
            key
        };
        for (rule, severity) in &self.rules {
            active.insert(key(rule, *severity), 0.0);
            for status in [Status::Firing, Status::Resolved] {
                total.insert(with(key(rule, *severity), status), 0.0);
            }
        }
        for (rule, severity, status, n) in &self.totals.alerts {
            total.insert(with(key(rule, *severity), *status), *n as f64);
        }
        for (rule, severity, n) in &self.totals.alerts_active {
            active.insert(key(rule, *severity), *n as f64);
        }
        vec![
            counter("auditcast_alerts_total", "Alerts that fired or resolved.", &["rule", "severity", "status"], total),
            gauge("auditcast_alerts_active", "Alerts that are firing.", &["rule", "severity"], active),
        ]
    }
}

/// Fit for a series: own metrics get their names from the configuration.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn counter(name: &str, help: &str, labels: &[&str], counts: Counts) -> MetricFamily {
    let metrics = counts.into_iter().map(|(values, n)| {
        let mut counter = Counter::default();
        counter.set_value(n);
        let mut metric = Metric::from_label(pairs(labels, values));
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn gauge(name: &str, help: &str, labels: &[&str], counts: Counts) -> MetricFamily {
    let metrics = counts.into_iter().map(|(values, n)| {
        let mut gauge = Gauge::default();
        gauge.set_value(n);
        let mut metric = Metric::from_label(pairs(labels, values));
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn pairs(labels: &[&str], values: Vec<String>) -> Vec<LabelPair> {
    let pair = |(name, value): (&&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    };
    labels.iter().zip(values).map(pair).collect()
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn status_name(status: Status) -> &'static str {
    match status {
        Status::Firing => "firing",
        Status::Resolved => "resolved",
    }
}
