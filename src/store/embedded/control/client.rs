//! The commands' side of the socket, and [`Access`]: the store itself where no daemon runs, its daemon where one does.

use std::{io, path::PathBuf, time::Duration};

use serde::Serialize;
use tokio::{io::BufReader, net::UnixStream, time::timeout};

use super::{super::super::Options, *};

/// For one request and its answer; a slow disk is part of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a daemon that has the directory may take to listen on its socket.
const START_WITHIN: Duration = Duration::from_secs(5);
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Asks the daemon that runs on a directory. Each request has a connection of its own, so a cancelled one disturbs no other.
#[derive(Clone, Debug)]
pub struct ControlClient {
    dir: PathBuf,
}

/// Reaches the daemon that runs on `dir`.
///
/// # Errors
/// `Unavailable` where none listens.
pub async fn connect(dir: &Path) -> Result<ControlClient, StoreError> {
    let client = ControlClient { dir: dir.to_owned() };
    client.status().await?;
    Ok(client)
}

impl ControlClient {
    async fn ask(&self, request: &Request) -> Result<Response, StoreError> {
        let broken = |error: serde_json::Error| StoreError::Broken(format!("{}: {error}", self.socket()));
        let mut line = serde_json::to_vec(request).map_err(broken)?;
        if line.len() >= LINE_BYTES_MAX {
            return Err(StoreError::Refused(format!("a request of {} bytes is longer than {LINE_BYTES_MAX}", line.len())));
        }
        line.push(b'\n');
        let answer = timeout(ANSWER_WITHIN, self.send(&line)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let answer = answer.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "no daemon listens there".to_owned(),
                _ => error.to_string(),
            };
            StoreError::Unavailable(format!("{} cannot be reached: {why}", self.socket()))
        })?;
        match serde_json::from_slice(&answer).map_err(broken)? {
            Response::Error { kind, message } => Err(kind.error(message)),
            response => Ok(response),
        }
    }

    async fn send(&self, line: &[u8]) -> io::Result<Vec<u8>> {
        let place = Place::new(&self.dir)?;
        let (read, mut write) = UnixStream::connect(&place.path).await?.into_split();
        exchange(&mut BufReader::new(read), &mut write, line).await
    }

    fn socket(&self) -> String {
        self.dir.join(SOCKET).display().to_string()
    }

    fn odd<T>(&self, response: &Response) -> Result<T, StoreError> {
        let kind = serde_json::to_value(response).ok();
        let kind = kind.as_ref().and_then(|v| v.get("response")).and_then(|v| v.as_str()).unwrap_or("nothing");
        Err(StoreError::Broken(format!("{} answered {kind} to something else", self.socket())))
    }

    /// Appends in requests of a line each: an error may leave the front of a long list appended.
    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        let mut all = Vec::with_capacity(entries.len());
        for part in parts(entries) {
            let request = Request::Append { stream: stream.to_owned(), entries: part.to_vec() };
            match self.ask(&request).await? {
                Response::Ids { ids } => all.extend(ids),
                other => return self.odd(&other),
            }
        }
        Ok(all)
    }

    /// Like [`ControlClient::append`].
    pub async fn intake(&self, items: &[IntakeItem], dedup_ttl: Duration) -> Result<Vec<Taken>, StoreError> {
        let mut all = Vec::with_capacity(items.len());
        for part in parts(items) {
            let request = Request::Intake { items: part.to_vec(), dedup_ttl_ms: ms(dedup_ttl) };
            match self.ask(&request).await? {
                Response::Taken { taken } => all.extend(taken),
                other => return self.odd(&other),
            }
        }
        Ok(all)
    }

    pub async fn alert(&self, alert_id: &str) -> Result<Option<LogEntry>, StoreError> {
        match self.ask(&Request::Alert { alert_id: alert_id.to_owned() }).await? {
            Response::Alert { entry } => Ok(entry),
            other => self.odd(&other),
        }
    }

    pub async fn firing(&self) -> Result<Vec<LogEntry>, StoreError> {
        let mut all: Vec<LogEntry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.seq);
            match self.ask(&Request::Firing { after }).await? {
                Response::Entries { entries, more } => {
                    let end = !more || entries.is_empty();
                    all.extend(entries);
                    if end {
                        return Ok(all);
                    }
                }
                other => return self.odd(&other),
            }
        }
    }

    pub async fn log_read(&self, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let mut all: Vec<LogEntry> = Vec::new();
        loop {
            let after = all.last().map_or(after, |entry| entry.seq);
            match self.ask(&Request::LogRead { after, limit: limit.saturating_sub(all.len()) }).await? {
                Response::Entries { entries, more } => {
                    let end = !more || entries.is_empty();
                    all.extend(entries);
                    if end || all.len() >= limit {
                        return Ok(all);
                    }
                }
                other => return self.odd(&other),
            }
        }
    }

    pub async fn log_bounds(&self) -> Result<LogBounds, StoreError> {
        match self.ask(&Request::LogBounds).await? {
            Response::Bounds { bounds } => Ok(bounds),
            other => self.odd(&other),
        }
    }

    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        match self.ask(&Request::Blacklist { jti: jti.to_owned(), ttl_ms: ms(ttl) }).await? {
            Response::Done => Ok(()),
            other => self.odd(&other),
        }
    }

    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        match self.ask(&Request::Blacklisted { jti: jti.to_owned() }).await? {
            Response::Known { known } => Ok(known),
            other => self.odd(&other),
        }
    }

    pub async fn cut_off(&self, user_id: &str, before_ms: u64) -> Result<u64, StoreError> {
        match self.ask(&Request::CutOff { user_id: user_id.to_owned(), before_ms }).await? {
            Response::Time { ms: Some(ms) } => Ok(ms),
            other => self.odd(&other),
        }
    }

    pub async fn cut_off_of(&self, user_id: &str) -> Result<Option<u64>, StoreError> {
        match self.ask(&Request::CutOffOf { user_id: user_id.to_owned() }).await? {
            Response::Time { ms } => Ok(ms),
            other => self.odd(&other),
        }
    }

    async fn names(&self, request: &Request) -> Result<Vec<String>, StoreError> {
        match self.ask(request).await? {
            Response::Names { names } => Ok(names),
            other => self.odd(&other),
        }
    }

    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        self.names(&Request::Permissions { user_id: user_id.to_owned() }).await
    }

    pub async fn permissions_at(&self, user_id: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
        self.names(&Request::PermissionsAt { user_id: user_id.to_owned(), resource: resource.map(str::to_owned) }).await
    }

    pub async fn grant(
        &self,
        user_id: &str,
        resource: Option<&str>,
        names: &[String],
        grant: Grant,
    ) -> Result<Vec<String>, StoreError> {
        let (user_id, resource) = (user_id.to_owned(), resource.map(str::to_owned));
        self.names(&Request::Grant { user_id, resource, names: names.to_vec(), grant }).await
    }

    pub async fn stream_info(&self, stream: &str) -> Result<Option<StreamInfo>, StoreError> {
        match self.ask(&Request::StreamInfo { stream: stream.to_owned() }).await? {
            Response::Stream { info } => Ok(info),
            other => self.odd(&other),
        }
    }

    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let mut all = Vec::new();
        loop {
            match self.ask(&Request::DeadLetters { skip: all.len(), limit: limit.saturating_sub(all.len()) }).await? {
                Response::DeadLetters { letters, more } => {
                    let end = !more || letters.is_empty();
                    all.extend(letters);
                    if end || all.len() >= limit {
                        return Ok(all);
                    }
                }
                other => return self.odd(&other),
            }
        }
    }

    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        match self.ask(&Request::Now).await? {
            Response::Now { now_ms } => Ok(now_ms),
            other => self.odd(&other),
        }
    }

    pub async fn metrics_history(&self, since_s: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let mut all: Vec<(u64, String)> = Vec::new();
        loop {
            let since_s = all.last().map_or(since_s, |(unix_s, _)| unix_s.saturating_add(1));
            match self.ask(&Request::MetricsHistory { since_s, limit: limit.saturating_sub(all.len()) }).await? {
                Response::Metrics { snapshots, more } => {
                    let end = !more || snapshots.is_empty();
                    all.extend(snapshots);
                    if end || all.len() >= limit {
                        return Ok(all);
                    }
                }
                other => return self.odd(&other),
            }
        }
    }

    pub async fn record(&self, table: Table, name: &str) -> Result<Option<Body>, StoreError> {
        match self.ask(&Request::Record { table, name: name.to_owned() }).await? {
            Response::Record { body } => Ok(body),
            other => self.odd(&other),
        }
    }

    pub async fn record_change(&self, change: &Change) -> Result<Changed, StoreError> {
        match self.ask(&Request::RecordChange { change: change.clone() }).await? {
            Response::Changed { changed } => Ok(changed),
            other => self.odd(&other),
        }
    }

    pub async fn records(&self, table: Table, after: &str, limit: usize) -> Result<Vec<(String, Body)>, StoreError> {
        let mut all: Vec<(String, Body)> = Vec::new();
        loop {
            let after = all.last().map_or(after, |(name, _)| name).to_owned();
            match self.ask(&Request::Records { table, after, limit: limit.saturating_sub(all.len()) }).await? {
                Response::Records { records, more } => {
                    let end = !more || records.is_empty();
                    all.extend(records);
                    if end || all.len() >= limit {
                        return Ok(all);
                    }
                }
                other => return self.odd(&other),
            }
        }
    }

    pub async fn status(&self) -> Result<Status, StoreError> {
        match self.ask(&Request::Status).await? {
            Response::Status { status } => Ok(status),
            other => self.odd(&other),
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Cuts a list into pieces that fit a line; one item that does not fit stands alone and is refused.
fn parts<T: Serialize>(items: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fit = rest.iter().take_while(|item| {
            bytes += size_of_json(item) + 1;
            bytes <= LIST_BYTES_MAX
        });
        let (part, left) = rest.split_at_checked(fit.count().max(1))?;
        rest = left;
        Some(part)
    })
}

