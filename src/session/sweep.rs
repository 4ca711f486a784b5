//! Who writes news: a task that goes from client to client when there is any. A client's own task sleeps meanwhile; it is woken
//! only where the socket is full, the store must be asked, or it is over.
//!
//! Why: waking a task for each of a thousand clients costs about as much as everything else together that is done for them
//! outside the kernel; and a frame, or a batch of them, is looked up once for all who are at the same place. The clocks of all
//! clients hang on the same task, in slots, so that a client has no timer of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{Context, batch::Turn, lane::Lane, socket::Link};
use crate::wire::{self, CloseCode};

/// Clients between two pauses, in which other tasks have their turn: a write takes some microseconds.
const CHUNK: usize = 1024;
/// Clients between two moments in which others may come in and leave.
const HELD: usize = 32;
/// So many clients ahead of its turn what a client needs is brought near.
const AHEAD: usize = 3;
/// Clocks are looked at together, this late at most.
const SLOT: Duration = Duration::from_millis(50);

/// The clients that are in.
#[derive(Default)]
struct Crowd {
    links: Vec<Option<Arc<Link>>>,
    free: Vec<u32>,
}

/// See the file's own page.
pub(super) struct Sweep {
    began: Instant,
    crowd: Mutex<Crowd>,
    /// By slot since the beginning: the places of clients whose clocks are to be looked at, and their numbers, for a place may
    /// have got another client since.
    slots: Mutex<BTreeMap<u64, Vec<(u32, u64)>>>,
    /// The first slot is another one than it was.
    earlier: Notify,
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the sweep, left by its drop.
pub(super) struct Joined(Arc<Link>);

impl Drop for Joined {
    fn drop(&mut self) {
        let index = self.0.index.load(Ordering::Relaxed);
        {
            let mut crowd = unpoisoned(&self.0.ctx.sweep.crowd);
            if let Some(place) = crowd.links.get_mut(index as usize) {
                *place = None;
                crowd.free.push(index);
            }
            if crowd.free.len() == crowd.links.len() {
                *crowd = Crowd::default();
            }
        }
        let feed = self.0.lane().feed.take();
        drop(feed);
    }
}

impl Sweep {
    pub(super) fn new() -> Sweep {
        Sweep { began: Instant::now(), crowd: Mutex::default(), slots: Mutex::default(), earlier: Notify::new() }
    }

    /// From here on the sweep writes to this client.
    pub(super) fn join(&self, link: &Arc<Link>) -> Joined {
        let mut crowd = unpoisoned(&self.crowd);
        let index = match crowd.free.pop() {
            Some(index) => index,
            None => {
                crowd.links.push(None);
                u32::try_from(crowd.links.len() - 1).unwrap_or(u32::MAX)
            }
        };
        link.index.store(index, Ordering::Relaxed);
        if let Some(place) = crowd.links.get_mut(index as usize) {
            *place = Some(link.clone());
        }
        Joined(link.clone())
    }

    /// The slot at whose beginning a moment has passed.
    fn slot(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.began).as_nanos();
        u64::try_from(nanos.div_ceil(SLOT.as_nanos())).unwrap_or(u64::MAX)
    }

    fn begin_of(&self, slot: u64) -> Instant {
        self.began + SLOT.saturating_mul(u32::try_from(slot).unwrap_or(u32::MAX))
    }

    /// Has the client's clocks looked at when they are due, if that is not seen to yet. Never at once: what is due and cannot be
    /// done now would be looked at for ever, and nobody else's would.
    pub(super) fn schedule(&self, link: &Link, lane: &mut Lane) {
        let slot = self.slot(lane.look_at(&link.ctx.options).max(Instant::now()));
        if slot >= lane.slot {
            return;
        }
        lane.slot = slot;
        let mut slots = unpoisoned(&self.slots);
        let is_first = slots.first_key_value().is_none_or(|(first, _)| slot < *first);
        slots.entry(slot).or_default().push((link.index.load(Ordering::Relaxed), link.place.id()));
        drop(slots);
        if is_first {
            self.earlier.notify_one();
        }
    }

    fn next_slot(&self) -> Option<Instant> {
        unpoisoned(&self.slots).first_key_value().map(|(slot, _)| self.begin_of(*slot))
    }

    /// Takes the next slot that has begun.
    fn due(&self, now: Instant) -> Option<(u64, Vec<(u32, u64)>)> {
        let mut slots = unpoisoned(&self.slots);
        let first = slots.first_entry()?;
        (self.begin_of(*first.key()) <= now).then(|| first.remove_entry())
    }
}

