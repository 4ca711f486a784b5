//! Redis passes the suite of `tests/suite`, and what only Redis can do or suffer. Every test has a redis-server of its own.

mod suite;

use std::{
    process::Command,
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use auditcast::{
    event::EntryId,
    store::{
        Change, Commit, Grant, IntakeItem, LogEntry, NewEntry, Options, Rate, Snapshot, Store, StoreError, StreamFault, Target,
    },
};
use redis::{Connection, Value, cmd};
use suite::{
    Engine, NOTHING, PATIENCE, append, commit, entry, fence, id, options,
    server::{RedisServer, free_port},
    until,
};

mod scenarios {
    crate::all_scenarios!(redis);
    crate::all_scenarios!(resp3);
}

/// Sends one command, given as words.
fn send(client: &mut Connection, line: &str) -> Value {
    let mut words = line.split_whitespace();
    let mut command = cmd(words.next().expect("a command"));
    for word in words {
        command.arg(word);
    }
    command.query(client).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn at(url: &str) -> Options {
    options(Target::Redis(url.to_owned()))
}

async fn opened(url: &str) -> Store {
    Store::open(at(url)).await.expect("the URL is read")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Refused(text)) => assert!(text.contains(says), "{text:?} does not say {says:?}"),
        other => panic!("should be refused, is {other:?}"),
    }
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Unavailable(text)) => assert!(text.contains(says), "{text:?} does not say {says:?}"),
        other => panic!("should be unavailable, is {other:?}"),
    }
}

// ---- streams

#[tokio::test]
async fn a_key_of_another_type_does_not_hurt_the_other_streams() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let store = engine.open().await;
    let first = append(&store, "a", 0..2).await;
    send(&mut client, "SET b text");
    let mut cursors = ["a", "b", "c"].map(|name| (name.to_owned(), EntryId::ZERO));
    let mut reader = store.reader();
    let long = Duration::from_secs(10);

    let reply = reader.read(&cursors, 10, long).await.unwrap();
    assert_eq!(reply.streams.iter().map(|s| (s.index, s.entries.len())).collect::<Vec<_>>(), [(0, 2)]);
    assert!(matches!(&reply.faults[..], [(1, StreamFault::WrongType(_))]), "{:?}", reply.faults);
    cursors[0].1 = first[1];
    // Known by now, it does not keep the others from being waited for.
    let began = Instant::now();
    let (reply, _) = tokio::join!(reader.read(&cursors, 10, long), append(&store, "c", 0..1));
    let reply = reply.unwrap();
    assert!(began.elapsed() < long / 2);
    assert_eq!(reply.streams.iter().map(|s| (s.index, s.entries.len())).collect::<Vec<_>>(), [(2, 1)]);
    assert_eq!(reply.faults.len(), 1);
    assert!(matches!(store.stream_info("b").await.unwrap(), Err(StreamFault::WrongType(_))));

    // A second one goes bad while the first still is; then the first is mended.
    send(&mut client, "DEL c");
    send(&mut client, "LPUSH c x");
    let reply = reader.read(&cursors, 10, NOTHING).await.unwrap();
    assert_eq!(reply.faults.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2]);
    send(&mut client, "DEL b");
    append(&store, "b", 0..1).await;
    let reply = reader.read(&cursors, 10, NOTHING).await.unwrap();
    assert_eq!(reply.faults.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2]);
    assert_eq!(reply.streams.iter().map(|s| s.index).collect::<Vec<_>>(), [1]);

    let began = Instant::now();
    let reply = reader.read(&cursors[2..], 10, Duration::from_millis(50)).await.unwrap();
    assert_eq!((reply.faults.len(), reply.streams.len()), (1, 0));
    let reply = reader.read(&cursors[2..], 10, Duration::from_millis(50)).await.unwrap();
    assert_eq!((reply.faults.len(), reply.streams.len()), (1, 0));
    assert!(began.elapsed() >= Duration::from_millis(50), "with nothing to read it waits all the same");
    assert_eq!(store.reconnects(), 0);
}

#[tokio::test]
async fn a_forbidden_stream_does_not_hurt_the_other_streams() {
    let server = RedisServer::start(&[]);
    let mut client = server.client();
    send(&mut client, "ACL SETUSER app on >secret ~a* ~{auditcast}:* +@all");
    let store = opened(&format!("redis://app:secret@127.0.0.1:{}/0", server.port())).await;
    store.prepare().await.unwrap();
    append(&store, "a", 0..2).await;
    let cursors = ["b", "a"].map(|name| (name.to_owned(), EntryId::ZERO));
    let reply = store.reader().read(&cursors, 10, NOTHING).await.unwrap();
    assert_eq!(reply.streams.iter().map(|s| (s.index, s.entries.len())).collect::<Vec<_>>(), [(1, 2)]);
    assert!(matches!(&reply.faults[..], [(0, StreamFault::Forbidden(_))]), "{:?}", reply.faults);
    assert!(matches!(store.stream_info("b").await.unwrap(), Err(StreamFault::Forbidden(_))));

    send(&mut client, "ACL SETUSER app -xread");
    refused(store.reader().read(&cursors, 10, NOTHING).await, "xread");
}

#[tokio::test]
async fn a_stream_made_anew_shows_in_its_description() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let ids = append(&store, "s", 0..3).await;
    let mut client = server.client();
    send(&mut client, &format!("XDEL s {} {}", ids[0], ids[2]));
    let info = store.stream_info("s").await.unwrap().unwrap().unwrap();
    assert_eq!((info.length, info.first, info.last_generated), (1, Some(ids[1]), ids[2]));
    if let Some(deleted) = info.max_deleted {
        assert_eq!((deleted, info.added), (ids[2], Some(3)));
    }
    send(&mut client, "DEL s");
    send(&mut client, "XADD s 5-1 event_type x");
    let info = store.stream_info("s").await.unwrap().unwrap().unwrap();
    assert_eq!((info.length, info.first, info.last_generated), (1, Some(id(5, 1)), id(5, 1)));
}

