//! What one client is to be sent: cursors on the alert log and on the live events, its filter, and what it has been told of
//! sources, metrics and positions. Knows nothing of sockets; WebSocket and SSE read it alike.
//!
//! Replay and live are one read: from the ring where it reaches back far enough, else a page from the store, with the same
//! cursor. So nothing can fall between the two.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    Context,
    batch::{After, BATCH_BYTES, Batch, Turn},
    out::{At, Out, send},
    rate::Bucket,
};
use crate::{
    hub::{AlertFrame, Cursor, Interest, Located, Read},
    store::{LogEntry, StoreError},
    wire::{self, Pos, RequestId, Sight, Subscription},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};

/// An answer of the store that takes longer is none; then it is asked again.
const ANSWER: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);
/// Entries of the alert log asked of the store at once: what a client in replay holds in memory.
const PAGE: usize = 64;
/// Live events taken in one turn, and how often a client hears of lost ones.
const EVENTS_BATCH: usize = 256;
const GAP_EVERY: Duration = Duration::from_secs(1);

/// A question to the store: whoever owns the feed asks it and brings the answer to [`Feed::answered`].
pub(super) type Asking = Pin<Box<dyn Future<Output = Fetched> + Send>>;

/// What the store said.
pub(super) enum Fetched {
    Located(Located),
    Firing(Vec<LogEntry>, OwnedSemaphorePermit),
    Page(Vec<LogEntry>),
}

struct Events {
    cursor: u64,
    bucket: Bucket,
    over_rate: u64,
    too_slow: u64,
    told_at: Option<Instant>,
    _interest: Interest,
}

/// A subscription that waits for the store before it is in force.
struct Setup {
    id: Option<RequestId>,
    subscription: Subscription,
}

/// What is there only while it is needed: an idle client has none of it.
#[derive(Default)]
struct Busy {
    setup: Option<Setup>,
    next_setup: Option<Setup>,
    /// A question nobody asks yet.
    asking: Option<Asking>,
    /// A question is open, with its asker or above.
    asked: bool,
    fetched: Option<Fetched>,
    /// Alerts that are firing, to be sent first; with the turn to hold so many.
    firing: Option<(VecDeque<LogEntry>, OwnedSemaphorePermit)>,
    /// Entries from the store, not sent yet.
    page: VecDeque<LogEntry>,
    /// Frames about the feed itself, in their place before what comes next.
    queue: VecDeque<Out>,
}

impl Busy {
    fn is_over(&self) -> bool {
        self.setup.is_none()
            && !self.asked
            && self.fetched.is_none()
            && self.firing.is_none()
            && self.page.is_empty()
            && self.queue.is_empty()
    }

    fn ask(&mut self, asking: impl Future<Output = Fetched> + Send + 'static) {
        self.fetched = None;
        self.asking = Some(Box::pin(asking));
        self.asked = true;
    }
}

/// What each delivery needs comes first.
#[repr(C)]
pub(super) struct Feed {
    busy: Option<Box<Busy>>,
    events: Option<Box<Events>>,
    /// Shared by who asked for nothing special.
    subscription: Arc<Subscription>,
    ctx: Arc<Context>,
    sources_seen: u64,
    metrics_seen: u64,
    /// The position the client has, by a frame or by `position`.
    told: u64,
    /// Has been at the ring's head: from here on, falling off its tail means being too slow.
    live: bool,
    /// The position of the cursor, where only its number has been written there: a text for each client would be looked up in
    /// memory for each frame.
    reached: Option<Arc<Pos>>,
    cursor: Cursor,
    /// What the client's token lets it see; a part of every subscription of its.
    sight: Option<Arc<Sight>>,
}

/// Asks until there is an answer: a store that is away comes back, and the client keeps its place.
async fn until_answered<T, F: Future<Output = Result<T, StoreError>>>(mut ask: impl FnMut() -> F) -> T {
    loop {
        if let Ok(Ok(answer)) = timeout(ANSWER, ask()).await {
            return answer;
        }
        sleep(AGAIN).await;
    }
}

