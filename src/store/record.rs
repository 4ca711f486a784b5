//! Records of people's accounts: short texts by name, changed only by who has seen what stands there. What is in them is
//! [`auth`](crate::auth)'s; both engines keep them apart from everything an application may write.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// Longest name of a record, bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest text of a record, bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// What kind of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// People who may sign in. When it is full, new ones are refused.
    People,
    /// Failed attempts at signing in, with an end. When it is full, the one that ends first goes.
    Attempts,
}

impl Table {
    /// Records kept at most.
    pub fn most(self) -> u64 {
        match self {
            Table::People => 10_000,
            Table::Attempts => 100_000,
        }
    }

    pub(super) fn evicts(self) -> bool {
        self == Table::Attempts
    }
}

/// A record's text. There are digests of passwords in it, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Body(pub String);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// One change of one record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    pub table: Table,
    pub name: String,
    /// What the caller has seen there; `None`: no record.
    pub before: Option<Body>,
    /// What shall stand there; `None` deletes.
    pub after: Option<Body>,
    /// By the store's clock, from now, ms; `None`: no end.
    pub ttl_ms: Option<u64>,
}

impl Change {
    pub fn ttl(mut self, ttl: Duration) -> Change {
        self.ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// Refuses what is too long to be kept.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let bytes = self.after.as_ref().map_or(0, |body| body.0.len());
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || bytes > BODY_BYTES_MAX {
            return Err(StoreError::Broken(format!(
                "a record with a name of {} bytes and a text of {bytes} is not kept (1 to {NAME_BYTES_MAX}, at most {BODY_BYTES_MAX})",
                self.name.len()
            )));
        }
        Ok(())
    }
}

/// What became of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    /// It stands there now, or did already.
    Done,
    /// Something else stands there than what the caller has seen: look again.
    Other,
    /// [`Table::most`] are there.
    Full,
}

impl Store {
    /// What stands under a name. One whose end is over may still be there.
    pub async fn record(&self, table: Table, name: &str) -> Result<Option<Body>, StoreError> {
        match self {
            Store::Redis(s) => s.record(table, name).await,
            Store::Embedded(s) => s.record(table, name).await,
        }
    }

    /// Changes a record if what stands there is what the caller has seen. Asked again unchanged it is done once.
    pub async fn record_change(&self, change: &Change) -> Result<Changed, StoreError> {
        change.check()?;
        match self {
            Store::Redis(s) => s.record_change(change).await,
            Store::Embedded(s) => s.record_change(change).await,
        }
    }

    /// Names and texts above `after`, by name, at most `limit`.
    pub async fn records(&self, table: Table, after: &str, limit: usize) -> Result<Vec<(String, Body)>, StoreError> {
        match self {
            Store::Redis(s) => s.records(table, after, limit).await,
            Store::Embedded(s) => s.records(table, after, limit).await,
        }
    }
}
