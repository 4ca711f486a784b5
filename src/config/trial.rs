//! The tests that rule files carry: events at relative times, and whom the rule must name.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Number, Value as Json};

use super::{
    Config, Sources,
    ask::quoted,
    fault::{Fault, Origin},
    tree::{Node, Table, Value},
};
use crate::{
    detect::{self, Alert, Detector, Kind, Observed, Status},
    event::{Classifier, EntryId},
};

const EVENTS_MAX: usize = 100_000;
const OFFSET_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Where every test begins, Unix ms: a whole hour.
const START_MS: u64 = 1_800_000_000_000;
const INTERVAL_MS: u64 = 5_000;

/// One `[[test]]`.
#[derive(Clone)]
pub(super) struct Trial {
    pub origin: Origin,
    name: String,
    rule: String,
    /// (ms since the start, the event), in the order of time.
    events: Vec<(u64, Map<String, Json>)>,
    /// Slots are closed up to here.
    until_ms: u64,
    /// The entities that fire, in this order.
    fires: Vec<String>,
    /// Of a rule that is built in.
    pub built_in: bool,
}

/// Takes the `[[test]]` out of a file's table.
pub(super) fn take(table: &mut Table, faults: &mut Vec<Fault>) -> Vec<Trial> {
    let Some(node) = table.remove("test") else { return Vec::new() };
    let Value::List(tests) = node.value else {
        faults.push(Fault { origin: node.origin, key: Some("test".to_owned()), text: "expected tables, [[test]]".to_owned() });
        return Vec::new();
    };
    let read = |(at, node): (usize, Node)| {
        let origin = node.origin.clone();
        trial(node).map_err(|(at_origin, text)| {
            let origin = at_origin.unwrap_or(origin);
            faults.push(Fault { origin, key: Some(format!("test[{at}]")), text });
        })
    };
    tests.into_iter().enumerate().map(read).filter_map(Result::ok).collect()
}

type Wrong = (Option<Origin>, String);

fn trial(node: Node) -> Result<Trial, Wrong> {
    let origin = node.origin;
    let Value::Table(mut table) = node.value else { return Err((None, "expected a table, [[test]]".to_owned())) };
    let text = |node: Option<Node>, name: &str| match node.map(|node| node.value) {
        Some(Value::Text(text)) => Ok(text),
        _ => Err((None, format!("expected `{name}` with a text"))),
    };
    let name = text(table.remove("name"), "name")?;
    let rule = text(table.remove("rule"), "rule")?;
    let fires = match table.remove("fires").map(|node| node.value) {
        Some(Value::List(items)) => items.into_iter().map(|item| text(Some(item), "fires")).collect::<Result<_, _>>()?,
        _ => return Err((None, "expected `fires` with a list of the entities that fire, [] for none".to_owned())),
    };
    let until = table.remove("until").map(|node| offset(&node)).transpose()?;
    let Some(Node { value: Value::List(list), .. }) = table.remove("events") else {
        return Err((None, "expected `events` with a list of tables".to_owned()));
    };
    let mut events = Vec::new();
    for node in list {
        event(node, &mut events)?;
        if events.len() > EVENTS_MAX {
            return Err((None, format!("expected at most {EVENTS_MAX} events")));
        }
    }
    if let Some((key, node)) = table.entries.first() {
        return Err((
            Some(node.origin.clone()),
            format!("unknown key {}, expected name, rule, events, until, fires", quoted(key)),
        ));
    }
    events.sort_by_key(|(at, _)| *at);
    let last = events.last().map_or(0, |(at, _)| *at);
    Ok(Trial { origin, name, rule, events, until_ms: until.unwrap_or(0).max(last + INTERVAL_MS), fires, built_in: false })
}

/// `at`, perhaps `times` and `every`; the rest is the event. `{n}` in its texts is the number of the time, from 1.
fn event(node: Node, events: &mut Vec<(u64, Map<String, Json>)>) -> Result<(), Wrong> {
    let origin = node.origin;
    let wrong = |text: &str| (Some(origin.clone()), text.to_owned());
    let Value::Table(mut table) = node.value else { return Err(wrong("expected an event as a table")) };
    let at = table.remove("at").map(|node| offset(&node)).transpose()?.unwrap_or(0);
    let times = match table.remove("times").map(|node| node.value) {
        None => 1,
        Some(Value::Integer(n)) => {
            usize::try_from(n).ok().filter(|n| (1..=EVENTS_MAX).contains(n)).ok_or_else(|| wrong("expected `times` from 1"))?
        }
        Some(_) => return Err(wrong("expected `times` with a whole number")),
    };
    let every = table.remove("every").map(|node| offset(&node)).transpose()?.unwrap_or(0);
    for n in 1..=times {
        let members = table.entries.iter().map(|(name, node)| (name.clone(), json(&node.value, n))).collect();
        events.push((at + every * (n as u64 - 1), members));
    }
    Ok(())
}

