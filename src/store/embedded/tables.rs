//! What the file holds: tables, rows, their bytes, and the view one group of writes has of them.
//!
//! Rows are integers and bytes only, so that a change of redb's own types cannot change what is on disk.

use std::path::Path;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::{Options, StoreError, clock::Clock};
use crate::{event::EntryId, store::watch::Change};

/// The newest layout this version reads and the one it writes.
pub(super) const FORMAT: u64 = 1;

pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
pub(super) const TEXTS: TableDefinition<&str, &[u8]> = TableDefinition::new("texts");
/// Name → (number, last id's ms, last id's seq, entries ever added, entries kept).
pub(super) const STREAMS: TableDefinition<&[u8], (u64, u64, u64, u64, u64)> = TableDefinition::new("streams");
/// (stream's number, ms, seq) → fields.
pub(super) const ENTRIES: TableDefinition<(u64, u64, u64), &[u8]> = TableDefinition::new("entries");
/// Deduplication key → (ms, seq, expiry ms).
pub(super) const SEEN: TableDefinition<&[u8], (u64, u64, u64)> = TableDefinition::new("seen");
/// seq → (check, when it was stored, alert id, body) as bytes.
pub(super) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// Alert id → (seq of its last transition, check, body) as bytes.
pub(super) const STATE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("state");
/// Ids of the alerts that are firing.
pub(super) const OPEN: TableDefinition<&[u8], ()> = TableDefinition::new("open");
/// Stream → last entry whose effects are stored.
pub(super) const DONE: TableDefinition<&[u8], (u64, u64)> = TableDefinition::new("done");
/// n → JSON of the record.
pub(super) const COMMITS: TableDefinition<u64, &[u8]> = TableDefinition::new("commits");
/// n → the dead letter: source, stream, entry, reason, body.
pub(super) const DEAD: TableDefinition<u64, &[u8]> = TableDefinition::new("deadletter");
/// What identifies each dead letter that is kept.
pub(super) const DEAD_SEEN: TableDefinition<&[u8], ()> = TableDefinition::new("deadletter_seen");
/// n → SHA-256 of the rest, then the snapshot.
pub(super) const SNAPSHOTS: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshots");
/// Unix seconds → (expiry ms, JSON) as bytes.
pub(super) const METRICS: TableDefinition<u64, &[u8]> = TableDefinition::new("metrics");
/// Token id → expiry ms.
pub(super) const BLACKLIST: TableDefinition<&[u8], u64> = TableDefinition::new("blacklist");
/// User → JSON array of permissions.
pub(super) const PERMISSIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("permissions");
/// Name → JSON of a person's account.
pub(super) const PEOPLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("people");
/// Name → (end ms, JSON of failed attempts) as bytes; and the same by end.
pub(super) const ATTEMPTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("attempts");
pub(super) const ATTEMPTS_ENDS: TableDefinition<&[u8], ()> = TableDefinition::new("attempts_ends");
/// The resource as a block, then the user → JSON array of permissions.
pub(super) const RESOURCES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("resource_permissions");
/// User → Unix ms: tokens of his that were issued before are revoked.
pub(super) const CUT_OFFS: TableDefinition<&[u8], u64> = TableDefinition::new("cut_offs");
/// (expiry ms, kind, key) as bytes: what to look at when its time has come. The row it names decides.
pub(super) const EXPIRIES: TableDefinition<&[u8], ()> = TableDefinition::new("expiries");

/// Names in [`NUMBERS`] and [`TEXTS`].
pub(super) mod name {
    pub const FORMAT: &str = "format";
    pub const FENCE: &str = "fence";
    pub const LEASE_UNTIL: &str = "lease_until";
    pub const SEQ: &str = "seq";
    pub const COMMIT: &str = "commit";
    pub const SLOT: &str = "slot";
    pub const STREAMS: &str = "streams";
    pub const DEAD: &str = "dead";
    pub const SNAPSHOT: &str = "snapshot";
    pub const EPOCH: &str = "epoch";
    pub const CHECK: &str = "check";
    /// What the last commit was, and how many of its entries were known: the same asked again is not done again.
    pub const LAST: &str = "last";
    pub const LAST_KNOWN: &str = "last_known";
    pub const LEASE_NODE: &str = "lease_node";
}

/// Why an operation gave nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// The caller's: nothing was written, the others of the group go on.
    Refused(StoreError),
    /// A row of this table does not have the shape it was written in; otherwise as a refusal.
    Damaged(&'static str),
    /// The disk's: the whole group is void.
    Disk(String),
}

pub(super) type Done<T> = Result<T, Fault>;

macro_rules! disk_faults {
    ($($error:ty),+) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                Fault::Disk(error.to_string().trim_end_matches('.').to_owned())
            }
        })+
    };
}

disk_faults!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::DatabaseError);

impl Fault {
    /// As a caller sees it.
    pub(super) fn explain(self, file: &Path) -> StoreError {
        match self {
            Fault::Refused(error) => error,
            Fault::Damaged(table) => {
                StoreError::Broken(format!("the embedded store at {} is damaged: a row of its table {table}", file.display()))
            }
            Fault::Disk(text) => StoreError::Broken(format!("the embedded store at {} failed: {text}", file.display())),
        }
    }

    pub(super) fn broken(text: String) -> Fault {
        Fault::Refused(StoreError::Broken(text))
    }
}

