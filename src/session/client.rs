//! A WebSocket client: its own task, from its admission to its end. Between the two it reads and answers; news is written by the
//! sweep.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    Context,
    admission::Denied,
    batch::Turn,
    decode::Incoming,
    feed::{Asking, Feed},
    handshake::{admit, missing},
    lane::{Lagging, Pumped},
    rate::Bucket,
    retry_in_ms,
    socket::{Connected, Socket},
    sweep::Joined,
};
use crate::{
    auth::{
        Principal, Refusal, RefusalKind,
        journal::{Entry, Limited},
    },
    hub::{Connection, Known},
    metrics::unix_ms,
    wire::{self, ClientFrame, CloseCode, ErrorCode, RequestId, Subscription},
};

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

/// `details.transport` of what is noted about a client.
const WEBSOCKET: &str = "websocket";

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
pub(super) enum End {
    /// The client closed, or is gone.
    Peer { closed: bool },
    /// We close, with `bye`.
    Close(CloseCode),
    /// We close before there was a session, with `error`.
    Denied(Denied),
    /// The first frame did not come in time.
    AuthTimeout,
}

/// One WebSocket, whoever it is.
pub(super) struct Client {
    socket: Socket,
    /// Whose it is and that it is in, from its admission on.
    user_id: Option<Arc<str>>,
    may_act: bool,
    joined: Option<Joined>,
    /// A question of the feed's to the store.
    asking: Option<Asking>,
    requests: Bucket,
    strikes: u32,
    refused: u32,
}

/// Takes over an upgraded connection, and lets the client in or finds out why not. A future of its own, to be given back
/// before the client's long life begins.
pub(super) async fn enter(
    ctx: Arc<Context>,
    connected: Connected,
    place: Connection,
    arrival: Arrival,
    subscription: Subscription,
) -> (Client, Result<(), End>) {
    let mut client = Client {
        socket: Socket::take(connected, ctx.clone(), place),
        user_id: None,
        may_act: false,
        joined: None,
        asking: None,
        requests: Bucket::new(REQUESTS_BURST, REQUESTS_RATE, Instant::now()),
        strikes: 0,
        refused: 0,
    };
    // Who is in gets the answer to his handshake with `hello`; all others are waited for.
    let answered = matches!(arrival, Arrival::Admitted(_)) || timeout(LINGER, client.socket.flush()).await == Ok(true);
    if !answered {
        return (client, Err(End::Peer { closed: false }));
    }
    let place = &client.socket.link.place;
    let principal = match arrival {
        Arrival::Admitted(principal) => Ok(principal),
        Arrival::Denied(denied) => Err(End::Denied(denied)),
        Arrival::Token(token) => admit(&ctx, place, &token).await.map_err(End::Denied),
        Arrival::Unknown => client.first_frame().await,
    };
    let entered = principal.map(|principal| client.begin(&principal, subscription));
    (client, entered)
}

/// Serves a client that is in until its end; its place is given back at the very end.
pub(super) async fn serve(mut client: Client, entered: Result<(), End>) {
    let end = match entered {
        Ok(()) => client.live().await,
        Err(end) => end,
    };
    // What happens once is boxed: an idle client is as large as the largest thing it may come to wait for.
    Box::pin(client.part(end)).await;
}

