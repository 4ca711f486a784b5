//! One small reply of any shape, taken apart into the redis crate's own values: what a script answers. Nothing is kept between
//! two looks, so a reply that comes in parts is looked at again from its beginning; it is bounded so that this costs nothing.

use redis::Value;

use super::text::{Malformed, length, line_at};

/// Bytes of a reply; a commit of the largest kind is answered with a tenth of it.
pub(super) const REPLY_MAX: usize = 1 << 20;
/// Arrays in arrays.
const DEPTH_MAX: usize = 8;

/// What the server said: a value, or the text of its refusal, and where the next reply begins.
pub(super) type Reply = (Result<Value, String>, usize);

/// The reply at the beginning of these bytes; `None` where it has not come whole.
pub(super) fn reply(buf: &[u8]) -> Result<Option<Reply>, Malformed> {
    let mut at = 0;
    loop {
        match (buf.get(at), &mut at) {
            (Some(b'-' | b'!'), at) => return Ok(text(buf, at)?.map(|text| (Err(lossy(text)), *at))),
            // Said beside the replies, or about the one that follows.
            (Some(b'>' | b'|'), at) => {
                if passed(buf, at)?.is_none() {
                    return Ok(None);
                }
            }
            (_, at) => return Ok(value(buf, at, 0)?.map(|value| (Ok(value), *at))),
        }
    }
}

/// The line behind the sign at `at`, and moves on behind it.
fn line<'b>(buf: &'b [u8], at: &mut usize) -> Result<Option<&'b [u8]>, Malformed> {
    let Some(line) = line_at(buf, *at + 1)? else { return Ok(None) };
    *at = line.start as usize + line.len as usize + 2;
    Ok(Some(line.of(buf)))
}

/// A text, of a line or of a stated length; empty where it is nil.
fn text<'b>(buf: &'b [u8], at: &mut usize) -> Result<Option<&'b [u8]>, Malformed> {
    let kind = buf.get(*at).copied();
    let Some(said) = line(buf, at)? else { return Ok(None) };
    if !matches!(kind, Some(b'$' | b'=' | b'!')) {
        return Ok(Some(said));
    }
    let Some(size) = length(said)? else { return Ok(Some(b"")) };
    let end = usize::try_from(size).ok().filter(|size| *size <= REPLY_MAX).ok_or(Malformed)? + *at;
    match buf.get(end..end + 2) {
        Some(b"\r\n") => {}
        Some(_) => return Err(Malformed),
        None => return Ok(None),
    }
    let from = std::mem::replace(at, end + 2);
    // Three letters and a colon say what kind of text it is.
    let from = if kind == Some(b'=') { from + 4 } else { from };
    buf.get(from..end).map(Some).ok_or(Malformed)
}

fn value(buf: &[u8], at: &mut usize, depth: usize) -> Result<Option<Value>, Malformed> {
    let Some(kind) = buf.get(*at).copied() else { return Ok(None) };
    Ok(match kind {
        b'$' | b'=' if buf.get(*at + 1) != Some(&b'-') => text(buf, at)?.map(|text| Value::BulkString(text.to_vec())),
        b'+' | b',' | b'(' | b'#' => text(buf, at)?.map(|text| Value::SimpleString(lossy(text))),
        b':' => match line(buf, at)? {
            Some(digits) => {
                let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed)?;
                Some(Value::Int(number))
            }
            None => None,
        },
        b'$' | b'=' | b'_' => match line(buf, at)? {
            Some(b"" | b"-1") => Some(Value::Nil),
            Some(_) => return Err(Malformed),
            None => None,
        },
        b'*' | b'~' | b'%' if depth < DEPTH_MAX => {
            let Some(said) = line(buf, at)? else { return Ok(None) };
            let Some(count) = length(said)? else { return Ok(Some(Value::Nil)) };
            let mut items = Vec::new();
            for _ in 0..if kind == b'%' { count.saturating_mul(2) } else { count } {
                match value(buf, at, depth + 1)? {
                    Some(item) => items.push(item),
                    None => return Ok(None),
                }
            }
            Some(Value::Array(items))
        }
        _ => return Err(Malformed),
    })
}

/// Passes over a push or an attribute.
fn passed(buf: &[u8], at: &mut usize) -> Result<Option<()>, Malformed> {
    let kind = buf.get(*at).copied();
    let Some(said) = line(buf, at)? else { return Ok(None) };
    let count = length(said)?.ok_or(Malformed)?;
    for _ in 0..if kind == Some(b'|') { count.saturating_mul(2) } else { count } {
        if value(buf, at, 1)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn replies_of_both_protocols_whole_and_in_parts() {
        let array = || Value::Array(vec![Value::Int(7), bulk("a\r\nb"), Value::Array(vec![bulk("")]), Value::Nil]);
        for (bytes, said) in [
            ("*4\r\n:7\r\n$4\r\na\r\nb\r\n*1\r\n$0\r\n\r\n$-1\r\n", Ok(array())),
            ("*4\r\n:7\r\n=8\r\ntxt:a\r\nb\r\n~1\r\n$0\r\n\r\n_\r\n", Ok(array())),
            (":-3\r\n", Ok(Value::Int(-3))),
            ("+OK\r\n", Ok(Value::SimpleString("OK".into()))),
            ("*-1\r\n", Ok(Value::Nil)),
            ("%1\r\n+a\r\n:1\r\n", Ok(Value::Array(vec![Value::SimpleString("a".into()), Value::Int(1)]))),
            ("-NOSCRIPT No matching script.\r\n", Err("NOSCRIPT No matching script.".to_owned())),
            ("!5\r\nERR x\r\n", Err("ERR x".to_owned())),
            (">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+a\r\n#t\r\n:1\r\n", Ok(Value::Int(1))),
        ] {
            let bytes = bytes.as_bytes();
            let behind = [bytes, b"+NEXT\r\n"].concat();
            assert_eq!(reply(&behind), Ok(Some((said, bytes.len()))), "{}", bytes.escape_ascii());
            for end in 0..bytes.len() {
                assert_eq!(reply(&bytes[..end]), Ok(None), "{} up to {end}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn what_no_server_says_is_refused() {
        let deep = "*1\r\n".repeat(DEPTH_MAX + 2);
        for bytes in [
            "x\r\n",
            ":1x\r\n",
            ":\r\n",
            "$3\r\nabcd\r\n",
            "$-2\r\n",
            "*x\r\n",
            "_1\r\n",
            "*1\r\n-ERR inside\r\n",
            "$99999999\r\n",
            "=2\r\nab\r\n",
            "+a\nb\r\n",
            ">-1\r\n",
            &deep,
        ] {
            assert_eq!(reply(bytes.as_bytes()), Err(Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_read_or_refused(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(b"*$%:+-_>|\r\n0123".to_vec())], 0..200)) {
            if let Ok(Some((_, end))) = reply(&bytes) {
                prop_assert!(end <= bytes.len());
            }
        }
    }
}
