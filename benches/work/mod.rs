//! What both benches do to the pure rooms: the one place that calls them, on the entries of `examples/bench/entries.rs` and the
//! default configuration.

use std::sync::Arc;

use auditcast::{
    config::{Config, Sources},
    detect::{Alert, Detector, Observed},
    event::{Classifier, EntryId, Event},
    store::{
        LogEntry,
        redis::resp::{Parser, Shape},
    },
    wire::{self, AlertView, Subscription},
};
use entries::{Entry, FIELDS};
use jiff::tz::TimeZone;

#[path = "../../examples/bench/entries.rs"]
mod entries;

/// Where time begins: 2026-11-23T00:00:00Z, Unix ms, the end of a slot.
pub const START_MS: u64 = 1_795_392_000_000;
/// Arrivals a millisecond.
const PER_MS: u64 = 10;
const DATE: &str = "2026-11-23";

/// One entry as the store gives it.
pub struct Given {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    entry: EntryId,
    time_ms: u64,
}

fn given(n: u64, fields: Vec<(Vec<u8>, Vec<u8>)>) -> Given {
    let time_ms = START_MS + 1 + n / PER_MS;
    Given { fields, entry: EntryId::new(time_ms, n % PER_MS), time_ms }
}

/// Entries of flat fields.
pub fn flat(n: u64) -> Vec<Given> {
    let fields =
        |entry: Entry| FIELDS.iter().zip(entry.values).map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()));
    (0..n).map(|i| given(i, fields(Entry::nth(i, DATE)).collect())).collect()
}

/// The same as envelopes.
pub fn envelopes(n: u64) -> Vec<Given> {
    (0..n).map(|i| given(i, vec![(b"data".to_vec(), Entry::nth(i, DATE).envelope().into_bytes())])).collect()
}

/// What Redis answers to `XREAD` where so many flat entries wait.
pub fn reply(n: u64) -> Vec<u8> {
    let mut reply = format!("*1\r\n*2\r\n$12\r\naudit:events\r\n*{n}\r\n").into_bytes();
    let mut word = |head: String, text: &[u8]| {
        reply.extend_from_slice(head.as_bytes());
        reply.extend_from_slice(text);
        reply.extend_from_slice(b"\r\n");
    };
    for given in flat(n) {
        let id = given.entry.to_string();
        word(format!("*2\r\n${}\r\n", id.len()), id.as_bytes());
        let mut head = format!("*{}\r\n", given.fields.len() * 2);
        for (name, value) in &given.fields {
            word(format!("{head}${}\r\n", name.len()), name);
            head.clear();
            word(format!("${}\r\n", value.len()), value);
        }
    }
    reply
}

/// The reader's parser.
pub struct Reading {
    parser: Parser,
    shape: Shape,
}

impl Reading {
    pub fn new(n: u64) -> Reading {
        Reading { parser: Parser::new(), shape: Shape { reads: 1, count: n as usize, ..Shape::default() } }
    }

    /// Entries of a whole reply, each looked at once.
    pub fn read(&mut self, reply: &[u8]) -> u64 {
        self.parser.expect(self.shape);
        let mut bytes = reply.to_vec();
        assert!(self.parser.feed(&mut bytes).expect("the reply is good"), "it is whole");
        let answer = self.parser.answer(bytes);
        answer.streams().flat_map(|stream| stream.entries).filter(|entry| entry.size() > 0).count() as u64
    }
}

/// Alerts that are held at once.
const ALERTS_KEPT: usize = 1000;

/// Classifier and detector by the default configuration.
pub struct Machine {
    classifier: Classifier,
    detector: Detector,
    alerts: Vec<Alert>,
}

impl Machine {
    /// Metrics and thresholds alone.
    pub fn new() -> Machine {
        Machine::of(|config| config.detect.rules.clear())
    }

    /// With all built-in rules on.
    pub fn with_rules() -> Machine {
        Machine::of(|config| config.detect.rules.iter_mut().for_each(|rule| rule.enabled = true))
    }

