//! `[metrics]`, `[[threshold]]`, `[severity]`, `[privacy]` and the times of `[monitor]`: what decides detection.

use std::{collections::BTreeMap, time::Duration};

use super::{
    ask::{Ask, quoted, shown_duration},
    fault::{Origin, nearest},
    rooms::{DAY, ask_severity, is_name, member_names},
    url,
};
use crate::{
    detect::{self, Bound, CountMetric, Threshold},
    event::{self, Lists, PatternList, Severity},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);

const PATTERN_BYTES_MAX: usize = 256;
const PATTERNS_MAX: usize = 1000;
const THRESHOLDS_MAX: usize = 1000;
const LABELS_MAX: usize = 16;
/// Thresholds that a fault names.
const NAMED_MAX: usize = 10;
const MESSAGE_CHARS_MAX: usize = 512;
/// What [`Lists`] has room for beside the eight of the contract.
const OWN_METRICS_MAX: usize = 56;

/// The lists of contract §3 in the order of the bits of [`Lists`]; whether each is a gauge by itself.
pub(super) const LISTS: [(&str, Lists, bool); 8] = [
    ("failed_logins_last_hour", Lists::FAILED_LOGIN, true),
    ("successful_logins", Lists::SUCCESSFUL_LOGIN, false),
    ("rate_limit_violations", Lists::RATE_LIMIT, true),
    ("permission_violations", Lists::PERMISSION, true),
    ("suspicious_activities", Lists::SUSPICIOUS, true),
    ("session_timeouts", Lists::SESSION_TIMEOUT, true),
    ("session_opens", Lists::SESSION_OPEN, false),
    ("session_ends", Lists::SESSION_END, false),
];

/// Metrics that are made of more than one list.
const WINDOWS: [&str; 5] =
    ["auth_success_ratio", "error_ratio", "operation_p95_seconds", "events_by_severity", "events_by_category"];

/// The scalars beside the counts.
const SCALARS: [&str; 4] = ["active_sessions", "auth_success_ratio", "error_ratio", "operation_p95_seconds"];

/// Series of contract §8, without `auditcast_`: a metric of the user's own must not be taken for one of them.
const TAKEN: [&str; 44] = [
    "active_sessions",
    "operation_duration_seconds",
    "events_total",
    "source_events_total",
    "source_invalid_total",
    "source_lag_entries",
    "source_last_event_timestamp_seconds",
    "source_gaps_total",
    "timestamps_replaced_total",
    "replayed_entries_total",
    "event_processing_seconds",
    "alerts_total",
    "alerts_active",
    "slots_closed_total",
    "slots_late_total",
    "commit_seconds",
    "active",
    "connections",
    "connections_rejected_total",
    "disconnects_total",
    "frames_sent_total",
    "auth_failures_total",
    "alert_delivery_seconds",
    "store_up",
    "store_reconnects_total",
    "ready",
    "config_last_reload_successful",
    "config_info",
    "build_info",
    "notifications_total",
    "notifications_failed_total",
    "notification_attempts_total",
    "notification_seconds",
    "outbox_oldest_timestamp_seconds",
    "notification_dead_letters_total",
    "breaker_open",
    "silences_active",
    "notifications_suppressed_total",
    "sessions_overflow_total",
    "entities_overflow_total",
    "severities_ignored_total",
    "dead_letters_total",
    "up",
    "info",
];

/// Rule names that are the house's own.
pub(super) const RULES_TAKEN: [&str; 4] = ["event", "audit_gap", "audit_clock", "audit_limit"];

pub(super) fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The times of `[monitor]` that are the detector's.
pub(super) struct Times {
    interval: Duration,
    interval_origin: Origin,
    snapshot_interval: Duration,
    alert_events_at: Severity,
    event_alert_ttl: Duration,
    suppress: Duration,
}

impl Times {
    pub fn read(ask: &Ask<'_>) -> Times {
        let times = Times {
            interval: ask.duration("interval", MS * 100, HOUR),
            interval_origin: ask.origin("interval"),
            snapshot_interval: ask.duration("snapshot_interval", SECOND, DAY),
            alert_events_at: ask_severity(ask, "alert_events_at"),
            event_alert_ttl: ask.duration("event_alert_ttl", SECOND, DAY * 90),
            suppress: ask.duration("suppress", Duration::ZERO, DAY),
        };
        if !times.interval.subsec_nanos().is_multiple_of(1_000_000) {
            ask.fault("interval", "expected whole milliseconds");
        }
        if times.snapshot_interval < times.interval {
            let name = if ask.origin("snapshot_interval").is_default() { "interval" } else { "snapshot_interval" };
            ask.fault(name, "expected monitor.snapshot_interval to be at least monitor.interval");
        }
        times
    }
}

