//! `POST /api/v1/events`: audit events by HTTP, answered when the store has them (contract §7).

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State as FromState},
    http::{HeaderMap, header},
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    State,
    guard::{self, Need},
    params::{Params, short},
    problem::{Code, Problem},
};
use crate::{
    event::{Classifier, EntryId, Event, Invalid},
    metrics::unix_ms,
    store::{IntakeItem, Taken},
};

/// The built-in source that these events come by.
const SOURCE: &str = "http";

/// The same `event_id` within this time is accepted once.
const DEDUP_TTL: Duration = Duration::from_secs(3600);

/// A body that takes longer is not worth a socket.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// So much beyond the limit is read and thrown away: who is still writing when the connection closes does not hear why.
const DISCARDED_MAX: usize = 16 * 1024 * 1024;

/// Items to the store at once.
const BATCH_MAX: usize = 500;

/// Longest `event_id` that is its own key; a longer one is known by its hash.
const DEDUP_BYTES_MAX: usize = 128;

#[derive(Debug, Default, Serialize)]
struct Answer {
    /// Newly stored.
    accepted: u64,
    /// One for each event that was not rejected, in order; one that was known has the id it got then.
    ids: Vec<EntryId>,
    rejected: Vec<Rejected>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Rejected {
    index: usize,
    reason: &'static str,
}

pub(super) async fn post(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    guard::admit(&state, &super::parts(&request), Need::Write).await?;
    Params::read(request.uri(), &[])?;
    let lines = is_lines(request.headers())?;
    let text = read(request.into_body(), state.options.body_bytes_max).await?;
    let texts = if lines { split_lines(&text) } else { split_json(&text)? };

    let (items, rejected) = {
        let mut classifier = state.classifier.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        examine(&mut classifier, &texts, unix_ms())
    };
    let mut answer = Answer { rejected, ..Answer::default() };
    for batch in items.chunks(BATCH_MAX) {
        for taken in state.store.intake(batch, DEDUP_TTL).await? {
            let id = match taken {
                Taken::New(id) => {
                    answer.accepted += 1;
                    id
                }
                Taken::Known(id) => id,
            };
            answer.ids.push(id);
        }
    }
    super::to_json(&answer)
}

/// Whether the body is lines of JSON; fails on what is neither that nor JSON.
fn is_lines(headers: &HeaderMap) -> Result<bool, Problem> {
    let written = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?")).unwrap_or("application/json");
    let kind = written.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(false),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => Ok(true),
        _ => {
            let detail = format!("`{}` is not read here: application/json or application/x-ndjson is", short(written));
            Err(Problem::new(Code::UnsupportedType, detail))
        }
    }
}

/// A body of at most `bytes_max` bytes, as text.
pub(super) async fn read(mut body: Body, bytes_max: usize) -> Result<String, Problem> {
    let too_large = || Problem::new(Code::TooLarge, format!("a body may have {bytes_max} bytes"));
    if body.size_hint().lower() > (bytes_max + DISCARDED_MAX) as u64 {
        return Err(too_large());
    }
    let reading = async {
        let (mut bytes, mut total) = (Vec::new(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Problem::bad_request("the body could not be read"))?.into_data() else { continue };
            total = total.saturating_add(data.len());
            if total <= bytes_max {
                bytes.extend_from_slice(&data);
            } else if total > bytes_max + DISCARDED_MAX {
                break;
            }
        }
        if total <= bytes_max { Ok(bytes) } else { Err(too_large()) }
    };
    let bytes = tokio::time::timeout(BODY_TIMEOUT, reading)
        .await
        .map_err(|_| Problem::new(Code::Timeout, format!("the body did not come within {} s", BODY_TIMEOUT.as_secs())))??;
    String::from_utf8(bytes).map_err(|_| Problem::new(Code::BadJson, "the body is not UTF-8"))
}

/// Lines that are not blank.
fn split_lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// An object, or the elements of an array; each is looked at by itself afterwards.
fn split_json(text: &str) -> Result<Vec<&str>, Problem> {
    let bad = |error: serde_json::Error| Problem::new(Code::BadJson, format!("the body is not JSON: {error}"));
    let trimmed = text.trim();
    if trimmed.starts_with('[') {
        let list: Vec<&RawValue> = serde_json::from_str(trimmed).map_err(bad)?;
        return Ok(list.into_iter().map(RawValue::get).collect());
    }
    let one: &RawValue = serde_json::from_str(trimmed).map_err(bad)?;
    if one.get().starts_with('{') {
        Ok(vec![one.get()])
    } else {
        Err(Problem::bad_request("the body is neither an event nor an array of events"))
    }
}

fn examine(classifier: &mut Classifier, texts: &[&str], now_ms: u64) -> (Vec<IntakeItem>, Vec<Rejected>) {
    let mut items = Vec::new();
    let mut rejected = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let item = classifier.decode_json(text, now_ms, &TimeZone::UTC).and_then(|event| item(text, &event));
        match item {
            Ok(item) => items.push(item),
            Err(reason) => rejected.push(Rejected { index, reason: reason.as_str() }),
        }
    }
    (items, rejected)
}

