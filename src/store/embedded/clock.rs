//! The store's clock: the one place of this engine that reads the machine's.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Unix ms that never go backwards: where the machine's clock is set back, this one stands still until it is reached again.
#[derive(Debug, Default)]
pub(super) struct Clock {
    newest: AtomicU64,
}

impl Clock {
    pub(super) fn now_ms(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        self.newest.fetch_max(wall, Ordering::SeqCst).max(wall)
    }
}
