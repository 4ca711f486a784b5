//! A WebSocket client: one task, from its admission to its end.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, protocol::CloseFrame};

use super::{
    Context,
    admission::Denied,
    feed::{Feed, Out},
    handshake::{admit, missing},
    rate::Bucket,
    retry_in_ms,
    socket::{Fault, Incoming, Socket},
};
use crate::{
    auth::{Principal, RefusalKind},
    hub::Connection,
    metrics::unix_ms,
    wire::{self, ClientFrame, CloseCode, ErrorCode, RequestId, Subscription},
};

/// Bytes joined into one turn's writing; far under what the socket may buffer.
const BATCH_BYTES: usize = 64 * 1024;
/// Frames that are no JSON objects: this many end the connection (contract §5).
const STRIKES_MAX: u32 = 10;
/// Requests a client may make: at once, then per second. Beyond: refused; refused so often: 3013.
const REQUESTS_BURST: u32 = 100;
const REQUESTS_RATE: u32 = 10;
const REFUSED_MAX: u32 = 200;
/// A client that was too slow is told so if it reads again within this.
const LINGER_SLOW: Duration = Duration::from_secs(75);
/// Every other end is said within this, or not at all.
const LINGER: Duration = Duration::from_secs(5);
/// Being behind for less than this is nobody's fault.
const STALL_MIN: Duration = Duration::from_secs(1);

/// What is known of a client when its WebSocket stands.
pub(super) enum Arrival {
    Admitted(Principal),
    /// By subprotocol or cookie: judged now, told by frame and code.
    Token(String),
    /// The first frame must bring the token.
    Unknown,
    Denied(Denied),
}

/// Why it is over.
enum End {
    /// The client closed, or is gone.
    Peer { closed: bool },
    /// We close, with `bye`.
    Close(CloseCode),
    /// We close before there was a session, with `error`.
    Denied(Denied),
    /// The first frame did not come in time.
    AuthTimeout,
}

/// Serves one client until its end. `place` is given back at the very end.
pub(super) async fn serve(ctx: Arc<Context>, socket: Socket, place: Connection, arrival: Arrival, subscription: Subscription) {
    ctx.metrics.connections.websocket.inc();
    let gauge = ctx.metrics.connections.websocket.clone();
    // Counted down even if this task is dropped at the end of the shutdown's grace.
    let _open = Open(gauge);
    let now = Instant::now();
    let mut client = Client {
        requests: Bucket::new(REQUESTS_BURST, REQUESTS_RATE, now),
        ctx,
        socket,
        place,
        strikes: 0,
        refused: 0,
        heard_at: now,
        stall: None,
        lagging: Lagging::No,
    };
    let end = client.run(arrival, subscription).await;
    Box::pin(client.part(end)).await;
}

