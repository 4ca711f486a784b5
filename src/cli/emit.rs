//! `emit`: appends audit events to a configured stream, dated by their arrival.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::{Failure, Global, reach, reach::Reach, terminal};
use crate::{
    config::Config,
    event::{EVENT_TYPE_BYTES_MAX, EntryId, Severity},
    source::Kind,
};

/// Longest entry that is read (contract §3).
const ENTRY_BYTES_MAX: usize = 64 << 10;
/// Longest line looked at; text before the first `{` counts too.
const LINE_BYTES_MAX: u64 = 128 << 10;
/// Entries appended in one go.
const BATCH: usize = 500;
const READ_BYTES: usize = 256 << 10;

#[derive(Clone, Debug, Default, Args)]
pub struct Emit {
    /// Type of the event, such as auth.failed
    #[arg(value_name = "EVENT_TYPE", value_parser = type_arg, required_unless_present = "file", conflicts_with = "file")]
    pub event_type: Option<String>,
    /// User id
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    pub user: Option<String>,
    /// User name
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub username: Option<String>,
    /// Session id
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    pub session: Option<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS", conflicts_with = "file")]
    pub ip: Option<String>,
    /// What an alert of it says
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub message: Option<String>,
    /// low, medium, high or critical
    #[arg(long, value_name = "SEVERITY", value_parser = severity_arg, conflicts_with = "file")]
    pub severity: Option<Severity>,
    /// A member of details; numbers, true and false stay what they are; may be repeated
    #[arg(long = "detail", value_name = "K=V", value_parser = detail_arg, conflicts_with = "file")]
    pub details: Vec<(String, Value)>,
    /// Events from a file of JSON lines, or `-`; text before the first { of a line is skipped
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The stream [default: the first configured one that is no glob]
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
}

pub(super) fn severity_arg(text: &str) -> Result<Severity, String> {
    let found = Severity::ALL.into_iter().find(|s| s.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "expected low, medium, high or critical".to_owned())
}

fn detail_arg(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=VALUE")?;
    let read = serde_json::from_str(value).ok().filter(|v: &Value| v.is_number() || v.is_boolean());
    Ok((name.to_owned(), read.unwrap_or_else(|| value.into())))
}

/// The rule for names of types (contract §3).
fn is_type(text: &str) -> bool {
    (1..=EVENT_TYPE_BYTES_MAX).contains(&text.trim().len())
}

fn type_arg(text: &str) -> Result<String, String> {
    match is_type(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected 1 to {EVENT_TYPE_BYTES_MAX} bytes, found {}", text.trim().len())),
    }
}

pub async fn run(global: &Global, args: Emit) -> Result<(), Failure> {
    let config = global.load()?;
    let stream = stream(&config, args.stream.as_deref())?;
    match &args.file {
        None => {
            let entry = entry(&args)?;
            let store = Reach::need(&config, "append the event").await?;
            let ids = store.append(&stream, &[entry]).await;
            store.close().await;
            print(&ids.map_err(|error| reach::failed("append the event", &error))?);
            Ok(())
        }
        Some(path) => {
            let shown = terminal::plain(&path.display().to_string());
            let file = match path == Path::new("-") {
                true => None,
                false => {
                    Some(tokio::fs::File::open(path).await.map_err(|e| Failure::usage(format!("could not open {shown}: {e}")))?)
                }
            };
            let store = Reach::need(&config, "append the events").await?;
            let done = match file {
                None => lines(&store, &stream, BufReader::with_capacity(READ_BYTES, tokio::io::stdin()), &shown).await,
                Some(file) => lines(&store, &stream, BufReader::with_capacity(READ_BYTES, file), &shown).await,
            };
            store.close().await;
            done
        }
    }
}

