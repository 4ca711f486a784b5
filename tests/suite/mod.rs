//! The one suite both engines pass: what `store` promises, told as scenarios. Each gets an engine of its own, empty.

#![allow(dead_code)]

#[path = "../support/redis.rs"]
pub mod server;
mod standing;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use auditcast::{
    event::EntryId,
    store::{
        Commit, CommitRecord, Committed, DeadLetter, IntakeItem, LogEntry, NewEntry, Options, Rate, Reader, Snapshot, Store,
        StoreError, Taken, Target,
        record::{BODY_BYTES_MAX, Body, Change, Changed, Table},
    },
};
use server::RedisServer;
#[allow(unused_imports, reason = "each test binary uses its part")]
pub use standing::*;

/// Nothing on this machine takes longer; what does has hung.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const NOTHING: Duration = Duration::ZERO;

pub enum Engine {
    Redis(RedisServer),
    /// The same, over the newer protocol.
    Resp3(RedisServer),
    Embedded(tempfile::TempDir),
}

impl Engine {
    pub fn redis() -> Engine {
        Engine::Redis(RedisServer::start(&[]))
    }

    pub fn resp3() -> Engine {
        Engine::Resp3(RedisServer::start(&[]))
    }

    pub fn embedded() -> Engine {
        Engine::Embedded(tempfile::tempdir().expect("a temporary directory"))
    }

    /// An empty one of the same kind.
    pub fn another(&self) -> Engine {
        match self {
            Engine::Redis(_) => Engine::redis(),
            Engine::Resp3(_) => Engine::resp3(),
            Engine::Embedded(_) => Engine::embedded(),
        }
    }

    pub fn options(&self) -> Options {
        let target = match self {
            Engine::Redis(server) => Target::Redis(server.url()),
            Engine::Resp3(server) => Target::Redis(format!("{}?protocol=resp3", server.url())),
            Engine::Embedded(dir) => Target::Embedded(dir.path().to_owned()),
        };
        options(target)
    }

    /// The store, prepared. The embedded one must be closed before it is opened again.
    pub async fn open(&self) -> Store {
        self.open_with(self.options()).await
    }

    pub async fn open_with(&self, options: Options) -> Store {
        let store = Store::open(options).await.expect("the store opens");
        store.prepare().await.expect("the store is prepared");
        store
    }
}

pub fn options(target: Target) -> Options {
    Options {
        target,
        prefix: "{auditcast}".to_owned(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(90 * 86_400),
        alerts_max: 1_000_000,
        dead_letters_max: 10_000,
        commits_max: 100_000,
        intake_max: 1_000_000,
    }
}

/// A test per scenario.
#[macro_export]
macro_rules! suite {
    ($engine:ident: $($scenario:ident),* $(,)?) => {
        mod $engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                let engine = $crate::suite::Engine::$engine();
                let done = tokio::time::timeout(3 * $crate::suite::PATIENCE, $crate::suite::$scenario(&engine)).await;
                done.expect("the scenario ends in time");
            })*
        }
    };
}

/// All scenarios, for one engine.
#[macro_export]
macro_rules! all_scenarios {
    ($engine:ident) => {
        $crate::suite!($engine:
            appended_entries_are_read_in_order_above_the_cursor,
            one_read_covers_many_streams_and_says_which_have_more,
            a_waiting_read_ends_with_the_first_entry,
            a_read_never_misses_what_was_there_before_it,
            concurrent_appends_are_all_read_once,
            a_dropped_read_loses_nothing,
            streams_are_described_and_found,
            a_range_is_open_below_and_closed_above,
            a_commit_makes_everything_true_together,
            a_commit_without_the_lease_changes_nothing,
            what_is_known_is_not_taken_again,
            the_last_transition_is_the_state,
            the_alert_log_is_read_in_order_and_followed,
            the_commit_log_is_read_and_followed,
            the_lease_changes_hands_only_when_it_has_ended,
            a_released_lease_is_free_and_binds_its_old_holder,
            a_store_that_forgot_its_fence_never_gives_a_smaller_one,
            trimming_keeps_the_newest_and_every_open_alert,
            old_alerts_go_by_their_age,
            checks_are_chained_and_tell_two_histories_apart,
            what_was_lost_is_put_back_where_it_was,
            what_does_not_continue_the_log_is_not_put_back,
            snapshots_come_newest_first_and_two_are_kept,
            a_snapshot_without_the_lease_is_refused,
            the_intake_takes_each_event_once,
            metrics_are_stored_once_and_come_back_in_order,
            dead_letters_are_stored_once_newest_first,
            dead_letters_are_bounded,
            the_blacklist_knows_what_was_put_there,
            counts_are_shared_and_end,
            a_watch_tells_at_once_of_tokens_that_are_revoked,
            many_tokens_are_looked_up_together,
            records_change_only_for_who_has_seen_them,
            records_are_bounded,
            a_cut_off_is_kept_and_only_moves_on,
            permissions_are_given_and_taken,
            everything_is_there_after_reopening,
        );
    };
}

// ---- words

pub fn id(ms: u64, seq: u64) -> EntryId {
    EntryId::new(ms, seq)
}

fn event(n: usize) -> Vec<(String, String)> {
    vec![("event_type".to_owned(), "auth.success".to_owned()), ("n".to_owned(), n.to_string())]
}

pub async fn append(store: &Store, stream: &str, numbers: std::ops::Range<usize>) -> Vec<EntryId> {
    let entries: Vec<_> = numbers.map(event).collect();
    store.append(stream, &entries).await.expect("entries are appended")
}

