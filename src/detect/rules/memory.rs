//! What is kept of one entity, and when it is crossed. A window W holds what arrived in (t − W, t].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Rule, RuleKind, VALUES_MAX, looked::Looked};
use crate::{
    detect::{SourceIx, bits, cut::cut, ident::identity},
    event::EntryId,
};

/// Moments that a count keeps beyond those it needs, so that it can say how far it is above.
const TIMES_MIN: usize = 100;
/// Parts that a window of numbers is cut into.
const BUCKETS: u64 = 60;
/// Numbers that a percentile is made of.
const NUMBERS_MAX: usize = 1024;
/// Longer values are known by their beginning and a hash.
const VALUE_BYTES_MAX: usize = 64;
const VALUE_BYTES_SHOWN: usize = 40;
/// Values that an alert names.
const VALUES_NAMED: usize = 10;

/// One entry that counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub time_ms: u64,
    pub source: SourceIx,
    pub entry: EntryId,
}

/// A value, and the entry that had it last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Had {
    text: Box<str>,
    last: Sample,
    /// When it was seen, as far back as `each_at_most` needs to know.
    times: VecDeque<u64>,
}

/// Numbers that arrived within a part of the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bucket {
    end_ms: u64,
    events: u64,
    hits: u64,
    #[serde(with = "bits::float")]
    sum: Option<f64>,
    /// The last entry.
    last: Sample,
}

/// A number, and the entry that had it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    sample: Sample,
    #[serde(with = "bits::float")]
    number: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Memory {
    Nothing,
    Times(VecDeque<Sample>),
    /// Ascending by when each was seen last; and when there was one at all, as far back as `min_count` needs.
    Values(Vec<Had>, VecDeque<u64>),
    Buckets(VecDeque<Bucket>),
    Numbers(VecDeque<Measured>),
    /// As they were when the entity was first seen.
    First(Vec<Box<str>>),
}

/// What an event did.
pub(super) enum Taken {
    /// It does not count: a field that is asked for is not there.
    No,
    Counted,
    /// It crosses the rule.
    Crossed(Crossing),
}

/// What a crossing has to tell.
#[derive(Default)]
pub(super) struct Crossing {
    pub value: Option<f64>,
    /// What made it, oldest first, without the entry itself.
    pub before: Vec<Sample>,
    pub details: Map<String, Value>,
}

fn known_as(text: &str) -> Box<str> {
    if text.len() <= VALUE_BYTES_MAX {
        return text.into();
    }
    let hash = identity(&[text]);
    format!("{}…{}", cut(text, VALUE_BYTES_SHOWN), cut(&hash, 16)).into()
}

/// Whether a text is what is known by this.
fn is_known_as(known: &str, text: &str) -> bool {
    if text.len() <= VALUE_BYTES_MAX {
        known == text
    } else {
        known.starts_with(cut(text, VALUE_BYTES_SHOWN)) && *known_as(text) == *known
    }
}

