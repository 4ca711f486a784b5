//! From the tree to each room's `Options`, with every rule that a value must keep.

use std::{net::SocketAddr, time::Duration};

use super::{
    Config, Log,
    ask::{Ask, Reading, quoted},
    auth_section, detection,
    fault::Fault,
    listen, rule_list, source_list,
    tree::Table,
    url,
};
use crate::{
    auth::{self, people},
    event::Severity,
    http, hub, monitor, session, store,
};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

const NAMES_MAX: usize = 256;

pub(super) fn severity(text: &str) -> Option<Severity> {
    Severity::ALL.into_iter().find(|s| s.as_str() == text)
}

pub(super) fn ask_severity(ask: &Ask<'_>, name: &str) -> Severity {
    let words = Severity::ALL.map(Severity::as_str);
    severity(&ask.word(name, &words)).unwrap_or(Severity::High)
}

/// The rule for names of sources, metrics and thresholds.
pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Reads the whole tree. With faults there is no configuration, however much of it could be read.
pub(super) fn read(tree: &Table, mut faults: Vec<Fault>) -> Result<Config, Vec<Fault>> {
    let reading = Reading::default();
    let root = Ask::root(&reading, tree.clone());

    let store_section = root.section("store");
    let password = store_section.secret("password").map(|p| String::from_utf8_lossy(&p).into_owned());
    let (store_target, prefix, lease_ttl) = store_place(&store_section, password.as_deref());
    let (dead_letters_max, commits_max, intake_max) = (
        store_section.integer("dead_letters", 100, 1_000_000),
        store_section.integer("commits", 1000, 10_000_000),
        store_section.integer("intake", 1000, 100_000_000),
    );
    store_section.done();

    let listen = listen::read(&root);

    let monitor_section = root.section("monitor");
    let loop_times = detection::Times::read(&monitor_section);
    let monitor = monitor::Options {
        source_lag_max: monitor_section.duration("max_source_lag", SECOND, HOUR),
        lease_ttl,
        checkpoint_interval: monitor_section.duration("checkpoint_interval", SECOND, HOUR),
        batch_max: monitor_section.count("batch", 1, 10_000),
    };
    monitor_section.done();

    let alerts = root.section("alerts");
    let alerts_retention = alerts.duration("retention", HOUR, DAY * 3650);
    let alerts_max = alerts.integer("max", 1000, 100_000_000);
    alerts.done();

    let auth_section = root.section("auth");
    let (auth, secret) = auth_section::options(&auth_section);
    let session_timeout = auth_section.duration("session_timeout", SECOND, DAY * 30);
    let people = {
        let password = root.section("password");
        let people = people_options(&auth_section, &password, session_timeout, auth.max_age);
        password.done();
        people
    };
    auth_section.done();

    let journal_section = root.section("journal");
    let journal = auth::journal::Options {
        enabled: journal_section.boolean("enabled"),
        burst: to_u32(journal_section.integer("burst", 1, 10_000)),
        rate: to_u32(journal_section.integer("rate", 1, 1000)),
        queue: journal_section.count("queue", 100, 1_000_000),
    };
    journal_section.done();

    let limits = root.section("limits");
    let connections_max = limits.count("connections", 1, 1_000_000);
    let connections_per_user_max = limits.count("connections_per_user", 1, 100_000);
    let connections_per_address_max = limits.count("connections_per_address", 1, 1_000_000);
    let sockets_max = limits.count("sockets", 16, 2_000_000);
    let sessions_max = limits.count("sessions", 100, 10_000_000);
    let entities_max = limits.count("entities", 100, 10_000_000);
    let memory_bytes_max = limits.size("memory", 64 << 20, 1 << 40);
    let frame_bytes_max = to_usize(limits.size("frame_bytes", 1 << 10, 1 << 20));
    let body_bytes_max = to_usize(limits.size("body_bytes", 1 << 10, 64 << 20));
    let rates = rates(&limits);
    limits.done();

    let mut allowed = listen.cors_origins.clone();
    allowed.extend(listen.external_url.as_deref().and_then(url::origin_of).filter(|own| !listen.cors_origins.contains(own)));
    let feed = root.section("feed");
    let session = session::Options {
        events_rate: to_u32(feed.integer("events_rate", 1, 100_000)),
        ping_interval: feed.duration("ping_interval", SECOND, MINUTE * 5),
        idle_timeout: feed.duration("idle_timeout", SECOND * 2, HOUR),
        auth_timeout: feed.duration("auth_timeout", MS * 100, MINUTE),
        frame_bytes_max,
        connections_max,
        connections_per_user_max,
        connections_per_address_max,
        write_timeout: feed.duration("write_timeout", SECOND, MINUTE * 10),
        drain_window: feed.duration("drain_window", Duration::ZERO, MINUTE * 10),
        origins: allowed,
    };
    if session.ping_interval >= session.idle_timeout {
        // Otherwise a client that is well would be taken for silent.
        let name = if feed.origin("ping_interval").is_default() { "idle_timeout" } else { "ping_interval" };
        feed.fault(name, "expected feed.ping_interval to be shorter than feed.idle_timeout");
    }
    let hub = hub::Options { ring: feed.count("ring", 100, 1_000_000), events_ring: feed.count("events_ring", 100, 1_000_000) };
    feed.done();

    let sources = source_list::read(&root.section("source"), &prefix);
    let (event, own_metrics) = detection::event_options(&root);
    let detect = detection::detect_options(&root, &loop_times, &own_metrics, |detect| {
        detect.session_timeout_ms = detection::ms(session_timeout);
        detect.sessions_max = sessions_max;
        detect.entities_max = entities_max;
        detect.sources = sources.iter().map(|s| s.name.clone()).collect();
        detect.external_url.clone_from(&listen.external_url);
        let thresholds: Vec<String> = detect.thresholds.iter().map(|t| t.name.clone()).collect();
        detect.allowed = rule_list::allowed(&root);
        detect.rules = rule_list::rules(&root, &rule_list::lists(&own_metrics), &thresholds);
    });

    let encryption = root.section("encryption");
    let encryption_key = encryption.secret("key").map(auth::Secret);
    let sample_encryption_key = encryption_key.as_ref().is_some_and(|key| auth::is_sample(&key.0));
    encryption.word("algorithm", &["AES-256-GCM"]);
    encryption.done();

    let log_section = root.section("log");
    let log = Log {
        level: log_section.word("level", &["off", "error", "warn", "info", "debug", "trace"]),
        json: log_section.word("format", &["text", "json"]) == "json",
    };
    log_section.done();
    root.done();

    faults.extend(reading.faults.into_inner());
    let Some(target) = store_target.filter(|_| faults.is_empty()) else { return Err(faults) };
    let store =
        store::Options { target, prefix, lease_ttl, alerts_retention, alerts_max, dead_letters_max, commits_max, intake_max };
    Ok(Config {
        path: None,
        event,
        detect,
        store,
        auth,
        secret,
        hub,
        session,
        http: http::Options {
            external_url: listen.external_url,
            cors_origins: listen.cors_origins,
            security_headers: listen.security_headers,
            header_timeout: listen.header_timeout,
            body_bytes_max,
            sockets_max,
            sockets_per_address_max: connections_per_address_max,
            proxies: listen.proxies,
            metrics_token: listen.metrics_token,
            rates,
        },
        monitor,
        sources,
        public: listen.public,
        ops: listen.ops,
        public_tls: listen.public_tls,
        ops_tls: listen.ops_tls,
        sample_encryption_key,
        shutdown_grace: listen.shutdown_grace,
        memory_bytes_max,
        journal,
        sign_in: people::Options { encryption_key, ..people },
        log,
        settings: reading.settings.into_inner(),
        tree: tree.clone(),
        trials: Vec::new(),
    })
}

