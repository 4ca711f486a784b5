//! One connection that one owner writes requests to and reads answers from, in their order.

use std::{io, sync::Arc};

use futures::future::select_ok;
use redis::{ConnectionAddr, ConnectionInfo, RedisError, Value};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
};
use tokio_rustls::TlsConnector;

use super::{
    Malformed, Parser, Shape, command,
    reply::{REPLY_MAX, reply},
};
use crate::store::{
    StoreError,
    redis::connect::{Link, PATIENCE},
};

/// The first piece of memory for an answer; grows as the answer does.
const FIRST_READ: usize = 16 << 10;
/// Free memory below this is too little to read into.
const READ_MIN: usize = 4 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// Why there is no reply.
pub(in crate::store::redis) enum Unanswered {
    /// The connection is gone: the request may have been taken or not.
    Lost(RedisError),
    Garbled,
}

/// Connected and greeted. Who drops a request half-way must drop the socket with it: no answer may be read as that to another.
pub(in crate::store::redis) struct Socket {
    stream: Box<dyn Stream>,
    /// What came behind the last answer.
    rest: Vec<u8>,
}

impl Socket {
    /// Connects and greets as the redis crate would: address, TLS, user, protocol and database are the URL's.
    pub(in crate::store::redis) async fn connect(link: &Link) -> Result<Socket, StoreError> {
        match tokio::time::timeout(PATIENCE, Socket::made(link)).await {
            Ok(made) => made,
            Err(_) => Err(link.silent()),
        }
    }

    async fn made(link: &Link) -> Result<Socket, StoreError> {
        let info = link.info();
        let stream = stream(info).await.map_err(|e| link.failure(&e))?;
        let mut socket = Socket { stream, rest: Vec::new() };
        let (request, replies) = greeting(info);
        if replies > 0 {
            let mut parser = Parser::new();
            parser.expect(Shape { any: replies, ..Shape::default() });
            socket.write(link, &request).await?;
            socket.answer(link, &mut parser, Vec::new()).await?;
            if let Some((_, text)) = parser.errors.first() {
                return Err(link.refused(text));
            }
        }
        Ok(socket)
    }

    pub(in crate::store::redis) async fn write(&mut self, link: &Link, request: &[u8]) -> Result<(), StoreError> {
        self.send(request).await.map_err(|e| link.failure(&e))
    }

    pub(in crate::store::redis) async fn send(&mut self, request: &[u8]) -> Result<(), RedisError> {
        self.stream.write_all(request).await?;
        // TLS may hold back what it was given.
        Ok(self.stream.flush().await?)
    }

    /// Reads the answer that `parser` expects into `buf`, which is emptied first, and gives it back.
    pub(in crate::store::redis) async fn answer(
        &mut self,
        link: &Link,
        parser: &mut Parser,
        mut buf: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        buf.clear();
        buf.append(&mut self.rest);
        loop {
            match parser.feed(&mut buf) {
                Ok(true) => {
                    self.rest = if parser.end() < buf.len() { buf.split_off(parser.end()) } else { Vec::new() };
                    return Ok(buf);
                }
                Ok(false) => {}
                Err(Malformed) => return Err(link.garbled()),
            }
            if let Err(failure) = self.more(&mut buf).await {
                // A server that has no room or wants no guests says so, and hangs up.
                return Err(match parser.errors.first() {
                    Some((_, text)) => link.refused(text),
                    None => link.failure(&failure),
                });
            }
        }
    }

    /// One small reply, whatever it is; the inner error is the server's refusal.
    pub(in crate::store::redis) async fn reply(&mut self) -> Result<Result<Value, String>, Unanswered> {
        let mut buf = std::mem::take(&mut self.rest);
        loop {
            match reply(&buf) {
                Ok(Some((said, end))) => {
                    buf.drain(..end);
                    self.rest = buf;
                    return Ok(said);
                }
                Ok(None) if buf.len() <= REPLY_MAX => {}
                _ => return Err(Unanswered::Garbled),
            }
            self.more(&mut buf).await.map_err(Unanswered::Lost)?;
        }
    }

