//! Following the alert log: into the ring, through outages, and with an eye on whether it is still the same log.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Hub;
use crate::{
    store::{LogBounds, LogEntry, Store, StoreError, Tail},
    wire::Pos,
};

/// Entries asked of the store at once.
const PAGE: usize = 256;
/// A wait for the next entry; after it the log is held against what is known.
const BLOCK: Duration = Duration::from_secs(2);
/// A log that went back to an earlier state may be put right by the active node: so long nobody is told.
const REWIND_GRACE: Duration = Duration::from_secs(10);
/// How long the tail waits for a store that nobody has used.
const FIRST_LOOK_MIN: Duration = Duration::from_millis(1);
const FIRST_LOOK_MAX: Duration = Duration::from_millis(250);
/// How long the tail rests after entries that were known already: what another node commits after this one is later by that.
const HANDED_OVER_PAUSE: Duration = Duration::from_millis(200);
/// An answer of the store that takes longer is none.
const ANSWER: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What holding the log against the ring showed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// A prefix of what is known, or nothing: the newest entries are missing.
    Behind,
    /// Other entries at known positions, up to `common` as they were.
    Rewound {
        common: Pos,
    },
    /// Another log.
    Other,
}

async fn answer<T>(ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match timeout(ANSWER, ask).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("the store did not answer within {} s", ANSWER.as_secs()))),
    }
}

