//! The members that an event has beside its known fields: masked, and made only where somebody looks at them.

use std::{borrow::Cow, fmt, sync::Arc};

use serde_json::{Map, Value};

use super::{
    decode,
    envelope::{Envelope, Part, parse_nested},
    mask::Mask,
    scan::{Raw, Shape, is_blank},
};

/// Integers of so many digits are whole in a double, and written as they are read.
const EXACT_DIGITS: usize = 15;

/// `details` of an event and its unknown top-level fields (contract §3). Of an entry as nearly all are this borrows the texts,
/// and knows beside what detection asks of every event; [`Details::map`] makes the members, masked.
#[derive(Clone, Default)]
pub struct Details<'a> {
    pub(super) source: Source<'a>,
    pub(super) ip_address: Raw<'a>,
    pub(super) user_agent: Raw<'a>,
    pub(super) resource: Raw<'a>,
    pub(super) reason: Raw<'a>,
    pub(super) session_id: Raw<'a>,
    pub(super) duration_ms: Raw<'a>,
    /// Told as `original_timestamp`.
    pub(super) original_timestamp: Option<Cow<'a, str>>,
    /// Behind the `:` of an OWASP name; told as `args`.
    pub(super) args: Option<&'a str>,
    /// Where a name is there that is masked or dropped.
    pub(super) mask: Option<Arc<Mask>>,
}

/// Where the members stand.
#[derive(Clone)]
pub(super) enum Source<'a> {
    /// All of them, masked.
    Members(Map<String, Value>),
    /// In an envelope that [`super::plain`] could read.
    Envelope(&'a str),
    /// In the field `details`, and in others.
    Flat { details: &'a str, rest: Rest<'a> },
}

impl Default for Source<'_> {
    /// No members; unlike a map that has none, nothing to be dropped.
    fn default() -> Self {
        Source::Envelope("{}")
    }
}

/// Unknown flat fields, in their order: a few in place, as most entries have them, and whatever more there are.
#[derive(Clone, Default)]
pub(super) struct Rest<'a> {
    first: [(&'a str, &'a str); FIRST_LEN],
    len: usize,
    more: Vec<(&'a str, &'a str)>,
}

const FIRST_LEN: usize = 4;

impl<'a> Rest<'a> {
    pub(super) fn push(&mut self, name: &'a str, value: &'a str) {
        match self.first.get_mut(self.len) {
            Some(place) => {
                *place = (name, value);
                self.len += 1;
            }
            None => self.more.push((name, value)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &(&'a str, &'a str)> {
        self.first.iter().take(self.len).chain(&self.more)
    }
}

/// What is asked of every event.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    IpAddress,
    SessionId,
    UserAgent,
    Resource,
    Reason,
    DurationMs,
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Asked::IpAddress => "ip_address",
            Asked::SessionId => "session_id",
            Asked::UserAgent => "user_agent",
            Asked::Resource => "resource",
            Asked::Reason => "reason",
            Asked::DurationMs => "duration_ms",
        }
    }
}

impl<'a> Details<'a> {
    /// The members.
    pub fn map(&self) -> Cow<'_, Map<String, Value>> {
        let (details, rest) = match &self.source {
            Source::Members(members) => return Cow::Borrowed(members),
            Source::Envelope(text) => match Envelope::parse(text) {
                Ok(Envelope { details, rest, .. }) => (details, rest),
                // What could be looked at can be read.
                Err(_) => (None, Map::new()),
            },
            Source::Flat { details, rest } => {
                let value = |text: &str| parse_nested(text).unwrap_or_else(|| Value::String(text.to_owned()));
                let rest = rest.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
                (Some(Part::Text(Cow::Borrowed(*details))), rest)
            }
        };
        let nothing_masked;
        let mask = match &self.mask {
            Some(mask) => mask,
            None => {
                nothing_masked = Mask::nothing();
                &nothing_masked
            }
        };
        let members = decode::details_of(details, mask);
        Cow::Owned(decode::gather(members, rest, self.args, self.original_timestamp.as_deref(), mask))
    }

    /// A member. Who wants several takes [`Details::map`].
    pub fn get(&self, name: &str) -> Option<Value> {
        match self.map() {
            Cow::Borrowed(members) => members.get(name).cloned(),
            Cow::Owned(mut members) => members.remove(name),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.map().is_empty()
    }

    /// Puts a member in place of what had its name; it is not masked.
    pub fn insert(&mut self, name: String, value: Value) {
        let mut members = self.map().into_owned();
        members.insert(name, value);
        *self = Details::from(members);
    }

    /// The same members, holding nothing of the entry.
    pub fn into_owned(self) -> Details<'static> {
        let members = match self.source {
            Source::Members(members) => members,
            _ => self.map().into_owned(),
        };
        Details::from(members)
    }

    /// Whether a member is known to be absent without taking the details apart.
    pub(super) fn lacks(&self, asked: Asked) -> bool {
        let raw = match asked {
            Asked::IpAddress => self.ip_address,
            Asked::SessionId => self.session_id,
            Asked::UserAgent => self.user_agent,
            Asked::Resource => self.resource,
            Asked::Reason => self.reason,
            Asked::DurationMs => self.duration_ms,
        };
        raw.is_absent() && !matches!(self.source, Source::Members(_))
    }

    /// A text, or a number as text; blank texts are absent.
    pub(super) fn text(&self, asked: Asked) -> Option<Cow<'_, str>> {
        let of_member = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let raw = match (&self.source, asked) {
            (Source::Members(members), _) => match members.get(asked.name())? {
                Value::String(text) => Raw::text(text),
                other => return of_member(other).map(Cow::Owned),
            },
            (_, Asked::IpAddress) => self.ip_address,
            (_, Asked::SessionId) => self.session_id,
            (_, Asked::DurationMs) => self.duration_ms,
            (_, Asked::UserAgent) => self.user_agent,
            (_, Asked::Resource) => self.resource,
            (_, Asked::Reason) => self.reason,
        };
        match raw.shape {
            Shape::Number if !is_exact(raw.text) => raw.number().map(|number| Cow::Owned(number.to_string())),
            Shape::Number => Some(Cow::Borrowed(raw.text)),
            _ => raw.words().filter(|text| !is_blank(text)),
        }
    }

    /// A number, or the text of one.
    pub(super) fn float(&self, asked: Asked) -> Option<f64> {
        let raw = match (&self.source, asked) {
            (Source::Members(members), _) => match members.get(asked.name())? {
                Value::Number(number) => return number.as_f64(),
                Value::String(text) => Raw::text(text),
                _ => return None,
            },
            (_, Asked::DurationMs) => self.duration_ms,
            _ => return self.text(asked)?.trim().parse().ok(),
        };
        match raw.shape {
            Shape::Number if is_exact(raw.text) => raw.text.parse::<u64>().ok().map(|whole| whole as f64),
            Shape::Number => raw.number()?.as_f64(),
            _ => raw.words()?.trim().parse().ok(),
        }
    }
}

/// Whether a number reads the same whoever reads it.
fn is_exact(number: &str) -> bool {
    number.len() <= EXACT_DIGITS && number.bytes().all(|b| b.is_ascii_digit())
}

impl From<Map<String, Value>> for Details<'_> {
    /// Members that are masked already.
    fn from(members: Map<String, Value>) -> Self {
        Details { source: Source::Members(members), ..Details::default() }
    }
}

/// The members, masked, as everywhere.
impl fmt::Debug for Details<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.map().fmt(f)
    }
}