#[tokio::test]
async fn an_old_server_describes_a_stream_with_less() {
    let Ok(binary) = std::env::var("AUDITCAST_REDIS62_SERVER") else {
        eprintln!("not run: AUDITCAST_REDIS62_SERVER names no Redis 6.2");
        return;
    };
    let server = RedisServer::start_binary(&binary, &[]);
    let store = opened(&server.url()).await;
    store.prepare().await.unwrap();
    assert!(store.describe().starts_with("Redis 6.2."), "{}", store.describe());
    let ids = append(&store, "s", 0..3).await;
    let info = store.stream_info("s").await.unwrap().unwrap().unwrap();
    assert_eq!((info.length, info.first, info.last_generated), (3, Some(ids[0]), ids[2]));
    assert_eq!((info.added, info.max_deleted), (None, None));
    send(&mut server.client(), "SET {auditcast}:state text");
    let fence = fence(&store, "n1").await;
    let broken = store.commit(&commit(fence, 1, vec![entry("a", true, 1)])).await;
    assert!(matches!(&broken, Err(StoreError::Broken(text)) if text.contains("WRONGTYPE")), "{broken:?}");
}

// ---- the server goes and comes

#[tokio::test]
async fn a_restart_loses_nothing_that_was_answered() {
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = opened(&server.url()).await;
    store.prepare().await.unwrap();
    let number = fence(&store, "n1").await;
    let mut reader = store.reader();
    let mut tail = store.tail();
    let cursors = |after| [("s".to_owned(), after)];
    let mut after = EntryId::ZERO;
    for round in 1..=3 {
        let ids = append(&store, "s", 0..2).await;
        store.commit(&commit(number, round, vec![entry("a", true, round)])).await.unwrap();
        let reply = reader.read(&cursors(after), 10, PATIENCE).await.unwrap();
        assert_eq!(reply.streams[0].entries.iter().map(|e| e.id).collect::<Vec<_>>(), ids);
        after = ids[1];
        assert_eq!(tail.alerts(round - 1, 10, PATIENCE).await.unwrap().len(), 1);
        let epoch = store.recover().await.unwrap().epoch;

        let seen = round - 1;
        server.kill();
        unavailable(store.now_ms().await, "127.0.0.1");
        unavailable(reader.read(&cursors(after), 10, PATIENCE).await, "127.0.0.1");
        unavailable(tail.alerts(seen, 10, PATIENCE).await, "127.0.0.1");
        unavailable(store.commit(&commit(number, 999, vec![])).await, "refused the connection");
        server.start_again();

        store.now_ms().await.expect("the first request after it is answered");
        let found = store.recover().await.unwrap();
        assert_eq!((found.epoch, found.seq, found.commit), (epoch, round, round));
        assert_eq!(tail.alerts(seen, 10, PATIENCE).await.unwrap().len(), 1);
        assert!(reader.read(&cursors(after), 10, NOTHING).await.unwrap().streams.is_empty());
        assert_eq!(store.reconnects(), 4 * round - 1, "commands, reader and tail, and the commit's of the round before");
        assert_eq!(store.lease("n1", number).await.unwrap().fence, number);
    }
}

#[tokio::test]
async fn a_tail_that_rests_wakes_when_its_connection_is_lost() {
    let mut server = RedisServer::start(&[]);
    for query in ["", "?protocol=resp3"] {
        let store = opened(&format!("{}{query}", server.url())).await;
        let mut tail = store.tail();
        tail.rest(PATIENCE).await;
        assert!(tail.alerts(0, 10, NOTHING).await.unwrap().is_empty());
        let began = Instant::now();
        tail.rest(Duration::from_millis(60)).await;
        assert!(began.elapsed() >= Duration::from_millis(60), "nothing was lost");
        assert!(tail.alerts(0, 10, NOTHING).await.unwrap().is_empty(), "the connection is as good as before");
        let began = Instant::now();
        tokio::join!(tail.rest(PATIENCE), async {
            tokio::task::yield_now().await;
            server.kill();
        });
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
        unavailable(tail.alerts(0, 10, PATIENCE).await, "127.0.0.1");
        server.start_again();
    }
}

#[tokio::test]
async fn cut_connections_are_made_anew_without_an_error_for_commands() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let mut reader = store.reader();
    let cursors = [("s".to_owned(), EntryId::ZERO)];
    reader.read(&cursors, 1, NOTHING).await.unwrap();
    for _ in 0..5 {
        send(&mut server.client(), "CLIENT KILL TYPE normal SKIPME yes");
        store.now_ms().await.expect("what can be asked twice is asked again");
        unavailable(reader.read(&cursors, 1, NOTHING).await, "closed the connection");
        reader.read(&cursors, 1, NOTHING).await.unwrap();
    }
    assert_eq!(store.reconnects(), 10);

    // Cut while it waits.
    let waiting = tokio::spawn(async move { (reader.read(&[("s".to_owned(), EntryId::ZERO)], 1, PATIENCE).await, reader) });
    until("the reader waits", || async {
        let clients = send(&mut server.client(), "CLIENT LIST TYPE normal");
        format!("{clients:?}").contains("cmd=xread")
    })
    .await;
    send(&mut server.client(), "CLIENT KILL TYPE normal SKIPME yes");
    let (cut, mut reader) = waiting.await.unwrap();
    unavailable(cut, "closed the connection");
    let ids = append_again(&store).await;
    assert_eq!(reader.read(&cursors, 1, PATIENCE).await.unwrap().streams[0].entries[0].id, ids);
}

