//! What a wrong configuration is told: every fault, where it stands, what was expected; and no secret.

use std::fs;

use auditcast::config::{Config, Sources};

fn faults(file: &str, env: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, file).unwrap();
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    match Config::load(Sources { path: Some(path), env, ..Sources::default() }) {
        Ok(_) => "no fault".to_owned(),
        Err(error) => error.to_string().replace(&format!("{}/", dir.path().display()), ""),
    }
}

#[track_caller]
fn check(file: &str, wanted: &str) {
    assert_eq!(faults(file, &[]), wanted.trim(), "\n{file}");
}

#[track_caller]
fn check_env(env: &[(&str, &str)], wanted: &str) {
    assert_eq!(faults("", env), wanted.trim(), "\n{env:?}");
}

#[test]
fn times_and_numbers() {
    check(
        r#"[monitor]
interval = "50ms"
"#,
        r#"
config.toml:2: monitor.interval: expected a duration of at least 100ms, found "50ms"
"#,
    );
    check(
        r#"[monitor]
interval = 5
intervall = "5s"
[moniter]
x = 1
"#,
        r#"
config.toml:2: monitor.interval: expected a duration such as "1s", found 5
config.toml:3: monitor.intervall: unknown key, did you mean "interval"?
config.toml:4: moniter: unknown section, did you mean "monitor"?
"#,
    );
    check(
        r#"[monitor]
interval = "5 bananas"
snapshot_interval = "1s"
batch = 0
alert_events_at = "severe"
"#,
        r#"
config.toml:2: monitor.interval: expected a duration such as "1s", found "5 bananas"
config.toml:4: monitor.batch: expected a whole number from 1 to 10000, found 0
config.toml:5: monitor.alert_events_at: expected one of "low", "medium", "high", "critical", found "severe"
"#,
    );
    check(
        r#"[feed]
ping_interval = "2m"
ring = 5
[limits]
memory = "1GB"
frame_bytes = 100
[encryption]
algorithm = "ROT13"
"#,
        r#"
config.toml:2: feed.ping_interval: expected feed.ping_interval to be shorter than feed.idle_timeout
config.toml:3: feed.ring: expected a whole number from 100 to 1000000, found 5
config.toml:5: limits.memory: expected a size from 64MiB to 1024GiB, found "1GB"
config.toml:6: limits.frame_bytes: expected a size from 1KiB to 1MiB, found 100
config.toml:8: encryption.algorithm: expected "AES-256-GCM", found "ROT13"
"#,
    );
}

#[test]
fn a_file_that_is_not_toml() {
    check(
        r#"[monitor
"#,
        r#"
config.toml:1: not TOML: unclosed table, expected `]`
"#,
    );
    check(
        r#"[store]
url = "redis://h"
url = "redis://:hunter2@h"
"#,
        r#"
config.toml:3: not TOML: duplicate key
"#,
    );
}

