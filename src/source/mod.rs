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
}

/// Where a source is read from when the store has never seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Now,
    Ago(Duration),
}
