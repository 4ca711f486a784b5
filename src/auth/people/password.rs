//! Passwords: which are good enough, how they are kept, and that looking at one takes as long as looking at any other.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// bcrypt reads no more, bytes. What is longer is refused rather than cut: else all that begin alike would be one password.
pub const BYTES_MAX: usize = 72;
/// What may be configured as bcrypt's cost: 2^cost rounds, each step twice the time.
pub const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

/// `[password]`: B's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Characters.
    pub min_length: usize,
    pub require_special: bool,
    pub require_numbers: bool,
    pub require_uppercase: bool,
}

impl Policy {
    /// Everything that a new password lacks, as one sentence; nothing of it is in there.
    pub fn check(&self, password: &str) -> Result<(), String> {
        let has = |what: fn(char) -> bool| password.chars().any(what);
        let mut lacks = Vec::new();
        if password.chars().count() < self.min_length {
            lacks.push(format!("at least {} characters", self.min_length));
        }
        if self.require_uppercase && !has(char::is_uppercase) {
            lacks.push("an upper-case letter".to_owned());
        }
        if self.require_numbers && !has(char::is_numeric) {
            lacks.push("a digit".to_owned());
        }
        if self.require_special && !has(|c| !c.is_alphanumeric()) {
            lacks.push("a character that is neither letter nor digit".to_owned());
        }
        if password.len() > BYTES_MAX {
            return Err(format!(
                "the password has {} bytes, and bcrypt reads only the first {BYTES_MAX}: take a shorter one",
                password.len()
            ));
        }
        // bcrypt repeats a password up to its first NUL; the others are more likely a slip than meant.
        if has(char::is_control) {
            return Err("the password has control characters in it".to_owned());
        }
        if lacks.is_empty() { Ok(()) } else { Err(format!("the password needs {}", lacks.join(", "))) }
    }
}

/// A digest of a password: bcrypt's, or B's SHA-256 until its owner signs in for the first time.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(String);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

enum Kind<'a> {
    Bcrypt { cost: u32 },
    Sha256(&'a str),
}

impl Hash {
    /// Takes in one that was made elsewhere: `$2a$`, `$2b$` or `$2y$`, or 64 hexadecimal characters (SHA-256 without salt). The
    /// error does not quote it.
    pub fn import(text: &str, cost: u32) -> Result<Hash, String> {
        let hash = Hash(text.trim().to_owned());
        match hash.kind() {
            Some(Kind::Bcrypt { cost: its }) if its > cost => Err(format!(
                "the hash has the cost {its}, more than auth.bcrypt_cost ({cost}): raise that one, so that this user's sign-ins do not take longer than anybody else's"
            )),
            Some(Kind::Bcrypt { cost: its }) if !COSTS.contains(&its) => {
                Err(format!("the hash has the cost {its}, which is none"))
            }
            Some(_) => Ok(Hash(if hash.0.len() == 64 { hash.0.to_ascii_lowercase() } else { hash.0 })),
            None => Err("the hash is neither bcrypt's ($2b$…) nor SHA-256 in 64 hexadecimal characters".to_owned()),
        }
    }

    /// bcrypt with a fresh salt. Takes some 50 ms at cost 10, twice that with each step.
    pub fn make(password: &str, cost: u32) -> Result<Hash, String> {
        if password.len() > BYTES_MAX {
            return Err(format!("the password has more than {BYTES_MAX} bytes"));
        }
        bcrypt::hash(password, cost).map(Hash).map_err(|_| "the system gave no random bytes".to_owned())
    }

