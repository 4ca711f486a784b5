//! The alert log and what a commit makes true with it: state, open alerts, `done`, the commit log, dead letters, the lease.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use tokio::sync::watch;

use super::{
    Commit, CommitRecord, Committed, DeadLetter, Lease, LogBounds, LogEntry, NewEntry, Recovered, StoreError, Tail, View,
    tables::{
        Bytes, COMMITS, DEAD, DONE, Done, Fault, Group, LOG, NUMBERS, OPEN, STATE, TEXTS, entry_id, name, number, put_block, text,
    },
    timed::ends_ms,
    writer::hex,
};

/// Characters of a check.
const CHECK_LEN: usize = 8;
/// Entries of the alert log dropped in one commit beyond as many as it brought.
const TRIM_AT_ONCE: usize = 200;
/// Entries given at once, whatever was asked for.
const READ_MAX: usize = 100_000;
/// A dead letter's body and reason, bytes.
const DEAD_BYTES_MAX: usize = 4096;

/// The link from one entry of the alert log to the next.
fn link(check: &str, epoch: &str, seq: u64, body: &str) -> String {
    let mut hash = Context::new(&SHA256);
    for part in [check, epoch, &seq.to_string(), body] {
        hash.update(part.as_bytes());
    }
    let mut text = hex(hash.finish().as_ref());
    text.truncate(CHECK_LEN);
    text
}

/// A row of the alert log: check, when it was stored, alert, body.
fn log_row(check: &str, time_ms: u64, alert_id: &str, body: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(24 + alert_id.len() + body.len());
    put_block(&mut row, check.as_bytes());
    row.extend_from_slice(&time_ms.to_be_bytes());
    put_block(&mut row, alert_id.as_bytes());
    row.extend_from_slice(body.as_bytes());
    row
}

struct LogRow {
    time_ms: u64,
    alert_id: Vec<u8>,
    entry: LogEntry,
}