/// What people sign in with; the encryption key stands in another section.
fn people_options(ask: &Ask<'_>, password: &Ask<'_>, session_timeout: Duration, max_age: Duration) -> people::Options {
    // Older than that it would be refused all the same.
    let access_ttl = ask.duration("access_ttl", SECOND, DAY).min(max_age);
    let lockout = people::attempts::Limits {
        failures: to_u32(ask.integer("lockout_failures", 1, 1000)),
        window_ms: detection::ms(ask.duration("lockout_window", SECOND, DAY)),
        first_ms: detection::ms(ask.duration("lockout_first", SECOND, DAY)),
        longest_ms: detection::ms(ask.duration("lockout_longest", SECOND, DAY)),
    };
    if lockout.longest_ms < lockout.first_ms {
        ask.fault("lockout_longest", "expected at least auth.lockout_first");
    }
    let costs = people::password::COSTS;
    people::Options {
        access_ttl,
        session_timeout,
        refresh_ttl: ask.duration("refresh_ttl", MINUTE, DAY * 3650),
        bcrypt_cost: to_u32(ask.integer("bcrypt_cost", u64::from(*costs.start()), u64::from(*costs.end()))),
        policy: people::password::Policy {
            min_length: password.count("min_length", 1, people::password::BYTES_MAX as u64),
            require_special: password.boolean("require_special"),
            require_numbers: password.boolean("require_numbers"),
            require_uppercase: password.boolean("require_uppercase"),
        },
        lockout,
        encryption_key: None,
    }
}

