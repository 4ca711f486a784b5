//! One file per command (contract §1).
//!
//! A command ends with a [`Failure`] that knows its exit code and is one sentence on stderr.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::LazyLock};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, Config, ConfigError};

mod ask;
pub mod check;
pub mod demo;
pub mod doctor;
pub mod emit;
pub mod health;
pub mod logging;
pub mod permission;
mod reach;
pub mod replay;
pub mod rules;
pub mod serve;
pub mod terminal;
mod tls;
pub mod token;
pub mod user;
pub mod watch;

pub use demo::Demo;
pub use serve::Serve;

/// The git revision this was built from; `unknown` outside a checkout.
pub const REVISION: &str = match option_env!("AUDITCAST_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

static VERSION: LazyLock<String> = LazyLock::new(|| format!("{} ({REVISION})", env!("CARGO_PKG_VERSION")));

/// Security audit streams in; metrics, alerts and pages out.
#[derive(Debug, Parser)]
#[command(name = "auditcast", version = VERSION.as_str(), subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Configuration file [default: $AUDITCAST_CONFIG, ./config.toml, /etc/auditcast/config.toml, built-in]
    #[arg(long, global = true, value_name = "PATH", display_order = 900)]
    pub config: Option<PathBuf>,
    /// File of environment variables (NAME=VALUE, values with $ in single quotes); the process's own win
    #[arg(long, global = true, value_name = "PATH", display_order = 901)]
    pub env_file: Option<PathBuf>,
    /// How auditcast's own log on stderr is written
    #[arg(long, global = true, value_name = "FORMAT", display_order = 902)]
    pub log: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(Serve),
    /// Show the whole product on this machine: a simulated application, attacks, alerts
    Demo(Demo),
    /// Validate the configuration; show what is in force and where each value comes from
    Check(check::Check),
    /// Show the rules in force
    Rules(rules::Rules),
    /// Take history through the same engine, offline; print the alerts it would raise, one a line
    Replay(replay::Replay),
    /// Append audit events to a configured stream
    Emit(emit::Emit),
    /// Follow alerts in the terminal
    Watch(watch::Watch),
    /// Issue, inspect and revoke tokens
    Token(token::Token),
    /// People who may sign in: add, passwd, disable, unlock, list, a second factor
    User(user::User),
    /// Grant, revoke and list what people may see
    Permission(permission::Permission),
    /// Check the store, streams, clock, secrets and listeners, and say what to do
    Doctor(doctor::Doctor),
    /// Ask a running daemon whether it is well: exit 0 or 1
    Health(health::Health),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration: exit 2.
    Usage(String),
    /// Failed at run time: exit 1.
    Run(String),
}

impl Failure {
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::Usage(text.into())
    }

    pub fn run(text: impl Into<String>) -> Failure {
        Failure::Run(text.into())
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Run(_) => 1,
        }
    }

    /// Empty where everything has been said already.
    pub fn text(&self) -> &str {
        match self {
            Failure::Usage(text) | Failure::Run(text) => text,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl Global {
    /// What [`Config::load`] reads: the file that is found, the process's variables, `--log`, and `overrides` (dotted key,
    /// value, flag).
    pub fn sources(&self, mut overrides: Vec<(String, String, String)>) -> config::Sources {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        if let Some(format) = self.log {
            let word = match format {
                LogFormat::Json => "json",
                LogFormat::Text => "text",
            };
            overrides.push(("log.format".to_owned(), word.to_owned(), "--log".to_owned()));
        }
        let path = config::find(self.config.clone(), &env);
        config::Sources { path, env, env_file: self.env_file.clone(), overrides }
    }

    pub fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(self.sources(Vec::new()))?)
    }
}

/// What wrong usage is told: the first line is a sentence that stands alone, behind it what clap adds.
pub fn usage_text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("error: a command is needed, one of those below\n\n{}", text.trim_end());
    }
    let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    // clap lists what is missing or in conflict below its sentence.
    let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
    if rest.is_empty() { first } else { format!("{first}\n\n{}", rest.trim_end()) }
}

/// Requests a minute that an open page makes at most by itself; with fewer it is refused now and then (429).
const PAGE_REQUESTS_A_MINUTE: f64 = 30.0;

/// What is wrong with a `RATE_LIMIT_GENERAL` that leaves no room beside the page.
fn tight_rate(config: &Config) -> Option<String> {
    let (rate, window) = (config.http.rates.general, config.http.rates.window);
    let a_minute = f64::from(rate) * 60.0 / window.as_secs_f64();
    (a_minute < 2.0 * PAGE_REQUESTS_A_MINUTE).then(|| {
        let window = humantime::format_duration(window);
        format!("RATE_LIMIT_GENERAL allows {rate} API requests in {window}, and the page alone needs about 30 a minute")
    })
}

/// Runs a command to its end.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(global, args).await,
        Command::Demo(args) => demo::run(global, args).await,
        Command::Check(args) => check::run(&global, &args),
        Command::Rules(args) => rules::run(&global, &args),
        Command::Replay(args) => replay::run(&global, &args),
        Command::Emit(args) => emit::run(&global, args).await,
        Command::Watch(args) => watch::run(&global, args).await,
        Command::Token(args) => token::run(&global, args).await,
        Command::User(args) => user::run(&global, args).await,
        Command::Permission(args) => permission::run(&global, args).await,
        Command::Doctor(args) => doctor::run(&global, &args).await,
        Command::Health(args) => health::run(&global, &args).await,
    }
}

/// A duration as arguments take it.
fn duration_arg(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 1h".to_owned())
}
