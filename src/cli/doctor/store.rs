//! The store and what is read from it: clock, settings of the server, rights, streams, keys, files.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::time::timeout;

use super::{
    super::reach::{Reach, is_glob, remedy},
    Report,
};
use crate::{
    config::Config,
    metrics::unix_ms,
    source::{Kind, Options as Source},
    store::{Rate, Store, StoreError, StreamFault, StreamInfo},
};

/// Beyond this an event's own time and its arrival tell different stories.
const SKEW_WARN_MS: u64 = 1_000;
/// Beyond this an entry's id is from the future (contract §4).
const SKEW_FAIL_MS: u64 = 5_000;
/// The oldest Redis (contract §2).
const VERSION_MIN: (u32, u32) = (6, 2);
/// From this share of `maxmemory` on the next burst may be refused.
const MEMORY_WARN_PERCENT: u64 = 90;
/// How long a keyspace notification may be on its way.
const NOTIFICATION_WAIT: Duration = Duration::from_secs(1);
/// What must be set for keys that are texts or hashes.
const NOTIFICATIONS: &str = "notify-keyspace-events K$h";
/// A name for probes that nothing else has.
const PROBE: &str = "auditcast-doctor";

pub(super) async fn check(report: &mut Report, config: &Config, reach: &Reach) {
    clock(report, reach).await;
    if let Reach::Redis(store) = reach {
        let unknown = |report: &mut Report, text: &str| {
            let remedy = "allow INFO to see version and eviction policy here; the policy must be noeviction";
            report.warn("server", text, remedy);
        };
        match store.server_info().await {
            // An ACL that refuses INFO leaves nothing of it.
            Ok(facts) if facts.is_empty() => unknown(report, "INFO is refused, so it is not known how it is set"),
            Ok(facts) => server(report, &facts),
            Err(error) => unknown(report, &format!("it does not say how it is set: {error}")),
        }
        rights(report, store).await;
        user(report, store).await;
        tracking(report, store).await;
    }
    for source in &config.sources {
        match (&source.kind, reach) {
            (Kind::Stream { streams: names }, _) => streams(report, reach, source, names).await,
            (Kind::Keys { pattern }, Reach::Redis(store)) => keys(report, store, source, pattern).await,
            (Kind::Channel { pattern }, Reach::Redis(store)) => channel(report, store, source, pattern).await,
            _ => {}
        }
    }
}

async fn clock(report: &mut Report, store: &Reach) {
    let before = unix_ms();
    match store.now_ms().await {
        Err(error) => report.fail("clock", error.to_string(), remedy(&error)),
        Ok(theirs) => {
            // Half of the way there and back is the best guess at when the store looked.
            let ours = before + unix_ms().saturating_sub(before) / 2;
            let skew = ours.abs_diff(theirs);
            let text = format!("the store's clock and this machine's differ by {skew} ms");
            match skew {
                SKEW_FAIL_MS.. => report.fail("clock", text, "synchronise both (NTP)"),
                SKEW_WARN_MS.. => report.warn("clock", text, "synchronise both (NTP)"),
                _ => report.ok("clock", text),
            }
        }
    }
}

