//! Frames from a client.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ErrorCode, Subscription};

/// `id` of a request, given back in its answer as it came: a text of up to 64 bytes or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    Number(i64),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    Auth { id: Option<RequestId>, token: String },
    Refresh { id: Option<RequestId>, token: String },
    Subscribe { id: Option<RequestId>, subscription: Box<Subscription> },
    Ping { id: Option<RequestId> },
}

/// A frame that is answered with `error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    pub id: Option<RequestId>,
    pub code: ErrorCode,
    pub message: String,
    /// Not a JSON object: the tenth of these ends the connection (contract §5).
    pub strike: bool,
}

impl ClientFrame {
    /// Reads one text frame. Unknown members are refused: a misspelt filter must not show more than was asked for.
    pub fn parse(text: &str) -> Result<ClientFrame, BadRequest> {
        let strike = |message: &str| BadRequest { id: None, code: ErrorCode::BadJson, message: message.to_owned(), strike: true };
        let object: Map<String, Value> = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(strike("a frame is a JSON object")),
            Err(_) => return Err(strike("the frame is not JSON")),
        };
        let mut object = object;
        let bad = |id: &Option<RequestId>, code, message: String| BadRequest { id: id.clone(), code, message, strike: false };
        let id = match object.remove("id") {
            None => None,
            Some(Value::String(text)) if text.len() <= 64 => Some(RequestId::Text(text)),
            Some(Value::Number(n)) if n.is_i64() => n.as_i64().map(RequestId::Number),
            Some(_) => {
                return Err(bad(&None, ErrorCode::BadRequest, "`id` is a text of up to 64 bytes or an integer".to_owned()));
            }
        };
        let kind = match object.remove("type") {
            Some(Value::String(kind)) => kind,
            Some(_) => return Err(bad(&id, ErrorCode::BadRequest, "`type` is a text".to_owned())),
            None => return Err(bad(&id, ErrorCode::BadRequest, "`type` is missing".to_owned())),
        };
        match kind.as_str() {
            "auth" | "refresh" => {
                let token = match object.remove("token") {
                    Some(Value::String(token)) if !token.is_empty() => token,
                    _ => return Err(bad(&id, ErrorCode::BadRequest, "`token` is a text".to_owned())),
                };
                if let Some(name) = object.keys().next() {
                    return Err(bad(&id, ErrorCode::BadRequest, format!("unknown member `{}`", short(name))));
                }
                Ok(if kind == "auth" { ClientFrame::Auth { id, token } } else { ClientFrame::Refresh { id, token } })
            }
            "subscribe" => match Subscription::from_members(object) {
                Ok(subscription) => Ok(ClientFrame::Subscribe { id, subscription: Box::new(subscription) }),
                Err((code, message)) => Err(bad(&id, code, message)),
            },
            "ping" => match object.keys().next() {
                None => Ok(ClientFrame::Ping { id }),
                Some(name) => Err(bad(&id, ErrorCode::BadRequest, format!("unknown member `{}`", short(name)))),
            },
            other => Err(bad(&id, ErrorCode::UnknownType, format!("unknown type `{}`", short(other)))),
        }
    }
}

/// What a client wrote, for an answer to it: a word, a number or a time. Anything else may be a password or a token in the wrong
/// place, and answers end up in logs.
pub fn short(text: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.:+-TZ ".contains(c);
    if text.len() <= 32 && text.chars().all(plain) { text.to_owned() } else { "…".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> (ErrorCode, bool) {
        match ClientFrame::parse(text) {
            Ok(frame) => panic!("{text} was read as {frame:?}"),
            Err(bad) => (bad.code, bad.strike),
        }
    }

    #[test]
    fn requests_are_read() {
        assert_eq!(
            ClientFrame::parse(r#"{"type":"ping","id":"a"}"#),
            Ok(ClientFrame::Ping { id: Some(RequestId::Text("a".into())) })
        );
        assert_eq!(ClientFrame::parse(r#"{"type":"auth","token":"t"}"#), Ok(ClientFrame::Auth { id: None, token: "t".into() }));
        assert_eq!(
            ClientFrame::parse(r#"{"type":"refresh","token":"t","id":1}"#),
            Ok(ClientFrame::Refresh { id: Some(RequestId::Number(1)), token: "t".into() })
        );
    }

    #[test]
    fn each_fault_has_its_code() {
        for text in ["", "x", "[]", "1", "null", "\"a\"", "{", "{}x"] {
            assert_eq!(code(text), (ErrorCode::BadJson, true), "{text}");
        }
        for text in [
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"auth"}"#,
            r#"{"type":"ping","x":1}"#,
            r#"{"type":"ping","id":{}}"#,
            r#"{"type":"ping","id":1.5}"#,
            r#"{"type":"subscribe","after":"a b"}"#,
            r#"{"type":"subscribe","after":1}"#,
            r#"{"type":"subscribe","nope":1}"#,
        ] {
            assert_eq!(code(text), (ErrorCode::BadRequest, false), "{text}");
        }
        for text in [r#"{"type":"ack","alert_id":"x"}"#, r#"{"type":"nope"}"#] {
            assert_eq!(code(text), (ErrorCode::UnknownType, false), "{text}");
        }
        for text in [
            r#"{"type":"subscribe","min_severity":"urgent"}"#,
            r#"{"type":"subscribe","types":"x"}"#,
            r#"{"type":"subscribe","types":[1]}"#,
            r#"{"type":"subscribe","kinds":["x"]}"#,
            r#"{"type":"subscribe","events":true}"#,
            r#"{"type":"subscribe","filter":"severity >= urgent"}"#,
            r#"{"type":"subscribe","filter":["severity = high"]}"#,
        ] {
            assert_eq!(code(text), (ErrorCode::BadFilter, false), "{text}");
        }
    }
}
