//! A connection after its handshake. What two tasks share is a [`Link`]: who it is, the socket, the way out. What is left to the
//! client's own task is a [`Socket`]: reading, waiting for room, ending in good order.

use std::{
    future::poll_fn,
    io,
    net::Shutdown,
    pin::Pin,
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
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    Context,
    batch::Turn,
    decode::{Decode, Incoming},
    feed::Feed,
    lane::{Lane, Pumped},
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

/// A connection as its own task and the sweep share it.
pub(super) struct Link {
    pub(super) ctx: Arc<Context>,
    pub(super) place: Connection,
    /// `None`: TLS or another wrapping, which only the connection's own task can write to.
    tcp: Option<TcpStream>,
    lane: Mutex<Lane>,
    /// Wants live events.
    pub(super) events: AtomicBool,
    /// Its place in the sweep.
    pub(super) index: AtomicU32,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ctx.metrics.connections.websocket.dec();
    }
}

impl Link {
    pub(super) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes from outside of the connection's own task, which is woken for what it alone can do. `true`: nothing is left.
    pub(super) fn pump(self: &Arc<Link>, lane: &mut Lane, turn: &mut Turn<'_>) -> bool {
        let Some(tcp) = &self.tcp else {
            lane.wake();
            return true;
        };
        let pumped = lane.pump(turn, &mut |bytes| tcp.try_write(bytes));
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
    Begun(TcpStream, Bytes),
    /// TLS or another wrapping.
    Other(Box<TokioIo<Upgraded>>),
}

impl Connected {
    pub(super) fn from_hyper(upgraded: Upgraded) -> Connected {
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => Connected::Begun(parts.io.into_inner(), parts.read_buf),
            Err(upgraded) => Connected::Other(Box::new(TokioIo::new(upgraded))),
        }
    }
}

/// See the file's own page.
pub(super) struct Socket {
    pub(super) link: Arc<Link>,
    /// Where the link has no TCP connection.
    other: Option<Box<TokioIo<Upgraded>>>,
    decode: Decode,
}

impl Socket {
    /// Takes over a connection whose handshake is done.
    pub(super) fn take(connected: Connected, ctx: Arc<Context>, place: Connection) -> Socket {
        let mut lane = Lane::new(Instant::now());
        let (tcp, other, rest) = match connected {
            Connected::Answering(tcp, answer) => {
                *lane.own() = answer;
                (Some(tcp), None, Bytes::new())
            }
            Connected::Begun(tcp, rest) => {
                // Everything ready goes out in one write, so there is nothing to wait for.
                let _ = tcp.set_nodelay(true);
                (Some(tcp), None, rest)
            }
            Connected::Other(other) => (None, Some(other), Bytes::new()),
        };
        let mut decode = Decode::new(ctx.options.frame_bytes_max);
        if !rest.is_empty() {
            decode.take(&rest);
        }
        ctx.metrics.connections.websocket.inc();
        let lane = Mutex::new(lane);
        let link = Link { ctx, place, tcp, lane, events: AtomicBool::new(false), index: AtomicU32::new(u32::MAX) };
        Socket { link: Arc::new(link), other, decode }
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
            match ready!(self.poll_read(cx, &mut buffer)) {
                Ok(0) => self.decode.end(),
                Ok(n) => self.decode.take(buffer.get(..n).unwrap_or_default()),
                Err(_) => return Poll::Ready(Incoming::End),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Wakes<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match (&self.link.tcp, &mut self.other) {
            (Some(tcp), _) => loop {
                ready!(tcp.poll_read_ready(cx))?;
                match tcp.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            },
            (None, Some(other)) => {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(other.as_mut()).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            (None, None) => Poll::Ready(Ok(0)),
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
            if link.lane().is_blocked()
                && let Some(tcp) = &link.tcp
                && ready!(tcp.poll_write_ready(cx)).is_err()
            {
                return Poll::Ready(Pumped::Gone);
            }
            let mut turn = Turn::new(&link.ctx, Instant::now());
            let mut lane = link.lane();
            let pumped = match (&link.tcp, &mut self.other) {
                (Some(tcp), _) => lane.pump(&mut turn, &mut |bytes| tcp.try_write(bytes)),
                (None, Some(other)) => {
                    let mut other = Pin::new(other.as_mut());
                    let pumped = lane.pump(&mut turn, &mut |bytes| match other.as_mut().poll_write(cx, bytes) {
                        Poll::Ready(written) => written,
                        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                    });
                    match other.poll_flush(cx) {
                        Poll::Ready(Err(_)) => Pumped::Gone,
                        // What it holds back goes out when there is room; it wakes this task for it.
                        Poll::Ready(Ok(())) | Poll::Pending => pumped,
                    }
                }
                (None, None) => Pumped::Gone,
            };
            link.pumped(&mut lane, pumped);
            match pumped {
                Pumped::Blocked if link.tcp.is_some() => {}
                Pumped::Blocked => return Poll::Pending,
                other => return Poll::Ready(other),
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
            let _ = poll_fn(|cx| self.poll_shutdown(cx)).await;
            let mut left = DRAIN_BYTES_MAX;
            while left > 0 {
                let mut scratch = [0; READ_BYTES];
                match poll_fn(|cx| self.poll_read(cx, &mut scratch)).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => left = left.saturating_sub(n),
                }
            }
        })
        .await;
    }

    fn poll_shutdown(&mut self, cx: &mut Wakes<'_>) -> Poll<io::Result<()>> {
        match (&self.link.tcp, &mut self.other) {
            (Some(tcp), _) => Poll::Ready(socket2::SockRef::from(tcp).shutdown(Shutdown::Write)),
            (None, Some(other)) => Pin::new(other.as_mut()).poll_shutdown(cx),
            (None, None) => Poll::Ready(Ok(())),
        }
    }
}