/// The lists of `[metrics]`, `[severity]`, `[privacy]`; and the names of the user's own metrics, in the order of their bits.
pub(super) fn event_options(root: &Ask<'_>) -> (event::Options, Vec<String>) {
    let metrics = root.section("metrics");
    let mut own: Vec<String> = metrics
        .names()
        .into_iter()
        .filter(|name| !LISTS.iter().any(|(known, ..)| known == name) && !WINDOWS.contains(&name.as_str()))
        .collect();
    // By name, so that the bits do not depend on the order of the file.
    own.sort();
    let lists = LISTS.iter().map(|(name, ..)| *name).chain(own.iter().map(String::as_str));
    let lists = lists.map(|name| pattern_list(&metrics.section(name), Some("events"))).collect();

    let severities = root.section("severity");
    let table = severities.word("defaults", &["full", "a"]) == "full";
    let event_may_lower = severities.boolean("event_may_lower");
    let section = severities.section("overrides");
    let mut overrides = Vec::new();
    for pattern in section.names() {
        if let Err(text) = check_pattern(&pattern) {
            section.fault(&pattern, text);
        }
        overrides.push((pattern.clone(), ask_severity(&section, &pattern)));
    }
    if overrides.len() > PATTERNS_MAX {
        severities.fault("overrides", format!("expected at most {PATTERNS_MAX} patterns, found {}", overrides.len()));
    }
    section.done();
    severities.done();

    let privacy = root.section("privacy");
    let (mask, drop) = (member_names(&privacy, "mask"), member_names(&privacy, "drop"));
    privacy.done();
    (event::Options { lists, overrides, table, event_may_lower, mask, drop }, own)
}

pub(super) fn pattern_list(ask: &Ask<'_>, wanted: Option<&str>) -> PatternList {
    let read = |name: &str| {
        let written = ask.texts(name);
        if written.len() > PATTERNS_MAX {
            ask.fault(name, format!("expected at most {PATTERNS_MAX} patterns, found {}", written.len()));
        }
        let mut patterns = Vec::with_capacity(written.len());
        for (pattern, origin) in written {
            match check_pattern(&pattern) {
                Ok(()) => patterns.push(pattern),
                Err(text) => ask.fault_at(origin, &ask.key(name), text),
            }
        }
        patterns
    };
    let list = PatternList { events: read("events"), except: read("except") };
    if let Some(wanted) = wanted.filter(|wanted| !ask.has(wanted)) {
        ask.fault(wanted, "expected a list of patterns, such as [\"payment_*\"], found nothing");
    }
    list
}

/// What [`event`] can make a pattern of.
fn check_pattern(pattern: &str) -> Result<(), String> {
    let fault = if pattern.trim().is_empty() {
        "expected a pattern that is not empty"
    } else if pattern.len() > PATTERN_BYTES_MAX {
        "expected a pattern of at most 256 bytes"
    } else if pattern.chars().any(char::is_control) {
        "expected a pattern without control characters"
    } else if pattern.contains('?') {
        "expected a pattern where * is the only wildcard"
    } else {
        return Ok(());
    };
    Err(format!("{fault}, found {}", quoted(pattern)))
}

