//! `demo`: the whole product on a fresh machine, in one process.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Failure, Global, REVISION, logging, serve, terminal};
use crate::{
    auth::Claims,
    config::{Config, Log, Sources},
    detect::Status,
    metrics::unix_ms,
    server::{Handle, Server},
    store::Store,
    wire,
};

mod app;

/// The stream that the simulated application writes.
const STREAM: &str = "audit:events";
/// The same in a Redis that may have an application's own.
const STREAM_IN_REDIS: &str = "auditcast-demo:events";
const DEFAULT_RATE: u32 = 20;
/// How long the admin token of a demo is good for.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

#[derive(Clone, Debug, Default, Args)]
pub struct Demo {
    /// Use this Redis instead of the embedded store
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Port of the page [default: a free one]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Audit events a second of the simulated application [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: Option<u32>,
}

/// A directory that goes with the demo.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // The store makes it; a demo that ended before that has none.
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("could not remove {}: {error}", self.0.display());
        }
    }
}

pub async fn run(global: Global, args: Demo) -> Result<(), Failure> {
    logging::start(&Log { level: "warn".to_owned(), json: matches!(global.log, Some(super::LogFormat::Json)) });
    let mut chance = [0_u8; 32];
    getrandom::fill(&mut chance).map_err(|_| Failure::run("the system gives no random bytes"))?;
    let secret: String = chance.iter().map(|b| format!("{b:02x}")).collect();
    let scratch = Scratch(std::env::temp_dir().join(format!("auditcast-demo-{}", std::process::id())));
    let config = config(&args, &scratch, &secret)?;
    let server = Server::bind(config, REVISION).await?;
    let handle = server.handle();
    if args.redis.is_some() {
        // The daemon would wait for it; nobody who wants to see something does.
        handle.store.prepare().await.map_err(|error| Failure::run(format!("the demo cannot use its store: {error}")))?;
    }
    let page = format!("http://{}", server.public_addr());
    let token = handle
        .auth
        .issue(&Claims {
            user_id: "demo-admin".to_owned(),
            username: Some("demo".to_owned()),
            role: Some("ADMIN".to_owned()),
            permissions: Vec::new(),
            ttl: TOKEN_TTL,
            now_ms: unix_ms(),
            sight: None,
            jti: None,
        })
        .map_err(|e| Failure::run(format!("could not issue a token: {e}")))?;

    let stop = CancellationToken::new();
    tokio::spawn(serve::stop_on_signal(stop.clone())?);
    let running = tokio::spawn(server.run(stop.clone()));
    terminal::line(&format!("page   {page}/#token={token}"));
    terminal::line(&format!("token  {token}"));
    terminal::line(&format!("metrics http://{}/metrics", handle.ops_addr));
    terminal::line(
        "A simulated application of 120 users writes its audit trail; the first attack begins in 5 s. Ctrl-C ends it.",
    );
    terminal::line("An hour of the demo is half a minute, so that alerts resolve while one watches.");
    let stream = if args.redis.is_some() { STREAM_IN_REDIS } else { STREAM };
    let writer = tokio::spawn(write(handle.store.clone(), stream, args.rate.unwrap_or(DEFAULT_RATE), stop.clone()));
    let teller = tokio::spawn(tell(handle, stop.clone()));
    let ended = running.await.map_err(|e| Failure::run(format!("the daemon ended badly: {e}")))?;
    stop.cancel();
    let _ = tokio::join!(writer, teller);
    drop(scratch);
    Ok(ended?)
}

/// The daemon as it is, but for time: an hour is half a minute, so that alerts resolve while one watches.
fn config(args: &Demo, scratch: &Scratch, secret: &str) -> Result<Config, Failure> {
    let port = args.port.unwrap_or(0);
    let store = args.redis.clone().unwrap_or_else(|| format!("embedded:{}", scratch.0.display()));
    let mut overrides = Vec::new();
    let mut set = |key: &str, value: &str| overrides.push((key.to_owned(), value.to_owned(), "demo".to_owned()));
    set("store.url", &store);
    if args.redis.is_some() {
        // Nothing of an application that lives there is touched.
        set("store.prefix", "{auditcast-demo}");
        set("source.audit.streams", &format!("[\"{STREAM_IN_REDIS}\"]"));
    }
    set("listen.public", &format!("127.0.0.1:{port}"));
    set("listen.ops", "127.0.0.1:0");
    set("monitor.interval", "1s");
    set("monitor.snapshot_interval", "5s");
    set("monitor.event_alert_ttl", "40s");
    for metric in [
        "failed_logins_last_hour",
        "rate_limit_violations",
        "permission_violations",
        "suspicious_activities",
        "session_timeouts",
        "auth_success_ratio",
        "error_ratio",
        "operation_p95_seconds",
        "events_by_severity",
        "events_by_category",
    ] {
        set(&format!("metrics.{metric}.window"), "30s");
    }
    for threshold in ["high_failed_login_rate", "high_rate_limit_violations"] {
        set(&format!("threshold.{threshold}.keep_firing_for"), "5s");
    }
    let env = std::collections::BTreeMap::from([("JWT_SECRET_KEY".to_owned(), secret.to_owned())]);
    Ok(Config::load(Sources { path: None, env, env_file: None, overrides })?)
}

/// The simulated application.
async fn write(store: Store, stream: &'static str, rate: u32, stop: CancellationToken) {
    let mut application = app::Application::new(unix_ms(), rate);
    let begun = Instant::now();
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let events = application.live(begun.elapsed());
        if events.is_empty() {
            continue;
        }
        match store.append(stream, &events).await {
            Ok(_) => told = false,
            // Once per outage; what happens meanwhile is lost, as with an application that does not wait.
            Err(error) if !told && !stop.is_cancelled() => {
                told = true;
                tracing::warn!("the simulated application cannot write its audit trail: {error}");
            }
            Err(_) => {}
        }
    }
}

/// A line per alert, as they are told to everyone.
async fn tell(handle: Handle, stop: CancellationToken) {
    let mut cursor = handle.hub.cursor_at_head();
    let mut waiter = handle.hub.waiter();
    loop {
        let mut lines = Vec::new();
        let read = handle.hub.read(&mut cursor, 64, |frame, _| {
            if let Some(alert) = wire::alert_from_body(frame.frame.as_str()) {
                let status = match alert.status {
                    Status::Firing => "FIRING  ",
                    Status::Resolved => "resolved",
                };
                // What is resolved keeps the time of what it was about; when it ended is what is new.
                let time = match alert.status {
                    Status::Firing => alert.timestamp_ms,
                    Status::Resolved => alert.received_at_ms,
                };
                lines.push(format!(
                    "{}  {status}  {:8}  {}",
                    wire::rfc3339(time),
                    alert.severity.as_str(),
                    terminal::plain(&alert.message)
                ));
            }
            true
        });
        for line in lines {
            terminal::line(&line);
        }
        if matches!(read, crate::hub::Read::Head) && stop.run_until_cancelled(waiter.changed()).await.is_none() {
            return;
        }
    }
}
