//! The accept loop: HTTP/1.1 on hyper, with time-outs and bounds that a ready-made server does not have.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::TcpKeepalive;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    addresses::{Addresses, Place},
    door,
    proxy::{self, Origin, Proxies},
    tls::Tls,
};
use crate::metrics::Metrics;

/// Longest request head, bytes; more is answered with 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What the kernel keeps for one client: small, so that a slow one is noticed by us and does not hide in buffers.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// A peer that acknowledges nothing for so long is gone, or wants to keep us busy. Longer than a slow client of the feed is
/// waited for: that one is to be told.
const PEER_TIMEOUT: Duration = Duration::from_secs(180);

/// When an idle peer is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Sockets at once that are told there is no room; more are closed without a word.
const REFUSALS_MAX: usize = 64;

/// How long such a socket may take to hear it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long accepting rests when the process has no descriptors left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 36\r\nConnection: close\r\n\r\n\
                        this address speaks TLS: use https:\n";

/// First byte of a TLS connection: a record of the handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a listener asks of those who connect.
#[derive(Clone)]
pub struct Edge {
    /// Until the head of a request is there, with whatever comes before it: a PROXY header, a TLS handshake.
    pub header_timeout: Duration,
    /// Sockets at once.
    pub sockets_max: usize,
    /// Of them, of one address.
    pub sockets_per_address_max: usize,
    pub proxies: Proxies,
    pub tls: Option<Arc<Tls>>,
}

/// Who is at the other end, proxies left out; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Whether the client came by TLS, here or at a proxy; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Https(pub bool);

/// Says of a request whose it is.
pub(super) fn sign<B>(request: &mut hyper::Request<B>, proxies: &Proxies, origin: Origin) {
    let client = proxies.client(origin, request.headers());
    request.extensions_mut().insert(Peer(client.peer));
    request.extensions_mut().insert(Https(client.https));
}

/// Serves until `stop`: then accepts nothing more, lets running requests finish and gives back its sockets. Connections are
/// tasks of `tracker`; those of upgraded sockets are not ours any more.
///
/// At most `edge.sockets_max` sockets speak HTTP at once; one more is told 503 and closed, and one more of the same address 429.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    edge: Edge,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let sockets = Arc::new(Semaphore::new(edge.sockets_max.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let shared = Arc::new(Shared { addresses: Addresses::new(edge.sockets_per_address_max), edge, router, metrics, stop });
    prepare(&listener);
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_peer(&error) => continue,
            Err(error) => {
                // Without descriptors waiting is all there is, and a loop without a pause would burn a core.
                if !exhausted {
                    exhausted = true;
                    tracing::warn!(%error, "could not accept connections; trying again all the time");
                }
                let _ = tokio::time::timeout(EXHAUSTED_PAUSE, shared.stop.cancelled()).await;
                continue;
            }
        };
        exhausted = false;
        let Ok(permit) = Arc::clone(&sockets).try_acquire_owned() else {
            shared.metrics.connections_rejected.inc("sockets");
            refuse(&shared, stream, FULL, &refusals, &tracker);
            continue;
        };
        // A proxy's sockets are its clients', whom it may tell of later.
        let place = if shared.edge.proxies.trusts(peer.ip()) { Some(Place::none()) } else { shared.addresses.take(peer.ip()) };
        let Some(place) = place else {
            shared.metrics.connections_rejected.inc("too_many_per_address");
            refuse(&shared, stream, TOO_MANY, &refusals, &tracker);
            continue;
        };
        tracker.spawn(connection(stream, peer, shared.clone(), place, permit));
    }
}

/// What the connections of a listener share.
struct Shared {
    edge: Edge,
    router: Router,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    addresses: Arc<Addresses>,
}

/// The peer was gone before it was taken; the next one is as good as any.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says that there is no room, where it can be said without a handshake first.
fn refuse(shared: &Shared, stream: TcpStream, why: &'static [u8], refusals: &Arc<Semaphore>, tracker: &TaskTracker) {
    if shared.edge.tls.is_none()
        && let Ok(permit) = Arc::clone(refusals).try_acquire_owned()
    {
        tracker.spawn(async move {
            tell(stream, why).await;
            drop(permit);
        });
    }
}

/// Says something and reads what the client had to say: closing on unread bytes would reset the connection, and take the answer
/// with it.
async fn tell(mut stream: TcpStream, what: &[u8]) {
    let telling = async {
        stream.write_all(what).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Best effort: who hangs up or dawdles does not hear it.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, telling).await;
}