/// The store of a directory, whoever has it.
#[derive(Clone)]
pub enum Access {
    /// No daemon runs: the files, ours until [`Access::close`].
    Direct(EmbeddedStore),
    /// A daemon has them.
    Control(ControlClient),
}

macro_rules! either {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self {
            Access::Direct($inner) => $call,
            Access::Control($inner) => $call,
        }
    };
}

impl Access {
    /// The daemon that runs on `dir`, else the files. A daemon that is starting or ending is waited for, 5 s.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`] and [`connect`].
    pub async fn open(dir: &Path, options: Options) -> Result<Access, StoreError> {
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        loop {
            match connect(dir).await {
                Ok(client) => return Ok(Access::Control(client)),
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
            let (place, with) = (dir.to_owned(), options.clone());
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&place, with)).await;
            match opened.map_err(|_| StoreError::Broken(format!("{} cannot be opened", dir.display())))? {
                Ok(store) => return Ok(Access::Direct(store)),
                Err(StoreError::Refused(text)) if tokio::time::Instant::now() >= deadline => {
                    return Err(StoreError::Refused(text));
                }
                Err(StoreError::Refused(_)) => tokio::time::sleep(TRY_EVERY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// `embedded at DIR`, and `by its daemon` where one has it.
    pub fn describe(&self) -> String {
        match self {
            Access::Direct(store) => store.describe(),
            Access::Control(client) => format!("embedded at {}, by its daemon", client.dir.display()),
        }
    }

    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        either!(self, s => s.append(stream, entries).await)
    }

    pub async fn intake(&self, items: &[IntakeItem], dedup_ttl: Duration) -> Result<Vec<Taken>, StoreError> {
        either!(self, s => s.intake(items, dedup_ttl).await)
    }

    pub async fn alert(&self, alert_id: &str) -> Result<Option<LogEntry>, StoreError> {
        either!(self, s => s.alert(alert_id).await)
    }

    pub async fn firing(&self) -> Result<Vec<LogEntry>, StoreError> {
        either!(self, s => s.firing().await)
    }

    pub async fn log_read(&self, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        either!(self, s => s.log_read(after, limit).await)
    }

    pub async fn log_bounds(&self) -> Result<LogBounds, StoreError> {
        either!(self, s => s.log_bounds().await)
    }

    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        either!(self, s => s.blacklist(jti, ttl).await)
    }

    pub async fn cut_off(&self, user_id: &str, before_ms: u64) -> Result<u64, StoreError> {
        either!(self, s => s.cut_off(user_id, before_ms).await)
    }

    pub async fn cut_off_of(&self, user_id: &str) -> Result<Option<u64>, StoreError> {
        match self {
            Access::Direct(store) => Ok(store.revocations(user_id, None).await?.1),
            Access::Control(client) => client.cut_off_of(user_id).await,
        }
    }

    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        either!(self, s => s.permissions(user_id).await)
    }

