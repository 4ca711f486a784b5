//! The names of fields, and what can be asked of each.

use std::fmt;

use super::lex::quoted;

/// Names in a path below `details`.
pub(super) const PATH_MAX: usize = 8;

/// What an expression is asked of, which decides the names that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Audit events: `where` of rules.
    Event,
    /// Frames: alerts, and live events.
    Feed,
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    EventType,
    Severity,
    Category,
    Outcome,
    Source,
    /// `user_id`, else `username`.
    User,
    UserId,
    Username,
    Message,
    IpAddress,
    SessionId,
    UserAgent,
    DurationMs,
    /// A path into `details`.
    Detail(Box<[Box<str>]>),
    // Of alerts alone.
    Kind,
    Status,
    Rule,
    AlertId,
    Value,
    Threshold,
    Label(Box<str>),
}

/// What can be asked of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    /// One of a few.
    Words(&'static [&'static str]),
    Severity,
    Address,
    Number,
    /// Whatever an application writes.
    Any,
}

const CATEGORIES: [&str; 15] = [
    "auth",
    "session",
    "permission",
    "rate_limit",
    "security",
    "token",
    "user",
    "admin",
    "data",
    "api",
    "encryption",
    "config",
    "system",
    "audit",
    "other",
];

/// Names without a path, those of events before those of alerts alone.
pub(super) const NAMES: [(&str, Field, bool); 19] = [
    ("event_type", Field::EventType, false),
    ("severity", Field::Severity, false),
    ("category", Field::Category, false),
    ("outcome", Field::Outcome, false),
    ("source", Field::Source, false),
    ("user", Field::User, false),
    ("user_id", Field::UserId, false),
    ("username", Field::Username, false),
    ("message", Field::Message, false),
    ("ip_address", Field::IpAddress, false),
    ("session_id", Field::SessionId, false),
    ("user_agent", Field::UserAgent, false),
    ("duration_ms", Field::DurationMs, false),
    ("kind", Field::Kind, true),
    ("status", Field::Status, true),
    ("rule", Field::Rule, true),
    ("alert_id", Field::AlertId, true),
    ("value", Field::Value, true),
    ("threshold", Field::Threshold, true),
];

impl Field {
    /// The name, of a path its first word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Field::Detail(_) => "details",
            Field::Label(_) => "labels",
            field => NAMES.iter().find(|(_, known, _)| known == field).map_or("", |(name, ..)| name),
        }
    }

    pub(super) fn r#type(&self) -> Type {
        match self {
            Field::Severity => Type::Severity,
            Field::Category => Type::Words(&CATEGORIES),
            Field::Outcome => Type::Words(&["success", "failure", "denied", "error", "unknown"]),
            Field::Kind => Type::Words(&["event", "threshold", "rule"]),
            Field::Status => Type::Words(&["firing", "resolved"]),
            Field::IpAddress => Type::Address,
            Field::DurationMs | Field::Value | Field::Threshold => Type::Number,
            Field::Detail(_) => Type::Any,
            _ => Type::Text,
        }
    }

    /// A field of an event as it is written where no expression is: `user`, `details.tenant.id`.
    pub fn parse(text: &str) -> Option<Field> {
        if let Some(path) = text.strip_prefix("details.") {
            let good = path.split('.').all(|name| !name.is_empty() && !name.chars().any(char::is_control));
            return (good && path.split('.').count() <= PATH_MAX)
                .then(|| Field::detail(path.split('.').map(Box::from).collect()));
        }
        NAMES.iter().find(|(name, _, alone)| *name == text && !alone).map(|(_, field, _)| field.clone())
    }

    /// A path into `details`; the members that have a name of their own are known by it.
    pub fn detail(path: Vec<Box<str>>) -> Field {
        match path.as_slice() {
            [name] => match &**name {
                "ip_address" => Field::IpAddress,
                "session_id" => Field::SessionId,
                "user_agent" => Field::UserAgent,
                "duration_ms" => Field::DurationMs,
                _ => Field::Detail(path.into()),
            },
            _ => Field::Detail(path.into()),
        }
    }
}

pub(super) fn is_plain(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// As it is written.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let path = match self {
            Field::Detail(path) => path,
            Field::Label(name) => std::slice::from_ref(name),
            _ => &[],
        };
        path.iter().try_for_each(|word| if is_plain(word) { write!(f, ".{word}") } else { write!(f, ".{}", quoted(word)) })
    }
}