#[test]
fn addresses_and_urls() {
    check(
        r#"[listen]
public = "localhost"
ops = 9
external_url = "ftp://x"
cors_origins = ["*", 5]
security_headers = "yes"
"#,
        r#"
config.toml:2: listen.public: expected an address and a port, such as "127.0.0.1:8787", found "localhost"
config.toml:3: listen.ops: expected an address and a port, such as "127.0.0.1:8787", found 9
config.toml:4: listen.external_url: expected a URL such as "https://auditcast.example", found "ftp://x"
config.toml:5: listen.cors_origins: expected a list of texts, found 5 in it
config.toml:5: listen.cors_origins: expected origins by name, found "*": a browser sends the sign-in cookie along for any page
config.toml:6: listen.security_headers: expected true or false, found "yes"
"#,
    );
    check(
        r#"[listen]
ops = "127.0.0.1:8787"
"#,
        r#"
config.toml:2: listen.ops: expected another address than listen.public, found 127.0.0.1:8787 for both
"#,
    );
    check(
        r#"[listen]
trusted_proxies = ["10.0.0.0/8", "10.0.0.0/40", "proxy.example"]
metrics_token = "short"
[listen.public_tls]
certificate = "cert.pem"
[listen.ops_tls]
key = "key.pem"
client_required = true
min_version = "1.1"
"#,
        r#"
config.toml:2: listen.trusted_proxies: expected a network such as "10.0.0.0/8", found "10.0.0.0/40"
config.toml:2: listen.trusted_proxies: expected a network such as "10.0.0.0/8", found "proxy.example"
config.toml:3: listen.metrics_token: expected at least 16 visible ASCII characters; make one with: openssl rand -hex 24
config.toml:5: listen.public_tls.certificate: expected key beside it, the path of the certificate's key
config.toml:7: listen.ops_tls.key: expected certificate beside it, the path of the key's certificate
config.toml:8: listen.ops_tls.client_required: expected client_ca beside it, which says whose certificates are taken
config.toml:9: listen.ops_tls.min_version: expected one of "1.2", "1.3", found "1.1"
"#,
    );
    check(
        r#"[listen]
proxy_protocol = true
[limits.rate_endpoints]
events = 0
"#,
        r#"
config.toml:2: listen.proxy_protocol: expected trusted_proxies beside it, which say whose headers are believed
config.toml:4: limits.rate_endpoints.events: expected a whole number from 1 to 1000000, found 0
"#,
    );
    check(
        r#"[store]
url = "redis+sentinel://:hunter2@h:26379/mymaster"
prefix = "auditcast"
"#,
        r#"
config.toml:2: store.url: redis+sentinel:// is not supported yet, use redis:// or rediss:// with the address of one primary
config.toml:3: store.prefix: expected 1 to 64 characters that begin with a name in braces, such as "{auditcast}", found "auditcast"
"#,
    );
    check(
        r#"[store]
url = "redis://:hunter2@h:port/0"
"#,
        r#"
config.toml:2: store.url: expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or embedded:DIR: its host or port is not one
"#,
    );
    check(
        r#"[store]
password = 5
url = 7
"#,
        r#"
config.toml:2: store.password: expected a text
config.toml:3: store.url: expected a URL such as "redis://127.0.0.1:6379/0"
"#,
    );
}

#[test]
fn auth() {
    check(
        r#"[auth]
secret = "hunter2"
leeway = "2m"
max_age = "1s"
[auth.roles]
ADMIN = "all"
"#,
        r#"
config.toml:2: auth.secret: JWT_SECRET_KEY has 7 bytes, at least 32 are needed
config.toml:3: auth.leeway: expected a duration of at most 1m, found "2m"
config.toml:4: auth.max_age: expected a duration of at least 1m, found "1s"
config.toml:6: auth.roles.ADMIN: expected a list of texts, such as ["a", "b"], found "all"
"#,
    );
}

#[test]
fn further_keys() {
    check(
        r#"[auth]
previous_secrets = ["short", "your-super-secret-jwt-key-here", 7]
[auth.keys.Two]
pem = "-----BEGIN"
[auth.keys.none]
kid = "k"
[auth.keys.both]
pem = "x"
jwks_file = "y"
[auth.keys.weak]
pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----"
algorithms = ["RS256", "none"]
[auth.keys.gone]
jwks_file = "/nowhere/jwks.json"
[auth.keys.open]
jwks_url = "http://idp.example/keys"
"#,
        r#"
config.toml:2: auth.previous_secrets: expected a list of texts
config.toml:2: auth.previous_secrets: secret 1 of it has 5 bytes, at least 32 are needed
config.toml:2: auth.previous_secrets: secret 2 of it is the sample text of the guide, which everybody knows; make one of your own
config.toml:3: auth.keys.Two: expected a name of [a-z0-9_], 1 to 64 characters
config.toml:4: auth.keys.Two.pem: the key is no PEM with a PUBLIC KEY in it
config.toml:5: auth.keys.none: expected one of pem, pem_file, jwks_file and jwks_url
config.toml:7: auth.keys.both: expected one of pem, pem_file, jwks_file and jwks_url
config.toml:11: auth.keys.weak.pem: the key is an Ed25519 key, which does not do RS256
config.toml:12: auth.keys.weak.algorithms: expected some of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519, found "none"
config.toml:14: auth.keys.gone.jwks_file: the file "/nowhere/jwks.json" cannot be read: No such file or directory (os error 2)
config.toml:16: auth.keys.open.jwks_url: expected an https URL without a user in it, or an http one of this machine, found "http://idp.example/keys"
"#,
    );
}

