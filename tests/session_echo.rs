//! What is proved: the handshake, the limits, reading and writing of the feed hold to RFC 6455 where conformance suites look:
//! lengths, fragments with control frames between them, closing, UTF-8, and every way to break a rule, each with its code.
//!
//! The echo speaks over the daemon's accept loop; each case is (bytes in, bytes out), in pieces of one byte and at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use auditcast::{
    auth::{self, Auth, Secret},
    http::{self, Peer},
    hub::{self, Hub},
    metrics::Metrics,
    session::{self, Context},
    store::{self, Store},
};
use axum::{Router, extract::Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct Echo {
    address: SocketAddr,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

async fn echo(frame_bytes_max: usize) -> Echo {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(store::Options {
        target: store::Target::Embedded(dir.path().to_owned()),
        prefix: "{auditcast}".into(),
        lease_ttl: PATIENCE,
        alerts_retention: PATIENCE,
        alerts_max: 1,
        dead_letters_max: 1,
        commits_max: 1,
        intake_max: 1,
    })
    .await
    .expect("the store opens");
    let auth = auth::Options { leeway: Duration::ZERO, ..auth::Options::new(Secret(vec![b'x'; 32])) };
    let options = session::Options {
        events_rate: 1,
        ping_interval: PATIENCE,
        idle_timeout: PATIENCE,
        auth_timeout: PATIENCE,
        frame_bytes_max,
        connections_max: 100,
        connections_per_user_max: 100,
        connections_per_address_max: 100,
        write_timeout: PATIENCE,
        drain_window: PATIENCE,
        origins: vec![],
    };
    let hub = Hub::new(hub::Options { ring: 1, events_ring: 1 });
    let metrics = Metrics::new(&[], &[], "0", "0", "0");
    let ctx = Context::new(hub, store.clone(), Auth::new(auth, store), metrics.clone(), options, "n1".into());
    let router = Router::new().fallback(move |request: Request| {
        let ctx: Arc<Context> = ctx.clone();
        async move {
            let Peer(peer) = *request.extensions().get::<Peer>().expect("a peer");
            session::echo(ctx, request, peer).await
        }
    });
    let edge = http::Edge {
        header_timeout: PATIENCE,
        sockets_max: 100,
        sockets_per_address_max: 100,
        proxies: http::Proxies::default(),
        tls: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    tokio::spawn(http::serve(listener, router, edge, metrics, stop.clone(), TaskTracker::new()));
    Echo { address, _stop: stop.drop_guard(), _dir: dir }
}

impl Echo {
    /// `/ws` is taken at the door, any other path by the HTTP server.
    async fn connect(&self, path: &str) -> TcpStream {
        let mut tcp = TcpStream::connect(self.address).await.expect("a connection");
        tcp.set_nodelay(true).expect("an option");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        tcp.write_all(request.as_bytes()).await.expect("the request goes out");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, tcp.read_u8()).await.expect("an answer in time").expect("an answer"));
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        // RFC 6455 §1.3.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        tcp
    }

    /// Sends `input` in pieces of `piece` bytes, then ends, and gives everything that comes back until the server ends.
    async fn exchange(&self, path: &str, input: &[u8], piece: usize) -> Vec<u8> {
        let (mut read, mut write) = self.connect(path).await.into_split();
        let mut output = Vec::new();
        let send = async {
            for piece in input.chunks(piece) {
                // Who was closed meanwhile need not hear the rest.
                if write.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
        };
        let (_, received) = timeout(PATIENCE, async { tokio::join!(send, read.read_to_end(&mut output)) }).await.expect("an end");
        received.expect("an end in good order");
        output
    }
}

/// As a server sends it, without a mask.
fn out(first: u8, payload: &[u8]) -> Vec<u8> {
    raw(first, payload, None)
}

/// As a client sends it.
fn put(first: u8, payload: &[u8]) -> Vec<u8> {
    raw(first, payload, Some([0x37, 0xfa, 0x21, 0x3d]))
}

fn raw(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(masked | len as u8),
        len @ 126..65536 => {
            bytes.push(masked | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(masked | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

#[tokio::test]
async fn what_is_right_comes_back_as_it_was() {
    let echo = echo(1 << 20).await;
    let bye = (put(CLOSE, &close(1000, b"")), out(CLOSE, &close(1000, b"")));
    let text = "κόσμε 𐍈 \u{10ffff} ".repeat(7);
    let (long, longer) = (vec![b'*'; 65535], vec![0xfe; 65536]);
    let cut = (1..).find(|cut| !text.is_char_boundary(*cut)).expect("a character of more than a byte");
    let cases = [
        ("nothing", vec![], vec![]),
        ("an empty text", put(TEXT, b""), out(TEXT, b"")),
        ("a text", put(TEXT, text.as_bytes()), out(TEXT, text.as_bytes())),
        ("an empty binary", put(BINARY, b""), out(BINARY, b"")),
        ("a binary that is no text", put(BINARY, b"\xff\x00\xfe"), out(BINARY, b"\xff\x00\xfe")),
        ("125 bytes", put(TEXT, &long[..125]), out(TEXT, &long[..125])),
        ("126 bytes", put(TEXT, &long[..126]), out(TEXT, &long[..126])),
        ("65535 bytes", put(TEXT, &long), out(TEXT, &long)),
        ("65536 bytes", put(BINARY, &longer), out(BINARY, &longer)),
        ("a ping", put(PING, b"\x00\xff\xfe"), out(PONG, b"\x00\xff\xfe")),
        ("a ping of 125 bytes", put(PING, &long[..125]), out(PONG, &long[..125])),
        ("a pong nobody asked for, and a ping", [put(PONG, b"x"), put(PING, b"y")].concat(), out(PONG, b"y")),
        ("ten pings", (0..10).flat_map(|n| put(PING, &[n])).collect(), (0..10).flat_map(|n| out(PONG, &[n])).collect()),
        (
            "fragments of a text, a character cut, pings and empty ones between",
            [
                put(0x01, &text.as_bytes()[..cut]),
                put(PING, b"1"),
                put(0x00, b""),
                put(PING, b"2"),
                put(0x80, &text.as_bytes()[cut..]),
            ]
            .concat(),
            [out(PONG, b"1"), out(PONG, b"2"), out(TEXT, text.as_bytes())].concat(),
        ),
        (
            "fragments of a binary, and the next message",
            [put(0x02, b"\xff"), put(0x00, b"\xfe"), put(0x80, b""), put(TEXT, b"next")].concat(),
            [out(BINARY, b"\xff\xfe"), out(TEXT, b"next")].concat(),
        ),
    ];
    for (path, piece) in [("/ws", usize::MAX), ("/", usize::MAX), ("/ws", 7)] {
        for (what, input, output) in &cases {
            let got = echo.exchange(path, &[&input[..], &bye.0].concat(), piece).await;
            assert!(got == [&output[..], &bye.1].concat(), "{what}, {path}, pieces of {piece}: {} bytes came", got.len());
        }
    }
}

#[tokio::test]
async fn whole_messages_up_to_the_limit_and_none_above() {
    const MAX: usize = 16 << 20;
    let echo = echo(MAX).await;
    let bytes: Vec<u8> = (0..MAX + 1).map(|n| (n % 251) as u8).collect();
    let bye = put(CLOSE, &close(1000, b""));
    let whole = [put(BINARY, &bytes[..MAX]), bye.clone()].concat();
    let (half, rest) = bytes.split_at(MAX / 2);
    let parts = [put(0x02, half), put(0x80, &rest[..rest.len() - 1]), bye].concat();
    for input in [whole, parts] {
        let got = echo.exchange("/ws", &input, 1 << 16).await;
        assert!(got == [out(BINARY, &bytes[..MAX]), out(CLOSE, &close(1000, b""))].concat(), "{} bytes came", got.len());
    }
    let fragments = [put(0x02, half), put(0x80, rest)].concat();
    // The header says enough: nothing of the payload is waited for.
    let header = put(BINARY, &bytes)[..14].to_vec();
    for input in [fragments, header] {
        assert_eq!(closed(&echo.exchange("/ws", &input, 1 << 16).await), Some(1009));
    }
}

/// The code of the close frame that is all that came, or the last of it.
#[track_caller]
fn closed(output: &[u8]) -> Option<u16> {
    let at = (0..output.len())
        .find(|at| matches!(output.get(*at..*at + 2), Some([CLOSE, len]) if *at + 2 + usize::from(*len) == output.len()))?;
    Some(u16::from_be_bytes(output.get(at + 2..at + 4)?.try_into().ok()?))
}

#[tokio::test]
async fn what_breaks_a_rule_is_closed_with_its_code_and_nothing_after_it_counts() {
    let echo = echo(1 << 16).await;
    let long = [b'x'; 126];
    let mut cases: Vec<(String, Vec<u8>, u16)> = vec![
        ("no mask".into(), out(TEXT, b"x"), 1002),
        ("a ping without a mask".into(), out(PING, b"x"), 1002),
        ("a ping of 126 bytes".into(), put(PING, &long), 1002),
        ("a close of 126 bytes".into(), put(CLOSE, &long), 1002),
        ("a ping in fragments".into(), put(0x09, b"x"), 1002),
        ("a close in fragments".into(), put(0x08, b""), 1002),
        ("a continuation of nothing".into(), put(0x80, b"x"), 1002),
        ("a continuation of nothing, not the last".into(), put(0x00, b"x"), 1002),
        ("a message within a message".into(), [put(0x01, b"x"), put(TEXT, b"y")].concat(), 1002),
        ("a fragment's beginning within a message".into(), [put(0x01, b"x"), put(0x02, b"y")].concat(), 1002),
        ("a close of one byte".into(), put(CLOSE, b"x"), 1002),
        ("too long".into(), put(BINARY, &vec![0; (1 << 16) + 1]), 1009),
        ("a reason that is no text".into(), put(CLOSE, &close(1000, b"\xff")), 1007),
    ];
    for bit in [0x10, 0x20, 0x40, 0x70] {
        cases.push((format!("reserved bits {bit:#x}"), put(TEXT | bit, b"x"), 1002));
        cases.push((format!("reserved bits {bit:#x} of a ping"), put(PING | bit, b"x"), 1002));
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        cases.push((format!("opcode {opcode:#x}"), put(0x80 | opcode, b"x"), 1002));
    }
    // Overlong, surrogates, above the last character, bytes that never are, cut at the end.
    for bad in [&b"\xc0\xaf"[..], b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xfe", b"\x80", b"ok\xce"] {
        cases.push((format!("the text {bad:x?}"), put(TEXT, bad), 1007));
        let (first, second) = bad.split_at(bad.len() / 2);
        cases.push((format!("the text {bad:x?} in fragments"), [put(0x01, first), put(0x80, second)].concat(), 1007));
    }
    cases.push(("an invalid fragment of a message that has not ended".into(), put(0x01, b"x\xff"), 1007));
    for code in [0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999] {
        cases.push((format!("the close code {code}"), put(CLOSE, &close(code, b"")), 1002));
    }
    for (what, input, code) in cases {
        // What came before counts; what comes after does not.
        let input = [put(PING, b"before"), input, put(PING, b"after")].concat();
        for piece in [usize::MAX, 5] {
            let got = echo.exchange("/ws", &input, piece).await;
            let rest = got.strip_prefix(&out(PONG, b"before")[..]).unwrap_or_else(|| panic!("{what}: {got:x?}"));
            assert_eq!(closed(rest), Some(code), "{what}, pieces of {piece}: {got:x?}");
            assert_eq!(rest[1], rest.len() as u8 - 2, "{what}: only the close frame");
        }
    }
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code() {
    let echo = echo(1024).await;
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let input = [put(CLOSE, &close(code, "tschüß".as_bytes())), put(PING, b"after"), put(TEXT, b"after")].concat();
        let got = echo.exchange("/ws", &input, usize::MAX).await;
        assert_eq!(closed(&got), Some(code), "{got:x?}");
        assert_eq!(got[1], got.len() as u8 - 2, "{code}: only the close frame");
    }
    assert_eq!(echo.exchange("/ws", &put(CLOSE, b""), usize::MAX).await, out(CLOSE, b""));
}
