//! Where it lasts: audit logs, the alert log, the commit, the lease, snapshots. Two engines behind one enum, [`Store`]:
//! Redis (or Valkey) at scale, an embedded one (redb) that needs nothing installed. `tests/store.rs` holds both to one suite.
//!
//! Key layout under `prefix` (default `{auditcast}`), contract §9:
//!
//! | key | type | holds |
//! |---|---|---|
//! | `P:meta` | hash | `format`, `epoch`, `fence`, `seq`, `check`, `commit`, `slot`, `snapshot`; `last`, `last_known`: digest and answer of the last commit; `oldest`: when the oldest kept alert was stored, ms, unless it has to be looked up |
//! | `P:lease` | hash | `node`, `fence`, `until` (ms by the store's clock), `ttl`; no expiry of the key itself |
//! | `P:alerts` | stream | the alert log, ids `seq-0`: `check`, `alert` (id), `time` (stored, ms), `body` |
//! | `P:state` | hash | alert id → `{seq}-{check} {body}`: the last transition of every kept alert |
//! | `P:open` | zset | ids of the alerts that are firing, by the number of their last transition |
//! | `P:done` | hash | stream → last entry whose effects are stored |
//! | `P:commits` | stream | the commit log, ids `n-0` |
//! | `P:snapshot:{n}:{part}`, `P:snapshots` | string, hash | parts, manifests by number |
//! | `P:deadletter`, `P:deadletter:seen` | stream, zset | entries that cannot be read; which are there already |
//! | `P:intake` | stream | what the bridges took in |
//! | `P:seen`, `P:seen:ids` | zset, hash | deduplication of the intake: key → expiry, key → entry id |
//! | `P:metrics` | zset | seconds for which `security:metrics:{s}` was stored |
//! | `P:people`, `P:attempts`, and each with `:ends` | hash, zset | who may sign in, failed attempts at it: name → JSON, name → end |
//! | `P:cutoffs` | zset | user → Unix ms: tokens of his that were issued before are revoked |

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{event::EntryId, wire::Pos};

/// `[store]`.
#[derive(Clone)]
pub struct Options {
    pub target: Target,
    /// Separates installations; `{auditcast}`.
    pub prefix: String,
    /// How long a node that says nothing stays the active one.
    pub lease_ttl: Duration,
    /// `alerts.retention` and `alerts.max`.
    pub alerts_retention: Duration,
    pub alerts_max: u64,
    /// Dead letters kept (10,000), commit records kept (100,000), intake entries kept (1,000,000).
    pub dead_letters_max: u64,
    pub commits_max: u64,
    pub intake_max: u64,
}

/// `store.url`, read.
#[derive(Clone)]
pub enum Target {
    /// `redis://`, `rediss://`; the password is already in it. Never shown: see [`Target::masked`].
    Redis(String),
    /// `embedded:DIR`.
    Embedded(PathBuf),
}

/// `XINFO STREAM`, or the embedded store's equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamInfo {
    pub length: u64,
    pub first: Option<EntryId>,
    pub last_generated: EntryId,
    /// Entries ever added (Redis 7; `None` on 6.2).
    pub added: Option<u64>,
    /// `max-deleted-entry-id` (Redis 7).
    pub max_deleted: Option<EntryId>,
}

/// The lease as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub node: String,
    /// Grows with every change of hands; a commit with another number is refused.
    pub fence: u64,
    /// By the store's clock, from now.
    pub expires_in_ms: u64,
}

/// One transition on its way into the alert log.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub alert_id: String,
    /// JSON of the frame without `pos` (see `wire`).
    pub body: String,
    pub firing: bool,
    /// Not taken if this alert is known already (event alerts and other firsts): nothing is ever stored twice.
    pub first: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetter {
    pub source: String,
    pub stream: String,
    pub entry: EntryId,
    pub reason: String,
    /// Cut at 4 KiB.
    pub body: String,
}

