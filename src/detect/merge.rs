//! The arrival clock of several streams: in which order entries are observed, and when slots close (contract §4).
//!
//! A stream is *complete through* a moment when every entry it has up to then has been read. The watermark is the least of
//! these over the streams that vote; what is at or below it is observed in the order (ms, seq, stream), whatever batches it
//! came in, and a slot closes when the watermark has reached its end. What is younger is observed ahead of the watermark only
//! while every voting stream is at its end, and only into the open slot, so an alert does not wait for a quiet stream.
//!
//! [`replay`] gives every entry the slot it had, from the commit log alone. That holds if a commit directly follows
//! - every [`Merge::steps`] that gave a [`Step::Future`], and
//! - every [`Merge::steps`] that closed slots, at the latest before the next one with late entries ([`Merge::has_late`]).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque, binary_heap::PeekMut},
    sync::Arc,
};

use crate::event::EntryId;

/// An entry on its way to the detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T, S = Arc<str>> {
    /// The stream: its key, or what stands for it and has the same order.
    pub stream: S,
    pub entry: EntryId,
    pub item: T,
}

impl<T, S> Item<T, S> {
    fn order(&self) -> (EntryId, &S) {
        (self.entry, &self.stream)
    }
}

/// What the detector is given next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T, S = Arc<str>> {
    /// An entry, at its time in the open slot.
    Observe { time_ms: u64, item: Item<T, S> },
    /// Every slot up to this end, inclusive.
    CloseTo(u64),
    /// An entry whose id is ahead of the store's clock: counts now. Above 5 s it is worth an `audit_clock`.
    Future { time_ms: u64, ahead_ms: u64, item: Item<T, S> },
}

#[derive(Clone, Debug)]
struct Stream<T> {
    name: Arc<str>,
    /// Its place among the names.
    rank: usize,
    items: VecDeque<(EntryId, T)>,
    complete_through_ms: u64,
    at_end: bool,
    voting: bool,
    /// Numbers of streams stay what they are; a removed one neither votes nor holds anything.
    removed: bool,
}

/// How far [`Merge::next_step`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// What is at or below the watermark.
    Settled,
    /// The slots that end there.
    Slots,
    /// What is younger, where the open slot may take it.
    Open,
    /// Ids ahead of the clock.
    Future,
    #[default]
    Done,
}

/// The steps that are being given out.
#[derive(Clone, Debug, Default)]
struct Run {
    phase: Phase,
    last_slot: u64,
    interval: u64,
    watermark: u64,
    /// Entries up to here are due in this phase.
    through: u64,
    /// The oldest entry in hand of each stream: (id, rank, number).
    fronts: BinaryHeap<Reverse<(EntryId, usize, usize)>>,
}

/// Read but not yet observed entries of all streams.
#[derive(Clone, Debug)]
pub struct Merge<T> {
    streams: Vec<Stream<T>>,
    /// The store's clock before and after the newest read; never runs backwards.
    before_ms: u64,
    after_ms: u64,
    /// A stream was added since they were given their ranks.
    unranked: bool,
    run: Run,
}

impl<T> Default for Merge<T> {
    fn default() -> Merge<T> {
        Merge::new(0)
    }
}

impl<T> Merge<T> {
    /// Without streams; `time_ms` is the store's clock as of the last commit record, 0 if there is none.
    pub fn new(time_ms: u64) -> Merge<T> {
        Merge { streams: Vec::new(), before_ms: 0, after_ms: time_ms, unranked: false, run: Run::default() }
    }

    /// Adds a stream and gives its number. It votes, and holds the slots open until it has been read for the first time.
    pub fn add(&mut self, name: &str) -> usize {
        self.streams.push(Stream {
            name: Arc::from(name),
            rank: 0,
            items: VecDeque::new(),
            complete_through_ms: 0,
            at_end: false,
            voting: true,
            removed: false,
        });
        self.unranked = true;
        self.streams.len() - 1
    }

