//! The lease: who detects, bridges and notifies.

use super::*;

impl RedisStore {
    pub async fn lease(&self, node: &str, known_fence: u64) -> Result<Lease, StoreError> {
        let ttl = millis(self.options.lease_ttl);
        let args = [node.to_owned(), known_fence.to_string(), ttl.to_string(), FORMAT.to_string(), random()];
        let reply = self
            .link
            .run(&scripts::LEASE, &[&self.keys.meta, &self.keys.lease, &self.keys.alerts, &self.keys.commits], &args)
            .await?;
        let read = |reply| {
            let mut parts = value::items(reply)?.into_iter();
            Some(Lease {
                node: value::text(parts.next()?)?,
                fence: value::number(&parts.next()?)?,
                expires_in_ms: value::number(&parts.next()?)?,
            })
        };
        read(reply).ok_or_else(|| self.link.garbled())
    }

    pub async fn release(&self, node: &str, fence: u64) -> Result<(), StoreError> {
        let args = [node.to_owned(), fence.to_string()];
        self.link.run(&scripts::RELEASE, &[&self.keys.lease], &args).await.map(drop)
    }
}

/// Whole milliseconds, at least one: zero means "for ever" or "at once" to the server.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