/// What one commit makes true together (architecture, "The commit").
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub fence: u64,
    pub record: CommitRecord,
    pub entries: Vec<NewEntry>,
    pub dead_letters: Vec<DeadLetter>,
}

/// One record of the commit log: enough to take the same entries into the same slots again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// Position in the commit log; set by the store.
    #[serde(default)]
    pub n: u64,
    /// End of the last closed slot, Unix ms.
    pub slot: u64,
    /// The store's clock when the newest batch had been read: an entry above it is from the future.
    pub time: u64,
    /// Stream → last entry taken in. Only those that moved since the record before.
    pub done: BTreeMap<String, EntryId>,
    /// What happened to streams besides entries (holes, resets): opaque to the store, the monitor's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<serde_json::Value>,
    /// Fingerprint of the configuration that decided.
    pub fingerprint: String,
}

impl CommitRecord {
    /// The same record, whatever number the store gave it.
    pub fn same_as(&self, other: &CommitRecord) -> bool {
        (self.slot, self.time, &self.done, &self.marks) == (other.slot, other.time, &other.done, &other.marks)
    }
}

/// What a commit gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Number of the commit record.
    pub n: u64,
    /// Head of the alert log.
    pub seq: u64,
    /// Entries that were not taken because they were known (`first`).
    pub known: u64,
    /// Check of the entry before them.
    pub before: String,
    /// Check of each entry in the order of the commit's, none where it was known. Empty: this is the answer to a commit that was
    /// there already.
    pub checks: Vec<Option<String>>,
}

impl Committed {
    /// The entries of this commit as the log has them, and what they follow; none where it cannot be told.
    pub fn entries(&self, commit: &Commit) -> Option<(Pos, Vec<LogEntry>)> {
        if self.checks.is_empty() || self.checks.len() != commit.entries.len() {
            return None;
        }
        let taken = self.checks.iter().zip(&commit.entries).filter_map(|(check, entry)| Some((check.as_ref()?, entry)));
        let before = self.seq.checked_sub(taken.clone().count() as u64)?;
        let entries =
            taken.zip(before + 1..).map(|((check, entry), seq)| LogEntry { seq, check: check.clone(), body: entry.body.clone() });
        Some((Pos { seq: before, check: self.before.clone() }, entries.collect()))
    }
}

/// One entry of the alert log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// 1, 2, 3, …: no holes.
    pub seq: u64,
    /// Eight hexadecimal characters: a hash chained over the log, so a position says whether it still means what it meant.
    pub check: String,
    /// JSON of the frame without `pos`.
    pub body: String,
}

/// What a node finds when it starts or takes over.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Made when the store was first used; another one means that the store was lost.
    pub epoch: String,
    pub seq: u64,
    pub check: String,
    /// Number of the last commit record.
    pub commit: u64,
    pub slot: u64,
    pub done: BTreeMap<String, EntryId>,
    /// Bodies of the alerts that are firing, in the order of their last transition.
    pub open: Vec<LogEntry>,
}

/// What is to be counted for a client: `rate_limit:{limit}:{client}`, A's name for it (`limit` may be `endpoint:{endpoint}`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    pub limit: String,
    pub client: String,
    pub by: u32,
}

/// How often a client has done something in the window that all nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// With what was counted just now.
    pub used: u64,
    pub ends_in_ms: u64,
}

/// Head and tail of the alert log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBounds {
    pub epoch: String,
    /// Oldest kept and newest; `first == head + 1` when nothing is kept.
    pub first: u64,
    pub head: u64,
    pub head_check: String,
}

/// A snapshot of the state machine: parts, then a manifest that makes it complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit record it stands at.
    pub commit: u64,
    pub fingerprint: String,
    pub data: Vec<u8>,
}

/// One item for the intake stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IntakeItem {
    /// Configured name of the source it came by.
    pub source: String,
    /// Accepted once within `dedup_ttl` (an `event_id`, or a key of A's).
    pub dedup: Option<String>,
    /// The event as JSON text.
    pub body: String,
}

