//! The id of an entry in a log.

use std::{fmt, str::FromStr};

/// `ms-seq`, as Redis writes it; ordered by both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Unix milliseconds by the store's clock.
    pub ms: u64,
    pub seq: u64,
}

impl EntryId {
    pub const ZERO: EntryId = EntryId { ms: 0, seq: 0 };
    pub const MAX: EntryId = EntryId { ms: u64::MAX, seq: u64::MAX };

    pub fn new(ms: u64, seq: u64) -> EntryId {
        EntryId { ms, seq }
    }

    /// The smallest id above this one; `None` above `MAX`.
    pub fn next(self) -> Option<EntryId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(EntryId { ms: self.ms, seq }),
            None => Some(EntryId { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// The text is not `ms` or `ms-seq`.
#[derive(Debug, PartialEq, Eq)]
pub struct BadEntryId;

impl fmt::Display for BadEntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry id is `milliseconds-sequence`")
    }
}

impl std::error::Error for BadEntryId {}

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(s: &str) -> Result<EntryId, BadEntryId> {
        let digits = |t: &str| -> Result<u64, BadEntryId> {
            if t.is_empty() || !t.bytes().all(|b| b.is_ascii_digit()) {
                return Err(BadEntryId);
            }
            t.parse().map_err(|_| BadEntryId)
        };
        match s.split_once('-') {
            Some((ms, seq)) => Ok(EntryId { ms: digits(ms)?, seq: digits(seq)? }),
            None => Ok(EntryId { ms: digits(s)?, seq: 0 }),
        }
    }
}

impl serde::Serialize for EntryId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for EntryId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<EntryId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        for text in ["0-0", "1700000000000-3", "18446744073709551615-18446744073709551615"] {
            assert_eq!(text.parse::<EntryId>().unwrap().to_string(), text);
        }
        assert_eq!("17".parse(), Ok(EntryId::new(17, 0)));
        for text in ["", "-", "1-", "-1", "+1-0", "1-0-0", "x", "18446744073709551616-0"] {
            assert_eq!(text.parse::<EntryId>(), Err(BadEntryId), "{text:?}");
        }
    }

    #[test]
    fn next_is_the_smallest_id_above() {
        assert_eq!(EntryId::new(5, 1).next(), Some(EntryId::new(5, 2)));
        assert_eq!(EntryId::new(5, u64::MAX).next(), Some(EntryId::new(6, 0)));
        assert_eq!(EntryId::MAX.next(), None);
    }
}