impl Feed {
    /// A client that came now, and what it may see; nothing is sent before [`Feed::subscribe`].
    pub(super) fn new(ctx: Arc<Context>, sight: Option<Arc<Sight>>) -> Feed {
        let cursor = ctx.hub.cursor_at_head();
        Feed {
            sight,
            subscription: ctx.everything.clone(),
            told: cursor.pos.seq,
            cursor,
            reached: None,
            metrics_seen: 0,
            sources_seen: 0,
            busy: None,
            events: None,
            live: false,
            ctx,
        }
    }

    /// Makes the cursor whole again.
    fn settle_cursor(&mut self) {
        if let Some(reached) = self.reached.take() {
            self.cursor.pos.clone_from(&reached);
        }
    }

    fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    /// Takes a subscription. Without `after` it goes on from where the client is. `Err`: two are waiting for the store already.
    pub(super) fn subscribe(&mut self, id: Option<RequestId>, subscription: Subscription) -> Result<(), ()> {
        let setup = Setup { id, subscription };
        let busy = self.busy();
        if busy.setup.is_some() {
            if busy.next_setup.is_some() {
                return Err(());
            }
            busy.next_setup = Some(setup);
            return Ok(());
        }
        self.start(setup);
        Ok(())
    }

    fn start(&mut self, setup: Setup) {
        self.settle_cursor();
        let (hub, store) = (self.ctx.hub.clone(), self.ctx.store.clone());
        if setup.subscription.after.is_some() {
            // Taken before the store is asked: a log that changes meanwhile is then met as a reset.
            self.cursor = hub.cursor(self.cursor.pos.clone());
        }
        let busy = self.busy();
        busy.firing = None;
        match &setup.subscription.after {
            Some(after) => {
                busy.page.clear();
                let after = after.clone();
                busy.ask(async move { Fetched::Located(until_answered(|| hub.locate(&store, &after)).await) });
                busy.setup = Some(setup);
            }
            None if setup.subscription.active => {
                let turns = hub.active_turns();
                // A page that was on its way is asked for again afterwards.
                busy.ask(async move {
                    // Never closed.
                    let Ok(turn) = turns.acquire_owned().await else { return std::future::pending().await };
                    Fetched::Firing(until_answered(|| store.firing()).await, turn)
                });
                busy.setup = Some(setup);
            }
            None => self.begin(setup, Ok(()), 0),
        }
    }

    /// A question to ask in the place of any that is being asked.
    pub(super) fn take_asking(&mut self) -> Option<Asking> {
        self.busy.as_mut()?.asking.take()
    }

