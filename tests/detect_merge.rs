//! The arrival clock: what is observed when, which slots close when, and that the commit log alone gives the same again.
//!
//! The last test plays a store with several streams (late ids, ids from the future, streams that fail and come back), reads it
//! in random batches, commits where `Merge` allows it, and compares the slot of every entry with what `replay` makes of the
//! records.

use std::{collections::BTreeMap, sync::Arc};

use auditcast::{
    detect::{Item, Merge, Step, replay},
    event::EntryId,
};
use proptest::prelude::*;

fn ids(ms: &[u64]) -> Vec<(EntryId, ())> {
    ms.iter().map(|ms| (EntryId::new(*ms, 0), ())).collect()
}

/// Steps as text: `a/12@12` observed, `|5000` closed, `a/99@13!86` from the future.
fn show<T>(steps: &[Step<T>]) -> String {
    let show = |step: &Step<T>| match step {
        Step::Observe { time_ms, item } => format!("{}/{}@{time_ms}", item.stream, item.entry.ms),
        Step::CloseTo(end) => format!("|{end}"),
        Step::Future { time_ms, ahead_ms, item } => format!("{}/{}@{time_ms}!{ahead_ms}", item.stream, item.entry.ms),
    };
    steps.iter().map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn entries_of_several_streams_come_in_the_order_of_their_ids() {
    let mut merge = Merge::new(0);
    let (a, b) = (merge.add("a"), merge.add("b"));
    merge.push(a, ids(&[1, 5000, 5001]), false, 9_000, 9_001);
    assert_eq!(show(&merge.steps(0, 5000)), "", "b has not been read yet");
    merge.push(b, ids(&[2, 5000, 8999]), false, 9_000, 9_001);
    assert_eq!(show(&merge.steps(0, 5000)), "a/1@1 b/2@2 a/5000@5000 b/5000@5000 |5000 a/5001@5001 b/8999@8999");
}

#[test]
fn a_full_batch_holds_the_others_back() {
    let mut merge = Merge::new(0);
    let (a, b) = (merge.add("a"), merge.add("b"));
    merge.push(a, ids(&[100, 200]), true, 9_000, 9_000);
    merge.push(b, ids(&[150, 7_000]), false, 9_000, 9_000);
    assert_eq!(show(&merge.steps(0, 5000)), "a/100@100 b/150@150", "a may have more of 200");
    merge.push(a, ids(&[6_000]), false, 9_000, 9_000);
    assert_eq!(show(&merge.steps(0, 5000)), "a/200@200 |5000 a/6000@6000 b/7000@7000");
}

#[test]
fn what_came_during_the_read_does_not_wait_but_stays_in_the_open_slot() {
    let mut merge = Merge::new(0);
    let a = merge.add("a");
    merge.push(a, ids(&[4_990, 4_999, 5_000, 5_001]), false, 4_995, 5_002);
    assert_eq!(show(&merge.steps(0, 5000)), "a/4990@4990 a/4999@4999 a/5000@5000");
    merge.push(a, Vec::new(), false, 5_000, 5_002);
    assert_eq!(show(&merge.steps(0, 5000)), "|5000 a/5001@5001");
}

#[test]
fn late_entries_count_in_the_slot_that_takes_them_in() {
    let mut merge = Merge::new(0);
    let (a, b) = (merge.add("a"), merge.add("b"));
    merge.set_voting(b, false);
    merge.push(a, Vec::new(), false, 10_000, 10_000);
    assert_eq!(show(&merge.steps(0, 5000)), "|10000", "b has failed and is not waited for");
    merge.push(b, ids(&[3_000, 10_500]), false, 11_000, 11_000);
    merge.push(a, ids(&[10_400]), false, 11_000, 11_000);
    assert!(merge.has_late(10_000));
    assert_eq!(show(&merge.steps(10_000, 5000)), "b/3000@10001 a/10400@10400 b/10500@10500");
}

#[test]
fn ids_from_the_future_count_now_and_close_nothing() {
    let mut merge = Merge::new(0);
    let a = merge.add("a");
    merge.push(a, ids(&[6_000, 4_102_444_800_000]), true, 7_000, 7_001);
    assert_eq!(show(&merge.steps(0, 5000)), "|5000 a/6000@6000 a/4102444800000@5001!4102444792999");
    merge.push(a, Vec::new(), false, 12_000, 12_000);
    assert_eq!(show(&merge.steps(5_000, 5000)), "|10000");
}

#[test]
fn without_a_vote_the_clock_closes_slots() {
    let mut merge: Merge<()> = Merge::new(0);
    merge.tick(12_345, 12_346);
    assert_eq!(show(&merge.steps(0, 5000)), "|10000");
    let a = merge.add("a");
    merge.tick(22_345, 22_346);
    assert_eq!(show(&merge.steps(10_000, 5000)), "", "a new stream is waited for");
    merge.remove(a);
    assert_eq!(show(&merge.steps(10_000, 5000)), "|20000");
}

#[test]
fn the_clock_of_a_store_that_jumps_back_does_not() {
    let mut merge = Merge::new(20_000);
    let a = merge.add("a");
    merge.push(a, ids(&[19_000]), false, 15_000, 15_001);
    assert_eq!(merge.time(), 20_000);
    assert_eq!(show(&merge.steps(15_000, 5000)), "a/19000@19000", "not from the future: the record's time is 20 000");
}

#[derive(Clone, Debug)]
enum Op {
    Pass(u64),
    Append(usize),
    /// An explicit id some ms behind the clock, if the stream's ids allow it.
    Late(usize, u64),
    Ahead(usize, u64),
    /// Reads every stream that does not fail: at most `count` entries each, `during` are appended between the two clocks.
    Read {
        count: usize,
        during: Vec<usize>,
        took: u64,
    },
    Fail(usize, bool),
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u64..700).prop_map(Op::Pass),
        12 => (0usize..4).prop_map(Op::Append),
        2 => (0usize..4, 1u64..4_000).prop_map(|(s, back)| Op::Late(s, back)),
        1 => (0usize..4, 1u64..9_000).prop_map(|(s, ahead)| Op::Ahead(s, ahead)),
        7 => (1usize..6, prop::collection::vec(0usize..4, 0..3), 0u64..300)
            .prop_map(|(count, during, took)| Op::Read { count, during, took }),
        2 => (0usize..4, any::<bool>()).prop_map(|(s, on)| Op::Fail(s, on)),
        2 => Just(Op::Commit),
    ]
}