/// What became of an [`IntakeItem`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Taken {
    New(EntryId),
    /// Known already; the id it got then.
    Known(EntryId),
}

/// What went wrong, as one sentence without the caller's part: `Redis at 127.0.0.1:6379 refused the connection`.
#[derive(Debug)]
pub enum StoreError {
    /// Not reachable, timed out, loading, a replica: try again.
    Unavailable(String),
    /// Another node has the lease.
    Fenced,
    /// Wrong password, no permission: somebody must act.
    Refused(String),
    /// Scripts (EVAL, EVALSHA) are forbidden: nothing can be done here (contract §9).
    NoScripts(String),
    /// Written by a newer version, or by something else.
    Format(String),
    /// Anything else.
    Broken(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Fenced => f.write_str("another node holds the lease"),
            StoreError::Unavailable(text)
            | StoreError::Refused(text)
            | StoreError::NoScripts(text)
            | StoreError::Format(text)
            | StoreError::Broken(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StoreError {}

pub mod embedded;
mod entry;
mod glob;
mod read;
pub mod record;
pub mod redis;
mod watch;

pub use entry::{Entry, Fields};
pub use glob::Glob;
pub use read::{ReadReply, Reader, StreamEntries, StreamFault, Tail};
pub use standing::{CUT_OFFS_MAX, Grant, PERMISSIONS_MAX, RESOURCE, Standing, check_name};
pub use watch::{Change, Notice, Watch};

/// The engine in use. Cloning is cheap; every clone talks to the same store.
#[derive(Clone)]
pub enum Store {
    Redis(redis::RedisStore),
    Embedded(embedded::EmbeddedStore),
}

macro_rules! both {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self {
            Store::Redis($inner) => $call,
            Store::Embedded($inner) => $call,
        }
    };
}

mod standing;

impl Store {
    /// Opens the store. Redis: does not wait for the server (a daemon may start before it); the embedded one is opened, its
    /// format checked, its lock taken.
    pub async fn open(options: Options) -> Result<Store, StoreError> {
        match options.target.clone() {
            Target::Redis(url) => Ok(Store::Redis(redis::RedisStore::open(&url, options)?)),
            Target::Embedded(dir) => Ok(Store::Embedded(embedded::EmbeddedStore::open(&dir, options)?)),
        }
    }

    /// `Redis 7.0.15 at 127.0.0.1:6379/0`, `embedded at DIR`; no secret in it. Does not ask the server.
    pub fn describe(&self) -> String {
        both!(self, s => s.describe())
    }

    /// Checks that the server answers, can run scripts and holds no newer format; makes `epoch` on first use.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        both!(self, s => s.prepare().await)
    }

    /// The store's clock, Unix ms.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        both!(self, s => s.now_ms().await)
    }

    /// A reader on a connection of its own, made at its first read and made anew after an error.
    pub fn reader(&self) -> Reader {
        match self {
            Store::Redis(s) => Reader::Redis(Box::new(s.reader())),
            Store::Embedded(s) => Reader::Embedded(s.reader()),
        }
    }

    /// A follower on a connection of its own, made at its first read and made anew after an error.
    pub fn tail(&self) -> Tail {
        match self {
            Store::Redis(s) => Tail::Redis(Box::new(s.tail())),
            Store::Embedded(s) => Tail::Embedded(s.tail()),
        }
    }

    /// `None`: there is no such stream (yet).
    pub async fn stream_info(&self, stream: &str) -> Result<Result<Option<StreamInfo>, StreamFault>, StoreError> {
        both!(self, s => s.stream_info(stream).await)
    }

