//! Entries in, effects out, without a store and without waiting: decoding, classifying and the detector as one machine that the
//! live loop and the replay of the commit log both drive, so that they cannot differ.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{
    Settings,
    streams::{Feeds, Hole, Saved, Stream},
};
use crate::{
    detect::{Alert, Detector, Gap, GapReason, Observed, SourceIx, Status},
    event::{Classifier, ENTRY_BYTES_MAX, EntryId, Event, Invalid},
    store::{CommitRecord, DeadLetter, Entry, NewEntry},
    wire,
};

/// Longest body kept of an entry that cannot be read, bytes (contract §3).
const DEAD_LETTER_BYTES_MAX: usize = 4096;
/// Arrivals remembered for `auditcast_event_processing_seconds` between two commits.
const ARRIVALS_MAX: usize = 4096;

/// What has been decided and not yet been stored.
#[derive(Debug, Default)]
pub struct Effects {
    pub alerts: Vec<Alert>,
    pub dead_letters: Vec<DeadLetter>,
    pub marks: Vec<Mark>,
    /// Arrivals (Unix ms) of entries taken in, the first few thousand.
    pub arrivals: Vec<u64>,
    /// An entry from the future was taken in: the commit must directly follow.
    pub future: bool,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        !self.urgent() && self.dead_letters.is_empty()
    }

    /// There is something in it that cannot wait for the slot's end.
    pub fn urgent(&self) -> bool {
        !self.alerts.is_empty() || !self.marks.is_empty() || self.future
    }
}

/// What happened to a stream besides entries, in a commit record: a replay does the same to its detector.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Entries of each stream that this record took in: fewer at a replay means that they were trimmed since.
    Taken(BTreeMap<String, u64>),
    Hole {
        stream: String,
        source: String,
        reason: GapReason,
        from: Option<EntryId>,
        to: Option<EntryId>,
        missed: Option<u64>,
        /// Where reading goes on, and how many entries that position stands for.
        position: EntryId,
        counted: Option<u64>,
    },
    /// A stream that could not be read can be read again, or is no longer configured.
    Readable { stream: String, source: String },
    /// How many entries had ever been added to a stream up to its position: looked up, not counted.
    Counted(BTreeMap<String, u64>),
    /// The store had lost the records before this one: what they led to is in the next snapshot only.
    Anew,
}