impl Client {
    /// Waits for `auth`. Other frames are answered with `error` and count.
    async fn first_frame(&mut self) -> Result<Principal, End> {
        let ctx = self.socket.link.ctx.clone();
        let until = Instant::now() + ctx.options.auth_timeout;
        let hub = &ctx.hub;
        let mut wake = hub.waiter();
        loop {
            if hub.draining().is_some() {
                return Err(End::Close(CloseCode::ShuttingDown));
            }
            if let Some(code) = self.socket.link.place.ended() {
                return Err(End::Close(code));
            }
            let incoming = tokio::select! {
                incoming = self.socket.incoming() => incoming,
                _ = wake.changed() => continue,
                () = sleep_until(until) => return Err(End::AuthTimeout),
            };
            let answer = match self.request(incoming)? {
                None => {
                    // The answer to a ping.
                    if !matches!(timeout_at(until, self.socket.flush()).await, Ok(true)) {
                        return Err(End::Peer { closed: false });
                    }
                    continue;
                }
                Some(Ok(ClientFrame::Auth { token, .. })) => {
                    return admit(&ctx, &self.socket.link.place, &token).await.map_err(End::Denied);
                }
                Some(Ok(ClientFrame::Refresh { id, .. } | ClientFrame::Subscribe { id, .. } | ClientFrame::Ping { id })) => {
                    wire::error_frame(id.as_ref(), ErrorCode::Forbidden, "the first frame is `auth`")
                }
                Some(Err(answer)) => answer,
            };
            self.push(answer);
            match timeout_at(until, self.socket.flush()).await {
                Ok(true) => {}
                Ok(false) => return Err(End::Peer { closed: false }),
                Err(_) => return Err(End::AuthTimeout),
            }
        }
    }

