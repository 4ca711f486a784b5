//! The running daemon: that it answers, goes forward, and lets in whom it should and nobody else.

use std::time::Duration;

use futures::StreamExt;
use hyper::{StatusCode, header};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::{
    Connector,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::{
    super::{health, tls::At},
    Report,
};
use crate::{
    auth::{self, Claims},
    config::Config,
    metrics::unix_ms,
};

/// Beyond a slot's length, how long the next one may take to be closed.
const SLOT_SLACK: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the probe's own token is good.
const TOKEN_TTL: Duration = Duration::from_secs(60);
/// Whom the probe's token names.
const USER: &str = "auditcast-doctor";

/// `answer` is what `/readyz` said.
pub(super) async fn check(report: &mut Report, config: &Config, answer: (StatusCode, String)) {
    let (status, body) = answer;
    if status.is_success() {
        report.ok("daemon", format!("it answers at {} and is ready", config.ops));
    } else {
        let text = match health::unwell(&body) {
            Some(why) => format!("{} is not ready: {why}", config.ops),
            None => format!("{} answers {}: {}", config.ops, status.as_u16(), body.trim()),
        };
        report.fail("daemon", text.chars().take(500).collect::<String>(), "see its log");
    }
    // `listen.ops` has a port, or nobody would have answered.
    if let Ok(ops) = At::ops(config) {
        progress(report, config, &ops).await;
    }
    match At::public(config) {
        Ok(public) => access(report, config, &public).await,
        Err(_) => report.fail("listen.public", "it takes a free port (0), so it cannot be asked", "give it a port"),
    }
}

/// One sample of `/metrics`.
fn sample(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Slots are closed, which is when positions are stored; and what each source brought last.
async fn progress(report: &mut Report, config: &Config, ops: &At) {
    const SLOTS: &str = "auditcast_slots_closed_total";
    let token = config.http.metrics_token.as_deref().map(String::from_utf8_lossy);
    let ask = || async { health::get(ops, "/metrics", token.as_deref()).await.map(|(_, text)| text) };
    let (first, begun) = (ask().await, Instant::now());
    let metrics = match first {
        Ok(metrics) => metrics,
        Err(text) => return report.fail("positions", text, "see the daemon's log"),
    };
    let before = sample(&metrics, SLOTS);
    let most = Duration::from_millis(config.detect.interval_ms) + SLOT_SLACK;
    let advanced = loop {
        sleep(LOOK_EVERY).await;
        let now = ask().await.ok().and_then(|metrics| sample(&metrics, SLOTS));
        match (before, now) {
            (Some(before), Some(now)) if now > before => break true,
            _ if begun.elapsed() > most => break false,
            _ => {}
        }
    };
    if advanced {
        report.ok("positions", format!("they advance: a slot was closed within {:.1} s", begun.elapsed().as_secs_f64()));
    } else {
        report.fail("positions", format!("no slot was closed within {} s", most.as_secs()), "see the daemon's log");
    }
    for source in &config.sources {
        let name = format!("source {}", source.name);
        let series = format!("auditcast_source_last_event_timestamp_seconds{{source=\"{}\"}}", source.name);
        match sample(&metrics, &series) {
            Some(last) if last > 0.0 => {
                let age = Duration::from_secs((unix_ms() / 1000).saturating_sub(last as u64));
                report.ok(&name, format!("its newest event came {} ago", humantime::format_duration(age)));
            }
            // Nobody need ever post an event, and the journal may be switched off.
            Some(_) if matches!(source.kind, crate::source::Kind::Http | crate::source::Kind::Journal) => {}
            Some(_) => report.warn(&name, "no event has come yet", "check that the application writes to it"),
            None => report.warn(&name, "the daemon does not know it", "restart it: its sources are other ones"),
        }
    }
}

/// A token of the configured secret is let in, by HTTP and on the feed; a bad one and one without permissions are not.
async fn access(report: &mut Report, config: &Config, public: &At) {
    let Some(options) = config.auth() else { return };
    let token = |permissions: &[&str]| {
        auth::issue::issue(
            &options,
            &Claims {
                user_id: USER.to_owned(),
                permissions: permissions.iter().map(|p| (*p).to_owned()).collect(),
                ttl: TOKEN_TTL,
                now_ms: unix_ms(),
                ..Claims::default()
            },
        )
    };
    let (good, powerless) = match (token(&["audit.view"]), token(&[])) {
        (Ok(good), Ok(powerless)) => (good, powerless),
        (Err(error), _) | (_, Err(error)) => return report.fail("token", error.to_string(), "see the system's log"),
    };
    let cases = [
        (
            "token",
            good.as_str(),
            StatusCode::OK,
            "a token of the configured key is taken",
            "restart the daemon with the same key",
        ),
        ("bad token", "not.a.token", StatusCode::UNAUTHORIZED, "a bad token is refused", "see the daemon's log"),
        ("permissions", &powerless, StatusCode::FORBIDDEN, "a token without permission is refused", "see [auth.roles]"),
    ];
    for (name, token, wanted, text, remedy) in cases {
        match health::get(public, "/api/v1/alerts?limit=1", Some(token)).await {
            Ok((status, _)) if status == wanted => report.ok(name, text),
            Ok((status, body)) => {
                let body: String = body.chars().take(300).collect();
                report.fail(
                    name,
                    format!("{} answered {} for {}: {body}", public.base, status.as_u16(), wanted.as_u16()),
                    remedy,
                );
            }
            Err(error) => report.fail(name, error, "see the daemon's log"),
        }
    }
    match hello(public, &good).await {
        Ok(()) => report.ok("feed", format!("{} says hello", public.feed())),
        Err(error) => report.fail("feed", error, "see the daemon's log"),
    }
}

/// The first frame of the feed.
async fn hello(public: &At, token: &str) -> Result<(), String> {
    let url = public.feed();
    let refused = |error: &dyn std::fmt::Display| format!("{url} cannot be used: {error}");
    let mut request = url.as_str().into_client_request().map_err(|e| refused(&e))?;
    let bearer = header::HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| refused(&e))?;
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    let connector = match url.starts_with("wss://") {
        true => Connector::Rustls(public.tls()?),
        false => Connector::Plain,
    };
    let asked = async {
        let (mut socket, _) = tokio_tungstenite::connect_async_tls_with_config(request, None, true, Some(connector))
            .await
            .map_err(|e| refused(&e))?;
        let frame = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(_)) | None => return Err(refused(&"it ended without a word")),
            Some(Err(error)) => return Err(refused(&error)),
        };
        let frame: serde_json::Value = serde_json::from_str(frame.as_str()).map_err(|e| refused(&e))?;
        let kind = frame.get("type").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        // Whether it was said in good order is not what was asked.
        let _ = socket.close(None).await;
        if kind == "hello" { Ok(()) } else { Err(refused(&format!("its first frame is `{kind}`"))) }
    };
    timeout(HELLO_TIMEOUT, asked).await.unwrap_or_else(|_| Err(format!("{url} said nothing within 5s")))
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn samples() {
        let text = "# TYPE a_total counter\na_total 3\na_total_more 4\nb{source=\"x\"} 1.5\n";
        assert_eq!(sample(text, "a_total"), Some(3.0));
        assert_eq!(sample(text, "b{source=\"x\"}"), Some(1.5));
        assert_eq!(sample(text, "b{source=\"y\"}"), None);
    }
}