#[test]
fn metrics() {
    check(
        r#"[metrics.failed_logins_last_hour]
window = "1s"
[metrics.error_ratio]
window = "8d"
events = ["x"]
"#,
        r#"
config.toml:2: metrics.failed_logins_last_hour.window: expected a window of at least monitor.interval, found 1s with an interval of 5s
config.toml:4: metrics.error_ratio.window: expected a duration of at most 7d, found "8d"
config.toml:5: metrics.error_ratio.events: unknown key
"#,
    );
    check(
        r#"[monitor]
interval = "1h"
[metrics.rate_limit_violations]
events = ["a?b", "", 5]
[metrics.rate_limit_violation]
window = "1h"
"#,
        r#"
config.toml:2: monitor.interval: expected monitor.snapshot_interval to be at least monitor.interval
config.toml:4: metrics.rate_limit_violations.events: expected a list of texts, found 5 in it
config.toml:4: metrics.rate_limit_violations.events: expected a pattern where * is the only wildcard, found "a?b"
config.toml:4: metrics.rate_limit_violations.events: expected a pattern that is not empty, found ""
config.toml:5: metrics.rate_limit_violation.events: expected a list of patterns, such as ["payment_*"], found nothing
config.toml:5: metrics.rate_limit_violation: unknown metric without events, did you mean "rate_limit_violations"?
"#,
    );
    check(
        r#"[metrics.connections]
events = ["x"]
[metrics.Bad-Name]
events = ["x"]
"#,
        r#"
config.toml:1: metrics.connections: the name "connections" is taken by a series of auditcast's own
config.toml:3: metrics.Bad-Name: expected a name of 1 to 64 of a-z, 0-9 and _, found "Bad-Name"
"#,
    );
}

#[test]
fn thresholds() {
    check(
        r#"[[threshold]]
name = "a"
metric = "failed_login_last_hour"
[[threshold]]
name = "a"
[[threshold]]
metric = "x"
"#,
        r#"
config.toml:1: threshold.a.above: expected above or below with a number, found neither
config.toml:3: threshold.a.metric: there is no metric "failed_login_last_hour", did you mean "failed_logins_last_hour"?
config.toml:4: threshold[1]: the name "a" is there twice
config.toml:6: threshold[2]: expected a name
"#,
    );
    check(
        r#"[[threshold]]
name = "t"
metric = "error_ratio"
above = 1
below = 2
message = "{val}"
severity = "bad"
for = "9d"
labels = { "A" = 1 }
runbook_url = "x"
[[threshold]]
name = "audit_gap"
metric = "error_ratio"
above = nan
[[threshold]]
name = "high_failed_login_rate"
clear_at = 60
enabled = 1
"#,
        r#"
config.toml:5: threshold.t.below: expected either above or below, found both
config.toml:6: threshold.t.message: expected only {value}, {name}, {window} and {threshold} in braces, found "{val}"
config.toml:7: threshold.t.severity: expected one of "low", "medium", "high", "critical", found "bad"
config.toml:8: threshold.t.for: expected a duration of at most 7d, found "9d"
config.toml:9: threshold.t.labels.A: expected a label name of 1 to 64 of a-z, 0-9 and _, found "A"
config.toml:9: threshold.t.labels.A: expected a text of at most 256 characters, found 1
config.toml:10: threshold.t.runbook_url: expected an http(s) URL, found "x"
config.toml:11: threshold.audit_gap: the name "audit_gap" is taken by a rule of auditcast's own
config.toml:14: threshold.audit_gap.above: expected a number, found NaN
config.toml:17: threshold.high_failed_login_rate.clear_at: expected at most 50, where it fires
config.toml:18: threshold.high_failed_login_rate.enabled: expected true or false, found 1
"#,
    );
}

