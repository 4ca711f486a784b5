//! Word of changes, from the writer to whoever watches.

use tokio::sync::broadcast::{self, error::RecvError};

use crate::store::{
    StoreError,
    watch::{Change, Notice},
};

/// Hears of each change once it is on the disk.
pub struct Watch {
    changes: broadcast::Receiver<Change>,
    begun: bool,
}

impl Watch {
    pub(super) fn new(changes: &broadcast::Sender<Change>) -> Watch {
        Watch { changes: changes.subscribe(), begun: false }
    }

    /// See [`crate::store::Watch::next`].
    pub async fn next(&mut self) -> Result<Notice, StoreError> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(Notice::Everything);
        }
        let mut changes = match self.changes.recv().await {
            Ok(change) => vec![change],
            Err(RecvError::Lagged(_)) => return Ok(Notice::Everything),
            Err(RecvError::Closed) => return Err(StoreError::Unavailable("the store is closed".to_owned())),
        };
        while let Ok(change) = self.changes.try_recv() {
            changes.push(change);
        }
        Ok(Notice::Changes(changes))
    }
}
