//! A key that tokens are checked with, and the algorithms it does. These are the key's own: what a token's header says only has
//! to be among them, so an RSA key never verifies an HMAC, whatever a token claims (RFC 8725 §3.1).

use std::{fmt, sync::Arc};

use aws_lc_rs::{rsa, signature};
use jsonwebtoken::{DecodingKey, crypto};

use super::Secret;

mod der;
mod jwk;
mod weak;

pub use jwk::{Jwks, KeyFault};

/// Shortest RSA modulus taken, bits; the longest is what the library verifies.
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
/// Keys of one set: identity providers have a handful.
pub const KEYS_MAX: usize = 64;

/// What a token can be signed by (RFC 7518, RFC 8037, RFC 9864). `none` is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    /// With Ed25519, the older name.
    EdDsa,
    Ed25519,
}

impl Algorithm {
    pub const ALL: [Algorithm; 14] = [
        Algorithm::Hs256,
        Algorithm::Hs384,
        Algorithm::Hs512,
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Es512,
        Algorithm::EdDsa,
        Algorithm::Ed25519,
    ];
    pub(crate) const HMAC: [Algorithm; 3] = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
    const RSA: [Algorithm; 6] =
        [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512];
    const ED25519: [Algorithm; 2] = [Algorithm::EdDsa, Algorithm::Ed25519];

    /// As a token's header writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Ed25519 => "Ed25519",
        }
    }

    /// By its exact name.
    pub fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// What verifies it; `None` for ES512, which the library does not have.
    fn library(self) -> Option<jsonwebtoken::Algorithm> {
        match self {
            Algorithm::Hs256 => Some(jsonwebtoken::Algorithm::HS256),
            Algorithm::Hs384 => Some(jsonwebtoken::Algorithm::HS384),
            Algorithm::Hs512 => Some(jsonwebtoken::Algorithm::HS512),
            Algorithm::Rs256 => Some(jsonwebtoken::Algorithm::RS256),
            Algorithm::Rs384 => Some(jsonwebtoken::Algorithm::RS384),
            Algorithm::Rs512 => Some(jsonwebtoken::Algorithm::RS512),
            Algorithm::Ps256 => Some(jsonwebtoken::Algorithm::PS256),
            Algorithm::Ps384 => Some(jsonwebtoken::Algorithm::PS384),
            Algorithm::Ps512 => Some(jsonwebtoken::Algorithm::PS512),
            Algorithm::Es256 => Some(jsonwebtoken::Algorithm::ES256),
            Algorithm::Es384 => Some(jsonwebtoken::Algorithm::ES384),
            Algorithm::Es512 => None,
            Algorithm::EdDsa | Algorithm::Ed25519 => Some(jsonwebtoken::Algorithm::EdDSA),
        }
    }

    fn rsa(self) -> Option<&'static signature::RsaParameters> {
        match self {
            Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            _ => None,
        }
    }

    pub fn is_hmac(self) -> bool {
        Algorithm::HMAC.contains(&self)
    }
}

/// Whether `given` (base64url) is what `secret` makes of `message`; in constant time.
pub(super) fn mac_fits(algorithm: Algorithm, secret: &Secret, message: &[u8], given: &str) -> bool {
    // No secret would be everybody's.
    let Some(hash) = algorithm.library().filter(|_| algorithm.is_hmac() && !secret.0.is_empty()) else { return false };
    crypto::verify(given, message, &DecodingKey::from_secret(&secret.0), hash).unwrap_or(false)
}

/// A curve of ECDSA keys; each has one algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }

    /// Bytes of a coordinate.
    fn bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

