//! One test: a field, and what must hold of it.

use std::{fmt, io::Write as _, net::IpAddr};

use regex::Regex;
use serde_json::Value;

use super::{
    field::{Field, Type},
    glob::glob_matches,
    lex::quoted,
    net::{Network, address},
    subject::{Seen, Subject},
};
use crate::event::Severity;

#[derive(Clone)]
pub(super) struct Test {
    pub field: Field,
    pub check: Check,
    /// Only of what [`Test::can_be_negated`].
    pub negated: bool,
}

/// What must hold. Lists are sorted and without doubles.
#[derive(Clone)]
pub(super) enum Check {
    Present,
    Severity(Compare, Severity),
    Severities(Box<[Severity]>),
    Number(Compare, f64),
    Flag(bool),
    Text(Wanted),
    Texts(Box<[Wanted]>),
    Numbers(Box<[f64]>),
    Address(IpAddr),
    Addresses(Box<[IpAddr]>),
    Within(Box<[Network]>),
    Glob(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Matches(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Compare {
    pub fn sign(self) -> &'static str {
        match self {
            Compare::Equal => "=",
            Compare::Less => "<",
            Compare::AtMost => "<=",
            Compare::Greater => ">",
            Compare::AtLeast => ">=",
        }
    }

    fn holds<T: PartialOrd>(self, found: T, wanted: T) -> bool {
        match self {
            Compare::Equal => found == wanted,
            Compare::Less => found < wanted,
            Compare::AtMost => found <= wanted,
            Compare::Greater => found > wanted,
            Compare::AtLeast => found >= wanted,
        }
    }
}

/// A text to be equal to; where it reads as a number, the number is equal to it too.
#[derive(Clone, PartialEq)]
pub(super) struct Wanted {
    pub text: Box<str>,
    number: Option<f64>,
}

impl Wanted {
    pub fn new(text: &str) -> Wanted {
        Wanted { text: text.into(), number: text.parse().ok().filter(|n: &f64| n.is_finite()) }
    }
}

impl Test {
    /// Whether there is a word for the opposite: `!=`, `not in`, `absent`.
    pub fn can_be_negated(&self) -> bool {
        match &self.check {
            Check::Present
            | Check::Flag(_)
            | Check::Text(_)
            | Check::Texts(_)
            | Check::Numbers(_)
            | Check::Severities(_)
            | Check::Address(_)
            | Check::Addresses(_) => true,
            Check::Severity(compare, _) | Check::Number(compare, _) => *compare == Compare::Equal,
            _ => false,
        }
    }

    pub fn negated(mut self) -> Test {
        self.negated = !self.negated;
        self
    }

    pub fn holds(&self, subject: &impl Subject) -> bool {
        self.check.holds(&subject.see(&self.field)) != self.negated
    }
}

/// A number as text, without allocating.
struct Digits {
    bytes: [u8; 32],
    len: usize,
}

impl Digits {
    fn of(number: f64) -> Digits {
        let mut bytes = [0; 32];
        let room = bytes.len();
        let mut rest = &mut bytes[..];
        // What has more digits than there is room for is no number that anybody writes a text test for.
        let len = match write!(rest, "{number}") {
            Ok(()) => room - rest.len(),
            Err(_) => 0,
        };
        Digits { bytes, len }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Check {
    fn holds(&self, seen: &Seen<'_>) -> bool {
        match seen {
            Seen::Absent => false,
            _ if matches!(self, Check::Present) => true,
            Seen::Text(text) => self.holds_of_text(text),
            Seen::Number(number) => self.holds_of_number(*number),
            Seen::Flag(flag) => match self {
                Check::Flag(wanted) => flag == wanted,
                _ => self.holds_of_text(if *flag { "true" } else { "false" }),
            },
            Seen::Severity(severity) => match self {
                Check::Severity(compare, wanted) => compare.holds(*severity, *wanted),
                Check::Severities(wanted) => wanted.contains(severity),
                _ => false,
            },
            Seen::List(items) => items.iter().any(|item| match item {
                Value::String(text) => self.holds_of_text(text),
                Value::Number(number) => number.as_f64().is_some_and(|number| self.holds_of_number(number)),
                Value::Bool(flag) => self.holds(&Seen::Flag(*flag)),
                _ => false,
            }),
            Seen::Object => false,
        }
    }

    fn holds_of_number(&self, number: f64) -> bool {
        match self {
            Check::Number(compare, wanted) => compare.holds(number, *wanted),
            Check::Numbers(wanted) => wanted.contains(&number),
            Check::Text(wanted) => wanted.number == Some(number),
            Check::Texts(wanted) => wanted.iter().any(|wanted| wanted.number == Some(number)),
            _ => self.holds_of_text(Digits::of(number).as_str()),
        }
    }

    fn holds_of_text(&self, text: &str) -> bool {
        match self {
            Check::Present => true,
            Check::Text(wanted) => *wanted.text == *text,
            Check::Texts(wanted) => wanted.binary_search_by(|wanted| (*wanted.text).cmp(text)).is_ok(),
            // Flat entries know no numbers, only texts of them.
            Check::Number(compare, wanted) => number(text).is_some_and(|number| compare.holds(number, *wanted)),
            Check::Numbers(wanted) => number(text).is_some_and(|number| wanted.contains(&number)),
            Check::Flag(wanted) => text == if *wanted { "true" } else { "false" },
            Check::Address(wanted) => address(text) == Some(*wanted),
            Check::Addresses(wanted) => address(text).is_some_and(|ip| wanted.binary_search(&ip).is_ok()),
            Check::Within(networks) => address(text).is_some_and(|ip| networks.iter().any(|network| network.contains(ip))),
            Check::Glob(glob) => glob_matches(glob, text),
            Check::Prefix(prefix) => text.starts_with(&**prefix),
            Check::Suffix(suffix) => text.ends_with(&**suffix),
            Check::Contains(part) => text.contains(&**part),
            Check::Matches(regex) => regex.is_match(text),
            Check::Severity(..) | Check::Severities(_) => false,
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|n: &f64| n.is_finite())
}

/// A list, in brackets where it has more than one item.
fn list<T>(f: &mut fmt::Formatter<'_>, items: &[T], item: impl Fn(&T) -> String, always: bool) -> fmt::Result {
    match items {
        [alone] if !always => f.write_str(&item(alone)),
        items => write!(f, "[{}]", items.iter().map(item).collect::<Vec<_>>().join(", ")),
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        let text = |text: &str| match self.field.r#type() {
            Type::Words(_) => text.to_owned(),
            _ => quoted(text),
        };
        let equal = if self.negated { "!=" } else { "=" };
        let among = |f: &mut fmt::Formatter<'_>| f.write_str(if self.negated { " not in " } else { " in " });
        let sign = |compare: Compare| if compare == Compare::Equal { equal } else { compare.sign() };
        match &self.check {
            Check::Present => f.write_str(if self.negated { " absent" } else { " present" }),
            Check::Severity(compare, severity) => write!(f, " {} {}", sign(*compare), severity.as_str()),
            Check::Number(compare, number) => write!(f, " {} {number}", sign(*compare)),
            Check::Flag(flag) => write!(f, " {equal} {flag}"),
            Check::Text(wanted) => write!(f, " {equal} {}", text(&wanted.text)),
            Check::Address(ip) => write!(f, " {equal} \"{ip}\""),
            Check::Severities(wanted) => among(f).and_then(|()| list(f, wanted, |s| s.as_str().to_owned(), true)),
            Check::Texts(wanted) => among(f).and_then(|()| list(f, wanted, |w| text(&w.text), true)),
            Check::Numbers(wanted) => among(f).and_then(|()| list(f, wanted, f64::to_string, true)),
            Check::Addresses(wanted) => among(f).and_then(|()| list(f, wanted, |ip| format!("\"{ip}\""), true)),
            Check::Within(networks) => {
                f.write_str(" within ").and_then(|()| list(f, networks, |network| format!("\"{network}\""), false))
            }
            Check::Glob(glob) => write!(f, " glob {}", quoted(glob)),
            Check::Prefix(prefix) => write!(f, " prefix {}", quoted(prefix)),
            Check::Suffix(suffix) => write!(f, " suffix {}", quoted(suffix)),
            Check::Contains(part) => write!(f, " contains {}", quoted(part)),
            Check::Matches(regex) => write!(f, " matches {}", quoted(regex.as_str())),
        }
    }
}
