//! `replay`: history through the same engine, offline. Sends nothing, stores nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::{Failure, Global, terminal};
use crate::{
    config::Config,
    detect::{Alert, Detector, Observed, Status},
    event::{Classifier, ENTRY_BYTES_MAX, EntryId, parse_ms},
    wire,
};

/// Longest line that is read whole, bytes.
const LINE_BYTES_MAX: usize = 4 * ENTRY_BYTES_MAX;

#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// JSON lines, one audit event each, by their own times; `-` is standard input
    #[arg(long, value_name = "PATH")]
    pub file: PathBuf,
    /// Rule file, or directory of them, in place of the configuration's
    #[arg(long, value_name = "PATH")]
    pub rules: Option<PathBuf>,
    /// Tell only what other rules would change: alerts that those of this file or directory would fire beside, or not at all
    #[arg(long, value_name = "PATH")]
    pub diff: Option<PathBuf>,
    /// The configured source whose events these are [default: the first]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
}

/// What there was.
#[derive(Default)]
struct Seen {
    events: u64,
    unreadable: u64,
    /// Without a time of their own: they are dated by the event before them.
    undated: u64,
}

pub fn run(global: &Global, args: &Replay) -> Result<(), Failure> {
    let load = |dir: &Option<PathBuf>, flag: &str| {
        let named = dir.iter().map(|dir| ("rules.dir".to_owned(), dir.display().to_string(), flag.to_owned()));
        Ok::<Config, Failure>(Config::load(global.sources(named.collect()))?)
    };
    let config = load(&args.rules, "--rules")?;
    let source = match &args.source {
        None => 0,
        Some(name) => config.detect.sources.iter().position(|known| known == name).ok_or_else(|| {
            let known = config.detect.sources.join(", ");
            Failure::usage(format!("there is no source \"{}\", there are {known}", terminal::plain(name)))
        })?,
    };
    let shown = args.file.display().to_string();
    let reading = |error: io::Error| Failure::run(format!("could not read {}: {error}", terminal::plain(&shown)));
    let input: Box<dyn BufRead> = if shown == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(1 << 16, File::open(&args.file).map_err(reading)?))
    };
    let source = u16::try_from(source).unwrap_or_default();
    let mut replay = Machine::new(&config, source)?;
    if args.diff.is_some() {
        let mut other = Machine::new(&load(&args.diff, "--diff")?, source)?;
        let mut changes = Changes::default();
        read(input, |line| {
            replay.take(line);
            other.take(line);
            changes.take(&mut replay.alerts, &mut other.alerts);
            true
        })
        .map_err(reading)?;
        replay.end();
        other.end();
        changes.take(&mut replay.alerts, &mut other.alerts);
        changes.tell(&config);
        return Ok(());
    }
    let mut told = true;
    read(input, |line| {
        replay.take(line);
        told = tell(&mut replay.alerts, &config);
        told
    })
    .map_err(reading)?;
    replay.end();
    if told {
        tell(&mut replay.alerts, &config);
    }
    let Seen { events, unreadable, undated } = replay.seen;
    eprintln!(
        "{events} events, {} alerts fired, {unreadable} lines that are no event, {undated} events without a time",
        replay.fired
    );
    Ok(())
}

/// Line by line, for as long as somebody wants them. What is longer than any entry may be is cut, and is no event.
fn read(mut input: Box<dyn BufRead>, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = io::Read::take(&mut input, LINE_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || line.len() < LINE_BYTES_MAX;
        if !take(&line) {
            return Ok(());
        }
        if !whole {
            skip_line(&mut input)?;
        }
    }
}

fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                input.consume(at + 1);
                return Ok(());
            }
            None => {
                let length = buffer.len();
                input.consume(length);
            }
        }
    }
}

/// Gives out what there is, one `security_alert` a line. `false`: nobody reads it any more.
fn tell(alerts: &mut Vec<Alert>, config: &Config) -> bool {
    let url = config.http.external_url.as_deref();
    alerts.drain(..).all(|alert| terminal::line(&terminal::plain_json(&wire::alert_body(&alert, url))))
}

/// Alerts that one of two sets of rules fires and the other does not, by their ids, which both give alike.
#[derive(Default)]
struct Changes {
    before: BTreeMap<String, Alert>,
    after: BTreeMap<String, Alert>,
}

impl Changes {
    fn take(&mut self, before: &mut Vec<Alert>, after: &mut Vec<Alert>) {
        let fired = |alert: &Alert| alert.status == Status::Firing;
        for alert in before.drain(..).filter(fired) {
            self.before.insert(alert.alert_id.clone(), alert);
        }
        for alert in after.drain(..).filter(fired) {
            // The same at the same moment: most of them.
            match self.before.get(&alert.alert_id) {
                Some(same) if same.severity == alert.severity && same.message == alert.message => {
                    self.before.remove(&alert.alert_id);
                }
                _ => {
                    self.after.insert(alert.alert_id.clone(), alert);
                }
            }
        }
    }

