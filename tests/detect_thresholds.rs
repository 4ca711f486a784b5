//! Thresholds and windows (contract §4), as scenarios: (time, event) → what is said.

mod detect_support;

use std::sync::Arc;

use auditcast::{
    detect::{Bound, Detector, Status},
    event::{Outcome, Severity},
};
use detect_support::*;
use serde_json::json;

fn failed(i: u64) -> auditcast::event::Event<'static> {
    event("auth.failed").user(&format!("u{}", i % 7)).detail("ip_address", format!("10.0.0.{}", i % 3))
}

#[test]
fn fifty_failed_logins_are_silent_and_the_51st_is_one_alert() {
    let mut bed = Bed::new(options());
    assert!(bed.events(S, 50, failed).to(5 * S).said().is_empty());
    assert_eq!(bed.scalar("failed_logins_last_hour"), Some(50.0));
    bed.events(7 * S, 1, failed).to(10 * S);
    let alert = bed.out[0].clone();
    assert_eq!(bed.said(), ["10s firing high_failed_login_rate: High failed login rate detected: 51 in last hour"]);
    assert_eq!(alert.event_type, "high_failed_login_rate");
    assert_eq!((alert.severity, alert.value, alert.threshold), (Severity::High, Some(51.0), Some(50.0)));
    assert_eq!((alert.timestamp_ms, alert.window_ms), (T0 + 10 * S, Some(HOUR)));
    assert_eq!(alert.alert_id.len(), 32);
    assert_eq!(alert.evidence.len(), 20);
    assert_eq!(alert.evidence[0], format!("app/{}-1", T0 + S));
    assert_eq!(alert.evidence[19], format!("app/{}-51", T0 + 7 * S));
    assert_eq!(
        alert.details["top"]["ip_address"],
        json!([{"value": "10.0.0.0", "count": 18}, {"value": "10.0.0.1", "count": 17}, {"value": "10.0.0.2", "count": 16}])
    );
    assert_eq!(alert.details["top"]["user_id"].as_array().unwrap().len(), 5);

    bed.events(20 * S, 100, failed).to(HOUR + 15 * S);
    assert!(bed.said().is_empty(), "still the same alert");
    // The last hundred leave at 1h 20s; five minutes later it is over.
    bed.to(2 * HOUR);
    let resolved = bed.out[0].clone();
    assert_eq!(
        bed.said(),
        ["1h 5m 20s resolved high_failed_login_rate: Resolved: High failed login rate detected: 0 in last hour"]
    );
    assert_eq!((resolved.alert_id, resolved.value), (alert.alert_id, Some(0.0)));
    assert!(bed.d.quiescent_after());
}

#[test]
fn a_hundred_rate_limit_violations_are_silent_and_the_101st_is_one_alert() {
    let mut bed = Bed::new(options());
    let hit = |_| event("rate_limit.exceeded");
    assert!(bed.events(S, 100, hit).to(5 * S).said().is_empty());
    bed.events(6 * S, 1, hit).to(2 * HOUR);
    assert_eq!(
        bed.said(),
        [
            "10s firing high_rate_limit_violations: High rate limit violations: 101",
            "1h 5m 10s resolved high_rate_limit_violations: Resolved: High rate limit violations: 0",
        ]
    );
}

#[test]
fn alerts_of_one_slot_are_ordered_by_rule() {
    let mut bed = Bed::new(options());
    bed.events(S, 101, |_| event("rate_limit.exceeded")).events(2 * S, 51, failed).to(5 * S);
    let rules: Vec<_> = bed.out.iter().map(|a| a.rule.as_str()).collect();
    assert_eq!(rules, ["high_failed_login_rate", "high_rate_limit_violations"]);
}

#[test]
fn a_login_that_did_not_succeed_is_a_failed_one() {
    let mut bed = Bed::new(options());
    bed.event(S, event("auth.success"));
    for outcome in [Outcome::Failure, Outcome::Denied, Outcome::Error] {
        bed.event(S, event("auth.success").outcome(outcome));
    }
    bed.to(5 * S);
    assert_eq!(bed.scalar("failed_logins_last_hour"), Some(3.0));
    assert_eq!(bed.scalar("auth_success_ratio"), Some(0.25));
    assert_eq!(bed.scalar("error_ratio"), Some(0.75));
}

