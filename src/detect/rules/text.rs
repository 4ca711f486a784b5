//! Messages of rules.

use super::{By, Rule};
use crate::{
    detect::{
        cut::cut,
        threshold::{number, shown_window},
    },
    event::one_line,
};

/// Words that a message may have in braces beside the fields of `by`.
pub const TEMPLATE_WORDS: [&str; 5] = ["value", "name", "window", "threshold", "entity"];

/// Of one value that is filled in.
const FILLED_BYTES_MAX: usize = 128;

/// The words in braces, as they stand.
pub fn template_words(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).map(|behind| behind.split_once('}').map_or(behind, |(word, _)| word))
}

/// The message of an entity at a value; `parts` are what its `by` has.
pub(super) fn message(rule: &Rule, parts: &[&str], value: Option<f64>) -> String {
    let template = rule.message.as_deref().unwrap_or(if rule.by.is_empty() { "{name}" } else { "{name}: {entity}" });
    let mut text = String::with_capacity(template.len() + 32);
    let mut rest = template;
    // One pass, so that what is filled in is never read as a template.
    while let Some((before, behind)) = rest.split_once('{') {
        text.push_str(before);
        let (word, after) = behind.split_once('}').unwrap_or((behind, ""));
        match word {
            "value" => text.push_str(&value.map_or_else(|| "1".to_owned(), number)),
            "name" => text.push_str(&rule.name),
            "window" => text.push_str(&shown_window(rule.window_ms)),
            "threshold" => text.push_str(&rule.kind.threshold().map(number).unwrap_or_default()),
            "entity" => text.push_str(&entity(parts)),
            field => {
                let at = rule.by.iter().position(|by: &By| by.to_string() == field);
                text.push_str(cut(at.and_then(|at| parts.get(at)).copied().unwrap_or(""), FILLED_BYTES_MAX));
            }
        }
        rest = after;
    }
    text.push_str(rest);
    one_line(&text)
}

/// All parts in one line.
pub(super) fn entity(parts: &[&str]) -> String {
    parts.iter().map(|part| cut(part, FILLED_BYTES_MAX)).collect::<Vec<_>>().join(", ")
}
