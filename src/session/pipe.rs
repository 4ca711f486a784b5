//! The socket under a WebSocket: TCP, or TLS over it. Either is read and written without waiting, by whoever holds the lane: the
//! sweep writes to both, and nobody needs to know which it is.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context as Wakes, Poll, ready},
};

use rustls::ServerConnection;
use tokio::net::TcpStream;

/// Most that is encrypted in one go: what a record holds.
const RECORD_BYTES: usize = 16 * 1024;

pub(super) enum Pipe {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

pub(super) struct Tls {
    tcp: TcpStream,
    state: Mutex<State>,
}

struct State {
    connection: ServerConnection,
    /// Bytes that are encrypted and not all out. They are told as written when they are, so that what is written is in the
    /// kernel, as it is without TLS; until then the same bytes are offered again.
    offered: usize,
}

impl Pipe {
    pub(super) fn tls(tcp: TcpStream, connection: ServerConnection) -> Pipe {
        Pipe::Tls(Box::new(Tls { tcp, state: Mutex::new(State { connection, offered: 0 }) }))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Pipe::Plain(tcp) => tcp,
            Pipe::Tls(tls) => &tls.tcp,
        }
    }

    /// Everything ready goes out in one write, so there is nothing to wait for.
    pub(super) fn send_at_once(&self) {
        let _ = self.tcp().set_nodelay(true);
    }

    /// Writes as much as the socket takes. After `WouldBlock` the next bytes must begin with those that were offered.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Pipe::Plain(tcp) => send(tcp, bytes),
            Pipe::Tls(tls) => tls.state().write(&tls.tcp, bytes),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Wakes<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(cx)
    }

    /// Reads what is there; 0 at the end.
    pub(super) fn poll_read(&self, cx: &mut Wakes<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            // Of TLS there may be more than the socket still has.
            if let Pipe::Tls(tls) = self {
                match tls.state().read(&tls.tcp, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            }
            ready!(self.tcp().poll_read_ready(cx))?;
            if let Pipe::Plain(tcp) = self {
                match tcp.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            }
        }
    }

    /// Says that nothing more comes.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        if let Pipe::Tls(tls) = self {
            let mut state = tls.state();
            state.connection.send_close_notify();
            // Where the socket is full the other side learns it from TCP.
            let _ = state.flush(&tls.tcp);
        }
        socket2::SockRef::from(self.tcp()).shutdown(Shutdown::Write)
    }
}

/// Past the runtime's note of whether there is room, which lies elsewhere in memory for each client: it is asked, and told, only
/// where there is none.
fn send(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket2::SockRef::from(tcp).send(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.try_write(bytes),
        sent => sent,
    }
}

impl Tls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        self.flush(tcp)?;
        if self.offered == 0 {
            let part = bytes.get(..RECORD_BYTES).unwrap_or(bytes);
            self.offered = self.connection.writer().write(part)?;
            self.flush(tcp)?;
        }
        Ok(std::mem::take(&mut self.offered))
    }

    /// Gives what is encrypted to the socket.
    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut Socket(tcp))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn read(&mut self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // TCP has ended without a word of TLS: a client that is gone, as without TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            self.connection.read_tls(&mut Socket(tcp))?;
            let processed = self.connection.process_new_packets();
            // Alerts and answers of the protocol itself; what does not go out now goes with the next write.
            let flushed = self.flush(tcp);
            if let Err(error) = processed {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            match flushed {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

/// A socket that does not wait.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
