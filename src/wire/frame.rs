//! Frames from the server, but for those of the alert log.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{CloseCode, RequestId, number, one_line, rfc3339};
use crate::{
    detect::Metrics,
    event::{Category, EntryId, Event, Outcome, Severity},
};

/// JSON of a frame. Nothing here can fail to be written: names are texts, numbers are finite, maps have text keys.
pub(super) fn json<T: Serialize>(frame: &T) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

/// The first frame of every connection.
#[derive(Clone, Debug, Serialize)]
pub struct Hello {
    /// Of auditcast.
    pub version: &'static str,
    pub connection: String,
    pub node: String,
    /// RFC 3339.
    pub time: String,
    pub user: String,
    pub permissions: Vec<String>,
    pub expires_at: String,
    pub ping_interval_ms: u64,
    /// The newest position of the alert log.
    pub head: String,
    pub limits: HelloLimits,
    pub reconnect: Reconnect,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct HelloLimits {
    pub frame_bytes: usize,
    pub events_rate: u32,
    pub connections_per_user: usize,
}

/// How long a client should wait before it comes back: full jitter between the two, growing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reconnect {
    pub min_ms: u64,
    pub max_ms: u64,
}

#[derive(Serialize)]
struct Typed<T> {
    r#type: &'static str,
    #[serde(flatten)]
    rest: T,
}

