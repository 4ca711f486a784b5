//! The only wiring: bind → run → drain; owns the only `JoinSet`.
//!
//! [`Server::bind`] opens the store and takes the addresses, so that what cannot start says so at once. [`Server::run`] starts
//! every task and ends when it is told to stop, or when one of them ends by itself: a daemon that half works is worse than one
//! that restarts.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Auth, Journal, people::People},
    config::Config,
    event::{Classifier, Severity},
    http,
    hub::Hub,
    metrics::{Metrics, resident_bytes, unix_ms},
    monitor::{Monitor, Role, Settings},
    session, source,
    store::{self, Store, StoreError, Target},
};

/// How long the alert log may take to reach the hub once nothing is added to it any more.
const LAST_ALERTS: Duration = Duration::from_secs(2);
/// How often gauges that nobody sets are looked up.
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// How often certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);
const PUBLIC_TLS: &str = "listen.public_tls";
const OPS_TLS: &str = "listen.ops_tls";

/// Why a server cannot start, or did not end well.
#[derive(Debug)]
pub enum ServerError {
    /// The configuration does not go with what is there: exit 2.
    Usage(String),
    Run(String),
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerError::Usage(text) | ServerError::Run(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ServerError {}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> ServerError {
        match error {
            StoreError::Format(text) => ServerError::Usage(text),
            other => ServerError::Run(other.to_string()),
        }
    }
}

/// TLS of a listener that has any.
type Certificates = Option<Arc<http::Tls>>;

/// A task's name, and how it ended.
type Ended = (&'static str, Result<(), String>);

/// Everything that is bound and not yet running.
pub struct Server {
    config: Config,
    /// Where the embedded store lives, for its control socket.
    embedded: Option<(PathBuf, store::embedded::EmbeddedStore)>,
    store: Store,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    auth: Auth,
    node: String,
    public: TcpListener,
    ops: TcpListener,
    public_tls: Option<Arc<http::Tls>>,
    ops_tls: Option<Arc<http::Tls>>,
    settings: watch::Sender<Arc<Settings>>,
    role: watch::Sender<Role>,
}

/// What may be asked of a running server from outside its tasks.
#[derive(Clone)]
pub struct Handle {
    pub store: Store,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub auth: Auth,
    pub settings: watch::Sender<Arc<Settings>>,
    pub role: watch::Receiver<Role>,
    pub ops_addr: SocketAddr,
    /// TLS of the listeners, by the section that says so.
    pub tls: Vec<(&'static str, Arc<http::Tls>)>,
}

/// The part of a configuration that decides.
pub fn settings(config: &Config) -> Settings {
    Settings {
        detect: Arc::new(config.detect.clone()),
        event: config.event.clone(),
        sources: config.sources.clone(),
        fingerprint: config.fingerprint(),
        external_url: config.http.external_url.clone(),
    }
}

/// The rules of a configuration with their severities, for their series.
pub fn rules(config: &Config) -> Vec<(String, Severity)> {
    let thresholds = config.detect.thresholds.iter().filter(|t| t.enabled).map(|t| (t.name.clone(), t.severity));
    let rules = config.detect.rules.iter().filter(|r| r.enabled).map(|r| (r.name.clone(), r.severity));
    thresholds.chain(rules).collect()
}

impl Server {
    /// Opens the store and takes the addresses.
    ///
    /// # Errors
    ///
    /// No secret, an address that is taken, an embedded store in use: one sentence each.
    pub async fn bind(config: Config, revision: &str) -> Result<Server, ServerError> {
        let auth_options = config.auth().ok_or_else(|| {
            ServerError::Usage(
                "there is no secret to check tokens with; make one with: export JWT_SECRET_KEY=\"$(openssl rand -base64 48)\""
                    .to_owned(),
            )
        })?;
        let store = Store::open(config.store.clone()).await?;
        let embedded = match (&store, &config.store.target) {
            (Store::Embedded(store), Target::Embedded(dir)) => Some((dir.clone(), store.clone())),
            _ => None,
        };
        let (public_tls, ops_tls) = open_tls(&config)?;
        for (name, address, tls) in
            [("listen.public", config.public, public_tls.is_some()), ("listen.ops", config.ops, ops_tls.is_some())]
        {
            if !tls && !address.ip().is_loopback() {
                tracing::warn!(
                    "{name} ({address}) can be reached from elsewhere without TLS: set {name}_tls, or let only a proxy with TLS reach it"
                );
            }
        }
        let public = listen(config.public, "listen.public").await?;
        let ops = listen(config.ops, "listen.ops").await?;
        let names: Vec<String> = config.sources.iter().map(|s| s.name.clone()).collect();
        let metrics = Metrics::new(&names, &rules(&config), env!("CARGO_PKG_VERSION"), revision, &config.config_hash());
        let hub = Hub::new(config.hub.clone());
        let journal = Journal::new(config.journal.clone(), unix_ms);
        let auth = Auth::new(auth_options, store.clone()).with_journal(journal);
        let (settings, _) = watch::channel(Arc::new(settings(&config)));
        let (role, _) = watch::channel(Role::Starting);
        let node = node_name();
        Ok(Server { config, embedded, store, hub, metrics, auth, node, public, ops, public_tls, ops_tls, settings, role })
    }

    /// Where the public listener is.
    pub fn public_addr(&self) -> SocketAddr {
        self.public.local_addr().unwrap_or(self.config.public)
    }

    /// Where `/metrics` and the probes are.
    pub fn ops_addr(&self) -> SocketAddr {
        self.ops.local_addr().unwrap_or(self.config.ops)
    }

    /// What people type: `https://127.0.0.1:8787`.
    pub fn public_url(&self) -> String {
        url(self.public_tls.is_some(), self.public_addr())
    }

    pub fn ops_url(&self) -> String {
        url(self.ops_tls.is_some(), self.ops_addr())
    }

    pub fn handle(&self) -> Handle {
        Handle {
            store: self.store.clone(),
            hub: self.hub.clone(),
            metrics: self.metrics.clone(),
            auth: self.auth.clone(),
            settings: self.settings.clone(),
            role: self.role.subscribe(),
            ops_addr: self.ops_addr(),
            tls: self.tls(),
        }
    }

    fn tls(&self) -> Vec<(&'static str, Arc<http::Tls>)> {
        let both = [(PUBLIC_TLS, &self.public_tls), (OPS_TLS, &self.ops_tls)];
        both.into_iter().filter_map(|(name, tls)| Some((name, tls.clone()?))).collect()
    }

    /// Runs until `stop`, then drains in the order that loses nothing: readers and the monitor first, which commit and give the
    /// lease back; then clients, who are told when to come back; listeners and the store last.
    ///
    /// # Errors
    ///
    /// A task that ended by itself, or that did not end within `shutdown_grace`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServerError> {
        let tls = self.tls();
        let Server { config, embedded, store, hub, metrics, auth, node, public, ops, public_tls, ops_tls, settings, role } = self;
        let health = metrics.health.clone();
        let ctx = session::Context::new(
            hub.clone(),
            store.clone(),
            auth.clone(),
            metrics.clone(),
            config.session.clone(),
            node.clone(),
        );
        let classifier = Classifier::new(config.event.clone()).map_err(|e| ServerError::Usage(e.to_string()))?;
        let state = http::State::new(
            config.http.clone(),
            ctx.clone(),
            store.clone(),
            hub.clone(),
            auth.clone(),
            classifier,
            People::new(config.sign_in.clone(), store.clone(), auth.clone()),
        );

        let journal = auth.journal().clone();

        // Two stages: what takes in, then what gives out.
        let (intake, outlet) = (CancellationToken::new(), CancellationToken::new());
        let sockets = TaskTracker::new();
        let mut tasks: JoinSet<Ended> = JoinSet::new();
        let mut spawn = |name: &'static str, task: std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>| {
            tasks.spawn(async move { (name, task.await) });
        };

        let monitor = Monitor {
            store: store.clone(),
            hub: hub.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
            node,
            options: config.monitor.clone(),
            settings: settings.subscribe(),
            role: role.clone(),
            stop: intake.clone(),
        };
        spawn("the monitor", Box::pin(async move { monitor.run().await.map_err(|e| e.to_string()) }));
        {
            let (hub, store, outlet) = (hub.clone(), store.clone(), outlet.clone());
            spawn(
                "the hub",
                Box::pin(async move {
                    hub.follow(store, outlet).await;
                    Ok(())
                }),
            );
        }
        {
            let (ctx, outlet) = (ctx.clone(), outlet.clone());
            spawn(
                "the sweep",
                Box::pin(async move {
                    outlet.run_until_cancelled(session::sweep(ctx)).await;
                    Ok(())
                }),
            );
        }
        {
            let (ctx, outlet) = (ctx.clone(), outlet.clone());
            spawn(
                "the watch over standing",
                Box::pin(async move {
                    outlet.run_until_cancelled(session::standing(ctx)).await;
                    Ok(())
                }),
            );
        }
        {
            let (auth, outlet) = (auth.clone(), outlet.clone());
            spawn(
                "the keys",
                Box::pin(async move {
                    outlet.run_until_cancelled(auth.keep_keys()).await;
                    Ok(())
                }),
            );
        }
        {
            let (sources, store, role, stop) = (config.sources.clone(), store.clone(), role.subscribe(), intake.clone());
            spawn("the bridges", Box::pin(bridges(sources, store, role, stop)));
        }
        {
            let (journal, store, outlet) = (journal.clone(), store.clone(), outlet.clone());
            spawn(
                "the journal",
                Box::pin(async move {
                    journal.run(store, outlet).await;
                    Ok(())
                }),
            );
        }
        if let Some((_, embedded)) = &embedded {
            let (embedded, outlet) = (embedded.clone(), outlet.clone());
            spawn(
                "the control socket",
                Box::pin(async move { store::embedded::control::serve(embedded, outlet).await.map_err(|e| e.to_string()) }),
            );
        }
        for (name, listener, edge, router) in [
            ("the public listener", public, config.http.edge(public_tls), http::public(state.clone())),
            ("the ops listener", ops, config.http.ops_edge(ops_tls), http::ops(state.clone())),
        ] {
            // The listener for operations answers to the end: `/readyz` must be able to say that the daemon drains.
            let stop = if name == "the ops listener" { outlet.clone() } else { intake.clone() };
            let (metrics, sockets) = (metrics.clone(), sockets.clone());
            spawn(
                name,
                Box::pin(async move {
                    http::serve(listener, router, edge, metrics, stop, sockets).await;
                    Ok(())
                }),
            );
        }
        if !tls.is_empty() {
            let outlet = outlet.clone();
            spawn(
                "the certificates",
                Box::pin(async move {
                    while outlet.run_until_cancelled(sleep(CERTIFICATES_EVERY)).await.is_some() {
                        look_at_certificates(&tls, false).await;
                    }
                    Ok(())
                }),
            );
        }
        {
            let (state, outlet) = (state.clone(), outlet.clone());
            spawn(
                "the limits",
                Box::pin(async move {
                    outlet.run_until_cancelled(state.tell_limits()).await;
                    Ok(())
                }),
            );
        }
        {
            let (metrics, store, hub, outlet) = (metrics.clone(), store.clone(), hub.clone(), outlet.clone());
            let journal = journal.clone();
            let memory_bytes_max = config.memory_bytes_max;
            spawn(
                "the gauges",
                Box::pin(async move {
                    let mut full = false;
                    while outlet.run_until_cancelled(sleep(GAUGES_EVERY)).await.is_some() {
                        metrics.set_store_reconnects(store.reconnects());
                        let noted = journal.counts();
                        metrics.journal.set("written", noted.written);
                        metrics.journal.set("merged", noted.merged);
                        metrics.journal.set("summarised", noted.summarised);
                        metrics.journal.set("dropped", noted.dropped);
                        let resident = resident_bytes().unwrap_or(0);
                        if full != (resident > memory_bytes_max) {
                            full = !full;
                            hub.set_memory_full(full);
                            let refused = if full { "new connections are refused" } else { "new connections are taken again" };
                            tracing::warn!(resident, limit = memory_bytes_max, "limits.memory: {refused}");
                        }
                    }
                    Ok(())
                }),
            );
        }

        let mut outcome = Ok(());
        tokio::select! {
            () = stop.cancelled() => {}
            ended = tasks.join_next() => outcome = Err(early(ended)),
        }

        let begun = Instant::now();
        let grace = config.shutdown_grace;
        health.set("drain", false, "the daemon is stopping", unix_ms());
        tracing::info!("stopping");
        intake.cancel();
        // The monitor's last commit is the head that every client may see.
        while *role.borrow() != Role::Stopped && begun.elapsed() < grace / 2 && outcome.is_ok() {
            match timeout(Duration::from_millis(50), tasks.join_next()).await {
                Ok(Some(Ok((name, Err(why))))) => outcome = Err(ServerError::Run(format!("{name} failed: {why}"))),
                Ok(Some(Err(error))) => outcome = Err(ServerError::Run(format!("a task ended badly: {error}"))),
                Ok(None) => break,
                Ok(Some(Ok(_))) | Err(_) => {}
            }
        }
        if outcome.is_ok()
            && let Ok(Ok(bounds)) = timeout(LAST_ALERTS, store.log_bounds()).await
        {
            let waiting = Instant::now();
            while hub.head() < bounds.head && waiting.elapsed() < LAST_ALERTS {
                sleep(Duration::from_millis(10)).await;
            }
        }
        hub.start_drain(config.session.drain_window);
        ctx.tasks.close();
        sockets.close();
        let left = grace.saturating_sub(begun.elapsed()).max(Duration::from_millis(500));
        let clients = timeout(left, ctx.tasks.wait()).await;
        outlet.cancel();
        let _ = timeout(Duration::from_secs(1), sockets.wait()).await;
        if clients.is_err() {
            tracing::warn!("{} clients did not end within {} s", ctx.tasks.len(), grace.as_secs());
        }
        let left = grace.saturating_sub(begun.elapsed()).max(Duration::from_millis(500));
        let rest = timeout(left, async {
            while let Some(ended) = tasks.join_next().await {
                match ended {
                    Ok((name, Err(why))) if outcome.is_ok() => {
                        outcome = Err(ServerError::Run(format!("{name} failed: {why}")));
                    }
                    Err(error) if outcome.is_ok() => {
                        outcome = Err(ServerError::Run(format!("a task ended badly: {error}")));
                    }
                    _ => {}
                }
            }
        });
        if rest.await.is_err() {
            tracing::warn!("some tasks did not end within {} s and are dropped", grace.as_secs());
            tasks.shutdown().await;
        }
        store.close().await;
        tracing::info!("stopped after {:.1} s", begun.elapsed().as_secs_f64());
        outcome
    }
}

fn url(tls: bool, address: SocketAddr) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// TLS of the public listener and of the one for operations, where they have any: their files are read, and held to be good.
///
/// # Errors
///
/// Which section, which file, what is wrong with it.
pub fn open_tls(config: &Config) -> Result<(Certificates, Certificates), ServerError> {
    let open = |options: &Option<http::TlsOptions>, name: &str| {
        let opened = options.clone().map(http::Tls::open).transpose();
        opened.map(|tls| tls.map(Arc::new)).map_err(|text| ServerError::Usage(format!("{name}: {text}")))
    };
    Ok((open(&config.public_tls, PUBLIC_TLS)?, open(&config.ops_tls, OPS_TLS)?))
}

/// Takes certificates that have changed; `asked`: a bad one is told of, also where that has been said already. Whether all are good.
pub async fn look_at_certificates(tls: &[(&'static str, Arc<http::Tls>)], asked: bool) -> bool {
    let mut good = true;
    for (name, tls) in tls {
        let tls = tls.clone();
        // Fails only where the runtime is going down.
        let Ok(look) = tokio::task::spawn_blocking(move || tls.look(asked)).await else { continue };
        match look {
            http::Look::Same => {}
            http::Look::New => tracing::info!("{name}: new connections get the certificate that was read just now"),
            http::Look::Bad(text) => {
                good = false;
                tracing::error!("{name}: the certificate in use is kept: {text}");
            }
        }
    }
    good
}

/// A task that should have gone on for ever has ended.
fn early(ended: Option<Result<Ended, tokio::task::JoinError>>) -> ServerError {
    ServerError::Run(match ended {
        Some(Ok((name, Err(why)))) => format!("{name} failed: {why}"),
        Some(Ok((name, Ok(())))) => format!("{name} ended by itself"),
        Some(Err(error)) => format!("a task ended badly: {error}"),
        None => "there is nothing to run".to_owned(),
    })
}

/// Runs the bridges while this node leads.
async fn bridges(
    sources: Vec<source::Options>,
    store: Store,
    mut role: watch::Receiver<Role>,
    stop: CancellationToken,
) -> Result<(), String> {
    let bridged = |kind: &source::Kind| !matches!(kind, source::Kind::Stream { .. } | source::Kind::Http | source::Kind::Journal);
    let sources: Vec<_> = sources.into_iter().filter(|s| bridged(&s.kind)).collect();
    loop {
        match stop.run_until_cancelled(role.wait_for(|role| *role == Role::Leading)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Ok(()),
        }
        // Not a child of `stop`: a bridge that ends because of it must not look like one that ended by itself.
        let term = CancellationToken::new();
        let mut running = JoinSet::new();
        for source in &sources {
            running.spawn(source::bridge(source.clone(), store.clone(), term.clone()));
        }
        let early = tokio::select! {
            _ = role.wait_for(|role| *role != Role::Leading) => None,
            () = stop.cancelled() => None,
            // A bridge never ends by itself.
            ended = running.join_next(), if !running.is_empty() => ended,
        };
        term.cancel();
        if let Some(ended) = early {
            return Err(ended.err().map_or_else(|| "a bridge ended by itself".to_owned(), |error| error.to_string()));
        }
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                return Err(error.to_string());
            }
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

async fn listen(address: SocketAddr, key: &str) -> Result<TcpListener, ServerError> {
    let bind = || -> io::Result<TcpListener> {
        let domain = if address.is_ipv6() { socket2::Domain::IPV6 } else { socket2::Domain::IPV4 };
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for connections of the process before.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|e| {
        let remedy = listen_remedy(&e);
        let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
        ServerError::Run(format!("could not listen on {address} ({key}): {e}{remedy}"))
    })
}

/// What to do about an address that cannot be taken; empty where the error itself says all.
pub fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process has this port: end that one, or take another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need the right CAP_NET_BIND_SERVICE: grant it, or take another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: take one that it has",
        _ => "",
    }
}

/// Host, process and chance: two daemons never share one, also not on one host or after a restart.
fn node_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
    let mut chance = [0_u8; 4];
    // Without chance the process number alone tells nodes of one host apart.
    let _ = getrandom::fill(&mut chance);
    let chance: String = chance.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{chance}", if host.is_empty() { "node" } else { &host }, std::process::id())
}
