//! `GET /ws`: the handshake, and how a refusal is told there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header},
};
use hyper::upgrade::OnUpgrade;
use tokio::{net::TcpStream, sync::oneshot, time::timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Context,
    admission::{self, Credential, Denied, PROTOCOL, Protocols},
    client::{self, Arrival},
    socket::Connected,
};
use crate::{
    auth::{
        Principal, Refusal,
        journal::{Entry, Limited},
    },
    hub::{Connection, Known, Transport},
    metrics::unix_ms,
    wire::{Subscription, token_in_query},
};

/// A client that was answered 101 and does not come is given up.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// An extension of a request whose connection is given to the session by whoever answers it, and not by hyper.
#[derive(Clone)]
pub struct Handover(Arc<Mutex<Option<oneshot::Receiver<Answering>>>>);

/// A connection, and the answer 101 that goes out with the session's first words: every write wakes the client once more.
type Answering = (TcpStream, Vec<u8>);

/// The other end of a [`Handover`]. Its drop says that the connection does not come.
pub struct Giver(oneshot::Sender<Answering>);

impl Handover {
    pub fn new() -> (Handover, Giver) {
        let (giver, taker) = oneshot::channel();
        (Handover(Arc::new(Mutex::new(Some(taker)))), Giver(giver))
    }

    fn take(&self) -> Option<oneshot::Receiver<Answering>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Giver {
    /// `answer`: the head of the answer 101, which the session writes. What of the request was read is read for good; the stream
    /// sends at once (`TCP_NODELAY`).
    pub fn give(self, stream: TcpStream, answer: Vec<u8>) {
        // Who does not wait any more has given the client up.
        let _ = self.0.send((stream, answer));
    }
}

/// How the connection comes to be ours.
enum On {
    Hyper(OnUpgrade),
    Handover(oneshot::Receiver<Answering>),
}

impl On {
    async fn connection(self) -> Option<Connected> {
        match self {
            On::Hyper(on) => timeout(UPGRADE_TIMEOUT, on).await.ok()?.ok().and_then(Connected::from_hyper),
            On::Handover(stream) => {
                timeout(UPGRADE_TIMEOUT, stream).await.ok()?.ok().map(|(tcp, answer)| Connected::Answering(tcp, answer))
            }
        }
    }
}

/// A request for a WebSocket that is one (RFC 6455 §4.2.1).
pub(super) struct Upgrade {
    accept: HeaderValue,
    on: On,
}

impl Upgrade {
    /// Checks the request's form. `Err` is the answer to give instead.
    pub(super) fn of(request: &mut Request<Body>) -> Result<Upgrade, Box<Response<Body>>> {
        let bad = |text: &str| Box::new(Denied::BadRequest(text.to_owned()).response());
        let headers = request.headers();
        if request.method() != Method::GET {
            let mut response = admission::problem(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "a WebSocket begins with GET");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return Err(Box::new(response));
        }
        if request.version() != Version::HTTP_11
            || !has_word(headers, header::UPGRADE, "websocket")
            || !has_word(headers, header::CONNECTION, "upgrade")
        {
            let mut response =
                admission::problem(StatusCode::UPGRADE_REQUIRED, "bad_request", "this address speaks WebSocket over HTTP/1.1");
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            return Err(Box::new(response));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
            let mut response = admission::problem(StatusCode::UPGRADE_REQUIRED, "bad_request", "the version spoken here is 13");
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return Err(Box::new(response));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).filter(|key| is_key(key));
        let Some(key) = key else { return Err(bad("`Sec-WebSocket-Key` is not 16 bytes in base64")) };
        let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) else {
            return Err(bad("`Sec-WebSocket-Key` is not ASCII"));
        };
        if let Some(stream) = request.extensions().get::<Handover>().and_then(Handover::take) {
            return Ok(Upgrade { accept, on: On::Handover(stream) });
        }
        if request.extensions().get::<OnUpgrade>().is_none() {
            return Err(Box::new(admission::problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "this connection cannot be upgraded",
            )));
        }
        Ok(Upgrade { accept, on: On::Hyper(hyper::upgrade::on(request)) })
    }

    /// The answer 101, and the connection that comes of it once the answer is out; `None` if the client does not stay.
    pub(super) fn accept(self, protocol: Option<&'static str>) -> (Response<Body>, impl Future<Output = Option<Connected>>) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        (response, self.on.connection())
    }
}

/// Whether a header that is a list of words has this one, in any case.
fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// 16 bytes in base64: 22 characters and `==`.
fn is_key(key: &[u8]) -> bool {
    match key.strip_suffix(b"==") {
        Some(rest) => rest.len() == 22 && rest.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')),
        None => false,
    }
}

/// Takes a token, a place among the connections, and a place of the user's.
pub(super) async fn admit(ctx: &Context, place: &Connection, token: &str) -> Result<Principal, Denied> {
    let looks = ctx.standing.looks();
    let mut principal = judge(ctx, token, place.address()).await?;
    let mut known = name(ctx, place, &principal)?;
    if ctx.standing.looks() != looks {
        // What was revoked meanwhile was looked for before this connection had its name.
        principal = judge(ctx, token, place.address()).await?;
        known = name(ctx, place, &principal)?;
    }
    if known == Known::Differs {
        ctx.standing.suspect(&principal);
    }
    Ok(principal)
}

