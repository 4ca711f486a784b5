//! Decoding, classifying and detecting in process, on one core, default rules: `cargo bench --bench detect`.
//!
//! CPU time of the thread, from the kernel. The cases run by turns, so that a slow minute hits all of them; the median counts.

use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};
use stats::{Target, figure, number};
use work::{Given, Machine};

#[allow(dead_code, reason = "the other bench has its own part")]
#[path = "../examples/bench/stats.rs"]
mod stats;
#[allow(dead_code, reason = "the other bench has its own part")]
mod work;

const ROUNDS: usize = 5;
/// Entries of a round: 10,000 a second in the entries' time, so four slots of 5 s.
const ENTRIES: u64 = 200_000;
const SLOTS: u32 = 200;

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// ns for each of so many operations.
fn timed(operations: u64, work: impl FnOnce()) -> f64 {
    let before = cpu_ns();
    work();
    (cpu_ns() - before) as f64 / operations as f64
}

fn decode(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    timed(entries.len() as u64, || {
        for given in entries {
            black_box(machine.decode(given));
        }
    })
}

/// Events that are there already, in two passes: the first fills windows, sessions and contributors.
fn detect(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    let events: Vec<_> = entries.iter().map(|given| machine.decode(given)).collect();
    let mut pass = |later_ms: u64| {
        for (given, event) in entries.iter().zip(&events) {
            machine.close_before(given, later_ms);
            machine.observe(given, later_ms, event);
        }
    };
    pass(0);
    timed(entries.len() as u64, || pass(ENTRIES / 10))
}

fn whole(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    let ns = timed(entries.len() as u64, || {
        for given in entries {
            let event = machine.decode(given);
            machine.close_before(given, 0);
            machine.observe(given, 0, &event);
        }
    });
    assert!(machine.alerts() < 100, "{} alerts: the entries are not ordinary", machine.alerts());
    ns
}

/// Slot ends with an hour's windows in use.
fn close(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    for given in entries {
        let event = machine.decode(given);
        machine.close_before(given, 0);
        machine.observe(given, 0, &event);
    }
    timed(u64::from(SLOTS), || (0..SLOTS).for_each(|_| machine.close()))
}

fn main() {
    let (flat, envelopes) = (work::flat(ENTRIES), work::envelopes(ENTRIES));
    let mut ns: [Vec<f64>; 5] = Default::default();
    for round in 1..=ROUNDS {
        let taken = [decode(&flat), decode(&envelopes), detect(&flat), whole(&flat), close(&flat)];
        println!("  round {round}  ns: {}", taken.map(number).join("  "));
        ns.iter_mut().zip(taken).for_each(|(all, one)| all.push(one));
    }
    let a_second = |ns: &[f64]| -> Vec<f64> { ns.iter().map(|ns| 1e9 / ns).collect() };
    figure("decode and classify flat fields, events/s", &a_second(&ns[0]), "", Target::None);
    figure("decode and classify an envelope, events/s", &a_second(&ns[1]), "", Target::None);
    figure("observe, slot ends included, events/s", &a_second(&ns[2]), "", Target::AtLeast(3_000_000.0));
    figure("decode, classify, observe, events/s", &a_second(&ns[3]), "", Target::None);
    figure("close a slot", &ns[4], "ns", Target::None);
    stats::summary();
}
