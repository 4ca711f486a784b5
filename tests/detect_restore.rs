//! A detector that is written down and read back goes on exactly like one that never stopped; skipping quiet slots changes
//! nothing; no bytes make `restore` panic.

mod detect_support;

use std::sync::Arc;

use auditcast::{
    detect::{Alert, Bound, Detector, Gap, GapReason, Observed, Options, SnapshotError},
    event::{EntryId, Event, Outcome, Severity},
};
use detect_support::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Pass(u64),
    Event { name: usize, who: u8, session: u8, duration: Option<u32>, outcome: u8, source: u16, times: usize },
    Invalid(u16),
    Gap(u8, u8),
    Readable(u8),
    Future(u16),
    ByHand(usize),
    Cut,
}

const NAMES: [&str; 8] = [
    "auth.failed",
    "auth.success",
    "rate_limit.exceeded",
    "permission.denied",
    "session.timeout",
    "logout",
    "security.injection_attempt",
    "api.call",
];
const OUTCOMES: [Outcome; 5] = [Outcome::Success, Outcome::Failure, Outcome::Denied, Outcome::Error, Outcome::Unknown];
const REASONS: [GapReason; 5] =
    [GapReason::Trimmed, GapReason::Rewound, GapReason::Reset, GapReason::Unreadable, GapReason::Exhausted];

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..12_000).prop_map(Op::Pass),
        1 => (0u64..400_000).prop_map(Op::Pass),
        12 => (0usize..8, 0u8..6, 0u8..8, proptest::option::of(0u32..100_000), 0u8..8, 0u16..2, 1usize..9).prop_map(
            |(name, who, session, duration, outcome, source, times)| Op::Event {
                name, who, session, duration, outcome, source, times
            }
        ),
        1 => (0u16..2).prop_map(Op::Invalid),
        1 => (0u8..2, 0u8..5).prop_map(|(s, r)| Op::Gap(s, r)),
        1 => (0u8..2).prop_map(Op::Readable),
        1 => (0u16..2).prop_map(Op::Future),
        1 => (0usize..20).prop_map(Op::ByHand),
        2 => Just(Op::Cut),
    ]
}

/// Small limits and windows, so that everything happens within a few minutes.
fn tight() -> Options {
    let mut o = options();
    o.interval_ms = 2_000;
    o.alert_events_at = Severity::Medium;
    o.event_alert_ttl_ms = 100_000;
    o.suppress_ms = 7_000;
    o.session_timeout_ms = 60_000;
    o.sessions_max = 5;
    o.entities_max = 40;
    for count in &mut o.counts {
        count.window_ms = 77_777;
    }
    o.windows_ms = ["auth_success_ratio", "error_ratio", "operation_p95_seconds", "events_by_category"]
        .map(|name| (name.to_owned(), 30_000))
        .into();
    let above = |name: &str, metric: &str, at| threshold(name, metric, Bound::Above(at), Severity::High, None);
    o.thresholds = vec![
        above("failed", "failed_logins_last_hour", 5.0),
        above("errors", "error_ratio", 0.33),
        above("slow", "operation_p95_seconds", 20.0),
        above("crowd", "active_sessions", 2.0),
        threshold("few", "auth_success_ratio", Bound::Below(0.7), Severity::Low, Some("{value} < {threshold}")),
    ];
    for (i, t) in o.thresholds.iter_mut().enumerate() {
        t.keep_firing_for_ms = 5_000 * i as u64;
        t.for_ms = if i % 2 == 0 { 0 } else { 3_000 };
    }
    o
}

struct Run {
    d: Detector,
    now: u64,
    seq: u64,
    out: Vec<Alert>,
}

impl Run {
    fn new(options: Arc<Options>) -> Run {
        let mut d = Detector::new(options);
        d.skip_to(T0);
        Run { d, now: T0 + 1, seq: 0, out: Vec::new() }
    }

