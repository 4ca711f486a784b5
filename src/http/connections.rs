//! `GET /api/v1/connections`: who is watching this node.

use std::sync::Arc;

use axum::{
    extract::{Request, State as FromState},
    response::Response,
};
use serde::Serialize;

use super::{
    State,
    guard::{self, Need},
    params::Params,
    problem::Problem,
};
use crate::{hub::ConnectionInfo, wire};

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

impl From<ConnectionInfo> for Connection {
    fn from(info: ConnectionInfo) -> Connection {
        Connection {
            connection: info.id.to_string(),
            transport: info.transport.as_str(),
            address: info.address.to_canonical().to_string(),
            since: wire::rfc3339(info.since_ms),
            user_id: info.user_id,
            token_id: info.jti,
        }
    }
}

pub(super) async fn list(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    guard::admit(&state, &super::parts(&request), Need::See).await?;
    Params::read(request.uri(), &[])?;
    super::to_json(&Connections { connections: state.hub.connections().into_iter().map(Connection::from).collect() })
}
