//! What this node has committed itself goes into the ring at once: it is in the log, so it need not be read back first.

use super::Hub;
use crate::{store::LogEntry, wire::Pos};

impl Hub {
    /// Takes entries that the store has just put behind `before`. If that is not where the ring ends, they come by the tail as
    /// everybody else's do.
    pub fn hand_over(&self, epoch: &str, before: &Pos, entries: Vec<LogEntry>) {
        let follows = {
            let mut ring = self.ring_mut();
            if ring.loaded && ring.epoch.is_empty() {
                // It was read when there was nothing in the store: as the tail does, take the log's word.
                epoch.clone_into(&mut ring.epoch);
                if ring.head.seq == 0 {
                    ring.head = Pos::origin(epoch);
                }
            }
            // Before the first entry of all there is nothing that a check could be held against.
            ring.loaded
                && ring.epoch == epoch
                && ring.head.seq == before.seq
                && (before.seq == 0 || ring.head.check == before.check)
        };
        if follows {
            self.push_alerts(entries);
        }
    }

    /// Whether the ring has all of these already.
    pub(super) fn has(&self, entries: &[LogEntry]) -> bool {
        let ring = self.ring();
        // Checks are chained: two logs that agree in one entry agree in all before it.
        entries.last().is_some_and(|last| last.seq <= ring.head.seq && ring.check(last.seq) == Some(last.check.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Options;

    fn entry(seq: u64, check: &str) -> LogEntry {
        LogEntry { seq, check: check.to_owned(), body: "{}".to_owned() }
    }

    fn pos(seq: u64, check: &str) -> Pos {
        Pos { seq, check: check.to_owned() }
    }

    #[test]
    fn a_ring_that_was_read_before_the_store_was_used_takes_the_first() {
        let hub = Hub::new(Options { ring: 8, events_ring: 1 });
        hub.begin(String::new(), Pos::origin(""));
        hub.hand_over("e", &pos(0, ""), vec![entry(1, "a")]);
        assert_eq!(hub.head_pos(), pos(1, "a"));
    }

    #[test]
    fn only_what_follows_the_ring_is_taken() {
        let hub = Hub::new(Options { ring: 8, events_ring: 1 });
        hub.hand_over("e", &pos(0, ""), vec![entry(1, "a")]);
        assert_eq!(hub.head(), 0, "the log has not been read yet");
        hub.begin("e".to_owned(), Pos::origin("e"));
        for (epoch, before, first) in [("f", pos(0, ""), entry(1, "a")), ("e", pos(1, "a"), entry(2, "b"))] {
            hub.hand_over(epoch, &before, vec![first]);
            assert_eq!(hub.head(), 0);
        }
        hub.hand_over("e", &pos(0, ""), vec![entry(1, "a"), entry(2, "b")]);
        assert_eq!(hub.head_pos(), pos(2, "b"));
        hub.hand_over("e", &pos(2, "x"), vec![entry(3, "c")]);
        assert_eq!(hub.head(), 2, "another log's second entry");
        hub.hand_over("e", &pos(2, "b"), vec![entry(3, "c")]);
        assert_eq!(hub.head_pos(), pos(3, "c"));
        assert!(hub.has(&[entry(2, "b"), entry(3, "c")]) && hub.has(&[entry(1, "a")]));
        assert!(!hub.has(&[entry(3, "d")]) && !hub.has(&[entry(3, "c"), entry(4, "d")]));
    }
}
