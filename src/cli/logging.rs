//! auditcast's own log: stderr, text or JSON, one line an event.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Registry, filter::FilterFn, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::Log;

/// Changes the level of a running log (`SIGHUP`).
pub struct LogLevel {
    /// `None` where `RUST_LOG` decides.
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl LogLevel {
    /// Whether the level is in force: not where `RUST_LOG` wins.
    pub fn set(&self, level: &str) -> bool {
        self.handle.as_ref().is_some_and(|handle| handle.reload(filter(level)).is_ok())
    }
}

/// Libraries stay at `info`: below it they would log what they read, and with it tokens.
fn filter(level: &str) -> EnvFilter {
    match level {
        "debug" | "trace" => EnvFilter::new(format!("info,auditcast={level}")),
        _ => EnvFilter::new(level),
    }
}

/// The same for `RUST_LOG`, whatever it asks for: tungstenite's TRACE has every frame in it.
fn libraries(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || metadata.target().split("::").next() == Some("auditcast")
}

/// Starts the log of this process; a second call changes nothing. `RUST_LOG` wins over `log.level`.
pub fn start(log: &Log) -> LogLevel {
    let from_env = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).and_then(|text| text.parse::<EnvFilter>().ok());
    let fixed = from_env.is_some();
    let (filter, handle) = reload::Layer::new(from_env.unwrap_or_else(|| filter(&log.level)));
    let capped = fixed.then(|| FilterFn::new(libraries as fn(&Metadata<'_>) -> bool));
    let registry = tracing_subscriber::registry().with(filter).with(capped);
    let started = if log.json {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
        registry.with(layer).try_init()
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let layer = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
        registry.with(layer).try_init()
    };
    LogLevel { handle: (!fixed && started.is_ok()).then_some(handle) }
}