struct Open(prometheus::IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct Client {
    ctx: Arc<Context>,
    socket: Socket,
    place: Connection,
    requests: Bucket,
    strikes: u32,
    refused: u32,
    heard_at: Instant,
    /// The socket takes nothing: since when, and what it had taken then.
    stall: Option<Stall>,
    lagging: Lagging,
}

#[derive(Clone, Copy)]
struct Stall {
    since: Instant,
    written: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lagging {
    No,
    /// To be said as soon as the socket takes something.
    Due,
    Said,
}

/// A client that is in: whose it is, what it gets, and its clocks.
struct Live {
    user_id: String,
    feed: Feed,
    expires_at: Instant,
    ping_at: Instant,
    more: bool,
    out: Vec<Out>,
    /// Arrivals of live alerts that are written and not flushed yet.
    due: Vec<u64>,
}

impl Client {
    async fn run(&mut self, arrival: Arrival, subscription: Subscription) -> End {
        let principal = match arrival {
            Arrival::Admitted(principal) => principal,
            Arrival::Denied(denied) => return End::Denied(denied),
            // What happens once or rarely is boxed: an idle client is as large as the largest thing it may come to wait for.
            Arrival::Token(token) => match Box::pin(admit(&self.ctx, &self.place, &token)).await {
                Ok(principal) => principal,
                Err(denied) => return End::Denied(denied),
            },
            Arrival::Unknown => match Box::pin(self.first_frame()).await {
                Ok(principal) => principal,
                Err(end) => return end,
            },
        };
        self.live(principal, subscription).await
    }

    /// Waits for `auth`. Other frames are answered with `error` and count.
    async fn first_frame(&mut self) -> Result<Principal, End> {
        let until = Instant::now() + self.ctx.options.auth_timeout;
        let hub = self.ctx.hub.clone();
        let mut wake = hub.waiter();
        loop {
            if hub.draining().is_some() {
                return Err(End::Close(CloseCode::ShuttingDown));
            }
            if self.place.is_ended() {
                return Err(End::Close(CloseCode::Forbidden));
            }
            let incoming = tokio::select! {
                incoming = self.socket.incoming() => incoming,
                _ = wake.changed() => continue,
                () = sleep_until(until) => return Err(End::AuthTimeout),
            };
            let answer = match self.request(incoming)? {
                None => continue,
                Some(Ok(ClientFrame::Auth { token, .. })) => {
                    return admit(&self.ctx, &self.place, &token).await.map_err(End::Denied);
                }
                Some(Ok(ClientFrame::Refresh { id, .. } | ClientFrame::Subscribe { id, .. } | ClientFrame::Ping { id })) => {
                    wire::error_frame(id.as_ref(), ErrorCode::Forbidden, "the first frame is `auth`")
                }
                Some(Err(answer)) => answer,
            };
            match timeout_at(until, self.socket.send(Message::Text(answer.into()))).await {
                Ok(true) => {}
                Ok(false) => return Err(End::Peer { closed: false }),
                Err(_) => return Err(End::AuthTimeout),
            }
        }
    }

    /// Reads what came: a request, an answer to a bad one, nothing to do, or the end.
    fn request(&mut self, incoming: Incoming) -> Result<Option<Result<ClientFrame, String>>, End> {
        let now = Instant::now();
        self.heard_at = now;
        let text = match incoming {
            Incoming::Text(text) => text,
            Incoming::Binary(_) => return Err(End::Close(CloseCode::Binary)),
            Incoming::Ping | Incoming::Pong => return Ok(None),
            Incoming::Close => return Err(End::Peer { closed: true }),
            Incoming::End => return Err(End::Peer { closed: false }),
            Incoming::Fault(Fault(code)) => return Err(End::Close(code)),
        };
        if !self.requests.take(now) {
            self.refused += 1;
            if self.refused >= REFUSED_MAX {
                return Err(End::Close(CloseCode::RateLimited));
            }
            let answer = wire::error_frame(None, ErrorCode::RateLimited, &format!("at most {REQUESTS_RATE} requests a second"));
            return Ok(Some(Err(answer)));
        }
        match ClientFrame::parse(&text) {
            Ok(frame) => Ok(Some(Ok(frame))),
            Err(bad) => {
                let answer = wire::error_frame(bad.id.as_ref(), bad.code, &bad.message);
                if bad.strike {
                    self.strikes += 1;
                    if self.strikes >= STRIKES_MAX {
                        return Err(End::Close(CloseCode::BadRequests));
                    }
                }
                Ok(Some(Err(answer)))
            }
        }
    }

    async fn live(&mut self, principal: Principal, subscription: Subscription) -> End {
        let ctx = self.ctx.clone();
        let mut feed = Feed::new(ctx.hub.clone(), ctx.store.clone(), ctx.options.events_rate);
        let hello = Out::new("hello", ctx.hello(&self.place, &principal));
        // The first of all, so there is room.
        let _ = feed.subscribe(None, subscription);
        let now = Instant::now();
        let mut live = Live {
            feed,
            expires_at: expiry(principal.expires_at_ms, now),
            user_id: principal.user_id,
            ping_at: now + ctx.options.ping_interval,
            more: true,
            out: vec![hello],
            due: Vec::new(),
        };
        let mut sleep: Pin<Box<Sleep>> = Box::pin(sleep_until(now + ctx.options.ping_interval));
        loop {
            let now = Instant::now();
            if let Some(code) = self.due(&mut live, now) {
                return End::Close(code);
            }
            let wake_at = self.wake_at(&live);
            if sleep.deadline() != wake_at {
                sleep.as_mut().reset(wake_at);
            }
            let event = {
                let stalled = self.stall.is_some();
                let may_wait = !live.more || stalled;
                let writing = self.socket.is_dirty() || !live.out.is_empty() || live.more;
                tokio::select! {
                    biased;
                    event = self.turn(&mut live.due, writing) => Some(event),
                    () = live.feed.wait(stalled), if may_wait => None,
                    () = &mut sleep => None,
                }
            };
            match event {
                None => live.more = true,
                Some(Event::Stalled) => {}
                Some(Event::Gone) => return End::Peer { closed: false },
                Some(Event::Writable) => {
                    // The socket takes more: everything that is ready, then one flush.
                    live.more = live.feed.collect(Instant::now(), BATCH_BYTES, &mut live.out);
                    if live.out.is_empty() && !live.more {
                        continue;
                    }
                    if self.write(&mut live).is_err() {
                        return End::Peer { closed: false };
                    }
                }
                Some(Event::Incoming(incoming)) => {
                    if let Err(end) = self.answer(&mut live, incoming).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Reads, and finishes what is being written. Ends with something to do.
    async fn turn(&mut self, due: &mut Vec<u64>, writing: bool) -> Event {
        poll_fn(|cx| {
            if let Poll::Ready(incoming) = self.socket.poll_incoming(cx) {
                return Poll::Ready(Event::Incoming(incoming));
            }
            if !writing && !self.socket.is_dirty() {
                return Poll::Pending;
            }
            let flushed = match self.socket.poll_writable(cx) {
                Poll::Ready(Ok(())) if self.socket.is_dirty() => self.socket.poll_flush(cx),
                other => other,
            };
            match flushed {
                Poll::Ready(Ok(())) => {
                    if self.stall.take().is_some() {
                        // Whoever reads is there.
                        self.heard_at = Instant::now();
                    }
                    if !due.is_empty() {
                        let now = unix_ms();
                        for received in due.drain(..) {
                            self.ctx.metrics.alert_delivery.observe(now.saturating_sub(received) as f64 / 1000.0);
                        }
                    }
                    if writing { Poll::Ready(Event::Writable) } else { Poll::Pending }
                }
                Poll::Ready(Err(_)) => Poll::Ready(Event::Gone),
                Poll::Pending => {
                    let written = self.socket.written();
                    match &mut self.stall {
                        Some(stall) if stall.written == written => Poll::Pending,
                        Some(stall) => {
                            *stall = Stall { since: Instant::now(), written };
                            Poll::Pending
                        }
                        none => {
                            *none = Some(Stall { since: Instant::now(), written });
                            Poll::Ready(Event::Stalled)
                        }
                    }
                }
            }
        })
        .await
    }

    /// Hands a batch to the socket.
    fn write(&mut self, live: &mut Live) -> Result<(), super::socket::Gone> {
        if self.lagging == Lagging::Due {
            self.lagging = Lagging::Said;
            self.push(wire::lagging().into())?;
        }
        self.ctx.metrics.frames_sent.add("websocket", live.out.len() as u64);
        for out in live.out.drain(..) {
            live.due.extend(out.received_at_ms);
            self.socket.push(Message::Text(out.frame))?;
        }
        Ok(())
    }

    fn push(&mut self, frame: Utf8Bytes) -> Result<(), super::socket::Gone> {
        self.ctx.metrics.frames_sent.inc("websocket");
        self.socket.push(Message::Text(frame))
    }

    /// What the clocks say: pings are queued here, ends are told.
    fn due(&mut self, live: &mut Live, now: Instant) -> Option<CloseCode> {
        let options = &self.ctx.options;
        if let Some(code) = self.ctx.over(&self.place, live.expires_at, now) {
            return Some(code);
        }
        if let Some(stall) = self.stall {
            let stalled = now.saturating_duration_since(stall.since);
            let fell_off = stalled >= STALL_MIN.min(options.write_timeout) && live.feed.fell_off();
            if stalled >= options.write_timeout || fell_off {
                return Some(CloseCode::TooSlow);
            }
            if self.lagging == Lagging::No && (stalled >= options.write_timeout / 2 || live.feed.is_lagging()) {
                self.lagging = Lagging::Due;
            }
            return None;
        }
        if now.saturating_duration_since(self.heard_at) >= options.idle_timeout {
            return Some(CloseCode::NoPong);
        }
        if self.lagging == Lagging::Said && !live.feed.is_lagging() {
            self.lagging = Lagging::No;
        }
        if now >= live.ping_at {
            live.ping_at = now + options.ping_interval;
            live.out.extend(live.feed.position());
            if self.write(live).is_err() || self.socket.push(Message::Ping(Default::default())).is_err() {
                // The next turn finds the connection gone.
                return None;
            }
        }
        None
    }

    /// When the clocks must be looked at again.
    fn wake_at(&self, live: &Live) -> Instant {
        let options = &self.ctx.options;
        let clocks = match self.stall {
            None => live.ping_at.min(self.heard_at + options.idle_timeout),
            Some(stall) if self.lagging == Lagging::No => stall.since + options.write_timeout / 2,
            Some(stall) => stall.since + options.write_timeout,
        };
        clocks.min(live.expires_at)
    }

    /// Answers one frame of the client's.
    async fn answer(&mut self, live: &mut Live, incoming: Incoming) -> Result<(), End> {
        let answer = match self.request(incoming)? {
            None => return Ok(()),
            Some(Err(answer)) => Out::new("error", answer),
            Some(Ok(ClientFrame::Ping { id })) => Out::new("pong", wire::pong(id.as_ref(), &self.ctx.hub.head_pos().to_string())),
            Some(Ok(ClientFrame::Auth { id, .. })) => Out::new(
                "error",
                wire::error_frame(id.as_ref(), ErrorCode::BadRequest, "this connection has its token; `refresh` renews it"),
            ),
            Some(Ok(ClientFrame::Subscribe { id, subscription })) => {
                live.more = true;
                match live.feed.subscribe(id.clone(), *subscription) {
                    Ok(()) => return Ok(()),
                    Err(()) => Out::new(
                        "error",
                        wire::error_frame(id.as_ref(), ErrorCode::RateLimited, "two subscriptions are waiting already"),
                    ),
                }
            }
            Some(Ok(ClientFrame::Refresh { id, token })) => Box::pin(self.refresh(live, id, &token)).await?,
        };
        // Bounded: a client that does not read its answers may not ask for more.
        if live.out.len() >= 1024 {
            return Err(End::Close(CloseCode::TooSlow));
        }
        live.out.push(answer);
        Ok(())
    }

    /// A newer token for the same user; any other leaves the connection as it is, but for one that is revoked.
    async fn refresh(&mut self, live: &mut Live, id: Option<RequestId>, token: &str) -> Result<Out, End> {
        let error = |code, text: &str| Ok(Out::new("error", wire::error_frame(id.as_ref(), code, text)));
        let admitted = tokio::time::timeout(LINGER, self.ctx.auth.admit(token, unix_ms())).await;
        let principal = match admitted {
            Err(_) => return error(ErrorCode::Internal, "the store did not answer in time"),
            Ok(Err(refusal)) => {
                self.ctx.metrics.auth_failures.inc(refusal.kind.as_str());
                let revoked = refusal.kind == RefusalKind::Blacklisted;
                let denied = Denied::Token(refusal);
                if revoked {
                    return Err(End::Denied(denied));
                }
                return error(denied.close().0, denied.text());
            }
            Ok(Ok(principal)) => principal,
        };
        if principal.user_id != live.user_id {
            return error(ErrorCode::Forbidden, "the token is another user's");
        }
        let _ = self.place.name(&principal.user_id, principal.jti.as_deref(), self.ctx.options.connections_per_user_max);
        live.expires_at = expiry(principal.expires_at_ms, Instant::now());
        Ok(Out::new("ok", wire::ok(id.as_ref(), Some(principal.expires_at_ms))))
    }

    /// Says why it is over, if the client still listens, and ends in good order.
    async fn part(mut self, end: End) {
        let (code, frame) = match end {
            End::Peer { closed } => {
                self.ctx.metrics.disconnects.inc("other");
                if closed {
                    self.socket.drain().await;
                }
                return;
            }
            End::Close(code) => {
                let window = self.ctx.hub.draining().unwrap_or(Duration::from_secs(1));
                let retry = retry_in_ms(self.place.id(), window);
                (code, wire::bye(code, Some(retry)))
            }
            End::Denied(denied) => {
                self.ctx.metrics.connections_rejected.inc(denied.label());
                let (error, code) = denied.close();
                (code, wire::error_frame(None, error, denied.text()))
            }
            End::AuthTimeout => {
                let denied = missing();
                self.ctx.metrics.auth_failures.inc("missing");
                self.ctx.metrics.connections_rejected.inc(denied.label());
                (CloseCode::AuthTimeout, wire::error_frame(None, ErrorCode::Forbidden, CloseCode::AuthTimeout.reason()))
            }
        };
        self.ctx.metrics.disconnected(code.code());
        let linger = if code == CloseCode::TooSlow { LINGER_SLOW } else { LINGER };
        let until = Instant::now() + linger;
        let last = Message::Close(Some(CloseFrame { code: code.code().into(), reason: Utf8Bytes::from_static(code.reason()) }));
        let mut drain = self.ctx.hub.waiter();
        let hub = self.ctx.hub.clone();
        let lagging = self.lagging == Lagging::Due;
        let saying = async {
            // What was being written when it ended, then the last words.
            poll_fn(|cx| self.socket.poll_writable(cx)).await?;
            if lagging {
                self.push(wire::lagging().into())?;
            }
            self.push(frame.into())?;
            self.socket.push(last)?;
            poll_fn(|cx| self.socket.poll_flush(cx)).await
        };
        // Who does not read does not hold up a shutdown.
        let shutdown = async {
            while hub.draining().is_none() {
                if drain.changed().await.is_err() {
                    break;
                }
            }
            tokio::time::sleep(LINGER).await;
        };
        let said = tokio::select! {
            said = timeout_at(until, saying) => matches!(said, Ok(Ok(()))),
            () = shutdown => false,
        };
        if said {
            self.socket.drain().await;
        }
    }
}

enum Event {
    Incoming(Incoming),
    /// The socket has begun to take nothing: the clocks are other ones now.
    Stalled,
    /// What was written is out, and there may be more.
    Writable,
    Gone,
}

/// The moment a token's `exp` is reached, on the clock that timers use.
pub(super) fn expiry(expires_at_ms: u64, now: Instant) -> Instant {
    // A token may be good for a century; timers are not.
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    now + Duration::from_millis(expires_at_ms.saturating_sub(unix_ms())).min(FAR)
}