/// Windows, metrics and thresholds; `fill` adds what other sections say.
pub(super) fn detect_options(
    root: &Ask<'_>,
    times: &Times,
    own: &[String],
    fill: impl FnOnce(&mut detect::Options),
) -> detect::Options {
    let metrics = root.section("metrics");
    let mut counts = Vec::new();
    let mut windows_ms = BTreeMap::new();
    for (name, list, gauge) in LISTS {
        let ask = known_keys(&metrics, name);
        if gauge {
            counts.push(CountMetric { name: name.to_owned(), list: list.0.trailing_zeros(), window_ms: window(&ask, times) });
        }
        ask.done();
    }
    for name in WINDOWS {
        let ask = metrics.section(name);
        windows_ms.insert(name.to_owned(), window(&ask, times));
        ask.done();
    }
    for (list, name) in (Lists::FIRST_OWN..).zip(own) {
        let ask = known_keys(&metrics, name);
        own_name(&metrics, name);
        let window_ms = if ask.has("window") { window(&ask, times) } else { ms(HOUR) };
        if !ask.has("window") && times.interval > HOUR {
            ask.fault_at(times.interval_origin.clone(), "monitor.interval", format!("expected at most the window of {name}, 1h"));
        }
        counts.push(CountMetric { name: name.clone(), list, window_ms });
        ask.done();
    }
    if own.len() > OWN_METRICS_MAX {
        let last = own.last().map_or("", String::as_str);
        metrics.fault(last, format!("expected at most {OWN_METRICS_MAX} metrics of your own, found {}", own.len()));
    }
    let scalars: Vec<&str> = counts.iter().map(|c| c.name.as_str()).chain(SCALARS).collect();
    let thresholds = thresholds(&root.section("threshold"), &scalars);
    let mut options = detect::Options {
        interval_ms: ms(times.interval),
        snapshot_interval_ms: ms(times.snapshot_interval),
        alert_events_at: times.alert_events_at,
        event_alert_ttl_ms: ms(times.event_alert_ttl),
        suppress_ms: ms(times.suppress),
        session_timeout_ms: 0,
        sessions_max: 0,
        entities_max: 0,
        counts,
        windows_ms,
        thresholds,
        rules: Vec::new(),
        allowed: detect::Allowed::default(),
        sources: Vec::new(),
        external_url: None,
    };
    fill(&mut options);
    options
}

/// The patterns have been read by [`event_options`].
fn known_keys<'r>(metrics: &Ask<'r>, name: &str) -> Ask<'r> {
    let ask = metrics.section(name);
    ask.passed("events");
    ask.passed("except");
    ask
}

fn own_name(metrics: &Ask<'_>, name: &str) {
    if !is_name(name) {
        return metrics.fault(name, format!("expected a name of 1 to 64 of a-z, 0-9 and _, found {}", quoted(name)));
    }
    let stem = ["_bucket", "_count", "_sum"].into_iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    if TAKEN.contains(&name) || TAKEN.contains(&stem) {
        return metrics.fault(name, format!("the name \"{name}\" is taken by a series of auditcast's own"));
    }
    // A slip in a built-in's name would be a new metric that nobody asked for.
    let known = LISTS.iter().map(|(known, ..)| *known).chain(WINDOWS);
    if let Some(near) = nearest(name, known).filter(|_| !metrics.section(name).has("events")) {
        metrics.fault(name, format!("unknown metric without events, did you mean \"{near}\"?"));
    }
}

fn window(ask: &Ask<'_>, times: &Times) -> u64 {
    let Some(window) = ask.good_duration("window", MS * 100, WINDOW_MAX) else { return 0 };
    if window < times.interval {
        let text = format!(
            "expected a window of at least monitor.interval, found {} with an interval of {}",
            shown_duration(window),
            shown_duration(times.interval)
        );
        match ask.origin("window") {
            Origin::Default { .. } => ask.fault_at(times.interval_origin.clone(), &ask.key("window"), text),
            origin => ask.fault_at(origin, &ask.key("window"), text),
        }
    }
    ms(window)
}

fn thresholds(list: &Ask<'_>, scalars: &[&str]) -> Vec<Threshold> {
    let mut thresholds = Vec::new();
    let known: Vec<String> = list.names().into_iter().filter(|name| list.section(name).has("metric")).collect();
    for name in list.names() {
        if !is_name(&name) {
            list.fault(&name, format!("expected a name of 1 to 64 of a-z, 0-9 and _, found {}", quoted(&name)));
        } else if RULES_TAKEN.contains(&name.as_str()) {
            list.fault(&name, format!("the name \"{name}\" is taken by a rule of auditcast's own"));
        }
        let ask = list.section(&name);
        thresholds.extend(threshold(name, &ask, scalars, &known));
        ask.done();
    }
    if thresholds.len() > THRESHOLDS_MAX {
        let last = thresholds.last().map_or("", |t| &t.name);
        list.fault(last, format!("expected at most {THRESHOLDS_MAX} thresholds, found {}", thresholds.len()));
    }
    thresholds
}

