//! From words and signs to tests and how they are joined; everything that can be wrong.

use std::net::IpAddr;

use regex::{Regex, RegexBuilder};

use super::{
    DEPTH_MAX, Expr, FILTER_BYTES_MAX, FilterError, Scope, TESTS_MAX,
    field::{Field, NAMES, PATH_MAX, Type},
    lex::{Lexer, Token, quoted},
    net::{Network, address},
    test::{Check, Compare, Test, Wanted},
    weigh::weigh,
};
use crate::event::Severity;

/// Of an expression's globs with a `?`: these may be tried at each place of a text.
const TRIED_BYTES_MAX: usize = 256;
/// Items of one list.
const ITEMS_MAX: usize = 1000;
const REGEX_BYTES_MAX: usize = 512;
/// In one expression: each costs up to [`REGEX_SIZE_MAX`] twice.
const REGEXES_MAX: usize = 8;
/// Compiled, bytes.
const REGEX_SIZE_MAX: usize = 64 * 1024;
/// Parentheses and brackets within each other.
const REGEX_NEST_MAX: u32 = 32;
/// Code points gone through to read all of an expression's: some ms, and fewer than there are.
const REGEX_WEIGHT_MAX: u32 = 1 << 20;
/// Characters of all of an expression's, repetitions counted: a text is looked through in time that grows with them.
const REGEX_CHARACTERS_MAX: u32 = 1000;

