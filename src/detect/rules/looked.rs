//! An event as filters and `by` see it.

use std::{borrow::Cow, cell::OnceCell};

use serde_json::{Map, Value};

use crate::{
    event::{Category, Event, Lists},
    filter::{Field, Seen, Subject, member},
};

/// What is asked of every event is taken out once; its details only if a rule asks for one of them.
pub(super) struct Looked<'e> {
    pub event: &'e Event<'e>,
    pub source: &'e str,
    pub lists: Lists,
    pub address: Option<Cow<'e, str>>,
    details: OnceCell<Cow<'e, Map<String, Value>>>,
    user_agent: OnceCell<Option<Cow<'e, str>>>,
}

impl<'e> Looked<'e> {
    pub fn new(event: &'e Event<'e>, source: &'e str, lists: Lists) -> Looked<'e> {
        let address = event.ip_address();
        Looked { event, source, lists, address, details: OnceCell::new(), user_agent: OnceCell::new() }
    }

    fn details(&self) -> &Map<String, Value> {
        self.details.get_or_init(|| self.event.details.map())
    }

    /// A text or a number as text; nothing else tells entities apart.
    pub fn text<'s>(&'s self, field: &'s Field) -> Option<Cow<'s, str>> {
        match self.see(field) {
            Seen::Text(text) => Some(text).filter(|text| !text.is_empty()),
            Seen::Number(number) => Some(number.to_string().into()),
            Seen::Flag(flag) => Some(if flag { "true" } else { "false" }.into()),
            Seen::Severity(severity) => Some(severity.as_str().into()),
            Seen::Absent | Seen::List(_) | Seen::Object => None,
        }
    }

    pub fn number(&self, field: &Field) -> Option<f64> {
        match self.see(field) {
            Seen::Number(number) => Some(number),
            Seen::Text(text) => text.trim().parse().ok().filter(|n: &f64| n.is_finite()),
            _ => None,
        }
    }
}

fn borrowed<'s>(text: &'s Option<Cow<'_, str>>) -> Seen<'s> {
    text.as_deref().into()
}

impl Subject for Looked<'_> {
    fn see<'s>(&'s self, field: &'s Field) -> Seen<'s> {
        let event = self.event;
        match field {
            Field::EventType => Seen::Text(Cow::Borrowed(&event.kind.normal)),
            Field::Severity => Seen::Severity(event.severity),
            Field::Category => Seen::Text(Cow::Borrowed(Category::as_str(event.kind.category))),
            Field::Outcome => Seen::Text(Cow::Borrowed(event.outcome.as_str())),
            Field::Source => Seen::Text(Cow::Borrowed(self.source)),
            Field::User if event.user_id.is_some() => borrowed(&event.user_id),
            Field::User | Field::Username => borrowed(&event.username),
            Field::UserId => borrowed(&event.user_id),
            Field::Message => borrowed(&event.message),
            Field::IpAddress => borrowed(&self.address),
            Field::SessionId => event.session_id().into(),
            Field::UserAgent => borrowed(self.user_agent.get_or_init(|| event.user_agent())),
            Field::DurationMs => event.duration_ms().map_or(Seen::Absent, Seen::Number),
            Field::Detail(path) => {
                // What many rules ask of many events is not worth taking the details apart for.
                if let [name] = &**path
                    && let Some(text) = event.known_detail(name)
                {
                    return text.into();
                }
                member(self.details(), path).into()
            }
            // Of alerts alone.
            Field::Kind | Field::Status | Field::Rule | Field::AlertId | Field::Value | Field::Threshold | Field::Label(_) => {
                Seen::Absent
            }
        }
    }
}
