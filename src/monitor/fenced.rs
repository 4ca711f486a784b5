//! The lease and the commits under it: what a leader may do only as long as it is the one.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    Monitor,
    engine::Mark,
    lead::{Halt, Leader},
};
use crate::{
    metrics::unix_ms,
    store::{Commit, Snapshot, StoreError},
};

impl Monitor {
    pub(super) async fn renew(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        let lease = self.store.lease(&self.node, l.fence.max(l.state.fence)).await?;
        l.state.fence = l.state.fence.max(lease.fence);
        if lease.node != self.node {
            return Err(Halt::Fenced);
        }
        if lease.fence != l.fence || l.outage.since.is_some() || l.look_again {
            self.regain(l, lease.fence).await?;
            l.look_again = false;
        }
        l.next_lease = Instant::now() + self.options.lease_ttl / 3;
        Ok(())
    }

    /// The lease had run out, or the store was away. If nobody committed meanwhile our state is the newest there is, and what the
    /// store has lost of it is put back.
    pub(super) async fn regain(&mut self, l: &mut Leader<'_>, fence: u64) -> Result<(), Halt> {
        self.store.prepare().await?;
        let recovered = self.store.recover().await?;
        if recovered.commit > l.state.commit {
            tracing::info!("another node led meanwhile: its commits are read");
            return Err(Halt::Fenced);
        }
        if fence > l.fence + 1 {
            // A number between ours was given away: what the store has may be another node's, however little it is.
            tracing::info!("another node had the lease meanwhile: the state is read anew");
            return Err(Halt::Fenced);
        }
        l.fence = fence;
        if recovered.commit < l.state.commit || recovered.epoch != l.state.epoch {
            let kept = self.hub.log_after(recovered.seq);
            let fits = kept.first().is_some_and(|first| first.seq == recovered.seq + 1 || recovered.seq == 0);
            let back = if fits { kept.len() } else { 0 };
            tracing::error!(
                "the store lost what it had acknowledged: commits {} to {} and {} alerts; {back} alerts are put back",
                recovered.commit + 1,
                l.state.commit,
                l.state.seq.saturating_sub(recovered.seq),
            );
            if back > 0 {
                match self.store.log_restore(fence, &l.state.epoch, &kept).await {
                    Err(StoreError::Broken(why)) => {
                        tracing::error!("the alerts cannot be put back, the state is read anew: {why}");
                        return Err(Halt::Fenced);
                    }
                    other => other?,
                }
            }
            let now = self.store.recover().await?;
            l.state.epoch = now.epoch;
            l.state.seq = now.seq;
            l.state.commit = now.commit;
            for stream in &mut l.state.engine.streams {
                stream.moved = true;
                stream.recounted = true;
            }
            // Who follows the records cannot know what was before them.
            l.effects.marks.push(Mark::Anew);
            l.next_checkpoint = Instant::now();
        }
        l.compare_all = true;
        Ok(())
    }