    /// A stream that is read no more; what it had in hand is dropped. Its number is not used again.
    pub fn remove(&mut self, stream: usize) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.items = VecDeque::new();
            stream.voting = false;
            stream.removed = true;
        }
    }

    /// Whether slots wait for this stream: not for one that has failed for too long. One that votes again holds the slots open
    /// from where it had got to.
    pub fn set_voting(&mut self, stream: usize, voting: bool) {
        if let Some(stream) = self.streams.get_mut(stream).filter(|s| !s.removed) {
            stream.voting = voting;
        }
    }

    /// Entries of this stream that were read and not yet observed; who reads stops at some number.
    pub fn pending(&self, stream: usize) -> usize {
        self.streams.get(stream).map_or(0, |s| s.items.len())
    }

    /// Drops what a stream had in hand, for one that was rewound and is read anew.
    pub fn clear(&mut self, stream: usize) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.items.clear();
        }
    }

    /// The store's clock as far as it is known: what the commit record's `time` must be.
    pub fn time(&self) -> u64 {
        self.after_ms
    }

    /// Takes the store's clock from a read that gave nothing for any stream.
    pub fn tick(&mut self, before_ms: u64, after_ms: u64) {
        self.before_ms = self.before_ms.max(before_ms);
        self.after_ms = self.after_ms.max(after_ms).max(before_ms);
    }

    /// Takes in what one read gave for one stream, also if that is nothing: ascending ids above all before. `full`: there may
    /// be more. `before_ms` and `after_ms` are the store's clock around the read.
    pub fn push(
        &mut self,
        stream: usize,
        entries: impl IntoIterator<Item = (EntryId, T)>,
        full: bool,
        before_ms: u64,
        after_ms: u64,
    ) {
        self.tick(before_ms, after_ms);
        let Some(stream) = self.streams.get_mut(stream).filter(|s| !s.removed) else { return };
        let had = stream.items.len();
        stream.items.extend(entries);
        let through = match stream.items.back() {
            // More entries of the last millisecond may follow. An id from the future says nothing about the time until then.
            Some((last, _)) if full && stream.items.len() > had => last.ms.saturating_sub(1).min(before_ms),
            _ => before_ms,
        };
        stream.complete_through_ms = stream.complete_through_ms.max(through);
        stream.at_end = !full;
    }

    /// Whether this stream need not be read further: it has entries in hand that will have to wait for other streams. The same
    /// before and after the steps that a read allows.
    pub fn waits(&self, stream: usize) -> bool {
        let watermark = self.watermark();
        self.streams.get(stream).is_some_and(|s| {
            let held = s.items.back().is_some_and(|(last, _)| last.ms > watermark.min(self.after_ms));
            held && s.complete_through_ms > watermark
        })
    }

    /// Time of the oldest entry that is held, Unix ms.
    pub fn earliest_ms(&self) -> Option<u64> {
        self.streams.iter().filter_map(|s| s.items.front()).map(|(entry, _)| entry.ms).min()
    }

    /// Up to where this stream is complete, Unix ms.
    pub fn complete_through(&self, stream: usize) -> u64 {
        self.streams.get(stream).map_or(0, |s| s.complete_through_ms)
    }

    /// Up to where every voting stream is complete; without one that votes, the store's clock.
    pub fn watermark(&self) -> u64 {
        let voting = self.streams.iter().filter(|s| s.voting).map(|s| s.complete_through_ms);
        voting.min().unwrap_or(self.before_ms)
    }

    /// Whether the next [`Merge::steps`] begins with entries of slots that are closed: if slots were closed since the last
    /// commit, commit first.
    pub fn has_late(&self, last_slot: u64) -> bool {
        self.streams.iter().filter_map(|s| s.items.front()).any(|(entry, _)| entry.ms <= last_slot)
    }

    /// What can be observed and closed by now, in order. `last_slot` is the end of the last closed slot.
    pub fn steps(&mut self, last_slot: u64, interval: u64) -> Vec<Step<T>> {
        self.begin_steps(last_slot, interval);
        let mut out = Vec::new();
        while let Some(step) = self.next_step() {
            let named = |item: Item<T, usize>| {
                let stream = self.streams.get(item.stream).map_or_else(|| Arc::from(""), |s| s.name.clone());
                Item { stream, entry: item.entry, item: item.item }
            };
            out.push(match step {
                Step::Observe { time_ms, item } => Step::Observe { time_ms, item: named(item) },
                Step::Future { time_ms, ahead_ms, item } => Step::Future { time_ms, ahead_ms, item: named(item) },
                Step::CloseTo(end) => Step::CloseTo(end),
            });
        }
        out
    }

    /// The same one by one: [`Merge::next_step`] gives them, with the streams' numbers. What is pushed meanwhile waits for the
    /// next time.
    pub fn begin_steps(&mut self, last_slot: u64, interval: u64) {
        if std::mem::take(&mut self.unranked) {
            let mut by_name: Vec<usize> = (0..self.streams.len()).collect();
            by_name.sort_by(|a, b| self.name(*a).cmp(&self.name(*b)));
            for (rank, number) in by_name.into_iter().enumerate() {
                if let Some(stream) = self.streams.get_mut(number) {
                    stream.rank = rank;
                }
            }
        }
        let watermark = self.watermark();
        self.run.phase = Phase::Settled;
        (self.run.last_slot, self.run.interval, self.run.watermark) = (last_slot, interval, watermark);
        self.run.through = watermark.min(self.after_ms);
        self.line_up(0);
    }

    fn name(&self, stream: usize) -> Option<(&str, usize)> {
        self.streams.get(stream).map(|s| (&*s.name, stream))
    }

    /// The fronts of all streams with ids from `from_ms` on.
    fn line_up(&mut self, from_ms: u64) {
        self.run.fronts.clear();
        for (number, stream) in self.streams.iter().enumerate() {
            if let Some((entry, _)) = stream.items.front().filter(|(entry, _)| entry.ms >= from_ms) {
                self.run.fronts.push(Reverse((*entry, stream.rank, number)));
            }
        }
    }

    /// The next step of those that [`Merge::begin_steps`] began.
    pub fn next_step(&mut self) -> Option<Step<T, usize>> {
        loop {
            match self.run.phase {
                Phase::Settled | Phase::Open => match self.run.fronts.peek() {
                    Some(Reverse((entry, ..))) if entry.ms <= self.run.through => {
                        let ms = entry.ms;
                        if let Some(end) = due(ms.saturating_sub(1), &mut self.run.last_slot, self.run.interval) {
                            return Some(Step::CloseTo(end));
                        }
                        let time_ms = ms.max(self.run.last_slot.saturating_add(1));
                        if let Some(item) = self.pop() {
                            return Some(Step::Observe { time_ms, item });
                        }
                    }
                    _ if self.run.phase == Phase::Settled => self.run.phase = Phase::Slots,
                    _ => self.begin_future(),
                },
                Phase::Slots => {
                    let end = due(self.run.watermark, &mut self.run.last_slot, self.run.interval);
                    if self.streams.iter().all(|s| s.at_end || !s.voting) {
                        // A watermark behind the last closed slot (a stream that came back) does not reopen it.
                        let open_end = next_slot(self.run.watermark.max(self.run.last_slot), self.run.interval);
                        self.run.through = open_end.min(self.after_ms);
                        self.run.phase = Phase::Open;
                    } else {
                        self.begin_future();
                    }
                    if let Some(end) = end {
                        return Some(Step::CloseTo(end));
                    }
                }
                Phase::Future => {
                    if self.run.fronts.is_empty() {
                        self.run.phase = Phase::Done;
                        return None;
                    }
                    let Some(item) = self.pop() else { continue };
                    let ahead_ms = item.entry.ms.saturating_sub(self.after_ms);
                    return Some(Step::Future { time_ms: self.run.last_slot.saturating_add(1), ahead_ms, item });
                }
                Phase::Done => return None,
            }
        }
    }

    /// Only from the front: an entry that is not due yet holds back what is behind it, for a position is all that is stored.
    fn begin_future(&mut self) {
        self.run.phase = Phase::Future;
        match self.after_ms.checked_add(1) {
            Some(from_ms) => self.line_up(from_ms),
            None => self.run.fronts.clear(),
        }
    }

    /// Takes the least front out of its stream, and puts the stream's next in its place. `None`: there is no more, or it is gone.
    fn pop(&mut self) -> Option<Item<T, usize>> {
        let mut least = self.run.fronts.peek_mut()?;
        let Reverse((_, rank, number)) = *least;
        let popped = self.streams.get_mut(number).and_then(|stream| {
            let (entry, item) = stream.items.pop_front()?;
            Some((Item { stream: number, entry, item }, stream.items.front().map(|(next, _)| *next)))
        });
        match popped {
            Some((item, Some(next))) => {
                *least = Reverse((next, rank, number));
                Some(item)
            }
            Some((item, None)) => {
                PeekMut::pop(least);
                Some(item)
            }
            None => {
                PeekMut::pop(least);
                None
            }
        }
    }
}

