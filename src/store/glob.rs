//! Redis's globs: `*`, `?`, `[abc]`, `[^abc]`, `[a-z]`, `\x`.

/// A pattern, read once.
pub struct Glob(Vec<Piece>);

enum Piece {
    Any,
    One,
    Byte(u8),
    Set { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Glob {
    pub fn new(pattern: &str) -> Glob {
        let mut pieces = Vec::new();
        let mut rest = pattern.bytes().peekable();
        while let Some(byte) = rest.next() {
            pieces.push(match byte {
                b'*' => {
                    if matches!(pieces.last(), Some(Piece::Any)) {
                        continue;
                    }
                    Piece::Any
                }
                b'?' => Piece::One,
                b'\\' => Piece::Byte(rest.next().unwrap_or(b'\\')),
                b'[' => {
                    let negated = rest.next_if_eq(&b'^').is_some();
                    let mut ranges = Vec::new();
                    // One that is not closed reaches to the pattern's end, as in Redis.
                    while let Some(low) = rest.next().filter(|b| *b != b']') {
                        let low = if low == b'\\' { rest.next().unwrap_or(b'\\') } else { low };
                        let mut ahead = rest.clone();
                        if ahead.next() == Some(b'-')
                            && let Some(high) = ahead.next().filter(|b| *b != b']')
                        {
                            ranges.push((low.min(high), low.max(high)));
                            rest = ahead;
                        } else {
                            ranges.push((low, low));
                        }
                    }
                    Piece::Set { negated, ranges }
                }
                byte => Piece::Byte(byte),
            });
        }
        Glob(pieces)
    }

    /// Time is the product of the lengths at worst: only the last `*` is ever tried again.
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut piece, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match (self.0.get(piece), text.get(at)) {
                (None, None) => return true,
                (Some(Piece::Any), _) => {
                    star = Some((piece + 1, at));
                    piece += 1;
                    continue;
                }
                (Some(Piece::One), Some(_)) => true,
                (Some(Piece::Byte(wanted)), Some(byte)) => wanted == byte,
                (Some(Piece::Set { negated, ranges }), Some(byte)) => {
                    ranges.iter().any(|(low, high)| (*low..=*high).contains(byte)) != *negated
                }
                _ => false,
            };
            if step {
                piece += 1;
                at += 1;
            } else if let Some((after, from)) = star.filter(|(_, from)| *from < text.len()) {
                star = Some((after, from + 1));
                piece = after;
                at = from + 1;
            } else {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_redis_does() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "audit:x"][..], &[][..]),
            ("audit:*", &["audit:", "audit:a:b"], &["audit", "xaudit:"]),
            ("a?c", &["abc", "a:c"], &["ac", "abbc"]),
            ("*:events", &["a:events", "a:events:events"], &["a:event", "a:events:"]),
            ("a*b*c", &["abc", "axxbyyc", "abbcbc"], &["ab", "acb"]),
            ("s[0-9]", &["s0", "s9"], &["s", "sa", "s10"]),
            ("s[^0-9]", &["sa"], &["s1", "s"]),
            ("s[9-0x]", &["s5", "sx"], &["s-"]),
            ("\\*", &["*"], &["a"]),
            ("[\\]]", &["]"], &["\\"]),
            ("", &[""], &["a"]),
        ] {
            for text in yes {
                assert!(Glob::new(pattern).matches(text.as_bytes()), "{pattern:?} {text:?}");
            }
            for text in no {
                assert!(!Glob::new(pattern).matches(text.as_bytes()), "{pattern:?} {text:?}");
            }
        }
    }

    #[test]
    fn many_stars_take_no_longer_than_the_product() {
        let pattern = format!("{}b", "a*".repeat(2000));
        assert!(!Glob::new(&pattern).matches("a".repeat(4000).as_bytes()));
    }
}
