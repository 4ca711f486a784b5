//! A flood of random names and addresses fills a rule's table: it stays within its limit, says so, and does not push out the one slow
//! brute force that hides in it. Every node takes out the same.

mod detect_support;

use std::{collections::BTreeMap, sync::Arc};

use auditcast::{
    detect::{By, Detector, Matcher, Observed, Options, Rule, RuleKind, Status},
    event::{EntryId, Lists, PatternList, Severity},
};
use detect_support::{MIN, S, T0, With, event, options};

const INTERVAL: u64 = 5 * S;
/// A quarter of it is one rule's.
const ENTITIES: usize = 4_000;

fn rule(by: &str) -> Rule {
    Rule {
        name: format!("by_{by}"),
        kind: RuleKind::Count { at_least: 10 },
        on: Matcher::new(PatternList::default(), Lists::FAILED_LOGIN, None).expect("it is good"),
        by: vec![By::parse(by).expect("a field")],
        window_ms: 12 * MIN,
        for_ms: 0,
        keep_firing_for_ms: 5 * MIN,
        clear_at: None,
        suppress_ms: 0,
        severity: Severity::High,
        severity_if: Vec::new(),
        message: None,
        labels: BTreeMap::new(),
        tags: Vec::new(),
        runbook_url: None,
        allow_lists: true,
        enabled: true,
    }
}

#[test]
fn a_flood_hides_nobody() {
    let options = Arc::new(Options {
        entities_max: ENTITIES,
        rules: vec![rule("user"), rule("ip_address")],
        thresholds: Vec::new(),
        alert_events_at: Severity::Critical,
        ..options()
    });
    let mut detector = Detector::new(options.clone());
    detector.skip_to(T0);
    let (mut out, mut seq, mut scatter) = (Vec::new(), 0, 1u64);
    let mut snapshot_bytes = 0;
    for second in 0..12 * 60 {
        // 150 names a second that come once: a rule's table is turned over in seven seconds. Once a minute the one who is slow.
        for n in 0..151 {
            let time = T0 + 1 + second * S + n * 6;
            seq += 1;
            scatter = scatter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (user, address) = match n {
                75 if second % 60 == 30 => ("slow".to_owned(), "192.0.2.7".to_owned()),
                75 => continue,
                _ => (format!("{:x}", scatter >> 20), format!("2001:db8::{:x}:{:x}", scatter >> 48, (scatter >> 32) & 0xffff)),
            };
            detector.close((time - 1) / INTERVAL * INTERVAL, &mut out);
            let event = event("auth.failed").user(&user).detail("ip_address", address);
            let entry = EntryId::new(time, seq);
            detector.observe(time, &Observed { source: 0, stream: "s", entry, event: &event }, &mut out);
        }
        if second % 120 == 119 {
            let written = detector.snapshot();
            snapshot_bytes = snapshot_bytes.max(written.len());
            detector = Detector::restore(options.clone(), &written).expect("it is read back");
        }
    }
    let fired: Vec<_> = out.iter().filter(|alert| alert.status == Status::Firing).collect();
    let names: Vec<&str> = fired.iter().map(|alert| alert.rule.as_str()).collect();
    assert_eq!(names, ["audit_limit", "by_ip_address", "by_user"], "{fired:#?}");
    assert_eq!(fired[1].details["entity"]["ip_address"], "192.0.2.7");
    assert_eq!(fired[2].details["entity"]["user"], "slow");
    assert!(detector.totals().entities_overflow > 100_000);
    assert!(snapshot_bytes < 16_000_000, "{snapshot_bytes}");
}