fn name(ctx: &Context, place: &Connection, principal: &Principal) -> Result<Known, Denied> {
    place.name(principal, ctx.options.connections_per_user_max).map_err(|full| {
        ctx.auth.journal().note(Entry::rate_limited(Limited::ConnectionsPerUser).of(principal).from(place.address()));
        full.into()
    })
}

async fn judge(ctx: &Context, token: &str, address: IpAddr) -> Result<Principal, Denied> {
    // Boxed: who is in, or waits for his first frame, holds no room for a question to the store.
    let admitted = match timeout(Duration::from_secs(5), Box::pin(ctx.auth.admit(token, unix_ms()))).await {
        Ok(admitted) => admitted,
        Err(_) => return Err(Denied::Unavailable),
    };
    admitted.map_err(|refusal| {
        ctx.refused(Some(token), &refusal, address);
        Denied::Token(refusal)
    })
}

/// Whether anybody new gets in at all.
pub(super) fn open(ctx: &Context) -> Result<(), Denied> {
    if ctx.hub.draining().is_some() {
        return Err(Denied::Draining);
    }
    if !ctx.hub.store_up() {
        return Err(Denied::Unavailable);
    }
    Ok(())
}

pub(super) fn refuse(ctx: &Context, denied: &Denied) -> Response<Body> {
    ctx.metrics.connections_rejected.inc(denied.label());
    denied.response()
}

/// The whole of `GET /ws` (contract §5): who may come in gets 101 and a task of his own in [`Context::tasks`]. A token in
/// `Authorization` is judged before the answer, by HTTP; any other afterwards, by frame and close code.
pub async fn websocket(ctx: Arc<Context>, mut request: Request<Body>, peer: SocketAddr) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    if token_in_query(query) {
        return refuse(&ctx, &Denied::BadRequest("a token in the URL is not accepted: it would end up in logs".to_owned()));
    }
    let subscription = match Subscription::from_query(query) {
        Ok(subscription) => subscription,
        Err(text) => return refuse(&ctx, &Denied::BadRequest(text)),
    };
    let protocols = match Protocols::of(request.headers()) {
        Ok(protocols) => protocols,
        Err(text) => return refuse(&ctx, &Denied::BadRequest(text.to_owned())),
    };
    let upgrade = match Upgrade::of(&mut request) {
        Ok(upgrade) => upgrade,
        Err(response) => {
            ctx.metrics.connections_rejected.inc("bad_request");
            return *response;
        }
    };
    let headers = request.headers();
    let credential = match admission::bearer(headers) {
        Some(Ok(token)) => Credential::Header(token),
        Some(Err(refusal)) => {
            ctx.refused(None, &refusal, peer.ip());
            return refuse(&ctx, &Denied::Token(refusal));
        }
        None => match protocols.token.or_else(|| admission::cookie(headers, admission::COOKIE)) {
            Some(token) => Credential::Browser(token),
            None => Credential::FirstFrame,
        },
    };
    let allowed = admission::origin_allowed(headers, &ctx.options.origins);
    let open = if allowed { open(&ctx) } else { Err(Denied::Origin) };
    // Told by HTTP to everybody: a place is what there is none of.
    let place = match ctx.hub.reserve(Transport::WebSocket, peer.ip(), unix_ms(), ctx.options.places()) {
        Ok(place) => place,
        Err(full) => return refuse(&ctx, &ctx.full(full, peer.ip())),
    };
    let arrival = match (open, credential) {
        (Err(denied), Credential::Header(_)) => return refuse(&ctx, &denied),
        (Err(denied), _) => Arrival::Denied(denied),
        (Ok(()), Credential::Header(token)) => match admit(&ctx, &place, &token).await {
            Ok(principal) => Arrival::Admitted(principal),
            Err(denied) => return refuse(&ctx, &denied),
        },
        (Ok(()), Credential::Browser(token)) => Arrival::Token(token),
        (Ok(()), Credential::FirstFrame) => Arrival::Unknown,
    };
    let (response, connection) = upgrade.accept(protocols.ours.then_some(PROTOCOL));
    let tasks = ctx.tasks.clone();
    // Boxed, for what is needed to come in is much more than what is needed to stay.
    let entering = Box::pin(async move { Some(client::enter(ctx, connection.await?, place, arrival, subscription).await) });
    tasks.spawn(async move {
        if let Some((client, entered)) = entering.await {
            client::serve(client, entered).await;
        }
    });
    response
}

/// A token that nobody sent.
pub(super) fn missing() -> Denied {
    Denied::Token(Refusal::missing())
}

#[cfg(test)]
mod tests {
    use super::is_key;

    #[test]
    fn keys_are_sixteen_bytes() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in [
            &b""[..],
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZ===",
            b"dGhlIHNhbXBsZSBub25j",
            b"dGhlIHNhbXBsZSBub25\xffZQ==",
        ] {
            assert!(!is_key(bad), "{bad:?}");
        }
    }
}
