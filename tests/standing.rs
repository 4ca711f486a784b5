//! Who has lost his standing is out within two seconds, on every way in and on both engines, and nobody else is disturbed. Over
//! real sockets, with the listeners, the sweep and the watch that a daemon has.

#[path = "support/redis.rs"]
mod redis_server;
mod support_http;

use std::time::{Duration, Instant};

use auditcast::{auth::Claims, store::Grant};
use futures::{SinkExt, StreamExt};
use redis_server::RedisServer;
use serde_json::{Value, json};
use support_http::{Server, ServerOptions, now_ms, start};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

/// What contract §5 allows.
const AT_MOST: Duration = Duration::from_secs(2);

/// A test per engine.
macro_rules! both {
    ($($scenario:ident),* $(,)?) => {
        mod redis_engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                let redis = super::RedisServer::start(&[]);
                let options = super::ServerOptions { redis: Some(redis.url()), ..super::ServerOptions::default() };
                let server = super::start(options).await;
                super::ready(&server).await;
                super::$scenario(&server).await;
                server.stop().await;
            })*
        }
        mod embedded_engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                let server = super::start(super::ServerOptions::default()).await;
                super::ready(&server).await;
                super::$scenario(&server).await;
                server.stop().await;
            })*
        }
    };
}

both!(
    a_revoked_token_ends_its_connections_and_no_other,
    a_connection_goes_by_its_newest_token,
    a_token_ends_to_the_second,
    all_tokens_of_a_user_from_before_are_revoked,
    permissions_take_effect_on_who_is_in,
    permissions_of_the_token_stay,
);

async fn ready(server: &Server) {
    server.until("the store is up", |server| server.hub.store_up()).await;
}

struct Ws(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Ws {
    async fn open(server: &Server, token: &str) -> Ws {
        Ws::dial(server, token).await.expect("is let in")
    }

    async fn dial(server: &Server, token: &str) -> Result<Ws, Error> {
        let mut request = format!("ws://{}/ws", server.public).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        let mut ws = Ws(socket);
        assert_eq!(ws.next().await["type"], "hello");
        assert_eq!(ws.next().await["type"], "subscribed");
        Ok(ws)
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            match timeout(Duration::from_secs(10), self.0.next()).await.expect("a frame").expect("a connection").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// `bye`, then the close frame: code and reason of both are the same.
    async fn closed(&mut self) -> (u64, String) {
        let mut bye = self.next().await;
        // A store that was emptied under us is told of too.
        if bye["type"] == "gap" {
            bye = self.next().await;
        }
        assert_eq!(bye["type"], "bye", "{bye}");
        let close = timeout(Duration::from_secs(10), self.0.next()).await.unwrap().unwrap().unwrap();
        let Message::Close(Some(close)) = close else { panic!("{close:?}") };
        assert_eq!(
            (bye["code"].as_u64(), bye["reason"].as_str()),
            (Some(u16::from(close.code).into()), Some(close.reason.as_str()))
        );
        (u16::from(close.code).into(), close.reason.to_string())
    }

    /// Still there: it answers.
    async fn alive(&mut self) {
        self.say(json!({"type": "ping", "id": 1})).await;
        assert_eq!(self.next().await["type"], "pong");
    }
}

/// The status and body of a refused handshake.
async fn refused(server: &Server, token: &str) -> (u16, String) {
    match Ws::dial(server, token).await {
        Err(Error::Http(response)) => {
            (response.status().as_u16(), String::from_utf8(response.body().clone().unwrap_or_default()).unwrap())
        }
        Ok(_) => panic!("was let in"),
        Err(error) => panic!("{error}"),
    }
}

fn token_for(server: &Server, user_id: &str, jti: &str, ttl: Duration) -> String {
    let claims = Claims {
        user_id: user_id.into(),
        role: Some("admin".into()),
        ttl,
        now_ms: now_ms(),
        jti: Some(jti.into()),
        ..Claims::default()
    };
    server.auth.issue(&claims).unwrap()
}

/// A stream of Server-Sent Events that is read in the background; gives what came when it ends.
fn sse(server: &Server, token: &str) -> tokio::task::JoinHandle<String> {
    let (address, token) = (server.public, token.to_owned());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /api/v1/stream HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(Duration::from_secs(15), stream.read_to_string(&mut text)).await.expect("an end").unwrap();
        text
    })
}

