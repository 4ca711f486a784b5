//! Every kind of rule against a naive model that keeps all events and scans them: the same alerts, at the same moments, with the
//! same values, while the state is written down and read back now and then. Seeded; a failure names its seed.

mod detect_support;

use std::{collections::BTreeMap, sync::Arc};

use auditcast::{
    detect::{Allowed, By, Detector, Matcher, Observed, Options, Rule, RuleKind, Status},
    event::{EntryId, Event, Lists, PatternList, Severity},
    filter::{Field, Filter, Scope},
};
use detect_support::{S, T0, With, event, options};
use serde_json::Value;

/// `AUDITCAST_MODEL_CASES` asks for more.
const CASES: u64 = 2_000;
const INTERVAL: u64 = 5 * S;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

#[derive(Clone, Debug)]
struct Given {
    at: u64,
    name: &'static str,
    user: Option<u64>,
    address: Option<u64>,
    agent: u64,
    amount: u64,
}

impl Given {
    fn event(&self) -> Event<'static> {
        let mut event = event(self.name).detail("amount", self.amount).detail("user_agent", format!("agent {}", self.agent));
        if let Some(user) = self.user {
            event = event.user(&format!("u{user}"));
        }
        if let Some(address) = self.address {
            event = event.detail("ip_address", format!("10.0.0.{address}"));
        }
        event
    }
}

fn matcher(events: &[&str], filter: Option<&str>) -> Matcher {
    let list = PatternList { events: events.iter().map(|e| (*e).to_owned()).collect(), except: Vec::new() };
    let filter = filter.map(|text| Filter::parse(text, Scope::Event).expect("it is good"));
    Matcher::new(list, Lists::default(), filter).expect("so are the patterns")
}

