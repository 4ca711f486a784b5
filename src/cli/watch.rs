//! `watch`: alerts in the terminal. Reconnects by itself and resumes after the last position it saw (contract §5).

use std::{path::PathBuf, time::Duration};

use clap::Args;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};

use super::{Failure, Global, emit::severity_arg, terminal, tls::At};
use crate::event::Severity;

const SUBPROTOCOL: &str = "auditcast.v1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What holds until `hello` says otherwise.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest wait that a server may ask for.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Silence beyond so many of the server's pings means that nobody is there.
const PINGS_MISSED: u32 = 3;
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// Frames of the server are bounded by its own limits; this bounds a server that is none.
const FRAME_BYTES_MAX: usize = 4 << 20;
const BODY_CHARS_MAX: usize = 300;

#[derive(Clone, Debug, Default, Args)]
pub struct Watch {
    /// ws(s):// or http(s):// URL of the public listener [default: listen.public]
    #[arg(long, value_name = "URL", env = "AUDITCAST_URL")]
    pub url: Option<String>,
    /// PEM of an authority to believe beside the system's, for a wss:// URL
    #[arg(long, value_name = "FILE", env = "AUDITCAST_CA")]
    pub ca: Option<PathBuf>,
    /// Token of somebody who may see alerts
    #[arg(long, value_name = "TOKEN", env = "AUDITCAST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Only alerts of this severity and above: low, medium, high, critical
    #[arg(long, value_name = "SEVERITY", value_parser = severity_arg)]
    pub min_severity: Option<Severity>,
    /// Resume after this position; `earliest` for all that is kept
    #[arg(long, value_name = "POS")]
    pub after: Option<String>,
    /// The frames as JSON lines
    #[arg(long)]
    pub json: bool,
}

