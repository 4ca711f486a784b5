//! Rules over one event or one entity (a user, an address, a session, …): what they are, and the engine that runs them.
//!
//! A rule looks at the events that its [`Matcher`] takes, apart for each entity that its `by` tells apart. It fires on the entry
//! that crosses it; `for`, `absence` and the end of an alert are looked at where slots end. While an alert of an entity is open,
//! whatever crosses again counts in it.
//!
//! | file | subject |
//! |---|---|
//! | `engine` | all rules: which event concerns which, limits, alerts handed over and read back |
//! | `running` | one rule: its entities, the life of their alerts |
//! | `memory` | what is kept of one entity, and when it is crossed |
//! | `entities` | the table of entities, and who leaves it when it is full |
//! | `ghosts` | who was taken out of it, roughly |
//! | `looked` | an event as filters and `by` see it |
//! | `text` | messages |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::{
    event::{EventType, Lists, PatternError, PatternList, Patterns, Severity},
    filter::{Field, Filter, Network, address},
};

mod engine;
mod entities;
mod ghosts;
mod looked;
mod memory;
mod running;
mod text;

pub(super) use engine::{Engine, Saved};
pub use text::{TEMPLATE_WORDS, template_words};

/// Values that a `distinct` or `new` keeps of one entity beyond those it needs to fire.
pub const VALUES_MAX: usize = 64;
/// Highest count that a rule may ask of one entity: it keeps so many moments.
pub const AT_LEAST_MAX: u64 = 10_000;
/// Highest number of distinct values.
pub const DISTINCT_MAX: u64 = 1000;

/// One rule, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    pub kind: RuleKind,
    /// The events it looks at.
    pub on: Matcher,
    /// What tells its entities apart; none: all events are one.
    pub by: Vec<By>,
    pub window_ms: u64,
    /// How long it must be crossed before it fires.
    pub for_ms: u64,
    /// How long it must be clear before its alert resolves.
    pub keep_firing_for_ms: u64,
    /// At or under which value it is clear; `None`: where it is not crossed.
    pub clear_at: Option<f64>,
    /// An entity that has fired does not fire again for so long.
    pub suppress_ms: u64,
    pub severity: Severity,
    /// The highest whose expression holds of the event that fires counts, if it is above `severity`.
    pub severity_if: Vec<(Severity, Filter)>,
    /// `None`: `{name}: {value}`.
    pub message: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Such as ATT&CK's; told as `details.tags`.
    pub tags: Vec<String>,
    pub runbook_url: Option<String>,
    /// Whether the shared allow lists hold for it.
    pub allow_lists: bool,
    pub enabled: bool,
}

/// What must happen. Bounds are inclusive.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleKind {
    /// One event.
    Match,
    /// So many events within the window.
    Count { at_least: u64 },
    /// So many values of a field within the window, by at least `min_count` events, and none of them by more than `each_at_most`.
    Distinct { of: Field, at_least: u64, min_count: u64, each_at_most: Option<u64> },
    /// The sum of a number over the window.
    Sum { of: Field, at_least: f64 },
    /// The mean of a number over the window, of at least `min_count` events.
    Average { of: Field, at_least: f64, min_count: u64 },
    /// The 95th percentile of a number (nearest rank) over the window, of the last 1024 events at most and `min_count` at least.
    P95 { of: Field, at_least: f64, min_count: u64 },
    /// The part of the events that `hits` takes, of at least `min_count` events.
    Ratio { hits: Filter, at_least: f64, min_count: u64 },
    /// So many times the events of the window before, and at least `min_count`.
    Spike { at_least: f64, min_count: u64 },
    /// So many events that `after` takes, and then one of the rule's, within the window.
    Sequence { after: Matcher, at_least: u64 },
    /// All of these fields differ from what they were when the entity was first seen; who was not seen for the window is new.
    Change { of: Vec<Field> },
    /// A value that the entity has not had within the window, once it has been known for `learn_ms`.
    New { of: Field, learn_ms: u64 },
    /// No event for the window, after at least `min_count` events.
    Absence { min_count: u64 },
}