#[test]
fn crossing_again_while_it_is_kept_firing_is_the_same_alert() {
    let mut o = options();
    o.counts[0].window_ms = MIN;
    let mut bed = Bed::new(o);
    bed.events(S, 51, failed).to(4 * MIN);
    assert_eq!(bed.said().len(), 1);
    // Clear since 1m 5s; crossed again at 4m 5s, clear again at 5m 5s.
    bed.events(4 * MIN + S, 60, failed).to(10 * MIN);
    assert!(bed.said().is_empty());
    bed.to(11 * MIN);
    assert_eq!(bed.said(), ["10m 5s resolved high_failed_login_rate: Resolved: High failed login rate detected: 0 in last hour"]);
    bed.events(12 * MIN, 51, failed).to(12 * MIN + 5 * S);
    assert_eq!(bed.said().len(), 1, "and then it is a new one");
}

#[test]
fn for_delays_firing_and_a_dip_starts_it_over() {
    let mut o = options();
    o.counts[0].window_ms = MIN;
    o.thresholds[0].for_ms = 30 * S;
    let mut bed = Bed::new(o);
    bed.events(S, 51, failed).to(MIN);
    assert_eq!(bed.said(), ["35s firing high_failed_login_rate: High failed login rate detected: 51 in last hour"]);

    let mut o = options();
    o.counts[0].window_ms = 20 * S;
    o.thresholds[0].for_ms = 30 * S;
    let mut bed = Bed::new(o);
    bed.events(S, 51, failed).events(31 * S, 51, failed).to(2 * MIN);
    assert!(bed.said().is_empty(), "crossed for 20 s, twice");
}

#[test]
fn hysteresis_clears_at_its_own_value() {
    let mut o = options();
    o.counts[0].window_ms = MIN;
    o.thresholds[0].clear_at = 10.0;
    o.thresholds[0].keep_firing_for_ms = 0;
    let mut bed = Bed::new(o);
    bed.events(S, 51, failed).events(30 * S, 11, failed).to(70 * S);
    assert_eq!(bed.said().len(), 1, "11 is below the threshold and above clear_at");
    bed.to(2 * MIN);
    assert_eq!(bed.said().len(), 1);
}

#[test]
fn a_ratio_fires_below_with_enough_events_and_an_absent_one_keeps_its_state() {
    let mut o = options();
    o.windows_ms.insert("auth_success_ratio".into(), MIN);
    let mut low = threshold("few_succeed", "auth_success_ratio", Bound::Below(0.5), Severity::Low, None);
    low.min_count = 10;
    low.keep_firing_for_ms = 0;
    o.thresholds = vec![low];
    let mut bed = Bed::new(o);
    bed.events(S, 6, |_| event("auth.failed")).events(S, 3, |_| event("auth.success")).to(5 * S);
    assert!(bed.said().is_empty(), "nine are not enough");
    bed.event(6 * S, event("auth.failed")).to(5 * MIN);
    assert_eq!(bed.said(), ["10s firing few_succeed: few_succeed: 0.3"]);
    assert_eq!(bed.scalar("auth_success_ratio"), None);
    bed.event(6 * MIN, event("auth.success")).to(7 * MIN);
    assert_eq!(bed.said(), ["6m resolved few_succeed: Resolved: few_succeed: 1"]);
}

#[test]
fn silence_can_be_what_is_wrong() {
    let mut o = options();
    o.thresholds =
        vec![threshold("quiet", "failed_logins_last_hour", Bound::Below(1.0), Severity::Low, Some("none in {window}"))];
    let mut d = Detector::new(Arc::new(o));
    d.skip_to(T0);
    let mut out = Vec::new();
    d.close(T0 + MIN, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].message, "none in 1h");
    assert!(!d.quiescent_after());
}

#[test]
fn resolved_by_hand_it_fires_again_only_after_it_has_cleared() {
    let mut o = options();
    o.counts[0].window_ms = MIN;
    let mut bed = Bed::new(o);
    bed.events(S, 51, failed).to(5 * S);
    let id = bed.out[0].alert_id.clone();
    bed.said();
    assert!(!bed.d.resolve_by_hand("0123", T0 + 7 * S, &mut bed.out));
    assert!(bed.d.resolve_by_hand(&id, T0 + 7 * S, &mut bed.out));
    assert!(!bed.d.resolve_by_hand(&id, T0 + 7 * S, &mut bed.out));
    assert_eq!(bed.said(), ["7s resolved high_failed_login_rate: Resolved: High failed login rate detected: 51 in last hour"]);
    bed.events(8 * S, 51, failed).to(MIN);
    assert!(bed.said().is_empty());
    bed.to(2 * MIN).events(3 * MIN, 51, failed).to(3 * MIN);
    assert_eq!(bed.out.len(), 1);
    assert_ne!(bed.out[0].alert_id, id);
}

