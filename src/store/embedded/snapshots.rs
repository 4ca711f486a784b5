//! Snapshots of the state machine: each in one row with its own checksum, the newest two kept.

use aws_lc_rs::digest::{SHA256, digest};
use redb::{ReadTransaction, ReadableTableMetadata};

use super::{
    Snapshot, StoreError,
    log::fenced,
    tables::{Bytes, Done, Fault, Group, SNAPSHOTS, name, put_block},
};

/// The newest, and the one before.
const KEPT: u64 = 2;
/// Largest snapshot, bytes.
const BYTES_MAX: usize = 1 << 30;
const HASH_LEN: usize = 32;

/// Encodes before the writer is troubled.
pub(super) fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, StoreError> {
    let size = snapshot.data.len().saturating_add(snapshot.fingerprint.len());
    if size > BYTES_MAX {
        return Err(StoreError::Refused(format!("a snapshot of {size} bytes is larger than {BYTES_MAX}")));
    }
    let mut row = Vec::with_capacity(HASH_LEN + 12 + size);
    row.resize(HASH_LEN, 0);
    row.extend_from_slice(&snapshot.commit.to_be_bytes());
    put_block(&mut row, snapshot.fingerprint.as_bytes());
    row.extend_from_slice(&snapshot.data);
    let (hash, rest) = row.split_at_mut(HASH_LEN);
    hash.copy_from_slice(digest(&SHA256, rest).as_ref());
    Ok(row)
}

pub(super) fn put(group: &mut Group<'_, '_>, fence: u64, row: &[u8]) -> Done<()> {
    fenced(group, fence)?;
    let n = group.number(name::SNAPSHOT)?;
    let n = n.checked_add(1).ok_or_else(|| Fault::broken("the snapshots' numbers are used up".to_owned()))?;
    group.set_number(name::SNAPSHOT, n)?;
    group.tables.snapshots.insert(n, row)?;
    while group.tables.snapshots.len()? > KEPT {
        group.tables.snapshots.pop_first()?;
    }
    Ok(())
}

/// The good ones, newest first.
pub(super) fn all(txn: &ReadTransaction) -> Done<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    use redb::ReadableTable;
    for row in txn.open_table(SNAPSHOTS)?.iter()?.rev() {
        if let Some(snapshot) = decode(row?.1.value()) {
            snapshots.push(snapshot);
        }
    }
    Ok(snapshots)
}

fn decode(row: &[u8]) -> Option<Snapshot> {
    let mut bytes = Bytes(row);
    let hash = bytes.take(HASH_LEN)?;
    if digest(&SHA256, bytes.0).as_ref() != hash {
        return None;
    }
    let commit = bytes.u64()?;
    let fingerprint = String::from_utf8(bytes.block()?.to_vec()).ok()?;
    Some(Snapshot { commit, fingerprint, data: bytes.0.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_or_a_cut_end_is_no_snapshot() {
        let snapshot = Snapshot { commit: 7, fingerprint: "f".into(), data: vec![1, 2, 3] };
        let row = encode(&snapshot).unwrap();
        assert_eq!(decode(&row), Some(snapshot));
        for at in 0..row.len() {
            let mut bad = row.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "{at}");
            assert_eq!(decode(&row[..at]), None, "{at}");
        }
    }
}
