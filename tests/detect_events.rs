//! Alerts about single events, holes and clocks, and the sessions (contract §4), as scenarios.

mod detect_support;

use std::borrow::Cow;

use auditcast::{
    detect::{Gap, GapReason, Kind, Status},
    event::{EntryId, Event, Outcome, Severity},
};
use detect_support::*;
use serde_json::json;

fn attack() -> Event<'static> {
    event("security.injection_attempt")
}

#[test]
fn an_event_is_an_alert_by_itself_and_ends_after_its_ttl() {
    let mut bed = Bed::new(options());
    bed.event(S, event("auth.failed")).event(2 * S, attack().user("7").detail("ip_address", "10.0.0.9"));
    let alert = bed.out[0].clone();
    assert_eq!(bed.said(), ["2s firing event: security.injection_attempt by 7 from 10.0.0.9"]);
    assert_eq!((alert.kind, alert.severity), (Kind::Event, Severity::High));
    assert_eq!((alert.timestamp_ms, alert.user_id.as_deref()), (T0 + 2 * S, Some("7")));
    assert_eq!(alert.source.as_deref(), Some("app"));
    assert_eq!(alert.evidence, [format!("app/{}-2", T0 + 2 * S)]);
    assert_eq!(alert.original_event_type, None);

    bed.to(HOUR);
    assert!(bed.said().is_empty());
    bed.to(HOUR + 5 * S);
    let resolved = bed.out[0].clone();
    assert_eq!(bed.said(), ["1h 5s resolved event: Resolved: security.injection_attempt by 7 from 10.0.0.9"]);
    assert_eq!((resolved.alert_id, resolved.timestamp_ms), (alert.alert_id, T0 + 2 * S));
    assert_eq!((resolved.status, resolved.details["ip_address"].clone()), (Status::Resolved, json!("10.0.0.9")));
}

#[test]
fn messages_are_one_line_of_at_most_512_characters() {
    let mut bed = Bed::new(options());
    let says = |text: &str| Event { message: Some(Cow::Owned(text.into())), ..attack() };
    bed.event(S, says("two\r\nlines\u{1b}[31m\u{2028}é")).event(S, says(&"é".repeat(600))).event(S, says("\n"));
    let messages: Vec<_> = bed.out.iter().map(|a| a.message.as_str()).collect();
    assert_eq!(messages[0], "two  lines [31m é");
    assert_eq!(messages[1].chars().count(), 512);
    assert_eq!(messages[2], "security.injection_attempt by unknown from unknown");
}

#[test]
fn at_low_every_event_is_an_alert() {
    let mut o = options();
    o.alert_events_at = Severity::Low;
    let mut bed = Bed::new(o);
    bed.event(S, Event { username: Some("bob".into()), ..event("api.call").user("7") });
    assert_eq!(bed.said(), ["1s firing event: api.call by bob from unknown"]);
}