    /// Reads what came: a request, an answer to a bad one, nothing to do, or the end.
    fn request(&mut self, incoming: Incoming) -> Result<Option<Result<ClientFrame, String>>, End> {
        let now = Instant::now();
        let text = match incoming {
            Incoming::Text(text) => text,
            Incoming::Binary(_) => return Err(End::Close(CloseCode::Binary)),
            Incoming::Ping | Incoming::Pong => return Ok(None),
            Incoming::Close => return Err(End::Peer { closed: true }),
            Incoming::End => return Err(End::Peer { closed: false }),
            Incoming::Fault(code) => return Err(End::Close(code)),
        };
        if !self.requests.take(now) {
            self.refused += 1;
            if self.refused >= REFUSED_MAX {
                let link = &self.socket.link;
                let mut entry = Entry::rate_limited(Limited::Frames).from(link.place.address());
                if let Some(user_id) = &self.user_id {
                    entry = entry.user(user_id, None);
                }
                link.ctx.auth.journal().note(entry);
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

    /// Lets the client in: `hello`, then its feed; and from here on it is in the sweep.
    fn begin(&mut self, principal: &Principal, subscription: Subscription) {
        let link = &self.socket.link;
        let ctx = &link.ctx;
        let mut feed = Feed::new(ctx.clone(), principal.sight.clone());
        let hello = ctx.hello(&link.place, principal);
        // The first of all, so there is room.
        let _ = feed.subscribe(None, subscription);
        self.user_id = Some(link.place.user_id().unwrap_or_else(|| principal.user_id.as_str().into()));
        self.may_act = principal.may_act();
        let entry = Entry::connected(principal, WEBSOCKET, &ctx.name_of(&link.place));
        ctx.auth.journal().note(entry.from(link.place.address()));
        self.joined = Some(ctx.sweep.join(link));
        let now = Instant::now();
        let mut turn = Turn::new(ctx, now);
        let mut lane = link.lane();
        lane.begin(feed, expiry(principal.expires_at_ms, now), now + ctx.options.ping_interval);
        lane.push(&mut turn, hello);
        lane.join(&mut turn);
        // What came before the sweep knew this client.
        if let Some(code) = ctx.over(&link.place, lane.expires_at, now) {
            lane.end(code);
        }
        ctx.sweep.schedule(link, &mut lane);
    }

    fn push(&self, frame: String) {
        let link = &self.socket.link;
        link.lane().push(&mut Turn::new(&link.ctx, Instant::now()), frame);
    }

    async fn live(&mut self) -> End {
        loop {
            match poll_fn(|cx| self.poll(cx)).await {
                Event::Gone => return End::Peer { closed: false },
                Event::End(code) => return End::Close(code),
                Event::Incoming(incoming) => match self.answer(incoming) {
                    Err(end) => return end,
                    Ok(None) => {}
                    Ok(Some((id, token))) => {
                        if let Err(end) = Box::pin(self.refresh(id, token)).await {
                            return end;
                        }
                    }
                },
            }
        }
    }

    /// Reads; asks the store for the feed; and writes, where the socket was full or an answer waits.
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Event> {
        {
            let mut lane = self.socket.link.lane();
            lane.wakes(cx.waker());
            if lane.is_gone() {
                return Poll::Ready(Event::Gone);
            }
            if let Some(code) = lane.ended() {
                return Poll::Ready(Event::End(code));
            }
        }
        let deaf = self.socket.is_deaf();
        if !deaf && let Poll::Ready(incoming) = self.socket.poll_incoming(cx) {
            return Poll::Ready(Event::Incoming(incoming));
        }
        loop {
            let asking = self.socket.link.lane().feed.as_mut().and_then(Feed::take_asking);
            if asking.is_some() {
                self.asking = asking;
            }
            if let Some(asking) = &mut self.asking
                && let Poll::Ready(fetched) = asking.as_mut().poll(cx)
            {
                self.asking = None;
                if let Some(feed) = &mut self.socket.link.lane().feed {
                    feed.answered(fetched);
                }
            }
            match self.socket.poll_pump(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Pumped::Gone) => return Poll::Ready(Event::Gone),
                Poll::Ready(Pumped::Drained) if self.socket.link.lane().feed.as_ref().is_some_and(Feed::has_asking) => {}
                Poll::Ready(pumped) => {
                    if deaf || pumped != Pumped::Drained {
                        // There is more to read or to write, when others have had their turn.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Answers one frame of the client's. A token to renew the connection with is given back: that takes longer.
    fn answer(&mut self, incoming: Incoming) -> Result<Option<(Option<RequestId>, String)>, End> {
        let answer = match self.request(incoming)? {
            None => return Ok(None),
            Some(Err(answer)) => answer,
            Some(Ok(ClientFrame::Ping { id })) => wire::pong(id.as_ref(), &self.socket.link.ctx.hub.head_pos().to_string()),
            Some(Ok(ClientFrame::Auth { id, .. })) => {
                wire::error_frame(id.as_ref(), ErrorCode::BadRequest, "this connection has its token; `refresh` renews it")
            }
            Some(Ok(ClientFrame::Subscribe { id, subscription })) => {
                let mut lane = self.socket.link.lane();
                let taken = lane.feed.as_mut().map_or(Ok(()), |feed| feed.subscribe(id.clone(), *subscription));
                drop(lane);
                match taken {
                    Ok(()) => return Ok(None),
                    Err(()) => wire::error_frame(id.as_ref(), ErrorCode::RateLimited, "two subscriptions are waiting already"),
                }
            }
            Some(Ok(ClientFrame::Refresh { id, token })) => return Ok(Some((id, token))),
        };
        self.push(answer);
        Ok(None)
    }

    /// A newer token for the same user; any other leaves the connection as it is, but for one that is revoked.
    async fn refresh(&mut self, id: Option<RequestId>, token: String) -> Result<(), End> {
        let ctx = self.socket.link.ctx.clone();
        let looks = ctx.standing.looks();
        let answer = match tokio::time::timeout(LINGER, ctx.auth.admit(&token, unix_ms())).await {
            Err(_) => wire::error_frame(id.as_ref(), ErrorCode::Internal, "the store did not answer in time"),
            Ok(Err(refusal)) => {
                ctx.refused(Some(&token), &refusal, self.socket.link.place.address());
                let revoked = refusal.kind == RefusalKind::Blacklisted;
                let denied = Denied::Token(refusal);
                if revoked {
                    return Err(End::Denied(denied));
                }
                wire::error_frame(id.as_ref(), denied.close().0, denied.text())
            }
            Ok(Ok(principal)) if Some(principal.user_id.as_str()) != self.user_id.as_deref() => {
                wire::error_frame(id.as_ref(), ErrorCode::Forbidden, "the token is another user's")
            }
            Ok(Ok(principal)) => {
                let link = &self.socket.link;
                let known = link.place.name(&principal, ctx.options.connections_per_user_max);
                if known == Ok(Known::Differs) || ctx.standing.looks() != looks {
                    // What was revoked meanwhile was looked for by the old token's name.
                    ctx.standing.suspect(&principal);
                }
                let mut lane = link.lane();
                lane.expires_at = expiry(principal.expires_at_ms, Instant::now());
                if let Some(feed) = &mut lane.feed {
                    feed.see(principal.sight);
                }
                ctx.sweep.schedule(link, &mut lane);
                wire::ok(id.as_ref(), Some(principal.expires_at_ms))
            }
        };
        self.push(answer);
        if let Some(permissions) = self.socket.link.place.news() {
            self.push(wire::permissions(&permissions));
        }
        Ok(())
    }

    /// Says why it is over, if the client still listens, and ends in good order.
    async fn part(mut self, end: End) {
        // Nobody else writes any more, and nothing more of the feed.
        self.joined = None;
        self.asking = None;
        let ctx = self.socket.link.ctx.clone();
        if let Some(user_id) = &self.user_id {
            let code = match &end {
                End::Close(code) => Some(code.code()),
                End::Denied(denied) => Some(denied.close().1.code()),
                End::Peer { .. } | End::AuthTimeout => None,
            };
            let place = &self.socket.link.place;
            let gone = Entry::disconnected(self.may_act, WEBSOCKET, &ctx.name_of(place), code);
            ctx.auth.journal().note(gone.user(user_id, None).from(place.address()));
        }
        let (code, frame) = match end {
            End::Peer { closed } => {
                ctx.metrics.disconnects.inc("other");
                if closed {
                    self.socket.drain().await;
                }
                return;
            }
            End::Close(code) => {
                let window = ctx.hub.draining().unwrap_or(Duration::from_secs(1));
                let retry = retry_in_ms(self.socket.link.place.id(), window);
                (code, wire::bye(code, Some(retry)))
            }
            End::Denied(denied) => {
                ctx.metrics.connections_rejected.inc(denied.label());
                let (error, code) = denied.close();
                (code, wire::error_frame(None, error, denied.text()))
            }
            End::AuthTimeout => {
                let denied = missing();
                ctx.refused(None, &Refusal::missing(), self.socket.link.place.address());
                ctx.metrics.connections_rejected.inc(denied.label());
                (CloseCode::AuthTimeout, wire::error_frame(None, ErrorCode::Forbidden, CloseCode::AuthTimeout.reason()))
            }
        };
        ctx.metrics.disconnected(code.code());
        let linger = if code == CloseCode::TooSlow { LINGER_SLOW } else { LINGER };
        let until = Instant::now() + linger;
        // Behind what was being written when it ended: the last words.
        let lagging = std::mem::replace(&mut self.socket.link.lane().lagging, Lagging::No);
        if lagging == Lagging::Due {
            self.push(wire::lagging());
        }
        self.push(frame);
        self.socket.close(code.code(), code.reason());
        let mut drain = ctx.hub.waiter();
        // Who does not read does not hold up a shutdown.
        let shutdown = async {
            while ctx.hub.draining().is_none() {
                if drain.changed().await.is_err() {
                    break;
                }
            }
            tokio::time::sleep(LINGER).await;
        };
        let said = tokio::select! {
            said = timeout_at(until, self.socket.flush()) => said == Ok(true),
            () = shutdown => false,
        };
        if said {
            self.socket.drain().await;
        }
    }
}

enum Event {
    Incoming(Incoming),
    /// It is over, and why.
    End(CloseCode),
    Gone,
}

/// The moment a token's `exp` is reached, on the clock that timers use.
pub(super) fn expiry(expires_at_ms: u64, now: Instant) -> Instant {
    // A token may be good for a century; timers are not.
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    now + Duration::from_millis(expires_at_ms.saturating_sub(unix_ms())).min(FAR)
}
