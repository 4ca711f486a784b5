//! Taking replies apart by hand. The redis crate's own stream types lose the order of fields and fields written twice, and
//! copy the reply. Both protocols are read: where RESP2 has an array of pairs, RESP3 may have a map.

use std::sync::Arc;

use redis::Value;

use super::{Entry, EntryId};
use crate::store::entry::Batch;

/// A text or status as bytes.
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.into_bytes()),
        Value::Okay => Some(b"OK".to_vec()),
        Value::Int(n) => Some(n.to_string().into_bytes()),
        _ => None,
    }
}

/// A text; bytes that are not UTF-8 are replaced.
pub(super) fn text(value: Value) -> Option<String> {
    let bytes = bytes(value)?;
    Some(String::from_utf8(bytes).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()))
}

/// A number, or a text that holds one.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

/// An array, whatever it is called.
pub(super) fn items(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) | Value::Set(items) => Some(items),
        Value::Nil => Some(Vec::new()),
        Value::Map(pairs) => Some(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()),
        _ => None,
    }
}

/// Pairs: a map, a flat array of keys and values, or an array of two-element arrays.
pub(super) fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    match value {
        Value::Map(pairs) => Some(pairs),
        Value::Nil => Some(Vec::new()),
        Value::Array(items) => {
            let nested = items.first().is_some_and(|first| matches!(first, Value::Array(_)));
            let mut pairs = Vec::with_capacity(items.len());
            let mut items = items.into_iter();
            while let Some(first) = items.next() {
                if nested {
                    let Value::Array(pair) = first else { return None };
                    let mut pair = pair.into_iter();
                    pairs.push((pair.next()?, pair.next()?));
                } else {
                    pairs.push((first, items.next()?));
                }
            }
            Some(pairs)
        }
        _ => None,
    }
}

pub(super) fn entry_id(value: Value) -> Option<EntryId> {
    text(value)?.parse().ok()
}

/// The entries of `XRANGE`.
pub(super) fn entries(value: Value) -> Option<Vec<Entry>> {
    let mut batch = Batch::default();
    let mut rows = Vec::new();
    for item in items(value)? {
        let mut parts = items(item)?.into_iter();
        let id = entry_id(parts.next()?)?;
        let mut fields = Vec::new();
        for (name, value) in pairs(parts.next()?)? {
            fields.push((bytes(name)?, bytes(value)?));
        }
        rows.push(batch.push(id, fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))));
    }
    let batch = Arc::new(batch);
    Some(rows.iter().map(|row| Entry::at(&batch, row)).collect())
}

/// `TIME`, in milliseconds.
pub(super) fn time_ms(value: Value) -> Option<u64> {
    let parts = items(value)?;
    clock_ms(number(parts.first()?)?, number(parts.get(1)?)?)
}

/// What `TIME` says as Unix ms; a clock beyond the year 9999 is none.
pub(super) fn clock_ms(seconds: u64, micros: u64) -> Option<u64> {
    const SECONDS_MAX: u64 = 253_402_300_799;
    (seconds <= SECONDS_MAX && micros < 1_000_000).then(|| seconds * 1000 + micros / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn doubled_fields_keep_their_order() {
        let fields = Value::Array(vec![bulk("b"), bulk("1"), bulk("a"), bulk("2"), bulk("b"), bulk("3")]);
        let list = Value::Array(vec![Value::Array(vec![bulk("5-1"), fields])]);
        assert_eq!(entries(list), Some(vec![Entry::new(EntryId::new(5, 1), &[("b", "1"), ("a", "2"), ("b", "3")])]));
        assert_eq!(entries(Value::Nil), Some(vec![]));
    }

    #[test]
    fn what_is_not_a_stream_reply_is_refused() {
        assert_eq!(entries(Value::Int(3)), None);
        assert_eq!(entries(Value::Array(vec![Value::Array(vec![bulk("x"), Value::Nil])])), None);
        assert_eq!(time_ms(Value::Array(vec![bulk("1700000000"), bulk("123999")])), Some(1_700_000_000_123));
        assert_eq!(time_ms(Value::Array(vec![bulk("1")])), None);
        assert_eq!(time_ms(Value::Array(vec![bulk("1844674407370955"), bulk("0")])), None);
        assert_eq!(clock_ms(253_402_300_799, 999_999), Some(253_402_300_799_999));
        assert_eq!((clock_ms(253_402_300_800, 0), clock_ms(1, 1_000_000)), (None, None));
    }
}
