//! What it costs when nothing happens: the daemon alone, with 1000 clients, and the memory of a connection.

use std::{thread, time::Duration};

use crate::{
    Res, process,
    servers::{self, Bench, Kind, START_WAIT, Server},
    stats::{Target, figure, number},
};

/// Until what a start has left to do is done.
const SETTLE: Duration = Duration::from_secs(10);
const ALONE_SECONDS: u64 = 20;
/// More than one ping to each client.
const CLIENTS_SECONDS: u64 = 30;
const CLIENTS: usize = 1000;

/// Per cent of a core over so long.
fn load_of(server: &Server, seconds: u64) -> Res<f64> {
    let before = server.proc.cpu()?;
    thread::sleep(Duration::from_secs(seconds));
    Ok((server.proc.cpu()? - before).as_secs_f64() / seconds as f64 * 100.0)
}

fn settle(bench: &Bench) {
    thread::sleep(bench.options.seconds.map_or(SETTLE, |s| SETTLE.min(Duration::from_secs(s))));
}

pub fn run(bench: &Bench) -> Res<()> {
    let most = bench.options.clients.last().copied().unwrap_or(CLIENTS);
    process::allow_files(most as u64 + 256)?;
    let [mut alone_rss, mut alone_cpu, mut clients_cpu, mut ours, mut floors]: [Vec<f64>; 5] = Default::default();
    for round in 0..bench.options.rounds {
        // Alone, then with clients who only answer pings.
        let server = Server::start(bench, Kind::Daemon, 0)?;
        settle(bench);
        alone_rss.push(server.proc.rss()? as f64 / 1_048_576.0);
        alone_cpu.push(load_of(&server, bench.options.seconds.unwrap_or(ALONE_SECONDS))?);
        let load = server.clients(bench, CLIENTS.min(most))?;
        settle(bench);
        clients_cpu.push(load_of(&server, bench.options.seconds.unwrap_or(CLIENTS_SECONDS))?);
        drop((load, server));

        // Memory, in a process that has had no clients before.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                let server = Server::start(bench, Kind::Daemon, 0)?;
                thread::sleep(Duration::from_secs(1));
                let before = server.proc.rss()?;
                let _load = server.clients(bench, most)?;
                settle(bench);
                ours.push(server.proc.rss()?.saturating_sub(before) as f64 / 1024.0 / most as f64);
            } else {
                let sockets = bench.helper(&["floor-sockets"])?;
                let address = sockets.hear("listening ", START_WAIT)?.parse()?;
                let before = sockets.rss()?;
                let _load = servers::clients(bench, address, "raw", "-", most)?;
                settle(bench);
                floors.push(sockets.rss()?.saturating_sub(before) as f64 / 1024.0 / most as f64);
            }
        }
        let last = |values: &[f64]| number(values.last().copied().unwrap_or(0.0));
        println!(
            "  round {}  alone {} MiB, {} % of a core; {} clients {} %; a connection {} KiB, a bare socket {} KiB",
            round + 1,
            last(&alone_rss),
            last(&alone_cpu),
            CLIENTS.min(most),
            last(&clients_cpu),
            last(&ours),
            last(&floors)
        );
    }
    figure("idle daemon, RSS", &alone_rss, "MiB", Target::AtMost(12.0));
    figure("idle daemon, CPU of a core", &alone_cpu, "%", Target::None);
    figure(&format!("{} idle clients, CPU of a core", CLIENTS.min(most)), &clients_cpu, "%", Target::AtMost(0.5));
    figure(&format!("idle connection, RSS ({most} clients)"), &ours, "KiB", Target::AtMost(4.0));
    figure("bare tokio socket with a task, RSS", &floors, "KiB", Target::None);
    Ok(())
}
