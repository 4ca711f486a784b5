//! `health`: one question to the ops listener, for images without a shell. A plain client over TCP: the listener has no TLS.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time};

use super::{Failure, Global, terminal};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// `/metrics` of many rules and sources is the longest that is asked for.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const SHOWN_CHARS_MAX: usize = 2000;

#[derive(Clone, Debug, Default, Args)]
pub struct Health {
    /// Ask whether it does its work (/readyz), not only whether it lives (/livez)
    #[arg(long)]
    pub ready: bool,
    /// The ops listener [default: http:// and listen.ops]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

pub async fn run(global: &Global, args: &Health) -> Result<(), Failure> {
    let base = match &args.url {
        Some(url) => url.clone(),
        None => ops_url(global.load()?.ops)?,
    };
    authority(&base).map_err(Failure::Usage)?;
    let path = if args.ready { "/readyz" } else { "/livez" };
    let (status, body) = get(&base, path, None).await.map_err(Failure::run)?;
    if status.is_success() {
        return Ok(());
    }
    let why = match unwell(&body) {
        Some(why) if args.ready => format!("{base} is not ready: {why}"),
        Some(why) => format!("{base} does not go forward: {why}"),
        None => format!("{base}{path} answered {}: {body}", status.as_u16(), body = body.trim()),
    };
    Err(Failure::run(terminal::plain(&why).chars().take(SHOWN_CHARS_MAX).collect::<String>()))
}

/// What the body of a probe says is wrong: `source: app is stalled, store: …`. `None` where it is none of ours.
pub(super) fn unwell(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    if let Some(detail) = body.get("detail").and_then(Value::as_str) {
        return Some(detail.to_owned());
    }
    let failing = body.get("checks")?.as_object()?.iter().filter(|(_, check)| check.get("ok") == Some(&Value::Bool(false)));
    let texts: Vec<String> =
        failing.map(|(name, check)| format!("{name}: {}", check.get("text").and_then(Value::as_str).unwrap_or("?"))).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// The `HOST:PORT` of `http://HOST:PORT`.
fn authority(base: &str) -> Result<&str, String> {
    let found = base.trim_end_matches('/').strip_prefix("http://");
    // `[::1]` without a port ends in a bracket.
    let port =
        |a: &str| a.rsplit_once(':').is_none_or(|(_, port)| port.ends_with(']') || port.parse::<u16>().is_ok_and(|p| p > 0));
    let good = |a: &&str| !a.is_empty() && !a.contains(['/', '@', '?', '#', ' ']) && port(a);
    found.filter(good).ok_or_else(|| format!("expected http://HOST:PORT, found {}", terminal::plain(base)))
}

/// Where this machine reaches the ops listener.
pub(super) fn ops_url(ops: SocketAddr) -> Result<String, Failure> {
    if ops.port() == 0 {
        return Err(Failure::usage("listen.ops takes a free port (0), so --url must say which one it is"));
    }
    Ok(format!("http://{}", reachable(ops)))
}

/// An address that listens everywhere is reached at loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
        address => address,
    }
}

/// `GET` of `path` at `http://HOST:PORT`, with a bearer token where one is given, whole, within 5 s; or one sentence.
pub(super) async fn get(base: &str, path: &str, token: Option<&str>) -> Result<(StatusCode, String), String> {
    let authority = authority(base)?;
    // `[::1]` without a port ends in a bracket.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let asked = async {
        let stream = TcpStream::connect(&target).await.map_err(|e| format!("{target} cannot be reached: {e}"))?;
        let broken = |e: hyper::Error| format!("{target} did not answer as HTTP: {e}");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::get(path).header(header::HOST, authority).header(header::CONNECTION, "close");
        let request = match token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| format!("{base}{path} cannot be asked: {e}"))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|e| format!("{target} did not end its answer: {e}"))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        // The connection must be driven while the answer is awaited; it ends with it.
        tokio::pin!(answer, connection);
        let mut open = true;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                _ = &mut connection, if open => open = false,
            }
        }
    };
    time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(format!("{target} did not answer within 5s")))
}
