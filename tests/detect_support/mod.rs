//! Events made by hand, and a detector that is driven as the monitor drives it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use auditcast::{
    detect::{Alert, Bound, CountMetric, Detector, Observed, Options, Status, Threshold},
    event::{Category, Details, EntryId, Event, EventType, Lists, Outcome, Severity},
};
use serde_json::Value;

pub const S: u64 = 1_000;
pub const MIN: u64 = 60 * S;
pub const HOUR: u64 = 60 * MIN;
/// Where the tests begin: a whole hour.
pub const T0: u64 = 1_700_000_000 / 3_600 * HOUR;

pub fn threshold(name: &str, metric: &str, bound: Bound, severity: Severity, message: Option<&str>) -> Threshold {
    Threshold {
        name: name.into(),
        metric: metric.into(),
        bound,
        min_count: 0,
        clear_at: match bound {
            Bound::Above(at) | Bound::Below(at) => at,
        },
        for_ms: 0,
        keep_firing_for_ms: 5 * MIN,
        severity,
        message: message.map(str::to_owned),
        labels: BTreeMap::new(),
        runbook_url: None,
        enabled: true,
    }
}

/// The contract's defaults.
pub fn options() -> Options {
    let count = |name: &str, list| CountMetric { name: name.into(), list, window_ms: HOUR };
    Options {
        interval_ms: 5 * S,
        snapshot_interval_ms: MIN,
        alert_events_at: Severity::High,
        event_alert_ttl_ms: HOUR,
        suppress_ms: 0,
        session_timeout_ms: 30 * MIN,
        sessions_max: 1000,
        entities_max: 10_000,
        counts: vec![
            count("failed_logins_last_hour", 0),
            count("rate_limit_violations", 2),
            count("permission_violations", 3),
            count("suspicious_activities", 4),
            count("session_timeouts", 5),
        ],
        windows_ms: BTreeMap::new(),
        thresholds: vec![
            threshold(
                "high_failed_login_rate",
                "failed_logins_last_hour",
                Bound::Above(50.0),
                Severity::High,
                Some("High failed login rate detected: {value} in last hour"),
            ),
            threshold(
                "high_rate_limit_violations",
                "rate_limit_violations",
                Bound::Above(100.0),
                Severity::Medium,
                Some("High rate limit violations: {value}"),
            ),
        ],
        rules: Vec::new(),
        allowed: Default::default(),
        sources: vec!["app".into(), "edge".into()],
        external_url: None,
    }
}

/// A handful of names, classified as the contract does it.
pub fn event(name: &str) -> Event<'static> {
    use Category as C;
    use Outcome as O;
    use Severity as Sev;
    let (category, lists, severity, outcome) = match name {
        "auth.failed" => (C::Auth, Lists::FAILED_LOGIN, Sev::Medium, O::Failure),
        "auth.success" => (C::Auth, Lists::SUCCESSFUL_LOGIN, Sev::Low, O::Success),
        "rate_limit.exceeded" => (C::RateLimit, Lists::RATE_LIMIT, Sev::Medium, O::Unknown),
        "permission.denied" => (C::Permission, Lists::PERMISSION, Sev::Medium, O::Denied),
        "session.timeout" => (C::Session, Lists::SESSION_TIMEOUT.with(Lists::SESSION_END), Sev::Low, O::Unknown),
        "session.created" => (C::Session, Lists::SESSION_OPEN, Sev::Low, O::Unknown),
        "logout" => (C::Auth, Lists::SESSION_END, Sev::Low, O::Unknown),
        "security.injection_attempt" => (C::Security, Lists::SUSPICIOUS, Sev::High, O::Unknown),
        _ => (C::Other, Lists(0), Sev::Low, O::Unknown),
    };
    let kind = EventType {
        written: name.into(),
        normal: name.into(),
        matching: name.replace('.', "_"),
        category,
        lists,
        severity,
        severity_fixed: false,
        outcome,
        args: None,
    };
    Event {
        kind: Arc::new(kind),
        severity,
        outcome,
        timestamp_ms: T0,
        timestamp_fault: None,
        severity_ignored: false,
        user_id: None,
        username: None,
        event_id: None,
        message: None,
        details: Details::default(),
    }
}

pub trait With {
    fn user(self, user: &str) -> Self;
    fn detail(self, name: &str, value: impl Into<Value>) -> Self;
    fn outcome(self, outcome: Outcome) -> Self;
}

impl With for Event<'static> {
    fn user(mut self, user: &str) -> Self {
        self.user_id = Some(Cow::Owned(user.to_owned()));
        self
    }
    fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }
    fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }
}

/// A detector, the transitions it has given out, and times counted from [`T0`].
pub struct Bed {
    pub d: Detector,
    pub out: Vec<Alert>,
    seq: u64,
}

impl Bed {
    pub fn new(options: Options) -> Bed {
        let mut d = Detector::new(Arc::new(options));
        d.skip_to(T0);
        assert_eq!(d.last_slot(), T0);
        Bed { d, out: Vec::new(), seq: 0 }
    }

    /// Closes what ends before `at`, then gives the event.
    pub fn event(&mut self, at: u64, event: Event<'static>) -> &mut Bed {
        self.close_before(at);
        self.seq += 1;
        let entry = EntryId::new(T0 + at, self.seq);
        let event = Event { timestamp_ms: T0 + at, ..event };
        let o = Observed { source: 0, stream: "audit", entry, event: &event };
        self.d.observe(T0 + at, &o, &mut self.out);
        self
    }

    pub fn events(&mut self, at: u64, n: u64, make: impl Fn(u64) -> Event<'static>) -> &mut Bed {
        (0..n).for_each(|i| {
            self.event(at, make(i));
        });
        self
    }

    fn close_before(&mut self, at: u64) {
        while self.d.next_slot() < T0 + at {
            let next = self.d.next_slot();
            self.d.close(next, &mut self.out);
        }
    }

    /// Closes every slot up to `at`.
    pub fn to(&mut self, at: u64) -> &mut Bed {
        self.close_before(at + 1);
        self
    }

    /// What was given out since: `1h0m5s firing rule: message`.
    pub fn said(&mut self) -> Vec<String> {
        let line = |a: Alert| {
            let status = if a.status == Status::Firing { "firing" } else { "resolved" };
            let at = humantime::format_duration(std::time::Duration::from_millis(a.received_at_ms - T0));
            format!("{at} {status} {}: {}", a.rule, a.message)
        };
        std::mem::take(&mut self.out).into_iter().map(line).collect()
    }

    pub fn scalar(&self, name: &str) -> Option<f64> {
        self.d.metrics().scalars.get(name).copied()
    }
}