    /// Makes true together what has been decided. Tries until it is stored, another node leads, or the daemon stops.
    pub(super) async fn commit(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        let moved = l.state.engine.streams.iter().any(|s| s.moved);
        if !moved && l.effects.is_empty() && l.committed_slot == l.state.engine.detector.last_slot() {
            return Ok(());
        }
        l.committed_slot = l.state.engine.detector.last_slot();
        (l.taken, l.taken_bytes) = (0, 0);
        l.unsettled = true;
        let effects = std::mem::take(&mut l.effects);
        let record = l.state.engine.record(l.merge.time(), effects.marks);
        let mut commit = Commit {
            fence: l.fence,
            entries: l.state.engine.log_entries(&effects.alerts),
            record,
            dead_letters: effects.dead_letters,
        };
        let begun = Instant::now();
        loop {
            match self.store.commit(&commit).await {
                Ok(committed) if committed.n == l.state.commit + 1 => {
                    l.state.commit = committed.n;
                    l.state.seq = committed.seq;
                    if let Some((before, entries)) = committed.entries(&commit) {
                        self.hub.hand_over(&l.state.epoch, &before, entries);
                    }
                    break;
                }
                Ok(committed) => {
                    tracing::error!(
                        "the store lost commits {} to {} without a word: the state is read anew",
                        committed.n,
                        l.state.commit
                    );
                    return Err(Halt::Fenced);
                }
                Err(StoreError::Fenced) => match self.renew(l).await {
                    // The lease was lost with the store's data, not to another node.
                    Ok(()) if commit.fence != l.fence => {
                        self.complete(l, &mut commit);
                        continue;
                    }
                    Ok(()) | Err(Halt::Fenced) => return Err(Halt::Fenced),
                    Err(Halt::Store(error)) if !matches!(error, StoreError::Format(_)) => {
                        self.store_down(&mut l.outage, &error);
                    }
                    Err(halt) => return Err(halt),
                },
                Err(StoreError::Format(text)) => return Err(Halt::Store(StoreError::Format(text))),
                Err(error) => {
                    self.store_down(&mut l.outage, &error);
                    self.tell_sources(l, false);
                }
            }
            self.health.beat(unix_ms());
            tokio::select! {
                () = sleep_until(Instant::now() + l.outage.pause()) => {}
                () = self.stop.cancelled() => return Err(Halt::Stopped),
            }
            // The answer may be all that was lost.
            match self.store.commits(l.state.commit, 1).await.as_deref() {
                Ok([found]) if found.same_as(&commit.record) => {
                    l.state.commit = found.n;
                    l.state.seq = self.store.log_bounds().await.map_or(l.state.seq, |bounds| bounds.head);
                    break;
                }
                Ok([_, ..]) => return Err(Halt::Fenced),
                Ok([]) => {}
                Err(_) => continue,
            }
            match self.renew(l).await {
                Ok(()) => self.complete(l, &mut commit),
                Err(Halt::Store(error)) if !matches!(error, StoreError::Format(_)) => {}
                Err(halt) => return Err(halt),
            }
        }
        l.unsettled = false;
        if l.outage.since.is_some() {
            self.store_up(&mut l.outage);
            self.tell_sources(l, true);
        }
        self.metrics.commit.observe(begun.elapsed().as_secs_f64());
        let now_ms = l.store_ms + u64::try_from(l.store_at.elapsed().as_millis()).unwrap_or(0);
        for arrival in effects.arrivals {
            self.metrics.event_processing.observe(now_ms.saturating_sub(arrival) as f64 / 1000.0);
        }
        Ok(())
    }

    /// A commit that is tried again, under the fence of now; with all positions, where the store has lost its table of them.
    fn complete(&self, l: &Leader<'_>, commit: &mut Commit) {
        commit.fence = l.fence;
        if l.state.engine.streams.iter().any(|s| s.moved) {
            commit.record.done = l.state.engine.streams.iter().map(|s| (s.key.clone(), s.done)).collect();
        }
    }

    pub(super) async fn checkpoint(&mut self, l: &mut Leader<'_>) -> Result<(), Halt> {
        // Only what is committed may be in a snapshot.
        self.commit(l).await?;
        let snapshot = Snapshot {
            commit: l.state.commit,
            fingerprint: self.settings.borrow().fingerprint.clone(),
            data: l.state.engine.snapshot(),
        };
        self.store.snapshot_put(l.fence, &snapshot).await?;
        Ok(())
    }

    /// Stopping: commit, write the state down, give the lease back, all within a second or two.
    pub(super) async fn resign(&mut self, l: &mut Leader<'_>) {
        let done = tokio::time::timeout(Duration::from_secs(3), async {
            if !l.unsettled {
                self.checkpoint(l).await?;
            }
            self.store.release(&self.node, l.fence).await?;
            Ok::<(), Halt>(())
        });
        match done.await {
            Ok(Ok(())) if !l.unsettled => tracing::info!("the state is written down and the lease given back"),
            _ => {
                tracing::warn!("the state could not be written down; the next start reads on from the last commit")
            }
        }
    }
}
