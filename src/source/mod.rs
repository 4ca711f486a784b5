//! Bridges in: A's keys, pub/sub channels, files. They append to the intake of the store and are read back from it, so there
//! is one way in. Streams need no bridge: the monitor reads them.

use std::{path::PathBuf, time::Duration};

use jiff::tz::TimeZone;

/// One `[[source]]`.
#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    pub kind: Kind,
    pub start: Start,
    /// For times without a zone; UTC by default.
    pub timezone: TimeZone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys or globs of streams.
    Stream { streams: Vec<String> },
    /// A's keys, `audit:event:*`.
    Keys { pattern: String },
    /// A pub/sub channel or pattern.
    Channel { pattern: String },
    /// JSON lines.
    File { path: PathBuf },
    /// `POST /api/v1/events`: the built-in source `http`.
    Http,
    /// auditcast's own: the built-in source `auditcast`.
    Journal,
}

/// Where a source is read from when the store has never seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Now,
    Ago(Duration),
}

/// Name of the built-in source that `POST /api/v1/events` feeds.
pub const HTTP: &str = "http";
/// Name of the built-in source of what auditcast says about itself.
pub const JOURNAL: &str = crate::auth::journal::SOURCE;

mod channel;
mod file;
mod keys;

use tokio_util::sync::CancellationToken;

use crate::store::{IntakeItem, Store, StoreError};

/// Runs one bridge until told to stop; what fails is told once and tried again. Streams, HTTP and the journal have none.
pub async fn bridge(options: Options, store: Store, stop: CancellationToken) {
    let name = options.name.clone();
    let mut pause = FIRST_PAUSE;
    let mut down = false;
    while !stop.is_cancelled() {
        let run = async {
            match &options.kind {
                Kind::Stream { .. } | Kind::Http | Kind::Journal => std::future::pending().await,
                Kind::Keys { pattern } => keys::run(&options, pattern, &store).await,
                Kind::Channel { pattern } => channel::run(&options, pattern, &store).await,
                Kind::File { path } => file::run(&options, path, &store).await,
            }
        };
        let begun = tokio::time::Instant::now();
        let error: BridgeError = tokio::select! {
            error = run => error,
            () = stop.cancelled() => return,
        };
        if begun.elapsed() > LONGEST_PAUSE {
            // It worked for a while: this is a new failure.
            (pause, down) = (FIRST_PAUSE, false);
        }
        if !std::mem::replace(&mut down, true) {
            tracing::warn!("the source {name} cannot be read, trying again: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Items handed to the store at a time.
const BATCH_MAX: usize = 500;
/// A key or a line is taken once within this time: longer than A's application keeps them.
const SEEN_TTL: Duration = Duration::from_secs(400 * 86_400);
/// Longest event text; one byte more is enough for the decoder to refuse it (contract §3).
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Why a bridge had to begin anew.
#[derive(Debug)]
enum BridgeError {
    Store(StoreError),
    Io(String),
}

impl std::fmt::Display for BridgeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BridgeError::Store(error) => error.fmt(f),
            BridgeError::Io(text) => f.write_str(text),
        }
    }
}

impl From<StoreError> for BridgeError {
    fn from(error: StoreError) -> BridgeError {
        BridgeError::Store(error)
    }
}

/// An item of this source; a text longer than any event is cut where the decoder still sees that it is too long.
fn item(source: &str, dedup: Option<String>, text: &[u8]) -> IntakeItem {
    let text = &text[..text.len().min(EVENT_BYTES_MAX + 1)];
    IntakeItem { source: source.to_owned(), dedup, body: String::from_utf8_lossy(text).into_owned() }
}
