//! One thread writes: it takes what is waiting, does it in one transaction, makes that durable once, then answers each.
//! So a thousand callers at a time cost a few fsyncs, and no caller hears "stored" before the disk has.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    Options, StoreError,
    clock::Clock,
    tables::{Changes, Done, FORMAT, Fault, Group, NUMBERS, Tables, name, number},
    timed,
};
use crate::store::watch::{Change, WAITING};

/// Operations that may wait for the writer; more callers wait for a place.
pub(super) const QUEUE: usize = 1024;
/// Operations in one transaction.
const GROUP: usize = 1024;
/// Memory redb may use to cache the file's pages.
const CACHE_BYTES: usize = 64 << 20;
/// After a failed write the file is opened anew at most this often (that may read all of it).
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// What readers and the writer share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    file: PathBuf,
    pub(super) options: Options,
    pub(super) clock: Clock,
    /// `None` while it cannot be opened, and after the close. Readers hold the lock as long as they read.
    database: RwLock<Option<Database>>,
    closed: AtomicBool,
    /// When the group on its way to the disk began, 0 if there is none: no id above or at it can be read yet.
    group_since_ms: AtomicU64,
    pub(super) reopened: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) bells: Bells,
}

/// Rung after every group that changed the log they stand for, and at the close.
pub(super) struct Bells {
    pub(super) streams: watch::Sender<()>,
    pub(super) log: watch::Sender<()>,
    pub(super) commits: watch::Sender<()>,
    /// What changed about people who are in.
    pub(super) changes: broadcast::Sender<Change>,
}

impl Bells {
    fn ring(&self, changes: Changes) {
        for (bell, changed) in [(&self.streams, changes.streams), (&self.log, changes.log), (&self.commits, changes.commits)] {
            if changed {
                bell.send_replace(());
            }
        }
    }
}

/// One operation in the queue.
pub(super) trait Job: Send {
    /// Says only what makes the whole group void.
    fn run(&mut self, group: &mut Group<'_, '_>) -> Result<(), String>;
    /// After the group: `None`, it is on the disk.
    fn answer(self: Box<Self>, failure: Option<&str>);
}

pub(super) struct Operation<F, T> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Operation<F, T> {
    pub(super) fn new(work: F) -> (Operation<F, T>, oneshot::Receiver<Result<T, StoreError>>) {
        let (caller, answer) = oneshot::channel();
        (Operation { work: Some(work), result: None, caller }, answer)
    }
}

impl<T: Send, F: FnOnce(&mut Group<'_, '_>) -> Done<T> + Send> Job for Operation<F, T> {
    fn run(&mut self, group: &mut Group<'_, '_>) -> Result<(), String> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let writes = group.changes.writes;
        match work(group) {
            Ok(value) => self.result = Some(Ok(value)),
            Err(Fault::Disk(text)) => return Err(text),
            Err(fault) if group.changes.writes == writes => self.result = Some(Err(fault.explain(group.file))),
            Err(fault) => return Err(format!("an operation was given up half done: {}", fault.explain(group.file))),
        }
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<&str>) {
        let result = match (failure, self.result) {
            (_, Some(Err(refused))) => Err(refused),
            (None, Some(Ok(value))) => Ok(value),
            (failure, _) => Err(StoreError::Broken(failure.unwrap_or("the embedded store did not get to it").to_owned())),
        };
        // Nobody listens any more where the caller was cancelled.
        let _ = self.caller.send(result);
    }
}