/// What a key is made of, wherever it was read.
enum Material {
    Secret(Vec<u8>),
    /// Big-endian.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// `04`, x, y.
    Ec(Curve, Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Material {
    fn can(&self) -> &'static [Algorithm] {
        match self {
            Material::Secret(_) => &Algorithm::HMAC,
            Material::Rsa { .. } => &Algorithm::RSA,
            Material::Ec(Curve::P256, _) => &[Algorithm::Es256],
            Material::Ec(Curve::P384, _) => &[Algorithm::Es384],
            Material::Ec(Curve::P521, _) => &[Algorithm::Es512],
            Material::Ed25519(_) => &Algorithm::ED25519,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Material::Secret(_) => "a secret",
            Material::Rsa { .. } => "an RSA key",
            Material::Ec(Curve::P256, _) => "a P-256 key",
            Material::Ec(Curve::P384, _) => "a P-384 key",
            Material::Ec(Curve::P521, _) => "a P-521 key",
            Material::Ed25519(_) => "an Ed25519 key",
        }
    }

    /// What a key does that says nothing of its algorithm. An RSA key could do six: it does the one that is meant nearly always.
    fn usual(&self) -> &'static [Algorithm] {
        match self {
            Material::Rsa { .. } => &[Algorithm::Rs256],
            other => other.can(),
        }
    }
}

enum Verifier {
    Library(DecodingKey),
    /// ES512.
    P521(signature::ParsedPublicKey),
}

struct Inner {
    from: Arc<str>,
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    verifier: Verifier,
}

/// One key, ready to verify. Cloning is cheap.
#[derive(Clone)]
pub struct Key(Arc<Inner>);

impl Key {
    /// `from` is what people know it by (`auth.keys.idp`); `algorithms` empty: what is usual for such a key.
    fn new(from: &Arc<str>, kid: Option<String>, material: Material, algorithms: &[Algorithm]) -> Result<Key, String> {
        let algorithms = if algorithms.is_empty() { material.usual() } else { algorithms };
        if let Some(wrong) = algorithms.iter().find(|algorithm| !material.can().contains(algorithm)) {
            return Err(format!("is {}, which does not do {}", material.name(), wrong.as_str()));
        }
        let bad = |_| format!("is not {} that can be used", material.name());
        // Parsed here although the library parses again at each signature: what is no key is refused when it is configured.
        let verifier = match &material {
            Material::Secret(secret) => {
                // RFC 7518 §3.2: at least as long as the hash.
                let wanted = if algorithms.contains(&Algorithm::Hs512) {
                    64
                } else if algorithms.contains(&Algorithm::Hs384) {
                    48
                } else {
                    32
                };
                if secret.len() < wanted {
                    return Err(format!("has {} bytes, at least {wanted} are needed for its algorithm", secret.len()));
                }
                if super::is_sample(secret) {
                    return Err("is the sample text of the guide, which everybody knows".to_owned());
                }
                Verifier::Library(DecodingKey::from_secret(secret))
            }
            Material::Rsa { n, e } => {
                let n = n.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &n[at..]);
                let e = e.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &e[at..]);
                rsa_sound(n, e)?;
                let components = rsa::PublicKeyComponents { n, e };
                for algorithm in algorithms {
                    if let Some(parameters) = algorithm.rsa() {
                        components.to_parsed_public_key(parameters).map_err(bad)?;
                    }
                }
                Verifier::Library(DecodingKey::from_rsa_raw_components(n, e))
            }
            Material::Ec(curve, point) => {
                let key = signature::ParsedPublicKey::new(curve.verification(), point).map_err(bad)?;
                match curve {
                    Curve::P256 | Curve::P384 => Verifier::Library(DecodingKey::from_ec_der(point)),
                    Curve::P521 => Verifier::P521(key),
                }
            }
            Material::Ed25519(point) => {
                if weak::is_small_order(point) {
                    return Err("is an Ed25519 key with which anybody can sign".to_owned());
                }
                signature::ParsedPublicKey::new(&signature::ED25519, point).map_err(bad)?;
                Verifier::Library(DecodingKey::from_ed_der(point))
            }
        };
        Ok(Key(Arc::new(Inner { from: from.clone(), kid, algorithms: algorithms.to_vec(), verifier })))
    }

    /// A public key in PEM (`PUBLIC KEY`, RFC 7468). The answer says what is wrong, and nothing of the key.
    pub fn from_pem(from: &str, pem: &str, kid: Option<String>, algorithms: &[Algorithm]) -> Result<Key, String> {
        Key::new(&Arc::from(from), kid, der::public_key(pem)?, algorithms)
    }

    /// What people know it by: the configuration's key.
    pub fn from(&self) -> &str {
        &self.0.from
    }

    pub fn kid(&self) -> Option<&str> {
        self.0.kid.as_deref()
    }

    pub fn algorithms(&self) -> &[Algorithm] {
        &self.0.algorithms
    }

    /// Whether `given` (base64url, and the same as bytes) is this key's signature of `message`.
    pub(super) fn fits(&self, algorithm: Algorithm, message: &[u8], given: &str, bytes: &[u8]) -> bool {
        if !self.0.algorithms.contains(&algorithm) {
            return false;
        }
        match (&self.0.verifier, algorithm.library()) {
            (Verifier::Library(key), Some(algorithm)) => crypto::verify(given, message, key, algorithm).unwrap_or(false),
            (Verifier::P521(key), None) => key.verify_sig(message, bytes).is_ok(),
            _ => false,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.0.from, self.0.kid, self.0.algorithms)
    }
}

