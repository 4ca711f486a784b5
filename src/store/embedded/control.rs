//! DIR/control.sock: how commands reach the store of a running daemon.
//!
//! A Unix socket for its owner only (0600, and the peer's user is checked). One JSON object a line, a request and its answer
//! in turn. Bounded: [`LINE_BYTES_MAX`] a line either way, [`CONNECTIONS_MAX`] at a time, [`IDLE`] for a whole line to come or
//! to be taken. Longer answers come in pages: `more` says that there is one behind it.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Body, Change, Changed, DeadLetter, EmbeddedStore, IntakeItem, LogBounds, LogEntry, StoreError, StreamFault, StreamInfo,
    Table, Taken,
};
use crate::{event::EntryId, store::Grant};

mod client;
pub use client::{Access, ControlClient, connect};

/// The socket's name in the store's directory.
pub const SOCKET: &str = "control.sock";
/// A request or an answer with its line end.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// More are told so and closed.
pub const CONNECTIONS_MAX: usize = 16;
/// A connection that takes longer over a line is closed.
pub const IDLE: Duration = Duration::from_secs(10);
/// Of a line, what lists may fill.
const LIST_BYTES_MAX: usize = LINE_BYTES_MAX - 4096;
/// Rows looked at for one page.
const PAGE: usize = 1000;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Append {
        stream: String,
        entries: Vec<Vec<(String, String)>>,
    },
    Intake {
        items: Vec<IntakeItem>,
        dedup_ttl_ms: u64,
    },
    Alert {
        alert_id: String,
    },
    /// Those above `after`, a position in the alert log.
    Firing {
        after: u64,
    },
    LogRead {
        after: u64,
        limit: usize,
    },
    LogBounds,
    Blacklist {
        jti: String,
        ttl_ms: u64,
    },
    Blacklisted {
        jti: String,
    },
    CutOff {
        user_id: String,
        before_ms: u64,
    },
    CutOffOf {
        user_id: String,
    },
    /// What counts here.
    Permissions {
        user_id: String,
    },
    /// One key's.
    PermissionsAt {
        user_id: String,
        resource: Option<String>,
    },
    Grant {
        user_id: String,
        resource: Option<String>,
        names: Vec<String>,
        grant: Grant,
    },
    StreamInfo {
        stream: String,
    },
    /// Newest first, without the newest `skip`.
    DeadLetters {
        skip: usize,
        limit: usize,
    },
    Now,
    MetricsHistory {
        since_s: u64,
        limit: usize,
    },
    Record {
        table: Table,
        name: String,
    },
    RecordChange {
        change: Change,
    },
    /// Above the name `after`.
    Records {
        table: Table,
        after: String,
        limit: usize,
    },
    Status,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    Ids { ids: Vec<EntryId> },
    Taken { taken: Vec<Taken> },
    Alert { entry: Option<LogEntry> },
    Entries { entries: Vec<LogEntry>, more: bool },
    Bounds { bounds: LogBounds },
    Done,
    Known { known: bool },
    Time { ms: Option<u64> },
    Names { names: Vec<String> },
    Stream { info: Option<StreamInfo> },
    DeadLetters { letters: Vec<DeadLetter>, more: bool },
    Now { now_ms: u64 },
    Metrics { snapshots: Vec<(u64, String)>, more: bool },
    Record { body: Option<Body> },
    Changed { changed: Changed },
    Records { records: Vec<(String, Body)>, more: bool },
    Status { status: Status },
    Error { kind: ErrorKind, message: String },
}

/// Who answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's process.
    pub pid: u32,
    /// auditcast's version.
    pub version: String,
    /// `embedded at DIR`.
    pub store: String,
    pub now_ms: u64,
    pub bounds: LogBounds,
    /// Times the file was opened anew after a failed write.
    pub reopened: u64,
}

/// [`StoreError`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Unavailable,
    Fenced,
    Refused,
    Format,
    Broken,
    /// Not a request, or not one that this version knows.
    BadRequest,
}

impl From<StoreError> for Response {
    fn from(error: StoreError) -> Response {
        let kind = match &error {
            StoreError::Unavailable(_) => ErrorKind::Unavailable,
            StoreError::Fenced => ErrorKind::Fenced,
            StoreError::Refused(_) | StoreError::NoScripts(_) => ErrorKind::Refused,
            StoreError::Format(_) => ErrorKind::Format,
            StoreError::Broken(_) => ErrorKind::Broken,
        };
        Response::Error { kind, message: error.to_string() }
    }
}

