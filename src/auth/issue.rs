//! Tokens of auditcast's own.

use std::{fmt, time::Duration};

use serde_json::{Map, Value};

use super::{Options, jws};
use crate::wire::Sight;

/// Whom a token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub user_id: String,
    pub username: Option<String>,
    pub role: Option<String>,
    pub permissions: Vec<String>,
    /// What of alerts and events its bearer sees at all; `None`: everything.
    pub sight: Option<Sight>,
    /// How long it is good; at least a second, at most [`Options::max_age`] is worth anything.
    pub ttl: Duration,
    /// Unix ms.
    pub now_ms: u64,
    /// The token's id; `None` makes one of 128 random bits.
    pub jti: Option<String>,
}

/// Why no token could be made.
#[derive(Debug, PartialEq, Eq)]
pub enum IssueError {
    NoUser,
    NoTime,
    NoRandomness,
    Signing,
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IssueError::NoUser => "a token needs a user id",
            IssueError::NoTime => "a token must be good for at least a second and end before the year 10000",
            IssueError::NoRandomness => "the system gave no random bytes",
            IssueError::Signing => "the token could not be signed",
        })
    }
}

impl std::error::Error for IssueError {}

/// Signs a token (HS256) with the claims of contract §10: `sub` and `user_id`, `username`, `role`, `permissions`, `type`,
/// `jti`, `iat`, `exp`; `aud` and `iss` where they are wanted here, or it would be refused by who made it.
pub fn issue(options: &Options, claims: &Claims) -> Result<String, IssueError> {
    if claims.user_id.is_empty() {
        return Err(IssueError::NoUser);
    }
    let iat = claims.now_ms / 1000;
    let exp = iat.checked_add(claims.ttl.as_secs()).filter(|exp| (iat + 1..=253_402_300_799).contains(exp));
    let exp = exp.ok_or(IssueError::NoTime)?;
    let jti = match &claims.jti {
        Some(jti) => jti.clone(),
        None => random_id()?,
    };
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    put("sub", claims.user_id.clone().into());
    put("user_id", claims.user_id.clone().into());
    if let Some(username) = &claims.username {
        put("username", username.clone().into());
    }
    if let Some(role) = &claims.role {
        put("role", role.clone().into());
    }
    if let Some(sight) = &claims.sight {
        put("filter", sight.to_claim());
    }
    put("permissions", claims.permissions.clone().into());
    put("type", "access".into());
    put("jti", jti.into());
    put("iat", iat.into());
    put("exp", exp.into());
    if let Some(audience) = &options.audience {
        put("aud", audience.clone().into());
    }
    if let Some(issuer) = &options.issuer {
        put("iss", issuer.clone().into());
    }
    jws::sign(&options.secret, &body).ok_or(IssueError::Signing)
}

/// 128 random bits, hexadecimal.
pub(super) fn random_id() -> Result<String, IssueError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| IssueError::NoRandomness)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
