//! Asking a tree for values: each question says what it expects, notes what it was told and from where, and goes on after a
//! fault with a stand-in, so that one run finds everything that is wrong.

use std::{cell::RefCell, path::Path, time::Duration};

use super::{
    fault::{Fault, Origin, nearest},
    tree::{Node, Table, Value, parse_value},
};

/// What is in force for one key.
#[derive(Clone, PartialEq)]
pub struct Setting {
    /// Dotted.
    pub key: String,
    /// The value as TOML writes it; `"***"` for a secret.
    pub shown: String,
    pub origin: Origin,
    /// Equal only for equal values; a digest for a secret.
    pub(super) canonical: String,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} ({})", self.key, self.shown, self.origin)
    }
}

/// What one reading of a tree has found.
#[derive(Default)]
pub(super) struct Reading {
    pub faults: RefCell<Vec<Fault>>,
    pub settings: RefCell<Vec<Setting>>,
}

/// A table that is being asked.
pub(super) struct Ask<'r> {
    reading: &'r Reading,
    /// Dotted path of the table; empty for the root.
    at: String,
    table: Table,
    origin: Origin,
    asked: RefCell<Vec<String>>,
}

/// Texts as faults and `check` show them: quoted, control characters escaped, cut.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", cut.escape_debug())
}

fn found(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Raw(text) => quoted(text),
        Value::Integer(n) => n.to_string(),
        Value::Float(n) => n.to_string(),
        Value::Boolean(b) => b.to_string(),
        Value::List(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Other(what) => format!("a {what}"),
    }
}