pub fn body(alert: &str, status: &str, n: u64) -> String {
    format!(r#"{{"type":"security_alert","alert_id":"{alert}","status":"{status}","value":{n}}}"#)
}

pub fn entry(alert: &str, firing: bool, n: u64) -> NewEntry {
    let status = if firing { "firing" } else { "resolved" };
    NewEntry { alert_id: alert.to_owned(), body: body(alert, status, n), firing, first: false }
}

pub fn letter(stream: &str, entry: EntryId) -> DeadLetter {
    DeadLetter {
        source: "main".to_owned(),
        stream: stream.to_owned(),
        entry,
        reason: "bad_json".to_owned(),
        body: "{".to_owned(),
    }
}

/// A commit at a slot of its own, so that no two are alike.
pub fn commit(fence: u64, slot: u64, entries: Vec<NewEntry>) -> Commit {
    let record = CommitRecord { slot, time: slot + 1, fingerprint: "f".to_owned(), ..CommitRecord::default() };
    Commit { fence, record, entries, dead_letters: Vec::new() }
}

pub async fn fence(store: &Store, node: &str) -> u64 {
    let lease = store.lease(node, 0).await.expect("the lease is asked for");
    assert_eq!(lease.node, node, "the lease is free");
    lease.fence
}

/// The commit is taken, and what it says of its entries is what the log has.
async fn taken(store: &Store, commit: &Commit) -> Committed {
    let head = store.log_bounds().await.expect("the log is there");
    let committed = store.commit(commit).await.expect("the commit is taken");
    if commit.entries.is_empty() {
        assert_eq!(committed.entries(commit), None);
        return committed;
    }
    let (before, entries) = committed.entries(commit).expect("it is a new commit");
    assert_eq!(before.seq, head.head);
    if head.head > 0 {
        assert_eq!(before.check, head.head_check);
    }
    assert_eq!(entries, store.log_read(head.head, 1000).await.expect("the log is there"));
    let again = store.commit(commit).await.expect("the same commit is taken again");
    assert_eq!((again.n, again.seq, again.known), (committed.n, committed.seq, committed.known));
    assert_eq!(again.entries(commit), None);
    committed
}

fn bodies(log: &[LogEntry]) -> Vec<&str> {
    log.iter().map(|entry| entry.body.as_str()).collect()
}

fn is_fenced<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Fenced) => {}
        other => panic!("should be fenced, is {other:?}"),
    }
}

/// Asks until the answer is yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads on until nothing more comes; gives each stream's ids.
async fn drain(reader: &mut Reader, streams: &[&str], count: usize) -> BTreeMap<String, Vec<EntryId>> {
    let mut cursors: Vec<_> = streams.iter().map(|name| ((*name).to_owned(), EntryId::ZERO)).collect();
    let mut ids: BTreeMap<String, Vec<EntryId>> = BTreeMap::new();
    loop {
        let reply = reader.read(&cursors, count, NOTHING).await.expect("the read is answered");
        assert!(reply.faults.is_empty(), "{:?}", reply.faults);
        if reply.streams.is_empty() {
            return ids;
        }
        for stream in reply.streams {
            assert!(stream.entries.len() <= count);
            assert_eq!(stream.full, stream.entries.len() == count);
            let (name, cursor) = &mut cursors[stream.index];
            for entry in stream.entries {
                assert!(entry.id > *cursor, "{name}: {} comes after {cursor}", entry.id);
                *cursor = entry.id;
                ids.entry(name.clone()).or_default().push(entry.id);
            }
        }
    }
}

// ---- audit streams

pub async fn appended_entries_are_read_in_order_above_the_cursor(engine: &Engine) {
    let store = engine.open().await;
    let doubled = vec![("b".to_owned(), "1".to_owned()), ("a".to_owned(), "ü \"\n".to_owned()), ("b".to_owned(), String::new())];
    let ids = store.append("audit", std::slice::from_ref(&doubled)).await.unwrap();
    let more = append(&store, "audit", 0..5).await;
    assert!(ids[0] < more[0] && more.is_sorted());
    let now = store.now_ms().await.unwrap();
    assert!(more[4].ms <= now && now - ids[0].ms < PATIENCE.as_millis() as u64);

    let mut reader = store.reader();
    let reply = reader.read(&[("audit".to_owned(), EntryId::ZERO)], 100, NOTHING).await.unwrap();
    let entries = &reply.streams[0].entries;
    let fields: Vec<_> = doubled.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
    assert_eq!(entries[0].fields().collect::<Vec<_>>(), fields, "in their order, duplicates kept");
    assert_eq!(entries.iter().skip(1).map(|e| e.id).collect::<Vec<_>>(), more);

    let reply = reader.read(&[("audit".to_owned(), more[2])], 100, NOTHING).await.unwrap();
    assert_eq!(reply.streams[0].entries.iter().map(|e| e.id).collect::<Vec<_>>(), more[3..]);
    let reply = reader.read(&[("audit".to_owned(), more[4])], 100, NOTHING).await.unwrap();
    assert!(reply.streams.is_empty() && reply.faults.is_empty());

    let large = vec![("payload".to_owned(), "x".repeat(1 << 20))];
    store.append("audit", &[large.clone(), large]).await.unwrap();
    let reply = reader.read(&[("audit".to_owned(), more[4])], 100, NOTHING).await.unwrap();
    assert!(reply.streams[0].entries.iter().all(|e| e.field(b"payload").map(<[u8]>::len) == Some(1 << 20)));
    assert_eq!(reply.streams[0].entries.len(), 2);
    store.close().await;
}

pub async fn one_read_covers_many_streams_and_says_which_have_more(engine: &Engine) {
    let store = engine.open().await;
    append(&store, "a", 0..3).await;
    append(&store, "c", 0..7).await;
    let cursors = ["a", "missing", "c"].map(|name| (name.to_owned(), EntryId::ZERO));
    let mut reader = store.reader();
    let reply = reader.read(&cursors, 5, NOTHING).await.unwrap();
    let seen: Vec<_> = reply.streams.iter().map(|s| (s.index, s.entries.len(), s.full)).collect();
    assert_eq!(seen, [(0, 3, false), (2, 5, true)]);
    assert!(reply.before_ms <= reply.after_ms && reply.before_ms > 0);
    let exact = reader.read(&cursors[..1], 3, NOTHING).await.unwrap();
    assert!(exact.streams[0].full, "as many as were asked for: there may be more");
    let ids = drain(&mut reader, &["a", "missing", "c"], 2).await;
    assert_eq!(ids.iter().map(|(name, ids)| (name.as_str(), ids.len())).collect::<Vec<_>>(), [("a", 3), ("c", 7)]);
    let none = reader.read::<&str>(&[], 5, NOTHING).await.unwrap();
    assert!(none.streams.is_empty() && none.before_ms > 0);
    store.close().await;
}

pub async fn a_waiting_read_ends_with_the_first_entry(engine: &Engine) {
    let store = engine.open().await;
    let mut reader = store.reader();
    let cursors = ["a", "b"].map(|name| (name.to_owned(), EntryId::ZERO));
    let began = Instant::now();
    let waiting = tokio::spawn({
        let cursors = cursors.clone();
        async move { (reader.read(&cursors, 10, PATIENCE).await, reader) }
    });
    // Whether it waits already or only will makes no difference to what must come of it.
    tokio::task::yield_now().await;
    let ids = append(&store, "b", 0..1).await;
    let (reply, mut reader) = waiting.await.unwrap();
    let reply = reply.unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "it woke up");
    assert_eq!((reply.streams[0].index, reply.streams[0].entries[0].id), (1, ids[0]));
    assert!(reply.after_ms >= ids[0].ms);

    let began = Instant::now();
    let cursors = [("a".to_owned(), EntryId::ZERO), ("b".to_owned(), ids[0])];
    let reply = reader.read(&cursors, 10, Duration::from_millis(50)).await.unwrap();
    assert!(reply.streams.is_empty() && began.elapsed() >= Duration::from_millis(50));
    store.close().await;
}

