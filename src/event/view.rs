//! What is asked of an event once it is read.

use std::borrow::Cow;

use super::{Event, Lists, decode, details::Asked};

/// Longest line that [`Event::message_line`] gives, in characters (contract §5).
pub const MESSAGE_CHARS_MAX: usize = 512;

impl<'a> Event<'a> {
    /// The lists this event counts in. They are those of its name, but a successful-login name with outcome failure, denied or
    /// error counts as a failed login (contract §3).
    pub fn lists(&self) -> Lists {
        decode::lists(&self.kind, self.outcome)
    }

    /// `details.ip_address`; numbers as text, blank texts as absent.
    pub fn ip_address(&self) -> Option<Cow<'_, str>> {
        self.details.text(Asked::IpAddress)
    }

    /// `details.session_id`; numbers as text, blank texts as absent.
    pub fn session_id(&self) -> Option<Cow<'_, str>> {
        self.details.text(Asked::SessionId)
    }

    /// `details.user_agent`; numbers as text, blank texts as absent.
    pub fn user_agent(&self) -> Option<Cow<'_, str>> {
        self.details.text(Asked::UserAgent)
    }

    /// A member of `details` that can be told without taking them apart, as [`Event::session_id`]; `None`: take them apart.
    pub fn known_detail(&self, name: &str) -> Option<Option<Cow<'_, str>>> {
        let asked = match name {
            "resource" => Asked::Resource,
            "reason" => Asked::Reason,
            _ => return None,
        };
        match self.details.text(asked) {
            None if !self.details.lacks(asked) => None,
            text => Some(text),
        }
    }

    /// `details.duration_ms`, a number or the text of one; `None` unless finite and not negative.
    pub fn duration_ms(&self) -> Option<f64> {
        let duration = self.details.float(Asked::DurationMs)?;
        (duration.is_finite() && duration >= 0.0).then_some(duration)
    }

    /// What an alert says of this event (contract §5): its own message, else who did what from where. One line of at most 512
    /// characters, with control characters as spaces.
    pub fn message_line(&self) -> String {
        let shows = |text: &&Cow<'a, str>| text.chars().any(|c| !c.is_whitespace() && !breaks_line(c));
        if let Some(message) = self.message.as_ref().filter(shows) {
            return one_line(message);
        }
        let who = self.username.as_deref().or(self.user_id.as_deref()).unwrap_or("unknown");
        let address = self.ip_address();
        let from = address.as_deref().unwrap_or("unknown");
        one_line(&format!("{} by {who} from {from}", self.kind.normal))
    }

    /// The same event, holding nothing of the entry it was read from.
    pub fn into_owned(self) -> Event<'static> {
        let owned = |text: Option<Cow<'a, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        Event {
            kind: self.kind,
            severity: self.severity,
            outcome: self.outcome,
            timestamp_ms: self.timestamp_ms,
            timestamp_fault: self.timestamp_fault,
            severity_ignored: self.severity_ignored,
            user_id: owned(self.user_id),
            username: owned(self.username),
            event_id: owned(self.event_id),
            message: owned(self.message),
            details: self.details.into_owned(),
        }
    }
}

/// One line of at most 512 characters: what would break it, or reorder it on a terminal, is a space.
pub fn one_line(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS_MAX).map(|c| if breaks_line(c) { ' ' } else { c }).collect()
}

/// Control characters, the line and paragraph separators, and the signs that turn the direction of what follows.
fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
