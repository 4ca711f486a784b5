//! The second factor: time-based codes (RFC 6238: SHA-1, six digits, 30 s), as authenticator apps make them.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Deserialize, Serialize};

use crate::auth::Secret;

const STEP_MS: u64 = 30_000;
const DIGITS: u32 = 6;
/// RFC 4226 §4: 160 bits are recommended.
const SECRET_BYTES: usize = 20;

/// A fresh secret.
pub fn fresh() -> Result<Secret, String> {
    let mut bytes = vec![0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| "the system gave no random bytes".to_owned())?;
    Ok(Secret(bytes))
}

/// The code of one step of 30 s since the epoch.
fn code(secret: &Secret, step: u64, digits: u32) -> u32 {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret.0);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    // RFC 4226 §5.3: the last four bits say where the number begins.
    let at = usize::from(bytes.last().copied().unwrap_or(0) & 15);
    let number = bytes.iter().skip(at).take(4).fold(0_u32, |number, byte| (number << 8) | u32::from(*byte));
    (number & 0x7fff_ffff) % 10_u32.pow(digits)
}

/// The code that an app shows at a time.
pub fn code_at(secret: &Secret, now_ms: u64) -> String {
    format!("{:06}", code(secret, now_ms / STEP_MS, DIGITS))
}

/// The step that a code is of: the one at `now_ms`, the one before or the one after, and none up to `last`, whose code was taken.
pub fn step_of(secret: &Secret, written: &str, now_ms: u64, last: u64) -> Option<u64> {
    let written: String = written.chars().filter(|c| !c.is_whitespace()).collect();
    if written.len() != DIGITS as usize || !written.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u32 = written.parse().ok()?;
    let now = now_ms / STEP_MS;
    [now.saturating_sub(1), now, now + 1].into_iter().find(|step| *step > last && code(secret, *step, DIGITS) == number)
}

/// RFC 4648 base32, without padding.
pub fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut bits) = (0_u32, 0);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(LETTERS[(held >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(LETTERS[(held << (5 - bits)) as usize & 31]));
    }
    text
}

/// What authenticator apps read, mostly from a QR code.
pub fn uri(username: &str, secret: &Secret) -> String {
    let mut name = String::new();
    for byte in username.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("otpauth://totp/auditcast:{name}?secret={}&issuer=auditcast&algorithm=SHA1&digits=6&period=30", base32(&secret.0))
}

/// A secret as it is stored: sealed with `ENCRYPTION_KEY` where there is one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stored(String);

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

const PLAIN: &str = "plain:";
const SEALED: &str = "aes-256-gcm:";

/// AES-256-GCM under a key made of `ENCRYPTION_KEY`, bound to the user's name: nobody who can write the store can give one user
/// another's secret.
fn key(encryption_key: &Secret) -> LessSafeKey {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &encryption_key.0), b"auditcast totp 1");
    #[allow(clippy::expect_used, reason = "an HMAC-SHA256 has the 32 bytes that this key takes")]
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, tag.as_ref()).expect("32 bytes"))
}

impl Stored {
    pub fn seal(secret: &Secret, user: &str, encryption_key: Option<&Secret>) -> Result<Stored, String> {
        let Some(encryption_key) = encryption_key else { return Ok(Stored(format!("{PLAIN}{}", super::hex(&secret.0)))) };
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| "the system gave no random bytes".to_owned())?;
        let mut bytes = secret.0.clone();
        key(encryption_key)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(user.as_bytes()), &mut bytes)
            .map_err(|_| "the secret could not be sealed".to_owned())?;
        Ok(Stored(format!("{SEALED}{}{}", super::hex(&nonce), super::hex(&bytes))))
    }

    /// `None`: it is sealed with another key, or with one where there is none now.
    pub fn open(&self, user: &str, encryption_key: Option<&Secret>) -> Option<Secret> {
        if let Some(hex) = self.0.strip_prefix(PLAIN) {
            return super::unhex(hex).map(Secret);
        }
        let bytes = super::unhex(self.0.strip_prefix(SEALED)?)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key(encryption_key?).open_in_place(nonce, Aad::from(user.as_bytes()), &mut sealed).ok()?;
        Some(Secret(opened.to_vec()))
    }

    pub fn is_sealed(&self) -> bool {
        self.0.starts_with(SEALED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret(b"12345678901234567890".to_vec())
    }

    #[test]
    fn the_vectors_of_rfc_6238() {
        for (seconds, expected) in [
            (59, 94_287_082),
            (1_111_111_109, 7_081_804),
            (1_111_111_111, 14_050_471),
            (1_234_567_890, 89_005_924),
            (2_000_000_000, 69_279_037),
            (20_000_000_000, 65_353_130),
        ] {
            assert_eq!(code(&secret(), seconds / 30, 8), expected, "{seconds}");
            let six = format!("{:06}", expected % 1_000_000);
            assert_eq!(step_of(&secret(), &six, seconds * 1000, 0), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn one_step_either_way_and_none_twice() {
        let at = |step: u64| format!("{:06}", code(&secret(), step, 6));
        let now_ms = 100 * STEP_MS + 7;
        for (step, last, expected) in [
            (98, 0, None),
            (99, 0, Some(99)),
            (100, 0, Some(100)),
            (101, 0, Some(101)),
            (102, 0, None),
            (100, 100, None),
            (99, 100, None),
            (101, 100, Some(101)),
        ] {
            assert_eq!(step_of(&secret(), &at(step), now_ms, last), expected, "{step} after {last}");
        }
        let spaced = format!(" {} {} ", &at(100)[..3], &at(100)[3..]);
        assert_eq!(step_of(&secret(), &spaced, now_ms, 0), Some(100), "as apps show it");
        for bad in ["", "12345", "1234567", "12345a", "+12345", "１２３４５６"] {
            assert_eq!(step_of(&secret(), bad, now_ms, 0), None, "{bad}");
        }
    }

    #[test]
    fn base32_is_rfc_4648s() {
        for (bytes, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
        let uri = uri("ana@example.com", &secret());
        assert!(uri.starts_with("otpauth://totp/auditcast:ana%40example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&"), "{uri}");
    }

    #[test]
    fn sealed_it_is_read_with_its_key_for_its_user_only() {
        let (key, other) = (Secret(b"an encryption key".to_vec()), Secret(b"another".to_vec()));
        let sealed = Stored::seal(&secret(), "ana", Some(&key)).unwrap();
        assert!(sealed.is_sealed() && !sealed.0.contains(&super::super::hex(&secret().0)));
        assert_eq!(sealed.open("ana", Some(&key)), Some(secret()));
        for (user, key) in [("eve", Some(&key)), ("ana", Some(&other)), ("ana", None)] {
            assert_eq!(sealed.open(user, key), None);
        }
        let plain = Stored::seal(&secret(), "ana", None).unwrap();
        assert_eq!(plain.open("ana", Some(&key)), Some(secret()), "kept from before there was a key");
        assert_eq!(format!("{plain:?} {sealed:?}"), "*** ***");
    }
}
