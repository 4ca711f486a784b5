//! WebSocket as the benches need it: requests, frames made, frames counted, and a client that waits for one frame.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::Res;

pub const TEXT: u8 = 1;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// How every alert begins, the floor's and the peers' too.
pub const ALERT: &[u8] = br#"{"type":"security_alert""#;

/// 16 bytes in base64; what they are does not matter here.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";
const HEAD_BYTES_MAX: usize = 16 << 10;
const FRAME_BYTES_MAX: usize = 1 << 20;

/// The request of a client; with a token in the header that non-browsers use.
pub fn request(address: SocketAddr, path: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("Sec-WebSocket-Protocol: auditcast.v1\r\nAuthorization: Bearer {token}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{}\r\n",
        token.unwrap_or_default()
    )
}

/// Where the head of a request or an answer ends.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn push_head(out: &mut Vec<u8>, opcode: u8, len: usize, masked: u8) {
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(masked | len as u8),
        126..=0xffff => {
            out.push(masked | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a frame as a server sends it.
pub fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    push_head(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it, under the mask 0: legal, and the bytes stay as they are.
pub fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    push_head(out, opcode, payload.len(), 0x80);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// Opcode, bytes of the head, bytes of the payload; `None` where the head is not all there. Masks must be 0.
#[inline]
pub fn frame_head(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (head, len) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        n => (2, usize::from(n)),
    };
    Some((first & 0x0f, head + mask, len))
}

/// Bytes of a frame that [`Walk`] shows: enough to know an alert, and to answer a ping.
const SHOWN: usize = 24;

/// Walks frames that come in pieces, without keeping them.
#[derive(Default)]
pub struct Walk {
    /// Head and shown bytes of a frame that has not all of them yet.
    part: Vec<u8>,
    /// Bytes of the current frame still to pass over.
    skip: usize,
}

impl Walk {
    /// `saw` gets opcode, the first bytes of the payload, and the frame's bytes in all.
    #[inline]
    pub fn feed(&mut self, mut bytes: &[u8], mut saw: impl FnMut(u8, &[u8], usize)) {
        loop {
            let passed = self.skip.min(bytes.len());
            bytes = &bytes[passed..];
            self.skip -= passed;
            if bytes.is_empty() {
                return;
            }
            if !self.part.is_empty() {
                self.part.push(bytes[0]);
                bytes = &bytes[1..];
                let Some((opcode, head, len)) = frame_head(&self.part) else { continue };
                let shown = head + len.min(SHOWN);
                if self.part.len() >= shown {
                    saw(opcode, &self.part[head..shown], head + len);
                    self.skip = head + len - shown;
                    self.part.clear();
                }
                continue;
            }
            match frame_head(bytes) {
                Some((opcode, head, len)) if bytes.len() >= head + len.min(SHOWN) => {
                    saw(opcode, &bytes[head..head + len.min(SHOWN)], head + len);
                    self.skip = head + len;
                }
                _ => {
                    // Under 40 bytes are missing: gathered one by one.
                    self.part.push(bytes[0]);
                    bytes = &bytes[1..];
                }
            }
        }
    }
}

/// A client that reads whole frames, one at a time.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

impl Client {
    /// Connects and waits for the 101.
    pub fn connect(address: SocketAddr, path: &str, token: Option<&str>) -> Res<Client> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.write_all(request(address, path, token).as_bytes())?;
        let mut client = Client { stream, buffer: Vec::new(), used: 0 };
        let deadline = Instant::now() + Duration::from_secs(10);
        let end = loop {
            if let Some(end) = head_end(&client.buffer) {
                break end;
            }
            if client.buffer.len() > HEAD_BYTES_MAX || !client.more(deadline)? {
                return Err("no answer to the request for a WebSocket".into());
            }
        };
        if !client.buffer.starts_with(b"HTTP/1.1 101") {
            let said = String::from_utf8_lossy(&client.buffer).lines().next().unwrap_or_default().to_owned();
            return Err(format!("the request for a WebSocket was answered with {said}").into());
        }
        client.used = end;
        Ok(client)
    }

    /// The next text frame; `None` when the deadline has passed.
    pub fn text(&mut self, deadline: Instant) -> Res<Option<&[u8]>> {
        loop {
            let rest = &self.buffer[self.used..];
            match frame_head(rest) {
                Some((_, _, len)) if len > FRAME_BYTES_MAX => return Err("a frame is too large".into()),
                Some((opcode, head, len)) if rest.len() >= head + len => {
                    let start = self.used + head;
                    self.used = start + len;
                    if opcode == TEXT {
                        return Ok(Some(&self.buffer[start..start + len]));
                    }
                    if opcode == PING {
                        let mut pong = Vec::new();
                        push_masked(&mut pong, PONG, &self.buffer[start..start + len]);
                        self.stream.write_all(&pong)?;
                    }
                }
                _ => {
                    self.buffer.drain(..self.used);
                    self.used = 0;
                    if !self.more(deadline)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Waits for the next frame that begins so and contains a text.
    pub fn frame(&mut self, beginning: &[u8], containing: &str, patience: Duration) -> Res<()> {
        let deadline = Instant::now() + patience;
        while let Some(text) = self.text(deadline)? {
            if text.starts_with(beginning) && std::str::from_utf8(text)?.contains(containing) {
                return Ok(());
            }
        }
        let beginning = String::from_utf8_lossy(beginning);
        Err(format!("no frame `{beginning}` with `{containing}` came within {patience:?}").into())
    }

    /// Sends text frames that are there already, masked.
    pub fn send(&mut self, frames: &[u8]) -> Res<()> {
        Ok(self.stream.write_all(frames)?)
    }

    fn more(&mut self, deadline: Instant) -> Res<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        self.stream.set_read_timeout(Some(left))?;
        let had = self.buffer.len();
        self.buffer.resize(had + (16 << 10), 0);
        let n = self.stream.read(&mut self.buffer[had..]);
        self.buffer.truncate(had + *n.as_ref().unwrap_or(&0));
        match n {
            Ok(0) => Err("the server closed the connection".into()),
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}
