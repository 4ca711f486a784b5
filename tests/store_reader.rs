//! The reader of streams, whose protocol is our own work, against real servers in every way of connecting, and against peers
//! that stall, hang up, dribble or talk nonsense.

#[path = "support/redis.rs"]
mod server;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use auditcast::{
    event::EntryId,
    store::{Entry, Options, Reader, Store, StoreError, StreamFault, Target},
};
use redis::{Value, cmd};
use server::{RedisServer, free_port};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Nothing on this machine takes longer; what does has hung.
const PATIENCE: Duration = Duration::from_secs(20);
const NOTHING: Duration = Duration::ZERO;
const STREAM: &str = "audit";

async fn opened(url: &str) -> Store {
    let options = Options {
        target: Target::Redis(url.to_owned()),
        prefix: "{auditcast}".to_owned(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(86_400),
        alerts_max: 1000,
        dead_letters_max: 1000,
        commits_max: 1000,
        intake_max: 1000,
    };
    Store::open(options).await.expect("the URL is read")
}

/// `n` entries of a number and a payload of so many bytes.
fn fill(server: &RedisServer, db: u32, n: usize, bytes: usize) -> Vec<EntryId> {
    let mut client = server.client();
    cmd("SELECT").arg(db).exec(&mut client).expect("there is such a database");
    let payload = "x".repeat(bytes);
    let add = |n| {
        let id: String = cmd("XADD")
            .arg(STREAM)
            .arg("*")
            .arg(&[("n", n), ("payload", payload.as_str())])
            .query(&mut client)
            .expect("it is added");
        id.parse().expect("an id")
    };
    (0..n).map(|n| n.to_string()).collect::<Vec<_>>().iter().map(String::as_str).map(add).collect()
}

async fn all(reader: &mut Reader, count: usize, ahead: bool) -> Result<Vec<Entry>, StoreError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map_or(EntryId::ZERO, |last| last.id);
        let reply = reader.read(&[(STREAM, after)], count, NOTHING).await?;
        assert!(reply.faults.is_empty() && 0 < reply.before_ms && reply.before_ms <= reply.after_ms);
        let Some(stream) = reply.streams.into_iter().next() else { return Ok(entries) };
        entries.extend(stream.entries);
        if ahead && let Some(last) = entries.last() {
            reader.ask_ahead(&[(STREAM, last.id)], count).await;
        }
    }
}

fn whole(entries: &[Entry], ids: &[EntryId], bytes: usize) {
    assert!(entries.iter().map(|e| e.id).eq(ids.iter().copied()), "{} entries of {}", entries.len(), ids.len());
    for (n, entry) in entries.iter().enumerate() {
        let names: Vec<_> = entry.fields().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"n"[..], b"payload"]);
        assert_eq!(entry.field(b"n"), Some(n.to_string().as_bytes()));
        let payload = entry.field(b"payload").unwrap_or_default();
        assert!(payload.len() == bytes && payload.iter().all(|b| *b == b'x'));
    }
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Unavailable(text)) => assert!(text.contains(says), "{text:?} does not say {says:?}"),
        other => panic!("should be unavailable, is {other:?}"),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Refused(text)) => assert!(text.contains(says), "{text:?} does not say {says:?}"),
        other => panic!("should be refused, is {other:?}"),
    }
}

fn told(client: &mut redis::Connection, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    match command.query::<Value>(client).unwrap_or_else(|e| panic!("{line}: {e}")) {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        other => format!("{other:?}"),
    }
}

/// How often the server has done an XREAD.
fn reads(client: &mut redis::Connection) -> u64 {
    let stats = told(client, "INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xread:calls=")).unwrap_or("0,");
    line.split(',').next().and_then(|n| n.parse().ok()).expect("a number of calls")
}

// ---- every way of connecting

