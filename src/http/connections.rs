//! `GET /api/v1/connections`, `POST /api/v1/connections/disconnect`: who is watching this node, and who shall not (contract §7).

use std::sync::Arc;

use axum::{
    extract::{Request, State as FromState},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    State,
    guard::{self, Need},
    intake,
    params::Params,
    problem::{Code, Problem},
};
use crate::{auth::journal::Entry, hub::ConnectionInfo, wire};

#[derive(Serialize)]
struct Connections {
    connections: Vec<Connection>,
}

#[derive(Serialize)]
struct Connection {
    connection: String,
    transport: &'static str,
    address: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
}

/// As `hello` says it.
fn name(state: &State, info: &ConnectionInfo) -> String {
    format!("{}-{}", state.ctx.node, info.id)
}

pub(super) async fn list(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    guard::admit(&state, &super::parts(&request), Need::See).await?;
    Params::read(request.uri(), &[])?;
    let connection = |info: ConnectionInfo| Connection {
        connection: name(&state, &info),
        transport: info.transport.as_str(),
        address: info.address.to_canonical().to_string(),
        since: wire::rfc3339(info.since_ms),
        user_id: info.user_id,
        token_id: info.jti,
    };
    super::to_json(&Connections { connections: state.hub.connections().into_iter().map(connection).collect() })
}

/// Exactly one of the three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    connection: Option<String>,
    user_id: Option<String>,
    token_id: Option<String>,
}

#[derive(Serialize)]
struct Disconnected {
    disconnected: usize,
}

/// Longest body, bytes.
const BODY_BYTES_MAX: usize = 4096;

/// Ends connections of this node. That alone keeps nobody out: a token that shall not come back is revoked.
pub(super) async fn disconnect(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let peer = guard::address(&request);
    let by = guard::admit(&state, &super::parts(&request), Need::Act).await?;
    Params::read(request.uri(), &[])?;
    let text = intake::read(request.into_body(), BODY_BYTES_MAX).await?;
    let wanted: Disconnect =
        serde_json::from_str(&text).map_err(|error| Problem::new(Code::BadJson, format!("the body cannot be read: {error}")))?;
    let disconnected = match (wanted.connection, wanted.user_id, wanted.token_id) {
        (Some(wanted), None, None) => state.hub.disconnect(|info| name(&state, info) == wanted),
        (None, Some(wanted), None) => state.hub.disconnect(|info| info.user_id.as_deref() == Some(wanted.as_str())),
        (None, None, Some(wanted)) => state.hub.disconnect(|info| info.jti.as_deref() == Some(wanted.as_str())),
        _ => return Err(Problem::bad_request("the body names one of `connection`, `user_id` and `token_id`")),
    };
    let ended = Entry::connections_ended(disconnected).of(&by);
    state.auth.journal().note(peer.map_or_else(|| ended.clone(), |peer| ended.clone().from(peer)));
    super::to_json(&Disconnected { disconnected })
}
