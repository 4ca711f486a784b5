//! One alert to many clients: 50 a second, and bursts of 1000. CPU of the server, by message delivered.
//!
//! Steady means one at a time: the next one waits until everybody has the one before, also where that takes more than a 50th of
//! a second (5000 clients). Else whoever is slower would get more of them into one write, and seem cheaper.
//!
//! The daemon's CPU has reading, classifying and committing the alert in it; the floor and the peers are given finished texts,
//! as long as the daemon's alerts are.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Res, process,
    servers::{Bench, Kind, Server, delivered},
    stats::{Target, figure, median, number, ratios},
};

const RATE_PER_S: u64 = 50;
const SECONDS: u64 = 4;
const BURST: u64 = 1000;
/// Deliveries that bursts of one round make at least, so that there is something to measure; and bursts at most.
const BURST_DELIVERIES: u64 = 200_000;
const BURSTS_MAX: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(120);
/// What a probe before the first round is taken to be.
const ALERT_BYTES: usize = 560;

/// One server, one number of clients, one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// CPU µs a delivery.
    pub steady_us: f64,
    pub burst_us: f64,
    /// CPU µs an alert, in a burst, all of its deliveries together.
    pub burst_alert_us: f64,
    pub steady_alert_us: f64,
    /// Payload of an alert.
    pub bytes: usize,
}

/// Measures one server with so many clients. `bytes` are the payload for those who do not make it themselves.
pub fn sample(bench: &Bench, kind: Kind, n: usize, bytes: usize) -> Res<Sample> {
    let mut server = Server::start(bench, kind, bytes)?;
    let mut load = server.clients(bench, n)?;
    // One for warming up, and to know that everybody is subscribed.
    thread::sleep(Duration::from_millis(500));
    let sent = server.send(1)?;
    let bytes = delivered(&mut load, sent, n, PATIENCE)?;

    let alerts = RATE_PER_S * bench.options.seconds.unwrap_or(SECONDS);
    let cpu = server.proc.cpu()?;
    for _ in 0..alerts {
        let due = Instant::now() + Duration::from_millis(1000 / RATE_PER_S);
        let sent = server.send(1)?;
        delivered(&mut load, sent, n, PATIENCE)?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let steady_alert_us = micros(server.proc.cpu()? - cpu) / alerts as f64;

    let bursts = BURST_DELIVERIES.div_ceil(BURST * n as u64).clamp(1, BURSTS_MAX);
    let mut burst = Duration::ZERO;
    for _ in 0..bursts {
        let cpu = server.proc.cpu()?;
        let sent = server.send(BURST)?;
        delivered(&mut load, sent, n, PATIENCE)?;
        burst += server.proc.cpu()? - cpu;
    }
    let burst_alert_us = micros(burst) / (bursts * BURST) as f64;
    let each = n as f64;
    Ok(Sample { steady_us: steady_alert_us / each, burst_us: burst_alert_us / each, burst_alert_us, steady_alert_us, bytes })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Every kind by turns, `rounds` times. The daemon is the first of all, so that the others know how long its alerts are.
pub fn rounds(bench: &Bench, kinds: &[Kind], n: usize) -> Res<Vec<Vec<Sample>>> {
    process::allow_files(n as u64 + 256)?;
    let mut samples = vec![Vec::new(); kinds.len()];
    let mut bytes = ALERT_BYTES;
    for round in 0..bench.options.rounds {
        for turn in 0..kinds.len() {
            let at = (round + turn) % kinds.len();
            let sample = sample(bench, kinds[at], n, bytes)?;
            if kinds[at] == Kind::Daemon {
                bytes = sample.bytes;
            }
            println!(
                "  round {}  {n} clients  {:<12} steady {} µs a delivery   burst {} µs   ({} bytes)",
                round + 1,
                kinds[at].name(),
                number(sample.steady_us),
                number(sample.burst_us),
                sample.bytes
            );
            samples[at].push(sample);
        }
    }
    Ok(samples)
}

pub fn of(samples: &[Sample], what: fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().map(what).collect()
}

pub fn run(bench: &Bench) -> Res<()> {
    let kinds: Vec<Kind> = [Kind::Daemon, Kind::Floor].into_iter().chain(bench.peers.broadcasters()).collect();
    // What one client costs, steady and in a burst, of daemon and floor: nearly all of it is the alert's own.
    let mut single: Option<[[f64; 2]; 2]> = None;
    for &n in &bench.options.clients {
        let samples = rounds(bench, &kinds, n)?;
        let alert =
            |at: usize| [median(&of(&samples[at], |s| s.steady_alert_us)), median(&of(&samples[at], |s| s.burst_alert_us))];
        let who = if n == 1 { "1 client".to_owned() } else { format!("{n} clients") };
        // Single clients are measured for the record: what an alert costs by itself is all there is.
        let large = n >= 1000;
        let judged = |target| if large { target } else { Target::None };
        let steady = |at: usize| of(&samples[at], |s| s.steady_us);
        let burst = |at: usize| of(&samples[at], |s| s.burst_us);
        figure(&format!("{who}, steady, CPU a delivery"), &steady(0), "µs", Target::None);
        figure(&format!("{who}, steady ÷ floor"), &ratios(&steady(0), &steady(1)), "×", judged(Target::AtMost(1.15)));
        figure(&format!("{who}, burst, CPU a delivery"), &burst(0), "µs", Target::None);
        figure(&format!("{who}, burst ÷ floor"), &ratios(&burst(0), &burst(1)), "×", judged(Target::AtMost(2.0)));
        for (at, kind) in kinds.iter().enumerate().skip(2) {
            // uWebSockets is what the targets name; others are there to compare.
            let named = large && *kind == Kind::Uws;
            let judged = |target| if named { target } else { Target::None };
            let (theirs, name) = (steady(at), kind.name());
            figure(&format!("{who}, steady ÷ {name}"), &ratios(&steady(0), &theirs), "×", judged(Target::AtMost(1.0)));
            let theirs = burst(at);
            figure(&format!("{who}, burst ÷ {name}"), &ratios(&burst(0), &theirs), "×", judged(Target::AtMost(0.2)));
        }
        match single {
            None if n == 1 => single = Some([alert(0), alert(1)]),
            Some([ours, floors]) if n > 1 => {
                for (i, how) in ["steady", "burst"].into_iter().enumerate() {
                    let further = |at: usize, single: [f64; 2]| (alert(at)[i] - single[i]) / (n - 1) as f64;
                    let (ours, floors) = (further(0, ours), further(1, floors));
                    println!(
                        "  {how}, without what an alert costs with one client: {} µs a delivery, the floor {} µs, {} ×",
                        number(ours),
                        number(floors),
                        number(ours / floors.max(f64::MIN_POSITIVE))
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}
