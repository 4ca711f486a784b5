//! What is wrong with a configuration, and where it stands.

use std::{fmt, sync::Arc};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The compiled-in `config.toml`; its line.
    Default { line: usize },
    /// The user's file.
    File { path: Arc<str>, line: usize },
    /// A variable of the file given by `--env-file`.
    EnvFile { path: Arc<str>, name: String },
    /// A variable of the process.
    Environment { name: String },
    /// A flag of the command line.
    Flag { flag: String },
}

impl Origin {
    pub(super) fn is_default(&self) -> bool {
        matches!(self, Origin::Default { .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default { line: 0 } => f.write_str("default"),
            Origin::Default { line } => write!(f, "default (line {line})"),
            Origin::File { path, line: 0 } => f.write_str(path),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::EnvFile { path, name } => write!(f, "{path} {name}"),
            Origin::Environment { name } => write!(f, "environment {name}"),
            Origin::Flag { flag } => write!(f, "command line {flag}"),
        }
    }
}

/// One thing that is wrong: `config.toml:12: monitor.interval: expected a duration of at least 100ms, found "50ms"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub origin: Origin,
    /// Dotted; `None` where the fault is not about one key, or the variable names it already.
    pub key: Option<String>,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.origin, self.text),
            None => write!(f, "{}: {}", self.origin, self.text),
        }
    }
}

/// Everything that was found wrong; never empty, and without a secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub faults: Vec<Fault>,
}

impl ConfigError {
    pub(super) fn new(mut faults: Vec<Fault>) -> ConfigError {
        faults.sort_by(|a, b| a.origin.cmp(&b.origin));
        faults.dedup();
        ConfigError { faults }
    }
}

/// One fault a line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The name nearest to `wrong`, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A name is as long as an attacker makes it; what is meant is never that long.
    if wrong.len() > 128 {
        return None;
    }
    names
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(d, name)| *d <= name.len().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, with a swap of neighbours as one step.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_what_was_meant_and_nothing_far() {
        let names = ["interval", "snapshot_interval", "suppress"];
        for (wrong, meant) in [
            ("intervall", Some("interval")),
            ("inteval", Some("interval")),
            ("itnerval", Some("interval")),
            ("snapshot-interval", Some("snapshot_interval")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names), meant, "{wrong}");
        }
    }
}