    /// Entries in `(after, to]`, at most `count`, for replays; does not block.
    pub async fn stream_range(&self, stream: &str, after: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, StoreError> {
        both!(self, s => s.stream_range(stream, after, to, count).await)
    }

    /// Keys of type stream that match a glob (`*`, `?`, `[…]`), sorted, ours left out.
    pub async fn find_streams(&self, glob: &str) -> Result<Vec<String>, StoreError> {
        both!(self, s => s.find_streams(glob).await)
    }

    /// Appends to an audit stream: only `emit` and the demo do that. Gives the entries' ids.
    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        both!(self, s => s.append(stream, entries).await)
    }

    /// Appends to the intake, each item at most once per `dedup` within `dedup_ttl`; answers in order, after it is stored.
    pub async fn intake(&self, items: &[IntakeItem], dedup_ttl: Duration) -> Result<Vec<Taken>, StoreError> {
        both!(self, s => s.intake(items, dedup_ttl).await)
    }

    /// The intake stream's key.
    pub fn intake_stream(&self) -> String {
        both!(self, s => s.intake_stream())
    }

    /// Takes the lease if it is free, expired or ours already, else says who has it. `known_fence` is the highest number this
    /// node has seen: a store that lost its own never gives a smaller one.
    pub async fn lease(&self, node: &str, known_fence: u64) -> Result<Lease, StoreError> {
        both!(self, s => s.lease(node, known_fence).await)
    }

    /// Gives the lease back, if it is still ours.
    pub async fn release(&self, node: &str, fence: u64) -> Result<(), StoreError> {
        both!(self, s => s.release(node, fence).await)
    }

