//! A set of keys from whoever signs: one GET, with a limit on everything that a broken server could make long.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// From the look-up of the host's name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest set, and longest head of an answer.
const SET_BYTES_MAX: usize = 256 << 10;
const HEAD_BYTES_MAX: usize = 32 << 10;

/// Where a set is. Only over TLS, except on this machine: whoever can change keys on their way makes every token.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl Endpoint {
    /// An `https` URL, or an `http` one of the loopback; without a user or a fragment.
    pub fn parse(text: &str) -> Option<Endpoint> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || text.contains('#') || text.len() > 2048 {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_loopback = host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let (tls, port) = match uri.scheme_str()? {
            "https" => (true, 443),
            "http" if is_loopback => (false, 80),
            _ => return None,
        };
        let port = authority.port_u16().unwrap_or(port);
        (!host.is_empty()).then_some(Endpoint { uri, host, port, tls })
    }

    /// What is there. The error goes on after the URL's name, and has nothing of the answer in it.
    pub async fn get(&self) -> Result<String, String> {
        let got = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
            let tcp = tcp.map_err(|error| format!("cannot be reached: {error}"))?;
            if !self.tls {
                return self.ask(tcp).await;
            }
            let name = ServerName::try_from(self.host.clone()).map_err(|_| "has a host that is no name".to_owned())?;
            let trust = tokio::task::spawn_blocking(trust).await.map_err(|_| "could not be looked at".to_owned())??;
            let tls = TlsConnector::from(Arc::new(trust)).connect(name, tcp).await;
            self.ask(tls.map_err(|error| format!("is not trusted: {error}"))?).await
        };
        timeout(TIMEOUT, got).await.unwrap_or_else(|_| Err(format!("did not answer within {} s", TIMEOUT.as_secs())))
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, String> {
        let broke = |error: hyper::Error| format!("did not answer as HTTP does: {error}");
        let mut http = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) = http.max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, concat!("auditcast/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())
            .map_err(|_| "cannot be asked for".to_owned())?;
        let asked = async {
            let response = sender.send_request(request).await.map_err(broke)?;
            match response.status() {
                StatusCode::OK => {}
                status if status.is_redirection() => {
                    return Err(format!("answered {}, and redirects are not followed", status.as_u16()));
                }
                status => return Err(format!("answered {}", status.as_u16())),
            }
            let body = Limited::new(response.into_body(), SET_BYTES_MAX).collect().await;
            let body = body.map_err(|_| format!("did not send all of its answer, or more than {SET_BYTES_MAX} bytes"))?;
            String::from_utf8(body.to_bytes().into()).map_err(|_| "is not UTF-8".to_owned())
        };
        tokio::pin!(asked, connection);
        // The connection is driven here and ends with the question.
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            _ = &mut connection => asked.await,
        }
    }
}

/// The system's roots (or `SSL_CERT_FILE`), read anew each time: they change while a daemon runs.
fn trust() -> Result<ClientConfig, String> {
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(format!("cannot be trusted: {error}"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in found.certs {
        roots.add(certificate).map_err(|error| format!("cannot be trusted: {error}"))?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn only_over_tls_or_from_here() {
        for good in [
            "https://idp.example/.well-known/jwks.json",
            "https://idp.example:8443/keys?tenant=7",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]/jwks",
            "http://localhost/jwks",
            "https://192.0.2.7/",
        ] {
            assert!(Endpoint::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "idp.example",
            "http://idp.example/jwks",
            "http://127.0.0.1.example/",
            "http://192.0.2.7/",
            "ftp://idp.example/",
            "https://user:secret@idp.example/",
            "https://idp.example/#x",
            "https:///x",
            "/etc/passwd",
            "file:///etc/passwd",
        ] {
            assert!(Endpoint::parse(bad).is_none(), "{bad}");
        }
    }
}
