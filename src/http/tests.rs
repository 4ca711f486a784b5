//! What is proved: the documents name every route, every error code and every frame, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::{
    detect::{Alert, Kind, Status},
    event::{Classifier, EntryId, Severity},
    wire,
};

fn document(path: &str) -> Value {
    match path {
        "openapi" => serde_json::from_str(include_str!("openapi.json")).unwrap(),
        _ => serde_json::from_str(include_str!("asyncapi.json")).unwrap(),
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn openapi_has_every_route_and_no_other() {
    let document = document("openapi");
    let routes: BTreeMap<String, BTreeSet<String>> =
        api().into_iter().chain(open()).map(|(path, method, _)| (path.to_owned(), BTreeSet::from([method.to_owned()]))).collect();
    let paths = document["paths"].as_object().unwrap();
    let written: BTreeMap<String, BTreeSet<String>> = paths.iter().map(|(path, item)| (path.clone(), keys(item))).collect();
    assert_eq!(written, routes);
}

#[test]
fn openapi_has_every_code_of_a_problem() {
    let document = document("openapi");
    let mut written: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for (name, response) in document["components"]["responses"].as_object().unwrap() {
        let status = match name.as_str() {
            "BadRequest" => 400,
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "NotFound" => 404,
            "MethodNotAllowed" => 405,
            "Timeout" => 408,
            "Gone" => 410,
            "TooLarge" => 413,
            "UnsupportedType" => 415,
            "TooManyRequests" => 429,
            "Internal" => 500,
            "Unavailable" => 503,
            other => panic!("{other} has no status here"),
        };
        let codes = &response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"];
        let codes = codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap().to_owned());
        written.entry(status).or_default().extend(codes);
    }
    for code in Code::ALL {
        let status = code.status().as_u16();
        assert!(written[&status].contains(code.as_str()), "{status} {}", code.as_str());
    }
}

#[test]
fn references_lead_somewhere() {
    fn walk(root: &Value, value: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(root.pointer(pointer).is_some(), "{reference}");
                }
                members.values().for_each(|value| walk(root, value));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(root, value)),
            _ => {}
        }
    }
    for name in ["openapi", "asyncapi"] {
        let document = document(name);
        walk(&document, &document);
    }
}

/// One of every frame that the server makes.
fn frames() -> Vec<String> {
    let alert = Alert {
        alert_id: "00112233445566778899aabbccddeeff".into(),
        kind: Kind::Threshold,
        status: Status::Firing,
        rule: "r".into(),
        event_type: "r".into(),
        severity: Severity::High,
        message: "m".into(),
        timestamp_ms: 1,
        received_at_ms: 1,
        value: Some(1.0),
        threshold: Some(0.5),
        window_ms: Some(3_600_000),
        user_id: Some("7".into()),
        username: Some("eve".into()),
        details: json!({"a": 1}).as_object().unwrap().clone(),
        source: Some("app".into()),
        original_event_type: Some("R".into()),
        evidence: vec!["app/1-0".into()],
        labels: [("team".to_owned(), "x".to_owned())].into(),
        runbook_url: Some("https://runbook".into()),
    };
    let hello = wire::Hello {
        version: "0",
        connection: "1".into(),
        node: "n".into(),
        time: wire::rfc3339(0),
        user: "7".into(),
        permissions: vec![],
        expires_at: wire::rfc3339(0),
        ping_interval_ms: 1,
        head: "0-00000000".into(),
        limits: wire::HelloLimits { frame_bytes: 1, events_rate: 1, connections_per_user: 1 },
        reconnect: wire::Reconnect { min_ms: 1, max_ms: 1 },
    };
    let mut classifier = Classifier::new(crate::event::Options::contract()).unwrap();
    let text = r#"{"event_type":"LOGIN_FAILED","user_id":7,"username":"eve","ip_address":"10.0.0.1"}"#;
    let event = classifier.decode_json(text, 0, &jiff::tz::TimeZone::UTC).unwrap();
    let status = wire::SourceStatus { source: "app".into(), status: wire::SourceState::Ok, since_ms: 0 };
    let id = wire::RequestId::Number(1);
    vec![
        wire::hello(&hello),
        wire::subscribed(Some(&id), Err("expired"), "0-00000000", 1),
        wire::with_pos(&wire::alert_body(&alert, Some("https://audit.example")), "1-00000000", true),
        wire::event_frame(&event, EntryId::new(1, 0), "app", 0),
        wire::metrics_frame(&crate::detect::Metrics::default()),
        wire::source_status(&status),
        wire::position("1-00000000"),
        wire::gap(wire::Feed::Alerts, Some(1), "trimmed", Some(("1-00000000", "2-00000000"))),
        wire::lagging(),
        wire::permissions(&["audit.view".to_owned()]),
        wire::pong(Some(&id), "0-00000000"),
        wire::ok(Some(&id), Some(0)),
        wire::error_frame(Some(&id), wire::ErrorCode::BadFilter, "m"),
        wire::bye(wire::CloseCode::ShuttingDown, Some(1)),
    ]
}

