//! The usual way in for a WebSocket, without an HTTP server around it: a whole request head is there at once, and it is a
//! handshake. It takes the same way through the router as any request; only what hyper would hold for the connection meanwhile
//! (some 40 KiB in buffers and futures, gone a moment later, with holes left in memory) is not there.
//!
//! The head is looked at and left in the socket until the answer is 101. Whatever is unusual, and every refusal, is hyper's.

use std::{convert::Infallible, future::poll_fn, io, task::ready};

use axum::{Router, body::Body, response::Response};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use tokio::{io::ReadBuf, net::TcpStream};
use tower::ServiceExt;

use crate::session::Handover;

/// Longest head that is looked at here.
const HEAD_BYTES_MAX: usize = 4096;
/// Most headers of such a head.
const HEADERS_MAX: usize = 64;

/// A handshake that waits in the socket, and its length.
pub(super) struct Knock {
    request: Request<Body>,
    len: usize,
}

impl Knock {
    pub(super) fn request(&mut self) -> &mut Request<Body> {
        &mut self.request
    }
}

/// Waits for a request to begin. `None`: it is one for hyper.
pub(super) async fn listen(stream: &TcpStream) -> io::Result<Option<Knock>> {
    poll_fn(|cx| {
        let mut head = [0; HEAD_BYTES_MAX];
        let mut head = ReadBuf::new(&mut head);
        ready!(stream.poll_peek(cx, &mut head))?;
        Ok(knock(head.filled())).into()
    })
    .await
}

fn knock(head: &[u8]) -> Option<Knock> {
    let text = head.strip_prefix(b"GET /ws")?;
    if !text.starts_with(b" ") && !text.starts_with(b"?") {
        return None;
    }
    let lines = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = lines.split("\r\n");
    let target = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
    let mut headers = HeaderMap::with_capacity(16);
    for line in lines {
        // An empty line ends a head: what comes behind is somebody else's business.
        let (name, value) = line.split_once(':')?;
        let name = header::HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = header::HeaderValue::from_str(value.trim_matches([' ', '\t'])).ok()?;
        if headers.len() >= HEADERS_MAX || matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::EXPECT) {
            return None;
        }
        headers.append(name, value);
    }
    let one = |name| headers.get_all(name).iter().count() == 1;
    let upgrade = headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !one(header::HOST) || !one(header::UPGRADE) || !upgrade {
        return None;
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = target.parse::<Uri>().ok().filter(|uri| uri.authority().is_none())?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some(Knock { request, len: head.len() })
}

/// Asks the router. Where it opens, the stream is the session's from here on; else it is given back with the answer, the
/// request still in it.
pub(super) async fn open(stream: TcpStream, knock: Knock, router: Router) -> Option<(TcpStream, Response)> {
    let Knock { mut request, len } = knock;
    let (handover, giver) = Handover::new();
    request.extensions_mut().insert(handover);
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => {
            let never: Infallible = never;
            match never {}
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Some((stream, response));
    }
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    // The router counts an empty body; an answer of this kind has none (RFC 9110 §8.6).
    for (name, value) in response.headers().iter().filter(|(name, _)| **name != header::CONTENT_LENGTH) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    if consume(&stream, len).is_ok() {
        giver.give(stream, head);
    }
    None
}

/// Takes what was only looked at out of the socket.
fn consume(stream: &TcpStream, len: usize) -> io::Result<()> {
    let mut seen = [0; HEAD_BYTES_MAX];
    let mut left = len;
    while left > 0 {
        let seen = seen.get_mut(..left).unwrap_or_default();
        match stream.try_read(seen)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n.min(left),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = "GET /ws?min_severity=high HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version:13\r\n\r\n";

    #[test]
    fn a_usual_handshake_is_read_here() {
        let knock = knock(USUAL.as_bytes()).expect("a handshake");
        assert_eq!((knock.request.uri().path(), knock.request.uri().query()), ("/ws", Some("min_severity=high")));
        assert_eq!(knock.request.headers()["sec-websocket-version"], "13");
        assert_eq!((knock.request.headers().len(), knock.len), (5, USUAL.len()));
    }

    #[test]
    fn what_is_unusual_is_not() {
        for (from, to) in [
            ("GET /ws", "GET /wss"),
            ("GET", "POST"),
            ("GET /ws", "GET http://h/ws"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("\r\n\r\n", "\r\n"),
            ("\r\n\r\n", "\r\n\r\n\u{81}"),
            ("Host: h\r\n", ""),
            ("Host: h\r\n", "Host: h\r\nHost: i\r\n"),
            ("Host: h", "Host: h\r\nContent-Length: 1"),
            ("Host: h", "Host: h\r\nTransfer-Encoding: chunked"),
            ("Host: h", "Host: h\r\nExpect: 100-continue"),
            ("Host: h", "Host: h\r\n folded: yes"),
            ("Host: h", "Host : h"),
            ("Host: h", "Host: h\r\n\r\nUpgrade: x"),
            ("Host: h", "Host: h\nX: y"),
            ("WebSocket\r\n", "h2c\r\n"),
            ("WebSocket\r\n", "WebSocket, h2c\r\n"),
        ] {
            let head = USUAL.replacen(from, to, 1);
            assert!(knock(head.as_bytes()).is_none(), "{head:?}");
        }
        for cut in 0..USUAL.len() {
            assert!(knock(&USUAL.as_bytes()[..cut]).is_none(), "{cut}");
        }
        let long = USUAL.replacen("Host: h", &format!("Host: h{}", "\r\nX: y".repeat(HEADERS_MAX)), 1);
        assert!(knock(long.as_bytes()).is_none());
    }
}
