//! From the fields of an entry, or the text of an envelope, to a classified event (contract §3).

use std::{borrow::Cow, sync::Arc};

use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use super::{
    Classifier, Details, Event, EventType, Invalid, Lists, Outcome, Severity, TimestampFault,
    envelope::{Envelope, Part, parse_nested},
    mask::{Fate, MASK, Mask},
    normal::split_args,
    plain::Plain,
    scan::{Raw, Shape, is_blank},
    time::event_time,
};

/// Largest entry: names and values of all fields, or the envelope's text.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// The fields of an entry that owns them, as [`Classifier::decode`] takes them.
pub fn borrowed<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<(&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect()
}

impl Classifier {
    /// Reads the fields of one entry, in their order. An entry of exactly one field is an envelope, whatever the field's name;
    /// only a lone `event_type` that holds no JSON object is an event of nothing but a name.
    ///
    /// The slice is looked at during the call only; the event borrows from the names and values themselves ([`borrowed`] makes the
    /// slice of owned ones). `arrival_ms` is the entry's time (Unix ms); `timezone` is that of timestamps without one.
    pub fn decode<'a>(
        &mut self,
        fields: &[(&'a [u8], &'a [u8])],
        arrival_ms: u64,
        timezone: &TimeZone,
    ) -> Result<Event<'a>, Invalid> {
        let bytes = fields.iter().fold(0usize, |sum, (name, value)| sum.saturating_add(name.len()).saturating_add(value.len()));
        if bytes > ENTRY_BYTES_MAX {
            return Err(Invalid::TooLarge);
        }
        if self.mask.keeps_details() {
            let mut plain = Plain::default();
            let read = match fields {
                [] => None,
                [(_, value)] => std::str::from_utf8(value).ok().and_then(|text| plain.envelope(text, &self.mask)),
                _ => plain.flat(fields, &self.mask),
            };
            if read.is_some() {
                return self.understand_plain(&mut plain, arrival_ms, timezone);
            }
        }
        self.decode_odd(fields, arrival_ms, timezone)
    }

    /// Reads an envelope given as text, as HTTP and files have it. The rest is as for [`Classifier::decode`].
    pub fn decode_json<'a>(&mut self, text: &'a str, arrival_ms: u64, timezone: &TimeZone) -> Result<Event<'a>, Invalid> {
        if text.len() > ENTRY_BYTES_MAX {
            return Err(Invalid::TooLarge);
        }
        let mut plain = Plain::default();
        if self.mask.keeps_details() && plain.envelope(text, &self.mask).is_some() {
            return self.understand_plain(&mut plain, arrival_ms, timezone);
        }
        self.understand(Envelope::parse(text)?, arrival_ms, timezone)
    }

    /// Reads what [`Plain`] leaves, and all the rest too.
    pub(super) fn decode_odd<'a>(
        &mut self,
        fields: &[(&'a [u8], &'a [u8])],
        arrival_ms: u64,
        timezone: &TimeZone,
    ) -> Result<Event<'a>, Invalid> {
        let envelope = match fields {
            [] => return Err(Invalid::NoFields),
            [(name, value)] => {
                let envelope = std::str::from_utf8(value).map_err(|_| Invalid::BadUtf8).and_then(Envelope::parse);
                match envelope {
                    Err(_) if *name == b"event_type" => flat(fields)?,
                    envelope => envelope?,
                }
            }
            _ => flat(fields)?,
        };
        self.understand(envelope, arrival_ms, timezone)
    }

    fn understand_plain<'a>(
        &mut self,
        plain: &mut Plain<'a>,
        arrival_ms: u64,
        timezone: &TimeZone,
    ) -> Result<Event<'a>, Invalid> {
        let kind = self.event_type(plain.event_type)?;
        let outcome = plain.outcome().unwrap_or(kind.outcome);
        let text = |name: &str, raw: Raw<'a>| text_of_plain(name, raw, &self.mask);
        let user_id = text("user_id", plain.user_id);
        let username = text("username", plain.username);
        let event_id = text("event_id", plain.event_id);
        let message = text("message", plain.message);

        let mut own_severity = None;
        let mut severity_ignored = false;
        if !plain.severity.is_absent() {
            let word = plain.severity.said().filter(|_| plain.severity.shape != Shape::Bool);
            if !word.as_deref().is_some_and(is_blank) {
                own_severity = word.and_then(|word| Severity::parse(&word));
                severity_ignored = own_severity.is_none();
            }
        }

        let mut original_timestamp = None;
        let written = plain.timestamp.words();
        let (timestamp_ms, timestamp_fault) = match written.filter(|text| !is_blank(text)) {
            None => (arrival_ms, Some(TimestampFault::Missing)),
            Some(text) => match event_time(&text, arrival_ms, timezone) {
                Ok(ms) => (ms, None),
                Err(fault) => {
                    original_timestamp = Some(text);
                    (arrival_ms, Some(fault))
                }
            },
        };

        let args = if kind.args.is_some() { split_args(plain.event_type.trim()).1 } else { None };
        let mask = (plain.marked || args.is_some()).then(|| Arc::clone(&self.mask));
        let severity = self.severity(&kind, outcome, own_severity);
        let details = Details { original_timestamp, args, mask, ..plain.details(&self.mask) };
        Ok(Event {
            kind,
            severity,
            outcome,
            timestamp_ms,
            timestamp_fault,
            severity_ignored,
            user_id,
            username,
            event_id,
            message,
            details,
        })
    }

    fn understand<'a>(&mut self, envelope: Envelope<'a>, arrival_ms: u64, timezone: &TimeZone) -> Result<Event<'a>, Invalid> {
        let Envelope { event_type, timestamp, user_id, username, event_id, message, severity, details, mut rest } = envelope;
        let kind = match &event_type {
            None => return Err(Invalid::NoEventType),
            Some(Part::Text(name)) => self.event_type(name)?,
            Some(_) => return Err(Invalid::BadEventType),
        };
        let details = details_of(details, &self.mask);
        let outcome = outcome_of(&rest, &details).unwrap_or(kind.outcome);

        let mut text = |name: &str, part: Option<Part<'a>>| text_of(name, part, &self.mask, &mut rest);
        let user_id = text("user_id", user_id);
        let username = text("username", username);
        let event_id = text("event_id", event_id);
        let message = text("message", message);

        let mut own_severity = None;
        let mut severity_ignored = false;
        if let Some(part) = severity.filter(|part| !is_blank_part(part)) {
            own_severity = match &part {
                Part::Text(word) => Severity::parse(word),
                _ => None,
            };
            severity_ignored = own_severity.is_none();
        }

        let mut original_timestamp = None;
        let (timestamp_ms, timestamp_fault) = match timestamp.filter(|part| !is_blank_part(part)) {
            None => (arrival_ms, Some(TimestampFault::Missing)),
            Some(part) => {
                let (text, time) = match part {
                    Part::Text(text) | Part::Number(text) => {
                        let time = event_time(&text, arrival_ms, timezone);
                        (text, time)
                    }
                    Part::Other(mut value) => {
                        self.mask.apply_inside(&mut value);
                        (Cow::Owned(value.to_string()), Err(TimestampFault::Unreadable))
                    }
                };
                match time {
                    Ok(ms) => (ms, None),
                    Err(fault) => {
                        original_timestamp = Some(text);
                        (arrival_ms, Some(fault))
                    }
                }
            }
        };

        let details = gather(details, rest, kind.args.as_deref(), original_timestamp.as_deref(), &self.mask);
        let severity = self.severity(&kind, outcome, own_severity);
        Ok(Event {
            kind,
            severity,
            outcome,
            timestamp_ms,
            timestamp_fault,
            severity_ignored,
            user_id,
            username,
            event_id,
            message,
            details: Details::from(details),
        })
    }

    /// An override decides alone; else the highest of the name's own, that of a login that failed, and the event's.
    fn severity(&self, kind: &EventType, outcome: Outcome, own: Option<Severity>) -> Severity {
        if kind.severity_fixed {
            return kind.severity;
        }
        let failed_login = lists(kind, outcome).has(Lists::FAILED_LOGIN);
        let by_name = match failed_login && self.has_table() {
            true => kind.severity.max(Severity::Medium),
            false => kind.severity,
        };
        match own {
            Some(own) if self.event_may_lower => own,
            Some(own) => own.max(by_name),
            None => by_name,
        }
    }
}

