//! The monitor in process, over either engine: short slots, a hub and metrics of its own, the bridges beside it. Nothing is
//! waited for by the clock: every wait is for a thing, with a deadline.

#![allow(dead_code)]

#[path = "../support/redis.rs"]
pub mod server;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use auditcast::{
    config::{Config, Sources},
    detect::Detector,
    event::EntryId,
    hub::{self, Hub},
    metrics::Metrics,
    monitor::{Monitor, MonitorError, Role},
    server::{rules, settings},
    source,
    store::{self, Snapshot, Store, Target},
};
use serde_json::Value;
use server::RedisServer;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Nothing on this machine takes longer; what does has hung.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const LEASE: Duration = Duration::from_millis(900);

pub enum Engine {
    Redis(Box<RedisServer>),
    Embedded(tempfile::TempDir),
}

impl Engine {
    pub fn redis() -> Engine {
        Engine::Redis(Box::new(RedisServer::start(&["--appendonly", "no"])))
    }

    pub fn embedded() -> Engine {
        Engine::Embedded(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn server(&mut self) -> &mut RedisServer {
        match self {
            Engine::Redis(server) => server,
            Engine::Embedded(_) => panic!("the embedded store is no server"),
        }
    }

    /// A store of its own, as another process has it. The embedded one must be closed before it is opened again.
    pub async fn open(&self) -> Store {
        let target = match self {
            Engine::Redis(server) => Target::Redis(server.url()),
            Engine::Embedded(dir) => Target::Embedded(dir.path().to_owned()),
        };
        Store::open(store::Options {
            target,
            prefix: "{auditcast}".to_owned(),
            lease_ttl: LEASE,
            alerts_retention: Duration::from_secs(90 * 86_400),
            alerts_max: 1_000_000,
            dead_letters_max: 10_000,
            commits_max: 100_000,
            intake_max: 1_000_000,
        })
        .await
        .expect("the store opens")
    }
}

/// Slots of 100 ms; one source over streams. What `text` says comes on top.
pub fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).expect("a file is written");
    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let env = BTreeMap::from([
        set("AUDITCAST__MONITOR__INTERVAL", "100ms"),
        set("AUDITCAST__MONITOR__SNAPSHOT_INTERVAL", "1s"),
        set("AUDITCAST__MONITOR__MAX_SOURCE_LAG", "1s"),
    ]);
    Config::load(Sources { path: Some(path), env, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"))
}

/// One source named `app`.
pub fn streams(names: &str, start: &str) -> Config {
    config(&format!("[[source]]\nname = \"app\"\nkind = \"stream\"\nstreams = {names}\nstart = \"{start}\"\n"))
}

/// A node that runs.
pub struct Node {
    pub store: Store,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub role: watch::Receiver<Role>,
    stop: CancellationToken,
    monitor: JoinHandle<Result<(), MonitorError>>,
    others: Vec<JoinHandle<()>>,
    /// The store is this node's own.
    own: bool,
}

/// So seldom that a test that wants no snapshot sees none.
pub const NEVER: Duration = Duration::from_secs(3600);

pub async fn start(engine: &Engine, config: &Config, name: &str, checkpoint_interval: Duration) -> Node {
    Node { own: true, ..start_on(engine.open().await, config, name, checkpoint_interval) }
}

/// A node that shares a store with others.
pub fn start_on(store: Store, config: &Config, name: &str, checkpoint_interval: Duration) -> Node {
    let hub = Hub::new(hub::Options { ring: 10_000, events_ring: 100 });
    let names: Vec<String> = config.sources.iter().map(|s| s.name.clone()).collect();
    let metrics = Metrics::new(&names, &rules(config), "0", "r", "h");
    let (role, roles) = watch::channel(Role::Starting);
    let (_, settings) = watch::channel(Arc::new(settings(config)));
    let stop = CancellationToken::new();
    let options = auditcast::monitor::Options { checkpoint_interval, lease_ttl: LEASE, ..config.monitor.clone() };
    let monitor = Monitor {
        store: store.clone(),
        hub: hub.clone(),
        metrics: metrics.clone(),
        health: metrics.health.clone(),
        node: name.to_owned(),
        options,
        settings,
        role,
        stop: stop.clone(),
    };
    let monitor = tokio::spawn(monitor.run());
    let mut others = Vec::new();
    {
        let (hub, store, stop) = (hub.clone(), store.clone(), stop.clone());
        others.push(tokio::spawn(async move { hub.follow(store, stop).await }));
    }
    for source in &config.sources {
        if !matches!(source.kind, source::Kind::Stream { .. } | source::Kind::Http) {
            others.push(tokio::spawn(source::bridge(source.clone(), store.clone(), stop.clone())));
        }
    }
    Node { store, hub, metrics, role: roles, stop, monitor, others, own: false }
}

impl Node {
    /// As SIGKILL ends it: between two awaits, with nothing said.
    pub async fn kill(self) {
        self.monitor.abort();
        self.others.iter().for_each(JoinHandle::abort);
        for task in self.others {
            let _ = task.await;
        }
        let _ = self.monitor.await;
        if self.own {
            self.store.close().await;
        }
    }

    /// As SIGTERM ends it.
    pub async fn stop(self) {
        self.stop.cancel();
        self.monitor.await.expect("the monitor does not panic").expect("the monitor ends well");
        for task in self.others {
            task.await.expect("a task does not panic");
        }
        if self.own {
            self.store.close().await;
        }
    }

    pub async fn leads(&mut self) {
        let leads = self.role.wait_for(|role| *role == Role::Leading);
        tokio::time::timeout(PATIENCE, leads).await.expect("the node leads").expect("the monitor runs");
        // From its first commit on it has looked at everything.
        let before = self.store.recover().await.expect("the state is read").commit;
        until("a commit", async || self.store.recover().await.is_ok_and(|r| r.commit > before)).await;
        let ready = || self.metrics.health.ready(&["source"]);
        until(&format!("ready, it is {:?}", ready()), async || ready().ready).await;
    }

    pub async fn follows(&mut self) {
        let follows = self.role.wait_for(|role| *role == Role::Following);
        tokio::time::timeout(PATIENCE, follows).await.expect("the node follows").expect("the monitor runs");
    }

    pub fn series(&self, name: &str) -> Option<String> {
        let text = self.metrics.render();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
    }

    /// Until a series has this value.
    pub async fn shows(&self, series: &str, value: &str) {
        until(&format!("{series} {value}, it is {:?}", self.series(series)), async || {
            self.series(series).as_deref() == Some(value)
        })
        .await;
    }

    /// Until the commit log says that everything in these streams has been taken in.
    pub async fn has_taken(&self, streams: &[&str]) {
        taken(&self.store, streams).await;
    }
}

pub async fn taken(store: &Store, streams: &[&str]) {
    for stream in streams {
        until(&format!("{stream} is taken in"), async || {
            let Ok(Ok(Some(info))) = store.stream_info(stream).await else { return false };
            let Ok(recovered) = store.recover().await else { return false };
            recovered.done.get(*stream).is_some_and(|done| *done >= info.last_generated)
        })
        .await;
    }
    let now = store.now_ms().await.expect("the clock");
    until("the slot's end", async || store.recover().await.is_ok_and(|r| r.slot >= now)).await;
}

/// Polls until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The alert log as it is: every body, in order.
pub async fn log(store: &Store) -> Vec<Value> {
    let mut bodies = Vec::new();
    let mut after = 0;
    loop {
        let page = store.log_read(after, 1000).await.expect("the alert log is read");
        let Some(last) = page.last() else { return bodies };
        after = last.seq;
        bodies.extend(page.iter().map(|e| serde_json::from_str::<Value>(&e.body).expect("a body is JSON")));
    }
}

pub fn text<'a>(alert: &'a Value, member: &str) -> &'a str {
    alert.pointer(member).and_then(Value::as_str).unwrap_or("")
}

