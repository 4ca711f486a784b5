//! `XADD` → frame at the client, 50 a second, one client: the daemon against a blocked `XREAD` and one write.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Res,
    entries::Entry,
    resp::{self, Conn},
    servers::{Bench, START_WAIT},
    stats::{Target, figure, number, percentile, ratios},
    ws,
};

const RATE_PER_S: u64 = 50;
const SECONDS: u64 = 20;
const STREAM: &str = "audit:events";
/// Types, so many that no limit per type and slot is met.
const KINDS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(10);
/// About as long as the daemon's alerts.
const ALERT_BYTES: usize = 560;

/// Milliseconds from before each `XADD` to after its alert.
fn measure(bench: &Bench, mut client: ws::Client, mut redis: Conn) -> Res<Vec<f64>> {
    let alerts = RATE_PER_S * bench.options.seconds.unwrap_or(SECONDS);
    // Read on another thread, so that a late frame does not hold up the next entry. Alerts come in the order of the entries.
    let receiver = thread::spawn(move || -> Result<Vec<Instant>, String> {
        let mut arrived = Vec::new();
        for _ in 0..alerts {
            let came = client.frame(ws::ALERT, "", PATIENCE).map(|()| Instant::now());
            arrived.push(came.map_err(|e| e.to_string())?);
        }
        Ok(arrived)
    });
    let start = Instant::now() + Duration::from_millis(200);
    let mut sent = Vec::new();
    let mut out = Vec::new();
    for i in 0..alerts {
        out.clear();
        let kind = format!("malicious.probe_{}", i % KINDS);
        resp::xadd(&mut out, STREAM, &Entry::critical(&kind, &i.to_string(), &bench.date));
        let due = start + Duration::from_millis(1000 / RATE_PER_S) * i as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        sent.push(Instant::now());
        redis.send(&out)?;
        redis.reply()?;
    }
    let arrived = receiver.join().map_err(|_| "the thread that receives panicked")??;
    Ok(arrived.iter().zip(&sent).map(|(arrived, sent)| (*arrived - *sent).as_secs_f64() * 1000.0).collect())
}

fn daemon(bench: &Bench) -> Res<Vec<f64>> {
    let redis = bench.redis()?;
    let daemon = bench.daemon(&redis, &[STREAM.to_owned()])?;
    let mut client = ws::Client::connect(daemon.public, "/ws", Some(bench.token()))?;
    // From here on alerts come.
    client.frame(br#"{"type":"subscribed""#, "", PATIENCE)?;
    measure(bench, client, redis.conn()?)
}

fn floor(bench: &Bench) -> Res<Vec<f64>> {
    let redis = bench.redis()?;
    let relay = bench.helper(&["floor-relay", &redis.address.to_string(), STREAM, &ALERT_BYTES.to_string()])?;
    let client = ws::Client::connect(relay.hear("listening ", START_WAIT)?.parse()?, "/ws", None)?;
    measure(bench, client, redis.conn()?)
}

pub fn run(bench: &Bench) -> Res<()> {
    let mut figures: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..bench.options.rounds {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            let (name, times) = if at == 0 { ("auditcast", daemon(bench)?) } else { ("floor", floor(bench)?) };
            let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
            let (shown50, shown99) = (number(p50), number(p99));
            println!("  round {}  {name:<10} p50 {shown50} ms   p99 {shown99} ms   ({} alerts)", round + 1, times.len());
            figures[at][0].push(p50);
            figures[at][1].push(p99);
        }
    }
    for (i, name) in ["p50", "p99"].into_iter().enumerate() {
        figure(&format!("XADD to frame, {name}"), &figures[0][i], "ms", Target::None);
        figure(&format!("XADD to frame, {name} ÷ floor"), &ratios(&figures[0][i], &figures[1][i]), "×", Target::AtMost(2.0));
    }
    Ok(())
}
