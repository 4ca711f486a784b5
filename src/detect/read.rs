//! What this room reads of an event beside its classification.

use std::borrow::Cow;

use serde_json::Value;

use crate::event::{Category, Event, Lists, Outcome};

/// The labels of [`Category`], in the order of the enum.
pub(super) const CATEGORIES: [&str; 15] = [
    "auth",
    "session",
    "permission",
    "rate_limit",
    "security",
    "token",
    "user",
    "admin",
    "data",
    "api",
    "encryption",
    "config",
    "system",
    "audit",
    "other",
];

/// Longest message of an event alert, in characters (contract §5).
const MESSAGE_CHARS_MAX: usize = 512;

pub(super) fn category_ix(category: Category) -> usize {
    category as usize
}

pub(super) fn is_bad(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failure | Outcome::Denied | Outcome::Error)
}

/// The lists an event counts in: those of its name, but a successful-login name that failed is a failed login (contract §3).
pub(super) fn lists_of(event: &Event<'_>) -> Lists {
    let lists = event.kind.lists;
    if lists.has(Lists::SUCCESSFUL_LOGIN) && is_bad(event.outcome) {
        return lists.without(Lists::SUCCESSFUL_LOGIN).with(Lists::FAILED_LOGIN);
    }
    lists
}

fn text(value: Option<&Value>) -> Option<Cow<'_, str>> {
    match value? {
        Value::String(s) if !s.is_empty() => Some(Cow::Borrowed(s)),
        Value::Number(n) => Some(Cow::Owned(n.to_string())),
        _ => None,
    }
}

pub(super) fn ip_of<'e>(event: &'e Event<'_>) -> Option<Cow<'e, str>> {
    text(event.details.get("ip_address"))
}

pub(super) fn session_of<'e>(event: &'e Event<'_>) -> Option<Cow<'e, str>> {
    text(event.details.get("session_id"))
}

/// `details.duration_ms`, as a number or a number's text; `None` for what is no duration.
pub(super) fn duration_ms_of(event: &Event<'_>) -> Option<f64> {
    let ms = match event.details.get("duration_ms")? {
        Value::Number(n) => n.as_f64()?,
        Value::String(s) => s.trim().parse().ok()?,
        _ => return None,
    };
    (ms.is_finite() && ms >= 0.0).then_some(ms)
}

/// What an event alert says: one line, at most 512 characters (contract §5).
pub(super) fn message_line(event: &Event<'_>) -> String {
    match event.message.as_deref().map(one_line).filter(|line| !line.trim().is_empty()) {
        Some(line) => line,
        None => {
            let who = event.username.as_deref().or(event.user_id.as_deref()).unwrap_or("unknown");
            let from = ip_of(event).unwrap_or(Cow::Borrowed("unknown"));
            one_line(&format!("{} by {who} from {from}", event.kind.normal))
        }
    }
}

/// Control characters and line separators become spaces.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c };
    text.chars().take(MESSAGE_CHARS_MAX).map(plain).collect()
}

/// At most `bytes_max` bytes of a text, cut between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}