#[test]
fn the_same_entry_has_the_same_id_and_another_has_not() {
    let ids = |n: u64| {
        let mut bed = Bed::new(options());
        bed.events(S, n, |_| attack());
        bed.out.iter().map(|a| a.alert_id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(3), ids(3));
    assert_ne!(ids(2)[0], ids(2)[1]);
}

#[test]
fn suppressed_ones_count_in_the_first() {
    let mut o = options();
    o.suppress_ms = MIN;
    let mut bed = Bed::new(o);
    let from = |ip: &str| attack().user("7").detail("ip_address", ip);
    bed.event(S, from("a")).events(2 * S, 4, |_| from("a")).event(3 * S, from("b")).event(61 * S, from("a"));
    assert_eq!(
        bed.said(),
        [
            "1s firing event: security.injection_attempt by 7 from a",
            "3s firing event: security.injection_attempt by 7 from b",
            "1m 1s firing event: security.injection_attempt by 7 from a",
        ]
    );
    bed.to(HOUR + 5 * S);
    let counts: Vec<_> = bed.out.iter().map(|a| a.details.get("count").cloned()).collect();
    assert_eq!(counts, [Some(json!(5)), None]);
    bed.to(3 * HOUR);
    assert!(bed.d.quiescent_after());
}

#[test]
fn beyond_a_hundred_of_a_type_in_a_slot_the_rest_is_one_alert() {
    let mut bed = Bed::new(options());
    bed.events(S, 150, |_| attack()).event(6 * S, attack()).to(10 * S);
    assert_eq!(bed.out.len(), 102);
    let rest = bed.out.iter().find(|a| a.details.contains_key("count")).unwrap().clone();
    assert_eq!(rest.details["count"], json!(50));
    assert_eq!(rest.message, "50 more security.injection_attempt events");
    assert_eq!((rest.timestamp_ms, rest.kind), (T0 + 5 * S, Kind::Event));
    assert_eq!((rest.event_type.as_str(), rest.evidence.len()), ("security.injection_attempt", 20));
    bed.out.clear();
    bed.to(2 * HOUR);
    assert_eq!(bed.out.len(), 102);
    let rest = bed.out.iter().find(|a| a.alert_id == rest.alert_id).unwrap();
    assert_eq!(rest.details["count"], json!(50));
    assert!(bed.d.quiescent_after());
}

#[test]
fn open_event_alerts_are_bounded_and_what_is_refused_is_told_as_one() {
    let mut o = options();
    o.entities_max = 10;
    let mut bed = Bed::new(o);
    bed.events(S, 15, |_| attack()).to(5 * S);
    assert_eq!(bed.out.len(), 11);
    assert_eq!(bed.out[10].details["count"], json!(5));
    assert_eq!(bed.d.totals().entities_overflow, 5);
}

#[test]
fn event_alerts_can_be_resolved_by_hand() {
    let mut bed = Bed::new(options());
    bed.event(S, attack());
    let id = bed.out[0].alert_id.clone();
    assert!(bed.d.resolve_by_hand(&id, T0 + 2 * S, &mut bed.out));
    assert!(!bed.d.resolve_by_hand(&id, T0 + 2 * S, &mut bed.out));
    assert_eq!(bed.out[1].status, Status::Resolved);
    let active = bed.d.totals().alerts_active;
    assert!(active.contains(&("event".into(), Severity::High, 0)), "{active:?}");
    let alerts = bed.d.totals().alerts;
    assert!(alerts.contains(&("event".into(), Severity::High, Status::Resolved, 1)), "{alerts:?}");
    assert!(alerts.contains(&("high_failed_login_rate".into(), Severity::High, Status::Firing, 0)), "there from the start");
}

fn gap(stream: &str, reason: GapReason, missed: Option<u64>) -> Gap {
    Gap { source: 1, stream: stream.into(), reason, from: Some("5-0".into()), to: Some("9-0".into()), missed }
}

#[test]
fn a_hole_is_told_once_per_stream_reason_and_minute_and_counts_further_ones() {
    let mut bed = Bed::new(options());
    bed.d.gap(T0 + S, &gap("a", GapReason::Trimmed, Some(3)), &mut bed.out);
    bed.d.gap(T0 + S, &gap("b", GapReason::Trimmed, None), &mut bed.out);
    bed.d.gap(T0 + S, &gap("a", GapReason::Reset, None), &mut bed.out);
    let alert = bed.out[0].clone();
    assert_eq!((alert.rule.as_str(), alert.kind, alert.severity), ("audit_gap", Kind::Rule, Severity::High));
    assert_eq!(
        json!(alert.details),
        json!({"source": "edge", "stream": "a", "from": "5-0", "to": "9-0", "missed": 3, "reason": "trimmed"})
    );
    assert_eq!(bed.out.len(), 3);
    bed.out.clear();

    // Within a minute it counts in the one that is told, later it is told by itself: a small hole hides no great one.
    bed.d.gap(T0 + 30 * S, &gap("a", GapReason::Trimmed, Some(4)), &mut bed.out);
    assert!(bed.out.is_empty());
    bed.to(30 * MIN);
    bed.d.gap(T0 + 30 * MIN + 1, &gap("a", GapReason::Trimmed, Some(1000)), &mut bed.out);
    assert_eq!(bed.out.len(), 1);
    assert_ne!(bed.out[0].alert_id, alert.alert_id);
    assert_eq!(bed.out[0].details["missed"], json!(1000));
    let second = bed.out[0].alert_id.clone();
    bed.out.clear();
    bed.to(HOUR + 5 * S);
    assert_eq!(bed.out.len(), 3, "an hour after the first ones");
    let first = bed.out.iter().find(|a| a.alert_id == alert.alert_id).unwrap();
    assert_eq!((first.details["missed"].clone(), first.details["count"].clone()), (json!(7), json!(2)));
    bed.out.clear();
    bed.to(2 * HOUR);
    assert_eq!(bed.out.iter().map(|a| a.alert_id.as_str()).collect::<Vec<_>>(), [second]);
    assert_eq!(bed.d.totals().sources[1].gaps["trimmed"], 4);
    bed.d.gap(T0 + 2 * HOUR + 1, &gap("a", GapReason::Trimmed, None), &mut bed.out);
    assert_eq!(bed.out.len(), 2);
}

#[test]
fn what_cannot_be_read_stays_open_until_it_can() {
    let mut bed = Bed::new(options());
    bed.d.gap(T0 + S, &gap("a", GapReason::Unreadable, None), &mut bed.out);
    bed.to(5 * HOUR);
    assert_eq!(bed.said().len(), 1);
    bed.d.readable(T0 + 5 * HOUR + S, 1, "b", &mut bed.out);
    assert!(bed.said().is_empty());
    bed.d.readable(T0 + 5 * HOUR + S, 1, "a", &mut bed.out);
    bed.d.readable(T0 + 5 * HOUR + S, 1, "a", &mut bed.out);
    assert_eq!(bed.said(), ["5h 1s resolved audit_gap: Resolved: Audit source edge cannot be read"]);
}

#[test]
fn a_clock_ahead_is_told_once_per_source_and_hour() {
    let mut bed = Bed::new(options());
    let far = EntryId::new(4_102_444_800_000, 0);
    let tell = |bed: &mut Bed, at: u64, source| {
        bed.to(at - S);
        bed.d.future_id(T0 + at, source, "s", far, 9_000, &mut bed.out);
    };
    tell(&mut bed, 2 * S, 0);
    tell(&mut bed, 3 * S, 0);
    tell(&mut bed, 4 * S, 1);
    tell(&mut bed, HOUR + S, 0);
    assert_eq!(bed.out.len(), 2);
    tell(&mut bed, HOUR + 3 * S, 0);
    let rules: Vec<_> = bed.out.iter().map(|a| (a.rule.as_str(), a.severity)).collect();
    assert_eq!(rules, [("audit_clock", Severity::High); 3]);
    assert_eq!(bed.out[0].details["ahead_ms"], json!(9_000));
}

fn live(id: &str) -> Event<'static> {
    event("api.call").detail("session_id", id)
}