/// The directory, ours alone as long as this lives.
pub(super) struct Lock(#[allow(dead_code, reason = "held, not used: closing it gives the lock back")] File);

/// Why a directory could not be taken.
pub(super) enum LockError {
    InUse,
    Io(io::Error),
}

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Lock, LockError> {
        let new = !dir.exists();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(LockError::Io)?;
        if new && let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent).map_err(LockError::Io)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(LockError::InUse),
            Err(TryLockError::Error(error)) => Err(LockError::Io(error)),
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Opens the file, or makes it. redb panics on some kinds of damage; that becomes an error here.
fn open_database(file: &Path) -> Result<Database, StoreError> {
    let broken = |text: &dyn std::fmt::Display| StoreError::Broken(format!("{} cannot be opened: {text}", file.display()));
    let new = !file.exists();
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file).map_err(|e| broken(&e))?;
    if new && let Some(dir) = file.parent() {
        sync_dir(dir).map_err(|e| broken(&e))?;
    }
    let opened = catch_unwind(AssertUnwindSafe(|| Database::builder().set_cache_size(CACHE_BYTES).create(file)));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(in_use(file.parent().unwrap_or(file)))
        }
        Ok(Err(DatabaseError::UpgradeRequired(version))) => {
            Err(StoreError::Format(format!("{} has the file format {version}, which this version does not read", file.display())))
        }
        Ok(Err(DatabaseError::Storage(redb::StorageError::Io(error)))) if error.kind() == io::ErrorKind::InvalidData => {
            Err(StoreError::Format(format!("{} is not a store of auditcast", file.display())))
        }
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(broken(&"it is damaged")),
    }
}

pub(super) fn in_use(dir: &Path) -> StoreError {
    StoreError::Refused(format!(
        "the embedded store at {} is in use by another process; run one daemon, or use its control socket",
        dir.display()
    ))
}

impl Shared {
    /// Opens the file, checks its format and makes what is missing. The caller holds the [`Lock`].
    pub(super) fn open(dir: &Path, options: Options) -> Result<Shared, StoreError> {
        let file = dir.join("auditcast.redb");
        let database = open_database(&file)?;
        let bells = Bells {
            streams: watch::Sender::new(()),
            log: watch::Sender::new(()),
            commits: watch::Sender::new(()),
            changes: broadcast::Sender::new(WAITING),
        };
        let shared = Shared {
            dir: dir.to_owned(),
            file,
            options,
            clock: Clock::default(),
            database: RwLock::new(None),
            closed: AtomicBool::new(false),
            group_since_ms: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            bells,
        };
        let done = catch_unwind(AssertUnwindSafe(|| shared.set_up(&database)));
        let done = done.unwrap_or_else(|_| Err(Fault::Disk("it is damaged".to_owned())));
        done.map_err(|fault| fault.explain(&shared.file))?;
        *shared.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(shared)
    }

    fn set_up(&self, database: &Database) -> Done<()> {
        let txn = database.begin_write()?;
        {
            // Before any other table, which may have another shape in another format.
            let format = number(&txn.open_table(NUMBERS)?, name::FORMAT)?;
            if format > FORMAT {
                return Err(Fault::Refused(StoreError::Format(format!(
                    "{} has the format {format}, written by a newer version; this one reads up to {FORMAT}",
                    self.file.display()
                ))));
            }
            let tables = Tables::open(&txn)?;
            let mut group = Group::new(tables, &self.clock, &self.options, &self.file);
            if format == 0 {
                group.set_number(name::FORMAT, FORMAT)?;
                let epoch = new_epoch().map_err(Fault::Refused)?;
                group.set_text(name::EPOCH, &epoch)?;
            }
            // Whoever held the lease in this file held its lock too, and no longer lives.
            group.set_text(name::LEASE_NODE, "")?;
            group.set_number(name::LEASE_UNTIL, 0)?;
        }
        txn.commit()?;
        Ok(())
    }

    fn disk(&self, text: &str) -> String {
        Fault::Disk(text.to_owned()).explain(&self.file).to_string()
    }

    pub(super) fn closed(&self) -> StoreError {
        StoreError::Unavailable(format!("the embedded store at {} is closed", self.dir.display()))
    }

