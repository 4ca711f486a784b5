//! What a filter is asked of.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::field::Field;
use crate::event::Severity;

/// Whatever has the fields.
pub trait Subject {
    /// What stands in a field.
    fn see<'s>(&'s self, field: &'s Field) -> Seen<'s>;
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    Absent,
    Text(Cow<'a, str>),
    Number(f64),
    Flag(bool),
    Severity(Severity),
    /// A test holds of a list where it holds of one of its items.
    List(&'a [Value]),
    /// An object: it is there, and nothing else can be asked of it.
    Object,
}

impl<'a> From<Option<&'a Value>> for Seen<'a> {
    fn from(value: Option<&'a Value>) -> Seen<'a> {
        match value {
            None | Some(Value::Null) => Seen::Absent,
            Some(Value::String(text)) => Seen::Text(Cow::Borrowed(text)),
            Some(Value::Number(number)) => number.as_f64().map_or(Seen::Absent, Seen::Number),
            Some(Value::Bool(flag)) => Seen::Flag(*flag),
            Some(Value::Array(items)) => Seen::List(items),
            Some(Value::Object(_)) => Seen::Object,
        }
    }
}

impl<'a> From<Option<Cow<'a, str>>> for Seen<'a> {
    fn from(text: Option<Cow<'a, str>>) -> Seen<'a> {
        text.map_or(Seen::Absent, Seen::Text)
    }
}

impl<'a> From<Option<&'a str>> for Seen<'a> {
    fn from(text: Option<&'a str>) -> Seen<'a> {
        text.map_or(Seen::Absent, |text| Seen::Text(Cow::Borrowed(text)))
    }
}

/// Follows a path into members.
pub fn member<'a>(members: &'a Map<String, Value>, path: &[Box<str>]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = members.get(&**first)?;
    if rest.is_empty() {
        return Some(value);
    }
    member(value.as_object()?, rest)
}

/// A frame of ours, as JSON: `security_alert` and `security_event` (contract §5).
impl Subject for Map<String, Value> {
    fn see<'s>(&'s self, field: &'s Field) -> Seen<'s> {
        let details = || self.get("details").and_then(Value::as_object);
        let detail = |name: &str| details().and_then(|details| details.get(name));
        match field {
            Field::Severity => {
                let text = self.get("severity").and_then(Value::as_str);
                let severity = text.and_then(|text| Severity::ALL.into_iter().find(|s| s.as_str() == text));
                severity.map_or(Seen::Absent, Seen::Severity)
            }
            Field::User => self.get("user_id").or_else(|| self.get("username")).into(),
            Field::IpAddress => detail("ip_address").into(),
            Field::SessionId => detail("session_id").into(),
            Field::UserAgent => detail("user_agent").into(),
            Field::DurationMs => detail("duration_ms").into(),
            Field::Label(name) => self.get("labels").and_then(|labels| labels.get(&**name)).into(),
            Field::Detail(path) => details().and_then(|details| member(details, path)).into(),
            field => self.get(field.name()).into(),
        }
    }
}
