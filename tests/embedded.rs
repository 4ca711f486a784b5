//! The embedded store: what it promises beyond the suite that both engines pass. Durable against SIGKILL, one process at a
//! time, a thousand callers on few fsyncs, a disk that fails, and the socket by which commands reach a daemon's store.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use auditcast::{
    event::EntryId,
    store::{
        Commit, CommitRecord, DeadLetter, IntakeItem, NewEntry, Options, Snapshot, StoreError, Taken, Target,
        embedded::{
            EmbeddedStore,
            control::{self, Access, CONNECTIONS_MAX, LINE_BYTES_MAX, Response, SOCKET},
        },
    },
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

fn options(dir: &Path) -> Options {
    Options {
        target: Target::Embedded(dir.to_owned()),
        prefix: "{auditcast}".to_owned(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(90 * 86400),
        alerts_max: 1_000_000,
        dead_letters_max: 10_000,
        commits_max: 100_000,
        intake_max: 1_000_000,
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, options(dir)).unwrap()
}

fn one(name: &str, value: &str) -> Vec<Vec<(String, String)>> {
    vec![vec![(name.to_owned(), value.to_owned())]]
}

fn alert(id: &str, status: &str) -> NewEntry {
    let body = format!(r#"{{"type":"security_alert","alert_id":"{id}","status":"{status}"}}"#);
    NewEntry { alert_id: id.to_owned(), body, firing: status == "firing", first: false }
}

fn commit(fence: u64, slot: u64, entries: Vec<NewEntry>) -> Commit {
    Commit { fence, record: CommitRecord { slot, ..CommitRecord::default() }, entries, dead_letters: Vec::new() }
}

/// Small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// This test binary again, as a process that plays `role` on `dir`.
fn start(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env("AUDITCAST_TEST_ROLE", role)
        .env("AUDITCAST_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "a part of other tests, which start it as a process of its own"]
fn child() {
    let Ok(role) = std::env::var("AUDITCAST_TEST_ROLE") else { return };
    let dir = std::path::PathBuf::from(std::env::var("AUDITCAST_TEST_DIR").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "append" => append_until_killed(&dir).await,
            "hold" => {
                let _store = open(&dir);
                say("held");
                std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            }
            "fill" => fill_the_disk(&dir).await,
            other => panic!("unknown role {other}"),
        }
    });
}

/// One write of one line: a reader sees all of it or, killed before, none.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

async fn append_until_killed(dir: &Path) {
    let store = open(dir);
    let fence = store.lease("child", 0).await.unwrap().fence;
    let start = store.log_bounds().await.unwrap().head;
    let tasks = (0..6u64).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0.. {
                let text = format!("{task}-{i}-{start}");
                match task {
                    0 => {
                        let done = store.commit(&commit(fence, start + i, vec![alert(&text, "firing")])).await.unwrap();
                        say(&format!("log {} {text}", done.seq));
                    }
                    1 => {
                        let item = IntakeItem { source: "s".into(), dedup: Some(text.clone()), body: text.clone() };
                        let taken = store.intake(&[item], Duration::from_secs(60)).await.unwrap();
                        let [Taken::New(id)] = taken[..] else { panic!("{taken:?}") };
                        say(&format!("intake {id} {text}"));
                    }
                    _ => {
                        let id = store.append("events", &one("n", &text)).await.unwrap()[0];
                        say(&format!("events {id} {text}"));
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// Whatever the child was told is stored, is stored: 20 rounds on one directory, each ended by SIGKILL at a random moment.
#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut told: Vec<(String, EntryId, String)> = Vec::new();
    let mut alerts: Vec<(u64, String)> = Vec::new();
    for round in 0..20 {
        let mut process = start("append", dir.path());
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let wait = Duration::from_millis(5 + random.below(250));
        let mut text = String::new();
        // The first word is the sign that it runs; from there the moment is random.
        while !text.starts_with('@') {
            text.clear();
            assert_ne!(lines.read_line(&mut text).unwrap(), 0, "round {round}: the child has ended");
        }
        let reader = std::thread::spawn(move || {
            let mut all = text;
            lines.read_to_string(&mut all).unwrap();
            all
        });
        let until = Instant::now() + wait;
        while Instant::now() < until && process.try_wait().unwrap().is_none() {
            std::thread::park_timeout(until - Instant::now());
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let all = reader.join().unwrap();
        let mut count = 0;
        // A last line without its end may be half of one.
        for line in all.split_inclusive('\n').filter_map(|l| l.strip_prefix('@')?.strip_suffix('\n')) {
            let [what, id, text] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            match what {
                "log" => alerts.push((id.parse().unwrap(), text.to_owned())),
                what => told.push((what.to_owned(), id.parse().unwrap(), text.to_owned())),
            }
            count += 1;
        }
        assert!(count > 0, "round {round}");

        runtime.block_on(async {
            let store = open(dir.path());
            for (what, id, text) in &told {
                let stream = if what == "intake" { store.intake_stream() } else { what.clone() };
                let before = EntryId::new(id.ms, id.seq.wrapping_sub(1));
                let before = if id.seq == 0 { EntryId::new(id.ms - 1, u64::MAX) } else { before };
                let found = store.stream_range(&stream, before, *id, 2).await.unwrap();
                assert_eq!(found.len(), 1, "round {round}: {what} {id} {text}");
                assert_eq!(found[0].id, *id);
                assert_eq!(found[0].fields().last().unwrap().1, text.as_bytes());
            }
            let log = store.log_read(0, 100_000).await.unwrap();
            assert!(log.iter().zip(1..).all(|(entry, seq)| entry.seq == seq), "round {round}: a hole in the alert log");
            for (seq, text) in &alerts {
                assert!(log[usize::try_from(*seq).unwrap() - 1].body.contains(text), "round {round}: {seq} {text}");
            }
            let info = store.stream_info("events").await.unwrap().unwrap().unwrap();
            let kept = store.stream_range("events", EntryId::ZERO, EntryId::MAX, 100_000).await.unwrap();
            assert_eq!(info.length, u64::try_from(kept.len()).unwrap());
            store.close().await;
        });
    }
    println!("{} entries and {} alerts acknowledged, all there", told.len(), alerts.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_appends_at_once_share_their_fsyncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = store.groups();
    let tasks: Vec<_> = (0..1000)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.append("events", &one("n", &i.to_string())).await.unwrap()[0] })
        })
        .collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await.unwrap());
    }
    let groups = store.groups() - before;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    let kept = store.stream_range("events", EntryId::ZERO, EntryId::MAX, 2000).await.unwrap();
    assert_eq!(kept.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
    assert!(groups <= 200, "{groups} transactions for 1000 appends");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_in_a_group_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let fence = store.lease("a", 0).await.unwrap().fence;
    let tasks: Vec<_> = (0..200u64)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let right = i % 2 == 0;
                let fence = if right { fence } else { fence + 7 };
                let done = store.commit(&commit(fence, i, vec![alert(&format!("a{i}"), "firing")])).await;
                assert_eq!(done.is_ok(), right, "{done:?}");
                assert!(right || matches!(done, Err(StoreError::Fenced)));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.log_bounds().await.unwrap().head, 100);
    assert_eq!(store.firing().await.unwrap().len(), 100);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let epoch = store.recover().await.unwrap().epoch;
    let lease = store.lease("a", 0).await.unwrap();
    let mut all = commit(lease.fence, 5000, vec![alert("x", "firing"), alert("y", "firing"), alert("x", "resolved")]);
    all.record.done.insert("events".into(), EntryId::new(7, 1));
    let letter = DeadLetter {
        source: "s".into(),
        stream: "events".into(),
        entry: EntryId::new(6, 0),
        reason: "r".into(),
        body: "ö".repeat(5000),
    };
    all.dead_letters.push(letter);
    let done = store.commit(&all).await.unwrap();
    assert_eq!((done.n, done.seq), (1, 3));
    let again = store.commit(&all).await.unwrap();
    assert_eq!((again.n, again.seq, again.known), (done.n, done.seq, done.known), "the same commit again is the same commit");
    let snapshot = Snapshot { commit: 1, fingerprint: "f".into(), data: vec![3; 1 << 20] };
    store.snapshot_put(lease.fence, &snapshot).await.unwrap();
    store.blacklist("j", Duration::from_secs(60)).await.unwrap();
    store.permissions_put("u", &["b".into(), "a".into()]).await.unwrap();
    store.metrics_put(60, "{}", Duration::from_secs(60)).await.unwrap();
    let id = store.append("events", &one("n", "1")).await.unwrap()[0];
    store.close().await;
    assert!(matches!(store.append("events", &one("n", "1")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.log_bounds().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.now_ms().await, Err(StoreError::Unavailable(_))));

    let again = open(dir.path());
    let recovered = again.recover().await.unwrap();
    assert_eq!((recovered.epoch, recovered.seq, recovered.commit, recovered.slot), (epoch, 3, 1, 5000));
    assert_eq!(recovered.done.get("events"), Some(&EntryId::new(7, 1)));
    assert_eq!(recovered.open.iter().map(|e| e.seq).collect::<Vec<_>>(), [2]);
    assert_eq!(again.snapshots().await.unwrap(), [snapshot]);
    assert!(again.blacklisted("j").await.unwrap());
    assert_eq!(again.permissions("u").await.unwrap(), ["a", "b"]);
    assert_eq!(again.metrics_history(0, 10).await.unwrap(), [(60, "{}".to_owned())]);
    let letters = again.dead_letters(10).await.unwrap();
    assert_eq!((letters.len(), letters[0].body.len()), (1, 4096));
    assert!(again.append("events", &one("n", "2")).await.unwrap()[0] > id);
    // The process that had it is gone, so its lease is: nobody waits for it, and its number is spent.
    assert!(again.lease("b", 0).await.unwrap().fence > lease.fence);
    assert!(matches!(again.commit(&commit(lease.fence, 6000, vec![])).await, Err(StoreError::Fenced)));
    again.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_keep_as_many_as_they_may_and_say_what_went() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Options { intake_max: 100, commits_max: 10, ..options(dir.path()) };
    let store = EmbeddedStore::open(dir.path(), limits).unwrap();
    let items: Vec<_> =
        (0..250).map(|i| IntakeItem { source: "s".into(), dedup: Some(format!("k{i}")), body: i.to_string() }).collect();
    let mut ids = Vec::new();
    for part in items.chunks(40) {
        for taken in store.intake(part, Duration::from_secs(60)).await.unwrap() {
            let Taken::New(id) = taken else { panic!("{taken:?}") };
            ids.push(id);
        }
    }
    let stream = store.intake_stream();
    let info = store.stream_info(&stream).await.unwrap().unwrap().unwrap();
    assert_eq!((info.length, info.added, info.first, info.last_generated), (100, Some(250), Some(ids[150]), ids[249]));
    let kept = store.stream_range(&stream, EntryId::ZERO, EntryId::MAX, 1000).await.unwrap();
    assert_eq!(kept.iter().map(|e| e.id).collect::<Vec<_>>(), ids[150..]);
    assert_eq!(store.intake(&items[249..], Duration::from_secs(60)).await.unwrap(), [Taken::Known(ids[249])]);
    let again = store.intake(&items[..1], Duration::from_secs(60)).await.unwrap();
    assert!(matches!(again[..], [Taken::New(_)]), "its key has made room: {again:?}");
    assert_eq!(store.find_streams("*").await.unwrap(), Vec::<String>::new(), "ours are not found");

    let fence = store.lease("a", 0).await.unwrap().fence;
    for slot in 1..=25 {
        store.commit(&commit(fence, slot, vec![])).await.unwrap();
    }
    assert_eq!(store.first_commit().await.unwrap(), 16);
    assert_eq!(store.commits(0, 100).await.unwrap().iter().map(|r| r.slot).collect::<Vec<_>>(), (16..=25).collect::<Vec<_>>());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_read_wakes_on_the_write_and_ends_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut reader = store.reader();
    let waiting = tokio::spawn(async move {
        let cursors = [("events".to_owned(), EntryId::ZERO)];
        let first = reader.read(&cursors, 10, Duration::from_secs(60)).await;
        let cursors = [("events".to_owned(), EntryId::MAX)];
        (first, reader.read(&cursors, 10, Duration::from_secs(60)).await)
    });
    let mut tail = store.tail();
    let tailing = tokio::spawn(async move { tail.alerts(0, 10, Duration::from_secs(60)).await });
    let id = store.append("events", &one("n", "1")).await.unwrap()[0];
    let fence = store.lease("a", 0).await.unwrap().fence;
    store.commit(&commit(fence, 1, vec![alert("x", "firing")])).await.unwrap();
    assert_eq!(tailing.await.unwrap().unwrap().len(), 1);
    store.close().await;
    let (first, second) = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    let first = first.unwrap();
    assert_eq!(first.streams[0].entries[0].id, id);
    assert!(first.before_ms <= first.after_ms && first.after_ms >= id.ms);
    assert!(matches!(second, Err(StoreError::Unavailable(_))));
}

/// An id is never at or below the `before_ms` of a reply that does not have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reply_lacks_is_above_the_time_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    store.append("events", &one("n", "1")).await.unwrap();
                }
            })
        })
        .collect();
    let mut reader = store.reader();
    let (mut after, mut before) = (EntryId::ZERO, 0);
    let end = Instant::now() + Duration::from_millis(700);
    let mut seen = 0;
    while Instant::now() < end {
        let reply = reader.read(&[("events".to_owned(), after)], 1000, Duration::from_millis(50)).await.unwrap();
        assert!(reply.before_ms >= before);
        for stream in &reply.streams {
            for entry in &stream.entries {
                // Of the same millisecond as the time before one may still come; of an earlier one, none.
                assert!(entry.id.ms >= before, "{} came after {before}", entry.id);
                after = entry.id;
                seen += 1;
            }
            assert!(!stream.full);
        }
        before = reply.before_ms;
    }
    stop.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(seen > 20, "{seen}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_at_a_time_and_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("deep/store");
    let mut process = start("hold", &place);
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "@held"));
    let Err(error) = EmbeddedStore::open(&place, options(&place)) else { panic!("opened twice") };
    assert_eq!(
        error.to_string(),
        format!(
            "the embedded store at {} is in use by another process; run one daemon, or use its control socket",
            place.display()
        )
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&place.join("auditcast.redb"))), (0o700, 0o600));
    drop(process.stdin.take());
    process.wait().unwrap();
    let store = open(&place);
    let Err(_) = EmbeddedStore::open(&place, options(&place)) else { panic!("opened twice") };
    store.close().await;
    // Without a close the last clone gives it back.
    drop(open(&place));
    open(&place).close().await;
}

