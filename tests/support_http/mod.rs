//! Both listeners over a store, and a client for them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use auditcast::{
    auth::{
        self, Auth, Claims, Secret,
        people::{self, People},
    },
    event::Classifier,
    http::{self, Proxies, Rates, State, Tls},
    hub::{self, Hub},
    metrics::Metrics,
    session,
    store::{self, Store, Target},
};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub struct ServerOptions {
    pub external_url: Option<String>,
    pub cors: Vec<String>,
    pub security_headers: bool,
    pub header_timeout: Duration,
    pub body_bytes_max: usize,
    pub sockets_max: usize,
    pub rate_general: u32,
    pub rate_connections: u32,
    pub auth_timeout: Duration,
    pub rate_events: u32,
    /// `None`: an embedded store.
    pub redis: Option<String>,
    pub rate_auth: u32,
    pub people: people::Options,
    pub connections_per_address_max: usize,
    pub proxies: Proxies,
    pub metrics_token: Option<Vec<u8>>,
    pub tls: Option<Arc<Tls>>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            external_url: None,
            cors: vec![],
            security_headers: true,
            header_timeout: Duration::from_secs(10),
            body_bytes_max: 1024 * 1024,
            sockets_max: 100,
            rate_general: 600,
            rate_connections: 300,
            auth_timeout: Duration::from_secs(5),
            rate_events: 600,
            redis: None,
            rate_auth: 1_000_000,
            people: people_options(),
            connections_per_address_max: 50,
            proxies: Proxies::default(),
            metrics_token: None,
            tls: None,
        }
    }
}

/// The documented defaults, but for bcrypt's cost.
pub fn people_options() -> people::Options {
    people::Options {
        access_ttl: Duration::from_secs(1800),
        session_timeout: Duration::from_secs(1800),
        refresh_ttl: Duration::from_secs(7 * 86_400),
        bcrypt_cost: 4,
        policy: people::password::Policy { min_length: 8, require_special: true, require_numbers: true, require_uppercase: true },
        lockout: people::attempts::Limits { failures: 5, window_ms: 900_000, first_ms: 60_000, longest_ms: 3_600_000 },
        encryption_key: None,
    }
}

pub struct Server {
    pub public: SocketAddr,
    pub ops: SocketAddr,
    pub store: Store,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub auth: Auth,
    ctx: Arc<session::Context>,
    stop: CancellationToken,
    tracker: TaskTracker,
    _dir: tempfile::TempDir,
}

pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

pub async fn start(options: ServerOptions) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(store::Options {
        target: options.redis.clone().map_or_else(|| Target::Embedded(dir.path().to_owned()), Target::Redis),
        prefix: "{auditcast}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(3600),
        alerts_max: 1000,
        dead_letters_max: 1000,
        commits_max: 1000,
        intake_max: 1000,
    })
    .await
    .unwrap();
    store.prepare().await.unwrap();
    let auth = Auth::new(
        auth::Options {
            leeway: Duration::ZERO,
            ..auth::Options::new(Secret(b"a secret of more than thirty-two bytes, for tests".to_vec()))
        },
        store.clone(),
    );
    let hub = Hub::new(hub::Options { ring: 64, events_ring: 64 });
    let metrics = Metrics::new(&["app".to_owned()], &[], "0.1.0", "test", "00");
    let session_options = session::Options {
        events_rate: 500,
        ping_interval: Duration::from_secs(25),
        idle_timeout: Duration::from_secs(60),
        auth_timeout: options.auth_timeout,
        frame_bytes_max: 16 * 1024,
        connections_max: 100,
        connections_per_user_max: 20,
        connections_per_address_max: options.connections_per_address_max,
        write_timeout: Duration::from_secs(10),
        drain_window: Duration::from_secs(1),
        origins: options.cors.clone(),
    };
    let ctx = session::Context::new(hub.clone(), store.clone(), auth.clone(), metrics.clone(), session_options, "node".into());
    let http_options = http::Options {
        external_url: options.external_url,
        cors_origins: options.cors,
        security_headers: options.security_headers,
        header_timeout: options.header_timeout,
        body_bytes_max: options.body_bytes_max,
        sockets_max: options.sockets_max,
        sockets_per_address_max: options.connections_per_address_max,
        proxies: options.proxies,
        metrics_token: options.metrics_token,
        rates: Rates {
            window: Duration::from_secs(60),
            general: options.rate_general,
            auth: options.rate_auth,
            connections: options.rate_connections,
            endpoints: vec![("events".to_owned(), options.rate_events)],
        },
    };
    let classifier = Classifier::new(auditcast::event::Options::contract()).unwrap();
    let state = State::new(
        http_options.clone(),
        ctx.clone(),
        store.clone(),
        hub.clone(),
        auth.clone(),
        classifier,
        People::new(options.people, store.clone(), auth.clone()),
    );
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let sweep = (ctx.clone(), stop.clone());
    tokio::spawn(async move { sweep.1.run_until_cancelled(session::sweep(sweep.0)).await });
    let standing = (ctx.clone(), stop.clone());
    tracker.spawn(async move { standing.1.run_until_cancelled(session::standing(standing.0)).await });
    let follow = (hub.clone(), store.clone(), stop.clone());
    tracker.spawn(async move { follow.0.follow(follow.1, follow.2).await });
    let mut addresses = Vec::new();
    for (edge, router) in [
        (http_options.edge(options.tls.clone()), http::public(state.clone())),
        (http_options.ops_edge(options.tls), http::ops(state)),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        tracker.spawn(http::serve(listener, router, edge, metrics.clone(), stop.clone(), tracker.clone()));
    }
    let server = Server { public: addresses[0], ops: addresses[1], store, hub, metrics, auth, ctx, stop, tracker, _dir: dir };
    server.until("the hub to follow", |server| server.hub.store_up()).await;
    server
}

