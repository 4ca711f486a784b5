//! The edge: TLS and its certificates, proxies, who is counted as whom, the token of `/metrics`.

mod support_http;
mod support_tls;

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use auditcast::http::{Look, Proxies, Tls};
use rustls::{ClientConfig, pki_types::CertificateDer, version::TLS12};
use support_http::{Server, ServerOptions, start};
use support_tls::{Authority, handshake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(10);
const HEAD: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

async fn secure(config: ClientConfig, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    handshake(config, TcpStream::connect(address).await.unwrap()).await
}

/// What is said to a request, up to the end.
async fn asked(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> String {
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&said).into_owned())
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time").unwrap_or_default()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn both_listeners_speak_tls_and_nothing_else() {
    let authority = Authority::new();
    authority.renew();
    let tls = Arc::new(Tls::open(authority.options()).unwrap());
    let server = start(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await;
    for address in [server.public, server.ops] {
        let mut config = authority.client(None);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = secure(config, address).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = asked(stream, HEAD).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("strict-transport-security: max-age="), "{answer}");
        let mut older = authority.client(None);
        older = ClientConfig::builder_with_provider(older.crypto_provider().clone())
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates({
                let mut roots = rustls::RootCertStore::empty();
                roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
                roots
            })
            .with_no_client_auth();
        assert!(secure(older, address).await.is_ok(), "TLS 1.2 is spoken too");
        // Who forgot the s is told.
        let answer = asked(TcpStream::connect(address).await.unwrap(), HEAD).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.ends_with("this address speaks TLS: use https:\n"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_feed_over_tls_lives_through_a_new_certificate() {
    let authority = Authority::new();
    let first = authority.renew();
    let tls = Arc::new(Tls::open(authority.options()).unwrap());
    let server = start(ServerOptions { tls: Some(tls.clone()), ..ServerOptions::default() }).await;
    server.until("the hub follows the log", |server| server.hub.store_up()).await;
    let token = server.token("admin", &[]);
    let mut socket = secure(authority.client(None), server.public).await.unwrap();
    assert_eq!(shown(&socket), first);
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("subscribed") {
        let mut piece = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, socket.read(&mut piece)).await;
        let n = read.unwrap_or_else(|_| panic!("no more than {}", String::from_utf8_lossy(&said))).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..n]);
    }
    assert!(said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));

    // A bad one, half of a new one, no file: what is there stays, and each is told of once.
    let (_, other_key) = authority.issue(&["localhost"]);
    let key = fs::read_to_string(authority.path("key.pem")).unwrap();
    for (file, content, told) in [
        ("key.pem", Some(other_key.as_str()), "is not that of the certificate"),
        ("cert.pem", Some("-----BEGIN CERTIFICATE-----\nx\n"), "PEM"),
        ("cert.pem", None, "cannot be read"),
    ] {
        match content {
            Some(content) => fs::write(authority.path(file), content).unwrap(),
            None => fs::remove_file(authority.path(file)).unwrap(),
        }
        let Look::Bad(text) = tls.look(false) else { panic!("{file} is taken") };
        assert!(text.contains(told) && text.contains(file) && !text.contains("PRIVATE"), "{text}");
        assert_eq!(tls.look(false), Look::Same);
        assert!(matches!(tls.look(true), Look::Bad(_)), "who asks is told again");
        assert_eq!(shown(&secure(authority.client(None), server.public).await.unwrap()), first);
    }
    drop(key);
    let second = authority.renew();
    assert_eq!(tls.look(false), Look::New);
    assert_eq!(shown(&secure(authority.client(None), server.public).await.unwrap()), second);

    // The live one goes on: a ping and its pong.
    let mut ping = vec![0x89, 0x84, 0, 0, 0, 0];
    ping.extend(b"live");
    socket.write_all(&ping).await.unwrap();
    let mut pong = [0; 6];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut pong)).await.expect("it answers").unwrap();
    assert_eq!(pong[..], [0x8a, 4, b'l', b'i', b'v', b'e']);
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn clients_show_certificates_where_they_must() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.renew();
    let own = || Some(authority.issue(&["scraper"]));
    for (required, client, taken) in [
        (true, own(), true),
        (true, None, false),
        (true, Some(stranger.issue(&["scraper"])), false),
        (false, own(), true),
        (false, None, true),
        (false, Some(stranger.issue(&["scraper"])), false),
    ] {
        let mut options = authority.options();
        options.client_ca = Some(authority.path("ca.pem"));
        options.client_required = required;
        let tls = Arc::new(Tls::open(options).unwrap());
        let server = start(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await;
        let case = (required, client.is_some(), taken);
        // With TLS 1.3 the client hears of its refusal only when it reads.
        let answer = match secure(authority.client(client), server.ops).await {
            Ok(stream) => asked(stream, HEAD).await,
            Err(_) => String::new(),
        };
        assert_eq!(answer.starts_with("HTTP/1.1 200"), taken, "{case:?}: {answer}");
        server.stop().await;
    }
}

