//! `[rule.NAME]` and `[rules]`: the built-in rules, those of the rule files, and what the configuration changes in either.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    ask::{Ask, quoted, shown_duration},
    detection::{self, RULES_TAKEN, labels, ms, pattern_list},
    fault::nearest,
    rooms::{ask_severity, is_name},
    url,
};
use crate::{
    detect::{AT_LEAST_MAX, Allowed, By, DISTINCT_MAX, Matcher, Rule, RuleKind, TEMPLATE_WORDS, template_words},
    event::{Lists, Severity},
    filter::{Field, Filter, Scope},
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const WINDOW_MAX: Duration = Duration::from_secs(90 * 86_400);
const RULES_MAX: usize = 1000;
const BY_MAX: usize = 4;
const FIELDS_MAX: usize = 8;
const TAGS_MAX: usize = 16;
const USERS_MAX: usize = 10_000;
const NETWORKS_MAX: usize = 1000;
const MESSAGE_CHARS_MAX: usize = 512;
const TEXT_CHARS_MAX: usize = 512;

const KINDS: [&str; 12] =
    ["match", "count", "distinct", "sum", "avg", "p95", "ratio", "spike", "sequence", "change", "new", "absence"];

/// Every rule, whether it is on or not, by name; `lists` are the names of the metrics' lists with their bits, `thresholds` the
/// names that are taken.
pub(super) fn rules(root: &Ask<'_>, lists: &[(String, Lists)], thresholds: &[String]) -> Vec<Rule> {
    let section = root.section("rule");
    let names = section.names();
    let known: Vec<&str> = names.iter().map(String::as_str).filter(|name| section.section(name).has("kind")).collect();
    let mut rules = Vec::new();
    for name in &names {
        if !is_name(name) {
            section.fault(name, format!("expected a name of 1 to 64 of a-z, 0-9 and _, found {}", quoted(name)));
        } else if RULES_TAKEN.contains(&name.as_str()) {
            section.fault(name, format!("the name \"{name}\" is taken by a rule of auditcast's own"));
        } else if thresholds.contains(name) {
            section.fault(name, format!("the name \"{name}\" is taken by a threshold"));
        }
        let ask = section.section(name);
        rules.extend(rule(name, &ask, lists, &known));
        ask.done();
    }
    if names.len() > RULES_MAX {
        let last = names.last().map_or("", String::as_str);
        section.fault(last, format!("expected at most {RULES_MAX} rules, found {}", names.len()));
    }
    rules
}

/// `[rules]`: the shared allow lists. The directory has been read before.
pub(super) fn allowed(root: &Ask<'_>) -> Allowed {
    let section = root.section("rules");
    section.text_where("dir", "a path, or \"\" for none", |_| true);
    let users: BTreeSet<String> = section.texts("allow_users").into_iter().map(|(user, _)| user).collect();
    if users.len() > USERS_MAX {
        section.fault("allow_users", format!("expected at most {USERS_MAX} users, found {}", users.len()));
    }
    let mut networks = Vec::new();
    for (text, origin) in section.texts("allow_networks") {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(what) => section.fault_at(origin, &section.key("allow_networks"), what),
        }
    }
    if networks.len() > NETWORKS_MAX {
        section.fault("allow_networks", format!("expected at most {NETWORKS_MAX} networks, found {}", networks.len()));
    }
    section.done();
    Allowed { users, networks }
}