fn offset(node: &Node) -> Result<u64, Wrong> {
    let read = match &node.value {
        Value::Text(text) => humantime::parse_duration(text).ok().filter(|d| *d <= OFFSET_MAX),
        _ => None,
    };
    let ms = read.and_then(|d| u64::try_from(d.as_millis()).ok());
    ms.ok_or_else(|| (Some(node.origin.clone()), "expected a duration of up to a year, such as \"10m\"".to_owned()))
}

fn json(value: &Value, n: usize) -> Json {
    match value {
        Value::Text(text) | Value::Raw(text) => Json::from(text.replace("{n}", &n.to_string())),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
        Value::Boolean(flag) => Json::from(*flag),
        Value::List(items) => items.iter().map(|item| json(&item.value, n)).collect(),
        Value::Table(table) => {
            Json::Object(table.entries.iter().map(|(name, node)| (name.clone(), json(&node.value, n))).collect())
        }
        Value::Other(_) => Json::Null,
    }
}

impl Config {
    /// Runs the tests of the rules. Gives how many there were, and what failed.
    pub fn try_rules(&self) -> (usize, Vec<Fault>) {
        let mut faults = Vec::new();
        // What is built in is tried as it is delivered: an installation may tune such a rule, and the lists it counts by.
        let delivered = Self::load(Sources::default()).ok();
        for trial in &self.trials {
            let config = delivered.as_ref().filter(|_| trial.built_in).unwrap_or(self);
            if let Err(text) = config.try_one(trial) {
                let key = Some(format!("test {}", quoted(&trial.name)));
                faults.push(Fault { origin: trial.origin.clone(), key, text });
            }
        }
        (self.trials.len(), faults)
    }

    fn try_one(&self, trial: &Trial) -> Result<(), String> {
        let Some(rule) = self.detect.rules.iter().find(|rule| rule.name == trial.rule) else {
            return Err(format!("there is no rule {}", quoted(&trial.rule)));
        };
        let mut classifier = Classifier::new(self.event.clone()).map_err(|error| error.to_string())?;
        // Alone, and with nobody allowed for: the tests are the rule's, not the installation's.
        let options = detect::Options {
            interval_ms: INTERVAL_MS,
            rules: vec![detect::Rule { enabled: true, ..rule.clone() }],
            thresholds: Vec::new(),
            allowed: detect::Allowed::default(),
            ..self.detect.clone()
        };
        let mut detector = Detector::new(Arc::new(options));
        detector.skip_to(START_MS);
        let mut alerts: Vec<Alert> = Vec::new();
        for (seq, (at, members)) in trial.events.iter().enumerate() {
            let time_ms = START_MS + 1 + at;
            detector.close((time_ms - 1) / INTERVAL_MS * INTERVAL_MS, &mut alerts);
            let text = Json::Object(members.clone()).to_string();
            let fields: [(&[u8], &[u8]); 1] = [(b"data", text.as_bytes())];
            let event = classifier
                .decode(&fields, time_ms, &jiff::tz::TimeZone::UTC)
                .map_err(|invalid| format!("event {} cannot be read: {}", seq + 1, invalid.as_str()))?;
            let entry = EntryId::new(time_ms, seq as u64);
            detector.observe(time_ms, &Observed { source: 0, stream: "test", entry, event: &event }, &mut alerts);
        }
        detector.close((START_MS + trial.until_ms) / INTERVAL_MS * INTERVAL_MS, &mut alerts);
        let fired = alerts.iter().filter(|alert| alert.kind == Kind::Rule && alert.status == Status::Firing);
        let fired: Vec<String> = fired.filter(|alert| alert.rule == trial.rule).map(entity).collect();
        if fired == trial.fires {
            return Ok(());
        }
        let list = |names: &[String]| match names {
            [] => "nobody".to_owned(),
            names => names.iter().take(20).map(|name| quoted(name)).collect::<Vec<_>>().join(", "),
        };
        Err(format!("expected {} to fire for {}, found {}", trial.rule, list(&trial.fires), list(&fired)))
    }
}

/// Rules that have no test where they fire, or none where they do not.
pub(super) fn untested(trials: &[Trial], rules: &Table) -> Vec<String> {
    let has = |rule: &str, fires: bool| trials.iter().any(|trial| trial.rule == rule && trial.fires.is_empty() != fires);
    rules.entries.iter().map(|(name, _)| name).filter(|name| !has(name, true) || !has(name, false)).cloned().collect()
}

/// All parts of `details.entity`, in their order.
fn entity(alert: &Alert) -> String {
    let Some(Json::Object(members)) = alert.details.get("entity") else { return String::new() };
    members.values().filter_map(Json::as_str).collect::<Vec<_>>().join(", ")
}