fn threshold(name: String, ask: &Ask<'_>, scalars: &[&str], known: &[String]) -> Option<Threshold> {
    let expected = "the name of a metric";
    let metric = if ask.has("metric") {
        ask.text_where("metric", expected, |text| !text.is_empty())
    } else {
        ask.passed("metric");
        // Most often the name of one that is there was meant.
        let meant = match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {}?", quoted(near)),
            None => format!("there are {}", known.iter().take(NAMED_MAX).map(|k| quoted(k)).collect::<Vec<_>>().join(", ")),
        };
        let text =
            format!("expected {expected}, found nothing; without one there is no threshold {} yet, {meant}", quoted(&name));
        ask.fault("metric", text);
        String::new()
    };
    if !metric.is_empty() && !scalars.contains(&metric.as_str()) {
        let near =
            nearest(&metric, scalars.iter().copied()).map(|near| format!(", did you mean \"{near}\"?")).unwrap_or_default();
        ask.fault("metric", format!("there is no metric {}{near}", quoted(&metric)));
    }
    let clear_at = ask.number("clear_at");
    let (bound, limit) = match (ask.number("above"), ask.number("below")) {
        (Some(above), None) => {
            if clear_at.is_some_and(|clear| clear > above) {
                ask.fault("clear_at", format!("expected at most {above}, where it fires"));
            }
            (Some(Bound::Above(above)), above)
        }
        (None, Some(below)) => {
            if clear_at.is_some_and(|clear| clear < below) {
                ask.fault("clear_at", format!("expected at least {below}, where it fires"));
            }
            (Some(Bound::Below(below)), below)
        }
        (Some(_), Some(_)) => {
            ask.fault("below", "expected either above or below, found both");
            (None, 0.0)
        }
        (None, None) => {
            if !ask.has("above") && !ask.has("below") {
                ask.fault("above", "expected above or below with a number, found neither");
            }
            (None, 0.0)
        }
    };
    let time = |key: &str, default: Duration| {
        if ask.has(key) { ask.duration(key, Duration::ZERO, WINDOW_MAX) } else { default }
    };
    let threshold = Threshold {
        name,
        metric,
        bound: bound.unwrap_or(Bound::Above(limit)),
        min_count: if ask.has("min_count") { ask.integer("min_count", 0, 1_000_000_000) } else { 0 },
        clear_at: clear_at.unwrap_or(limit),
        for_ms: ms(time("for", Duration::ZERO)),
        keep_firing_for_ms: ms(time("keep_firing_for", Duration::from_secs(300))),
        severity: if ask.has("severity") { ask_severity(ask, "severity") } else { Severity::Medium },
        message: ask.has("message").then(|| message(ask)),
        labels: labels(&ask.section("labels")),
        runbook_url: if ask.has("runbook_url") {
            ask.parsed("runbook_url", "an http(s) URL", |text| url::http_url(text).map(|_| text.to_owned()))
        } else {
            None
        },
        enabled: if ask.has("enabled") { ask.boolean("enabled") } else { true },
    };
    bound.is_some().then_some(threshold)
}

fn message(ask: &Ask<'_>) -> String {
    let expected = format!("a text of 1 to {MESSAGE_CHARS_MAX} characters on one line");
    let text = ask.text_where("message", &expected, |text| {
        (1..=MESSAGE_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    });
    let mut rest = text.as_str();
    while let Some((_, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').unwrap_or((behind, ""));
        if !["value", "name", "window", "threshold"].contains(&name) {
            let known = "expected only {value}, {name}, {window} and {threshold} in braces";
            ask.fault("message", format!("{known}, found {}", quoted(&format!("{{{name}}}"))));
            break;
        }
        rest = after;
    }
    text
}

pub(super) fn labels(ask: &Ask<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for name in ask.names() {
        if !is_name(&name) {
            ask.fault(&name, format!("expected a label name of 1 to 64 of a-z, 0-9 and _, found {}", quoted(&name)));
        }
        let value = ask.text_where(&name, "a text of at most 256 characters", |text| {
            text.chars().count() <= 256 && !text.chars().any(char::is_control)
        });
        labels.insert(name, value);
    }
    if labels.len() > LABELS_MAX {
        let last = labels.keys().next_back().map_or("", String::as_str);
        ask.fault(last, format!("expected at most {LABELS_MAX} labels, found {}", labels.len()));
    }
    labels
}
