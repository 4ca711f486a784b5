//! What is measured: redis-server, the daemon, the floors, each started for a round and gone after it.

use std::{
    cell::Cell,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    Options, Res,
    entries::Entry,
    peers::Peers,
    process::{Dir, Proc},
    resp::{self, Conn},
    ws,
};

/// How long anything may take to start.
pub const START_WAIT: Duration = Duration::from_secs(60);
/// Types of critical alerts, so many that no limit per type and slot is met.
const KINDS: u64 = 200;

/// One run of this program.
pub struct Bench {
    pub options: Options,
    dir: Dir,
    secret: String,
    token: String,
    /// Today, as timestamps have it.
    pub date: String,
    started: Cell<u32>,
    pub peers: Peers,
}

impl Bench {
    pub fn new(options: Options) -> Res<Bench> {
        if !options.daemon.is_file() {
            let daemon = options.daemon.display();
            return Err(format!("{daemon} is not there: `cargo build --release` first, or name one by --daemon").into());
        }
        let mut random = [0_u8; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let date = jiff::Timestamp::now().to_string().chars().take(10).collect();
        let peers = Peers::new(options.peers)?;
        let mut bench = Bench { options, dir: Dir::new()?, secret, token: String::new(), date, started: Cell::new(0), peers };
        let issued = bench.command().args(["token", "issue", "--user", "bench", "--role", "ADMIN", "--for", "8h"]).output()?;
        if !issued.status.success() {
            return Err(format!("no token could be issued: {}", String::from_utf8_lossy(&issued.stderr).trim()).into());
        }
        bench.token = String::from_utf8(issued.stdout)?.trim().to_owned();
        Ok(bench)
    }

    /// The binaries and the machine.
    pub fn describe(&self) -> Res<String> {
        let version = self.command().arg("--version").output()?;
        let redis = Command::new("redis-server").arg("--version").output();
        let redis = redis.map_err(|e| format!("redis-server could not be run: {e}"))?;
        let first = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Ok(format!("{}\n{}\n{cores} cores", first(&version.stdout), first(&redis.stdout)))
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// The daemon's binary, with nothing of this process's environment.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.options.daemon);
        command.env_clear().current_dir(self.dir.path()).env("JWT_SECRET_KEY", &self.secret);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// A name nobody has had: for files and prefixes.
    pub fn fresh(&self, name: &str) -> String {
        self.started.set(self.started.get() + 1);
        format!("{name}-{}", self.started.get())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{}.log", self.fresh(name)))
    }

    /// A part of this program as a process of its own.
    pub fn helper(&self, arguments: &[&str]) -> Res<Proc> {
        let name = arguments.first().copied().unwrap_or_default();
        Proc::start(name, Command::new(std::env::current_exe()?).args(arguments), &self.log(name))
    }

    /// A program that is not ours.
    pub fn foreign(&self, name: &str, command: &mut Command) -> Res<Proc> {
        Proc::start(name, command, &self.log(name))
    }

    pub fn redis(&self) -> Res<Redis> {
        Redis::start(self)
    }

    /// The daemon on a store of its own in this Redis. `streams` are what it reads.
    pub fn daemon(&self, redis: &Redis, streams: &[String]) -> Res<Daemon> {
        self.daemon_again(&redis.url(), &format!("{{{}}}", self.fresh("bench")), streams)
    }

    /// The daemon on a store that may have been used.
    pub fn daemon_again(&self, store: &str, prefix: &str, streams: &[String]) -> Res<Daemon> {
        let quoted: Vec<String> = streams.iter().map(|stream| format!("\"{stream}\"")).collect();
        let log = self.log("daemon");
        let mut command = self.command();
        command.arg("serve").envs([
            ("AUDITCAST__STORE__URL", store),
            ("AUDITCAST__STORE__PREFIX", prefix),
            ("AUDITCAST__SOURCE__AUDIT__STREAMS", &format!("[{}]", quoted.join(","))),
            ("AUDITCAST__SOURCE__AUDIT__START", "earliest"),
            ("AUDITCAST__LISTEN__PUBLIC", "127.0.0.1:0"),
            ("AUDITCAST__LISTEN__OPS", "127.0.0.1:0"),
            ("AUDITCAST__LIMITS__CONNECTIONS", "20000"),
            ("AUDITCAST__LIMITS__CONNECTIONS_PER_USER", "20000"),
            ("AUDITCAST__LIMITS__SOCKETS", "22000"),
            ("AUDITCAST__LOG__LEVEL", "warn"),
        ]);
        let started = Instant::now();
        let proc = Proc::start("daemon", &mut command, &log)?;
        let address = |line: &str| -> Res<SocketAddr> { Ok(proc.hear(line, START_WAIT)?.parse()?) };
        let heard = address("listening public=http://").and_then(|public| Ok((public, address("listening ops=http://")?)));
        let (public, ops) = match heard {
            Ok(heard) => heard,
            Err(error) => return Err(format!("{error}: {}", tail(&log)).into()),
        };
        proc.hear("ready", START_WAIT)?;
        Ok(Daemon { ready: started.elapsed(), started, proc, public, ops })
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

/// A redis-server without persistence, on a free port.
pub struct Redis {
    proc: Proc,
    pub address: SocketAddr,
}

impl Redis {
    fn start(bench: &Bench) -> Res<Redis> {
        // Between finding a free port and taking it somebody else may have taken it.
        let mut fault = String::new();
        for _ in 0..5 {
            let address = crate::listener()?.local_addr()?;
            let log = bench.log("redis");
            let mut command = Command::new("redis-server");
            command.current_dir(bench.dir.path()).args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"]);
            let proc = Proc::start("redis-server", &mut command, &log)?;
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline {
                if Conn::open(address).and_then(|mut conn| conn.call(&["PING"])).is_ok_and(|pong| pong == "PONG") {
                    return Ok(Redis { proc, address });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            fault = tail(&log);
        }
        Err(format!("redis-server does not start: {fault}").into())
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub fn conn(&self) -> Res<Conn> {
        Conn::open(self.address)
    }

    pub fn cpu(&self) -> Res<Duration> {
        self.proc.cpu()
    }
}

/// A running daemon that has said `ready`.
pub struct Daemon {
    pub proc: Proc,
    pub public: SocketAddr,
    ops: SocketAddr,
    pub started: Instant,
    /// From the start of the process to its `ready`.
    pub ready: Duration,
}

impl Daemon {
    /// A client that gets every alert, those from before it came too.
    pub fn client(&self, bench: &Bench) -> Res<ws::Client> {
        ws::Client::connect(self.public, "/ws?after=earliest", Some(bench.token()))
    }

    /// The sum of a series on `/metrics`; 0 where it is not there.
    pub fn series(&self, name: &str) -> Res<f64> {
        let mut stream = TcpStream::connect_timeout(&self.ops, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.ops)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let values = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Waits until a series has a value: it is shown at slots' ends.
    pub fn wait_series(&self, name: &str, wanted: f64, patience: Duration) -> Res<()> {
        let deadline = Instant::now() + patience;
        loop {
            let value = self.series(name)?;
            if value >= wanted {
                return match value > wanted {
                    true => Err(format!("{name} is {value}, more than {wanted}").into()),
                    false => Ok(()),
                };
            }
            if Instant::now() > deadline {
                return Err(format!("{name} is {value} and not {wanted} after {patience:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Who broadcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Daemon,
    Floor,
    Uws,
    NodeWs,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Daemon => "auditcast",
            Kind::Floor => "floor",
            Kind::Uws => "uWebSockets",
            Kind::NodeWs => "node ws",
        }
    }
}

/// A running broadcaster and the way to make it say something.
pub struct Server {
    pub proc: Proc,
    address: SocketAddr,
    path: &'static str,
    token: String,
    feed: Feed,
    sent: u64,
    /// Ends with it.
    _redis: Option<Redis>,
}

enum Feed {
    /// Entries that are alerts by themselves.
    Redis(Box<Conn>, String),
    /// Frames over a connection to the server, each passed on as it is: a broadcaster without a source.
    Publish(Box<ws::Client>, Vec<u8>),
}

impl Server {
    /// `bytes` are the payload that all but the daemon broadcast.
    pub fn start(bench: &Bench, kind: Kind, bytes: usize) -> Res<Server> {
        if kind == Kind::Daemon {
            let redis = bench.redis()?;
            let daemon = bench.daemon(&redis, &["audit:events".to_owned()])?;
            let feed = Feed::Redis(Box::new(redis.conn()?), bench.date.clone());
            let (address, token) = (daemon.public, bench.token().to_owned());
            return Ok(Server { proc: daemon.proc, address, path: "/ws", token, feed, sent: 0, _redis: Some(redis) });
        }
        let proc = match kind {
            Kind::Floor => bench.helper(&["floor-fanout"])?,
            _ => bench.peers.broadcaster(bench, kind)?,
        };
        let address: SocketAddr = proc.hear("listening ", START_WAIT)?.parse()?;
        let mut frame = Vec::new();
        ws::push_masked(&mut frame, ws::TEXT, crate::alert_like(bytes).as_bytes());
        let feed = Feed::Publish(Box::new(ws::Client::connect(address, "/publish", None)?), frame);
        Ok(Server { proc, address, path: "/ws", token: "-".to_owned(), feed, sent: 0, _redis: None })
    }

    /// Clients in a process of their own; comes back when all are in.
    pub fn clients(&self, bench: &Bench, n: usize) -> Res<Proc> {
        clients(bench, self.address, self.path, &self.token, n)
    }

    /// Makes it broadcast `n` messages, and says how many there were by now.
    pub fn send(&mut self, n: u64) -> Res<u64> {
        match &mut self.feed {
            Feed::Redis(conn, date) => {
                let mut out = Vec::new();
                for i in self.sent..self.sent + n {
                    let kind = format!("malicious.probe_{}", i % KINDS);
                    resp::xadd(&mut out, "audit:events", &Entry::critical(&kind, &i.to_string(), date));
                }
                conn.send(&out)?;
                for _ in 0..n {
                    if conn.reply()?.first() == Some(&b'-') {
                        return Err("Redis refused an XADD".into());
                    }
                }
            }
            Feed::Publish(client, frame) => client.send(&frame.repeat(n as usize))?,
        }
        self.sent += n;
        Ok(self.sent)
    }
}

/// Starts `n` clients and waits until they are in.
pub fn clients(bench: &Bench, address: SocketAddr, path: &str, token: &str, n: usize) -> Res<Proc> {
    let mut load = bench.helper(&["load", &address.to_string(), path, &n.to_string()])?;
    load.say(token)?;
    load.hear("in ", Duration::from_secs(90))?;
    Ok(load)
}

/// Waits until every client has `alerts`; gives the mean payload of one in bytes.
pub fn delivered(load: &mut Proc, alerts: u64, clients: usize, patience: Duration) -> Res<usize> {
    load.say(&format!("wait {alerts} {}", patience.as_millis()))?;
    let counts = load.hear("counts ", patience + Duration::from_secs(10))?;
    let counts: Vec<u64> = counts.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [least, total, bytes] = counts[..] else { return Err("the clients' counts are not three numbers".into()) };
    if least != alerts || total != alerts * clients as u64 {
        return Err(format!("{alerts} alerts to {clients} clients: {total} came in all, {least} to the one with least").into());
    }
    Ok((bytes / total.max(1)).saturating_sub(4) as usize)
}
