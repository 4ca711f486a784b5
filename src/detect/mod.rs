//! When it matters: windows, metrics, thresholds, rules, the life of an alert. Pure: time is a parameter, nothing is awaited,
//! locked, logged or read. The same entries in the same slots give the same transitions, always.
//!
//! Contract §4 is the source of every rule here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::Severity;

mod alerts;
mod bits;
mod contributors;
mod cut;
mod detector;
mod durations;
mod ident;
mod merge;
mod rules;
mod sessions;
mod snapshot;
mod tally;
mod threshold;
mod window;

pub use detector::{Detector, Observed};
pub use merge::{Item, Merge, Step, replay};
pub use rules::{AT_LEAST_MAX, Allowed, By, DISTINCT_MAX, Matcher, Rule, RuleKind, TEMPLATE_WORDS, template_words};
pub use snapshot::SnapshotError;

/// A built-in or own threshold, resolved (contract §2 `[[threshold]]`, §4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    pub name: String,
    /// The name of a scalar of §4.
    pub metric: String,
    pub bound: Bound,
    /// Fires only when the metric's window holds at least so many events.
    pub min_count: u64,
    /// Where it clears; the bound's own value by default.
    pub clear_at: f64,
    pub for_ms: u64,
    pub keep_firing_for_ms: u64,
    pub severity: Severity,
    /// `{value}`, `{name}`, `{window}`, `{threshold}` are filled in; `None`: `{name}: {value}`.
    pub message: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub runbook_url: Option<String>,
    pub enabled: bool,
}

/// Which side of the number is bad; comparisons are strict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    Above(f64),
    Below(f64),
}

/// A count over a window; `list` is a bit of [`crate::event::Lists`].
#[derive(Clone, Debug, PartialEq)]
pub struct CountMetric {
    pub name: String,
    pub list: u32,
    pub window_ms: u64,
}

/// What is configurable in this room.
#[derive(Clone, Debug)]
pub struct Options {
    pub interval_ms: u64,
    pub snapshot_interval_ms: u64,
    pub alert_events_at: Severity,
    pub event_alert_ttl_ms: u64,
    pub suppress_ms: u64,
    /// `SESSION_TIMEOUT_MINUTES`.
    pub session_timeout_ms: u64,
    /// `limits.sessions`.
    pub sessions_max: usize,
    /// `limits.entities`: bound on everything kept per user, address or key.
    pub entities_max: usize,
    /// The counts of §4 and the user's own.
    pub counts: Vec<CountMetric>,
    /// Windows of `auth_success_ratio`, `error_ratio`, `operation_p95_seconds`, `events_by_severity`, `events_by_category`, by name.
    pub windows_ms: BTreeMap<String, u64>,
    pub thresholds: Vec<Threshold>,
    /// Rules over one event or one entity.
    pub rules: Vec<Rule>,
    /// Whom they do not look at.
    pub allowed: Allowed,
    /// Names of the configured sources; a `SourceIx` is an index into it.
    pub sources: Vec<String>,
    /// `listen.external_url`, for `url`.
    pub external_url: Option<String>,
}

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Event,
    Threshold,
    Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Firing,
    Resolved,
}

/// One transition of one alert, whole: what the alert log takes once and what clients see as `security_alert` (contract §5).
/// Members without a value are left out. `pos`, `replayed`, `silenced` and acknowledgements are not the detector's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Hexadecimal, 32 characters: a hash of (rule, stream, entry id) or of (rule, entity, firing slot).
    pub alert_id: String,
    pub kind: Kind,
    pub status: Status,
    /// The rule's name; `event` for event alerts, `audit_gap`, `audit_clock`, `audit_limit`, or the threshold's name.
    pub rule: String,
    pub event_type: String,
    pub severity: Severity,
    pub message: String,
    /// Unix ms: the event's time for events, the slot's end for thresholds and rules.
    pub timestamp_ms: u64,
    /// Unix ms of the arrival that caused it (entry id), or the slot's end.
    pub received_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
    /// Configured name of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook_url: Option<String>,
}

/// Index into [`Options::sources`].
pub type SourceIx = u16;

/// Why entries were lost before they could be read, or a source cannot be (contract §4, `audit_gap`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    Trimmed,
    Rewound,
    Reset,
    Unreadable,
    Exhausted,
}

impl GapReason {
    pub const ALL: [GapReason; 5] =
        [GapReason::Trimmed, GapReason::Rewound, GapReason::Reset, GapReason::Unreadable, GapReason::Exhausted];

    /// The word of `details.reason` and of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::Trimmed => "trimmed",
            GapReason::Rewound => "rewound",
            GapReason::Reset => "reset",
            GapReason::Unreadable => "unreadable",
            GapReason::Exhausted => "exhausted",
        }
    }
}

/// A hole in a source, as the monitor saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    pub source: SourceIx,
    /// The stream's key (a source may have several).
    pub stream: String,
    pub reason: GapReason,
    /// Last entry read before the hole, and where reading goes on.
    pub from: Option<String>,
    pub to: Option<String>,
    pub missed: Option<u64>,
}

/// The values of one slot's end (contract §4).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The slot's end, Unix ms.
    pub timestamp_ms: u64,
    /// Scalars by name; absent values are absent. Counts are whole numbers.
    pub scalars: BTreeMap<String, f64>,
    pub events_by_severity: BTreeMap<String, u64>,
    pub events_by_category: BTreeMap<String, u64>,
}

/// What has been seen since the store was first used: part of the state, so it is equal on every node and survives restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// `[category][severity]`, in the order of the enums.
    pub events: Vec<[u64; 4]>,
    /// By source, in the order of the configuration.
    pub sources: Vec<SourceTotals>,
    /// (rule, severity, status) → transitions.
    pub alerts: Vec<(String, Severity, Status, u64)>,
    /// (rule, severity) → firing now.
    pub alerts_active: Vec<(String, Severity, u64)>,
    pub slots_closed: u64,
    pub operation_duration: DurationTotals,
    /// Sessions that were not tracked because `limits.sessions` was reached.
    pub sessions_overflow: u64,
    /// Entities that were not tracked because `limits.entities` was reached.
    pub entities_overflow: u64,
    /// `severity` texts that were ignored.
    pub severities_ignored: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceTotals {
    pub name: String,
    pub events: u64,
    /// By `Invalid::as_str`.
    pub invalid: BTreeMap<String, u64>,
    /// By `GapReason`.
    pub gaps: BTreeMap<String, u64>,
    /// By `TimestampFault::as_str`.
    pub timestamps_replaced: BTreeMap<String, u64>,
    /// Arrival of the newest entry, Unix ms; 0 before the first.
    pub last_event_ms: u64,
}

/// `auditcast_operation_duration_seconds`: counts per bucket (not cumulative) for [`DurationTotals::BOUNDS`] and one above.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DurationTotals {
    pub counts: Vec<u64>,
    pub sum_seconds: f64,
}

impl DurationTotals {
    pub const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
}