fn read_log_row(seq: u64, row: &[u8]) -> Done<LogRow> {
    let mut bytes = Bytes(row);
    let (Some(check), Some(time_ms), Some(alert_id)) = (bytes.block(), bytes.u64(), bytes.block()) else {
        return Err(Fault::Damaged("log"));
    };
    let entry = LogEntry { seq, check: lossy(check), body: lossy(bytes.0) };
    Ok(LogRow { time_ms, alert_id: alert_id.to_vec(), entry })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn state_row(seq: u64, check: &str, body: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(20 + body.len());
    row.extend_from_slice(&seq.to_be_bytes());
    put_block(&mut row, check.as_bytes());
    row.extend_from_slice(body.as_bytes());
    row
}

fn read_state_row(row: &[u8]) -> Done<LogEntry> {
    let mut bytes = Bytes(row);
    let (Some(seq), Some(check)) = (bytes.u64(), bytes.block()) else { return Err(Fault::Damaged("state")) };
    Ok(LogEntry { seq, check: lossy(check), body: lossy(bytes.0) })
}

/// Takes the lease, or says who has it.
pub(super) fn lease(group: &mut Group<'_, '_>, node: &str, known_fence: u64) -> Done<Lease> {
    let now = group.clock.now_ms();
    let ttl = group.options.lease_ttl;
    let ttl_ms = ends_ms(0, ttl);
    let (holder, fence, until) = (group.text(name::LEASE_NODE)?, group.number(name::FENCE)?, group.number(name::LEASE_UNTIL)?);
    if node.is_empty() {
        return Err(Fault::broken("a node without a name cannot hold the lease".to_owned()));
    }
    if !holder.is_empty() && holder != node && until > now {
        return Ok(Lease { node: holder, fence, expires_in_ms: until - now });
    }
    let highest = fence.max(known_fence);
    let fence = if holder == node && fence == highest {
        fence
    } else {
        highest.checked_add(1).ok_or_else(|| Fault::broken("the fencing numbers are used up".to_owned()))?
    };
    group.set_number(name::FENCE, fence)?;
    group.set_number(name::LEASE_UNTIL, ends_ms(now, ttl))?;
    group.set_text(name::LEASE_NODE, node)?;
    Ok(Lease { node: node.to_owned(), fence, expires_in_ms: ttl_ms })
}

pub(super) fn release(group: &mut Group<'_, '_>, node: &str, fence: u64) -> Done<()> {
    if group.text(name::LEASE_NODE)? == node && group.number(name::FENCE)? == fence {
        group.set_text(name::LEASE_NODE, "")?;
        group.set_number(name::LEASE_UNTIL, 0)?;
    }
    Ok(())
}

/// Somebody holds the lease, with this number. One that has run out counts until another node takes it.
pub(super) fn fenced(group: &Group<'_, '_>, fence: u64) -> Done<()> {
    if group.text(name::LEASE_NODE)?.is_empty() || group.number(name::FENCE)? != fence {
        return Err(Fault::Refused(StoreError::Fenced));
    }
    Ok(())
}

/// Tells one commit from another. One whose answer said "failed" may be on the disk all the same: a failed fsync does not say
/// what it wrote.
fn fingerprint(commit: &Commit, json: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(256 + json.len());
    bytes.extend_from_slice(&commit.fence.to_be_bytes());
    put_block(&mut bytes, json);
    for entry in &commit.entries {
        put_block(&mut bytes, entry.alert_id.as_bytes());
        put_block(&mut bytes, entry.body.as_bytes());
        bytes.extend_from_slice(&[u8::from(entry.firing), u8::from(entry.first)]);
    }
    for letter in &commit.dead_letters {
        for part in [&letter.source, &letter.stream, &letter.reason, &letter.body] {
            put_block(&mut bytes, part.as_bytes());
        }
        bytes.extend_from_slice(&letter.entry.ms.to_be_bytes());
        bytes.extend_from_slice(&letter.entry.seq.to_be_bytes());
    }
    hex(digest(&SHA256, &bytes).as_ref())
}

/// The commit. Everything that can be refused is refused before the first write.
pub(super) fn commit(group: &mut Group<'_, '_>, commit: &Commit) -> Done<Committed> {
    fenced(group, commit.fence)?;
    let mut seq = group.number(name::SEQ)?;
    let mut check = group.text(name::CHECK)?;
    let epoch = group.text(name::EPOCH)?;
    let now = group.clock.now_ms();
    let used_up = || Fault::broken("the commit log's numbers are used up".to_owned());
    let n = group.number(name::COMMIT)?.checked_add(1).ok_or_else(used_up)?;
    let entries = u64::try_from(commit.entries.len()).unwrap_or(u64::MAX);
    seq.checked_add(entries).ok_or_else(used_up)?;
    let mut record = commit.record.clone();
    record.n = 0;
    let fault = |e: serde_json::Error| Fault::broken(format!("the commit record cannot be written: {e}"));
    let last = fingerprint(commit, &serde_json::to_vec(&record).map_err(fault)?);
    if group.text(name::LAST)? == last {
        return Ok(Committed { n: n - 1, seq, known: group.number(name::LAST_KNOWN)?, ..Committed::default() });
    }
    record.n = n;
    let json = serde_json::to_vec(&record).map_err(fault)?;

    let mut known = 0;
    let before = check.clone();
    let mut checks = Vec::with_capacity(commit.entries.len());
    for NewEntry { alert_id, body, firing, first } in &commit.entries {
        if *first && group.tables.state.get(alert_id.as_bytes())?.is_some() {
            known += 1;
            checks.push(None);
            continue;
        }
        seq += 1;
        check = link(&check, &epoch, seq, body);
        put_entry(group, seq, &check, now, alert_id, body, Some(*firing))?;
        checks.push(Some(check.clone()));
    }
    for letter in &commit.dead_letters {
        put_dead(group, letter)?;
    }
    for (stream, id) in &record.done {
        group.tables.done.insert(stream.as_bytes(), (id.ms, id.seq))?;
    }
    group.tables.commits.insert(n, &json[..])?;
    group.set_number(name::COMMIT, n)?;
    group.set_number(name::SLOT, record.slot)?;
    group.set_number(name::SEQ, seq)?;
    group.set_text(name::CHECK, &check)?;
    group.set_text(name::LAST, &last)?;
    group.set_number(name::LAST_KNOWN, known)?;
    group.changes.commits = true;
    while group.tables.commits.len()? > group.options.commits_max.max(1) {
        group.tables.commits.pop_first()?;
    }
    trim(group, now, commit.entries.len())?;
    Ok(Committed { n, seq, known, before, checks })
}

/// `firing`: whether the alert is open from here on; `None` leaves that as it is.
fn put_entry(
    group: &mut Group<'_, '_>,
    seq: u64,
    check: &str,
    now: u64,
    alert_id: &str,
    body: &str,
    firing: Option<bool>,
) -> Done<()> {
    group.changes.writes += 1;
    group.changes.log = true;
    let tables = &mut group.tables;
    tables.log.insert(seq, &log_row(check, now, alert_id, body)[..])?;
    if alert_id.is_empty() {
        return Ok(());
    }
    tables.state.insert(alert_id.as_bytes(), &state_row(seq, check, body)[..])?;
    match firing {
        Some(true) => tables.open.insert(alert_id.as_bytes(), ())?,
        Some(false) => tables.open.remove(alert_id.as_bytes())?,
        None => None,
    };
    Ok(())
}

/// Oldest first out, over the number or the age. An alert that is open keeps its state though its entry goes.
fn trim(group: &mut Group<'_, '_>, now: u64, came: usize) -> Done<()> {
    let over = group.tables.log.len()?.saturating_sub(group.options.alerts_max);
    let retention = u64::try_from(group.options.alerts_retention.as_millis()).unwrap_or(u64::MAX);
    let stale = now.saturating_sub(retention);
    let mut gone = Vec::new();
    for row in group.tables.log.iter()?.take(came.saturating_add(TRIM_AT_ONCE)) {
        let (seq, value) = row?;
        let row = read_log_row(seq.value(), value.value())?;
        if u64::try_from(gone.len()).unwrap_or(u64::MAX) >= over && row.time_ms >= stale {
            break;
        }
        gone.push((row.entry.seq, row.alert_id));
    }
    for (seq, alert_id) in gone {
        let tables = &mut group.tables;
        tables.log.remove(seq)?;
        if tables.open.get(&alert_id[..])?.is_none() {
            let last = tables.state.get(&alert_id[..])?.and_then(|row| Bytes(row.value()).u64());
            if last == Some(seq) {
                tables.state.remove(&alert_id[..])?;
            }
        }
    }
    Ok(())
}

/// Once per source, stream and entry, as long as it is kept.
fn put_dead(group: &mut Group<'_, '_>, letter: &DeadLetter) -> Done<()> {
    let mut key = Vec::new();
    for part in [letter.source.as_bytes(), letter.stream.as_bytes(), letter.entry.to_string().as_bytes()] {
        put_block(&mut key, part);
    }
    if group.tables.dead_seen.get(&key[..])?.is_some() {
        return Ok(());
    }
    let n = group.number(name::DEAD)?.saturating_add(1);
    let mut row = key.clone();
    put_block(&mut row, cut(&letter.reason).as_bytes());
    put_block(&mut row, cut(&letter.body).as_bytes());
    group.tables.dead.insert(n, &row[..])?;
    group.tables.dead_seen.insert(&key[..], ())?;
    group.set_number(name::DEAD, n)?;
    while group.tables.dead.len()? > group.options.dead_letters_max {
        let oldest = match group.tables.dead.pop_first()? {
            Some((_, row)) => row.value().to_vec(),
            None => break,
        };
        let mut rest = Bytes(&oldest);
        let whole = rest.block().and(rest.block()).and(rest.block());
        let key = whole.and_then(|_| oldest.get(..oldest.len() - rest.0.len())).ok_or(Fault::Damaged("deadletter"))?;
        group.tables.dead_seen.remove(key)?;
    }
    Ok(())
}

/// At most 4 KiB, whole characters.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(DEAD_BYTES_MAX)).unwrap_or(text)
}