#[test]
fn what_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("auditcast.redb"), "not a database, but long enough to be looked at".repeat(1000)).unwrap();
    let Err(error) = EmbeddedStore::open(dir.path(), options(dir.path())) else { panic!("opened") };
    assert!(matches!(error, StoreError::Format(_)), "{error:?}");

    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let file = redb::Database::open(dir.path().join("auditcast.redb")).unwrap();
    let txn = file.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<&str, u64>::new("numbers")).unwrap().insert("format", 2).unwrap();
    txn.delete_table(redb::TableDefinition::<u64, &[u8]>::new("log")).unwrap();
    txn.open_table(redb::TableDefinition::<&[u8], u64>::new("log")).unwrap();
    txn.commit().unwrap();
    drop(file);
    let Err(error) = EmbeddedStore::open(dir.path(), options(dir.path())) else { panic!("opened") };
    assert!(matches!(error, StoreError::Format(_)) && error.to_string().contains("newer version"), "{error:?}");

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "").unwrap();
    let place = dir.path().join("f/store");
    let Err(error) = EmbeddedStore::open(&place, options(&place)) else { panic!("opened") };
    assert!(matches!(error, StoreError::Broken(_)) && error.to_string().contains("f/store"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_is_told_and_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let fence = store.lease("a", 0).await.unwrap().fence;
    store.commit(&commit(fence, 1, vec![alert("x", "firing"), alert("y", "resolved")])).await.unwrap();
    let id = store.append("events", &one("n", "1")).await.unwrap()[0];
    store.close().await;
    let file = redb::Database::open(dir.path().join("auditcast.redb")).unwrap();
    let txn = file.begin_write().unwrap();
    let bytes = redb::TableDefinition::<&[u8], &[u8]>::new;
    txn.open_table(bytes("state")).unwrap().insert(&b"x"[..], &b"\0"[..]).unwrap();
    txn.open_table(redb::TableDefinition::<u64, &[u8]>::new("log")).unwrap().insert(1, &b"\0\0\0\xff"[..]).unwrap();
    txn.open_table(redb::TableDefinition::<&[u8], ()>::new("expiries")).unwrap().insert(&b"\0"[..], ()).unwrap();
    txn.commit().unwrap();
    drop(file);

    let store = open(dir.path());
    let broken = |error: StoreError| matches!(&error, StoreError::Broken(t) if t.contains("auditcast.redb is damaged"));
    assert!(broken(store.alert("x").await.unwrap_err()));
    assert!(broken(store.firing().await.unwrap_err()));
    assert!(broken(store.log_read(0, 10).await.unwrap_err()));
    assert_eq!(store.log_read(1, 10).await.unwrap().len(), 1);
    assert!(store.alert("y").await.unwrap().is_some());
    assert!(store.append("events", &one("n", "2")).await.unwrap()[0] > id);
    store.close().await;
}

/// Bytes overwritten anywhere in the file: an error or the truth or, where redb cannot know, something else; never a panic
/// of the caller, and the directory is free again afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_never_takes_the_caller_down() {
    let origin = tempfile::tempdir().unwrap();
    let store = open(origin.path());
    let fence = store.lease("a", 0).await.unwrap().fence;
    for slot in 1..=20 {
        store.commit(&commit(fence, slot, (0..20).map(|i| alert(&format!("{slot}-{i}"), "firing")).collect())).await.unwrap();
        store.append("events", &vec![one("n", "text").remove(0); 100]).await.unwrap();
    }
    store.close().await;
    let good = std::fs::read(origin.path().join("auditcast.redb")).unwrap();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut errors, mut refused) = (0, 0);
    for round in 0..40u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = good.clone();
        match round % 4 {
            0 => bad.truncate(usize::try_from(random.below(good.len() as u64)).unwrap()),
            1 => (0..10).for_each(|_| bad[random.below(512) as usize] = random.below(256) as u8),
            2 => (0..200).for_each(|_| bad[random.below(good.len() as u64) as usize] = random.below(256) as u8),
            _ => {
                let at = random.below(good.len() as u64 - 8192) as usize;
                bad[at..at + 8192].fill(random.below(256) as u8);
            }
        }
        std::fs::write(dir.path().join("auditcast.redb"), bad).unwrap();
        let (path, with) = (dir.path().to_owned(), options(dir.path()));
        let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path, with)).await.expect("no panic");
        let Ok(store) = opened else {
            refused += 1;
            continue;
        };
        errors += u32::from(store.log_read(0, 1000).await.is_err());
        errors += u32::from(store.stream_range("events", EntryId::ZERO, EntryId::MAX, 3000).await.is_err());
        errors += u32::from(store.append("events", &one("n", "1")).await.is_err());
        errors += u32::from(store.recover().await.is_err());
        store.close().await;
    }
    println!("{refused} of 40 not opened, {errors} operations refused");
    assert!(refused > 5, "{refused}");
}

