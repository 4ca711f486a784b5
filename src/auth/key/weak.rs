//! RSA keys that look well and are not.

/// Primes for which the powers of 65537 are few: there a weak modulus always is one of them, and a good one seldom.
const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

/// Whether a modulus (big-endian) is of the library that made its primes as 65537^a mod M (ROCA, CVE-2017-15361). Of good keys one
/// in some hundred million looks like that.
pub(super) fn is_roca(n: &[u8]) -> bool {
    PRIMES.iter().all(|p| {
        let rest = n.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % p);
        let generator = 65537 % p;
        let mut power = 1;
        loop {
            if power == rest {
                return true;
            }
            power = power * generator % p;
            if power == 1 {
                return false;
            }
        }
    })
}