pub async fn a_read_never_misses_what_was_there_before_it(engine: &Engine) {
    let store = engine.open().await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                append(&store, ["a", "b", "c"][n % 3], n..n + 1).await;
            }
        }
    });
    let names = ["a", "b", "c"];
    let mut cursors = names.map(|name| (name.to_owned(), EntryId::ZERO));
    let mut reader = store.reader();
    let mut seen = 0;
    let deadline = Instant::now() + PATIENCE;
    while seen < 200 {
        assert!(Instant::now() < deadline, "only {seen} came");
        let reply = reader.read(&cursors, 7, Duration::from_millis(20)).await.unwrap();
        let mut complete = [true; 3];
        for stream in &reply.streams {
            complete[stream.index] = !stream.full;
            seen += stream.entries.len();
            cursors[stream.index].1 = stream.entries.last().unwrap().id;
        }
        for (name, after) in cursors.iter().zip(complete).filter(|(_, complete)| *complete).map(|(cursor, _)| cursor) {
            // Ids below `before_ms` were given out before the read: none may be left above the cursor.
            let Some(last) = reply.before_ms.checked_sub(1) else { continue };
            let missed = store.stream_range(name, *after, id(last, u64::MAX), 10).await.unwrap();
            assert!(missed.is_empty(), "{name}: {:?} was there at {}", missed[0].id, reply.before_ms);
        }
    }
    writer.await.unwrap();
    assert_eq!(seen, 200);
    store.close().await;
}

pub async fn concurrent_appends_are_all_read_once(engine: &Engine) {
    let store = engine.open().await;
    let writers: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { append(&store, "audit", n * 100..(n + 1) * 100).await })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        let ids = writer.await.unwrap();
        assert!(ids.is_sorted(), "a writer's entries keep their order");
        written.extend(ids);
    }
    written.sort();
    let read = drain(&mut store.reader(), &["audit"], 33).await;
    assert_eq!(read["audit"], written);
    store.close().await;
}

pub async fn a_dropped_read_loses_nothing(engine: &Engine) {
    let store = engine.open().await;
    let mut reader = store.reader();
    let mut tail = store.tail();
    let cursors = [("audit".to_owned(), EntryId::ZERO)];
    for _ in 0..3 {
        let dropped = tokio::time::timeout(Duration::from_millis(30), reader.read(&cursors, 10, PATIENCE)).await;
        assert!(dropped.is_err());
        let dropped = tokio::time::timeout(Duration::from_millis(30), tail.alerts(0, 10, PATIENCE)).await;
        assert!(dropped.is_err());
    }
    let ids = append(&store, "audit", 0..1).await;
    let reply = reader.read(&cursors, 10, PATIENCE).await.unwrap();
    assert_eq!(reply.streams[0].entries[0].id, ids[0]);
    let fence = fence(&store, "n1").await;
    taken(&store, &commit(fence, 1, vec![entry("x", true, 1)])).await;
    assert_eq!(tail.alerts(0, 10, PATIENCE).await.unwrap().len(), 1);
    assert_eq!(store.reconnects(), 0, "nothing was lost, so nothing was made anew");
    store.close().await;
}

pub async fn streams_are_described_and_found(engine: &Engine) {
    let store = engine.open().await;
    assert_eq!(store.stream_info("audit:app").await.unwrap(), Ok(None));
    let ids = append(&store, "audit:app", 0..3).await;
    append(&store, "audit:web", 0..1).await;
    append(&store, "other", 0..1).await;
    let item = IntakeItem { source: "http".to_owned(), dedup: None, body: "{}".to_owned() };
    store.intake(&[item], Duration::from_secs(60)).await.unwrap();
    let info = store.stream_info("audit:app").await.unwrap().unwrap().unwrap();
    assert_eq!((info.length, info.first, info.last_generated), (3, Some(ids[0]), ids[2]));
    assert!(info.added.is_none_or(|added| added == 3));

    let found = |glob| {
        let store = store.clone();
        async move { store.find_streams(glob).await.unwrap() }
    };
    assert_eq!(found("audit:*").await, ["audit:app", "audit:web"]);
    assert_eq!(found("audit:???").await, ["audit:app", "audit:web"]);
    assert_eq!(found("audit:[a]pp").await, ["audit:app"]);
    assert_eq!(found("other").await, ["other"]);
    assert_eq!(found("*").await, ["audit:app", "audit:web", "other"], "ours are left out");
    assert!(found("none*").await.is_empty());
    store.close().await;
}

