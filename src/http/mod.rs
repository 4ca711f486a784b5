//! Routers, listeners, the page (contract §5, §7, §8).
//!
//! Two listeners: the public one (page, feed, API) and the one for operations (`/metrics`, probes), which has no tokens and
//! belongs on an address that only machines reach. [`serve`] runs either.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::Serialize;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
};

use crate::{
    auth::{Auth, people::People},
    event::Classifier,
    hub::Hub,
    metrics::Metrics,
    session,
    store::Store,
};

mod addresses;
mod alerts;
mod connections;
mod door;
mod feed;
mod guard;
mod intake;
mod limit;
mod page;
mod params;
mod probes;
mod problem;
mod proxy;
mod serve;
mod signin;
mod tls;
mod unread;
mod values;

pub use limit::{Limits, Rates};
pub use problem::{Code, Problem};
pub use proxy::{Network, Proxies};
pub use serve::{Edge, Https, Peer, serve};
pub use tls::{Look, Tls, TlsOptions};

/// `[listen]` and what the edge needs.
#[derive(Clone, Debug)]
pub struct Options {
    pub external_url: Option<String>,
    /// `CORS_ORIGINS`.
    pub cors_origins: Vec<String>,
    /// `SECURITY_HEADERS_ENABLED`.
    pub security_headers: bool,
    /// Longest request head wait.
    pub header_timeout: Duration,
    /// Longest body of `POST /api/v1/events`, bytes (1 MiB).
    pub body_bytes_max: usize,
    /// Sockets accepted at once on a listener.
    pub sockets_max: usize,
    /// Of them, of one address.
    pub sockets_per_address_max: usize,
    /// Whom the public listener believes who its clients are.
    pub proxies: Proxies,
    /// `/metrics` asks for it.
    pub metrics_token: Option<Vec<u8>>,
    pub rates: Rates,
}

impl Options {
    /// What the public listener asks of those who connect.
    pub fn edge(&self, tls: Option<Arc<Tls>>) -> Edge {
        Edge {
            header_timeout: self.header_timeout,
            sockets_max: self.sockets_max,
            sockets_per_address_max: self.sockets_per_address_max,
            proxies: self.proxies.clone(),
            tls,
        }
    }

    /// The listener for operations believes nobody.
    pub fn ops_edge(&self, tls: Option<Arc<Tls>>) -> Edge {
        Edge { proxies: Proxies::default(), ..self.edge(tls) }
    }
}

/// What the handlers have in hand.
pub struct State {
    options: Options,
    ctx: Arc<session::Context>,
    store: Store,
    hub: Arc<Hub>,
    auth: Auth,
    metrics: Arc<Metrics>,
    /// For `POST /events`; an event is looked at for microseconds, so waiting for it costs less than one for each.
    classifier: Mutex<Classifier>,
    limits: limit::Limits,
    people: People,
}

impl State {
    /// `ctx` is what sessions share, with the same store, hub and auth; `classifier` looks at events that come by HTTP,
    /// by the same configuration as the monitor's.
    pub fn new(
        options: Options,
        ctx: Arc<session::Context>,
        store: Store,
        hub: Arc<Hub>,
        auth: Auth,
        classifier: Classifier,
        people: People,
    ) -> Arc<State> {
        let metrics = ctx.metrics.clone();
        let limits = limit::Limits::new(&options.rates);
        Arc::new(State { options, ctx, store, hub, auth, metrics, classifier: Mutex::new(classifier), limits, people })
    }

    /// Counts for all nodes what clients do on this one, for ever.
    pub async fn tell_limits(&self) {
        self.limits.tell(&self.store).await;
    }
}

/// A path, its only method as OpenAPI writes it, and who answers.
type Route = (&'static str, &'static str, MethodRouter<Arc<State>>);

/// What paths of the API begin with.
const API: &str = "/api/v1/";

/// The feed as Server-Sent Events.
const STREAM: &str = "/api/v1/stream";

