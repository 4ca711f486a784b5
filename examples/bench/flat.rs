//! Whether cost stays what it is: an entry's over the number of streams and the length of the backlog, a delivery's over the
//! number of clients.

use crate::{
    Res,
    fanout::{self, of},
    ingest::Backlog,
    servers::{Bench, Kind},
    stats::{Target, figure, median, number, ratios},
};

/// Length of the short backlog, how often it is read in a round, and streams of the wide one.
const SHORT: u64 = 10_000;
const SHORT_RUNS: u32 = 5;
const STREAMS: usize = 10;
/// Length where the number of streams is what changes; a longer backlog is held against the short one only.
const USUAL: u64 = 1_000_000;

/// CPU µs an entry over a longer backlog, more streams, or neither.
fn ingest(bench: &Bench) -> Res<()> {
    let most = bench.options.entries;
    let usual = most.min(USUAL);
    let mut shapes = vec![(usual, 1), (usual, STREAMS), (SHORT, 1)];
    if most > usual {
        shapes.push((most, 1));
    }
    let backlogs: Vec<Backlog> = shapes.iter().map(|(n, streams)| Backlog::fill(bench, *n, *streams)).collect::<Res<_>>()?;
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); shapes.len()];
    for round in 0..bench.options.rounds {
        for turn in 0..shapes.len() {
            let at = (round + turn) % shapes.len();
            // A short one is over before there is much to measure.
            let runs = if shapes[at].0 <= SHORT { SHORT_RUNS } else { 1 };
            let mut cost = 0.0;
            for _ in 0..runs {
                cost += backlogs[at].daemon(bench)?.cpu_us / f64::from(runs);
            }
            let (n, streams) = (number(shapes[at].0 as f64), shapes[at].1);
            println!("  round {}  {n} entries in {streams} streams: CPU {} µs an entry", round + 1, number(cost));
            costs[at].push(cost);
        }
    }
    let (longest, longest_costs) = if most > usual { (most, &costs[3]) } else { (usual, &costs[0]) };
    figure(&format!("CPU an entry, {STREAMS} streams ÷ 1"), &ratios(&costs[1], &costs[0]), "×", Target::AtMost(1.2));
    let what = format!("CPU an entry, {} ÷ {} entries", number(longest as f64), number(SHORT as f64));
    figure(&what, &ratios(longest_costs, &costs[2]), "×", Target::AtMost(1.2));
    Ok(())
}

pub fn run(bench: &Bench) -> Res<()> {
    ingest(bench)?;

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
