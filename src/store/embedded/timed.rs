//! What has an expiry: metric snapshots, and the going of revoked tokens and deduplication keys.

use std::time::Duration;

use redb::{ReadTransaction, ReadableTable};

use super::tables::{Bytes, Done, Fault, Group, Kind, METRICS, TEXTS, expiry_key};

/// Rows looked at per group: what is left waits for the next one, nobody sees it meanwhile.
const EXPIRE_AT_ONCE: usize = 1000;
/// Longest token id, user id or name, bytes.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// Deletes what is over.
pub(super) fn expire(group: &mut Group<'_, '_>) -> Done<()> {
    let now = group.clock.now_ms();
    let mut over = Vec::new();
    {
        let end = now.saturating_add(1).to_be_bytes();
        for row in group.tables.expiries.range::<&[u8]>(..&end[..])?.take(EXPIRE_AT_ONCE) {
            over.push(row?.0.value().to_vec());
        }
    }
    for row in over {
        group.changes.writes += 1;
        group.tables.expiries.remove(&row[..])?;
        let mut bytes = Bytes(&row);
        let (Some(_), Some(&[kind])) = (bytes.u64(), bytes.take(1)) else { continue };
        let key = bytes.0;
        // The row may have got a later expiry since; then another line of this index stands for it.
        if kind == Kind::Seen as u8 {
            let expiry = group.tables.seen.get(key)?.map(|v| v.value().2);
            if expiry.is_some_and(|e| e <= now) {
                group.tables.seen.remove(key)?;
            }
        } else if kind == Kind::Blacklist as u8 {
            let expiry = group.tables.blacklist.get(key)?.map(|v| v.value());
            if expiry.is_some_and(|e| e <= now) {
                group.tables.blacklist.remove(key)?;
            }
        } else if kind == Kind::Metrics as u8 {
            let Some(unix_s) = Bytes(key).u64() else { continue };
            let expiry = group.tables.metrics.get(unix_s)?.and_then(|v| Bytes(v.value()).u64());
            if expiry.is_some_and(|e| e <= now) {
                group.tables.metrics.remove(unix_s)?;
            }
        }
    }
    Ok(())
}

pub(super) fn ends_ms(now: u64, ttl: Duration) -> u64 {
    now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn check_name(what: &str, name: &str) -> Done<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Fault::broken(format!("{what} of {} bytes is longer than {NAME_BYTES_MAX}", name.len())));
    }
    Ok(())
}

/// The first to store a second's snapshot wins.
pub(super) fn metrics_put(group: &mut Group<'_, '_>, unix_s: u64, json: &str, ttl: Duration) -> Done<()> {
    let now = group.clock.now_ms();
    let there = group.tables.metrics.get(unix_s)?.and_then(|v| Bytes(v.value()).u64());
    if there.is_some_and(|expiry| expiry > now) {
        return Ok(());
    }
    let expiry = ends_ms(now, ttl);
    let mut row = Vec::with_capacity(8 + json.len());
    row.extend_from_slice(&expiry.to_be_bytes());
    row.extend_from_slice(json.as_bytes());
    group.changes.writes += 1;
    group.tables.metrics.insert(unix_s, &row[..])?;
    group.tables.expiries.insert(&expiry_key(expiry, Kind::Metrics, &unix_s.to_be_bytes())[..], ())?;
    Ok(())
}

pub(super) fn metrics_history(txn: &ReadTransaction, now: u64, since_s: u64, limit: usize) -> Done<Vec<(u64, String)>> {
    let table = txn.open_table(METRICS)?;
    let mut rows = Vec::new();
    for row in table.range(since_s..)?.rev() {
        if rows.len() >= limit {
            break;
        }
        let (unix_s, value) = row?;
        let mut bytes = Bytes(value.value());
        let expiry = bytes.u64().ok_or(Fault::Damaged("metrics"))?;
        if expiry > now {
            rows.push((unix_s.value(), String::from_utf8_lossy(bytes.0).into_owned()));
        }
    }
    rows.reverse();
    Ok(rows)
}

/// Rows of [`TEXTS`] that bridges own begin so.
const BOOKMARK: &str = "bookmark:";

pub(super) fn bookmark(txn: &ReadTransaction, name: &str) -> Done<Option<String>> {
    let row = txn.open_table(TEXTS)?.get(format!("{BOOKMARK}{name}").as_str())?;
    Ok(row.map(|v| String::from_utf8_lossy(v.value()).into_owned()))
}

pub(super) fn set_bookmark(group: &mut Group<'_, '_>, name: &str, text: &str) -> Done<()> {
    check_name("a bookmark", name)?;
    group.changes.writes += 1;
    group.tables.texts.insert(format!("{BOOKMARK}{name}").as_str(), text.as_bytes())?;
    Ok(())
}
