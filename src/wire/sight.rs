//! What somebody may ever see: the `filter` claim of a token (contract §10).

use serde_json::Value;

use super::{
    AlertView,
    subscription::{TYPE_BYTES_MAX, TYPES_MAX, severity},
};
use crate::{event::Severity, filter::glob_matches};

/// The part of the alerts and events that a token's bearer sees, whatever they ask for. What has neither severity nor type to judge
/// it by (an acknowledgement, a metric) is outside: who sees a part is not told of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    min_severity: Option<Severity>,
    /// Globs on `event_type`; none: all.
    types: Vec<String>,
}

impl Sight {
    /// Reads the claim: an object of `min_severity` and `types`, either or both. Anything that is not understood is an error: it may
    /// have been meant to narrow.
    pub fn from_claim(claim: &Value) -> Result<Sight, String> {
        let Value::Object(members) = claim else { return Err("is no object".to_owned()) };
        let mut sight = Sight { min_severity: None, types: Vec::new() };
        for (name, value) in members {
            match (name.as_str(), value) {
                ("min_severity", Value::String(text)) => sight.min_severity = Some(severity(name, text)?),
                ("types", Value::Array(items)) if (1..=TYPES_MAX).contains(&items.len()) => {
                    for item in items {
                        let glob = item.as_str().filter(|glob| (1..=TYPE_BYTES_MAX).contains(&glob.len()));
                        let glob =
                            glob.ok_or_else(|| format!("has an item of `types` that is no text of 1 to {TYPE_BYTES_MAX} bytes"))?;
                        sight.types.push(glob.to_owned());
                    }
                }
                ("min_severity", _) => return Err("has a `min_severity` that is no text".to_owned()),
                ("types", _) => return Err(format!("has `types` that are no list of 1 to {TYPES_MAX} texts")),
                _ => return Err("has a member that is neither `min_severity` nor `types`".to_owned()),
            }
        }
        Ok(sight)
    }

    /// Narrows nothing.
    pub fn is_everything(&self) -> bool {
        self.min_severity.is_none() && self.types.is_empty()
    }

    /// The claim that [`Sight::from_claim`] reads.
    pub fn to_claim(&self) -> Value {
        let mut claim = serde_json::Map::new();
        if let Some(severity) = self.min_severity {
            claim.insert("min_severity".to_owned(), severity.as_str().into());
        }
        if !self.types.is_empty() {
            claim.insert("types".to_owned(), self.types.clone().into());
        }
        Value::Object(claim)
    }

    /// Whether something of this severity and type is within.
    pub fn shows(&self, severity: Severity, event_type: &str) -> bool {
        self.min_severity.is_none_or(|min| severity >= min)
            && (self.types.is_empty() || self.types.iter().any(|glob| glob_matches(glob, event_type)))
    }

    /// Whether a frame of the alert log is within.
    pub fn shows_alert(&self, view: &AlertView) -> bool {
        view.severity.is_some_and(|severity| self.shows(severity, &view.event_type))
    }

    /// As [`Sight::shows_alert`], for an entry of the alert log as it is stored.
    pub fn shows_body(&self, body: &str) -> bool {
        AlertView::parse(body).is_some_and(|view| self.shows_alert(&view))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        for claim in [
            json!("severity >= high"),
            json!([]),
            json!(true),
            json!({"min_severity": "urgent"}),
            json!({"min_severity": "HIGH"}),
            json!({"min_severity": null}),
            json!({"min_severity": 3}),
            json!({"types": "auth.*"}),
            json!({"types": []}),
            json!({"types": [1]}),
            json!({"types": [""]}),
            json!({"types": vec!["a"; 65]}),
            json!({"types": ["a".repeat(257)]}),
            json!({"types": null}),
            json!({"min_severity": "high", "kinds": ["event"]}),
            json!({"Types": ["a"]}),
        ] {
            assert!(Sight::from_claim(&claim).is_err(), "{claim}");
        }
    }

    #[test]
    fn severity_and_type_narrow_together() {
        for (claim, shown) in [
            (json!({}), [true, true, true, true]),
            (json!({"min_severity": "high"}), [false, true, false, true]),
            (json!({"types": ["auth.*", "x"]}), [true, true, false, false]),
            (json!({"min_severity": "high", "types": ["auth.*"]}), [false, true, false, false]),
        ] {
            let sight = Sight::from_claim(&claim).unwrap();
            assert_eq!(sight.to_claim(), claim);
            let of = [
                (Severity::Low, "auth.a"),
                (Severity::High, "auth.a"),
                (Severity::Low, "data.b"),
                (Severity::Critical, "data.b"),
            ];
            assert_eq!(of.map(|(severity, event_type)| sight.shows(severity, event_type)), shown, "{claim}");
        }
        let sight = Sight::from_claim(&json!({"min_severity": "low"})).unwrap();
        assert!(sight.shows_body(r#"{"type":"security_alert","event_type":"x","severity":"low"}"#));
        for hidden in [r#"{"type":"alert_acknowledged","alert_id":"x"}"#, "{}", ""] {
            assert!(!sight.shows_body(hidden), "{hidden}");
        }
    }
}