pub(super) fn expression(source: &str, scope: Scope) -> Result<Expr, FilterError> {
    if source.len() > FILTER_BYTES_MAX {
        let what = format!("expected an expression of at most {FILTER_BYTES_MAX} bytes, found {}", source.len());
        return Err(FilterError::new(source, FILTER_BYTES_MAX, what));
    }
    let mut lexer = Lexer::new(source);
    let (token, at) = lexer.next()?;
    let mut parser = Parser { source, scope, lexer, token, at, tests: 0, tried: 0, regexes: 0, weight: 0, characters: 0 };
    let expr = parser.any(0)?;
    match parser.token {
        Token::End => Ok(expr),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    source: &'a str,
    scope: Scope,
    lexer: Lexer<'a>,
    /// The next one, and where it begins.
    token: Token<'a>,
    at: usize,
    tests: usize,
    /// Bytes of globs with a `?` so far.
    tried: usize,
    regexes: usize,
    /// Of the regular expressions so far.
    weight: u32,
    characters: u32,
}

/// An operator, as far as the words say.
#[derive(Clone, Copy, PartialEq)]
enum Operator {
    Compare(Compare),
    NotEqual,
    In { not: bool },
    Word(&'static str),
    Present { not: bool },
}

const TEXT_WORDS: [&str; 5] = ["glob", "prefix", "suffix", "contains", "matches"];

impl<'a> Parser<'a> {
    fn error(&self, at: usize, what: impl Into<String>) -> FilterError {
        FilterError::new(self.source, at, what)
    }

    fn expected(&self, what: &str) -> FilterError {
        self.error(self.at, format!("expected {what}, found {}", self.token.shown()))
    }

    /// Goes on; gives what it was at.
    fn take(&mut self) -> Result<(Token<'a>, usize), FilterError> {
        let (token, at) = self.lexer.next()?;
        Ok((std::mem::replace(&mut self.token, token), std::mem::replace(&mut self.at, at)))
    }

    fn takes(&mut self, token: &Token<'_>) -> Result<bool, FilterError> {
        let is = self.token == *token;
        if is {
            self.take()?;
        }
        Ok(is)
    }

    fn any(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let mut parts = vec![self.all(depth)?];
        while self.takes(&Token::Word("or"))? {
            parts.push(self.all(depth)?);
        }
        Ok(Expr::any(parts))
    }

    fn all(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let mut parts = vec![self.one(depth)?];
        while self.takes(&Token::Word("and"))? {
            parts.push(self.one(depth)?);
        }
        Ok(Expr::all(parts))
    }

    fn one(&mut self, depth: usize) -> Result<Expr, FilterError> {
        if depth > DEPTH_MAX {
            return Err(self.error(self.at, format!("expected at most {DEPTH_MAX} parentheses and `not` within each other")));
        }
        if self.takes(&Token::Word("not"))? {
            return Ok(Expr::not(self.one(depth + 1)?));
        }
        let open = self.at;
        if self.takes(&Token::Sign("("))? {
            let inner = self.any(depth + 1)?;
            if !self.takes(&Token::Sign(")"))? {
                let place = self.error(open, "").character();
                return Err(self.expected(&format!("`and`, `or` or the `)` to the `(` at character {place}")));
            }
            return Ok(inner);
        }
        self.test().map(Expr::Test)
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return Err(self.error(self.at, format!("expected at most {TESTS_MAX} tests in one expression")));
        }
        let field = self.field()?;
        let (operator, at) = self.operator(&field)?;
        let (check, negated) = match operator {
            Operator::Present { not } => (Check::Present, not),
            Operator::Compare(compare) => (self.compared(&field, compare, at)?, false),
            Operator::NotEqual => (self.compared(&field, Compare::Equal, at)?, true),
            Operator::In { not } => (self.among(&field)?, not),
            Operator::Word(word) => (self.word(&field, word)?, false),
        };
        Ok(Test { field, check, negated })
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let Token::Word(name) = self.token else { return Err(self.expected("a field")) };
        if matches!(name, "and" | "or" | "in") {
            return Err(self.expected("a field"));
        }
        let (_, at) = self.take()?;
        let of_alerts = |alone: bool| alone && self.scope == Scope::Event;
        if let Some((_, field, alone)) = NAMES.iter().find(|(known, ..)| *known == name) {
            if of_alerts(*alone) {
                return Err(self.error(at, format!("expected a field of an event, found `{name}`, which only alerts have")));
            }
            return Ok(field.clone());
        }
        match name {
            "details" => {
                let mut path = vec![self.name("details")?];
                while self.token == Token::Sign(".") {
                    if path.len() == PATH_MAX {
                        return Err(self.error(self.at, format!("expected a path of at most {PATH_MAX} names")));
                    }
                    path.push(self.name("details")?);
                }
                Ok(Field::detail(path))
            }
            "labels" if of_alerts(true) => {
                Err(self.error(at, "expected a field of an event, found `labels`, which only alerts have"))
            }
            "labels" => Ok(Field::Label(self.name("labels")?)),
            other => {
                let names: Vec<&str> = NAMES.iter().filter(|(.., alone)| !of_alerts(*alone)).map(|(name, ..)| *name).collect();
                let more = if of_alerts(true) { "details.NAME" } else { "labels.NAME and details.NAME" };
                let shown: String = other.chars().take(40).collect();
                Err(self.error(at, format!("there is no field `{shown}`, expected {}, {more}", names.join(", "))))
            }
        }
    }

    /// `.name`, behind `details` and the like.
    fn name(&mut self, behind: &str) -> Result<Box<str>, FilterError> {
        if !self.takes(&Token::Sign("."))? {
            return Err(self.expected(&format!("`.` and a name behind `{behind}`")));
        }
        match &self.token {
            Token::Word(_) | Token::Text(_) => match self.take()?.0 {
                Token::Word(word) => Ok(word.into()),
                Token::Text(text) => Ok(text.into()),
                _ => Ok("".into()),
            },
            _ => Err(self.expected("a name, in quotes if it has other signs than letters, digits, _ and -")),
        }
    }

    fn operator(&mut self, field: &Field) -> Result<(Operator, usize), FilterError> {
        let known = known(field.r#type());
        let operator = match self.token {
            Token::Sign("=") => Operator::Compare(Compare::Equal),
            Token::Sign("!=") => Operator::NotEqual,
            Token::Sign("<") => Operator::Compare(Compare::Less),
            Token::Sign("<=") => Operator::Compare(Compare::AtMost),
            Token::Sign(">") => Operator::Compare(Compare::Greater),
            Token::Sign(">=") => Operator::Compare(Compare::AtLeast),
            Token::Word("in") => Operator::In { not: false },
            Token::Word("not") => {
                let (_, at) = self.take()?;
                if self.token != Token::Word("in") {
                    return Err(self.expected("`in` behind `not`"));
                }
                self.take()?;
                return Ok((Operator::In { not: true }, at));
            }
            Token::Word("present") => Operator::Present { not: false },
            Token::Word("absent") => Operator::Present { not: true },
            Token::Word(word) => match TEXT_WORDS.into_iter().chain(["within"]).find(|known| *known == word) {
                Some(word) => Operator::Word(word),
                None => return Err(self.expected(&format!("one of {known} behind `{field}`"))),
            },
            _ => return Err(self.expected(&format!("one of {known} behind `{field}`"))),
        };
        if !allowed(field.r#type(), operator) {
            let hint = match (field.r#type(), operator) {
                (Type::Address, Operator::Word(_)) => "; networks are asked with `within`",
                _ => "",
            };
            return Err(self.expected(&format!("one of {known} behind `{field}`{hint}")));
        }
        let (_, at) = self.take()?;
        Ok((operator, at))
    }

    fn compared(&mut self, field: &Field, compare: Compare, operator_at: usize) -> Result<Check, FilterError> {
        match field.r#type() {
            Type::Severity => Ok(Check::Severity(compare, self.severity()?)),
            Type::Words(words) => Ok(Check::Text(Wanted::new(self.one_of(words)?))),
            Type::Number => Ok(Check::Number(compare, self.number()?)),
            Type::Address => Ok(Check::Address(self.address()?)),
            Type::Text => Ok(Check::Text(Wanted::new(&self.text(field)?))),
            Type::Any => match &self.token {
                Token::Number(_) => Ok(Check::Number(compare, self.number()?)),
                _ if compare != Compare::Equal => {
                    let sign = compare.sign();
                    Err(self.error(
                        if self.token == Token::End { operator_at } else { self.at },
                        format!("expected a number behind `{sign}`, found {}", self.token.shown()),
                    ))
                }
                Token::Word("true" | "false") => {
                    let (token, _) = self.take()?;
                    Ok(Check::Flag(token == Token::Word("true")))
                }
                Token::Text(_) => Ok(Check::Text(Wanted::new(&self.text(field)?))),
                _ => Err(self.expected("a text in quotes, a number, true or false")),
            },
        }
    }

    fn among(&mut self, field: &Field) -> Result<Check, FilterError> {
        let at = self.at;
        match field.r#type() {
            Type::Severity => Ok(Check::Severities(sorted(self.list(at, Parser::severity)?, Severity::cmp))),
            Type::Words(words) => {
                let list = self.list(at, |parser| parser.one_of(words).map(Wanted::new))?;
                Ok(Check::Texts(sorted(list, |a, b| a.text.cmp(&b.text))))
            }
            Type::Number => Ok(Check::Numbers(sorted(self.list(at, Parser::number)?, f64::total_cmp))),
            Type::Address => Ok(Check::Addresses(sorted(self.list(at, Parser::address)?, IpAddr::cmp))),
            Type::Text | Type::Any => {
                let numbers = field.r#type() == Type::Any;
                // All of one kind, as the first is.
                let mut first = None;
                let list = self.list(at, |parser| {
                    let is_number = numbers && matches!(parser.token, Token::Number(_));
                    if *first.get_or_insert(is_number) != is_number {
                        return Err(parser.expected("a list of texts or a list of numbers"));
                    }
                    match is_number {
                        true => parser.number().map(|number| (None, number)),
                        false => parser.text(field).map(|text| (Some(text), 0.0)),
                    }
                })?;
                if first == Some(true) {
                    return Ok(Check::Numbers(sorted(list.into_iter().map(|(_, n)| n).collect(), f64::total_cmp)));
                }
                let texts = list.into_iter().filter_map(|(text, _)| Some(Wanted::new(&text?))).collect();
                Ok(Check::Texts(sorted(texts, |a: &Wanted, b: &Wanted| a.text.cmp(&b.text))))
            }
        }
    }

    fn word(&mut self, field: &Field, word: &str) -> Result<Check, FilterError> {
        let at = self.at;
        match word {
            "within" => {
                let networks =
                    if self.token == Token::Sign("[") { self.list(at, Parser::network)? } else { vec![self.network()?] };
                Ok(Check::Within(sorted(networks, Network::cmp)))
            }
            "matches" => self.regex().map(Check::Matches),
            _ => {
                let text: Box<str> = self.text(field)?.into();
                if text.is_empty() && word != "glob" {
                    return Err(self.error(at, format!("expected a text that is not empty behind `{word}`")));
                }
                if word == "glob" && text.contains('?') {
                    self.tried += text.len();
                    if self.tried > TRIED_BYTES_MAX {
                        return Err(self.error(at, format!("expected at most {TRIED_BYTES_MAX} bytes of globs with a `?`")));
                    }
                }
                Ok(match word {
                    "glob" => Check::Glob(text),
                    "prefix" => Check::Prefix(text),
                    "suffix" => Check::Suffix(text),
                    _ => Check::Contains(text),
                })
            }
        }
    }

    fn list<T>(&mut self, open: usize, mut item: impl FnMut(&mut Self) -> Result<T, FilterError>) -> Result<Vec<T>, FilterError> {
        if !self.takes(&Token::Sign("["))? {
            return Err(self.expected("a list in brackets"));
        }
        let mut items = Vec::new();
        loop {
            items.push(item(self)?);
            if items.len() > ITEMS_MAX {
                return Err(self.error(open, format!("expected a list of at most {ITEMS_MAX} items")));
            }
            if self.takes(&Token::Sign("]"))? {
                return Ok(items);
            }
            if !self.takes(&Token::Sign(","))? {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn severity(&mut self) -> Result<Severity, FilterError> {
        let words = Severity::ALL.map(Severity::as_str);
        let word = self.one_of(&words)?;
        Ok(Severity::ALL.into_iter().find(|severity| severity.as_str() == word).unwrap_or(Severity::Low))
    }

    /// A word of a few, with or without quotes.
    fn one_of<'w>(&mut self, words: &[&'w str]) -> Result<&'w str, FilterError> {
        let written = match &self.token {
            Token::Word(word) => Some(*word),
            Token::Text(text) => Some(&**text),
            _ => None,
        };
        let word = written.and_then(|written| words.iter().find(|word| **word == written)).copied();
        let Some(word) = word else {
            let list = match words.split_last() {
                Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                None => String::new(),
            };
            return Err(self.expected(&list));
        };
        self.take()?;
        Ok(word)
    }

    fn number(&mut self) -> Result<f64, FilterError> {
        let Token::Number(number) = self.token else { return Err(self.expected("a number")) };
        self.take()?;
        Ok(number)
    }

    fn text(&mut self, field: &Field) -> Result<String, FilterError> {
        let at = self.at;
        let text = match &self.token {
            Token::Text(text) => text.to_string(),
            Token::Word(word) => {
                return Err(self.error(at, format!("expected a text in quotes, found `{word}`; write {}", quoted(word))));
            }
            _ => return Err(self.expected("a text in quotes")),
        };
        // It would never match, and nobody would be told.
        if *field == Field::EventType && text.chars().any(char::is_uppercase) {
            let what = format!("expected an event type in its normal form, which is lower case, found {}", quoted(&text));
            return Err(self.error(at, what));
        }
        self.take()?;
        Ok(text)
    }

    fn address(&mut self) -> Result<IpAddr, FilterError> {
        let ip = match &self.token {
            Token::Text(text) => address(text),
            _ => None,
        };
        let Some(ip) = ip else {
            let network = matches!(&self.token, Token::Text(text) if text.contains('/'));
            let hint = if network { "; a network is asked with `within`" } else { "" };
            return Err(self.expected(&format!("an address in quotes, such as \"192.0.2.7\"{hint}")));
        };
        self.take()?;
        Ok(ip)
    }

    fn network(&mut self) -> Result<Network, FilterError> {
        let Token::Text(text) = &self.token else {
            return Err(self.expected("a network in quotes, such as \"10.0.0.0/8\""));
        };
        let network = text.parse().map_err(|what: String| self.error(self.at, what))?;
        self.take()?;
        Ok(network)
    }

    fn regex(&mut self) -> Result<Regex, FilterError> {
        let at = self.at;
        let Token::Text(text) = &self.token else { return Err(self.expected("a regular expression in quotes")) };
        self.regexes += 1;
        if self.regexes > REGEXES_MAX {
            return Err(self.error(at, format!("expected at most {REGEXES_MAX} regular expressions")));
        }
        if text.len() > REGEX_BYTES_MAX {
            let what = format!("expected a regular expression of at most {REGEX_BYTES_MAX} bytes, found {}", text.len());
            return Err(self.error(at, what));
        }
        let weight = weigh(text, REGEX_NEST_MAX);
        self.weight = self.weight.saturating_add(weight.code_points);
        self.characters = self.characters.saturating_add(weight.characters);
        if self.weight > REGEX_WEIGHT_MAX {
            let what = "expected fewer or smaller classes (`[…]`, `\\p{…}`) where case does not matter (`(?i)`): reading these takes too long";
            return Err(self.error(at, what));
        }
        let built =
            RegexBuilder::new(text).size_limit(REGEX_SIZE_MAX).dfa_size_limit(REGEX_SIZE_MAX).nest_limit(REGEX_NEST_MAX).build();
        let regex = built.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                self.error(at, format!("expected a regular expression that compiles to at most {REGEX_SIZE_MAX} bytes"))
            }
            // The last line of its text says what is wrong; those before repeat the expression.
            error => {
                let text = error.to_string();
                let what = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.error(at, format!("expected a regular expression, found a fault in it: {what}"))
            }
        })?;
        if self.characters > REGEX_CHARACTERS_MAX {
            let what =
                format!("expected regular expressions of at most {REGEX_CHARACTERS_MAX} characters in all, repetitions counted");
            return Err(self.error(at, what));
        }
        self.take()?;
        Ok(regex)
    }
}

