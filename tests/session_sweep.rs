//! Two write to a client: the sweep, when there is news, and its own task, when the socket was full. Whoever it was, the client
//! gets every frame whole, once and in order; and what it asks meanwhile is answered between frames, never inside one.
//!
//! Real sockets with small buffers, clients that read as badly as a seeded chance says, and a strict reader of frames.

mod support_tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use auditcast::{
    auth::{self, Auth, Claims, Secret},
    hub::{self, Hub},
    metrics::Metrics,
    session::{self, Context},
    store::{self, LogEntry, Store},
};
use axum::{body::Body, http::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use support_tls::{Authority, handshake};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    ctx: Arc<Context>,
    plain: SocketAddr,
    secure: SocketAddr,
    authority: Authority,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as u64
}

async fn node(write_timeout: Duration) -> Node {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(store::Options {
        target: store::Target::Embedded(dir.path().to_owned()),
        prefix: "{auditcast}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(3600),
        alerts_max: 1_000_000,
        dead_letters_max: 100,
        commits_max: 1000,
        intake_max: 1000,
    })
    .await
    .expect("the store opens");
    store.prepare().await.expect("the store is ready");
    let auth = Auth::new(
        auth::Options { leeway: Duration::ZERO, ..auth::Options::new(Secret(b"0123456789abcdef0123456789abcdef".to_vec())) },
        store.clone(),
    );
    let options = session::Options {
        events_rate: 500,
        ping_interval: Duration::from_millis(300),
        idle_timeout: Duration::from_secs(60),
        auth_timeout: Duration::from_secs(5),
        frame_bytes_max: 16 * 1024,
        connections_max: 100,
        connections_per_user_max: 100,
        connections_per_address_max: 100,
        write_timeout,
        drain_window: Duration::from_secs(10),
        origins: vec![],
    };
    // The test is the log: nobody follows the store.
    let hub = Hub::new(hub::Options { ring: 100_000, events_ring: 10 });
    hub.push_alerts(vec![entry(1)]);
    hub.set_store_up(true);
    let ctx = Context::new(hub, store, auth, Metrics::new(&[], &[], "0", "0", "0"), options, "n1".into());
    let stop = CancellationToken::new();
    {
        let (ctx, stop) = (ctx.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(session::sweep(ctx)).await });
    }
    let mut addresses = Vec::new();
    let authority = Authority::new();
    authority.renew();
    for tls in [None, Some(acceptor(&authority))] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        addresses.push(listener.local_addr().expect("an address"));
        let (ctx, stop) = (ctx.clone(), stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(listen(ctx, listener, tls)).await });
    }
    Node { ctx, plain: addresses[0], secure: addresses[1], authority, _stop: stop.drop_guard(), _dir: dir }
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth();
    let options = authority.options();
    let certificate = CertificateDer::from_pem_file(options.certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(options.key).expect("a key");
    TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate], key).expect("they fit")))
}

