//! A look at JSON without making anything of it: what its members are, borrowed from the text.
//!
//! It reads less than a JSON reader and says `None` to the rest: escapes in names, halves of surrogate pairs, numbers with
//! exponents or of many digits, deep nesting, and whatever is no JSON. What it does read, `serde_json` reads too, and to the same
//! members; `plain_tests` holds that.

use std::borrow::Cow;

use serde_json::Number;

use super::mask::{Fate, Mask};

/// Nesting that is followed; `serde_json` itself ends at 128.
const DEPTH_MAX: usize = 48;
/// So many digits are always within a double.
const NUMBER_BYTES_MAX: usize = 64;

/// What a member's value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not there, or `null`, which is the same.
    #[default]
    Absent,
    /// `true` or `false`.
    Bool,
    /// As it was written, without exponent and within a double.
    Number,
    /// A text, without its quotes.
    Text,
    /// A text with its quotes and escapes.
    Escaped,
    /// An object or array.
    Nested,
}

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    pub shape: Shape,
    pub text: &'a str,
}

impl<'a> Raw<'a> {
    pub fn text(text: &'a str) -> Raw<'a> {
        Raw { shape: Shape::Text, text }
    }

    pub fn is_absent(self) -> bool {
        self.shape == Shape::Absent
    }

    /// What the text says, or the digits of the number.
    pub fn words(self) -> Option<Cow<'a, str>> {
        match self.shape {
            Shape::Text | Shape::Number => Some(Cow::Borrowed(self.text)),
            Shape::Escaped => serde_json::from_str(self.text).ok().map(Cow::Owned),
            Shape::Absent | Shape::Bool | Shape::Nested => None,
        }
    }

    /// What the text says, `true` or `false`.
    pub fn said(self) -> Option<Cow<'a, str>> {
        match self.shape {
            Shape::Bool => Some(Cow::Borrowed(self.text)),
            Shape::Text | Shape::Escaped => self.words(),
            Shape::Absent | Shape::Number | Shape::Nested => None,
        }
    }

    /// The number as JSON readers have it: `1.50` is `1.5`.
    pub fn number(self) -> Option<Number> {
        match self.shape {
            Shape::Number => serde_json::from_str(self.text).ok(),
            _ => None,
        }
    }
}

/// Whether a text is nothing but white space.
pub(super) fn is_blank(text: &str) -> bool {
    match text.bytes().next() {
        Some(byte) if byte.is_ascii_graphic() => false,
        _ => text.trim().is_empty(),
    }
}

/// Where a look at a text has got to.
pub(super) struct Scan<'a, 'm> {
    text: &'a str,
    at: usize,
    mask: &'m Mask,
    /// A name was seen that is masked or dropped.
    pub marked: bool,
}

impl<'a, 'm> Scan<'a, 'm> {
    pub fn new(text: &'a str, mask: &'m Mask) -> Scan<'a, 'm> {
        let mut scan = Scan { text, at: 0, mask, marked: false };
        scan.space();
        scan
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// Whether nothing but white space follows.
    pub fn at_end(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    /// Enters an object; whether it has members.
    #[inline]
    pub fn open(&mut self) -> Option<bool> {
        if self.peek()? != b'{' {
            return None;
        }
        self.at += 1;
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(false);
        }
        Some(true)
    }

    /// A member's name; the value follows.
    #[inline]
    pub fn name(&mut self) -> Option<&'a str> {
        if self.peek()? != b'"' {
            return None;
        }
        let name = self.string()?;
        if name.shape != Shape::Text {
            return None;
        }
        self.space();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        self.space();
        Some(name.text)
    }

    /// Behind a value: whether another member follows.
    #[inline]
    pub fn more(&mut self) -> Option<bool> {
        self.space();
        let byte = self.peek()?;
        self.at += 1;
        match byte {
            b',' => {
                self.space();
                Some(true)
            }
            b'}' => Some(false),
            _ => None,
        }
    }

    /// Whether the value that follows is an object.
    pub fn at_object(&self) -> bool {
        self.peek() == Some(b'{')
    }

    /// Takes note of a name that is masked or dropped.
    #[inline]
    pub fn mark(&mut self, name: &str) {
        if self.mask.fate(name) != Fate::Keep {
            self.marked = true;
        }
    }