/// `append` is never repeated by itself; a caller that can bear a double may.
async fn append_again(store: &Store) -> EntryId {
    let entries = [vec![("event_type".to_owned(), "x".to_owned())]];
    let mut ids = store.append("s", &entries).await;
    if ids.is_err() {
        ids = store.append("s", &entries).await;
    }
    ids.expect("the second time it is taken")[0]
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let mut reader = store.reader();
    let cursors = [("s".to_owned(), EntryId::ZERO)];
    reader.read(&cursors, 1, NOTHING).await.unwrap();
    let wanted = commit(fence(&store, "n1").await, 1, vec![entry("a", true, 1)]);
    let signal = |name: &str| {
        let done = Command::new("kill").args([name, &server.pid().to_string()]).status();
        assert!(done.expect("kill can be run").success());
    };
    signal("-STOP");
    let began = Instant::now();
    let (command, read, committed) = tokio::join!(store.now_ms(), reader.read(&cursors, 1, NOTHING), store.commit(&wanted));
    unavailable(command, "did not answer within 2 s");
    unavailable(read, "did not answer within 2 s");
    unavailable(committed, "did not answer within 2 s");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    signal("-CONT");
    // It was taken when the server woke.
    assert_eq!(store.commit(&wanted).await.unwrap().seq, 1);
    assert_eq!(store.log_read(0, 10).await.unwrap().len(), 1);
    store.now_ms().await.unwrap();
    reader.read(&cursors, 1, NOTHING).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_server_is_unavailable_and_not_waited_for() {
    let store = opened(&format!("redis://127.0.0.1:{}", free_port())).await;
    unavailable(store.prepare().await, "refused the connection");
    unavailable(store.reader().read(&[("s".to_owned(), EntryId::ZERO)], 1, PATIENCE).await, "refused the connection");
    unavailable(store.subscribe("x").await.map(drop), "refused the connection");

    // A listener that never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = opened(&format!("redis://127.0.0.1:{}", mute.local_addr().unwrap().port())).await;
    let began = Instant::now();
    unavailable(store.prepare().await, "did not answer within 2 s");
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let engine = Engine::redis();
    let store = engine.open().await;
    store.close().await;
    unavailable(store.now_ms().await, "the store is closed");
}

// ---- what somebody must act on

#[tokio::test]
async fn wrong_and_missing_passwords_are_refused_without_showing_them() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    let url = |user: &str| format!("redis://{user}127.0.0.1:{}/3", server.port());
    for user in ["", ":hunter2@", "nobody:hunter2@"] {
        let store = opened(&url(user)).await;
        refused(store.prepare().await, "refused the user name or password");
        refused(store.now_ms().await, "store.url or REDIS_PASSWORD");
        refused(store.reader().read(&[("s".to_owned(), EntryId::ZERO)], 1, NOTHING).await, "password");
        refused(store.subscribe("x").await.map(drop), "password");
        assert!(!store.describe().contains("hunter2"));
    }
    let store = opened(&url(":right@")).await;
    store.prepare().await.unwrap();
    assert_eq!(store.database(), 3);
    let described = store.describe();
    assert!(described.ends_with(&format!(" at 127.0.0.1:{}/3", server.port())), "{described}");
    assert!(described.starts_with("Redis ") || described.starts_with("Valkey "), "{described}");
    assert!(!described.contains("right"));
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused_without_quoting_them() {
    for url in [
        "redis://:hunter2@",
        "redis://:hunter2@host:99999/0",
        "redis://:hunter2@host/x",
        "http://:hunter2@host",
        "hunter2",
        "redis://:hunter2@h/-1",
    ] {
        match Store::open(at(url)).await {
            Err(StoreError::Refused(text)) => assert!(!text.contains("hunter2"), "{text}"),
            Err(other) => panic!("{url}: {other:?}"),
            Ok(_) => panic!("{url} is taken"),
        }
    }
    refused(Store::open(at("redis+sentinel://h:1/m")).await.map(drop), "not supported yet");
    refused(Store::open(at("redis+cluster://h:1")).await.map(drop), "not supported yet");
    assert_eq!(opened("rediss://user:pass@example.org:6390/2").await.describe(), "Redis at example.org:6390/2");
}

/// What the README's minimal ACL allows, beside the keys.
const COMMANDS: &str = "+select +info +time +eval +evalsha +xread +xrange +xrevrange +xadd +xtrim +xlen +xinfo \
    +hget +hset +hsetnx +hmget +hgetall +hexists +hdel +hlen +hincrby +zadd +zrem +zcard +zscore +zrange +zrangebyscore \
    +zrevrangebyscore +zremrangebyrank +zremrangebyscore +zpopmin +set +get +mget +del +unlink +exists +type +smembers +scan +incrby +pttl +pexpire \
    +subscribe +psubscribe +zmscore +sadd +srem +client|tracking";

#[tokio::test]
async fn a_small_acl_is_enough() {
    let server = RedisServer::start(&[]);
    let mut client = server.client();
    let keys = "~{auditcast}:* ~security:metrics:* ~jwt:blacklist:* ~permissions:* ~rate_limit:* ~audit:*";
    send(&mut client, &format!("ACL SETUSER app on >secret resetchannels &* {keys} {COMMANDS}"));
    let store = opened(&format!("redis://app:secret@127.0.0.1:{}/1", server.port())).await;
    store.prepare().await.unwrap();
    let fence = fence(&store, "n1").await;
    let ids = append(&store, "audit:app", 0..2).await;
    let reply = store.reader().read(&[("audit:app".to_owned(), ids[0])], 10, PATIENCE).await.unwrap();
    assert_eq!(reply.streams[0].entries.len(), 1);
    assert_eq!(store.find_streams("audit:*").await.unwrap(), ["audit:app"]);
    store.stream_info("audit:app").await.unwrap().unwrap().unwrap();
    store.stream_range("audit:app", EntryId::ZERO, EntryId::MAX, 1).await.unwrap();
    let entries = (0..3).map(|n| entry(&format!("a{n}"), n == 1, n)).collect();
    let letters = vec![suite::letter("audit:app", ids[0])];
    store.commit(&Commit { dead_letters: letters, ..commit(fence, 1, entries) }).await.unwrap();
    let mut narrow = at(&format!("redis://app:secret@127.0.0.1:{}/1", server.port()));
    narrow.alerts_max = 1;
    let narrow = Store::open(narrow).await.unwrap();
    narrow.commit(&commit(fence, 2, vec![entry("b", false, 1)])).await.expect("trimming is allowed");
    let found = store.recover().await.unwrap();
    let log = store.log_read(0, 10).await.unwrap();
    store.log_restore(fence, &found.epoch, &log).await.unwrap();
    store.log_bounds().await.unwrap();
    assert!(store.alert("a1").await.unwrap().is_some());
    store.firing().await.unwrap();
    assert_eq!(store.tail().alerts(0, 10, PATIENCE).await.unwrap(), log);
    assert_eq!(store.commits(0, 10).await.unwrap().len(), 2);
    for n in 1..=4 {
        let snapshot = Snapshot { commit: n, fingerprint: "f".into(), data: vec![1; 10] };
        store.snapshot_put(fence, &snapshot).await.unwrap();
    }
    assert_eq!(store.snapshots().await.unwrap().len(), 2);
    store.metrics_put(1000, "{}", PATIENCE).await.unwrap();
    assert_eq!(store.metrics_history(0, 10).await.unwrap().len(), 1);
    assert_eq!(store.dead_letters(10).await.unwrap().len(), 1);
    store.blacklist("t", PATIENCE).await.unwrap();
    assert!(store.blacklisted("t").await.unwrap());
    store.permissions("7").await.unwrap();
    let rate = Rate { limit: "auth".into(), client: "user:7".into(), by: 1 };
    assert!(store.rate_count(&[rate], PATIENCE).await.unwrap()[0].is_some());
    let mut watch = suite::begun(&store).await;
    store.blacklist("told", PATIENCE).await.unwrap();
    suite::told(&mut watch, &[Change::Token("told".into())]).await;
    store.cut_off("7", 1000).await.unwrap();
    assert_eq!(store.cut_offs(&["7".to_owned()]).await.unwrap(), [("7".to_owned(), 1000)]);
    suite::told(&mut watch, &[Change::CutOffs]).await;
    send(&mut client, "SELECT 1");
    send(&mut client, "HSET permissions:user:hash a 1");
    send(&mut client, r#"SET permissions:user:text ["a"]"#);
    for user in ["set", "hash", "text"] {
        let names = ["a".to_owned(), "b c".to_owned()];
        store.grant(user, None, &names, Grant::Give).await.unwrap();
        assert_eq!(store.permissions_among(&[user.to_owned()]).await.unwrap(), [names.to_vec()], "{user}");
        store.grant(user, None, &names, Grant::Take).await.unwrap();
        assert!(store.permissions(user).await.unwrap().is_empty(), "{user}");
    }
    store.scan_keys("audit:event:*", 0).await.unwrap();
    store.key_values(&["audit:event:1:1".to_owned()]).await.unwrap();
    let mut few = at(&format!("redis://app:secret@127.0.0.1:{}/1", server.port()));
    few.intake_max = 2;
    let few = Store::open(few).await.unwrap();
    let item = |n: usize| IntakeItem { source: "http".into(), dedup: Some(n.to_string()), body: "{}".into() };
    few.intake(&(0..5).map(item).collect::<Vec<_>>(), Duration::from_millis(1)).await.unwrap();
    few.intake(&(5..9).map(item).collect::<Vec<_>>(), Duration::from_millis(1)).await.unwrap();
    let (one, many) = (store.subscribe("audit").await, store.subscribe("audit:*").await);
    assert!(one.is_ok() && many.is_ok());
    store.release("n1", fence).await.unwrap();
}

#[tokio::test]
async fn without_eval_it_cannot_run_and_says_what_to_allow() {
    let server = RedisServer::start(&[]);
    let mut client = server.client();
    let url = format!("redis://app:secret@127.0.0.1:{}/0", server.port());
    // Either of the two is not enough: a server that has not seen a script wants its text.
    for forbidden in ["-eval -evalsha", "-evalsha", "-eval"] {
        send(&mut client, &format!("ACL SETUSER app reset on >secret ~* +@all -info {forbidden}"));
        match opened(&url).await.prepare().await {
            Err(StoreError::NoScripts(text)) => assert!(text.contains("EVAL") && text.contains("ACL"), "{text}"),
            other => panic!("{forbidden}: {other:?}"),
        }
    }
    send(&mut client, "ACL SETUSER app +eval +evalsha");
    opened(&url).await.prepare().await.expect("INFO may be forbidden");
}

#[tokio::test]
async fn a_newer_format_and_a_key_of_somebody_else_are_left_alone() {
    let server = RedisServer::start(&[]);
    let mut client = server.client();
    let store = opened(&server.url()).await;
    store.prepare().await.unwrap();
    let epoch = store.recover().await.unwrap().epoch;
    store.prepare().await.unwrap();
    assert_eq!(store.recover().await.unwrap().epoch, epoch);
    send(&mut client, "HSET {auditcast}:meta format 2");
    match store.prepare().await {
        Err(StoreError::Format(text)) => assert!(text.contains("format 2"), "{text}"),
        other => panic!("{other:?}"),
    }
    send(&mut client, "SET {other}:meta text");
    let mut options = at(&server.url());
    options.prefix = "{other}".to_owned();
    match Store::open(options).await.unwrap().prepare().await {
        Err(StoreError::Format(text)) => assert!(text.contains("{other}:meta"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_replica_is_unavailable() {
    let master = RedisServer::start(&[]);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let store = opened(&replica.url()).await;
    unavailable(store.prepare().await, "is a replica");
    until("the replica is in step", || async { !matches!(store.lease("n1", 0).await, Err(StoreError::Broken(_))) }).await;
    let lease = store.lease("n1", 0).await;
    assert!(matches!(lease, Err(StoreError::Unavailable(_))), "{lease:?}");
}

#[tokio::test]
async fn a_full_server_takes_a_commit_whole_or_not_at_all() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let mut client = server.client();
    send(&mut client, &format!("SET large {}", "x".repeat(4 << 20)));
    send(&mut client, "CONFIG SET maxmemory 3mb");
    unavailable(store.commit(&commit(fence, 1, vec![entry("a", true, 1)])).await, "maxmemory");
    send(&mut client, "CONFIG SET maxmemory 0");
    assert_eq!(store.log_bounds().await.unwrap().head, 0);
    assert_eq!(store.commit(&commit(fence, 1, vec![entry("a", true, 1)])).await.unwrap().seq, 1);
}

// ---- the commit

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_taken_twice() {
    let engine = Engine::redis();
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let known = NewEntry { first: true, ..entry("a", true, 1) };
    let wanted = commit(fence, 1, vec![known.clone(), entry("b", true, 1), known]);
    let first = store.commit(&wanted).await.unwrap();
    assert_eq!((first.n, first.seq, first.known), (1, 2, 1));
    let again = store.commit(&wanted).await.unwrap();
    assert_eq!((again.n, again.seq, again.known), (first.n, first.seq, first.known));
    assert_eq!(store.log_bounds().await.unwrap().head, 2);
    let next = store.commit(&commit(fence, 2, vec![entry("b", true, 2)])).await.unwrap();
    assert_eq!((next.n, next.seq), (2, 3));
}

#[tokio::test]
async fn a_commit_that_is_dropped_half_way_is_taken_once() {
    let engine = Engine::redis();
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let mut dropped = 0;
    for n in 1..=200 {
        let wanted = commit(fence, n, vec![entry("a", true, n), entry("b", true, n)]);
        let mut first = Box::pin(store.commit(&wanted));
        let mut answered = false;
        for _ in 0..n % 5 {
            answered = answered || futures::poll!(&mut first).is_ready();
            tokio::task::yield_now().await;
        }
        dropped += u64::from(!answered);
        drop(first);
        // An answer to the one before is never taken for this one's.
        assert_eq!(store.commit(&wanted).await.unwrap().seq, 2 * n);
    }
    assert!(dropped > 10, "only {dropped} were dropped");
    let log = store.log_read(0, 1000).await.unwrap();
    let expected: Vec<_> = (1..=200).flat_map(|n| ["a", "b"].map(|id| suite::body(id, "firing", n))).collect();
    assert!(log.iter().map(|e| &e.body).eq(&expected));
}

/// Positions of more streams than a call takes arguments.
#[tokio::test]
async fn a_commit_of_many_streams() {
    let engine = Engine::redis();
    let store = engine.open().await;
    let mut wanted = commit(fence(&store, "n1").await, 1, vec![entry("a", true, 1)]);
    wanted.record.done = (0..4097).map(|n| (format!("s{n}"), id(5, n))).collect();
    assert_eq!(store.commit(&wanted).await.unwrap().seq, 1);
    assert_eq!(store.recover().await.unwrap().done, wanted.record.done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_any_moment_neither_lose_nor_double_anything() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let mut client = server.client();
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    let cutter = std::thread::spawn(move || {
        let mut cuts = 0;
        while stopped.recv_timeout(Duration::from_micros(700)) == Err(RecvTimeoutError::Timeout) {
            let cut: usize =
                cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").query(&mut client).unwrap();
            cuts += cut;
        }
        cuts
    });
    let (mut doubtful, mut accepted, mut retried) = (0, 0, 0);
    let deadline = Instant::now() + PATIENCE;
    for n in 1..=400 {
        let wanted = commit(fence, n, vec![entry("a", true, n)]);
        let seq = loop {
            match store.commit(&wanted).await {
                Ok(done) => break done.seq,
                Err(StoreError::Unavailable(_)) => retried += 1,
                Err(other) => panic!("{other:?}"),
            }
            assert!(Instant::now() < deadline, "at commit {n} after {retried} retries");
        };
        assert_eq!(seq, n, "taken once");
        let item = IntakeItem { source: "http".into(), dedup: None, body: n.to_string() };
        match store.intake(&[item], PATIENCE).await {
            Ok(_) => accepted += 1,
            Err(StoreError::Unavailable(_)) => doubtful += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    drop(stop);
    let cuts = cutter.join().unwrap();
    assert!(cuts > 20, "only {cuts} connections were cut");
    let log = store.log_read(0, 1000).await.unwrap();
    let expected: Vec<_> = (1..=400).map(|n| suite::body("a", "firing", n)).collect();
    assert!(log.iter().map(|e| &e.body).eq(&expected));
    let taken = store.stream_range(&store.intake_stream(), EntryId::ZERO, EntryId::MAX, 1000).await.unwrap();
    let mut bodies: Vec<_> = taken.iter().map(|e| e.field(b"body")).collect();
    bodies.dedup();
    assert_eq!(bodies.len(), taken.len(), "none is there twice");
    assert!((accepted..=accepted + doubtful).contains(&taken.len()), "{accepted} {doubtful} {}", taken.len());
    eprintln!("{cuts} cuts, {retried} commits asked again, {doubtful} intakes in doubt");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    for n in 1..=3 {
        send(&mut server.client(), "SCRIPT FLUSH");
        let fence = fence(&store, "n1").await;
        assert_eq!(store.commit(&commit(fence, n, vec![entry("a", true, n)])).await.unwrap().seq, n);
    }
}

#[tokio::test]
async fn a_store_that_was_emptied_starts_a_new_epoch_and_fences_the_old() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let old = fence(&store, "n1").await;
    store.commit(&commit(old, 1, vec![entry("a", true, 1)])).await.unwrap();
    let before = store.recover().await.unwrap();
    let log = store.log_read(0, 10).await.unwrap();
    send(&mut server.client(), "FLUSHALL");
    assert!(matches!(store.commit(&commit(old, 2, vec![])).await, Err(StoreError::Fenced)));
    assert_eq!(store.log_bounds().await.unwrap().epoch, "");
    let lease = store.lease("n1", old).await.unwrap();
    assert!(lease.fence > old);
    let after = store.recover().await.unwrap();
    assert_ne!(after.epoch, before.epoch);
    assert_eq!((after.seq, after.commit), (0, 0));
    store.log_restore(lease.fence, &before.epoch, &log).await.unwrap();
    // The answer may be lost here as well.
    store.log_restore(lease.fence, &before.epoch, &log).await.unwrap();
    assert_eq!(store.recover().await.unwrap().epoch, before.epoch);
    let many: Vec<LogEntry> = chain(&store, lease.fence, 1200).await;
    send(&mut server.client(), "FLUSHALL");
    let lease = store.lease("n1", lease.fence).await.unwrap();
    store.log_restore(lease.fence, &before.epoch, &many).await.unwrap();
    assert_eq!(store.log_read(0, 5000).await.unwrap(), many);
}

/// Fills the log with that many more, each its own alert; gives the whole log.
async fn chain(store: &Store, fence: u64, count: u64) -> Vec<LogEntry> {
    let entries = (0..count).map(|n| entry(&format!("x{n}"), n % 2 == 0, n)).collect();
    store.commit(&commit(fence, 77, entries)).await.unwrap();
    store.log_read(0, 10_000).await.unwrap()
}

#[tokio::test]
async fn a_log_that_is_ahead_of_its_head_is_not_written_over() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    send(&mut server.client(), "XADD {auditcast}:alerts 7-0 check x body y");
    let refused = store.commit(&commit(fence, 1, vec![entry("a", true, 1)])).await;
    assert!(matches!(&refused, Err(StoreError::Format(text)) if text.contains("ahead")), "{refused:?}");
    assert_eq!(store.recover().await.unwrap().commit, 0);
}

#[tokio::test]
async fn a_clock_set_back_does_not_lock_the_lease() {
    let mut engine = Engine::redis().options();
    let server = RedisServer::start(&[]);
    engine.target = Target::Redis(server.url());
    engine.lease_ttl = Duration::from_millis(100);
    let store = Store::open(engine).await.unwrap();
    store.prepare().await.unwrap();
    let mine = fence(&store, "n1").await;
    // As if the clock had been an hour ahead when it was given out.
    let ends = store.now_ms().await.unwrap() + 3_600_000;
    send(&mut server.client(), &format!("HSET {{auditcast}}:lease until {ends}"));
    let answer = store.lease("n2", 0).await.unwrap();
    assert_eq!((answer.node.as_str(), answer.fence), ("n1", mine));
    assert!(answer.expires_in_ms <= 100, "{}", answer.expires_in_ms);
    until("n2 has the lease", || async { store.lease("n2", 0).await.unwrap().node == "n2" }).await;
}

// ---- snapshots

#[tokio::test]
async fn a_damaged_snapshot_is_skipped() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let whole = |commit, byte| Snapshot { commit, fingerprint: "f".to_owned(), data: vec![byte; 1_200_000] };
    for n in 1..=3 {
        store.snapshot_put(fence, &whole(n, n as u8)).await.unwrap();
    }
    let commits = |found: Vec<Snapshot>| found.iter().map(|s| s.commit).collect::<Vec<_>>();
    assert_eq!(commits(store.snapshots().await.unwrap()), [3, 2]);
    let parts: Vec<String> = cmd("KEYS").arg("{auditcast}:snapshot:*").query(&mut client).unwrap();
    assert_eq!(parts.len(), 6, "of two snapshots: {parts:?}");
    send(&mut client, "SETRANGE {auditcast}:snapshot:3:1 5 x");
    assert!(store.snapshots().await.unwrap() == [whole(2, 2)]);
    send(&mut client, "DEL {auditcast}:snapshot:2:2");
    assert!(store.snapshots().await.unwrap().is_empty());
    send(&mut client, "HSET {auditcast}:snapshots 4 garbage");
    assert!(store.snapshots().await.unwrap().is_empty());

    // One that was never finished leaves nothing behind once the next is stored.
    send(&mut client, r#"HSET {auditcast}:snapshots 5 {"parts":2}"#);
    send(&mut client, "HSET {auditcast}:meta snapshot 5");
    send(&mut client, "SET {auditcast}:snapshot:5:0 x");
    for n in [6, 7] {
        store.snapshot_put(fence, &whole(n, n as u8)).await.unwrap();
    }
    assert_eq!(commits(store.snapshots().await.unwrap()), [7, 6]);
    let parts: Vec<String> = cmd("KEYS").arg("{auditcast}:snapshot:*").query(&mut client).unwrap();
    assert_eq!(parts.len(), 6, "{parts:?}");
}

// ---- keys of the application

#[tokio::test]
async fn a_key_keeps_its_type_and_its_time_to_live() {
    let server = RedisServer::start(&[]);
    let mut client = server.client();
    let store = opened(&server.url()).await;
    send(&mut client, "SADD permissions:user:set a");
    send(&mut client, "HSET permissions:user:hash a true b 0");
    send(&mut client, r#"SET permissions:user:array ["a"]"#);
    send(&mut client, r#"SET permissions:user:object {"a":"yes","b":false}"#);
    send(&mut client, r#"SET permissions:user:wrapped {"permissions":["a"],"v":1}"#);
    for user in ["set", "hash", "array", "object", "wrapped"] {
        send(&mut client, &format!("EXPIRE permissions:user:{user} 1000"));
        let (a, b, n) = ("a".to_owned(), "b".to_owned(), "n".to_owned());
        assert_eq!(store.grant(user, None, &[a.clone(), b, n], Grant::Give).await.unwrap(), ["b", "n"], "{user}");
        assert_eq!(store.grant(user, None, std::slice::from_ref(&a), Grant::Take).await.unwrap(), ["a"], "{user}");
        assert_eq!(store.permissions(user).await.unwrap(), ["b", "n"], "{user}");
        let left: i64 = cmd("TTL").arg(format!("permissions:user:{user}")).query(&mut client).unwrap();
        assert!((900..=1000).contains(&left), "{user}: {left}");
    }
    let mut read = |command: &str| -> String { cmd(command).arg("permissions:user:object").query(&mut client).unwrap() };
    assert_eq!(read("GET"), r#"{"b":"yes","n":"yes"}"#);
    let hash: std::collections::BTreeMap<String, String> =
        cmd("HGETALL").arg("permissions:user:hash").query(&mut client).unwrap();
    assert_eq!(hash, [("b".to_owned(), "true".to_owned()), ("n".to_owned(), "true".to_owned())].into());
    assert_eq!(send(&mut client, "GET permissions:user:array"), Value::BulkString(br#"["b","n"]"#.to_vec()));
    assert_eq!(
        send(&mut client, "GET permissions:user:wrapped"),
        Value::BulkString(br#"{"permissions":["b","n"],"v":1}"#.to_vec())
    );

    // What is none of these is left as it is; and one broken key takes nothing from the other.
    send(&mut client, "SET permissions:user:odd nonsense");
    send(&mut client, "LPUSH permissions:user:list a");
    for user in ["odd", "list"] {
        let refused = store.grant(user, None, &["a".to_owned()], Grant::Give).await;
        assert!(matches!(&refused, Err(StoreError::Broken(text)) if text.contains("permissions:user:")), "{refused:?}");
        store.grant(user, Some("auditcast"), &["a".to_owned()], Grant::Give).await.unwrap();
        assert_eq!(store.permissions(user).await.unwrap(), ["a"]);
    }
    assert_eq!(send(&mut client, "GET permissions:user:odd"), Value::BulkString(b"nonsense".to_vec()));
}

#[tokio::test]
async fn permissions_are_read_in_three_shapes() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let store = engine.open().await;
    send(&mut client, "SADD permissions:user:1 user.read admin.access");
    send(&mut client, "HSET permissions:user:2 a 1 b true c YES d On e 0 f false g no h x");
    send(&mut client, r#"SET permissions:user:3 ["b","a","b"]"#);
    send(&mut client, "SET permissions:user:4 admin");
    send(&mut client, "LPUSH permissions:user:5 admin");
    assert_eq!(store.permissions("1").await.unwrap(), ["admin.access", "user.read"]);
    assert_eq!(store.permissions("2").await.unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(store.permissions("3").await.unwrap(), ["a", "b"]);
    assert!(store.permissions("none").await.unwrap().is_empty());
    for user in ["1", "2", "3", "none"] {
        let standing = store.standing(user, Some("t")).await.unwrap();
        assert!(!standing.blacklisted);
        assert_eq!(standing.permissions.unwrap(), store.permissions(user).await.unwrap(), "{user}");
    }
    store.blacklist("t", PATIENCE).await.unwrap();
    for user in ["4", "5"] {
        let standing = store.standing(user, Some("t")).await.unwrap();
        assert!(
            standing.blacklisted && matches!(standing.permissions, Err(StoreError::Broken(_))),
            "one does not hide the other"
        );
        let broken = store.permissions(user).await;
        assert!(matches!(&broken, Err(StoreError::Broken(text)) if text.contains("permissions:user:")), "{broken:?}");
    }
}

#[tokio::test]
async fn keys_are_scanned_and_their_values_read_as_json() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let store = engine.open().await;
    for n in 0..2500 {
        send(&mut client, &format!(r#"SET audit:event:1700:{n} {{"event_type":"x","n":{n}}}"#));
    }
    send(&mut client, "HSET audit:event:1701:h event_type auth.success user_id 7");
    send(&mut client, "LPUSH audit:event:1702:l x");
    send(&mut client, "SET other x");
    let (mut cursor, mut rounds, mut keys) = (0, 0, Vec::new());
    loop {
        let (next, page) = store.scan_keys("audit:event:*", cursor).await.unwrap();
        keys.extend(page);
        (cursor, rounds) = (next, rounds + 1);
        if next == 0 {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 2502);
    assert!(rounds > 1);
    let values = store.key_values(&keys).await.unwrap();
    assert_eq!(values.len(), keys.len());
    for (key, value) in keys.iter().zip(&values) {
        match key.as_str() {
            "audit:event:1702:l" => assert_eq!(*value, None),
            "audit:event:1701:h" => {
                let object: serde_json::Value = serde_json::from_str(value.as_deref().unwrap()).unwrap();
                assert_eq!(object, serde_json::json!({"event_type": "auth.success", "user_id": "7"}));
            }
            text => {
                let n = text.rsplit(':').next().unwrap();
                assert_eq!(value.as_deref(), Some(format!(r#"{{"event_type":"x","n":{n}}}"#).as_str()));
            }
        }
    }
    assert_eq!(store.key_values(&["gone".to_owned()]).await.unwrap(), [None]);
    assert!(store.key_values(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn it_writes_only_where_it_may_and_everything_of_the_application_expires() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    store
        .commit(&Commit { dead_letters: vec![suite::letter("s", id(1, 0))], ..commit(fence, 1, vec![entry("a", true, 1)]) })
        .await
        .unwrap();
    let item = IntakeItem { source: "http".into(), dedup: Some("k".into()), body: "{}".into() };
    store.intake(&[item], Duration::from_secs(60)).await.unwrap();
    store.snapshot_put(fence, &Snapshot { commit: 1, fingerprint: "f".into(), data: vec![1] }).await.unwrap();
    store.metrics_put(1000, "{}", Duration::from_secs(60)).await.unwrap();
    store.metrics_put(1000, "again", Duration::from_secs(6000)).await.unwrap();
    store.blacklist("t", Duration::from_secs(60)).await.unwrap();
    let mut keys: Vec<String> = cmd("KEYS").arg("*").query(&mut client).unwrap();
    keys.retain(|key| !key.starts_with("{auditcast}:"));
    keys.sort();
    assert_eq!(keys, ["jwt:blacklist:t", "security:metrics:1000"]);
    for key in keys {
        let ttl: i64 = cmd("TTL").arg(&key).query(&mut client).unwrap();
        assert!((1..=60).contains(&ttl), "{key}: {ttl}");
    }
}

// ---- channels

#[tokio::test]
async fn channels_and_patterns_are_heard_until_the_connection_goes() {
    let mut server = RedisServer::start(&[]);
    let mut client = server.client();
    send(&mut client, "CONFIG SET notify-keyspace-events K$");
    let store = opened(&server.url()).await;
    let mut one = store.subscribe("audit").await.unwrap();
    let mut many = store.subscribe("audit:*").await.unwrap();
    let mut keys = store.subscribe(&format!("__keyspace@{}__:audit:event:*", store.database())).await.unwrap();
    let publish = |client: &mut Connection, channel: &str, payload: &[u8]| {
        cmd("PUBLISH").arg(channel).arg(payload).query::<u32>(client).unwrap()
    };
    assert_eq!(publish(&mut client, "audit", b"\xff\x00"), 1);
    assert_eq!(one.next().await.unwrap(), ("audit".to_owned(), b"\xff\x00".to_vec()));
    for n in 0..1000 {
        assert_eq!(publish(&mut client, "audit:web", n.to_string().as_bytes()), 1);
    }
    for n in 0..1000 {
        assert_eq!(many.next().await.unwrap(), ("audit:web".to_owned(), n.to_string().into_bytes()));
    }
    assert_eq!(many.missed(), 0);
    send(&mut client, "SET audit:event:1:2 x");
    assert_eq!(keys.next().await.unwrap(), ("__keyspace@0__:audit:event:1:2".to_owned(), b"set".to_vec()));
    let dropped = tokio::time::timeout(Duration::from_millis(20), one.next()).await;
    assert!(dropped.is_err());
    assert_eq!(publish(&mut client, "audit", b"later"), 1);
    assert_eq!(one.next().await.unwrap().1, b"later", "dropping the wait loses nothing");

    drop(many);
    until("it has unsubscribed", || async { publish(&mut server.client(), "audit:web", b"x") == 0 }).await;
    assert_eq!(publish(&mut client, "audit", b"last"), 1);
    server.kill();
    let heard = one.next().await;
    if let Ok((_, payload)) = &heard {
        assert_eq!(payload, b"last");
        unavailable(one.next().await, "closed the subscription");
    }
    unavailable(one.next().await, "closed the subscription");
    unavailable(keys.next().await, "closed the subscription");
}

#[tokio::test]
async fn a_listener_that_is_too_slow_loses_the_newest_and_is_told() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let store = engine.open().await;
    let mut slow = store.subscribe("audit").await.unwrap();
    let mut client = server.client();
    for part in 0..13 {
        let mut pipeline = redis::pipe();
        for n in 0..1000 {
            pipeline.cmd("PUBLISH").arg("audit").arg(part * 1000 + n).ignore();
        }
        pipeline.query::<()>(&mut client).unwrap();
    }
    let mut missed = 0;
    until("all have come or are counted", || {
        missed += slow.missed();
        std::future::ready(missed == 3000)
    })
    .await;
    for n in 0..10_000 {
        assert_eq!(slow.next().await.unwrap().1, n.to_string().into_bytes());
    }
    send(&mut client, "PUBLISH audit after");
    assert_eq!(slow.next().await.unwrap().1, b"after");
}

#[tokio::test]
async fn numbers_that_were_lost_are_those_of_the_logs() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let store = engine.open().await;
    let first = fence(&store, "a").await;
    store.commit(&commit(first, 5_000, vec![entry("x", true, 1), entry("y", true, 2)])).await.unwrap();
    let before = store.recover().await.unwrap();
    send(&mut client, "DEL {auditcast}:meta");
    store.prepare().await.unwrap();
    let after = store.recover().await.unwrap();
    assert_eq!((after.seq, &after.check, after.commit), (before.seq, &before.check, before.commit));
    assert_ne!(after.epoch, before.epoch, "it is told that something was lost");
    assert_eq!(after.open, before.open);
    let again = store.lease("a", first).await.unwrap().fence;
    let committed = store.commit(&commit(again, 10_000, vec![entry("z", true, 3)])).await.unwrap();
    assert_eq!((committed.seq, committed.n), (before.seq + 1, before.commit + 1));
}
