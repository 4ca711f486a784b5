//! The way out to one client: what is being written, what comes next, and the clocks of it. Behind a lock that is held for one
//! write at a time, because two write: the sweep, when there is news, and the client's own task, when the socket was full.
//!
//! Frames leave whole and in order whoever writes: what the kernel has not taken yet stays at the head of the lane.

use std::{io, sync::Arc, task::Waker, time::Duration};

use tokio::time::Instant;

use super::{
    Options,
    batch::{Batch, Turn},
    feed::Feed,
};
use crate::{
    hub::Frame,
    wire::{self, CloseCode},
};

/// Writes in one go to one client; then others have their turn.
const WRITES_MAX: usize = 8;
/// Being behind for less than this is nobody's fault.
const STALL_MIN: Duration = Duration::from_secs(1);
/// Who has not taken so many bytes is told no more beside the feed.
const OWN_BYTES_MAX: usize = 16 * 1024;
/// A ping without payload.
const PING: [u8; 2] = [0x89, 0];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lagging {
    No,
    /// To be said as soon as the socket takes something.
    Due,
    Said,
}

/// How a round of writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Everything that is ready is out.
    Drained,
    /// The socket is full.
    Blocked,
    /// There is more, and others wait.
    More,
    /// The connection is gone.
    Gone,
}

/// See the file's own page. What each delivery needs comes first.
#[repr(C)]
pub(super) struct Lane {
    /// `None` before a client is in, and after.
    pub(super) feed: Option<Feed>,
    /// What is being written, and how far it is.
    head: Option<Arc<Batch>>,
    offset: usize,
    /// Frames of this connection alone, which come next: answers, pings, the end.
    own: Vec<u8>,
    /// Since when the socket takes nothing.
    stall: Option<Instant>,
    /// Why it is over: for the client's task to say.
    end: Option<CloseCode>,
    gone: bool,
    pub(super) lagging: Lagging,
    pub(super) heard_at: Instant,
    ping_at: Instant,
    pub(super) expires_at: Instant,
    /// The client's task.
    waker: Option<Waker>,
    /// The earliest slot of the clock that this client waits for.
    pub(super) slot: u64,
}

impl Lane {
    pub(super) fn new(now: Instant) -> Lane {
        Lane {
            head: None,
            offset: 0,
            own: Vec::new(),
            feed: None,
            stall: None,
            lagging: Lagging::No,
            heard_at: now,
            ping_at: now,
            expires_at: now,
            end: None,
            gone: false,
            waker: None,
            slot: u64::MAX,
        }
    }

    /// A client is in.
    pub(super) fn begin(&mut self, feed: Feed, expires_at: Instant, ping_at: Instant) {
        self.feed = Some(feed);
        self.expires_at = expires_at;
        self.ping_at = ping_at;
    }

    /// Puts a frame behind what is waiting already.
    pub(super) fn push(&mut self, turn: &mut Turn<'_>, text: String) {
        turn.sent_one();
        self.own.extend_from_slice(Frame::from(text).bytes());
    }

    /// In one write with what waits: what the feed of a client who just came in says at once.
    pub(super) fn join(&mut self, turn: &mut Turn<'_>) {
        if self.head.is_none()
            && let Some(batch) = self.feed.as_mut().and_then(|feed| feed.next(turn))
        {
            turn.taken(&batch);
            self.head = Some(batch.behind(std::mem::take(&mut self.own)));
            self.offset = 0;
        }
    }

    /// Where answers of the protocol itself are put: whole frames.
    pub(super) fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// There is room for one more frame that nobody has asked for.
    pub(super) fn has_room(&self) -> bool {
        self.own.len() < OWN_BYTES_MAX
    }

    /// Bytes of answers that wait.
    pub(super) fn own_bytes(&self) -> usize {
        self.own.len()
    }