/// The lists an event counts in: a successful login that ended badly is a failed one.
pub(super) fn lists(kind: &EventType, outcome: Outcome) -> Lists {
    if kind.lists.has(Lists::SUCCESSFUL_LOGIN) && outcome.is_bad() {
        kind.lists.without(Lists::SUCCESSFUL_LOGIN).with(Lists::FAILED_LOGIN)
    } else {
        kind.lists
    }
}

/// Flat fields, and what `data` and `payload` hold, in this order of precedence. Of two fields of one name the last counts.
fn flat<'a>(fields: &[(&'a [u8], &'a [u8])]) -> Result<Envelope<'a>, Invalid> {
    let mut envelope = Envelope::default();
    let mut event_type = None;
    let mut data = None;
    let mut payload = None;
    for &(name, value) in fields {
        let name = String::from_utf8_lossy(name);
        if name == "event_type" {
            event_type = Some(value);
            continue;
        }
        let text = String::from_utf8_lossy(value);
        if let Some(place) = envelope.known(&name) {
            *place = Some(Part::Text(text));
            continue;
        }
        let nested = match name.as_ref() {
            "data" => Some(&mut data),
            "payload" => Some(&mut payload),
            _ => None,
        };
        if let Some(nested) = nested {
            *nested = match text {
                Cow::Borrowed(text) => Envelope::parse(text).ok(),
                Cow::Owned(ref text) => Envelope::parse(text).ok().map(Envelope::into_owned),
            };
            if nested.is_some() {
                envelope.rest.remove(name.as_ref());
                continue;
            }
        }
        // A flat field can hold members only as JSON text; what is masked must be masked there too.
        let value = parse_nested(&text).unwrap_or_else(|| Value::String(text.into_owned()));
        envelope.rest.insert(name.into_owned(), value);
    }
    if let Some(name) = event_type {
        // A name that is not UTF-8 would be counted as what it is not; other fields lose only what cannot be read.
        let name = std::str::from_utf8(name).map_err(|_| Invalid::BadUtf8)?;
        envelope.event_type = Some(Part::Text(Cow::Borrowed(name)));
    }
    for nested in [data, payload].into_iter().flatten() {
        merge(&mut envelope, nested);
    }
    Ok(envelope)
}

