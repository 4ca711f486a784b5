//! Audit streams and the intake: entries under ids as Redis gives them, oldest out at a limit.

use std::{collections::HashMap, sync::Arc, time::Duration};

use redb::{ReadTransaction, ReadableTable};

use super::{
    Entry, IntakeItem, ReadReply, Reader, StoreError, StreamEntries, StreamInfo, Taken,
    tables::{DecodedFields, Done, ENTRIES, Fault, Group, Kind, STREAMS, encode_fields, entry_id, expiry_key, name},
    timed::ends_ms,
};
use crate::{
    event::EntryId,
    store::{Glob, entry::Batch},
};

/// Entries kept of each audit stream, oldest out first.
pub const STREAM_ENTRIES_MAX: u64 = 1_000_000;
/// Streams, in all.
pub const STREAMS_MAX: u64 = 10_000;
/// One entry, its names and values together.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Entries in one append.
pub const APPEND_MAX: usize = 100_000;
/// Bytes of fields in one reply; beyond, a stream gives one entry and counts as full.
const REPLY_BYTES_MAX: usize = 64 << 20;
const NAME_BYTES_MAX: usize = 1024;
/// A deduplication key longer than this is kept as its hash.
const DEDUP_BYTES_MAX: usize = 128;

/// A stream's row.
#[derive(Clone, Copy)]
struct Row {
    number: u64,
    last: EntryId,
    added: u64,
    length: u64,
}

impl Row {
    fn read(row: (u64, u64, u64, u64, u64)) -> Row {
        Row { number: row.0, last: EntryId::new(row.1, row.2), added: row.3, length: row.4 }
    }

    fn write(self) -> (u64, u64, u64, u64, u64) {
        (self.number, self.last.ms, self.last.seq, self.added, self.length)
    }
}

/// Checks and encodes before the writer is troubled.
pub(super) fn encode(stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<Vec<u8>>, StoreError> {
    if stream.is_empty() || stream.len() > NAME_BYTES_MAX {
        return Err(StoreError::Refused(format!("a stream's name has 1 to {NAME_BYTES_MAX} bytes, this one {}", stream.len())));
    }
    if entries.len() > APPEND_MAX {
        return Err(StoreError::Refused(format!("{} entries in one append are more than {APPEND_MAX}", entries.len())));
    }
    entries
        .iter()
        .map(|fields| {
            let size: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
            if fields.is_empty() {
                return Err(StoreError::Refused("an entry needs at least one field".to_owned()));
            }
            if size > ENTRY_BYTES_MAX {
                return Err(StoreError::Refused(format!("an entry of {size} bytes is larger than {ENTRY_BYTES_MAX}")));
            }
            Ok(encode_fields(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))))
        })
        .collect()
}

/// Appends encoded entries and trims to `max`.
pub(super) fn append(group: &mut Group<'_, '_>, stream: &str, entries: &[Vec<u8>], max: u64) -> Done<Vec<EntryId>> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let there = group.tables.streams.get(stream.as_bytes())?.map(|row| Row::read(row.value()));
    let mut row = match there {
        Some(row) => row,
        None => {
            let number = group.number(name::STREAMS)?;
            if number >= STREAMS_MAX {
                return Err(Fault::Refused(StoreError::Refused(format!(
                    "the embedded store holds {STREAMS_MAX} streams, {stream} would be one more"
                ))));
            }
            Row { number, last: EntryId::ZERO, added: 0, length: 0 }
        }
    };
    let now = group.clock.now_ms();
    let mut ids = Vec::with_capacity(entries.len());
    let mut last = row.last;
    for _ in entries {
        last = if now > last.ms {
            EntryId::new(now, 0)
        } else {
            last.next().ok_or_else(|| Fault::broken(format!("the stream {stream} has used up its ids")))?
        };
        ids.push(last);
    }

    group.changes.writes += 1;
    group.changes.streams = true;
    if there.is_none() {
        group.set_number(name::STREAMS, row.number + 1)?;
    }
    for (id, fields) in ids.iter().zip(entries) {
        group.tables.entries.insert((row.number, id.ms, id.seq), &fields[..])?;
    }
    let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    row.last = last;
    row.added = row.added.saturating_add(count);
    row.length = row.length.saturating_add(count);
    if row.length > max {
        let over = usize::try_from(row.length - max).unwrap_or(usize::MAX);
        let mut oldest = Vec::with_capacity(over.min(1024));
        for entry in group.tables.entries.range((row.number, 0, 0)..=(row.number, u64::MAX, u64::MAX))?.take(over) {
            oldest.push(entry?.0.value());
        }
        for key in oldest {
            group.tables.entries.remove(key)?;
        }
        row.length = max;
    }
    group.tables.streams.insert(stream.as_bytes(), row.write())?;
    Ok(ids)
}

