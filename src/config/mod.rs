//! config.toml, environment, flags → each room's `Options` (contract §2).
//!
//! [`layers`] makes one tree of everything that was set, [`rooms`] reads it key by key, and every fault is found in one go.
//! What a key is, its unit and its limits stand in `config.toml`, which is compiled in as the defaults.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use crate::{auth, detect, event, http, hub, monitor, session, source, store};

mod ask;
mod auth_section;
mod detection;
mod fault;
mod layers;
mod listen;
mod rooms;
mod rule_files;
mod rule_list;
mod source_list;
mod tree;
mod trial;
mod url;

pub use ask::Setting;
pub use fault::{ConfigError, Fault, Origin};
pub use layers::{DEFAULTS, Sources, find};

/// Everything that is in force. `Debug` shows what [`Config::settings`] shows: no secret.
#[derive(Clone)]
pub struct Config {
    /// The file that was read; `None`: the defaults alone.
    pub path: Option<PathBuf>,
    pub event: event::Options,
    pub detect: detect::Options,
    pub store: store::Options,
    auth: auth::Options,
    secret: Option<auth::Secret>,
    pub hub: hub::Options,
    pub session: session::Options,
    pub http: http::Options,
    pub monitor: monitor::Options,
    /// In the order of [`detect::Options::sources`]; the built-in `http` and `auditcast` are the last.
    pub sources: Vec<source::Options>,
    /// `listen.public`, `listen.ops`; port 0 takes a free one.
    pub public: SocketAddr,
    pub ops: SocketAddr,
    /// `listen.public_tls`, `listen.ops_tls`; the files are not read yet.
    pub public_tls: Option<http::TlsOptions>,
    pub ops_tls: Option<http::TlsOptions>,
    /// `ENCRYPTION_KEY` is a guide's sample text: told, and no second factor is set up with it.
    pub sample_encryption_key: bool,
    /// After a stop signal everything has so long to end.
    pub shutdown_grace: Duration,
    /// `limits.memory`: resident bytes above which new connections are refused.
    pub memory_bytes_max: u64,
    pub journal: auth::journal::Options,
    pub sign_in: auth::people::Options,
    pub log: Log,
    settings: Vec<Setting>,
    /// What it was made of, to be read again with parts of another one.
    tree: tree::Table,
    /// The tests of the rules.
    trials: Vec<trial::Trial>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`.
    pub level: String,
    pub json: bool,
}

/// What a reload would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Keys that are applied at once.
    pub live: Vec<String>,
    /// Keys that need a restart.
    pub restart: Vec<String>,
    /// Thresholds on a metric that only a restart makes, with that metric: left as they are until then.
    pub waiting: Vec<(String, String)>,
}

impl Config {
    /// Reads everything. Fails with all faults that can be found in one go.
    pub fn load(sources: Sources) -> Result<Config, ConfigError> {
        let mut faults = Vec::new();
        let mut tree = layers::tree(&sources, &mut faults);
        let trials = rule_files::lay(&mut tree, sources.path.as_deref(), &mut faults);
        let mut config = rooms::read(&tree, faults).map_err(ConfigError::new)?;
        config.trials = trials;
        config.path = sources.path;
        Ok(config)
    }

    /// Every key that was read, in the order of the documentation, with its value and where that comes from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The signing key, where there is one; it has been held against [`auth::Options::check`].
    pub fn secret(&self) -> Option<&auth::Secret> {
        self.secret.as_ref()
    }

    /// For [`auth::Auth`]; `None` where there is no signing key, which `serve` cannot do without.
    pub fn auth(&self) -> Option<auth::Options> {
        Some(self.auth_with(self.secret.clone()?))
    }

    /// As [`Config::auth`], with a key made by the caller (`demo`).
    pub fn auth_with(&self, secret: auth::Secret) -> auth::Options {
        auth::Options { secret, ..self.auth.clone() }
    }

    /// `store.url` without what may be a password in it.
    pub fn store_shown(&self) -> String {
        match &self.store.target {
            store::Target::Redis(redis) => url::masked(redis),
            store::Target::Embedded(dir) => format!("embedded:{}", dir.display()),
        }
    }

    /// Equal for configurations that make the same alerts of the same entries: sources, metrics, thresholds, severities and the
    /// times and bounds of the detector. 16 hexadecimal characters.
    pub fn fingerprint(&self) -> String {
        const ALONE: [&str; 8] = [
            "monitor.interval",
            "monitor.alert_events_at",
            "monitor.event_alert_ttl",
            "monitor.suppress",
            "auth.session_timeout",
            "limits.sessions",
            "limits.entities",
            "monitor.snapshot_interval",
        ];
        self.hash(|key| {
            ["source.", "metrics.", "threshold.", "rule.", "rules.", "severity."].iter().any(|section| key.starts_with(section))
                || ALONE.contains(&key)
        })
    }

    /// Changes with every value but secrets, for `auditcast_config_info`. 16 hexadecimal characters.
    pub fn config_hash(&self) -> String {
        self.hash(|_| true)
    }

    fn hash(&self, of: impl Fn(&str) -> bool) -> String {
        let mut lines: Vec<String> =
            self.settings.iter().filter(|s| of(&s.key)).map(|s| format!("{} = {}\n", s.key, s.shown)).collect();
        lines.sort();
        let mut digest = digest(lines.concat().as_bytes());
        digest.truncate(16);
        digest
    }

    /// Which keys have other values in `new`, and which of them need a restart. Sorted.
    pub fn diff(old: &Config, new: &Config) -> Diff {
        let mut diff = Diff { waiting: old.waiting(new), ..Diff::default() };
        let value = |config: &Config, key: &str| -> Option<String> {
            config.settings.iter().find(|s| s.key == key).map(|s| s.canonical.clone())
        };
        let mut keys: Vec<&str> = old.settings.iter().chain(&new.settings).map(|s| s.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            if value(old, key) == value(new, key) {
                continue;
            }
            let waits = diff.waiting.iter().any(|(name, _)| {
                key.strip_prefix("threshold.").and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.'))
            });
            let place = if is_live(old, new, key) && !waits { &mut diff.live } else { &mut diff.restart };
            place.push(key.to_owned());
        }
        diff
    }

    /// The thresholds of `new` on metrics of the user's own that this configuration does not have, with these metrics.
    fn waiting(&self, new: &Config) -> Vec<(String, String)> {
        let Some(tree::Value::Table(thresholds)) = new.tree.get("threshold").map(|node| &node.value) else { return Vec::new() };
        let metric = |rule: &tree::Node| match &rule.value {
            tree::Value::Table(rule) => match rule.get("metric").map(|node| &node.value) {
                Some(tree::Value::Text(metric) | tree::Value::Raw(metric)) => Some(metric.clone()),
                _ => None,
            },
            _ => None,
        };
        let has = |config: &Config, metric: &str| config.tree.path(&["metrics", metric]).is_some();
        let named = thresholds.entries.iter().filter_map(|(name, rule)| Some((name.clone(), metric(rule)?)));
        named.filter(|(_, metric)| has(new, metric) && !has(self, metric)).collect()
    }

    /// This configuration with what `new` changes at once; what needs a restart stays as it is, and so do thresholds on a metric
    /// that only a restart makes. Fails where the two
    /// do not fit, such as patterns that are too many together.
    pub fn with_live(&self, new: &Config) -> Result<Config, ConfigError> {
        let mut tree = self.tree.clone();
        let kept: Vec<(String, Option<tree::Node>)> = self
            .waiting(new)
            .into_iter()
            .map(|(name, _)| (name.clone(), self.tree.path(&["threshold", &name]).cloned()))
            .collect();
        for section in ["threshold", "rule", "rules", "severity", "privacy"] {
            tree.remove(section);
            if let Some(node) = new.tree.get(section) {
                tree.set(section, node.clone());
            }
        }
        if let Some(tree::Value::Table(thresholds)) = tree.get_mut("threshold").map(|node| &mut node.value) {
            for (name, before) in kept {
                match before {
                    Some(node) => thresholds.set(&name, node),
                    None => drop(thresholds.remove(&name)),
                }
            }
        }
        for path in [["monitor", "alert_events_at"], ["log", "level"]] {
            if let Some(node) = new.tree.path(&path) {
                tree.set_path(&path, node.clone());
            }
        }
        if let Some(tree::Value::Table(metrics)) = tree.get_mut("metrics").map(|node| &mut node.value) {
            for (name, node) in &mut metrics.entries {
                let tree::Value::Table(metric) = &mut node.value else { continue };
                if new.tree.path(&["metrics", name]).is_none() {
                    continue;
                }
                for list in ["events", "except"] {
                    match new.tree.path(&["metrics", name, list]) {
                        Some(node) => metric.set(list, node.clone()),
                        None => drop(metric.remove(list)),
                    }
                }
            }
        }
        for key in LIVE_AUTH {
            if let Some(tree::Value::Table(auth)) = tree.get_mut("auth").map(|node| &mut node.value) {
                auth.remove(key);
            }
            if let Some(node) = new.tree.path(&["auth", key]) {
                tree.set_path(&["auth", key], node.clone());
            }
        }
        let mut config = rooms::read(&tree, Vec::new()).map_err(ConfigError::new)?;
        config.path.clone_from(&new.path);
        config.trials.clone_from(&new.trials);
        Ok(config)
    }
}

/// What of `[auth]` is applied without a restart: what tokens are judged by.
const LIVE_AUTH: [&str; 9] =
    ["secret", "previous_secrets", "keys", "jwks_refresh", "issuer", "audience", "leeway", "max_age", "roles"];

/// Whether a change of this key is applied without a restart. A list of `[metrics]` only where the metric is in both: a new one
/// is a new window, which must be filled from the start.
fn is_live(old: &Config, new: &Config, key: &str) -> bool {
    if ["threshold.", "rule.", "rules.", "severity.", "privacy."].iter().any(|section| key.starts_with(section)) {
        return true;
    }
    if key == "monitor.alert_events_at" || key == "log.level" {
        return true;
    }
    if let Some(rest) = key.strip_prefix("auth.") {
        return LIVE_AUTH.contains(&rest.split('.').next().unwrap_or(rest));
    }
    let Some((name, list)) = key.strip_prefix("metrics.").and_then(|rest| rest.rsplit_once('.')) else { return false };
    let has = |config: &Config| config.tree.path(&["metrics", name]).is_some();
    matches!(list, "events" | "except") && has(old) && has(new)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.settings).finish()
    }
}

/// SHA-256, hexadecimal.
fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
