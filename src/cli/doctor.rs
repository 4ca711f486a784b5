//! `doctor`: whether everything that auditcast stands on is there: a line each, and what to do (contract §1, §9).
//!
//! `--pre` is what must hold before the daemon runs, `--post` what must hold while it does; without either both are looked at,
//! the second part where a daemon answers.

use std::{io::ErrorKind, net::TcpListener};

use clap::Args;

use super::{
    Failure, Global, health,
    reach::{self, Reach},
    terminal,
    tls::At,
    token,
};
use crate::{auth, config::Config, server, source::Kind, store::Target};

mod daemon;
mod people;
mod store;
mod tls;

#[derive(Clone, Debug, Default, Args)]
pub struct Doctor {
    /// Before the daemon runs: configuration, secrets, store, streams, listeners that are free
    #[arg(long, conflicts_with = "post")]
    pub pre: bool,
    /// While the daemon runs: it answers, is ready, goes forward, and lets in whom it should
    #[arg(long)]
    pub post: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
    /// Nothing that a program can see.
    ByHand,
}

#[derive(Default)]
struct Report {
    fails: usize,
}

impl Report {
    /// One line; `remedy` is what to do, empty where nothing needs doing.
    fn tell(&mut self, verdict: Verdict, name: &str, text: &str, remedy: &str) {
        let word = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
            Verdict::ByHand => "by hand",
        };
        self.fails += usize::from(verdict == Verdict::Fail);
        let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
        terminal::line(&terminal::plain(&format!("{word} {name}: {text}{remedy}")));
    }

    fn ok(&mut self, name: &str, text: impl AsRef<str>) {
        self.tell(Verdict::Ok, name, text.as_ref(), "");
    }

    fn warn(&mut self, name: &str, text: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.tell(Verdict::Warn, name, text.as_ref(), remedy.as_ref());
    }

    fn fail(&mut self, name: &str, text: impl AsRef<str>, remedy: impl AsRef<str>) {
        self.tell(Verdict::Fail, name, text.as_ref(), remedy.as_ref());
    }
}

/// What the guides' checklists ask before a deployment and a program cannot see.
const BY_HAND_BEFORE: [(&str, &str); 2] = [
    ("tests", "run tests/run on the version that is to be installed: its last line says 0 failed"),
    ("keys", "JWT_SECRET_KEY, ENCRYPTION_KEY and passwords are made by a generator, kept in a vault, and have a day of renewal"),
];

/// The same, afterwards.
const BY_HAND_AFTER: [(&str, &str); 6] = [
    ("dashboard", "open the page: it says live, and the alert below appears"),
    ("alerts", "auditcast emit auth.suspicious_activity --user doctor: it is on the page at once"),
    ("rate limiting", "sign in six times with a wrong password: the sixth is refused with 429"),
    ("sign-in", "the right password lets in, a wrong one does not, one that is too short is not taken by auditcast user passwd"),
    ("session", "leave the page alone: it warns before the session ends, and renews it when it is used"),
    ("sign-out", "sign out: going back shows the form, and the token is refused"),
];

fn by_hand(report: &mut Report, list: &[(&str, &str)]) {
    for (name, what) in list {
        report.tell(Verdict::ByHand, name, what, "");
    }
}

pub async fn run(global: &Global, args: &Doctor) -> Result<(), Failure> {
    let config = global.load()?;
    let mut report = Report::default();
    report.ok("config", config.path.as_ref().map_or_else(|| "built-in defaults".to_owned(), |path| path.display().to_string()));
    secrets(&mut report, &config);
    if !args.post {
        before(&mut report, &config).await;
    }
    // A daemon's own listeners are taken by itself.
    let answer = match At::ops(&config) {
        Ok(at) if !args.pre => Some(health::get(&at, "/readyz", None).await),
        _ => None,
    };
    match answer {
        Some(Ok(answer)) => daemon::check(&mut report, &config, answer).await,
        Some(Err(text)) if args.post => report.fail("daemon", text, "start it: auditcast serve"),
        None if args.post => report.fail("daemon", "listen.ops takes a free port (0)", "give it a port"),
        _ => listeners(&mut report, &config),
    }
    if args.pre {
        by_hand(&mut report, &BY_HAND_BEFORE);
    }
    if args.post {
        by_hand(&mut report, &BY_HAND_AFTER);
    }
    match report.fails {
        0 => Ok(()),
        1 => Err(Failure::run("1 check failed")),
        n => Err(Failure::run(format!("{n} checks failed"))),
    }
}