#[tokio::test]
async fn users_passwords_databases_and_both_protocols() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 3, 50, 100);
    let mut client = server.client();
    told(&mut client, "ACL SETUSER app on >s:e@cret ~audit resetchannels -@all +xread +time +select");
    for (user, shown) in [("", "user=default"), ("app:s%3Ae%40cret@", "user=app")] {
        for (query, protocol) in [("", "resp=2"), ("?protocol=resp3", "resp=3")] {
            let store = opened(&format!("redis://{user}127.0.0.1:{}/3{query}", server.port())).await;
            let mut reader = store.reader();
            whole(&all(&mut reader, 7, false).await.unwrap(), &ids, 100);
            let clients = told(&mut client, "CLIENT LIST");
            let ours = clients.lines().find(|line| line.contains("cmd=time")).unwrap_or_default();
            assert!(ours.contains(shown) && ours.contains(" db=3 "), "{clients}");
            assert!(!ours.contains(" resp=") || ours.contains(protocol), "{clients}");
        }
    }
    told(&mut client, "CONFIG SET requirepass right");
    for query in ["", "?protocol=resp3"] {
        let store = opened(&format!("redis://:right@127.0.0.1:{}/3{query}", server.port())).await;
        whole(&all(&mut store.reader(), 1000, true).await.unwrap(), &ids, 100);
        for (user, db) in [("", 3), ("", 0), (":wrong@", 0), ("app:right@", 3)] {
            let store = opened(&format!("redis://{user}127.0.0.1:{}/{db}{query}", server.port())).await;
            refused(all(&mut store.reader(), 10, false).await, "user name or password");
        }
        let store = opened(&format!("redis://:right@127.0.0.1:{}/99{query}", server.port())).await;
        refused(all(&mut store.reader(), 10, false).await, "DB index");
    }
}

#[tokio::test]
async fn a_unix_socket() {
    let server = RedisServer::start(&["--unixsocket", "socket"]);
    let ids = fill(&server, 0, 20, 10);
    let store = opened(&format!("redis+unix://{}", server.dir().join("socket").display())).await;
    whole(&all(&mut store.reader(), 6, true).await.unwrap(), &ids, 10);
}

fn openssl(dir: &Path, args: &[&str]) {
    let done = Command::new("openssl").args(args).current_dir(dir).stderr(Stdio::null()).stdout(Stdio::null()).status();
    assert!(done.expect("openssl can be run").success(), "openssl {args:?}");
}

/// The roots are the process's: the reading is done by this test in a process of its own.
#[tokio::test]
async fn tls() {
    const URL: &str = "AUDITCAST_TEST_TLS_URL";
    if let Ok(url) = std::env::var(URL) {
        let store = opened(&url).await;
        let read = all(&mut store.reader(), 1000, true).await;
        if std::env::var_os("SSL_CERT_FILE").is_some() {
            assert_eq!(read.unwrap().len(), 3000);
            store.now_ms().await.expect("the redis crate trusts it as well");
        } else {
            refused(read, "certificate that is not trusted");
            refused(store.now_ms().await, "certificate that is not trusted");
        }
        println!("read over TLS");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = "[req]\ndistinguished_name=n\nprompt=no\n[n]\nCN=localhost\n\
        [ca]\nbasicConstraints=critical,CA:TRUE\n[leaf]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n";
    std::fs::write(dir.path().join("c"), config).unwrap();
    let key = ["-newkey", "rsa:2048", "-nodes", "-config", "c"];
    openssl(dir.path(), &[&["req", "-x509", "-extensions", "ca", "-keyout", "ca.key", "-out", "ca.pem"], &key[..]].concat());
    openssl(dir.path(), &[&["req", "-keyout", "leaf.key", "-out", "leaf.csr"], &key[..]].concat());
    let sign = ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(dir.path(), &[&sign[..], &["-extfile", "c", "-extensions", "leaf", "-out", "leaf.pem"]].concat());

    let path = |name: &str| dir.path().join(name).display().to_string();
    let port = free_port();
    let (certificate, key, ca) = (path("leaf.pem"), path("leaf.key"), path("ca.pem"));
    let server = RedisServer::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ]);
    fill(&server, 0, 3000, 400);
    for host in ["127.0.0.1", "localhost"] {
        for trusted in [true, false] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["tls", "--exact", "--nocapture"]).env(URL, format!("rediss://{host}:{port}/0"));
            child.env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
            if trusted {
                child.env("SSL_CERT_FILE", &ca);
            }
            let out = child.output().unwrap();
            let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            assert!(out.status.success() && text.contains("read over TLS"), "{host} {trusted}: {text}");
        }
    }
}

// ---- a server that is not what it should be

