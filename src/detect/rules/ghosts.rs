//! Who was taken out for others, roughly: two generations of a Bloom filter. Whoever comes back is no passer-by, and a flood of
//! names that come once does not push him out again.

use serde::{Deserialize, Serialize};

/// Bits of one generation: room for some million keys.
const BITS: u64 = 1 << 23;
const HASHES: u64 = 4;

#[derive(Clone, Debug)]
struct Generation(Box<[u64]>);

#[derive(Clone, Debug)]
pub(super) struct Ghosts {
    young: Generation,
    old: Generation,
    since_ms: u64,
}

/// The same in a snapshot; hexadecimal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedGhosts {
    young: String,
    old: String,
    since_ms: u64,
}

impl Generation {
    fn new() -> Generation {
        Generation(vec![0; words()].into())
    }

    fn places(key: &str) -> impl Iterator<Item = (usize, u64)> {
        let (one, two) = hashes(key);
        (0..HASHES).map(move |n| {
            let bit = one.wrapping_add(n.wrapping_mul(two)) % BITS;
            (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
        })
    }

    fn put(&mut self, key: &str) {
        for (word, bit) in Generation::places(key) {
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        Generation::places(key).all(|(word, bit)| self.0.get(word).is_some_and(|word| word & bit != 0))
    }

    fn save(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(self.0.len() * 4);
        for word in &self.0 {
            // Most are empty; writing into a String cannot fail.
            let _ = match word {
                0 => text.write_char('.'),
                word => write!(text, "{word:016x}"),
            };
        }
        text
    }

    fn load(text: &str) -> Option<Generation> {
        let mut words = Vec::with_capacity(words());
        let mut rest = text;
        while let Some(first) = rest.bytes().next() {
            let length = if first == b'.' { 1 } else { 16 };
            let (word, behind) = rest.split_at_checked(length)?;
            words.push(if length == 1 { 0 } else { u64::from_str_radix(word, 16).ok()? });
            rest = behind;
        }
        (words.len() == self::words()).then(|| Generation(words.into()))
    }
}

fn words() -> usize {
    usize::try_from(BITS / 64).unwrap_or(0)
}

/// Two hashes that every machine computes alike.
fn hashes(key: &str) -> (u64, u64) {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let fnv = key.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (mix(fnv), mix(fnv ^ 0x9e37_79b9_7f4a_7c15) | 1)
}

impl Ghosts {
    pub fn new(time_ms: u64) -> Ghosts {
        Ghosts { young: Generation::new(), old: Generation::new(), since_ms: time_ms }
    }

    /// A key that is taken out. It is known for at least `kept_ms`, and for twice as long at most.
    pub fn put(&mut self, key: &str, time_ms: u64, kept_ms: u64) {
        if time_ms.saturating_sub(self.since_ms) >= kept_ms {
            self.old = std::mem::replace(&mut self.young, Generation::new());
            self.since_ms = time_ms;
        }
        self.young.put(key);
    }

    pub fn has(&self, key: &str) -> bool {
        self.young.has(key) || self.old.has(key)
    }

    /// Nobody was taken out for so long that nobody is known any more.
    pub fn are_gone(&self, time_ms: u64, kept_ms: u64) -> bool {
        time_ms.saturating_sub(self.since_ms) >= kept_ms.saturating_mul(2)
    }

    pub fn save(&self) -> SavedGhosts {
        SavedGhosts { young: self.young.save(), old: self.old.save(), since_ms: self.since_ms }
    }

    pub fn load(saved: &SavedGhosts) -> Option<Ghosts> {
        let (young, old) = (Generation::load(&saved.young)?, Generation::load(&saved.old)?);
        Some(Ghosts { young, old, since_ms: saved.since_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_taken_out_is_known_for_a_while() {
        let mut ghosts = Ghosts::new(0);
        (0..1000).for_each(|n| ghosts.put(&format!("k{n}"), n, 10_000));
        assert!((0..1000).all(|n| ghosts.has(&format!("k{n}"))));
        let false_ones = (0..10_000).filter(|n| ghosts.has(&format!("x{n}"))).count();
        assert!(false_ones < 10, "{false_ones}");
        ghosts.put("later", 10_000, 10_000);
        let back = Ghosts::load(&ghosts.save()).unwrap();
        assert!(back.has("k7") && back.has("later") && !back.are_gone(29_999, 10_000) && back.are_gone(30_000, 10_000));
        ghosts.put("latest", 20_000, 10_000);
        assert!(!ghosts.has("k7") && ghosts.has("later") && ghosts.has("latest"));
        assert!(Ghosts::load(&SavedGhosts { young: "..".into(), ..ghosts.save() }).is_none());
    }
}