#[test]
fn sources() {
    check(
        r#"[[source]]
name = "http"
kind = "stream"
streams = []
[[source]]
name = "a"
kind = "keys"
streams = ["x"]
[[source]]
name = "b"
kind = "channel"
start = "1h"
timezone = "Mars/Base"
[[source]]
name = "c"
kind = "kafka"
path = "x"
[[source]]
name = "d"
kind = "stream"
streams = ["{auditcast}:intake", "s", "s"]
schema = "ecs"
[[source]]
name = "auditcast"
kind = "stream"
streams = ["t"]
"#,
        r#"
config.toml:1: source.http: the name "http" is taken by POST /api/v1/events
config.toml:4: source.http.streams: expected at least one stream, such as ["audit:events"]
config.toml:8: source.a.streams: a source of kind "keys" has no streams, it has pattern
config.toml:9: source.b.pattern: expected the name or glob of a channel, found nothing
config.toml:12: source.b.start: a channel keeps nothing, so it can only be read from "now"
config.toml:13: source.b.timezone: expected the IANA name of a time zone, such as "Europe/Madrid", found "Mars/Base"
config.toml:16: source.c.kind: expected one of "stream", "keys", "channel", "file", found "kafka"
config.toml:21: source.d.streams: "{auditcast}:intake" is one of auditcast's own keys
config.toml:21: source.d.streams: "s" is a stream of the source "d" already
config.toml:22: source.d.schema: expected "auto", found "ecs"
config.toml:23: source.auditcast: the name "auditcast" is taken by auditcast's own events
"#,
    );
    check(
        r#"source = 5
[[threshold]]
name = "x"
metric = "error_ratio"
above = 1979-05-27
"#,
        r#"
config.toml:1: source: expected a table, found 5
config.toml:5: threshold.x.above: expected a number, found a date
"#,
    );
}

#[test]
fn severity_and_privacy() {
    check(
        r#"[severity]
defaults = "b"
[severity.overrides]
"x?" = "worst"
[privacy]
mask = [""]
drop = 1
"#,
        r#"
config.toml:2: severity.defaults: expected one of "full", "a", found "b"
config.toml:4: severity.overrides.x?: expected a pattern where * is the only wildcard, found "x?"
config.toml:4: severity.overrides.x?: expected one of "low", "medium", "high", "critical", found "worst"
config.toml:6: privacy.mask: expected names of 1 to 256 bytes, found ""
config.toml:7: privacy.drop: expected a list of texts, such as ["a", "b"], found 1
"#,
    );
}

