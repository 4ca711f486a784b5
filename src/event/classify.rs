//! From a written name to everything that follows from it (contract §3), by patterns compiled once.

use std::{collections::HashMap, mem, sync::Arc};

use super::{
    EventType, Invalid, LIST_NAMES, Lists, Options, Outcome, PatternError, PatternFault, Severity,
    contract::{A_HIGH, HIGH, MEDIUM},
    mask::Mask,
    normal,
    pattern::{Pattern, Patterns, compile},
};

/// Longest event type, trimmed, with its arguments (contract §3).
pub const EVENT_TYPE_BYTES_MAX: usize = 256;

/// Names kept, in two generations of half as many each.
const NAMES_MAX: usize = 4096;

/// Room in [`Lists`].
const LISTS_MAX: usize = 64;

/// Reads and classifies events by one configuration. It has no state that shows: the names it keeps only save work.
#[derive(Debug)]
pub struct Classifier {
    lists: Vec<Patterns>,
    overrides: Vec<(Pattern, Severity)>,
    /// The rows of the severity table; `None` where `severity.defaults` is `"a"`.
    table: Option<Table>,
    pub(super) event_may_lower: bool,
    pub(super) mask: Arc<Mask>,
    names: Names,
}

#[derive(Debug)]
struct Table {
    high: Patterns,
    medium: Patterns,
}

/// What counts as one of these is at least `medium` by the table.
const MEDIUM_LISTS: Lists = Lists(Lists::FAILED_LOGIN.0 | Lists::RATE_LIMIT.0 | Lists::PERMISSION.0);

impl Classifier {
    /// Compiles the patterns. Fails on the first pattern that cannot be used, and on more than 64 lists.
    pub fn new(options: Options) -> Result<Classifier, PatternError> {
        let Options { lists, overrides, table, event_may_lower, mask, drop } = options;
        if lists.len() > LISTS_MAX {
            return Err(PatternError { list: list_name(LISTS_MAX), pattern: String::new(), fault: PatternFault::TooManyLists });
        }
        let lists = lists.iter().enumerate().map(|(bit, list)| Patterns::new(&list_name(bit), list)).collect::<Result<_, _>>()?;
        let overrides = overrides
            .iter()
            .map(|(pattern, severity)| Ok((compile("severity.overrides", pattern)?, *severity)))
            .collect::<Result<_, _>>()?;
        let table = match table {
            true => Some(Table { high: Patterns::of("high", HIGH)?, medium: Patterns::of("medium", MEDIUM)? }),
            false => None,
        };
        Ok(Classifier {
            lists,
            overrides,
            table,
            event_may_lower,
            mask: Arc::new(Mask::new(&mask, &drop)),
            names: Names::default(),
        })
    }

    /// What follows from a name as the application wrote it: shared where the name was seen before.
    ///
    /// Fails with [`Invalid::BadEventType`] unless the name, trimmed, has 1 to 256 bytes.
    pub fn event_type(&mut self, written: &str) -> Result<Arc<EventType>, Invalid> {
        // What is kept is kept under the trimmed name without arguments; most names are written just so.
        if let Some(kind) = self.names.young.get(written) {
            return Ok(Arc::clone(kind));
        }
        let trimmed = written.trim();
        if trimmed.is_empty() || trimmed.len() > EVENT_TYPE_BYTES_MAX {
            return Err(Invalid::BadEventType);
        }
        let (name, args) = normal::split_args(trimmed);
        let kind = match self.names.get(name) {
            Some(kind) => kind,
            None => {
                let kind = Arc::new(self.classify(name));
                self.names.insert(Arc::clone(&kind));
                kind
            }
        };
        // Names with arguments differ by user: they share what is kept under the bare name, and are not kept themselves.
        match args {
            Some(args) => Ok(Arc::new(EventType { args: Some(args.to_owned()), ..(*kind).clone() })),
            None => Ok(kind),
        }
    }

    fn classify(&self, name: &str) -> EventType {
        let normal = normal::normal(name);
        let matching = normal::matching(&normal);
        let lists = self.lists_of(&matching);
        let overridden = self.overrides.iter().find(|(pattern, _)| pattern.matches(&matching)).map(|(_, severity)| *severity);
        let severity = overridden.unwrap_or_else(|| {
            let by_table = self.table.as_ref().map_or(Severity::Low, |table| {
                if table.high.matches(&matching) {
                    Severity::High
                } else if lists.has(MEDIUM_LISTS) || table.medium.matches(&matching) {
                    Severity::Medium
                } else {
                    Severity::Low
                }
            });
            rule_of_a(&normal).max(by_table)
        });
        EventType {
            written: name.to_owned(),
            category: normal::category(&normal),
            lists,
            severity,
            severity_fixed: overridden.is_some(),
            outcome: Outcome::of_name(&matching),
            args: None,
            normal,
            matching,
        }
    }