/// (event type, status, user) of every alert.
pub async fn told(store: &Store) -> Vec<(String, String, String)> {
    let part = |a: &Value, member| text(a, member).to_owned();
    log(store).await.iter().map(|a| (part(a, "/event_type"), part(a, "/status"), part(a, "/user_id"))).collect()
}

/// The users of the event alerts that fired, in the log's order.
pub async fn users(store: &Store) -> Vec<String> {
    let fired = |a: &&Value| text(a, "/kind") == "event" && text(a, "/status") == "firing";
    log(store).await.iter().filter(fired).map(|a| text(a, "/user_id").to_owned()).collect()
}

/// The `audit_gap`s: (reason, stream, status, missed).
pub async fn gaps(store: &Store) -> Vec<(String, String, String, Option<u64>)> {
    let all = log(store).await;
    let gaps = all.iter().filter(|a| text(a, "/rule") == "audit_gap");
    gaps.map(|a| {
        (
            text(a, "/details/reason").to_owned(),
            text(a, "/details/stream").to_owned(),
            text(a, "/status").to_owned(),
            a.pointer("/details/missed").and_then(Value::as_u64),
        )
    })
    .collect()
}

pub fn fields(event_type: &str, user: &str) -> Vec<(String, String)> {
    [("event_type", event_type), ("user_id", user), ("session_id", user)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

pub fn high(user: usize) -> Vec<(String, String)> {
    fields("security.injection_attempt", &user.to_string())
}

pub async fn append(store: &Store, stream: &str, entries: &[Vec<(String, String)>]) -> Vec<EntryId> {
    store.append(stream, entries).await.expect("entries are appended")
}

/// One entry with an id of the caller's own.
pub fn add_with_id(server: &RedisServer, stream: &str, id: &str, fields: &[(String, String)]) {
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg(id);
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command.query::<String>(&mut server.client()).expect("an entry is added");
}

/// What the newest snapshot holds: the streams with their positions, and the state machine.
pub struct Written {
    pub commit: u64,
    pub streams: Vec<(String, String, Option<u64>)>,
    pub detector: Value,
    pub totals: auditcast::detect::Totals,
    pub values: auditcast::detect::Metrics,
}

/// The newest snapshot, as a node that ends well leaves it.
pub async fn written(store: &Store, config: &Config) -> Written {
    let snapshots: Vec<Snapshot> = store.snapshots().await.expect("the snapshots are read");
    let newest = snapshots.first().expect("there is a snapshot");
    let line = newest.data.iter().position(|b| *b == b'\n').expect("a header");
    let header: Value = serde_json::from_slice(&newest.data[..line]).expect("the header is JSON");
    let state = &newest.data[line + 1..];
    let json = state.iter().position(|b| *b == b'\n').expect("a version");
    let detector = Detector::restore(Arc::new(config.detect.clone()), state).expect("the state machine is read");
    let streams = header["streams"]
        .as_array()
        .expect("streams")
        .iter()
        .map(|s| (s["key"].as_str().unwrap_or("").to_owned(), s["done"].to_string(), s["counted"].as_u64()));
    Written {
        commit: newest.commit,
        streams: streams.collect(),
        detector: serde_json::from_slice(&state[json + 1..]).expect("the state machine is JSON"),
        totals: detector.totals(),
        values: detector.metrics().clone(),
    }
}

/// For a file of lines.
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file is written");
}

/// A test per engine: `both!(scenario, scenario, …)`.
#[macro_export]
macro_rules! both {
    ($($scenario:ident),* $(,)?) => {
        mod redis_engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() { $crate::$scenario(&mut $crate::monitor_support::Engine::redis()).await })*
        }
        mod embedded_engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() { $crate::$scenario(&mut $crate::monitor_support::Engine::embedded()).await })*
        }
    };
}
