//! Patterns on the matching form: `*` is any text, also none; everything else stands for itself (contract §3, "Patterns").

use std::fmt;

use super::{
    PatternList,
    normal::{fold, matching},
};

/// Longest pattern, as long as the longest name.
const PATTERN_BYTES_MAX: usize = 256;

/// One pattern, compiled: the texts between its `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// What the name begins with; all of it where `tail` is `None`.
    head: String,
    /// Texts that follow in this order, none empty.
    middle: Vec<String>,
    /// What the name ends with; `None` where there is no `*`.
    tail: Option<String>,
}

impl Pattern {
    /// Patterns are folded as names are, so `Auth.Fail*` means `auth_fail*`.
    pub(super) fn new(written: &str) -> Result<Pattern, PatternFault> {
        let written = written.trim();
        if written.is_empty() {
            return Err(PatternFault::Empty);
        }
        if written.len() > PATTERN_BYTES_MAX {
            return Err(PatternFault::TooLong);
        }
        // No other glob sign exists here, and `?` in a name is next to unheard of: it would be a list that never matches.
        if written.contains('?') {
            return Err(PatternFault::QuestionMark);
        }
        if written.chars().any(char::is_control) {
            return Err(PatternFault::Control);
        }
        let folded = matching(&fold(written));
        let mut parts = folded.split('*').map(str::to_owned);
        let head = parts.next().unwrap_or_default();
        let mut middle: Vec<String> = parts.collect();
        let tail = middle.pop();
        middle.retain(|part| !part.is_empty());
        Ok(Pattern { head, middle, tail })
    }

    /// Whether the whole name matches. Each text is taken where it is first found, which is enough when `*` is the only sign;
    /// so no name makes this go back.
    pub(super) fn matches(&self, name: &str) -> bool {
        let Some(tail) = &self.tail else { return name == self.head };
        let Some(mut rest) = name.strip_prefix(self.head.as_str()).and_then(|rest| rest.strip_suffix(tail.as_str())) else {
            return false;
        };
        for part in &self.middle {
            match rest.split_once(part.as_str()) {
                Some((_, behind)) => rest = behind,
                None => return false,
            }
        }
        true
    }
}

/// A compiled [`PatternList`].
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    events: Vec<Pattern>,
    except: Vec<Pattern>,
}

impl Patterns {
    /// `list` is what the error calls it.
    pub(super) fn new(list: &str, patterns: &PatternList) -> Result<Patterns, PatternError> {
        let compile = |patterns: &[String]| patterns.iter().map(|pattern| compile(list, pattern)).collect::<Result<Vec<_>, _>>();
        Ok(Patterns { events: compile(&patterns.events)?, except: compile(&patterns.except)? })
    }

    /// As the classifier compiles its lists; `list` is what the error calls it.
    pub fn compile(list: &str, patterns: &PatternList) -> Result<Patterns, PatternError> {
        Patterns::new(list, patterns)
    }

    /// Whether one of `events` matches, whatever `except` says.
    pub fn includes(&self, name: &str) -> bool {
        self.events.iter().any(|pattern| pattern.matches(name))
    }

    pub(super) fn of(list: &str, patterns: &[&str]) -> Result<Patterns, PatternError> {
        let events = patterns.iter().map(|pattern| compile(list, pattern)).collect::<Result<Vec<_>, _>>()?;
        Ok(Patterns { events, except: Vec::new() })
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.includes(name) && !self.excepts(name)
    }

    /// Whether one of `except` matches.
    pub fn excepts(&self, name: &str) -> bool {
        self.except.iter().any(|pattern| pattern.matches(name))
    }
}

/// Whether a pattern can be used, without compiling a list.
pub fn check_pattern(pattern: &str) -> Result<(), PatternFault> {
    Pattern::new(pattern).map(drop)
}

