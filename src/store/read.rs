//! Reading streams from positions of the caller's, and following the logs: what both engines give, in one shape.

use std::{fmt, time::Duration};

use super::{CommitRecord, Entry, LogEntry, StoreError, embedded, redis};
use crate::event::EntryId;

/// What one bulk read gave.
#[derive(Debug, Default)]
pub struct ReadReply {
    /// The store's clock before the read was asked for, and after it was answered (Unix ms). Every entry that was in a stream
    /// at `before_ms` and above the cursor is in the reply, unless the stream's reply is `full`.
    pub before_ms: u64,
    pub after_ms: u64,
    /// How long ago that was at most, where it was asked ahead.
    pub age: Duration,
    /// Only streams with entries, in the order asked.
    pub streams: Vec<StreamEntries>,
    /// Streams that could not be read: not a stream, no permission. The others were read all the same.
    pub faults: Vec<(usize, StreamFault)>,
}

#[derive(Debug)]
pub struct StreamEntries {
    /// Index into the cursors of the request.
    pub index: usize,
    pub entries: Vec<Entry>,
    /// `count` entries came: there may be more.
    pub full: bool,
}

/// Why one stream cannot be read while others can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFault {
    WrongType(String),
    Forbidden(String),
    Other(String),
}

impl fmt::Display for StreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamFault::WrongType(_) => f.write_str("the key holds something else than a stream"),
            StreamFault::Forbidden(text) | StreamFault::Other(text) => f.write_str(text),
        }
    }
}

/// Bulk reads of audit streams, over a connection of its own. One per monitor.
pub enum Reader {
    Redis(Box<redis::Reader>),
    Embedded(embedded::Reader),
}

/// Follows the alert log or the commit log, over a connection of its own.
pub enum Tail {
    Redis(Box<redis::Tail>),
    Embedded(embedded::Tail),
}

impl Reader {
    /// Reads all streams above their cursors, at most `count` entries each. Waits up to `block` for the first entry; zero: not at all.
    /// A read that is dropped loses nothing.
    pub async fn read<S: AsRef<str>>(
        &mut self,
        cursors: &[(S, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<ReadReply, StoreError> {
        match self {
            Reader::Redis(r) => r.read(cursors, count, block).await,
            Reader::Embedded(r) => r.read(cursors, count, block).await,
        }
    }

    /// Asks for what the next [`Reader::read`] will want and does not wait for it, so that the server works while the last
    /// reply is worked on. If that read then wants something else, what was asked for is read and dropped.
    pub async fn ask_ahead<S: AsRef<str>>(&mut self, cursors: &[(S, EntryId)], count: usize) {
        match self {
            Reader::Redis(r) => r.ask_ahead(cursors, count).await,
            // Its reads are in this process.
            Reader::Embedded(_) => {}
        }
    }
}

impl Tail {
    /// The alert log above `after`; waits up to `block` for the first entry. Cancel-safe: what is not returned is read again.
    pub async fn alerts(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<LogEntry>, StoreError> {
        match self {
            Tail::Redis(t) => t.alerts(after, limit, block).await,
            Tail::Embedded(t) => t.alerts(after, limit, block).await,
        }
    }

    /// The commit log above `after`; waits up to `block` for the first record.
    pub async fn commits(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<CommitRecord>, StoreError> {
        match self {
            Tail::Redis(t) => t.commits(after, limit, block).await,
            Tail::Embedded(t) => t.commits(after, limit, block).await,
        }
    }

    /// Waits so long between two reads, or less where the connection is lost meanwhile: the next read tells of it at once.
    pub async fn rest(&mut self, pause: Duration) {
        match self {
            Tail::Redis(t) => t.rest(pause).await,
            Tail::Embedded(_) => tokio::time::sleep(pause).await,
        }
    }
}