impl ErrorKind {
    fn error(self, message: String) -> StoreError {
        match self {
            ErrorKind::Unavailable => StoreError::Unavailable(message),
            ErrorKind::Fenced => StoreError::Fenced,
            ErrorKind::Refused | ErrorKind::BadRequest => StoreError::Refused(message),
            ErrorKind::Format => StoreError::Format(message),
            ErrorKind::Broken => StoreError::Broken(message),
        }
    }
}

/// Serves the socket of `store`'s directory until `stop`; then the requests under way are answered and the socket is deleted.
///
/// # Errors
/// `AddrInUse` where somebody listens there already (one that nobody listens on is replaced), else what the system says.
pub async fn serve(store: EmbeddedStore, stop: CancellationToken) -> io::Result<()> {
    let place = Place::new(store.dir())?;
    let listener = bind(&place).await?;
    let owner = fs::metadata(&place.path)?.uid();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let ended = loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break Ok(()),
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Out of file descriptors, or the peer is gone: the next one may do, but not in a tight circle.
            Err(error) if error.raw_os_error().is_some_and(|code| code == 23 || code == 24) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => break Err(error),
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0) {
            continue;
        }
        let (store, stop) = (store.clone(), stop.clone());
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                connections.spawn(async move {
                    // How it ended is the client's business.
                    let _ = converse(stream, &store, &stop).await;
                    drop(place);
                });
            }
            Err(_) => {
                let message = format!("{CONNECTIONS_MAX} connections are open already");
                let line = encode(&Response::Error { kind: ErrorKind::Unavailable, message });
                // A few bytes into an empty buffer, or not at all.
                let _ = stream.try_write(&line);
            }
        }
    };
    drop(listener);
    while connections.join_next().await.is_some() {}
    match fs::remove_file(&place.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => ended.and(Err(error)),
        _ => ended,
    }
}

/// Where the socket is, by a name that is short enough for a socket's address.
struct Place {
    path: PathBuf,
    /// The name may lead through it.
    _dir: fs::File,
}

impl Place {
    fn new(dir: &Path) -> io::Result<Place> {
        /// `sun_path` has 108 bytes on Linux.
        const PATH_BYTES_MAX: usize = 107;
        let handle = fs::File::open(dir)?;
        let path = dir.join(SOCKET);
        let path = if path.as_os_str().len() <= PATH_BYTES_MAX {
            path
        } else {
            PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))
        };
        Ok(Place { path, _dir: handle })
    }
}