#[test]
fn the_stores_open_alerts_win() {
    let mut bed = Bed::new(options());
    bed.events(S, 51, failed).event(S, event("security.injection_attempt")).to(5 * S);
    let open = std::mem::take(&mut bed.out);
    assert_eq!(open.len(), 2);

    let mut lost = bed.d.clone();
    lost.adopt_open(Vec::new());
    let mut out = Vec::new();
    lost.close(T0 + 30 * MIN, &mut out);
    assert!(out.is_empty(), "resolved by hand elsewhere: held while the value is bad");
    lost.close(T0 + 3 * HOUR, &mut out);
    assert!(out.is_empty() && lost.quiescent_after());

    let mut fresh = Detector::new(Arc::new(options()));
    fresh.skip_to(T0 + 5 * S);
    fresh.adopt_open(open.clone());
    fresh.close(T0 + 2 * HOUR, &mut out);
    let ended: Vec<_> = out.iter().map(|a| (a.alert_id.as_str(), a.status)).collect();
    assert_eq!(
        ended,
        [(open[1].alert_id.as_str(), Status::Resolved), (open[0].alert_id.as_str(), Status::Resolved)],
        "the threshold's 5 min after the start, the event's an hour after it"
    );
}

#[test]
fn new_options_keep_what_they_do_not_change() {
    let mut bed = Bed::new(options());
    bed.events(S, 101, |_| event("rate_limit.exceeded")).events(2 * S, 51, failed).to(5 * S);
    bed.said();
    let mut o = options();
    o.sources = vec!["edge".into(), "app".into()];
    o.counts[0].window_ms = 2 * HOUR;
    o.thresholds.remove(1);
    bed.d.set_options(Arc::new(o));
    assert_eq!(bed.d.totals().sources[1].events, 152);
    bed.to(10 * S);
    assert_eq!(
        bed.said(),
        ["10s resolved high_rate_limit_violations: Resolved: High rate limit violations: 101"],
        "its rule is gone"
    );
    assert_eq!(bed.scalar("failed_logins_last_hour"), Some(51.0));
    bed.to(3 * HOUR);
    assert_eq!(
        bed.said(),
        ["2h 5m 20s resolved high_failed_login_rate: Resolved: High failed login rate detected: 0 in last hour"],
        "two hours, exact to 20 s"
    );
}

#[test]
fn metrics_of_a_slot() {
    let mut bed = Bed::new(options());
    for ms in 1..=100u64 {
        bed.event(S, event("api.call").detail("duration_ms", ms));
    }
    bed.event(S, event("api.call").detail("duration_ms", "not a number"));
    bed.event(S, event("permission.denied")).event(S, event("session.timeout"));
    bed.event(S, event("security.injection_attempt")).to(5 * S);
    let p95 = bed.scalar("operation_p95_seconds").unwrap();
    assert!((p95 - 0.095).abs() <= 0.0019, "{p95}");
    let m = bed.d.metrics();
    assert_eq!(m.timestamp_ms, T0 + 5 * S);
    let names: Vec<_> = m.scalars.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "active_sessions",
            "error_ratio",
            "failed_logins_last_hour",
            "operation_p95_seconds",
            "permission_violations",
            "rate_limit_violations",
            "session_timeouts",
            "suspicious_activities"
        ],
        "a ratio of 0/0 is absent"
    );
    assert_eq!(m.events_by_severity["low"], 102);
    assert_eq!(m.events_by_severity["critical"], 0);
    assert_eq!(m.events_by_category["other"], 101);
    assert_eq!(m.events_by_category.len(), 15);
    let totals = bed.d.totals();
    assert_eq!(totals.operation_duration.counts.iter().sum::<u64>(), 100);
    assert_eq!(totals.slots_closed, 1);
    assert_eq!(totals.events[2][1], 1, "permission, medium");
}