pub async fn run(global: &Global, args: Watch) -> Result<(), Failure> {
    let (url, at) = match &args.url {
        Some(url) => (feed_url(url)?, At::url(url, args.ca.as_deref())),
        None => {
            let at = At::public(&global.load()?)?;
            (at.feed(), at)
        }
    };
    let connector = match url.starts_with("wss://") {
        true => Connector::Rustls(at.tls().map_err(Failure::Usage)?),
        false => Connector::Plain,
    };
    let token = args.token.as_deref().map(str::trim).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| {
        Failure::usage("a token is needed: --token or AUDITCAST_TOKEN, `auditcast token issue --user ID --role admin` makes one")
    })?;
    let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut bearer = bearer.map_err(|_| Failure::usage("the token holds characters that no token has"))?;
    bearer.set_sensitive(true);
    if let Some(after) = &args.after
        && !is_pos(after)
    {
        return Err(Failure::usage("--after expects a position: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"));
    }
    let watcher = Watcher {
        url,
        connector,
        bearer,
        min_severity: args.min_severity,
        json: args.json,
        colours: !args.json && terminal::colours(),
        after: args.after.clone(),
        min: BACKOFF_MIN,
        max: BACKOFF_MAX,
        ping_interval: PING_INTERVAL,
        failures: 0,
    };
    tokio::select! {
        done = watcher.follow() => done,
        () = terminal::unread() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn is_pos(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The feed of a listener: `/ws` where the URL has no path of its own.
fn feed_url(url: &str) -> Result<String, Failure> {
    let bad = || Failure::usage(format!("--url expects ws(s)://HOST or http(s)://HOST, found {}", terminal::plain(url)));
    let (scheme, rest) = url.trim().split_once("://").ok_or_else(bad)?;
    let scheme = match scheme {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return Err(bad()),
    };
    // A token in the query is refused by the server, and would stand in its log; so nothing is taken along.
    if rest.is_empty()
        || rest.starts_with('/')
        || rest.contains(['?', '#', '@'])
        || rest.chars().any(|c| c.is_control() || c == ' ')
    {
        return Err(bad());
    }
    let rest = rest.trim_end_matches('/');
    let path = if rest.contains('/') && rest.ends_with("/ws") { "" } else { "/ws" };
    Ok(format!("{scheme}://{rest}{path}"))
}

/// How a connection ended.
#[derive(Debug, PartialEq)]
enum End {
    /// Come back; not before what the server asked for.
    Again { text: String, retry_in: Option<Duration> },
    /// Coming back would be of no use.
    Stop(String),
    /// Nobody reads what is written.
    Unread,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Watcher {
    url: String,
    connector: Connector,
    bearer: HeaderValue,
    min_severity: Option<Severity>,
    json: bool,
    colours: bool,
    /// The last position seen.
    after: Option<String>,
    min: Duration,
    max: Duration,
    ping_interval: Duration,
    /// Since the last `hello`.
    failures: u32,
}

impl Watcher {
    async fn follow(mut self) -> Result<(), Failure> {
        loop {
            let end = match self.connect().await {
                Ok(socket) => self.listen(socket).await,
                Err(end) => end,
            };
            match end {
                End::Unread => return Ok(()),
                End::Stop(text) => return Err(Failure::run(terminal::plain(&text))),
                End::Again { text, retry_in } => {
                    let wait = self.wait(retry_in);
                    eprintln!("{}; again in {:.1} s", terminal::plain(&text), wait.as_secs_f64());
                    self.failures = self.failures.saturating_add(1);
                    time::sleep(wait).await;
                }
            }
        }
    }

    /// What the server asked for, else full jitter between its bounds, growing with each failure: a thousand clients of a server
    /// that restarts do not come back at once.
    fn wait(&self, asked: Option<Duration>) -> Duration {
        if let Some(asked) = asked {
            return asked.min(RETRY_MAX);
        }
        let top = self.min.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(self.max).max(self.min);
        self.min + (top - self.min).mul_f64(random_fraction())
    }

    fn request(&self) -> Result<Request, tungstenite::Error> {
        let mut query = Vec::new();
        if let Some(severity) = self.min_severity {
            query.push(format!("min_severity={}", severity.as_str()));
        }
        if let Some(after) = &self.after {
            query.push(format!("after={after}"));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = format!("{}{mark}{}", self.url, query.join("&")).into_client_request()?;
        request.headers_mut().insert(header::AUTHORIZATION, self.bearer.clone());
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok(request)
    }

    async fn connect(&self) -> Result<Socket, End> {
        let request = self.request().map_err(|error| End::Stop(format!("{} cannot be asked: {error}", self.url)))?;
        let config = WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
        let connecting = {
            let connector = Some(self.connector.clone());
            tokio_tungstenite::connect_async_tls_with_config(request, Some(config), true, connector)
        };
        match time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(tungstenite::Error::Http(response))) => Err(refused(&self.url, &response)),
            Ok(Err(error)) => Err(again(format!("{} cannot be reached: {error}", self.url))),
            Err(_) => Err(again(format!("{} did not answer within 10s", self.url))),
        }
    }

    async fn listen(&mut self, mut socket: Socket) -> End {
        let mut bye = None;
        loop {
            let silence = self.ping_interval.saturating_mul(PINGS_MISSED);
            let message = match time::timeout(silence, socket.next()).await {
                Err(_) => return again(format!("{} has been silent for {} s", self.url, silence.as_secs())),
                Ok(None) => return bye.unwrap_or_else(|| again(format!("{} ended the connection", self.url))),
                Ok(Some(Err(error))) => {
                    return bye.unwrap_or_else(|| again(format!("the connection to {} broke: {error}", self.url)));
                }
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Text(text) => {
                    if let Some(end) = self.frame(text.as_str()) {
                        match end {
                            End::Unread => return End::Unread,
                            // The close frame follows; its code says whether to come back, `bye` when.
                            end => bye = Some(end),
                        }
                    }
                }
                Message::Close(frame) => {
                    let _ = time::timeout(Duration::from_secs(1), socket.close(None)).await;
                    let (code, reason) =
                        frame.map_or((1005, String::new()), |frame| (u16::from(frame.code), frame.reason.as_str().to_owned()));
                    return closed(code, &reason, bye);
                }
                // A pong is queued by reading a ping; it must also be sent.
                Message::Ping(_) => {
                    if let Err(error) = socket.flush().await {
                        return again(format!("the connection to {} broke: {error}", self.url));
                    }
                }
                Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Takes one frame in: shows it, keeps its position. `Some`: the connection is about to end, or nobody reads.
    fn frame(&mut self, text: &str) -> Option<End> {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let member = |name: &str| frame.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = member("type");
        let written = if self.json {
            terminal::line(&terminal::plain_json(text))
        } else {
            match shown(&frame, self.colours) {
                Some(Shown::Alert(line)) => terminal::line(&line),
                Some(Shown::Notice(line)) => {
                    eprintln!("{line}");
                    true
                }
                None => true,
            }
        };
        if !written {
            return Some(End::Unread);
        }
        // Only now: what was not shown is asked for again.
        if let Some(pos) = frame.get("pos").and_then(Value::as_str).filter(|pos| is_pos(pos)) {
            self.after = Some(pos.to_owned());
        }
        match kind {
            "hello" => {
                self.failures = 0;
                let ms = |value: Option<&Value>| value.and_then(Value::as_u64).map(Duration::from_millis);
                let reconnect = frame.get("reconnect");
                let bound = |name: &str| ms(reconnect.and_then(|r| r.get(name)));
                self.min = bound("min_ms").unwrap_or(BACKOFF_MIN).clamp(Duration::from_millis(50), RETRY_MAX);
                self.max = bound("max_ms").unwrap_or(BACKOFF_MAX).clamp(self.min, RETRY_MAX);
                let ping = ms(frame.get("ping_interval_ms")).unwrap_or(PING_INTERVAL);
                self.ping_interval = ping.clamp(Duration::from_secs(5), RETRY_MAX);
                // Without a position of its own a resumed connection would begin at now, and miss what came while it was away.
                if self.after.is_none() {
                    self.after = frame.get("head").and_then(Value::as_str).filter(|pos| is_pos(pos)).map(str::to_owned);
                }
                None
            }
            "bye" => {
                let reason = format!("the server says bye: {}", member("reason"));
                let retry_in = frame.get("retry_in_ms").and_then(Value::as_u64).map(Duration::from_millis);
                Some(match frame.get("reconnect").and_then(Value::as_bool) {
                    Some(false) => End::Stop(reason),
                    _ => End::Again { text: reason, retry_in },
                })
            }
            _ => None,
        }
    }
}

fn again(text: String) -> End {
    End::Again { text, retry_in: None }
}

/// What the range of a close code says: 3500–3999 do not come back. 3005 would, with a new token, which a flag cannot give.
fn closed(code: u16, reason: &str, bye: Option<End>) -> End {
    let text = format!("the connection was closed with {code} {reason}").trim_end().to_owned();
    match code {
        3005 => End::Stop("the token has expired, get a new one".to_owned()),
        3500..=3999 => End::Stop(text),
        _ => match bye {
            Some(End::Again { retry_in, .. }) => End::Again { text, retry_in },
            _ => again(text),
        },
    }
}

/// A refusal by HTTP: what waiting does not cure ends it.
fn refused(url: &str, response: &Response) -> End {
    let status = response.status();
    let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let why = serde_json::from_str::<Value>(&body).ok();
    let why = why.as_ref().and_then(|problem| problem.get("detail")).and_then(Value::as_str).unwrap_or(body.trim());
    let why: String = why.chars().take(BODY_CHARS_MAX).collect();
    let text = format!("{url} refused with {}: {why}", status.as_u16());
    match status.as_u16() {
        429 | 500..=599 => {
            let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            End::Again { text, retry_in: after.map(Duration::from_secs) }
        }
        _ => End::Stop(text),
    }
}

/// In 0..1.
fn random_fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

#[derive(Debug, PartialEq)]
enum Shown {
    /// For standard output.
    Alert(String),
    /// For standard error.
    Notice(String),
}

/// A frame as a person reads it.
fn shown(frame: &Value, colours: bool) -> Option<Shown> {
    let text = |name: &str| terminal::plain(frame.get(name).and_then(Value::as_str).unwrap_or_default());
    let number = |name: &str| frame.get(name).and_then(Value::as_u64).unwrap_or_default();
    Some(match frame.get("type").and_then(Value::as_str)? {
        "security_alert" => Shown::Alert(alert_line(frame, colours)),
        "alert_acknowledged" => {
            Shown::Alert(format!("{} acknowledged {} by {}", text("timestamp"), text("alert_id"), text("by")))
        }
        "alert_unacknowledged" => {
            Shown::Alert(format!("{} unacknowledged {} by {}", text("timestamp"), text("alert_id"), text("by")))
        }
        "hello" => Shown::Notice(format!("connected to {} as {}", text("node"), text("user"))),
        "subscribed" if frame.get("recovered").and_then(Value::as_bool) == Some(false) => {
            Shown::Notice(format!("the position cannot be resumed ({}): all that is kept is replayed", text("reason")))
        }
        "source_status" => Shown::Notice(format!("source {} is {} since {}", text("source"), text("status"), text("since"))),
        "gap" => Shown::Notice(format!("{} {} were missed: {}", number("missed"), text("feed"), text("reason"))),
        "lagging" => Shown::Notice("this client is falling behind".to_owned()),
        "error" => Shown::Notice(format!("the server says {}: {}", text("code"), text("message"))),
        _ => return None,
    })
}

fn alert_line(frame: &Value, colours: bool) -> String {
    let text = |name: &str| terminal::plain(frame.get(name).and_then(Value::as_str).unwrap_or_default());
    let severity = text("severity");
    let resolved = text("status") == "resolved";
    let replayed = if frame.get("replayed").and_then(Value::as_bool) == Some(true) { " (replayed)" } else { "" };
    let (on, off) = match Severity::ALL.into_iter().find(|s| s.as_str() == severity) {
        _ if !colours => ("", ""),
        _ if resolved => (terminal::RESOLVED_COLOUR, terminal::RESET),
        Some(severity) => (terminal::severity_colour(severity), terminal::RESET),
        None => ("", ""),
    };
    let status = if resolved { "resolved" } else { "firing" };
    // What is resolved keeps the time of what it was about; when it ended is what is new.
    let ended = text("received_at");
    let time = if resolved && !ended.is_empty() { ended } else { text("timestamp") };
    format!("{time} {on}{:<8}{off} {status:<8} {}: {}{replayed}", severity.to_uppercase(), text("event_type"), text("message"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_url_of_the_listener_becomes_one_of_the_feed() {
        for (url, wanted) in [
            ("http://127.0.0.1:8787", Some("ws://127.0.0.1:8787/ws")),
            ("https://audit.example/", Some("wss://audit.example/ws")),
            ("wss://audit.example/ws", Some("wss://audit.example/ws")),
            ("https://audit.example/base", Some("wss://audit.example/base/ws")),
            ("ws://h/ws?token=x", None),
            ("ftp://h", None),
            ("h:1", None),
            ("ws://", None),
        ] {
            assert_eq!(feed_url(url).ok().as_deref(), wanted, "{url}");
        }
    }

    #[test]
    fn the_range_of_a_close_code_says_whether_to_come_back() {
        let bye = || Some(End::Again { text: "bye".into(), retry_in: Some(Duration::from_millis(700)) });
        for (code, comes_back) in [
            (1006, true),
            (1009, true),
            (3001, true),
            (3008, true),
            (3005, false),
            (3500, false),
            (3503, false),
            (3999, false),
            (4000, true),
        ] {
            assert_eq!(matches!(closed(code, "", bye()), End::Again { .. }), comes_back, "{code}");
        }
        let End::Again { retry_in, .. } = closed(3001, "shutting down", bye()) else { panic!("3001 comes back") };
        assert_eq!(retry_in, Some(Duration::from_millis(700)));
    }

    #[test]
    fn an_alert_is_a_line_that_nobody_else_steers() {
        let frame = json!({
            "type": "security_alert", "event_type": "auth.failed", "severity": "high", "message": "x\u{1b}[2J\ny",
            "timestamp": "2026-11-23T16:00:00.000Z", "status": "firing"
        });
        assert_eq!(
            shown(&frame, false),
            Some(Shown::Alert("2026-11-23T16:00:00.000Z HIGH     firing   auth.failed: x [2J y".into()))
        );
        let mut over = frame.clone();
        over["status"] = "resolved".into();
        over["received_at"] = "2026-11-23T16:15:00.000Z".into();
        assert!(alert_line(&over, false).starts_with("2026-11-23T16:15:00.000Z HIGH     resolved "), "{over}");
        let coloured = alert_line(&frame, true);
        assert!(coloured.contains("\u{1b}[31mHIGH    \u{1b}[0m"), "{coloured:?}");
        assert_eq!(coloured.matches('\u{1b}').count(), 2);
    }
}
