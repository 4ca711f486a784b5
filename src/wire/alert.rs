//! `security_alert`: the frame of the alert log, and what of it filters look at.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::{number, rfc3339, unix_ms};
use crate::{
    detect::{Alert, Kind, Status},
    event::Severity,
};

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    event_type: &'a str,
    severity: Severity,
    message: &'a str,
    timestamp: String,
    alert_id: &'a str,
    kind: Kind,
    status: Status,
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    details: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_event_type: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    evidence: &'a [String],
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    labels: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runbook_url: Option<&'a str>,
}

/// The frame as the alert log keeps it: JSON without `pos`, the five members of the guide first.
///
/// `external_url` is where people reach the page; `url` is left out without it.
pub fn alert_body(alert: &Alert, external_url: Option<&str>) -> String {
    let body = Body {
        r#type: "security_alert",
        event_type: &alert.event_type,
        severity: alert.severity,
        message: &alert.message,
        timestamp: rfc3339(alert.timestamp_ms),
        alert_id: &alert.alert_id,
        kind: alert.kind,
        status: alert.status,
        rule: &alert.rule,
        value: alert.value.and_then(number),
        threshold: alert.threshold.and_then(number),
        window: alert.window_ms.map(|ms| humantime::format_duration(Duration::from_millis(ms)).to_string()),
        user_id: alert.user_id.as_deref(),
        username: alert.username.as_deref(),
        details: &alert.details,
        source: alert.source.as_deref(),
        received_at: rfc3339(alert.received_at_ms),
        original_event_type: alert.original_event_type.as_deref(),
        evidence: &alert.evidence,
        labels: &alert.labels,
        url: external_url.map(|base| format!("{}/#/alerts/{}", base.trim_end_matches('/'), alert.alert_id)),
        runbook_url: alert.runbook_url.as_deref(),
    };
    super::frame::json(&body)
}

/// Splices `pos` (and `replayed`) into a body of the alert log, behind its last member, without reading it. `pos` must need
/// no escaping, as [`super::Pos`] never does. A body that does not end as an object does is given back as it is.
pub fn with_pos(body: &str, pos: &str, replayed: bool) -> String {
    let Some(open) = body.trim_end().strip_suffix('}') else { return body.to_owned() };
    let comma = if open.trim_end().ends_with('{') { "" } else { "," };
    let mut frame = String::with_capacity(open.len() + pos.len() + 32);
    frame.push_str(open);
    frame.push_str(comma);
    frame.push_str("\"pos\":\"");
    frame.push_str(pos);
    frame.push('"');
    if replayed {
        frame.push_str(",\"replayed\":true");
    }
    frame.push('}');
    frame
}

/// The same frame for who was not there when it was made.
pub fn mark_replayed(frame: &str) -> String {
    match frame.strip_suffix('}') {
        Some(open) => format!("{open},\"replayed\":true}}"),
        None => frame.to_owned(),
    }
}

/// What filters and metrics look at in an entry of the alert log; read once, when the entry enters the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertView {
    /// `security_alert`, `alert_acknowledged`, `alert_unacknowledged`, or another that a newer version wrote.
    pub frame_type: String,
    pub alert_id: String,
    /// Only of `security_alert`; the others pass every filter.
    pub severity: Option<Severity>,
    pub kind: Option<Kind>,
    pub status: Option<Status>,
    pub event_type: String,
    /// Arrival of what caused it, Unix ms; for `auditcast_alert_delivery_seconds`.
    pub received_at_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Raw {
    r#type: String,
    #[serde(default)]
    alert_id: String,
    #[serde(default)]
    event_type: String,
    severity: Option<Severity>,
    kind: Option<Kind>,
    status: Option<Status>,
    received_at: Option<String>,
}

