//! What a client asked for: by query parameters, or by a `subscribe` frame, which says the same in JSON.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{After, AlertView, ErrorCode, Sight, request::short};
use crate::{
    detect::Kind,
    event::Severity,
    filter::{Filter, Scope, glob_matches},
};

/// Globs a client may name, and bytes of one.
pub(super) const TYPES_MAX: usize = 64;
pub(super) const TYPE_BYTES_MAX: usize = 256;

/// All alerts from now on, unless changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Alerts of at least this severity.
    pub min_severity: Option<Severity>,
    /// Globs (`*`, `?`) on `event_type`, of alerts and of events; none: all.
    pub types: Vec<String>,
    /// Kinds of alerts; none: all.
    pub kinds: Vec<Kind>,
    /// What must hold beside, of alerts and of events.
    pub filter: Option<Filter>,
    /// Where to go on from.
    pub after: Option<After>,
    /// First the last frame of each alert that is firing. Means nothing beside `after`.
    pub active: bool,
    /// Live events of at least this severity.
    pub events: Option<Severity>,
    pub metrics: bool,
    /// What of all this the client may see, which is not the client's to say: its token's. `None`: everything.
    pub sight: Option<Arc<Sight>>,
}

impl Subscription {
    /// Whether a frame of the alert log is wanted. Acknowledgements and what newer versions add always are.
    /// `members` are those of the frame, asked for only where they are needed.
    pub fn wants<'a>(&self, view: &AlertView, members: impl FnOnce() -> Option<&'a Map<String, Value>>) -> bool {
        if self.sight.as_ref().is_some_and(|sight| !sight.shows_alert(view)) {
            return false;
        }
        let severe = match (self.min_severity, view.severity) {
            (Some(min), Some(severity)) => severity >= min,
            _ => true,
        };
        let kind = view.kind.is_none_or(|kind| self.kinds.is_empty() || self.kinds.contains(&kind));
        severe && kind && (view.severity.is_none() || (self.wants_type(&view.event_type) && self.passes(members)))
    }

    /// Whether a live event is wanted.
    pub fn wants_event<'a>(
        &self,
        severity: Severity,
        event_type: &str,
        members: impl FnOnce() -> Option<&'a Map<String, Value>>,
    ) -> bool {
        self.sight.as_ref().is_none_or(|sight| sight.shows(severity, event_type))
            && self.events.is_some_and(|min| severity >= min)
            && self.wants_type(event_type)
            && self.passes(members)
    }

    /// Whether metrics are wanted, and may be seen: they are of everything.
    pub fn wants_metrics(&self) -> bool {
        self.metrics && self.sight.is_none()
    }

    fn passes<'a>(&self, members: impl FnOnce() -> Option<&'a Map<String, Value>>) -> bool {
        self.filter.as_ref().is_none_or(|filter| members().is_some_and(|members| filter.matches(members)))
    }

    fn wants_type(&self, event_type: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|glob| glob_matches(glob, event_type))
    }

    /// From the query of a URL (without the `?`). An unknown parameter, one given twice, or a value that is not understood is
    /// an error: one sentence for the 400.
    pub fn from_query(query: &str) -> Result<Subscription, String> {
        let mut subscription = Subscription::default();
        let mut seen: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode(name).ok_or("a parameter's name is not percent-encoded UTF-8")?;
            let value = percent_decode(value).ok_or_else(|| format!("`{}` is not percent-encoded UTF-8", short(&name)))?;
            let list = matches!(name.as_str(), "types" | "kinds");
            if !list && seen.contains(&name) {
                return Err(format!("`{}` is given twice", short(&name)));
            }
            match name.as_str() {
                "min_severity" => subscription.min_severity = Some(severity(&name, &value)?),
                "events" => subscription.events = Some(severity(&name, &value)?),
                "types" => {
                    for item in value.split(',') {
                        subscription.push_type(item)?;
                    }
                }
                "kinds" => {
                    for item in value.split(',') {
                        subscription.push_kind(item)?;
                    }
                }
                "filter" => subscription.filter = Some(filter(&value)?),
                "after" => subscription.after = Some(value.parse().map_err(|e| format!("`after`: {e}"))?),
                "active" => subscription.active = flag(&name, &value)?,
                "metrics" => subscription.metrics = flag(&name, &value)?,
                other => return Err(format!("unknown parameter `{}`", short(other))),
            }
            seen.push(name);
        }
        Ok(subscription)
    }

    /// From the members of a `subscribe` frame, `type` and `id` taken out. `null` is absent.
    pub(super) fn from_members(members: Map<String, Value>) -> Result<Subscription, (ErrorCode, String)> {
        let bad_filter = |message: String| (ErrorCode::BadFilter, message);
        let request = |message: String| (ErrorCode::BadRequest, message);
        let mut subscription = Subscription::default();
        for (name, value) in members {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("min_severity", Value::String(text)) => {
                    subscription.min_severity = Some(severity(&name, &text).map_err(bad_filter)?);
                }
                ("events", Value::String(text)) => subscription.events = Some(severity(&name, &text).map_err(bad_filter)?),
                ("types" | "kinds", Value::Array(items)) => {
                    for item in items {
                        let Value::String(item) = item else { return Err(bad_filter(format!("`{name}` is a list of texts"))) };
                        if name == "types" { subscription.push_type(&item) } else { subscription.push_kind(&item) }
                            .map_err(bad_filter)?;
                    }
                }
                ("after", Value::String(text)) => {
                    subscription.after = Some(text.parse().map_err(|e| request(format!("`after`: {e}")))?);
                }
                ("active", Value::Bool(on)) => subscription.active = on,
                ("metrics", Value::Bool(on)) => subscription.metrics = on,
                ("filter", Value::String(text)) => subscription.filter = Some(filter(&text).map_err(bad_filter)?),
                ("filter", _) => return Err(bad_filter("`filter` is a text".to_owned())),
                ("min_severity" | "events", _) => return Err(bad_filter(format!("`{name}` is low, medium, high or critical"))),
                ("types" | "kinds", _) => return Err(bad_filter(format!("`{name}` is a list of texts"))),
                ("after", _) => return Err(request("`after` is a text".to_owned())),
                ("active" | "metrics", _) => return Err(request(format!("`{name}` is true or false"))),
                (other, _) => return Err(request(format!("unknown member `{}`", short(other)))),
            }
        }
        Ok(subscription)
    }

    fn push_type(&mut self, glob: &str) -> Result<(), String> {
        if glob.is_empty() || glob.len() > TYPE_BYTES_MAX {
            return Err(format!("an item of `types` is 1 to {TYPE_BYTES_MAX} bytes"));
        }
        if self.types.len() == TYPES_MAX {
            return Err(format!("`types` has at most {TYPES_MAX} items"));
        }
        self.types.push(glob.to_owned());
        Ok(())
    }

    fn push_kind(&mut self, text: &str) -> Result<(), String> {
        let kind = match text {
            "event" => Kind::Event,
            "threshold" => Kind::Threshold,
            "rule" => Kind::Rule,
            other => return Err(format!("`kinds` are event, threshold and rule, not `{}`", short(other))),
        };
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
        Ok(())
    }
}