    /// Something waits for the socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.stall.is_some()
    }

    /// Ends the session, and tells its task.
    pub(super) fn end(&mut self, code: CloseCode) {
        if self.end.is_none() {
            self.end = Some(code);
            self.wake();
        }
    }

    pub(super) fn ended(&self) -> Option<CloseCode> {
        self.end
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self) {
        self.gone = true;
        self.wake();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the sweep has to do with it.
    pub(super) fn is_live(&self) -> bool {
        self.feed.is_some() && self.end.is_none() && !self.gone
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn wakes(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Writes everything that is ready, or as much as the socket takes.
    pub(super) fn pump(&mut self, turn: &mut Turn<'_>, write: &mut dyn FnMut(&[u8]) -> io::Result<usize>) -> Pumped {
        for _ in 0..WRITES_MAX {
            if self.head.is_none() {
                if self.lagging == Lagging::Due && self.stall.is_none() {
                    self.lagging = Lagging::Said;
                    self.push(turn, wire::lagging());
                }
                if !self.own.is_empty() {
                    self.head = Some(Batch::own(std::mem::take(&mut self.own)));
                } else if let Some(batch) = self.feed.as_mut().and_then(|feed| feed.next(turn)) {
                    turn.taken(&batch);
                    self.head = Some(batch);
                } else {
                    return Pumped::Drained;
                }
                self.offset = 0;
            }
            let Some(head) = &self.head else { return Pumped::Drained };
            while let Some(rest) = head.bytes.get(self.offset..).filter(|rest| !rest.is_empty()) {
                match write(rest) {
                    Ok(0) => return Pumped::Gone,
                    Ok(n) => {
                        self.offset += n;
                        if let Some(since) = &mut self.stall {
                            // Slowly, but it gets on.
                            *since = turn.now;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.stall.get_or_insert(turn.now);
                        return Pumped::Blocked;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Pumped::Gone,
                }
            }
            turn.delivered(head);
            self.head = None;
            if self.stall.take().is_some() {
                // Whoever reads is there.
                self.heard_at = turn.now;
            }
        }
        Pumped::More
    }

    /// What the clocks say: pings are put in their place, ends are told.
    pub(super) fn clocks(&mut self, options: &Options, turn: &mut Turn<'_>) -> Option<CloseCode> {
        let now = turn.now;
        if now >= self.expires_at {
            return Some(CloseCode::TokenExpired);
        }
        let feed = self.feed.as_mut()?;
        if let Some(since) = self.stall {
            let stalled = now.saturating_duration_since(since);
            let fell_off = stalled >= STALL_MIN.min(options.write_timeout) && feed.fell_off();
            if stalled >= options.write_timeout || fell_off {
                return Some(CloseCode::TooSlow);
            }
            if self.lagging == Lagging::No && (stalled >= options.write_timeout / 2 || feed.is_lagging()) {
                self.lagging = Lagging::Due;
            }
            return None;
        }
        if now.saturating_duration_since(self.heard_at) >= options.idle_timeout {
            return Some(CloseCode::NoPong);
        }
        if self.lagging == Lagging::Said && !feed.is_lagging() {
            self.lagging = Lagging::No;
        }
        if now >= self.ping_at {
            self.ping_at = now + options.ping_interval;
            if let Some(position) = feed.position() {
                turn.sent_one();
                self.own.extend_from_slice(position.frame.bytes());
            }
            self.own.extend_from_slice(&PING);
        }
        None
    }

    /// When the clocks must be looked at again.
    pub(super) fn look_at(&self, options: &Options) -> Instant {
        let clocks = match self.stall {
            None => {
                let clocks = self.ping_at.min(self.heard_at + options.idle_timeout);
                self.feed.as_ref().and_then(Feed::tell_at).map_or(clocks, |at| clocks.min(at))
            }
            Some(since) if self.lagging == Lagging::No => since + options.write_timeout / 2,
            Some(since) => since + options.write_timeout,
        };
        clocks.min(self.expires_at)
    }
}