#[test]
fn variables() {
    check_env(
        &[
            ("AUDITCAST__MONITOR__INTERVAL", "50ms"),
            ("AUDITCAST__MONITER__INTERVAL", "5s"),
            ("AUDITCAST__X", "1"),
            ("AUDITCAST____Y", "1"),
        ],
        r#"
environment AUDITCAST__MONITER__INTERVAL: moniter: unknown section, did you mean "monitor"?
environment AUDITCAST__MONITOR__INTERVAL: monitor.interval: expected a duration of at least 100ms, found "50ms"
environment AUDITCAST__X: expected a name such as AUDITCAST__SECTION__KEY
environment AUDITCAST____Y: expected a name such as AUDITCAST__SECTION__KEY
"#,
    );
    check_env(
        &[
            ("JWT_EXPIRATION_HOURS", "one"),
            ("AUDIT_LOG_LEVEL", "LOUD"),
            ("RATE_LIMIT_AUTH", "0"),
            ("CORS_ORIGINS", "x"),
            ("SECURITY_HEADERS_ENABLED", "maybe"),
        ],
        r#"
environment AUDIT_LOG_LEVEL: expected one of DEBUG, INFO, WARNING, ERROR, CRITICAL, found "LOUD"
environment CORS_ORIGINS: listen.cors_origins: expected an origin such as "https://admin.example", found "x"
environment JWT_EXPIRATION_HOURS: expected a whole number of hours, found "one"
environment RATE_LIMIT_AUTH: limits.rate_auth: expected a whole number from 1 to 1000000, found "0"
environment SECURITY_HEADERS_ENABLED: listen.security_headers: expected true or false, found "maybe"
"#,
    );
    check_env(
        &[("JWT_SECRET_KEY", "your-super-secret-jwt-key-here")],
        r#"
environment JWT_SECRET_KEY: auth.secret: JWT_SECRET_KEY is the sample text of the guide, which everybody knows; make one of your own
"#,
    );
    check_env(
        &[("JWT_SECRET_KEY", "hunter2"), ("JWT_SECRET_KEY_FILE", "/nowhere/x")],
        r#"
environment JWT_SECRET_KEY: auth.secret: JWT_SECRET_KEY has 7 bytes, at least 32 are needed
environment JWT_SECRET_KEY_FILE: JWT_SECRET_KEY is set as well, one of them must go
"#,
    );
    check_env(
        &[("REDIS_PASSWORD_FILE", "/nowhere/x"), ("REDIS_URL", "redis+cluster://:hunter2@x")],
        r#"
environment REDIS_PASSWORD_FILE: the file "/nowhere/x" cannot be read: No such file or directory (os error 2)
environment REDIS_URL: store.url: redis+cluster:// is not supported yet, use redis:// or rediss:// with the address of one primary
"#,
    );
    check_env(
        &[("AUDITCAST__SOURCE", "nonsense"), ("AUDITCAST__SOURCE__AUDIT__STREAMS", "a,b"), ("AUDITCAST__AUTH__ROLES", "[")],
        r#"
environment AUDITCAST__AUTH__ROLES: auth.roles: expected a table as TOML, found "["
environment AUDITCAST__SOURCE: source: expected a list of tables as TOML, found "nonsense"
environment AUDITCAST__SOURCE__AUDIT__STREAMS: source.audit.streams: expected a list of texts, such as ["a", "b"], found "a,b"
"#,
    );
    check_env(
        &[
            ("AUDITCAST__THRESHOLD", r#"[{ name = "x", metric = "error_ratio", above = "1" }]"#),
            ("AUDITCAST__LIMITS__CONNECTIONS", "many"),
        ],
        r#"
environment AUDITCAST__LIMITS__CONNECTIONS: limits.connections: expected a whole number from 1 to 1000000, found "many"
environment AUDITCAST__THRESHOLD: threshold.x.above: expected a number, found "1"
"#,
    );
}

#[test]
fn files_that_are_not_there_or_cannot_be_read() {
    let error = |sources: Sources| Config::load(sources).unwrap_err().to_string();
    assert_eq!(
        error(Sources { path: Some("/nowhere/c.toml".into()), ..Sources::default() }),
        "/nowhere/c.toml: cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        error(Sources { env_file: Some("/nowhere/.env".into()), ..Sources::default() }),
        "/nowhere/.env: cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        error(Sources { path: Some("/dev/zero".into()), ..Sources::default() }),
        "/dev/zero: cannot be read: it has more than the 1048576 bytes that are allowed"
    );
    let dir = tempfile::tempdir().unwrap();
    let env_file = dir.path().join(".env");
    fs::write(&env_file, "A=b\nREDIS_PASSWORD 'hunter2\n").unwrap();
    let text = error(Sources { env_file: Some(env_file.clone()), ..Sources::default() });
    assert_eq!(text, format!("{}:2: expected NAME=VALUE", env_file.display()));
}

#[test]
fn too_many_metrics_of_ones_own() {
    let file = |n: usize| (0..n).map(|i| format!("[metrics.own_{i:02}]\nevents = [\"a_{i}\"]\n")).collect::<String>();
    assert_eq!(faults(&file(56), &[]), "no fault");
    assert_eq!(faults(&file(57), &[]), "config.toml:113: metrics.own_56: expected at most 56 metrics of your own, found 57");
}

#[test]
fn no_secret_shows_in_any_fault() {
    for (name, value) in [
        ("REDIS_URL", "redis://:hunter2@h:x"),
        ("REDIS_URL", "hunter2"),
        ("REDIS_URL", "redis://u:hunter2/x@h"),
        ("JWT_SECRET_KEY", "hunter2"),
        ("AUDITCAST__AUTH__SECRET", "hunter2"),
        ("AUDITCAST__AUTH__SECRET__X", "hunter2"),
        ("AUDITCAST__STORE__URL", "redis+sentinel://:hunter2@h"),
    ] {
        let text = faults("", &[(name, value)]);
        assert_ne!(text, "no fault", "{name}={value}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_variable_of_a_threshold_that_is_not_there_is_told_which_there_are() {
    check_env(
        &[("AUDITCAST__THRESHOLD__NOPE__ABOVE", "3")],
        r#"
environment AUDITCAST__THRESHOLD__NOPE__ABOVE: threshold.nope.metric: expected the name of a metric, found nothing; without one there is no threshold "nope" yet, there are "high_failed_login_rate", "high_rate_limit_violations"
"#,
    );
    check_env(
        &[("AUDITCAST__THRESHOLD__HIGH_FAILED_LOGINRATE__ABOVE", "3")],
        r#"
environment AUDITCAST__THRESHOLD__HIGH_FAILED_LOGINRATE__ABOVE: threshold.high_failed_loginrate.metric: expected the name of a metric, found nothing; without one there is no threshold "high_failed_loginrate" yet, did you mean "high_failed_login_rate"?
"#,
    );
}