    fn kind(&self) -> Option<Kind<'_>> {
        if self.0.len() == 64 && self.0.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(Kind::Sha256(&self.0));
        }
        let known = ["$2a$", "$2b$", "$2y$"].iter().any(|start| self.0.starts_with(start));
        let parts: bcrypt::HashParts = self.0.parse().ok().filter(|_| known && self.0.len() == 60)?;
        Some(Kind::Bcrypt { cost: parts.get_cost() })
    }

    /// Whether it should be made anew at the next good sign-in.
    pub fn is_outdated(&self, cost: u32) -> bool {
        !matches!(self.kind(), Some(Kind::Bcrypt { cost: its }) if its == cost)
    }

    /// B's, without salt and rounds.
    pub fn is_legacy(&self) -> bool {
        matches!(self.kind(), Some(Kind::Sha256(_)))
    }
}

/// Whether the password is the one of `hash`; `None`: nobody's. Whatever it is, and whoever is asked for, it takes the time of bcrypt
/// at `cost`: 2^c + 2^c + 2^(c+1) + … + 2^(cost-1) rounds are 2^cost.
pub fn verify(hash: Option<&Hash>, password: &str, cost: u32) -> bool {
    let spend = |cost: u32| {
        let _ = std::hint::black_box(bcrypt::hash_with_salt(password, cost, [0; 16]));
    };
    let right = match hash.and_then(|hash| Some((hash, hash.kind()?))) {
        Some((hash, Kind::Bcrypt { cost: its })) => {
            let right = bcrypt::verify(password, &hash.0).unwrap_or(false);
            (its..cost).for_each(spend);
            right
        }
        Some((_, Kind::Sha256(hex))) => {
            let right = verify_slices_are_equal(sha256(password.as_bytes()).as_bytes(), hex.as_bytes()).is_ok();
            spend(cost);
            right
        }
        None => {
            spend(cost);
            false
        }
    };
    right && password.len() <= BYTES_MAX
}

/// Lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    super::hex(digest(&SHA256, bytes).as_ref())
}

/// Who waits for a password to be looked at. Those who come from where they have signed in before do not wait behind strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Known,
    Stranger,
}

/// Looks at passwords on threads of their own, a bounded number at once: it is the one thing here that takes long on purpose.
pub struct Bench {
    known: Queue,
    strangers: Queue,
}

struct Queue {
    places: Arc<Semaphore>,
    at_work: Arc<Semaphore>,
}

/// A place in the queue.
pub struct Place {
    _place: OwnedSemaphorePermit,
    at_work: Arc<Semaphore>,
}

impl Bench {
    /// `at_once` passwords in each lane, `waiting` more behind them.
    pub fn new(at_once: usize, waiting: usize) -> Bench {
        let queue = || Queue { places: Arc::new(Semaphore::new(at_once + waiting)), at_work: Arc::new(Semaphore::new(at_once)) };
        Bench { known: queue(), strangers: queue() }
    }

    /// `None`: all places are taken.
    pub fn place(&self, lane: Lane) -> Option<Place> {
        let queue = if lane == Lane::Known { &self.known } else { &self.strangers };
        let place = queue.places.clone().try_acquire_owned().ok()?;
        Some(Place { _place: place, at_work: queue.at_work.clone() })
    }
}