pub(super) fn dead_letters(txn: &ReadTransaction, limit: usize) -> Done<Vec<DeadLetter>> {
    txn.open_table(DEAD)?
        .iter()?
        .rev()
        .take(limit)
        .map(|row| {
            let value = row?.1;
            let mut bytes = Bytes(value.value());
            let mut part = || bytes.block().map(lossy).ok_or(Fault::Damaged("deadletter"));
            let (source, stream, entry, reason, body) = (part()?, part()?, part()?, part()?, part()?);
            let entry = entry.parse().map_err(|_| Fault::Damaged("deadletter"))?;
            Ok(DeadLetter { source, stream, entry, reason, body })
        })
        .collect()
}

/// Puts back what was lost: see [`super::super::Store::log_restore`].
pub(super) fn restore(group: &mut Group<'_, '_>, fence: u64, epoch: &str, entries: &[LogEntry]) -> Done<()> {
    fenced(group, fence)?;
    let diverged = |what: String| Fault::Refused(StoreError::Broken(what));
    let mut seq = group.number(name::SEQ)?;
    let mut fresh = seq == 0 && group.tables.log.is_empty()?;
    if !fresh && group.text(name::EPOCH)? != epoch {
        return Err(diverged("the alert log belongs to another epoch".to_owned()));
    }
    // Unknown where what came before the first entry is not there to be checked.
    let mut check = Some(group.text(name::CHECK)?);
    let mut new: Vec<&LogEntry> = Vec::new();
    for entry in entries {
        if !fresh && entry.seq <= seq {
            // There already, from the same request asked before; anything else is another history.
            let same = match group.tables.log.get(entry.seq)? {
                Some(row) => read_log_row(entry.seq, row.value())?.entry.check == entry.check,
                None => false,
            };
            if !same || !new.is_empty() {
                return Err(diverged(format!("entry {} is another one in the alert log", entry.seq)));
            }
            continue;
        }
        if fresh {
            fresh = false;
            if entry.seq == 0 {
                return Err(diverged("the alert log begins with entry 1, not 0".to_owned()));
            }
            seq = entry.seq - 1;
            check = (seq == 0).then(String::new);
        }
        if seq.checked_add(1) != Some(entry.seq) {
            return Err(diverged(format!("entry {} does not follow {seq}, the head of the alert log", entry.seq)));
        }
        if check.as_ref().is_some_and(|check| link(check, epoch, entry.seq, &entry.body) != entry.check) {
            return Err(diverged(format!("entry {} does not continue the chain of the alert log", entry.seq)));
        }
        seq = entry.seq;
        check = Some(entry.check.clone());
        new.push(entry);
    }

    let now = group.clock.now_ms();
    for entry in &new {
        let (alert_id, firing) = named(&entry.body);
        put_entry(group, entry.seq, &entry.check, now, &alert_id, &entry.body, firing)?;
    }
    if let (Some(newest), false) = (check, new.is_empty()) {
        group.set_text(name::EPOCH, epoch)?;
        group.set_number(name::SEQ, seq)?;
        group.set_text(name::CHECK, &newest)?;
        group.set_text(name::LAST, "")?;
    }
    Ok(())
}

