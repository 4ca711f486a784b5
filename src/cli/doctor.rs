//! `doctor`: whether everything that auditcast stands on is there: a line each, and what to do.

use std::{net::TcpListener, path::Path};

use clap::Args;

use super::{
    Failure, Global, health,
    reach::{Reach, is_glob},
    terminal, token,
};
use crate::{
    config::Config,
    metrics::unix_ms,
    source::{Kind, Options as Source},
    store::Target,
};

/// Beyond this an event's own time and its arrival tell different stories.
const SKEW_WARN_MS: u64 = 1_000;
/// Beyond this an entry's id is from the future (contract §4).
const SKEW_FAIL_MS: u64 = 5_000;

#[derive(Clone, Debug, Default, Args)]
pub struct Doctor {
    /// Before the daemon runs: its listeners must be free
    #[arg(long, conflicts_with = "post")]
    pub pre: bool,
    /// While the daemon runs: it must answer and be ready
    #[arg(long)]
    pub post: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
struct Finding {
    verdict: Verdict,
    name: String,
    text: String,
    /// What to do; empty where nothing needs doing.
    remedy: String,
}

#[derive(Default)]
struct Report {
    fails: usize,
}

impl Report {
    fn tell(&mut self, finding: Finding) {
        let word = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        self.fails += usize::from(finding.verdict == Verdict::Fail);
        let remedy = if finding.remedy.is_empty() { String::new() } else { format!("; {}", finding.remedy) };
        terminal::line(&terminal::plain(&format!("{word} {}: {}{remedy}", finding.name, finding.text)));
    }

    fn ok(&mut self, name: &str, text: impl Into<String>) {
        self.tell(Finding { verdict: Verdict::Ok, name: name.to_owned(), text: text.into(), remedy: String::new() });
    }

    fn warn(&mut self, name: &str, text: impl Into<String>, remedy: impl Into<String>) {
        self.tell(Finding { verdict: Verdict::Warn, name: name.to_owned(), text: text.into(), remedy: remedy.into() });
    }

    fn fail(&mut self, name: &str, text: impl Into<String>, remedy: impl Into<String>) {
        self.tell(Finding { verdict: Verdict::Fail, name: name.to_owned(), text: text.into(), remedy: remedy.into() });
    }
}

pub async fn run(global: &Global, args: &Doctor) -> Result<(), Failure> {
    let config = global.load()?;
    let mut report = Report::default();
    report.ok("config", config.path.as_ref().map_or_else(|| "built-in defaults".to_owned(), |path| path.display().to_string()));
    secrets(&mut report, &config);
    match Reach::open(&config).await {
        Ok(store) => {
            report.ok("store", format!("{} answers and runs scripts", store.describe()));
            clock(&mut report, &store).await;
            for source in &config.sources {
                streams(&mut report, &store, source).await;
            }
            store.close().await;
        }
        Err(error) => {
            let remedy = match &config.store.target {
                Target::Redis(_) => "start it, or correct REDIS_URL and REDIS_PASSWORD",
                Target::Embedded(_) => "make the directory writable, or correct store.url",
            };
            report.fail("store", format!("{}: {error}", config.store_shown()), remedy);
        }
    }
    for source in &config.sources {
        if let Kind::File { path } = &source.kind {
            file(&mut report, &source.name, path);
        }
    }
    listeners(&mut report, &config, args).await;
    match report.fails {
        0 => Ok(()),
        1 => Err(Failure::run("1 check failed")),
        n => Err(Failure::run(format!("{n} checks failed"))),
    }
}

fn secrets(report: &mut Report, config: &Config) {
    match config.secret() {
        Some(secret) => report.ok("secret", format!("the signing key has {} bytes", secret.0.len())),
        None => report.fail("secret", "no signing key is set", token::HOW_TO_MAKE_A_SECRET),
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
                format!("chmod 600 {path}, or use JWT_SECRET_KEY_FILE"),
            );
        }
    }
}

async fn clock(report: &mut Report, store: &Reach) {
    let before = unix_ms();
    match store.now_ms().await {
        Err(error) => report.fail("clock", error.to_string(), "see the store"),
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

async fn streams(report: &mut Report, store: &Reach, source: &Source) {
    let name = format!("source {}", source.name);
    let Kind::Stream { streams: names } = &source.kind else { return };
    let found = match store.streams(names).await {
        Ok(found) => found,
        Err(error) => return report.fail(&name, error.to_string(), "let the user of auditcast read it (ACL)"),
    };
    for (stream, info) in found {
        match info {
            Ok(Some(info)) => report.ok(&name, format!("the stream {stream} has {} entries", info.length)),
            Ok(None) if is_glob(&stream) => {
                report.warn(&name, format!("no stream matches {stream} yet"), "it is read once it is there")
            }
            Ok(None) => {
                let remedy = "it is read once it is there; check that the application writes to this name";
                report.warn(&name, format!("there is no stream {stream} yet"), remedy);
            }
            Err(fault) => {
                report.fail(&name, format!("{stream} cannot be read: {fault}"), "name a stream, and let auditcast's user read it")
            }
        }
    }
}

fn file(report: &mut Report, source: &str, path: &Path) {
    let name = format!("source {source}");
    match std::fs::File::open(path) {
        Ok(_) => report.ok(&name, format!("the file {} can be read", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.warn(&name, format!("there is no file {} yet", path.display()), "it is read once it is there");
        }
        Err(error) => report.fail(&name, format!("{}: {error}", path.display()), "let the user of auditcast read it"),
    }
}

async fn listeners(report: &mut Report, config: &Config, args: &Doctor) {
    let answer = match health::ops_url(config.ops) {
        Ok(url) if !args.pre => Some(health::get(&url, "/readyz").await),
        Ok(_) => None,
        Err(_) if args.post => {
            return report.fail("daemon", "listen.ops takes a free port (0)", "give it a port, or ask with health --url");
        }
        Err(_) => None,
    };
    match answer {
        Some(Ok((status, _))) if status.is_success() => report.ok("daemon", format!("it answers at {} and is ready", config.ops)),
        Some(Ok((status, body))) => {
            let body: String = body.trim().chars().take(500).collect();
            report.fail("daemon", format!("{} answers {}: {body}", config.ops, status.as_u16()), "see its log");
        }
        Some(Err(text)) if args.post => report.fail("daemon", text, "start it: auditcast serve"),
        _ => {
            for (name, address) in [("listen.public", config.public), ("listen.ops", config.ops)] {
                match TcpListener::bind(address) {
                    Ok(_) => report.ok(name, format!("{address} is free")),
                    Err(error) => report.fail(name, format!("{address}: {error}"), "take another port, or end who has it"),
                }
            }
        }
    }
}
