//! A connection after its handshake. What two tasks share is a [`Link`]: who it is, the socket, the way out. What is left to the
//! client's own task is a [`Socket`]: reading, waiting for room, ending in good order.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context as Wakes, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    Context,
    batch::Turn,
    decode::{Decode, Incoming},
    feed::Feed,
    lane::{Lane, Pumped},
    pipe::Pipe,
};
use crate::hub::Connection;

/// Read at once; on the stack.
const READ_BYTES: usize = 4096;
/// Who does not read so many bytes of answers is not read either.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;
/// After our close frame: what the client still sends is read and thrown away, for a socket closed with unread input is reset,
/// and a reset can take the close frame with it.
const DRAIN: Duration = Duration::from_secs(2);
const DRAIN_BYTES_MAX: usize = 1024 * 1024;

/// A connection as its own task and the sweep share it. What each delivery needs comes first: between two alerts a thousand
/// clients' memory has gone far from the processor, and fetching it back is what a delivery costs beside the kernel's part.
#[repr(C)]
pub(super) struct Link {
    pipe: Pipe,
    /// Wants live events.
    pub(super) events: AtomicBool,
    /// Its place in the sweep.
    pub(super) index: AtomicU32,
    lane: Mutex<Lane>,
    pub(super) ctx: Arc<Context>,
    pub(super) place: Connection,
}

/// Lines of memory that each delivery needs of a [`Link`].
#[cfg(target_arch = "x86_64")]
const NEAR: usize = 5;
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

impl Drop for Link {
    fn drop(&mut self) {
        self.ctx.metrics.connections.websocket.dec();
    }
}

impl Link {
    pub(super) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what a delivery needs brought near, without waiting for it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn bring_near(&self) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(self).cast::<i8>();
        for line in 0..NEAR {
            // SAFETY: a hint. Nothing is read that the program could see, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE)) };
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn bring_near(&self) {}

    /// Writes from outside of the connection's own task, which is woken for what it alone can do. `true`: nothing is left.
    pub(super) fn pump(self: &Arc<Link>, lane: &mut Lane, turn: &mut Turn<'_>) -> bool {
        let pumped = lane.pump(turn, &mut |bytes| self.pipe.try_write(bytes));
        if pumped == Pumped::Gone {
            lane.lost();
        } else if pumped != Pumped::Drained || lane.feed.as_ref().is_some_and(Feed::has_asking) {
            lane.wake();
        }
        self.pumped(lane, pumped);
        pumped == Pumped::Drained
    }

    fn pumped(self: &Arc<Link>, lane: &mut Lane, pumped: Pumped) {
        let Some(feed) = &lane.feed else { return };
        let events = feed.has_events();
        if events != self.events.load(Ordering::Relaxed) {
            self.events.store(events, Ordering::Relaxed);
        }
        if events || pumped == Pumped::Blocked {
            self.ctx.sweep.schedule(self, lane);
        }
    }
}

/// What a handshake leaves.
pub(super) enum Connected {
    /// The answer 101 has still to go out.
    Answering(TcpStream, Vec<u8>),
    /// With what the client has said already.
    Begun(Pipe, Bytes),
}

impl Connected {
    /// `None`: it is neither TCP nor TLS over it.
    pub(super) fn from_hyper(upgraded: Upgraded) -> Option<Connected> {
        let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => return Some(Connected::Begun(Pipe::Plain(parts.io.into_inner()), parts.read_buf)),
            Err(upgraded) => upgraded,
        };
        let parts = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>().ok()?;
        let (tcp, connection) = parts.io.into_inner().into_inner();
        Some(Connected::Begun(Pipe::tls(tcp, connection), parts.read_buf))
    }
}

/// See the file's own page.
pub(super) struct Socket {
    pub(super) link: Arc<Link>,
    decode: Decode,
}

