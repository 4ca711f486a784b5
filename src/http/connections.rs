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
use crate::{
    auth::{is_cut_off, journal::Entry},
    hub::{Bearer, ConnectionInfo},
    metrics::unix_ms,
    store::check_name,
    wire::{self, CloseCode},
};

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

/// Exactly one of the first three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    connection: Option<String>,
    user_id: Option<String>,
    token_id: Option<String>,
    /// With `user_id`: revoke his tokens from before this.
    issued_before: Option<String>,
}

#[derive(Serialize)]
struct Disconnected {
    /// On this node.
    disconnected: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<String>,
}

/// Longest body, bytes.
const BODY_BYTES_MAX: usize = 4096;

/// Clocks differ by so much at most, ms.
const SKEW_MAX_MS: u64 = 60_000;

/// Ends connections of this node. That alone keeps nobody out: a token that shall not come back is revoked. `issued_before` does
/// that for all of a user's tokens from before a time, for good and on every node.
pub(super) async fn disconnect(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let peer = guard::address(&request);
    let by = guard::admit(&state, &super::parts(&request), Need::Act).await?;
    Params::read(request.uri(), &[])?;
    let text = intake::read(request.into_body(), BODY_BYTES_MAX).await?;
    // The parser's own texts quote what is wrong, and that may be a token.
    let wanted: Disconnect = serde_json::from_str(&text).map_err(|_| {
        let text = "the body is not an object with `connection`, `user_id`, perhaps with `issued_before`, or `token_id`";
        Problem::new(Code::BadJson, text)
    })?;
    let (disconnected, issued_before) = match (wanted.connection, wanted.user_id, wanted.token_id, wanted.issued_before) {
        (Some(wanted), None, None, None) => (state.hub.disconnect(|info| name(&state, info) == wanted), None),
        (None, Some(wanted), None, None) => (state.hub.disconnect(|info| info.user_id.as_deref() == Some(wanted.as_str())), None),
        (None, None, Some(wanted), None) => (state.hub.disconnect(|info| info.jti.as_deref() == Some(wanted.as_str())), None),
        (None, Some(wanted), None, Some(before)) => {
            let before_ms = cut_off(&state, &wanted, time(&before)?).await?;
            let revoked = Entry::tokens_revoked().user(&wanted, None).by(&by.user_id);
            state.auth.journal().note(peer.map_or_else(|| revoked.clone(), |peer| revoked.clone().from(peer)));
            let out = |bearer: &Bearer<'_>| bearer.user_id == wanted && is_cut_off(bearer.issued_at_ms, before_ms);
            // The other nodes hear of it from the store.
            (state.hub.end(CloseCode::Revoked, out), Some(wire::rfc3339(before_ms)))
        }
        _ => {
            let text = "the body names one of `connection`, `user_id` and `token_id`; `issued_before` goes with `user_id`";
            return Err(Problem::bad_request(text));
        }
    };
    let ended = Entry::connections_ended(disconnected).of(&by);
    state.auth.journal().note(peer.map_or_else(|| ended.clone(), |peer| ended.clone().from(peer)));
    super::to_json(&Disconnected { disconnected, issued_before })
}

/// Stores the cut-off; gives the one in force, which may be a later one.
async fn cut_off(state: &State, user_id: &str, before_ms: u64) -> Result<u64, Problem> {
    check_name("`user_id`", user_id).map_err(|error| Problem::bad_request(error.to_string()))?;
    let in_force = state.store.cut_off(user_id, before_ms).await.map_err(|error| {
        tracing::debug!(%error, "could not store a cut-off");
        Problem::new(Code::Unavailable, "the store cannot be written to at the moment")
    })?;
    state.auth.cut_off(user_id, in_force);
    Ok(in_force)
}

/// Unix ms; `now`, or RFC 3339 and not in the future.
fn time(text: &str) -> Result<u64, Problem> {
    let now_ms = unix_ms();
    if text == "now" {
        return Ok(now_ms);
    }
    let time: Option<jiff::Timestamp> = text.parse().ok();
    let ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
    match ms {
        Some(ms) if ms <= now_ms + SKEW_MAX_MS => Ok(ms.min(now_ms)),
        Some(_) => Err(Problem::bad_request("`issued_before` is in the future")),
        None => Err(Problem::bad_request("`issued_before` is neither a time such as 2026-01-31T08:00:00Z nor `now`")),
    }
}