    fn apply(&mut self, op: &Op) {
        let Run { d, now, seq, out } = self;
        match op {
            Op::Pass(ms) => {
                *now += ms;
                while d.next_slot() < *now {
                    let next = d.next_slot();
                    d.close(next, out);
                }
            }
            Op::Event { name, who, session, duration, outcome, source, times } => {
                let mut e = event(NAMES[*name]).user(&format!("u{who}")).detail("ip_address", format!("::{}", who % 2));
                if *session > 0 {
                    e = e.detail("session_id", format!("s{session}"));
                }
                if let Some(ms) = duration {
                    e = e.detail("duration_ms", f64::from(*ms) / 7.0);
                }
                if let Some(outcome) = OUTCOMES.get(usize::from(*outcome)) {
                    e = e.outcome(*outcome);
                }
                let e = Event { timestamp_ms: *now, ..e };
                for _ in 0..*times {
                    *seq += 1;
                    let entry = EntryId::new(*now, *seq);
                    d.observe(*now, &Observed { source: *source, stream: "s", entry, event: &e }, out);
                }
            }
            Op::Invalid(source) => d.invalid(*source, "bad_json"),
            Op::Gap(s, r) => {
                let reason = REASONS[usize::from(*r)];
                let missed = (*s == 0).then_some(3);
                let gap = Gap { source: 0, stream: format!("g{s}"), reason, from: None, to: Some(now.to_string()), missed };
                d.gap(*now, &gap, out);
            }
            Op::Readable(s) => d.readable(*now, 0, &format!("g{s}"), out),
            Op::Future(source) => {
                *seq += 1;
                d.future_id(*now, *source, "s", EntryId::new(*now + 99_999, *seq), 99_999, out);
            }
            Op::ByHand(i) => {
                if let Some(id) = out.get(*i).map(|a| a.alert_id.clone()) {
                    d.resolve_by_hand(&id, *now, out);
                }
            }
            Op::Cut => {}
        }
    }

    fn same(&self, other: &Run) -> Result<(), TestCaseError> {
        prop_assert_eq!(&self.out, &other.out);
        prop_assert_eq!(self.d.metrics(), other.d.metrics());
        prop_assert_eq!(self.d.totals(), other.d.totals());
        prop_assert_eq!(self.d.quiescent_after(), other.d.quiescent_after());
        prop_assert!(self.d.snapshot() == other.d.snapshot(), "equal states give equal bytes");
        Ok(())
    }
}

