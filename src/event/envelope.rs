//! The top level of an event as it was written: from JSON text, with numbers as their digits.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

use super::Invalid;

/// The value of a field that has a meaning.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part<'a> {
    Text(Cow<'a, str>),
    /// As it was written: an id of 30 digits keeps them all.
    Number(Cow<'a, str>),
    /// Boolean, array or object.
    Other(Value),
}

impl<'a> Part<'a> {
    /// `None` for `null`.
    fn from_raw(raw: &'a RawValue) -> serde_json::Result<Option<Part<'a>>> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'"') => Some(Part::Text(serde_json::from_str::<Text>(text)?.0)),
            Some(b'-' | b'0'..=b'9') => Some(Part::Number(Cow::Borrowed(text))),
            Some(b'n') => None,
            _ => Some(Part::Other(serde_json::from_str(text)?)),
        })
    }

    fn into_owned(self) -> Part<'static> {
        match self {
            Part::Text(text) => Part::Text(Cow::Owned(text.into_owned())),
            Part::Number(text) => Part::Number(Cow::Owned(text.into_owned())),
            Part::Other(value) => Part::Other(value),
        }
    }
}

/// A JSON text, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'de>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The top level of an event, before anything is understood or masked. Of two members of one name the last counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Envelope<'a> {
    pub event_type: Option<Part<'a>>,
    pub timestamp: Option<Part<'a>>,
    pub user_id: Option<Part<'a>>,
    pub username: Option<Part<'a>>,
    pub event_id: Option<Part<'a>>,
    pub message: Option<Part<'a>>,
    pub severity: Option<Part<'a>>,
    pub details: Option<Part<'a>>,
    /// Everything else; `null` is not kept.
    pub rest: Map<String, Value>,
}

impl<'a> Envelope<'a> {
    /// Reads a JSON object.
    pub(super) fn parse(text: &'a str) -> Result<Envelope<'a>, Invalid> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if !text.starts_with('{') {
            return Err(match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Invalid::NotAnObject,
                Err(_) => Invalid::BadJson,
            });
        }
        if let Ok(envelope) = serde_json::from_str::<Envelope<'a>>(text) {
            return Ok(envelope);
        }
        let mended = mend(text).ok_or(Invalid::BadJson)?;
        serde_json::from_str::<Envelope<'_>>(&mended).map(Envelope::into_owned).map_err(|_| Invalid::BadJson)
    }

    /// The place of a field that has a meaning.
    pub(super) fn known(&mut self, name: &str) -> Option<&mut Option<Part<'a>>> {
        Some(match name {
            "event_type" => &mut self.event_type,
            "timestamp" => &mut self.timestamp,
            "user_id" => &mut self.user_id,
            "username" => &mut self.username,
            "event_id" => &mut self.event_id,
            "message" => &mut self.message,
            "severity" => &mut self.severity,
            "details" => &mut self.details,
            _ => return None,
        })
    }

    pub(super) fn into_owned(self) -> Envelope<'static> {
        let owned = |part: Option<Part<'_>>| part.map(Part::into_owned);
        Envelope {
            event_type: owned(self.event_type),
            timestamp: owned(self.timestamp),
            user_id: owned(self.user_id),
            username: owned(self.username),
            event_id: owned(self.event_id),
            message: owned(self.message),
            severity: owned(self.severity),
            details: owned(self.details),
            rest: self.rest,
        }
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Envelope<'de>, D::Error> {
        struct EnvelopeVisitor;
        impl<'de> Visitor<'de> for EnvelopeVisitor {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Envelope<'de>, A::Error> {
                let mut envelope = Envelope::default();
                while let Some(Text(name)) = members.next_key()? {
                    if let Some(place) = envelope.known(&name) {
                        *place = Part::from_raw(members.next_value()?).map_err(serde::de::Error::custom)?;
                        continue;
                    }
                    match members.next_value()? {
                        Value::Null => envelope.rest.remove(name.as_ref()),
                        value => envelope.rest.insert(name.into_owned(), value),
                    };
                }
                Ok(envelope)
            }
        }
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

/// An object or array that a text holds as JSON.
pub(super) fn parse_nested(text: &str) -> Option<Value> {
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&mend(text)?).ok())
}

/// The same JSON with what its grammar allows and the reader does not: each `\u` escape of half a surrogate pair as U+FFFD,
/// each number beyond a double as a text. `None` where there is neither.
///
/// Python's json writes such halves for bytes that were no UTF-8 (`surrogateescape`), JavaScript for a text cut within a
/// character, and Python whole numbers of any length. Refusing them would let anyone keep his failed logins from being counted,
/// by a user name of half a pair.
fn mend(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut mended = String::new();
    let mut copied = 0;
    let mut in_string = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => match escaped_unit(text, at) {
                Some(0xD800..=0xDBFF) if matches!(escaped_unit(text, at + 6), Some(0xDC00..=0xDFFF)) => at += 11,
                Some(0xD800..=0xDFFF) => {
                    mended.push_str(text.get(copied..at)?);
                    mended.push_str("\\ufffd");
                    at += 5;
                    copied = at + 1;
                }
                // Some other escape: of two bytes, or of more that mean nothing here.
                _ => at += 1,
            },
            b'-' | b'0'..=b'9' if !in_string => {
                let is_of_number = |b: &&u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let len = bytes.get(at..)?.iter().take_while(is_of_number).count();
                let digits = text.get(at..at + len)?;
                // Before a colon it would become a name, which a number cannot be.
                let next = bytes.get(at + len..)?.iter().find(|b| !b.is_ascii_whitespace());
                let is_value = matches!(next, Some(b',' | b'}' | b']'));
                if is_value && digits.parse().is_ok_and(f64::is_infinite) && serde_json::from_str::<&RawValue>(digits).is_ok() {
                    mended.push_str(text.get(copied..at)?);
                    mended.extend(["\"", digits, "\""]);
                    copied = at + len;
                }
                at += len - 1;
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return None;
    }
    mended.push_str(text.get(copied..)?);
    Some(mended)
}

