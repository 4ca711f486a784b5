//! The store on Redis 6.2 or newer, or Valkey. Nothing here needs CONFIG, KEYS, MONITOR, FLUSH or functions.
//!
//! | file | subject |
//! |---|---|
//! | `connect` | the shared connection, what an error means |
//! | `direct` | a connection for the commit, which alerts wait for, and for looks at streams |
//! | `scripts`, `lua/` | what must be atomic |
//! | `value` | taking replies apart |
//! | `reader` | bulk reads of streams |
//! | `resp` | the protocol by hand, for those three: parsers and socket |
//! | `tail` | following the logs |
//! | `streams` | looking at streams, appending to them |
//! | `log` | the commit, the alert log, the commit log, recovery |
//! | `lease`, `snapshot` | what the names say |
//! | `bridge` | the intake, A's keys, channels |
//! | `record` | people's accounts |
//! | `shared`, `permissions` | keys of the application: metrics, blacklist; permissions |
//! | `rate` | counts of what clients do, as the application counts |
//! | `watch` | word of changes to those keys |

mod acl;
mod bridge;
mod connect;
mod direct;
mod lease;
mod log;
mod permissions;
mod rate;
mod reader;
mod record;
pub mod resp;
mod scripts;
mod shared;
mod snapshot;
mod streams;
mod tail;
mod value;
mod watch;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use redis::{Pipeline, Value, cmd};

pub use self::{bridge::Subscription, reader::Reader, tail::Tail, watch::Watch};
use self::{connect::Link, direct::Direct, scripts::hex};
use super::{
    Commit, CommitRecord, Committed, DeadLetter, Entry, IntakeItem, Lease, LogBounds, LogEntry, Options, ReadReply, Recovered,
    Snapshot, Standing, StoreError, StreamEntries, StreamFault, StreamInfo, Taken,
};
use crate::event::EntryId;

/// What this version writes into `P:meta`.
const FORMAT: u64 = 1;
/// What is asked for at once is at most this.
const COUNT_MAX: usize = 1_000_000;

/// Cheap to clone; every clone has the same connections.
#[derive(Clone)]
pub struct RedisStore {
    link: Arc<Link>,
    /// For the commit and for looks at streams.
    direct: Arc<Direct>,
    options: Arc<Options>,
    keys: Arc<Keys>,
    /// `Redis 7.0.15`, once `prepare` has seen it.
    server: Arc<Mutex<Option<String>>>,
}

/// Names of the keys under the prefix.
struct Keys {
    prefix: String,
    meta: String,
    lease: String,
    alerts: String,
    state: String,
    open: String,
    done: String,
    commits: String,
    snapshots: String,
    dead: String,
    dead_seen: String,
    intake: String,
    seen: String,
    seen_ids: String,
    bookmarks: String,
    metrics: String,
    people: String,
    people_ends: String,
    attempts: String,
    attempts_ends: String,
    cutoffs: String,
}

impl Keys {
    fn new(prefix: &str) -> Keys {
        let key = |name: &str| format!("{prefix}:{name}");
        Keys {
            prefix: key(""),
            meta: key("meta"),
            lease: key("lease"),
            alerts: key("alerts"),
            state: key("state"),
            open: key("open"),
            done: key("done"),
            commits: key("commits"),
            snapshots: key("snapshots"),
            dead: key("deadletter"),
            dead_seen: key("deadletter:seen"),
            intake: key("intake"),
            seen: key("seen"),
            seen_ids: key("seen:ids"),
            bookmarks: key("bookmarks"),
            metrics: key("metrics"),
            people: key("people"),
            people_ends: key("people:ends"),
            attempts: key("attempts"),
            attempts_ends: key("attempts:ends"),
            cutoffs: key("cutoffs"),
        }
    }
}

impl RedisStore {
    /// Reads the URL; does not connect. `Refused` for a URL that cannot be used, without quoting it.
    pub fn open(url: &str, options: Options) -> Result<RedisStore, StoreError> {
        let keys = Keys::new(&options.prefix);
        let link = Arc::new(Link::open(url)?);
        Ok(RedisStore {
            direct: Arc::new(Direct::new(link.clone())),
            link,
            options: Arc::new(options),
            keys: Arc::new(keys),
            server: Arc::default(),
        })
    }

