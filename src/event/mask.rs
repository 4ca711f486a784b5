//! Members that must not be kept as they are (contract §3: masked names, `[privacy]`).

use serde_json::{Map, Value};

/// Masked always, in any case and at any depth.
pub const MASKED: [&str; 10] =
    ["password", "passwd", "secret", "token", "access_token", "refresh_token", "authorization", "cookie", "api_key", "totp"];

/// What stands in place of a masked value.
pub const MASK: &str = "***";

/// Objects and arrays deeper than this in `details` become their JSON text. What is read here is written into records that put it
/// deeper still, and those must stay readable: JSON readers give up at 128.
const DEPTH_MAX: usize = 32;

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Mask,
    Drop,
}

/// Names by their fate, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    mask: Vec<String>,
    drop: Vec<String>,
    /// By the length of a name: a bit for each first letter that one of the names has. Nearly every member is told by it.
    first: [u32; LETTERS_LEN],
}

/// Longer names are compared with each.
const LETTERS_LEN: usize = 64;

/// The bit of a letter, the same in either case; of other signs some bit.
fn bit(first: u8) -> u32 {
    1 << (first & 31)
}

impl Mask {
    /// `mask` counts beside [`MASKED`]; a name in both is dropped.
    pub(super) fn new(mask: &[String], drop: &[String]) -> Mask {
        let lower =
            |names: &[String]| names.iter().map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect();
        let (mask, drop): (Vec<String>, Vec<String>) = (lower(mask), lower(drop));
        let mut first = [0; LETTERS_LEN];
        for name in MASKED.into_iter().chain(mask.iter().chain(&drop).map(String::as_str)) {
            if let (Some(letters), Some(byte)) = (first.get_mut(name.len()), name.bytes().next()) {
                *letters |= bit(byte);
            }
        }
        Mask { mask, drop, first }
    }

    /// For what holds no name that is masked or dropped.
    pub(super) fn nothing() -> Mask {
        Mask { mask: Vec::new(), drop: Vec::new(), first: [0; LETTERS_LEN] }
    }

    #[inline]
    pub(super) fn fate(&self, name: &str) -> Fate {
        match (self.first.get(name.len()), name.bytes().next()) {
            (Some(letters), Some(byte)) if letters & bit(byte) == 0 && name.is_ascii() => Fate::Keep,
            _ => self.fate_by_name(name),
        }
    }

    /// Whether `details` as such is neither masked nor dropped.
    pub(super) fn keeps_details(&self) -> bool {
        self.fate("details") == Fate::Keep
    }

    fn fate_by_name(&self, name: &str) -> Fate {
        let lower;
        // Letters outside ASCII can have lower-case forms inside it (the Kelvin sign is a `k`).
        let name = match name.is_ascii() {
            true => name,
            false => {
                lower = name.to_lowercase();
                &lower
            }
        };
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        if self.drop.iter().any(|known| is(known)) {
            Fate::Drop
        } else if MASKED.into_iter().any(is) || self.mask.iter().any(|known| is(known)) {
            Fate::Mask
        } else {
            Fate::Keep
        }
    }

    /// Masks and drops members, removes those that are `null`, which count as absent, and flattens what is too deep.
    pub(super) fn apply(&self, members: &mut Map<String, Value>) {
        self.members(members, 1);
    }

    /// The same for whatever objects a value holds.
    pub(super) fn apply_inside(&self, value: &mut Value) {
        self.inside(value, 1);
    }

    fn members(&self, members: &mut Map<String, Value>, depth: usize) {
        members.retain(|name, value| {
            if value.is_null() {
                return false;
            }
            match self.fate(name) {
                Fate::Keep => self.inside(value, depth + 1),
                Fate::Mask => *value = Value::String(MASK.to_owned()),
                Fate::Drop => return false,
            }
            true
        });
    }

    /// Goes as deep as serde_json read, at most 128.
    fn inside(&self, value: &mut Value, depth: usize) {
        match value {
            Value::Object(members) => self.members(members, depth),
            Value::Array(values) => values.iter_mut().for_each(|value| self.inside(value, depth + 1)),
            _ => return,
        }
        if depth == DEPTH_MAX + 1 {
            *value = Value::String(value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mask: &[&str], drop: &[&str], before: Value, after: Value) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut value = before;
        Mask::new(&owned(mask), &owned(drop)).apply_inside(&mut value);
        assert_eq!(value, after);
    }

    #[test]
    fn the_ten_names_in_any_case_at_any_depth() {
        for name in MASKED {
            for name in [name.to_owned(), name.to_uppercase(), format!("{}{}", name[..1].to_uppercase(), &name[1..])] {
                for value in [json!("x"), json!(1), json!({"a": "x"}), json!(["x"]), json!(true)] {
                    check(&[], &[], json!({ &name: value }), json!({ &name: "***" }));
                    check(&[], &[], json!({"a": [[{"b": { &name: value }}]]}), json!({"a": [[{"b": { &name: "***" }}]]}));
                }
            }
        }
        check(&[], &[], json!({"to\u{212a}en": "x"}), json!({"to\u{212a}en": "***"}));
        check(&[], &[], json!({"tokens": 1, "password_age": 2}), json!({"tokens": 1, "password_age": 2}));
    }

    #[test]
    fn configured_names_and_null() {
        check(
            &["Ssn", "größe"],
            &["Debug"],
            json!({"sSN": 1, "GRÖSSE": 2, "GRÖßE": 3}),
            json!({"sSN": "***", "GRÖSSE": 2, "GRÖßE": "***"}),
        );
        check(&["a"], &["A"], json!({"a": 1, "b": {"A": 2, "c": 3}}), json!({"b": {"c": 3}}));
        check(&[], &[], json!({"a": null, "b": {"c": null}, "token": null, "d": [null]}), json!({"b": {}, "d": [null]}));
    }

    #[test]
    fn what_is_too_deep_becomes_text_and_is_masked_all_the_same() {
        let nested = |n: usize, inner: Value| (0..n).fold(inner, |value, _| json!({ "a": value }));
        check(&[], &[], nested(DEPTH_MAX, json!(1)), nested(DEPTH_MAX, json!(1)));
        check(&[], &[], nested(DEPTH_MAX + 1, json!(1)), nested(DEPTH_MAX, json!("{\"a\":1}")));
        let deep = nested(DEPTH_MAX, json!([{"b": [{"token": "x"}]}]));
        check(&[], &[], deep, nested(DEPTH_MAX, json!("[{\"b\":[{\"token\":\"***\"}]}]")));
    }
}