impl RuleKind {
    /// The word in rule files.
    pub fn as_str(&self) -> &'static str {
        match self {
            RuleKind::Match => "match",
            RuleKind::Count { .. } => "count",
            RuleKind::Distinct { .. } => "distinct",
            RuleKind::Sum { .. } => "sum",
            RuleKind::Average { .. } => "avg",
            RuleKind::P95 { .. } => "p95",
            RuleKind::Ratio { .. } => "ratio",
            RuleKind::Spike { .. } => "spike",
            RuleKind::Sequence { .. } => "sequence",
            RuleKind::Change { .. } => "change",
            RuleKind::New { .. } => "new",
            RuleKind::Absence { .. } => "absence",
        }
    }

    /// Crossed by an event, and clear again at once: nothing is to be measured at a slot's end.
    fn is_instant(&self) -> bool {
        matches!(self, RuleKind::Match | RuleKind::Sequence { .. } | RuleKind::Change { .. } | RuleKind::New { .. })
    }

    /// Where it fires: what `{threshold}` says.
    pub fn threshold(&self) -> Option<f64> {
        match self {
            RuleKind::Count { at_least } | RuleKind::Distinct { at_least, .. } | RuleKind::Sequence { at_least, .. } => {
                Some(*at_least as f64)
            }
            RuleKind::Sum { at_least, .. }
            | RuleKind::Average { at_least, .. }
            | RuleKind::P95 { at_least, .. }
            | RuleKind::Ratio { at_least, .. }
            | RuleKind::Spike { at_least, .. } => Some(*at_least),
            RuleKind::Match | RuleKind::Change { .. } | RuleKind::New { .. } | RuleKind::Absence { .. } => None,
        }
    }
}

/// Which events: by name, and by what is in them.
#[derive(Clone)]
pub struct Matcher {
    written: PatternList,
    patterns: Patterns,
    lists: Lists,
    filter: Option<Filter>,
}

impl Matcher {
    /// Events whose name is in one of the lists or matches one of the patterns (without either: all), and of which the filter
    /// holds.
    pub fn new(list: PatternList, lists: Lists, filter: Option<Filter>) -> Result<Matcher, PatternError> {
        Ok(Matcher { patterns: Patterns::compile("events", &list)?, written: list, lists, filter })
    }

    /// By the name alone.
    fn takes_name(&self, kind: &EventType) -> bool {
        let anything = self.lists == Lists::default() && self.written.events.is_empty();
        let named = anything || self.patterns.includes(&kind.matching) || self.lists_may(kind);
        named && !self.patterns.excepts(&kind.matching)
    }

    /// A successful-login name may turn out to be a failed login by its outcome.
    fn lists_may(&self, kind: &EventType) -> bool {
        let login = Lists::FAILED_LOGIN.with(Lists::SUCCESSFUL_LOGIN);
        kind.lists.has(self.lists) || (self.lists.has(login) && kind.lists.has(login))
    }

    /// An event whose name it takes.
    fn takes(&self, event: &looked::Looked<'_>) -> bool {
        let anything = self.lists == Lists::default() && self.written.events.is_empty();
        (anything || self.patterns.includes(&event.event.kind.matching) || event.lists.has(self.lists))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(event))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Matcher) -> bool {
        (&self.written, self.lists, &self.filter) == (&other.written, other.lists, &other.filter)
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matcher({:?} {:?} {:?})", self.written, self.lists, self.filter)
    }
}

/// What tells entities apart: a field, or the network that an address is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    pub field: Field,
    /// Bits of an IPv4 and of an IPv6 address that count.
    pub prefix: Option<(u8, u8)>,
}

impl By {
    /// As `by` has it: `user`, `ip_address`, `ip_address/24` (with it /64 of IPv6, or as many bits as said if there are more
    /// than 32), `details.tenant`.
    pub fn parse(text: &str) -> Result<By, String> {
        let bad = || "expected a field of an event, or \"ip_address/24\"".to_owned();
        let Some((name, bits)) = text.split_once('/') else {
            let field = Field::parse(text).ok_or_else(bad)?;
            return Ok(By { field, prefix: None });
        };
        let bits = bits.parse::<u8>().ok().filter(|bits| (1..=128).contains(bits)).ok_or_else(bad)?;
        if Field::parse(name) != Some(Field::IpAddress) {
            return Err(bad());
        }
        Ok(By { field: Field::IpAddress, prefix: Some(if bits <= 32 { (bits, 64) } else { (32, bits) }) })
    }

    /// What stands for an address; `None`: it is none.
    fn network(&self, text: &str) -> Option<Network> {
        let (v4, v6) = self.prefix?;
        let ip = address(text)?;
        Network::of(ip, if matches!(ip, IpAddr::V4(_)) { v4 } else { v6 })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        match self.prefix {
            Some((32, v6)) => write!(f, "/{v6}"),
            Some((v4, _)) => write!(f, "/{v4}"),
            None => Ok(()),
        }
    }
}

/// Who is not looked at by rules: the shared allow lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed {
    /// `user_id` or `username`.
    pub users: BTreeSet<String>,
    pub networks: Vec<Network>,
}

impl Allowed {
    fn holds(&self, event: &looked::Looked<'_>) -> bool {
        let user = |user: &Option<std::borrow::Cow<'_, str>>| user.as_deref().is_some_and(|user| self.users.contains(user));
        user(&event.event.user_id)
            || user(&event.event.username)
            || (!self.networks.is_empty()
                && event
                    .address
                    .as_deref()
                    .and_then(address)
                    .is_some_and(|ip| self.networks.iter().any(|network| network.contains(ip))))
    }
}