/// Each alert fires, then resolves, and `alerts_active` counts those between.
fn lives_are_whole(run: &Run) -> Result<(), TestCaseError> {
    let mut open = std::collections::BTreeSet::new();
    for alert in &run.out {
        let changed = match alert.status {
            auditcast::detect::Status::Firing => open.insert(&alert.alert_id),
            auditcast::detect::Status::Resolved => open.remove(&alert.alert_id),
        };
        prop_assert!(changed, "{:?} {}: {}", alert.status, alert.rule, alert.message);
    }
    let active: u64 = run.d.totals().alerts_active.iter().map(|(_, _, n)| n).sum();
    prop_assert_eq!(active, open.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn goes_on_as_if_it_had_never_stopped(ops in prop::collection::vec(op(), 1..120)) {
        let options = Arc::new(tight());
        let (mut through, mut cut) = (Run::new(options.clone()), Run::new(options.clone()));
        for op in ops.iter().chain(&[Op::Cut, Op::Pass(10 * MIN)]) {
            through.apply(op);
            cut.apply(op);
            if matches!(op, Op::Cut) {
                cut.d = Detector::restore(options.clone(), &cut.d.snapshot()).unwrap();
                through.same(&cut)?;
            }
        }
        through.same(&cut)?;
        lives_are_whole(&through)?;
    }

    #[test]
    fn the_same_options_again_change_nothing(ops in prop::collection::vec(op(), 1..80)) {
        let options = Arc::new(tight());
        let (mut a, mut b) = (Run::new(options.clone()), Run::new(options.clone()));
        for op in ops.iter().chain(&[Op::Pass(10 * MIN)]) {
            a.apply(op);
            b.apply(op);
            b.d.set_options(options.clone());
        }
        a.same(&b)?;
    }

    #[test]
    fn skipping_quiet_slots_changes_nothing(ops in prop::collection::vec(op(), 1..40), long in 3u64..40) {
        let options = Arc::new(tight());
        let (mut one_by_one, mut at_once) = (Run::new(options.clone()), Run::new(options.clone()));
        for op in &ops {
            one_by_one.apply(op);
            at_once.apply(op);
        }
        let to = one_by_one.d.last_slot() + long * MIN / 2_000 * 2_000;
        one_by_one.apply(&Op::Pass(to + 1 - one_by_one.now));
        at_once.now = to + 1;
        at_once.d.close(to, &mut at_once.out);
        one_by_one.same(&at_once)?;
    }

    #[test]
    fn no_bytes_make_it_panic(ops in prop::collection::vec(op(), 1..30), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let options = Arc::new(tight());
        let mut run = Run::new(options.clone());
        ops.iter().for_each(|op| run.apply(op));
        let good = run.d.snapshot();
        let mut bad = good.clone();
        let i = at.index(bad.len());
        bad[i] = byte;
        // Whatever it makes of it: it answers, and what it accepts can be used.
        if let Ok(d) = Detector::restore(options.clone(), &bad) {
            run.d = d;
            run.now = run.now.max(run.d.last_slot().min(T0 + 24 * HOUR) + 1);
            if run.d.last_slot() <= T0 + 24 * HOUR && run.d.last_slot() >= T0 {
                ops.iter().for_each(|op| run.apply(op));
            }
            run.d.snapshot();
            run.d.totals();
        }
        prop_assert!(Detector::restore(options, &good[..i]).is_err(), "cut short");
    }
}

#[test]
fn says_what_is_wrong_with_a_snapshot() {
    let restore = |data: &[u8]| Detector::restore(Arc::new(options()), data).err().map(|e| e.to_string());
    assert_eq!(restore(b""), Some("the snapshot cannot be read: no version".into()));
    assert_eq!(restore(b"x\n{}"), Some("the snapshot cannot be read: no version".into()));
    assert_eq!(Detector::restore(Arc::new(options()), b"7\n").err(), Some(SnapshotError::Newer(7)));
    assert!(restore(b"1\n{}").is_some_and(|text| text.contains("missing field")));
}

/// The state as the first version wrote it: fourteen events of five types from two sources, a threshold and two events firing.
/// It is read, and written again to the byte, but for the rules that it knew nothing of.
#[test]
fn a_state_of_format_1_goes_on() {
    let data = include_bytes!("detect_support/state_1.txt");
    let mut o = options();
    o.counts.truncate(2);
    o.thresholds = vec![threshold("many", "failed_logins_last_hour", Bound::Above(3.0), Severity::High, None)];
    let options = Arc::new(o);
    let mut d = Detector::restore(options, data).unwrap();
    let written = String::from_utf8(d.snapshot()).unwrap();
    let as_1 = written.strip_prefix("2\n").and_then(|w| w.strip_suffix(",\"engine\":{}}")).map(|w| format!("1\n{w}}}"));
    assert_eq!(as_1.as_deref(), std::str::from_utf8(data).ok());
    assert_eq!(d.metrics().scalars["failed_logins_last_hour"], 4.0);
    let mut out = Vec::new();
    d.close(d.last_slot() + HOUR + 6 * MIN, &mut out);
    let said: Vec<_> = out.iter().map(|a| a.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "Resolved: security.injection_attempt by u0 from 10.0.0.1",
            "Resolved: security.injection_attempt by u1 from 10.0.0.0",
            "Resolved: many: 0",
        ]
    );
}

#[test]
fn a_hundred_thousand_sessions_are_a_few_megabytes() {
    let mut o = options();
    o.sessions_max = 100_000;
    let options = Arc::new(o);
    let mut d = Detector::new(options.clone());
    let mut out = Vec::new();
    for i in 0..100_000u64 {
        let e = event("api.call").detail("session_id", format!("{i:032x}"));
        d.observe(T0 + i / 100, &Observed { source: 0, stream: "s", entry: EntryId::new(T0 + i / 100, i), event: &e }, &mut out);
    }
    d.close(T0 + 5 * S, &mut out);
    let data = d.snapshot();
    assert!(data.len() < 8_000_000, "{} bytes", data.len());
    let back = Detector::restore(options, &data).unwrap();
    assert_eq!(back.metrics(), d.metrics());
    assert_eq!(back.metrics().scalars["active_sessions"], 100_000.0);
}
