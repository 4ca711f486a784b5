//! Keys that look well and are not.

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

/// Points of order 8 on Curve25519, without the bit of their sign.
const ORDER_8: [[u8; 32]; 2] = [
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05,
        0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa,
        0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Whether an Ed25519 key is a point of small order, such as 32 zeros: with it anybody signs whatever he likes.
pub(super) fn is_small_order(point: &[u8]) -> bool {
    let [first, middle @ .., last] = point else { return true };
    let last = last & 0x7f;
    let zero_or_one = *first <= 1 && middle.iter().all(|byte| *byte == 0) && last == 0;
    // Minus one, and the first two again, written as what they are not reduced.
    let around_p = (0xec..=0xee).contains(first) && middle.iter().all(|byte| *byte == 0xff) && last == 0x7f;
    let order_8 =
        |known: &[u8; 32]| known.first() == Some(first) && known.get(1..31) == Some(middle) && known.last() == Some(&last);
    zero_or_one || around_p || ORDER_8.iter().any(order_8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_small_order_are_known_with_either_sign() {
        let with = |first: u8, middle: u8, last: u8| [&[first][..], &[middle; 30], &[last]].concat();
        let eight = |sign: u8| {
            ORDER_8.map(|mut point| {
                point[31] |= sign;
                point.to_vec()
            })
        };
        let bad = [with(0, 0, 0), with(1, 0, 0x80), with(0xec, 0xff, 0x7f), with(0xed, 0xff, 0xff), with(0xee, 0xff, 0x7f)];
        for point in bad.into_iter().chain(eight(0)).chain(eight(0x80)) {
            assert!(is_small_order(&point), "{point:02x?}");
        }
        for point in [with(2, 0, 0), with(0, 1, 0), with(0xeb, 0xff, 0x7f), with(0xec, 0xff, 0x7e), with(0x26, 0x58, 0x05)] {
            assert!(!is_small_order(&point), "{point:02x?}");
        }
    }
}