    #[inline]
    pub fn value(&mut self) -> Option<Raw<'a>> {
        match self.peek()? {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b'{' | b'[' => {
                let start = self.at;
                self.nested(0)?;
                Some(Raw { shape: Shape::Nested, text: self.text.get(start..self.at)? })
            }
            b't' => self.word("true", Shape::Bool),
            b'f' => self.word("false", Shape::Bool),
            b'n' => self.word("null", Shape::Absent),
            _ => None,
        }
    }

    fn word(&mut self, word: &str, shape: Shape) -> Option<Raw<'a>> {
        let text = self.text.get(self.at..self.at + word.len()).filter(|text| *text == word)?;
        self.at += word.len();
        Some(Raw { shape, text })
    }

    fn nested(&mut self, depth: usize) -> Option<()> {
        if depth >= DEPTH_MAX {
            return None;
        }
        if self.at_object() {
            let mut more = self.open()?;
            while more {
                let name = self.name()?;
                self.mark(name);
                self.inner(depth)?;
                more = self.more()?;
            }
            return Some(());
        }
        self.at += 1;
        self.space();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.inner(depth)?;
            self.space();
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b',' => self.space(),
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    fn inner(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' | b'[' => self.nested(depth + 1),
            _ => self.value().map(drop),
        }
    }

    fn number(&mut self) -> Option<Raw<'a>> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let digits = |at: usize| bytes.get(at..).map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        let whole = digits(at);
        if whole == 0 || (whole > 1 && bytes.get(at) == Some(&b'0')) {
            return None;
        }
        at += whole;
        if bytes.get(at) == Some(&b'.') {
            let fraction = digits(at + 1);
            if fraction == 0 {
                return None;
            }
            at += 1 + fraction;
        }
        if at - start > NUMBER_BYTES_MAX || matches!(bytes.get(at), Some(b'e' | b'E')) {
            return None;
        }
        self.at = at;
        Some(Raw { shape: Shape::Number, text: self.text.get(start..at)? })
    }

    /// A text, from its opening quote on.
    #[inline]
    fn string(&mut self) -> Option<Raw<'a>> {
        let start = self.at + 1;
        let rest = self.text.as_bytes().get(start..)?;
        let len = plain_bytes(rest);
        if rest.get(len) != Some(&b'"') {
            return self.escaped(len);
        }
        self.at = start + len + 1;
        Some(Raw::text(self.text.get(start..start + len)?))
    }

    /// A text with escapes, of which so many bytes are known to be plain.
    fn escaped(&mut self, plain: usize) -> Option<Raw<'a>> {
        let bytes = self.text.as_bytes();
        let open = self.at;
        let mut at = open + 1 + plain;
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => {
                    at += match bytes.get(at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                        b'u' => {
                            let digits = bytes.get(at + 2..at + 6)?;
                            let of_pair = matches!(digits, [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..]);
                            if of_pair || !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            6
                        }
                        _ => return None,
                    };
                }
                // A control character.
                _ => return None,
            }
            at += plain_bytes(bytes.get(at..)?);
        }
        self.at = at + 1;
        Some(Raw { shape: Shape::Escaped, text: self.text.get(open..=at)? })
    }
}

/// How many bytes there are before the first quote, backslash or control character; eight at a time.
#[inline]
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 128;
    let (words, _) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Each subtraction sets the highest bit of the lowest byte that is meant, and may set those of bytes above it wrongly.
        let quote = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        let control = word.wrapping_sub(ONES * 0x20);
        let found = (quote | backslash | control) & !word & HIGHS;
        if found != 0 {
            return n * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let rest = words.len() * 8;
    let tail = bytes.get(rest..).unwrap_or_default();
    rest + tail.iter().position(|b| matches!(b, b'"' | b'\\' | ..0x20)).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_where_a_text_stops_being_plain() {
        for n in 0..40 {
            for stop in [b'"', b'\\', 0, 0x1f] {
                let mut bytes = "ä€!#[]\u{7f} ~".repeat(4).into_bytes();
                bytes.truncate(n);
                bytes.extend([stop, b'"', b'x', b'\\', 0, b'"', b'"', b'"']);
                assert_eq!(plain_bytes(&bytes), n, "{n} {stop}");
            }
        }
        assert_eq!(plain_bytes(b""), 0);
        assert_eq!(plain_bytes(b"0123456789"), 10);
    }

    #[test]
    fn reads_members_and_leaves_the_rest_to_others() {
        let mask = Mask::new(&[], &[]);
        let read = |text: &'static str| {
            let mut scan = Scan::new(text, &mask);
            let mut members = Vec::new();
            let mut more = scan.open()?;
            while more {
                let name = scan.name()?;
                let value = scan.value()?;
                members.push((name, value.shape, value.text));
                more = scan.more()?;
            }
            scan.at_end().then_some(members)
        };
        assert_eq!(
            read("{ \"a\" : \"x\" ,\"b\":-1.50,\"c\":[1,{\"d\":null}],\"e\":\"\\u00e4\\n\",\"f\":null,\"g\":true}\n"),
            Some(vec![
                ("a", Shape::Text, "x"),
                ("b", Shape::Number, "-1.50"),
                ("c", Shape::Nested, "[1,{\"d\":null}]"),
                ("e", Shape::Escaped, "\"\\u00e4\\n\""),
                ("f", Shape::Absent, "null"),
                ("g", Shape::Bool, "true"),
            ])
        );
        assert_eq!(read("{}"), Some(Vec::new()));
        for text in [
            "",
            "{",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":1e5}",
            "{\"a\":+1}",
            "{\"a\":nul}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\ud83d\\ude00\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u+123\"}",
            "{\"a\":\"\n\"}",
            "{\"\\u0061\":1}",
            "{\"a\":[1,]}",
            "{\"a\":[,1]}",
            "{\"a\":[1}",
            "{'a':1}",
            "{\"a\":\"x}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn sees_names_that_are_masked_at_any_depth() {
        let mask = Mask::new(&[], &["x".to_owned()]);
        for (text, marked) in
            [("[{\"a\":[{\"Token\":1}]}]", true), ("[{\"a\":\"token\"}]", false), ("{\"b\":{\"X\":null}}", true)]
        {
            let mut scan = Scan::new(text, &mask);
            assert!(scan.value().is_some() && scan.at_end());
            assert_eq!(scan.marked, marked, "{text}");
        }
    }
}