    fn lists_of(&self, matching: &str) -> Lists {
        let mut lists = Lists::default();
        for (bit, patterns) in self.lists.iter().enumerate() {
            if patterns.matches(matching) {
                lists.0 |= 1 << bit;
            }
        }
        // A time-out ends the session, whatever patterns say what a time-out is.
        let ends = self.lists.get(Lists::SESSION_END.0.trailing_zeros() as usize);
        if lists.has(Lists::SESSION_TIMEOUT) && ends.is_some_and(|ends| !ends.excepts(matching)) {
            lists = lists.with(Lists::SESSION_END);
        }
        lists
    }

    /// Whether the table is in force (`severity.defaults = "full"`).
    pub(super) fn has_table(&self) -> bool {
        self.table.is_some()
    }
}

/// What the list of a bit is called in errors: the built-in name, else `list 8` and so on (the caller knows their names).
pub fn list_name(bit: usize) -> String {
    LIST_NAMES.get(bit).map_or_else(|| format!("list {bit}"), |name| (*name).to_owned())
}

/// A's rule on the normal form (document A, `_get_event_severity`).
fn rule_of_a(normal: &str) -> Severity {
    if A_HIGH.contains(&normal) {
        Severity::High
    } else if normal.contains("failed") || normal.contains("denied") {
        Severity::Medium
    } else {
        Severity::Low
    }
}

/// Names seen before. Whoever writes events chooses the names, so there is a bound, and a flood of new ones pushes out only
/// what has not been seen since the flood began: a name that is found in the older generation moves to the younger.
#[derive(Debug, Default)]
struct Names {
    young: HashMap<Box<str>, Arc<EventType>, ahash::RandomState>,
    old: HashMap<Box<str>, Arc<EventType>, ahash::RandomState>,
}

impl Names {
    fn get(&mut self, name: &str) -> Option<Arc<EventType>> {
        if let Some(kind) = self.young.get(name) {
            return Some(Arc::clone(kind));
        }
        let kind = self.old.remove(name)?;
        self.insert(Arc::clone(&kind));
        Some(kind)
    }

