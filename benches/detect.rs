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
/// Entries that are there, few enough to stay near the core, as those of a batch are.
const POOL: u64 = 4_000;
/// How often they are taken, each time as later ones; before that once, so that windows and tables are in use.
const PASSES: u64 = 50;
/// From one pass to the next: 10 entries a millisecond, so that fifty passes are four slots of 5 s.
const PASS_MS: u64 = POOL / 10;
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

/// ns an entry: a first pass, then those that count. `take` gets each entry, and how much later it is this time.
fn passes<T>(pool: &[T], mut take: impl FnMut(&T, u64)) -> f64 {
    let mut pass = |n: u64| pool.iter().for_each(|item| take(item, n * PASS_MS));
    pass(0);
    timed(POOL * PASSES, || (1..=PASSES).for_each(pass))
}

fn decode(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    passes(entries, |given, _| {
        black_box(machine.decode(given));
    })
}

/// Events that are there already.
fn detect(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    let events: Vec<_> = entries.iter().map(|given| (given, machine.decode(given))).collect();
    passes(&events, |(given, event), later_ms| {
        machine.close_before(given, later_ms);
        machine.observe(given, later_ms, event);
    })
}

fn take(machine: &mut Machine, given: &Given, later_ms: u64) {
    let event = machine.decode(given);
    machine.close_before(given, later_ms);
    machine.observe(given, later_ms, &event);
}

/// The same with all built-in rules on, which see attacks everywhere in entries that have nothing in common.
fn rules(entries: &[Given]) -> f64 {
    let mut machine = Machine::with_rules();
    passes(entries, |given, later_ms| take(&mut machine, given, later_ms))
}

fn whole(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    let ns = passes(entries, |given, later_ms| take(&mut machine, given, later_ms));
    assert!(machine.alerts() < 100, "{} alerts: the entries are not ordinary", machine.alerts());
    ns
}

/// Slot ends, with what the passes left in the windows.
fn close(entries: &[Given]) -> f64 {
    let mut machine = Machine::new();
    passes(entries, |given, later_ms| take(&mut machine, given, later_ms));
    timed(u64::from(SLOTS), || (0..SLOTS).for_each(|_| machine.close()))
}

fn main() {
    let (flat, envelopes) = (work::flat(POOL), work::envelopes(POOL));
    let mut ns: [Vec<f64>; 6] = Default::default();
    for round in 1..=ROUNDS {
        let taken = [decode(&flat), decode(&envelopes), detect(&flat), whole(&flat), close(&flat), rules(&flat)];
        println!("  round {round}  ns: {}", taken.map(number).join("  "));
        ns.iter_mut().zip(taken).for_each(|(all, one)| all.push(one));
    }
    let a_second = |ns: &[f64]| -> Vec<f64> { ns.iter().map(|ns| 1e9 / ns).collect() };
    figure("decode and classify flat fields, events/s", &a_second(&ns[0]), "", Target::None);
    figure("decode and classify an envelope, events/s", &a_second(&ns[1]), "", Target::None);
    figure("observe, slot ends included, events/s", &a_second(&ns[2]), "", Target::AtLeast(3_000_000.0));
    figure("decode, classify, observe, events/s", &a_second(&ns[3]), "", Target::None);
    let all = "decode, classify, observe with all built-in rules on, events/s";
    figure(all, &a_second(&ns[5]), "", Target::AtLeast(1_000_000.0));
    figure("close a slot", &ns[4], "ns", Target::None);
    stats::summary();
}
