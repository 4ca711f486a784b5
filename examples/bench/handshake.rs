//! What it costs to let a client in: TCP, the request, its token verified, `hello`.

use crate::{
    Res, process,
    servers::{Bench, Kind, Server},
    stats::{Target, figure, number, ratios},
};

/// What others broadcast is not used here.
const ALERT_BYTES: usize = 560;

pub fn run(bench: &Bench) -> Res<()> {
    let n = bench.options.clients.last().copied().unwrap_or(1000);
    process::allow_files(n as u64 + 256)?;
    let kinds: Vec<Kind> = [Kind::Daemon, Kind::Floor].into_iter().chain(bench.peers.broadcasters()).collect();
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    for round in 0..bench.options.rounds {
        for turn in 0..kinds.len() {
            let at = (round + turn) % kinds.len();
            let server = Server::start(bench, kinds[at], ALERT_BYTES)?;
            let before = server.proc.cpu()?;
            let _load = server.clients(bench, n)?;
            let cost = (server.proc.cpu()? - before).as_secs_f64() * 1e6 / n as f64;
            println!("  round {}  {:<12} CPU {} µs a client", round + 1, kinds[at].name(), number(cost));
            costs[at].push(cost);
        }
    }
    figure(&format!("handshake, CPU ({n} clients)"), &costs[0], "µs", Target::None);
    for (at, kind) in kinds.iter().enumerate().skip(1) {
        figure(&format!("handshake ÷ {}", kind.name()), &ratios(&costs[0], &costs[at]), "×", Target::None);
    }
    Ok(())
}
