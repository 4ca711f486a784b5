//! The feed over real sockets (contract §5): a small listener with the room's own handlers, the embedded store behind it, and
//! an independent WebSocket client. Alerts take the real way: committed to the store, followed by the hub, read by cursors.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use auditcast::{
    auth::{self, Auth, Claims, Secret},
    detect::{Alert, Kind, Metrics, Status},
    event::Severity,
    hub::{self, Hub},
    metrics,
    session::{self, Context},
    store::{self, Commit, NewEntry, Store},
    wire,
};
use axum::{body::Body, http::Request};
use futures::{SinkExt, StreamExt};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use tokio_util::sync::{CancellationToken, DropGuard};

type Client = WebSocketStream<TcpStream>;

const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    ctx: Arc<Context>,
    address: SocketAddr,
    fence: u64,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

fn options() -> session::Options {
    session::Options {
        events_rate: 500,
        ping_interval: Duration::from_secs(25),
        idle_timeout: Duration::from_secs(60),
        auth_timeout: Duration::from_secs(5),
        frame_bytes_max: 16 * 1024,
        connections_max: 100,
        connections_per_user_max: 20,
        connections_per_address_max: 100,
        write_timeout: Duration::from_secs(10),
        drain_window: Duration::from_secs(10),
        origins: vec!["https://audit.example".into()],
    }
}

async fn node(options: session::Options, ring: usize) -> Node {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(store::Options {
        target: store::Target::Embedded(dir.path().to_owned()),
        prefix: "{auditcast}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(3600),
        alerts_max: 1_000_000,
        dead_letters_max: 100,
        commits_max: 100_000,
        intake_max: 1000,
    })
    .await
    .expect("the store opens");
    store.prepare().await.expect("the store is ready");
    let fence = store.lease("test", 0).await.expect("the lease").fence;
    let hub = Hub::new(hub::Options { ring, events_ring: 1000 });
    let stop = CancellationToken::new();
    {
        let (hub, store, stop) = (hub.clone(), store.clone(), stop.clone());
        tokio::spawn(async move { hub.follow(store, stop).await });
    }
    let auth = Auth::new(
        auth::Options { leeway: Duration::ZERO, ..auth::Options::new(Secret(b"0123456789abcdef0123456789abcdef".to_vec())) },
        store.clone(),
    );
    let metrics = metrics::Metrics::new(&[], &[], "0", "0", "0");
    let ctx = Context::new(hub, store, auth, metrics, options, "n1".into());
    {
        let (ctx, stop) = (ctx.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(session::sweep(ctx)).await });
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    {
        let (ctx, stop) = (ctx.clone(), stop.clone());
        tokio::spawn(async move {
            let _ = stop.run_until_cancelled(listen(ctx, listener)).await;
        });
    }
    wait_for("the hub to follow", || ctx.hub.store_up()).await;
    Node { ctx, address, fence, _stop: stop.drop_guard(), _dir: dir }
}

async fn listen(ctx: Arc<Context>, listener: TcpListener) {
    loop {
        let Ok((tcp, peer)) = listener.accept().await else { return };
        let ctx = ctx.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (ctx, request) = (ctx.clone(), request.map(Body::new));
                async move {
                    Ok::<_, std::convert::Infallible>(match request.uri().path() {
                        "/ws" => session::websocket(ctx, request, peer).await,
                        _ => session::sse(ctx, request, peer).await,
                    })
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
        });
    }
}

async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

fn alert(n: u64, severity: Severity) -> Alert {
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as u64;
    Alert {
        alert_id: format!("{n:032x}"),
        kind: Kind::Event,
        status: Status::Firing,
        rule: "event".into(),
        event_type: format!("test.number_{n}"),
        severity,
        message: format!("number {n}"),
        timestamp_ms: now_ms,
        received_at_ms: now_ms,
        value: None,
        threshold: None,
        window_ms: None,
        user_id: None,
        username: None,
        details: Default::default(),
        source: None,
        original_event_type: None,
        evidence: vec![],
        labels: Default::default(),
        runbook_url: None,
    }
}

impl Node {
    /// Stores alerts with these numbers, in one commit.
    async fn raise(&self, numbers: std::ops::RangeInclusive<u64>) {
        self.commit(numbers.map(|n| alert(n, if n % 2 == 0 { Severity::High } else { Severity::Medium })).collect()).await;
    }

    async fn commit(&self, alerts: Vec<Alert>) {
        let entries = alerts
            .iter()
            .map(|alert| NewEntry {
                alert_id: alert.alert_id.clone(),
                body: wire::alert_body(alert, None),
                firing: alert.status == Status::Firing,
                first: false,
            })
            .collect();
        let commit = Commit { fence: self.fence, entries, ..Commit::default() };
        self.ctx.store.commit(&commit).await.expect("the commit");
    }

