//! The documented defaults are the contract's numbers, and a file or a variable changes exactly what it names.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use auditcast::{
    auth::{
        journal::Options as Journal,
        people::{attempts::Limits, password::Policy},
    },
    config::{Config, Sources},
    detect::Bound,
    event::{Lists, Severity},
    source::{Kind, Start},
    store::Target,
};

fn with(env: &[(&str, &str)], file: Option<&str>) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = file.map(|text| {
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        path
    });
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Config::load(Sources { path, env, ..Sources::default() }).unwrap_or_else(|error| panic!("{error}"))
}

fn origin(config: &Config, key: &str) -> String {
    let setting = config.settings().iter().find(|s| s.key == key).unwrap_or_else(|| panic!("no {key}"));
    format!("{} {}", setting.shown, setting.origin)
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HOUR_MS: u64 = 3_600_000;

#[test]
fn defaults_are_the_contracts() {
    let config = with(&[], None);
    assert!(matches!(&config.store.target, Target::Redis(url) if url == "redis://127.0.0.1:6379/0"));
    assert_eq!(config.store.prefix, "{auditcast}");
    assert_eq!(config.store.lease_ttl, Duration::from_secs(5));
    assert_eq!(config.store.alerts_retention, Duration::from_secs(90 * 86_400));
    assert_eq!(config.store.alerts_max, 1_000_000);
    assert_eq!(config.store.dead_letters_max, 10_000);
    assert_eq!(config.public.to_string(), "127.0.0.1:8787");
    assert_eq!(config.ops.to_string(), "127.0.0.1:9787");
    assert_eq!(config.http.external_url, None);
    assert!(config.http.security_headers);
    assert_eq!((config.http.rates.general, config.http.rates.window), (600, Duration::from_secs(60)));
    let rates = &config.http.rates;
    assert_eq!((rates.auth, rates.connections, rates.endpoints.len()), (5, 300, 0));
    assert_eq!(config.http.body_bytes_max, 1 << 20);
    assert!(config.public_tls.is_none() && config.ops_tls.is_none() && config.http.metrics_token.is_none());
    assert!(config.http.proxies.trusted.is_empty() && !config.http.proxies.protocol);
    assert_eq!((config.http.sockets_per_address_max, config.session.connections_per_address_max), (500, 500));
    assert_eq!(config.http.rates.auth, 5);
    assert_eq!(config.sign_in.session_timeout, Duration::from_secs(30 * 60));
    assert_eq!(config.sign_in.refresh_ttl, Duration::from_secs(10_080 * 60));
    assert_eq!((config.sign_in.access_ttl, config.sign_in.bcrypt_cost), (Duration::from_secs(30 * 60), 12));
    let policy = Policy { min_length: 8, require_special: true, require_numbers: true, require_uppercase: true };
    assert_eq!(config.sign_in.policy, policy);
    let lockout = Limits { failures: 5, window_ms: 900_000, first_ms: 60_000, longest_ms: HOUR_MS };
    assert_eq!(config.sign_in.lockout, lockout);
    assert_eq!(config.sign_in.encryption_key, None);

    let detect = &config.detect;
    assert_eq!((detect.interval_ms, detect.snapshot_interval_ms), (5_000, 60_000));
    assert_eq!((detect.alert_events_at, detect.event_alert_ttl_ms, detect.suppress_ms), (Severity::High, HOUR_MS, 0));
    assert_eq!(detect.session_timeout_ms, 30 * 60_000);
    assert_eq!(config.monitor.source_lag_max, Duration::from_secs(10));
    let counts: Vec<(&str, u32, u64)> = detect.counts.iter().map(|c| (c.name.as_str(), c.list, c.window_ms)).collect();
    assert_eq!(
        counts,
        [
            ("failed_logins_last_hour", 0, HOUR_MS),
            ("rate_limit_violations", 2, HOUR_MS),
            ("permission_violations", 3, HOUR_MS),
            ("suspicious_activities", 4, HOUR_MS),
            ("session_timeouts", 5, HOUR_MS),
        ]
    );
    let windows = ["auth_success_ratio", "error_ratio", "events_by_category", "events_by_severity", "operation_p95_seconds"];
    assert_eq!(detect.windows_ms, windows.map(|name| (name.to_owned(), HOUR_MS)).into());

    let [logins, limits] = &detect.thresholds[..] else { panic!("{:?}", detect.thresholds) };
    assert_eq!((logins.name.as_str(), logins.metric.as_str()), ("high_failed_login_rate", "failed_logins_last_hour"));
    assert_eq!((logins.bound, logins.clear_at, logins.severity), (Bound::Above(50.0), 50.0, Severity::High));
    assert_eq!((logins.for_ms, logins.keep_firing_for_ms, logins.min_count), (0, 300_000, 0));
    assert_eq!(logins.message.as_deref(), Some("High failed login rate detected: {value} in last hour"));
    assert_eq!((limits.name.as_str(), limits.metric.as_str()), ("high_rate_limit_violations", "rate_limit_violations"));
    assert_eq!((limits.bound, limits.clear_at, limits.severity), (Bound::Above(100.0), 100.0, Severity::Medium));
    assert_eq!(limits.message.as_deref(), Some("High rate limit violations: {value}"));
    assert!(logins.enabled && limits.enabled);

    assert_eq!(config.session.events_rate, 500);
    assert_eq!(config.session.ping_interval, Duration::from_secs(25));
    assert_eq!(config.session.idle_timeout, Duration::from_secs(60));
    assert_eq!(config.session.auth_timeout, Duration::from_secs(5));
    assert_eq!(config.session.frame_bytes_max, 16 << 10);
    assert_eq!(config.session.connections_per_user_max, 20);

    assert_eq!(detect.sources, ["audit", "http", "auditcast"]);
    let [audit, http, own] = &config.sources[..] else { panic!("{:?}", config.sources) };
    assert_eq!(audit.kind, Kind::Stream { streams: vec!["audit:events".to_owned()] });
    assert_eq!(audit.start, Start::Ago(Duration::from_secs(3600)));
    assert_eq!(http.kind, Kind::Http);
    assert_eq!(own.kind, Kind::Journal);
    let journal = Journal { enabled: true, burst: 100, rate: 2, queue: 10_000 };
    assert_eq!(config.journal, journal);

    assert!(config.secret().is_none() && config.auth().is_none());
    let auth = config.auth_with(auditcast::auth::Secret(vec![7; 32]));
    assert_eq!(auth.max_age, Duration::from_secs(24 * 3600));
    assert!(auth.leeway <= Duration::from_secs(60));
    assert_eq!((auth.jwks_refresh, auth.remotes.len()), (Duration::from_secs(600), 0));
    assert_eq!(auth.roles["ADMIN"].len(), 8);
    assert!(auth.roles["ADMIN"].contains(&"audit.view".to_owned()));
    assert_eq!(auth.roles["OBSERVER"], ["session.view", "data.view"]);
    assert_eq!((config.log.level.as_str(), config.log.json), ("info", false));
}

#[test]
fn lists_of_the_contract_stand_at_their_bits() {
    let event = with(&[], None).event;
    let counts: Vec<(usize, usize)> = event.lists.iter().map(|l| (l.events.len(), l.except.len())).collect();
    assert_eq!(counts, [(22, 10), (17, 0), (4, 12), (12, 0), (24, 0), (5, 0), (3, 0), (12, 0)]);
    let first = |list: Lists| event.lists[list.0.trailing_zeros() as usize].events[0].as_str();
    assert_eq!(first(Lists::FAILED_LOGIN), "auth_fail*");
    assert_eq!(first(Lists::SUCCESSFUL_LOGIN), "login");
    assert_eq!(first(Lists::RATE_LIMIT), "*rate_limit*");
    assert_eq!(first(Lists::PERMISSION), "*permission_denied");
    assert_eq!(first(Lists::SUSPICIOUS), "auth_multiple_failed_attempts");
    assert_eq!(first(Lists::SESSION_TIMEOUT), "*session_timeout");
    assert_eq!(first(Lists::SESSION_OPEN), "*session_created");
    assert_eq!(first(Lists::SESSION_END), "*session_destroyed");
    assert!(event.table && !event.event_may_lower);
    // The room's own copy, for whoever has no file, is the documented one.
    assert_eq!(event.lists, auditcast::event::Options::contract().lists);
    assert_eq!(with(&[], None).auth_with(auditcast::auth::Secret(vec![7; 32])).roles, auditcast::auth::Options::default_roles());
}

/// What this accepts, the room can make something of; and the other way round for what it refuses.
#[test]
fn patterns_are_what_the_classifier_takes() {
    let file = "[metrics.own]\nevents = [\"Auth.Fail*\", \"a*b*c\", \"*\", \"*é*\"]\n[severity.overrides]\n\"A.b\" = \"low\"\n";
    assert!(auditcast::event::Classifier::new(with(&[], Some(file)).event).is_ok());
}

#[test]
fn a_file_changes_what_it_names() {
    let config = with(
        &[],
        Some(
            r#"
[[source]]
name = "app"
kind = "stream"
streams = ["app:*"]
start = "earliest"
timezone = "Europe/Madrid"

[[source]]
name = "guide"
kind = "keys"

[metrics.failed_logins_last_hour]
window = "30m"

[metrics.payments]
events = ["payment_*"]

[[threshold]]
name = "high_failed_login_rate"
below = 5
clear_at = 8

[[threshold]]
name = "payments_stopped"
metric = "payments"
below = 1
for = "10m"
labels = { team = "shop" }

[severity.overrides]
"payroll_*" = "critical"
"pay*" = "low"
"#,
        ),
    );
    assert_eq!(config.detect.sources, ["app", "guide", "http", "auditcast"]);
    assert_eq!(config.sources[0].start, Start::Earliest);
    assert_eq!(config.sources[1].kind, Kind::Keys { pattern: "audit:event:*".to_owned() });
    assert_eq!(config.sources[1].start, Start::Now);
    let logins = &config.detect.thresholds[0];
    assert_eq!((logins.bound, logins.clear_at, logins.severity), (Bound::Below(5.0), 8.0, Severity::High));
    assert_eq!(logins.message.as_deref(), Some("High failed login rate detected: {value} in last hour"));
    let own = &config.detect.thresholds[2];
    assert_eq!((own.for_ms, own.message.as_deref(), own.severity), (600_000, None, Severity::Medium));
    assert_eq!(own.labels["team"], "shop");
    assert_eq!(config.detect.counts[0].window_ms, 1_800_000);
    let payments = &config.detect.counts[5];
    assert_eq!((payments.name.as_str(), payments.list, payments.window_ms), ("payments", Lists::FIRST_OWN, HOUR_MS));
    assert_eq!(config.event.lists[8].events, ["payment_*"]);
    assert_eq!(config.event.lists[0].events.len(), 22, "the default's list stays");
    let overrides: Vec<_> = config.event.overrides.iter().map(|(p, s)| (p.as_str(), *s)).collect();
    assert_eq!(overrides, [("payroll_*", Severity::Critical), ("pay*", Severity::Low)], "in the file's order");
}

#[test]
fn the_edge_is_set_by_file_and_variables() {
    let token = tempfile::NamedTempFile::new().unwrap();
    fs::write(token.path(), "0123456789abcdef-metrics\n").unwrap();
    let config = with(
        &[
            ("AUDITCAST__LISTEN__METRICS_TOKEN_FILE", token.path().to_str().unwrap()),
            ("AUDITCAST__LISTEN__TRUSTED_PROXIES", "[\"10.0.0.0/8\", \"2001:db8::1\"]"),
            ("AUDITCAST__LISTEN__PROXY_PROTOCOL", "true"),
            ("AUDITCAST__LISTEN__OPS_TLS__CERTIFICATE", "/c.pem"),
            ("AUDITCAST__LISTEN__OPS_TLS__KEY", "/k.pem"),
        ],
        Some(
            r#"
[listen.public_tls]
certificate = "cert.pem"
key = "key.pem"
client_ca = "ca.pem"
client_required = true
min_version = "1.3"
[limits.rate_endpoints]
events = 6000
"#,
        ),
    );
    let public = config.public_tls.as_ref().unwrap();
    assert_eq!(public.certificate.to_str(), Some("cert.pem"));
    assert!(public.client_ca.is_some() && public.client_required && public.only_13);
    let ops = config.ops_tls.as_ref().unwrap();
    assert!(ops.client_ca.is_none() && !ops.client_required && !ops.only_13);
    assert_eq!(config.http.proxies.trusted, ["10.0.0.0/8".parse().unwrap(), "2001:db8::1/128".parse().unwrap()]);
    assert!(config.http.proxies.protocol);
    assert_eq!(config.http.metrics_token.as_deref(), Some(&b"0123456789abcdef-metrics"[..]));
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert_eq!(config.http.rates.endpoints, [("events".to_owned(), 6000)]);
}

#[test]
fn the_guides_variables_count() {
    let config = with(
        &[
            ("REDIS_URL", "redis://redis.internal:6380/2"),
            ("REDIS_PASSWORD", "s3cret/pw"),
            ("JWT_SECRET_KEY", "0123456789abcdef0123456789abcdef"),
            ("JWT_EXPIRATION_HOURS", "12"),
            ("SESSION_TIMEOUT_MINUTES", "45"),
            ("REFRESH_TOKEN_MINUTES", "60"),
            ("RATE_LIMIT_GENERAL", "10"),
            ("RATE_LIMIT_AUTH", "3"),
            ("RATE_LIMIT_WINDOW", "30"),
            ("AUDIT_LOG_RETENTION_DAYS", "30"),
            ("AUDIT_LOG_LEVEL", "WARNING"),
            ("SECURITY_HEADERS_ENABLED", "False"),
            ("CORS_ORIGINS", "https://a.example, https://B.example:443/"),
            ("ENCRYPTION_KEY", "an-archive-key"),
            ("ENCRYPTION_ALGORITHM", "AES-256-GCM"),
            ("HOME", "/nowhere"),
        ],
        None,
    );
    assert!(matches!(&config.store.target, Target::Redis(url) if url == "redis://:s3cret%2Fpw@redis.internal:6380/2"));
    assert_eq!(config.store_shown(), "redis://***@redis.internal:6380/2");
    let auth = config.auth().expect("a signing key is set");
    assert_eq!(auth.max_age, Duration::from_secs(12 * 3600));
    assert_eq!(config.detect.session_timeout_ms, 45 * 60_000);
    assert_eq!(config.sign_in.refresh_ttl, Duration::from_secs(3600));
    assert_eq!((config.http.rates.general, config.http.rates.auth, config.http.rates.auth), (10, 3, 3));
    assert_eq!(config.http.rates.window, Duration::from_secs(30));
    assert_eq!(config.store.alerts_retention, Duration::from_secs(30 * 86_400));
    assert_eq!(config.log.level, "warn");
    assert!(!config.http.security_headers);
    assert_eq!(config.http.cors_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.session.origins, config.http.cors_origins);
    let debug = format!("{config:?}");
    for secret in ["s3cret", "0123456789abcdef", "an-archive-key"] {
        assert!(!debug.contains(secret), "{secret} shows in Debug");
        assert!(config.settings().iter().all(|s| !s.shown.contains(secret)), "{secret} shows");
    }
}

/// A file of the guides with keys of one's own in it.
fn own_keys(text: &str) -> String {
    ["your-super-secure-jwt-secret-key-here", "your-super-secret-jwt-key-here"]
        .iter()
        .fold(text.to_owned(), |text, sample| text.replace(sample, SECRET))
}

/// The guides' own files, as they print them. Their sample signing keys are refused, and nothing else is.
#[test]
fn the_guides_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".env");
    let load = |text: &str| {
        fs::write(&path, text).unwrap();
        let path = path.clone();
        Config::load(Sources { env_file: Some(path), ..Sources::default() }).map_err(|error| error.to_string())
    };
    let a = "# JWT Configuration\nJWT_SECRET_KEY=your-super-secure-jwt-secret-key-here\nJWT_EXPIRATION_HOURS=24\n\n\
             # Encryption Configuration\nENCRYPTION_KEY=your-aes-256-encryption-key-here\nENCRYPTION_ALGORITHM=AES-256-GCM\n\n\
             # Rate Limiting\nRATE_LIMIT_GENERAL=10\nRATE_LIMIT_AUTH=5\nRATE_LIMIT_WINDOW=60\n\n\
             # Audit Logging\nAUDIT_LOG_RETENTION_DAYS=90\nAUDIT_LOG_LEVEL=INFO\n\n\
             # Security Headers\nSECURITY_HEADERS_ENABLED=true\nCORS_ORIGINS=https://your-frontend-domain.com\n\n\
             # Redis Configuration\nREDIS_URL=redis://localhost:6379/0\nREDIS_PASSWORD=your-redis-password\n";
    let b = "# JWT Security\nJWT_SECRET_KEY=your-super-secret-jwt-key-here\nENCRYPTION_KEY=your-fernet-encryption-key-here\n\n\
             # Session Configuration\nSESSION_TIMEOUT_MINUTES=30\nREFRESH_TOKEN_MINUTES=10080  # 7 days\n";
    for text in [a, b] {
        let error = load(text).unwrap_err();
        assert!(error.contains("JWT_SECRET_KEY: auth.secret: JWT_SECRET_KEY is the sample text of the guide"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        let config = load(&own_keys(text)).unwrap();
        assert!(config.sample_encryption_key);
        assert_eq!(config.sign_in.refresh_ttl, Duration::from_secs(7 * 86_400));
    }
    let config = load(&own_keys(a)).unwrap();
    assert_eq!((config.http.rates.general, config.http.cors_origins.len()), (10, 1));
    assert!(matches!(&config.store.target, Target::Redis(url) if url == "redis://:your-redis-password@localhost:6379/0"));
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(
        &path,
        "[monitor]\ninterval = \"2s\"\nsuppress = \"1s\"\n[listen]\npublic = \"127.0.0.1:1\"\nops = \"127.0.0.1:2\"\n",
    )
    .unwrap();
    let env_file = dir.path().join(".env");
    fs::write(&env_file, "AUDITCAST__MONITOR__INTERVAL=3s\nRATE_LIMIT_AUTH=9 # nine\nREDIS_URL=\"redis://file:1\"\n").unwrap();
    let env: BTreeMap<String, String> = [
        ("AUDITCAST__MONITOR__INTERVAL", "4s"),
        ("AUDITCAST__LISTEN__OPS", "127.0.0.1:3"),
        ("AUDITCAST__THRESHOLD__HIGH_FAILED_LOGIN_RATE__ABOVE", "80"),
        ("AUDITCAST__SOURCE__AUDIT__STREAMS", "[\"a\", \"b\"]"),
        ("AUDITCAST__SEVERITY__OVERRIDES", "{ \"x_*\" = \"low\" }"),
        ("JWT_SECRET_KEY", ""),
    ]
    .into_iter()
    .map(|(n, v)| (n.to_owned(), v.to_owned()))
    .collect();
    let overrides = vec![("listen.public".to_owned(), "127.0.0.1:0".to_owned(), "--port".to_owned())];
    let config = Config::load(Sources { path: Some(path.clone()), env, env_file: Some(env_file.clone()), overrides }).unwrap();
    let file = path.display();
    for (key, wanted) in [
        ("monitor.interval", "\"4s\" environment AUDITCAST__MONITOR__INTERVAL".to_owned()),
        ("monitor.suppress", format!("\"1s\" {file}:3")),
        ("listen.public", "\"127.0.0.1:0\" command line --port".to_owned()),
        ("listen.ops", "\"127.0.0.1:3\" environment AUDITCAST__LISTEN__OPS".to_owned()),
        ("limits.rate_auth", format!("9 {} RATE_LIMIT_AUTH", env_file.display())),
        ("store.url", format!("\"redis://file:1\" {} REDIS_URL", env_file.display())),
        (
            "threshold.high_failed_login_rate.above",
            "80 environment AUDITCAST__THRESHOLD__HIGH_FAILED_LOGIN_RATE__ABOVE".to_owned(),
        ),
        ("source.audit.streams", "[\"a\", \"b\"] environment AUDITCAST__SOURCE__AUDIT__STREAMS".to_owned()),
        ("severity.overrides.x_*", "\"low\" environment AUDITCAST__SEVERITY__OVERRIDES".to_owned()),
    ] {
        assert_eq!(origin(&config, key), wanted, "{key}");
    }
    assert!(origin(&config, "monitor.max_source_lag").starts_with("\"10s\" default"));
    assert!(config.secret().is_none(), "an empty variable is not set");
}

#[test]
fn secrets_may_stand_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("jwt");
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let secret = secret.to_str().unwrap();
    for name in ["JWT_SECRET_KEY_FILE", "AUDITCAST__AUTH__SECRET_FILE"] {
        let config = with(&[(name, secret)], None);
        assert_eq!(config.secret().map(|s| s.0.len()), Some(32), "{name}: without the newline");
        assert_eq!(origin(&config, "auth.secret"), format!("\"***\" environment {name}"));
    }
}