fn names(document: &Value, operation: &str) -> BTreeSet<String> {
    let messages = document["operations"][operation]["messages"].as_array().unwrap();
    messages.iter().map(|message| message["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn asyncapi_has_every_frame_of_the_server_with_its_members() {
    let document = document("asyncapi");
    let mut seen = BTreeSet::new();
    for text in frames() {
        let frame: Value = serde_json::from_str(&text).unwrap();
        let name = frame["type"].as_str().unwrap().to_owned();
        let payload = &document["components"]["messages"][&name]["payload"];
        assert_eq!(payload["properties"]["type"]["const"], name.as_str());
        let known = keys(&payload["properties"]);
        let members = keys(&frame);
        assert!(members.is_subset(&known), "{name}: {:?}", members.difference(&known));
        for needed in payload["required"].as_array().unwrap() {
            assert!(members.contains(needed.as_str().unwrap()), "{name} lacks {needed}");
        }
        seen.insert(name);
    }
    assert_eq!(names(&document, "toClient"), seen);
}

#[test]
fn asyncapi_has_every_frame_of_a_client() {
    let document = document("asyncapi");
    let messages = &document["components"]["messages"];
    let samples = BTreeMap::from([
        ("auth", json!({"type": "auth", "id": 1, "token": "t"})),
        ("refresh", json!({"type": "refresh", "id": "a", "token": "t"})),
        (
            "subscribe",
            json!({"type": "subscribe", "id": 1, "min_severity": "low", "types": ["*"], "kinds": ["event"], "after": "earliest",
                   "active": true, "events": "low", "metrics": true, "filter": "severity = low"}),
        ),
        ("ping", json!({"type": "ping", "id": 1})),
    ]);
    assert_eq!(names(&document, "fromClient"), samples.keys().map(|name| (*name).to_owned()).collect());
    for (name, sample) in &samples {
        assert!(wire::ClientFrame::parse(&sample.to_string()).is_ok(), "{name}");
        assert_eq!(keys(&messages[*name]["payload"]["properties"]), keys(sample), "{name}");
    }
    // What a later version reads must not be promised by this one.
    for name in ["ack", "hello", "bye"] {
        let frame = wire::ClientFrame::parse(&json!({"type": name}).to_string());
        assert!(frame.is_err_and(|bad| bad.code == wire::ErrorCode::UnknownType), "{name}");
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_and_no_more() {
    use tower::ServiceExt;
    let router: Router = Router::new()
        .route("/", get(async || -> &'static str { panic!("on purpose: the secret is hunter2") }))
        .layer(CatchPanicLayer::custom(panicked));
    let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(response.status().as_u16(), 500);
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["code"], "internal");
    assert!(!body.to_string().contains("hunter2"));
}

#[test]
fn an_origin_of_a_url() {
    assert_eq!(origin_of("https://audit.example/x/y"), "https://audit.example");
    assert_eq!(origin_of("http://h:1"), "http://h:1");
}