fn rule(name: &str, ask: &Ask<'_>, lists: &[(String, Lists)], known: &[&str]) -> Option<Rule> {
    if !ask.has("kind") {
        let meant = nearest(name, known.iter().copied()).map(|near| format!(", did you mean {}?", quoted(near)));
        let text = format!(
            "expected one of {}, found nothing; without one there is no rule {} yet{}",
            KINDS.map(|kind| format!("\"{kind}\"")).join(", "),
            quoted(name),
            meant.unwrap_or_default()
        );
        ask.passed("kind");
        ask.fault("kind", text);
        // Whatever else is set was meant for another rule.
        ask.names().iter().for_each(|name| ask.passed(name));
        return None;
    }
    let word = ask.word("kind", &KINDS);
    let on = matcher(ask, lists);
    let by = by(ask);
    let window = if ask.has("window") { ask.duration("window", SECOND, WINDOW_MAX) } else { Duration::from_secs(3600) };
    let kind = kind(&word, ask, lists);
    let instant = matches!(word.as_str(), "match" | "sequence" | "change" | "new");
    if !ask.has("window") && !matches!(word.as_str(), "match" | "") {
        ask.fault("window", format!("expected a duration of up to {}, found nothing", shown_duration(WINDOW_MAX)));
    }
    if by.is_empty() && matches!(word.as_str(), "change" | "new") {
        ask.fault("by", format!("expected what tells entities apart, such as [\"user\"], for a rule of kind \"{word}\""));
    }
    let time = |key: &str, default: Duration, max: Duration| {
        if ask.has(key) { ask.duration(key, Duration::ZERO, max) } else { default }
    };
    let for_ms = ms(time("for", Duration::ZERO, DAY * 7));
    if for_ms > 0 && (instant || word == "absence") {
        ask.fault("for", format!("expected no `for`: a rule of kind \"{word}\" is crossed for an instant"));
    }
    let clear_at = ask.number("clear_at");
    if clear_at.is_some() && (instant || word == "absence") {
        ask.fault("clear_at", format!("expected no `clear_at`: a rule of kind \"{word}\" has no value"));
    }
    let mut severity_if = Vec::new();
    for severity in Severity::ALL {
        let key = format!("{}_if", severity.as_str());
        severity_if.extend(filter(ask, &key).map(|filter| (severity, filter)));
    }
    let message = ask.has("message").then(|| message(ask, &by));
    if ask.has("description") {
        text(ask, "description");
    }
    let rule = Rule {
        name: name.to_owned(),
        kind: kind?,
        on: on?,
        by,
        window_ms: ms(window),
        for_ms,
        keep_firing_for_ms: ms(time("keep_firing_for", Duration::from_secs(300), DAY * 7)),
        clear_at,
        suppress_ms: ms(time("suppress", Duration::ZERO, WINDOW_MAX)),
        severity: if ask.has("severity") { ask_severity(ask, "severity") } else { Severity::Medium },
        severity_if,
        message,
        labels: if ask.has("labels") { labels(&ask.section("labels")) } else { BTreeMap::new() },
        tags: tags(ask),
        runbook_url: if ask.has("runbook_url") {
            ask.parsed("runbook_url", "an http(s) URL", |text| url::http_url(text).map(|_| text.to_owned()))
        } else {
            None
        },
        allow_lists: if ask.has("allow_lists") { ask.boolean("allow_lists") } else { true },
        enabled: if ask.has("enabled") { ask.boolean("enabled") } else { true },
    };
    if let (Some(clear_at), Some(at_least)) = (clear_at, rule.kind.threshold())
        && clear_at >= at_least
    {
        ask.fault("clear_at", format!("expected less than {at_least}, where it fires"));
    }
    Some(rule)
}

fn kind(word: &str, ask: &Ask<'_>, lists: &[(String, Lists)]) -> Option<RuleKind> {
    let count = |key: &str, default: Option<u64>, min: u64, max: u64| match default {
        Some(default) if !ask.has(key) => default,
        _ => ask.integer(key, min, max),
    };
    let number = |key: &str| {
        let number = ask.number(key);
        if number.is_none() && !ask.has(key) {
            ask.fault(key, "expected a number, found nothing");
        }
        number.unwrap_or_default()
    };
    Some(match word {
        "match" => RuleKind::Match,
        "count" => RuleKind::Count { at_least: count("at_least", None, 1, AT_LEAST_MAX) },
        "distinct" => RuleKind::Distinct {
            of: field(ask, "of")?,
            at_least: count("at_least", None, 2, DISTINCT_MAX),
            min_count: count("min_count", Some(0), 0, AT_LEAST_MAX),
            each_at_most: ask.has("each_at_most").then(|| count("each_at_most", None, 1, 1000)),
        },
        "sum" => RuleKind::Sum { of: field(ask, "of")?, at_least: number("at_least") },
        "avg" => RuleKind::Average {
            of: field(ask, "of")?,
            at_least: number("at_least"),
            min_count: count("min_count", Some(1), 1, 1_000_000_000),
        },
        "p95" => RuleKind::P95 {
            of: field(ask, "of")?,
            at_least: number("at_least"),
            min_count: count("min_count", Some(20), 1, 1024),
        },
        "ratio" => {
            let hits = filter(ask, "hits");
            if hits.is_none() && !ask.has("hits") {
                ask.fault("hits", "expected an expression, such as 'outcome = failure', found nothing");
            }
            let (at_least, min_count) = (number("at_least"), count("min_count", Some(1), 1, 1_000_000_000));
            if !(0.0..=1.0).contains(&at_least) {
                ask.fault("at_least", format!("expected a part from 0 to 1, found {at_least}"));
            }
            RuleKind::Ratio { hits: hits?, at_least, min_count }
        }
        "spike" => RuleKind::Spike { at_least: number("at_least"), min_count: count("min_count", Some(1), 1, 1_000_000_000) },
        "sequence" => {
            let after = ask.section("after");
            if !ask.has("after") {
                ask.fault(
                    "after",
                    "expected a table, such as { lists = [\"failed_logins_last_hour\"], at_least = 5 }, found nothing",
                );
            }
            let at_least = if after.has("at_least") { after.integer("at_least", 1, AT_LEAST_MAX) } else { 1 };
            let matcher = matcher(&after, lists);
            after.done();
            RuleKind::Sequence { after: matcher?, at_least }
        }
        "change" => RuleKind::Change { of: fields(ask, "of") },
        "new" => RuleKind::New {
            of: field(ask, "of")?,
            learn_ms: if ask.has("learn") { ms(ask.duration("learn", Duration::ZERO, WINDOW_MAX)) } else { 0 },
        },
        "absence" => RuleKind::Absence { min_count: count("min_count", Some(1), 1, 1_000_000_000) },
        _ => return None,
    })
}

