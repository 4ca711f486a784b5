//! The compact form of a signature (RFC 7515 §7.1): three parts in base64url, and which key may have made the last of them.
//!
//! `jsonwebtoken` signs and verifies. The parts are read here: its own reading takes one key and the header's algorithm, and its
//! errors quote the token.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::{
    Options, Refusal,
    key::{self, Algorithm, Key},
    token::TOKEN_BYTES_MAX,
};

/// A token taken apart; nothing of it is believed yet.
pub(super) struct Jws<'t> {
    pub(super) header: Map<String, Value>,
    algorithm: Option<Algorithm>,
    /// What is signed: the first two parts, as they were sent.
    message: &'t str,
    claims: &'t str,
    signature: &'t str,
}

impl<'t> Jws<'t> {
    pub(super) fn read(token: &'t str) -> Result<Jws<'t>, Refusal> {
        if token.is_empty() {
            return Err(Refusal::missing());
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::invalid(format!("the token has {} bytes, at most {TOKEN_BYTES_MAX} are read", token.len())));
        }
        let parts = token.rsplit_once('.').and_then(|(message, signature)| Some((message, message.split_once('.')?, signature)));
        let Some((message, (header, claims), signature)) = parts.filter(|(_, (_, claims), _)| !claims.contains('.')) else {
            return Err(Refusal::invalid("the token does not have three parts"));
        };
        let read: Option<Value> = decode(header).and_then(|json| serde_json::from_slice(&json).ok());
        let header = match read {
            Some(Value::Object(header)) => header,
            _ => return Err(Refusal::invalid("the token's header is not base64url of JSON")),
        };
        // RFC 7515 §4.1.11: what must be understood and is not makes a token invalid; `b64` (RFC 7797) is one of those.
        if header.contains_key("crit") {
            return Err(Refusal::invalid("the token's header has critical extensions"));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
        Ok(Jws { header, algorithm, message, claims, signature })
    }

    fn kid(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// The key that made the signature, as people know it. A key that the token names by `kid` is the only one looked at, with all
    /// others of that name; where none has it, those that have no name are. Any other token may be of any key.
    pub(super) fn verified_by<'k>(&self, options: &'k Options) -> Result<Cow<'k, str>, Refusal> {
        let Some(algorithm) = self.algorithm else { return Err(self.unknown_algorithm()) };
        if self.header.get("kid").is_some_and(|kid| !kid.is_string()) {
            return Err(Refusal::invalid("the token's `kid` is no text"));
        }
        let kid = self.kid();
        let is_named = kid.is_some() && options.keys.iter().any(|key| key.kid() == kid);
        let may_be = |key: &&Key| match kid {
            None => true,
            Some(_) if is_named => key.kid() == kid,
            Some(_) => key.kid().is_none(),
        };
        let signature = decode(self.signature).ok_or_else(|| Refusal::invalid("the token's signature is not base64url"))?;
        let message = self.message.as_bytes();
        let mut does = false;
        if algorithm.is_hmac() && !is_named {
            does = true;
            if key::mac_fits(algorithm, &options.secret, message, self.signature) {
                return Ok("auth.secret".into());
            }
            for (n, secret) in options.previous_secrets.iter().enumerate() {
                if key::mac_fits(algorithm, secret, message, self.signature) {
                    return Ok(format!("auth.previous_secrets[{n}]").into());
                }
            }
        }
        for key in options.keys.iter().filter(may_be) {
            does |= key.algorithms().contains(&algorithm);
            if key.fits(algorithm, message, self.signature, &signature) {
                return Ok(key.from().into());
            }
        }
        Err(if does {
            Refusal::invalid("the token's signature is not ours")
        } else if kid.is_some() && !is_named {
            Refusal::invalid(format!("the token is signed with {} by a key (`kid`) that is not known here", algorithm.as_str()))
        } else {
            Refusal::invalid(format!("the token's algorithm is {}, which no key here does for it", algorithm.as_str()))
        })
    }

    pub(super) fn names_unknown_key(&self, options: &Options) -> bool {
        let kid = self.kid();
        kid.is_some()
            && self.algorithm.is_some_and(|algorithm| !algorithm.is_hmac())
            && !options.keys.iter().any(|key| key.kid() == kid)
    }

    /// All that is told of a foreign name is what can be one.
    fn unknown_algorithm(&self) -> Refusal {
        let named = self.header.get("alg").and_then(Value::as_str);
        match named.filter(|name| (1..=16).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())) {
            Some(name) => Refusal::invalid(format!("the token's algorithm is {name}, which is not taken here")),
            None => Refusal::invalid("the token's header has no algorithm that is known here"),
        }
    }

    /// Only worth something once the token is [verified](Jws::verified_by).
    pub(super) fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        let json = decode(self.claims).ok_or_else(|| Refusal::invalid("the token's claims are not base64url"))?;
        match serde_json::from_slice(&json) {
            Ok(Value::Object(claims)) => Ok(claims),
            _ => Err(Refusal::invalid("the token's claims cannot be read")),
        }
    }

    pub(super) fn any_claims(&self) -> Option<Value> {
        serde_json::from_slice(&decode(self.claims)?).ok()
    }
}

/// The claims signed with `secret`, HS256.
pub(super) fn sign(secret: &super::Secret, claims: &Map<String, Value>) -> Option<String> {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_secret(&secret.0)).ok()
}

/// RFC 7515 §2: no padding, no other characters, and no bits left over.
fn decode(part: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(part.as_bytes()).ok()
}
