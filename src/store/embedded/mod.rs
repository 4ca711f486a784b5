//! A store in one directory, for one node, with nothing installed: redb (a B+ tree in one file) behind one writing thread.
//!
//! "Accepted" means on the disk: nothing is answered before its transaction is durable. The directory belongs to one process
//! at a time; commands reach a running daemon's store by its socket ([`control`]). Kept, beside the limits of [`Options`]:
//! [`STREAM_ENTRIES_MAX`] entries of each audit stream, [`STREAMS_MAX`] streams.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{
    record::{Body, Change, Changed, Table},
    *,
};
use crate::event::EntryId;

mod changes;
mod clock;
pub mod control;
mod log;
mod rates;
mod record;
mod snapshots;
mod standing;
mod streams;
mod tables;
mod timed;
mod writer;

pub use changes::Watch;
pub use streams::{APPEND_MAX, ENTRY_BYTES_MAX, STREAM_ENTRIES_MAX, STREAMS_MAX};
use tables::{Done, Group};
use writer::{Job, Lock, LockError, Operation, Shared};

/// The store; every clone is the same one. It is closed by [`EmbeddedStore::close`], else with the last clone.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    rates: rates::Rates,
    /// Gone after the close: the writer ends when it has done what was asked before.
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Reads audit streams; waits on the writer's bell, never by asking again and again.
pub struct Reader {
    store: View,
    bell: watch::Receiver<()>,
    /// Never goes back.
    before_ms: u64,
}

/// Follows the alert log or the commit log.
pub struct Tail {
    store: View,
    log: watch::Receiver<()>,
    commits: watch::Receiver<()>,
}

/// What reads need; does not keep the store open.
#[derive(Clone)]
struct View(Arc<Shared>);

impl View {
    /// Off the runtime's threads: the disk may be slow.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => {
                Err(StoreError::Broken(format!("the embedded store at {} is damaged: a read failed", self.0.dir.display())))
            }
            Err(_) => Err(self.0.closed()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    /// Waits until the writer has ended: then the file is closed and the directory free.
    fn end(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Held while waiting: whoever closes at the same time waits too.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            // A writer that panicked has said so; there is nothing left to end.
            let _ = writer.join();
        }
    }
}

