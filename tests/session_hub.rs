//! The hub: cursors see every entry of the alert log once and in order, whatever the interleaving of pushes, reads and pages
//! from the store; and where the log itself changed, every cursor is told.

use std::{path::Path, sync::Arc, time::Duration};

use auditcast::{
    hub::{Cursor, Hub, Options, Read, Reset},
    store::{self, Commit, LogEntry, NewEntry, Store},
    wire::{After, Pos},
};
use proptest::prelude::*;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

fn body(text: &str) -> String {
    format!(r#"{{"type":"security_alert","event_type":"{text}","severity":"high"}}"#)
}

fn entry(seq: u64) -> LogEntry {
    LogEntry { seq, check: format!("{seq:08x}"), body: body(&seq.to_string()) }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many more entries, and so many known ones before them.
    Push(u64, u64),
    /// This reader reads at most so many.
    Read(usize, usize),
    /// A reader comes: at the head, or at a position.
    Come(Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u64..20, 0_u64..4).prop_map(|(new, known)| Step::Push(new, known)),
        (0_usize..8, 1_usize..30).prop_map(|(reader, limit)| Step::Read(reader, limit)),
        proptest::option::of(0_u64..200).prop_map(Step::Come),
    ]
}

struct Reader {
    cursor: Cursor,
    last: u64,
    /// Head when it came.
    replay_to: u64,
}

