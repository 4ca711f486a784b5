//! What happened: from the fields of an entry to a classified [`Event`]. Pure: no clock, no lock, no I/O.
//!
//! Contract §3 is the source of every rule here. A [`Classifier`] is made once of [`Options`] and reads entries:
//!
//! ```
//! use auditcast::event::{Classifier, Lists, Options, Severity};
//!
//! let mut classifier = Classifier::new(Options::contract())?;
//! let fields = [(&b"data"[..], &br#"{"event_type":"AUTH_FAILURE","user_id":7,"ip":"::1"}"#[..])];
//! let event = classifier.decode(&fields, 1_700_000_000_000, &jiff::tz::TimeZone::UTC)?;
//! assert_eq!(event.kind.normal, "auth.failure");
//! assert_eq!(event.user_id.as_deref(), Some("7"));
//! assert_eq!(event.severity, Severity::Medium);
//! assert!(event.lists().has(Lists::FAILED_LOGIN));
//! assert_eq!(event.details.map()["ip"], "::1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `decode` | the meaning of each field; flat fields and merging, for whatever can stand in an entry |
//! | `envelope` | the top level as written: JSON to parts |
//! | `plain`, `scan` | the same for entries as nearly all are, without making anything of their JSON |
//! | `details` | the members that an event has beside; made only where somebody looks |
//! | `mask`, `scrub` | secrets in members, and in texts that are no JSON |
//! | `normal` | the normal form and the category of a name |
//! | `pattern`, `contract` | patterns, and the lists of the contract |
//! | `classify` | from a name to lists, severity, outcome; names seen before |
//! | `time` | the event's own time |
//! | `view`, `words` | what others ask of an event; the words of the enums |

use std::{borrow::Cow, sync::Arc};

mod classify;
mod contract;
mod decode;
mod details;
mod envelope;
mod id;
mod mask;
mod normal;
mod pattern;
mod plain;
#[cfg(test)]
mod plain_tests;
mod scan;
mod scrub;
mod time;
mod view;
mod words;

pub use classify::{Classifier, EVENT_TYPE_BYTES_MAX, list_name};
pub use contract::{HIGH, LIST_NAMES, MEDIUM};
pub use decode::{ENTRY_BYTES_MAX, borrowed};
pub use details::Details;
pub use id::EntryId;
pub use mask::{MASK, MASKED};
pub use pattern::{PatternError, PatternFault, Patterns, check_pattern};
pub use time::{SKEW_MS_MAX, parse_ms, rfc3339};
pub use view::{MESSAGE_CHARS_MAX, one_line};
pub use words::UnknownSeverity;

/// How bad it is. `Low < Medium < High < Critical` (contract §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub const ALL: [Severity; 4] = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

    /// The word used on the wire, in labels and in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// How it ended (contract §3, "Outcome").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    Failure,
    Denied,
    Error,
    Unknown,
}

/// The 14 known categories and the rest (contract §3, "Category").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    Auth,
    Session,
    Permission,
    RateLimit,
    Security,
    Token,
    User,
    Admin,
    Data,
    Api,
    Encryption,
    Config,
    System,
    Audit,
    Other,
}

/// Which pattern lists a name is in: bits 0 to 7 are the lists of contract §3, the rest the user's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lists(pub u64);

impl Lists {
    pub const FAILED_LOGIN: Lists = Lists(1);
    pub const SUCCESSFUL_LOGIN: Lists = Lists(1 << 1);
    pub const RATE_LIMIT: Lists = Lists(1 << 2);
    pub const PERMISSION: Lists = Lists(1 << 3);
    pub const SUSPICIOUS: Lists = Lists(1 << 4);
    pub const SESSION_TIMEOUT: Lists = Lists(1 << 5);
    pub const SESSION_OPEN: Lists = Lists(1 << 6);
    pub const SESSION_END: Lists = Lists(1 << 7);
    /// First bit of the user's own metrics.
    pub const FIRST_OWN: u32 = 8;

    pub fn has(self, other: Lists) -> bool {
        self.0 & other.0 != 0
    }
    /// The lists one by one, as numbers of bits, ascending.
    pub fn bits(self) -> impl Iterator<Item = u32> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            Some(bit)
        })
    }
    pub fn with(self, other: Lists) -> Lists {
        Lists(self.0 | other.0)
    }
    pub fn without(self, other: Lists) -> Lists {
        Lists(self.0 & !other.0)
    }
}

/// Everything that follows from the written name alone; made once per name and shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType {
    /// As the application wrote it (trimmed, and without the `:args` of an OWASP name).
    pub written: String,
    /// The normal form, `auth.success`.
    pub normal: String,
    /// The matching form, `auth_success`.
    pub matching: String,
    pub category: Category,
    pub lists: Lists,
    /// Overrides, A's rule and the table; the event's own severity is not in it.
    pub severity: Severity,
    /// An override decided, so the event's own severity does not count.
    pub severity_fixed: bool,
    /// What the name says of the outcome.
    pub outcome: Outcome,
    /// The part behind `:` of an OWASP name, which becomes `details.args`.
    pub args: Option<String>,
}

/// Why the event's own time was not used (`auditcast_timestamps_replaced_total{reason}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimestampFault {
    Missing,
    Unreadable,
    /// More than 24 h from arrival.
    Skewed,
}

/// One classified audit event.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    pub kind: Arc<EventType>,
    pub severity: Severity,
    pub outcome: Outcome,
    /// The event's own time, Unix ms; arrival where `timestamp_fault` is set.
    pub timestamp_ms: u64,
    pub timestamp_fault: Option<TimestampFault>,
    /// A `severity` that is none of the known words was there.
    pub severity_ignored: bool,
    pub user_id: Option<Cow<'a, str>>,
    pub username: Option<Cow<'a, str>>,
    pub event_id: Option<Cow<'a, str>>,
    pub message: Option<Cow<'a, str>>,
    /// `ip_address`, `session_id`, `duration_ms`, … and every unknown top-level field; masked wherever they are looked at.
    pub details: Details<'a>,
}

/// Why an entry cannot be read; `as_str` is the dead letter's `reason` and the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invalid {
    BadJson,
    NotAnObject,
    NoEventType,
    BadEventType,
    BadUtf8,
    TooLarge,
    NoFields,
    /// An id more than 5 s ahead of the store's clock: counted at the store's time, and kept as a dead letter for the record.
    FutureId,
}

/// One list of patterns on the matching form; `except` wins (contract §3, "Patterns").
#[derive(Clone, Debug, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
pub struct PatternList {
    pub events: Vec<String>,
    pub except: Vec<String>,
}

/// What is configurable in this room: `[metrics.*]` lists, `[severity]`, `[privacy]`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The list of bit `i` of [`Lists`] is `lists[i]`: the eight of the contract, then the user's own. At most 64.
    pub lists: Vec<PatternList>,
    /// `severity.overrides`, in the file's order; the first that matches decides.
    pub overrides: Vec<(String, Severity)>,
    /// `severity.defaults = "full"`: the table counts beside A's rule.
    pub table: bool,
    /// `severity.event_may_lower`.
    pub event_may_lower: bool,
    /// Names masked beside the built-in ten (any case, any depth).
    pub mask: Vec<String>,
    /// Names removed (any case, any depth).
    pub drop: Vec<String>,
}