impl EmbeddedStore {
    /// Opens the directory, or makes it (0700).
    ///
    /// # Errors
    /// `Refused` where another process has it, `Format` where a newer version or something else wrote it, else `Broken`.
    pub fn open(dir: &Path, options: Options) -> Result<EmbeddedStore, StoreError> {
        let lock = Lock::take(dir).map_err(|error| match error {
            LockError::InUse => writer::in_use(dir),
            LockError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => StoreError::Broken(format!(
                "{} cannot be opened ({error}): let this user write there, or give store.url another directory",
                dir.display()
            )),
            LockError::Io(error) => StoreError::Broken(format!("{} cannot be opened: {error}", dir.display())),
        })?;
        let shared = Arc::new(Shared::open(dir, options)?);
        let (queue, jobs) = mpsc::channel(writer::QUEUE);
        let for_writer = shared.clone();
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || for_writer.run(jobs, lock))
            .map_err(|error| StoreError::Broken(format!("the store's thread cannot be started: {error}")))?;
        let inner =
            Inner { shared, rates: rates::Rates::default(), queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(writer)) };
        Ok(EmbeddedStore { inner: Arc::new(inner) })
    }

    /// `embedded at DIR`.
    pub fn describe(&self) -> String {
        format!("embedded at {}", self.inner.shared.dir.display())
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.shared.dir
    }

    fn view(&self) -> View {
        View(self.inner.shared.clone())
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.view().look(|shared| shared.read(work)).await
    }

    /// Queues, waits until it is on the disk. Once queued it is done, also where the caller no longer waits.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Group<'_, '_>) -> Done<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or_else(|| self.inner.shared.closed())?;
        let (operation, answer) = Operation::new(work);
        let gone = || StoreError::Broken(format!("the writer of the embedded store at {} has ended", self.dir().display()));
        queue.send(Box::new(operation)).await.map_err(|_| gone())?;
        drop(queue);
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn prepare(&self) -> Result<(), StoreError> {
        // The open has checked the format and made the epoch.
        self.read(|_| Ok(())).await
    }

    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        self.inner.shared.open_still()?;
        Ok(self.inner.shared.clock.now_ms())
    }

    pub fn reader(&self) -> Reader {
        Reader { store: self.view(), bell: self.inner.shared.bells.streams.subscribe(), before_ms: 0 }
    }

    pub fn tail(&self) -> Tail {
        let bells = &self.inner.shared.bells;
        Tail { store: self.view(), log: bells.log.subscribe(), commits: bells.commits.subscribe() }
    }

    pub async fn stream_info(&self, stream: &str) -> Result<Result<Option<StreamInfo>, StreamFault>, StoreError> {
        let stream = stream.to_owned();
        self.read(move |txn| streams::info(txn, &stream)).await.map(Ok)
    }

    pub async fn stream_range(&self, stream: &str, after: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, StoreError> {
        let stream = stream.to_owned();
        self.read(move |txn| streams::range(txn, &stream, after, to, count)).await
    }

    pub async fn find_streams(&self, glob: &str) -> Result<Vec<String>, StoreError> {
        let (glob, prefix) = (glob.to_owned(), self.inner.shared.options.prefix.clone());
        self.read(move |txn| streams::find(txn, &glob, &prefix)).await
    }

    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        let rows = streams::encode(stream, entries)?;
        let stream = stream.to_owned();
        self.write(move |group| streams::append(group, &stream, &rows, STREAM_ENTRIES_MAX)).await
    }

    pub async fn intake(&self, items: &[IntakeItem], dedup_ttl: Duration) -> Result<Vec<Taken>, StoreError> {
        let (stream, items) = (self.intake_stream(), items.to_vec());
        self.write(move |group| streams::intake(group, &stream, &items, dedup_ttl)).await
    }

    pub fn intake_stream(&self) -> String {
        format!("{}:intake", self.inner.shared.options.prefix)
    }

    pub async fn lease(&self, node: &str, known_fence: u64) -> Result<Lease, StoreError> {
        let node = node.to_owned();
        self.write(move |group| log::lease(group, &node, known_fence)).await
    }

    pub async fn release(&self, node: &str, fence: u64) -> Result<(), StoreError> {
        let node = node.to_owned();
        self.write(move |group| log::release(group, &node, fence)).await
    }

    pub async fn commit(&self, commit: &Commit) -> Result<Committed, StoreError> {
        let commit = commit.clone();
        self.write(move |group| log::commit(group, &commit)).await
    }

    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        self.read(log::recover).await
    }

    pub async fn log_read(&self, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.read(move |txn| log::read(txn, after, limit)).await
    }

    pub async fn log_bounds(&self) -> Result<LogBounds, StoreError> {
        self.read(log::bounds).await
    }

    pub async fn log_restore(&self, fence: u64, epoch: &str, entries: &[LogEntry]) -> Result<(), StoreError> {
        let (epoch, entries) = (epoch.to_owned(), entries.to_vec());
        self.write(move |group| log::restore(group, fence, &epoch, &entries)).await
    }

    pub async fn alert(&self, alert_id: &str) -> Result<Option<LogEntry>, StoreError> {
        let alert_id = alert_id.to_owned();
        self.read(move |txn| log::alert(txn, &alert_id)).await
    }

    pub async fn firing(&self) -> Result<Vec<LogEntry>, StoreError> {
        self.read(log::firing).await
    }

    pub async fn commits(&self, after: u64, limit: usize) -> Result<Vec<CommitRecord>, StoreError> {
        self.read(move |txn| log::commits(txn, after, limit)).await
    }

    pub async fn first_commit(&self) -> Result<u64, StoreError> {
        self.read(log::first_commit).await
    }

    pub async fn snapshot_put(&self, fence: u64, snapshot: &Snapshot) -> Result<(), StoreError> {
        let row = snapshots::encode(snapshot)?;
        self.write(move |group| snapshots::put(group, fence, &row)).await
    }

    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, StoreError> {
        self.read(snapshots::all).await
    }

    pub async fn metrics_put(&self, unix_s: u64, json: &str, ttl: Duration) -> Result<(), StoreError> {
        let json = json.to_owned();
        self.write(move |group| timed::metrics_put(group, unix_s, &json, ttl)).await
    }

    pub async fn metrics_history(&self, since_s: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let now = self.inner.shared.clock.now_ms();
        self.read(move |txn| timed::metrics_history(txn, now, since_s, limit)).await
    }

    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(move |txn| log::dead_letters(txn, limit)).await
    }

    pub async fn rate_count(&self, counts: &[Rate], window: Duration) -> Result<Vec<Option<Used>>, StoreError> {
        self.inner.shared.open_still()?;
        Ok(self.inner.rates.count(counts, window, self.inner.shared.clock.now_ms()))
    }

    pub async fn bookmark(&self, name: &str) -> Result<Option<String>, StoreError> {
        let name = name.to_owned();
        self.read(move |txn| timed::bookmark(txn, &name)).await
    }

    pub async fn set_bookmark(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let (name, text) = (name.to_owned(), text.to_owned());
        self.write(move |group| timed::set_bookmark(group, &name, &text)).await
    }

    pub async fn record(&self, table: Table, name: &str) -> Result<Option<Body>, StoreError> {
        let name = name.to_owned();
        self.read(move |txn| record::get(txn, table, &name)).await
    }

    pub async fn record_change(&self, change: &Change) -> Result<Changed, StoreError> {
        let change = change.clone();
        self.write(move |group| record::change(group, &change)).await
    }

    pub async fn records(&self, table: Table, after: &str, limit: usize) -> Result<Vec<(String, Body)>, StoreError> {
        let after = after.to_owned();
        self.read(move |txn| record::all(txn, table, &after, limit)).await
    }

    /// Only A's keys are marked, and there are none here.
    pub async fn mark_seen(&self, _keys: &[String], _ttl: Duration) -> Result<(), StoreError> {
        self.inner.shared.open_still()
    }

    /// There are no keys of another application here.
    pub async fn scan_keys(&self, _pattern: &str, _cursor: u64) -> Result<(u64, Vec<String>), StoreError> {
        self.inner.shared.open_still()?;
        Ok((0, Vec::new()))
    }

    pub async fn key_values(&self, keys: &[String]) -> Result<Vec<Option<String>>, StoreError> {
        self.inner.shared.open_still()?;
        Ok(vec![None; keys.len()])
    }

    /// Times the file was opened anew after a failed write.
    pub fn reconnects(&self) -> u64 {
        self.inner.shared.reopened.load(Ordering::Relaxed)
    }

    /// Transactions made durable so far.
    pub fn groups(&self) -> u64 {
        self.inner.shared.groups.load(Ordering::Relaxed)
    }

    /// Does what was asked before, closes the file, gives the directory back.
    pub async fn close(&self) {
        let inner = self.inner.clone();
        // It fails only where the runtime is going down; then dropping the last clone closes.
        let _ = tokio::task::spawn_blocking(move || inner.end()).await;
    }
}