/// One read, with pages of the "store" where the ring does not reach back.
fn read(hub: &Hub, reader: &mut Reader, log: u64, limit: usize) {
    let mut seen = Vec::new();
    match hub.read(&mut reader.cursor, limit, |frame, replayed| {
        seen.push((frame.pos.seq, replayed));
        true
    }) {
        Read::Below => {
            let to = log.min(reader.cursor.pos.seq + limit as u64);
            seen.extend((reader.cursor.pos.seq + 1..=to).map(|seq| (seq, seq <= reader.replay_to)));
            reader.cursor.pos = Pos { seq: to, check: format!("{to:08x}") };
        }
        Read::Reset(resets) => panic!("{resets:?}"),
        Read::Head | Read::More => {}
    }
    for (seq, replayed) in seen {
        assert_eq!(seq, reader.last + 1);
        assert_eq!(replayed, seq <= reader.replay_to);
        reader.last = seq;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_cursor_misses_or_repeats(ring in 1_usize..40, steps in proptest::collection::vec(step(), 1..120)) {
        let hub = Hub::new(Options { ring, events_ring: 1 });
        let mut head = 0;
        let mut readers: Vec<Reader> = Vec::new();
        for step in steps {
            match step {
                Step::Push(new, known) => {
                    let from = head - known.min(head) + 1;
                    hub.push_alerts((from..=head + new).map(entry).collect());
                    head += new;
                }
                Step::Read(reader, limit) => {
                    if let Some(reader) = readers.get_mut(reader) {
                        read(&hub, reader, head, limit);
                    }
                }
                Step::Come(at) => {
                    let cursor = match at {
                        None => hub.cursor_at_head(),
                        Some(at) => {
                            let seq = at.min(head);
                            hub.cursor(Pos { seq, check: format!("{seq:08x}") })
                        }
                    };
                    readers.push(Reader { last: cursor.pos.seq, replay_to: head, cursor });
                }
            }
            prop_assert_eq!(hub.head(), head);
        }
        for reader in &mut readers {
            while reader.last < head {
                read(&hub, reader, head, 7);
            }
            prop_assert_eq!(hub.lag(&reader.cursor), 0);
        }
    }
}

/// What a cursor meets at its next read, and the entries after it.
fn settle(hub: &Hub, cursor: &mut Cursor) -> (Vec<Reset>, Vec<u64>) {
    let mut seen = Vec::new();
    let mut told = Vec::new();
    loop {
        match hub.read(cursor, 1000, |frame, _| {
            seen.push(frame.pos.seq);
            true
        }) {
            Read::Reset(resets) => told.extend(resets),
            Read::Head => return (told, seen),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn entries_trimmed_before_they_were_read_are_told() {
    let hub = Hub::new(Options { ring: 100, events_ring: 1 });
    hub.push_alerts((1..=3).map(entry).collect());
    let (mut behind, mut at_head) = (hub.cursor(Pos { seq: 1, check: "00000001".into() }), hub.cursor_at_head());
    hub.push_alerts((10..=12).map(entry).collect());
    for (cursor, from, missed) in [(&mut behind, 1, 8), (&mut at_head, 3, 6)] {
        let (told, seen) = settle(&hub, cursor);
        assert_eq!(
            told.iter().map(|r| (r.reason, r.from.seq, r.to.seq, r.missed)).collect::<Vec<_>>(),
            [("trimmed", from, 9, Some(missed))]
        );
        assert_eq!(seen, [10, 11, 12]);
    }
}

#[test]
fn entries_that_became_others_are_told() {
    let hub = Hub::new(Options { ring: 100, events_ring: 1 });
    hub.push_alerts((1..=5).map(entry).collect());
    let cursor = |seq: u64| hub.cursor(Pos { seq, check: format!("{seq:08x}") });
    let (mut early, mut middle, mut late) = (cursor(2), cursor(4), cursor(5));
    let other = |seq: u64| LogEntry { check: format!("{:08x}", seq + 0xf00), ..entry(seq) };
    hub.push_alerts((4..=6).map(other).collect());
    for (cursor, from, to, missed, rest) in
        [(&mut early, 2, 2, 2, vec![3, 4, 5, 6]), (&mut middle, 4, 3, 1, vec![4, 5, 6]), (&mut late, 5, 3, 0, vec![4, 5, 6])]
    {
        let (told, seen) = settle(&hub, cursor);
        assert_eq!(
            told.iter().map(|r| (r.reason, r.from.seq, r.to.seq, r.missed)).collect::<Vec<_>>(),
            [("rewound", from, to, Some(missed))]
        );
        assert_eq!(seen, rest);
    }
    assert_eq!(hub.head_pos(), Pos { seq: 6, check: "00000f06".into() });
}

async fn open(dir: &Path) -> (Store, u64) {
    let store = Store::open(store::Options {
        target: store::Target::Embedded(dir.to_owned()),
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
    (store, fence)
}

async fn append(store: &Store, fence: u64, texts: &[&str]) {
    let entries = texts
        .iter()
        .map(|text| NewEntry { alert_id: (*text).to_owned(), body: body(text), firing: true, first: false })
        .collect();
    store.commit(&Commit { fence, entries, ..Commit::default() }).await.expect("the commit");
}

async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// Follows `store` until `done`, then lets go of it.
async fn follow(hub: &Arc<Hub>, store: &Store, what: &str, done: impl FnMut() -> bool) {
    let stop = CancellationToken::new();
    let following = {
        let (hub, store, stop) = (hub.clone(), store.clone(), stop.clone());
        tokio::spawn(async move { hub.follow(store, stop).await })
    };
    wait_for(what, done).await;
    stop.cancel();
    following.await.expect("the follower ends");
}

#[tokio::test]
async fn a_log_that_went_on_otherwise_is_read_from_where_it_parted() {
    let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (store, fence) = open(one.path()).await;
    append(&store, fence, &["a1", "a2", "a3"]).await;
    store.close().await;
    drop(store);
    for file in std::fs::read_dir(one.path()).expect("a directory") {
        let file = file.expect("a file");
        if file.file_type().expect("a type").is_file() {
            std::fs::copy(file.path(), two.path().join(file.file_name())).expect("a copy");
        }
    }
    let hub = Hub::new(Options { ring: 100, events_ring: 1 });
    let (store, fence) = open(one.path()).await;
    append(&store, fence, &["a4", "a5"]).await;
    follow(&hub, &store, "the first log", || hub.head() == 5).await;
    let mut cursor = hub.cursor_at_head();
    let left_at = hub.head_pos();
    // The other copy goes on from the third entry, past where the first one is.
    let (other, fence) = open(two.path()).await;
    append(&other, fence, &["b4", "b5", "b6"]).await;
    follow(&hub, &other, "the other log", || hub.head() == 6).await;
    let (told, seen) = settle(&hub, &mut cursor);
    assert_eq!(told.iter().map(|r| (r.reason, r.from.seq, r.to.seq)).collect::<Vec<_>>(), [("rewound", 5, 3)]);
    assert_eq!(seen, [4, 5, 6]);
    // Who comes back with a position of the lost part is told, and gets everything.
    let located = hub.locate(&other, &After::At(left_at)).await.expect("an answer");
    assert_eq!((located.recovered, located.pos.seq), (Err("unknown_position"), 0));
    let third = other.log_read(2, 1).await.expect("an answer").remove(0);
    let located = hub.locate(&other, &After::At(Pos { seq: 3, check: third.check })).await.expect("an answer");
    assert_eq!((located.recovered, located.pos.seq), (Ok(()), 3));
}

#[tokio::test]
async fn another_log_is_read_from_its_beginning() {
    let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let hub = Hub::new(Options { ring: 2, events_ring: 1 });
    let (store, fence) = open(one.path()).await;
    append(&store, fence, &["a1", "a2", "a3"]).await;
    follow(&hub, &store, "the first log", || hub.head() == 3).await;
    let mut cursor = hub.cursor_at_head();
    let (other, fence) = open(two.path()).await;
    append(&other, fence, &["b1", "b2"]).await;
    follow(&hub, &other, "the other log", || hub.head() == 2).await;
    let (told, seen) = settle(&hub, &mut cursor);
    assert_eq!(told.iter().map(|r| (r.reason, r.from.seq, r.to.seq, r.missed)).collect::<Vec<_>>(), [("reset", 3, 0, None)]);
    assert_eq!(seen, [1, 2]);
    assert!(hub.store_up());
}

#[tokio::test]
async fn what_was_lost_and_is_put_back_in_time_is_not_told() {
    let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let hub = Hub::new(Options { ring: 100, events_ring: 1 });
    let (store, fence) = open(one.path()).await;
    append(&store, fence, &["a1", "a2", "a3"]).await;
    follow(&hub, &store, "the first log", || hub.head() == 3).await;
    let mut cursor = hub.cursor_at_head();
    let epoch = store.log_bounds().await.expect("an answer").epoch;
    let entries = store.log_read(0, 10).await.expect("an answer");
    let (lost, fence) = open(two.path()).await;
    hub.set_store_up(false);
    follow(&hub, &lost, "the empty log", || hub.store_up()).await;
    assert_eq!(hub.head(), 3);
    lost.log_restore(fence, &epoch, &entries).await.expect("is put back");
    append(&lost, fence, &["a4"]).await;
    follow(&hub, &lost, "the restored log", || hub.head() == 4).await;
    let (told, seen) = settle(&hub, &mut cursor);
    assert_eq!((told, seen), (vec![], vec![4]));
}