macro_rules! tables {
    ($($field:ident: $definition:ident, $key:ty => $value:ty;)+) => {
        /// Every table, open for writing.
        pub(super) struct Tables<'t> {
            $(pub(super) $field: Table<'t, $key, $value>,)+
        }

        impl<'t> Tables<'t> {
            /// Makes what is not there yet.
            pub(super) fn open(txn: &'t WriteTransaction) -> Done<Tables<'t>> {
                Ok(Tables { $($field: txn.open_table($definition)?,)+ })
            }
        }
    };
}

tables! {
    numbers: NUMBERS, &'static str => u64;
    texts: TEXTS, &'static str => &'static [u8];
    streams: STREAMS, &'static [u8] => (u64, u64, u64, u64, u64);
    entries: ENTRIES, (u64, u64, u64) => &'static [u8];
    seen: SEEN, &'static [u8] => (u64, u64, u64);
    log: LOG, u64 => &'static [u8];
    state: STATE, &'static [u8] => &'static [u8];
    open: OPEN, &'static [u8] => ();
    done: DONE, &'static [u8] => (u64, u64);
    commits: COMMITS, u64 => &'static [u8];
    dead: DEAD, u64 => &'static [u8];
    dead_seen: DEAD_SEEN, &'static [u8] => ();
    snapshots: SNAPSHOTS, u64 => &'static [u8];
    metrics: METRICS, u64 => &'static [u8];
    blacklist: BLACKLIST, &'static [u8] => u64;
    permissions: PERMISSIONS, &'static [u8] => &'static [u8];
    people: PEOPLE, &'static [u8] => &'static [u8];
    attempts: ATTEMPTS, &'static [u8] => &'static [u8];
    attempts_ends: ATTEMPTS_ENDS, &'static [u8] => ();
    resources: RESOURCES, &'static [u8] => &'static [u8];
    cut_offs: CUT_OFFS, &'static [u8] => u64;
    expiries: EXPIRIES, &'static [u8] => ();
}

/// What a group of writes works on. An operation looks first and writes after its last check: a refusal leaves no trace.
pub(super) struct Group<'t, 's> {
    pub(super) tables: Tables<'t>,
    pub(super) clock: &'s Clock,
    pub(super) options: &'s Options,
    pub(super) file: &'s Path,
    /// Raised by whoever writes.
    pub(super) changes: Changes,
    /// What is to be told of, once it is on the disk.
    pub(super) told: Vec<Change>,
}

/// What a group changed: whether there is something to make durable, and who is to be woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) writes: u64,
    pub(super) streams: bool,
    pub(super) log: bool,
    pub(super) commits: bool,
}

impl<'t, 's> Group<'t, 's> {
    pub(super) fn new(tables: Tables<'t>, clock: &'s Clock, options: &'s Options, file: &'s Path) -> Group<'t, 's> {
        Group { tables, clock, options, file, changes: Changes::default(), told: Vec::new() }
    }

    pub(super) fn number(&self, name: &'static str) -> Done<u64> {
        number(&self.tables.numbers, name)
    }

    pub(super) fn set_number(&mut self, name: &'static str, value: u64) -> Done<()> {
        self.changes.writes += 1;
        self.tables.numbers.insert(name, value)?;
        Ok(())
    }

    pub(super) fn text(&self, name: &'static str) -> Done<String> {
        text(&self.tables.texts, name)
    }

    pub(super) fn set_text(&mut self, name: &'static str, value: &str) -> Done<()> {
        self.changes.writes += 1;
        self.tables.texts.insert(name, value.as_bytes())?;
        Ok(())
    }
}

/// 0 where there is none.
pub(super) fn number(numbers: &impl ReadableTable<&'static str, u64>, name: &'static str) -> Done<u64> {
    Ok(numbers.get(name)?.map_or(0, |v| v.value()))
}

/// Empty where there is none.
pub(super) fn text(texts: &impl ReadableTable<&'static str, &'static [u8]>, name: &'static str) -> Done<String> {
    Ok(texts.get(name)?.map_or_else(String::new, |v| String::from_utf8_lossy(v.value()).into_owned()))
}

/// Reads bytes from the front; `None` where they are too few.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)
    }

    /// A length and so many bytes.
    pub(super) fn block(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()?;
        self.take(usize::try_from(n).ok()?)
    }
}

pub(super) fn put_block(into: &mut Vec<u8>, bytes: &[u8]) {
    // Everything stored this way is bounded far below 4 GiB where it comes in.
    into.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(bytes);
}

/// Fields of a stream's entry, in order, duplicates kept.
pub(super) fn encode_fields<'a>(fields: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&u32::try_from(fields.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (name, value) in fields {
        put_block(&mut bytes, name);
        put_block(&mut bytes, value);
    }
    bytes
}

/// The fields of [`encode_fields`], in place; ends early where the bytes are damaged.
pub(super) struct DecodedFields<'a> {
    bytes: Bytes<'a>,
    left: u32,
    pub(super) damaged: bool,
}

impl<'a> DecodedFields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> DecodedFields<'a> {
        let mut bytes = Bytes(bytes);
        match bytes.u32() {
            Some(left) => DecodedFields { bytes, left, damaged: false },
            None => DecodedFields { bytes, left: 0, damaged: true },
        }
    }
}

impl<'a> Iterator for DecodedFields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        self.left = self.left.checked_sub(1)?;
        let field = self.bytes.block().zip(self.bytes.block());
        if field.is_none() {
            (self.left, self.damaged) = (0, true);
        }
        field
    }
}

pub(super) fn entry_id((ms, seq): (u64, u64)) -> EntryId {
    EntryId::new(ms, seq)
}

/// What [`EXPIRIES`] points to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Seen = 1,
    Blacklist = 2,
    Metrics = 3,
}

pub(super) fn expiry_key(expiry_ms: u64, kind: Kind, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + key.len());
    bytes.extend_from_slice(&expiry_ms.to_be_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(key);
    bytes
}
