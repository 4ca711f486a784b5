//! Which ones: a small typed language over the fields of events and alerts. One expression is compiled once and asked of many;
//! asking allocates nothing. Used by rules (`where`), the feed (`filter`) and the API alike. Pure.
//!
//! ```
//! use auditcast::filter::{Filter, Scope};
//!
//! let filter = Filter::parse(r#"severity >= high and not ip_address within "10.0.0.0/8""#, Scope::Feed)?;
//! let frame = serde_json::json!({"severity": "critical", "details": {"ip_address": "192.0.2.7"}});
//! assert!(filter.matches(frame.as_object().expect("it is an object")));
//! let fault = Filter::parse("severity >= urgent", Scope::Feed).expect_err("there is no such severity");
//! assert_eq!(fault.to_string(), "at character 13: expected low, medium, high or critical, found `urgent`");
//! # Ok::<(), auditcast::filter::FilterError>(())
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `lex` | from text to words, texts, numbers and signs |
//! | `parse` | from these to tests and how they are joined; everything that can be wrong |
//! | `field` | the names, and what can be asked of each |
//! | `test` | one test: a field and what must hold of it |
//! | `weigh` | what reading a regular expression costs |
//! | `net` | addresses and networks |
//! | `glob` | `*` and `?` |

use std::fmt;

use serde_json::{Map, Value};

mod field;
mod glob;
mod lex;
mod net;
mod parse;
mod subject;
mod test;
mod weigh;

pub use field::{Field, Scope};
pub use glob::glob_matches;
pub use net::{Network, address};
pub use subject::{Seen, Subject, member};
use test::Test;

/// Longest expression, bytes.
pub const FILTER_BYTES_MAX: usize = 4096;
/// Tests in one expression.
pub const TESTS_MAX: usize = 128;
/// Parentheses and `not` within each other.
const DEPTH_MAX: usize = 32;

/// A compiled expression. Two that say the same, whatever their white space and parentheses, are equal.
#[derive(Clone)]
pub struct Filter {
    /// As it is printed, which is how it is told from others.
    text: Box<str>,
    expr: Expr,
}

/// How tests are joined.
#[derive(Clone)]
enum Expr {
    All(Box<[Expr]>),
    Any(Box<[Expr]>),
    Not(Box<Expr>),
    Test(Test),
}

impl Filter {
    /// Reads an expression. The error says where and what was expected.
    pub fn parse(text: &str, scope: Scope) -> Result<Filter, FilterError> {
        let expr = parse::expression(text, scope)?;
        Ok(Filter { text: expr.to_string().into(), expr })
    }

    /// Whether it holds of a subject. Every test of a field that is not there fails, but for `absent` and what is negated.
    pub fn matches(&self, subject: &impl Subject) -> bool {
        self.expr.holds(subject)
    }

    /// The expression in its normal form, which reads the same again.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.text)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Expr {
    /// One of its own kind within another is the same as its parts.
    fn all(parts: Vec<Expr>) -> Expr {
        let parts = parts.into_iter().flat_map(|part| match part {
            Expr::All(inner) => inner.into_vec(),
            other => vec![other],
        });
        Expr::joined(parts.collect(), Expr::All)
    }

    fn any(parts: Vec<Expr>) -> Expr {
        let parts = parts.into_iter().flat_map(|part| match part {
            Expr::Any(inner) => inner.into_vec(),
            other => vec![other],
        });
        Expr::joined(parts.collect(), Expr::Any)
    }

    fn joined(mut parts: Vec<Expr>, join: impl FnOnce(Box<[Expr]>) -> Expr) -> Expr {
        match parts.pop() {
            Some(alone) if parts.is_empty() => alone,
            last => {
                parts.extend(last);
                join(parts.into())
            }
        }
    }

    fn not(part: Expr) -> Expr {
        match part {
            Expr::Not(inner) => *inner,
            Expr::Test(test) if test.can_be_negated() => Expr::Test(test.negated()),
            other => Expr::Not(Box::new(other)),
        }
    }

    fn holds(&self, subject: &impl Subject) -> bool {
        match self {
            Expr::All(parts) => parts.iter().all(|part| part.holds(subject)),
            Expr::Any(parts) => parts.iter().any(|part| part.holds(subject)),
            Expr::Not(part) => !part.holds(subject),
            Expr::Test(test) => test.holds(subject),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Expr], word: &str| {
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    write!(f, " {word} ")?;
                }
                match part {
                    // `and` binds closer than `or`.
                    Expr::Any(_) => write!(f, "({part})")?,
                    part => write!(f, "{part}")?,
                }
            }
            Ok(())
        };
        match self {
            Expr::All(parts) => list(f, parts, "and"),
            Expr::Any(parts) => list(f, parts, "or"),
            Expr::Not(part) => match &**part {
                Expr::Test(test) => write!(f, "not {test}"),
                part => write!(f, "not ({part})"),
            },
            Expr::Test(test) => write!(f, "{test}"),
        }
    }
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The expression.
    source: String,
    /// Byte offset of what was not expected.
    at: usize,
    what: String,
}

/// Characters shown before and behind the one that is pointed at.
const AROUND_CHARS: usize = 60;

impl FilterError {
    fn new(source: &str, at: usize, what: impl Into<String>) -> FilterError {
        FilterError { source: source.to_owned(), at: source.floor_char_boundary(at), what: what.into() }
    }

    /// Characters before the one that is meant; the first is 1.
    pub fn character(&self) -> usize {
        self.source.get(..self.at).map_or(0, |before| before.chars().count()) + 1
    }

    /// What was expected, without the place.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Three lines for a terminal: the expression (its part around the place), an arrow, what was expected.
    pub fn pointed(&self) -> String {
        let (before, behind) = self.source.split_at_checked(self.at).unwrap_or((&self.source, ""));
        let line = |c: char| if c.is_control() { ' ' } else { c };
        let mut left: Vec<char> = before.chars().rev().take(AROUND_CHARS).map(line).collect();
        left.reverse();
        let left: String = left.into_iter().collect();
        let right: String = behind.chars().take(AROUND_CHARS).map(line).collect();
        format!("  {left}{right}\n  {}^ {}", " ".repeat(left.chars().count()), self.what)
    }
}

/// One line.
impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.character(), self.what)
    }
}

impl std::error::Error for FilterError {}

/// The members of a frame of ours, for [`Filter::matches`]; `None` where it is no object.
pub fn members(frame: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(frame).ok()
}