/// Writes whatever the hub has to whoever is in, and looks at their clocks. Until it is dropped; without it clients hear nothing
/// but answers.
pub async fn sweep(ctx: Arc<Context>) {
    let (mut wake, mut wake_events) = (ctx.hub.waiter(), ctx.hub.events_waiter());
    let mut disconnections = 0;
    let mut chunk = Vec::new();
    loop {
        let next = ctx.sweep.next_slot();
        let news = tokio::select! {
            Ok(()) = wake.changed() => Some(false),
            Ok(()) = wake_events.changed() => Some(true),
            () = ctx.sweep.earlier.notified() => None,
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => None,
        };
        if let Some(only_events) = news {
            let ended = ctx.hub.disconnections();
            let round = Round { only_events, draining: ctx.hub.draining().is_some(), ended: ended != disconnections };
            disconnections = ended;
            round.run(&ctx).await;
        }
        clocks(&ctx, &mut chunk).await;
    }
}

/// What a round through the crowd is about.
struct Round {
    /// Nothing but live events.
    only_events: bool,
    draining: bool,
    /// Connections have been ended from elsewhere, or have other permissions.
    ended: bool,
}

impl Round {
    async fn run(&self, ctx: &Arc<Context>) {
        let (mut at, mut all_drained) = (0, true);
        while !self.chunk(ctx, &mut at, &mut all_drained) {
            yield_now().await;
        }
        if all_drained {
            ctx.stretches.clear();
        }
    }

    /// The next [`CHUNK`] from `at` on. `true`: these were the last.
    fn chunk(&self, ctx: &Arc<Context>, at: &mut usize, all_drained: &mut bool) -> bool {
        let mut turn = Turn::new(ctx, Instant::now());
        for _ in 0..CHUNK / HELD {
            // Visited in their place: to take each out would cost a write to its memory, and a wait for that.
            let crowd = unpoisoned(&ctx.sweep.crowd);
            let links = &crowd.links;
            let end = (*at + HELD).min(links.len());
            for place in *at..end {
                if let Some(Some(soon)) = links.get(place + AHEAD) {
                    soon.bring_near();
                }
                if let Some(Some(link)) = links.get(place) {
                    *all_drained &= self.visit(link, &mut turn);
                }
            }
            *at = end;
            if end >= links.len() {
                return true;
            }
        }
        false
    }

    /// `true`: the client has everything.
    fn visit(&self, link: &Arc<Link>, turn: &mut Turn<'_>) -> bool {
        if self.only_events && !link.events.load(Ordering::Relaxed) {
            return true;
        }
        let mut lane = link.lane();
        if !lane.is_live() {
            return true;
        }
        if self.draining {
            lane.end(CloseCode::ShuttingDown);
            return true;
        }
        if self.ended
            && let Some(code) = link.place.ended()
        {
            lane.end(code);
            return true;
        }
        if self.ended
            && lane.has_room()
            && let Some(permissions) = link.place.news()
        {
            lane.push(turn, wire::permissions(&permissions));
        }
        if lane.is_blocked() {
            // Its own task waits for room; whether it has been too long is seen here.
            if let Some(code) = lane.clocks(&link.ctx.options, turn) {
                lane.end(code);
            }
            return false;
        }
        link.pump(&mut lane, turn)
    }
}

/// Looks at the clocks that are due.
async fn clocks(ctx: &Arc<Context>, chunk: &mut Vec<Arc<Link>>) {
    // What becomes due meanwhile has its turn after the news.
    let now = Instant::now();
    while let Some((slot, due)) = ctx.sweep.due(now) {
        for due in due.chunks(CHUNK) {
            {
                let crowd = unpoisoned(&ctx.sweep.crowd);
                let link = |(index, id): &(u32, u64)| {
                    crowd.links.get(*index as usize)?.as_ref().filter(|link| link.place.id() == *id).cloned()
                };
                chunk.extend(due.iter().filter_map(link));
            }
            {
                let mut turn = Turn::new(ctx, Instant::now());
                for link in chunk.drain(..) {
                    look(&link, slot, &mut turn);
                }
            }
            yield_now().await;
        }
    }
}

fn look(link: &Arc<Link>, slot: u64, turn: &mut Turn<'_>) {
    let mut lane = link.lane();
    if lane.slot <= slot {
        lane.slot = u64::MAX;
    }
    if !lane.is_live() {
        return;
    }
    if let Some(code) = lane.clocks(&link.ctx.options, turn) {
        lane.end(code);
        return;
    }
    if !lane.is_blocked() {
        link.pump(&mut lane, turn);
    }
    link.ctx.sweep.schedule(link, &mut lane);
}
