//! Public keys in PEM: SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), read by hand, for three kinds of keys and no more.

use rustls::pki_types::pem::{PemObject, SectionKind};

use super::{Curve, Material};

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;

/// The one public key in a PEM text. The error goes on after the key's name.
pub(super) fn public_key(pem: &str) -> Result<Material, String> {
    let mut found = None;
    for section in Section::pem_slice_iter(pem.as_bytes()) {
        let Ok(section) = section else { return Err("is no PEM that can be read".to_owned()) };
        if found.replace(section).is_some() {
            return Err("has more than one key in it, which a JWKS is for".to_owned());
        }
    }
    match found {
        Some(Section(SectionKind::PublicKey, der)) => {
            spki(&der).ok_or_else(|| "is no public key of RSA, P-256, P-384, P-521 or Ed25519".to_owned())
        }
        Some(Section(SectionKind::Certificate, _)) => {
            Err("is a certificate; its key alone is wanted: openssl x509 -in CERT -noout -pubkey".to_owned())
        }
        Some(Section(SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
            Err("is a private key, which must not leave whoever signs; make the public one: openssl pkey -in KEY -pubout"
                .to_owned())
        }
        _ => Err("is no PEM with a PUBLIC KEY in it".to_owned()),
    }
}

struct Section(SectionKind, Vec<u8>);

impl PemObject for Section {
    fn from_pem(kind: SectionKind, der: Vec<u8>) -> Option<Section> {
        Some(Section(kind, der))
    }
}

fn spki(der: &[u8]) -> Option<Material> {
    let mut outer = Der(der);
    let mut info = Der(outer.take(SEQUENCE)?);
    let mut algorithm = Der(info.take(SEQUENCE)?);
    // The bit string's first byte says how many bits of the last are unused.
    let (unused, key) = info.take(BIT_STRING)?.split_first()?;
    if *unused != 0 || !info.0.is_empty() || !outer.0.is_empty() {
        return None;
    }
    let kind = algorithm.take(OID)?;
    if kind == RSA {
        let mut key = Der(key);
        let mut inner = Der(key.take(SEQUENCE)?);
        let (n, e) = (inner.take(INTEGER)?, inner.take(INTEGER)?);
        // The first bit is the sign.
        let is_positive = |number: &[u8]| number.first().is_some_and(|first| first & 0x80 == 0);
        let whole = inner.0.is_empty() && key.0.is_empty() && is_positive(n) && is_positive(e);
        whole.then(|| Material::Rsa { n: n.to_vec(), e: e.to_vec() })
    } else if kind == EC {
        let curve = match algorithm.take(OID)? {
            curve if curve == P256 => Curve::P256,
            curve if curve == P384 => Curve::P384,
            curve if curve == P521 => Curve::P521,
            _ => return None,
        };
        let whole = key.len() == 2 * curve.bytes() + 1 && key.first() == Some(&4);
        whole.then(|| Material::Ec(curve, key.to_vec()))
    } else if kind == ED25519 {
        (key.len() == 32).then(|| Material::Ed25519(key.to_vec()))
    } else {
        None
    }
}

/// What is left to read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it is of this kind.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == tag).then_some(content)
    }
}