impl AlertView {
    /// Reads a body of the alert log; `None` where it is no frame.
    pub fn parse(body: &str) -> Option<AlertView> {
        let raw: Raw = serde_json::from_str(body).ok()?;
        Some(AlertView {
            frame_type: raw.r#type,
            alert_id: raw.alert_id,
            severity: raw.severity,
            kind: raw.kind,
            status: raw.status,
            event_type: raw.event_type,
            received_at_ms: raw.received_at.as_deref().and_then(unix_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold() -> Alert {
        Alert {
            alert_id: "00112233445566778899aabbccddeeff".into(),
            kind: Kind::Threshold,
            status: Status::Firing,
            rule: "high_failed_login_rate".into(),
            event_type: "high_failed_login_rate".into(),
            severity: Severity::High,
            message: "High failed login rate detected: 51 in last hour".into(),
            timestamp_ms: 1_700_000_000_000,
            received_at_ms: 1_700_000_000_000,
            value: Some(51.0),
            threshold: Some(50.0),
            window_ms: Some(3_600_000),
            user_id: None,
            username: None,
            details: Map::new(),
            source: None,
            original_event_type: None,
            evidence: vec!["app/1-0".into()],
            labels: Default::default(),
            runbook_url: None,
        }
    }

    #[test]
    fn a_threshold_alert_as_text() {
        assert_eq!(
            alert_body(&threshold(), Some("https://audit.example/")),
            concat!(
                r#"{"type":"security_alert","event_type":"high_failed_login_rate","severity":"high","#,
                r#""message":"High failed login rate detected: 51 in last hour","timestamp":"2023-11-14T22:13:20.000Z","#,
                r#""alert_id":"00112233445566778899aabbccddeeff","kind":"threshold","status":"firing","#,
                r#""rule":"high_failed_login_rate","value":51,"threshold":50,"window":"1h","#,
                r#""received_at":"2023-11-14T22:13:20.000Z","evidence":["app/1-0"],"#,
                r#""url":"https://audit.example/#/alerts/00112233445566778899aabbccddeeff"}"#
            )
        );
    }

    #[test]
    fn an_event_alert_as_text() {
        let mut details = Map::new();
        details.insert("ip_address".into(), "10.0.0.7\"".into());
        let alert = Alert {
            kind: Kind::Event,
            rule: "event".into(),
            event_type: "security.injection_attempt".into(),
            message: "x".into(),
            value: None,
            threshold: None,
            window_ms: None,
            user_id: Some("7".into()),
            username: Some("eve".into()),
            details,
            source: Some("app".into()),
            original_event_type: Some("SECURITY_INJECTION_ATTEMPT".into()),
            evidence: vec![],
            runbook_url: Some("https://runbook".into()),
            ..threshold()
        };
        assert_eq!(
            alert_body(&alert, None),
            concat!(
                r#"{"type":"security_alert","event_type":"security.injection_attempt","severity":"high","message":"x","#,
                r#""timestamp":"2023-11-14T22:13:20.000Z","alert_id":"00112233445566778899aabbccddeeff","kind":"event","#,
                r#""status":"firing","rule":"event","user_id":"7","username":"eve","details":{"ip_address":"10.0.0.7\""},"#,
                r#""source":"app","received_at":"2023-11-14T22:13:20.000Z","#,
                r#""original_event_type":"SECURITY_INJECTION_ATTEMPT","runbook_url":"https://runbook"}"#
            )
        );
    }

    #[test]
    fn the_position_is_spliced_in() {
        assert_eq!(with_pos(r#"{"a":1}"#, "1-00000000", false), r#"{"a":1,"pos":"1-00000000"}"#);
        assert_eq!(with_pos(r#"{"a":1}"#, "1-00000000", true), r#"{"a":1,"pos":"1-00000000","replayed":true}"#);
        assert_eq!(mark_replayed(&with_pos(r#"{"a":1}"#, "1-00000000", false)), with_pos(r#"{"a":1}"#, "1-00000000", true));
        assert_eq!(with_pos("{}", "1-00000000", false), r#"{"pos":"1-00000000"}"#);
    }

    #[test]
    fn a_view_has_what_filters_need() {
        let view = AlertView::parse(&alert_body(&threshold(), None));
        assert_eq!(
            view,
            Some(AlertView {
                frame_type: "security_alert".into(),
                alert_id: "00112233445566778899aabbccddeeff".into(),
                severity: Some(Severity::High),
                kind: Some(Kind::Threshold),
                status: Some(Status::Firing),
                event_type: "high_failed_login_rate".into(),
                received_at_ms: Some(1_700_000_000_000),
            })
        );
        assert_eq!(AlertView::parse("[]"), None);
        assert_eq!(AlertView::parse("{}"), None);
    }
}