/// Whether a query carries a token, which is refused: URLs end up in logs, histories and `Referer` headers.
pub fn token_in_query(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        let name = percent_decode(name).unwrap_or_default().to_ascii_lowercase();
        matches!(name.as_str(), "token" | "access_token" | "auth" | "authorization" | "bearer" | "jwt" | "id_token")
    })
}

pub(super) fn severity(name: &str, text: &str) -> Result<Severity, String> {
    Severity::ALL
        .into_iter()
        .find(|severity| severity.as_str() == text)
        .ok_or_else(|| format!("`{name}` is low, medium, high or critical, not `{}`", short(text)))
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text, Scope::Feed).map_err(|fault| format!("`filter` {fault}"))
}

fn flag(name: &str, text: &str) -> Result<bool, String> {
    match text {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("`{name}` is true or false, not `{}`", short(other))),
    }
}

/// `application/x-www-form-urlencoded`, one name or value.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_are_read() {
        let read = Subscription::from_query(
            "min_severity=high&types=auth.*,x%2Ay&types=z&kinds=event,rule&after=earliest&active=1&events=low&metrics=true",
        );
        assert_eq!(
            read,
            Ok(Subscription {
                min_severity: Some(Severity::High),
                types: vec!["auth.*".into(), "x*y".into(), "z".into()],
                kinds: vec![Kind::Event, Kind::Rule],
                filter: None,
                after: Some(After::Earliest),
                active: true,
                events: Some(Severity::Low),
                metrics: true,
                sight: None,
            })
        );
        assert_eq!(Subscription::from_query(""), Ok(Subscription::default()));
    }

    #[test]
    fn bad_parameters_are_refused() {
        for bad in [
            "x=1",
            "min_severity=urgent",
            "kinds=",
            "types=",
            "after=",
            "after=a%20b",
            "active=yes",
            "events=",
            "after=1&after=2",
            "types=%ff",
            "types=%4",
            "filter=",
            "filter=severity",
            "filter=severity%3Dhigh&filter=severity%3Dlow",
        ] {
            assert!(Subscription::from_query(bad).is_err(), "{bad}");
        }
        assert!(token_in_query("a=1&t%6Fken=x") && token_in_query("access_token=x") && !token_in_query("types=token"));
    }

    #[test]
    fn filters_hold_severity_kind_and_type() {
        let members = serde_json::json!({"severity": "medium", "value": 101});
        let members = members.as_object().cloned().unwrap_or_default();
        let view = AlertView {
            frame_type: "security_alert".into(),
            alert_id: "a".into(),
            severity: Some(Severity::Medium),
            kind: Some(Kind::Threshold),
            status: None,
            event_type: "high_rate_limit_violations".into(),
            received_at_ms: None,
        };
        for (query, wanted) in [
            ("", true),
            ("min_severity=medium", true),
            ("min_severity=high", false),
            ("kinds=event", false),
            ("kinds=event,threshold", true),
            ("types=*rate_limit*", true),
            ("types=auth.*", false),
            ("filter=severity%3Dmedium+and+value>100", true),
            ("filter=value>101", false),
            ("kinds=event&filter=value>100", false),
        ] {
            let wants = Subscription::from_query(query).map(|s| s.wants(&view, || Some(&members)));
            assert_eq!(wants, Ok(wanted), "{query}");
        }
        // What is not asked for is not made.
        assert_eq!(Subscription::from_query("kinds=threshold").map(|s| s.wants(&view, || panic!("asked"))), Ok(true));
        let acknowledged = AlertView { severity: None, kind: None, event_type: String::new(), ..view };
        assert_eq!(
            Subscription::from_query("types=auth.*&min_severity=critical&kinds=rule&filter=value>1")
                .map(|s| s.wants(&acknowledged, || None)),
            Ok(true)
        );
    }
}