#[derive(Default)]
struct World {
    now: u64,
    streams: Vec<(Vec<EntryId>, usize)>,
}

impl World {
    fn append(&mut self, stream: usize, ms: u64) {
        let Some((entries, _)) = self.streams.get_mut(stream) else { return };
        let last = entries.last().copied().unwrap_or_default();
        // As XADD does: never below what is there.
        let id = if ms > last.ms { EntryId::new(ms, 0) } else { last.next().unwrap() };
        entries.push(id);
    }
}

type Slots = BTreeMap<(String, EntryId), u64>;

struct Record {
    slot: u64,
    time: u64,
    items: Vec<Item<()>>,
}

fn slot_of(time_ms: u64, interval: u64) -> u64 {
    time_ms.div_ceil(interval) * interval
}

/// Notes the slot of every entry, and checks that time and slots run forwards.
fn note(steps: &[Step<()>], last_slot: &mut u64, interval: u64, slots: &mut Slots) {
    for step in steps {
        match step {
            Step::CloseTo(end) => {
                assert!(*end > *last_slot && end % interval == 0, "{end} after {last_slot}");
                *last_slot = *end;
            }
            Step::Observe { time_ms, item } | Step::Future { time_ms, item, .. } => {
                assert!(*time_ms > *last_slot && *time_ms <= *last_slot + interval, "{time_ms} in the slot after {last_slot}");
                let known = slots.insert((item.stream.to_string(), item.entry), slot_of(*time_ms, interval));
                assert_eq!(known, None, "{}/{} came twice", item.stream, item.entry);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_commit_record_gives_every_entry_the_slot_it_had(
        n in 1usize..4,
        interval in prop_oneof![Just(100u64), Just(500), Just(1_000)],
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World { now: 1_000_000, streams: vec![(Vec::new(), 0); n] };
        let start = world.now / interval * interval;
        let mut merge = Merge::new(0);
        for s in 0..n {
            merge.add(&format!("s{s}"));
        }
        let mut failing = vec![false; n];
        let (mut last_slot, mut committed_slot) = (start, start);
        let (mut live, mut records, mut since) = (Slots::new(), Vec::new(), Vec::new());

        let calm = [Op::Pass(5_000), Op::Read { count: 1_000, during: Vec::new(), took: 0 }, Op::Commit];
        let healed = (0..n).map(|s| Op::Fail(s, false));
        for op in ops.into_iter().chain(healed).chain(calm) {
            let mut commit = matches!(op, Op::Commit);
            match op {
                Op::Pass(ms) => world.now += ms,
                Op::Append(s) => world.append(s, world.now),
                Op::Late(s, back) => world.append(s, world.now - back),
                Op::Ahead(s, ahead) => world.append(s, world.now + ahead),
                Op::Fail(s, fails) => {
                    if s < n {
                        failing[s] = fails;
                        merge.set_voting(s, !fails);
                    }
                }
                Op::Read { count, during, took } => {
                    let before = world.now;
                    world.now += took / 2;
                    during.into_iter().for_each(|s| world.append(s, world.now));
                    let after = before + took;
                    for s in (0..n).filter(|s| !failing[*s]) {
                        let (entries, read) = &mut world.streams[s];
                        let batch: Vec<_> = entries[*read..].iter().take(count).map(|id| (*id, ())).collect();
                        *read += batch.len();
                        let full = batch.len() == count;
                        merge.push(s, batch, full, before, after);
                    }
                    world.now = after;
                }
                Op::Commit => {}
            }
            if merge.has_late(last_slot) && last_slot != committed_slot {
                records.push(Record { slot: last_slot, time: merge.time(), items: std::mem::take(&mut since) });
                committed_slot = last_slot;
            }
            let steps = merge.steps(last_slot, interval);
            note(&steps, &mut last_slot, interval, &mut live);
            for step in steps {
                commit |= matches!(step, Step::Future { .. });
                if let Step::Observe { item, .. } | Step::Future { item, .. } = step {
                    since.push(item);
                }
            }
            if commit {
                records.push(Record { slot: last_slot, time: merge.time(), items: std::mem::take(&mut since) });
                committed_slot = last_slot;
            }
        }

        let mut all: Vec<(String, EntryId)> = Vec::new();
        for (s, (entries, read)) in world.streams.iter().enumerate() {
            prop_assert_eq!(*read, entries.len());
            all.extend(entries.iter().map(|id| (format!("s{s}"), *id)));
        }
        all.sort();
        prop_assert_eq!(live.keys().cloned().collect::<Vec<_>>(), all, "every entry, once");

        let (mut replayed, mut last_slot) = (Slots::new(), start);
        for mut record in records {
            record.items.reverse();
            let steps = replay(record.items, record.slot, record.time, last_slot, interval);
            note(&steps, &mut last_slot, interval, &mut replayed);
            prop_assert_eq!(last_slot, record.slot);
        }
        prop_assert_eq!(live, replayed);
    }
}

#[test]
fn a_replay_puts_late_ones_first_and_future_ones_last() {
    let item = |stream: &str, ms: u64| Item { stream: Arc::from(stream), entry: EntryId::new(ms, 0), item: () };
    let items = vec![item("b", 90_000), item("b", 12_000), item("a", 12_000), item("a", 21_000), item("c", 3_000)];
    assert_eq!(
        show(&replay(items, 20_000, 22_000, 5_000, 5000)),
        "c/3000@5001 |10000 a/12000@12000 b/12000@12000 |20000 a/21000@21000 b/90000@20001!68000"
    );
}