    fn insert(&mut self, kind: Arc<EventType>) {
        if self.young.len() >= NAMES_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(kind.written.as_str().into(), kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Category, PatternList};

    fn contract() -> Classifier {
        Classifier::new(Options::contract()).unwrap()
    }

    fn lists(classifier: &mut Classifier, name: &str) -> Lists {
        classifier.event_type(name).unwrap().lists
    }

    #[test]
    fn a_name_is_classified_whole() {
        let kind = contract().event_type(" authn_login_fail:bob ").unwrap();
        assert_eq!(
            *kind,
            EventType {
                written: "authn_login_fail".into(),
                normal: "authn.login_fail".into(),
                matching: "authn_login_fail".into(),
                category: Category::Auth,
                lists: Lists::FAILED_LOGIN,
                severity: Severity::Medium,
                severity_fixed: false,
                outcome: Outcome::Failure,
                args: Some("bob".into()),
            }
        );
    }

    #[test]
    fn names_have_1_to_256_bytes() {
        let mut classifier = contract();
        for bad in ["", "  ", &"a".repeat(257), &"ä".repeat(129)] {
            assert_eq!(classifier.event_type(bad).unwrap_err(), Invalid::BadEventType, "{bad:?}");
        }
        for good in ["a", &"a".repeat(256), &format!(" {} ", "a".repeat(256))] {
            assert!(classifier.event_type(good).is_ok(), "{good:?}");
        }
    }

    /// One name for each pattern of the contract, and for each exception.
    #[test]
    fn every_pattern_and_exception_of_the_contract() {
        let contract = Options::contract();
        let mut classifier = Classifier::new(contract.clone()).unwrap();
        for (bit, list) in contract.lists.iter().enumerate() {
            let bit = Lists(1 << bit);
            for pattern in &list.events {
                for filling in ["", "x", "x_y"] {
                    let name = pattern.replace('*', filling);
                    assert!(lists(&mut classifier, &name).has(bit), "{name} by {pattern}");
                }
                for except in &list.except {
                    // A name that both match: the event's pattern, `_`, the exception's.
                    let name = format!("{}_{}", pattern.replace('*', ""), except.replace('*', ""));
                    if pattern.ends_with('*') {
                        assert!(!lists(&mut classifier, &name).has(bit), "{name} excepted by {except}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_of_both_seeds_and_of_owasp_are_in_their_lists() {
        let mut classifier = contract();
        for (name, expected) in [
            ("AUTH_SUCCESS", Lists::SUCCESSFUL_LOGIN),
            ("AUTH_FAILURE", Lists::FAILED_LOGIN),
            ("auth.failed", Lists::FAILED_LOGIN),
            ("auth.login_failed", Lists::FAILED_LOGIN),
            ("LoginFailed", Lists::FAILED_LOGIN),
            ("failed-login", Lists::FAILED_LOGIN),
            ("user.login", Lists::SUCCESSFUL_LOGIN),
            ("authn_login_success:bob", Lists::SUCCESSFUL_LOGIN),
            ("authn_login_fail_max:bob,3", Lists::SUSPICIOUS),
            ("auth.multiple_failed_attempts", Lists::SUSPICIOUS),
            ("auth.suspicious_activity", Lists::SUSPICIOUS),
            ("permission.escalation_attempt", Lists::SUSPICIOUS.with(Lists::PERMISSION)),
            ("security.injection_attempt", Lists::SUSPICIOUS),
            ("RATE_LIMIT_EXCEEDED", Lists::RATE_LIMIT),
            ("rate_limit.config_changed", Lists::default()),
            ("rate_limit.reset", Lists::default()),
            ("permission.denied", Lists::PERMISSION),
            ("authz_fail:bob,/x", Lists::PERMISSION),
            ("session.created", Lists::SESSION_OPEN),
            ("session.timeout", Lists::SESSION_TIMEOUT.with(Lists::SESSION_END)),
            ("session.expired", Lists::SESSION_TIMEOUT.with(Lists::SESSION_END)),
            ("session.destroyed", Lists::SESSION_END),
            ("user.logout", Lists::SESSION_END),
            ("login_failed_mfa", Lists::default()),
            ("mfa.failed", Lists::default()),
            ("data.export", Lists::default()),
        ] {
            assert_eq!(lists(&mut classifier, name), expected, "{name}");
        }
    }

    #[test]
    fn severity_is_the_highest_of_rule_and_table() {
        let mut full = contract();
        let mut only_a = Classifier::new(Options { table: false, ..Options::contract() }).unwrap();
        for (name, a, table) in [
            ("auth.multiple_failed_attempts", Severity::High, Severity::High),
            ("auth.suspicious_activity", Severity::High, Severity::High),
            ("permission.escalation_attempt", Severity::High, Severity::High),
            ("security.injection_attempt", Severity::High, Severity::High),
            ("auth.failed", Severity::Medium, Severity::Medium),
            ("access.denied", Severity::Medium, Severity::Medium),
            ("AUTH_FAILURE", Severity::Low, Severity::Medium),
            ("rate_limit.exceeded", Severity::Low, Severity::Medium),
            ("api.unauthorized", Severity::Low, Severity::Medium),
            ("user.brute_force_detected", Severity::Low, Severity::High),
            ("malicious_sqli:bob", Severity::Low, Severity::High),
            ("account.locked", Severity::Low, Severity::Medium),
            ("something.suspicious", Severity::Low, Severity::Medium),
            ("user.created", Severity::Low, Severity::Low),
        ] {
            let of_a = only_a.event_type(name).unwrap();
            let of_table = full.event_type(name).unwrap();
            assert_eq!((of_a.severity, of_table.severity), (a, table), "{name}");
            assert!(!of_a.severity_fixed && !of_table.severity_fixed);
        }
        for (row, severity) in [(HIGH, Severity::High), (MEDIUM, Severity::Medium)] {
            for pattern in row {
                let name = pattern.replace('*', "x");
                assert!(full.event_type(&name).unwrap().severity >= severity, "{name}");
            }
        }
    }

    #[test]
    fn the_first_override_that_matches_decides() {
        let overrides = vec![
            ("auth.failed".to_owned(), Severity::Critical),
            ("auth*".to_owned(), Severity::Low),
            ("*".to_owned(), Severity::High),
        ];
        let mut classifier = Classifier::new(Options { overrides, ..Options::contract() }).unwrap();
        for (name, severity) in
            [("AUTH_FAILED", Severity::Critical), ("auth.multiple_failed_attempts", Severity::Low), ("x", Severity::High)]
        {
            let kind = classifier.event_type(name).unwrap();
            assert_eq!((kind.severity, kind.severity_fixed), (severity, true), "{name}");
        }
    }

    #[test]
    fn own_lists_take_the_bits_behind() {
        let mut options = Options::contract();
        options.lists.push(PatternList { events: vec!["payment.*".into()], except: vec!["*_ok".into()] });
        let mut classifier = Classifier::new(options.clone()).unwrap();
        assert_eq!(lists(&mut classifier, "payment.refused"), Lists(1 << Lists::FIRST_OWN));
        assert_eq!(lists(&mut classifier, "payment.ok"), Lists::default());

        options.lists.push(PatternList { events: vec!["a?".into()], except: vec![] });
        let error = Classifier::new(options.clone()).unwrap_err();
        assert_eq!((error.list.as_str(), error.pattern.as_str()), ("list 9", "a?"));
        options.lists.resize(65, PatternList::default());
        assert_eq!(Classifier::new(options).unwrap_err().fault, PatternFault::TooManyLists);
    }

    #[test]
    fn names_are_shared_and_bounded() {
        let mut classifier = contract();
        let first = classifier.event_type("auth.success").unwrap();
        for i in 0..3 * NAMES_MAX {
            classifier.event_type(&format!("flood_{i}")).unwrap();
            assert!(Arc::ptr_eq(&first, &classifier.event_type("auth.success").unwrap()));
            assert!(classifier.names.young.len() + classifier.names.old.len() <= NAMES_MAX);
        }
        assert_eq!(classifier.event_type("flood_0").unwrap().normal, "flood.0");
    }
}
