//! What is proved: what auditcast notes about itself reaches the intake of either store as events of the source `auditcast`; a
//! store that is away loses nothing that fits, and what does not is counted; a journal that is off writes nothing.

use std::time::Duration;

use auditcast::{
    auth::{
        Journal,
        journal::{Counts, Entry, LoginFailure, Options},
    },
    event::EntryId,
    metrics::unix_ms,
    store::{self, Store, Target},
};
use serde_json::Value;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

#[path = "support/redis.rs"]
mod redis_server;

const OPTIONS: Options = Options { enabled: true, burst: 100, rate: 2, queue: 100 };

async fn open(target: Target) -> Store {
    let options = store::Options {
        target,
        prefix: "{auditcast}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(3600),
        alerts_max: 1000,
        dead_letters_max: 1000,
        commits_max: 1000,
        intake_max: 10_000,
    };
    let store = Store::open(options).await.unwrap();
    store.prepare().await.unwrap();
    store
}

/// A journal that runs, and how to end it.
fn run(store: &Store, options: Options) -> (Journal, CancellationToken, JoinHandle<()>) {
    let (journal, stop) = (Journal::new(options, unix_ms), CancellationToken::new());
    let task = tokio::spawn(journal.clone().run(store.clone(), stop.clone()));
    (journal, stop, task)
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reached().await {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// (source, event) of every entry of the intake.
async fn written(store: &Store) -> Vec<(String, Value)> {
    let entries = store.stream_range(&store.intake_stream(), EntryId::ZERO, EntryId::MAX, 10_000).await.unwrap();
    let read = |entry: &store::Entry| {
        let field = |name: &[u8]| String::from_utf8(entry.field(name).unwrap().to_vec()).unwrap();
        (field(b"source"), serde_json::from_str(&field(b"body")).unwrap())
    };
    entries.iter().map(read).collect()
}

async fn notes_become_events(store: Store) {
    let (journal, stop, task) = run(&store, OPTIONS);
    for _ in 0..3 {
        journal.note(Entry::login_failed(LoginFailure::WrongPassword).user("7", Some("eve")).from([192, 0, 2, 1].into()));
    }
    journal.note(Entry::config_reloaded(&["log.level".into()]));
    until("they are written", async || written(&store).await.len() == 2).await;
    // What is noted last is written at the end, without waiting for its second to pass.
    journal.note(Entry::logout("s1").user("7", None));
    stop.cancel();
    task.await.unwrap();
    let events = written(&store).await;
    assert!(events.iter().all(|(source, _)| source == "auditcast"));
    let [failed, reloaded, logout] = &events[..] else { panic!("{events:?}") };
    assert_eq!(failed.1["event_type"], "auth.failed_login");
    assert_eq!((&failed.1["user_id"], &failed.1["username"]), (&"7".into(), &"eve".into()));
    let details = serde_json::json!({"reason": "wrong_password", "ip_address": "192.0.2.1", "count": 3});
    assert_eq!(failed.1["details"], details);
    assert!(failed.1["timestamp"].as_u64().unwrap().abs_diff(unix_ms()) < 60_000);
    assert_eq!(reloaded.1["details"]["changed"], "log.level");
    assert_eq!(logout.1["event_type"], "auth.logout");
    assert_eq!(journal.counts(), Counts { written: 3, merged: 2, summarised: 0, dropped: 0 });
    store.close().await;
}

#[tokio::test]
async fn notes_become_events_on_the_embedded_store() {
    let dir = tempfile::tempdir().unwrap();
    notes_become_events(open(Target::Embedded(dir.path().to_owned())).await).await;
}

#[tokio::test]
async fn notes_become_events_on_redis() {
    let server = redis_server::RedisServer::start(&[]);
    notes_become_events(open(Target::Redis(server.url())).await).await;
}

#[tokio::test]
async fn a_store_that_is_away_loses_nothing_that_fits() {
    let mut server = redis_server::RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = open(Target::Redis(server.url())).await;
    let (journal, stop, task) = run(&store, Options { burst: 10_000, queue: 100, ..OPTIONS });
    journal.note(Entry::logout("before"));
    until("the first is written", async || written(&store).await.len() == 1).await;
    server.kill();
    for n in 0..150 {
        journal.note(Entry::logout(&format!("away{n}")));
    }
    until("what has no room is counted", async || journal.counts().dropped == 50).await;
    server.start_again();
    until("the rest is written", async || journal.counts().written == 101).await;
    let events = written(&store).await;
    let sessions: Vec<_> = events.iter().map(|(_, event)| event["details"]["session_id"].as_str().unwrap()).collect();
    let expected: Vec<_> = (0..100).map(|n| format!("away{n}")).collect();
    assert_eq!(sessions[1..], expected, "each once, in order");
    stop.cancel();
    task.await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn switched_off_it_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(Target::Embedded(dir.path().to_owned())).await;
    let (journal, stop, task) = run(&store, Options { enabled: false, ..OPTIONS });
    journal.note(Entry::logout("s"));
    stop.cancel();
    task.await.unwrap();
    assert!(written(&store).await.is_empty());
    assert_eq!(journal.counts(), Counts::default());
    store.close().await;
}