impl Socket {
    /// Takes over a connection whose handshake is done.
    pub(super) fn take(connected: Connected, ctx: Arc<Context>, place: Connection) -> Socket {
        let mut lane = Lane::new(Instant::now());
        let (pipe, rest) = match connected {
            Connected::Answering(tcp, answer) => {
                *lane.own() = answer;
                (Pipe::Plain(tcp), Bytes::new())
            }
            Connected::Begun(pipe, rest) => {
                pipe.send_at_once();
                (pipe, rest)
            }
        };
        let mut decode = Decode::new(ctx.options.frame_bytes_max);
        if !rest.is_empty() {
            decode.take(&rest);
        }
        ctx.metrics.connections.websocket.inc();
        let lane = Mutex::new(lane);
        let link = Link { ctx, place, pipe, lane, events: AtomicBool::new(false), index: AtomicU32::new(u32::MAX) };
        Socket { link: Arc::new(link), decode }
    }

    /// The next thing from the client.
    pub(super) async fn incoming(&mut self) -> Incoming {
        poll_fn(|cx| self.poll_incoming(cx)).await
    }

    pub(super) fn poll_incoming(&mut self, cx: &mut Wakes<'_>) -> Poll<Incoming> {
        loop {
            let mut answer = Vec::new();
            if let Some(incoming) = self.decode.next(&mut answer) {
                let mut lane = self.link.lane();
                lane.heard_at = Instant::now();
                lane.own().extend_from_slice(&answer);
                return Poll::Ready(incoming);
            }
            let mut buffer = [0; READ_BYTES];
            match ready!(self.link.pipe.poll_read(cx, &mut buffer)) {
                Ok(0) => self.decode.end(),
                Ok(n) => self.decode.take(buffer.get(..n).unwrap_or_default()),
                Err(_) => return Poll::Ready(Incoming::End),
            }
        }
    }

    /// Does not take answers: no more is read until it does.
    pub(super) fn is_deaf(&self) -> bool {
        self.link.lane().own_bytes() >= ANSWERS_BYTES_MAX
    }

    /// Writes what is ready, and waits for room where there is none. Never [`Pumped::Blocked`].
    pub(super) fn poll_pump(&mut self, cx: &mut Wakes<'_>) -> Poll<Pumped> {
        loop {
            let link = &self.link;
            if link.lane().is_blocked() && ready!(link.pipe.poll_write_ready(cx)).is_err() {
                return Poll::Ready(Pumped::Gone);
            }
            let mut turn = Turn::new(&link.ctx, Instant::now());
            let mut lane = link.lane();
            let pumped = lane.pump(&mut turn, &mut |bytes| link.pipe.try_write(bytes));
            link.pumped(&mut lane, pumped);
            if pumped != Pumped::Blocked {
                return Poll::Ready(pumped);
            }
        }
    }

    /// Writes everything that waits. `false`: the connection is gone.
    pub(super) async fn flush(&mut self) -> bool {
        loop {
            match poll_fn(|cx| self.poll_pump(cx)).await {
                Pumped::Drained => return true,
                Pumped::Gone => return false,
                Pumped::Blocked | Pumped::More => tokio::task::yield_now().await,
            }
        }
    }

    /// Puts the close frame behind everything that waits.
    pub(super) fn close(&mut self, code: u16, reason: &'static str) {
        let mut answer = Vec::new();
        self.decode.close(code, reason, &mut answer);
        self.link.lane().own().extend_from_slice(&answer);
    }

    /// After the close frame, or the client's own: waits for the other side to end, and ends.
    pub(super) async fn drain(mut self) {
        let _ = timeout(DRAIN, async {
            // The client's close frame, if it can be read as one.
            loop {
                match self.incoming().await {
                    Incoming::Close | Incoming::End | Incoming::Fault(_) => break,
                    _ => {}
                }
            }
            self.flush().await;
            let _ = self.link.pipe.shutdown();
            let mut left = DRAIN_BYTES_MAX;
            while left > 0 {
                let mut scratch = [0; READ_BYTES];
                match poll_fn(|cx| self.link.pipe.poll_read(cx, &mut scratch)).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => left = left.saturating_sub(n),
                }
            }
        })
        .await;
    }
}
