//! A request that is refused before its body was read: a socket closed with bytes in it resets the connection, and the answer may
//! be lost with it. So what little there is is read and dropped; who sends more is told that the connection ends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, header},
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};

/// Dropped at most.
const DROPPED_BYTES_MAX: usize = 1 << 20;
/// Waited for at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that is given away and can still be asked for the rest.
#[derive(Clone)]
struct Lent(Arc<Mutex<Body>>);

impl Lent {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

/// What is left of a request's body.
pub(super) struct Rest(Option<Lent>);

/// The request as it was, and what will be left of its body.
pub(super) fn lend(request: Request) -> (Request, Rest) {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return (Request::from_parts(parts, body), Rest(None));
    }
    let lent = Lent(Arc::new(Mutex::new(body)));
    (Request::from_parts(parts, Body::new(lent.clone())), Rest(Some(lent)))
}

impl Rest {
    /// Reads and drops what nobody has read.
    pub(super) async fn drop_from(self, mut response: Response) -> Response {
        let Some(mut lent) = self.0 else { return response };
        let read = tokio::time::timeout(PATIENCE, async {
            let mut left = DROPPED_BYTES_MAX;
            while !lent.is_end_stream() {
                match lent.frame().await {
                    Some(Ok(frame)) => match frame.data_ref().map_or(Some(left), |data| left.checked_sub(data.len())) {
                        Some(rest) => left = rest,
                        None => return false,
                    },
                    Some(Err(_)) => return false,
                    None => return true,
                }
            }
            true
        });
        if read.await != Ok(true) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
