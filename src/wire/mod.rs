//! What clients see: frames, requests, close codes, JSON of the API (contract §5, §7). Pure.
//!
//! A frame of the alert log is made once, when the alert is stored ([`alert_body`]); its position is spliced in when it
//! leaves ([`with_pos`]); nothing is parsed again for a client. Members without a value are left out, never null.

mod alert;
mod close;
mod frame;
mod pos;
mod request;
mod sight;
mod stored;
mod subscription;

pub use alert::{AlertView, alert_body, mark_replayed, with_pos};
pub use close::CloseCode;
pub use frame::{
    ErrorCode, Feed, Hello, HelloLimits, Reconnect, SourceState, SourceStatus, bye, error_frame, event_frame, gap, hello,
    lagging, metrics_frame, metrics_json, ok, permissions, pong, position, source_status, subscribed,
};
pub use pos::{After, BadPos, Pos};
pub use request::{BadRequest, ClientFrame, RequestId, short};
pub use sight::Sight;
pub use stored::alert_from_body;
pub use subscription::{Subscription, token_in_query};

pub use crate::event::rfc3339;

/// Reads what [`rfc3339`] writes (and any other RFC 3339 time at or after 1970).
pub fn unix_ms(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

/// A number as the contract writes it: whole ones without a fraction. Not a number: none.
pub fn number(value: f64) -> Option<serde_json::Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT { Some((value as i64).into()) } else { serde_json::Number::from_f64(value) }
}

/// One line of at most 512 characters: control characters (and the separators that end a line elsewhere) become spaces.
pub fn one_line(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(unix_ms("2023-11-14T22:13:20.007Z"), Some(1_700_000_000_007));
        assert_eq!(unix_ms("1969-12-31T23:59:59Z"), None);
        assert_eq!(&rfc3339(u64::MAX)[..4], "9999");
    }

    #[test]
    fn whole_numbers_have_no_fraction() {
        let text = |v| number(v).map(|n| n.to_string());
        assert_eq!(text(51.0).as_deref(), Some("51"));
        assert_eq!(text(0.25).as_deref(), Some("0.25"));
        assert_eq!(text(f64::NAN), None);
        assert_eq!(text(f64::INFINITY), None);
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(one_line("a\r\nb\u{1b}c\u{2028}d"), "a  b c d");
        assert_eq!(one_line(&"ä".repeat(600)).chars().count(), 512);
    }
}