/// What is set for a listener holds for every socket that is accepted there.
fn prepare(listener: &TcpListener) {
    let socket = socket2::SockRef::from(listener);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    for (option, set) in [
        ("TCP_NODELAY", socket.set_tcp_nodelay(true)),
        ("SO_SNDBUF", socket.set_send_buffer_size(SEND_BUFFER_BYTES)),
        ("SO_KEEPALIVE", socket.set_tcp_keepalive(&keepalive)),
        ("TCP_USER_TIMEOUT", socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))),
    ] {
        if let Err(error) = set {
            tracing::debug!(%error, option, "could not set an option of a listener");
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, place: Place, permit: OwnedSemaphorePermit) {
    let until = Instant::now() + shared.edge.header_timeout;
    let origin = Origin { peer, https: shared.edge.tls.is_some() };
    // Boxed, like what follows: this task is there for every connection from its first moment on.
    let announced = shared.edge.proxies.announces(peer.ip());
    if shared.edge.tls.is_some() || announced {
        Box::pin(dressed(stream, origin, &shared, place, announced, until)).await;
    } else {
        plain(stream, origin, &shared, until).await;
        drop(place);
    }
    drop(permit);
}

/// A connection that begins with a PROXY header, a TLS handshake, or both.
async fn dressed(
    mut stream: TcpStream,
    mut origin: Origin,
    shared: &Arc<Shared>,
    mut place: Place,
    announced: bool,
    until: Instant,
) {
    let undressed = async {
        if announced {
            let found = proxy::announced(&mut stream, origin.peer).await.ok()?;
            if !shared.edge.proxies.trusts(found.peer.ip()) {
                let Some(taken) = shared.addresses.take(found.peer.ip()) else {
                    shared.metrics.connections_rejected.inc("too_many_per_address");
                    return None;
                };
                place = taken;
            }
            origin = Origin { peer: found.peer, https: origin.https || found.https };
        }
        let Some(tls) = &shared.edge.tls else { return Some((Err(stream), origin)) };
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        if first != [TLS_HANDSHAKE] {
            tell(stream, NO_TLS).await;
            return None;
        }
        match TlsAcceptor::from(tls.current()).accept(stream).await {
            Ok(stream) => Some((Ok(stream), origin)),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    };
    let undressed = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        undressed = timeout_at(until, undressed) => undressed,
    };
    match undressed {
        Ok(Some((Ok(stream), origin))) => http(stream, origin, shared, None).await,
        Ok(Some((Err(stream), origin))) => plain(stream, origin, shared, until).await,
        Ok(None) | Err(_) => {}
    }
    drop(place);
}

/// A connection without TLS: handshakes of the usual kind have a way in of their own.
async fn plain(mut stream: TcpStream, origin: Origin, shared: &Arc<Shared>, until: Instant) {
    let knock = tokio::select! {
        biased;
        () = shared.stop.cancelled() => {
            let _ = stream.shutdown().await;
            return;
        }
        knock = timeout_at(until, door::listen(&stream)) => match knock {
            Ok(Ok(knock)) => knock,
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let refusal = match knock {
        Some(mut knock) => {
            sign(knock.request(), &shared.edge.proxies, origin);
            match Box::pin(door::open(stream, knock, shared.router.clone())).await {
                None => return,
                Some((returned, response)) => {
                    stream = returned;
                    Some(response)
                }
            }
        }
        None => None,
    };
    Box::pin(http(stream, origin, shared, refusal)).await;
}

/// Speaks HTTP. `refusal` is the answer to the first request, where that has been asked already.
async fn http<S>(stream: S, origin: Origin, shared: &Arc<Shared>, refusal: Option<Response>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let refusal = Mutex::new(refusal);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        let shared = shared.clone();
        async move {
            match refusal {
                Some(refusal) => Ok(refusal),
                None => {
                    sign(&mut request, &shared.edge.proxies, origin);
                    shared.router.clone().oneshot(request.map(Body::new)).await
                }
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.edge.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client's mistake or absence; at most worth a look while debugging.
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_have_the_options_of_their_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        prepare(&listener);
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("an option") && socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), KEEPALIVE);
        assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(PEER_TIMEOUT));
        // The kernel doubles it, for what it keeps itself.
        assert_eq!(socket.send_buffer_size().expect("an option"), 2 * SEND_BUFFER_BYTES);
        drop(client);
    }
}
