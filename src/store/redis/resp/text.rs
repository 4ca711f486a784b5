//! The smallest parts of an answer: lines, texts of a stated length, numbers, ids.

use crate::{event::EntryId, store::entry::Span};

/// A line that is not followed by bytes of its own: an error, a number, a status.
pub(super) const LINE_MAX: usize = 16 << 10;

/// The bytes are not what a Redis answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A part of the answer; it must lie where 32 bits can say it.
pub(super) fn span(start: usize, end: usize) -> Result<Span, Malformed> {
    let start = u32::try_from(start).map_err(|_| Malformed)?;
    let end = u32::try_from(end).map_err(|_| Malformed)?;
    Ok(Span { start, len: end.checked_sub(start).ok_or(Malformed)? })
}

/// The line that begins at `start`, without its end; `None` where it has not come whole.
pub(super) fn line_at(buf: &[u8], start: usize) -> Result<Option<Span>, Malformed> {
    let most = buf.len().min(start + LINE_MAX);
    let Some(line) = buf.get(start..most) else { return Ok(None) };
    match line.iter().position(|b| matches!(b, b'\r' | b'\n')) {
        Some(at) => match line.get(at..at + 2) {
            Some(b"\r\n") => span(start, start + at).map(Some),
            None if line.get(at) == Some(&b'\r') && most < start + LINE_MAX => Ok(None),
            _ => Err(Malformed),
        },
        None if line.len() < LINE_MAX => Ok(None),
        None => Err(Malformed),
    }
}

/// A text `$3\r\nabc\r\n` that begins at `at` and where the next value begins; `None` where it is something else, or not whole.
#[inline]
pub(super) fn text_at(buf: &[u8], at: usize) -> Result<Option<(Span, usize)>, Malformed> {
    let Some(rest) = buf.get(at..) else { return Ok(None) };
    let digit = |byte: u8| usize::from(byte.wrapping_sub(b'0'));
    let (head, size) = match *rest {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (4, digit(a)),
        [b'$', a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => (5, digit(a) * 10 + digit(b)),
        [b'$', a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (6, digit(a) * 100 + digit(b) * 10 + digit(c))
        }
        [b'$', ..] => match line_at(buf, at + 1)? {
            // Longer than that is longer than what is kept; nil has no size.
            Some(line) if line.len <= 7 => match number(line.of(buf)).and_then(|n| usize::try_from(n).ok()) {
                Some(size) => (line.len as usize + 3, size),
                None => return Ok(None),
            },
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    match rest.get(head + size..head + size + 2) {
        Some(b"\r\n") => Ok(Some((span(at + head, at + head + size)?, at + head + size + 2))),
        Some(_) => Err(Malformed),
        None => Ok(None),
    }
}

/// The number behind `$`, `*` and the like: `None` is `-1`, which is how RESP2 says nil.
pub(super) fn length(text: &[u8]) -> Result<Option<u64>, Malformed> {
    match text {
        b"-1" => Ok(None),
        digits => number(digits).map(Some).ok_or(Malformed),
    }
}

/// Digits, and nothing but.
#[inline]
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for byte in text {
        let digit = u64::from(byte.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        // So many digits always fit.
        n = if text.len() < 20 { n * 10 + digit } else { n.checked_mul(10)?.checked_add(digit)? };
    }
    (!text.is_empty()).then_some(n)
}

/// `ms-seq`.
#[inline]
pub(super) fn entry_id(text: &[u8]) -> Option<EntryId> {
    let dash = text.iter().position(|b| *b == b'-')?;
    let (ms, seq) = text.split_at_checked(dash)?;
    Some(EntryId::new(number(ms)?, number(seq.get(1..)?)?))
}