/// Takes from `under` what `over` has not. `details` are merged by their members.
fn merge<'a>(over: &mut Envelope<'a>, under: Envelope<'a>) {
    let Envelope { event_type, timestamp, user_id, username, event_id, message, severity, details, rest } = under;
    for (place, part) in [
        (&mut over.event_type, event_type),
        (&mut over.timestamp, timestamp),
        (&mut over.user_id, user_id),
        (&mut over.username, username),
        (&mut over.event_id, event_id),
        (&mut over.message, message),
        (&mut over.severity, severity),
    ] {
        if place.as_ref().is_none_or(is_blank_part) {
            *place = part;
        }
    }
    over.details = match (over.details.take(), details) {
        (None, details) => details,
        (Some(details), None) => Some(details),
        (Some(mine), Some(theirs)) => {
            let none = Mask::new(&[], &[]);
            let mut members = details_of(Some(mine), &none);
            for (name, value) in details_of(Some(theirs), &none) {
                join(&mut members, name, value);
            }
            Some(Part::Other(Value::Object(members)))
        }
    };
    for (name, value) in rest {
        join(&mut over.rest, name, value);
    }
}

/// Adds a member that is not there yet; one that is `null` is not there.
fn join(members: &mut Map<String, Value>, name: String, value: Value) {
    let place = members.entry(name).or_insert(Value::Null);
    if place.is_null() {
        *place = value;
    }
}

