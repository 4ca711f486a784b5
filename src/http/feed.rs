//! `/ws` and `GET /api/v1/stream`: handed to the room of sessions.

use std::sync::Arc;

use axum::{
    extract::{Request, State as FromState},
    response::{IntoResponse, Response},
};

use super::{
    State,
    problem::{Code, Problem},
    serve::Peer,
};
use crate::session;

pub(super) async fn websocket(FromState(state): FromState<Arc<State>>, request: Request) -> Response {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else { return no_peer() };
    session::websocket(state.ctx.clone(), request, peer).await.into_response()
}

pub(super) async fn stream(FromState(state): FromState<Arc<State>>, request: Request) -> Response {
    let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() else { return no_peer() };
    session::sse(state.ctx.clone(), request, peer).await.into_response()
}

/// Only a router that is not behind [`super::serve`] gets here.
fn no_peer() -> Response {
    Problem::new(Code::Internal, "the client's address is not known").into_response()
}
