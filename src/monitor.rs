//! The one loop that owns the detector: batches in, commits out.

use std::time::Duration;

/// `[monitor]` as far as it is about the loop.
#[derive(Clone, Debug)]
pub struct Options {
    /// A source that has failed for so long leaves the vote on a slot's end.
    pub source_lag_max: Duration,
    pub lease_ttl: Duration,
    /// How often the state machine is written down.
    pub checkpoint_interval: Duration,
    /// Entries a read takes from each stream at most.
    pub batch_max: usize,
}
