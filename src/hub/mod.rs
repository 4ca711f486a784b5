//! The tail of the alert log and the live events in memory; cursors on it. Nobody is called, nobody is waited for.

/// `[feed]` as far as it is about memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Alert frames kept in memory; older ones are read from the store.
    pub ring: usize,
    /// Live events kept in memory.
    pub events_ring: usize,
}
