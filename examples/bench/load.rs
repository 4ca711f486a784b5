//! The clients: a process of its own with one epoll loop that connects, counts what comes, and keeps nothing.

use std::{
    io::{BufRead, ErrorKind, Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream};

use crate::{Res, process, ws};

const WAKER: Token = Token(usize::MAX);
/// Connections that are being made at once.
const CONNECTING_MAX: usize = 64;
const CONNECT_WAIT: Duration = Duration::from_secs(60);
/// Large, so that the clients are never what is measured.
const READ_BYTES: usize = 256 << 10;

#[derive(PartialEq, Eq)]
enum State {
    Connecting,
    /// The request is out.
    Asked,
    /// Answered; the first frame has not come.
    Upgraded,
    In,
}

struct Client {
    socket: TcpStream,
    state: State,
    head: Vec<u8>,
    walk: ws::Walk,
    alerts: u64,
}

/// What a command waits for.
struct Wait {
    alerts: u64,
    deadline: Instant,
}

struct Load {
    poll: Poll,
    address: SocketAddr,
    /// `None`: sockets alone, without a word.
    request: Option<String>,
    clients: Vec<Client>,
    wanted: usize,
    /// Connected, and past the first frame.
    inside: usize,
    buffer: Vec<u8>,
    bytes: u64,
    frames: u64,
    wait: Option<Wait>,
}

/// `load ADDRESS PATH CLIENTS`; the token comes as the first line (`-` for none), `raw` as PATH opens sockets and says nothing.
/// Says `in MS` when all are connected; answers `wait N MS` with `counts MIN TOTAL BYTES` once every client has N alerts, or then.
pub fn run(arguments: &[String]) -> Res<()> {
    let [address, path, clients] = arguments else { return Err("load ADDRESS PATH CLIENTS".into()) };
    let (address, wanted) = (address.parse()?, clients.parse()?);
    process::allow_files(wanted as u64 + 64)?;
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (to, commands) = sync_channel(16);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if to.send(line).is_err() || waker.wake().is_err() {
                break;
            }
        }
        drop(to);
        let _ = waker.wake();
    });
    let token = commands.recv()?;
    let token = (token != "-").then_some(token.as_str());
    let request = (path != "raw").then(|| ws::request(address, path, token));
    let mut load = Load {
        poll,
        address,
        request,
        clients: Vec::with_capacity(wanted),
        wanted,
        inside: 0,
        buffer: vec![0; READ_BYTES],
        bytes: 0,
        frames: 0,
        wait: None,
    };
    load.connect()?;
    load.serve(&commands)
}

impl Load {
    fn connect(&mut self) -> Res<()> {
        let started = Instant::now();
        let mut events = Events::with_capacity(1024);
        while self.inside < self.wanted {
            while self.clients.len() < self.wanted && self.clients.len() - self.inside < CONNECTING_MAX {
                let mut socket = TcpStream::connect(self.address)?;
                let token = Token(self.clients.len());
                self.poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
                let walk = ws::Walk::default();
                self.clients.push(Client { socket, state: State::Connecting, head: Vec::new(), walk, alerts: 0 });
            }
            if started.elapsed() > CONNECT_WAIT {
                return Err(format!("{} of {} clients got in within {CONNECT_WAIT:?}", self.inside, self.wanted).into());
            }
            self.turn(&mut events, Duration::from_millis(100))?;
        }
        println!("in {}", started.elapsed().as_millis());
        Ok(())
    }

    fn serve(&mut self, commands: &Receiver<String>) -> Res<()> {
        let mut events = Events::with_capacity(4096);
        loop {
            match commands.try_recv() {
                Ok(line) => {
                    let mut words = line.split(' ').skip(1).map(str::parse::<u64>);
                    let (Some(Ok(alerts)), Some(Ok(ms))) = (words.next(), words.next()) else {
                        return Err(format!("not a command: {line}").into());
                    };
                    self.wait = Some(Wait { alerts, deadline: Instant::now() + Duration::from_millis(ms) });
                }
                // Nobody is there any more who could say anything.
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            self.answer();
            let patience = self.wait.as_ref().map_or(Duration::from_secs(3600), |_| Duration::from_millis(20));
            self.turn(&mut events, patience)?;
        }
    }

    fn answer(&mut self) {
        let Some(wait) = &self.wait else { return };
        // A look at the totals first: the minimum is looked for only where it can be there.
        let complete = self.frames >= wait.alerts * self.wanted as u64;
        if !complete && Instant::now() < wait.deadline {
            return;
        }
        let least = self.clients.iter().map(|client| client.alerts).min().unwrap_or(0);
        if least >= wait.alerts || Instant::now() >= wait.deadline {
            println!("counts {least} {} {}", self.frames, self.bytes);
            self.wait = None;
        }
    }

    fn turn(&mut self, events: &mut Events, patience: Duration) -> Res<()> {
        match self.poll.poll(events, Some(patience)) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in events.iter().filter(|event| event.token() != WAKER) {
            self.ready(event.token().0, event.is_writable())?;
        }
        Ok(())
    }

    fn ready(&mut self, at: usize, writable: bool) -> Res<()> {
        let Some(client) = self.clients.get_mut(at) else { return Ok(()) };
        if client.state == State::Connecting {
            if !writable {
                return Ok(());
            }
            if let Some(error) = client.socket.take_error()? {
                return Err(format!("client {at} could not connect: {error}").into());
            }
            match &self.request {
                // A socket's own buffer takes a request whole.
                Some(request) => client.socket.write_all(request.as_bytes())?,
                None => {
                    client.state = State::In;
                    self.inside += 1;
                    return Ok(());
                }
            }
            client.state = State::Asked;
        }
        loop {
            let n = match client.socket.read(&mut self.buffer) {
                Ok(0) => return Err(format!("the server closed client {at} after {} alerts", client.alerts).into()),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("client {at}: {e}").into()),
            };
            let mut bytes = &self.buffer[..n];
            let gathered;
            if client.state == State::Asked {
                client.head.extend_from_slice(bytes);
                let Some(end) = ws::head_end(&client.head) else { continue };
                if !client.head.starts_with(b"HTTP/1.1 101") {
                    let said = String::from_utf8_lossy(&client.head);
                    return Err(format!("client {at} was answered with {}", said.lines().next().unwrap_or_default()).into());
                }
                gathered = std::mem::take(&mut client.head);
                bytes = &gathered[end..];
                client.state = State::Upgraded;
            }
            let mut pong = Vec::new();
            let mut greeted = false;
            client.walk.feed(bytes, |opcode, start, len| match opcode {
                ws::TEXT => {
                    greeted = true;
                    if start.starts_with(ws::ALERT) {
                        client.alerts += 1;
                        self.frames += 1;
                        self.bytes += len as u64;
                    }
                }
                ws::PING => ws::push_masked(&mut pong, ws::PONG, start),
                _ => {}
            });
            if greeted && client.state == State::Upgraded {
                client.state = State::In;
                self.inside += 1;
            }
            if !pong.is_empty() {
                client.socket.write_all(&pong)?;
            }
            // A read that does not fill the buffer has emptied the socket (epoll(7)).
            if n < READ_BYTES {
                return Ok(());
            }
        }
    }
}