fn sorted<T>(mut items: Vec<T>, order: impl Fn(&T, &T) -> std::cmp::Ordering) -> Box<[T]> {
    items.sort_by(&order);
    items.dedup_by(|a, b| order(a, b).is_eq());
    items.into()
}

fn allowed(r#type: Type, operator: Operator) -> bool {
    match (r#type, operator) {
        (_, Operator::Present { .. } | Operator::In { .. } | Operator::NotEqual | Operator::Compare(Compare::Equal)) => true,
        (Type::Severity | Type::Number | Type::Any, Operator::Compare(_)) => true,
        (Type::Text, Operator::Word(word)) => word != "within",
        (Type::Any, Operator::Word(_)) => true,
        (Type::Address, Operator::Word(word)) => word == "within",
        _ => false,
    }
}

fn known(r#type: Type) -> &'static str {
    match r#type {
        Type::Severity | Type::Number => "=, !=, <, <=, >, >=, in, not in, present and absent",
        Type::Words(_) => "=, !=, in, not in, present and absent",
        Type::Address => "=, !=, in, not in, within, present and absent",
        Type::Text => "=, !=, in, not in, glob, prefix, suffix, contains, matches, present and absent",
        Type::Any => "=, !=, <, <=, >, >=, in, not in, glob, prefix, suffix, contains, matches, within, present and absent",
    }
}
