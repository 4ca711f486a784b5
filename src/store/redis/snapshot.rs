//! Snapshots: parts, then the manifest that makes them one. Numbered by the store, not by the commit they stand at, so a
//! second one at the same commit does not write over the parts of the first.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::*;

const PART_BYTES: usize = 512 << 10;
/// Complete snapshots kept.
const KEPT: usize = 2;
/// Keys deleted by one script.
const DROPPED_AT_ONCE: usize = 64;

#[derive(Serialize, Deserialize)]
struct Manifest {
    parts: usize,
    /// The rest is absent while the snapshot is being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Whole>,
}

#[derive(Serialize, Deserialize)]
struct Whole {
    commit: u64,
    fingerprint: String,
    bytes: usize,
    sha256: String,
}

impl RedisStore {
    pub async fn snapshot_put(&self, fence: u64, snapshot: &Snapshot) -> Result<(), StoreError> {
        let keys = &self.keys;
        let parts = snapshot.data.len().div_ceil(PART_BYTES);
        let begin = self
            .link
            .run(&scripts::SNAPSHOT_BEGIN, &[&keys.meta, &keys.lease, &keys.snapshots], &[fence.to_string(), parts.to_string()])
            .await?;
        let id = value::number(&begin).ok_or_else(|| self.link.garbled())?;
        let fence_text = fence.to_string();
        for (part, bytes) in snapshot.data.chunks(PART_BYTES).enumerate() {
            let key = self.snapshot_part(id, part);
            self.link.run(&scripts::SNAPSHOT_PART, &[&keys.lease, &key], &[fence_text.as_bytes(), bytes]).await?;
        }
        let whole = Whole {
            commit: snapshot.commit,
            fingerprint: snapshot.fingerprint.clone(),
            bytes: snapshot.data.len(),
            sha256: hex(digest(&SHA256, &snapshot.data).as_ref()),
        };
        let manifest = serde_json::to_string(&Manifest { parts, whole: Some(whole) })
            .map_err(|e| StoreError::Broken(format!("the snapshot's manifest cannot be written as JSON: {e}")))?;
        let args = [fence_text, id.to_string(), manifest];
        let all = self.link.run(&scripts::SNAPSHOT_END, &[&keys.lease, &keys.snapshots], &args).await?;
        let all = manifests(all).ok_or_else(|| self.link.garbled())?;
        let complete = all.iter().rev().filter(|(_, m)| m.whole.is_some()).map(|(id, _)| *id);
        let kept: Vec<u64> = complete.take(KEPT).collect();
        for (old, manifest) in all.iter().filter(|(id, _)| !kept.contains(id)) {
            self.snapshot_drop(fence, *old, manifest.parts).await?;
        }
        Ok(())
    }

    async fn snapshot_drop(&self, fence: u64, id: u64, parts: usize) -> Result<(), StoreError> {
        let mut part = 0;
        loop {
            let upto = parts.min(part + DROPPED_AT_ONCE);
            let mut names = vec![self.keys.lease.clone(), self.keys.snapshots.clone()];
            names.extend((part..upto).map(|part| self.snapshot_part(id, part)));
            part = upto;
            // The manifest goes last: a clean-up that is cut short is taken up again.
            let forget = if part == parts { id.to_string() } else { String::new() };
            self.link.run(&scripts::SNAPSHOT_DROP, &names, &[fence.to_string(), forget]).await?;
            if part == parts {
                return Ok(());
            }
        }
    }

    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, StoreError> {
        let mut command = cmd("HGETALL");
        command.arg(&self.keys.snapshots);
        let all = manifests(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        let mut good = Vec::new();
        for (id, manifest) in all.into_iter().rev() {
            if good.len() == KEPT {
                break;
            }
            let Some(whole) = manifest.whole else { continue };
            if let Some(data) = self.snapshot_data(id, manifest.parts, &whole).await? {
                good.push(Snapshot { commit: whole.commit, fingerprint: whole.fingerprint, data });
            }
        }
        Ok(good)
    }

    /// `None`: a part is missing, or the checksum does not hold.
    async fn snapshot_data(&self, id: u64, parts: usize, whole: &Whole) -> Result<Option<Vec<u8>>, StoreError> {
        let mut data = Vec::new();
        for part in 0..parts {
            let mut command = cmd("GET");
            command.arg(self.snapshot_part(id, part));
            let bytes = match self.link.one(command).await {
                Ok(Value::BulkString(bytes)) => bytes,
                Ok(_) => return Ok(None),
                Err(StoreError::Broken(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
            data.extend_from_slice(&bytes);
            if data.len() > whole.bytes {
                return Ok(None);
            }
        }
        let holds = data.len() == whole.bytes && hex(digest(&SHA256, &data).as_ref()) == whole.sha256;
        Ok(holds.then_some(data))
    }

    fn snapshot_part(&self, id: u64, part: usize) -> String {
        format!("{}snapshot:{id}:{part}", self.keys.prefix)
    }
}

/// By number; what cannot be read is as good as not complete, and has no parts that could be found.
fn manifests(reply: Value) -> Option<BTreeMap<u64, Manifest>> {
    let mut all = BTreeMap::new();
    for (id, manifest) in value::pairs(reply)? {
        let Some(id) = value::number(&id) else { continue };
        let text = value::text(manifest)?;
        all.insert(id, serde_json::from_str(&text).unwrap_or(Manifest { parts: 0, whole: None }));
    }
    Some(all)
}