/// The alert that a frame is about, and whether the frame opens or closes it.
fn named(body: &str) -> (String, Option<bool>) {
    #[derive(serde::Deserialize)]
    struct Frame {
        #[serde(default)]
        alert_id: String,
        status: Option<String>,
    }
    let Ok(frame) = serde_json::from_str::<Frame>(body) else { return (String::new(), None) };
    let firing = match frame.status.as_deref() {
        Some("firing") => Some(true),
        Some("resolved") => Some(false),
        _ => None,
    };
    (frame.alert_id, firing)
}

pub(super) fn read(txn: &ReadTransaction, after: u64, limit: usize) -> Done<Vec<LogEntry>> {
    let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
    let rows = txn.open_table(LOG)?.range(from..)?.take(limit.min(READ_MAX));
    rows.map(|row| {
        let (seq, value) = row?;
        Ok(read_log_row(seq.value(), value.value())?.entry)
    })
    .collect()
}

pub(super) fn bounds(txn: &ReadTransaction) -> Done<LogBounds> {
    let (numbers, texts) = (txn.open_table(NUMBERS)?, txn.open_table(TEXTS)?);
    let head = number(&numbers, name::SEQ)?;
    let first = txn.open_table(LOG)?.first()?.map_or(head.saturating_add(1), |(seq, _)| seq.value());
    Ok(LogBounds { epoch: text(&texts, name::EPOCH)?, first, head, head_check: text(&texts, name::CHECK)? })
}

