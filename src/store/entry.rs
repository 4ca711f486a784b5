//! Entries of streams as they were read. What one read gave lies in one piece of memory; an entry is a place in it, so that
//! neither reading nor handing on an entry allocates.

use std::{fmt, sync::Arc};

use crate::event::EntryId;

/// A part of a batch's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    /// Empty where it does not lie within `bytes`.
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        bytes.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// Name and value of one field.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// Where an entry's fields are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) id: EntryId,
    /// Index of its first field.
    pub(super) first: u32,
    pub(super) fields: u32,
    /// See [`Entry::size`].
    pub(super) size: u32,
}

/// What one read gave: the bytes, and what in them is a field.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) fields: Vec<Field>,
}

impl Batch {
    /// Copies one entry in. Offsets are 32 bits wide: what would lie beyond is left out, and the entry counts as too large.
    pub(super) fn push<'a>(&mut self, id: EntryId, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Row {
        let first = u32::try_from(self.fields.len()).unwrap_or(u32::MAX);
        let mut row = Row { id, first, fields: 0, size: 0 };
        for (name, value) in fields {
            row.size = row.size.saturating_add(saturated(name.len())).saturating_add(saturated(value.len()));
            if self.bytes.len() + name.len() + value.len() > u32::MAX as usize || first == u32::MAX {
                row.size = u32::MAX;
                break;
            }
            let name = self.copied(name);
            let value = self.copied(value);
            self.fields.push(Field { name, value });
            row.fields += 1;
        }
        row
    }

    fn copied(&mut self, bytes: &[u8]) -> Span {
        let start = saturated(self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        Span { start, len: saturated(bytes.len()) }
    }
}

pub(super) fn saturated(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// One entry of an audit stream: fields in their order, duplicates kept. Cheap to clone; it keeps all that was read together
/// with it in memory.
#[derive(Clone)]
pub struct Entry {
    pub id: EntryId,
    batch: Arc<Batch>,
    first: u32,
    fields: u32,
    size: u32,
}

impl Entry {
    /// An entry by itself.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(id: EntryId, fields: &[(N, V)]) -> Entry {
        let mut batch = Batch::default();
        let row = batch.push(id, fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref())));
        Entry::at(&Arc::new(batch), &row)
    }

    pub(super) fn at(batch: &Arc<Batch>, row: &Row) -> Entry {
        Entry { id: row.id, batch: batch.clone(), first: row.first, fields: row.fields, size: row.size }
    }

    /// Names and values, in order.
    pub fn fields(&self) -> Fields<'_> {
        let first = self.first as usize;
        let fields = self.batch.fields.get(first..first + self.fields as usize).unwrap_or_default();
        Fields { bytes: &self.batch.bytes, left: fields.iter() }
    }

    /// The value of the first field of this name.
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Bytes of all names and values as the store has them. What is far above what an event may have (64 KiB) may have been cut:
    /// then the fields hold less than this says.
    pub fn size(&self) -> usize {
        self.size as usize
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.id == other.id && self.size == other.size && self.fields().eq(other.fields())
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.id)?;
        f.debug_map().entries(self.fields().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v)))).finish()
    }
}

/// The fields of an [`Entry`].
#[derive(Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    left: std::slice::Iter<'a, Field>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let field = self.left.next()?;
        Some((field.name.of(self.bytes), field.value.of(self.bytes)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl ExactSizeIterator for Fields<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_its_fields_in_order_duplicates_kept() {
        let entry = Entry::new(EntryId::new(5, 1), &[("b", "1"), ("a", ""), ("b", "3")]);
        let fields: Vec<_> = entry.fields().collect();
        assert_eq!(fields, [(&b"b"[..], &b"1"[..]), (b"a", b""), (b"b", b"3")]);
        assert_eq!((entry.fields().len(), entry.size()), (3, 5));
        assert_eq!((entry.field(b"b"), entry.field(b"c")), (Some(&b"1"[..]), None));
        assert_eq!(entry, entry.clone());
        assert_ne!(entry, Entry::new(EntryId::new(5, 1), &[("b", "1")]));
        assert_eq!(format!("{entry:?}"), r#"5-1 {"b": "1", "a": "", "b": "3"}"#);
    }

    #[test]
    fn entries_of_one_batch_share_it() {
        let mut batch = Batch::default();
        let rows: Vec<_> =
            (0..3u64).map(|n| batch.push(EntryId::new(n, 0), [(&b"n"[..], n.to_string().as_bytes())].into_iter())).collect();
        let batch = Arc::new(batch);
        let entries: Vec<_> = rows.iter().map(|row| Entry::at(&batch, row)).collect();
        drop(batch);
        let values: Vec<_> = entries.iter().map(|e| e.field(b"n").unwrap_or_default()).collect();
        assert_eq!(values, [b"0", b"1", b"2"]);
    }
}