/// `n` and `e` without leading zeros.
fn rsa_sound(n: &[u8], e: &[u8]) -> Result<(), String> {
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if bits < RSA_BITS_MIN {
        return Err(format!("is an RSA key of {bits} bits, at least {RSA_BITS_MIN} are needed"));
    }
    if bits > RSA_BITS_MAX {
        return Err(format!("is an RSA key of {bits} bits, at most {RSA_BITS_MAX} are taken"));
    }
    if n.last().is_none_or(|last| last % 2 == 0) {
        return Err("is an RSA key whose modulus is even".to_owned());
    }
    // With 1 every message is its own signature; an even one has no inverse; a long one costs a verifier much and nobody else.
    if e.len() > 4 || e.last().is_none_or(|last| last % 2 == 0) || e == [1] {
        return Err("is an RSA key whose public exponent is not odd, above 1 and below 2^32".to_owned());
    }
    if weak::is_roca(n) {
        return Err("is an RSA key of a generator that makes weak ones (CVE-2017-15361)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;

    use super::*;

    #[test]
    fn names_are_exact() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::named(algorithm.as_str()), Some(algorithm));
        }
        for name in ["none", "None", "hs256", "HS256 ", "", "ES256K", "RSA1_5", "A128KW"] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }

    #[test]
    fn an_empty_secret_makes_nobodys_signature_good() {
        let empty = Secret(Vec::new());
        let mac = crypto::sign(b"m", &EncodingKey::from_secret(b""), jsonwebtoken::Algorithm::HS256).unwrap();
        assert!(!mac_fits(Algorithm::Hs256, &empty, b"m", &mac));
    }

    #[test]
    fn exponents_and_sizes() {
        let mut n = vec![0xff; 256];
        assert_eq!(rsa_sound(&n, &[1, 0, 1]), Ok(()));
        assert_eq!(rsa_sound(&n, &[3]), Ok(()));
        for e in [&[][..], &[1], &[2], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
            assert!(rsa_sound(&n, e).unwrap_err().contains("exponent"), "{e:?}");
        }
        n[255] = 0xfe;
        assert!(rsa_sound(&n, &[3]).unwrap_err().contains("even"));
        n[0] = 0x7f;
        assert!(rsa_sound(&n, &[3]).unwrap_err().contains("2047 bits"));
        assert!(rsa_sound(&[0xff; 1025], &[3]).unwrap_err().contains("at most"));
        assert!(rsa_sound(&[], &[3]).unwrap_err().contains("of 0 bits"));
    }
}
