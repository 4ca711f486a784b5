//! `health`: one question to the ops listener, for images without a shell.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;

use super::{Failure, Global, terminal, tls::At};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// `/metrics` of many rules and sources is the longest that is asked for.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const SHOWN_CHARS_MAX: usize = 2000;

#[derive(Clone, Debug, Default, Args)]
pub struct Health {
    /// Ask whether it does its work (/readyz), not only whether it lives (/livez)
    #[arg(long)]
    pub ready: bool,
    /// The ops listener, http(s):// [default: listen.ops]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// PEM of an authority to believe beside the system's, for an https:// URL
    #[arg(long, value_name = "FILE", env = "AUDITCAST_CA")]
    pub ca: Option<PathBuf>,
}

pub async fn run(global: &Global, args: &Health) -> Result<(), Failure> {
    let at = match &args.url {
        Some(url) => At::url(url, args.ca.as_deref()),
        None => At::ops(&global.load()?)?,
    };
    let base = &at.base;
    authority(base).map_err(Failure::Usage)?;
    let path = if args.ready { "/readyz" } else { "/livez" };
    let (status, body) = get(&at, path, None).await.map_err(Failure::run)?;
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

/// The `HOST:PORT` of `http(s)://HOST:PORT`, and whether it is TLS.
fn authority(base: &str) -> Result<(&str, bool), String> {
    let base_only = base.trim_end_matches('/');
    let found = match base_only.strip_prefix("http://") {
        Some(authority) => Some((authority, false)),
        None => base_only.strip_prefix("https://").map(|authority| (authority, true)),
    };
    // `[::1]` without a port ends in a bracket.
    let port =
        |a: &str| a.rsplit_once(':').is_none_or(|(_, port)| port.ends_with(']') || port.parse::<u16>().is_ok_and(|p| p > 0));
    let good = |(a, _): &(&str, bool)| !a.is_empty() && !a.contains(['/', '@', '?', '#', ' ']) && port(a);
    found.filter(good).ok_or_else(|| format!("expected http(s)://HOST:PORT, found {}", terminal::plain(base)))
}

/// `GET` of `path`, with a bearer token where one is given, whole, within 5 s; or one sentence.
pub(super) async fn get(at: &At, path: &str, token: Option<&str>) -> Result<(StatusCode, String), String> {
    let (authority, tls) = authority(&at.base)?;
    // `[::1]` without a port ends in a bracket.
    let port = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let target = match port {
        Some(_) => authority.to_owned(),
        None => format!("{authority}:{}", if tls { 443 } else { 80 }),
    };
    let host = port.map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    let mut request = Request::get(path).header(header::HOST, authority).header(header::CONNECTION, "close");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| format!("{}{path} cannot be asked: {e}", at.base))?;
    let asked = async {
        let stream = TcpStream::connect(&target).await.map_err(|e| format!("{target} cannot be reached: {e}"))?;
        if !tls {
            return exchange(stream, request, &target).await;
        }
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is not a name that a certificate can have"))?;
        let connecting = TlsConnector::from(at.tls()?).connect(name, stream).await;
        let stream = connecting.map_err(|e| format!("{target} is not to be trusted, or speaks no TLS: {e}"))?;
        exchange(stream, request, &target).await
    };
    time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(format!("{target} did not answer within 5s")))
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>, target: &str) -> Result<(StatusCode, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |e: hyper::Error| format!("{target} did not answer as HTTP: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
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
}