/// The same steps again, from a commit record: `items` are the entries it took in, in any order, `record_slot` and
/// `record_time` what it says, `last_slot` the slot of the record before.
pub fn replay<T, S: Ord>(
    mut items: Vec<Item<T, S>>,
    record_slot: u64,
    record_time: u64,
    last_slot: u64,
    interval: u64,
) -> Vec<Step<T, S>> {
    let mut last_slot = last_slot;
    let mut out = Vec::with_capacity(items.len() + 1);
    items.sort_by(|a, b| a.order().cmp(&b.order()));
    let future = items.split_off(items.partition_point(|i| i.entry.ms <= record_time));
    for item in items {
        let ms = item.entry.ms;
        let close = due(ms.saturating_sub(1).min(record_slot), &mut last_slot, interval);
        out.extend(close.map(Step::CloseTo));
        out.push(Step::Observe { time_ms: ms.max(last_slot.saturating_add(1)), item });
    }
    out.extend(due(record_slot, &mut last_slot, interval).map(Step::CloseTo));
    for item in future {
        let ahead_ms = item.entry.ms - record_time;
        out.push(Step::Future { time_ms: last_slot.saturating_add(1), ahead_ms, item });
    }
    out
}

/// The end of the last slot that ends by `through`, if it is not closed yet; from now on it is.
fn due(through: u64, last_slot: &mut u64, interval: u64) -> Option<u64> {
    let end = through / interval.max(1) * interval;
    (end > *last_slot).then(|| {
        *last_slot = end;
        end
    })
}

fn next_slot(last_slot: u64, interval: u64) -> u64 {
    let interval = interval.max(1);
    (last_slot / interval).saturating_add(1).saturating_mul(interval)
}
