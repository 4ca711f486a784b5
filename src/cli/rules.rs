//! `rules list`, `rules show`: what is in force.

use clap::{Args, Subcommand};

use super::{Failure, Global, terminal};
use crate::config::Config;

#[derive(Clone, Debug, Args)]
pub struct Rules {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// All rules: whether they are on, how bad they are, what they are for
    List,
    /// One rule as it is in force, and where each of its keys comes from
    Show(Show),
}

#[derive(Clone, Debug, Args)]
pub struct Show {
    /// The rule's name
    #[arg(value_name = "NAME")]
    pub name: String,
}

pub fn run(global: &Global, args: &Rules) -> Result<(), Failure> {
    let config = global.load()?;
    let lines = match &args.action {
        Action::List => list(&config),
        Action::Show(show) => one(&config, &show.name)?,
    };
    for line in lines {
        if !terminal::line(&line) {
            break;
        }
    }
    Ok(())
}

/// Thresholds are rules too, to whoever asks what can alert.
fn list(config: &Config) -> Vec<String> {
    let on = |enabled: bool| if enabled { "on" } else { "off" };
    let thresholds = config.detect.thresholds.iter().map(|t| {
        let what = format!("{} of the metric {}", if t.message.is_some() { "The guide's" } else { "A" }, t.metric);
        (on(t.enabled), t.severity, "threshold", t.name.clone(), what)
    });
    let rules = config.detect.rules.iter().map(|rule| {
        let key = format!("rule.{}.description", rule.name);
        let text = config.settings().iter().find(|setting| setting.key == key).map(|setting| setting.shown.clone());
        let text = text.unwrap_or_default().trim_matches('"').to_owned();
        (on(rule.enabled), rule.severity, rule.kind.as_str(), rule.name.clone(), text)
    });
    let rows: Vec<_> = thresholds.chain(rules).collect();
    let width = rows.iter().map(|(_, _, _, name, _)| name.len()).max().unwrap_or(0);
    rows.into_iter()
        .map(|(on, severity, kind, name, text)| {
            let line = format!("{on:3}  {:8}  {kind:9}  {name:width$}  {text}", severity.as_str());
            terminal::plain(line.trim_end())
        })
        .collect()
}

fn one(config: &Config, name: &str) -> Result<Vec<String>, Failure> {
    let is = |section: &str| {
        let beginning = format!("{section}.{name}.");
        let settings = config.settings().iter().filter(move |setting| setting.key.starts_with(&beginning));
        let skip = section.len() + name.len() + 2;
        settings.map(move |s| (s.key[skip..].to_owned(), s.shown.clone(), s.origin.to_string())).collect::<Vec<_>>()
    };
    let (section, settings) = match (is("rule"), is("threshold")) {
        (rule, _) if !rule.is_empty() => ("rule", rule),
        (_, threshold) if !threshold.is_empty() => ("threshold", threshold),
        _ => {
            return Err(Failure::usage(format!(
                "there is no rule \"{}\"; `auditcast rules list` names them",
                terminal::plain(name)
            )));
        }
    };
    let width = settings.iter().map(|(key, shown, _)| key.len() + shown.len() + 3).filter(|w| *w <= 60).max().unwrap_or(0);
    let mut lines = vec![format!("[{section}.{}]", terminal::plain(name))];
    lines.extend(settings.into_iter().map(|(key, shown, origin)| {
        let value = terminal::plain(&format!("{key} = {shown}"));
        format!("{value:width$}  # {}", terminal::plain(&origin))
    }));
    Ok(lines)
}
