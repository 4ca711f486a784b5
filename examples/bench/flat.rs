//! Whether cost stays what it is: an entry's over the number of streams and the length of the backlog, a delivery's over the
//! number of clients.

use crate::{
    Res,
    fanout::{self, of},
    ingest::Backlog,
    servers::{Bench, Kind},
    stats::{Target, figure, median, number},
};

/// Length of the short backlog, and streams of the wide one.
const SHORT: u64 = 10_000;
const STREAMS: usize = 10;

/// CPU µs an entry, round by round.
fn ingest(bench: &Bench, what: &str, entries: u64, streams: usize) -> Res<Vec<f64>> {
    let backlog = Backlog::fill(bench, entries, streams)?;
    let mut costs = Vec::new();
    for round in 0..bench.options.rounds {
        let cost = backlog.daemon(bench)?.cpu_us;
        println!("  round {}  {what}: CPU {} µs an entry", round + 1, number(cost));
        costs.push(cost);
    }
    Ok(costs)
}

pub fn run(bench: &Bench) -> Res<()> {
    let entries = bench.options.entries;
    let long = ingest(bench, &format!("{} entries, 1 stream", number(entries as f64)), entries, 1)?;
    let wide = ingest(bench, &format!("{} entries, {STREAMS} streams", number(entries as f64)), entries, STREAMS)?;
    let short = ingest(bench, &format!("{} entries, 1 stream", number(SHORT as f64)), SHORT, 1)?;
    let by = |ours: &[f64], theirs: &[f64]| vec![median(ours) / median(theirs).max(f64::MIN_POSITIVE)];
    let entries = number(entries as f64);
    figure(&format!("CPU an entry, {STREAMS} streams ÷ 1"), &by(&wide, &long), "×", Target::AtMost(1.2));
    figure(&format!("CPU an entry, {entries} ÷ {} entries", number(SHORT as f64)), &by(&long, &short), "×", Target::AtMost(1.2));

    // What an alert costs by itself is the same for any number of clients, and is taken off; what is left is deliveries.
    // The kernel's part grows with the number of sockets, so the floor stands beside.
    let kinds = [Kind::Daemon, Kind::Floor];
    let mut clients = bench.options.clients.clone();
    clients.sort_unstable();
    let mut costs = Vec::new();
    for &n in &clients {
        let samples = fanout::rounds(bench, &kinds, n)?;
        let alert =
            |at: usize| [median(&of(&samples[at], |s| s.steady_alert_us)), median(&of(&samples[at], |s| s.burst_alert_us))];
        costs.push((n, alert(0), alert(1)));
    }
    let Some(&(least, own, floor_own)) = costs.first() else { return Ok(()) };
    for (i, how) in ["steady", "burst"].into_iter().enumerate() {
        let mut ratios = Vec::new();
        for (n, ours, floors) in costs.iter().skip(1) {
            let more = (n - least).max(1) as f64;
            let (ours, floors) = ((ours[i] - own[i]) / more, (floors[i] - floor_own[i]) / more);
            println!("  {how}, {least} → {n} clients: {} µs a further delivery, the floor {} µs", number(ours), number(floors));
            ratios.push((*n, ours / floors.max(f64::MIN_POSITIVE)));
        }
        if let (Some((few, first)), Some((many, last))) = (ratios.first(), ratios.last())
            && few != many
        {
            let what = format!("a further delivery ÷ floor, {how}, {many} clients ÷ {few}");
            figure(&what, &[last / first], "×", Target::AtMost(1.2));
        }
    }
    Ok(())
}
