//! What is proved: who may see, act and write, as a table: role, permission, where it was granted (claim or store), what is done, and
//! the way the token takes (header, subprotocol, first frame, cookie); each refusal with its status or its close code (contract §5,
//! §7, §10). Over real sockets, with a real Redis.

#[path = "support/redis.rs"]
mod redis_server;
mod support_http;
mod support_ws;

use std::time::Duration;

use redis_server::RedisServer;
use serde_json::{Value, json};
use support_http::{Response, Server, ServerOptions, now_ms, start};
use support_ws::{Entered, Way, enter};

const SECRET: &[u8] = b"a secret of more than thirty-two bytes, for tests";

fn sign(claims: &Value, secret: &[u8], algorithm: jsonwebtoken::Algorithm) -> String {
    let header = jsonwebtoken::Header::new(algorithm);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_secret(secret)).unwrap()
}

async fn server() -> (RedisServer, Server) {
    let redis = RedisServer::start(&[]);
    let options = ServerOptions {
        redis: Some(redis.url()),
        rate_general: 1_000_000,
        rate_connections: 1_000_000,
        rate_events: 1_000_000,
        auth_timeout: Duration::from_secs(2),
        ..ServerOptions::default()
    };
    (redis, start(options).await)
}

/// What is in the store for a user.
enum Grant {
    None,
    Set(&'static str),
    /// Name and value.
    Hash(&'static str, &'static str),
    Json(&'static str),
}

/// Who; the claims beside `user_id` and `exp`; the store; and whether they may see, act, write.
fn people() -> Vec<(&'static str, Value, Grant, [bool; 3])> {
    use Grant::{Hash, Json, None, Set};
    const NOTHING: [bool; 3] = [false; 3];
    const SEE: [bool; 3] = [true, false, false];
    const ACT: [bool; 3] = [true, true, false];
    const WRITE: [bool; 3] = [false, false, true];
    vec![
        ("nobody", json!({}), None, NOTHING),
        ("admin", json!({"role": "ADMIN"}), None, ACT),
        ("admin-in-lower-case", json!({"role": "admin"}), None, ACT),
        ("admin-among-others", json!({"roles": ["OBSERVER", "Admin"]}), None, ACT),
        ("researcher", json!({"role": "RESEARCHER"}), None, NOTHING),
        ("observer", json!({"role": "OBSERVER"}), None, NOTHING),
        ("of-no-known-role", json!({"role": "ROOT"}), None, NOTHING),
        ("claims-view", json!({"permissions": ["audit.view"]}), None, SEE),
        ("claims-admin", json!({"permissions": "admin.access"}), None, ACT),
        ("claims-write", json!({"permissions": ["audit.write"]}), None, WRITE),
        ("claims-all", json!({"permissions": ["admin.access", "audit.write"]}), None, [true; 3]),
        ("claims-another-case", json!({"permissions": ["AUDIT.VIEW", " audit.view"]}), None, NOTHING),
        ("observer-claims-view", json!({"role": "OBSERVER", "permissions": ["audit.view"]}), None, SEE),
        ("store-view", json!({}), Set("audit.view"), SEE),
        ("store-admin", json!({"role": "OBSERVER"}), Hash("admin.access", "true"), ACT),
        ("store-admin-no-more", json!({"role": "OBSERVER"}), Hash("admin.access", "false"), NOTHING),
        ("store-write", json!({}), Json(r#"["audit.write", "data.view"]"#), WRITE),
        ("store-broken", json!({"permissions": ["audit.view"]}), Json("audit.write"), SEE),
        ("claims-view-store-write", json!({"permissions": ["audit.view"]}), Set("audit.write"), [true, false, true]),
        ("store-adds-to-admin", json!({"role": "ADMIN"}), Set("audit.write"), [true; 3]),
    ]
}

/// What is asked of the API: method, path, body, and whether it is seeing, acting or writing.
const CALLS: [(&str, &str, &str, usize); 7] = [
    ("GET", "/api/v1/alerts", "", 0),
    ("GET", "/api/v1/alerts?status=firing", "", 0),
    ("GET", "/api/v1/metrics/current", "", 0),
    ("GET", "/api/v1/metrics/history", "", 0),
    ("GET", "/api/v1/connections", "", 0),
    ("POST", "/api/v1/connections/disconnect", r#"{"user_id":"not-there"}"#, 1),
    ("POST", "/api/v1/events", r#"{"event_type":"test.matrix"}"#, 2),
];

/// A call with the token in the header, in the cookie from our own page, or in the cookie from elsewhere.
async fn call(server: &Server, (method, path, body, _): (&str, &str, &str, usize), way: &str, token: &str) -> Response {
    let (bearer, cookie) = (format!("Bearer {token}"), format!("__Host-auditcast={token}"));
    let own = format!("http://{}", server.public);
    let mut headers = vec![("content-type", "application/json")];
    match way {
        "header" => headers.push(("authorization", &bearer)),
        "cookie" => headers.extend([("cookie", cookie.as_str()), ("origin", own.as_str())]),
        "cookie from elsewhere" => headers.extend([("cookie", cookie.as_str()), ("origin", "https://evil.example")]),
        other => panic!("{other}"),
    }
    server.send(method, path, &headers, body).await
}

/// Status of `GET /api/v1/stream`, which does not end by itself where it is 200.
async fn stream(server: &Server, header: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = tokio::net::TcpStream::connect(server.public).await.unwrap();
    let request = format!("GET /api/v1/stream HTTP/1.1\r\nHost: {}\r\n{header}\r\n\r\n", server.public);
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while head.len() < 12 {
        let mut some = [0; 12];
        let n = tokio::time::timeout(support_ws::PATIENCE, tcp.read(&mut some)).await.expect("an answer").unwrap();
        assert!(n > 0, "an answer");
        head.extend_from_slice(&some[..n]);
    }
    String::from_utf8_lossy(&head[9..12]).parse().unwrap()
}

#[tokio::test]
async fn who_may_what_by_which_way() {
    let (redis, server) = server().await;
    let mut client = redis.client();
    let own = server.public;
    for (user, claims, grant, may) in people() {
        let key = format!("permissions:user:{user}");
        match grant {
            Grant::None => {}
            Grant::Set(name) => redis::cmd("SADD").arg(&key).arg(name).exec(&mut client).unwrap(),
            Grant::Hash(name, value) => redis::cmd("HSET").arg(&key).arg(name).arg(value).exec(&mut client).unwrap(),
            Grant::Json(text) => redis::cmd("SET").arg(&key).arg(text).exec(&mut client).unwrap(),
        }
        let mut all = claims.clone();
        all["user_id"] = user.into();
        all["exp"] = (now_ms() / 1000 + 600).into();
        let token = sign(&all, SECRET, jsonwebtoken::Algorithm::HS256);

        for way in Way::ALL {
            match (may[0], way, enter(own, "/ws", way, &token).await) {
                (true, _, Entered::In(_, hello)) => assert_eq!(hello["user"], user),
                (false, Way::Header, Entered::Refused(403, body)) => assert!(body.contains("audit.view"), "{body}"),
                (false, Way::Subprotocol | Way::Cookie | Way::FirstFrame, Entered::Closed(before, 3507, _)) => {
                    assert_eq!((before.len(), &before[0]["type"], &before[0]["code"]), (1, &json!("error"), &json!("forbidden")));
                }
                (_, _, other) => panic!("{user} by {way:?}: {other:?}"),
            }
        }
        for header in [format!("Authorization: Bearer {token}"), format!("Cookie: __Host-auditcast={token}")] {
            assert_eq!(stream(&server, &header).await, if may[0] { 200 } else { 403 }, "{user} {header:.8}");
        }
        for asked in CALLS {
            for way in ["header", "cookie", "cookie from elsewhere"] {
                let answer = call(&server, asked, way, &token).await;
                let from_elsewhere = way == "cookie from elsewhere" && asked.0 != "GET";
                match (may[asked.3], from_elsewhere) {
                    (_, true) => drop(answer.problem(403, "forbidden_origin")),
                    (true, false) => assert_eq!(answer.status, 200, "{user} {way} {asked:?}: {}", answer.body),
                    (false, false) => drop(answer.problem(403, "forbidden")),
                }
            }
        }
    }
    server.stop().await;
}

/// A token that is none: HTTP status and `code`, close code, and a word that says why.
fn tokens(now_s: u64) -> Vec<(&'static str, String, u16, &'static str, u16, &'static str)> {
    let claims = |changes: Value| {
        let mut claims = json!({"user_id": "7", "role": "ADMIN", "exp": now_s + 600});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let hs256 = |changes: Value| sign(&claims(changes), SECRET, jsonwebtoken::Algorithm::HS256);
    let mut no_exp = claims(json!({}));
    no_exp.as_object_mut().unwrap().remove("exp");
    let good = hs256(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#);
    let rs256 = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"RS256"}"#);
    let body = message.split_once('.').unwrap().1;
    vec![
        ("none at all", String::new(), 401, "missing", 3502, "bearer token is needed"),
        ("no token", "a.b.c".into(), 401, "invalid", 3500, "header"),
        (
            "another's secret",
            sign(&claims(json!({})), b"another secret of more than thirty-two bytes", jsonwebtoken::Algorithm::HS256),
            401,
            "invalid",
            3500,
            "signature",
        ),
        ("without a signature", format!("{message}."), 401, "invalid", 3500, "signature"),
        ("of the algorithm none", format!("{none}.{body}."), 401, "invalid", 3500, "algorithm is none"),
        ("of a key that is not there", format!("{rs256}.{body}.{signature}"), 401, "invalid", 3500, "RS256"),
        ("expired", hs256(json!({"exp": now_s - 60})), 401, "expired", 3005, "expired"),
        ("too old", hs256(json!({"iat": now_s - 90_000})), 401, "expired", 3005, "older"),
        ("without an end", sign(&no_exp, SECRET, jsonwebtoken::Algorithm::HS256), 401, "invalid", 3500, "`exp`"),
        ("not yet", hs256(json!({"nbf": now_s + 600})), 401, "invalid", 3500, "not valid yet"),
        ("a refresh token", hs256(json!({"type": "refresh"})), 401, "invalid", 3500, "`type`"),
        ("for somebody else", hs256(json!({"aud": "another"})), 401, "invalid", 3500, "audience"),
        ("of nobody", hs256(json!({"user_id": null})), 401, "invalid", 3500, "`user_id`"),
        (
            "with a filter that is not understood",
            hs256(json!({"filter": {"severity": "high"}})),
            403,
            "forbidden",
            3507,
            "`filter`",
        ),
        ("revoked", hs256(json!({"jti": "gone"})), 401, "blacklisted", 3503, "blacklisted"),
    ]
}

#[tokio::test]
async fn what_is_no_token_by_every_way() {
    let (redis, server) = server().await;
    redis::cmd("SET").arg("jwt:blacklist:gone").arg("1").exec(&mut redis.client()).unwrap();
    for (what, token, status, code, close, word) in tokens(now_ms() / 1000) {
        for way in Way::ALL {
            if token.is_empty() && way != Way::FirstFrame {
                continue;
            }
            match enter(server.public, "/ws", way, &token).await {
                Entered::Refused(got, body) if way == Way::Header => {
                    assert_eq!(got, status, "{what}: {body}");
                    assert!(body.contains(word) && body.contains(&format!("\"code\":\"{code}\"")), "{what}: {body}");
                }
                Entered::Closed(before, got, reason) if way != Way::Header => {
                    assert_eq!(got, close, "{what} by {way:?}: {before:?}");
                    assert_eq!((before.len(), &before[0]["type"]), (1, &json!("error")), "{what} by {way:?}: {before:?}");
                    assert!(token.is_empty() || before[0]["message"].as_str().unwrap().contains(word), "{what}: {before:?}");
                    assert!(code != "blacklisted" || reason.contains("blacklisted"), "{reason}");
                }
                other => panic!("{what} by {way:?}: {other:?}"),
            }
        }
        for asked in CALLS {
            for way in ["header", "cookie"] {
                let answer = match token.is_empty() {
                    true => server.send(asked.0, asked.1, &[("content-type", "application/json")], asked.2).await,
                    false => call(&server, asked, way, &token).await,
                };
                let wants_a_token = status == 401;
                assert_eq!(answer.header("www-authenticate").is_some(), wants_a_token, "{what} {asked:?}");
                let problem = answer.problem(status, code);
                assert!(problem["detail"].as_str().unwrap().contains(word), "{what} {asked:?}: {problem}");
            }
        }
        let header = if token.is_empty() { "X: y".to_owned() } else { format!("Authorization: Bearer {token}") };
        assert_eq!(stream(&server, &header).await, status, "{what}");
    }
    server.stop().await;
}