    fn token(&self, user: &str, seconds: u64) -> String {
        self.token_with(user, seconds, &["audit.view"], None)
    }

    fn token_with(&self, user: &str, seconds: u64, permissions: &[&str], jti: Option<&str>) -> String {
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as u64;
        let claims = Claims {
            user_id: user.into(),
            username: None,
            role: None,
            permissions: permissions.iter().map(|p| (*p).to_owned()).collect(),
            ttl: Duration::from_secs(seconds),
            now_ms,
            sight: None,
            jti: jti.map(str::to_owned),
        };
        self.ctx.auth.issue(&claims).expect("a token")
    }

    async fn dial(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
        let tcp = TcpStream::connect(self.address).await.expect("a connection");
        self.dial_over(tcp, path, headers).await
    }

    async fn dial_over(&self, tcp: TcpStream, path: &str, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a value"));
        }
        timeout(PATIENCE, client_async(request, tcp)).await.expect("an answer").map(|(client, _)| client)
    }

    /// A client of `ann`'s that has had `hello`.
    async fn client(&self, path: &str) -> Client {
        let bearer = format!("Bearer {}", self.token("ann", 600));
        let mut client = self.dial(path, &[("authorization", &bearer)]).await.expect("is let in");
        assert_eq!(next(&mut client).await["type"], "hello");
        client
    }

    /// Status and body of a refusal.
    async fn refused(&self, path: &str, headers: &[(&'static str, &str)]) -> (u16, String) {
        match self.dial(path, headers).await {
            Err(Error::Http(response)) => {
                (response.status().as_u16(), String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned())
            }
            Ok(_) => panic!("{path} {headers:?} was let in"),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn message(client: &mut Client) -> Message {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("a message").expect("an open connection").expect("a message") {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}

async fn next(client: &mut Client) -> Value {
    match message(client).await {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

/// Skips to the close frame; gives the frames before it and the code.
async fn closed(client: &mut Client) -> (Vec<Value>, u16, String) {
    let mut before = Vec::new();
    loop {
        match message(client).await {
            Message::Text(text) => before.push(serde_json::from_str(&text).expect("JSON")),
            Message::Close(Some(frame)) => return (before, frame.code.into(), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

async fn say(client: &mut Client, frame: Value) {
    client.send(Message::text(frame.to_string())).await.expect("is sent");
}

/// The numbers of the next `count` alerts.
async fn numbers(client: &mut Client, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let frame = next(client).await;
        assert_eq!(frame["type"], "security_alert", "{frame}");
        numbers.push(number(&frame));
    }
    numbers
}

fn number(frame: &Value) -> u64 {
    frame["message"]
        .as_str()
        .and_then(|m| m.strip_prefix("number "))
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{frame}"))
}

#[tokio::test]
async fn an_alert_is_pushed_and_a_client_resumes_where_it_left() {
    let node = node(options(), 1000).await;
    let mut client = node.client("/ws").await;
    let subscribed = next(&mut client).await;
    assert_eq!((&subscribed["recovered"], &subscribed["replaying"]), (&json!(true), &json!(0)));
    node.raise(1..=2).await;
    let first = next(&mut client).await;
    assert_eq!((&first["type"], number(&first), first.get("replayed")), (&json!("security_alert"), 1, None));
    drop(client);
    wait_for("the first client to be gone", || node.ctx.hub.connections().is_empty()).await;
    node.raise(3..=4).await;
    // What this node has not seen when a client comes back is live for it.
    wait_for("the hub to have them", || node.ctx.hub.head() >= 4).await;
    let pos = first["pos"].as_str().expect("a position");
    let mut client = node.client(&format!("/ws?after={pos}")).await;
    let subscribed = next(&mut client).await;
    assert_eq!(subscribed["recovered"], true);
    assert_eq!(numbers(&mut client, 3).await, [2, 3, 4]);
    node.raise(5..=5).await;
    assert_eq!(numbers(&mut client, 1).await, [5]);
    // Two live ones to the first client, one to the second: replays are no measure of delivery.
    wait_for("the deliveries", || node.ctx.metrics.alert_delivery.get_sample_count() >= 3).await;
    assert_eq!(node.ctx.metrics.alert_delivery.get_sample_count(), 3);
    assert!(node.ctx.metrics.alert_delivery.get_sample_sum() < 3.0);
}

#[tokio::test]
async fn replay_from_the_store_joins_the_ring_without_hole_or_repeat() {
    let node = node(options(), 16).await;
    node.raise(1..=1000).await;
    wait_for("the tail", || node.ctx.hub.head() == 1000).await;
    let mut client = node.client("/ws?after=earliest").await;
    let subscribed = next(&mut client).await;
    assert_eq!((&subscribed["recovered"], &subscribed["replaying"]), (&json!(true), &json!(1000)));
    let raising = async {
        for n in 1001..=1100 {
            node.raise(n..=n).await;
        }
    };
    let (seen, ()) = tokio::join!(numbers(&mut client, 1100), raising);
    assert_eq!(seen, (1..=1100).collect::<Vec<_>>());
}

#[tokio::test]
async fn long_frames_go_out_as_the_socket_takes_them() {
    let node = node(options(), 1000).await;
    let mut client = node.client("/ws?events=low").await;
    assert_eq!(next(&mut client).await["type"], "subscribed");
    let details = json!({"filler": "x".repeat(60_000)});
    let long = |n| Alert { details: details.as_object().expect("an object").clone(), ..alert(n, Severity::High) };
    node.commit((1..=100).map(long).collect()).await;
    let event_type: Arc<str> = "x".into();
    for _ in 0..100 {
        node.ctx.hub.push_event(Severity::High, &event_type, json!({"type": "security_event", "details": details}).to_string());
    }
    let (mut alerts, mut events) = (Vec::new(), 0);
    while alerts.len() < 100 || events < 100 {
        let frame = next(&mut client).await;
        match frame["type"].as_str() {
            Some("security_alert") => alerts.push(number(&frame)),
            Some("security_event") => events += 1,
            _ => panic!("{frame}"),
        }
    }
    assert_eq!(alerts, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_position_that_means_nothing_any_more_is_told() {
    let node = node(options(), 1000).await;
    node.raise(1..=3).await;
    wait_for("the tail", || node.ctx.hub.head() == 3).await;
    for after in ["2-00000000", "77-00c0ffee", "1699999999999-0", "0-00000000"] {
        let mut client = node.client(&format!("/ws?after={after}")).await;
        let subscribed = next(&mut client).await;
        assert_eq!((&subscribed["recovered"], &subscribed["reason"]), (&json!(false), &json!("unknown_position")), "{after}");
        let first = next(&mut client).await;
        assert_eq!((number(&first), &first["replayed"]), (1, &json!(true)), "{after}");
        assert_eq!(numbers(&mut client, 2).await, [2, 3]);
    }
}

#[tokio::test]
async fn active_sends_what_is_firing_and_a_position_to_come_back_with() {
    let node = node(options(), 1000).await;
    node.raise(1..=3).await;
    let resolved = Alert { status: Status::Resolved, ..alert(2, Severity::High) };
    node.commit(vec![resolved]).await;
    wait_for("the tail", || node.ctx.hub.head() == 4).await;
    let mut client = node.client("/ws?active=true").await;
    assert_eq!(next(&mut client).await["replaying"], 2);
    assert_eq!(numbers(&mut client, 2).await, [1, 3]);
    let position = next(&mut client).await;
    assert_eq!((&position["type"], &position["pos"]), (&json!("position"), &json!(node.ctx.hub.head_pos().to_string())));
    node.raise(5..=5).await;
    assert_eq!(numbers(&mut client, 1).await, [5]);
}

#[tokio::test]
async fn filters_hide_and_a_new_subscription_goes_on_from_here() {
    let node = node(options(), 1000).await;
    let mut client = node.client("/ws?min_severity=high").await;
    assert_eq!(next(&mut client).await["type"], "subscribed");
    node.raise(1..=4).await;
    assert_eq!(numbers(&mut client, 2).await, [2, 4]);
    say(&mut client, json!({"type": "subscribe", "id": "s", "types": ["*_7", "*_8"]})).await;
    let subscribed = next(&mut client).await;
    assert_eq!((&subscribed["type"], &subscribed["id"]), (&json!("subscribed"), &json!("s")));
    node.raise(5..=8).await;
    assert_eq!(numbers(&mut client, 2).await, [7, 8]);
    say(&mut client, json!({"type": "subscribe", "after": "earliest"})).await;
    assert_eq!(next(&mut client).await["replaying"], 8);
    assert_eq!(numbers(&mut client, 8).await, (1..=8).collect::<Vec<_>>());
    // The same by expression; who asks for the same in other words shares what is made of it.
    for filter in [r#"severity = high and message glob "number 1?""#, r#"(severity=high) and message glob 'number 1?'"#] {
        say(&mut client, json!({"type": "subscribe", "after": "earliest", "filter": filter})).await;
        assert_eq!(next(&mut client).await["type"], "subscribed");
        if filter.starts_with('s') {
            node.raise(9..=13).await;
        }
        assert_eq!(numbers(&mut client, 2).await, [10, 12]);
    }
    let (status, body) = node.refused("/ws?filter=severity+%3E%3D+urgent", &[]).await;
    assert!(status == 400 && body.contains("at character 13: expected low, medium"), "{status} {body}");
}

#[tokio::test]
async fn a_position_comes_before_a_ping_when_nothing_was_wanted() {
    let node = node(session::Options { ping_interval: Duration::from_millis(200), ..options() }, 1000).await;
    let mut client = node.client("/ws?types=none").await;
    assert_eq!(next(&mut client).await["type"], "subscribed");
    node.raise(1..=3).await;
    let mut position = next(&mut client).await;
    while position["pos"].as_str().is_some_and(|pos| !pos.starts_with("3-")) {
        position = next(&mut client).await;
    }
    assert_eq!(position["type"], "position");
}

#[tokio::test]
async fn refusals_are_told_as_the_token_came() {
    let node = node(options(), 100).await;
    let bearer = |token: &str| format!("Bearer {token}");
    let expired = {
        let token = node.token("ann", 1);
        // Good for whole seconds: over when the clock has gone on by two.
        let start = std::time::SystemTime::now();
        wait_for("a token to expire", || start.elapsed().is_ok_and(|passed| passed > Duration::from_secs(2))).await;
        token
    };
    node.ctx.store.blacklist("gone", Duration::from_secs(60)).await.expect("is blacklisted");
    let revoked = node.token_with("ann", 60, &["audit.view"], Some("gone"));
    let observer = node.token_with("bob", 60, &["session.view"], None);
    for (token, status, code, word) in [
        ("rubbish", 401, 3500, ""),
        (expired.as_str(), 401, 3005, ""),
        (revoked.as_str(), 401, 3503, "blacklisted"),
        (observer.as_str(), 403, 3507, ""),
    ] {
        let (seen, body) = node.refused("/ws", &[("authorization", &bearer(token))]).await;
        assert_eq!(seen, status, "{body}");
        assert!(body.contains(word), "{body}");
        let protocol = format!("auditcast.v1, auditcast.token.{token}");
        let cookie = format!("__Host-auditcast={token}");
        for header in [("sec-websocket-protocol", protocol.as_str()), ("cookie", cookie.as_str())] {
            // The independent client checks that exactly `auditcast.v1` is chosen where it is offered.
            let mut client = node.dial("/ws", &[header]).await.expect("the upgrade succeeds");
            let (frames, seen, reason) = closed(&mut client).await;
            assert_eq!((frames.len(), &frames[0]["type"], seen), (1, &json!("error"), code), "{frames:?}");
            assert!(reason.contains(word), "{reason}");
        }
        let mut client = node.dial("/ws", &[]).await.expect("the upgrade succeeds");
        say(&mut client, json!({"type": "auth", "token": token})).await;
        let (frames, seen, _) = closed(&mut client).await;
        assert_eq!((frames.len(), &frames[0]["type"], seen), (1, &json!("error"), code));
    }
    let good = node.token("ann", 600);
    for (path, headers) in [
        (format!("/ws?token={good}"), vec![]),
        (format!("/ws?access_token={good}"), vec![]),
        ("/ws?nonsense=1".to_owned(), vec![("authorization", bearer(&good))]),
        ("/ws?min_severity=urgent".to_owned(), vec![("authorization", bearer(&good))]),
        ("/ws".to_owned(), vec![("sec-websocket-protocol", format!("auditcast.token.{good}"))]),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(node.refused(&path, &headers).await.0, 400, "{path}");
    }
    let foreign = ("origin", "https://evil.example");
    assert_eq!(node.refused("/ws", &[("authorization", &bearer(&good)), foreign]).await.0, 403);
    let mut client =
        node.dial("/ws", &[("cookie", &format!("__Host-auditcast={good}")), foreign]).await.expect("the upgrade succeeds");
    assert_eq!(closed(&mut client).await.1, 3507);
    let own = format!("http://{}", node.address);
    for origin in ["https://audit.example", own.as_str()] {
        let mut client = node.dial("/ws", &[("authorization", &bearer(&good)), ("origin", origin)]).await.expect("is let in");
        assert_eq!(next(&mut client).await["type"], "hello");
    }
    node.ctx.hub.set_store_up(false);
    assert_eq!(node.refused("/ws", &[("authorization", &bearer(&good))]).await.0, 503);
}

#[tokio::test]
async fn a_token_may_come_by_subprotocol_cookie_or_first_frame() {
    let node = node(options(), 100).await;
    let token = node.token("ann", 600);
    let protocol = format!("auditcast.v1, auditcast.token.{token}");
    let cookie = format!("a=b; __Host-auditcast={token}");
    for header in [("sec-websocket-protocol", protocol.as_str()), ("cookie", cookie.as_str())] {
        let mut client = node.dial("/ws", &[header]).await.expect("is let in");
        let hello = next(&mut client).await;
        assert_eq!((&hello["type"], &hello["user"], &hello["node"]), (&json!("hello"), &json!("ann"), &json!("n1")));
    }
    let mut client = node.dial("/ws", &[]).await.expect("the upgrade succeeds");
    say(&mut client, json!({"type": "ping", "id": 1})).await;
    let error = next(&mut client).await;
    assert_eq!((&error["code"], &error["id"]), (&json!("forbidden"), &json!(1)));
    say(&mut client, json!({"type": "auth", "token": token})).await;
    assert_eq!(next(&mut client).await["type"], "hello");
    assert_eq!(next(&mut client).await["type"], "subscribed");
}

#[tokio::test]
async fn who_does_not_say_who_he_is_in_time_is_closed() {
    let node = node(session::Options { auth_timeout: Duration::from_millis(200), ..options() }, 100).await;
    let mut client = node.dial("/ws", &[]).await.expect("the upgrade succeeds");
    let (frames, code, _) = closed(&mut client).await;
    assert_eq!((&frames[0]["type"], code), (&json!("error"), 3502));
}

#[tokio::test]
async fn requests_are_answered_and_rubbish_counts() {
    let node = node(options(), 100).await;
    let mut client = node.client("/ws").await;
    assert_eq!(next(&mut client).await["type"], "subscribed");
    say(&mut client, json!({"type": "ping", "id": "p"})).await;
    let pong = next(&mut client).await;
    assert_eq!(
        (&pong["type"], &pong["id"], &pong["head"]),
        (&json!("pong"), &json!("p"), &json!(node.ctx.hub.head_pos().to_string()))
    );
    for (frame, code) in [
        (json!({"type": "nope"}), "unknown_type"),
        (json!({"type": "subscribe", "kinds": ["x"]}), "bad_filter"),
        (json!({"type": "subscribe", "filter": "user = alice"}), "bad_filter"),
        (json!({"type": "subscribe", "after": "a b"}), "bad_request"),
        (json!({"type": "auth", "token": "x"}), "bad_request"),
    ] {
        say(&mut client, frame).await;
        assert_eq!(next(&mut client).await["code"], code);
    }
    for _ in 0..9 {
        client.send(Message::text("rubbish")).await.expect("is sent");
        assert_eq!(next(&mut client).await["code"], "bad_json");
    }
    client.send(Message::text("[]")).await.expect("is sent");
    let (frames, code, _) = closed(&mut client).await;
    assert_eq!((&frames[0]["type"], &frames[0]["reconnect"], code), (&json!("bye"), &json!(false), 3501));
}

#[tokio::test]
async fn frames_that_break_a_rule_close_with_its_code() {
    let node = node(options(), 100).await;
    let mut client = node.client("/ws").await;
    client.send(Message::text("x".repeat(17 * 1024))).await.expect("is sent");
    assert_eq!(closed(&mut client).await.1, 1009);
    let mut client = node.client("/ws").await;
    client.send(Message::binary(vec![1, 2, 3])).await.expect("is sent");
    assert_eq!(closed(&mut client).await.1, 1003);
    let mut client = node.client("/ws").await;
    // A masked text frame of one byte that is no UTF-8, under a mask of zeros.
    client.get_mut().write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await.expect("is sent");
    assert_eq!(closed(&mut client).await.1, 1007);
    let mut client = node.client("/ws").await;
    // Not masked.
    client.get_mut().write_all(&[0x81, 0x01, b'x']).await.expect("is sent");
    assert_eq!(closed(&mut client).await.1, 1002);
}

#[tokio::test]
async fn a_connection_ends_with_its_token_and_lives_on_with_a_newer_one() {
    let node = node(options(), 100).await;
    let short = format!("Bearer {}", node.token("ann", 2));
    let mut left = node.dial("/ws", &[("authorization", &short)]).await.expect("is let in");
    let mut renewed = node.dial("/ws", &[("authorization", &short)]).await.expect("is let in");
    for _ in 0..2 {
        next(&mut renewed).await;
    }
    say(&mut renewed, json!({"type": "refresh", "id": 1, "token": node.token("bob", 600)})).await;
    assert_eq!(next(&mut renewed).await["code"], "forbidden");
    say(&mut renewed, json!({"type": "refresh", "id": 2, "token": node.token("ann", 600)})).await;
    let ok = next(&mut renewed).await;
    assert_eq!((&ok["type"], &ok["id"]), (&json!("ok"), &json!(2)));
    assert!(ok["expires_at"].is_string());
    let (frames, code, _) = closed(&mut left).await;
    let bye = frames.last().expect("bye");
    assert_eq!((&bye["type"], &bye["code"], &bye["reconnect"], code), (&json!("bye"), &json!(3005), &json!(true), 3005));
    say(&mut renewed, json!({"type": "ping", "id": 3})).await;
    assert_eq!(next(&mut renewed).await["type"], "pong");
}

#[tokio::test]
async fn short_of_memory_nobody_new_gets_in_and_who_is_in_stays() {
    let node = node(options(), 100).await;
    let mut client = node.client("/ws").await;
    node.ctx.hub.set_memory_full(true);
    let bearer = format!("Bearer {}", node.token("bob", 600));
    for path in ["/ws", "/stream"] {
        let (status, body) = node.refused(path, &[("authorization", &bearer)]).await;
        assert_eq!(status, 503, "{path}: {body}");
        assert!(body.contains("memory"), "{path}: {body}");
    }
    let rejected = &node.ctx.metrics.connections_rejected;
    assert_eq!((rejected.get("memory"), rejected.get("unavailable")), (2, 0));
    say(&mut client, json!({"type": "ping"})).await;
    while next(&mut client).await["type"] != "pong" {}
    node.ctx.hub.set_memory_full(false);
    node.dial("/ws", &[("authorization", &bearer)]).await.expect("there is a place again");
}

#[tokio::test]
async fn silence_ends_and_places_are_given_back() {
    let node = node(
        session::Options {
            idle_timeout: Duration::from_millis(300),
            connections_per_user_max: 1,
            connections_max: 2,
            ..options()
        },
        100,
    )
    .await;
    let mut client = node.client("/ws").await;
    let ann = format!("Bearer {}", node.token("ann", 600));
    assert_eq!(node.refused("/ws", &[("authorization", &ann)]).await.0, 429);
    let cookie = format!("__Host-auditcast={}", node.token("ann", 600));
    let mut second = node.dial("/ws", &[("cookie", &cookie)]).await.expect("the upgrade succeeds");
    assert_eq!(closed(&mut second).await.1, 3504);
    let (_, code, _) = closed(&mut client).await;
    assert_eq!(code, 3012);
    drop((client, second));
    wait_for("the places", || node.ctx.hub.connections().is_empty()).await;
    assert_eq!(node.ctx.metrics.connections.websocket.get(), 0);
    let _held = [node.dial("/ws", &[]).await.expect("a place"), node.dial("/ws", &[]).await.expect("a place")];
    assert_eq!(node.refused("/ws", &[("authorization", &ann)]).await.0, 503);
}

#[tokio::test]
async fn live_events_metrics_and_sources_go_to_who_asked() {
    let node = node(session::Options { events_rate: 10, ..options() }, 100).await;
    let hub = &node.ctx.hub;
    assert_eq!(hub.wants_events(), None);
    hub.push_source(wire::SourceStatus { source: "app".into(), status: wire::SourceState::Ok, since_ms: 0 });
    let mut client = node.client("/ws?events=medium&metrics=true").await;
    assert_eq!(next(&mut client).await["type"], "subscribed");
    let status = next(&mut client).await;
    assert_eq!((&status["type"], &status["source"], &status["status"]), (&json!("source_status"), &json!("app"), &json!("ok")));
    assert_eq!(hub.wants_events(), Some(Severity::Medium));
    hub.push_source(wire::SourceStatus { source: "app".into(), status: wire::SourceState::Down, since_ms: 1 });
    assert_eq!(next(&mut client).await["status"], "down");
    hub.push_metrics(Metrics { timestamp_ms: 5000, ..Metrics::default() }, true);
    assert_eq!(next(&mut client).await["type"], "security_metrics");
    let event_type: Arc<str> = "auth.failed".into();
    hub.push_event(Severity::Low, &event_type, json!({"type": "security_event", "n": "low"}).to_string());
    for n in 0..50 {
        hub.push_event(Severity::High, &event_type, json!({"type": "security_event", "n": n}).to_string());
    }
    node.raise(1..=1).await;
    let (mut events, mut missed, mut alerts) = (0, 0, 0);
    while events + missed < 50 || alerts == 0 {
        let frame = next(&mut client).await;
        match frame["type"].as_str() {
            Some("security_event") => events += 1,
            Some("gap") => {
                assert_eq!(frame["feed"], "events");
                missed += frame["missed"].as_u64().expect("a count");
            }
            Some("security_alert") => alerts += 1,
            _ => panic!("{frame}"),
        }
    }
    assert_eq!((events + missed, alerts), (50, 1));
    assert!((10..20).contains(&events), "{events}");
    drop(client);
    let mut client = node.client("/ws?events=low&filter=details.n+%3E%3D+7").await;
    while next(&mut client).await["type"] != "subscribed" {}
    for n in 5..9 {
        let event = json!({"type": "security_event", "severity": "low", "details": {"n": n}});
        hub.push_event(Severity::Low, &event_type, event.to_string());
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let frame = next(&mut client).await;
        if frame["type"] == "security_event" {
            seen.push(frame["details"]["n"].clone());
        }
    }
    assert_eq!(seen, [7, 8]);
    drop(client);
    wait_for("the interest to go", || hub.wants_events().is_none()).await;
}

#[tokio::test]
async fn who_stops_reading_is_told_closed_and_can_resume_while_others_see_no_delay() {
    let node = node(session::Options { write_timeout: Duration::from_secs(1), ..options() }, 1000).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let tcp = socket.connect(node.address).await.expect("a connection");
    let bearer = format!("Bearer {}", node.token("ann", 600));
    let mut slow = node.dial_over(tcp, "/ws?events=low", &[("authorization", &bearer)]).await.expect("is let in");
    let mut other = node.client("/ws").await;
    assert_eq!(next(&mut other).await["type"], "subscribed");
    // Events that nobody reads fill every buffer between the two.
    let event_type: Arc<str> = "x".into();
    let filler = json!({"type": "security_event", "filler": "x".repeat(60_000)}).to_string();
    let hub = node.ctx.hub.clone();
    let mut raised = 0;
    wait_for_async("the slow client to be given up", async || {
        for _ in 0..20 {
            hub.push_event(Severity::High, &event_type, filler.clone());
        }
        raised += 1;
        let start = std::time::Instant::now();
        node.raise(raised..=raised).await;
        assert_eq!(numbers(&mut other, 1).await, [raised]);
        assert!(start.elapsed() < Duration::from_secs(1), "another client waited {:?}", start.elapsed());
        node.ctx.metrics.disconnects.get("3008") == 1
    })
    .await;
    // Now it reads again, and is told.
    let (frames, code, _) = closed(&mut slow).await;
    let last: Vec<_> = frames.iter().rev().take(2).map(|frame| frame["type"].as_str().unwrap_or_default()).collect();
    assert_eq!((last, code), (vec!["bye", "lagging"], 3008));
    let mut seen: Vec<u64> = frames.iter().filter(|frame| frame["type"] == "security_alert").map(number).collect();
    let head = node.ctx.hub.head_pos().to_string();
    let after = frames.iter().rev().find_map(|frame| frame["pos"].as_str()).map_or("earliest", |pos| pos);
    let mut resumed = node.client(&format!("/ws?after={after}")).await;
    let subscribed = next(&mut resumed).await;
    assert_eq!((&subscribed["recovered"], &subscribed["head"]), (&json!(true), &json!(head)));
    seen.extend(numbers(&mut resumed, raised as usize - seen.len()).await);
    assert_eq!(seen, (1..=raised).collect::<Vec<_>>());
}

async fn wait_for_async(what: &str, mut done: impl AsyncFnMut() -> bool) {
    timeout(PATIENCE * 3, async { while !done().await {} }).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn at_shutdown_each_client_hears_when_to_come_back() {
    let node = node(session::Options { connections_per_user_max: 100, ..options() }, 100).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(node.client("/ws").await);
    }
    node.ctx.hub.start_drain(Duration::from_secs(10));
    let mut times = Vec::new();
    for client in &mut clients {
        let (frames, code, _) = closed(client).await;
        let bye = frames.last().expect("bye");
        assert_eq!((&bye["type"], &bye["code"], code), (&json!("bye"), &json!(3001), 3001));
        times.push(bye["retry_in_ms"].as_u64().expect("a time"));
    }
    times.sort_unstable();
    times.dedup();
    assert!(times.len() == 40 && times[39] - times[0] > 8000, "{times:?}");
    let bearer = format!("Bearer {}", node.token("ann", 600));
    assert_eq!(node.refused("/ws", &[("authorization", &bearer)]).await.0, 503);
    drop(clients);
    node.ctx.tasks.close();
    timeout(PATIENCE, node.ctx.tasks.wait()).await.expect("no task is left behind");
}

/// What came of a stream so far, once it holds `wanted`.
async fn read_until(tcp: &mut TcpStream, text: &mut String, wanted: &str) {
    let mut buffer = [0; 4096];
    while !text.contains(wanted) {
        let n =
            timeout(PATIENCE, tcp.read(&mut buffer)).await.unwrap_or_else(|_| panic!("no {wanted:?} in {text}")).expect("reads");
        assert!(n > 0, "ended without {wanted:?}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
}

#[tokio::test]
async fn the_same_feed_as_server_sent_events() {
    let node = node(options(), 100).await;
    node.raise(1..=2).await;
    wait_for("the tail", || node.ctx.hub.head() == 2).await;
    let token = node.token("ann", 600);
    let request =
        |headers: &str| format!("GET /api/v1/stream?after=earliest HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", node.address);
    let mut tcp = TcpStream::connect(node.address).await.expect("a connection");
    tcp.write_all(request(&format!("Authorization: Bearer {token}\r\n")).as_bytes()).await.expect("is sent");
    let mut text = String::new();
    read_until(&mut tcp, &mut text, "number 2").await;
    let head = text.to_lowercase();
    for wanted in ["200 ok", "text/event-stream", "x-accel-buffering: no", "no-store"] {
        assert!(head.contains(wanted), "{text}");
    }
    let order = ["\n:\n\n", "event: hello", "event: subscribed", "number 1", "number 2"]
        .map(|part| text.find(part).unwrap_or(usize::MAX));
    assert!(order.is_sorted() && order[4] < usize::MAX, "{order:?} {text}");
    let id = text.split("id: ").nth(1).and_then(|rest| rest.lines().next()).expect("an id").to_owned();
    // Ends with its token.
    let mut short = TcpStream::connect(node.address).await.expect("a connection");
    short.write_all(request(&format!("Authorization: Bearer {}\r\n", node.token("ann", 1))).as_bytes()).await.expect("is sent");
    let mut text = String::new();
    read_until(&mut short, &mut text, "\"code\":3005").await;
    read_until(&mut short, &mut text, "\r\n0\r\n\r\n").await;
    // The header wins over the parameter.
    let mut resumed = TcpStream::connect(node.address).await.expect("a connection");
    let headers = format!("Cookie: __Host-auditcast={token}\r\nLast-Event-ID: {id}\r\n");
    resumed.write_all(request(&headers).as_bytes()).await.expect("is sent");
    let mut text = String::new();
    read_until(&mut resumed, &mut text, "number 2").await;
    assert!(!text.contains("number 1"), "{text}");
    node.raise(3..=3).await;
    read_until(&mut resumed, &mut text, "number 3").await;
    for (headers, status) in [("", "401"), ("Authorization: Bearer x\r\n", "401")] {
        let mut tcp = TcpStream::connect(node.address).await.expect("a connection");
        tcp.write_all(request(headers).as_bytes()).await.expect("is sent");
        let mut text = String::new();
        read_until(&mut tcp, &mut text, status).await;
    }
    node.ctx.hub.start_drain(Duration::from_secs(1));
    read_until(&mut resumed, &mut text, "event: bye").await;
}

#[tokio::test]
async fn what_is_no_websocket_is_answered_as_http() {
    let node = node(options(), 10).await;
    let good = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (method, headers, status) in [
        ("GET", format!("{good}{key}Sec-WebSocket-Version: 13\r\n"), "HTTP/1.1 101"),
        ("GET", String::new(), "HTTP/1.1 426"),
        ("GET", format!("{good}{key}Sec-WebSocket-Version: 8\r\n"), "HTTP/1.1 426"),
        ("GET", format!("{good}Sec-WebSocket-Version: 13\r\n"), "HTTP/1.1 400"),
        ("GET", format!("{good}Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n"), "HTTP/1.1 400"),
        ("POST", format!("{good}{key}Sec-WebSocket-Version: 13\r\n"), "HTTP/1.1 405"),
    ] {
        let mut tcp = TcpStream::connect(node.address).await.expect("a connection");
        tcp.write_all(format!("{method} /ws HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", node.address).as_bytes())
            .await
            .expect("is sent");
        let mut text = String::new();
        read_until(&mut tcp, &mut text, "\r\n\r\n").await;
        assert!(text.starts_with(status), "{status}: {text}");
        if status.ends_with("101") {
            assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
        }
    }
}