    fn of(set: impl FnOnce(&mut Config)) -> Machine {
        let mut config = Config::load(Sources::default()).expect("the defaults are good");
        set(&mut config);
        let classifier = Classifier::new(config.event).expect("so are their patterns");
        Machine { classifier, detector: Detector::new(Arc::new(config.detect)), alerts: Vec::new() }
    }

    pub fn decode<'a>(&mut self, given: &'a Given) -> Event<'a> {
        // On the stack, as the monitor lays them out.
        let mut fields: [(&[u8], &[u8]); FIELDS.len()] = [(&[], &[]); FIELDS.len()];
        for (place, (name, value)) in fields.iter_mut().zip(&given.fields) {
            *place = (name, value);
        }
        let fields = fields.get(..given.fields.len()).expect("it has no more fields than a flat entry");
        self.classifier.decode(fields, given.time_ms, &TimeZone::UTC).expect("the entry is good")
    }

    /// What follows from a name.
    pub fn classify(&mut self, name: &str) -> u64 {
        self.classifier.event_type(name).map_or(0, |kind| kind.lists.0)
    }

    /// `later_ms` moves the arrival, so that entries can be taken again as later ones.
    pub fn observe(&mut self, given: &Given, later_ms: u64, event: &Event<'_>) {
        let entry = EntryId::new(given.entry.ms + later_ms, given.entry.seq);
        let observed = Observed { source: 0, stream: "audit:events", entry, event };
        self.detector.observe(given.time_ms + later_ms, &observed, &mut self.alerts);
        // Rules see attacks in entries that have nothing in common; who counts alerts looks before.
        if self.alerts.len() > ALERTS_KEPT {
            self.alerts.clear();
        }
    }

    /// Closes the slots that ended before an arrival.
    pub fn close_before(&mut self, given: &Given, later_ms: u64) {
        let time_ms = given.time_ms + later_ms;
        if time_ms > self.detector.next_slot() && self.detector.last_slot() != 0 {
            let interval_ms = self.detector.next_slot() - self.detector.last_slot();
            self.detector.close((time_ms - 1) / interval_ms * interval_ms, &mut self.alerts);
        }
    }

    /// Closes the open slot.
    pub fn close(&mut self) {
        self.detector.close(self.detector.next_slot(), &mut self.alerts);
    }

    pub fn alerts(&self) -> usize {
        self.alerts.len()
    }
}

/// An alert as the alert log has it.
pub fn alert() -> Alert {
    let mut machine = Machine::new();
    let critical = Entry::critical("security.injection_attempt", "4711", DATE);
    let fields = FIELDS.iter().zip(critical.values).map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes())).collect();
    let given = given(0, fields);
    let event = machine.decode(&given);
    machine.observe(&given, 0, &event);
    machine.alerts.pop().expect("a critical event is an alert")
}

/// The frame of an alert, with its position.
pub fn alert_frame(alert: &Alert) -> usize {
    wire::with_pos(&wire::alert_body(alert, None), "7-00c0ffee", false).len()
}

/// The frame of a live event.
pub fn event_frame(given: &Given, event: &Event<'_>) -> usize {
    wire::event_frame(event, given.entry, "audit", given.time_ms).len()
}

/// What a filter looks at, and a filter that looks at all of it.
pub fn filter() -> (AlertView, Subscription) {
    let body = wire::alert_body(&alert(), None);
    let view = AlertView::parse(&body).expect("the body is ours");
    let subscription = Subscription::from_query("min_severity=medium&types=auth.*,*injection*&kinds=event,threshold");
    (view, subscription.expect("the query is good"))
}

pub fn wants(subscription: &Subscription, view: &AlertView) -> bool {
    subscription.wants(view, || None)
}

/// An entry of the alert log on its way into the hub's ring.
pub fn log_entry() -> LogEntry {
    LogEntry { seq: 7, check: "00c0ffee".to_owned(), body: wire::alert_body(&alert(), None) }
}
