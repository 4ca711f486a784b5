//! From text to words, texts, numbers and signs.

use std::borrow::Cow;

use super::FilterError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name, an operator that is a word, a value of a few.
    Word(&'a str),
    /// In quotes.
    Text(Cow<'a, str>),
    Number(f64),
    /// `= != < <= > >= ( ) [ ] , .`
    Sign(&'static str),
    End,
}

impl Token<'_> {
    /// As a person would find it in the text.
    pub fn shown(&self) -> String {
        match self {
            Token::Word(word) => format!("`{}`", cut(word)),
            Token::Text(text) => format!("the text {}", cut(&quoted(text))),
            Token::Number(number) => format!("the number {number}"),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end".to_owned(),
        }
    }
}

fn cut(text: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    let shown: String = text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() { format!("{shown}…") } else { shown }
}

/// A text as it is written in double quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// Longer signs before their beginnings.
const SIGNS: [(&str, &str); 15] = [
    ("==", "="),
    ("!=", "!="),
    ("<=", "<="),
    (">=", ">="),
    ("&&", "and"),
    ("||", "or"),
    ("=", "="),
    ("<", "<"),
    (">", ">"),
    ("!", "not"),
    ("(", "("),
    (")", ")"),
    ("[", "["),
    ("]", "]"),
    (",", ","),
];

pub(super) struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(source: &'a str) -> Lexer<'a> {
        Lexer { source, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    /// The next one, and where it begins.
    pub fn next(&mut self) -> Result<(Token<'a>, usize), FilterError> {
        self.at = self.source.len() - self.rest().trim_start().len();
        let (rest, start) = (self.rest(), self.at);
        let Some(first) = rest.chars().next() else { return Ok((Token::End, start)) };
        if first == '"' || first == '\'' {
            return Ok((Token::Text(self.text(first)?), start));
        }
        let length = |more: fn(char) -> bool| rest.find(|c: char| !more(c)).unwrap_or(rest.len());
        if first.is_ascii_digit() || (first == '-' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            let length =
                1 + rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_')).unwrap_or(rest.len() - 1);
            let written = &rest[..length];
            self.at += length;
            return match written.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok((Token::Number(number), start)),
                _ => Err(FilterError::new(
                    self.source,
                    start,
                    format!("expected a number, found `{}`; a text, such as an address, stands in quotes", cut(written)),
                )),
            };
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let length = length(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            self.at += length;
            return Ok((Token::Word(&rest[..length]), start));
        }
        if first == '.' {
            self.at += 1;
            return Ok((Token::Sign("."), start));
        }
        match SIGNS.into_iter().find(|(sign, _)| rest.starts_with(sign)) {
            Some((sign, meaning)) => {
                self.at += sign.len();
                let token = if matches!(meaning, "and" | "or" | "not") { Token::Word(meaning) } else { Token::Sign(meaning) };
                Ok((token, start))
            }
            None => Err(FilterError::new(
                self.source,
                start,
                format!("expected a field, a value or an operator, found `{}`", first.escape_debug()),
            )),
        }
    }

    /// In double quotes `\"` and `\\` are escapes; in single quotes everything stands for itself.
    fn text(&mut self, quote: char) -> Result<Cow<'a, str>, FilterError> {
        let start = self.at;
        self.at += 1;
        let body = self.rest();
        if quote == '\'' {
            let Some(length) = body.find('\'') else {
                return Err(FilterError::new(self.source, start, "expected a closing ' for this text"));
            };
            self.at += length + 1;
            return Ok(Cow::Borrowed(&body[..length]));
        }
        let mut out = String::new();
        let mut escaped = false;
        for (at, c) in body.char_indices() {
            match c {
                '"' | '\\' if escaped => {
                    out.push(c);
                    escaped = false;
                }
                other if escaped => {
                    let what = format!(
                        "expected \\\" or \\\\, found \\{}; in single quotes a backslash is a backslash",
                        other.escape_debug()
                    );
                    return Err(FilterError::new(self.source, start + at, what));
                }
                '\\' => escaped = true,
                '"' => {
                    self.at = start + 1 + at + 1;
                    return Ok(if out.len() == at { Cow::Borrowed(&body[..at]) } else { Cow::Owned(out) });
                }
                other => out.push(other),
            }
        }
        Err(FilterError::new(self.source, start, "expected a closing \" for this text"))
    }
}