#[test]
fn secrets_of_before_and_further_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    assert!(with(&[], None).auth_with(auditcast::auth::Secret(vec![7; 32])).previous_secrets.is_empty());
    let (one, two) = ("1123456789abcdef0123456789abcdef", "2123456789abcdef0123456789abcdef");
    let lines = file("previous", &format!("{one}\n\n {two} \n"));
    let list = format!("[\"{one}\", '{two}']");
    for (name, value) in [("AUDITCAST__AUTH__PREVIOUS_SECRETS_FILE", &lines), ("AUDITCAST__AUTH__PREVIOUS_SECRETS", &list)] {
        let config = with(&[(name, value), ("JWT_SECRET_KEY", SECRET)], None);
        let previous: Vec<_> = config.auth().unwrap().previous_secrets.into_iter().map(|secret| secret.0).collect();
        assert_eq!(previous, [one.as_bytes(), two.as_bytes()], "{name}");
        assert_eq!(origin(&config, "auth.previous_secrets"), format!("[\"***\", \"***\"] environment {name}"));
        assert!(!format!("{config:?}").contains("123456789abcdef"));
    }

    // Ed25519, RFC 8037 A.2.
    let jwk = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"ed"}]}"#;
    let pem =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let (pem_file, jwks_file) = (file("pem", pem), file("jwks", jwk));
    let text =
        format!("[auth.keys.file]\npem_file = \"{pem_file}\"\nkid = \"f\"\n[auth.keys.set]\njwks_file = \"{jwks_file}\"\n");
    let config = with(&[("AUDITCAST__AUTH__KEYS__HERE__PEM", pem), ("JWT_SECRET_KEY", SECRET)], Some(&text));
    let keys = config.auth().unwrap().keys;
    let shown: Vec<String> = keys.iter().map(|key| format!("{} {}", key.from(), key.kid().unwrap_or("-"))).collect();
    assert_eq!(shown, ["auth.keys.file f", "auth.keys.set ed", "auth.keys.here -"]);
    assert!(origin(&config, "auth.keys.set.jwks_file").starts_with(&format!("\"{jwks_file}\" ")));
    let remote = with(&[("AUDITCAST__AUTH__KEYS__IDP__JWKS_URL", "https://idp.example/keys"), ("JWT_SECRET_KEY", SECRET)], None);
    let shown: Vec<String> = remote.auth().unwrap().remotes.iter().map(|r| format!("{} {:?}", r.from, r.endpoint)).collect();
    assert_eq!(shown, ["auth.keys.idp https://idp.example/keys"]);
    // What stands in a file counts, not only its name.
    let again = || with(&[("AUDITCAST__AUTH__KEYS__HERE__PEM", pem), ("JWT_SECRET_KEY", SECRET)], Some(&text));
    assert_eq!(Config::diff(&config, &again()).live, [""; 0]);
    file("jwks", &jwk.replace("\"ed\"", "\"ed2\""));
    let new = again();
    assert_eq!(Config::diff(&config, &new).live, ["auth.keys.set.jwks_file"]);
    assert_eq!(config.with_live(&new).unwrap().auth().unwrap().keys[1].kid(), Some("ed2"));
    let without = with(&[("JWT_SECRET_KEY", one), ("AUDITCAST__AUTH__PREVIOUS_SECRETS", &format!("['{SECRET}']"))], None);
    let applied = config.with_live(&without).unwrap().auth().unwrap();
    assert_eq!((applied.keys.len(), applied.previous_secrets.len(), applied.secret.0.as_slice()), (0, 1, one.as_bytes()));
}

