//! What [`super::plain`] reads is what [`super::decode`] would have made of it, and most of what is written it does read.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Classifier, Details, Event, Invalid, Options, borrowed, details::Source, plain::Plain};

const NOW: u64 = 1_705_314_600_000;

/// Everything that can be asked of an event, as a text.
fn told(read: &Result<Event<'_>, Invalid>) -> String {
    let event = match read {
        Ok(event) => event,
        Err(why) => return format!("{why:?}"),
    };
    let asked = (event.ip_address(), event.session_id(), event.user_agent(), event.duration_ms().map(f64::to_bits));
    format!("{event:?}\n{asked:?}\n{}\n{:?}", event.message_line(), event.lists())
}

fn is_plain(read: &Result<Event<'_>, Invalid>) -> bool {
    matches!(read, Ok(Event { details: Details { source: Source::Envelope(_) | Source::Flat { .. }, .. }, .. }))
}

thread_local! {
    static CLASSIFIERS: RefCell<[Classifier; 3]> = RefCell::new(several_options().map(|options| Classifier::new(options).unwrap()));
}
/// The number of those of the contract.
const CONTRACT: usize = 0;

/// Whether it was read plainly; fails where that made a difference. The options are those of [`several_options`].
fn check(options: usize, fields: &[(Vec<u8>, Vec<u8>)]) -> bool {
    CLASSIFIERS.with_borrow_mut(|classifiers| check_with(&mut classifiers[options], fields))
}

fn check_with(classifier: &mut Classifier, fields: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let fields = borrowed(fields);
    let read = classifier.decode(&fields, NOW, &TimeZone::UTC);
    let odd = classifier.decode_odd(&fields, NOW, &TimeZone::UTC);
    assert!(!is_plain(&odd));
    assert_eq!(told(&read), told(&odd), "{:?}", fields.iter().map(|(n, v)| (lossy(n), lossy(v))).collect::<Vec<_>>());
    // And what it is told to hold without the entry.
    assert_eq!(told(&read.clone().map(Event::into_owned)), told(&odd));
    is_plain(&read)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn owned(fields: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn several_options() -> [Options; 3] {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    [
        Options::contract(),
        Options {
            mask: names(&["ip_address", "Status", "username", "x", "args", "größe", "original_timestamp"]),
            drop: names(&["session_id", "event_id", "y"]),
            event_may_lower: true,
            ..Options::contract()
        },
        Options { mask: names(&["details"]), drop: names(&["duration_ms"]), table: false, ..Options::contract() },
    ]
}

#[test]
fn entries_as_they_are_mostly_written_are_read_plainly() {
    let details = r#"{"ip_address": "192.168.1.100", "user_agent": "Mozilla/5.0 (X11; \"x\")", "session_id": "s", "duration_ms": 12.50,
        "ok": true, "roles": ["a", {"b": null}], "resource": "/api/\u00e4", "n": -3, "none": null}"#;
    let envelope = format!(
        r#"{{"event_type":"AUTH_FAILURE","timestamp":1705314600.5,"user_id":7,"username":"\u00e4","details":{details},"x":1}}"#
    );
    for fields in [
        owned(&[("event_type", "auth.failed"), ("timestamp", "2024-01-15T10:30:00Z"), ("user_id", "7"), ("details", details)]),
        owned(&[("event_type", "auth.failed"), ("username", "ä"), ("details", ""), ("ip_address", "::1"), ("session_id", "7")]),
        owned(&[("event_type", "authn_login_fail:bob"), ("details", "null"), ("x", "[1,2]"), ("timestamp", "soon")]),
        owned(&[("data", &envelope)]),
        owned(&[("event_type", "a"), ("details", r#"{"password":"p","deep":{"Token":"t"},"ip_address":"1"}"#)]),
    ] {
        assert!(check(CONTRACT, &fields));
    }
}

/// Values that have been trouble somewhere, as JSON and as flat fields.
const VALUES: [&str; 48] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "7",
    "-1",
    "1.50",
    "1e3",
    "1e400",
    "123456789012345678901234567890",
    "0.1",
    "12.345678901234567",
    "999999999999999",
    "9999999999999999",
    "18446744073709551616",
    "01",
    "1.",
    "-",
    "\"\"",
    "\" \"",
    "\"a\"",
    "\"failure\"",
    "\"DENIED\"",
    "\"true\"",
    "\"\\u00e4\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"\\n\"",
    "\"a\\\"b\"",
    "\"\\x\"",
    "\"1705314600\"",
    "\"null\"",
    "\"high\"",
    "\"Error\"",
    "{}",
    "[]",
    "{\"a\":1}",
    "{\"token\":\"t\"}",
    "{\"x\":{\"y\":[{\"Password\":1}]},\"z\":null}",
    "[1,\"a\",null]",
    "[{\"SESSION_ID\":2}]",
    "{\"a\":1,}",
    "{'a': 'b', 'token': 'c'}",
    "\"{\\\"ip_address\\\":\\\"1\\\"}\"",
    "1705314600.25",
    "\"2024-01-15T10:30:00\"",
    "NaN",
];
const NAMES: [&str; 28] = [
    "event_type",
    "timestamp",
    "user_id",
    "username",
    "event_id",
    "message",
    "severity",
    "details",
    "data",
    "payload",
    "outcome",
    "result",
    "status",
    "success",
    "ip_address",
    "session_id",
    "user_agent",
    "duration_ms",
    "password",
    "Token",
    "x",
    "X",
    "y",
    "args",
    "original_timestamp",
    "GRÖSSE",
    "größe",
    "text",
];
const TYPES: [&str; 6] = ["auth.failed", "login", " LOGIN_SUCCESS ", "authn_login_fail:bob,1", "x", ""];

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => prop::sample::select(VALUES.to_vec()).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| Value::String(text).to_string()),
        1 => any::<f64>().prop_map(|n| Value::from(n).to_string()),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => "[0-9]{1,20}[.][0-9]{1,22}",
    ]
}