/// Until it answers.
async fn answers(port: u16) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "the server does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_sentinel_is_told_from_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = dir.path().join("sentinel.conf");
    std::fs::write(&config, format!("port {port}\nbind 127.0.0.1\nprotected-mode no\n")).unwrap();
    let binary = std::env::var("AUDITCAST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let mut child =
        Command::new(binary).arg(&config).arg("--sentinel").current_dir(dir.path()).stdout(Stdio::null()).spawn().unwrap();
    answers(port).await;
    let store = opened(&format!("redis://127.0.0.1:{port}")).await;
    let (read, time) = (all(&mut store.reader(), 10, false).await, store.now_ms().await);
    child.kill().unwrap();
    child.wait().unwrap();
    refused(read, "unknown command");
    refused(time, "unknown command");
}

#[tokio::test]
async fn a_server_without_room_says_so() {
    let server = RedisServer::start(&[]);
    let mut client = server.client();
    let store = opened(&server.url()).await;
    told(&mut client, "CONFIG SET maxclients 1");
    unavailable(all(&mut store.reader(), 10, false).await, "no connection left");
    told(&mut client, "CONFIG SET maxclients 10");
    let mut reader = store.reader();
    assert!(all(&mut reader, 10, false).await.unwrap().is_empty());
    // Its greeting, then, is what is refused.
    told(&mut client, "CONFIG SET maxclients 1");
    let url = format!("redis://127.0.0.1:{}/2?protocol=resp3", server.port());
    unavailable(all(&mut opened(&url).await.reader(), 10, false).await, "no connection left");
}

#[tokio::test]
async fn a_replica_without_its_master_and_one_that_loads() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 5, 10);
    let mut client = server.client();
    let store = opened(&server.url()).await;
    let mut reader = store.reader();
    told(&mut client, "CONFIG SET replica-serve-stale-data no");
    told(&mut client, &format!("REPLICAOF 127.0.0.1 {}", free_port()));
    unavailable(all(&mut reader, 10, false).await, "MASTERDOWN");
    told(&mut client, "REPLICAOF NO ONE");
    whole(&all(&mut reader, 10, false).await.unwrap(), &ids, 10);
    assert_eq!(store.reconnects(), 0, "the connection was good all the time");
}

// ---- a peer between us that is up to something

#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Hands everything out byte by byte.
    Dribbles,
    /// Says nothing more after so many bytes, and keeps the connection.
    Stalls(usize),
    Closes(usize),
    Babbles(usize),
    /// So many bytes every 10 ms.
    Slow(usize),
}

/// Between a reader and a server; the first connections are treated as said, one after the other, then all pass.
async fn between(server: &RedisServer, peers: Vec<Peer>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, upstream) = (listener.local_addr().unwrap().port(), server.port());
    tokio::spawn(async move {
        let mut peers = peers.into_iter();
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
            tokio::spawn(pass(client, upstream, peers.next()));
        }
    });
    port
}

async fn pass(client: TcpStream, upstream: TcpStream, peer: Option<Peer>) {
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut passed = 0;
    let mut buf = vec![0; 16 << 10];
    'all: while let Ok(n @ 1..) = from_server.read(&mut buf).await {
        let most = match peer {
            None => n,
            Some(Peer::Dribbles) => 1,
            Some(Peer::Slow(bytes)) => bytes,
            Some(Peer::Stalls(at) | Peer::Closes(at) | Peer::Babbles(at)) => (at - passed).clamp(1, n),
        };
        for part in buf[..n].chunks(most) {
            match peer {
                Some(Peer::Stalls(at)) if passed >= at => std::future::pending().await,
                Some(Peer::Closes(at)) if passed >= at => break 'all,
                Some(Peer::Babbles(at)) if passed >= at => {
                    let _ = to_client.write_all(&b"\r\n$5\r\n*1 HTTP/1.1 400 Bad Request\r\n".repeat(20)).await;
                    std::future::pending().await
                }
                Some(Peer::Dribbles) => tokio::task::yield_now().await,
                Some(Peer::Slow(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                _ => {}
            }
            if to_client.write_all(part).await.is_err() {
                break 'all;
            }
            passed += part.len();
        }
    }
    requests.abort();
}

#[tokio::test]
async fn a_peer_that_hands_out_single_bytes() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 40, 30);
    for query in ["", "?protocol=resp3"] {
        for ahead in [false, true] {
            let port = between(&server, vec![Peer::Dribbles]).await;
            let store = opened(&format!("redis://127.0.0.1:{port}/0{query}")).await;
            whole(&all(&mut store.reader(), 9, ahead).await.unwrap(), &ids, 30);
            assert_eq!(store.reconnects(), 0);
        }
    }
}

