//! What is proved: every series of contract §8 is there from the start and at 0, stream series are absolute, and promtool
//! has nothing to say.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use super::*;
use crate::detect::{DurationTotals, SourceTotals, Status, Totals};

fn metrics() -> Arc<Metrics> {
    Metrics::new(
        &["app".to_owned(), "http".to_owned()],
        &[("high_failed_login_rate".to_owned(), Severity::High)],
        "0.1.0",
        "abc",
        "f00",
    )
}

fn types(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_series_is_there_from_the_start_at_zero() {
    let text = metrics().render();
    let types = types(&text);
    for (name, kind) in [
        ("failed_logins_last_hour", "gauge"),
        ("rate_limit_violations", "gauge"),
        ("permission_violations", "gauge"),
        ("suspicious_activities", "gauge"),
        ("session_timeouts", "gauge"),
        ("active_sessions", "gauge"),
        ("operation_duration_seconds", "histogram"),
        ("events_total", "counter"),
        ("source_events_total", "counter"),
        ("source_invalid_total", "counter"),
        ("source_last_event_timestamp_seconds", "gauge"),
        ("source_gaps_total", "counter"),
        ("timestamps_replaced_total", "counter"),
        ("replayed_entries_total", "counter"),
        ("event_processing_seconds", "histogram"),
        ("alerts_total", "counter"),
        ("alerts_active", "gauge"),
        ("slots_closed_total", "counter"),
        ("slots_late_total", "counter"),
        ("commit_seconds", "histogram"),
        ("active", "gauge"),
        ("connections", "gauge"),
        ("connections_rejected_total", "counter"),
        ("disconnects_total", "counter"),
        ("frames_sent_total", "counter"),
        ("auth_failures_total", "counter"),
        ("journal_events_total", "counter"),
        ("alert_delivery_seconds", "histogram"),
        ("store_up", "gauge"),
        ("store_reconnects_total", "counter"),
        ("ready", "gauge"),
        ("config_last_reload_successful", "gauge"),
        ("config_info", "gauge"),
        ("build_info", "gauge"),
    ] {
        assert_eq!(types.get(&format!("auditcast_{name}")).map(String::as_str), Some(kind), "{name}");
    }
    assert!(types.contains_key("process_resident_memory_bytes"));
    for absent in ["auth_success_ratio", "error_ratio", "operation_p95_seconds", "source_lag_entries"] {
        assert!(!text.contains(absent), "{absent} has no value yet");
    }
    for series in [
        r#"auditcast_events_total{category="rate_limit",severity="critical"}"#,
        r#"auditcast_source_invalid_total{source="app",reason="bad_json"}"#,
        r#"auditcast_source_gaps_total{source="http",reason="rewound"}"#,
        r#"auditcast_timestamps_replaced_total{source="app",reason="skewed"}"#,
        r#"auditcast_alerts_total{rule="high_failed_login_rate",severity="high",status="resolved"}"#,
        r#"auditcast_alerts_total{rule="event",severity="critical",status="firing"}"#,
        r#"auditcast_alerts_active{rule="audit_gap",severity="high"}"#,
        r#"auditcast_connections{transport="sse"}"#,
        r#"auditcast_disconnects_total{code="other"}"#,
        r#"auditcast_auth_failures_total{reason="blacklisted"}"#,
        r#"auditcast_operation_duration_seconds_bucket{le="+Inf"}"#,
    ] {
        assert_eq!(value(&text, series), Some(0.0), "{series}");
    }
    assert_eq!(value(&text, r#"auditcast_build_info{revision="abc",version="0.1.0"}"#), Some(1.0));
}

#[test]
fn stream_series_are_set_not_added() {
    let metrics = metrics();
    let mut events = vec![[0; 4]; 15];
    events[0] = [7, 51, 0, 0];
    let totals = Totals {
        events,
        sources: vec![SourceTotals {
            name: "app".to_owned(),
            events: 58,
            invalid: BTreeMap::from([("bad_json".to_owned(), 2)]),
            last_event_ms: 1_700_000_000_500,
            ..SourceTotals::default()
        }],
        alerts: vec![("high_failed_login_rate".to_owned(), Severity::High, Status::Firing, 1)],
        alerts_active: vec![("high_failed_login_rate".to_owned(), Severity::High, 1)],
        slots_closed: 3,
        operation_duration: DurationTotals { counts: vec![1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4], sum_seconds: 200.5 },
        ..Totals::default()
    };
    let values = detect::Metrics {
        scalars: BTreeMap::from([
            ("failed_logins_last_hour".to_owned(), 51.0),
            ("auth_success_ratio".to_owned(), 0.12),
            ("exports".to_owned(), 4.0),
            ("alerts_total".to_owned(), 9.0),
            ("not a name".to_owned(), 9.0),
        ]),
        ..detect::Metrics::default()
    };
    metrics.apply(&totals, &values);
    metrics.apply(&totals, &values);
    let text = metrics.render();
    for (series, wanted) in [
        ("auditcast_failed_logins_last_hour", 51.0),
        ("auditcast_auth_success_ratio", 0.12),
        ("auditcast_exports", 4.0),
        (r#"auditcast_events_total{category="auth",severity="medium"}"#, 51.0),
        (r#"auditcast_source_events_total{source="app"}"#, 58.0),
        (r#"auditcast_source_events_total{source="http"}"#, 0.0),
        (r#"auditcast_source_invalid_total{source="app",reason="bad_json"}"#, 2.0),
        (r#"auditcast_source_last_event_timestamp_seconds{source="app"}"#, 1_700_000_000.5),
        (r#"auditcast_alerts_total{rule="high_failed_login_rate",severity="high",status="firing"}"#, 1.0),
        (r#"auditcast_alerts_active{rule="high_failed_login_rate",severity="high"}"#, 1.0),
        ("auditcast_slots_closed_total", 3.0),
        (r#"auditcast_operation_duration_seconds_bucket{le="0.025"}"#, 3.0),
        (r#"auditcast_operation_duration_seconds_bucket{le="30"}"#, 3.0),
        (r#"auditcast_operation_duration_seconds_bucket{le="+Inf"}"#, 7.0),
        ("auditcast_operation_duration_seconds_count", 7.0),
        ("auditcast_operation_duration_seconds_sum", 200.5),
    ] {
        assert_eq!(value(&text, series), Some(wanted), "{series}");
    }
    let once = text.lines().filter(|line| line.starts_with("# TYPE auditcast_alerts_total ")).count();
    assert_eq!(once, 1, "an own metric cannot stand in for a series of ours");
    assert!(!text.contains("not a name"));
}

#[test]
fn a_lag_is_absent_while_unknown() {
    let metrics = metrics();
    metrics.set_source_lag("app", Some(12));
    assert_eq!(value(&metrics.render(), r#"auditcast_source_lag_entries{source="app"}"#), Some(12.0));
    metrics.set_source_lag("app", None);
    metrics.set_source_lag("made up", Some(1));
    assert!(!metrics.render().contains("source_lag_entries"));
}

#[test]
fn what_is_not_ours_is_other() {
    let metrics = metrics();
    metrics.disconnected(3008);
    metrics.disconnected(4242);
    metrics.auth_failures.inc("\"}\n");
    metrics.set_store_reconnects(4);
    metrics.set_store_reconnects(4);
    let text = metrics.render();
    assert_eq!(value(&text, r#"auditcast_disconnects_total{code="3008"}"#), Some(1.0));
    assert_eq!(value(&text, r#"auditcast_disconnects_total{code="other"}"#), Some(1.0));
    assert_eq!(value(&text, r#"auditcast_auth_failures_total{reason="other"}"#), Some(1.0));
    assert_eq!(value(&text, "auditcast_store_reconnects_total"), Some(4.0));
}

#[test]
fn every_close_code_of_ours_has_its_series() {
    let ours = crate::wire::CloseCode::ALL.iter().map(|code| code.label()).chain(["other"]);
    assert_eq!(ours.collect::<BTreeSet<_>>(), CLOSE_CODES.iter().copied().collect());
}

#[test]
fn ready_follows_the_checks() {
    let metrics = metrics();
    assert_eq!(value(&metrics.render(), "auditcast_ready"), Some(0.0));
    for name in ["source", "positions", "store", "lease"] {
        metrics.health.set(name, true, "ok", 1);
    }
    let text = metrics.render();
    assert_eq!(value(&text, "auditcast_ready"), Some(1.0));
    assert_eq!(value(&text, "auditcast_store_up"), Some(1.0));
}

#[test]
fn names_that_would_stand_twice_are_reserved() {
    let metrics = metrics();
    metrics.set_source_lag("app", Some(1));
    let scalars = ["failed_logins_last_hour", "rate_limit_violations", "permission_violations"];
    let scalars = scalars.into_iter().chain(["suspicious_activities", "session_timeouts", "active_sessions"]);
    let scalars: BTreeSet<String> = scalars.map(|name| format!("auditcast_{name}")).collect();
    for name in types(&metrics.render()).into_keys().filter(|name| name.starts_with("auditcast_")) {
        let short = name.trim_start_matches("auditcast_");
        assert_eq!(is_reserved(short), !scalars.contains(&name), "{name}");
    }
}

#[test]
fn a_new_configuration_shows() {
    let metrics = metrics();
    metrics.set_config(&[("mine".to_owned(), Severity::Low)], "beef");
    let text = metrics.render();
    assert_eq!(value(&text, r#"auditcast_config_info{hash="beef"}"#), Some(1.0));
    assert!(!text.contains("f00"));
    assert_eq!(value(&text, r#"auditcast_alerts_active{rule="mine",severity="low"}"#), Some(0.0));
}

#[test]
fn promtool_has_nothing_to_say() {
    let metrics = metrics();
    metrics.set_source_lag("app", Some(3));
    let scalars = ["auth_success_ratio", "error_ratio", "operation_p95_seconds"].map(|name| (name.to_owned(), 0.5));
    metrics.apply(&Totals::default(), &detect::Metrics { scalars: BTreeMap::from(scalars), ..detect::Metrics::default() });
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("not run: no promtool");
        return;
    };
    child.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
