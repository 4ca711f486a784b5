//! From the start of the process to `ready`: with nothing, with a backlog to catch up with, with a checkpoint.

use std::time::Duration;

use crate::{
    Res,
    ingest::Backlog,
    servers::Bench,
    stats::{Target, figure, number},
};

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub fn run(bench: &Bench) -> Res<()> {
    let backlog = Backlog::fill(bench, bench.options.entries, 1)?;
    let [mut on_redis, mut embedded, mut caught_up, mut restarted]: [Vec<f64>; 4] = Default::default();
    for round in 0..bench.options.rounds {
        on_redis.push(ms(bench.daemon(&backlog.redis, &["audit:none".to_owned()])?.ready));
        let dir = bench.path(&bench.fresh("embedded"));
        let daemon = bench.daemon_again(&format!("embedded:{}", dir.display()), "{auditcast}", &["audit:none".to_owned()])?;
        embedded.push(ms(daemon.ready));
        drop(daemon);

        // The backlog is there when the daemon starts; its last entry is an alert.
        backlog.present()?;
        let prefix = format!("{{{}}}", bench.fresh("bench"));
        let daemon = bench.daemon_again(&backlog.redis.url(), &prefix, &backlog.streams)?;
        backlog.taken(&mut daemon.client(bench)?)?;
        caught_up.push(ms(daemon.started.elapsed()));
        backlog.counted(&daemon)?;
        daemon.proc.stop()?;

        // A daemon that was stopped has written down what it knew.
        let daemon = bench.daemon_again(&backlog.redis.url(), &prefix, &backlog.streams)?;
        restarted.push(ms(daemon.ready));
        backlog.counted(&daemon)?;
        drop(daemon);
        backlog.withdraw()?;
        let last = |values: &[f64]| number(values.last().copied().unwrap_or(0.0));
        println!(
            "  round {}  empty {} ms, embedded {} ms; caught up after {} ms; with a checkpoint {} ms",
            round + 1,
            last(&on_redis),
            last(&embedded),
            last(&caught_up),
            last(&restarted)
        );
    }
    let n = number(backlog.entries as f64);
    figure("empty store in Redis to `ready`", &on_redis, "ms", Target::AtMost(100.0));
    figure("empty embedded store to `ready`", &embedded, "ms", Target::AtMost(100.0));
    figure(&format!("start to caught up with {n} entries"), &caught_up, "ms", Target::None);
    figure(&format!("restart after {n} entries to `ready`"), &restarted, "ms", Target::AtMost(300.0));
    Ok(())
}
