//! Benches that anyone can run: each starts its own redis-server, the daemon, and the floor it is held against, by turns, and
//! prints rounds, medians, and whether the target is met.
//!
//! ```sh
//! cargo build --release
//! cargo run --release --example bench -- NAME [--rounds 3] [--entries 1000000] [--clients 1000,5000] [--peers] [--daemon PATH]
//! ```
//!
//! What a process used is read from the kernel (`/proc/PID/task/*/schedstat`, `smaps_rollup`), never from the wall clock where
//! a ratio of costs is meant. All of it stays on 127.0.0.1. Nothing is left behind, at Ctrl-C neither.
//!
//! | file | subject |
//! |---|---|
//! | `ingest`, `fanout`, `latency`, `idle`, `handshake`, `startup`, `flat` | the benches |
//! | `servers`, `load`, `peers` | what is measured, the clients, what others have built |
//! | `floor` | the same work by hand, and nothing else |
//! | `process`, `resp`, `ws`, `entries`, `stats` | children, protocols, what is written, what is printed |

use std::{
    error::Error,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
};

mod entries;
mod fanout;
mod flat;
mod floor;
mod handshake;
mod idle;
mod ingest;
mod latency;
mod load;
mod peers;
mod process;
mod resp;
mod servers;
mod startup;
mod stats;
mod ws;

use servers::Bench;

pub type Res<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: bench NAME… [--rounds N] [--entries N] [--clients N,N…] [--seconds N] [--peers] [--daemon PATH]

  ingest      a backlog through the whole daemon, against a hand reader
  fanout      one alert to many clients: one at a time, 50 a second at most, and bursts of 1000
  latency     XADD to the frame at the client, 50 a second
  idle        memory and CPU of a daemon, and of clients, that do nothing
  handshake   what it costs to let a client in
  startup     from the start of the process to `ready`, empty, with a backlog, with a checkpoint
  flat        cost per entry and per delivery, over 1 to 10 streams, 1 to 5000 clients, 10,000 entries to --entries
  all         all of these

  --rounds    how often each side runs, by turns (3)
  --entries   length of the backlog (1000000)
  --clients   of fanout (1,100,1000,5000), idle and handshake (the last one: 5000)
  --seconds   how long a steady phase lasts (4; latency 20, idle 20 and 30)
  --peers     also against other programs, which are installed into target/bench-peers by pip and npm
  --daemon    the binary (target/release/auditcast, beside this one)";

/// A name and what runs.
type Named = (&'static str, fn(&Bench) -> Res<()>);

const BENCHES: [Named; 7] = [
    ("ingest", ingest::run),
    ("fanout", fanout::run),
    ("latency", latency::run),
    ("idle", idle::run),
    ("handshake", handshake::run),
    ("startup", startup::run),
    ("flat", flat::run),
];

/// What a server says to a client that came in.
pub const HELLO: &str = r#"{"type":"hello"}"#;

/// A text as long as an alert of `bytes`, that begins like one.
pub fn alert_like(bytes: usize) -> String {
    let head = r#"{"type":"security_alert","message":""#;
    format!(r#"{head}{}"}}"#, "x".repeat(bytes.saturating_sub(head.len() + 2)))
}

/// A listener on a free port, with room for everybody who comes at once.
pub fn listener() -> Res<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// What was asked for.
pub struct Options {
    pub rounds: usize,
    pub entries: u64,
    pub clients: Vec<usize>,
    /// `None`: each bench's own.
    pub seconds: Option<u64>,
    pub peers: bool,
    pub daemon: PathBuf,
}

fn options(arguments: &[String]) -> Res<(Vec<String>, Options)> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("auditcast"));
    let mut options = Options {
        rounds: 3,
        entries: 1_000_000,
        clients: vec![1, 100, 1000, 5000],
        seconds: None,
        peers: false,
        daemon: beside().unwrap_or_default(),
    };
    let mut names = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value\n\n{USAGE}"));
        let number = |text: &str, most: u64| match text.replace('_', "").parse::<u64>() {
            Ok(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(format!("{argument} takes a number from 1 to {most}, not `{text}`")),
        };
        match argument.as_str() {
            "--rounds" => options.rounds = number(value()?, 100)? as usize,
            "--entries" => options.entries = number(value()?, 20_000_000)?,
            "--clients" => {
                let list: Result<Vec<u64>, String> = value()?.split(',').map(|n| number(n, 15_000)).collect();
                options.clients = list?.into_iter().map(|n| n as usize).collect();
            }
            "--seconds" => options.seconds = Some(number(value()?, 600)?),
            "--peers" => options.peers = true,
            "--daemon" => options.daemon = value()?.into(),
            "all" => names.extend(BENCHES.map(|(name, _)| name.to_owned())),
            name if BENCHES.iter().any(|(known, _)| *known == name) => names.push(name.to_owned()),
            other => return Err(format!("there is no {other}\n\n{USAGE}").into()),
        }
    }
    if names.is_empty() {
        return Err(USAGE.into());
    }
    Ok((names, options))
}

fn benches(arguments: &[String]) -> Res<()> {
    let (names, options) = options(arguments)?;
    process::clean_up_on_signal()?;
    let bench = Bench::new(options)?;
    println!("{}", bench.describe()?);
    for name in names {
        if let Some((_, run)) = BENCHES.iter().find(|(known, _)| *known == name) {
            println!("\n== {name}");
            run(&bench)?;
        }
    }
    stats::summary();
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The first are what this program starts of itself.
    let result = match arguments.split_first() {
        Some((name, rest)) => match name.as_str() {
            "load" => load::run(rest),
            "floor-reader" => floor::reader::run(rest),
            "floor-relay" => floor::relay::run(rest),
            "floor-fanout" => floor::fanout::run(),
            "floor-sockets" => floor::sockets::run(),
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => benches(&arguments),
        },
        None => benches(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For whoever reads the lines of a child, and for people.
            println!("error {error}");
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
