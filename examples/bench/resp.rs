//! As much of Redis' protocol as the benches need: commands out, replies walked where they lie.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    Res,
    entries::{Entry, FIELDS},
};

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest reply: a thousand entries are under 1 MiB.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// Bytes of commands between two looks at what came back.
const CHUNK_BYTES: usize = 256 << 10;

/// Appends a command.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `XADD stream * …`.
pub fn xadd(out: &mut Vec<u8>, stream: &str, entry: &Entry) {
    let mut words: Vec<&[u8]> = vec![b"XADD", stream.as_bytes(), b"*"];
    for (name, value) in FIELDS.iter().zip(&entry.values) {
        words.push(name.as_bytes());
        words.push(value.as_bytes());
    }
    command(out, &words);
}

/// What stands at the beginning of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// Simple text, a number, nothing.
    Line(&'a [u8]),
    Error(&'a [u8]),
    Bulk(&'a [u8]),
    /// So many replies follow.
    Array(usize),
}

/// One step: what stands at `at`, and where it ends; `None` where it is not all there. The sender is trusted: this is the floor.
#[inline]
pub fn step(bytes: &[u8], at: usize) -> Option<(Head<'_>, usize)> {
    let kind = *bytes.get(at)?;
    let mut end = at + 1;
    let mut n: i64 = 0;
    let mut negative = false;
    let counted = matches!(kind, b'$' | b'*');
    while *bytes.get(end)? != b'\r' {
        match bytes[end] {
            b'-' if counted => negative = true,
            digit if counted => n = n * 10 + i64::from(digit) - 48,
            _ => {}
        }
        end += 1;
    }
    let next = end + 2;
    if bytes.len() < next {
        return None;
    }
    match kind {
        b'$' | b'*' if negative => Some((Head::Line(&[]), next)),
        b'$' => {
            let after = next + n as usize;
            (bytes.len() >= after + 2).then(|| (Head::Bulk(&bytes[next..after]), after + 2))
        }
        b'*' => Some((Head::Array(n as usize), next)),
        b'-' => Some((Head::Error(&bytes[at + 1..end]), next)),
        _ => Some((Head::Line(&bytes[at + 1..end]), next)),
    }
}

/// Where the reply at `at` ends; `None` where it is not all there.
pub fn end_of(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    let mut open = 1_usize;
    while open > 0 {
        let (head, next) = step(bytes, at)?;
        open -= 1;
        if let Head::Array(n) = head {
            open += n;
        }
        at = next;
    }
    Some(at)
}

/// One connection, one command at a time.
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

impl Conn {
    pub fn open(address: SocketAddr) -> Res<Conn> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Conn { stream, buffer: Vec::with_capacity(1 << 20), used: 0 })
    }

    /// Writes commands as they are.
    pub fn send(&mut self, commands: &[u8]) -> Res<()> {
        Ok(self.stream.write_all(commands)?)
    }

    /// The next whole reply, as bytes.
    pub fn reply(&mut self) -> Res<&[u8]> {
        self.buffer.drain(..self.used);
        self.used = 0;
        loop {
            if let Some(end) = end_of(&self.buffer, 0) {
                self.used = end;
                return Ok(&self.buffer[..end]);
            }
            if self.buffer.len() > REPLY_BYTES_MAX {
                return Err("a reply of Redis is too large".into());
            }
            let had = self.buffer.len();
            self.buffer.resize(had + (256 << 10), 0);
            let n = self.stream.read(&mut self.buffer[had..]);
            self.buffer.truncate(had + *n.as_ref().unwrap_or(&0));
            if n? == 0 {
                return Err("Redis closed the connection".into());
            }
        }
    }

    /// A command and its reply; an error of Redis is an error.
    pub fn call(&mut self, words: &[&str]) -> Res<String> {
        let mut out = Vec::new();
        command(&mut out, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        self.send(&out)?;
        let reply = self.reply()?;
        let (Head::Line(text) | Head::Bulk(text) | Head::Error(text)) = step(reply, 0).ok_or("an empty reply")?.0 else {
            return Ok(String::new());
        };
        let said = String::from_utf8_lossy(text).into_owned();
        if reply.first() == Some(&b'-') {
            return Err(format!("Redis refused {}: {said}", words.first().unwrap_or(&"")).into());
        }
        Ok(said)
    }
}

/// Appends `count` entries to a stream as fast as Redis takes them, numbered from `from`; what is written last is `last`.
pub fn fill(address: SocketAddr, stream: &str, from: u64, count: u64, date: &str, last: Option<&Entry>) -> Res<()> {
    let Conn { stream: mut socket, .. } = Conn::open(address)?;
    let mut replies = socket.try_clone()?;
    let wanted = count + u64::from(last.is_some());
    let counter = thread::spawn(move || -> Result<(), String> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut line_ends = 0;
        // Each reply is a bulk of one id: two lines.
        while line_ends < wanted * 2 {
            let n = replies.read(&mut buffer).map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("Redis closed the connection".to_owned());
            }
            if buffer.first() == Some(&b'-') {
                return Err(String::from_utf8_lossy(&buffer[..n.min(200)]).into_owned());
            }
            line_ends += buffer[..n].iter().filter(|b| **b == b'\n').count() as u64;
        }
        Ok(())
    });
    let mut out = Vec::with_capacity(CHUNK_BYTES + 1024);
    for n in from..from + count {
        xadd(&mut out, stream, &Entry::nth(n, date));
        if out.len() >= CHUNK_BYTES {
            socket.write_all(&out)?;
            out.clear();
        }
    }
    if let Some(last) = last {
        xadd(&mut out, stream, last);
    }
    socket.write_all(&out)?;
    counter.join().map_err(|_| "the thread that counts replies panicked")??;
    Ok(())
}