/// The API: routes under `/api/v1`, with their limit of requests.
fn api() -> Vec<Route> {
    vec![
        ("/api/v1/alerts", "get", get(alerts::list)),
        ("/api/v1/alerts/{alert_id}", "get", get(alerts::one)),
        (STREAM, "get", get(feed::stream)),
        ("/api/v1/metrics/current", "get", get(values::current)),
        ("/api/v1/metrics/history", "get", get(values::history)),
        ("/api/v1/events", "post", post(intake::post)),
        ("/api/v1/connections", "get", get(connections::list)),
        ("/api/v1/connections/disconnect", "post", post(connections::disconnect)),
        ("/api/v1/auth/login", "post", post(signin::login)),
        ("/api/v1/auth/refresh", "post", post(signin::refresh)),
        ("/api/v1/auth/logout", "post", post(signin::logout)),
    ]
}

/// The endpoints of the API, as limits name them: their paths without `/api/v1/`.
pub fn endpoints() -> Vec<&'static str> {
    let mut endpoints: Vec<_> = api().iter().filter_map(|(path, ..)| path.strip_prefix(API)).collect();
    endpoints.dedup();
    endpoints
}

/// What is public beside the API.
fn open() -> Vec<Route> {
    let file = |asset: &'static page::Asset| -> Route {
        (asset.path, "get", get(move |request: Request| async move { page::answer(asset, request.headers()) }))
    };
    let probes: [Route; 3] =
        [("/ws", "get", get(feed::websocket)), ("/livez", "get", get(probes::live)), ("/readyz", "get", get(probes::ready))];
    probes.into_iter().chain(page::ASSETS.iter().chain(&page::DOCUMENTS).map(file)).collect()
}

fn router(routes: Vec<Route>) -> Router<Arc<State>> {
    routes.into_iter().fold(Router::new(), |router, (path, _, methods)| router.route(path, methods))
}

/// The public listener: page, feed, API, probes.
pub fn public(state: Arc<State>) -> Router {
    let limited = router(api()).route_layer(middleware::from_fn_with_state(state.clone(), guard::limit));
    let cors = cors(&state.options);
    around(router(open()).merge(limited), state, Some(cors))
}

/// The listener for operations: `/metrics`, `/livez`, `/readyz`.
pub fn ops(state: Arc<State>) -> Router {
    let router = Router::new()
        .route("/metrics", get(probes::metrics))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready));
    around(router, state, None)
}

/// What every answer has: a problem for whatever is not there or breaks, security headers on all of them.
fn around(router: Router<Arc<State>>, state: Arc<State>, cors: Option<CorsLayer>) -> Router {
    let router = router
        .fallback(async || Problem::new(Code::NotFound, "there is nothing at this path"))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed, "this path has no such method"))
        .layer(CatchPanicLayer::custom(panicked));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(middleware::from_fn_with_state(state.clone(), guard::headers)).with_state(state)
}

/// The panic itself is told by the process's hook; the client learns that it was not its fault.
fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    Problem::new(Code::Internal, "something went wrong here").into_response()
}

fn cors(options: &Options) -> CorsLayer {
    let origins = options.cors_origins.iter().filter_map(|origin| HeaderValue::from_str(origin.trim_end_matches('/')).ok());
    // Without credentials: a page elsewhere brings its token in the header, and the cookie stays with pages of our own.
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("last-event-id")])
        .expose_headers([header::RETRY_AFTER])
        .max_age(Duration::from_secs(600))
}

/// `https://host/path` → `https://host`.
fn origin_of(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.split('/').next().unwrap_or_default()),
        None => url.to_owned(),
    }
}

fn parts(request: &Request) -> guard::Parts<'_> {
    guard::Parts { method: request.method(), headers: request.headers(), peer: guard::address(request) }
}

/// JSON that is text already; never kept by a cache, because who may see it changes.
fn json(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn to_json<T: Serialize>(value: &T) -> Result<Response, Problem> {
    match serde_json::to_string(value) {
        Ok(text) => Ok(json(text)),
        Err(error) => {
            tracing::error!(%error, "could not write an answer");
            Err(Problem::new(Code::Internal, "the answer could not be written"))
        }
    }
}

#[cfg(test)]
mod tests;