fn rates(limits: &Ask<'_>) -> http::Rates {
    let one = |ask: &Ask<'_>, name: &str| to_u32(ask.integer(name, 1, 1_000_000));
    let (general, auth, connections) = (one(limits, "rate_general"), one(limits, "rate_auth"), one(limits, "rate_connections"));
    let window = limits.duration("rate_window", SECOND, DAY);
    let section = limits.section("rate_endpoints");
    let known = http::endpoints();
    let mut endpoints = Vec::new();
    for name in section.names() {
        let per_window = one(&section, &name);
        if known.contains(&name.as_str()) {
            endpoints.push((name, per_window));
        } else {
            section.fault(&name, format!("expected an endpoint of the API, one of {}", known.join(", ")));
        }
    }
    section.done();
    http::Rates { window, general, auth, connections, endpoints }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn to_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn store_place(ask: &Ask<'_>, password: Option<&str>) -> (Option<store::Target>, String, Duration) {
    let written = ask.masked("url", "a URL such as \"redis://127.0.0.1:6379/0\"", url::masked);
    let target = written.and_then(|written| url::store_target(&written, password).map_err(|text| ask.fault("url", text)).ok());
    // One hash slot (contract §9): what stands in the first braces decides it, so there must be something.
    let expected = "1 to 64 characters that begin with a name in braces, such as \"{auditcast}\"";
    let prefix = ask.text_where("prefix", expected, |text| {
        let inner = text.strip_prefix('{').and_then(|rest| rest.split_once('}')).map(|(inner, _)| inner);
        text.len() <= 64
            && inner.is_some_and(|inner| !inner.is_empty())
            && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'*' | b'?' | b'[' | b']' | b'\\' | b'"'))
    });
    (target, prefix, ask.duration("lease_ttl", SECOND, MINUTE * 5))
}

pub(super) fn address(ask: &Ask<'_>, name: &str) -> SocketAddr {
    let expected = "an address and a port, such as \"127.0.0.1:8787\"";
    ask.parsed(name, expected, |text| text.trim().parse().ok()).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// A text where `""` is none.
pub(super) fn optional<T>(ask: &Ask<'_>, name: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    ask.parsed(name, expected, |text| if text.is_empty() { Some(None) } else { read(text).map(Some) }).flatten()
}

pub(super) fn ask_too_many<T>(ask: &Ask<'_>, name: &str, most: usize, got: T) -> T {
    ask.fault(name, format!("expected at most {most} of them"));
    got
}

/// Names of members of events, for `[privacy]`.
pub(super) fn member_names(ask: &Ask<'_>, name: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (text, origin) in ask.texts(name) {
        if text.trim().is_empty() || text.len() > 256 {
            ask.fault_at(origin, &ask.key(name), format!("expected names of 1 to 256 bytes, found {}", quoted(&text)));
        } else {
            names.push(text);
        }
    }
    if names.len() > NAMES_MAX { ask_too_many(ask, name, NAMES_MAX, names) } else { names }
}