async fn fill_the_disk(dir: &Path) {
    let store = open(dir);
    let kept = store.append("events", &one("n", "kept")).await.unwrap()[0];
    let big = "x".repeat(200_000);
    let mut failed = None;
    for _ in 0..200 {
        if let Err(error) = store.append("events", &one("n", &big)).await {
            failed = Some(error);
            break;
        }
    }
    let Some(StoreError::Broken(text)) = failed else { panic!("{failed:?}") };
    assert!(text.contains("auditcast.redb"), "{text}");
    // What is there can be read again as soon as the file has been opened anew, which the next writes see to.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let wrote = store.blacklist("j", Duration::from_secs(60)).await;
        let read = store.stream_range("events", EntryId::ZERO, kept, 1).await;
        if let (Ok(()), Ok(read)) = (&wrote, &read) {
            assert_eq!(read[0].id, kept);
            break;
        }
        assert!(Instant::now() < end, "{wrote:?} {read:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(store.reconnects() > 0);
    store.close().await;
    say("survived");
}

/// A file that may not grow stands for the full disk: the shell sets the limit and has its signal ignored.
#[test]
fn a_full_disk_is_an_answer_and_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let process = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; ulimit -f 16384; exec "$0" --exact child --ignored --nocapture --test-threads=1"#])
        .arg(std::env::current_exe().unwrap())
        .env("AUDITCAST_TEST_ROLE", "fill")
        .env("AUDITCAST_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&process.stdout);
    assert!(process.status.success() && text.contains("@survived"), "{text}\n{}", String::from_utf8_lossy(&process.stderr));
    drop(open(dir.path()));
}

/// A daemon with its socket.
async fn daemon(dir: &Path) -> (EmbeddedStore, CancellationToken, tokio::task::JoinHandle<std::io::Result<()>>) {
    let store = open(dir);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(control::serve(store.clone(), stop.clone()));
    let end = Instant::now() + Duration::from_secs(10);
    while control::connect(dir).await.is_err() {
        assert!(Instant::now() < end && !serving.is_finished(), "it does not listen");
        tokio::task::yield_now().await;
    }
    (store, stop, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_reach_the_store_with_a_daemon_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let (store, stop, serving) = daemon(dir.path()).await;
    let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let fence = store.lease("a", 0).await.unwrap().fence;
    let mut first = commit(fence, 1, (0..3000).map(|i| alert(&format!("a{i}-{}", "x".repeat(500)), "firing")).collect());
    first.dead_letters = (0..400)
        .map(|i| {
            let entry = EntryId::new(i + 1, 0);
            DeadLetter { source: "s".into(), stream: "t".into(), entry, reason: "r".into(), body: "\u{1}".repeat(4000) }
        })
        .collect();
    store.commit(&first).await.unwrap();
    for i in 0..40 {
        store.metrics_put(i, &"y".repeat(50_000), Duration::from_secs(60)).await.unwrap();
    }

    let access = Access::open(dir.path(), options(dir.path())).await.unwrap();
    assert!(matches!(access, Access::Control(_)));
    let long: Vec<_> = (0..30).flat_map(|i| one("n", &format!("{i}{}", "z".repeat(100_000)))).collect();
    let ids = access.append("events", &long).await.unwrap();
    assert_eq!(ids.len(), 30);
    assert_eq!(access.stream_info("events").await.unwrap().unwrap().last_generated, ids[29]);
    assert_eq!(access.stream_info("none").await.unwrap(), None);
    let item = IntakeItem { source: "s".into(), dedup: Some("k".into()), body: "{}".into() };
    let taken = access.intake(&[item.clone(), item], Duration::from_secs(60)).await.unwrap();
    assert!(matches!(taken[..], [Taken::New(a), Taken::Known(b)] if a == b), "{taken:?}");
    access.blacklist("j", Duration::from_secs(60)).await.unwrap();
    assert!(access.blacklisted("j").await.unwrap() && !access.blacklisted("k").await.unwrap());
    assert_eq!(access.log_read(0, 2500).await.unwrap(), store.log_read(0, 2500).await.unwrap());
    assert_eq!(access.firing().await.unwrap(), store.firing().await.unwrap());
    assert_eq!(access.log_bounds().await.unwrap(), store.log_bounds().await.unwrap());
    assert_eq!(access.metrics_history(3, 35).await.unwrap(), store.metrics_history(3, 35).await.unwrap());
    let entries = |letters: Vec<DeadLetter>| letters.iter().map(|l| l.entry.ms).collect::<Vec<_>>();
    assert_eq!(entries(access.dead_letters(350).await.unwrap()), (51..=400).rev().collect::<Vec<u64>>());
    let id = &first.entries[7].alert_id;
    assert_eq!(access.alert(id).await.unwrap(), store.alert(id).await.unwrap());
    assert_eq!(access.alert("none").await.unwrap(), None);
    assert!(access.now_ms().await.unwrap() >= ids[29].ms);
    let error = access.append("events", &[vec![]]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");

    // A second daemon is kept off the socket, too.
    let error = control::serve(store.clone(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    stop.cancel();
    serving.await.unwrap().unwrap();
    assert!(!dir.path().join(SOCKET).exists());
    store.close().await;

    let access = Access::open(dir.path(), options(dir.path())).await.unwrap();
    assert!(matches!(access, Access::Direct(_)));
    assert_eq!(access.append("events", &one("n", "1")).await.unwrap().len(), 1);
    assert!(access.blacklisted("j").await.unwrap());
    access.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_bears_bad_requests_too_many_clients_and_its_own_corpse() {
    let dir = tempfile::tempdir().unwrap();
    // What a killed daemon leaves behind.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    let (store, stop, serving) = daemon(dir.path()).await;

    let stream = tokio::net::UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
    let (read, mut write) = stream.into_split();
    let mut answers = tokio::io::BufReader::new(read).lines();
    let long = format!("{}\n", "x".repeat(LINE_BYTES_MAX));
    for bad in ["{}\n", "\n", "\u{0}\n", "{\"request\":\"nothing\"}\n", &long] {
        write.write_all(bad.as_bytes()).await.unwrap();
        let answer = answers.next_line().await.unwrap().unwrap();
        let answer: Response = serde_json::from_str(&answer).unwrap();
        assert!(
            matches!(answer, Response::Error { kind: control::ErrorKind::BadRequest, .. }),
            "{} {answer:?}",
            bad.escape_debug().take(40).collect::<String>()
        );
    }
    write.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
    let answer: Response = serde_json::from_str(&answers.next_line().await.unwrap().unwrap()).unwrap();
    assert!(matches!(answer, Response::Status { status } if status.pid == std::process::id()));

    let mut held = Vec::new();
    let mut refused = None;
    for _ in 0..CONNECTIONS_MAX {
        let stream = tokio::net::UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
        let (read, write) = stream.into_split();
        let mut lines = tokio::io::BufReader::new(read).lines();
        if held.len() == CONNECTIONS_MAX - 1 {
            refused = lines.next_line().await.unwrap();
        }
        held.push((lines, write));
    }
    assert!(refused.is_some_and(|text| text.contains("connections are open already")));
    drop(held);
    drop((answers, write));
    let end = Instant::now() + Duration::from_secs(10);
    while control::connect(dir.path()).await.is_err() {
        assert!(Instant::now() < end, "the places are not given back");
        tokio::task::yield_now().await;
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
    store.close().await;
    let error = control::connect(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("no daemon listens there"), "{error}");
}

/// Half a line does not keep a place: the clock runs ahead as soon as nothing else is left to do.
#[tokio::test]
async fn who_is_silent_on_the_socket_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (store, stop, serving) = daemon(dir.path()).await;
    let mut stream = tokio::net::UnixStream::connect(dir.path().join(SOCKET)).await.unwrap();
    stream.write_all(b"{\"request\":").await.unwrap();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await.unwrap();
    assert!(rest.is_empty() && began.elapsed() >= control::IDLE / 2, "{rest:?} {:?}", began.elapsed());
    tokio::time::resume();
    stop.cancel();
    serving.await.unwrap().unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_works_in_a_directory_with_a_long_name() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("d".repeat(150));
    let (store, stop, serving) = daemon(&place).await;
    assert!(control::connect(&place).await.unwrap().status().await.unwrap().store.contains("ddd"));
    stop.cancel();
    serving.await.unwrap().unwrap();
    store.close().await;
}
