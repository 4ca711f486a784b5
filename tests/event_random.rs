//! Whatever stands in an entry, reading it ends in an event or a reason, never in a panic; and what is read keeps the promises
//! that others build on.

use auditcast::event::{
    Classifier, ENTRY_BYTES_MAX, Event, Invalid, MASK, MASKED, MESSAGE_CHARS_MAX, Options, PatternList, borrowed, parse_ms,
};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Map, Value};

const NOW: u64 = 1_705_314_600_000;

fn classifier() -> Classifier {
    Classifier::new(Options::contract()).unwrap()
}

/// Names and values near those that mean something.
fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let names = prop::sample::select(vec![
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
        "success",
        "password",
        "duration_ms",
        "ip_address",
        "x",
    ]);
    let values = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<String>().prop_map(String::into_bytes),
        json().prop_map(|value| value.to_string().into_bytes()),
        prop::sample::select(vec![
            "login_failed",
            "NaN",
            "null",
            "-",
            "1705314600",
            "2024-01-15T10:30:00",
            "{",
            "true",
            "\u{feff}{}"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        9 => (names.prop_map(|name| name.as_bytes().to_vec()), values.clone()),
        1 => (prop::collection::vec(any::<u8>(), 0..8), values),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "event_type",
            "details",
            "user_id",
            "token",
            "Password",
            "session_id",
            "severity",
            "timestamp"
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What holds of every event that was read.
fn promises(event: &Event<'_>) {
    let kind = &event.kind;
    assert!(!kind.normal.is_empty() && kind.matching == kind.normal.replace('.', "_"));
    let line = event.message_line();
    assert!(line.chars().count() <= MESSAGE_CHARS_MAX && !line.chars().any(char::is_control), "{line:?}");
    assert!(event.timestamp_ms.abs_diff(NOW) <= 86_400_000);
    assert!(event.timestamp_ms == NOW || event.timestamp_fault.is_none());
    assert!(event.duration_ms().is_none_or(|ms| ms.is_finite() && ms >= 0.0));
    masked(&event.details.map());
    // It can be stored and read again inside a record.
    let record = serde_json::to_string(&Value::from_iter([("a", Value::Object(event.details.map().into_owned()))])).unwrap();
    assert!(serde_json::from_str::<Value>(&record).is_ok());
}

fn masked(members: &Map<String, Value>) {
    for (name, value) in members {
        assert!(!value.is_null(), "{name}");
        if MASKED.contains(&name.to_lowercase().as_str()) {
            assert_eq!(value, MASK, "{name}");
        }
        masked_inside(value);
    }
}

fn masked_inside(value: &Value) {
    match value {
        Value::Object(members) => masked(members),
        Value::Array(values) => values.iter().for_each(masked_inside),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fields(mut fields in prop::collection::vec(field(), 0..8), named in any::<bool>()) {
        if named {
            fields.push((b"event_type".to_vec(), b"login".to_vec()));
        }
        let mut classifier = classifier();
        if let Ok(event) = classifier.decode(&borrowed(&fields), NOW, &TimeZone::UTC) {
            promises(&event);
            let again = classifier.decode(&borrowed(&fields), NOW, &TimeZone::UTC).unwrap().into_owned();
            prop_assert_eq!(format!("{event:?}"), format!("{again:?}"));
        } else if named && fields.len() > 1 {
            // With a good name, and last, an entry of several fields can always be read.
            prop_assert!(false, "refused: {:?}", fields);
        }
    }

    #[test]
    fn any_json(value in json(), mut members in prop::collection::btree_map("[a-z_]{1,10}", json(), 0..6)) {
        let mut classifier = classifier();
        let text = value.to_string();
        if let Ok(event) = classifier.decode_json(&text, NOW, &TimeZone::UTC) {
            promises(&event);
        }
        members.insert("event_type".into(), "AUTH_FAILURE".into());
        members.insert("details".into(), value);
        let text = serde_json::to_string(&members).unwrap();
        promises(&classifier.decode_json(&text, NOW, &TimeZone::UTC).unwrap());
    }

    #[test]
    fn any_text(text in any::<String>()) {
        let mut classifier = classifier();
        let _ = classifier.decode_json(&text, NOW, &TimeZone::UTC).map(|event| promises(&event));
        let _ = classifier.decode_json(&format!("{{\"event_type\":\"{text}\"}}"), NOW, &TimeZone::UTC).map(|event| promises(&event));
        let _ = parse_ms(&text, &TimeZone::UTC);
        let masked = classifier.masked_text(&text).into_owned();
        prop_assert!(masked == text || MASKED.iter().any(|name| text.to_lowercase().contains(name)));
    }

    /// Texts made of what the masking of unreadable texts looks at.
    #[test]
    fn any_broken_members(parts in prop::collection::vec(prop::sample::select(vec![
        "'", "\"", "\\", ":", ",", "{", "}", "[", "]", " ", "token", "Password", "x", "ä", "\n", "'token': 'SECRET'", "\"cookie\":[\"SECRET\"]",
    ]), 0..20)) {
        let text = parts.concat();
        let masked = classifier().masked_text(&text).into_owned();
        prop_assert!(masked.len() <= text.len() + 5 * parts.len(), "{text} → {masked}");
        let fields = [(b"a".to_vec(), text.clone().into_bytes()), (text.clone().into_bytes(), b"SECRET".to_vec())];
        prop_assert_eq!(&classifier().masked_fields(&fields)[0].1, &masked);
    }

    #[test]
    fn any_time(text in "[-+0-9.,:eETZ ]{0,40}|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,12})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?") {
        let _ = parse_ms(&text, &TimeZone::get("America/Sao_Paulo").unwrap());
    }

    #[test]
    fn the_normal_form_of_a_normal_form_is_itself(written in "[a-zA-Z_.:/ -]{1,30}|\\PC{1,40}") {
        let mut classifier = classifier();
        let Ok(kind) = classifier.event_type(&written) else { return Ok(()) };
        // Taking its form can make a name longer than a name may be.
        let Ok(again) = classifier.event_type(&kind.normal) else { return Ok(()) };
        prop_assert_eq!(&again.normal, &kind.normal);
        prop_assert_eq!(again.lists, kind.lists);
        prop_assert_eq!(again.severity, kind.severity);
        prop_assert_eq!(again.category, kind.category);
    }

    /// Against the plainest matcher there is.
    #[test]
    fn patterns_match_as_globs_do(pattern in "[ab*]{1,8}", name in "[ab]{1,10}") {
        fn plain(pattern: &[u8], name: &[u8]) -> bool {
            match pattern {
                [] => name.is_empty(),
                [b'*', rest @ ..] => (0..=name.len()).any(|skip| plain(rest, &name[skip..])),
                [first, rest @ ..] => name.first() == Some(first) && plain(rest, &name[1..]),
            }
        }
        let lists = vec![PatternList { events: vec![pattern.clone()], except: vec![] }];
        let mut classifier = Classifier::new(Options { lists, ..Options::contract() }).unwrap();
        let matched = classifier.event_type(&name).unwrap().lists.0 & 1 == 1;
        prop_assert_eq!(matched, plain(pattern.as_bytes(), name.as_bytes()));
    }
}

#[test]
fn entries_have_a_largest_size() {
    for (over, expected) in [(0, Ok(())), (1, Err(Invalid::TooLarge)), (1 << 20, Err(Invalid::TooLarge))] {
        let fields = [(b"event_type".to_vec(), b"a".to_vec()), (b"m".to_vec(), vec![b'x'; ENTRY_BYTES_MAX - 12 + over])];
        assert_eq!(classifier().decode(&borrowed(&fields), NOW, &TimeZone::UTC).map(drop), expected, "flat, {over}");
        let text = format!("{{\"event_type\":\"a\",\"m\":\"{}\"}}", "x".repeat(ENTRY_BYTES_MAX - 25 + over));
        assert_eq!(classifier().decode_json(&text, NOW, &TimeZone::UTC).map(drop), expected, "envelope, {over}");
    }
}
