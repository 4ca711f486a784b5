//! Masking in texts that are not, or not readable as, JSON: Python's `str(dict)`, and what becomes a dead letter.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    Classifier,
    envelope::parse_nested,
    mask::{Fate, MASK, Mask},
};

/// Longest name that is looked for between two quotes, in bytes.
const NAME_BYTES_MAX: usize = 128;

impl Classifier {
    /// The fields of an entry that could not be read, as they may be kept: masked as far as their text lets names be told, and
    /// not UTF-8 replaced. Fields that are to be dropped are masked, so that it can be seen that they were there.
    pub fn masked_fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, fields: &[(N, V)]) -> Vec<(String, String)> {
        let masked = |(name, value): &(N, V)| {
            let name = String::from_utf8_lossy(name.as_ref()).into_owned();
            let value = match self.mask.fate(&name) {
                Fate::Keep => self.masked_text(&String::from_utf8_lossy(value.as_ref())).into_owned(),
                Fate::Mask | Fate::Drop => MASK.to_owned(),
            };
            (name, value)
        };
        fields.iter().map(masked).collect()
    }

    /// A text that could not be read as an event, as it may be kept.
    pub fn masked_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.mask.scrub(text)
    }
}

impl Mask {
    /// Masks members in a text: exactly where it is JSON, else wherever a quoted name is followed by `:` and a value.
    pub(super) fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if let Some(mut value) = parse_nested(text) {
            let before = value.clone();
            self.apply_inside(&mut value);
            return match value == before {
                // Of two members of one name only the last was seen.
                true => self.scrub_loosely(text),
                false => Cow::Owned(Value::to_string(&value)),
            };
        }
        self.scrub_loosely(text)
    }

    fn scrub_loosely<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let bytes = text.as_bytes();
        let mut scrubbed = String::new();
        let mut copied = 0;
        let mut at = 0;
        while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| is_quote(*b))) {
            let open = at + found;
            at = open + 1;
            let Some((name, quote_end)) = quoted_name(text, open) else { continue };
            let colon = skip_space(bytes, quote_end);
            if bytes.get(colon) != Some(&b':') || self.fate(name) == Fate::Keep {
                continue;
            }
            let start = skip_space(bytes, colon + 1);
            let end = value_end(bytes, start);
            // All of these stand at ASCII bytes or at the text's end.
            let (Some(before), Some(quote)) = (text.get(copied..start), text.get(open..open + 1)) else { continue };
            scrubbed.push_str(before);
            scrubbed.push_str(quote);
            scrubbed.push_str(MASK);
            scrubbed.push_str(quote);
            copied = end;
            at = end;
        }
        match text.get(copied..) {
            Some(rest) if copied > 0 => {
                scrubbed.push_str(rest);
                Cow::Owned(scrubbed)
            }
            _ => Cow::Borrowed(text),
        }
    }
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'')
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The name in the quotes that open at `open`, without the backslashes of JSON in JSON, and where the quotes end.
fn quoted_name(text: &str, open: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    let quote = bytes.get(open)?;
    let inside = bytes.get(open + 1..)?;
    let len = inside.iter().take(NAME_BYTES_MAX + 1).position(|b| b == quote)?;
    let name = text.get(open + 1..open + 1 + len)?;
    Some((name.trim_end_matches('\\'), open + len + 2))
}

/// Where the value that begins at `start` ends: a text behind its quote, an object or array behind its bracket, anything else
/// before what separates members. A value that does not end ends the text.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0usize;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            _ if is_quote(byte) => {
                at = text_end(bytes, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => match depth {
                0 => return at,
                1 => return at + 1,
                _ => depth -= 1,
            },
            b',' | b'\n' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the text in the quotes that open at `open` ends. In JSON within JSON the quotes themselves have backslashes: one with
/// as many ends the text, one with more is part of it.
fn text_end(bytes: &[u8], open: usize) -> usize {
    let backslashes = |at: usize| bytes.get(..at).map_or(0, |before| before.iter().rev().take_while(|b| **b == b'\\').count());
    let outer = backslashes(open);
    let mut run = 0;
    for (at, byte) in bytes.iter().enumerate().skip(open + 1) {
        if *byte == b'\\' {
            run += 1;
            continue;
        }
        if Some(byte) == bytes.get(open) && if outer == 0 { run % 2 == 0 } else { run <= outer } {
            return at + 1;
        }
        run = 0;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_texts_that_are_no_json() {
        let mask = Mask::new(&["ssn".to_owned()], &["debug".to_owned()]);
        for (text, expected) in [
            ("{'user': 'bob', 'password': 'it\\'s', 'ok': True}", "{'user': 'bob', 'password': '***', 'ok': True}"),
            (r#"{'token': "a'b", 'x': 1}"#, "{'token': '***', 'x': 1}"),
            ("{'Token': None, 'x': 1}", "{'Token': '***', 'x': 1}"),
            ("{'secret': b'raw', 'x': 1}", "{'secret': '***', 'x': 1}"),
            ("{'cookie': {'a': '}', 'b': [1, 2]}, 'x': 1}", "{'cookie': '***', 'x': 1}"),
            ("{'totp': 123456}", "{'totp': '***'}"),
            ("{'ssn' : 1, 'debug': (1, 2)}", "{'ssn' : '***', 'debug': '***'}"),
            (r#"{"password":"p\"q\\","x":NaN}"#, r#"{"password":"***","x":NaN}"#),
            (r#"{"password":"never en"#, r#"{"password":"***""#),
            (r#"{"body":"{\"password\":\"a\\\"b\",\"x\":1}",}"#, r#"{"body":"{\"password\":"***",\"x\":1}",}"#),
            (r#"{"a":{"token":[1,{"b":"#, r#"{"a":{"token":"***""#),
            ("{'tokens': 1, 'a': 'password'}", "{'tokens': 1, 'a': 'password'}"),
            ("it's the password: x", "it's the password: x"),
            ("'password':", "'password':'***'"),
            ("'ä': 'ö', 'api_key': 'ü'", "'ä': 'ö', 'api_key': '***'"),
            ("", ""),
            ("'", "'"),
        ] {
            assert_eq!(mask.scrub(text), expected, "{text}");
        }
        // JSON is masked by its meaning.
        assert_eq!(mask.scrub(r#"[{"pass\u0077ord":1}]"#), r#"[{"password":"***"}]"#);
        assert_eq!(mask.scrub(r#"{"token":"t","token":"***"}"#), r#"{"token":"***","token":"***"}"#);
        assert_eq!(mask.scrub(r#" {"a" : 1.0}"#), r#" {"a" : 1.0}"#);
    }

    #[test]
    fn fields_of_a_dead_letter() {
        let classifier = Classifier::new(super::super::Options::contract()).unwrap();
        let fields = [
            (b"Password".to_vec(), b"p".to_vec()),
            (b"data".to_vec(), b"{'token': 't'".to_vec()),
            (b"x\xff".to_vec(), b"\xfe".to_vec()),
        ];
        let expected = [("Password", "***"), ("data", "{'token': '***'"), ("x\u{fffd}", "\u{fffd}")];
        assert_eq!(classifier.masked_fields(&fields), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
