//! What is proved: the public listener and the one for operations over real sockets: answers, problems, headers, limits,
//! time-outs, and that the documents name every route and every frame. On the embedded store.

mod support_http;

use std::time::Duration;

use auditcast::store::{Commit, CommitRecord, NewEntry};
use serde_json::{Value, json};
use support_http::{Server, ServerOptions, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Three alerts in the log, the second of which is resolved by the third.
async fn three_alerts(server: &Server) {
    let lease = server.store.lease("test", 0).await.unwrap();
    let entry = |id: &str, status: &str, first: bool| NewEntry {
        alert_id: id.into(),
        body: json!({"type": "security_alert", "alert_id": id, "status": status, "severity": "high", "event_type": "x"})
            .to_string(),
        firing: status == "firing",
        first,
    };
    let commit = Commit {
        fence: lease.fence,
        record: CommitRecord { slot: 1_700_000_000_000, time: 1_700_000_000_000, ..CommitRecord::default() },
        entries: vec![entry("a1", "firing", true), entry("b2", "firing", true), entry("b2", "resolved", false)],
        dead_letters: vec![],
    };
    assert_eq!(server.store.commit(&commit).await.unwrap().seq, 3);
}

fn ids(body: &Value) -> Vec<(String, String)> {
    let frame = |frame: &Value| (frame["alert_id"].as_str().unwrap().to_owned(), frame["status"].as_str().unwrap().to_owned());
    body["alerts"].as_array().unwrap().iter().map(frame).collect()
}

#[tokio::test]
async fn the_log_comes_in_pages() {
    let server = start(ServerOptions::default()).await;
    let admin = server.token("admin", &[]);
    let empty = server.get("/api/v1/alerts", &admin).await.json(200);
    assert_eq!(empty["alerts"], json!([]));
    assert!(empty["next"].is_null() && empty["head"].is_string());
    three_alerts(&server).await;

    let all = server.get("/api/v1/alerts", &admin).await.json(200);
    let fired = |id: &str| (id.to_owned(), "firing".to_owned());
    let resolved = ("b2".to_owned(), "resolved".to_owned());
    assert_eq!(ids(&all), [fired("a1"), fired("b2"), resolved.clone()]);
    assert!(all.get("next").is_none());
    assert_eq!(all["head"], all["alerts"][2]["pos"]);

    let first = server.get("/api/v1/alerts?limit=2", &admin).await.json(200);
    assert_eq!(ids(&first), [fired("a1"), fired("b2")]);
    let next = first["next"].as_str().unwrap();
    assert_eq!(first["alerts"][1]["pos"], next);
    let second = server.get(&format!("/api/v1/alerts?limit=2&after={next}"), &admin).await.json(200);
    assert_eq!(ids(&second), vec![resolved.clone()]);
    assert!(second.get("next").is_none());
    let head = all["head"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/alerts?after={head}"), &admin).await.json(200)["alerts"], json!([]));
    let origin = empty["head"].as_str().unwrap();
    assert_eq!(ids(&server.get(&format!("/api/v1/alerts?after={origin}"), &admin).await.json(200)).len(), 3);

    let newest = server.get("/api/v1/alerts?order=desc&limit=2", &admin).await.json(200);
    assert_eq!(ids(&newest), [resolved, fired("b2")]);
    let next = newest["next"].as_str().unwrap();
    let older = server.get(&format!("/api/v1/alerts?order=desc&limit=2&after={next}"), &admin).await.json(200);
    assert_eq!(ids(&older), [fired("a1")]);
    assert!(older.get("next").is_none());

    // `status = firing`, a page of one, and what comes next.
    let one = server.get("/api/v1/alerts?limit=1&filter=status+%3D+firing", &admin).await.json(200);
    assert_eq!(ids(&one), [fired("a1")]);
    let next = one["next"].as_str().unwrap();
    let rest = server.get(&format!("/api/v1/alerts?filter=status+%3D+firing&after={next}"), &admin).await.json(200);
    assert_eq!(ids(&rest), [fired("b2")]);
    assert!(rest.get("next").is_none());
    let newest = server.get("/api/v1/alerts?order=desc&limit=1&filter=status+%3D+firing", &admin).await.json(200);
    assert_eq!(ids(&newest), [fired("b2")]);
    let none = server.get("/api/v1/alerts?status=firing&filter=status+%3D+resolved", &admin).await.json(200);
    assert_eq!(none["alerts"], json!([]));
    server.get("/api/v1/alerts?filter=status+%3E+firing", &admin).await.problem(400, "bad_request");

    for after in ["9-00c0ffee", "2-00c0ffee", "1699999999999-0"] {
        server.get(&format!("/api/v1/alerts?after={after}"), &admin).await.problem(410, "expired");
    }
    for query in ["after=a%20b", "after=", "limit=0", "limit=x", "order=up", "status=open", "nope=1", "status=firing&order=asc"] {
        server.get(&format!("/api/v1/alerts?{query}"), &admin).await.problem(400, "bad_request");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_state_is_an_object_per_alert() {
    let server = start(ServerOptions::default()).await;
    let admin = server.token("admin", &[]);
    three_alerts(&server).await;
    let firing = server.get("/api/v1/alerts?status=firing", &admin).await.json(200);
    assert_eq!(ids(&firing), [("a1".to_owned(), "firing".to_owned())]);
    let one = server.get("/api/v1/alerts/b2", &admin).await.json(200);
    assert_eq!((one["status"].as_str(), one["pos"].is_string()), (Some("resolved"), true));
    for id in ["nope", "%2e%2e", "a1%00", &"x".repeat(200)] {
        server.get(&format!("/api/v1/alerts/{id}"), &admin).await.problem(404, "unknown_alert");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_may_call() {
    let server = start(ServerOptions::default()).await;
    let observer = server.token("observer", &[]);
    let viewer = server.token("observer", &["audit.view"]);
    for path in ["alerts", "alerts/x", "metrics/current", "metrics/history", "connections"] {
        let path = format!("/api/v1/{path}");
        let missing = server.send("GET", &path, &[], "").await;
        assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
        missing.problem(401, "missing");
        server.get(&path, "a.b.c").await.problem(401, "invalid");
        server.send("GET", &path, &[("authorization", "Basic eA==")], "").await.problem(401, "invalid");
        server.get(&path, &observer).await.problem(403, "forbidden");
        let status = server.get(&path, &viewer).await.status;
        assert!(status == 200 || status == 404, "{path}: {status}");
        let cookie = format!("other=1; __Host-auditcast={viewer}");
        assert_eq!(server.send("GET", &path, &[("cookie", &cookie)], "").await.status, status, "{path}");
    }
    server.get("/api/v1/alerts?token=x", &viewer).await.problem(400, "token_in_query");
    server.send("POST", "/api/v1/events", &[], "{}").await.problem(401, "missing");
    server.post("/api/v1/events", &viewer, "{}").await.problem(403, "forbidden");

    let revoked = server.token_with("admin", &[], "gone");
    server.store.blacklist("gone", Duration::from_secs(60)).await.unwrap();
    let problem = server.get("/api/v1/alerts", &revoked).await.problem(401, "blacklisted");
    assert!(problem["detail"].as_str().unwrap().contains("blacklisted"));
    assert_eq!(server.metrics.auth_failures.get("blacklisted"), 1);
    assert_eq!(server.metrics.auth_failures.get("missing"), 6);
    server.stop().await;
}

#[tokio::test]
async fn a_cookie_changes_something_only_from_our_own_page() {
    let server = start(ServerOptions { cors: vec!["https://ops.example".into()], ..ServerOptions::default() }).await;
    let writer = server.token("observer", &["audit.write"]);
    let cookie = format!("__Host-auditcast={writer}");
    let own = format!("http://{}", server.public);
    let event = r#"{"event_type":"login"}"#;
    for (origin, taken) in
        [(Some(own.as_str()), true), (Some("https://ops.example"), true), (Some("https://evil.example"), false), (None, false)]
    {
        let mut headers = vec![("cookie", cookie.as_str()), ("content-type", "application/json")];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let response = server.send("POST", "/api/v1/events", &headers, event).await;
        match taken {
            true => drop(response.json(200)),
            false => drop(response.problem(403, "forbidden_origin")),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn events_come_in_and_are_accepted_once() {
    let server = start(ServerOptions { body_bytes_max: 200_000, ..ServerOptions::default() }).await;
    let writer = server.token("observer", &["audit.write"]);
    let one = server.post("/api/v1/events", &writer, r#"{"event_type":"login","event_id":"e1"}"#).await.json(200);
    assert_eq!((one["accepted"].as_u64(), one["rejected"].as_array().map(Vec::len)), (Some(1), Some(0)));
    let again = server.post("/api/v1/events", &writer, r#"{"event_type":"login","event_id":"e1"}"#).await.json(200);
    assert_eq!((again["accepted"].as_u64(), &again["ids"]), (Some(0), &one["ids"]), "known, with the id it got then");

    let many = r#"[{"event_type":"a"},{"user_id":1},7,{"event_type":"b","password":"hunter2"}]"#;
    let many = server.post("/api/v1/events", &writer, many).await.json(200);
    assert_eq!((many["accepted"].as_u64(), many["ids"].as_array().map(Vec::len)), (Some(2), Some(2)));
    assert_eq!(many["rejected"], json!([{"index": 1, "reason": "no_event_type"}, {"index": 2, "reason": "not_an_object"}]));

    let lines = "{\"event_type\":\"a\"}\n\nnot json\n{\"event_type\":\"b\"}\n";
    let bearer = format!("Bearer {writer}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson; charset=utf-8")];
    let lines = server.send("POST", "/api/v1/events", &headers, lines).await.json(200);
    assert_eq!((lines["accepted"].as_u64(), &lines["rejected"]), (Some(2), &json!([{"index": 1, "reason": "bad_json"}])));

    server.post("/api/v1/events", &writer, "{").await.problem(400, "bad_json");
    server.post("/api/v1/events", &writer, "7").await.problem(400, "bad_request");
    server.post("/api/v1/events", &writer, &format!("[{}]", " ".repeat(200_000))).await.problem(413, "too_large");
    server.post("/api/v1/events", &writer, &" ".repeat(5_000_000)).await.problem(413, "too_large");
    let headers = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    server.send("POST", "/api/v1/events", &headers, "{}").await.problem(415, "unsupported_type");

    let stream = server.store.intake_stream();
    let stored =
        server.store.stream_range(&stream, auditcast::event::EntryId::ZERO, auditcast::event::EntryId::MAX, 100).await.unwrap();
    assert_eq!(stored.len(), 5);
    let text: String = stored.iter().flat_map(|entry| entry.fields()).map(|(_, value)| String::from_utf8_lossy(value)).collect();
    assert!(!text.contains("hunter2") && text.contains("***"), "masked before it is stored");
    server.stop().await;
}

#[tokio::test]
async fn metrics_as_json() {
    let server = start(ServerOptions::default()).await;
    let admin = server.token("admin", &[]);
    let none = server.get("/api/v1/metrics/current", &admin).await.json(200);
    assert!(none["timestamp"].is_string() && none["sources"].is_array());
    let metrics = auditcast::detect::Metrics {
        timestamp_ms: 1_700_000_000_000,
        scalars: [("failed_logins_last_hour".to_owned(), 51.0)].into(),
        ..Default::default()
    };
    server.hub.push_metrics(metrics, false);
    let status = auditcast::wire::SourceStatus { source: "app".into(), status: auditcast::wire::SourceState::Ok, since_ms: 1000 };
    server.hub.push_source(status);
    let current = server.get("/api/v1/metrics/current", &admin).await.json(200);
    assert_eq!(current["timestamp"], "2023-11-14T22:13:20.000Z");
    assert_eq!(current["metrics"]["failed_logins_last_hour"], 51);
    assert_eq!(current["sources"], json!([{"source": "app", "status": "ok", "since": "1970-01-01T00:00:01.000Z"}]));

    let now_s = server.store.now_ms().await.unwrap() / 1000;
    for (at, text) in [(now_s - 60, r#"{"active_sessions":1}"#), (now_s - 5, r#"{"active_sessions":2}"#), (now_s, "broken")] {
        server.store.metrics_put(at, text, Duration::from_secs(600)).await.unwrap();
    }
    let history = server.get("/api/v1/metrics/history?since=1h", &admin).await.json(200);
    let values: Vec<_> =
        history["snapshots"].as_array().unwrap().iter().map(|s| s["metrics"]["active_sessions"].as_u64()).collect();
    assert_eq!(values, [Some(1), Some(2)], "what is no JSON is left out");
    let recent = server.get("/api/v1/metrics/history?since=30s", &admin).await.json(200);
    assert_eq!(recent["snapshots"].as_array().map(Vec::len), Some(1));
    server.get("/api/v1/metrics/history?since=yesterday", &admin).await.problem(400, "bad_request");
    server.stop().await;
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let server = start(ServerOptions { rate_general: 3, ..ServerOptions::default() }).await;
    let admin = server.token("admin", &[]);
    for _ in 0..3 {
        server.get("/api/v1/alerts", &admin).await.json(200);
    }
    let refused = server.get("/api/v1/alerts", &admin).await;
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    refused.problem(429, "rate_limited");
    // Who has no good token counts by address, and uses up nobody else's share.
    for _ in 0..3 {
        server.get("/api/v1/alerts", "a.b.c").await.problem(401, "invalid");
    }
    server.get("/api/v1/alerts", "a.b.c").await.problem(429, "rate_limited");
    assert_eq!(server.send("GET", "/livez", &[], "").await.status, 200, "probes are not limited");
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let server = start(ServerOptions::default()).await;
    for path in ["/nope", "/api/v1/nope", "/api/v2/alerts", "/metrics", "/..%2fetc"] {
        server.send("GET", path, &[], "").await.problem(404, "not_found");
    }
    for (method, path) in [("DELETE", "/api/v1/alerts"), ("GET", "/api/v1/events"), ("POST", "/"), ("PUT", "/livez")] {
        let refused = server.send(method, path, &[], "").await;
        assert!(refused.header("allow").is_some(), "{method} {path} (RFC 9110 §15.5.6)");
        refused.problem(405, "method_not_allowed");
    }
    let ops = server.send_ops("GET", "/api/v1/alerts", &[]).await;
    ops.problem(404, "not_found");
    server.stop().await;
}

#[tokio::test]
async fn the_page_has_its_headers() {
    let server = start(ServerOptions::default()).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/signin.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/asyncapi.json", "application/json"),
    ] {
        let page = server.send("GET", path, &[], "").await;
        assert_eq!((page.status, page.header("content-type")), (200, Some(kind)), "{path}");
        let csp = page.header("content-security-policy").unwrap();
        assert!(csp.starts_with("default-src 'none'") && csp.contains("frame-ancestors 'none'"));
        assert!(!csp.contains("unsafe-inline") && !csp.contains("unsafe-eval"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(page.header("strict-transport-security"), None, "not over HTTP");
        let etag = page.header("etag").unwrap().to_owned();
        let again = server.send("GET", path, &[("if-none-match", &format!("\"x\", W/{etag}"))], "").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(server.send("HEAD", path, &[], "").await.status, 200);
    }
    server.stop().await;
    let https = start(ServerOptions { external_url: Some("https://audit.example".into()), ..ServerOptions::default() }).await;
    assert!(https.send("GET", "/nope", &[], "").await.header("strict-transport-security").is_some(), "on every answer");
    https.stop().await;
    let without = start(ServerOptions { security_headers: false, ..ServerOptions::default() }).await;
    assert_eq!(without.send("GET", "/", &[], "").await.header("content-security-policy"), None);
    without.stop().await;
}

#[tokio::test]
async fn other_pages_may_ask_if_they_are_listed() {
    let server = start(ServerOptions { cors: vec!["https://ops.example".into()], ..ServerOptions::default() }).await;
    let preflight = |origin: &'static str| {
        [("origin", origin), ("access-control-request-method", "GET"), ("access-control-request-headers", "authorization")]
    };
    let listed = server.send("OPTIONS", "/api/v1/alerts", &preflight("https://ops.example"), "").await;
    assert_eq!(listed.header("access-control-allow-origin"), Some("https://ops.example"));
    assert!(listed.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(listed.header("access-control-allow-credentials"), None);
    let foreign = server.send("OPTIONS", "/api/v1/alerts", &preflight("https://evil.example"), "").await;
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    server.stop().await;
}

#[tokio::test]
async fn probes_and_metrics() {
    let server = start(ServerOptions::default()).await;
    for at in [&server.public, &server.ops] {
        let ready = server.send_to(at, "GET", "/readyz", &[], "").await.json(503);
        assert_eq!(ready["ready"], false);
        assert_eq!(ready["checks"]["source"]["ok"], false);
        assert_eq!(server.send_to(at, "GET", "/livez", &[], "").await.json(200)["live"], true);
    }
    for name in ["positions", "store", "lease"] {
        server.metrics.health.set(name, true, "ok", 1);
    }
    server.send_ops("GET", "/readyz", &[]).await.json(503);
    assert_eq!(server.send_ops("GET", "/readyz?exclude=source", &[]).await.json(200)["checks"]["source"]["ok"], false);
    server.metrics.health.set("store", false, "away", 2);
    server.send_ops("GET", "/readyz?exclude=source", &[]).await.json(503);
    server.send_ops("GET", "/readyz?exclude=source&exclude=store", &[]).await.json(200);
    server.send_ops("GET", "/readyz?verbose", &[]).await.problem(400, "bad_request");
    server.metrics.health.fail("the log is closed");
    assert_eq!(server.send_ops("GET", "/livez", &[]).await.json(503)["detail"], "the log is closed");

    let metrics = server.send_ops("GET", "/metrics", &[]).await;
    assert_eq!((metrics.status, metrics.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    assert!(metrics.body.contains("auditcast_failed_logins_last_hour 0\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_or_is_too_large() {
    let server = start(ServerOptions { header_timeout: Duration::from_millis(300), ..ServerOptions::default() }).await;
    let mut slow = tokio::net::TcpStream::connect(server.public).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut said)).await.expect("closed in time").unwrap();
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 408"));

    let mut large = tokio::net::TcpStream::connect(server.public).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(64 * 1024));
    // It may be answered and closed while we still write.
    let _ = large.write_all(head.as_bytes()).await;
    let mut said = [0; 12];
    if tokio::time::timeout(Duration::from_secs(10), large.read_exact(&mut said)).await.expect("answered in time").is_ok() {
        assert_eq!(&said, b"HTTP/1.1 431");
    }
    assert_eq!(server.send("GET", "/livez", &[], "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn one_socket_too_many_is_told_so() {
    let server = start(ServerOptions { sockets_max: 2, ..ServerOptions::default() }).await;
    let held = [
        tokio::net::TcpStream::connect(server.public).await.unwrap(),
        tokio::net::TcpStream::connect(server.public).await.unwrap(),
    ];
    // Sockets are accepted in the order they came, so these two are in.
    let mut third = tokio::net::TcpStream::connect(server.public).await.unwrap();
    third.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut said = String::new();
    tokio::time::timeout(Duration::from_secs(10), third.read_to_string(&mut said)).await.expect("told in time").unwrap();
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("Retry-After: "), "{said}");
    assert_eq!(server.metrics.connections_rejected.get("sockets"), 1);
    drop(held);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while server.send("GET", "/livez", &[], "").await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "their places are not free");
    }
    server.stop().await;
}

#[tokio::test]
async fn stopping_lets_go_of_idle_sockets() {
    let server = start(ServerOptions { header_timeout: Duration::from_secs(60), ..ServerOptions::default() }).await;
    let mut idle = tokio::net::TcpStream::connect(server.public).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut said = [0; 12];
    idle.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
    server.stop().await;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), idle.read_to_end(&mut rest)).await.expect("closed").unwrap();
}

#[tokio::test]
async fn the_feed_is_behind_its_doors() {
    let server = start(ServerOptions::default()).await;
    let admin = server.token("admin", &[]);
    server.send("GET", "/api/v1/stream", &[], "").await.problem(401, "missing");
    assert_eq!(server.send("GET", "/ws", &[], "").await.status, 426);
    server.hub.set_store_up(true);

    let bearer = format!("Bearer {admin}");
    let mut stream = tokio::net::TcpStream::connect(server.public).await.unwrap();
    let head = format!("GET /api/v1/stream HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\n\r\n", server.public);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = String::new();
    let mut buffer = [0; 4096];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !said.contains("event: subscribed") {
        let n = tokio::time::timeout_at(deadline, stream.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("no `subscribed`: {said}"))
            .unwrap();
        assert!(n > 0, "closed: {said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("text/event-stream"), "{said}");
    assert_eq!(server.metrics.connections.sse.get(), 1);
    let connections = server.get("/api/v1/connections", &admin).await.json(200);
    assert_eq!(connections["connections"][0]["user_id"], "7");
    assert_eq!(connections["connections"][0]["transport"], "sse");

    let viewer = server.token("observer", &["audit.view"]);
    server.post("/api/v1/connections/disconnect", &viewer, r#"{"user_id":"7"}"#).await.problem(403, "forbidden");
    for (body, code) in [("{}", "bad_request"), (r#"{"user_id":"7","token_id":"x"}"#, "bad_request"), ("[", "bad_json")] {
        server.post("/api/v1/connections/disconnect", &admin, body).await.problem(400, code);
    }
    let path = "/api/v1/connections/disconnect";
    assert_eq!(server.post(path, &admin, r#"{"user_id":"8"}"#).await.json(200)["disconnected"], 0);
    let name = connections["connections"][0]["connection"].as_str().unwrap();
    assert_eq!(server.post(path, &admin, &json!({"connection": name}).to_string()).await.json(200)["disconnected"], 1);
    while !said.contains("event: bye") {
        let n = tokio::time::timeout_at(deadline, stream.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("no `bye`: {said}"))
            .unwrap();
        assert!(n > 0, "closed: {said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(said.contains("\"code\":3507"), "{said}");
    server.until("the client is gone", |server| server.metrics.connections.sse.get() == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_websocket_goes_through_and_is_let_go() {
    use futures::StreamExt;
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

    let server = start(ServerOptions::default()).await;
    server.until("the store is known to be up", |server| server.hub.store_up()).await;
    let mut request = format!("ws://{}/ws", server.public).into_client_request().unwrap();
    let bearer = format!("Bearer {}", server.token("admin", &[]));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 101);
    let mut frames = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while frames.len() < 2 {
        let message = tokio::time::timeout_at(deadline, socket.next()).await.expect("frames in time").unwrap().unwrap();
        if let Message::Text(text) = message {
            frames.push(serde_json::from_str::<Value>(&text).unwrap());
        }
    }
    assert_eq!((&frames[0]["type"], &frames[1]["type"]), (&json!("hello"), &json!("subscribed")));
    assert_eq!(server.metrics.connections.websocket.get(), 1);
    let connections = server.get("/api/v1/connections", &server.token("admin", &[])).await.json(200);
    assert_eq!(connections["connections"][0]["connection"], frames[0]["connection"]);

    let last = async {
        let mut last = None;
        while let Some(Ok(message)) = socket.next().await {
            last = Some(message);
        }
        last
    };
    let (last, ()) = tokio::join!(last, server.stop());
    assert!(matches!(last, Some(Message::Close(Some(close))) if u16::from(close.code) == 3001));
}