/// What goes to the intake: the event as it was written, with what must not be stored masked already (contract §3).
fn item(text: &str, event: &Event<'_>) -> Result<IntakeItem, Invalid> {
    let written: Map<String, Value> = serde_json::from_str(text).map_err(|_| Invalid::BadJson)?;
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    // These three as they were written, so that reading them back counts and keeps what reading them here did.
    for name in ["event_type", "timestamp", "severity"] {
        match written.get(name) {
            Some(value @ (Value::String(_) | Value::Number(_))) => put(name, value.clone()),
            _ => None,
        };
    }
    for (name, value) in
        [("user_id", &event.user_id), ("username", &event.username), ("event_id", &event.event_id), ("message", &event.message)]
    {
        if let Some(text) = value {
            put(name, Value::String(text.clone().into_owned()));
        }
    }
    let details = event.details.map();
    if !details.is_empty() {
        put("details", Value::Object(details.into_owned()));
    }
    Ok(IntakeItem {
        source: SOURCE.to_owned(),
        dedup: event.event_id.as_deref().map(dedup),
        body: Value::Object(body).to_string(),
    })
}

/// Bridges have keys of their own, so these are told apart.
fn dedup(event_id: &str) -> String {
    if event_id.len() <= DEDUP_BYTES_MAX {
        return format!("{SOURCE}:{event_id}");
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, event_id.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SOURCE}#{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Options;

    fn examined(texts: &[&str]) -> (Vec<IntakeItem>, Vec<Rejected>) {
        examine(&mut Classifier::new(Options::contract()).unwrap(), texts, 1_700_000_000_000)
    }

    #[test]
    fn each_event_is_looked_at_by_itself() {
        let texts = [
            r#"{"event_type":"auth.login","event_id":"e1"}"#,
            "not json",
            "7",
            r#"{"user_id":1}"#,
            &format!(r#"{{"event_type":"x","details":{{"a":"{}"}}}}"#, "a".repeat(70_000)),
            r#"{"event_type":"LOGIN"}"#,
        ];
        let (items, rejected) = examined(&texts);
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].dedup.as_deref(), Some("http:e1"));
        assert_eq!(items[1].dedup, None);
        assert!(items.iter().all(|item| item.source == "http"));
        let reasons: Vec<_> = rejected.iter().map(|r| (r.index, r.reason)).collect();
        assert_eq!(reasons, [(1, "bad_json"), (2, "not_an_object"), (3, "no_event_type"), (4, "too_large")]);
    }

    #[test]
    fn what_is_stored_is_masked_and_else_as_written() {
        let text = r#"{"event_type":"AUTH_FAIL:joe","timestamp":"2023-11-14T22:13:20","severity":"nonsense","user_id":7,
            "password":"hunter2","details":{"deep":{"Token":"hunter3"},"ip_address":"10.0.0.1"},"outcome":"denied"}"#;
        let (items, _) = examined(&[text]);
        let body: Value = serde_json::from_str(&items[0].body).unwrap();
        assert!(!items[0].body.contains("hunter"));
        assert_eq!(body["event_type"], "AUTH_FAIL:joe");
        assert_eq!(body["timestamp"], "2023-11-14T22:13:20");
        assert_eq!(body["severity"], "nonsense");
        assert_eq!(body["user_id"], "7");
        assert_eq!(body["details"]["ip_address"], "10.0.0.1");
        assert_eq!(body["details"]["outcome"], "denied");
        assert_eq!(body["details"]["password"], "***");
    }

    #[test]
    fn what_is_stored_reads_back_as_the_same_event() {
        let text = r#"{"event_type":"login","user_id":7,"username":"eve","severity":"error","success":false,"message":"no",
            "timestamp":1700000000,"event_id":"e","details":{"ip_address":"10.0.0.1","secret":"x"},"extra":[1,{"totp":1}]}"#;
        let mut classifier = Classifier::new(Options::contract()).unwrap();
        let now = 1_700_000_000_500;
        let first = classifier.decode_json(text, now, &TimeZone::UTC).unwrap();
        let stored = item(text, &first).unwrap().body;
        let again = classifier.decode_json(&stored, now, &TimeZone::UTC).unwrap();
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
    }

    #[test]
    fn a_body_is_an_object_an_array_or_lines() {
        assert_eq!(split_json(" {\"a\":1} ").unwrap(), ["{\"a\":1}"]);
        assert_eq!(split_json("[{\"a\":1}, 2]").unwrap(), ["{\"a\":1}", "2"]);
        assert_eq!(split_json("[]").unwrap(), [""; 0]);
        for bad in ["", "{", "[1", "{} {}"] {
            assert_eq!(split_json(bad).unwrap_err().code, Code::BadJson, "{bad}");
        }
        assert_eq!(split_json("7").unwrap_err().code, Code::BadRequest);
        assert_eq!(split_lines("{}\r\n\n 1 \n"), ["{}", "1"]);
    }

    #[test]
    fn a_long_id_is_known_by_its_hash() {
        assert_eq!(dedup("a"), "http:a");
        let long = "a".repeat(DEDUP_BYTES_MAX + 1);
        assert_eq!(dedup(&long).len(), "http#".len() + 64);
        assert_ne!(dedup(&long), dedup(&format!("{long}b")));
    }
}
