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
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{Options, door};
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

/// Who is at the other end; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves until `stop`: then accepts nothing more, lets running requests finish and gives back its sockets. Connections are
/// tasks of `tracker`; those of upgraded sockets are not ours any more.
///
/// At most `options.sockets_max` sockets speak HTTP at once; one more is told 503 and closed.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tracker: TaskTracker,
) {
    let sockets = Arc::new(Semaphore::new(options.sockets_max.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    prepare(&listener);
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
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
                let _ = tokio::time::timeout(EXHAUSTED_PAUSE, stop.cancelled()).await;
                continue;
            }
        };
        exhausted = false;
        let Ok(permit) = Arc::clone(&sockets).try_acquire_owned() else {
            metrics.connections_rejected.inc("sockets");
            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                tracker.spawn(refuse(stream, permit));
            }
            continue;
        };
        tracker.spawn(connection(stream, peer, router.clone(), options.header_timeout, stop.clone(), permit));
    }
}

/// The peer was gone before it was taken; the next one is as good as any.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says that there is no room, and reads what the client had to say: closing on unread bytes would reset the connection, and
/// take the answer with it.
async fn refuse(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let telling = async {
        stream.write_all(FULL).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Best effort: who hangs up or dawdles does not hear it.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, telling).await;
    drop(permit);
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

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    header_timeout: Duration,
    stop: CancellationToken,
    permit: OwnedSemaphorePermit,
) {
    let knock = tokio::select! {
        biased;
        () = stop.cancelled() => {
            let _ = stream.shutdown().await;
            return;
        }
        knock = tokio::time::timeout(header_timeout, door::listen(&stream)) => match knock {
            Ok(Ok(knock)) => knock,
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let refusal = match knock {
        // Boxed, like what follows: this task is there for every connection from its first moment on.
        Some(knock) => match Box::pin(door::open(stream, knock, Peer(peer), router.clone())).await {
            None => return,
            Some((returned, response)) => {
                stream = returned;
                Some(response)
            }
        },
        None => None,
    };
    Box::pin(http(stream, peer, router, refusal, header_timeout, stop)).await;
    drop(permit);
}

/// Speaks HTTP. `refusal` is the answer to the first request, where that has been asked already.
async fn http(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    refusal: Option<Response>,
    header_timeout: Duration,
    stop: CancellationToken,
) {
    let refusal = Mutex::new(refusal);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        let router = router.clone();
        async move {
            match refusal {
                Some(refusal) => Ok(refusal),
                None => {
                    request.extensions_mut().insert(Peer(peer));
                    router.oneshot(request.map(Body::new)).await
                }
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
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
