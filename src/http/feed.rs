//! `/ws` and `GET /api/v1/stream`: handed to the room of sessions.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State as FromState},
    response::{IntoResponse, Response},
};

use super::{
    State,
    problem::{Code, Problem},
    serve::Peer,
};
use crate::{
    auth::journal::{Entry, Limited},
    metrics::unix_ms,
    session,
};

pub(super) async fn websocket(FromState(state): FromState<Arc<State>>, request: Request) -> Response {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else { return no_peer() };
    if let Err(problem) = attempt(&state, peer) {
        return problem.into_response();
    }
    session::websocket(state.ctx.clone(), request, peer).await.into_response()
}

pub(super) async fn stream(FromState(state): FromState<Arc<State>>, request: Request) -> Response {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else { return no_peer() };
    if let Err(problem) = attempt(&state, peer) {
        return problem.into_response();
    }
    session::sse(state.ctx.clone(), request, peer).await.into_response()
}

/// `limits.rate_connections`. Before anything is asked of the token: guesses are attempts too.
fn attempt(state: &State, peer: SocketAddr) -> Result<(), Problem> {
    state.limits.connection(peer.ip(), unix_ms()).map_err(|seconds| {
        state.metrics.connections_rejected.inc("rate_limited");
        state.auth.journal().note(Entry::rate_limited(Limited::Attempts).from(peer.ip()));
        Problem::rate_limited("too many attempts to connect from this address", seconds)
    })
}

/// Only a router that is not behind [`super::serve`] gets here.
fn no_peer() -> Response {
    Problem::new(Code::Internal, "the client's address is not known").into_response()
}
