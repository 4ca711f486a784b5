//! Records of people's accounts.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::{
    super::record::{Body, Change, Changed, Table},
    tables::{ATTEMPTS, Done, Fault, Group, PEOPLE},
};

/// Rows that are over, deleted by one change.
const EXPIRE_AT_ONCE: usize = 100;

fn body(text: &[u8]) -> Body {
    Body(String::from_utf8_lossy(text).into_owned())
}

/// A row of the attempts: their end, then their text.
fn split(row: &[u8]) -> Done<(u64, &[u8])> {
    let (end, text) = row.split_first_chunk::<8>().ok_or(Fault::Damaged("attempts"))?;
    Ok((u64::from_be_bytes(*end), text))
}

fn ends_key(end: u64, name: &[u8]) -> Vec<u8> {
    [&end.to_be_bytes()[..], name].concat()
}

pub(super) fn get(txn: &ReadTransaction, table: Table, name: &str) -> Done<Option<Body>> {
    match table {
        Table::People => Ok(txn.open_table(PEOPLE)?.get(name.as_bytes())?.map(|row| body(row.value()))),
        Table::Attempts => match txn.open_table(ATTEMPTS)?.get(name.as_bytes())? {
            Some(row) => Ok(Some(body(split(row.value())?.1))),
            None => Ok(None),
        },
    }
}

pub(super) fn all(txn: &ReadTransaction, table: Table, after: &str, limit: usize) -> Done<Vec<(String, Body)>> {
    let rows = txn.open_table(if table == Table::People { PEOPLE } else { ATTEMPTS })?;
    let mut found = Vec::new();
    for row in rows.range::<&[u8]>((std::ops::Bound::Excluded(after.as_bytes()), std::ops::Bound::Unbounded))?.take(limit) {
        let (name, text) = row?;
        let text = if table == Table::People { text.value() } else { split(text.value())?.1 };
        found.push((String::from_utf8_lossy(name.value()).into_owned(), body(text)));
    }
    Ok(found)
}

pub(super) fn change(group: &mut Group<'_, '_>, change: &Change) -> Done<Changed> {
    let name = change.name.as_bytes();
    let (there, old_end) = match change.table {
        Table::People => (group.tables.people.get(name)?.map(|row| body(row.value())), 0),
        Table::Attempts => match group.tables.attempts.get(name)? {
            Some(row) => {
                let (end, text) = split(row.value())?;
                (Some(body(text)), end)
            }
            None => (None, 0),
        },
    };
    if there == change.after {
        return Ok(Changed::Done);
    }
    if there != change.before {
        return Ok(Changed::Other);
    }
    let new = there.is_none();
    match change.table {
        Table::People => {
            if new && group.tables.people.len()? >= change.table.most() {
                return Ok(Changed::Full);
            }
            group.changes.writes += 1;
            match &change.after {
                Some(text) => group.tables.people.insert(name, text.0.as_bytes())?,
                None => group.tables.people.remove(name)?,
            };
        }
        Table::Attempts => {
            let now = group.clock.now_ms();
            group.changes.writes += 1;
            if !new {
                group.tables.attempts.remove(name)?;
                group.tables.attempts_ends.remove(&ends_key(old_end, name)[..])?;
            }
            let Some(text) = &change.after else { return Ok(Changed::Done) };
            make_room(group, now, change.table.most())?;
            let end = now.saturating_add(change.ttl_ms.unwrap_or(u64::MAX));
            let row = [&end.to_be_bytes()[..], text.0.as_bytes()].concat();
            group.tables.attempts.insert(name, &row[..])?;
            group.tables.attempts_ends.insert(&ends_key(end, name)[..], ())?;
        }
    }
    Ok(Changed::Done)
}

/// Deletes what is over, and the first to end where there are as many as may be.
fn make_room(group: &mut Group<'_, '_>, now: u64, most: u64) -> Done<()> {
    for _ in 0..EXPIRE_AT_ONCE {
        let full = group.tables.attempts.len()? >= most;
        let Some(first) = group.tables.attempts_ends.first()?.map(|(key, _)| key.value().to_vec()) else { break };
        let Some((end, name)) = first.split_first_chunk::<8>() else { return Err(Fault::Damaged("attempts_ends")) };
        if !full && u64::from_be_bytes(*end) > now {
            break;
        }
        group.tables.attempts_ends.remove(&first[..])?;
        group.tables.attempts.remove(name)?;
    }
    Ok(())
}