    pub fn describe(&self) -> String {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let name = server.as_deref().unwrap_or("Redis");
        format!("{name} at {}/{}", self.link.address, self.link.database)
    }

    /// Number of the database in the URL, as keyspace notifications name it.
    pub fn database(&self) -> u32 {
        self.link.database
    }

    pub async fn prepare(&self) -> Result<(), StoreError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("server");
        pipeline.cmd("INFO").arg("replication");
        // An ACL may forbid INFO; then the scripts below tell what must be known.
        let info: String = self
            .link
            .ask(&pipeline)
            .await?
            .into_iter()
            .filter(|reply| !matches!(reply, Value::ServerError(error) if error.code() == "NOPERM"))
            .map(|reply| self.link.reply(Some(reply)).map(|value| value::text(value).unwrap_or_default()))
            .collect::<Result<_, _>>()?;
        let line = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let at = &self.link.address;
        if let Some(version) = line("redis_version") {
            let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
            if (numbers.next(), numbers.next()) < (Some(6), Some(2)) {
                return Err(StoreError::Refused(format!("Redis at {at} is {version}, auditcast needs 6.2 or newer")));
            }
            let name = match line("valkey_version") {
                Some(version) => format!("Valkey {version}"),
                None => format!("Redis {version}"),
            };
            *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(name);
        }
        if line("role").is_some_and(|role| role == "slave" || role == "replica") {
            return Err(StoreError::Unavailable(format!("Redis at {at} is a replica, writes are refused")));
        }
        let format = match self
            .link
            .run(&scripts::FIRST, &[&self.keys.meta, &self.keys.alerts, &self.keys.commits], &[FORMAT.to_string(), random()])
            .await
        {
            Err(StoreError::Broken(text)) if text.contains("WRONGTYPE") => {
                return Err(StoreError::Format(format!(
                    "the key {} at {at} is not auditcast's: give store.prefix another value",
                    self.keys.meta
                )));
            }
            reply => reply?,
        };
        match value::number(&format) {
            Some(FORMAT) => Ok(()),
            Some(newer) if newer > FORMAT => Err(StoreError::Format(format!(
                "the data under {} at {at} has format {newer}, this version reads up to {FORMAT}",
                self.options.prefix
            ))),
            _ => Err(StoreError::Format(format!("the key {} at {at} is not auditcast's", self.keys.meta))),
        }
    }

    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        let reply = self.link.one(cmd("TIME")).await?;
        value::time_ms(reply).ok_or_else(|| self.link.garbled())
    }

    pub fn reader(&self) -> Reader {
        Reader::new(self.link.clone())
    }

    pub fn tail(&self) -> Tail {
        Tail::new(self.link.clone(), self.keys.clone())
    }

    pub fn watch(&self) -> Watch {
        Watch::new(self.link.clone(), self.keys.clone())
    }

    pub fn reconnects(&self) -> u64 {
        self.link.reconnects.load(Ordering::Relaxed)
    }

    pub async fn close(&self) {
        self.link.close();
        self.direct.close();
    }
}

/// The items in order, in parts of at most so many and so many bytes; what is larger is a part by itself.
fn parts<T>(items: &[T], count: usize, bytes: usize, size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |item: &&T| {
            sum += size(item);
            sum <= bytes
        };
        let fitting = rest.iter().take(count).take_while(fits).count().max(1);
        let (part, after) = rest.split_at_checked(fitting)?;
        rest = after;
        Some(part)
    })
}

/// 16 hexadecimal characters nobody else has drawn.
fn random() -> String {
    let mut bytes = [0; 8];
    // The system's generator fails only where nothing cryptographic would work; the clock then tells epochs apart.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes.copy_from_slice(&(now.as_nanos() as u64).to_be_bytes());
    }
    hex(&bytes)
}
