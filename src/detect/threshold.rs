//! The life of a threshold's alert: inactive, pending, firing, and held after a resolve by hand (contract §4).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{Alert, Bound, Kind, Status, Threshold, bits, contributors::Contributors, ident::identity};

/// A metric at a slot's end.
pub(super) struct Reading<'a> {
    /// `None`: absent, which keeps every state.
    pub value: Option<f64>,
    /// Events in its window, for `min_count`.
    pub events: u64,
    pub window_ms: Option<u64>,
    pub contributors: Option<&'a Contributors>,
}

/// An alert that is firing. Its numbers stand beside it, so that a snapshot keeps them to the last bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    alert: Alert,
    #[serde(with = "bits::float")]
    value: Option<f64>,
    #[serde(with = "bits::float")]
    threshold: Option<f64>,
}

impl Open {
    pub fn new(mut alert: Alert) -> Open {
        let (value, threshold) = (alert.value.take(), alert.threshold.take());
        Open { alert, value, threshold }
    }

    pub fn id(&self) -> &str {
        &self.alert.alert_id
    }

    pub fn rule(&self) -> &str {
        &self.alert.rule
    }

    pub fn value(&self) -> Option<f64> {
        self.value
    }

    pub fn severity(&self) -> crate::event::Severity {
        self.alert.severity
    }

    /// The alert as it ends, with what it says then.
    pub fn resolved_saying(self, time_ms: u64, message: &str, value: Option<f64>) -> Alert {
        let mut alert = self.resolved(time_ms, None, None, None);
        alert.value = value.or(alert.value);
        alert.message = format!("{RESOLVED}{message}");
        alert
    }

    /// The alert as it ends: `definition` is `None` when the rule is gone, and `value` when the metric is absent.
    pub fn resolved(self, time_ms: u64, definition: Option<&Threshold>, window_ms: Option<u64>, value: Option<f64>) -> Alert {
        let mut alert = Alert { value: self.value, threshold: self.threshold, ..self.alert };
        alert.status = Status::Resolved;
        alert.timestamp_ms = time_ms;
        alert.received_at_ms = time_ms;
        let text = match (definition, value) {
            (Some(definition), Some(value)) => {
                alert.value = Some(value);
                message(definition, window_ms, value)
            }
            _ => std::mem::take(&mut alert.message),
        };
        alert.message = format!("{RESOLVED}{text}");
        alert
    }
}

/// How the message of a resolved alert begins (contract §5).
pub(super) const RESOLVED: &str = "Resolved: ";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum State {
    #[default]
    Inactive,
    /// Crossed, but not for long enough yet.
    Pending {
        since_ms: u64,
    },
    Firing {
        open: Box<Open>,
        clear_since_ms: Option<u64>,
    },
    /// Resolved by hand while the value was still bad: nothing fires before it has cleared.
    Held,
}

/// A threshold and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub definition: Threshold,
    pub state: State,
}

impl Rule {
    /// Looks at the metric at a slot's end; at most one transition comes of it.
    pub fn close(&mut self, slot_end: u64, reading: &Reading<'_>, sources: &[String]) -> Option<Alert> {
        let value = reading.value?;
        let crossed = self.crossed(reading);
        let cleared = match self.definition.bound {
            Bound::Above(_) => value <= self.definition.clear_at,
            Bound::Below(_) => value >= self.definition.clear_at,
        };
        match &mut self.state {
            State::Inactive if crossed => {
                if self.definition.for_ms == 0 {
                    return Some(self.fire(slot_end, value, reading, sources));
                }
                self.state = State::Pending { since_ms: slot_end };
            }
            State::Inactive => {}
            State::Pending { since_ms } if crossed => {
                if slot_end.saturating_sub(*since_ms) >= self.definition.for_ms {
                    return Some(self.fire(slot_end, value, reading, sources));
                }
            }
            State::Pending { .. } => self.state = State::Inactive,
            State::Firing { clear_since_ms, .. } if cleared => {
                let since = *clear_since_ms.get_or_insert(slot_end);
                if slot_end.saturating_sub(since) >= self.definition.keep_firing_for_ms
                    && let State::Firing { open, .. } = std::mem::take(&mut self.state)
                {
                    return Some(open.resolved(slot_end, Some(&self.definition), reading.window_ms, Some(value)));
                }
            }
            State::Firing { clear_since_ms, .. } => *clear_since_ms = None,
            State::Held if cleared => self.state = State::Inactive,
            State::Held => {}
        }
        None
    }

