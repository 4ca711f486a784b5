//! Contract §3, sentence by sentence: what stands in an entry → what event it is.

use auditcast::event::{Classifier, Event, Invalid, Lists, Options, Outcome, Severity, TimestampFault, borrowed};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// 2024-01-15T10:30:00Z
const NOW: u64 = 1_705_314_600_000;

fn owned(fields: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn try_flat(options: Options, fields: &[(&str, &str)]) -> Result<Event<'static>, Invalid> {
    let fields = owned(fields);
    Classifier::new(options).unwrap().decode(&borrowed(&fields), NOW, &TimeZone::UTC).map(Event::into_owned)
}

fn flat(fields: &[(&str, &str)]) -> Event<'static> {
    try_flat(Options::contract(), fields).unwrap()
}

fn with(options: Options, value: Value) -> Event<'static> {
    Classifier::new(options).unwrap().decode_json(&value.to_string(), NOW, &TimeZone::UTC).unwrap().into_owned()
}

fn envelope(value: Value) -> Event<'static> {
    with(Options::contract(), value)
}

fn details(event: &Event<'_>) -> Value {
    Value::Object(event.details.map().into_owned())
}

#[test]
fn both_seeds_in_every_shape() {
    let b = json!({
        "timestamp": "2024-01-15T10:30:00", "event_type": "AUTH_SUCCESS", "username": "user@example.com", "user_id": 123,
        "details": {"ip_address": "192.168.1.100", "user_agent": "Mozilla/5.0...", "session_id": "sess_abc123"}
    });
    let text = b.to_string();
    let shapes: [&[(&str, &str)]; 4] = [
        &[("whatever", &text)],
        &[("event_type", &text)],
        &[("data", &text), ("shard", "3")],
        &[
            ("timestamp", "2024-01-15T10:30:00"),
            ("event_type", "AUTH_SUCCESS"),
            ("username", "user@example.com"),
            ("user_id", "123"),
            ("details", r#"{"ip_address":"192.168.1.100","user_agent":"Mozilla/5.0...","session_id":"sess_abc123"}"#),
        ],
    ];
    for event in shapes.into_iter().map(flat).chain([envelope(b)]) {
        assert_eq!((event.kind.normal.as_str(), event.kind.written.as_str()), ("auth.success", "AUTH_SUCCESS"));
        assert_eq!((event.timestamp_ms, event.timestamp_fault), (NOW, None));
        assert_eq!((event.user_id.as_deref(), event.username.as_deref()), (Some("123"), Some("user@example.com")));
        assert_eq!(event.ip_address().as_deref(), Some("192.168.1.100"));
        assert_eq!(event.user_agent().as_deref(), Some("Mozilla/5.0..."));
        assert_eq!(event.session_id().as_deref(), Some("sess_abc123"));
        assert_eq!((event.severity, event.outcome), (Severity::Low, Outcome::Success));
        assert_eq!(event.lists(), Lists::SUCCESSFUL_LOGIN);
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let long = "x".repeat(257);
    let big = "x".repeat(65_536);
    for (fields, why) in [
        (&[][..], Invalid::NoFields),
        (&[("data", "")], Invalid::BadJson),
        (&[("data", "hello")], Invalid::BadJson),
        (&[("data", r#"{"event_type":"a"#)], Invalid::BadJson),
        (&[("data", "[]")], Invalid::NotAnObject),
        (&[("data", r#"{"a":1}"#)], Invalid::NoEventType),
        (&[("data", r#"{"event_type":null}"#)], Invalid::NoEventType),
        (&[("data", r#"{"event_type":1}"#)], Invalid::BadEventType),
        (&[("data", r#"{"event_type":["a"]}"#)], Invalid::BadEventType),
        (&[("data", r#"{"event_type":" "}"#)], Invalid::BadEventType),
        (&[("event_type", "")], Invalid::BadEventType),
        (&[("event_type", &long)], Invalid::BadEventType),
        (&[("event_type", &big)], Invalid::TooLarge),
        (&[("a", "1"), ("b", "2")], Invalid::NoEventType),
        (&[("data", "nothing"), ("b", "2")], Invalid::NoEventType),
    ] {
        assert_eq!(try_flat(Options::contract(), fields).map(|event| event.kind), Err(why), "{fields:.80?}");
    }
    let mut classifier = Classifier::new(Options::contract()).unwrap();
    let bytes = |name: &[u8]| (name.to_vec(), b"\xff".to_vec());
    let mut read =
        |fields: &[(Vec<u8>, Vec<u8>)]| classifier.decode(&borrowed(fields), NOW, &TimeZone::UTC).map(|event| details(&event));
    assert_eq!(read(&[bytes(b"data")]), Err(Invalid::BadUtf8));
    assert_eq!(read(&[bytes(b"event_type")]), Err(Invalid::BadUtf8));
    assert_eq!(read(&[bytes(b"event_type"), bytes(b"x")]), Err(Invalid::BadUtf8));
    let named = (b"event_type".to_vec(), b"a".to_vec());
    assert_eq!(read(&[named.clone(), bytes(b"x"), bytes(b"y\xfe")]), Ok(json!({"x": "\u{fffd}", "y\u{fffd}": "\u{fffd}"})));
    // Of two fields of one name the last counts.
    assert!(read(&[bytes(b"event_type"), named]).is_ok());
}

#[test]
fn a_lone_event_type_is_an_event() {
    let event = flat(&[("event_type", "login failed")]);
    assert_eq!((event.kind.normal.as_str(), event.timestamp_fault), ("login.failed", Some(TimestampFault::Missing)));
    assert_eq!(flat(&[("event_type", "{odd")]).kind.written, "{odd");
}

#[test]
fn flat_fields_win_over_data_and_payload() {
    let event = flat(&[
        (
            "data",
            r#"{"event_type":"b.b","user_id":7,"username":"from data","x":1,"details":{"ip_address":"1.1.1.1","reason":"r"}}"#,
        ),
        ("event_type", "a.a"),
        ("payload", r#"{"username":"from payload","message":"m","y":2,"x":3}"#),
        ("user_id", "8"),
        ("username", ""),
        ("details", r#"{"ip_address":"2.2.2.2"}"#),
    ]);
    assert_eq!(event.kind.normal, "a.a");
    assert_eq!(event.user_id.as_deref(), Some("8"));
    assert_eq!(event.username.as_deref(), Some("from data"));
    assert_eq!(event.message.as_deref(), Some("m"));
    assert_eq!(details(&event), json!({"ip_address": "2.2.2.2", "reason": "r", "x": 1, "y": 2}));
    // What holds no object is a field like any other.
    assert_eq!(details(&flat(&[("event_type", "a"), ("data", "text")])), json!({"data": "text"}));
    assert_eq!(details(&flat(&[("event_type", "a"), ("payload", "[1]")])), json!({"payload": [1]}));
    // Within an envelope `data` is a field like any other.
    assert_eq!(details(&envelope(json!({"event_type": "a", "data": {"b": 1}}))), json!({"data": {"b": 1}}));
}

#[test]
fn details_are_an_object_or_a_text() {
    for (written, expected) in [
        (json!({"a": 1}), json!({"a": 1})),
        (json!("{\"a\": {\"b\": null, \"c\": 1}}"), json!({"a": {"c": 1}})),
        (json!("just text"), json!({"text": "just text"})),
        (json!("{'ip': '1.2.3.4', 'ok': None}"), json!({"text": "{'ip': '1.2.3.4', 'ok': None}"})),
        (json!("{\"a\": NaN}"), json!({"text": "{\"a\": NaN}"})),
        (json!("[1, 2]"), json!({"text": "[1, 2]"})),
        (json!("[{\"token\": \"t\"}]"), json!({"text": "[{\"token\":\"***\"}]"})),
        (json!([{"token": "t"}]), json!({"text": "[{\"token\":\"***\"}]"})),
        (json!(17), json!({"text": "17"})),
        (json!(true), json!({"text": "true"})),
        (json!(""), json!({})),
        (json!("null"), json!({})),
        (Value::Null, json!({})),
    ] {
        let event = envelope(json!({"event_type": "login_failed", "details": written}));
        assert_eq!(details(&event), expected, "{written}");
        assert!(event.lists().has(Lists::FAILED_LOGIN));
    }
}

#[test]
fn unknown_fields_join_details_which_win() {
    let event = envelope(json!({
        "event_type": "a", "session_id": 5, "ip_address": "1.1.1.1", "x": {"y": null, "z": [null]}, "w": null,
        "details": {"ip_address": "2.2.2.2", "session_id": null}
    }));
    assert_eq!(details(&event), json!({"session_id": 5, "ip_address": "2.2.2.2", "x": {"z": [null]}}));
    assert_eq!(event.session_id().as_deref(), Some("5"));
    // A flat field that holds an object or array holds its members.
    let event = flat(&[("event_type", "a"), ("meta", r#"{"Token":"x","n":1}"#), ("n", "1"), ("odd", "{")]);
    assert_eq!(details(&event), json!({"meta": {"Token": "***", "n": 1}, "n": "1", "odd": "{"}));
}

#[test]
fn ids_and_names_are_text_or_number() {
    for (written, expected) in [
        (r#""u1""#, Some("u1")),
        ("123", Some("123")),
        ("-5", Some("-5")),
        ("340282366920938463463374607431768211456", Some("340282366920938463463374607431768211456")),
        ("1.50", Some("1.50")),
        ("null", None),
        (r#""""#, None),
        (r#"" ""#, None),
    ] {
        let text =
            format!(r#"{{"event_type":"a","user_id":{written},"username":{written},"event_id":{written},"message":{written}}}"#);
        let mut classifier = Classifier::new(Options::contract()).unwrap();
        let event = classifier.decode_json(&text, NOW, &TimeZone::UTC).unwrap();
        for part in [&event.user_id, &event.username, &event.event_id, &event.message] {
            assert_eq!(part.as_deref(), expected, "{written}");
        }
        assert!(event.details.is_empty());
    }
    let event = envelope(json!({"event_type": "a", "user_id": {"id": 1, "token": "t"}}));
    assert_eq!((event.user_id.clone(), details(&event)), (None, json!({"user_id": {"id": 1, "token": "***"}})));
}

#[test]
fn the_events_own_time() {
    let hour = 3_600_000;
    for (written, time, fault, kept) in [
        (json!("2024-01-15T11:00:00+01:00"), NOW - hour / 2, None, None),
        (json!("2024-01-15 10:00:00.5"), NOW - hour / 2 + 500, None, None),
        (json!(1_705_314_000), NOW - 600_000, None, None),
        (json!(1_705_314_000.25), NOW - 599_750, None, None),
        (json!("1705314000000"), NOW - 600_000, None, None),
        (json!(1_705_314_000_000_000_000u64), NOW - 600_000, None, None),
        (Value::Null, NOW, Some(TimestampFault::Missing), None),
        (json!(""), NOW, Some(TimestampFault::Missing), None),
        (json!("yesterday"), NOW, Some(TimestampFault::Unreadable), Some("yesterday")),
        (json!("NaN"), NOW, Some(TimestampFault::Unreadable), Some("NaN")),
        (json!({"s": 1}), NOW, Some(TimestampFault::Unreadable), Some("{\"s\":1}")),
        (json!(true), NOW, Some(TimestampFault::Unreadable), Some("true")),
        (json!("2024-01-14T10:29:59Z"), NOW, Some(TimestampFault::Skewed), Some("2024-01-14T10:29:59Z")),
        (json!(17), NOW, Some(TimestampFault::Skewed), Some("17")),
    ] {
        let event = envelope(json!({"event_type": "a", "timestamp": written}));
        assert_eq!((event.timestamp_ms, event.timestamp_fault), (time, fault), "{written}");
        assert_eq!(event.details.get("original_timestamp"), kept.map(Value::from), "{written}");
    }
    let mut classifier = Classifier::new(Options::contract()).unwrap();
    let fields = owned(&[("event_type", "a"), ("timestamp", "2024-01-15T11:30:00")]);
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    assert_eq!(classifier.decode(&borrowed(&fields), NOW, &berlin).unwrap().timestamp_ms, NOW);
}

#[test]
fn an_events_severity_raises_and_lowers_only_where_allowed() {
    let lower = || Options { event_may_lower: true, ..Options::contract() };
    let fixed = || Options { overrides: vec![("auth.failed".into(), Severity::Medium)], ..lower() };
    for (options, own, expected, ignored) in [
        (Options::contract(), json!("debug"), Severity::Medium, false),
        (Options::contract(), json!("ALERT"), Severity::High, false),
        (Options::contract(), json!("Emergency"), Severity::Critical, false),
        (Options::contract(), json!("severe"), Severity::Medium, true),
        (Options::contract(), json!(5), Severity::Medium, true),
        (Options::contract(), json!(""), Severity::Medium, false),
        (Options::contract(), Value::Null, Severity::Medium, false),
        (lower(), json!("info"), Severity::Low, false),
        (lower(), json!("critical"), Severity::Critical, false),
        (lower(), json!("x"), Severity::Medium, true),
        (fixed(), json!("critical"), Severity::Medium, false),
        (fixed(), json!("low"), Severity::Medium, false),
    ] {
        let event = with(options, json!({"event_type": "auth.failed", "severity": own}));
        assert_eq!((event.severity, event.severity_ignored), (expected, ignored), "{own}");
    }
}

#[test]
fn outcome_by_member_then_by_name() {
    for (members, expected) in [
        (json!({}), Outcome::Success),
        (json!({"outcome": "Failure"}), Outcome::Failure),
        (json!({"details": {"outcome": "denied"}}), Outcome::Denied),
        (json!({"outcome": "error", "details": {"outcome": "denied"}}), Outcome::Error),
        (json!({"result": "ok", "outcome": "blocked"}), Outcome::Denied),
        (json!({"details": {"outcome": "ok"}, "result": "fail"}), Outcome::Success),
        (json!({"status": 500, "result": "rejected"}), Outcome::Failure),
        (json!({"status": "pending"}), Outcome::Success),
        (json!({"outcome": "what", "status": "forbidden"}), Outcome::Denied),
        (json!({"outcome": null, "success": false}), Outcome::Failure),
        (json!({"result": false}), Outcome::Failure),
        (json!({"success": "False"}), Outcome::Failure),
        (json!({"success": "no"}), Outcome::Success),
        (json!({"success": true, "status": "error"}), Outcome::Error),
        (json!({"details": {"success": false}}), Outcome::Failure),
    ] {
        let mut event = members.clone();
        event["event_type"] = "login_success".into();
        let event = envelope(event);
        let bad = matches!(expected, Outcome::Failure | Outcome::Denied | Outcome::Error);
        assert_eq!(event.outcome, expected, "{members}");
        // A successful login that ended badly is a failed one, and as bad.
        assert_eq!(event.lists(), if bad { Lists::FAILED_LOGIN } else { Lists::SUCCESSFUL_LOGIN }, "{members}");
        assert_eq!(event.severity, if bad { Severity::Medium } else { Severity::Low }, "{members}");
    }
    let failed = envelope(json!({"event_type": "login_failed", "outcome": "success"}));
    assert_eq!((failed.outcome, failed.lists()), (Outcome::Success, Lists::FAILED_LOGIN));
    let by_a = with(Options { table: false, ..Options::contract() }, json!({"event_type": "login", "success": false}));
    assert_eq!((by_a.severity, by_a.lists()), (Severity::Low, Lists::FAILED_LOGIN));
}

#[test]
fn masked_and_dropped_wherever_they_stand() {
    let options = Options {
        mask: vec!["Username".into(), "ssn".into()],
        drop: vec!["debug".into(), "message".into()],
        ..Options::contract()
    };
    let event = with(
        options,
        json!({
            "event_type": "a", "username": "bob", "message": "m", "Password": "p", "debug": 1, "timestamp": {"token": "t"},
            "list": [{"SSN": 1, "Debug": 2}],
            "details": {"cookie": {"a": 1}, "deep": {"deeper": [{"Authorization": "Bearer x", "kept": 1}]}}
        }),
    );
    assert_eq!(event.username.as_deref(), Some("***"));
    assert_eq!(event.message, None);
    assert_eq!(
        details(&event),
        json!({
            "Password": "***", "cookie": "***", "deep": {"deeper": [{"Authorization": "***", "kept": 1}]}, "list": [{"SSN": "***"}],
            "original_timestamp": "{\"token\":\"***\"}"
        })
    );
    let event = flat(&[("event_type", "a"), ("api_key", "k"), ("details", r#"{"TOTP": 123456}"#)]);
    assert_eq!(details(&event), json!({"api_key": "***", "TOTP": "***"}));
}

#[test]
fn arguments_of_an_owasp_name() {
    let event = envelope(json!({"event_type": "authn_login_fail_max:bob,3", "details": {"args": "own"}}));
    assert_eq!((event.kind.normal.as_str(), event.severity), ("authn.login_fail_max", Severity::High));
    assert_eq!(details(&event), json!({"args": "bob,3"}));
}

#[test]
fn durations_are_numbers_that_make_sense() {
    for (written, expected) in [
        (json!(12), Some(12.0)),
        (json!(0.5), Some(0.5)),
        (json!(" 7.25 "), Some(7.25)),
        (json!("1e3"), Some(1000.0)),
        (json!(0), Some(0.0)),
        (json!(-1), None),
        (json!("NaN"), None),
        (json!("inf"), None),
        (json!("12 ms"), None),
        (json!([1]), None),
        (Value::Null, None),
    ] {
        assert_eq!(envelope(json!({"event_type": "a", "duration_ms": written})).duration_ms(), expected, "{written}");
    }
}

#[test]
fn the_line_an_alert_says() {
    let long = "ä".repeat(600);
    for (members, expected) in [
        (json!({}), "login.failed by unknown from unknown".to_owned()),
        (json!({"user_id": 7}), "login.failed by 7 from unknown".to_owned()),
        (json!({"user_id": 7, "username": "bob", "ip_address": "::1"}), "login.failed by bob from ::1".to_owned()),
        (json!({"message": "two\nlines\u{2028}\u{7f}\u{85}\u{202e}end"}), "two lines    end".to_owned()),
        (json!({"message": "\u{0}\u{7}"}), "login.failed by unknown from unknown".to_owned()),
        (json!({"username": "a\r\nb"}), "login.failed by a  b from unknown".to_owned()),
        (json!({"message": long}), "ä".repeat(512)),
    ] {
        let mut event = members.clone();
        event["event_type"] = "LOGIN_FAILED".into();
        assert_eq!(envelope(event).message_line(), expected, "{members}");
    }
}