    pub(super) fn open_still(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) { Err(self.closed()) } else { Ok(()) }
    }

    /// Reads one consistent state. Short: the writer's reopening and the close wait for it.
    pub(super) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Done<T>) -> Result<T, StoreError> {
        self.open_still()?;
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = guard.as_ref() else {
            return Err(if self.closed.load(Ordering::SeqCst) {
                self.closed()
            } else {
                StoreError::Broken(self.disk("it is not open after a failed write"))
            });
        };
        let done = database.begin_read().map_err(Fault::from).and_then(|txn| work(&txn));
        done.map_err(|fault| fault.explain(&self.file))
    }

    /// A time up to which a read that begins now sees everything: an id that is taken but not yet on the disk is above it.
    pub(super) fn settled_ms(&self) -> u64 {
        let now = self.clock.now_ms();
        match self.group_since_ms.load(Ordering::SeqCst) {
            0 => now,
            since => now.min(since.saturating_sub(1)),
        }
    }

    /// Ends as soon as nobody can send any more: then everything asked for is done, the file closed, the lock free.
    pub(super) fn run(&self, mut queue: mpsc::Receiver<Box<dyn Job>>, lock: Lock) {
        let mut failed: Option<(Instant, String)> = None;
        while let Some(first) = queue.blocking_recv() {
            let mut jobs = Vec::with_capacity(16);
            jobs.push(first);
            while jobs.len() < GROUP
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            if let Some((at, text)) = failed.take() {
                let again = if at.elapsed() < REOPEN_EVERY { Err(text) } else { self.reopen().map_err(|e| e.to_string()) };
                if let Err(text) = again {
                    jobs.into_iter().for_each(|job| job.answer(Some(&text)));
                    failed = Some((if at.elapsed() < REOPEN_EVERY { at } else { Instant::now() }, text));
                    continue;
                }
            }
            self.group_since_ms.store(self.clock.now_ms().max(1), Ordering::SeqCst);
            // redb panics on some kinds of damage. The transaction is void then, as after any other failure.
            let done = catch_unwind(AssertUnwindSafe(|| self.group(&mut jobs)));
            let done = done.unwrap_or_else(|_| Err("it is damaged".to_owned()));
            self.group_since_ms.store(0, Ordering::SeqCst);
            match done {
                Ok((changes, told)) => {
                    self.bells.ring(changes);
                    // Nobody may be watching.
                    told.into_iter().for_each(|change| drop(self.bells.changes.send(change)));
                    jobs.into_iter().for_each(|job| job.answer(None));
                }
                Err(text) => {
                    let text = self.disk(&text);
                    jobs.into_iter().for_each(|job| job.answer(Some(&text)));
                    failed = Some((Instant::now(), text));
                }
            }
        }
        self.closed.store(true, Ordering::SeqCst);
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        drop(lock);
        self.bells.ring(Changes { writes: 0, streams: true, log: true, commits: true });
    }

    fn group(&self, jobs: &mut [Box<dyn Job>]) -> Result<(Changes, Vec<Change>), String> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = guard.as_ref() else { return Err("it is not open".to_owned()) };
        let text = |fault: Fault| match fault {
            Fault::Disk(text) => text,
            fault => fault.explain(&self.file).to_string(),
        };
        let txn = database.begin_write().map_err(|e| text(e.into()))?;
        let (changes, told) = {
            let tables = Tables::open(&txn).map_err(text)?;
            let mut group = Group::new(tables, &self.clock, &self.options, &self.file);
            timed::expire(&mut group).map_err(text)?;
            for job in jobs {
                job.run(&mut group)?;
            }
            (group.changes, group.told)
        };
        if changes.writes == 0 {
            txn.abort().map_err(|e| text(e.into()))?;
        } else {
            txn.commit().map_err(|e| text(e.into()))?;
            self.groups.fetch_add(1, Ordering::Relaxed);
        }
        Ok((changes, told))
    }

    /// After a failed write redb answers nothing any more: the file is closed and opened again, which finds the last good state.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Two handles of one file exclude each other: the old one goes first.
        *guard = None;
        *guard = Some(open_database(&self.file)?);
        self.reopened.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// 16 hexadecimal characters from the system's source of randomness.
fn new_epoch() -> Result<String, StoreError> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Broken("the system gave no random bytes".to_owned()))?;
    Ok(hex(&bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
