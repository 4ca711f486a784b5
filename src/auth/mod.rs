//! Who may look: tokens, permissions, revocation (contract §10).

use std::{collections::BTreeMap, fmt, time::Duration};

/// Key material that is never shown: not by `Debug`, not in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `[auth]` and A's and B's variables.
#[derive(Clone, Debug)]
pub struct Options {
    /// `JWT_SECRET_KEY`, at least 32 bytes.
    pub secret: Secret,
    /// `JWT_EXPIRATION_HOURS`: tokens older than this, by `iat`, are refused.
    pub max_age: Duration,
    /// At connect only; at most 60 s.
    pub leeway: Duration,
    /// `aud` and `iss` wanted, where configured.
    pub audience: Option<String>,
    pub issuer: Option<String>,
    /// Role (upper case) → permissions; A's table by default.
    pub roles: BTreeMap<String, Vec<String>>,
}