pub fn hello(hello: &Hello) -> String {
    json(&Typed { r#type: "hello", rest: hello })
}

/// `reason` is said only where `recovered` is false; `replaying` is an upper bound.
pub fn subscribed(id: Option<&RequestId>, recovered: Result<(), &'static str>, head: &str, replaying: u64) -> String {
    #[derive(Serialize)]
    struct Subscribed<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        recovered: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        head: &'a str,
        replaying: u64,
    }
    json(&Subscribed { r#type: "subscribed", id, recovered: recovered.is_ok(), reason: recovered.err(), head, replaying })
}

pub fn position(pos: &str) -> String {
    json(&serde_json::json!({"type": "position", "pos": pos}))
}

/// The two feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    Alerts,
    Events,
}

/// A hole that is told. `missed` where it is known; `from` and `to` (positions) for alerts.
pub fn gap(feed: Feed, missed: Option<u64>, reason: &str, between: Option<(&str, &str)>) -> String {
    #[derive(Serialize)]
    struct Gap<'a> {
        r#type: &'static str,
        feed: Feed,
        #[serde(skip_serializing_if = "Option::is_none")]
        missed: Option<u64>,
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<&'a str>,
    }
    json(&Gap { r#type: "gap", feed, missed, reason, from: between.map(|b| b.0), to: between.map(|b| b.1) })
}

pub fn lagging() -> String {
    json(&serde_json::json!({"type": "lagging"}))
}

/// What the client may do from now on, where that is something else than it was told before.
pub fn permissions(permissions: &[String]) -> String {
    json(&serde_json::json!({"type": "permissions", "permissions": permissions}))
}

/// How a source of audit entries is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    Ok,
    /// Readable, but reading does not get on.
    Stalled,
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// Configured name.
    pub source: String,
    pub status: SourceState,
    /// Unix ms.
    pub since_ms: u64,
}

pub fn source_status(status: &SourceStatus) -> String {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: &'static str,
        source: &'a str,
        status: SourceState,
        since: String,
    }
    json(&Frame { r#type: "source_status", source: &status.source, status: status.status, since: rfc3339(status.since_ms) })
}

#[derive(Serialize)]
struct Answer<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

pub fn pong(id: Option<&RequestId>, head: &str) -> String {
    json(&Answer { r#type: "pong", id, head: Some(head), expires_at: None })
}

/// The answer to `refresh` says until when the connection may live now.
pub fn ok(id: Option<&RequestId>, expires_at_ms: Option<u64>) -> String {
    json(&Answer { r#type: "ok", id, head: None, expires_at: expires_at_ms.map(rfc3339) })
}

/// `code` of an `error` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    BadJson,
    UnknownType,
    BadRequest,
    BadFilter,
    UnknownAlert,
    Forbidden,
    RateLimited,
    Internal,
}

impl ErrorCode {
    /// Whether the same request may succeed later.
    pub fn temporary(self) -> bool {
        matches!(self, ErrorCode::RateLimited | ErrorCode::Internal)
    }
}

pub fn error_frame(id: Option<&RequestId>, code: ErrorCode, message: &str) -> String {
    #[derive(Serialize)]
    struct Error<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        code: ErrorCode,
        message: &'a str,
        temporary: bool,
    }
    json(&Error { r#type: "error", id, code, message: &one_line(message), temporary: code.temporary() })
}

/// The last frame; `retry_in_ms` only where coming back makes sense.
pub fn bye(code: CloseCode, retry_in_ms: Option<u64>) -> String {
    #[derive(Serialize)]
    struct Bye {
        r#type: &'static str,
        code: u16,
        reason: &'static str,
        reconnect: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
    }
    let retry_in_ms = retry_in_ms.filter(|_| code.reconnect());
    json(&Bye { r#type: "bye", code: code.code(), reason: code.reason(), reconnect: code.reconnect(), retry_in_ms })
}

/// `security_event`: one classified audit event of the live view. `received_ms` is the entry's arrival.
pub fn event_frame(event: &Event<'_>, entry: EntryId, source: &str, received_ms: u64) -> String {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: &'static str,
        event_type: &'a str,
        severity: Severity,
        message: String,
        timestamp: String,
        entry: EntryId,
        source: &'a str,
        category: Category,
        outcome: Outcome,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<&'a str>,
        #[serde(skip_serializing_if = "Map::is_empty")]
        details: &'a Map<String, Value>,
        received_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        original_event_type: Option<&'a str>,
    }
    let kind = &event.kind;
    let details = event.details.map();
    json(&Frame {
        r#type: "security_event",
        event_type: &kind.normal,
        severity: event.severity,
        message: event_message(event, &details),
        timestamp: rfc3339(event.timestamp_ms),
        entry,
        source,
        category: kind.category,
        outcome: event.outcome,
        user_id: event.user_id.as_deref(),
        username: event.username.as_deref(),
        details: &details,
        received_at: rfc3339(received_ms),
        original_event_type: Some(kind.written.as_str()).filter(|written| *written != kind.normal),
    })
}

/// The event's own message, else who did what from where (contract §5).
fn event_message(event: &Event<'_>, details: &Map<String, Value>) -> String {
    if let Some(message) = &event.message {
        return one_line(message);
    }
    let who = event.username.as_deref().or(event.user_id.as_deref()).unwrap_or("unknown");
    let address = details.get("ip_address").and_then(Value::as_str).unwrap_or("unknown");
    one_line(&format!("{} by {who} from {address}", event.kind.normal))
}

/// The metrics of one slot's end: scalars by name and the two maps (contract §4, §7). Counts are integers; ratios and
/// seconds keep their fraction; what is absent is left out.
pub fn metrics_json(metrics: &Metrics) -> Value {
    let mut object = Map::new();
    for (name, value) in &metrics.scalars {
        let fraction = name.ends_with("_ratio") || name.ends_with("_seconds");
        let written = if fraction { serde_json::Number::from_f64(*value) } else { number(*value) };
        if let Some(written) = written {
            object.insert(name.clone(), Value::Number(written));
        }
    }
    let counts = |map: &BTreeMap<String, u64>| Value::Object(map.iter().map(|(k, v)| (k.clone(), Value::from(*v))).collect());
    object.insert("events_by_severity".to_owned(), counts(&metrics.events_by_severity));
    object.insert("events_by_category".to_owned(), counts(&metrics.events_by_category));
    Value::Object(object)
}

/// `security_metrics`.
pub fn metrics_frame(metrics: &Metrics) -> String {
    #[derive(Serialize)]
    struct Frame {
        r#type: &'static str,
        timestamp: String,
        metrics: Value,
    }
    json(&Frame { r#type: "security_metrics", timestamp: rfc3339(metrics.timestamp_ms), metrics: metrics_json(metrics) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Details, EventType, Lists};

    #[test]
    fn frames_as_text() {
        let id = RequestId::Number(7);
        for (frame, text) in [
            (
                subscribed(None, Ok(()), "3-00c0ffee", 0),
                r#"{"type":"subscribed","recovered":true,"head":"3-00c0ffee","replaying":0}"#,
            ),
            (
                subscribed(Some(&id), Err("expired"), "3-00c0ffee", 2),
                r#"{"type":"subscribed","id":7,"recovered":false,"reason":"expired","head":"3-00c0ffee","replaying":2}"#,
            ),
            (
                gap(Feed::Alerts, Some(2), "trimmed", Some(("1-00000000", "3-00c0ffee"))),
                r#"{"type":"gap","feed":"alerts","missed":2,"reason":"trimmed","from":"1-00000000","to":"3-00c0ffee"}"#,
            ),
            (gap(Feed::Events, Some(9), "rate", None), r#"{"type":"gap","feed":"events","missed":9,"reason":"rate"}"#),
            (lagging(), r#"{"type":"lagging"}"#),
            (permissions(&["audit.view".to_owned()]), r#"{"permissions":["audit.view"],"type":"permissions"}"#),
            (pong(Some(&id), "3-00c0ffee"), r#"{"type":"pong","id":7,"head":"3-00c0ffee"}"#),
            (ok(None, Some(0)), r#"{"type":"ok","expires_at":"1970-01-01T00:00:00.000Z"}"#),
            (
                error_frame(None, ErrorCode::BadJson, "not JSON:\nx"),
                r#"{"type":"error","code":"bad_json","message":"not JSON: x","temporary":false}"#,
            ),
            (
                bye(CloseCode::ShuttingDown, Some(1500)),
                r#"{"type":"bye","code":3001,"reason":"shutting down","reconnect":true,"retry_in_ms":1500}"#,
            ),
            (bye(CloseCode::Forbidden, Some(1)), r#"{"type":"bye","code":3507,"reason":"forbidden","reconnect":false}"#),
            (
                source_status(&SourceStatus { source: "app".into(), status: SourceState::Stalled, since_ms: 0 }),
                r#"{"type":"source_status","source":"app","status":"stalled","since":"1970-01-01T00:00:00.000Z"}"#,
            ),
        ] {
            assert_eq!(frame, text);
        }
    }

    #[test]
    fn an_event_as_text() {
        let kind = EventType {
            written: "AUTH_FAILED".into(),
            normal: "auth.failed".into(),
            matching: "auth_failed".into(),
            category: Category::Auth,
            lists: Lists::default(),
            severity: Severity::Medium,
            severity_fixed: false,
            outcome: Outcome::Failure,
            args: None,
        };
        let event = Event {
            kind: Arc::new(kind),
            severity: Severity::Medium,
            outcome: Outcome::Failure,
            timestamp_ms: 1000,
            timestamp_fault: None,
            severity_ignored: false,
            user_id: Some("7".into()),
            username: None,
            event_id: None,
            message: None,
            details: Details::default(),
        };
        assert_eq!(
            event_frame(&event, EntryId::new(2000, 1), "app", 2000),
            concat!(
                r#"{"type":"security_event","event_type":"auth.failed","severity":"medium","message":"auth.failed by 7 from unknown","#,
                r#""timestamp":"1970-01-01T00:00:01.000Z","entry":"2000-1","source":"app","category":"auth","outcome":"failure","#,
                r#""user_id":"7","received_at":"1970-01-01T00:00:02.000Z","original_event_type":"AUTH_FAILED"}"#
            )
        );
    }

    #[test]
    fn metrics_as_text() {
        let metrics = Metrics {
            timestamp_ms: 0,
            scalars: [("active_sessions".to_owned(), 3.0), ("auth_success_ratio".to_owned(), 1.0)].into(),
            events_by_severity: [("low".to_owned(), 2)].into(),
            events_by_category: BTreeMap::new(),
        };
        assert_eq!(
            metrics_frame(&metrics),
            concat!(
                r#"{"type":"security_metrics","timestamp":"1970-01-01T00:00:00.000Z","metrics":{"active_sessions":3,"#,
                r#""auth_success_ratio":1.0,"events_by_category":{},"events_by_severity":{"low":2}}}"#
            )
        );
    }
}
