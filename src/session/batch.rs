//! What goes to a socket in one write, made once for everybody who gets the same: a client with the same filter at the same
//! place of the alert log has the same frames before it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Context, out::Out};
use crate::{
    hub::{Cursor, Hub, Read},
    metrics::{Arrivals, Delays, unix_ms},
    wire::{Pos, Subscription},
};

/// Bytes joined into one write, but for the last frame; far under what the kernel takes from a client that reads.
pub(super) const BATCH_BYTES: usize = 64 * 1024;
/// Batches kept for who comes a little later: slow readers, and filters that few share.
const KEPT_MAX: usize = 16;

/// Whole WebSocket frames, one behind the other.
pub(super) struct Batch {
    pub(super) bytes: Bytes,
    pub(super) frames: u64,
    /// Of the live alerts among them.
    pub(super) arrivals: Arrivals,
}

impl Batch {
    /// Frames of this connection alone.
    pub(super) fn own(bytes: Vec<u8>) -> Arc<Batch> {
        Arc::new(Batch { bytes: bytes.into(), frames: 0, arrivals: Arrivals::default() })
    }

    /// With frames of this connection alone before it.
    pub(super) fn behind(&self, mut own: Vec<u8>) -> Arc<Batch> {
        own.extend_from_slice(&self.bytes);
        Arc::new(Batch { bytes: own.into(), frames: self.frames, arrivals: self.arrivals.clone() })
    }

    /// Takes what a feed has given; `None` where that is nothing.
    pub(super) fn of(out: &mut Vec<Out>) -> Option<Arc<Batch>> {
        let mut arrivals = Arrivals::default();
        let mut frames = Vec::with_capacity(out.len());
        for out in out.drain(..) {
            if let Some(received) = out.received_at_ms {
                arrivals.push(received);
            }
            frames.push(out.frame.bytes().clone());
        }
        let count = frames.len() as u64;
        (count > 0).then(|| Arc::new(Batch { bytes: join(frames), frames: count, arrivals }))
    }
}

fn join(frames: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(frames) {
        Ok([alone]) => alone,
        Err(frames) => {
            let mut bytes = Vec::with_capacity(frames.iter().map(Bytes::len).sum());
            frames.iter().for_each(|frame| bytes.extend_from_slice(frame));
            bytes.into()
        }
    }
}

/// The alerts after a place in the log that a filter lets through, as far as one write goes.
pub(super) struct Stretch {
    generation: u64,
    after: u64,
    filter: Arc<Subscription>,
    pub(super) to: Arc<Pos>,
    /// Position of the last frame; without one, all were hidden.
    pub(super) told: Option<u64>,
    pub(super) batch: Arc<Batch>,
}

impl Stretch {
    fn is(&self, cursor: &Cursor, filter: &Arc<Subscription>) -> bool {
        self.after == cursor.pos.seq
            && self.generation == cursor.generation()
            && (Arc::ptr_eq(&self.filter, filter) || self.filter == *filter)
    }

    /// `None`: the ring does not say what comes after the cursor.
    fn read(hub: &Hub, cursor: &Cursor, filter: &Arc<Subscription>) -> Option<Stretch> {
        let mut cursor = cursor.clone();
        let (generation, after) = (cursor.generation(), cursor.pos.seq);
        let mut frames = Vec::new();
        let mut arrivals = Arrivals::default();
        let (mut bytes, mut told) = (0, None);
        let read = hub.read(&mut cursor, usize::MAX, |alert, _| {
            if alert.is_wanted(filter) {
                told = Some(alert.pos.seq);
                bytes += alert.frame.wire_len();
                if let Some(received) = alert.view.received_at_ms {
                    arrivals.push(received);
                }
                frames.push(alert.frame.bytes().clone());
            }
            bytes < BATCH_BYTES
        });
        if matches!(read, Read::Below | Read::Reset(_)) {
            return None;
        }
        let batch = Arc::new(Batch { frames: frames.len() as u64, bytes: join(frames), arrivals });
        Some(Stretch { generation, after, filter: filter.clone(), to: Arc::new(cursor.pos), told, batch })
    }
}

/// The newest stretches that were read.
#[derive(Default)]
pub(super) struct Stretches(Mutex<VecDeque<Arc<Stretch>>>);

impl Stretches {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Stretch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn after(&self, hub: &Hub, cursor: &Cursor, filter: &Arc<Subscription>) -> Option<Arc<Stretch>> {
        let mut kept = self.kept();
        if let Some(known) = kept.iter().rev().find(|stretch| stretch.is(cursor, filter)) {
            return Some(known.clone());
        }
        let stretch = Arc::new(Stretch::read(hub, cursor, filter)?);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(stretch.clone());
        Some(stretch)
    }

    /// Nobody is behind any more.
    pub(super) fn clear(&self) {
        *self.kept() = VecDeque::new();
    }
}

/// What comes after a cursor.
pub(super) enum After {
    /// Nothing.
    Head,
    Stretch(Arc<Stretch>),
    /// What is not the same for everybody: a replay, a page of the store, a log that has changed.
    Elsewhere,
}

/// One look at one or many clients: what they share in it, and what is counted on the way.
pub(super) struct Turn<'a> {
    ctx: &'a Context,
    pub(super) now: Instant,
    now_ms: u64,
    /// Generation and head of the log as of the beginning. What comes later wakes the sweep again.
    view: (u64, u64),
    last: Option<Arc<Stretch>>,
    /// Lent to feeds.
    pub(super) out: Vec<Out>,
    frames: u64,
    delays: Delays,
}

impl<'a> Turn<'a> {
    pub(super) fn new(ctx: &'a Context, now: Instant) -> Turn<'a> {
        Turn {
            ctx,
            now,
            now_ms: unix_ms(),
            view: ctx.hub.view(),
            last: None,
            out: Vec::new(),
            frames: 0,
            delays: Delays::default(),
        }
    }

    pub(super) fn after(&mut self, cursor: &Cursor, filter: &Arc<Subscription>) -> After {
        if cursor.generation() != self.view.0 || cursor.pos.seq < cursor.replay_to.min(self.view.1) {
            return After::Elsewhere;
        }
        if cursor.pos.seq >= self.view.1 {
            return After::Head;
        }
        if let Some(last) = &self.last
            && last.is(cursor, filter)
        {
            return After::Stretch(last.clone());
        }
        match self.ctx.stretches.after(&self.ctx.hub, cursor, filter) {
            Some(stretch) => {
                self.last = Some(stretch.clone());
                After::Stretch(stretch)
            }
            None => After::Elsewhere,
        }
    }

    /// A batch has been taken up.
    pub(super) fn taken(&mut self, batch: &Batch) {
        self.frames += batch.frames;
    }

    /// A frame has been put into its place.
    pub(super) fn sent_one(&mut self) {
        self.frames += 1;
    }

    /// The kernel has all of it.
    pub(super) fn delivered(&mut self, batch: &Batch) {
        self.delays.add(&batch.arrivals, self.now_ms);
    }

    /// Tells what was counted.
    pub(super) fn tell(&mut self) {
        if self.frames > 0 {
            self.ctx.metrics.frames_sent.add("websocket", std::mem::take(&mut self.frames));
        }
        if !self.delays.is_empty() {
            self.ctx.metrics.alert_delivery.take(&mut self.delays);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}
