//! A WebSocket as the server's side sees it: read and written by one task, buffers small, faults told by the code they close with.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Sink, Stream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use crate::wire::CloseCode;

/// Each socket owns one of these for good, and it is cleared before every read.
const READ_BUFFER: usize = 4 * 1024;
/// So many bytes are joined into one write.
const WRITE_BUFFER: usize = 16 * 1024;
/// Above a batch and the longest frame there can be (an entry of 64 KiB, escaped); never reached by who writes only when the
/// socket is ready.
const WRITE_BUFFER_MAX: usize = 1024 * 1024;
/// After our close frame: what the client still sends is read and thrown away, for a socket closed with unread input is reset,
/// and a reset can take the close frame with it.
const DRAIN: Duration = Duration::from_secs(2);
const DRAIN_BYTES_MAX: usize = 1024 * 1024;

/// The bytes below: the TCP connection itself where hyper gives it back, else whatever it wraps.
enum Io {
    Tcp(TcpStream),
    Other(Box<TokioIo<Upgraded>>),
}

/// Counts what the kernel took: a write that is pending may still get on.
struct Metered {
    io: Io,
    written: u64,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Io::Other(other) => Pin::new(other.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Io::Other(other) => Pin::new(other.as_mut()).poll_write(cx, buf),
        })?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Io::Other(other) => Pin::new(other.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Io::Other(other) => Pin::new(other.as_mut()).poll_shutdown(cx),
        }
    }
}

/// What came from the client.
#[derive(Debug)]
pub enum Incoming {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// Answered already.
    Ping,
    Pong,
    /// The client closes; the answer goes out with the next flush.
    Close,
    /// The connection is gone.
    End,
    /// The client broke the protocol or a limit: end with this code.
    Fault(Fault),
}

/// What a client did that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub CloseCode);

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// One WebSocket after its handshake.
pub struct Socket {
    stream: WebSocketStream<Metered>,
    /// Something has been written that is not flushed.
    dirty: bool,
}

impl Socket {
    /// Takes over a connection that hyper has upgraded. Frames and messages above `frame_bytes_max` are faults.
    pub async fn take(upgraded: Upgraded, frame_bytes_max: usize) -> Socket {
        let (io, rest) = match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) => (Io::Tcp(parts.io.into_inner()), parts.read_buf.to_vec()),
            Err(upgraded) => (Io::Other(Box::new(TokioIo::new(upgraded))), Vec::new()),
        };
        if let Io::Tcp(tcp) = &io {
            // Everything ready goes out in one write, so there is nothing to wait for.
            let _ = tcp.set_nodelay(true);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(WRITE_BUFFER_MAX.max(frame_bytes_max.saturating_mul(2)))
            .max_frame_size(Some(frame_bytes_max))
            .max_message_size(Some(frame_bytes_max));
        let metered = Metered { io, written: 0 };
        let stream = WebSocketStream::from_partially_read(metered, rest, Role::Server, Some(config)).await;
        Socket { stream, dirty: false }
    }

    /// The next thing from the client.
    pub async fn incoming(&mut self) -> Incoming {
        poll_fn(|cx| self.poll_incoming(cx)).await
    }

    /// Sends one message and waits until the kernel has it. `false`: the connection is gone.
    pub async fn send(&mut self, message: Message) -> bool {
        let sent = async {
            poll_fn(|cx| self.poll_writable(cx)).await?;
            self.push(message)?;
            poll_fn(|cx| self.poll_flush(cx)).await
        };
        sent.await.is_ok()
    }

    /// Ends in good order: the close frame, then what the client still says, for at most two seconds.
    pub async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        let said = timeout(DRAIN, self.send(Message::Close(Some(frame)))).await;
        if said == Ok(true) {
            self.drain().await;
        }
    }

    /// After the close frame, or the client's own: waits for the other side to end, and ends.
    pub async fn drain(mut self) {
        let _ = timeout(DRAIN, async {
            // The client's close frame, if it can be read as one.
            loop {
                match poll_fn(|cx| self.poll_incoming(cx)).await {
                    Incoming::Close | Incoming::End | Incoming::Fault(_) => break,
                    _ => {}
                }
            }
            let _ = poll_fn(|cx| self.poll_flush(cx)).await;
            let io = self.stream.get_mut();
            let _ = io.shutdown().await;
            let mut scratch = [0; 4096];
            let mut left = DRAIN_BYTES_MAX;
            while left > 0 {
                match io.read(&mut scratch).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => left = left.saturating_sub(n),
                }
            }
        })
        .await;
    }

    /// Bytes that the kernel has taken.
    pub(super) fn written(&self) -> u64 {
        self.stream.get_ref().written
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(super) fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        Poll::Ready(match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(Message::Text(text))) => Incoming::Text(text),
            Some(Ok(Message::Binary(bytes))) => Incoming::Binary(bytes),
            Some(Ok(Message::Ping(_))) => {
                self.dirty = true;
                Incoming::Ping
            }
            Some(Ok(Message::Pong(_))) => Incoming::Pong,
            Some(Ok(Message::Close(_))) => {
                self.dirty = true;
                Incoming::Close
            }
            // Only made for writing; a reader never gives one.
            Some(Ok(Message::Frame(_))) => Incoming::Fault(Fault(CloseCode::Protocol)),
            Some(Err(Error::Capacity(_))) => Incoming::Fault(Fault(CloseCode::TooLarge)),
            Some(Err(Error::Utf8(_))) => Incoming::Fault(Fault(CloseCode::InvalidUtf8)),
            Some(Err(Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake))) => {
                Incoming::End
            }
            Some(Err(Error::Protocol(_))) => Incoming::Fault(Fault(CloseCode::Protocol)),
            Some(Err(_)) | None => Incoming::End,
        })
    }

    /// Ready: a batch may be pushed.
    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Pin::new(&mut self.stream).poll_ready(cx).map_err(|_| Gone)
    }

    /// Puts a message behind what is already waiting; goes out with a flush at the latest.
    pub(super) fn push(&mut self, message: Message) -> Result<(), Gone> {
        self.dirty = true;
        Pin::new(&mut self.stream).start_send(message).map_err(|_| Gone)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(|_| Gone)?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }
}