    pub async fn permissions_at(&self, user_id: &str, resource: Option<&str>) -> Result<Vec<String>, StoreError> {
        either!(self, s => s.permissions_at(user_id, resource).await)
    }

    pub async fn grant(
        &self,
        user_id: &str,
        resource: Option<&str>,
        names: &[String],
        grant: Grant,
    ) -> Result<Vec<String>, StoreError> {
        either!(self, s => s.grant(user_id, resource, names, grant).await)
    }

    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        either!(self, s => s.blacklisted(jti).await)
    }

    pub async fn stream_info(&self, stream: &str) -> Result<Option<StreamInfo>, StoreError> {
        match self {
            // No stream of this engine has a fault of its own.
            Access::Direct(store) => Ok(store.stream_info(stream).await?.unwrap_or_default()),
            Access::Control(client) => client.stream_info(stream).await,
        }
    }

    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        either!(self, s => s.dead_letters(limit).await)
    }

    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        either!(self, s => s.now_ms().await)
    }

    pub async fn metrics_history(&self, since_s: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        either!(self, s => s.metrics_history(since_s, limit).await)
    }

    pub async fn record(&self, table: Table, name: &str) -> Result<Option<Body>, StoreError> {
        either!(self, s => s.record(table, name).await)
    }

    pub async fn record_change(&self, change: &Change) -> Result<Changed, StoreError> {
        change.check()?;
        either!(self, s => s.record_change(change).await)
    }

    pub async fn records(&self, table: Table, after: &str, limit: usize) -> Result<Vec<(String, Body)>, StoreError> {
        either!(self, s => s.records(table, after, limit).await)
    }

    /// Gives the files back; a daemon keeps its own.
    pub async fn close(&self) {
        if let Access::Direct(store) = self {
            store.close().await;
        }
    }
}