/// All members in one, masked: `details`, below them the unknown fields, and what follows from the event's type and time.
pub(super) fn gather(
    mut details: Map<String, Value>,
    rest: Map<String, Value>,
    args: Option<&str>,
    original_timestamp: Option<&str>,
    mask: &Mask,
) -> Map<String, Value> {
    match mask.fate("details") {
        Fate::Keep => {}
        Fate::Mask => details.values_mut().for_each(|value| *value = Value::String(MASK.to_owned())),
        Fate::Drop => details.clear(),
    }
    for (name, value) in rest {
        join(&mut details, name, value);
    }
    if let Some(args) = args {
        details.insert("args".to_owned(), Value::String(args.to_owned()));
    }
    mask.apply(&mut details);
    if let Some(text) = original_timestamp {
        details.insert("original_timestamp".to_owned(), Value::String(text.to_owned()));
    }
    details
}

/// The members of `details`, not masked yet but for what becomes a text here.
pub(super) fn details_of(details: Option<Part<'_>>, mask: &Mask) -> Map<String, Value> {
    let as_text = |text: String| Map::from_iter([("text".to_owned(), Value::String(text))]);
    match details {
        None => Map::new(),
        Some(Part::Other(Value::Object(members))) => members,
        Some(Part::Other(mut value)) => {
            mask.apply_inside(&mut value);
            as_text(value.to_string())
        }
        Some(Part::Number(digits)) => as_text(digits.into_owned()),
        Some(Part::Text(text)) => match parse_nested(&text) {
            Some(Value::Object(members)) => members,
            None if text.trim().is_empty() || text.trim() == "null" => Map::new(),
            // An array, or what only looks like members (Python's `str(dict)`): there are none, but there may be secrets.
            _ => as_text(mask.scrub(&text).into_owned()),
        },
    }
}

/// What the members say, those at the top level before those in `details`; `None` where they say nothing known.
fn outcome_of(rest: &Map<String, Value>, details: &Map<String, Value>) -> Option<Outcome> {
    let find = |name: &str, read: fn(&str) -> Option<Outcome>| {
        [rest, details].into_iter().filter_map(|members| members.get(name)).find_map(|value| match value {
            Value::String(word) => read(word),
            Value::Bool(true) => read("true"),
            Value::Bool(false) => read("false"),
            _ => None,
        })
    };
    ["outcome", "result", "status"]
        .into_iter()
        .find_map(|name| find(name, Outcome::of_member))
        .or_else(|| find("success", Outcome::of_truth))
}

/// A text field that has a meaning. What is neither text nor number is kept among the unknown members under its own name.
fn text_of<'a>(name: &str, part: Option<Part<'a>>, mask: &Mask, rest: &mut Map<String, Value>) -> Option<Cow<'a, str>> {
    let part = part.filter(|part| !is_blank_part(part))?;
    match mask.fate(name) {
        Fate::Drop => return None,
        Fate::Mask => return Some(Cow::Borrowed(MASK)),
        Fate::Keep => {}
    }
    match part {
        Part::Text(text) | Part::Number(text) => Some(text),
        Part::Other(value) => {
            rest.insert(name.to_owned(), value);
            None
        }
    }
}

/// The same of an entry that [`Plain`] read.
fn text_of_plain<'a>(name: &str, raw: Raw<'a>, mask: &Mask) -> Option<Cow<'a, str>> {
    let text = raw.words().filter(|text| !is_blank(text))?;
    match mask.fate(name) {
        Fate::Keep => Some(text),
        Fate::Mask => Some(Cow::Borrowed(MASK)),
        Fate::Drop => None,
    }
}

/// Writers of flat fields have no `null`; they write nothing.
fn is_blank_part(part: &Part<'_>) -> bool {
    matches!(part, Part::Text(text) if is_blank(text))
}