fn active(bed: &Bed) -> u64 {
    bed.scalar("active_sessions").unwrap() as u64
}

#[test]
fn sessions_are_open_until_they_end_or_are_idle() {
    let mut bed = Bed::new(options());
    bed.event(S, live("a")).event(S, live("a")).event(S, event("session.created").detail("session_id", 17));
    bed.event(S, live("c").outcome(Outcome::Failure)).event(S, live("d").outcome(Outcome::Denied));
    assert_eq!(active(bed.to(5 * S)), 3, "a failed event opens none");
    bed.event(6 * S, event("logout").detail("session_id", "a"));
    assert_eq!(active(bed.to(10 * S)), 2);
    bed.event(11 * S, live("a"));
    assert_eq!(active(bed.to(15 * S)), 2, "a straggler does not open it again");
    bed.event(20 * MIN, live("17").outcome(Outcome::Failure));
    assert_eq!(active(bed.to(30 * MIN)), 2);
    assert_eq!(active(bed.to(30 * MIN + 5 * S)), 1, "d was idle for half an hour, 17 was prolonged");
    bed.event(30 * MIN + 6 * S, live("a"));
    assert_eq!(active(bed.to(30 * MIN + 10 * S)), 2, "ended half an hour ago: a new session");
    bed.event(31 * MIN, event("session.timeout").detail("session_id", "17"));
    assert_eq!(active(bed.to(31 * MIN)), 1);
    bed.to(3 * HOUR);
    assert!(bed.d.quiescent_after());
}

#[test]
fn an_end_wins_over_life_in_any_order() {
    let orders: [[&dyn Fn() -> Event<'static>; 3]; 3] = [
        [&|| live("a"), &|| live("a"), &|| event("logout").detail("session_id", "a")],
        [&|| live("a"), &|| event("logout").detail("session_id", "a"), &|| live("a")],
        [&|| event("logout").detail("session_id", "a"), &|| live("a"), &|| live("a")],
    ];
    for order in orders {
        let mut bed = Bed::new(options());
        for make in order {
            bed.event(S, make());
        }
        assert_eq!(active(bed.to(5 * S)), 0);
        bed.event(29 * MIN, live("a"));
        assert_eq!(active(bed.to(29 * MIN)), 0);
    }
}

#[test]
fn sessions_are_bounded_and_the_rest_is_counted() {
    let mut o = options();
    o.sessions_max = 10;
    let mut bed = Bed::new(o);
    bed.events(S, 15, |i| live(&format!("s{i}")));
    assert_eq!(active(bed.to(5 * S)), 10);
    assert_eq!(bed.d.totals().sessions_overflow, 5);
    // Opening and ending for ever does not grow without bound either.
    bed.events(6 * S, 15, |i| event("logout").detail("session_id", format!("s{i}")));
    bed.events(7 * S, 30, |i| live(&format!("t{i}")).user("x"));
    assert_eq!(active(bed.to(10 * S)), 5, "ten open and ten remembered, together");
    bed.to(30 * MIN + 10 * S);
    assert_eq!(active(&bed), 0);
    assert!(bed.d.totals().sessions_overflow > 5);
}