async fn bind(place: &Place) -> io::Result<UnixListener> {
    match UnixStream::connect(&place.path).await {
        Ok(_) => {
            let text = format!("{} is listened on by another process", place.path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Left behind by a process that was killed: this one holds the directory.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(&place.path)?,
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(&place.path)?;
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn converse(stream: UnixStream, store: &EmbeddedStore, stop: &CancellationToken) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let line = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            line = timeout(IDLE, read_line(&mut read)) => line.map_err(|_| io::ErrorKind::TimedOut)??,
        };
        let response = match line {
            Line::End => return Ok(()),
            Line::TooLong => bad(format!("a line is longer than {LINE_BYTES_MAX} bytes")),
            Line::Text(line) => match serde_json::from_slice(&line) {
                Ok(request) => answer(store, request).await,
                Err(error) => bad(format!("not a request of this version: {error}")),
            },
        };
        timeout(IDLE, write.write_all(&encode(&response))).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

fn bad(message: String) -> Response {
    Response::Error { kind: ErrorKind::BadRequest, message }
}

enum Line {
    Text(Vec<u8>),
    TooLong,
    /// The peer has closed, perhaps within a line.
    End,
}

/// One that is too long is read to its end and forgotten.
async fn read_line<R: AsyncRead + Unpin>(read: &mut BufReader<R>) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let available = read.fill_buf().await?;
        if available.is_empty() {
            return Ok(Line::End);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or(available);
        too_long |= line.len() + part.len() >= LINE_BYTES_MAX;
        if too_long {
            line.clear();
        } else {
            line.extend_from_slice(part);
        }
        let used = end.map_or(available.len(), |end| end + 1);
        read.consume(used);
        if end.is_some() {
            return Ok(if too_long { Line::TooLong } else { Line::Text(line) });
        }
    }
}

/// The line, with its end.
fn encode(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap_or_default();
    if line.is_empty() || line.len() >= LINE_BYTES_MAX {
        let response = Response::Error { kind: ErrorKind::Broken, message: "the answer does not fit a line".to_owned() };
        line = serde_json::to_vec(&response).unwrap_or_default();
    }
    line.push(b'\n');
    line
}

/// As many from the front as fit a line, at least one; whether some are left.
fn page<T: Serialize>(mut items: Vec<T>) -> (Vec<T>, bool) {
    let mut bytes = 0;
    let mut fit = 0;
    for item in &items {
        bytes += size_of_json(item) + 1;
        if fit > 0 && bytes > LIST_BYTES_MAX {
            break;
        }
        fit += 1;
    }
    let more = fit < items.len();
    items.truncate(fit);
    (items, more)
}

fn size_of_json<T: Serialize>(item: &T) -> usize {
    serde_json::to_vec(item).map_or(LINE_BYTES_MAX, |json| json.len())
}

async fn answer(store: &EmbeddedStore, request: Request) -> Response {
    match ask(store, request).await {
        Ok(response) => response,
        Err(error) => error.into(),
    }
}

async fn ask(store: &EmbeddedStore, request: Request) -> Result<Response, StoreError> {
    Ok(match request {
        Request::Append { stream, entries } => Response::Ids { ids: store.append(&stream, &entries).await? },
        Request::Intake { items, dedup_ttl_ms } => {
            Response::Taken { taken: store.intake(&items, Duration::from_millis(dedup_ttl_ms)).await? }
        }
        Request::Alert { alert_id } => Response::Alert { entry: store.alert(&alert_id).await? },
        Request::Firing { after } => {
            let mut open = store.firing().await?;
            open.retain(|entry| entry.seq > after);
            let (entries, more) = page(open);
            Response::Entries { entries, more }
        }
        Request::LogRead { after, limit } => {
            // One more than can be given tells whether there is more.
            let limit = limit.min(PAGE);
            let mut found = store.log_read(after, limit + 1).await?;
            let behind = found.len() > limit;
            found.truncate(limit);
            let (entries, more) = page(found);
            Response::Entries { entries, more: more || behind }
        }
        Request::LogBounds => Response::Bounds { bounds: store.log_bounds().await? },
        Request::Blacklist { jti, ttl_ms } => {
            store.blacklist(&jti, Duration::from_millis(ttl_ms)).await?;
            Response::Done
        }
        Request::Blacklisted { jti } => Response::Known { known: store.blacklisted(&jti).await? },
        Request::CutOff { user_id, before_ms } => Response::Time { ms: Some(store.cut_off(&user_id, before_ms).await?) },
        Request::CutOffOf { user_id } => Response::Time { ms: store.revocations(&user_id, None).await?.1 },
        Request::Permissions { user_id } => Response::Names { names: store.permissions(&user_id).await? },
        Request::PermissionsAt { user_id, resource } => {
            Response::Names { names: store.permissions_at(&user_id, resource.as_deref()).await? }
        }
        Request::Grant { user_id, resource, names, grant } => {
            Response::Names { names: store.grant(&user_id, resource.as_deref(), &names, grant).await? }
        }
        Request::StreamInfo { stream } => match store.stream_info(&stream).await? {
            Ok(info) => Response::Stream { info },
            Err(StreamFault::WrongType(text) | StreamFault::Forbidden(text) | StreamFault::Other(text)) => {
                return Err(StoreError::Broken(text));
            }
        },
        Request::DeadLetters { skip, limit } => {
            let upto = skip.saturating_add(limit.min(PAGE));
            let mut found = store.dead_letters(upto.saturating_add(1)).await?;
            let behind = found.len() > upto;
            found.truncate(upto);
            found.drain(..skip.min(found.len()));
            let (letters, more) = page(found);
            Response::DeadLetters { letters, more: more || behind }
        }
        Request::Now => Response::Now { now_ms: store.now_ms().await? },
        Request::MetricsHistory { since_s, limit } => {
            let (snapshots, more) = page(store.metrics_history(since_s, limit).await?);
            Response::Metrics { snapshots, more }
        }
        Request::Record { table, name } => Response::Record { body: store.record(table, &name).await? },
        Request::RecordChange { change } => {
            change.check()?;
            Response::Changed { changed: store.record_change(&change).await? }
        }
        Request::Records { table, after, limit } => {
            let limit = limit.min(PAGE);
            let mut found = store.records(table, &after, limit + 1).await?;
            let behind = found.len() > limit;
            found.truncate(limit);
            let (records, more) = page(found);
            Response::Records { records, more: more || behind }
        }
        Request::Status => Response::Status {
            status: Status {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                store: store.describe(),
                now_ms: store.now_ms().await?,
                bounds: store.log_bounds().await?,
                reopened: store.reconnects(),
            },
        },
    })
}

/// Sends one request, reads one answer.
async fn exchange<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    read: &mut BufReader<R>,
    write: &mut W,
    line: &[u8],
) -> io::Result<Vec<u8>> {
    write.write_all(line).await?;
    match read_line(read).await? {
        Line::Text(line) => Ok(line),
        Line::TooLong => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long")),
        Line::End => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