    /// A line for each, in the order of time: `{"change":"removed"|"added"|"changed","alert":{…}}`.
    fn tell(self, config: &Config) {
        let url = config.http.external_url.as_deref();
        let Changes { before, after } = self;
        let mut lines: Vec<(u64, &str, &Alert)> = Vec::new();
        let removed = before.iter().filter(|(id, _)| !after.contains_key(*id));
        lines.extend(removed.map(|(_, alert)| (alert.received_at_ms, "removed", alert)));
        lines.extend(after.iter().map(|(id, alert)| {
            let change = if before.contains_key(id) { "changed" } else { "added" };
            (alert.received_at_ms, change, alert)
        }));
        lines.sort_by(|a, b| (a.0, &a.2.rule, &a.2.alert_id).cmp(&(b.0, &b.2.rule, &b.2.alert_id)));
        let count = |word: &str| lines.iter().filter(|(_, change, _)| *change == word).count();
        eprintln!("{} added, {} removed, {} changed", count("added"), count("removed"), count("changed"));
        for (_, change, alert) in lines {
            let body = wire::alert_body(alert, url);
            if !terminal::line(&terminal::plain_json(&format!("{{\"change\":\"{change}\",\"alert\":{body}}}"))) {
                return;
            }
        }
    }
}

struct Machine {
    classifier: Classifier,
    detector: Detector,
    source: u16,
    alerts: Vec<Alert>,
    fired: u64,
    seen: Seen,
    /// The newest time, Unix ms.
    last_ms: u64,
    interval_ms: u64,
    /// How long after the last event slots are closed: until what is open has had time to end.
    after_ms: u64,
}

/// The time as the event has it.
#[derive(Deserialize)]
struct Dated {
    timestamp: Option<serde_json::Value>,
}

impl Machine {
    fn new(config: &Config, source: u16) -> Result<Machine, Failure> {
        let classifier = Classifier::new(config.event.clone()).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Machine {
            classifier,
            interval_ms: config.detect.interval_ms.max(1),
            after_ms: config.detect.interval_ms.max(1),
            detector: Detector::new(Arc::new(config.detect.clone())),
            source,
            alerts: Vec::new(),
            fired: 0,
            seen: Seen::default(),
            last_ms: 0,
        })
    }

    fn take(&mut self, line: &[u8]) {
        let begin = line.iter().position(|byte| *byte == b'{').unwrap_or(line.len());
        let text = line.get(begin..).unwrap_or_default().trim_ascii_end();
        if text.is_empty() {
            self.seen.unreadable += u64::from(!line.trim_ascii().is_empty());
            return;
        }
        let own = serde_json::from_slice::<Dated>(text).ok().and_then(|dated| match dated.timestamp? {
            serde_json::Value::String(text) => parse_ms(&text, &TimeZone::UTC),
            serde_json::Value::Number(number) => parse_ms(&number.to_string(), &TimeZone::UTC),
            _ => None,
        });
        let own = own.and_then(|ms| u64::try_from(ms).ok());
        let arrival = own.unwrap_or(self.last_ms.max(1));
        let fields: [(&[u8], &[u8]); 1] = [(b"data", text)];
        let Ok(event) = self.classifier.decode(&fields, arrival, &TimeZone::UTC) else {
            self.seen.unreadable += 1;
            self.detector.invalid(self.source, "bad_json");
            return;
        };
        self.seen.events += 1;
        self.seen.undated += u64::from(own.is_none());
        let time = arrival.max(self.detector.last_slot() + 1);
        let told = self.alerts.len();
        if self.detector.last_slot() != 0 {
            self.detector.close((time - 1) / self.interval_ms * self.interval_ms, &mut self.alerts);
        }
        let entry = EntryId::new(time, self.seen.events);
        let observed = Observed { source: self.source, stream: "replay", entry, event: &event };
        self.detector.observe(time, &observed, &mut self.alerts);
        self.count(told);
        self.last_ms = self.last_ms.max(time);
    }

    fn end(&mut self) {
        let told = self.alerts.len();
        if self.detector.last_slot() != 0 {
            let until = self.last_ms + self.after_ms;
            self.detector.close(until / self.interval_ms * self.interval_ms, &mut self.alerts);
        }
        self.count(told);
    }

    fn count(&mut self, told: usize) {
        let new = self.alerts.iter().skip(told);
        self.fired += new.filter(|alert| alert.status == Status::Firing).count() as u64;
    }
}
