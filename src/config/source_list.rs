//! `[[source]]`: what is read, and from where on.

use std::{path::PathBuf, time::Duration};

use jiff::tz::TimeZone;

use super::{
    ask::{Ask, quoted},
    rooms::is_name,
};
use crate::source::{HTTP, JOURNAL, Kind, Options, Start};

const SOURCES_MAX: usize = 256;
const STREAMS_MAX: usize = 1000;
const KEY_BYTES_MAX: usize = 512;

const DEFAULT_START: Start = Start::Ago(Duration::from_secs(3600));

/// The configured sources in the order of the file, and behind them the built-in `http` and `auditcast`.
pub(super) fn read(list: &Ask<'_>, prefix: &str) -> Vec<Options> {
    let mut sources = Vec::new();
    let mut streams: Vec<(String, String)> = Vec::new();
    for name in list.names() {
        let source = list.section(&name);
        if !is_name(&name) {
            list.fault(&name, format!("expected a name of 1 to 64 of a-z, 0-9 and _, found {}", quoted(&name)));
        }
        if name == HTTP {
            list.fault(&name, "the name \"http\" is taken by POST /api/v1/events");
        }
        if name == JOURNAL {
            list.fault(&name, "the name \"auditcast\" is taken by auditcast's own events");
        }
        if let Some(options) = one(&name, &source, prefix, &mut streams) {
            sources.push(options);
        }
        source.done();
    }
    if sources.len() > SOURCES_MAX {
        let last = sources.last().map_or("", |s| &s.name);
        list.fault(last, format!("expected at most {SOURCES_MAX} sources, found {}", sources.len()));
    }
    for (name, kind) in [(HTTP, Kind::Http), (JOURNAL, Kind::Journal)] {
        sources.push(Options { name: name.to_owned(), kind, start: Start::Earliest, timezone: TimeZone::UTC });
    }
    sources
}

fn one(name: &str, ask: &Ask<'_>, prefix: &str, streams: &mut Vec<(String, String)>) -> Option<Options> {
    let kind = ask.word("kind", &["stream", "keys", "channel", "file"]);
    let takes: &[&str] = match kind.as_str() {
        "stream" => &["streams"],
        "keys" | "channel" => &["pattern"],
        "file" => &["path"],
        _ => &["streams", "pattern", "path"],
    };
    for other in ["streams", "pattern", "path"] {
        if ask.has(other) && !takes.contains(&other) {
            ask.fault(other, format!("a source of kind \"{kind}\" has no {other}, it has {}", takes.join(", ")));
            // So that it is not called unknown as well.
            ask.passed(other);
        }
    }
    let read = match kind.as_str() {
        "stream" => Kind::Stream { streams: stream_names(name, ask, prefix, streams) },
        "keys" if !ask.has("pattern") => Kind::Keys { pattern: "audit:event:*".to_owned() },
        "keys" => Kind::Keys { pattern: key_text(ask, "pattern", "a pattern of keys, such as \"audit:event:*\"") },
        "channel" => Kind::Channel { pattern: key_text(ask, "pattern", "the name or glob of a channel") },
        "file" => {
            let path = ask.text_where("path", "the path of a file", |text| !text.is_empty() && !text.contains('\0'));
            Kind::File { path: PathBuf::from(path) }
        }
        _ => {
            // The kind is wrong; what else there is has been looked at as far as it can be.
            for name in ["streams", "pattern", "path"] {
                ask.passed(name);
            }
            Kind::Http
        }
    };
    let live_only = matches!(read, Kind::Keys { .. } | Kind::Channel { .. });
    let mut start = if live_only { Start::Now } else { DEFAULT_START };
    if ask.has("start") {
        let expected = "\"earliest\", \"now\" or a duration such as \"1h\"";
        start = ask.parsed("start", expected, start_of).unwrap_or(start);
        if matches!(read, Kind::Channel { .. }) && start != Start::Now {
            ask.fault("start", "a channel keeps nothing, so it can only be read from \"now\"");
        }
    }
    let mut timezone = TimeZone::UTC;
    if ask.has("timezone") {
        let expected = "the IANA name of a time zone, such as \"Europe/Madrid\"";
        timezone = ask.parsed("timezone", expected, |text| TimeZone::get(text).ok()).unwrap_or(timezone);
    }
    if ask.has("schema") {
        ask.word("schema", &["auto"]);
    }
    (read != Kind::Http).then(|| Options { name: name.to_owned(), kind: read, start, timezone })
}

fn start_of(text: &str) -> Option<Start> {
    match text {
        "earliest" => Some(Start::Earliest),
        "now" => Some(Start::Now),
        _ => humantime::parse_duration(text).ok().filter(|d| *d <= Duration::from_secs(3650 * 86_400)).map(Start::Ago),
    }
}

fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn key_text(ask: &Ask<'_>, name: &str, expected: &str) -> String {
    ask.text_where(name, expected, is_key)
}

fn stream_names(source: &str, ask: &Ask<'_>, prefix: &str, seen: &mut Vec<(String, String)>) -> Vec<String> {
    let Some(written) = ask.good_texts("streams") else { return Vec::new() };
    if written.is_empty() {
        ask.fault("streams", "expected at least one stream, such as [\"audit:events\"]");
    }
    if written.len() > STREAMS_MAX {
        ask.fault("streams", format!("expected at most {STREAMS_MAX} streams, found {}", written.len()));
    }
    let mut names = Vec::new();
    for (name, origin) in written {
        let fault = |text: String| ask.fault_at(origin.clone(), &ask.key("streams"), text);
        if !is_key(&name) {
            fault(format!("expected names or globs of streams, 1 to {KEY_BYTES_MAX} bytes, found {}", quoted(&name)));
        } else if !prefix.is_empty() && name.starts_with(prefix) {
            fault(format!("{} is one of auditcast's own keys", quoted(&name)));
        } else if let Some((_, other)) = seen.iter().find(|(n, _)| *n == name) {
            // Read twice, an entry would count twice.
            fault(format!("{} is a stream of the source \"{other}\" already", quoted(&name)));
        } else {
            seen.push((name.clone(), source.to_owned()));
            names.push(name);
        }
    }
    names
}