async fn listen(ctx: Arc<Context>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((tcp, peer)) = listener.accept().await else { return };
        // Little room in the kernel, so that sockets are full soon.
        let _ = socket2::SockRef::from(&tcp).set_send_buffer_size(16 * 1024);
        let (ctx, tls) = (ctx.clone(), tls.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (ctx, request) = (ctx.clone(), request.map(Body::new));
            async move { Ok::<_, std::convert::Infallible>(session::websocket(ctx, request, peer).await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(async move {
            let _ = match tls {
                Some(tls) => {
                    let tls = tls.accept(tcp).await.expect("a handshake");
                    http.serve_connection(TokioIo::new(tls), service).with_upgrades().await
                }
                None => http.serve_connection(TokioIo::new(tcp), service).with_upgrades().await,
            };
        });
    }
}

/// Alert number `n`: now and then a long one, so that batches end everywhere.
fn entry(n: u64) -> LogEntry {
    let filler = "x".repeat(if n.is_multiple_of(17) { 20_000 } else { (n * 37 % 300) as usize });
    let severity = if n.is_multiple_of(3) { "high" } else { "low" };
    let body = format!(
        r#"{{"type":"security_alert","event_type":"t.{}","severity":"{severity}","message":"number {n}","details":{{"filler":"{filler}"}}}}"#,
        n % 5
    );
    LogEntry { seq: n, check: format!("{n:08x}"), body }
}

/// xorshift: the same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

struct Client {
    tcp: Box<dyn Stream>,
    bytes: Vec<u8>,
    at: usize,
    pongs: Vec<Vec<u8>>,
}

impl Client {
    async fn come(node: &Node, address: SocketAddr, query: &str) -> Client {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let tcp = socket.connect(address).await.expect("a connection");
        let mut tcp: Box<dyn Stream> = match address == node.secure {
            true => Box::new(handshake(node.authority.client(None), tcp).await.expect("a handshake")),
            false => Box::new(tcp),
        };
        let claims = Claims {
            user_id: "ann".into(),
            username: None,
            role: None,
            permissions: vec!["audit.view".into()],
            ttl: Duration::from_secs(600),
            now_ms: now_ms(),
            sight: None,
            jti: None,
        };
        let token = node.ctx.auth.issue(&claims).expect("a token");
        let request = format!(
            "GET /ws{query} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).await.expect("is sent");
        let mut client = Client { tcp, bytes: Vec::new(), at: 0, pongs: Vec::new() };
        while client.bytes.windows(4).position(|four| four == b"\r\n\r\n").is_none() {
            client.read(64).await;
        }
        let end = client.bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        assert!(client.bytes.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&client.bytes));
        client.bytes.drain(..end);
        // From here on it is in.
        for wanted in ["hello", "subscribed"] {
            let frame = loop {
                match client.frame().await {
                    Some(frame) => break frame,
                    None => client.read(64).await,
                }
            };
            assert_eq!(frame["type"], wanted);
        }
        client
    }

    async fn read(&mut self, most: usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + most, 0);
        let n = timeout(PATIENCE, self.tcp.read(&mut self.bytes[start..])).await.expect("bytes in time").expect("reads");
        assert!(n > 0, "the connection ended");
        self.bytes.truncate(start + n);
    }

    /// The next frame that is whole already: pings are answered, pongs are kept.
    async fn frame(&mut self) -> Option<Value> {
        loop {
            let rest = &self.bytes[self.at..];
            let (first, second) = (*rest.first()?, *rest.get(1)?);
            let (header, len) = match second {
                0..126 => (2, usize::from(second)),
                126 => (4, usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]))),
                other => panic!("a frame of length byte {other}: the stream is out of step"),
            };
            let payload = rest.get(header..header + len)?.to_vec();
            self.at += header + len;
            if self.at > 1 << 20 {
                self.bytes.drain(..self.at);
                self.at = 0;
            }
            match first {
                0x81 => return Some(serde_json::from_slice(&payload).expect("JSON: frames are whole")),
                0x89 => self.say(0x8a, &payload).await,
                0x8a => self.pongs.push(payload),
                other => panic!("a frame that begins with {other:#x}: the stream is out of step"),
            }
        }
    }

    /// A masked frame, in two pieces.
    async fn say(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        frame.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
        for part in frame.chunks(5) {
            timeout(PATIENCE, self.tcp.write_all(part)).await.expect("room").expect("is sent");
        }
        timeout(PATIENCE, self.tcp.flush()).await.expect("room").expect("is sent");
    }
}

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    numbers: Vec<u64>,
    answers: Vec<u64>,
    pongs: Vec<Vec<u8>>,
}

/// Which alerts a filter lets through.
type Wanted = fn(u64) -> bool;