    /// A stream's description, which is then the parser's; else the server's refusal.
    pub(in crate::store::redis) async fn facts(&mut self, parser: &mut Parser) -> Result<Result<Value, String>, Unanswered> {
        parser.expect(Shape { info: true, ..Shape::default() });
        let mut buf = std::mem::take(&mut self.rest);
        loop {
            match parser.feed(&mut buf) {
                Ok(true) => {
                    buf.drain(..parser.end());
                    self.rest = buf;
                    return Ok(parser.errors.pop().map_or(Ok(Value::Nil), |(_, text)| Err(text)));
                }
                Ok(false) => {}
                Err(Malformed) => return Err(Unanswered::Garbled),
            }
            self.more(&mut buf).await.map_err(Unanswered::Lost)?;
        }
    }

    /// Reads what has come, at least a byte.
    async fn more(&mut self, buf: &mut Vec<u8>) -> Result<(), RedisError> {
        if buf.capacity() - buf.len() < READ_MIN {
            // Never more than twice of what has really come.
            buf.reserve(buf.len().max(FIRST_READ));
        }
        match self.stream.read_buf(buf).await {
            Ok(1..) => Ok(()),
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// While nothing is asked: returns when the connection is lost, or has said more than a server says by itself.
    pub(in crate::store::redis) async fn lost(&mut self) {
        while self.rest.len() < FIRST_READ {
            let mut said = Vec::new();
            // A read that is dropped has read nothing.
            if self.more(&mut said).await.is_err() {
                return;
            }
            self.rest.append(&mut said);
        }
    }
}

/// AUTH or HELLO, SELECT: as many as there are replies.
fn greeting(info: &ConnectionInfo) -> (Vec<u8>, usize) {
    let settings = info.redis_settings();
    let mut request = Vec::new();
    let mut replies = 0;
    let user = settings.username().map(str::as_bytes);
    let password = settings.password().map(str::as_bytes);
    match (settings.protocol().supports_resp3(), password) {
        (true, None) => command(&mut request, &[b"HELLO", b"3"]),
        (true, Some(password)) => {
            command(&mut request, &[b"HELLO", b"3", b"AUTH", user.unwrap_or(b"default"), password]);
        }
        (false, Some(password)) => match user {
            Some(user) => command(&mut request, &[b"AUTH", user, password]),
            None => command(&mut request, &[b"AUTH", password]),
        },
        (false, None) => {}
    }
    replies += usize::from(!request.is_empty());
    if settings.db() != 0 {
        command(&mut request, &[b"SELECT", settings.db().to_string().as_bytes()]);
        replies += 1;
    }
    (request, replies)
}

async fn stream(info: &ConnectionInfo) -> Result<Box<dyn Stream>, RedisError> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(info, host, *port).await?)),
        ConnectionAddr::TcpTls { host, port, insecure, tls_params: None } => {
            if *insecure {
                let text = "a TLS connection whose certificate is not checked is not offered";
                return Err((redis::ErrorKind::InvalidClientConfig, text).into());
            }
            let name = ServerName::try_from(host.as_str())?.to_owned();
            let connector = TlsConnector::from(Arc::new(trust()?));
            Ok(Box::new(connector.connect(name, tcp(info, host, *port).await?).await?))
        }
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => Err((redis::ErrorKind::InvalidClientConfig, "the kind of address is not known").into()),
    }
}

/// To whichever of the host's addresses answers first, with the settings that the shared connection has.
async fn tcp(info: &ConnectionInfo, host: &str, port: u16) -> Result<TcpStream, RedisError> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address").into());
    }
    let tries = addresses.into_iter().map(|address| Box::pin(TcpStream::connect(address)));
    let (stream, _) = select_ok(tries).await?;
    let settings = info.tcp_settings();
    stream.set_nodelay(settings.nodelay())?;
    let socket = socket2::SockRef::from(&stream);
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

/// The system's roots, read anew for each connection: they change while a daemon runs.
fn trust() -> Result<ClientConfig, RedisError> {
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(error.into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in found.certs {
        roots.add(certificate)?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}