    /// Whether the value is strictly on the bad side, with enough events behind it.
    pub fn crossed(&self, reading: &Reading<'_>) -> bool {
        let bad = match (reading.value, self.definition.bound) {
            (Some(value), Bound::Above(bound)) => value > bound,
            (Some(value), Bound::Below(bound)) => value < bound,
            (None, _) => false,
        };
        bad && reading.events >= self.definition.min_count
    }

    fn fire(&mut self, slot_end: u64, value: f64, reading: &Reading<'_>, sources: &[String]) -> Alert {
        let definition = &self.definition;
        let mut details = Map::new();
        let mut evidence = Vec::new();
        if let Some(contributors) = reading.contributors {
            details.insert("top".into(), contributors.top());
            evidence = contributors.evidence(sources);
        }
        let alert = Alert {
            alert_id: identity(&["threshold", &definition.name, "", &slot_end.to_string()]),
            kind: Kind::Threshold,
            status: Status::Firing,
            rule: definition.name.clone(),
            event_type: definition.name.clone(),
            severity: definition.severity,
            message: message(definition, reading.window_ms, value),
            timestamp_ms: slot_end,
            received_at_ms: slot_end,
            value: Some(value),
            threshold: Some(bound(definition)),
            window_ms: reading.window_ms,
            user_id: None,
            username: None,
            details,
            source: None,
            original_event_type: None,
            evidence,
            labels: definition.labels.clone(),
            runbook_url: definition.runbook_url.clone(),
        };
        self.state = State::Firing { open: Box::new(Open::new(alert.clone())), clear_since_ms: None };
        alert
    }

    /// Ends a firing alert for somebody who says so; the rule is then held until its value has cleared.
    pub fn resolve_by_hand(&mut self, alert_id: &str, time_ms: u64, reading: &Reading<'_>) -> Option<Alert> {
        match std::mem::take(&mut self.state) {
            State::Firing { open, .. } if open.id() == alert_id => {
                self.state = State::Held;
                Some(open.resolved(time_ms, Some(&self.definition), reading.window_ms, reading.value))
            }
            other => {
                self.state = other;
                None
            }
        }
    }
}

fn bound(definition: &Threshold) -> f64 {
    match definition.bound {
        Bound::Above(bound) | Bound::Below(bound) => bound,
    }
}

/// The message at a value; without a template `{name}: {value}`.
fn message(definition: &Threshold, window_ms: Option<u64>, value: f64) -> String {
    let template = definition.message.as_deref().unwrap_or("{name}: {value}");
    let mut text = String::with_capacity(template.len() + 16);
    let mut rest = template;
    // One pass, so that what is filled in is never read as a template.
    while let Some(at) = rest.find('{') {
        let (before, tail) = rest.split_at(at);
        text.push_str(before);
        let word = ["{value}", "{name}", "{window}", "{threshold}"].into_iter().find(|word| tail.starts_with(word));
        match word {
            Some("{value}") => text.push_str(&number(value)),
            Some("{name}") => text.push_str(&definition.name),
            Some("{window}") => {
                if let Some(ms) = window_ms {
                    text.push_str(&shown_window(ms));
                }
            }
            Some(_) => text.push_str(&number(bound(definition))),
            None => text.push('{'),
        }
        rest = &tail[word.map_or(1, str::len)..];
    }
    text.push_str(rest);
    text
}

/// `1h`, `10m`.
pub(super) fn shown_window(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// Whole numbers as such, others with at most four decimals.
pub(super) fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::Severity;

    #[test]
    fn templates_are_filled_once() {
        let definition = |text: Option<&str>| Threshold {
            name: "{value}".into(),
            metric: "m".into(),
            bound: Bound::Above(0.5),
            min_count: 0,
            clear_at: 0.5,
            for_ms: 0,
            keep_firing_for_ms: 0,
            severity: Severity::Low,
            message: text.map(str::to_owned),
            labels: BTreeMap::new(),
            runbook_url: None,
            enabled: true,
        };
        let say = |text, value| message(&definition(text), Some(3_600_000), value);
        assert_eq!(say(None, 51.0), "{value}: 51");
        assert_eq!(say(Some("{value} of {threshold} in {window} {x} {"), 0.123_456), "0.1235 of 0.5 in 1h {x} {");
        assert_eq!(say(Some("é{value}é"), 1e15), "é1000000000000000é");
    }
}
