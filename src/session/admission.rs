//! Who is at the door: where the token travels, from which page, and how a refusal is told.

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, header};

use crate::{
    auth::{Refusal, RefusalKind},
    hub::Full,
    wire::{CloseCode, ErrorCode},
};

/// The sign-in cookie (contract §10).
pub const COOKIE: &str = "__Host-auditcast";
/// The subprotocol, and what the token's item begins with.
pub(super) const PROTOCOL: &str = "auditcast.v1";
const PROTOCOL_TOKEN: &str = "auditcast.token.";

/// Where the token came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// `Authorization`: refusals are HTTP.
    Header(String),
    /// Subprotocol or cookie, which browsers use: refusals are a frame and a close code.
    Browser(String),
    /// The first frame has to bring it.
    FirstFrame,
}

/// The subprotocols a client offers, as far as they mean something here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Protocols {
    /// `auditcast.v1` is among them.
    pub(super) ours: bool,
    pub(super) token: Option<String>,
}

impl Protocols {
    /// Err: one sentence for the 400.
    pub(super) fn of(headers: &HeaderMap) -> Result<Protocols, &'static str> {
        let mut protocols = Protocols::default();
        let mut offered = false;
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            let value = value.to_str().map_err(|_| "`Sec-WebSocket-Protocol` is not ASCII")?;
            for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
                offered = true;
                if item == PROTOCOL {
                    protocols.ours = true;
                } else if let Some(token) = item.strip_prefix(PROTOCOL_TOKEN) {
                    if protocols.token.is_some() {
                        return Err("two tokens are offered as subprotocols");
                    }
                    protocols.token = Some(token.to_owned());
                }
            }
        }
        if protocols.token.is_some() && !protocols.ours {
            return Err("a token among the subprotocols needs `auditcast.v1` beside it");
        }
        if offered && !protocols.ours {
            return Err("the subprotocol spoken here is `auditcast.v1`");
        }
        Ok(protocols)
    }
}

/// The bearer token in `Authorization`; `Some(Err)` where the header is there and holds none. Where it is, nothing else counts.
pub fn bearer(headers: &HeaderMap) -> Option<Result<String, Refusal>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.trim().split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
    });
    Some(token.ok_or_else(|| Refusal::new(RefusalKind::Invalid, "`Authorization` holds no bearer token")))
}

/// A cookie's value, if there is one.
pub fn cookie(headers: &HeaderMap, wanted: &str) -> Option<String> {
    headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';')).find_map(
        |pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == wanted && !value.is_empty()).then(|| value.trim_matches('"').to_owned())
        },
    )
}

/// Whether a page of this origin may connect: none, the host itself, or one of `allowed` (contract §5).
pub(super) fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let Some(origin) = Origin::parse(origin) else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let same = host.is_some_and(|host| origin.is_host(host));
    same || allowed.iter().any(|text| Origin::parse(text).is_some_and(|allowed| allowed == origin))
}

/// Scheme, host and port of an origin or of a URL's beginning.
#[derive(PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = split_port(authority)?;
        let port = port.or(default_port(&scheme));
        Some(Origin { scheme, host, port })
    }

    fn is_host(&self, host: &str) -> bool {
        let Some((name, port)) = split_port(host) else { return false };
        // A proxy may end TLS, so the scheme here is not known: without a port both defaults are the host itself.
        name == self.host && if port.is_none() { self.port == default_port(&self.scheme) } else { port == self.port }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Host in lower case and port; `None` for what is no authority.
fn split_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    if host.is_empty() || host.contains('@') {
        return None;
    }
    Some((host.to_ascii_lowercase(), port))
}

/// Why a connection is not taken.
#[derive(Debug)]
pub(super) enum Denied {
    Token(Refusal),
    Origin,
    /// Another page than ours, another protocol, a parameter that is not understood.
    BadRequest(String),
    TooManyPerUser,
    TooManyPerAddress,
    NodeFull,
    /// `limits.memory`.
    Memory,
    Unavailable,
    Draining,
}

impl From<Full> for Denied {
    fn from(full: Full) -> Denied {
        match full {
            Full::Node => Denied::NodeFull,
            Full::Memory => Denied::Memory,
            Full::User => Denied::TooManyPerUser,
            Full::Address => Denied::TooManyPerAddress,
        }
    }
}

