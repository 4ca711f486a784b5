//! `serve`: the daemon.

use std::{sync::Arc, time::Duration};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, Global, REVISION, logging, terminal};
use crate::{
    auth::journal::Entry,
    config::Config,
    monitor::Role,
    server::{self, Handle, Server, ServerError},
};

/// `ready` is printed when this node leads or follows, however long the store is away; after so long that is told once. What is
/// lacking stands in `/readyz`.
const READY_WAIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Args)]
pub struct Serve {}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Failure {
        match error {
            ServerError::Usage(text) => Failure::Usage(text),
            ServerError::Run(text) => Failure::Run(text),
        }
    }
}

/// Files that are open beside the clients' sockets: the store's, listeners, the runtime's.
const FILES_BESIDE: u64 = 256;

/// As many files as this process may have: shells give a part of it, for programs that count on few.
fn raise_files(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        // What is refused stays as it was, and is looked at below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let wanted = config.session.connections_max as u64 + FILES_BESIDE;
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < wanted) {
        let connections = config.session.connections_max;
        tracing::warn!(
            "limits.connections allows {connections}, and this process may open {files} files: raise LimitNOFILE (ulimit -n)"
        );
    }
}

pub async fn run(global: Global, _args: Serve) -> Result<(), Failure> {
    let config = global.load()?;
    let level = logging::start(&config.log);
    raise_files(&config);
    let shown = config.path.as_ref().map_or("built-in".to_owned(), |p| p.display().to_string());
    let server = Server::bind(config.clone(), REVISION).await?;
    terminal::line(&format!("config={shown}"));
    terminal::line(&format!("store={}", config.store_shown()));
    terminal::line(&format!("listening public={}", server.public_url()));
    terminal::line(&format!("listening ops={}", server.ops_url()));

    let stop = CancellationToken::new();
    let handle = server.handle();
    tokio::spawn(say_ready(handle.clone()));
    tokio::spawn(stop_on_signal(stop.clone())?);
    tokio::spawn(reload_on_signal(global, config, handle, level)?);
    Ok(server.run(stop).await?)
}

async fn say_ready(mut handle: Handle) {
    let started = handle.role.wait_for(|role| matches!(role, Role::Leading | Role::Following | Role::Stopped));
    tokio::pin!(started);
    let known = |role: Result<_, _>| role.ok().map(|role: tokio::sync::watch::Ref<'_, Role>| *role);
    let soon = tokio::time::timeout(READY_WAIT, &mut started).await.map(known);
    let role = match soon {
        Ok(role) => role,
        Err(_) => {
            tracing::warn!("the store cannot be used yet; `ready` follows when it can, /readyz says what is lacking");
            known(started.await)
        }
    };
    // A daemon that ended on its way was never ready.
    if matches!(role, Some(Role::Leading | Role::Following)) {
        terminal::line("ready");
    }
}

/// Ends the daemon in order at SIGTERM or Ctrl-C; a second signal ends it at once.
pub fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send, Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::run(format!("could not listen for signals: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                tracing::warn!("told twice to stop: stopping without waiting for anyone");
                std::process::exit(1);
            }
            stop.cancel();
        }
    })
}

/// Reads the configuration again at SIGHUP. A bad one changes nothing and says so; what needs a restart is named.
fn reload_on_signal(
    global: Global,
    mut config: Config,
    handle: Handle,
    level: logging::LogLevel,
) -> Result<impl Future<Output = ()> + Send, Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| Failure::run(format!("could not listen for signals: {e}")))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let read = global.load().and_then(|new| {
                let diff = Config::diff(&config, &new);
                let live = config.with_live(&new).map_err(Failure::from)?;
                let auth = live.auth().ok_or_else(|| Failure::usage("auth.secret is not set any more"))?;
                Ok((diff, live, auth))
            });
            match read {
                Ok((diff, live, auth)) => {
                    if !diff.restart.is_empty() {
                        tracing::warn!("these keys take effect at the next start: {}", diff.restart.join(", "));
                    }
                    for (threshold, metric) in &diff.waiting {
                        tracing::warn!(
                            "the metric {metric} is new and takes effect at the next start, and with it the threshold {threshold}"
                        );
                    }
                    let what =
                        if diff.live.is_empty() { "nothing that is applied at once".to_owned() } else { diff.live.join(", ") };
                    tracing::info!("the configuration was read again; changed: {what}");
                    level.set(&live.log.level);
                    handle.metrics.set_config(&server::rules(&live), &live.config_hash());
                    handle.auth.replace_options(auth);
                    handle.settings.send_replace(Arc::new(server::settings(&live)));
                    handle.auth.journal().note(Entry::config_reloaded(&diff.live));
                    let certificates = server::look_at_certificates(&handle.tls, true).await;
                    handle.metrics.config_reload_ok.set(if certificates { 1.0 } else { 0.0 });
                    config = live;
                }
                Err(failure) => {
                    handle.metrics.config_reload_ok.set(0.0);
                    handle.auth.journal().note(Entry::config_refused());
                    tracing::error!("the configuration in force is kept: {failure}");
                }
            }
        }
    })
}