fn matcher(ask: &Ask<'_>, lists: &[(String, Lists)]) -> Option<Matcher> {
    let patterns = pattern_list(ask, None);
    let mut bits = Lists::default();
    for (name, origin) in ask.texts("lists") {
        match lists.iter().find(|(known, _)| *known == name) {
            Some((_, bit)) => bits = bits.with(*bit),
            None => {
                let near = nearest(&name, lists.iter().map(|(name, _)| name.as_str()));
                let near = near.map(|near| format!(", did you mean \"{near}\"?")).unwrap_or_default();
                ask.fault_at(origin, &ask.key("lists"), format!("there is no list of a metric {}{near}", quoted(&name)));
            }
        }
    }
    let filter = filter(ask, "where");
    Matcher::new(patterns, bits, filter).map_err(|error| ask.fault("events", error.to_string())).ok()
}

/// An expression, if the key is there.
fn filter(ask: &Ask<'_>, key: &str) -> Option<Filter> {
    if !ask.has(key) {
        return None;
    }
    let text = ask.text_where(key, "an expression in quotes", |_| true);
    match Filter::parse(&text, Scope::Event) {
        Ok(filter) => Some(filter),
        Err(fault) => {
            // An empty one is told already, or never meant.
            ask.fault(key, fault.to_string());
            None
        }
    }
}

fn field(ask: &Ask<'_>, key: &str) -> Option<Field> {
    ask.parsed(key, "a field of an event, such as \"user\" or \"details.resource\"", Field::parse)
}

fn fields(ask: &Ask<'_>, key: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    for (text, origin) in ask.texts(key) {
        match Field::parse(&text) {
            Some(field) => fields.push(field),
            None => {
                let text =
                    format!("expected a field of an event, such as \"user\" or \"details.resource\", found {}", quoted(&text));
                ask.fault_at(origin, &ask.key(key), text);
            }
        }
    }
    if fields.is_empty() || fields.len() > FIELDS_MAX {
        ask.fault(key, format!("expected a list of 1 to {FIELDS_MAX} fields, such as [\"ip_address\", \"user_agent\"]"));
    }
    fields
}

fn by(ask: &Ask<'_>) -> Vec<By> {
    let mut by: Vec<By> = Vec::new();
    for (text, origin) in ask.texts("by") {
        match By::parse(&text) {
            Ok(one) if by.contains(&one) => ask.fault_at(origin, &ask.key("by"), format!("{} stands twice", quoted(&text))),
            Ok(one) => by.push(one),
            Err(what) => ask.fault_at(origin, &ask.key("by"), format!("{what}, found {}", quoted(&text))),
        }
    }
    if by.len() > BY_MAX {
        ask.fault("by", format!("expected at most {BY_MAX} fields, found {}", by.len()));
    }
    by
}

fn text(ask: &Ask<'_>, key: &str) -> String {
    let expected = format!("a text of 1 to {TEXT_CHARS_MAX} characters on one line");
    ask.text_where(key, &expected, |text| {
        (1..=TEXT_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    })
}

fn message(ask: &Ask<'_>, by: &[By]) -> String {
    let expected = format!("a text of 1 to {MESSAGE_CHARS_MAX} characters on one line");
    let text = ask.text_where("message", &expected, |text| {
        (1..=MESSAGE_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    });
    let fields: Vec<String> = by.iter().map(By::to_string).collect();
    let known = |word: &str| TEMPLATE_WORDS.contains(&word) || fields.iter().any(|field| field == word);
    if let Some(word) = template_words(&text).find(|word| !known(word)) {
        let words: Vec<String> =
            TEMPLATE_WORDS.iter().copied().chain(fields.iter().map(String::as_str)).map(|word| format!("{{{word}}}")).collect();
        let found = quoted(&format!("{{{word}}}"));
        ask.fault("message", format!("expected only {} in braces, found {found}", words.join(", ")));
    }
    text
}

fn tags(ask: &Ask<'_>) -> Vec<String> {
    let tags: Vec<String> = ask.texts("tags").into_iter().map(|(tag, _)| tag).collect();
    let good = |tag: &String| (1..=64).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic());
    if tags.len() > TAGS_MAX || !tags.iter().all(good) {
        ask.fault("tags", format!("expected at most {TAGS_MAX} texts of 1 to 64 letters, digits and signs"));
    }
    tags
}

/// The lists of the metrics by name, those of the user's own behind the built-in ones.
pub(super) fn lists(own: &[String]) -> Vec<(String, Lists)> {
    let built_in = detection::LISTS.iter().map(|(name, list, _)| ((*name).to_owned(), *list));
    let own =
        (Lists::FIRST_OWN..).zip(own).filter(|(bit, _)| *bit < u64::BITS).map(|(bit, name)| (name.clone(), Lists(1 << bit)));
    built_in.chain(own).collect()
}