async fn a_revoked_token_ends_its_connections_and_no_other(server: &Server) {
    let hour = Duration::from_secs(3600);
    let (bad, good) = (token_for(server, "7", "bad", hour), token_for(server, "7", "good", hour));
    let mut two = [Ws::open(server, &bad).await, Ws::open(server, &bad).await];
    let mut other = Ws::open(server, &good).await;
    let (events, others_events) = (sse(server, &bad), sse(server, &good));
    server.until("both streams are in", |server| server.metrics.connections.sse.get() == 2).await;

    let since = Instant::now();
    server.store.blacklist("bad", hour).await.unwrap();
    for ws in &mut two {
        let (code, reason) = ws.closed().await;
        assert!(code == 3503 && reason.contains("blacklisted"), "{code} {reason}");
    }
    let events = events.await.unwrap();
    assert!(since.elapsed() < AT_MOST, "{:?}", since.elapsed());
    assert!(events.contains(r#""code":3503"#) && events.contains("blacklisted"), "{events}");
    server.until("they are gone", |server| server.hub.connections().len() == 2).await;
    assert_eq!(server.metrics.disconnects.get("3503"), 3);

    other.alive().await;
    assert!(!others_events.is_finished());
    let (status, body) = refused(server, &bad).await;
    assert!(status == 401 && body.contains("blacklisted"), "{status} {body}");
    server.get("/api/v1/alerts", &bad).await.problem(401, "blacklisted");
    server.get("/api/v1/alerts", &good).await.json(200);
}

async fn a_connection_goes_by_its_newest_token(server: &Server) {
    let hour = Duration::from_secs(3600);
    let (old, new) = (token_for(server, "7", "old", hour), token_for(server, "7", "new", hour));
    let mut ws = Ws::open(server, &old).await;
    // Another user's token, and one that is revoked, are no renewals.
    ws.say(json!({"type": "refresh", "id": 1, "token": token_for(server, "8", "theirs", hour)})).await;
    let answer = ws.next().await;
    assert_eq!((&answer["type"], &answer["code"], &answer["id"]), (&json!("error"), &json!("forbidden"), &json!(1)));
    ws.say(json!({"type": "refresh", "id": 2, "token": new})).await;
    assert_eq!(ws.next().await["type"], "ok");
    server.store.blacklist("old", hour).await.unwrap();
    let mut witness = Ws::open(server, &token_for(server, "9", "witness", hour)).await;
    server.store.blacklist("witness", hour).await.unwrap();
    assert_eq!(witness.closed().await.0, 3503);
    ws.alive().await;
    server.store.blacklist("new", hour).await.unwrap();
    assert_eq!(ws.closed().await.0, 3503);
}

async fn a_token_ends_to_the_second(server: &Server) {
    let token = token_for(server, "7", "short", Duration::from_secs(2));
    let exp_ms = server.auth.verify(&token, now_ms()).await.unwrap().expires_at_ms;
    let mut ws = Ws::open(server, &token).await;
    let mut renewed = Ws::open(server, &token).await;
    renewed.say(json!({"type": "refresh", "token": token_for(server, "7", "longer", Duration::from_secs(60))})).await;
    assert_eq!(renewed.next().await["type"], "ok");
    let events = sse(server, &token);
    assert_eq!(ws.closed().await.0, 3005);
    let late_ms = now_ms() as i64 - exp_ms as i64;
    assert!((0..1000).contains(&late_ms), "{late_ms} ms after exp");
    assert!(events.await.unwrap().contains(r#""code":3005"#));
    renewed.alive().await;
}

/// A token as somebody else makes it, with these claims beside `exp`.
fn signed(claims: Value) -> String {
    let mut body = claims;
    body["exp"] = json!(now_ms() / 1000 + 3600);
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of more than thirty-two bytes, for tests");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &body, &key).unwrap()
}

async fn all_tokens_of_a_user_from_before_are_revoked(server: &Server) {
    let now_s = now_ms() / 1000;
    let old = signed(json!({"user_id": "7", "jti": "old", "role": "admin", "iat": now_s - 100}));
    let without = signed(json!({"user_id": "7", "role": "admin"}));
    let later = signed(json!({"user_id": "7", "jti": "later", "role": "admin", "iat": now_s + 30}));
    let theirs = signed(json!({"user_id": "8", "role": "admin"}));
    let mut bad = [Ws::open(server, &old).await, Ws::open(server, &without).await];
    let events = sse(server, &old);
    let mut good = [Ws::open(server, &later).await, Ws::open(server, &theirs).await];
    server.until("the stream is in", |server| server.metrics.connections.sse.get() == 1).await;

    let path = "/api/v1/connections/disconnect";
    for body in [
        r#"{"user_id":"7","issued_before":"2999-01-01T00:00:00Z"}"#,
        r#"{"user_id":"7","issued_before":"yesterday"}"#,
        r#"{"token_id":"7","issued_before":"now"}"#,
        r#"{"user_id":"","issued_before":"now"}"#,
    ] {
        server.post(path, &theirs, body).await.problem(400, "bad_request");
    }
    let answer = server.post(path, &theirs, r#"{"user_id":"7","issued_before":"now"}"#).await.json(200);
    assert_eq!(answer["disconnected"], 3, "{answer}");
    let in_force = answer["issued_before"].as_str().unwrap().to_owned();
    for ws in &mut bad {
        let (code, reason) = ws.closed().await;
        assert!(code == 3503 && reason.contains("blacklisted"), "{code} {reason}");
    }
    assert!(events.await.unwrap().contains(r#""code":3503"#));
    for ws in &mut good {
        ws.alive().await;
    }
    for token in [&old, &without] {
        let (status, body) = refused(server, token).await;
        assert!(status == 401 && body.contains("blacklisted"), "{status} {body}");
        server.get("/api/v1/alerts", token).await.problem(401, "blacklisted");
    }
    // An earlier time takes nothing back, and an old token is no renewal.
    let answer = server.post(path, &theirs, r#"{"user_id":"7","issued_before":"2001-01-01T00:00:00Z"}"#).await.json(200);
    assert_eq!((&answer["disconnected"], answer["issued_before"].as_str()), (&json!(0), Some(in_force.as_str())));
    good[0].say(json!({"type": "refresh", "token": old})).await;
    let error = good[0].next().await;
    assert!(error["type"] == "error" && error["message"].as_str().unwrap().contains("blacklisted"), "{error}");
    let mut another = Ws::open(server, &later).await;
    another.alive().await;

    // By another node, or a command: the store tells of it.
    server.store.cut_off("8", now_ms()).await.unwrap();
    assert_eq!(good[1].closed().await.0, 3503);
}

async fn permissions_take_effect_on_who_is_in(server: &Server) {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let store = &server.store;
    let observer = signed(json!({"user_id": "7", "role": "observer"}));
    assert_eq!(refused(server, &observer).await.0, 403);
    store.grant("7", None, &names(&["audit.view"]), Grant::Give).await.unwrap();
    // A cache knows it at once: the store tells.
    let deadline = Instant::now() + AT_MOST;
    let mut ws = loop {
        match Ws::dial(server, &observer).await {
            Ok(ws) => break ws,
            Err(_) => assert!(Instant::now() < deadline, "the grant does not count"),
        }
    };
    let path = "/api/v1/connections/disconnect";
    server.post(path, &observer, r#"{"user_id":"x"}"#).await.problem(403, "forbidden");

    // Who gains hears of it, and may act at once.
    store.grant("7", Some("auditcast"), &names(&["admin.access"]), Grant::Give).await.unwrap();
    let told = ws.next().await;
    assert_eq!(told["type"], "permissions", "{told}");
    assert_eq!(told["permissions"], json!(["admin.access", "audit.view", "data.view", "session.view"]));
    server.post(path, &observer, r#"{"user_id":"x"}"#).await.json(200);
    // A resource of somebody else's grants nothing here.
    store.grant("7", Some("payroll"), &names(&["audit.write"]), Grant::Give).await.unwrap();
    let events = sse(server, &observer);
    server.until("the stream is in", |server| server.metrics.connections.sse.get() == 1).await;
    store.grant("7", None, &names(&["audit.view"]), Grant::Take).await.unwrap();
    assert_eq!(ws.next().await["permissions"], json!(["admin.access", "data.view", "session.view"]));

    let mut other = Ws::open(server, &token_for(server, "8", "other", Duration::from_secs(60))).await;
    let since = Instant::now();
    store.grant("7", Some("auditcast"), &names(&["admin.access"]), Grant::Take).await.unwrap();
    assert_eq!(ws.closed().await, (3507, "forbidden".to_owned()));
    let events = events.await.unwrap();
    assert!(since.elapsed() < AT_MOST, "{:?}", since.elapsed());
    assert!(events.contains("event: permissions") && events.contains(r#""code":3507"#), "{events}");
    assert_eq!(refused(server, &observer).await.0, 403);
    server.post(path, &observer, r#"{"user_id":"x"}"#).await.problem(403, "forbidden");
    other.alive().await;
}

async fn permissions_of_the_token_stay(server: &Server) {
    let view = vec!["audit.view".to_owned(), "x".to_owned()];
    server.store.grant("7", None, &view, Grant::Give).await.unwrap();
    let mut ws = Ws::open(server, &signed(json!({"user_id": "7", "permissions": ["audit.view", "Ver Auditoría"]}))).await;
    server.store.grant("7", None, &view, Grant::Take).await.unwrap();
    assert_eq!(ws.next().await["permissions"], json!(["Ver Auditoría", "audit.view"]));
    ws.alive().await;
    // A renewal with another role is told too; one that may not see is none.
    ws.say(json!({"type": "refresh", "token": signed(json!({"user_id": "7", "role": "observer"}))})).await;
    assert_eq!(ws.next().await["code"], "forbidden");
    ws.say(json!({"type": "refresh", "token": signed(json!({"user_id": "7", "permissions": ["admin.access"]}))})).await;
    assert_eq!(ws.next().await["type"], "ok");
    assert_eq!(ws.next().await["permissions"], json!(["admin.access"]));
}

/// A user may do what the daemon does with Redis, as the README says, but for what the test takes away.
async fn with_acl(redis: &RedisServer, without: &str) -> Server {
    let mut client = redis.client();
    let rules: Vec<&str> = "on >secret resetchannels &* ~* +@all".split(' ').chain(without.split(' ')).collect();
    redis::cmd("ACL").arg("SETUSER").arg("app").arg(&rules).exec(&mut client).unwrap();
    let url = format!("redis://app:secret@127.0.0.1:{}/0", redis.port());
    let server = start(ServerOptions { redis: Some(url), ..ServerOptions::default() }).await;
    ready(&server).await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_tracking_is_refused_the_store_is_asked_every_second() {
    let redis = RedisServer::start(&[]);
    let server = with_acl(&redis, "-client").await;
    let hour = Duration::from_secs(3600);
    let mut bad = Ws::open(&server, &token_for(&server, "7", "bad", hour)).await;
    let mut good = Ws::open(&server, &token_for(&server, "8", "good", hour)).await;
    let since = Instant::now();
    redis::cmd("SET").arg("jwt:blacklist:bad").arg("logout").exec(&mut redis.client()).unwrap();
    assert_eq!(bad.closed().await.0, 3503);
    assert!(since.elapsed() < AT_MOST, "{:?}", since.elapsed());
    good.alive().await;
    // So are cut-offs and permissions.
    redis::cmd("SADD").arg("permissions:user:8").arg("audit.view").exec(&mut redis.client()).unwrap();
    assert_eq!(good.next().await["type"], "permissions");
    let since = Instant::now();
    server.store.cut_off("8", now_ms()).await.unwrap();
    assert_eq!(good.closed().await.0, 3503);
    assert!(since.elapsed() < AT_MOST, "{:?}", since.elapsed());
    server.stop().await;
}

/// Whatever the application does to the keys, in whatever shape they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_application_count_at_once() {
    let redis = RedisServer::start(&[]);
    let server = start(ServerOptions { redis: Some(redis.url()), ..ServerOptions::default() }).await;
    ready(&server).await;
    let mut client = redis.client();
    let mut send = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).exec(&mut client).unwrap();
    let observer = signed(json!({"user_id": "7", "role": "observer"}));
    send(&["SET", "permissions:user:7", r#"{"audit.view": true}"#]);
    let mut ws = Ws::open(&server, &observer).await;
    send(&["SET", "permissions:user:7", r#"["audit.view", "Historial de Conversaciones"]"#]);
    assert_eq!(ws.next().await["permissions"], json!(["Historial de Conversaciones", "audit.view", "data.view", "session.view"]));
    send(&["HSET", "permissions:resource:auditcast:7", "admin.access", "true"]);
    assert_eq!(ws.next().await["permissions"][1], "admin.access");
    // Deleted is taken, and so is what becomes unreadable.
    send(&["DEL", "permissions:resource:auditcast:7"]);
    assert_eq!(ws.next().await["permissions"][1], "audit.view");
    send(&["SET", "permissions:user:7", "nonsense"]);
    assert_eq!(ws.closed().await.0, 3507);
    send(&["SET", "permissions:user:7", r#"["audit.view"]"#]);
    let deadline = Instant::now() + AT_MOST;
    let mut ws = loop {
        match Ws::dial(&server, &observer).await {
            Ok(ws) => break ws,
            Err(_) => assert!(Instant::now() < deadline, "the grant does not count"),
        }
    };
    send(&["FLUSHALL"]);
    assert_eq!(ws.closed().await.0, 3507);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_revoked_while_the_store_was_away_is_seen_when_it_is_back() {
    let mut redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let server = start(ServerOptions { redis: Some(redis.url()), ..ServerOptions::default() }).await;
    ready(&server).await;
    let hour = Duration::from_secs(3600);
    let bad_token = token_for(&server, "7", "bad", hour);
    let mut bad = Ws::open(&server, &bad_token).await;
    let mut good = Ws::open(&server, &token_for(&server, "8", "good", hour)).await;
    // The connection that tells is cut, the key appears before it is back: no word of it comes.
    let mut client = redis.client();
    let mut cut = redis::pipe();
    cut.cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").ignore();
    cut.cmd("SET").arg("jwt:blacklist:bad").arg("1").arg("EX").arg(3600).ignore();
    let since = Instant::now();
    cut.atomic().exec(&mut client).unwrap();
    assert_eq!(bad.closed().await.0, 3503);
    assert!(since.elapsed() < AT_MOST, "{:?}", since.elapsed());
    good.alive().await;

    // Gone for good, and evicted meanwhile: who is in stays, who was revoked stays out.
    redis.kill();
    server.until("the store is missed", |server| !server.hub.store_up()).await;
    good.alive().await;
    redis.start_again();
    redis::cmd("DEL").arg("jwt:blacklist:bad").exec(&mut redis.client()).unwrap();
    ready(&server).await;
    good.alive().await;
    let (status, body) = refused(&server, &bad_token).await;
    assert!(status == 401 && body.contains("blacklisted"), "{status} {body}");
    server.stop().await;
}
