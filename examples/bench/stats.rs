//! Medians, percentiles, and what is printed: rounds, ratios, and whether a target is met.

use std::sync::{Mutex, PoisonError};

/// Middle of the values; the mean of the two middle ones where their number is even. 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => 0.0,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Nearest rank. 0 of nothing.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Which side of the number is good.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Measured for the record.
    None,
}

impl Target {
    fn verdict(self, value: f64) -> (String, &'static str) {
        let word = |met| if met { "met" } else { "MISSED" };
        match self {
            Target::AtLeast(bound) => (format!("≥ {}", number(bound)), word(value >= bound)),
            Target::AtMost(bound) => (format!("≤ {}", number(bound)), word(value <= bound)),
            Target::None => ("–".to_owned(), ""),
        }
    }
}

/// Three digits that mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => grouped(value),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// Every figure that was held against something, for the summary at the end.
static FIGURES: Mutex<Vec<[String; 4]>> = Mutex::new(Vec::new());

/// A figure: median of the rounds, against its target. Printed at once and kept for [`summary`].
pub fn figure(what: &str, rounds: &[f64], unit: &str, target: Target) {
    let value = median(rounds);
    let (bound, verdict) = target.verdict(value);
    let spread = rounds.iter().map(|v| number(*v)).collect::<Vec<_>>().join(" ");
    let shown = format!("{} {unit}", number(value)).trim_end().to_owned();
    println!("  {what}: {shown} (rounds: {spread}), target {bound} {verdict}");
    let row = [what.to_owned(), shown, bound, verdict.to_owned()];
    FIGURES.lock().unwrap_or_else(PoisonError::into_inner).push(row);
}

/// Ratios round by round: both sides ran in the same minute of the same machine.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0).map(|(ours, theirs)| ours / theirs).collect()
}

/// All figures as a table.
pub fn summary() {
    let rows = FIGURES.lock().unwrap_or_else(PoisonError::into_inner);
    if rows.is_empty() {
        return;
    }
    let head = ["figure", "median", "target", ""].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    println!();
    for row in [&head].into_iter().chain(rows.iter()) {
        let cells: Vec<String> = (0..3).map(|i| format!("{:<1$}", row[i], widths[i])).collect();
        println!("{}", format!("{}  {}", cells.join("  "), row[3]).trim_end());
    }
    println!();
}