fn full(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

/// A duration as configuration writes it: `1h`, `1h 30m`, `500ms`.
pub(super) fn shown_duration(d: Duration) -> String {
    let mut rest = d.as_nanos();
    let mut parts = Vec::new();
    for (unit, nanos) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1000),
        ("ns", 1),
    ] {
        if rest >= nanos {
            parts.push(format!("{}{unit}", rest / nanos));
            rest %= nanos;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn shown_size(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS.into_iter().find(|(_, f)| bytes >= *f && bytes.is_multiple_of(*f)).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

impl<'r> Ask<'r> {
    pub fn root(reading: &'r Reading, table: Table) -> Ask<'r> {
        Ask { reading, at: String::new(), table, origin: Origin::Default { line: 0 }, asked: RefCell::default() }
    }

    pub fn key(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// Where a key was set; where its table stands if it was not.
    pub fn origin(&self, name: &str) -> Origin {
        self.table.get(name).map_or_else(|| self.origin.clone(), |node| node.origin.clone())
    }

    pub fn has(&self, name: &str) -> bool {
        self.table.get(name).is_some()
    }

    pub fn names(&self) -> Vec<String> {
        self.table.entries.iter().map(|(key, _)| key.clone()).collect()
    }

    /// Says what is wrong with a key.
    pub fn fault(&self, name: &str, text: impl Into<String>) {
        self.fault_at(self.origin(name), &self.key(name), text);
    }

    pub fn fault_at(&self, origin: Origin, key: &str, text: impl Into<String>) {
        self.reading.faults.borrow_mut().push(Fault { origin, key: Some(key.to_owned()), text: text.into() });
    }

    fn note(&self, name: &str, shown: String, canonical: Option<String>) {
        let canonical = canonical.unwrap_or_else(|| shown.clone());
        let setting = Setting { key: self.key(name), shown, origin: self.origin(name), canonical };
        self.reading.settings.borrow_mut().push(setting);
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.asked.borrow_mut().push(name.to_owned());
        self.table.get(name)
    }

    /// As `node`, for a key that must be there.
    fn wanted(&self, name: &str, expected: &str) -> Option<&Node> {
        let node = self.node(name);
        if node.is_none() {
            self.fault(name, format!("expected {expected}, found nothing"));
        }
        node
    }

    fn expected(&self, name: &str, expected: &str, value: &Value) {
        self.fault(name, format!("expected {expected}, found {}", found(value)));
    }

    /// A text; `check` says which are taken, `expected` names them.
    pub fn text_where(&self, name: &str, expected: &str, check: impl Fn(&str) -> bool) -> String {
        let Some(node) = self.wanted(name, expected) else { return String::new() };
        match &node.value {
            Value::Text(text) | Value::Raw(text) if check(text) => {
                self.note(name, full(text), None);
                text.clone()
            }
            value => {
                self.expected(name, expected, value);
                String::new()
            }
        }
    }

    /// A text with a meaning: `read` gives it, or says what was expected. `""` is left to `read`.
    pub fn parsed<T>(&self, name: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text_where(name, expected, |text| read(text).is_some());
        read(&text)
    }

    /// A text of a few.
    pub fn word(&self, name: &str, words: &[&str]) -> String {
        let list: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
        let of = if words.len() > 1 { "one of " } else { "" };
        self.text_where(name, &format!("{of}{}", list.join(", ")), |text| words.contains(&text))
    }

    /// Key material: never shown, not even when it is wrong.
    pub fn secret(&self, name: &str) -> Option<Vec<u8>> {
        let node = self.node(name)?;
        match &node.value {
            Value::Text(text) | Value::Raw(text) if text.is_empty() => {
                self.note(name, "\"\"".to_owned(), None);
                None
            }
            Value::Text(text) | Value::Raw(text) => {
                self.note(name, "\"***\"".to_owned(), Some(super::digest(text.as_bytes())));
                Some(text.clone().into_bytes())
            }
            _ => {
                self.fault(name, "expected a text");
                None
            }
        }
    }

    /// A list of key material, with where each stands: never shown, not even when it is wrong.
    pub fn secrets(&self, name: &str) -> Vec<(Vec<u8>, Origin)> {
        let expected = "expected a list of texts";
        let Some(node) = self.node(name) else { return Vec::new() };
        let parsed = match &node.value {
            Value::Raw(text) => parse_value(text, &node.origin),
            value => Some(value.clone()),
        };
        let Some(Value::List(items)) = parsed else {
            self.fault(name, expected);
            return Vec::new();
        };
        let mut secrets = Vec::with_capacity(items.len());
        for item in items {
            match item.value {
                Value::Text(text) => secrets.push((text.into_bytes(), item.origin)),
                _ => self.fault_at(item.origin, &self.key(name), expected),
            }
        }
        let shown = vec!["\"***\""; secrets.len()].join(", ");
        let digests: Vec<String> = secrets.iter().map(|(secret, _)| super::digest(secret)).collect();
        self.note(name, format!("[{shown}]"), Some(digests.join(" ")));
        secrets
    }

    /// The path of a file, and what stands in it: a change of either is a change of the key. `None` where the key is not there or
    /// the file cannot be read.
    pub fn file(&self, name: &str, bytes_max: u64) -> Option<String> {
        let node = self.node(name)?;
        let (Value::Text(path) | Value::Raw(path)) = &node.value else {
            self.expected(name, "the path of a file", &node.value);
            return None;
        };
        match super::layers::read_text(Path::new(path), bytes_max) {
            Ok(text) => {
                self.note(name, full(path), Some(format!("{} {}", full(path), super::digest(text.as_bytes()))));
                Some(text)
            }
            Err(error) => {
                self.fault(name, format!("the file {} cannot be read: {error}", quoted(path)));
                None
            }
        }
    }

    /// A text that may hold a secret: the caller says how it is shown, and what is wrong with it.
    pub fn masked(&self, name: &str, expected: &str, mask: impl Fn(&str) -> String) -> Option<String> {
        let node = self.wanted(name, expected)?;
        match &node.value {
            Value::Text(text) | Value::Raw(text) => {
                self.note(name, full(&mask(text)), Some(super::digest(text.as_bytes())));
                Some(text.clone())
            }
            _ => {
                self.fault(name, format!("expected {expected}"));
                None
            }
        }
    }

    pub fn boolean(&self, name: &str) -> bool {
        let expected = "true or false";
        let Some(node) = self.wanted(name, expected) else { return false };
        let read = match &node.value {
            Value::Boolean(b) => Some(*b),
            Value::Raw(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        };
        match read {
            Some(b) => self.note(name, b.to_string(), None),
            None => self.expected(name, expected, &node.value),
        }
        read.unwrap_or_default()
    }

    /// A whole number in `min..=max`.
    pub fn integer(&self, name: &str, min: u64, max: u64) -> u64 {
        let expected = format!("a whole number from {min} to {max}");
        let Some(node) = self.wanted(name, &expected) else { return min };
        let read = match &node.value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        match read.filter(|n| (min..=max).contains(n)) {
            Some(n) => {
                self.note(name, n.to_string(), None);
                n
            }
            None => {
                self.expected(name, &expected, &node.value);
                min
            }
        }
    }

    /// As [`Ask::integer`], for what is held as `usize`.
    pub fn count(&self, name: &str, min: u64, max: u64) -> usize {
        usize::try_from(self.integer(name, min, max)).unwrap_or(usize::MAX)
    }

    /// A finite number, if the key is there.
    pub fn number(&self, name: &str) -> Option<f64> {
        let node = self.node(name)?;
        let read = match &node.value {
            // Every whole number that makes sense as a threshold is exact in a float.
            Value::Integer(n) => Some(*n as f64),
            Value::Float(n) => Some(*n),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        match read.filter(|n: &f64| n.is_finite()) {
            Some(n) => {
                self.note(name, n.to_string(), None);
                Some(n)
            }
            None => {
                self.expected(name, "a number", &node.value);
                None
            }
        }
    }

    /// A duration in `min..=max`.
    pub fn duration(&self, name: &str, min: Duration, max: Duration) -> Duration {
        self.good_duration(name, min, max).unwrap_or(min)
    }

    /// As [`Ask::duration`]; `None` where it was none, so that nothing more is said of a stand-in.
    pub fn good_duration(&self, name: &str, min: Duration, max: Duration) -> Option<Duration> {
        let (least, most) = (shown_duration(min), shown_duration(max));
        let node = self.wanted(name, &format!("a duration from {least} to {most}"))?;
        let read = match &node.value {
            Value::Text(text) | Value::Raw(text) => humantime::parse_duration(text.trim()).ok(),
            _ => None,
        };
        let expected = match read {
            Some(d) if d < min => format!("a duration of at least {least}"),
            Some(d) if d > max => format!("a duration of at most {most}"),
            Some(d) => {
                self.note(name, full(&shown_duration(d)), None);
                return Some(d);
            }
            None => format!("a duration such as \"{}\"", shown_duration(min.max(Duration::from_secs(1)))),
        };
        self.expected(name, &expected, &node.value);
        None
    }

    pub fn size(&self, name: &str, min: u64, max: u64) -> u64 {
        let expected = format!("a size from {} to {}", shown_size(min), shown_size(max));
        let Some(node) = self.wanted(name, &expected) else { return min };
        let read = match &node.value {
            Value::Text(text) | Value::Raw(text) => {
                let text = text.trim();
                SIZE_UNITS
                    .into_iter()
                    .find_map(|(unit, factor)| text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(factor))
            }
            _ => None,
        };
        match read.filter(|n| (min..=max).contains(n)) {
            Some(n) => {
                self.note(name, full(&shown_size(n)), None);
                n
            }
            None => {
                self.expected(name, &expected, &node.value);
                min
            }
        }
    }

    /// Takes note of a key that is wrong already, so that it is not called unknown as well.
    pub fn passed(&self, name: &str) {
        self.node(name);
    }

    /// A list of texts with where each stands; empty where the key is not there.
    pub fn texts(&self, name: &str) -> Vec<(String, Origin)> {
        self.good_texts(name).unwrap_or_default()
    }

    /// As [`Ask::texts`]; `None` where it was no list.
    pub fn good_texts(&self, name: &str) -> Option<Vec<(String, Origin)>> {
        let expected = "a list of texts, such as [\"a\", \"b\"]";
        let Some(node) = self.node(name) else { return Some(Vec::new()) };
        let parsed;
        let value = match &node.value {
            Value::Raw(text) => match parse_value(text, &node.origin) {
                Some(value) => {
                    parsed = value;
                    &parsed
                }
                None => &node.value,
            },
            value => value,
        };
        let Value::List(items) = value else {
            self.expected(name, expected, &node.value);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Text(text) => texts.push((text.clone(), item.origin.clone())),
                value => {
                    let text = format!("expected a list of texts, found {} in it", found(value));
                    self.fault_at(item.origin.clone(), &self.key(name), text);
                }
            }
        }
        let shown: Vec<String> = texts.iter().map(|(text, _)| full(text)).collect();
        self.note(name, format!("[{}]", shown.join(", ")), None);
        Some(texts)
    }

    /// A table within this one; an empty one where it is not there.
    pub fn section(&self, name: &str) -> Ask<'r> {
        let mut ask = Ask {
            reading: self.reading,
            at: self.key(name),
            table: Table::default(),
            origin: self.origin(name),
            asked: RefCell::default(),
        };
        let Some(node) = self.node(name) else { return ask };
        let parsed = match &node.value {
            Value::Raw(text) => parse_value(text, &node.origin),
            value => Some(value.clone()),
        };
        match parsed {
            Some(Value::Table(table)) => ask.table = table,
            _ => self.expected(name, "a table", &node.value),
        }
        ask
    }

    /// Every key that was never asked for is unknown.
    pub fn done(self) {
        let asked = self.asked.borrow();
        for (name, node) in &self.table.entries {
            if asked.iter().any(|a| a == name) {
                continue;
            }
            let what = if matches!(node.value, Value::Table(_)) && self.at.is_empty() { "section" } else { "key" };
            let text = match nearest(name, asked.iter().map(String::as_str)) {
                Some(near) => format!("unknown {what}, did you mean \"{near}\"?"),
                None => format!("unknown {what}"),
            };
            let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
            self.fault_at(node.origin.clone(), &self.key(&shown), text);
        }
    }
}