/// Keeps the newest.
fn push<T>(list: &mut VecDeque<T>, item: T, max: usize) {
    while list.len() >= max.max(1) {
        list.pop_front();
    }
    list.push_back(item);
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Width of a part, and how long after its end it is kept.
fn parts(window_ms: u64) -> (u64, u64) {
    let width = (window_ms / BUCKETS).max(1);
    (width, window_ms.div_ceil(width).saturating_mul(width))
}

impl Memory {
    pub fn of(kind: &RuleKind) -> Memory {
        match kind {
            RuleKind::Match | RuleKind::Absence { .. } => Memory::Nothing,
            RuleKind::Count { .. } | RuleKind::Sequence { .. } => Memory::Times(VecDeque::new()),
            RuleKind::Distinct { .. } | RuleKind::New { .. } => Memory::Values(Vec::new(), VecDeque::new()),
            RuleKind::Sum { .. } | RuleKind::Average { .. } | RuleKind::Ratio { .. } | RuleKind::Spike { .. } => {
                Memory::Buckets(VecDeque::new())
            }
            RuleKind::P95 { .. } => Memory::Numbers(VecDeque::new()),
            RuleKind::Change { .. } => Memory::First(Vec::new()),
        }
    }

    /// How long after its last event an entity that is quiet matters.
    pub fn kept_ms(rule: &Rule) -> u64 {
        match &rule.kind {
            RuleKind::Match => 0,
            RuleKind::Sum { .. } | RuleKind::Average { .. } | RuleKind::Ratio { .. } => {
                let (width, kept) = parts(rule.window_ms);
                width + kept
            }
            RuleKind::Spike { .. } => {
                let (width, kept) = parts(rule.window_ms);
                width + 2 * kept
            }
            _ => rule.window_ms,
        }
    }

    /// Takes in an event. `is_last`: the rule's own matcher takes it; else only the first part of a sequence does.
    pub fn take(&mut self, rule: &Rule, event: &Looked<'_>, sample: Sample, known_for_ms: u64, is_last: bool) -> Taken {
        let (time, window_ms) = (sample.time_ms, rule.window_ms);
        match (&rule.kind, &mut *self) {
            (RuleKind::Match, _) => return Taken::Crossed(Crossing::default()),
            (RuleKind::Absence { .. }, _) => return Taken::Counted,
            (RuleKind::Count { at_least }, Memory::Times(times)) => {
                push(times, sample, size(at_least.saturating_mul(2)).max(TIMES_MIN));
            }
            (RuleKind::Sequence { after, at_least }, Memory::Times(times)) => {
                let begin = times.partition_point(|s| s.time_ms.saturating_add(window_ms) <= time);
                let n = times.len() - begin;
                let crossing = (is_last && n as u64 >= *at_least).then(|| Crossing {
                    value: Some(n as f64),
                    before: times.drain(..).skip(begin).collect(),
                    details: Map::new(),
                });
                if after.takes(event) {
                    push(times, sample, size(at_least.saturating_mul(2)).max(TIMES_MIN));
                }
                return crossing.map_or(Taken::Counted, Taken::Crossed);
            }
            (RuleKind::Distinct { of, at_least, min_count, each_at_most }, Memory::Values(values, all)) => {
                let Some(text) = event.text(of) else { return Taken::No };
                if *min_count > 0 {
                    push(all, time, size(*min_count));
                }
                let times_max = each_at_most.map_or(0, |n| size(n.saturating_add(1)));
                had(values, &text, sample, times_max, size(at_least.saturating_mul(4)).max(VALUES_MAX));
            }
            (RuleKind::New { of, learn_ms }, Memory::Values(values, _)) => {
                let Some(text) = event.text(of) else { return Taken::No };
                values.drain(..values.partition_point(|had| had.last.time_ms.saturating_add(window_ms) <= time));
                let known = values.iter().any(|had| *had.text == *known_as(&text));
                let crossing = (!known && !values.is_empty() && known_for_ms >= *learn_ms).then(|| {
                    let mut details = Map::new();
                    details.insert("new".into(), Value::from(&*known_as(&text)));
                    details.insert("known".into(), named(values));
                    Crossing { details, ..Crossing::default() }
                });
                had(values, &text, sample, 0, VALUES_MAX);
                return crossing.map_or(Taken::Counted, Taken::Crossed);
            }
            (RuleKind::Sum { of, .. } | RuleKind::Average { of, .. }, Memory::Buckets(buckets)) => {
                let Some(number) = event.number(of) else { return Taken::No };
                add(buckets, window_ms, 1, sample, false, number);
            }
            (RuleKind::P95 { of, .. }, Memory::Numbers(numbers)) => {
                let Some(number) = event.number(of) else { return Taken::No };
                push(numbers, Measured { sample, number: Some(number) }, NUMBERS_MAX);
            }
            (RuleKind::Ratio { hits, .. }, Memory::Buckets(buckets)) => {
                add(buckets, window_ms, 1, sample, hits.matches(event), 0.0);
            }
            (RuleKind::Spike { .. }, Memory::Buckets(buckets)) => add(buckets, window_ms, 2, sample, false, 0.0),
            (RuleKind::Change { of }, Memory::First(first)) => {
                let mut same = false;
                for (at, field) in of.iter().enumerate() {
                    let Some(text) = event.text(field) else { return Taken::No };
                    same |= first.get(at).is_some_and(|first| is_known_as(first, &text));
                }
                // Nearly always; nothing is made for it.
                if same {
                    return Taken::Counted;
                }
                let now: Vec<Box<str>> = of.iter().map(|f| known_as(&event.text(f).unwrap_or_default())).collect();
                if first.is_empty() {
                    *first = now;
                    return Taken::Counted;
                }
                let members = |values: &[Box<str>]| -> Value {
                    let members: Map<String, Value> =
                        of.iter().zip(values).map(|(field, value)| (field.to_string(), Value::from(&**value))).collect();
                    members.into()
                };
                let mut details = Map::new();
                details.insert("from".into(), members(first));
                details.insert("to".into(), members(&now));
                return Taken::Crossed(Crossing { details, ..Crossing::default() });
            }
            // A memory is made by the kind.
            _ => return Taken::No,
        }
        if self.is_crossed(rule, time) { Taken::Crossed(self.crossing(rule, time)) } else { Taken::Counted }
    }

    /// What there is to tell at a moment.
    pub fn crossing(&self, rule: &Rule, time: u64) -> Crossing {
        let inside = |sample: &&Sample| sample.time_ms.saturating_add(rule.window_ms) > time;
        let mut details = Map::new();
        let before: Vec<Sample> = match self {
            Memory::Times(times) => times.iter().filter(inside).copied().collect(),
            Memory::Values(values, _) => {
                let begin = values.partition_point(|had| had.last.time_ms.saturating_add(rule.window_ms) <= time);
                let values = values.get(begin..).unwrap_or_default();
                details.insert("values".into(), named(values));
                values.iter().map(|had| had.last).collect()
            }
            Memory::Buckets(buckets) => buckets.iter().map(|bucket| bucket.last).filter(|s| inside(&s)).collect(),
            Memory::Numbers(numbers) => numbers.iter().map(|measured| measured.sample).filter(|s| inside(&s)).collect(),
            Memory::Nothing | Memory::First(_) => Vec::new(),
        };
        Crossing { value: self.value(rule, time), before, details }
    }

    /// What the rule measures, at a moment; `None`: nothing, or nothing yet.
    pub fn value(&self, rule: &Rule, time: u64) -> Option<f64> {
        let window_ms = rule.window_ms;
        match (&rule.kind, self) {
            (RuleKind::Count { .. }, Memory::Times(times)) => {
                Some((times.len() - times.partition_point(|s| s.time_ms.saturating_add(window_ms) <= time)) as f64)
            }
            (RuleKind::Distinct { .. }, Memory::Values(values, _)) => {
                let gone = values.partition_point(|had| had.last.time_ms.saturating_add(window_ms) <= time);
                Some((values.len() - gone) as f64)
            }
            (RuleKind::Sum { .. }, Memory::Buckets(buckets)) => {
                let (n, _, sum) = total(buckets, window_ms, time, 0);
                (n > 0).then_some(sum)
            }
            (RuleKind::Average { min_count, .. }, Memory::Buckets(buckets)) => {
                let (n, _, sum) = total(buckets, window_ms, time, 0);
                (n > 0 && n >= *min_count).then(|| sum / n as f64)
            }
            (RuleKind::P95 { min_count, .. }, Memory::Numbers(numbers)) => {
                let mut now: Vec<f64> = within(numbers, window_ms, time).collect();
                let rank = rank_p95(now.len());
                let enough = now.len() as u64 >= *min_count;
                (enough && rank > 0).then(|| *now.select_nth_unstable_by(rank - 1, f64::total_cmp).1)
            }
            (RuleKind::Ratio { min_count, .. }, Memory::Buckets(buckets)) => {
                let (n, hits, _) = total(buckets, window_ms, time, 0);
                (n > 0 && n >= *min_count).then(|| hits as f64 / n as f64)
            }
            (RuleKind::Spike { min_count, .. }, Memory::Buckets(buckets)) => {
                let (now, ..) = total(buckets, window_ms, time, 0);
                let (before, ..) = total(buckets, window_ms, time, 1);
                // From nothing is no spike: `count` is for that.
                (before > 0 && now >= *min_count).then(|| now as f64 / before as f64)
            }
            _ => None,
        }
    }

    /// Whether what the rule measures is on the bad side.
    pub fn is_crossed(&self, rule: &Rule, time: u64) -> bool {
        if let (RuleKind::P95 { at_least, min_count, .. }, Memory::Numbers(numbers)) = (&rule.kind, self) {
            // Without sorting: the percentile is as high if enough of the numbers are.
            let count = |(n, high), number: f64| (n + 1, high + usize::from(number >= *at_least));
            let (n, high) = within(numbers, rule.window_ms, time).fold((0, 0), count);
            return n > 0 && n as u64 >= *min_count && high > n - rank_p95(n);
        }
        let Some(value) = self.value(rule, time) else { return false };
        if rule.kind.threshold().is_none_or(|at_least| value < at_least) {
            return false;
        }
        let (RuleKind::Distinct { min_count, each_at_most, .. }, Memory::Values(values, all)) = (&rule.kind, self) else {
            return true;
        };
        let inside = |at: u64| at.saturating_add(rule.window_ms) > time;
        let enough = *min_count == 0 || (all.len() >= size(*min_count) && all.front().is_some_and(|at| inside(*at)));
        // One that is tried more often is not a part of it.
        let even = each_at_most.is_none_or(|most| {
            !values.iter().any(|had| had.times.len() as u64 > most && had.times.front().is_some_and(|at| inside(*at)))
        });
        enough && even
    }

    /// How close an entity is, for who is taken out when there is no room.
    pub fn is_half_way(&self, rule: &Rule, time: u64) -> bool {
        let half = rule.kind.threshold().map_or(f64::INFINITY, |at_least| (at_least / 2.0).max(2.0));
        match (&rule.kind, self) {
            (RuleKind::Sequence { .. }, Memory::Times(times)) => times.len() as f64 >= half,
            (RuleKind::Count { .. } | RuleKind::Distinct { .. } | RuleKind::Sum { .. }, _) => {
                self.value(rule, time).is_some_and(|value| value >= half)
            }
            _ => false,
        }
    }

    /// Gives sources their new numbers; those that are gone are told as unknown.
    pub fn renumber(&mut self, new: &[Option<SourceIx>]) {
        let number = |s: &mut Sample| {
            s.source = new.get(usize::from(s.source)).copied().flatten().unwrap_or(SourceIx::MAX);
        };
        match self {
            Memory::Times(times) => times.iter_mut().for_each(number),
            Memory::Values(values, _) => values.iter_mut().for_each(|had| number(&mut had.last)),
            Memory::Buckets(buckets) => buckets.iter_mut().for_each(|bucket| number(&mut bucket.last)),
            Memory::Numbers(numbers) => numbers.iter_mut().for_each(|measured| number(&mut measured.sample)),
            Memory::Nothing | Memory::First(_) => {}
        }
    }
}

fn within(numbers: &VecDeque<Measured>, window_ms: u64, time: u64) -> impl Iterator<Item = f64> {
    let begin = numbers.partition_point(|m| m.sample.time_ms.saturating_add(window_ms) <= time);
    numbers.range(begin..).filter_map(|m| m.number)
}

/// Nearest rank, from 1; 0 of none.
fn rank_p95(n: usize) -> usize {
    (n * 95).div_ceil(100)
}

/// Puts a value behind all others.
fn had(values: &mut Vec<Had>, text: &str, sample: Sample, times_max: usize, values_max: usize) {
    let long;
    let text = if text.len() > VALUE_BYTES_MAX {
        long = known_as(text);
        &*long
    } else {
        text
    };
    let mut value = match values.iter().rposition(|had| *had.text == *text) {
        Some(at) => values.remove(at),
        None => {
            if values.len() >= values_max {
                values.remove(0);
            }
            Had { text: text.into(), last: sample, times: VecDeque::new() }
        }
    };
    value.last = sample;
    if times_max > 0 {
        push(&mut value.times, sample.time_ms, times_max);
    }
    values.push(value);
}

/// The values seen last, oldest of them first.
fn named(values: &[Had]) -> Value {
    let begin = values.len().saturating_sub(VALUES_NAMED);
    values.iter().skip(begin).map(|had| Value::from(&*had.text)).collect()
}

fn add(buckets: &mut VecDeque<Bucket>, window_ms: u64, windows: u64, sample: Sample, hit: bool, number: f64) {
    let (width, kept) = parts(window_ms);
    let end_ms = sample.time_ms.div_ceil(width).saturating_mul(width);
    while buckets.front().is_some_and(|b| b.end_ms.saturating_add(kept.saturating_mul(windows)) <= sample.time_ms) {
        buckets.pop_front();
    }
    if buckets.back().is_none_or(|bucket| bucket.end_ms != end_ms) {
        buckets.push_back(Bucket { end_ms, events: 0, hits: 0, sum: None, last: sample });
    }
    if let Some(bucket) = buckets.back_mut() {
        bucket.events += 1;
        bucket.hits += u64::from(hit);
        *bucket.sum.get_or_insert(0.0) += number;
        bucket.last = sample;
    }
}

/// (events, hits, sum) of the window, or of the one so many before it. A part leaves as a whole, at the first moment at or after
/// its end and the window.
fn total(buckets: &VecDeque<Bucket>, window_ms: u64, time: u64, before: u64) -> (u64, u64, f64) {
    let (_, kept) = parts(window_ms);
    let inside = |bucket: &&Bucket| {
        bucket.end_ms.saturating_add(kept.saturating_mul(before + 1)) > time
            && (before == 0 || bucket.end_ms.saturating_add(kept.saturating_mul(before)) <= time)
    };
    let sums = buckets.iter().filter(inside);
    sums.fold((0, 0, 0.0), |(n, hits, sum), b| (n + b.events, hits + b.hits, sum + b.sum.unwrap_or(0.0)))
}
