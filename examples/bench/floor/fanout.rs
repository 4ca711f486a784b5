//! The floor of the fan-out: one thread, one epoll. A frame is encoded once into one log, a connection is a cursor on it, and
//! everything that is there goes out in one `write` per connection.

use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{Res, process, ws};

const LISTENER: Token = Token(usize::MAX);
const CLIENTS_MAX: u64 = 16_000;
/// Frames that somebody has not got yet; a publisher that goes beyond is dropped.
const LOG_BYTES_MAX: usize = 64 << 20;
const HEAD_BYTES_MAX: usize = 8 << 10;
const READ_BYTES: usize = 64 << 10;

enum Role {
    /// The request, as far as it is here.
    New(Vec<u8>),
    Subscriber {
        /// Where in the log it goes on.
        cursor: usize,
    },
    /// Its bytes that are no whole frame yet.
    Publisher(Vec<u8>),
}

struct Client {
    socket: TcpStream,
    role: Role,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    log: Vec<u8>,
    buffer: Vec<u8>,
}

/// `floor-fanout`: says `listening ADDRESS`; a client of `/publish` gives what all others get.
pub fn run() -> Res<()> {
    process::allow_files(CLIENTS_MAX)?;
    let poll = Poll::new()?;
    let std = crate::listener()?;
    std.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(std);
    println!("listening {}", listener.local_addr()?);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor { poll, listener, clients: Vec::new(), log: Vec::new(), buffer: vec![0; READ_BYTES] };
    let mut events = Events::with_capacity(4096);
    loop {
        match floor.poll.poll(&mut events, Some(Duration::from_secs(3600))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                LISTENER => floor.accept()?,
                Token(at) => floor.ready(at, event.is_writable()),
            }
        }
        floor.sweep();
    }
}

impl Floor {
    fn accept(&mut self) -> Res<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            socket.set_nodelay(true)?;
            if self.clients.len() as u64 >= CLIENTS_MAX {
                continue;
            }
            self.poll.registry().register(&mut socket, Token(self.clients.len()), Interest::READABLE | Interest::WRITABLE)?;
            self.clients.push(Some(Client { socket, role: Role::New(Vec::new()) }));
        }
    }

    fn ready(&mut self, at: usize, writable: bool) {
        let Some(place) = self.clients.get_mut(at) else { return };
        let Some(client) = place else { return };
        // A subscriber says nothing that matters: its input is only read to see its end.
        loop {
            match client.socket.read(&mut self.buffer) {
                Ok(0) => {
                    *place = None;
                    return;
                }
                Ok(n) => {
                    if !client.take(&self.buffer[..n], &mut self.log) {
                        *place = None;
                        return;
                    }
                    if self.log.len() > LOG_BYTES_MAX {
                        *place = None;
                        return;
                    }
                    // A read that does not fill the buffer has emptied the socket (epoll(7)).
                    if n < READ_BYTES {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    *place = None;
                    return;
                }
            }
        }
        if writable && !client.write(&self.log) {
            *place = None;
        }
    }

    /// Writes to everybody what is there for them.
    fn sweep(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let mut done = true;
        for place in &mut self.clients {
            let Some(client) = place else { continue };
            if !client.write(&self.log) {
                *place = None;
            } else if let Role::Subscriber { cursor } = client.role {
                done &= cursor == self.log.len();
            }
        }
        if done {
            self.log.clear();
            for client in self.clients.iter_mut().flatten() {
                if let Role::Subscriber { cursor } = &mut client.role {
                    *cursor = 0;
                }
            }
        }
    }
}

impl Client {
    /// What the client sent. `false` ends it.
    fn take(&mut self, bytes: &[u8], log: &mut Vec<u8>) -> bool {
        match &mut self.role {
            Role::Subscriber { .. } => true,
            Role::New(head) => {
                head.extend_from_slice(bytes);
                if head.len() > HEAD_BYTES_MAX {
                    return false;
                }
                let Some(end) = ws::head_end(head) else { return true };
                let text = String::from_utf8_lossy(&head[..end]).into_owned();
                let Some(key) = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")) else { return false };
                let mut answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                    derive_accept_key(key.as_bytes())
                )
                .into_bytes();
                ws::push_frame(&mut answer, ws::TEXT, crate::HELLO.as_bytes());
                let publisher = text.starts_with("GET /publish ");
                self.role = if publisher { Role::Publisher(Vec::new()) } else { Role::Subscriber { cursor: log.len() } };
                matches!(self.socket.write(&answer), Ok(n) if n == answer.len())
            }
            Role::Publisher(rest) => {
                rest.extend_from_slice(bytes);
                let mut at = 0;
                while let Some((opcode, head, len)) = ws::frame_head(&rest[at..])
                    && rest.len() >= at + head + len
                {
                    if opcode == ws::TEXT {
                        ws::push_frame(log, ws::TEXT, &rest[at + head..at + head + len]);
                    }
                    at += head + len;
                }
                rest.drain(..at);
                true
            }
        }
    }

    /// One `write` of everything from the cursor on. `false` where the connection is broken.
    fn write(&mut self, log: &[u8]) -> bool {
        let Role::Subscriber { cursor } = &mut self.role else { return true };
        let Some(rest) = log.get(*cursor..).filter(|rest| !rest.is_empty()) else { return true };
        match self.socket.write(rest) {
            Ok(n) => *cursor += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }
}