/// What `INFO` says: version, eviction policy, memory.
fn server(report: &mut Report, facts: &BTreeMap<String, String>) {
    let fact = |name: &str| facts.get(name).map(String::as_str);
    let name = if facts.contains_key("valkey_version") { "Valkey" } else { "Redis" };
    let shown = fact("valkey_version").or_else(|| fact("redis_version")).unwrap_or("of unknown version");
    match fact("redis_version").and_then(version) {
        Some(version) if version >= VERSION_MIN => report.ok("version", format!("{name} {shown}")),
        Some(_) => report.fail("version", format!("{name} {shown}"), "6.2 or newer is needed, or Valkey"),
        None => report.warn("version", format!("{name} {shown}"), "6.2 or newer is needed, or Valkey"),
    }
    match fact("maxmemory_policy") {
        Some("noeviction") => report.ok("eviction", "maxmemory-policy is noeviction"),
        Some(policy) => report.fail(
            "eviction",
            format!("maxmemory-policy is {policy}, so alerts and positions may vanish"),
            "set maxmemory-policy noeviction",
        ),
        None => report.warn("eviction", "the server does not say its maxmemory-policy", "it must be noeviction"),
    }
    let bytes = |name: &str| fact(name).and_then(|n| n.parse::<u64>().ok());
    if let (Some(used), Some(most)) = (bytes("used_memory"), bytes("maxmemory").filter(|most| *most > 0)) {
        let percent = used.saturating_mul(100) / most;
        let text = format!("{percent} % of maxmemory ({most} bytes) is used");
        if percent >= MEMORY_WARN_PERCENT {
            report.warn("memory", text, "beyond it every write is refused: give it more, or keep less");
        } else {
            report.ok("memory", text);
        }
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether auditcast may do more than it needs, so that who takes it over may too.
async fn user(report: &mut Report, store: &Store) {
    let Ok(facts) = store.acl().await else { return };
    let fact = |name: &str| facts.get(name).map_or("", String::as_str);
    let has = |name: &str, word: &str| fact(name).split_whitespace().any(|found| found == word);
    let user = fact("user");
    let remedy = "make a user of its own (ACL, see the README)";
    if user.is_empty() {
        report.ok("redis user", "the server does not say who auditcast is there, which is as it should be");
    } else if has("flags", "nopass") {
        report.warn("redis user", format!("{user} needs no password: whoever reaches the server may do everything"), remedy);
    } else if has("commands", "+@all") && (has("keys", "~*") || has("keys", "*")) {
        report.warn("redis user", format!("{user} may do everything with every key"), remedy);
    } else if has("commands", "+@all") {
        report.warn("redis user", format!("{user} may use every command"), remedy);
    } else if has("keys", "~*") || has("keys", "*") {
        report.warn("redis user", format!("{user} may use every key"), remedy);
    } else {
        report.ok("redis user", format!("{user} may do what it is let do, and no more"));
    }
}

/// What no source has to be there for: auditcast's own keys, A's, and that both may be read.
async fn rights(report: &mut Report, store: &Store) {
    let probes: [(&str, Result<(), StoreError>); 5] = [
        ("look up who has had his tokens revoked", store.cut_offs(&[PROBE.to_owned()]).await.map(drop)),
        ("read the alert log", store.log_bounds().await.map(drop)),
        ("read revoked tokens (jwt:blacklist:*)", store.blacklisted(PROBE).await.map(drop)),
        ("read permissions (permissions:*)", store.permissions(PROBE).await.map(drop)),
        ("read the history of metrics (security:metrics:*)", store.metrics_history(0, 1).await.map(drop)),
    ];
    let mut refused = false;
    for (what, outcome) in probes {
        if let Err(error) = outcome {
            refused = true;
            report.fail("acl", format!("could not {what}: {error}"), remedy(&error));
        }
    }
    let rate = Rate { limit: "doctor".to_owned(), client: PROBE.to_owned(), by: 0 };
    if let Err(error) = store.rate_count(&[rate], NOTIFICATION_WAIT).await {
        let remedy = "allow rate_limit:* (ACL); until then each node counts for itself";
        report.warn("acl", format!("could not count for all nodes (rate_limit:*): {error}"), remedy);
    }
    if !refused {
        report.ok("acl", "its own keys and those of the guide can be read");
    }
}

/// Whether the server tells of revoked tokens, or has to be asked for every connection each second.
async fn tracking(report: &mut Report, store: &Store) {
    let mut watch = store.watch();
    match (watch.next().await, watch.refused()) {
        (Err(error), _) => report.fail("tracking", error.to_string(), remedy(&error)),
        (Ok(_), None) => {
            report.ok("tracking", "CLIENT TRACKING is allowed, so revoked tokens and permissions take effect at once")
        }
        (Ok(_), Some(why)) => report.warn(
            "tracking",
            format!(
                "CLIENT TRACKING is refused, so the tokens and permissions of all connections are looked up every second: {why}"
            ),
            "allow +client|tracking (ACL)",
        ),
    }
}

async fn streams(report: &mut Report, store: &Reach, source: &Source, names: &[String]) {
    let name = format!("source {}", source.name);
    let found = match store.streams(names).await {
        Ok(found) => found,
        Err(error) => return report.fail(&name, error.to_string(), remedy(&error)),
    };
    for (stream, info) in found {
        match info {
            Ok(Some(StreamInfo { length: 1, .. })) => report.ok(&name, format!("the stream {stream} has 1 entry")),
            Ok(Some(info)) => report.ok(&name, format!("the stream {stream} has {} entries", info.length)),
            Ok(None) if is_glob(&stream) => {
                report.warn(&name, format!("no stream matches {stream} yet"), "it is read once it is there")
            }
            Ok(None) => {
                let remedy = "it is read once it is there; check that the application writes to this name";
                report.warn(&name, format!("there is no stream {stream} yet"), remedy);
            }
            Err(fault) => {
                let remedy = match fault {
                    StreamFault::WrongType(_) => "name a stream, or another kind of source",
                    StreamFault::Forbidden(_) => "let the user of auditcast read it (ACL)",
                    StreamFault::Other(_) => "see the log of the server",
                };
                report.fail(&name, format!("{stream} cannot be read: {fault}"), remedy);
            }
        }
    }
}

/// Whether keys can be found, and how soon. CONFIG is not asked: a key of our own is written, and either the server tells of it or
/// it does not.
async fn keys(report: &mut Report, store: &Store, source: &Source, pattern: &str) {
    let name = format!("source {}", source.name);
    if let Err(error) = store.scan_keys(pattern, 0).await {
        let remedy = if matches!(error, StoreError::Refused(_)) { "allow SCAN (ACL)" } else { remedy(&error) };
        return report.fail(&name, format!("{pattern} cannot be looked for: {error}"), remedy);
    }
    let probe = format!("{PROBE}-{}-{}", std::process::id(), unix_ms());
    let channel = format!("__keyspace@{}__:jwt:blacklist:{probe}", store.database());
    let mut notifications = match store.subscribe(&channel).await {
        Ok(notifications) => notifications,
        Err(error) => {
            let remedy = match error {
                StoreError::Refused(_) => "allow SUBSCRIBE, PSUBSCRIBE and __keyspace@*",
                _ => remedy(&error),
            };
            return report.fail(&name, format!("could not subscribe to {channel}: {error}"), remedy);
        }
    };
    if let Err(error) = store.blacklist(&probe, Duration::from_secs(1)).await {
        let text = format!("whether notifications are on cannot be seen: {error}");
        return report.warn(&name, text, format!("set {NOTIFICATIONS}; without it keys are found every 30 s by SCAN"));
    }
    match timeout(NOTIFICATION_WAIT, notifications.next()).await {
        Ok(Ok(_)) => report.ok(&name, format!("{pattern} can be looked for, and keyspace notifications are on")),
        _ => report.warn(
            &name,
            format!("keyspace notifications are off, so keys of {pattern} are found every 30 s by SCAN"),
            format!("set {NOTIFICATIONS} for them to be read at once"),
        ),
    }
}

async fn channel(report: &mut Report, store: &Store, source: &Source, pattern: &str) {
    let name = format!("source {}", source.name);
    match store.subscribe(pattern).await {
        Ok(_) => report.warn(
            &name,
            format!("{pattern} can be listened to, but what is published while nobody listens is lost"),
            "write to a stream where events must not be lost",
        ),
        Err(error) => {
            let remedy = match error {
                StoreError::Refused(_) => "allow SUBSCRIBE, PSUBSCRIBE and the channel",
                _ => remedy(&error),
            };
            report.fail(&name, format!("could not subscribe to {pattern}: {error}"), remedy);
        }
    }
}

pub(super) fn file(report: &mut Report, source: &str, path: &Path) {
    let name = format!("source {source}");
    match std::fs::File::open(path) {
        Ok(_) => report.ok(&name, format!("the file {} can be read", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.warn(&name, format!("there is no file {} yet", path.display()), "it is read once it is there");
        }
        Err(error) => report.fail(&name, format!("{}: {error}", path.display()), "let the user of auditcast read it"),
    }
}

/// Whether the embedded store's directory and what is in it are their owner's alone: who may read it reads every alert, and who may
/// write to it is whom its control socket obeys.
#[cfg(unix)]
pub(super) fn permissions(report: &mut Report, dir: &Path) {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let mode = |path: &Path| std::fs::symlink_metadata(path).map(|meta| (meta.permissions().mode() & 0o777, meta.file_type()));
    let Ok((own, _)) = mode(dir) else { return };
    if own & 0o077 == 0 {
        return report.ok("directory", format!("{} is its owner's alone", dir.display()));
    }
    let mut loose = vec![(dir.to_path_buf(), own, false)];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Ok((mode, kind)) = mode(&entry.path())
            && mode & 0o077 != 0
            && !kind.is_symlink()
        {
            loose.push((entry.path(), mode, kind.is_socket()));
        }
    }
    for (path, mode, socket) in loose {
        let (path, strict) = (path.display(), if path == dir { "700" } else { "600" });
        let text = format!("{path} is open to others ({mode:03o})");
        let remedy = format!("chmod {strict} {path}");
        if mode & 0o022 != 0 || socket {
            report.fail("directory", text, remedy);
        } else {
            report.warn("directory", text, remedy);
        }
    }
}

#[cfg(not(unix))]
pub(super) fn permissions(_: &mut Report, _: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, well) in [("6.2.0", true), ("7.0.15", true), ("10.0.1", true), ("6.0.16", false), ("5.0.14", false)] {
            assert_eq!(version(text).is_some_and(|v| v >= VERSION_MIN), well, "{text}");
        }
        assert_eq!(version("unstable"), None);
    }
}
