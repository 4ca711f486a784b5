//! Client-side caching in broadcast mode, without a cache: `CLIENT TRACKING ON BCAST` makes the server push the name of every
//! key with one of our prefixes that anybody changes, within a millisecond and with keyspace notifications off. The pushes come
//! over a connection of its own, in RESP3.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{Pipeline, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Keys, StoreError, connect::Link, permissions, shared::BLACKLIST, value};
use crate::store::watch::{Change, Notice, WAITING};

/// A connection that is silently cut tells of nothing: it is asked something so often.
const BEAT_EVERY: Duration = Duration::from_millis(800);
/// And has this long to answer: together a good second.
const BEAT_WITHIN: Duration = Duration::from_millis(800);
/// Where the server does not tell, everything is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where it did not want to, it is asked again: somebody may have changed the ACL.
const TRY_EVERY: Duration = Duration::from_secs(60);

pub struct Watch {
    link: Arc<Link>,
    keys: Arc<Keys>,
    told: Option<Told>,
    refused: Option<Refused>,
    lost: bool,
}

/// A connection over which the server tells.
struct Told {
    connection: MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    flags: Arc<Flags>,
    beat_at: Instant,
}

#[derive(Default)]
struct Flags {
    gone: AtomicBool,
    missed: AtomicBool,
}

struct Refused {
    why: String,
    try_at: Instant,
}

impl Watch {
    pub(super) fn new(link: Arc<Link>, keys: Arc<Keys>) -> Watch {
        Watch { link, keys, told: None, refused: None, lost: false }
    }

    pub fn refused(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// See [`crate::store::Watch::next`].
    pub async fn next(&mut self) -> Result<Notice, StoreError> {
        loop {
            let Some(told) = &mut self.told else { return self.begin().await };
            match told.next(&self.keys).await {
                Some(notice) => return Ok(notice),
                None => {
                    self.told = None;
                    self.lost = true;
                }
            }
        }
    }

    /// Connects and asks to be told.
    async fn begin(&mut self) -> Result<Notice, StoreError> {
        if self.refused.as_ref().is_some_and(|refused| Instant::now() < refused.try_at) {
            sleep(LOOK_EVERY).await;
            return Ok(Notice::Everything);
        }
        match self.ask().await {
            Ok(told) => {
                if std::mem::take(&mut self.lost) {
                    self.link.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                (self.told, self.refused) = (Some(told), None);
            }
            Err(error @ StoreError::Unavailable(_)) => {
                self.lost = true;
                return Err(error);
            }
            Err(error) => {
                self.refused = Some(Refused { why: error.to_string(), try_at: Instant::now() + TRY_EVERY });
            }
        }
        // What changed before the server began to tell.
        Ok(Notice::Everything)
    }

    async fn ask(&self) -> Result<Told, StoreError> {
        let (sender, pushes) = mpsc::channel(WAITING);
        let flags = Arc::new(Flags::default());
        let seen = flags.clone();
        let push = move |info: PushInfo| {
            match info.kind {
                PushKind::Disconnection => seen.gone.store(true, Ordering::Release),
                PushKind::Invalidate => {}
                _ => return Ok(()),
            }
            if sender.try_send(info).is_err() {
                seen.missed.store(true, Ordering::Release);
            }
            Ok(())
        };
        let connection = self.link.pushed(push).await?;
        let mut told = Told { connection, pushes, flags, beat_at: Instant::now() + BEAT_EVERY };
        let mut pipeline = Pipeline::with_capacity(1);
        let command = pipeline.cmd("CLIENT").arg("TRACKING").arg("ON").arg("BCAST");
        let theirs = [BLACKLIST, permissions::PERMISSIONS];
        // A prefix within another one is refused; `store.prefix` may be anything.
        let ours = Some(self.keys.cutoffs.as_str()).filter(|key| !theirs.iter().any(|prefix| key.starts_with(prefix)));
        for prefix in theirs.into_iter().chain(ours) {
            command.arg("PREFIX").arg(prefix);
        }
        let asked = told.connection.send_packed_commands(&pipeline, 0, 1);
        let reply = asked.await.map_err(|error| self.link.failure(&error))?.pop();
        self.link.reply(reply)?;
        Ok(told)
    }
}

impl Told {
    /// `None`: the connection is gone.
    async fn next(&mut self, keys: &Keys) -> Option<Notice> {
        loop {
            // The news may have found the queue full, so the flags are looked at as well.
            if self.flags.gone.load(Ordering::Acquire) {
                return None;
            }
            if self.flags.missed.swap(false, Ordering::AcqRel) {
                while self.pushes.try_recv().is_ok() {}
                return Some(Notice::Everything);
            }
            tokio::select! {
                biased;
                push = self.pushes.recv() => {
                    if let Some(notice) = self.notice(push?, keys) {
                        return Some(notice);
                    }
                }
                () = sleep_until(self.beat_at) => {
                    let mut beat = Pipeline::with_capacity(1);
                    // Any command will do; this one every user of auditcast's may run.
                    beat.cmd("TIME");
                    let answer = timeout(BEAT_WITHIN, self.connection.send_packed_commands(&beat, 0, 1)).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        return None;
                    }
                    self.beat_at = Instant::now() + BEAT_EVERY;
                }
            }
        }
    }

    /// All that is here already in one.
    fn notice(&mut self, first: PushInfo, known: &Keys) -> Option<Notice> {
        let mut changes = Vec::new();
        let mut next = Some(first);
        while let Some(push) = next {
            if push.kind == PushKind::Disconnection {
                // The flag says so too, when this notice has been taken.
                break;
            }
            match push.data.into_iter().next() {
                Some(Value::Array(keys)) => {
                    changes.extend(keys.into_iter().filter_map(value::text).filter_map(|key| change(&key, known)));
                }
                // FLUSHALL and FLUSHDB name no keys.
                _ => return Some(Notice::Everything),
            }
            next = self.pushes.try_recv().ok();
        }
        (!changes.is_empty()).then_some(Notice::Changes(changes))
    }
}

fn change(key: &str, known: &Keys) -> Option<Change> {
    if key == known.cutoffs {
        return Some(Change::CutOffs);
    }
    match key.strip_prefix(BLACKLIST) {
        Some(jti) => Some(Change::Token(jti.to_owned())),
        None => permissions::user_of(key).map(|user_id| Change::Permissions(user_id.to_owned())),
    }
}