/// Where live events go; `None` in a replay.
pub type EventSink<'a> = Option<&'a mut (dyn FnMut(&Event<'_>, EntryId, &str) + Send)>;

/// When an entry came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// In the open slot.
    pub time_ms: u64,
    /// Its id's time, never later than the store's clock.
    pub arrival_ms: u64,
    /// Its id is so far ahead of the store's clock.
    pub ahead_ms: Option<u64>,
}

struct Source {
    name: String,
    timezone: TimeZone,
}

pub struct Engine {
    settings: Arc<Settings>,
    classifier: Classifier,
    pub detector: Detector,
    sources: Vec<Source>,
    by_name: AHashMap<String, SourceIx>,
    pub streams: Vec<Stream>,
    by_key: AHashMap<String, usize>,
}

#[derive(Serialize, Deserialize)]
struct SavedHeader {
    version: u32,
    streams: Vec<Saved>,
}

impl Engine {
    pub fn new(settings: Arc<Settings>, intake: &str) -> Result<Engine, String> {
        let detector = Detector::new(settings.detect.clone());
        Engine::with(settings, detector, intake)
    }

    fn with(settings: Arc<Settings>, detector: Detector, intake: &str) -> Result<Engine, String> {
        let classifier = Classifier::new(settings.event.clone()).map_err(|e| e.to_string())?;
        let sources: Vec<Source> =
            settings.sources.iter().map(|s| Source { name: s.name.clone(), timezone: s.timezone.clone() }).collect();
        let by_name = sources.iter().enumerate().map(|(i, s)| (s.name.clone(), i as SourceIx)).collect();
        let mut engine =
            Engine { settings, classifier, detector, sources, by_name, streams: Vec::new(), by_key: AHashMap::new() };
        engine.add_stream(Stream::new(intake.to_owned(), Feeds::Intake, EntryId::ZERO));
        Ok(engine)
    }

    /// The state machine and its positions as bytes: a line of JSON, then the detector's own.
    pub fn snapshot(&self) -> Vec<u8> {
        let header = SavedHeader { version: 1, streams: self.streams.iter().map(Stream::save).collect() };
        let mut data = serde_json::to_vec(&header).unwrap_or_default();
        data.push(b'\n');
        data.extend_from_slice(&self.detector.snapshot());
        data
    }

    /// Takes a snapshot up again; streams that no source names any more are left out.
    pub fn restore(settings: Arc<Settings>, intake: &str, data: &[u8]) -> Result<Engine, String> {
        let newline = data.iter().position(|b| *b == b'\n').ok_or("it has no header")?;
        let (header, state) = data.split_at(newline);
        let header: SavedHeader = serde_json::from_slice(header).map_err(|e| e.to_string())?;
        if header.version != 1 {
            return Err(format!("its version is {}", header.version));
        }
        let detector = Detector::restore(settings.detect.clone(), &state[1..]).map_err(|e| e.to_string())?;
        let mut engine = Engine::with(settings, detector, intake)?;
        for saved in header.streams {
            if saved.key == intake {
                engine.streams[0] = Stream::restore(saved, Feeds::Intake);
            } else if let Some(source) = engine.settings.source_of(&saved.key) {
                engine.add_stream(Stream::restore(saved, Feeds::Source(source)));
            }
        }
        Ok(engine)
    }

    /// New lists, thresholds and severities without a restart; sources stay as they are.
    pub fn reload(&mut self, settings: Arc<Settings>) -> Result<(), String> {
        self.classifier = Classifier::new(settings.event.clone()).map_err(|e| e.to_string())?;
        self.detector.set_options(settings.detect.clone());
        self.settings = settings;
        Ok(())
    }

    pub fn add_stream(&mut self, stream: Stream) -> usize {
        let index = self.streams.len();
        self.by_key.insert(stream.key.clone(), index);
        self.streams.push(stream);
        index
    }

    pub fn stream_index(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    pub fn source_name(&self, feeds: Feeds) -> &str {
        match feeds {
            Feeds::Source(source) => self.sources.get(usize::from(source)).map_or("", |s| s.name.as_str()),
            Feeds::Intake => "intake",
        }
    }

    /// The source that a stream's troubles are told of: the intake's own are the HTTP source's.
    fn source_ix(&self, feeds: Feeds) -> SourceIx {
        match feeds {
            Feeds::Source(source) => source,
            Feeds::Intake => self.by_name.get(crate::source::HTTP).copied().unwrap_or(0),
        }
    }

    /// Takes one entry in.
    pub fn observe(&mut self, index: usize, entry: &Entry, arrival: Arrival, effects: &mut Effects, sink: EventSink<'_>) {
        let Arrival { time_ms, arrival_ms, ahead_ms } = arrival;
        let Some(stream) = self.streams.get_mut(index) else { return };
        stream.took(entry.id);
        let stream = &self.streams[index];
        if effects.arrivals.len() < ARRIVALS_MAX {
            effects.arrivals.push(arrival_ms);
        }
        let (source, decoded) = match stream.feeds {
            Feeds::Source(source) => {
                let timezone = self.sources.get(usize::from(source)).map_or(&UTC, |s| &s.timezone);
                (source, decode(&mut self.classifier, entry, arrival_ms, timezone))
            }
            Feeds::Intake => {
                let field = |name: &[u8]| entry.field(name).and_then(|v| std::str::from_utf8(v).ok());
                let source = field(b"source")
                    .and_then(|name| self.by_name.get(name).copied())
                    .or_else(|| self.by_name.get(crate::source::HTTP).copied())
                    .unwrap_or(0);
                let timezone = self.sources.get(usize::from(source)).map_or(&UTC, |s| &s.timezone);
                let decoded = match field(b"body") {
                    Some(body) => self.classifier.decode_json(body, arrival_ms, timezone),
                    None => Err(Invalid::NoFields),
                };
                (source, decoded)
            }
        };
        let name = self.sources.get(usize::from(source)).map_or("", |s| s.name.as_str());
        if let Some(ahead) = ahead_ms {
            effects.future = true;
            if ahead > FUTURE_MS {
                self.detector.future_id(time_ms, source, &stream.key, entry.id, ahead, &mut effects.alerts);
                self.detector.invalid(source, Invalid::FutureId.as_str());
                effects.dead_letters.push(dead_letter(&self.classifier, name, &stream.key, entry, Invalid::FutureId));
            }
        }
        match decoded {
            Ok(event) => {
                let observed = Observed { source, stream: &stream.key, entry: entry.id, event: &event };
                self.detector.observe(time_ms, &observed, &mut effects.alerts);
                if let Some(sink) = sink {
                    sink(&event, entry.id, name);
                }
            }
            Err(reason) => {
                self.detector.invalid(source, reason.as_str());
                effects.dead_letters.push(dead_letter(&self.classifier, name, &stream.key, entry, reason));
            }
        }
    }

    /// Closes every slot up to `slot_end_ms`.
    pub fn close_to(&mut self, slot_end_ms: u64, effects: &mut Effects) {
        self.detector.close(slot_end_ms, &mut effects.alerts);
    }

    pub fn interval_ms(&self) -> u64 {
        self.settings.detect.interval_ms
    }

    pub fn source_of(&self, stream: &str) -> Option<SourceIx> {
        self.settings.source_of(stream)
    }

    /// A hole was found by [`Stream::compare`], which has moved the stream's position already.
    pub fn hole(&mut self, index: usize, hole: Hole, effects: &mut Effects) {
        let Some(stream) = self.streams.get(index) else { return };
        let (position, counted, feeds, key) = (stream.done, stream.counted, stream.feeds, stream.key.clone());
        let source = self.source_ix(feeds);
        self.gap(source, &key, &hole, &mut effects.alerts);
        effects.marks.push(Mark::Hole {
            source: self.source_name(Feeds::Source(source)).to_owned(),
            stream: key,
            reason: hole.reason,
            from: Some(hole.from),
            to: hole.to,
            missed: hole.missed,
            position,
            counted,
        });
    }

    /// A stream is not followed, because there are too many.
    pub fn exhausted(&mut self, source: SourceIx, stream: &str, effects: &mut Effects) {
        let hole = Hole { reason: GapReason::Exhausted, from: EntryId::ZERO, to: None, missed: None };
        self.gap(source, stream, &hole, &mut effects.alerts);
        effects.marks.push(Mark::Hole {
            source: self.source_name(Feeds::Source(source)).to_owned(),
            stream: stream.to_owned(),
            reason: hole.reason,
            from: None,
            to: None,
            missed: None,
            position: EntryId::ZERO,
            counted: None,
        });
    }

    /// A stream has been unreadable for `monitor.max_source_lag`.
    pub fn unreadable(&mut self, index: usize, effects: &mut Effects) {
        if let Some(stream) = self.streams.get(index) {
            let hole = Hole { reason: GapReason::Unreadable, from: stream.done, to: None, missed: None };
            self.hole(index, hole, effects);
        }
    }

    /// The stream can be read again, or nobody wants to read it any more.
    pub fn readable(&mut self, key: &str, effects: &mut Effects) {
        let source = self.stream_index(key).map_or(0, |index| self.source_ix(self.streams[index].feeds));
        self.detector.readable(self.detector.last_slot() + 1, source, key, &mut effects.alerts);
        let source = self.source_name(Feeds::Source(source)).to_owned();
        effects.marks.push(Mark::Readable { source, stream: key.to_owned() });
    }

    fn gap(&mut self, source: SourceIx, stream: &str, hole: &Hole, out: &mut Vec<Alert>) {
        let text = |id: EntryId| (id != EntryId::ZERO).then(|| id.to_string());
        let gap = Gap {
            source,
            stream: stream.to_owned(),
            reason: hole.reason,
            from: text(hole.from),
            to: hole.to.and_then(text),
            missed: hole.missed,
        };
        self.detector.gap(self.detector.last_slot() + 1, &gap, out);
    }

    /// Does again what the marks of a commit record say.
    pub fn apply_marks(&mut self, record: &CommitRecord, out: &mut Vec<Alert>) {
        for mark in &record.marks {
            match serde_json::from_value::<Mark>(mark.clone()) {
                Ok(Mark::Hole { stream, source, reason, from, to, missed, position, counted }) => {
                    let Some(source) = self.by_name.get(&source).copied() else { continue };
                    self.gap(source, &stream, &Hole { reason, from: from.unwrap_or_default(), to, missed }, out);
                    if let Some(index) = self.stream_index(&stream)
                        && reason != GapReason::Unreadable
                    {
                        let stream = &mut self.streams[index];
                        stream.move_to(position);
                        stream.counted = counted;
                        if reason == GapReason::Reset {
                            // As it was found: gone, or another one.
                            stream.existed = to.is_some();
                            stream.recent.clear();
                        } else {
                            stream.recent.retain(|id| *id <= position);
                        }
                    }
                }
                Ok(Mark::Readable { stream, source }) => {
                    // The source may be gone from the configuration; the alert ends all the same.
                    let source = self.by_name.get(&source).copied().unwrap_or(0);
                    self.detector.readable(self.detector.last_slot() + 1, source, &stream, out);
                }
                Ok(Mark::Counted(counts)) => {
                    for (stream, counted) in counts {
                        if let Some(index) = self.stream_index(&stream) {
                            self.streams[index].counted = Some(counted);
                            self.streams[index].existed |= counted > 0;
                        }
                    }
                }
                Ok(Mark::Taken(_) | Mark::Anew) | Err(_) => {}
            }
        }
    }

    /// What the next commit record says of the streams, and nothing that it need not.
    pub fn record(&mut self, time_ms: u64, marks: Vec<Mark>) -> CommitRecord {
        let mut done = BTreeMap::new();
        let mut taken = BTreeMap::new();
        let mut counted = BTreeMap::new();
        for stream in &mut self.streams {
            if std::mem::take(&mut stream.recounted)
                && let Some(n) = stream.counted
            {
                counted.insert(stream.key.clone(), n);
            }
            if std::mem::take(&mut stream.moved) {
                done.insert(stream.key.clone(), stream.done);
            }
            match std::mem::take(&mut stream.taken) {
                0 => {}
                n => drop(taken.insert(stream.key.clone(), n)),
            }
        }
        let mut all = Vec::with_capacity(marks.len() + 2);
        if !taken.is_empty() {
            all.push(Mark::Taken(taken));
        }
        all.extend(marks);
        if !counted.is_empty() {
            all.push(Mark::Counted(counted));
        }
        CommitRecord {
            n: 0,
            slot: self.detector.last_slot(),
            time: time_ms,
            done,
            marks: all.into_iter().filter_map(|m| serde_json::to_value(m).ok()).collect(),
            fingerprint: self.settings.fingerprint.clone(),
        }
    }

    /// How the transitions go into the alert log.
    pub fn log_entries(&self, alerts: &[Alert]) -> Vec<NewEntry> {
        alerts
            .iter()
            .map(|alert| NewEntry {
                alert_id: alert.alert_id.clone(),
                body: wire::alert_body(alert, self.settings.external_url.as_deref()),
                firing: alert.status == Status::Firing,
                first: alert.status == Status::Firing,
            })
            .collect()
    }
}

static UTC: TimeZone = TimeZone::UTC;

/// An id further ahead of the store's clock than this raises `audit_clock` (contract §4).
const FUTURE_MS: u64 = 5_000;

/// Entries of so few fields, which is nearly all, are laid out on the stack.
const FIELDS_FEW: usize = 24;

fn decode<'a>(classifier: &mut Classifier, entry: &'a Entry, arrival_ms: u64, timezone: &TimeZone) -> Result<Event<'a>, Invalid> {
    // What is far too large may have been cut when it was read.
    if entry.size() > ENTRY_BYTES_MAX {
        return Err(Invalid::TooLarge);
    }
    let count = entry.fields().len();
    if count > FIELDS_FEW {
        let fields: Vec<_> = entry.fields().collect();
        return classifier.decode(&fields, arrival_ms, timezone);
    }
    let mut few: [(&[u8], &[u8]); FIELDS_FEW] = [(&[], &[]); FIELDS_FEW];
    for (place, field) in few.iter_mut().zip(entry.fields()) {
        *place = field;
    }
    classifier.decode(few.get(..count).unwrap_or_default(), arrival_ms, timezone)
}

/// What is kept of an entry that cannot be read: masked like any other, then cut.
fn dead_letter(classifier: &Classifier, source: &str, stream: &str, entry: &Entry, reason: Invalid) -> DeadLetter {
    let fields: Vec<_> = entry.fields().collect();
    let mut body = match fields.as_slice() {
        [(name, value)] if *name != b"event_type" => classifier.masked_text(&String::from_utf8_lossy(value)).into_owned(),
        fields => {
            let mut object = serde_json::Map::new();
            for (name, value) in classifier.masked_fields(fields) {
                object.insert(name, value.into());
            }
            serde_json::Value::Object(object).to_string()
        }
    };
    body.truncate(body.floor_char_boundary(DEAD_LETTER_BYTES_MAX));
    DeadLetter { source: source.to_owned(), stream: stream.to_owned(), entry: entry.id, reason: reason.as_str().to_owned(), body }
}