#[tokio::test]
async fn what_is_no_good_does_not_start() {
    let authority = Authority::new();
    authority.renew();
    let open = |change: &dyn Fn(&mut auditcast::http::TlsOptions)| {
        let mut options = authority.options();
        change(&mut options);
        Tls::open(options).err().expect("it is refused")
    };
    let missing = open(&|options| options.certificate = "/nowhere/cert.pem".into());
    assert!(missing.starts_with("/nowhere/cert.pem cannot be read: "), "{missing}");
    let swapped = open(&|options| options.key = options.certificate.clone());
    assert!(swapped.contains("holds no private key in PEM"), "{swapped}");
    let swapped = open(&|options| options.certificate = options.key.clone());
    assert!(swapped.contains("holds no certificate in PEM"), "{swapped}");
    fs::write(authority.path("empty.pem"), "").unwrap();
    let empty = open(&|options| options.client_ca = Some(authority.path("empty.pem")));
    assert!(empty.contains("empty.pem holds no certificate in PEM"), "{empty}");
}

fn proxies(protocol: bool) -> Proxies {
    Proxies { trusted: vec!["127.0.0.0/8".parse().unwrap()], protocol }
}

async fn forwarded(server: &Server, client: &str) -> support_http::Response {
    server.send("GET", "/api/v1/alerts", &[("x-forwarded-for", client), ("x-forwarded-proto", "https")], "").await
}

#[tokio::test]
async fn clients_of_a_trusted_proxy_are_told_apart() {
    let server = start(ServerOptions { rate_general: 2, proxies: proxies(false), ..ServerOptions::default() }).await;
    for client in ["203.0.113.5", "203.0.113.6", "9.9.9.9, 203.0.113.7", "203.0.113.8, 127.0.0.1"] {
        for _ in 0..2 {
            let refused = forwarded(&server, client).await;
            assert!(refused.header("strict-transport-security").is_some(), "it came by https");
            refused.problem(401, "missing");
        }
        let refused = forwarded(&server, client).await;
        assert!(refused.header("retry-after").is_some());
        refused.problem(429, "rate_limited");
    }
    // What stands left of the client is the client's own word.
    forwarded(&server, "8.8.8.8, 203.0.113.7").await.problem(429, "rate_limited");
    server.stop().await;

    let server = start(ServerOptions { rate_general: 2, ..ServerOptions::default() }).await;
    for n in 0..3 {
        let answer = forwarded(&server, &format!("203.0.113.{n}")).await;
        assert!(answer.header("strict-transport-security").is_none());
        answer.problem(if n < 2 { 401 } else { 429 }, if n < 2 { "missing" } else { "rate_limited" });
    }
    server.stop().await;
}

#[tokio::test]
async fn a_proxy_header_says_who_connects() {
    let server = start(ServerOptions {
        rate_general: 2,
        connections_per_address_max: 3,
        proxies: proxies(true),
        ..ServerOptions::default()
    })
    .await;
    let request = "GET /api/v1/alerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let ask = async |header: &str| asked(TcpStream::connect(server.public).await.unwrap(), &format!("{header}{request}")).await;
    for client in ["203.0.113.5", "203.0.113.6"] {
        let header = format!("PROXY TCP4 {client} 127.0.0.1 4711 80\r\n");
        for status in [401, 401, 429] {
            let answer = ask(&header).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }
    assert_eq!(ask("").await, "", "a trusted proxy says whom it brings");
    assert_eq!(ask("PROXY TCP4 x y z\r\n").await, "");

    // And each address has so many sockets at once.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(server.public).await.unwrap();
        socket.write_all(b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n").await.unwrap();
        held.push(socket);
    }
    server
        .until("a fourth is refused", |server| {
            let rejected = server.metrics.connections_rejected.get("too_many_per_address");
            if rejected == 0 {
                let mut socket = std::net::TcpStream::connect(server.public).unwrap();
                let _ = std::io::Write::write_all(&mut socket, b"PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n");
            }
            rejected > 0
        })
        .await;
    let answer = ask("PROXY TCP4 203.0.113.10 127.0.0.1 4711 80\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "another address has room: {answer}");
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn metrics_ask_for_their_token() {
    let server =
        start(ServerOptions { metrics_token: Some(b"a-token-for-the-scraper".to_vec()), ..ServerOptions::default() }).await;
    server.send_ops("GET", "/metrics", &[]).await.problem(401, "missing");
    for wrong in ["Bearer a-token-for-the-scrapex", "Bearer a-token", "Basic x"] {
        server.send_ops("GET", "/metrics", &[("authorization", wrong)]).await.problem(401, "invalid");
    }
    let answer = server.send_ops("GET", "/metrics", &[("authorization", "Bearer a-token-for-the-scraper")]).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("a-token-for"));
    assert_eq!(server.send_ops("GET", "/readyz?exclude=source&exclude=store", &[]).await.status / 100, 5, "probes ask for none");
    server.stop().await;
}
