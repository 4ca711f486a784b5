//! A backlog through the whole daemon, default rules on, against a hand reader and ordinary consumers.
//!
//! The backlog lies in Redis under another name and is renamed once the daemon is ready: that is when its time begins. It ends
//! when the alert of the last entry, which is one by itself, is at a client: read, classified, counted, committed, sent.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Res,
    entries::Entry,
    process::Proc,
    resp,
    servers::{Bench, Daemon, Redis},
    stats::{Target, figure, number, ratios},
    ws,
};

/// How long a backlog may take.
const PATIENCE: Duration = Duration::from_secs(300);
const MARKER: &str = "security.injection_attempt";

/// What a reader took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Entries a second, by the wall.
    pub rate: f64,
    /// CPU µs an entry.
    pub cpu_us: f64,
    /// CPU µs an entry in redis-server.
    pub redis_us: f64,
}

/// Filled streams, waiting.
pub struct Backlog {
    pub redis: Redis,
    waiting: Vec<String>,
    /// Under which names they are read.
    pub streams: Vec<String>,
    pub entries: u64,
}

impl Backlog {
    /// `entries` in so many streams, the last of each an alert by itself.
    pub fn fill(bench: &Bench, entries: u64, streams: usize) -> Res<Backlog> {
        let redis = bench.redis()?;
        let waiting: Vec<String> = (0..streams).map(|i| format!("waiting:{i}")).collect();
        let names = (0..streams).map(|i| format!("audit:{i}")).collect();
        let each = (entries / streams as u64).saturating_sub(1);
        for (i, stream) in waiting.iter().enumerate() {
            let last = Entry::critical(MARKER, &format!("marker-{i}"), &bench.date);
            resp::fill(redis.address, stream, i as u64 * each, each, &bench.date, Some(&last))?;
        }
        Ok(Backlog { redis, waiting, streams: names, entries: (each + 1) * streams as u64 })
    }

    fn rename(&self, there: bool) -> Res<()> {
        let mut conn = self.redis.conn()?;
        for (waiting, stream) in self.waiting.iter().zip(&self.streams) {
            let (from, to) = if there { (waiting, stream) } else { (stream, waiting) };
            conn.call(&["RENAME", from, to])?;
        }
        Ok(())
    }

    /// Puts the streams where the daemon looks for them.
    pub fn present(&self) -> Res<()> {
        self.rename(true)
    }

    /// And back.
    pub fn withdraw(&self) -> Res<()> {
        self.rename(false)
    }

    /// Waits for the alert of the last entry of each stream; by then all others are taken in.
    pub fn taken(&self, client: &mut ws::Client) -> Res<()> {
        self.streams.iter().try_for_each(|_| client.frame(ws::ALERT, MARKER, PATIENCE))
    }

    /// Holds the daemon to having counted every entry, which it says at a slot's end.
    pub fn counted(&self, daemon: &Daemon) -> Res<()> {
        daemon.wait_series("auditcast_source_events_total{source=\"audit\"}", self.entries as f64, Duration::from_secs(30))
    }

    fn cost(&self, wall: Duration, cpu: Duration, redis: Duration) -> Cost {
        let n = self.entries as f64;
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / n;
        Cost { rate: n / wall.as_secs_f64(), cpu_us: micros(cpu), redis_us: micros(redis) }
    }

    /// The whole daemon.
    pub fn daemon(&self, bench: &Bench) -> Res<Cost> {
        let daemon = bench.daemon(&self.redis, &self.streams)?;
        let mut client = daemon.client(bench)?;
        // What a start still does beside is not what is measured.
        thread::sleep(Duration::from_millis(300));
        let (cpu, redis, start) = (daemon.proc.cpu()?, self.redis.cpu()?, Instant::now());
        self.present()?;
        self.taken(&mut client)?;
        let wall = start.elapsed();
        let cost = self.cost(wall, daemon.proc.cpu()? - cpu, self.redis.cpu()? - redis);
        self.counted(&daemon)?;
        drop(daemon);
        self.withdraw()?;
        Ok(cost)
    }

    /// A reader that says `ready`, begins at `go`, and says `done`.
    pub fn reader(&self, mut proc: Proc) -> Res<Cost> {
        proc.hear("ready", crate::servers::START_WAIT)?;
        let (cpu, redis, start) = (proc.cpu()?, self.redis.cpu()?, Instant::now());
        proc.say("go")?;
        proc.hear("done", PATIENCE)?;
        let wall = start.elapsed();
        Ok(self.cost(wall, proc.cpu()? - cpu, self.redis.cpu()? - redis))
    }

    /// The hand reader.
    pub fn floor(&self, bench: &Bench) -> Res<Cost> {
        let (address, entries) = (self.redis.address.to_string(), self.entries.to_string());
        let mut arguments = vec!["floor-reader", &address, &entries];
        arguments.extend(self.waiting.iter().map(String::as_str));
        self.reader(bench.helper(&arguments)?)
    }

    /// Where a reader of another make finds it: address, entries, stream.
    pub fn for_peers(&self) -> Res<[String; 3]> {
        let first = self.waiting.first().ok_or("there is no stream")?;
        Ok([self.redis.address.port().to_string(), self.entries.to_string(), first.clone()])
    }
}

/// `by` names what was measured.
fn print(round: usize, by: &str, cost: Cost) {
    let Cost { rate, cpu_us, redis_us } = cost;
    let (cpu_us, redis_us) = (number(cpu_us), number(redis_us));
    println!("  round {round}  {by:<14} {:>10} entries/s   CPU {cpu_us} µs an entry   redis-server {redis_us} µs", number(rate));
}

pub fn run(bench: &Bench) -> Res<()> {
    let backlog = Backlog::fill(bench, bench.options.entries, 1)?;
    println!("{} entries of {} bytes", number(backlog.entries as f64), crate::entries::PAYLOAD_BYTES);
    let readers = bench.peers.readers();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); 2 + readers.len()];
    for round in 0..bench.options.rounds {
        for turn in 0..costs.len() {
            let at = (round + turn) % costs.len();
            let (name, cost) = match at {
                0 => ("auditcast", backlog.daemon(bench)?),
                1 => ("floor", backlog.floor(bench)?),
                _ => {
                    let reader = readers[at - 2];
                    (reader, backlog.reader(bench.peers.reader(bench, reader, &backlog.for_peers()?)?)?)
                }
            };
            print(round + 1, name, cost);
            costs[at].push(cost);
        }
    }
    let rate = |at: usize| costs[at].iter().map(|cost| cost.rate).collect::<Vec<f64>>();
    let cpu = |at: usize| costs[at].iter().map(|cost| cost.cpu_us).collect::<Vec<f64>>();
    figure("ingest, entries a second", &rate(0), "", Target::None);
    figure("ingest, CPU an entry", &cpu(0), "µs", Target::None);
    figure("ingest, rate ÷ hand reader", &ratios(&rate(0), &rate(1)), "×", Target::AtLeast(0.85));
    figure("ingest, CPU an entry ÷ hand reader", &ratios(&cpu(0), &cpu(1)), "×", Target::AtMost(2.0));
    for (i, reader) in readers.iter().enumerate() {
        figure(&format!("ingest, rate ÷ {reader}"), &ratios(&rate(0), &rate(2 + i)), "×", Target::AtLeast(5.0));
    }
    Ok(())
}