#[test]
fn the_default_file_given_as_a_file_changes_nothing() {
    let named = Config::load(Sources {
        path: Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml"))),
        ..Sources::default()
    })
    .unwrap();
    let built_in = with(&[], None);
    assert_eq!(Config::diff(&built_in, &named), Default::default());
    assert_eq!(built_in.fingerprint(), named.fingerprint());
    assert_eq!(built_in.config_hash(), named.config_hash());
}

#[test]
fn a_reload_tells_what_is_live_from_what_needs_a_restart() {
    let old = with(&[], Some("[metrics.payments]\nevents = [\"payment_*\"]\n"));
    let new = with(
        &[("JWT_SECRET_KEY", "0123456789abcdef0123456789abcdef")],
        Some(
            "[metrics.payments]\nevents = [\"pay_*\"]\nwindow = \"2h\"\n[metrics.orders]\nevents = [\"order_*\"]\n\
             [monitor]\ninterval = \"1s\"\nalert_events_at = \"low\"\n[log]\nlevel = \"debug\"\n[privacy]\nmask = [\"iban\"]\n\
             [[threshold]]\nname = \"high_failed_login_rate\"\nabove = 80\n[alerts]\nretention = \"2160h\"\n",
        ),
    );
    let diff = Config::diff(&old, &new);
    assert_eq!(
        diff.live,
        [
            "auth.secret",
            "log.level",
            "metrics.payments.events",
            "monitor.alert_events_at",
            "privacy.mask",
            "threshold.high_failed_login_rate.above"
        ]
    );
    assert_eq!(diff.restart, ["metrics.orders.events", "metrics.payments.window", "monitor.interval"]);
    let applied = old.with_live(&new).unwrap();
    assert_eq!(Config::diff(&old, &applied).restart, [""; 0]);
    assert_eq!(Config::diff(&old, &applied).live, diff.live);
    assert_eq!(Config::diff(&applied, &new).live, [""; 0]);
    assert_eq!(applied.detect.thresholds[0].bound, Bound::Above(80.0));
    assert_eq!((applied.detect.interval_ms, applied.detect.counts.len()), (5000, 6));
    assert_ne!(old.fingerprint(), applied.fingerprint());

    let names_a_new_metric =
        with(&[], Some("[metrics.orders]\nevents = [\"o_*\"]\n[[threshold]]\nname = \"few\"\nmetric = \"orders\"\nbelow = 1\n"));
    // What stands on a metric that only a restart makes waits with it; the rest is applied.
    let diff = Config::diff(&old, &names_a_new_metric);
    assert_eq!(diff.waiting, [("few".to_owned(), "orders".to_owned())]);
    assert!(diff.restart.contains(&"threshold.few.below".to_owned()), "{:?}", diff.restart);
    assert!(!diff.live.iter().any(|key| key.starts_with("threshold.few")), "{:?}", diff.live);
    let applied = old.with_live(&names_a_new_metric).unwrap();
    assert!(applied.detect.thresholds.iter().all(|t| t.name != "few"));
    assert_eq!(applied.detect.counts.len(), old.detect.counts.len());
}