/// Reads as chance says until alert `last`, and asks now and then: in one piece, and with a ping between two fragments.
async fn watch(mut client: Client, last: u64, wanted: Wanted, seed: u64) -> (Seen, u64) {
    let mut chance = Chance(seed | 1);
    let (mut seen, mut asked) = (Seen::default(), 0);
    let last = (0..=last).rev().find(|n| wanted(*n)).unwrap_or(0);
    while seen.numbers.last() != Some(&last) || (seen.answers.len() as u64) < asked || (client.pongs.len() as u64) < asked / 2 {
        match chance.below(40) {
            0 => tokio::time::sleep(Duration::from_millis(chance.below(30))).await,
            1..=3 => {
                for _ in 0..chance.below(50) {
                    client.read(1).await;
                }
            }
            4 if asked < 20 => {
                asked += 1;
                let text = format!(r#"{{"type":"ping","id":{asked}}}"#);
                let (left, right) = text.as_bytes().split_at(7);
                if asked % 2 == 0 {
                    client.say(0x01, left).await;
                    client.say(0x89, &asked.to_be_bytes()).await;
                    client.say(0x80, right).await;
                } else {
                    client.say(0x81, text.as_bytes()).await;
                }
            }
            n => client.read(1 << (n % 14)).await,
        }
        while let Some(frame) = client.frame().await {
            match frame["type"].as_str() {
                Some("security_alert") => {
                    let number = frame["message"].as_str().and_then(|text| text.strip_prefix("number ")).map(str::parse);
                    seen.numbers.push(number.expect("a number").expect("a number"));
                    assert_eq!(
                        frame["pos"].as_str().map(str::len),
                        Some(seen.numbers.last().map_or(0, |n| n.to_string().len()) + 9)
                    );
                }
                Some("pong") => seen.answers.push(frame["id"].as_u64().expect("an id")),
                Some("hello" | "subscribed" | "position" | "lagging") => {}
                _ => panic!("{frame}"),
            }
        }
    }
    seen.pongs = std::mem::take(&mut client.pongs);
    (seen, asked)
}

/// Pushes alerts up to `last` in bursts and one by one.
async fn push(hub: &Hub, last: u64, seed: u64) {
    let mut chance = Chance(seed | 1);
    let mut head = hub.head();
    while head < last {
        let to = last.min(head + 1 + if chance.below(4) == 0 { chance.below(400) } else { chance.below(5) });
        hub.push_alerts((head + 1..=to).map(entry).collect());
        head = to;
        match chance.below(3) {
            0 => tokio::time::sleep(Duration::from_millis(chance.below(4))).await,
            _ => tokio::task::yield_now().await,
        }
    }
}

async fn round(seed: u64) {
    const LAST: u64 = 3000;
    let node = node(Duration::from_secs(50)).await;
    let mut watching = Vec::new();
    let filters: [(&str, Wanted); 3] =
        [("", |_| true), ("?min_severity=high", |n| n % 3 == 0), ("?types=t.1,t.4", |n| n % 5 == 1 || n % 5 == 4)];
    for n in 0..12 {
        let (query, wanted) = filters[n % filters.len()];
        let address = if n % 2 == 1 { node.secure } else { node.plain };
        let client = Client::come(&node, address, query).await;
        watching.push((wanted, tokio::spawn(watch(client, LAST, wanted, seed * 100 + n as u64 + 1))));
    }
    push(&node.ctx.hub, LAST, seed).await;
    for (n, (wanted, watching)) in watching.into_iter().enumerate() {
        let (seen, asked) = watching.await.unwrap_or_else(|error| panic!("client {n} of seed {seed}: {error}"));
        // The first is what was there when they came.
        let all: Vec<u64> = (2..=LAST).filter(|n| wanted(*n)).collect();
        assert_eq!(seen.numbers, all, "client {n} of seed {seed}");
        assert_eq!(seen.answers, (1..=asked).collect::<Vec<_>>(), "client {n} of seed {seed}");
        let pings: Vec<Vec<u8>> = (1..=asked).filter(|id| id % 2 == 0).map(|id| id.to_be_bytes().to_vec()).collect();
        assert_eq!(seen.pongs, pings, "client {n} of seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_frame_is_whole_once_and_in_order_whoever_writes() {
    for seed in 1..=4 {
        round(seed).await;
    }
}

#[tokio::test]
async fn the_same_on_one_thread() {
    round(77).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_in_the_middle_of_a_frame_gets_its_rest_and_the_close_frame() {
    let node = node(Duration::from_secs(50)).await;
    let mut client = Client::come(&node, node.plain, "").await;
    node.ctx.hub.push_alerts((2..=600).map(entry).collect());
    // The socket is full by now, in the middle of some frame.
    while client.bytes.len() < 2000 {
        client.read(1).await;
    }
    client.say(0x88, &[0x03, 0xe8]).await;
    let mut rest = Vec::new();
    timeout(PATIENCE, client.tcp.read_to_end(&mut rest)).await.expect("the end in time").expect("a clean end");
    client.bytes.extend(rest);
    assert_eq!(client.bytes[client.bytes.len() - 4..], [0x88, 2, 0x03, 0xe8], "the answer comes last");
    client.bytes.truncate(client.bytes.len() - 4);
    let mut alerts = Vec::new();
    while let Some(frame) = client.frame().await {
        if frame["type"] == "security_alert" {
            alerts.push(frame["pos"].as_str().expect("a position").to_owned());
        }
    }
    assert_eq!(client.at, client.bytes.len(), "nothing is left over");
    assert_eq!(alerts, (2..2 + alerts.len() as u64).map(|n| format!("{n}-{n:08x}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_keeps_nobody_waiting_and_is_let_go() {
    let node = node(Duration::from_secs(1)).await;
    let idle = Client::come(&node, node.plain, "").await;
    let other = Client::come(&node, node.plain, "").await;
    let watching = tokio::spawn(watch(other, 2000, |_| true, 5));
    push(&node.ctx.hub, 2000, 9).await;
    let (seen, _) = watching.await.expect("is served");
    assert_eq!(seen.numbers, (2..=2000).collect::<Vec<_>>());
    let gone = async {
        while node.ctx.metrics.disconnects.get("3008") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("is let go");
    drop(idle);
}