pub struct Response {
    pub status: u16,
    headers: HashMap<String, String>,
    cookies: Vec<String>,
    pub body: String,
}

impl Response {
    /// Every `Set-Cookie`.
    pub fn cookies(&self) -> Vec<String> {
        self.cookies.clone()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    #[track_caller]
    pub fn json(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        serde_json::from_str(&self.body).expect(&self.body)
    }

    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body: Value = serde_json::from_str(&self.body).expect(&self.body);
        assert_eq!((body["status"].as_u64(), body["code"].as_str()), (Some(u64::from(status)), Some(code)), "{body}");
        assert!(body["type"].is_string() && body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }
}

impl Server {
    pub fn token(&self, role: &str, permissions: &[&str]) -> String {
        self.token_with(role, permissions, &format!("{role}{permissions:?}"))
    }

    pub fn token_with(&self, role: &str, permissions: &[&str], jti: &str) -> String {
        let claims = Claims {
            user_id: "7".into(),
            username: None,
            role: Some(role.into()),
            permissions: permissions.iter().map(|p| (*p).to_owned()).collect(),
            ttl: Duration::from_secs(3600),
            now_ms: now_ms(),
            sight: None,
            jti: Some(jti.into()),
        };
        self.auth.issue(&claims).unwrap()
    }

    pub async fn get(&self, path: &str, token: &str) -> Response {
        self.send("GET", path, &[("authorization", &format!("Bearer {token}"))], "").await
    }

    pub async fn post(&self, path: &str, token: &str, body: &str) -> Response {
        let bearer = format!("Bearer {token}");
        self.send("POST", path, &[("authorization", &bearer), ("content-type", "application/json")], body).await
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.send_to(&self.public, method, path, headers, body).await
    }

    pub async fn send_ops(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send_to(&self.ops, method, path, headers, "").await
    }

    pub async fn send_to(&self, at: &SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let exchange = async {
            let io = hyper_util::rt::TokioIo::new(TcpStream::connect(at).await.unwrap());
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let connection = tokio::spawn(connection);
            let mut request = hyper::Request::builder().method(method).uri(path);
            if !headers.iter().any(|(name, _)| *name == "host") {
                request = request.header("host", at.to_string());
            }
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            drop(sender);
            let _ = connection.await;
            let cookies = head.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            Response { status: head.status.as_u16(), headers: headers.collect(), cookies, body }
        };
        tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("an answer in time")
    }

    /// Waits for something that happens elsewhere.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Server) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Drains, and sees that no task is left.
    pub async fn stop(&self) {
        self.hub.start_drain(Duration::ZERO);
        self.stop.cancel();
        self.ctx.tasks.close();
        self.tracker.close();
        let ended = async {
            self.ctx.tasks.wait().await;
            self.tracker.wait().await;
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("every task ends");
        self.store.close().await;
    }
}