pub async fn a_range_is_open_below_and_closed_above(engine: &Engine) {
    let store = engine.open().await;
    let ids = append(&store, "audit", 0..6).await;
    let range = |after, to, count| {
        let store = store.clone();
        async move {
            let entries = store.stream_range("audit", after, to, count).await.unwrap();
            entries.into_iter().map(|e| e.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(range(ids[1], ids[4], 100).await, ids[2..=4]);
    assert_eq!(range(EntryId::ZERO, EntryId::MAX, 2).await, ids[..2]);
    assert!(range(ids[5], EntryId::MAX, 100).await.is_empty());
    assert!(range(EntryId::MAX, EntryId::MAX, 100).await.is_empty());
    assert!(range(EntryId::ZERO, EntryId::MAX, 0).await.is_empty());
    assert!(store.stream_range("missing", EntryId::ZERO, EntryId::MAX, 10).await.unwrap().is_empty());
    store.close().await;
}

// ---- the commit

pub async fn a_commit_makes_everything_true_together(engine: &Engine) {
    let store = engine.open().await;
    let empty = store.recover().await.unwrap();
    assert!(!empty.epoch.is_empty());
    assert_eq!((empty.seq, empty.check.as_str(), empty.commit, empty.slot), (0, "", 0, 0));
    assert_eq!(store.first_commit().await.unwrap(), 0);
    let bounds = store.log_bounds().await.unwrap();
    assert_eq!((bounds.first, bounds.head, bounds.epoch.as_str()), (1, 0, empty.epoch.as_str()));

    let fence = fence(&store, "n1").await;
    let mut first = commit(fence, 5000, vec![entry("a", true, 1), entry("b", true, 2), entry("a", false, 3)]);
    first.record.done = [("s1".to_owned(), id(10, 1)), ("s2".to_owned(), id(20, 2))].into();
    first.record.marks = vec![serde_json::json!({"big": u64::MAX, "empty": [], "none": {}})];
    first.dead_letters = vec![letter("s1", id(9, 0))];
    let done = taken(&store, &first).await;
    assert_eq!((done.n, done.seq, done.known), (1, 3, 0));
    let mut second = commit(fence, 10_000, vec![]);
    second.record.done = [("s1".to_owned(), id(11, 0))].into();
    let done = taken(&store, &second).await;
    assert_eq!((done.n, done.seq, done.known), (2, 3, 0));

    let found = store.recover().await.unwrap();
    assert_eq!((found.epoch.as_str(), found.seq, found.commit, found.slot), (empty.epoch.as_str(), 3, 2, 10_000));
    assert_eq!(found.done, [("s1".to_owned(), id(11, 0)), ("s2".to_owned(), id(20, 2))].into());
    assert_eq!(bodies(&found.open), [body("b", "firing", 2)]);
    let log = store.log_read(0, 100).await.unwrap();
    assert_eq!(log.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(bodies(&log), [body("a", "firing", 1), body("b", "firing", 2), body("a", "resolved", 3)]);
    assert_eq!(found.check, log[2].check);
    let bounds = store.log_bounds().await.unwrap();
    assert_eq!((bounds.first, bounds.head, bounds.head_check), (1, 3, log[2].check.clone()));
    let records = store.commits(0, 100).await.unwrap();
    let expected = |n, commit: &Commit| CommitRecord { n, ..commit.record.clone() };
    assert_eq!(records, [expected(1, &first), expected(2, &second)]);
    assert_eq!(store.dead_letters(10).await.unwrap().len(), 1);
    store.close().await;
}

pub async fn a_commit_without_the_lease_changes_nothing(engine: &Engine) {
    let mut options = engine.options();
    options.lease_ttl = Duration::from_millis(50);
    let store = engine.open_with(options).await;
    let mut wanted = commit(1, 1, vec![entry("a", true, 1)]);
    wanted.record.done = [("s".to_owned(), id(1, 1))].into();
    wanted.dead_letters = vec![letter("s", id(1, 0))];
    is_fenced(store.commit(&wanted).await);
    let old = fence(&store, "n1").await;
    until("n2 has the lease", || async { store.lease("n2", 0).await.unwrap().node == "n2" }).await;
    for fence in [old, 0, old + 2] {
        is_fenced(store.commit(&Commit { fence, ..wanted.clone() }).await);
    }
    let found = store.recover().await.unwrap();
    assert_eq!((found.seq, found.commit, found.done.len(), found.open.len()), (0, 0, 0, 0));
    assert!(store.dead_letters(10).await.unwrap().is_empty());
    assert!(store.commits(0, 10).await.unwrap().is_empty());
    is_fenced(store.log_restore(old, &found.epoch, &[LogEntry { seq: 1, check: "00000000".into(), body: "{}".into() }]).await);
    assert_eq!(store.log_bounds().await.unwrap().head, 0);
    store.close().await;
}

pub async fn what_is_known_is_not_taken_again(engine: &Engine) {
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let first = |alert: &str, n| NewEntry { first: true, ..entry(alert, false, n) };
    let done = taken(&store, &commit(fence, 1, vec![first("a", 1), first("b", 2), first("a", 3)])).await;
    assert_eq!((done.seq, done.known), (2, 1));
    let done = taken(&store, &commit(fence, 2, vec![first("b", 4), first("c", 5), entry("a", false, 6)])).await;
    assert_eq!((done.seq, done.known), (4, 1));
    let log = store.log_read(0, 10).await.unwrap();
    assert_eq!(bodies(&log), [("a", 1), ("b", 2), ("c", 5), ("a", 6)].map(|(alert, n)| body(alert, "resolved", n)));
    store.close().await;
}

pub async fn the_last_transition_is_the_state(engine: &Engine) {
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    taken(&store, &commit(fence, 1, vec![entry("a", true, 1), entry("b", true, 2), entry("c", true, 3)])).await;
    taken(&store, &commit(fence, 2, vec![entry("a", true, 4), entry("b", false, 5)])).await;
    let firing = store.firing().await.unwrap();
    assert_eq!(bodies(&firing), [body("c", "firing", 3), body("a", "firing", 4)], "in the order of the log");
    assert_eq!(firing.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4]);
    let log = store.log_read(0, 10).await.unwrap();
    assert_eq!(store.alert("a").await.unwrap().as_ref(), log.get(3));
    assert_eq!(store.alert("b").await.unwrap().as_ref(), log.get(4));
    assert_eq!(store.alert("z").await.unwrap(), None);
    assert_eq!(store.recover().await.unwrap().open, firing);
    store.close().await;
}

pub async fn the_alert_log_is_read_in_order_and_followed(engine: &Engine) {
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    for slot in 1..=5 {
        taken(&store, &commit(fence, slot, vec![entry("a", true, slot * 2), entry("b", true, slot * 2 + 1)])).await;
    }
    let seqs = |log: Vec<LogEntry>| log.iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.log_read(0, 3).await.unwrap()), [1, 2, 3]);
    assert_eq!(seqs(store.log_read(7, 100).await.unwrap()), [8, 9, 10]);
    assert!(store.log_read(10, 5).await.unwrap().is_empty() && store.log_read(u64::MAX, 5).await.unwrap().is_empty());
    let mut tail = store.tail();
    assert_eq!(seqs(tail.alerts(0, 4, NOTHING).await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(tail.alerts(4, 100, PATIENCE).await.unwrap(), store.log_read(4, 100).await.unwrap());
    assert!(tail.alerts(10, 100, Duration::from_millis(20)).await.unwrap().is_empty());
    let waiting = tokio::spawn(async move { (tail.alerts(10, 100, PATIENCE).await.unwrap(), tail) });
    taken(&store, &commit(fence, 6, vec![entry("c", true, 1)])).await;
    let (woken, mut tail) = waiting.await.unwrap();
    assert_eq!(seqs(woken), [11]);
    assert_eq!(seqs(tail.alerts(10, 100, NOTHING).await.unwrap()), [11], "a cursor is the caller's: it reads again");
    store.close().await;
}

pub async fn the_commit_log_is_read_and_followed(engine: &Engine) {
    let mut options = engine.options();
    options.commits_max = 50;
    let store = engine.open_with(options).await;
    let fence = fence(&store, "n1").await;
    let mut tail = store.tail();
    let waiting = tokio::spawn(async move { (tail.commits(0, 10, PATIENCE).await.unwrap(), tail) });
    taken(&store, &commit(fence, 1, vec![])).await;
    let (woken, mut tail) = waiting.await.unwrap();
    assert_eq!(woken.iter().map(|r| (r.n, r.slot)).collect::<Vec<_>>(), [(1, 1)]);
    for slot in 2..=400 {
        taken(&store, &commit(fence, slot, vec![])).await;
    }
    let first = store.first_commit().await.unwrap();
    assert!((200..=351).contains(&first), "about fifty are kept, the first is {first}");
    let records = tail.commits(first - 1, 1000, NOTHING).await.unwrap();
    assert_eq!(records.iter().map(|r| r.n).collect::<Vec<_>>(), (first..=400).collect::<Vec<_>>());
    assert_eq!(store.commits(398, 1).await.unwrap()[0].n, 399);
    assert_eq!(store.recover().await.unwrap().commit, 400);
    store.close().await;
}

// ---- the lease

pub async fn the_lease_changes_hands_only_when_it_has_ended(engine: &Engine) {
    let ttl = Duration::from_millis(400);
    let mut options = engine.options();
    options.lease_ttl = ttl;
    let store = engine.open_with(options).await;
    let mine = store.lease("n1", 0).await.unwrap();
    assert!(mine.node == "n1" && mine.fence > 0 && mine.expires_in_ms <= 400);
    let renewed_before = Instant::now();
    let renewed = store.lease("n1", mine.fence).await.unwrap();
    assert_eq!(renewed.fence, mine.fence, "a renewal keeps its number");
    let theirs = loop {
        let answer = store.lease("n2", mine.fence).await.unwrap();
        if answer.node == "n2" {
            break answer;
        }
        assert!(answer.node == "n1" && answer.fence == mine.fence && answer.expires_in_ms <= 400);
        assert!(renewed_before.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // The store counts whole milliseconds.
    assert!(renewed_before.elapsed() + Duration::from_millis(2) >= ttl, "after {:?}", renewed_before.elapsed());
    assert!(theirs.fence > mine.fence);
    is_fenced(store.commit(&commit(mine.fence, 1, vec![])).await);
    taken(&store, &commit(theirs.fence, 1, vec![])).await;
    store.close().await;
}

pub async fn a_released_lease_is_free_and_binds_its_old_holder(engine: &Engine) {
    let store = engine.open().await;
    let mine = fence(&store, "n1").await;
    store.release("n2", mine).await.unwrap();
    store.release("n1", mine + 1).await.unwrap();
    assert_eq!(store.lease("n2", 0).await.unwrap().node, "n1", "only one's own can be given back");
    store.release("n1", mine).await.unwrap();
    is_fenced(store.commit(&commit(mine, 1, vec![])).await);
    let theirs = fence(&store, "n2").await;
    assert!(theirs > mine);
    store.release("n2", theirs).await.unwrap();
    assert!(fence(&store, "n2").await > theirs, "taken anew it has a new number");
    store.close().await;
}

pub async fn a_store_that_forgot_its_fence_never_gives_a_smaller_one(engine: &Engine) {
    let store = engine.open().await;
    let lease = store.lease("n1", 41).await.unwrap();
    assert_eq!((lease.node.as_str(), lease.fence), ("n1", 42));
    assert_eq!(store.lease("n1", 42).await.unwrap().fence, 42);
    assert!(store.lease("n1", 50).await.unwrap().fence > 50, "a number the store has not heard of was another's");
    store.close().await;
}

// ---- bounds

pub async fn trimming_keeps_the_newest_and_every_open_alert(engine: &Engine) {
    let mut options = engine.options();
    options.alerts_max = 10;
    let store = engine.open_with(options).await;
    let fence = fence(&store, "n1").await;
    taken(&store, &commit(fence, 1, vec![entry("open", true, 1), entry("gone", false, 2), entry("back", true, 3)])).await;
    for slot in 2..=30 {
        let alert = format!("x{slot}");
        taken(&store, &commit(fence, slot, vec![entry(&alert, false, slot)])).await;
    }
    let bounds = store.log_bounds().await.unwrap();
    assert_eq!((bounds.first, bounds.head), (23, 32));
    assert_eq!(store.log_read(0, 100).await.unwrap().len(), 10);
    assert_eq!(store.alert("gone").await.unwrap(), None);
    assert_eq!(store.alert("x2").await.unwrap(), None);
    assert!(store.alert("x30").await.unwrap().is_some());
    assert_eq!(bodies(&store.firing().await.unwrap()), [body("open", "firing", 1), body("back", "firing", 3)]);
    assert_eq!(store.alert("open").await.unwrap().unwrap().seq, 1, "its frame stays readable");

    taken(&store, &commit(fence, 31, vec![entry("back", false, 4)])).await;
    assert_eq!(bodies(&store.firing().await.unwrap()), [body("open", "firing", 1)]);
    for slot in 32..=45 {
        let alert = format!("x{slot}");
        taken(&store, &commit(fence, slot, vec![entry(&alert, false, slot)])).await;
    }
    assert_eq!(store.alert("back").await.unwrap(), None, "resolved and trimmed, it is gone");
    store.close().await;
}

pub async fn old_alerts_go_by_their_age(engine: &Engine) {
    let mut options = engine.options();
    options.alerts_retention = Duration::from_millis(300);
    let store = engine.open_with(options).await;
    let fence = fence(&store, "n1").await;
    let began = Instant::now();
    taken(&store, &commit(fence, 1, vec![entry("a", false, 1), entry("open", true, 2)])).await;
    taken(&store, &commit(fence, 2, vec![])).await;
    if began.elapsed() < Duration::from_millis(250) {
        assert_eq!(store.log_bounds().await.unwrap().first, 1, "not old yet");
    }
    let mut slot = 2;
    let deadline = Instant::now() + PATIENCE;
    while store.log_bounds().await.unwrap().first == 1 {
        assert!(Instant::now() < deadline);
        slot += 1;
        taken(&store, &commit(fence, slot, vec![])).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    let bounds = store.log_bounds().await.unwrap();
    assert_eq!((bounds.first, bounds.head), (3, 2), "nothing is kept, and positions go on");
    assert_eq!(store.alert("a").await.unwrap(), None);
    assert_eq!(bodies(&store.firing().await.unwrap()), [body("open", "firing", 2)]);
    assert_eq!(taken(&store, &commit(fence, 9999, vec![entry("b", false, 3)])).await.seq, 3);
    store.close().await;
}

// ---- positions

pub async fn checks_are_chained_and_tell_two_histories_apart(engine: &Engine) {
    let store = engine.open().await;
    let fence1 = fence(&store, "n1").await;
    taken(&store, &commit(fence1, 1, (1..=5).map(|n| entry("a", true, n)).collect())).await;
    let log = store.log_read(0, 10).await.unwrap();
    for entry in &log {
        assert!(entry.check.len() == 8 && entry.check.bytes().all(|b| b.is_ascii_hexdigit()), "{:?}", entry.check);
    }
    let mut distinct: Vec<_> = log.iter().map(|e| &e.check).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 5);
    store.close().await;

    // The same first two alerts in a store of its own: another epoch, so no position means the same.
    let other = engine.another();
    let second = other.open().await;
    let fence2 = fence(&second, "n1").await;
    taken(&second, &commit(fence2, 1, (1..=2).map(|n| entry("a", true, n)).collect())).await;
    let theirs = second.log_read(0, 10).await.unwrap();
    assert_eq!(bodies(&theirs), bodies(&log[..2]));
    assert!(theirs.iter().zip(&log).all(|(a, b)| a.check != b.check));
    assert_ne!(second.recover().await.unwrap().epoch, "");
    second.close().await;
}

pub async fn what_was_lost_is_put_back_where_it_was(engine: &Engine) {
    let store = engine.open().await;
    let fence1 = fence(&store, "n1").await;
    let entries = vec![entry("a", true, 1), entry("b", true, 2), entry("a", false, 3), entry("c", true, 4)];
    taken(&store, &commit(fence1, 1, entries)).await;
    let before = store.recover().await.unwrap();
    let log = store.log_read(0, 10).await.unwrap();
    let firing = store.firing().await.unwrap();
    store.close().await;

    // All of it lost: an empty store takes the history back, with the epoch it belongs to.
    let fresh = engine.another();
    let store = fresh.open().await;
    let lease = store.lease("n1", fence1).await.unwrap();
    assert!(lease.fence > fence1);
    assert_ne!(store.recover().await.unwrap().epoch, before.epoch);
    store.log_restore(lease.fence, &before.epoch, &log[..2]).await.unwrap();
    store.log_restore(lease.fence, &before.epoch, &log[2..]).await.unwrap();
    let after = store.recover().await.unwrap();
    assert_eq!((&after.epoch, after.seq, &after.check), (&before.epoch, before.seq, &before.check));
    assert_eq!(store.log_read(0, 10).await.unwrap(), log);
    assert_eq!(store.firing().await.unwrap(), firing);
    assert_eq!(after.open, firing);
    assert_eq!(store.alert("a").await.unwrap().as_ref(), log.get(2));
    assert_eq!(taken(&store, &commit(lease.fence, 2, vec![entry("d", true, 5)])).await.seq, 5);
    store.close().await;

    // Only the end of it was still at hand: the log begins there.
    let third = engine.another();
    let store = third.open().await;
    let fence3 = fence(&store, "n1").await;
    store.log_restore(fence3, &before.epoch, &log[2..]).await.unwrap();
    let bounds = store.log_bounds().await.unwrap();
    assert_eq!((bounds.first, bounds.head, bounds.epoch, bounds.head_check), (3, 4, before.epoch, before.check));
    store.close().await;
}

pub async fn what_does_not_continue_the_log_is_not_put_back(engine: &Engine) {
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    taken(&store, &commit(fence, 1, vec![entry("a", true, 1), entry("b", true, 2)])).await;
    let epoch = store.recover().await.unwrap().epoch;
    let log = store.log_read(0, 10).await.unwrap();
    let next = |seq: u64| LogEntry { seq, check: "00000000".to_owned(), body: body("z", "firing", seq) };
    for (epoch, entries) in
        [(epoch.as_str(), vec![next(4)]), (epoch.as_str(), vec![next(1)]), ("another", vec![next(3)]), ("another", vec![next(1)])]
    {
        let refused = store.log_restore(fence, epoch, &entries).await;
        assert!(matches!(refused, Err(StoreError::Broken(_))), "{epoch} {entries:?}: {refused:?}");
    }
    assert_eq!(store.log_read(0, 10).await.unwrap(), log);
    store.log_restore(fence, &epoch, &[]).await.unwrap();
    store.close().await;
}

// ---- snapshots

fn snapshot(commit: u64, bytes: usize) -> Snapshot {
    let data = (0..bytes).map(|i| (i as u64 * 31 + commit) as u8).collect();
    Snapshot { commit, fingerprint: format!("f{commit}"), data }
}

pub async fn snapshots_come_newest_first_and_two_are_kept(engine: &Engine) {
    let store = engine.open().await;
    assert!(store.snapshots().await.unwrap().is_empty());
    let fence = fence(&store, "n1").await;
    let sizes = [0, 1, 512 << 10, (1 << 20) + 7, 3 << 20];
    let mut kept: Vec<Snapshot> = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let new = snapshot(n as u64 + 1, size);
        store.snapshot_put(fence, &new).await.unwrap();
        kept.insert(0, new);
        kept.truncate(2);
        let found = store.snapshots().await.unwrap();
        assert!(found == kept, "after {} bytes: {:?}", size, found.iter().map(|s| s.commit).collect::<Vec<_>>());
    }
    store.snapshot_put(fence, &snapshot(5, 10)).await.unwrap();
    let found = store.snapshots().await.unwrap();
    assert_eq!(found.iter().map(|s| (s.commit, s.data.len())).collect::<Vec<_>>(), [(5, 10), (5, 3 << 20)]);
    store.close().await;
}

pub async fn a_snapshot_without_the_lease_is_refused(engine: &Engine) {
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    store.snapshot_put(fence, &snapshot(1, 100)).await.unwrap();
    is_fenced(store.snapshot_put(fence + 1, &snapshot(2, 100)).await);
    store.release("n1", fence).await.unwrap();
    is_fenced(store.snapshot_put(fence, &snapshot(3, 100)).await);
    assert!(store.snapshots().await.unwrap() == [snapshot(1, 100)]);
    store.close().await;
}

// ---- the rest

pub async fn the_intake_takes_each_event_once(engine: &Engine) {
    let store = engine.open().await;
    let item = |dedup: Option<&str>, n: usize| IntakeItem {
        source: "http".to_owned(),
        dedup: dedup.map(str::to_owned),
        body: format!(r#"{{"n":{n}}}"#),
    };
    let long = "k".repeat(5000);
    let hour = Duration::from_secs(3600);
    let first = store
        .intake(&[item(Some("a"), 1), item(None, 2), item(Some("a"), 3), item(Some(&long), 4), item(None, 2)], hour)
        .await
        .unwrap();
    let Taken::New(a) = first[0] else { panic!("{first:?}") };
    let Taken::New(l) = first[3] else { panic!("{first:?}") };
    assert_eq!(first[2], Taken::Known(a));
    assert!(matches!(first[1], Taken::New(_)) && matches!(first[4], Taken::New(_)));
    let again = store.intake(&[item(Some(&long), 5), item(Some("a"), 6), item(Some("b"), 7)], hour).await.unwrap();
    assert_eq!(again[..2], [Taken::Known(l), Taken::Known(a)]);
    assert!(store.intake(&[], hour).await.unwrap().is_empty());

    let many: Vec<_> = (0..1200).map(|n| item(Some(&format!("m{n}")), n)).collect();
    assert_eq!(store.intake(&many, hour).await.unwrap().len(), 1200);
    assert!(store.intake(&many, hour).await.unwrap().iter().all(|taken| matches!(taken, Taken::Known(_))));

    let stream = store.intake_stream();
    let read = drain(&mut store.reader(), &[&stream], 500).await;
    assert_eq!(read[&stream].len(), 1205);
    let entries = store.stream_range(&stream, EntryId::ZERO, EntryId::MAX, 1).await.unwrap();
    let fields = [("source", "http"), ("body", r#"{"n":1}"#)].map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    assert_eq!((entries[0].id, entries[0].fields().collect::<Vec<_>>()), (a, fields.to_vec()));

    let short = Duration::from_millis(30);
    store.intake(&[item(Some("soon"), 1)], short).await.unwrap();
    until("the key has expired", || async {
        matches!(store.intake(&[item(Some("soon"), 2)], short).await.unwrap()[..], [Taken::New(_)])
    })
    .await;
    store.close().await;
}

pub async fn metrics_are_stored_once_and_come_back_in_order(engine: &Engine) {
    let store = engine.open().await;
    let ttl = Duration::from_secs(3600);
    for second in [1005, 1000, 1010, 1015] {
        store.metrics_put(second, &format!(r#"{{"t":{second}}}"#), ttl).await.unwrap();
    }
    store.metrics_put(1010, r#"{"t":"again"}"#, ttl).await.unwrap();
    let at = |second: u64| (second, format!(r#"{{"t":{second}}}"#));
    assert_eq!(store.metrics_history(0, 100).await.unwrap(), [at(1000), at(1005), at(1010), at(1015)]);
    assert_eq!(store.metrics_history(1010, 100).await.unwrap(), [at(1010), at(1015)]);
    assert_eq!(store.metrics_history(0, 2).await.unwrap(), [at(1010), at(1015)], "the newest");
    assert!(store.metrics_history(2000, 10).await.unwrap().is_empty() && store.metrics_history(0, 0).await.unwrap().is_empty());
    let soon = Duration::from_secs(1);
    store.metrics_put(5000, "{}", soon).await.unwrap();
    until("the snapshot has expired", || async { store.metrics_history(5000, 10).await.unwrap().is_empty() }).await;
    store.close().await;
}

pub async fn dead_letters_are_stored_once_newest_first(engine: &Engine) {
    let store = engine.open().await;
    let fence = fence(&store, "n1").await;
    let long = DeadLetter { body: "é".repeat(5000), ..letter("s", id(3, 0)) };
    let with = |slot, letters: Vec<DeadLetter>| Commit { dead_letters: letters, ..commit(fence, slot, vec![]) };
    taken(&store, &with(1, vec![letter("s", id(1, 0)), letter("s", id(2, 0)), letter("s", id(1, 0))])).await;
    taken(&store, &with(2, vec![letter("s", id(2, 0)), letter("t", id(2, 0)), long])).await;
    let found = store.dead_letters(100).await.unwrap();
    let seen: Vec<_> = found.iter().map(|l| (l.stream.as_str(), l.entry)).collect();
    assert_eq!(seen, [("s", id(3, 0)), ("t", id(2, 0)), ("s", id(2, 0)), ("s", id(1, 0))]);
    assert!(found[0].body.len() <= 4096 && found[0].body.starts_with("éé"));
    assert_eq!((found[1].source.as_str(), found[1].reason.as_str(), found[1].body.as_str()), ("main", "bad_json", "{"));
    assert_eq!(store.dead_letters(2).await.unwrap().len(), 2);
    store.close().await;
}

pub async fn dead_letters_are_bounded(engine: &Engine) {
    let mut options = engine.options();
    options.dead_letters_max = 100;
    let store = engine.open_with(options).await;
    let fence = fence(&store, "n1").await;
    for slot in 1..=10 {
        let letters = (0..100).map(|n| letter("s", id(slot, n))).collect();
        taken(&store, &Commit { dead_letters: letters, ..commit(fence, slot, vec![]) }).await;
    }
    let found = store.dead_letters(10_000).await.unwrap();
    // Redis trims whole nodes of a stream, so a hundred more may stay.
    assert!((100..=250).contains(&found.len()), "{} are kept", found.len());
    assert_eq!(found[0].entry, id(10, 99));
    store.close().await;
}

pub async fn the_blacklist_knows_what_was_put_there(engine: &Engine) {
    let store = engine.open().await;
    assert!(!store.blacklisted("t1").await.unwrap());
    store.blacklist("t1", Duration::from_secs(60)).await.unwrap();
    assert!(store.blacklisted("t1").await.unwrap() && !store.blacklisted("t2").await.unwrap());
    store.blacklist("t2", Duration::from_millis(20)).await.unwrap();
    let standing = store.standing("7", Some("t1")).await.unwrap();
    assert!(standing.blacklisted && standing.permissions.unwrap().is_empty());
    for jti in [Some("t3"), None] {
        assert!(!store.standing("7", jti).await.unwrap().blacklisted, "{jti:?}");
    }
    until("the entry has expired", || async { !store.blacklisted("t2").await.unwrap() }).await;
    store.close().await;
}

pub async fn counts_are_shared_and_end(engine: &Engine) {
    let store = engine.open().await;
    let other = store.clone();
    let rate = |client: &str, by| Rate { limit: "auth".to_owned(), client: client.to_owned(), by };
    let hour = Duration::from_secs(3600);
    let counted = store.rate_count(&[rate("user:7", 1), rate("address:192.0.2.7", 3)], hour).await.unwrap();
    assert_eq!(counted.iter().flatten().map(|used| used.used).collect::<Vec<_>>(), [1, 3]);
    assert!(counted.iter().flatten().all(|used| (3_500_000..=3_600_000).contains(&used.ends_in_ms)), "{counted:?}");
    let counts: Vec<_> = (0..50).map(|_| rate("user:7", 1)).collect();
    let (a, b) = tokio::join!(store.rate_count(&counts, hour), other.rate_count(&counts, hour));
    let mut seen: Vec<u64> = [a.unwrap(), b.unwrap()].concat().iter().flatten().map(|used| used.used).collect();
    seen.sort_unstable();
    assert_eq!(seen, (2..=101).collect::<Vec<_>>(), "each is counted once");
    let endpoint = Rate { limit: "endpoint:events".to_owned(), client: "user:7".to_owned(), by: 2 };
    assert_eq!(store.rate_count(&[endpoint], hour).await.unwrap()[0].unwrap().used, 2, "by itself");
    let short = Duration::from_millis(30);
    store.rate_count(&[rate("short", 5)], short).await.unwrap();
    until("its window has ended", || async { store.rate_count(&[rate("short", 1)], short).await.unwrap()[0].unwrap().used == 1 })
        .await;
    store.close().await;
}

fn change(table: Table, name: &str, before: Option<&str>, after: Option<&str>) -> Change {
    let body = |text: Option<&str>| text.map(|text| Body(text.to_owned()));
    Change { table, name: name.to_owned(), before: body(before), after: body(after), ttl_ms: None }
}

pub async fn records_change_only_for_who_has_seen_them(engine: &Engine) {
    let store = engine.open().await;
    for table in [Table::People, Table::Attempts] {
        let put = |name: &'static str, before, after| {
            let store = store.clone();
            async move { store.record_change(&change(table, name, before, after)).await.unwrap() }
        };
        assert_eq!(store.record(table, "ana").await.unwrap(), None);
        assert_eq!(put("ana", Some("x"), Some("1")).await, Changed::Other, "there is nothing");
        assert_eq!(put("ana", None, Some("1")).await, Changed::Done);
        assert_eq!(put("ana", None, Some("1")).await, Changed::Done, "asked again");
        assert_eq!(put("ana", None, Some("2")).await, Changed::Other);
        assert_eq!(put("ana", Some("1"), Some("é\n2")).await, Changed::Done);
        assert_eq!(put("ana", Some("1"), None).await, Changed::Other);
        assert_eq!(store.record(table, "ana").await.unwrap(), Some(Body("é\n2".into())));
        for name in ["c", "b", ""] {
            let done = store.record_change(&change(table, name, None, Some("x"))).await;
            assert_eq!(done.is_ok(), !name.is_empty());
        }
        let names = |found: Vec<(String, Body)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(store.records(table, "", 10).await.unwrap()), ["ana", "b", "c"]);
        assert_eq!(names(store.records(table, "ana", 1).await.unwrap()), ["b"]);
        assert_eq!(put("ana", Some("é\n2"), None).await, Changed::Done);
        assert_eq!(put("ana", Some("é\n2"), None).await, Changed::Done, "asked again");
        assert_eq!(store.record(table, "ana").await.unwrap(), None);
        let count = || async {
            loop {
                let before = store.record(table, "n").await.unwrap();
                let n: u32 = before.as_ref().map_or(0, |body| body.0.parse().unwrap());
                let after = Some(Body((n + 1).to_string()));
                let one = Change { table, name: "n".into(), before, after, ttl_ms: Some(60_000) };
                match store.record_change(&one).await.unwrap() {
                    Changed::Done => return,
                    Changed::Other => {}
                    Changed::Full => panic!("full"),
                }
            }
        };
        for _ in 0..5 {
            count().await;
        }
        assert_eq!(store.record(table, "n").await.unwrap(), Some(Body("5".into())));
    }
    assert!(store.record_change(&change(Table::People, "long", None, Some(&"x".repeat(BODY_BYTES_MAX + 1)))).await.is_err());
    store.close().await;
}

pub async fn records_are_bounded(engine: &Engine) {
    let store = engine.open().await;
    let most = Table::People.most();
    for start in (0..most).step_by(500) {
        let put = |n: u64| {
            let store = store.clone();
            async move { store.record_change(&change(Table::People, &n.to_string(), None, Some("x"))).await.unwrap() }
        };
        let done = futures::future::join_all((start..start + 500).map(put)).await;
        assert!(done.iter().all(|done| *done == Changed::Done));
    }
    assert_eq!(store.record_change(&change(Table::People, "new", None, Some("x"))).await.unwrap(), Changed::Full);
    assert_eq!(store.record_change(&change(Table::People, "7", Some("x"), Some("y"))).await.unwrap(), Changed::Done);
    assert_eq!(store.record_change(&change(Table::People, "8", Some("x"), None)).await.unwrap(), Changed::Done);
    assert_eq!(store.record_change(&change(Table::People, "new", None, Some("x"))).await.unwrap(), Changed::Done);
    // What is over goes by itself, with the next that comes.
    let short = change(Table::Attempts, "short", None, Some("x")).ttl(Duration::from_millis(1));
    assert_eq!(store.record_change(&short).await.unwrap(), Changed::Done);
    until("the record is over", || async {
        let n = store.now_ms().await.unwrap().to_string();
        store.record_change(&change(Table::Attempts, "other", None, Some(&n))).await.unwrap();
        store.record_change(&change(Table::Attempts, "other", Some(&n), None)).await.unwrap();
        store.record(Table::Attempts, "short").await.unwrap().is_none()
    })
    .await;
    store.close().await;
}

pub async fn everything_is_there_after_reopening(engine: &Engine) {
    let store = engine.open().await;
    let fence1 = fence(&store, "n1").await;
    let mut first = commit(fence1, 7, vec![entry("a", true, 1)]);
    first.record.done = [("s".to_owned(), id(1, 1))].into();
    taken(&store, &first).await;
    append(&store, "s", 0..3).await;
    store.snapshot_put(fence1, &snapshot(1, 1000)).await.unwrap();
    let before = (store.recover().await.unwrap(), store.log_read(0, 10).await.unwrap());
    store.release("n1", fence1).await.unwrap();
    store.close().await;
    drop(store);

    let store = engine.open().await;
    let after = store.recover().await.unwrap();
    assert_eq!((&after.epoch, after.seq, &after.check), (&before.0.epoch, before.0.seq, &before.0.check));
    assert_eq!((after.commit, after.slot, &after.done, &after.open), (1, 7, &before.0.done, &before.0.open));
    assert_eq!(store.log_read(0, 10).await.unwrap(), before.1);
    assert_eq!(store.stream_info("s").await.unwrap().unwrap().unwrap().length, 3);
    assert!(store.snapshots().await.unwrap() == [snapshot(1, 1000)]);
    assert!(fence(&store, "n1").await > fence1);
    store.close().await;
}