/// Where to: the stream named, else the first configured one that is no glob.
fn stream(config: &Config, named: Option<&str>) -> Result<String, Failure> {
    let configured: Vec<&String> = config
        .sources
        .iter()
        .filter_map(|source| match &source.kind {
            Kind::Stream { streams } => Some(streams),
            _ => None,
        })
        .flatten()
        .collect();
    let Some(named) = named else {
        let first = configured.iter().find(|name| !reach::is_glob(name));
        return first.map(|name| (*name).clone()).ok_or_else(|| {
            Failure::usage("no configured source names a stream (globs do not say where to write), so --stream must")
        });
    };
    if named.is_empty() || reach::is_glob(named) || named.starts_with(&config.store.prefix) {
        return Err(Failure::usage(format!("--stream {} is not a stream that events may be written to", terminal::plain(named))));
    }
    // A glob may match it; only where there is none is it certain that nobody reads it.
    if !configured.iter().any(|name| *name == named || reach::is_glob(name)) {
        return Err(Failure::usage(format!("no configured source reads the stream {}", terminal::plain(named))));
    }
    Ok(named.to_owned())
}

fn entry(args: &Emit) -> Result<Vec<(String, String)>, Failure> {
    let mut details: Map<String, Value> = args.details.iter().cloned().collect();
    for (name, value) in [("session_id", &args.session), ("ip_address", &args.ip)] {
        if let Some(value) = value {
            details.insert(name.to_owned(), value.clone().into());
        }
    }
    let mut fields = Vec::new();
    let severity = args.severity.map(|s| s.as_str().to_owned());
    for (name, value) in [
        ("event_type", &args.event_type),
        ("user_id", &args.user),
        ("username", &args.username),
        ("severity", &severity),
        ("message", &args.message),
    ] {
        if let Some(value) = value {
            fields.push((name.to_owned(), value.clone()));
        }
    }
    // Always there: an entry with one field would be read as an envelope.
    fields.push(("details".to_owned(), Value::Object(details).to_string()));
    let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENTRY_BYTES_MAX {
        return Err(Failure::usage(format!("the event has {bytes} bytes, at most {ENTRY_BYTES_MAX} are read")));
    }
    Ok(fields)
}

/// What one line holds: an entry, nothing, or why it is none.
fn line_entry(line: &str) -> Result<Option<Vec<(String, String)>>, String> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    let json = line.find('{').and_then(|at| line.get(at..)).ok_or("it holds no JSON object")?.trim_end();
    if json.len() > ENTRY_BYTES_MAX {
        return Err(format!("it has {} bytes, at most {ENTRY_BYTES_MAX} are read", json.len()));
    }
    let object: Map<String, Value> = serde_json::from_str(json).map_err(|error| format!("it is not a JSON object: {error}"))?;
    match object.get("event_type") {
        None => return Err("it has no event_type".to_owned()),
        Some(Value::String(name)) if is_type(name) => {}
        Some(_) => return Err(format!("its event_type is not a text of 1 to {EVENT_TYPE_BYTES_MAX} bytes")),
    }
    // The text as it stands: numbers keep their digits.
    Ok(Some(vec![("data".to_owned(), json.to_owned())]))
}

async fn lines<R: AsyncRead + Unpin>(store: &Reach, stream: &str, mut input: BufReader<R>, shown: &str) -> Result<(), Failure> {
    let mut batch = Vec::with_capacity(BATCH);
    let (mut number, mut bad) = (0_u64, 0_u64);
    loop {
        number += 1;
        let line = next_line(&mut input).await.map_err(|error| Failure::run(format!("could not read {shown}: {error}")))?;
        let ended = line.is_none();
        let read = match line {
            None => Ok(None),
            Some(None) => Err(format!("it has over {LINE_BYTES_MAX} bytes")),
            Some(Some(bytes)) => std::str::from_utf8(&bytes).map_err(|_| "it is not UTF-8".to_owned()).and_then(line_entry),
        };
        match read {
            Ok(Some(entry)) => batch.push(entry),
            Ok(None) => {}
            Err(text) => {
                bad += 1;
                eprintln!("{shown}:{number}: skipped: {}", terminal::plain(&text));
            }
        }
        // Nothing more has come yet: a log that is being followed does not wait for a full batch.
        let idle = input.buffer().is_empty();
        if batch.len() >= BATCH || ((ended || idle) && !batch.is_empty()) {
            let ids = store.append(stream, &batch).await.map_err(|error| reach::failed("append the events", &error))?;
            batch.clear();
            print(&ids);
        }
        if ended {
            break;
        }
    }
    match bad {
        0 => Ok(()),
        1 => Err(Failure::run(format!("1 line of {shown} was skipped"))),
        bad => Err(Failure::run(format!("{bad} lines of {shown} were skipped"))),
    }
}