pub(super) fn compile(list: &str, pattern: &str) -> Result<Pattern, PatternError> {
    Pattern::new(pattern).map_err(|fault| PatternError { list: list.to_owned(), pattern: pattern.to_owned(), fault })
}

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// The list's name ([`super::list_name`]) or `severity.overrides`.
    pub list: String,
    /// The pattern as it was written.
    pub pattern: String,
    pub fault: PatternFault,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternFault {
    Empty,
    /// Over 256 bytes, so no name can match.
    TooLong,
    /// `?` is no wildcard here.
    QuestionMark,
    Control,
    /// There is room for 64 lists, the built-in eight included.
    TooManyLists,
}

impl fmt::Display for PatternFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternFault::Empty => f.write_str("it is empty"),
            PatternFault::TooLong => write!(f, "it has more than {PATTERN_BYTES_MAX} bytes"),
            PatternFault::QuestionMark => f.write_str("`*` is the only wildcard"),
            PatternFault::Control => f.write_str("it has a control character"),
            PatternFault::TooManyLists => f.write_str("there is room for 64 lists"),
        }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PatternError { list, pattern, fault } = self;
        if *fault == PatternFault::TooManyLists {
            return write!(f, "`{list}` is one list of patterns too many: {fault}");
        }
        let start: String = pattern.chars().take(40).collect();
        let more = if start.len() < pattern.len() { "…" } else { "" };
        write!(f, "`{list}` cannot use the pattern {start:?}{more}: {fault}")
    }
}

impl std::error::Error for PatternFault {}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_is_any_text_and_the_whole_name_matches() {
        for (pattern, name, expected) in [
            ("login", "login", true),
            ("login", "logins", false),
            ("login", "a_login", false),
            ("auth_fail*", "auth_fail", true),
            ("auth_fail*", "auth_failed", true),
            ("auth_fail*", "x_auth_fail", false),
            ("*_error", "_error", true),
            ("*_error", "error", false),
            ("*_error", "x_error_y", false),
            ("*login*fail*", "login_failed", true),
            ("*login*fail*", "user_login_has_failed_twice", true),
            ("*login*fail*", "failed_login", false),
            ("permission_*_denied", "permission_x_denied", true),
            ("permission_*_denied", "permission_denied", false),
            ("permission_*_denied", "permission__denied", true),
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("*", "", true),
            ("*", "x", true),
            ("**", "x", true),
            ("a**b", "ab", true),
            ("*a*a*", "a", false),
            ("*a*a*", "aa", true),
            ("*ab*b", "xabb", true),
            ("*ab*b", "xab", false),
            // Written as names may be written.
            ("Auth.Fail*", "auth_failed", true),
            ("loginFailed", "login_failed", true),
            ("login-failed", "login_failed", true),
            (" login ", "login", true),
            ("*ä*", "bär", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn except_wins() {
        let list = PatternList { events: vec!["*a*".into()], except: vec!["*_ok".into()] };
        let patterns = Patterns::new("x", &list).unwrap();
        assert!(patterns.matches("a_b"));
        assert!(!patterns.matches("a_ok"));
        assert!(!patterns.matches("b"));
    }

    #[test]
    fn a_bad_pattern_says_which_and_why() {
        let long = "a".repeat(257);
        for (pattern, fault, text) in [
            ("", PatternFault::Empty, "`x` cannot use the pattern \"\": it is empty"),
            (" ", PatternFault::Empty, "`x` cannot use the pattern \" \": it is empty"),
            ("a?b", PatternFault::QuestionMark, "`x` cannot use the pattern \"a?b\": `*` is the only wildcard"),
            ("a\u{0}b", PatternFault::Control, "`x` cannot use the pattern \"a\\0b\": it has a control character"),
            (
                long.as_str(),
                PatternFault::TooLong,
                "`x` cannot use the pattern \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"…: it has more than 256 bytes",
            ),
        ] {
            let error = compile("x", pattern).unwrap_err();
            assert_eq!((error.fault, error.to_string().as_str()), (fault, text));
        }
    }

    #[test]
    fn many_stars_on_a_long_name_end_at_once() {
        let pattern = Pattern::new(&"*a".repeat(127)).unwrap();
        let name = format!("{0}b{0}", "a".repeat(126));
        assert!(pattern.matches(&name));
        let mut blunt = "a".repeat(254);
        blunt.push('b');
        assert!(!pattern.matches(&blunt));
    }
}