/// The unit of UTF-16 that the escape at `at` stands for, if one is there.
fn escaped_unit(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    // `from_str_radix` takes a sign, which JSON does not.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_kept_as_written() {
        let envelope = Envelope::parse(
            r#" {"event_type":"a\nb","user_id":123456789012345678901234567890,"username":1.50,"event_id":null,
                "details":{"a":1},"message":true,"x":[1],"y":null,"user_\u0069d2":"z"} "#,
        )
        .unwrap();
        assert_eq!(
            envelope,
            Envelope {
                event_type: Some(Part::Text("a\nb".into())),
                user_id: Some(Part::Number("123456789012345678901234567890".into())),
                username: Some(Part::Number("1.50".into())),
                details: Some(Part::Other(json!({"a": 1}))),
                message: Some(Part::Other(json!(true))),
                rest: json!({"x": [1], "user_id2": "z"}).as_object().unwrap().clone(),
                ..Envelope::default()
            }
        );
    }

    #[test]
    fn the_last_of_two_members_counts() {
        let envelope = Envelope::parse(r#"{"user_id":1,"user_id":2,"x":1,"x":2,"y":1,"y":null,"username":"a","username":null}"#);
        let envelope = envelope.unwrap();
        assert_eq!(envelope.user_id, Some(Part::Number("2".into())));
        assert_eq!(envelope.username, None);
        assert_eq!(Value::Object(envelope.rest), json!({"x": 2}));
    }

    #[test]
    fn what_is_no_object_says_why() {
        for (text, why) in [
            ("", Invalid::BadJson),
            ("{", Invalid::BadJson),
            ("{}x", Invalid::BadJson),
            ("{'a': 1}", Invalid::BadJson),
            ("[1", Invalid::BadJson),
            ("NaN", Invalid::BadJson),
            (r#"{"a":NaN}"#, Invalid::BadJson),
            (r#"{"a":1,}"#, Invalid::BadJson),
            ("[1]", Invalid::NotAnObject),
            ("null", Invalid::NotAnObject),
            ("\"{}\"", Invalid::NotAnObject),
            ("17", Invalid::NotAnObject),
        ] {
            assert_eq!(Envelope::parse(text), Err(why), "{text}");
        }
        assert_eq!(Envelope::parse("\u{feff}{}"), Ok(Envelope::default()));
    }

    #[test]
    fn nesting_bombs_end_as_bad_json() {
        assert_eq!(Envelope::parse(&"[".repeat(60_000)), Err(Invalid::BadJson));
        assert_eq!(Envelope::parse(&["[".repeat(30_000), "]".repeat(30_000)].concat()), Err(Invalid::NotAnObject));
        for name in ["x", "user_id", "details"] {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                let bomb = format!("{{\"{name}\":{}1{}}}", open.repeat(8000), close.repeat(8000));
                assert_eq!(Envelope::parse(&bomb), Err(Invalid::BadJson), "{name} {open}");
            }
        }
    }

    #[test]
    fn halves_of_surrogate_pairs_become_replacement_characters() {
        for (text, expected) in [
            (r#"{"username":"\ud800"}"#, "\u{fffd}"),
            (r#"{"username":"a\udcffb"}"#, "a\u{fffd}b"),
            (r#"{"username":"\ud800\ud83d\ude00\udc00"}"#, "\u{fffd}\u{1f600}\u{fffd}"),
            (r#"{"username":"\\ud800 \ud800\n"}"#, "\\ud800 \u{fffd}\n"),
            (r#"{"username":"\ud800\u0041"}"#, "\u{fffd}A"),
        ] {
            assert_eq!(Envelope::parse(text).unwrap().username, Some(Part::Text(expected.into())), "{text}");
        }
        for text in [r#"{"a":"\ud8"}"#, r#"{"a":"\ud800"#, r#"{"a":"\u+123"}"#, "{\"a\":\"\\ä\\ud800\"}"] {
            assert_eq!(Envelope::parse(text), Err(Invalid::BadJson), "{text}");
        }
        assert_eq!(parse_nested(r#"["\ud800"]"#), Some(json!(["\u{fffd}"])));
        assert_eq!(parse_nested("17"), None);
    }

    #[test]
    fn numbers_beyond_a_double_become_texts() {
        let long = "9".repeat(400);
        let text = format!(r#"{{"a":[1e400,-1E+999,{long},1,"1e400"],"b":{long},"user_id":{long},"c":"\ud800"}}"#);
        let envelope = Envelope::parse(&text).unwrap();
        assert_eq!(envelope.user_id, Some(Part::Text(long.clone().into())));
        let expected = json!({"a": ["1e400", "-1E+999", long, 1, "1e400"], "b": long, "c": "\u{fffd}"});
        assert_eq!(Value::Object(envelope.rest), expected);
        for text in [r#"{"a":01e400}"#, r#"{"a":1.e400}"#, r#"{"a":+1e400}"#, r#"{"a":1e400-}"#, r#"{1e400:1}"#, r#"{"a":1e400"#]
        {
            assert_eq!(Envelope::parse(text).map(drop), Err(Invalid::BadJson), "{text}");
        }
    }
}