/// A's checklist before deployment: what is configured, and what it stands on.
async fn before(report: &mut Report, config: &Config) {
    exposure(report, config);
    tls::check(report, config);
    // To look is not to make.
    let absent = match &config.store.target {
        Target::Embedded(dir) => matches!(std::fs::metadata(dir), Err(error) if error.kind() == ErrorKind::NotFound),
        Target::Redis(_) => false,
    };
    match if absent { None } else { Some(Reach::open(config).await) } {
        None => report.ok("store", format!("{} is not there yet, the first start makes it", config.store_shown())),
        Some(Ok(reach)) => {
            report.ok("store", format!("{} answers and runs scripts", reach.describe()));
            store::check(report, config, &reach).await;
            people::check(report, &reach).await;
            reach.close().await;
        }
        Some(Err(error)) => {
            report.fail("store", format!("{}: {error}", config.store_shown()), reach::remedy(&error));
        }
    }
    if let Target::Embedded(dir) = &config.store.target {
        store::permissions(report, dir);
    }
    for source in &config.sources {
        if let Kind::File { path } = &source.kind {
            store::file(report, &source.name, path);
        }
    }
}

/// Fewer different bytes than this are no random key, however long it is.
const KEY_VARIETY_MIN: usize = 8;
/// A key whose bytes are as unlike as those of so many random bits is well; 32 hexadecimal digits come near 120.
const KEY_BITS_MIN: f64 = 96.0;

/// How unlike a key's bytes are (Shannon), in bits: an upper bound of how hard it is to guess.
fn bits(key: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in key {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let all = key.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count)).map(|n| n * (all / n).log2()).sum()
}

fn secrets(report: &mut Report, config: &Config) {
    match config.secret() {
        Some(secret) => {
            let mut bytes = secret.0.clone();
            bytes.sort_unstable();
            bytes.dedup();
            let text = format!("the signing key has {} bytes", secret.0.len());
            if bytes.len() < KEY_VARIETY_MIN {
                let text = format!("{text}, but only {} different ones", bytes.len());
                report.warn("secret", text, token::HOW_TO_MAKE_A_SECRET);
            } else if bits(&secret.0) < KEY_BITS_MIN {
                let text = format!("{text}, worth at most {:.0} random bits", bits(&secret.0));
                report.warn("secret", text, token::HOW_TO_MAKE_A_SECRET);
            } else {
                report.ok("secret", text);
            }
        }
        None => report.fail("secret", "no signing key is set", token::HOW_TO_MAKE_A_SECRET),
    }
    if let Target::Redis(url) = &config.store.target
        && redis_password(url).is_some_and(|password| auth::is_sample(password.as_bytes()))
    {
        report.warn("secret", "REDIS_PASSWORD is the sample text of the guide, which everybody knows", "set one of your own");
    }
    if config.sign_in.encryption_key.is_none() {
        let remedy =
            "set ENCRYPTION_KEY (openssl rand -base64 32): without it the secrets of second factors lie open in the store";
        report.warn("encryption", "no ENCRYPTION_KEY is set", remedy);
    }
    if config.sample_encryption_key {
        report.warn("secret", "ENCRYPTION_KEY is the sample text of the guide, which everybody knows", "set one of your own");
    }
    // A key in a file that everybody may read is everybody's.
    #[cfg(unix)]
    if let Some(path) = &config.path {
        use std::os::unix::fs::PermissionsExt;
        let here = |o: &crate::config::Origin| matches!(o, crate::config::Origin::File { .. });
        let holds = config.settings().iter().any(|s| s.shown.contains("***") && here(&s.origin));
        let open = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0);
        if holds && open {
            let path = path.display();
            report.warn(
                "secret",
                format!("{path} holds a secret and others may read it"),
                format!("chmod 600 {path}, or put the secret into a file of its own (…_FILE)"),
            );
        }
    }
}

