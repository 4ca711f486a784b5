//! Instructions of the pure parts, by valgrind's callgrind, held against `instructions.txt`: a regression shows on a machine
//! whose times mean nothing. `cargo bench --bench instructions` fails where a case needs 5 % more than the table says;
//! `cargo bench --bench instructions -- --bless` writes the table anew.
//!
//! Each case is a process of its own under callgrind, which counts only inside [`auditcast_bench_measured`].

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    path::Path,
    process::{Command, ExitCode},
};

use work::Machine;

#[allow(dead_code, reason = "the other bench has its own part")]
mod work;

/// More than the table by so much is a regression, less by as much is worth blessing.
const TOLERANCE: f64 = 0.05;
const ENTRIES: u64 = 2_000;
const REPEATS: u64 = 1_000;
const SLOTS: u64 = 20;

/// Name, operations of one call, and what makes the call.
type Case = (&'static str, u64, fn() -> Box<dyn FnMut()>);

/// To add one: a line here and a function below.
const CASES: &[Case] = &[
    ("read_reply", ENTRIES, read_reply),
    ("classify_seen", REPEATS, classify_seen),
    ("classify_new", REPEATS, classify_new),
    ("decode_flat", ENTRIES, decode_flat),
    ("decode_envelope", ENTRIES, decode_envelope),
    ("observe", ENTRIES, observe),
    ("observe_rules", ENTRIES, observe_rules),
    ("close", SLOTS, close),
    ("filter_match", REPEATS, filter_match),
    ("alert_frame", REPEATS, alert_frame),
    ("event_frame", ENTRIES, event_frame),
    ("ring_entry", REPEATS, ring_entry),
];

/// The compiler must take a result for needed; what it holds is freed, as it is after use.
fn keep<T>(result: T) {
    black_box(result);
}

fn read_reply() -> Box<dyn FnMut()> {
    let (reply, mut reader) = (work::reply(ENTRIES), work::Reading::new(ENTRIES));
    Box::new(move || assert_eq!(reader.read(black_box(&reply)), ENTRIES))
}

fn classify_seen() -> Box<dyn FnMut()> {
    let mut machine = Machine::new();
    Box::new(move || (0..REPEATS).for_each(|_| keep(machine.classify("auth.failed_login"))))
}

fn classify_new() -> Box<dyn FnMut()> {
    let mut machine = Machine::new();
    let mut next = 0;
    Box::new(move || {
        for _ in 0..REPEATS {
            next += 1;
            keep(machine.classify(&format!("AUTH_LOGIN_STEP_{next}")));
        }
    })
}

fn decode_flat() -> Box<dyn FnMut()> {
    let (mut machine, entries) = (Machine::new(), work::flat(ENTRIES));
    Box::new(move || entries.iter().for_each(|given| keep(machine.decode(given))))
}

fn decode_envelope() -> Box<dyn FnMut()> {
    let (mut machine, entries) = (Machine::new(), work::envelopes(ENTRIES));
    Box::new(move || entries.iter().for_each(|given| keep(machine.decode(given))))
}

fn observe() -> Box<dyn FnMut()> {
    observed(Machine::new())
}

fn observe_rules() -> Box<dyn FnMut()> {
    observed(Machine::with_rules())
}

fn observed(mut machine: Machine) -> Box<dyn FnMut()> {
    let entries = work::flat(ENTRIES);
    let events: Vec<_> = entries.iter().map(|given| machine.decode(given).into_owned()).collect();
    let mut later_ms = 0;
    Box::new(move || {
        for (given, event) in entries.iter().zip(&events) {
            machine.observe(given, later_ms, event);
        }
        later_ms += ENTRIES / 10;
    })
}

fn close() -> Box<dyn FnMut()> {
    let (mut machine, entries) = (Machine::new(), work::flat(ENTRIES));
    for given in &entries {
        let event = machine.decode(given);
        machine.observe(given, 0, &event);
    }
    Box::new(move || (0..SLOTS).for_each(|_| machine.close()))
}

fn filter_match() -> Box<dyn FnMut()> {
    let (view, subscription) = work::filter();
    Box::new(move || (0..REPEATS).for_each(|_| keep(work::wants(black_box(&subscription), black_box(&view)))))
}

fn alert_frame() -> Box<dyn FnMut()> {
    let alert = work::alert();
    Box::new(move || (0..REPEATS).for_each(|_| keep(work::alert_frame(black_box(&alert)))))
}

fn event_frame() -> Box<dyn FnMut()> {
    let (mut machine, entries) = (Machine::new(), work::flat(ENTRIES));
    let events: Vec<_> = entries.iter().map(|given| machine.decode(given).into_owned()).collect();
    Box::new(move || entries.iter().zip(&events).for_each(|(given, event)| keep(work::event_frame(given, event))))
}

fn ring_entry() -> Box<dyn FnMut()> {
    let entry = work::log_entry();
    Box::new(move || {
        for _ in 0..REPEATS {
            keep(auditcast::hub::AlertFrame::new(black_box(entry.clone())));
        }
    })
}

/// The name that callgrind is told; the symbol stays as it is written.
// SAFETY: nothing else in the program has this name.
#[unsafe(no_mangle)]
#[inline(never)]
fn auditcast_bench_measured(work: &mut dyn FnMut()) {
    work();
}

/// In the child: once to warm up, once to be counted.
fn run(name: &str) -> Result<(), String> {
    let (_, _, make) = CASES.iter().find(|(known, ..)| *known == name).ok_or_else(|| format!("there is no case {name}"))?;
    let mut work = make();
    work();
    auditcast_bench_measured(&mut *work);
    Ok(())
}

/// Instructions an operation.
fn count(name: &str, operations: u64) -> Result<f64, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=auditcast_bench_measured", "--callgrind-out-file=/dev/null"])
        .arg(exe)
        .args(["--case", name])
        .output()
        .map_err(|e| format!("valgrind could not be run: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse::<u64>().ok());
    match collected.filter(|n| output.status.success() && *n > 0) {
        Some(instructions) => Ok(instructions as f64 / operations as f64),
        None => Err(format!("{name}: callgrind counted nothing: {}", text.lines().last().unwrap_or_default())),
    }
}

fn table(text: &str) -> impl Fn(&str) -> Option<f64> {
    let rows: Vec<(String, f64)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect();
    move |name| rows.iter().find(|(known, _)| known == name).map(|(_, n)| *n)
}

/// Whether every case is within the table.
fn compare(bless: bool) -> Result<bool, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt");
    let written = fs::read_to_string(&path).unwrap_or_default();
    let known = table(&written);
    let mut good = true;
    let mut text = String::from(
        "# Instructions an operation, release profile, counted by callgrind on x86-64.\n\
         # Written by: cargo bench --bench instructions -- --bless\n",
    );
    for (name, operations, _) in CASES {
        let n = count(name, *operations)?;
        // A row is one line; a String takes all that is written.
        let _ = writeln!(text, "{name:<18} {n:>10.0}");
        let verdict = match known(name) {
            _ if bless => "written".to_owned(),
            None => {
                good = false;
                "is not in the table: --bless".to_owned()
            }
            Some(was) => {
                let change = n / was.max(1.0) - 1.0;
                good &= change <= TOLERANCE;
                let word = match change {
                    c if c > TOLERANCE => "REGRESSION",
                    c if c < -TOLERANCE => "better: --bless",
                    _ => "ok",
                };
                format!("{:+.1} % of {was:.0} {word}", change * 100.0)
            }
        };
        println!("{name:<18} {n:>10.0}  {verdict}");
    }
    if bless {
        fs::write(&path, text).map_err(|e| format!("{} could not be written: {e}", path.display()))?;
    }
    Ok(good)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--case", name] => run(name).map(|()| true),
        [] | ["--bless"] => {
            if Command::new("valgrind").arg("--version").output().is_err() {
                println!("not run: valgrind is not installed (Debian: apt install valgrind)");
                return ExitCode::SUCCESS;
            }
            compare(!arguments.is_empty())
        }
        _ => Err("usage: cargo bench --bench instructions [-- --bless]".to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