/// The next line; `Some(None)` is one that is too long, read to its end and forgotten; `None` is the end.
async fn next_line<R: AsyncRead + Unpin>(input: &mut BufReader<R>) -> std::io::Result<Option<Option<Vec<u8>>>> {
    let mut line = Vec::new();
    if input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") || u64::try_from(line.len()).unwrap_or(u64::MAX) < LINE_BYTES_MAX {
        return Ok(Some(Some(line)));
    }
    loop {
        line.clear();
        let read = input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if read == 0 || line.ends_with(b"\n") {
            return Ok(Some(None));
        }
    }
}

fn print(ids: &[EntryId]) {
    let mut text = String::new();
    for id in ids {
        text.push_str(&id.to_string());
        text.push('\n');
    }
    // Nobody may be reading; the events are appended all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_log_become_envelopes() {
        let data = |text: &str| Ok(Some(vec![("data".to_owned(), text.to_owned())]));
        for (line, wanted) in [
            ("", Ok(None)),
            ("  \r\n", Ok(None)),
            ("{\"event_type\":\"a\"}\r\n", data("{\"event_type\":\"a\"}")),
            ("2024-01-15 INFO security: {\"event_type\":\"A\",\"n\":1.50}\n", data("{\"event_type\":\"A\",\"n\":1.50}")),
            ("no object", Err("it holds no JSON object".to_owned())),
            ("{\"x\":1}", Err("it has no event_type".to_owned())),
            ("{\"event_type\":\" \"}", Err("its event_type is not a text of 1 to 256 bytes".to_owned())),
            ("{\"event_type\":7}", Err("its event_type is not a text of 1 to 256 bytes".to_owned())),
        ] {
            assert_eq!(line_entry(line), wanted, "{line:?}");
        }
        assert!(line_entry("{\"event_type\":\"a\"} trailing").unwrap_err().starts_with("it is not a JSON object"));
        assert!(line_entry(&format!("{{\"event_type\":\"a\",\"x\":\"{}\"}}", "y".repeat(65_536))).is_err());
    }

    #[test]
    fn details_keep_numbers_and_truth() {
        for (text, wanted) in [
            ("a=1", Value::from(1)),
            ("a=1.5", Value::from(1.5)),
            ("a=true", Value::from(true)),
            ("a=007", Value::from("007")),
            ("a=null", Value::from("null")),
            ("a=x=y", Value::from("x=y")),
            ("a=", Value::from("")),
        ] {
            assert_eq!(detail_arg(text).unwrap(), ("a".to_owned(), wanted), "{text}");
        }
        assert!(detail_arg("=x").is_err() && detail_arg("x").is_err());
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_skipped_whole() {
        let long = "x".repeat(300 << 10);
        let text = format!("a\n{long}\nb");
        let mut input = BufReader::new(std::io::Cursor::new(text.into_bytes()));
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).await.unwrap() {
            lines.push(line.map(|bytes| String::from_utf8(bytes).unwrap()));
        }
        assert_eq!(lines, [Some("a\n".to_owned()), None, Some("b".to_owned())]);
    }
}