/// Who may come how: what A's checklist asks of the configuration.
fn exposure(report: &mut Report, config: &Config) {
    if let Target::Redis(url) = &config.store.target {
        match redis_exposure(url) {
            None => report.ok("transport", "the way to the store is this machine's own, or encrypted and with a password"),
            Some((text, remedy)) => report.warn("transport", text, remedy),
        }
    }
    if !config.public.ip().is_loopback() && config.public_tls.is_none() {
        let text = format!("{} is reachable from elsewhere, without TLS", config.public);
        report.warn("listen.public", text, "set listen.public_tls, or let only a proxy with TLS reach it");
    }
    let certificates = config.ops_tls.as_ref().is_some_and(|tls| tls.client_required);
    if !config.ops.ip().is_loopback() && !certificates && config.http.metrics_token.is_none() {
        let text = format!("{} is reachable from elsewhere and asks for no token", config.ops);
        report.warn("listen.ops", text, "set listen.metrics_token, or let only your scraper and load balancer reach it");
    }
    match config.http.cors_origins.as_slice() {
        [] => report.ok("origins", "only pages of the host itself may connect"),
        origins => report.ok("origins", format!("pages of {} may connect", origins.join(", "))),
    }
    let http = &config.http;
    let window = humantime::format_duration(http.rates.window);
    let text = format!("{} API requests and {} sign-ins per client in {window}", http.rates.general, http.rates.auth);
    match super::tight_rate(config) {
        Some(text) => report.warn("rate limits", text, "allow 60 a minute or more"),
        None => report.ok("rate limits", text),
    }
    let kept = config.store.alerts_retention;
    let retention = match kept.as_secs() / 86_400 {
        days if days > 1 && kept.as_secs().is_multiple_of(86_400) => format!("{days} days"),
        _ => humantime::format_duration(kept).to_string(),
    };
    report.ok("retention", format!("alerts are kept {retention}, at most {}", config.store.alerts_max));
}

/// The password in a URL of Redis, as it stands there; the guides' sample has nothing in it that would be encoded.
fn redis_password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.split(['/', '?', '#']).next()?.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

/// What an eavesdropper on the way to this Redis would like: (what, what to do).
fn redis_exposure(url: &str) -> Option<(&'static str, &'static str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = match address.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => address.split(':').next()?,
    };
    let here = host.is_empty()
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let password = user.split_once(':').is_some_and(|(_, password)| !password.is_empty());
    match (here, password, scheme == "rediss") {
        (true, ..) | (false, true, true) => None,
        (false, false, _) => {
            Some(("Redis is on another machine and asks for no password", "set one, and give it by REDIS_PASSWORD"))
        }
        (false, true, false) => Some((
            "Redis is on another machine and the way there is not encrypted",
            "use rediss:// unless the network is private",
        )),
    }
}

fn listeners(report: &mut Report, config: &Config) {
    for (name, address) in [("listen.public", config.public), ("listen.ops", config.ops)] {
        match TcpListener::bind(address) {
            Ok(_) => report.ok(name, format!("{address} is free")),
            Err(error) => report.fail(name, format!("{address}: {error}"), server::listen_remedy(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEY_BITS_MIN, bits, redis_exposure};

    #[test]
    fn a_key_is_as_good_as_its_bytes_are_unlike() {
        for (key, good) in [
            ("aB3kZ9q+1mXw7Lp0RtYs5VhNcE2uJfDgQ8oTiK4lMzUxWyPbHnGvCeSrAdFjOIa6", true),
            ("9f86d081884c7d659a2feaa0c55ad015", true),
            ("abababababababababababababababababababab", false),
            ("00000000000000000000000000000000000000000000000000000000passwort", false),
        ] {
            assert_eq!(bits(key.as_bytes()) >= KEY_BITS_MIN, good, "{key}: {}", bits(key.as_bytes()));
        }
    }

    #[test]
    fn a_store_elsewhere_wants_a_password_and_tls() {
        for (url, well) in [
            ("redis://127.0.0.1:6379/0", true),
            ("redis://localhost", true),
            ("redis://[::1]:6379", true),
            ("redis://:p@10.0.0.5:6379", false),
            ("rediss://10.0.0.5:6379", false),
            ("rediss://user:@redis.internal", false),
            ("rediss://:p@redis.internal:6380/1", true),
            ("redis://[2001:db8::1]:6379", false),
        ] {
            assert_eq!(redis_exposure(url).is_none(), well, "{url}");
        }
    }
}
