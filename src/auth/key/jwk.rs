//! Keys as JSON (RFC 7517): a set of them, from a file or from whoever signs.

use std::{fmt, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::{Algorithm, Curve, KEYS_MAX, Key, Material};

/// What a set of keys has in it.
#[derive(Clone, Debug, Default)]
pub struct Jwks {
    pub keys: Vec<Key>,
    /// Keys that are there and cannot be used, and why: weak, broken, or one too many of a name.
    pub faults: Vec<KeyFault>,
    /// Keys for something else than tokens' signatures, or of a kind unknown here: every provider may have some.
    pub other: usize,
}

/// A key of a set that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFault {
    /// From 0.
    pub index: usize,
    /// Goes on after the key's name; nothing of the key is in it.
    pub text: String,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} of it {}", self.index + 1, self.text)
    }
}

enum Read {
    Key(Key),
    Other,
}

impl Jwks {
    /// Reads a set. `algorithms`: what its keys may do; empty: what each says of itself, else what is usual. `secrets`: whether it
    /// may hold secrets (`oct`), which nobody should publish.
    ///
    /// # Errors
    ///
    /// It is no set of keys, or it mixes secrets with public keys; one sentence that goes on after the set's name.
    pub fn read(from: &str, text: &str, algorithms: &[Algorithm], secrets: bool) -> Result<Jwks, String> {
        let not_a_set = || "is no JSON object with a list `keys`".to_owned();
        let set: Value = serde_json::from_str(text).map_err(|_| not_a_set())?;
        let list = set.get("keys").and_then(Value::as_array).ok_or_else(not_a_set)?;
        if list.len() > KEYS_MAX {
            return Err(format!("has {} keys, at most {KEYS_MAX} are taken", list.len()));
        }
        let mut read = Jwks::default();
        for (index, jwk) in list.iter().enumerate() {
            let name: Arc<str> = Arc::from(from);
            let key = match jwk.as_object().ok_or_else(|| "is no JSON object".to_owned()).and_then(|j| one(&name, j, algorithms))
            {
                Ok(Read::Key(key)) => key,
                Ok(Read::Other) => {
                    read.other += 1;
                    continue;
                }
                Err(text) => {
                    read.faults.push(KeyFault { index, text });
                    continue;
                }
            };
            let fault = if key.algorithms().iter().all(|a| a.is_hmac()) && !secrets {
                Some("is a secret, and was published")
            } else if key.kid().is_some() && read.keys.iter().any(|other| other.kid() == key.kid()) {
                Some("has the same `kid` as another")
            } else {
                None
            };
            match fault {
                Some(text) => read.faults.push(KeyFault { index, text: text.to_owned() }),
                None => read.keys.push(key),
            }
        }
        let secret = |key: &Key| key.algorithms().iter().any(|a| a.is_hmac());
        if read.keys.iter().any(secret) && !read.keys.iter().all(secret) {
            return Err("mixes secrets with public keys".to_owned());
        }
        Ok(read)
    }
}

/// One key of a set. `Err` goes on after the key's name.
fn one(from: &Arc<str>, jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Read, String> {
    let text = |name: &str| -> Result<Option<&str>, String> {
        match jwk.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("has a `{name}` that is no text")),
        }
    };
    if text("use")?.is_some_and(|purpose| purpose != "sig") {
        return Ok(Read::Other);
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(Value::Array(_)) => return Ok(Read::Other),
        Some(_) => return Err("has a `key_ops` that is no list".to_owned()),
    }
    let bytes = |name: &str| -> Result<Vec<u8>, String> {
        let wrong = || format!("has no `{name}` in base64url");
        BASE64URL_NOPAD.decode(text(name)?.ok_or_else(wrong)?.as_bytes()).map_err(|_| wrong())
    };
    let material = match text("kty")? {
        Some("RSA") => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
        Some("EC") => {
            let curve = match text("crv")? {
                Some("P-256") => Curve::P256,
                Some("P-384") => Curve::P384,
                Some("P-521") => Curve::P521,
                _ => return Ok(Read::Other),
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != curve.bytes() || y.len() != curve.bytes() {
                return Err("has coordinates of another length than its curve's".to_owned());
            }
            Material::Ec(curve, [&[4], &x[..], &y[..]].concat())
        }
        Some("OKP") if text("crv")? == Some("Ed25519") => {
            let x = bytes("x")?;
            if x.len() != 32 {
                return Err("has an `x` of another length than 32 bytes".to_owned());
            }
            Material::Ed25519(x)
        }
        Some("oct") => Material::Secret(bytes("k")?),
        Some(_) => return Ok(Read::Other),
        None => return Err("has no `kty`".to_owned()),
    };
    let own = match text("alg")? {
        None => None,
        Some(name) => match Algorithm::named(name) {
            Some(algorithm) => Some(algorithm),
            // For something else, or misspelt: it does nothing that is known here.
            None => return Ok(Read::Other),
        },
    };
    if let Some(own) = own
        && !material.can().contains(&own)
    {
        return Err(format!("says {}, which its kind of key does not do", own.as_str()));
    }
    let does: Vec<Algorithm> = match own {
        // The older and the newer name of one thing.
        Some(Algorithm::EdDsa | Algorithm::Ed25519) => Algorithm::ED25519.to_vec(),
        Some(own) => vec![own],
        None if algorithms.is_empty() => material.usual().to_vec(),
        None => material.can().to_vec(),
    };
    let does: Vec<Algorithm> = does.into_iter().filter(|a| algorithms.is_empty() || algorithms.contains(a)).collect();
    if does.is_empty() {
        return Ok(Read::Other);
    }
    if matches!(material, Material::Secret(_)) && own.is_none() {
        return Err("is a secret without `alg`".to_owned());
    }
    let kid = text("kid")?.map(str::to_owned);
    Ok(Read::Key(Key::new(from, kid, material, &does)?))
}
