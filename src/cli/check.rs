//! `check`: what is in force, where each value comes from, and everything that is wrong.

use clap::Args;

use super::{Failure, Global, terminal};
use crate::server;

#[derive(Clone, Debug, Default, Args)]
pub struct Check {}

pub fn run(global: &Global, _args: &Check) -> Result<(), Failure> {
    let config = global.load()?;
    server::open_tls(&config)?;
    let file = config.path.as_ref().map_or_else(|| "built-in".to_owned(), |path| path.display().to_string());
    let mut lines = vec![format!("config={}", terminal::plain(&file))];
    let width = config.settings().iter().map(|s| s.key.len() + s.shown.len() + 3).filter(|w| *w <= 60).max().unwrap_or(0);
    for setting in config.settings() {
        let value = terminal::plain(&format!("{} = {}", setting.key, setting.shown));
        lines.push(format!("{value:width$}  # {}", terminal::plain(&setting.origin.to_string())));
    }
    lines.push(format!("fingerprint={} hash={}", config.fingerprint(), config.config_hash()));
    let (tests, failed) = config.try_rules();
    if !failed.is_empty() {
        return Err(Failure::usage(failed.iter().map(|fault| fault.to_string()).collect::<Vec<_>>().join("\n")));
    }
    lines.push(format!("rule tests={tests} passed"));
    for line in lines {
        if !terminal::line(&line) {
            return Ok(());
        }
    }
    if config.secret().is_none() {
        eprintln!("auth.secret is not set: `serve` does not start without it, {}", super::token::HOW_TO_MAKE_A_SECRET);
    }
    if let Some(text) = super::tight_rate(&config) {
        eprintln!("{text}: pages will be refused with 429 now and then");
    }
    Ok(())
}
