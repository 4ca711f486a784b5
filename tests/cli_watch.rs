//! `watch` against a server that is made of the contract's page alone (§5): what it asks for, shows, and when it comes back.

use std::{process::Stdio, time::Duration};

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        http::HeaderValue,
        protocol::CloseFrame,
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    listener: TcpListener,
    url: String,
}

impl Server {
    async fn new() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Server { listener, url }
    }

    async fn tcp(&self) -> TcpStream {
        timeout(DEADLINE, self.listener.accept()).await.expect("nobody came").unwrap().0
    }

    /// The next client, and what it asked for: path and query, `Authorization`, subprotocol.
    async fn client(&self) -> (WebSocketStream<TcpStream>, String) {
        let mut asked = String::new();
        #[expect(clippy::result_large_err, reason = "the shape of the crate's callback")]
        let take = |request: &Request, mut response: Response| {
            let header = |name: &str| request.headers().get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
            asked = format!("{} {} {}", request.uri(), header("authorization"), header("sec-websocket-protocol"));
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("auditcast.v1"));
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(self.tcp().await, take).await.unwrap();
        (socket, asked)
    }
}

fn watch(url: &str, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_auditcast"))
        .args(["watch", "--url", url, "--token", "a.b.c"])
        .args(args)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Exit code, stdout, stderr.
async fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = timeout(DEADLINE, child.wait_with_output()).await.expect("watch did not end").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn say(socket: &mut WebSocketStream<TcpStream>, frame: &str) {
    socket.send(Message::text(frame)).await.unwrap();
}

async fn close(mut socket: WebSocketStream<TcpStream>, code: u16) {
    let _ = socket.close(Some(CloseFrame { code: code.into(), reason: "because".into() })).await;
    while timeout(DEADLINE, socket.next()).await.expect("the client does not close").is_some_and(|m| m.is_ok()) {}
}

const HELLO: &str =
    r#"{"type":"hello","node":"n1","user":"7","head":"e.1.x","ping_interval_ms":25000,"reconnect":{"min_ms":50,"max_ms":100}}"#;

fn alert(pos: &str, message: &str) -> String {
    serde_json::json!({
        "type": "security_alert", "event_type": "high_failed_login_rate", "severity": "high", "message": message, "status": "firing",
        "timestamp": "2026-11-23T16:00:00.000Z", "pos": pos, "alert_id": "a1"
    })
    .to_string()
}

#[tokio::test]
async fn it_resumes_after_the_last_position_and_stops_where_coming_back_is_of_no_use() {
    let server = Server::new().await;
    let child = watch(&server.url, &["--min-severity", "medium"]);
    let (mut first, asked) = server.client().await;
    assert_eq!(asked, "/ws?min_severity=medium Bearer a.b.c auditcast.v1");
    say(&mut first, HELLO).await;
    say(&mut first, r#"{"type":"subscribed","id":"0","recovered":true}"#).await;
    say(&mut first, &alert("e.2.x", "High failed login rate detected: 51 in last hour")).await;
    say(&mut first, r#"{"type":"position","pos":"e.3.x"}"#).await;
    say(&mut first, r#"{"type":"bye","code":3001,"reason":"shutting down","reconnect":true,"retry_in_ms":10}"#).await;
    close(first, 3001).await;

    let (mut second, asked) = server.client().await;
    assert_eq!(asked, "/ws?min_severity=medium&after=e.3.x Bearer a.b.c auditcast.v1");
    say(&mut second, HELLO).await;
    say(&mut second, &alert("e.4.x", "steered \u{1b}[2J\u{9b}\r\n and back")).await;
    close(second, 3503).await;

    let (code, stdout, stderr) = ended(child).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(
        stdout,
        "2026-11-23T16:00:00.000Z HIGH     firing   high_failed_login_rate: High failed login rate detected: 51 in last hour\n\
         2026-11-23T16:00:00.000Z HIGH     firing   high_failed_login_rate: steered  [2J    and back\n"
    );
    assert!(stderr.contains("connected to n1 as 7"), "{stderr}");
    assert!(stderr.contains("closed with 3001 because; again in 0.0 s"), "{stderr}");
    assert!(stderr.ends_with("the connection was closed with 3503 because\n"), "{stderr}");
}

#[tokio::test]
async fn a_connection_that_breaks_before_any_alert_resumes_at_its_head() {
    let server = Server::new().await;
    let child = watch(&server.url, &["--json"]);
    let (mut first, asked) = server.client().await;
    assert!(asked.starts_with("/ws "), "{asked}");
    say(&mut first, HELLO).await;
    // A ping that is answered shows that the greeting has been read.
    first.send(Message::Ping("p".into())).await.unwrap();
    let answer = timeout(DEADLINE, first.next()).await.expect("no pong").unwrap().unwrap();
    assert!(answer.is_pong());
    drop(first);

    let (mut second, asked) = server.client().await;
    assert!(asked.starts_with("/ws?after=e.1.x "), "{asked}");
    say(&mut second, &alert("e.2.x", "line\u{7f}d\u{202e}")).await;
    close(second, 3005).await;
    let (code, stdout, stderr) = ended(child).await;
    assert_eq!(code, Some(1));
    assert!(stderr.ends_with("the token has expired, get a new one\n"), "{stderr}");
    let lines: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["type"], &lines[1]["message"]), (&"hello".into(), &"line\u{7f}d\u{202e}".into()));
    assert!(!stdout.contains('\u{7f}') && !stdout.contains('\u{202e}'), "{stdout:?}");
}

#[tokio::test]
async fn refusals_by_http() {
    let server = Server::new().await;
    for (status, headers, comes_back) in [
        ("503 Service Unavailable", "Retry-After: 0\r\n", true),
        ("429 Too Many Requests", "Retry-After: 0\r\n", true),
        ("401 Unauthorized", "", false),
    ] {
        let child = watch(&server.url, &[]);
        for last in [false, true] {
            let mut socket = server.tcp().await;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(timeout(DEADLINE, socket.read_u8()).await.unwrap().unwrap());
            }
            let (status, headers) = if last { ("403 Forbidden", "") } else { (status, headers) };
            let body = r#"{"detail":"the token is blacklisted"}"#;
            let answer =
                format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            if !comes_back {
                break;
            }
        }
        let (code, _, stderr) = ended(child).await;
        assert_eq!(code, Some(1), "{stderr}");
        let told = if comes_back { "refused with 403: " } else { "refused with 401: " };
        assert!(stderr.ends_with(&format!("{told}the token is blacklisted\n")), "{stderr}");
    }
}

#[tokio::test]
async fn it_ends_soon_after_nobody_reads_it_any_more() {
    let server = Server::new().await;
    let mut child = watch(&server.url, &["--json"]);
    let (mut socket, _) = server.client().await;
    say(&mut socket, HELLO).await;
    let mut stdout = child.stdout.take().unwrap();
    assert_ne!(stdout.read(&mut [0; 8]).await.unwrap(), 0);
    drop(stdout);
    // Nothing is said meanwhile, so that nothing can be written.
    let status = timeout(DEADLINE, child.wait()).await.expect("watch goes on for nobody").unwrap();
    assert_eq!(status.code(), Some(0));
}
