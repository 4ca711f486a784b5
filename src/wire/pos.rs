//! A position in the alert log, as clients store it and send it back.

use std::{fmt, str::FromStr};

/// `{seq}-{check}`: an entry of the alert log, and eight hexadecimal characters that say whether the position still means
/// what it meant (the log may have been lost and begun anew).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pos {
    /// 0: before the first entry.
    pub seq: u64,
    pub check: String,
}

impl Pos {
    /// Before the first entry of the log with this epoch; another epoch has another one.
    pub fn origin(epoch: &str) -> Pos {
        // FNV-1a, 32 bits: not a secret, only different for different texts.
        let hash = epoch.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Pos { seq: 0, check: format!("{hash:08x}") }
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.check)
    }
}

/// Where a client wants to go on from: the member or parameter `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// Everything that is kept.
    Earliest,
    At(Pos),
    /// Well-formed, but none of ours: an older version's, another product's.
    Unknown,
}

/// Not 1 to 64 characters of `[A-Za-z0-9._-]` (contract §5).
#[derive(Debug, PartialEq, Eq)]
pub struct BadPos;

impl fmt::Display for BadPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position is 1 to 64 characters of A-Z, a-z, 0-9, `.`, `_`, `-`")
    }
}

impl std::error::Error for BadPos {}

impl FromStr for After {
    type Err = BadPos;

    fn from_str(text: &str) -> Result<After, BadPos> {
        if text.is_empty()
            || text.len() > 64
            || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        {
            return Err(BadPos);
        }
        if text == "earliest" {
            return Ok(After::Earliest);
        }
        let pos = text.split_once('-').and_then(|(seq, check)| {
            let canonical = seq == "0" || (!seq.starts_with('0') && seq.bytes().all(|b| b.is_ascii_digit()));
            let hex = check.len() == 8 && check.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if !canonical || !hex {
                return None;
            }
            Some(Pos { seq: seq.parse().ok()?, check: check.to_owned() })
        });
        Ok(pos.map_or(After::Unknown, After::At))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back_and_foreign_ones_are_unknown() {
        let pos = Pos { seq: 17, check: "00c0ffee".into() };
        assert_eq!(pos.to_string().parse(), Ok(After::At(pos)));
        assert_eq!("earliest".parse(), Ok(After::Earliest));
        for foreign in [
            "1699999999999-0",
            "17",
            "017-00c0ffee",
            "-00c0ffee",
            "17-00C0FFEE",
            "17-00c0ffee0",
            "99999999999999999999-00c0ffee",
            "a_b.c",
        ] {
            assert_eq!(foreign.parse(), Ok(After::Unknown), "{foreign}");
        }
        for bad in ["", "a b", "ä", "1-2\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<After>(), Err(BadPos), "{bad:?}");
        }
    }

    #[test]
    fn another_epoch_has_another_origin() {
        let a = Pos::origin("a");
        assert_eq!(a.to_string().parse(), Ok(After::At(a.clone())));
        assert_ne!(a, Pos::origin("b"));
    }
}
