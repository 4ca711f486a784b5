//! `GET /api/v1/stream`: the feed as Server-Sent Events (contract §5).

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, task::Poll, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, header},
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Context,
    admission::{self, Denied},
    feed::{Feed, answer},
    handshake::{admit, missing, open, refuse},
    out::Out,
    retry_in_ms,
};
use crate::{
    auth::{Principal, Refusal, journal::Entry},
    hub::{Connection, Transport},
    metrics::{Arrivals, Delays, unix_ms},
    wire::{self, CloseCode, Subscription, token_in_query},
};

/// Bytes in one piece of the answer; two pieces wait for the socket at most.
const PIECE_BYTES: usize = 32 * 1024;
/// Proxies end what is quiet for longer.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
const LINGER_SLOW: Duration = Duration::from_secs(75);

/// The same parameters and frames as `/ws`; the token by bearer header or cookie. Ends at the token's `exp` and at drain, each
/// with a `bye`. `Last-Event-ID` wins over `after`.
pub async fn sse(ctx: Arc<Context>, request: Request<Body>, peer: SocketAddr) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    if token_in_query(query) {
        return refuse(&ctx, &Denied::BadRequest("a token in the URL is not accepted: it would end up in logs".to_owned()));
    }
    let headers = request.headers();
    let mut subscription = match Subscription::from_query(query) {
        Ok(subscription) => subscription,
        Err(text) => return refuse(&ctx, &Denied::BadRequest(text)),
    };
    if let Some(last) = headers.get("last-event-id").filter(|last| !last.is_empty()) {
        match last.to_str().map_err(|_| wire::BadPos).and_then(str::parse) {
            Ok(after) => subscription.after = Some(after),
            Err(bad) => return refuse(&ctx, &Denied::BadRequest(format!("`Last-Event-ID`: {bad}"))),
        }
    }
    let token = match admission::bearer(headers).or_else(|| admission::cookie(headers, admission::COOKIE).map(Ok)) {
        Some(Ok(token)) => token,
        Some(Err(refusal)) => {
            ctx.refused(None, &refusal, peer.ip());
            return refuse(&ctx, &Denied::Token(refusal));
        }
        None => {
            ctx.refused(None, &Refusal::missing(), peer.ip());
            return refuse(&ctx, &missing());
        }
    };
    if !admission::origin_allowed(headers, &ctx.options.origins) {
        return refuse(&ctx, &Denied::Origin);
    }
    if let Err(denied) = open(&ctx) {
        return refuse(&ctx, &denied);
    }
    let place = match ctx.hub.reserve(Transport::Sse, peer.ip(), unix_ms(), ctx.options.places()) {
        Ok(place) => place,
        Err(full) => return refuse(&ctx, &ctx.full(full, peer.ip())),
    };
    let principal = match admit(&ctx, &place, &token).await {
        Ok(principal) => principal,
        Err(denied) => return refuse(&ctx, &denied),
    };
    let (pieces, body) = mpsc::channel(2);
    // First byte at once: a browser's `open` event waits for it.
    let _ = pieces.try_send(Bytes::from_static(b":\n\n"));
    let tasks = ctx.tasks.clone();
    tasks.spawn(async move { Client { ctx, place, pieces }.serve(principal, subscription).await });
    let mut response = Response::new(Body::from_stream(Pieces(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The answer's body: what the client's task hands over.
struct Pieces(mpsc::Receiver<Bytes>);

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}

struct Client {
    ctx: Arc<Context>,
    place: Connection,
    pieces: mpsc::Sender<Bytes>,
}

struct Open(prometheus::IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Client {
    async fn serve(self, principal: Principal, subscription: Subscription) {
        let ctx = self.ctx.clone();
        ctx.metrics.connections.sse.inc();
        let _open = Open(ctx.metrics.connections.sse.clone());
        let name = ctx.name_of(&self.place);
        ctx.auth.journal().note(Entry::connected(&principal, "sse", &name).from(self.place.address()));
        let code = self.run(&principal, subscription).await;
        let gone = Entry::disconnected(principal.may_act(), "sse", &name, code.map(CloseCode::code));
        ctx.auth.journal().note(gone.of(&principal).from(self.place.address()));
        let Some(code) = code else {
            ctx.metrics.disconnects.inc("other");
            return;
        };
        ctx.metrics.disconnected(code.code());
        let window = ctx.hub.draining().unwrap_or(Duration::from_secs(1));
        let retry = retry_in_ms(self.place.id(), window);
        let mut piece = BytesMut::new();
        append(&mut piece, &Out::new("bye", wire::bye(code, Some(retry))));
        if code.reconnect() {
            // Browsers come back by themselves, after this.
            piece.put_slice(format!("retry: {retry}\n\n").as_bytes());
        }
        let linger = if code == CloseCode::TooSlow { LINGER_SLOW } else { Duration::from_secs(5) };
        let _ = timeout(linger, self.pieces.send(piece.freeze())).await;
    }

    /// `None`: the client has gone.
    async fn run(&self, principal: &Principal, subscription: Subscription) -> Option<CloseCode> {
        let ctx = &self.ctx;
        let mut feed = Feed::new(ctx.clone(), principal.sight.clone());
        let (mut wake, mut wake_events) = (ctx.hub.waiter(), ctx.hub.events_waiter());
        let mut asking = None;
        // The first of all, so there is room.
        let _ = feed.subscribe(None, subscription);
        let expires_at = super::client::expiry(principal.expires_at_ms, Instant::now());
        let mut comment_at = Instant::now() + COMMENT_EVERY;
        let mut out = vec![Out::new("hello", ctx.hello(&self.place, principal))];
        loop {
            let now = Instant::now();
            if let Some(code) = ctx.over(&self.place, expires_at, now) {
                return Some(code);
            }
            out.extend(self.place.news().map(|permissions| Out::new("permissions", wire::permissions(&permissions))));
            let more = feed.collect(now, PIECE_BYTES, &mut out);
            let mut piece = BytesMut::new();
            if now >= comment_at {
                comment_at = now + COMMENT_EVERY;
                out.extend(feed.position());
                piece.put_slice(b":\n\n");
            }
            for frame in &out {
                append(&mut piece, frame);
            }
            if !piece.is_empty() {
                match timeout(ctx.options.write_timeout, self.pieces.send(piece.freeze())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(CloseCode::TooSlow),
                }
                ctx.metrics.frames_sent.add("sse", out.len() as u64);
                let (mut arrivals, mut delays) = (Arrivals::default(), Delays::default());
                out.drain(..).filter_map(|frame| frame.received_at_ms).for_each(|received| arrivals.push(received));
                delays.add(&arrivals, unix_ms());
                ctx.metrics.alert_delivery.take(&mut delays);
            }
            if !more {
                if let Some(question) = feed.take_asking() {
                    asking = Some(question);
                }
                let clocks = feed.tell_at().map_or(comment_at, |at| comment_at.min(at)).min(expires_at);
                tokio::select! {
                    _ = wake.changed() => {}
                    _ = wake_events.changed(), if feed.has_events() => {}
                    fetched = answer(&mut asking), if asking.is_some() => feed.answered(fetched),
                    () = sleep_until(clocks) => {}
                    () = self.pieces.closed() => return None,
                }
            }
        }
    }
}

/// One event: its name, its position where it has one, its JSON on one line.
fn append(piece: &mut BytesMut, out: &Out) {
    piece.put_slice(b"event: ");
    piece.put_slice(out.name.as_bytes());
    if let Some(at) = &out.pos {
        piece.put_slice(b"\nid: ");
        piece.put_slice(at.pos().to_string().as_bytes());
    }
    piece.put_slice(b"\ndata: ");
    piece.put_slice(out.frame.as_str().as_bytes());
    piece.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::{super::out::At, *};

    #[test]
    fn an_event_as_text() {
        let mut piece = BytesMut::new();
        let pos = Some(At::Position(wire::Pos { seq: 3, check: "00c0ffee".into() }));
        append(&mut piece, &Out { pos, ..Out::new("position", r#"{"type":"position"}"#.to_owned()) });
        append(&mut piece, &Out::new("lagging", wire::lagging()));
        assert_eq!(
            piece,
            "event: position\nid: 3-00c0ffee\ndata: {\"type\":\"position\"}\n\nevent: lagging\ndata: {\"type\":\"lagging\"}\n\n"
        );
    }
}
