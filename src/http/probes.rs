//! `/livez`, `/readyz`, `/metrics`: for machines, without a token.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    body::Body,
    extract::{Query, Request, State as FromState},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    State, json,
    problem::{Code, Problem},
};
use crate::{
    metrics::{self, Check, unix_ms},
    session,
};

#[derive(Serialize)]
struct Ready {
    ready: bool,
    checks: BTreeMap<String, Check>,
}

/// 200 or 503 with every check; `?exclude=source` (as often as wanted) leaves a check out of the verdict.
pub(super) async fn ready(FromState(state): FromState<Arc<State>>, request: Request) -> Response {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else {
        return Problem::bad_request("the query cannot be read").into_response();
    };
    if pairs.iter().any(|(name, _)| name != "exclude") {
        return Problem::bad_request("the only parameter here is `exclude`").into_response();
    }
    let exclude: Vec<&str> = pairs.iter().map(|(_, value)| value.as_str()).collect();
    let found = state.metrics.health.ready(&exclude);
    let status = if found.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = serde_json::to_string(&Ready { ready: found.ready, checks: found.checks }).unwrap_or_default();
    let mut response = json(text);
    *response.status_mut() = status;
    response
}

#[derive(Serialize)]
struct Live {
    live: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// 503 only where a restart would help.
pub(super) async fn live(FromState(state): FromState<Arc<State>>) -> Response {
    let found = state.metrics.health.live(unix_ms());
    let status = if found.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = serde_json::to_string(&Live { live: found.is_ok(), detail: found.err() }).unwrap_or_default();
    let mut response = json(text);
    *response.status_mut() = status;
    response
}

/// Asks for `listen.metrics_token`, where there is one.
pub(super) async fn metrics(FromState(state): FromState<Arc<State>>, request: Request) -> Response {
    if let Some(token) = &state.options.metrics_token {
        let refused = |code, text| {
            state.metrics.auth_failures.inc(if code == Code::Missing { "missing" } else { "invalid" });
            Problem::new(code, text).into_response()
        };
        match session::bearer(request.headers()) {
            None => return refused(Code::Missing, "this needs the token of listen.metrics_token, as `Authorization: Bearer`"),
            Some(Ok(given)) if verify_slices_are_equal(given.as_bytes(), token).is_ok() => {}
            Some(_) => return refused(Code::Invalid, "this is not the token of listen.metrics_token"),
        }
    }
    state.metrics.set_store_reconnects(state.store.reconnects());
    let mut response = Response::new(Body::from(state.metrics.render()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
}
