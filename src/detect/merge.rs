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

use std::{collections::VecDeque, sync::Arc};

use crate::event::EntryId;

/// An entry on its way to the detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// The stream's key.
    pub stream: Arc<str>,
    pub entry: EntryId,
    pub item: T,
}

impl<T> Item<T> {
    fn order(&self) -> (EntryId, &str) {
        (self.entry, &self.stream)
    }
}

/// What the detector is given next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// An entry, at its time in the open slot.
    Observe { time_ms: u64, item: Item<T> },
    /// Every slot up to this end, inclusive.
    CloseTo(u64),
    /// An entry whose id is ahead of the store's clock: counts now. Above 5 s it is worth an `audit_clock`.
    Future { time_ms: u64, ahead_ms: u64, item: Item<T> },
}

#[derive(Clone, Debug)]
struct Stream<T> {
    name: Arc<str>,
    items: VecDeque<(EntryId, T)>,
    complete_through_ms: u64,
    at_end: bool,
    voting: bool,
    /// Numbers of streams stay what they are; a removed one neither votes nor holds anything.
    removed: bool,
}

/// Read but not yet observed entries of all streams.
#[derive(Clone, Debug)]
pub struct Merge<T> {
    streams: Vec<Stream<T>>,
    /// The store's clock before and after the newest read; never runs backwards.
    before_ms: u64,
    after_ms: u64,
}

impl<T> Default for Merge<T> {
    fn default() -> Merge<T> {
        Merge { streams: Vec::new(), before_ms: 0, after_ms: 0 }
    }
}

impl<T> Merge<T> {
    /// Without streams; `time_ms` is the store's clock as of the last commit record, 0 if there is none.
    pub fn new(time_ms: u64) -> Merge<T> {
        Merge { streams: Vec::new(), before_ms: 0, after_ms: time_ms }
    }

    /// Adds a stream and gives its number. It votes, and holds the slots open until it has been read for the first time.
    pub fn add(&mut self, name: &str) -> usize {
        self.streams.push(Stream {
            name: Arc::from(name),
            items: VecDeque::new(),
            complete_through_ms: 0,
            at_end: false,
            voting: true,
            removed: false,
        });
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
    pub fn push(&mut self, stream: usize, entries: Vec<(EntryId, T)>, full: bool, before_ms: u64, after_ms: u64) {
        self.tick(before_ms, after_ms);
        let Some(stream) = self.streams.get_mut(stream).filter(|s| !s.removed) else { return };
        let through = match entries.last() {
            // More entries of the last millisecond may follow. An id from the future says nothing about the time until then.
            Some((last, _)) if full => last.ms.saturating_sub(1).min(before_ms),
            _ => before_ms,
        };
        stream.complete_through_ms = stream.complete_through_ms.max(through);
        stream.at_end = !full;
        stream.items.extend(entries);
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
    pub fn steps(&mut self, mut last_slot: u64, interval: u64) -> Vec<Step<T>> {
        let mut out = Vec::new();
        let watermark = self.watermark();
        self.release(watermark, &mut last_slot, interval, &mut out);
        close_to(watermark, &mut last_slot, interval, &mut out);
        if self.streams.iter().all(|s| s.at_end || !s.voting) {
            // A watermark behind the last closed slot (a stream that came back) does not reopen it.
            let open_end = next_slot(watermark.max(last_slot), interval);
            self.release(open_end.min(self.after_ms), &mut last_slot, interval, &mut out);
        }
        let after_ms = self.after_ms;
        // Only from the front: an entry that is not due yet holds back what is behind it, for a position is all that is stored.
        while let Some(item) = self.pop(|entry| entry.ms > after_ms) {
            let ahead_ms = item.entry.ms - after_ms;
            out.push(Step::Future { time_ms: last_slot.saturating_add(1), ahead_ms, item });
        }
        out
    }

    /// Observes what is at or below `through`, closing slots on the way.
    fn release(&mut self, through: u64, last_slot: &mut u64, interval: u64, out: &mut Vec<Step<T>>) {
        let through = through.min(self.after_ms);
        while let Some(item) = self.pop(|entry| entry.ms <= through) {
            observe(item, u64::MAX, last_slot, interval, out);
        }
    }

    /// The least front that is wanted.
    fn pop(&mut self, wanted: impl Fn(EntryId) -> bool) -> Option<Item<T>> {
        let front = |s: &Stream<T>| s.items.front().map(|(entry, _)| *entry).filter(|entry| wanted(*entry));
        let least =
            self.streams.iter().enumerate().filter_map(|(i, s)| Some((front(s)?, &s.name, i))).min().map(|(_, _, i)| i)?;
        let stream = self.streams.get_mut(least)?;
        let (entry, item) = stream.items.pop_front()?;
        Some(Item { stream: stream.name.clone(), entry, item })
    }
}

/// The same steps again, from a commit record: `items` are the entries it took in, in any order, `record_slot` and
/// `record_time` what it says, `last_slot` the slot of the record before.
pub fn replay<T>(mut items: Vec<Item<T>>, record_slot: u64, record_time: u64, last_slot: u64, interval: u64) -> Vec<Step<T>> {
    let mut last_slot = last_slot;
    let mut out = Vec::with_capacity(items.len() + 1);
    items.sort_by(|a, b| a.order().cmp(&b.order()));
    let future = items.split_off(items.partition_point(|i| i.entry.ms <= record_time));
    for item in items {
        observe(item, record_slot, &mut last_slot, interval, &mut out);
    }
    close_to(record_slot, &mut last_slot, interval, &mut out);
    for item in future {
        let ahead_ms = item.entry.ms - record_time;
        out.push(Step::Future { time_ms: last_slot.saturating_add(1), ahead_ms, item });
    }
    out
}

/// One entry at its time; slots that end before it, up to `close_max`, are closed first.
fn observe<T>(item: Item<T>, close_max: u64, last_slot: &mut u64, interval: u64, out: &mut Vec<Step<T>>) {
    let ms = item.entry.ms;
    close_to(ms.saturating_sub(1).min(close_max), last_slot, interval, out);
    let time_ms = ms.max(last_slot.saturating_add(1));
    out.push(Step::Observe { time_ms, item });
}

fn close_to<T>(through: u64, last_slot: &mut u64, interval: u64, out: &mut Vec<Step<T>>) {
    let end = through / interval.max(1) * interval;
    if end > *last_slot {
        *last_slot = end;
        out.push(Step::CloseTo(end));
    }
}

fn next_slot(last_slot: u64, interval: u64) -> u64 {
    let interval = interval.max(1);
    (last_slot / interval).saturating_add(1).saturating_mul(interval)
}