#[tokio::test]
async fn a_peer_that_hangs_up_or_babbles_in_the_middle_loses_nothing() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 40, 100);
    // In the greeting, in TIME, between a length and its text, in a text, in the last TIME.
    for at in [1, 3, 8, 30, 45, 60, 61, 62, 63, 64, 100, 160, 2000, 6500] {
        for (peer, says) in [(Peer::Closes(at), "closed the connection"), (Peer::Babbles(at), "cannot be read")] {
            let port = between(&server, vec![peer]).await;
            let store = opened(&format!("redis://127.0.0.1:{port}/0")).await;
            let mut reader = store.reader();
            match (peer, all(&mut reader, 1000, false).await) {
                (Peer::Closes(_), cut) => unavailable(cut, says),
                (_, Err(StoreError::Broken(text))) => assert!(text.contains(says), "{text}"),
                (_, other) => panic!("{peer:?}: {other:?}"),
            }
            whole(&all(&mut reader, 1000, false).await.unwrap(), &ids, 100);
            assert_eq!(store.reconnects(), 1, "{peer:?}");
        }
    }
}

#[tokio::test]
async fn a_peer_that_stalls_in_the_middle_is_given_up_in_time() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 40, 100);
    let stalled = |at| {
        let (server, ids) = (&server, &ids);
        async move {
            let port = between(server, vec![Peer::Stalls(at)]).await;
            let store = opened(&format!("redis://127.0.0.1:{port}/0?protocol=resp3")).await;
            let mut reader = store.reader();
            let began = Instant::now();
            unavailable(reader.read(&[(STREAM, EntryId::ZERO)], 1000, NOTHING).await, "did not answer within 2 s");
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            whole(&all(&mut reader, 1000, true).await.unwrap(), ids, 100);
            assert_eq!(store.reconnects(), 1);
        }
    };
    // In the greeting, where none of it has come; in the reply.
    tokio::join!(stalled(50), stalled(250), stalled(3000), stalled(6600));
}

#[tokio::test]
async fn what_a_slow_peer_cannot_bring_in_time_is_asked_for_in_smaller_parts() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 300, 3000);
    let port = between(&server, vec![Peer::Slow(3000); 3]).await;
    let store = opened(&format!("redis://127.0.0.1:{port}/0")).await;
    let mut reader = store.reader();
    unavailable(reader.read(&[(STREAM, EntryId::ZERO)], 300, NOTHING).await, "did not answer within 2 s");
    let reply = reader.read(&[(STREAM, EntryId::ZERO)], 300, NOTHING).await.unwrap();
    assert_eq!((reply.streams[0].entries.len(), reply.streams[0].full), (75, true));
    whole(&reply.streams[0].entries, &ids[..75], 3000);
}

// ---- a look at a stream, which brings its first entry and its last

#[tokio::test]
async fn a_look_at_a_stream_of_monstrous_entries_gives_the_numbers() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 2, 48 << 20);
    for query in ["", "?protocol=resp3"] {
        let store = opened(&format!("{}{query}", server.url())).await;
        let info = store.stream_info(STREAM).await.unwrap().unwrap().unwrap();
        assert_eq!((info.length, info.first, info.last_generated), (2, Some(ids[0]), ids[1]));
        assert_eq!(store.stream_info("none").await.unwrap(), Ok(None));
        assert_eq!(store.reconnects(), 0, "the connection is as good as before");
    }
}

#[tokio::test]
async fn a_look_that_cannot_come_to_an_end_in_time_is_about_that_stream_only() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 1, 100_000);
    for query in ["", "?protocol=resp3"] {
        let port = between(&server, vec![Peer::Stalls(20_000)]).await;
        let store = opened(&format!("redis://127.0.0.1:{port}/0{query}")).await;
        let began = Instant::now();
        let fault = store.stream_info(STREAM).await.unwrap();
        assert!(matches!(&fault, Err(StreamFault::Other(text)) if text.contains("too large")), "{fault:?}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(store.stream_info(STREAM).await.unwrap().unwrap().unwrap().first, Some(ids[0]));
    }
    // Where nothing of it has come, nothing works.
    let port = between(&server, vec![Peer::Stalls(0)]).await;
    let store = opened(&format!("redis://127.0.0.1:{port}/0")).await;
    unavailable(store.stream_info(STREAM).await, "did not answer within 2 s");
    for peer in [Peer::Babbles(0), Peer::Babbles(40)] {
        let port = between(&server, vec![peer]).await;
        let store = opened(&format!("redis://127.0.0.1:{port}/0")).await;
        let nonsense = store.stream_info(STREAM).await;
        assert!(matches!(&nonsense, Err(StoreError::Broken(text)) if text.contains("cannot be read")), "{peer:?}: {nonsense:?}");
        store.stream_info(STREAM).await.unwrap().unwrap().unwrap();
    }
}

