//! A body of the alert log, read back: what a node needs of the alerts that were open when it took over.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::unix_ms;
use crate::{
    detect::{Alert, Kind, Status},
    event::Severity,
};

#[derive(Deserialize)]
struct Stored {
    alert_id: String,
    kind: Kind,
    status: Status,
    rule: String,
    event_type: String,
    severity: Severity,
    message: String,
    timestamp: String,
    received_at: Option<String>,
    value: Option<f64>,
    threshold: Option<f64>,
    window: Option<String>,
    user_id: Option<String>,
    username: Option<String>,
    #[serde(default)]
    details: Map<String, Value>,
    source: Option<String>,
    original_event_type: Option<String>,
    #[serde(default)]
    evidence: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    runbook_url: Option<String>,
}

/// The inverse of [`super::alert_body`]; `None` for a body that is no `security_alert`.
pub fn alert_from_body(body: &str) -> Option<Alert> {
    let s: Stored = serde_json::from_str(body).ok()?;
    let timestamp_ms = unix_ms(&s.timestamp)?;
    Some(Alert {
        alert_id: s.alert_id,
        kind: s.kind,
        status: s.status,
        rule: s.rule,
        event_type: s.event_type,
        severity: s.severity,
        message: s.message,
        timestamp_ms,
        received_at_ms: s.received_at.as_deref().and_then(unix_ms).unwrap_or(timestamp_ms),
        value: s.value,
        threshold: s.threshold,
        window_ms: s
            .window
            .as_deref()
            .and_then(|w| humantime::parse_duration(w).ok())
            .and_then(|w| w.as_millis().try_into().ok()),
        user_id: s.user_id,
        username: s.username,
        details: s.details,
        source: s.source,
        original_event_type: s.original_event_type,
        evidence: s.evidence,
        labels: s.labels,
        runbook_url: s.runbook_url,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::alert_body;

    #[test]
    fn what_was_stored_is_read_back() {
        let alert = Alert {
            alert_id: "00112233445566778899aabbccddeeff".into(),
            kind: Kind::Threshold,
            status: Status::Firing,
            rule: "r".into(),
            event_type: "r".into(),
            severity: Severity::Critical,
            message: "m \"quoted\"".into(),
            timestamp_ms: 1_700_000_000_123,
            received_at_ms: 1_700_000_000_456,
            value: Some(0.25),
            threshold: Some(0.5),
            window_ms: Some(90_000),
            user_id: Some("7".into()),
            username: Some("eve".into()),
            details: json!({"top": {"user_id": [{"value": "7", "count": 51}]}}).as_object().cloned().unwrap_or_default(),
            source: Some("app".into()),
            original_event_type: Some("X".into()),
            evidence: vec!["app/1-0".into()],
            labels: BTreeMap::from([("team".into(), "sec".into())]),
            runbook_url: Some("https://runbook".into()),
        };
        assert_eq!(alert_from_body(&alert_body(&alert, Some("https://a"))), Some(alert));
        for body in ["", "{}", r#"{"type":"alert_acknowledged","alert_id":"x"}"#] {
            assert_eq!(alert_from_body(body), None);
        }
    }
}