    /// There is one for [`Feed::take_asking`].
    pub(super) fn has_asking(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.asking.is_some())
    }

    pub(super) fn answered(&mut self, fetched: Fetched) {
        let busy = self.busy();
        busy.asked = false;
        busy.fetched = Some(fetched);
    }

    /// The subscription is in force.
    fn begin(&mut self, setup: Setup, recovered: Result<(), &'static str>, replaying: u64) {
        let head = self.ctx.hub.head_pos().to_string();
        let frame = wire::subscribed(setup.id.as_ref(), recovered, &head, replaying);
        self.busy().queue.push_back(Out::new("subscribed", frame));
        // What has been done is no part of the filter, which others may share.
        self.apply(Subscription { after: None, active: false, ..setup.subscription });
        self.live = false;
        self.sources_seen = 0;
        self.metrics_seen = 0;
        // Who changes what he wants keeps his rate, and hears of what he lost before.
        let before = self.events.take();
        let (hub, rate) = (&self.ctx.hub, self.ctx.options.events_rate);
        self.events = self.subscription.events.map(|severity| {
            let interest = hub.interest(severity);
            Box::new(match before {
                Some(events) => Events { _interest: interest, ..*events },
                None => Events {
                    cursor: hub.events_cursor(),
                    bucket: Bucket::new(rate, rate, Instant::now()),
                    over_rate: 0,
                    too_slow: 0,
                    told_at: None,
                    _interest: interest,
                },
            })
        });
        if let Some(next) = self.busy().next_setup.take() {
            self.start(next);
        }
    }

    fn apply(&mut self, subscription: Subscription) {
        let subscription = Subscription { sight: self.sight.clone(), ..subscription };
        self.subscription =
            if subscription == *self.ctx.everything { self.ctx.everything.clone() } else { Arc::new(subscription) };
    }

    /// The client may see something else from the next frame on: its token is another.
    pub(super) fn see(&mut self, sight: Option<Arc<Sight>>) {
        if self.sight != sight {
            self.sight = sight;
            self.apply((*self.subscription).clone());
        }
    }

    fn settle(&mut self, fetched: Fetched) {
        let setup = self.busy().setup.take();
        match (fetched, setup) {
            (Fetched::Located(located), Some(setup)) => {
                self.cursor.pos = located.pos;
                // Who left at the head of another node has nothing to be replayed here.
                let replaying = self.ctx.hub.lag(&self.cursor);
                self.told = self.cursor.pos.seq;
                self.begin(setup, located.recovered, replaying);
            }
            (Fetched::Firing(mut entries, turn), Some(setup)) => {
                // What is after the cursor comes as an alert of its own.
                entries.retain(|entry| entry.seq <= self.cursor.pos.seq);
                let count = entries.len() as u64;
                self.busy().firing = (count > 0).then(|| (entries.into(), turn));
                self.begin(setup, Ok(()), count);
            }
            (Fetched::Page(entries), setup) => {
                self.busy().setup = setup;
                if let Some(first) = entries.first()
                    && first.seq > self.cursor.pos.seq + 1
                {
                    // Trimmed before they could be read.
                    let missed = first.seq - 1 - self.cursor.pos.seq;
                    let to = Pos { seq: first.seq - 1, check: Pos::origin("trimmed").check };
                    self.tell_gap("trimmed", Some(missed), &self.cursor.pos.clone(), &to);
                    self.cursor.pos = to;
                }
                self.busy().page.extend(entries);
            }
            // An answer to a question that has been replaced.
            (Fetched::Located(_) | Fetched::Firing(..), None) => {}
        }
    }

    fn tell_gap(&mut self, reason: &str, missed: Option<u64>, from: &Pos, to: &Pos) {
        let frame = wire::gap(wire::Feed::Alerts, missed, reason, Some((&from.to_string(), &to.to_string())));
        self.busy().queue.push_back(Out::new("gap", frame));
    }

    /// The next write: everything that is ready, up to about [`BATCH_BYTES`]. What others get too is made once for all of them.
    pub(super) fn next(&mut self, turn: &mut Turn<'_>) -> Option<Arc<Batch>> {
        loop {
            let metrics_seen = self.subscription.wants_metrics().then_some(self.metrics_seen);
            if self.busy.is_none() && !self.ctx.hub.has_news(self.sources_seen, metrics_seen) {
                match turn.after(&self.cursor, &self.subscription) {
                    After::Head => {
                        self.live = true;
                        self.events.as_ref()?;
                    }
                    After::Stretch(stretch) => {
                        self.cursor.pos.seq = stretch.to.seq;
                        self.reached = Some(stretch.to.clone());
                        if let Some(told) = stretch.told {
                            self.told = told;
                            return Some(stretch.batch.clone());
                        }
                        continue;
                    }
                    After::Elsewhere => {}
                }
            }
            let mut out = std::mem::take(&mut turn.out);
            let more = self.collect(turn.now, BATCH_BYTES, &mut out);
            let batch = Batch::of(&mut out);
            turn.out = out;
            if batch.is_some() || !more {
                return batch;
            }
        }
    }

    /// Gives `out` what is ready, up to about `bytes_max`. Never waits. `true`: there is more.
    pub(super) fn collect(&mut self, now: Instant, bytes_max: usize, out: &mut Vec<Out>) -> bool {
        let more = self.collect_all(now, bytes_max, out);
        if self.busy.as_ref().is_some_and(|busy| busy.is_over()) {
            self.busy = None;
        }
        more
    }

    fn collect_all(&mut self, now: Instant, bytes_max: usize, out: &mut Vec<Out>) -> bool {
        self.settle_cursor();
        let mut bytes = 0;
        if let Some(fetched) = self.busy.as_mut().and_then(|busy| busy.fetched.take()) {
            self.settle(fetched);
        }
        loop {
            while let Some(next) = self.busy.as_mut().and_then(|busy| busy.queue.pop_front()) {
                bytes += next.frame.wire_len();
                out.push(next);
                if bytes >= bytes_max {
                    return true;
                }
            }
            if self.busy.as_ref().is_some_and(|busy| busy.setup.is_some()) {
                // Nothing comes before `subscribed`.
                return false;
            }
            if self.collect_firing(bytes_max.saturating_sub(bytes), out) {
                return true;
            }
            self.collect_news(out);
            match self.collect_alerts(bytes_max.saturating_sub(bytes), &mut bytes, out) {
                Alerts::Done => break,
                Alerts::More => return true,
                Alerts::Queued => {}
            }
        }
        self.collect_events(now, bytes_max.saturating_sub(bytes), out)
    }

    /// The alerts that are firing, each as it was last told. `true`: there are more.
    fn collect_firing(&mut self, bytes_max: usize, out: &mut Vec<Out>) -> bool {
        let Some(busy) = &mut self.busy else { return false };
        let Some((entries, _)) = &mut busy.firing else { return false };
        let mut bytes = 0;
        let mut sent = false;
        while let Some(entry) = entries.pop_front() {
            let Some(alert) = AlertFrame::new(entry).filter(|alert| alert.is_wanted(&self.subscription)) else { continue };
            let frame = alert.replayed().clone();
            bytes += frame.wire_len();
            sent = true;
            self.told = 0;
            out.push(Out { name: "security_alert", frame, pos: Some(At::Alert(Arc::new(alert))), received_at_ms: None });
            if bytes >= bytes_max {
                return true;
            }
        }
        busy.firing = None;
        if sent || self.told != self.cursor.pos.seq {
            // The last position a client sees is the one it comes back with: not that of an old alert.
            out.extend(self.position());
        }
        false
    }

    /// Sources and metrics: rare, small, and only the newest.
    fn collect_news(&mut self, out: &mut Vec<Out>) {
        let (seen, changed) = self.ctx.hub.sources_after(self.sources_seen);
        self.sources_seen = seen;
        out.extend(changed.iter().map(|status| Out::new("source_status", wire::source_status(status))));
        if self.subscription.wants_metrics()
            && let Some((seen, frame)) = self.ctx.hub.snapshot_after(self.metrics_seen)
        {
            self.metrics_seen = seen;
            out.push(Out { name: "security_metrics", frame, pos: None, received_at_ms: None });
        }
    }

    fn collect_alerts(&mut self, bytes_max: usize, bytes: &mut usize, out: &mut Vec<Out>) -> Alerts {
        let mut spent = 0;
        while let Some(entry) = self.busy.as_mut().and_then(|busy| busy.page.pop_front()) {
            self.cursor.pos = Pos { seq: entry.seq, check: entry.check.clone() };
            if let Some(frame) = AlertFrame::new(entry)
                && frame.is_wanted(&self.subscription)
            {
                let replayed = frame.pos.seq <= self.cursor.replay_to;
                self.told = frame.pos.seq;
                spent += send(&Arc::new(frame), replayed, out);
            }
            if spent >= bytes_max {
                *bytes += spent;
                return Alerts::More;
            }
        }
        *bytes += spent;
        if self.busy.as_ref().is_some_and(|busy| busy.asked) {
            return Alerts::Done;
        }
        loop {
            let (subscription, told) = (&self.subscription, &mut self.told);
            let mut sent = 0;
            let read = self.ctx.hub.read(&mut self.cursor, 64, |frame, replayed| {
                if frame.is_wanted(subscription) {
                    *told = frame.pos.seq;
                    sent += send(frame, replayed, out);
                }
                spent + sent < bytes_max
            });
            spent += sent;
            *bytes += sent;
            match read {
                Read::Head => {
                    self.live = true;
                    return Alerts::Done;
                }
                Read::More if spent >= bytes_max => return Alerts::More,
                Read::More => {}
                Read::Below => {
                    let (store, after) = (self.ctx.store.clone(), self.cursor.pos.seq);
                    self.live = false;
                    self.busy().ask(async move {
                        let page = until_answered(|| store.log_read(after, PAGE)).await;
                        if page.is_empty() {
                            // The log ends before what the ring has: the hub is about to see that too.
                            sleep(AGAIN).await;
                        }
                        Fetched::Page(page)
                    });
                    return Alerts::Done;
                }
                Read::Reset(resets) => {
                    self.busy().page.clear();
                    for reset in resets {
                        self.tell_gap(reset.reason, reset.missed, &reset.from, &reset.to);
                        self.told = reset.to.seq;
                    }
                    return Alerts::Queued;
                }
            }
        }
    }

    fn collect_events(&mut self, now: Instant, bytes_max: usize, out: &mut Vec<Out>) -> bool {
        let Some(events) = &mut self.events else { return false };
        let subscription = &self.subscription;
        let bucket = &mut events.bucket;
        let over_rate = &mut events.over_rate;
        let mut bytes = 0;
        let read = self.ctx.hub.read_events(&mut events.cursor, EVENTS_BATCH, |event| {
            if !event.is_wanted(subscription) {
                return true;
            }
            if bucket.take(now) {
                bytes += event.frame.wire_len();
                out.push(Out { name: "security_event", frame: event.frame.clone(), pos: None, received_at_ms: None });
            } else {
                *over_rate += 1;
            }
            bytes < bytes_max
        });
        events.too_slow += read.missed;
        if events.lost() && events.told_at.is_none_or(|at| now.saturating_duration_since(at) >= GAP_EVERY) {
            events.told_at = Some(now);
            for (missed, reason) in [(&mut events.over_rate, "rate"), (&mut events.too_slow, "slow")] {
                if *missed > 0 {
                    out.push(Out::new("gap", wire::gap(wire::Feed::Events, Some(std::mem::take(missed)), reason, None)));
                }
            }
        }
        read.more
    }

    /// Wants live events.
    pub(super) fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// When the client is to hear of live events that it lost. While a subscription waits for the store nothing is said of them.
    pub(super) fn tell_at(&self) -> Option<Instant> {
        if self.busy.as_deref().is_some_and(|busy| busy.setup.is_some()) {
            return None;
        }
        self.events.as_ref().filter(|events| events.lost()).and_then(|events| events.told_at).map(|at| at + GAP_EVERY)
    }

    /// A `position` frame, if the cursor has moved without a frame since the client was told.
    pub(super) fn position(&mut self) -> Option<Out> {
        let before = |busy: &Busy| busy.setup.is_some() || busy.firing.is_some();
        if self.busy.as_deref().is_some_and(before) || self.told == self.cursor.pos.seq {
            return None;
        }
        self.settle_cursor();
        self.told = self.cursor.pos.seq;
        Some(Out::position(&self.cursor.pos))
    }

    /// Has read at the head once, and what comes next has left memory since.
    pub(super) fn fell_off(&self) -> bool {
        self.live && self.ctx.hub.is_below(&self.cursor)
    }

    /// More than half of what is kept in memory is waiting.
    pub(super) fn is_lagging(&self) -> bool {
        self.live && self.ctx.hub.lag(&self.cursor) > self.ctx.hub.ring_len() as u64 / 2
    }
}

impl Events {
    fn lost(&self) -> bool {
        self.over_rate + self.too_slow > 0
    }
}

enum Alerts {
    Done,
    More,
    /// Something must be said first.
    Queued,
}

/// The answer to a question, once it is there. Cancel-safe; waits for ever where nothing is asked.
pub(super) async fn answer(asking: &mut Option<Asking>) -> Fetched {
    let fetched = match asking {
        Some(question) => question.await,
        None => std::future::pending().await,
    };
    *asking = None;
    fetched
}
