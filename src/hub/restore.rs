//! What the ring still holds of a log that the store has lost a part of.

use super::Hub;
use crate::store::LogEntry;

impl Hub {
    /// The entries above `seq` that are in memory, as they were stored.
    pub fn log_after(&self, seq: u64) -> Vec<LogEntry> {
        self.ring().frames_after(seq).filter_map(|frame| frame.as_stored()).collect()
    }
}