/// Takes each item in unless its key was taken in within `ttl` before.
pub(super) fn intake(group: &mut Group<'_, '_>, stream: &str, items: &[IntakeItem], ttl: Duration) -> Done<Vec<Taken>> {
    enum Plan {
        Known(EntryId),
        /// Index into what is appended.
        New(usize),
        Same(usize),
    }
    let now = group.clock.now_ms();
    let mut plans = Vec::with_capacity(items.len());
    let mut entries = Vec::new();
    let mut keys: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut here: HashMap<Vec<u8>, usize> = HashMap::new();
    for item in items {
        let key = item.dedup.as_deref().filter(|k| !k.is_empty()).map(dedup_key);
        if let Some(key) = &key {
            if let Some(&index) = here.get(key) {
                plans.push(Plan::Same(index));
                continue;
            }
            let seen = group.tables.seen.get(&key[..])?.map(|v| v.value());
            if let Some((ms, seq, expiry)) = seen
                && expiry > now
            {
                plans.push(Plan::Known(EntryId::new(ms, seq)));
                continue;
            }
        }
        let index = entries.len();
        let size = item.source.len() + item.body.len();
        if size > ENTRY_BYTES_MAX {
            return Err(Fault::Refused(StoreError::Refused(format!(
                "an entry of {size} bytes is larger than {ENTRY_BYTES_MAX}"
            ))));
        }
        let fields = [("source", &item.source), ("body", &item.body)];
        entries.push(encode_fields(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))));
        if let Some(key) = key {
            here.insert(key.clone(), index);
            keys.push((key, index));
        }
        plans.push(Plan::New(index));
    }

    let ids = append(group, stream, &entries, group.options.intake_max)?;
    let expiry = ends_ms(now, ttl);
    let id_of = |index: usize| ids.get(index).copied().ok_or(Fault::Damaged("entries"));
    for (key, index) in &keys {
        let id = id_of(*index)?;
        group.tables.seen.insert(&key[..], (id.ms, id.seq, expiry))?;
        group.tables.expiries.insert(&expiry_key(expiry, Kind::Seen, key)[..], ())?;
    }
    bound_seen(group)?;
    plans
        .into_iter()
        .map(|plan| {
            Ok(match plan {
                Plan::Known(id) => Taken::Known(id),
                Plan::New(index) => Taken::New(id_of(index)?),
                Plan::Same(index) => Taken::Known(id_of(index)?),
            })
        })
        .collect()
}

fn dedup_key(key: &str) -> Vec<u8> {
    if key.len() <= DEDUP_BYTES_MAX {
        return key.as_bytes().to_vec();
    }
    let mut hash = b"sha256:".to_vec();
    hash.extend_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes()).as_ref());
    hash
}

/// No more keys than intake entries are kept: those that would go first, go first.
fn bound_seen(group: &mut Group<'_, '_>) -> Done<()> {
    use redb::ReadableTableMetadata;
    let over = group.tables.seen.len()?.saturating_sub(group.options.intake_max);
    if over == 0 {
        return Ok(());
    }
    let mut oldest = Vec::new();
    for row in group.tables.expiries.iter()? {
        let key = row?.0.value().to_vec();
        if key.get(8) == Some(&(Kind::Seen as u8)) {
            oldest.push(key);
        }
        if u64::try_from(oldest.len()).unwrap_or(u64::MAX) >= over {
            break;
        }
    }
    for key in oldest {
        group.tables.expiries.remove(&key[..])?;
        if let Some(name) = key.get(9..) {
            group.tables.seen.remove(name)?;
        }
    }
    Ok(())
}

fn row_of(txn: &ReadTransaction, stream: &str) -> Done<Option<Row>> {
    Ok(txn.open_table(STREAMS)?.get(stream.as_bytes())?.map(|row| Row::read(row.value())))
}

pub(super) fn info(txn: &ReadTransaction, stream: &str) -> Done<Option<StreamInfo>> {
    let Some(row) = row_of(txn, stream)? else { return Ok(None) };
    let entries = txn.open_table(ENTRIES)?;
    let first = match entries.range((row.number, 0, 0)..=(row.number, u64::MAX, u64::MAX))?.next() {
        Some(entry) => {
            let (_, ms, seq) = entry?.0.value();
            Some(entry_id((ms, seq)))
        }
        None => None,
    };
    Ok(Some(StreamInfo {
        length: row.length,
        first,
        last_generated: row.last,
        added: Some(row.added),
        // As in Redis: trimming is not deleting.
        max_deleted: Some(EntryId::ZERO),
    }))
}

