//! How commands reach the store: Redis directly; on an embedded one the running daemon, or the files where none runs.

use std::{collections::BTreeMap, time::Duration};

use tokio::time;

use super::{Failure, terminal};
use crate::{
    auth::journal::{self, Entry},
    config::Config,
    event::EntryId,
    metrics::unix_ms,
    store::{
        Grant, Store, StoreError, StreamFault, StreamInfo, Target, check_name,
        embedded::control::Access,
        record::{Body, Change, Changed, Table},
    },
};

/// For the first answer of a store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries of commands have no key to be known by.
const NOTED_ONCE: Duration = Duration::from_secs(1);

pub(super) enum Reach {
    Redis(Store),
    Embedded(Access),
}

impl Reach {
    /// A store that has answered.
    pub async fn open(config: &Config) -> Result<Reach, StoreError> {
        let opened = async {
            Ok(match &config.store.target {
                Target::Embedded(dir) => Reach::Embedded(Access::open(dir, config.store.clone()).await?),
                Target::Redis(_) => {
                    let store = Store::open(config.store.clone()).await?;
                    store.prepare().await?;
                    Reach::Redis(store)
                }
            })
        };
        let late = || StoreError::Unavailable(format!("{} did not answer within 10s", config.store_shown()));
        time::timeout(ANSWER_TIMEOUT, opened).await.unwrap_or_else(|_| Err(late()))
    }

    /// As [`Reach::open`], for a command that cannot do without: `what` is what it wanted to do.
    pub async fn need(config: &Config, what: &str) -> Result<Reach, Failure> {
        Reach::open(config).await.map_err(|error| failed(what, &error))
    }

    pub fn describe(&self) -> String {
        match self {
            Reach::Redis(store) => store.describe(),
            Reach::Embedded(access) => access.describe(),
        }
    }

    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        match self {
            Reach::Redis(store) => store.append(stream, entries).await,
            Reach::Embedded(access) => access.append(stream, entries).await,
        }
    }

    /// Notes what a command did in auditcast's own audit trail, as done by the shell's user. That it could not be noted is told and
    /// does not undo it.
    pub async fn note(&self, config: &Config, entry: Entry) {
        if !config.journal.enabled {
            return;
        }
        let items = journal::items(&[entry.by(&actor())], unix_ms());
        let noted = match self {
            Reach::Redis(store) => store.intake(&items, NOTED_ONCE).await,
            Reach::Embedded(access) => access.intake(&items, NOTED_ONCE).await,
        };
        if let Err(error) = noted {
            tracing::warn!("this is not in auditcast's own audit trail: {}", terminal::plain(&error.to_string()));
        }
    }

    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        match self {
            Reach::Redis(store) => store.blacklist(jti, ttl).await,
            Reach::Embedded(access) => access.blacklist(jti, ttl).await,
        }
    }

    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        match self {
            Reach::Redis(store) => store.blacklisted(jti).await,
            Reach::Embedded(access) => access.blacklisted(jti).await,
        }
    }

    pub async fn cut_off(&self, user_id: &str, before_ms: u64) -> Result<u64, StoreError> {
        check_name("a user id", user_id)?;
        match self {
            Reach::Redis(store) => store.cut_off(user_id, before_ms).await,
            Reach::Embedded(access) => access.cut_off(user_id, before_ms).await,
        }
    }

    pub async fn cut_off_of(&self, user_id: &str) -> Result<Option<u64>, StoreError> {
        match self {
            Reach::Redis(store) => Ok(store.revocations(user_id, None).await?.1),
            Reach::Embedded(access) => access.cut_off_of(user_id).await,
        }
    }

    /// What the store grants a user beside the token.
    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Reach::Redis(store) => store.permissions(user_id).await,
            Reach::Embedded(access) => access.permissions(user_id).await,
        }
    }

    /// What one key grants: the user's own, or his for a resource.
    pub async fn permissions_at(&self, user_id: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
        match self {
            Reach::Redis(store) => store.permissions_at(user_id, resource).await,
            Reach::Embedded(access) => access.permissions_at(user_id, resource).await,
        }
    }

    pub async fn grant(
        &self,
        user_id: &str,
        resource: Option<&str>,
        names: &[String],
        grant: Grant,
    ) -> Result<Vec<String>, StoreError> {
        match self {
            Reach::Redis(store) => store.grant(user_id, resource, names, grant).await,
            Reach::Embedded(access) => access.grant(user_id, resource, names, grant).await,
        }
    }

    pub async fn record(&self, table: Table, name: &str) -> Result<Option<Body>, StoreError> {
        match self {
            Reach::Redis(store) => store.record(table, name).await,
            Reach::Embedded(access) => access.record(table, name).await,
        }
    }

    pub async fn record_change(&self, change: &Change) -> Result<Changed, StoreError> {
        match self {
            Reach::Redis(store) => store.record_change(change).await,
            Reach::Embedded(access) => access.record_change(change).await,
        }
    }

    pub async fn records(&self, table: Table, after: &str, limit: usize) -> Result<Vec<(String, Body)>, StoreError> {
        match self {
            Reach::Redis(store) => store.records(table, after, limit).await,
            Reach::Embedded(access) => access.records(table, after, limit).await,
        }
    }

    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        match self {
            Reach::Redis(store) => store.now_ms().await,
            Reach::Embedded(access) => access.now_ms().await,
        }
    }

    /// The streams of these names and globs, with what the store says of each. Globs of an embedded store are only looked up where
    /// its files are ours.
    pub async fn streams(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, Result<Option<StreamInfo>, StreamFault>>, StoreError> {
        let mut streams = BTreeMap::new();
        for name in names {
            let found = match self {
                Reach::Redis(store) if is_glob(name) => store.find_streams(name).await?,
                Reach::Embedded(Access::Direct(store)) if is_glob(name) => store.find_streams(name).await?,
                Reach::Embedded(Access::Control(_)) if is_glob(name) => continue,
                _ => vec![name.clone()],
            };
            if found.is_empty() {
                streams.insert(name.clone(), Ok(None));
            }
            for stream in found {
                let info = match self {
                    Reach::Redis(store) => store.stream_info(&stream).await?,
                    Reach::Embedded(access) => Ok(access.stream_info(&stream).await?),
                };
                streams.insert(stream, info);
            }
        }
        Ok(streams)
    }

    pub async fn close(self) {
        match self {
            Reach::Redis(store) => store.close().await,
            Reach::Embedded(access) => access.close().await,
        }
    }
}

/// Who gives the command: `cli:` and the shell's user.
pub(super) fn actor() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|n| !n.is_empty()));
    format!("cli:{}", named.as_deref().unwrap_or("unknown"))
}

pub(super) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// What to do about a store that fails so: one thing, and nothing where the error says it itself.
pub(super) fn remedy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(text) if text.contains("is a replica") => "give REDIS_URL the address of the primary",
        StoreError::Unavailable(text) if text.contains("maxmemory") => "give it more memory, or let it keep less",
        StoreError::Unavailable(text) if text.contains("loading") || text.contains("cannot serve now") => "wait until it is done",
        StoreError::Unavailable(text) if text.contains("Redis") => "start it, or correct REDIS_URL",
        StoreError::Refused(text) if text.contains("forbids") => "let the user of auditcast do it (ACL, see the README)",
        _ => "",
    }
}

/// `could not append the events: Redis at 127.0.0.1:6379 refused the connection`.
pub(super) fn failed(what: &str, error: &StoreError) -> Failure {
    Failure::run(format!("could not {what}: {}", terminal::plain(&error.to_string())))
}