// ---- asked ahead, waited for

#[tokio::test]
async fn what_was_asked_ahead_is_used_if_it_is_what_is_wanted() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 100, 10);
    let mut client = server.client();
    let store = opened(&server.url()).await;
    let mut reader = store.reader();
    let position = |n: usize| [(STREAM, ids[n])];
    let first = reader.read(&[(STREAM, EntryId::ZERO)], 10, NOTHING).await.unwrap();
    assert_eq!((first.streams[0].entries[9].id, first.age), (ids[9], NOTHING));
    reader.ask_ahead(&position(9), 10).await;
    let second = reader.read(&position(9), 10, NOTHING).await.unwrap();
    assert_eq!(second.streams[0].entries[0].id, ids[10]);
    assert!(second.age > NOTHING);
    assert_eq!(reads(&mut client), 2);

    // Another position, another number, another stream: asked anew.
    reader.ask_ahead(&position(19), 10).await;
    let other = reader.read(&position(29), 10, NOTHING).await.unwrap();
    assert_eq!(other.streams[0].entries[0].id, ids[30]);
    reader.ask_ahead(&position(39), 10).await;
    let other = reader.read(&position(39), 5, NOTHING).await.unwrap();
    assert_eq!((other.streams[0].entries[0].id, other.streams[0].entries.len()), (ids[40], 5));
    reader.ask_ahead(&position(39), 10).await;
    let other = reader.read(&[("none", ids[39])], 10, NOTHING).await.unwrap();
    assert!(other.streams.is_empty());
    assert_eq!(reads(&mut client), 8);

    // Entries stay what they are while their memory is used again.
    let kept: Vec<_> = [first, second].into_iter().flat_map(|reply| reply.streams).flat_map(|s| s.entries).collect();
    for round in 0..5 {
        reader.ask_ahead(&position(49), 10 + round).await;
        reader.read(&position(49), 10 + round, NOTHING).await.unwrap();
        whole(&kept, &ids[..20], 10);
    }
    // The end of a backlog: nothing is there, and it is waited for all the same.
    reader.ask_ahead(&position(99), 10).await;
    let began = Instant::now();
    assert!(reader.read(&position(99), 10, Duration::from_millis(50)).await.unwrap().streams.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(store.reconnects(), 0);

    // Cut while it is under way.
    reader.ask_ahead(&position(89), 10).await;
    told(&mut client, "CLIENT KILL TYPE normal SKIPME yes");
    // What had been answered may still come through.
    let cut = reader.read(&position(89), 10, NOTHING).await;
    assert!(matches!(&cut, Ok(reply) if reply.streams[0].entries.len() == 10) || cut.is_err(), "{cut:?}");
    let _ = reader.read(&position(89), 10, NOTHING).await;
    let again = reader.read(&position(89), 10, NOTHING).await.unwrap();
    assert_eq!(again.streams[0].entries.len(), 10);
    assert_eq!(store.reconnects(), 1);
}

#[tokio::test]
async fn a_read_that_is_waited_for_is_one_request() {
    let server = RedisServer::start(&[]);
    let ids = fill(&server, 0, 1, 10);
    let mut client = server.client();
    let store = opened(&server.url()).await;
    let mut reader = store.reader();
    let first = reader.read(&[(STREAM, ids[0])], 10, Duration::from_millis(10)).await.unwrap();
    let position = [(STREAM, ids[0])];
    let waiting = reader.read(&position, 10, PATIENCE);
    let (reply, added) = tokio::join!(waiting, async {
        let deadline = Instant::now() + PATIENCE;
        while !told(&mut client, "CLIENT LIST TYPE normal").contains("cmd=xread") {
            assert!(Instant::now() < deadline, "the reader does not wait");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fill(&server, 0, 1, 10)
    });
    let reply = reply.unwrap();
    assert_eq!(reply.streams[0].entries[0].id, added[0]);
    assert!(first.after_ms <= reply.after_ms && reply.before_ms <= added[0].ms && added[0].ms <= reply.after_ms);
    assert_eq!(reads(&mut client), 2, "one for each read");
}