pub(super) fn alert(txn: &ReadTransaction, alert_id: &str) -> Done<Option<LogEntry>> {
    txn.open_table(STATE)?.get(alert_id.as_bytes())?.map(|row| read_state_row(row.value())).transpose()
}

pub(super) fn firing(txn: &ReadTransaction) -> Done<Vec<LogEntry>> {
    let state = txn.open_table(STATE)?;
    let mut open = Vec::new();
    for row in txn.open_table(OPEN)?.iter()? {
        let row = state.get(row?.0.value())?.ok_or(Fault::Damaged("open"))?;
        open.push(read_state_row(row.value())?);
    }
    open.sort_by_key(|entry| entry.seq);
    Ok(open)
}

pub(super) fn recover(txn: &ReadTransaction) -> Done<Recovered> {
    let (numbers, texts) = (txn.open_table(NUMBERS)?, txn.open_table(TEXTS)?);
    let mut recovered = Recovered {
        epoch: text(&texts, name::EPOCH)?,
        seq: number(&numbers, name::SEQ)?,
        check: text(&texts, name::CHECK)?,
        commit: number(&numbers, name::COMMIT)?,
        slot: number(&numbers, name::SLOT)?,
        open: firing(txn)?,
        ..Recovered::default()
    };
    for row in txn.open_table(DONE)?.iter()? {
        let (stream, id) = row?;
        recovered.done.insert(lossy(stream.value()), entry_id(id.value()));
    }
    Ok(recovered)
}

pub(super) fn commits(txn: &ReadTransaction, after: u64, limit: usize) -> Done<Vec<CommitRecord>> {
    let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
    let rows = txn.open_table(COMMITS)?.range(from..)?.take(limit.min(READ_MAX));
    rows.map(|row| serde_json::from_slice(row?.1.value()).map_err(|_| Fault::Damaged("commits"))).collect()
}

pub(super) fn first_commit(txn: &ReadTransaction) -> Done<u64> {
    Ok(txn.open_table(COMMITS)?.first()?.map_or(0, |(n, _)| n.value()))
}

/// What `read` finds; where that is nothing, what it finds once there is news, up to `block`.
async fn wait_for<T: Send + 'static>(
    store: &View,
    news: &mut watch::Receiver<()>,
    block: Duration,
    read: impl FnOnce(&ReadTransaction) -> Done<Vec<T>> + Copy + Send + 'static,
) -> Result<Vec<T>, StoreError> {
    let deadline = tokio::time::Instant::now() + block;
    loop {
        news.mark_unchanged();
        let found = store.look(move |shared| shared.read(read)).await?;
        if !found.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(found);
        }
        let _ = tokio::time::timeout_at(deadline, news.changed()).await;
    }
}

impl Tail {
    /// See [`super::super::Tail::alerts`].
    pub async fn alerts(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<LogEntry>, StoreError> {
        let limit = limit.max(1);
        wait_for(&self.store, &mut self.log, block, move |txn| read(txn, after, limit)).await
    }

    /// See [`super::super::Tail::commits`].
    pub async fn commits(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<CommitRecord>, StoreError> {
        let limit = limit.max(1);
        wait_for(&self.store, &mut self.commits, block, move |txn| commits(txn, after, limit)).await
    }
}