    /// The commit: all or nothing, and nothing with a fencing number that is not the current one. After `Unavailable` it may
    /// have been taken: asked again unchanged, before any other, it is not taken twice and gives its first answer.
    pub async fn commit(&self, commit: &Commit) -> Result<Committed, StoreError> {
        both!(self, s => s.commit(commit).await)
    }

    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        both!(self, s => s.recover().await)
    }

    /// The alert log in `(after, …]`, ascending, at most `limit`.
    pub async fn log_read(&self, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        both!(self, s => s.log_read(after, limit).await)
    }

    pub async fn log_bounds(&self) -> Result<LogBounds, StoreError> {
        both!(self, s => s.log_bounds().await)
    }

    /// Puts back what the store lost: entries with the positions they had, the epoch they belong to. Only where the log's head
    /// is the entry before the first of them (or the log is empty and new). Fenced.
    pub async fn log_restore(&self, fence: u64, epoch: &str, entries: &[LogEntry]) -> Result<(), StoreError> {
        both!(self, s => s.log_restore(fence, epoch, entries).await)
    }

    /// The last transition of an alert that is kept.
    pub async fn alert(&self, alert_id: &str) -> Result<Option<LogEntry>, StoreError> {
        both!(self, s => s.alert(alert_id).await)
    }

    /// The last transition of each alert that is firing, in log order.
    pub async fn firing(&self) -> Result<Vec<LogEntry>, StoreError> {
        both!(self, s => s.firing().await)
    }

    /// The commit log in `(after, …]`, ascending, at most `limit`.
    pub async fn commits(&self, after: u64, limit: usize) -> Result<Vec<CommitRecord>, StoreError> {
        both!(self, s => s.commits(after, limit).await)
    }

    /// Number of the oldest commit record kept; 0 when there is none.
    pub async fn first_commit(&self) -> Result<u64, StoreError> {
        both!(self, s => s.first_commit().await)
    }

    /// Stores a snapshot in parts, its manifest last; keeps the one before. Fenced.
    pub async fn snapshot_put(&self, fence: u64, snapshot: &Snapshot) -> Result<(), StoreError> {
        both!(self, s => s.snapshot_put(fence, snapshot).await)
    }

    /// The newest snapshot whose parts are all there and whose checksum holds, then the one before it.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, StoreError> {
        both!(self, s => s.snapshots().await)
    }

    /// `security:metrics:{unix seconds}` (contract §4): once, whatever the number of nodes.
    pub async fn metrics_put(&self, unix_s: u64, json: &str, ttl: Duration) -> Result<(), StoreError> {
        both!(self, s => s.metrics_put(unix_s, json, ttl).await)
    }

    /// Snapshots at or after `since_s`, ascending: (unix seconds, JSON). At most `limit`, the newest.
    pub async fn metrics_history(&self, since_s: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        both!(self, s => s.metrics_history(since_s, limit).await)
    }

    /// The newest dead letters, newest first.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        both!(self, s => s.dead_letters(limit).await)
    }

    /// Counts for all nodes, in fixed windows that begin with a client's first count, each by itself and atomically; one question
    /// for all. `None` where one cannot be counted (a key of another kind, no room). Redis: a key that expires; embedded: memory.
    pub async fn rate_count(&self, counts: &[Rate], window: Duration) -> Result<Vec<Option<Used>>, StoreError> {
        both!(self, s => s.rate_count(counts, window).await)
    }

    /// Where a bridge stands, as it wrote it down.
    pub async fn bookmark(&self, name: &str) -> Result<Option<String>, StoreError> {
        both!(self, s => s.bookmark(name).await)
    }

    pub async fn set_bookmark(&self, name: &str, text: &str) -> Result<(), StoreError> {
        both!(self, s => s.set_bookmark(name, text).await)
    }

    /// Counts these deduplication keys as taken without taking anything in.
    pub async fn mark_seen(&self, keys: &[String], ttl: Duration) -> Result<(), StoreError> {
        both!(self, s => s.mark_seen(keys, ttl).await)
    }

    /// What the server says of itself (`redis_version`, `maxmemory_policy`, …); nothing for the embedded store.
    pub async fn server_info(&self) -> Result<BTreeMap<String, String>, StoreError> {
        match self {
            Store::Redis(s) => s.server_info().await,
            Store::Embedded(_) => Ok(BTreeMap::new()),
        }
    }

    /// Who auditcast is to the server: `user`, `flags`, `commands`, `keys`; nothing for the embedded store.
    pub async fn acl(&self) -> Result<BTreeMap<String, String>, StoreError> {
        match self {
            Store::Redis(s) => s.acl().await,
            Store::Embedded(_) => Ok(BTreeMap::new()),
        }
    }

    /// Keys of A's that match `pattern` (`audit:event:*`), in pages: (next cursor, keys). Cursor 0 starts and ends a round.
    pub async fn scan_keys(&self, pattern: &str, cursor: u64) -> Result<(u64, Vec<String>), StoreError> {
        both!(self, s => s.scan_keys(pattern, cursor).await)
    }

    /// The values of A's keys as JSON text (a JSON string as it is, a hash as an object); `None` where there is none (any more).
    pub async fn key_values(&self, keys: &[String]) -> Result<Vec<Option<String>>, StoreError> {
        both!(self, s => s.key_values(keys).await)
    }

    /// Listens to a channel, or to all that match a glob. Lossy by nature: after an error, subscribe again.
    pub async fn subscribe(&self, pattern: &str) -> Result<redis::Subscription, StoreError> {
        match self {
            Store::Redis(s) => s.subscribe(pattern).await,
            Store::Embedded(_) => Err(StoreError::Refused("the embedded store has no channels".to_owned())),
        }
    }

    /// Number of the Redis database, as keyspace notifications (`__keyspace@0__:…`) name it; 0 for the embedded store.
    pub fn database(&self) -> u32 {
        match self {
            Store::Redis(s) => s.database(),
            Store::Embedded(_) => 0,
        }
    }

    /// Connections lost and made anew, for `auditcast_store_reconnects_total`.
    pub fn reconnects(&self) -> u64 {
        both!(self, s => s.reconnects())
    }

    /// Flushes and closes; nothing may be asked of the store afterwards.
    pub async fn close(&self) {
        both!(self, s => s.close().await)
    }
}