impl Hub {
    /// Reads the alert log into the ring until `stop`. Outlives every outage of the store: says once that it is down, tries
    /// again with backoff, says once that it is back.
    pub async fn follow(&self, store: Store, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.follow_for_ever(&store)).await;
    }

    async fn follow_for_ever(&self, store: &Store) {
        let mut backoff = BACKOFF_MIN;
        let mut told = false;
        loop {
            let error = self.follow_once(store, &mut backoff, &mut told).await;
            self.set_store_up(false);
            if !told {
                warn!("could not follow the alert log: {error}");
                told = true;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Ends with the first error.
    async fn follow_once(&self, store: &Store, backoff: &mut Duration, told: &mut bool) -> StoreError {
        match self.follow_until_error(store, backoff, told).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow_until_error(
        &self,
        store: &Store,
        backoff: &mut Duration,
        told: &mut bool,
    ) -> Result<std::convert::Infallible, StoreError> {
        let mut tail = store.tail();
        let mut behind_since: Option<Instant> = None;
        let mut first_look = FIRST_LOOK_MIN;
        loop {
            // Held against the log before anything is taken from it: at a (re)connection, after silence, and with each batch,
            // for a log can be lost and grow past the head between two looks.
            let bounds = answer(store.log_bounds()).await?;
            if bounds.epoch.is_empty() && !self.ring().loaded {
                // Nobody has used the store yet, which the monitor does first of all. A position of now would not be known later.
                self.up(backoff, told);
                sleep(first_look).await;
                first_look = (first_look * 2).min(FIRST_LOOK_MAX);
                continue;
            }
            match self.compare(store, &bounds).await? {
                Verdict::Same => behind_since = None,
                Verdict::Behind => {
                    let since = *behind_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < REWIND_GRACE {
                        self.up(backoff, told);
                        sleep(Duration::from_millis(250)).await;
                        continue;
                    }
                    warn!("the store lost the newest alerts: its log ends at {}, {} were known", bounds.head, self.head());
                    if bounds.head == 0 {
                        self.rewind(oldest(&bounds), "reset", Some(bounds.epoch.clone()));
                    } else {
                        self.rewind(Pos { seq: bounds.head, check: bounds.head_check.clone() }, "rewound", None);
                    }
                    behind_since = None;
                }
                Verdict::Rewound { common } => {
                    warn!("the store has other alerts after position {}: reading them anew", common.seq);
                    self.rewind(common, "rewound", None);
                    behind_since = None;
                }
                Verdict::Other => {
                    warn!("the store holds another alert log: reading it from its beginning");
                    self.rewind(oldest(&bounds), "reset", Some(bounds.epoch.clone()));
                    behind_since = None;
                }
            }
            self.up(backoff, told);
            self.take(store, &mut tail).await?;
        }
    }

    /// Takes batches until there has been silence for [`BLOCK`].
    async fn take(&self, store: &Store, tail: &mut Tail) -> Result<(), StoreError> {
        loop {
            let head = self.head_pos();
            let wait = BLOCK + ANSWER;
            let entries: Vec<LogEntry> = match timeout(wait, tail.alerts(head.seq, PAGE, BLOCK)).await {
                Ok(entries) => entries?,
                Err(_) => return Err(StoreError::Unavailable(format!("the store did not answer within {} s", wait.as_secs()))),
            };
            let silent = entries.is_empty();
            if !silent && self.has(&entries) {
                // This node's own, handed over already: as long as it leads there is nothing to be had here that is new.
                tail.rest(HANDED_OVER_PAUSE).await;
                continue;
            }
            if !silent && !self.follows(store, &head).await? {
                return Ok(());
            }
            self.push_alerts(entries);
            if silent {
                return Ok(());
            }
        }
    }

    /// Whether the log still has the entry that the ring ends with.
    async fn follows(&self, store: &Store, head: &Pos) -> Result<bool, StoreError> {
        let Some(before) = head.seq.checked_sub(1) else {
            return Ok(true);
        };
        let entry = answer(store.log_read(before, 1)).await?.into_iter().next();
        // A later one: trimmed, which the ring sees for itself.
        Ok(entry.is_some_and(|entry| entry.seq > head.seq || entry.check == head.check))
    }

    async fn compare(&self, store: &Store, bounds: &LogBounds) -> Result<Verdict, StoreError> {
        let (loaded, epoch, head) = {
            let ring = self.ring();
            (ring.loaded, ring.epoch.clone(), ring.head.clone())
        };
        if !loaded {
            self.load(store, bounds).await?;
            return Ok(Verdict::Same);
        }
        if epoch.is_empty() {
            // Fed before it was followed: take the log's word.
            self.ring_mut().epoch.clone_from(&bounds.epoch);
            if head.seq == 0 {
                self.ring_mut().head = Pos::origin(&bounds.epoch);
            }
        } else if epoch != bounds.epoch {
            // An empty one may be filled again by the active node, with the entries and the epoch that were lost.
            let lost = bounds.head == 0 && head.seq > 0;
            return Ok(if lost { Verdict::Behind } else { Verdict::Other });
        }
        if head.seq == 0 || (bounds.head == head.seq && bounds.head_check == head.check) {
            return Ok(Verdict::Same);
        }
        if bounds.head > head.seq && head.seq < bounds.first {
            // The whole ring has been trimmed away.
            return Ok(Verdict::Same);
        }
        if bounds.head > head.seq && self.follows(store, &head).await? {
            return Ok(Verdict::Same);
        }
        if bounds.head < head.seq {
            let prefix = bounds.head == 0 || self.ring().check(bounds.head).is_none_or(|check| check == bounds.head_check);
            if prefix {
                return Ok(Verdict::Behind);
            }
        }
        Ok(Verdict::Rewound { common: self.common(store, bounds).await? })
    }

    /// The newest entry that the ring and the log have alike. Checks are chained, so a search by halves finds it.
    async fn common(&self, store: &Store, bounds: &LogBounds) -> Result<Pos, StoreError> {
        let (floor, head) = {
            let ring = self.ring();
            (ring.floor(), ring.head.seq)
        };
        let mut low = floor.max(bounds.first.saturating_sub(1));
        let mut high = head.min(bounds.head);
        let mut common = oldest(bounds);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let entry = answer(store.log_read(middle - 1, 1)).await?.into_iter().next();
            let ours = self.ring().check(middle).map(str::to_owned);
            match (entry, ours) {
                (Some(entry), Some(ours)) if entry.seq == middle && entry.check == ours => {
                    common = Pos { seq: middle, check: ours };
                    low = middle;
                }
                _ => high = middle - 1,
            }
        }
        Ok(common)
    }

    /// First sight: the newest entries, as many as the ring holds.
    async fn load(&self, store: &Store, bounds: &LogBounds) -> Result<(), StoreError> {
        let ring = self.ring_len() as u64;
        let after = bounds.head.saturating_sub(ring).max(bounds.first.saturating_sub(1));
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut next = after;
        while next < bounds.head {
            let page = answer(store.log_read(next, PAGE)).await?;
            let Some(last) = page.last() else { break };
            next = last.seq;
            entries.extend(page);
        }
        match entries.first() {
            None => {
                let check = if bounds.head == 0 { Pos::origin(&bounds.epoch).check } else { bounds.head_check.clone() };
                self.begin(bounds.epoch.clone(), Pos { seq: bounds.head, check });
            }
            Some(first) => {
                self.begin(bounds.epoch.clone(), Pos { seq: first.seq - 1, check: Pos::origin(&bounds.epoch).check });
                self.push_alerts(entries);
            }
        }
        Ok(())
    }

    fn up(&self, backoff: &mut Duration, told: &mut bool) {
        *backoff = BACKOFF_MIN;
        if std::mem::take(told) {
            info!("following the alert log again");
        }
        self.set_store_up(true);
    }
}

/// Before the oldest entry that is kept.
fn oldest(bounds: &LogBounds) -> Pos {
    let origin = Pos::origin(&bounds.epoch);
    if bounds.first <= 1 { origin } else { Pos { seq: bounds.first - 1, check: Pos::origin("trimmed").check } }
}