/// The text of an object, members in their order, also the same name twice.
fn object(value: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = String> {
    let spaces = prop::sample::select(vec!["", "", "", " ", "\n\t"]);
    prop::collection::vec((prop::sample::select(NAMES.to_vec()), value, spaces), 0..most).prop_map(|members| {
        let members = members.into_iter().map(|(name, value, space)| format!("{space}\"{name}\"{space}:{space}{value}{space}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![5 => value(), 1 => object(value(), 5), 1 => object(object(value(), 3), 3)]
}

/// A flat value: JSON text as it is, or what stands in its quotes.
fn flat_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => any_value().prop_map(|text| text.trim_matches('"').to_owned().into_bytes()),
        1 => any_value().prop_map(|text| format!(" {text}\n").into_bytes()),
        1 => any_value().prop_map(|text| format!("\u{feff}{text}").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn flat_entries(
        kind in prop::sample::select(TYPES.to_vec()),
        mut fields in prop::collection::vec((prop::sample::select(NAMES[1..].to_vec()), flat_value()), 0..8),
        details in prop::option::weighted(0.8, object(any_value(), 6)),
        at in any::<prop::sample::Index>(),
        options in 0usize..3,
    ) {
        let at = at.index(fields.len() + 1);
        fields.insert(at, ("event_type", kind.as_bytes().to_vec()));
        if let Some(details) = details {
            fields.insert(at, ("details", details.into_bytes()));
        }
        let fields: Vec<_> = fields.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value)).collect();
        check(options, &fields);
    }

    #[test]
    fn envelopes(
        kind in prop::sample::select(TYPES.to_vec()),
        members in object(any_value(), 8),
        details in prop::option::weighted(0.8, object(any_value(), 6)),
        behind in object(any_value(), 4),
        options in 0usize..3,
    ) {
        let details = details.map_or_else(String::new, |details| format!("\"details\":{details},"));
        let front = format!("{}{}", members.trim_end_matches('}'), if members == "{}" { "" } else { "," });
        let text = format!("{front}\"event_type\":\"{kind}\",{details}\"z\":0,{}", &behind[1..]);
        for text in [text.replace(",}", "}"), text] {
            check(options, &owned(&[("data", &text)]));
            check(options, &owned(&[("event_type", &text)]));
        }
    }

    /// JSON with a byte changed is refused or read alike.
    #[test]
    fn broken_json(text in object(any_value(), 6), at in any::<prop::sample::Index>(), byte in 0u8..128) {
        let mut text = format!("{{\"event_type\":\"login\",\"details\":{text}}}").into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let fields = [(b"e".to_vec(), text.clone())];
        check(CONTRACT, &fields);
        check(CONTRACT, &[(b"event_type".to_vec(), b"login".to_vec()), (b"details".to_vec(), text)]);
    }
}

#[test]
fn nesting_is_followed_to_some_depth_and_read_by_others_beyond() {
    for depth in [1, 31, 32, 33, 47, 48, 60, 126, 127, 128, 200] {
        let nested = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let inside = format!("{{\"event_type\":\"a\",\"x\":{nested},\"details\":{{\"y\":{nested}}}}}");
        check(CONTRACT, &owned(&[("data", &inside)]));
        let plain = check(CONTRACT, &owned(&[("event_type", "a"), ("x", &nested), ("details", &format!("{{\"x\":{nested}}}"))]));
        assert_eq!(plain, depth <= 48, "{depth}");
    }
}

/// Unknown flat fields beyond those that have a place of their own.
#[test]
fn many_fields() {
    for n in 0..30 {
        let mut fields = owned(&[("event_type", "a"), ("x0", "b")]);
        fields.extend((0..n).map(|n| (format!("x{n}").into_bytes(), n.to_string().into_bytes())));
        assert!(check(CONTRACT, &fields), "{n}");
        let members: Map<String, Value> = (0..n).map(|n| (format!("x{n}"), json!(n))).collect();
        let details = Value::Object(members).to_string();
        assert!(check(CONTRACT, &owned(&[("event_type", "a"), ("details", &details)])), "{n}");
    }
    assert!(Plain::default().envelope("{}", &super::mask::Mask::nothing()).is_none());
}

/// Vectors from elsewhere, as the value of a member.
#[test]
fn vectors_are_read_alike() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(|parent| parent.join("shared").join("data"));
    let root = std::env::var_os("AUDITCAST_VECTORS").map(PathBuf::from).or_else(beside).unwrap_or_default();
    let Ok(files) = std::fs::read_dir(root.join("json-test-suite/test_parsing")) else {
        println!("not run: no vectors");
        return;
    };
    let mut seen = 0;
    for file in files {
        let Ok(vector) = std::fs::read(file.unwrap().path()) else { continue };
        if vector.len() > 32_000 {
            continue;
        }
        seen += 1;
        let around = |before: &str, after: &str| [before.as_bytes(), &vector, after.as_bytes()].concat();
        let named = (b"event_type".to_vec(), b"login".to_vec());
        for value in [
            vector.clone(),
            around("{\"event_type\":\"login\",\"details\":", "}"),
            around("{\"event_type\":\"login\",\"x\":", "}"),
            around("{\"event_type\":\"login\",\"ip_address\":", "}"),
            around("{\"event_type\":\"login\",\"user_id\":", "}"),
            around("{\"event_type\":\"login\",\"details\":{\"duration_ms\":", "}}"),
        ] {
            check(CONTRACT, &[(b"e".to_vec(), value.clone())]);
            for name in ["details", "data", "x"] {
                check(CONTRACT, &[named.clone(), (name.as_bytes().to_vec(), value.clone())]);
            }
        }
    }
    assert!(seen >= 300, "{seen}");
}