#[test]
fn a_threshold_that_moves_to_a_new_metric_stays_where_it_is_until_a_restart() {
    let old = with(&[], None);
    let new = with(
        &[],
        Some(
            "[metrics.orders]\nevents = [\"o_*\"]\n[log]\nlevel = \"debug\"\n\
             [[threshold]]\nname = \"high_failed_login_rate\"\nmetric = \"orders\"\nabove = 7\n",
        ),
    );
    let applied = old.with_live(&new).unwrap();
    assert_eq!(applied.detect.thresholds, old.detect.thresholds);
    assert_eq!(applied.log.level, "debug");
    assert_eq!(Config::diff(&old, &new).live, ["log.level"]);
}

#[test]
fn the_fingerprint_is_of_what_decides() {
    let base = with(&[], None).fingerprint();
    assert_eq!(base.len(), 16);
    for (text, same) in [
        ("[listen]\nops = \"127.0.0.1:1\"\n", true),
        ("[log]\nlevel = \"debug\"\n", true),
        ("[monitor]\ninterval = \"5000ms\"\n", true),
        ("[monitor]\ninterval = \"4s\"\n", false),
        ("[severity]\ndefaults = \"a\"\n", false),
        ("[metrics.error_ratio]\nwindow = \"2h\"\n", false),
        ("[[source]]\nname = \"audit\"\nkind = \"stream\"\nstreams = [\"other\"]\n", false),
    ] {
        assert_eq!(with(&[], Some(text)).fingerprint() == base, same, "{text}");
    }
}
