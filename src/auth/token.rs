//! A token by itself: its signature and its claims, at a given time. No store, no clock.
//!
//! Signatures are aws-lc's; the shape is read here ([`jws`](super::jws)), as are the claims: integer user ids count, what has the
//! wrong type refuses, and time is a parameter.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

use super::{LEEWAY_MAX, Options, Principal, Refusal, jws};
use crate::wire::Sight;

/// Longest token looked at, bytes; longer ones are refused unread.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Longest user id, user name, token id, bytes.
const NAME_BYTES_MAX: usize = 256;

/// The end of the year 9999, Unix seconds: what is beyond is no time in seconds, but perhaps one in milliseconds, and such a
/// token would never end.
const TIME_MAX_S: f64 = 253_402_300_799.0;

/// Checks a token at `now_ms` (Unix ms): shape, algorithm, signature, `exp`, `nbf`, `iat`, `aud`, `iss`, `type`, and reads whom it
/// speaks for. The permissions are the token's and its roles'.
pub fn verify(options: &Options, token: &str, now_ms: u64) -> Result<Principal, Refusal> {
    let jws = jws::Jws::read(token)?;
    jws.verified_by(options)?;
    principal(options, &jws.claims()?, now_ms)
}

/// Which of the keys signed a token, as people know it (`auth.secret`, `auth.keys.idp`).
pub fn signed_by<'k>(options: &'k Options, token: &str) -> Result<Cow<'k, str>, Refusal> {
    jws::Jws::read(token)?.verified_by(options)
}

/// Whether a token names a key (`kid`) that none here has, so that looking again for keys may help.
pub fn names_unknown_key(options: &Options, token: &str) -> bool {
    jws::Jws::read(token).is_ok_and(|jws| jws.names_unknown_key(options))
}

/// What a token says, unchecked: for `token inspect` only.
pub fn inspect(token: &str) -> Result<(Value, Value), Refusal> {
    let jws = jws::Jws::read(token)?;
    let claims = jws.any_claims().ok_or_else(|| Refusal::invalid("the token's claims are not base64url of JSON"))?;
    Ok((Value::Object(jws.header), claims))
}

/// A member that is there and not null.
fn member<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).filter(|value| !value.is_null())
}

fn principal(options: &Options, claims: &Map<String, Value>, now_ms: u64) -> Result<Principal, Refusal> {
    let leeway_ms = options.leeway.min(LEEWAY_MAX).as_millis() as u64;

    let expires_at_ms = time(claims, "exp")?.ok_or_else(|| Refusal::invalid("the token has no `exp`"))?;
    if expires_at_ms.saturating_add(leeway_ms) <= now_ms {
        return Err(Refusal::expired("the token has expired"));
    }
    if time(claims, "nbf")?.is_some_and(|nbf| nbf > now_ms.saturating_add(leeway_ms)) {
        return Err(Refusal::invalid("the token is not valid yet"));
    }
    let issued_at_ms = time(claims, "iat")?;
    if let Some(iat) = issued_at_ms {
        // Taken as it stands, an `iat` in the future would outlive the maximum age.
        if iat > now_ms.saturating_add(LEEWAY_MAX.as_millis() as u64) {
            return Err(Refusal::invalid("the token's `iat` is in the future"));
        }
        let max_age_ms = u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX);
        if iat.saturating_add(max_age_ms).saturating_add(leeway_ms) < now_ms {
            return Err(Refusal::expired("the token has expired: it is older than tokens may be here"));
        }
    }

    match member(claims, "type") {
        None => {}
        Some(Value::String(kind)) if kind == "access" => {}
        Some(_) => return Err(Refusal::invalid("the token's `type` is not `access`")),
    }
    audience(options, claims)?;
    if let Some(wanted) = &options.issuer
        && member(claims, "iss").and_then(Value::as_str) != Some(wanted)
    {
        return Err(Refusal::invalid("the token is from another issuer"));
    }
    // A filter narrows what its bearer may see. Not being able to read it must not widen that.
    let sight = member(claims, "filter").map(Sight::from_claim).transpose();
    let sight = sight.map_err(|text| Refusal::forbidden(format!("the token's `filter` {text}")))?;

    let user_id = match name(claims, "user_id")? {
        Some(id) => id,
        None => name(claims, "sub")?.ok_or_else(|| Refusal::invalid("the token has neither `user_id` nor `sub`"))?,
    };
    let jti = match name(claims, "jti")? {
        Some(jti) => Some(jti),
        None => name(claims, "token_id")?,
    };
    let mut roles = texts(claims, "role")?;
    roles.extend(texts(claims, "roles")?);
    let mut principal = Principal {
        user_id,
        username: name(claims, "username")?,
        permissions: Vec::new(),
        claimed: Vec::new(),
        granted: Vec::new(),
        expires_at_ms,
        issued_at_ms,
        jti,
        sight: sight.filter(|sight| !sight.is_everything()).map(Arc::new),
        roles,
    };
    let by_role: Vec<String> =
        principal.roles.iter().filter_map(|role| options.roles.get(&role.trim().to_uppercase())).flatten().cloned().collect();
    principal.grant(by_role);
    principal.grant(texts(claims, "permissions")?);
    principal.claimed.clone_from(&principal.permissions);
    Ok(principal)
}

/// RFC 7519 §4.1.3: a token for somebody is refused by everybody else, also by who has no name.
fn audience(options: &Options, claims: &Map<String, Value>) -> Result<(), Refusal> {
    let fits = match (member(claims, "aud"), &options.audience) {
        (None, None) => true,
        (Some(Value::String(one)), Some(wanted)) => one == wanted,
        (Some(Value::Array(many)), Some(wanted)) => many.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Refusal::invalid("the token is for another audience")) }
}

/// A NumericDate as Unix ms: seconds, whole or not.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = member(claims, name) else { return Ok(None) };
    let seconds = match value {
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        _ => f64::NAN,
    };
    if (0.0..=TIME_MAX_S).contains(&seconds) {
        Ok(Some((seconds * 1000.0) as u64))
    } else {
        Err(Refusal::invalid(format!("the token's `{name}` is not a time in Unix seconds")))
    }
}

/// A text or an integer, as text.
fn name(claims: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    let text = match member(claims, name) {
        None => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(_) => return Err(Refusal::invalid(format!("the token's `{name}` is neither text nor an integer"))),
    };
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(Refusal::invalid(format!("the token's `{name}` is not of 1 to {NAME_BYTES_MAX} bytes")));
    }
    Ok(Some(text))
}

/// A text, or an array of texts.
fn texts(claims: &Map<String, Value>, name: &str) -> Result<Vec<String>, Refusal> {
    let bad = || Refusal::invalid(format!("the token's `{name}` is neither text nor an array of texts"));
    match member(claims, name) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(bad)).collect(),
        Some(_) => Err(bad()),
    }
}
