//! Following the alert log and the commit log: plain XREAD from positions of the caller's, through the redis crate, for what
//! comes is little.

use super::{
    connect::Owned,
    lease::millis,
    log::{commit_record, log_entry},
    *,
};

/// Follows the alert log or the commit log. A read that is dropped loses nothing but its connection.
pub struct Tail {
    connection: Owned,
    keys: Arc<Keys>,
}

impl Tail {
    pub(super) fn new(link: Arc<Link>, keys: Arc<Keys>) -> Tail {
        Tail { connection: Owned::new(link), keys }
    }

    pub async fn alerts(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<LogEntry>, StoreError> {
        let key = self.keys.alerts.clone();
        let garbled = self.connection.link.clone();
        let entries = self.follow(&key, after, limit, block).await?;
        entries.into_iter().map(|entry| log_entry(entry).ok_or_else(|| garbled.garbled())).collect()
    }

    pub async fn commits(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<CommitRecord>, StoreError> {
        let key = self.keys.commits.clone();
        let entries = self.follow(&key, after, limit, block).await?;
        entries.into_iter().map(|entry| commit_record(entry, &key)).collect()
    }

    async fn follow(&mut self, key: &str, after: u64, limit: usize, block: Duration) -> Result<Vec<Entry>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        let command = pipeline.cmd("XREAD").arg("COUNT").arg(limit.clamp(1, COUNT_MAX));
        if !block.is_zero() {
            command.arg("BLOCK").arg(millis(block));
        }
        // Ids are `seq-0`: everything above `seq-MAX` is everything after seq.
        command.arg("STREAMS").arg(key).arg(EntryId::new(after, u64::MAX).to_string());
        let reply = self.connection.ask(&pipeline, block).await?.pop();
        let link = &self.connection.link;
        let streams = value::streams(link.reply(reply)?).ok_or_else(|| link.garbled())?;
        Ok(streams.into_iter().flat_map(|(_, entries)| entries).collect())
    }
}