pub(super) fn range(txn: &ReadTransaction, stream: &str, after: EntryId, to: EntryId, count: usize) -> Done<Vec<Entry>> {
    let Some(row) = row_of(txn, stream)? else { return Ok(Vec::new()) };
    let mut bytes = usize::MAX;
    entries_of(txn, row.number, after, to, count, &mut bytes)
}

/// At most `count` entries, and after the first no more than `bytes` of fields, which is lowered by what came.
fn entries_of(
    txn: &ReadTransaction,
    number: u64,
    after: EntryId,
    to: EntryId,
    count: usize,
    bytes: &mut usize,
) -> Done<Vec<Entry>> {
    let mut batch = Batch::default();
    let mut found = Vec::new();
    let Some(from) = after.next().filter(|from| *from <= to) else { return Ok(Vec::new()) };
    let table = txn.open_table(ENTRIES)?;
    for row in table.range((number, from.ms, from.seq)..=(number, to.ms, to.seq))? {
        let (key, value) = row?;
        let value = value.value();
        if found.len() >= count || (!found.is_empty() && value.len() > *bytes) {
            break;
        }
        *bytes = bytes.saturating_sub(value.len());
        let (_, ms, seq) = key.value();
        let mut fields = DecodedFields::of(value);
        found.push(batch.push(EntryId::new(ms, seq), &mut fields));
        if fields.damaged {
            return Err(Fault::Damaged("entries"));
        }
    }
    let batch = Arc::new(batch);
    Ok(found.iter().map(|row| Entry::at(&batch, row)).collect())
}

/// Sorted; nothing under `prefix`.
pub(super) fn find(txn: &ReadTransaction, glob: &str, prefix: &str) -> Done<Vec<String>> {
    let glob = Glob::new(glob);
    let ours = format!("{prefix}:");
    let mut names = Vec::new();
    for row in txn.open_table(STREAMS)?.iter()? {
        let key = row?.0;
        if let Ok(name) = std::str::from_utf8(key.value())
            && !name.starts_with(&ours)
            && glob.matches(name.as_bytes())
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn read_once(txn: &ReadTransaction, cursors: &[(String, EntryId)], count: usize) -> Done<Vec<StreamEntries>> {
    let streams = txn.open_table(STREAMS)?;
    let mut bytes = REPLY_BYTES_MAX;
    let mut reply = Vec::new();
    for (index, (name, after)) in cursors.iter().enumerate() {
        let Some(row) = streams.get(name.as_bytes())?.map(|row| Row::read(row.value())) else { continue };
        if row.last <= *after {
            continue;
        }
        let entries = entries_of(txn, row.number, *after, EntryId::MAX, count, &mut bytes)?;
        if let Some(newest) = entries.last() {
            let full = entries.len() >= count || newest.id < row.last;
            reply.push(StreamEntries { index, entries, full });
        }
    }
    Ok(reply)
}

impl Reader {
    /// See [`super::super::Reader::read`]. Not woken but by a write: it waits on the writer's bell.
    pub async fn read<S: AsRef<str>>(
        &mut self,
        cursors: &[(S, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<ReadReply, StoreError> {
        let deadline = tokio::time::Instant::now() + block;
        let count = count.clamp(1, APPEND_MAX);
        let cursors: Arc<[(String, EntryId)]> = cursors.iter().map(|(name, after)| (name.as_ref().to_owned(), *after)).collect();
        loop {
            // Before the look: what comes after it rings.
            self.bell.mark_unchanged();
            let asked = cursors.clone();
            let (before_ms, streams, after_ms) = self
                .store
                .look(move |shared| {
                    let before = shared.settled_ms();
                    let streams = shared.read(|txn| read_once(txn, &asked, count))?;
                    Ok((before, streams, shared.clock.now_ms()))
                })
                .await?;
            self.before_ms = self.before_ms.max(before_ms);
            let waited = tokio::time::Instant::now() >= deadline;
            if !streams.is_empty() || waited {
                let age = Duration::ZERO;
                return Ok(ReadReply { before_ms: self.before_ms, after_ms, age, streams, faults: Vec::new() });
            }
            // The writer's end rings no more: the next look says so.
            let _ = tokio::time::timeout_at(deadline, self.bell.changed()).await;
        }
    }
}