impl Place {
    /// Does the work when it is its turn; `None` only where the runtime ends. Begun, it is done also where nobody waits any more:
    /// the place is free when the thread is.
    pub async fn work<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = self.at_work.clone().acquire_owned().await.ok()?;
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, self));
            done
        })
        .await
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Policy = Policy { min_length: 8, require_special: true, require_numbers: true, require_uppercase: true };

    #[test]
    fn the_policy_is_bs_table_and_says_all_that_is_missing() {
        let none = Policy { min_length: 1, require_special: false, require_numbers: false, require_uppercase: false };
        for (policy, password, missing) in [
            (B, "TestPass123!", None),
            (B, "Contraseña1 ", None),
            (B, "Ñandú-77", None),
            (B, "Short1!", Some("the password needs at least 8 characters")),
            (B, "testpass123!", Some("the password needs an upper-case letter")),
            (B, "TestPassabc!", Some("the password needs a digit")),
            (B, "TestPass1234", Some("the password needs a character that is neither letter nor digit")),
            (
                B,
                "",
                Some(
                    "the password needs at least 8 characters, an upper-case letter, a digit, a character that is neither letter nor digit",
                ),
            ),
            (none, "x", None),
            (none, "", Some("the password needs at least 1 characters")),
            (Policy { min_length: 12, ..B }, "TestPass12!", Some("the password needs at least 12 characters")),
            (B, "TestPass\u{0}123!", Some("the password has control characters in it")),
        ] {
            assert_eq!(policy.check(password).err().as_deref(), missing, "{password:?}");
        }
        let long = format!("Aa1!{}", "x".repeat(68));
        assert_eq!(B.check(&long), Ok(()));
        assert!(B.check(&format!("{long}x")).unwrap_err().contains("73 bytes"));
        assert!(B.check(&format!("Aa1!{}", "é".repeat(35))).unwrap_err().contains("74 bytes"), "bytes, not characters");
    }

    #[test]
    fn bcrypt_of_others_is_read_and_of_ours_is_salted() {
        // From the tests of Python's bcrypt and of PHP.
        for (hash, password) in [
            ("$2b$04$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm", "Kk4DQuMMfZL9o"),
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
        ] {
            let hash = Hash::import(hash, 6).unwrap();
            assert!(verify(Some(&hash), password, 6), "{password}");
            assert!(!verify(Some(&hash), &format!("{password}x"), 6));
            assert!(hash.is_outdated(6) && !hash.is_legacy());
        }
        let (one, two) = (Hash::make("TestPass123!", 4).unwrap(), Hash::make("TestPass123!", 4).unwrap());
        assert_ne!(one, two);
        assert!(verify(Some(&one), "TestPass123!", 4) && !one.is_outdated(4) && one.is_outdated(5));
        assert_eq!(format!("{one:?}"), "***");
    }

    #[test]
    fn bs_old_hashes_are_read_and_shall_go() {
        let hex = "5E884898DA28047151D0E56F8DC6292773603D0D6AABBDD62A11EF721D1542D8";
        let hash = Hash::import(hex, 4).unwrap();
        assert!(verify(Some(&hash), "password", 4) && !verify(Some(&hash), "Password", 4));
        assert!(hash.is_legacy() && hash.is_outdated(4));
        assert!(!verify(None, "password", 4));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_quoted() {
        let bcrypt = "$2b$04$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm";
        for bad in
            ["", "password", &bcrypt[..59], &format!("{bcrypt}x"), &bcrypt.replace("2b", "2x"), &"g".repeat(64), &"0".repeat(63)]
        {
            let why = Hash::import(bad, 12).unwrap_err();
            assert!(bad.is_empty() || !why.contains(bad), "{why}");
        }
        assert!(Hash::import(&bcrypt.replace("$04$", "$13$"), 12).unwrap_err().contains("13"));
    }

    #[test]
    fn what_is_beyond_72_bytes_is_never_right() {
        let long = "x".repeat(72);
        let hash = Hash::make(&long, 4).unwrap();
        assert!(verify(Some(&hash), &long, 4));
        assert!(!verify(Some(&hash), &format!("{long}y"), 4), "bcrypt alone would take it");
        assert!(Hash::make(&format!("{long}y"), 4).is_err());
    }

    #[tokio::test]
    async fn the_queue_has_an_end_and_a_lane_for_who_is_known() {
        let bench = Bench::new(1, 1);
        let (first, second) = (bench.place(Lane::Stranger).unwrap(), bench.place(Lane::Stranger).unwrap());
        assert!(bench.place(Lane::Stranger).is_none());
        let known = bench.place(Lane::Known).expect("a lane of its own");
        assert_eq!(known.work(|| 1).await, Some(1));
        assert_eq!((first.work(|| 2).await, second.work(|| 3).await), (Some(2), Some(3)));
        assert!(bench.place(Lane::Stranger).is_some());
    }
}