fn rule(random: &mut Random) -> Rule {
    let at_least = 2 + random.below(4);
    let amount = || Field::parse("details.amount").expect("a field");
    let min_count = random.below(5);
    let kind = match random.below(12) {
        0 => RuleKind::Match,
        1 => RuleKind::Count { at_least },
        2 => {
            RuleKind::Distinct { of: Field::IpAddress, at_least, min_count, each_at_most: random.pick(&[None, Some(1), Some(2)]) }
        }
        3 => RuleKind::Sum { of: amount(), at_least: 12.0 },
        4 => RuleKind::Average { of: amount(), at_least: 5.0, min_count },
        5 => RuleKind::Ratio { hits: Filter::parse("details.amount > 4", Scope::Event).unwrap(), at_least: 0.5, min_count },
        6 => RuleKind::Spike { at_least: 2.0, min_count },
        7 => RuleKind::Sequence { after: matcher(&["b_*"], None), at_least },
        8 => RuleKind::Change { of: vec![Field::IpAddress, Field::UserAgent] },
        9 => RuleKind::New { of: Field::IpAddress, learn_ms: random.pick(&[0, 5 * S, 20 * S]) },
        10 => RuleKind::P95 { of: amount(), at_least: 6.0, min_count },
        _ => RuleKind::Absence { min_count: 1 + min_count },
    };
    let instant = matches!(
        kind,
        RuleKind::Match | RuleKind::Sequence { .. } | RuleKind::Change { .. } | RuleKind::New { .. } | RuleKind::Absence { .. }
    );
    let clear_at = kind.threshold().filter(|_| !instant && random.below(3) == 0).map(|at| at / 2.0);
    let by = match (&kind, random.below(4)) {
        (RuleKind::Change { .. } | RuleKind::New { .. }, _) | (_, 0 | 1) => vec!["user"],
        (_, 2) => vec!["user", "ip_address/31"],
        _ => vec![],
    };
    let name = if random.below(2) == 0 { vec!["a_*"] } else { vec![] };
    let filter = random.pick(&[None, None, Some("details.amount != 3")]);
    Rule {
        name: "r".into(),
        kind,
        on: matcher(&name, filter),
        by: by.into_iter().map(|by| By::parse(by).expect("a field")).collect(),
        window_ms: random.pick(&[7_001, 10 * S, 20 * S, 47 * S, 60 * S]),
        for_ms: if instant { 0 } else { random.pick(&[0, 0, 5 * S, 12 * S]) },
        keep_firing_for_ms: random.pick(&[0, 5 * S, 17 * S]),
        clear_at,
        suppress_ms: random.pick(&[0, 0, 30 * S, 100 * S]),
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

fn stream(random: &mut Random) -> Vec<Given> {
    let mut at = 0;
    let gap = random.pick(&[800, 3_000, 9_000]);
    let mut one = || {
        at += if random.below(12) == 0 { random.below(80_000) } else { random.below(gap) };
        Given {
            at,
            name: random.pick(&["a.x", "a.x", "b.x"]),
            user: (random.below(10) > 0).then(|| random.below(3)),
            address: (random.below(10) > 0).then(|| random.below(5)),
            agent: random.below(2),
            amount: random.below(8),
        }
    };
    (0..60).map(|_| one()).collect()
}

fn run(rule: &Rule, stream: &[Given], random: &mut Random, end: u64) -> Vec<String> {
    let options: Arc<Options> = Arc::new(Options {
        rules: vec![rule.clone()],
        allowed: Allowed::default(),
        thresholds: Vec::new(),
        alert_events_at: Severity::Critical,
        // Only the rules are asked here: the metrics forget soon, so that quiet times are passed over at once.
        counts: Vec::new(),
        windows_ms: ["auth_success_ratio", "error_ratio", "operation_p95_seconds", "events_by_severity", "events_by_category"]
            .map(|name| (name.to_owned(), INTERVAL))
            .into(),
        ..options()
    });
    let mut detector = Detector::new(options.clone());
    detector.skip_to(T0);
    let mut out = Vec::new();
    for (n, given) in stream.iter().enumerate() {
        let time = T0 + 1 + given.at;
        detector.close((time - 1) / INTERVAL * INTERVAL, &mut out);
        if random.below(20) == 0 {
            let written = detector.snapshot();
            detector = Detector::restore(options.clone(), &written).expect("it is read back");
            assert_eq!(detector.snapshot(), written);
        }
        let event = given.event();
        let entry = EntryId::new(time, n as u64);
        detector.observe(time, &Observed { source: 0, stream: "s", entry, event: &event }, &mut out);
    }
    detector.close(T0 + end, &mut out);
    assert!(out.iter().all(|alert| alert.rule == "r" && alert.evidence.len() <= 20));
    let mut lines: Vec<String> = out
        .iter()
        .map(|alert| {
            let entity = alert.details.get("entity").and_then(Value::as_object);
            let parts =
                rule.by.iter().map(|by| entity.and_then(|e| e.get(&by.to_string())).and_then(Value::as_str).unwrap_or(""));
            let status = if alert.status == Status::Firing { "firing" } else { "resolved" };
            line(alert.received_at_ms - T0, status, &parts.collect::<Vec<_>>().join("|"), alert.value)
        })
        .collect();
    lines.sort();
    lines
}

fn line(at: u64, status: &str, entity: &str, value: Option<f64>) -> String {
    format!("{at:08} {status} [{entity}] {value:?}")
}

#[derive(Clone, Debug)]
enum Life {
    Idle(u64),
    Pending(u64),
    /// Fired at, clear since, value when it fired.
    Firing(u64, Option<u64>, Option<f64>),
}

/// All there ever was of one entity.
struct Known {
    life: Life,
    events: Vec<Given>,
    /// Of a sequence: what came first, since it fired last.
    first: Vec<Given>,
    last: u64,
    /// Of `absence`: events since it was forgotten.
    count: u64,
}

fn inside(rule: &Rule, given: &Given, t: u64, windows_before: u64) -> bool {
    let (at, w) = (given.at + 1, rule.window_ms);
    match rule.kind {
        RuleKind::Sum { .. } | RuleKind::Average { .. } | RuleKind::Ratio { .. } | RuleKind::Spike { .. } => {
            let width = (w / 60).max(1);
            let kept = w.div_ceil(width) * width;
            let end = (T0 + at).div_ceil(width) * width;
            end + kept * (windows_before + 1) > T0 + t && (windows_before == 0 || end + kept * windows_before <= T0 + t)
        }
        _ => at + w > t,
    }
}

fn value(rule: &Rule, known: &Known, t: u64) -> Option<f64> {
    let window = |before| known.events.iter().filter(move |g| inside(rule, g, t, before)).collect::<Vec<_>>();
    let now = window(0);
    let n = now.len() as u64;
    let sum = || now.iter().map(|g| g.amount).sum::<u64>() as f64;
    match &rule.kind {
        RuleKind::Count { .. } => Some(n as f64),
        RuleKind::Distinct { .. } => {
            let mut all: Vec<_> = now.iter().map(|g| g.address).collect();
            all.sort();
            all.dedup();
            Some(all.len() as f64)
        }
        RuleKind::Sum { .. } => (n > 0).then(sum),
        RuleKind::Average { min_count, .. } => (n > 0 && n >= *min_count).then(|| sum() / n as f64),
        RuleKind::P95 { min_count, .. } => {
            let mut all: Vec<_> = now.iter().map(|g| g.amount).collect();
            all.sort_unstable();
            let rank = (all.len() * 95).div_ceil(100);
            (n > 0 && n >= *min_count).then(|| all[rank - 1] as f64)
        }
        RuleKind::Ratio { min_count, .. } => {
            (n > 0 && n >= *min_count).then(|| now.iter().filter(|g| g.amount > 4).count() as f64 / n as f64)
        }
        RuleKind::Spike { min_count, .. } => {
            let before = window(1).len();
            (before > 0 && n >= *min_count).then(|| n as f64 / before as f64)
        }
        _ => None,
    }
}

fn crossed(rule: &Rule, known: &Known, t: u64) -> bool {
    if let RuleKind::Absence { .. } = rule.kind {
        return known.last + rule.window_ms <= t;
    }
    let (Some(value), Some(at_least)) = (value(rule, known, t), rule.kind.threshold()) else { return false };
    if let RuleKind::Distinct { min_count, each_at_most, .. } = rule.kind {
        let now: Vec<_> = known.events.iter().filter(|g| inside(rule, g, t, 0)).collect();
        let each = |address| now.iter().filter(|g| g.address == address).count() as u64;
        if (now.len() as u64) < min_count || now.iter().any(|g| each_at_most.is_some_and(|most| each(g.address) > most)) {
            return false;
        }
    }
    value >= at_least
}

fn model(rule: &Rule, stream: &[Given], end: u64) -> Vec<String> {
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    let mut lines = Vec::new();
    let instant =
        matches!(rule.kind, RuleKind::Match | RuleKind::Sequence { .. } | RuleKind::Change { .. } | RuleKind::New { .. });
    let mut slot = 0;
    let mut close_to = |to: u64, all: &mut BTreeMap<String, Known>, lines: &mut Vec<String>| {
        while slot + INTERVAL <= to {
            slot += INTERVAL;
            for (entity, known) in all.iter_mut() {
                let v = value(rule, known, slot);
                let crossed = crossed(rule, known, slot);
                let clear = match (rule.clear_at, v) {
                    (Some(clear_at), Some(v)) => v <= clear_at,
                    _ => !crossed,
                };
                match known.life.clone() {
                    Life::Pending(since) if crossed => {
                        if slot - since >= rule.for_ms {
                            lines.push(line(slot, "firing", entity, v));
                            known.life = Life::Firing(slot, None, v);
                        }
                    }
                    Life::Pending(_) => known.life = Life::Idle(0),
                    Life::Firing(fired, since, told) if clear => {
                        let since = since.unwrap_or(slot);
                        known.life = Life::Firing(fired, Some(since), told);
                        if slot - since >= rule.keep_firing_for_ms {
                            lines.push(line(slot, "resolved", entity, v.or(told)));
                            known.life = Life::Idle(fired + rule.suppress_ms);
                        }
                    }
                    Life::Firing(fired, _, told) => known.life = Life::Firing(fired, None, told),
                    Life::Idle(_) => {}
                }
                if let (RuleKind::Absence { min_count }, Life::Idle(quiet)) = (&rule.kind, &known.life)
                    && known.count > 0
                    && known.last + rule.window_ms <= slot
                    && *quiet <= slot
                {
                    if known.count >= *min_count {
                        let silent = Some((slot - known.last) as f64 / 1000.0);
                        lines.push(line(slot, "firing", entity, silent));
                        known.life = Life::Firing(slot, None, silent);
                    } else {
                        known.count = 0;
                    }
                }
            }
        }
    };
    for given in stream {
        let t = given.at + 1;
        close_to((t - 1) / INTERVAL * INTERVAL, &mut all, &mut lines);
        let takes = |matcher: &Matcher| {
            let text = format!("{matcher:?}");
            (!text.contains("a_*") || given.name == "a.x")
                && (!text.contains("b_*") || given.name == "b.x")
                && (!text.contains("!= 3") || given.amount != 3)
        };
        let is_last = takes(&rule.on);
        let is_first = matches!(&rule.kind, RuleKind::Sequence { after, .. } if takes(after));
        if !is_last && !is_first {
            continue;
        }
        let parts: Option<Vec<String>> = rule
            .by
            .iter()
            .map(|by| match by.to_string().as_str() {
                "user" => given.user.map(|user| format!("u{user}")),
                _ => given.address.map(|address| format!("10.0.0.{}/31", address / 2 * 2)),
            })
            .collect();
        let Some(parts) = parts else { continue };
        let entity = parts.join("|");
        let needs_address = matches!(rule.kind, RuleKind::Distinct { .. } | RuleKind::Change { .. } | RuleKind::New { .. });
        if needs_address && given.address.is_none() {
            continue;
        }
        let known = all.entry(entity.clone()).or_insert(Known {
            life: Life::Idle(0),
            events: Vec::new(),
            first: Vec::new(),
            last: t,
            count: 0,
        });
        let before: Vec<Given> = if t - known.last >= rule.window_ms && !known.events.is_empty() {
            Vec::new()
        } else {
            // Those since the entity was last away for a window.
            let mut since: Vec<Given> = Vec::new();
            for g in &known.events {
                if since.last().is_some_and(|last| g.at - last.at >= rule.window_ms) {
                    since.clear();
                }
                since.push(g.clone());
            }
            since
        };
        known.last = t;
        known.count += 1;
        known.events.push(given.clone());
        let mut told = None;
        let crosses = match &rule.kind {
            RuleKind::Match => true,
            RuleKind::Absence { .. } => false,
            RuleKind::Sequence { at_least, .. } => {
                let n = known.first.iter().filter(|g| inside(rule, g, t, 0)).count() as u64;
                let crosses = is_last && n >= *at_least;
                if crosses {
                    told = Some(n as f64);
                    known.first.clear();
                }
                if is_first {
                    known.first.push(given.clone());
                }
                crosses
            }
            RuleKind::Change { .. } => {
                before.first().is_some_and(|first| first.address != given.address && first.agent != given.agent)
            }
            RuleKind::New { learn_ms, .. } => {
                let recent: Vec<_> = before.iter().filter(|g| inside(rule, g, t, 0)).collect();
                before.first().is_some_and(|first| given.at - first.at >= *learn_ms)
                    && !recent.is_empty()
                    && recent.iter().all(|g| g.address != given.address)
            }
            _ => {
                told = value(rule, known, t);
                crossed(rule, known, t)
            }
        };
        if !crosses {
            continue;
        }
        match known.life.clone() {
            Life::Firing(fired, _, value) => known.life = Life::Firing(fired, instant.then_some(t), value),
            Life::Idle(quiet) if t >= quiet => {
                if rule.for_ms > 0 {
                    known.life = Life::Pending(t);
                } else {
                    lines.push(line(t, "firing", &entity, told));
                    known.life = Life::Firing(t, instant.then_some(t), told);
                }
            }
            _ => {}
        }
    }
    close_to(end, &mut all, &mut lines);
    lines.sort();
    lines
}

#[test]
fn every_kind_says_what_the_naive_model_says() {
    let mut fired: BTreeMap<&str, usize> = BTreeMap::new();
    let cases = std::env::var("AUDITCAST_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    for seed in 0..cases {
        let mut random = Random(seed);
        let rule = rule(&mut random);
        let stream = stream(&mut random);
        let end = (stream.last().map_or(0, |g| g.at) + 400 * S) / INTERVAL * INTERVAL;
        let (found, expected) = (run(&rule, &stream, &mut random, end), model(&rule, &stream, end));
        assert_eq!(found, expected, "seed {seed}: {rule:#?}\n{stream:#?}");
        *fired.entry(rule.kind.as_str()).or_default() += found.len();
    }
    println!("{fired:?}");
    assert_eq!(fired.len(), 12);
    assert!(fired.values().all(|n| *n > 100), "{fired:?}");
}