impl Denied {
    /// `reason` of `auditcast_connections_rejected_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Denied::Token(refusal) => match refusal.kind {
                RefusalKind::Forbidden => "forbidden",
                RefusalKind::Unavailable => "unavailable",
                _ => "unauthorized",
            },
            Denied::Origin => "origin",
            Denied::BadRequest(_) => "bad_request",
            Denied::TooManyPerUser => "too_many_per_user",
            Denied::TooManyPerAddress => "too_many_per_address",
            Denied::NodeFull => "too_many_connections",
            Denied::Memory => "memory",
            Denied::Unavailable => "unavailable",
            Denied::Draining => "draining",
        }
    }

    /// One sentence for the client.
    pub(super) fn text(&self) -> &str {
        match self {
            Denied::Token(refusal) => &refusal.text,
            Denied::Origin => "this origin may not connect",
            Denied::BadRequest(text) => text,
            Denied::TooManyPerUser => "this user has too many connections",
            Denied::TooManyPerAddress => "this address has too many connections",
            Denied::NodeFull => "this node has too many connections",
            Denied::Memory => "this node is short of memory",
            Denied::Unavailable => "the store is not reachable at the moment",
            Denied::Draining => "this node is shutting down",
        }
    }

    /// Where the upgrade has succeeded already.
    pub(super) fn close(&self) -> (ErrorCode, CloseCode) {
        match self {
            Denied::Token(refusal) => match refusal.kind {
                RefusalKind::Missing => (ErrorCode::Forbidden, CloseCode::AuthTimeout),
                RefusalKind::Invalid => (ErrorCode::Forbidden, CloseCode::InvalidToken),
                RefusalKind::Expired => (ErrorCode::Forbidden, CloseCode::TokenExpired),
                RefusalKind::Blacklisted => (ErrorCode::Forbidden, CloseCode::Revoked),
                RefusalKind::Forbidden => (ErrorCode::Forbidden, CloseCode::Forbidden),
                RefusalKind::Unavailable => (ErrorCode::Internal, CloseCode::Unavailable),
            },
            Denied::Origin => (ErrorCode::Forbidden, CloseCode::Forbidden),
            Denied::BadRequest(_) => (ErrorCode::BadRequest, CloseCode::BadRequests),
            Denied::TooManyPerUser => (ErrorCode::RateLimited, CloseCode::TooManyConnections),
            Denied::TooManyPerAddress => (ErrorCode::RateLimited, CloseCode::RateLimited),
            Denied::NodeFull | Denied::Memory | Denied::Unavailable => (ErrorCode::Internal, CloseCode::Unavailable),
            Denied::Draining => (ErrorCode::Internal, CloseCode::ShuttingDown),
        }
    }

    /// Where the client can see an HTTP answer: a problem of RFC 9457.
    pub(super) fn response(&self) -> Response<Body> {
        let (status, code) = match self {
            Denied::Token(refusal) => {
                (StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::UNAUTHORIZED), refusal.kind.as_str())
            }
            Denied::Origin => (StatusCode::FORBIDDEN, "forbidden_origin"),
            Denied::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Denied::TooManyPerUser | Denied::TooManyPerAddress => (StatusCode::TOO_MANY_REQUESTS, "too_many_connections"),
            Denied::NodeFull => (StatusCode::SERVICE_UNAVAILABLE, "too_many_connections"),
            Denied::Memory | Denied::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Denied::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        };
        problem(status, code, self.text())
    }
}

/// A problem of RFC 9457.
pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or("error");
    let body = serde_json::json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "code": code,
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    match status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        _ => {}
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().expect("a header's value"));
        }
        headers
    }

    #[test]
    fn origins() {
        let allowed = ["https://audit.example".to_owned(), "http://localhost:3000/".to_owned()];
        for (origin, host, ok) in [
            ("http://127.0.0.1:8787", "127.0.0.1:8787", true),
            ("http://127.0.0.1:8788", "127.0.0.1:8787", false),
            ("https://audit.example", "10.0.0.1:8787", true),
            ("https://AUDIT.example:443", "10.0.0.1:8787", true),
            ("http://audit.example", "10.0.0.1:8787", false),
            ("http://localhost:3000", "x", true),
            ("https://x", "x", true),
            ("http://[::1]:1", "[::1]:1", true),
            ("https://audit.example.evil", "x", false),
            ("https://x@audit.example", "x", false),
            ("null", "null", false),
            ("", "", false),
        ] {
            assert_eq!(origin_allowed(&headers(&[("origin", origin), ("host", host)]), &allowed), ok, "{origin} at {host}");
        }
        assert!(origin_allowed(&headers(&[("host", "x")]), &[]));
    }

    #[test]
    fn subprotocols() {
        let of = |items: &[&str]| {
            let list: Vec<_> = items.iter().map(|item| ("sec-websocket-protocol", *item)).collect();
            Protocols::of(&headers(&list)).ok().map(|p| (p.ours, p.token))
        };
        assert_eq!(of(&[]), Some((false, None)));
        assert_eq!(of(&["auditcast.v1"]), Some((true, None)));
        assert_eq!(of(&["auditcast.v1, auditcast.token.abc"]), Some((true, Some("abc".into()))));
        assert_eq!(of(&["auditcast.token.abc", "other,auditcast.v1"]), Some((true, Some("abc".into()))));
        assert_eq!(of(&["auditcast.token.abc"]), None);
        assert_eq!(of(&["chat"]), None);
        assert_eq!(of(&["auditcast.v1, auditcast.token.a, auditcast.token.b"]), None);
    }

    #[test]
    fn tokens_in_headers() {
        let of = |value: &str| bearer(&headers(&[("authorization", value)])).map(|r| r.ok());
        assert_eq!(bearer(&headers(&[])).map(|r| r.ok()), None);
        assert_eq!(of("Bearer abc"), Some(Some("abc".into())));
        assert_eq!(of("bearer  abc "), Some(Some("abc".into())));
        assert_eq!(of("Basic abc"), Some(None));
        assert_eq!(of("Bearer "), Some(None));
        assert_eq!(cookie(&headers(&[("cookie", "a=b; __Host-auditcast=abc; c=d")]), COOKIE), Some("abc".into()));
        assert_eq!(cookie(&headers(&[("cookie", "auditcast=abc")]), COOKIE), None);
    }
}
