//! A token by itself: its signature and its claims, at a given time. No store, no clock.
//!
//! `jsonwebtoken` checks shape, algorithm and signature. The claims are read here: its own checks take the system's clock, round
//! times, skip what has the wrong type, and know neither `iat` nor `jti` nor integer user ids.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use super::{LEEWAY_MAX, Options, Principal, Refusal};

/// Longest token looked at, bytes; longer ones are refused unread.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Longest user id, user name, token id, bytes.
const NAME_BYTES_MAX: usize = 256;

/// The end of the year 9999, Unix seconds: what is beyond is no time in seconds, but perhaps one in milliseconds, and such a
/// token would never end.
const TIME_MAX_S: f64 = 253_402_300_799.0;

/// Checks a token at `now_ms` (Unix ms): shape, HS256/384/512, signature, `exp`, `nbf`, `iat`, `aud`, `iss`, `type`, and reads
/// whom it speaks for. The permissions are the token's and its roles'.
pub fn verify(options: &Options, token: &str, now_ms: u64) -> Result<Principal, Refusal> {
    let claims = signed_claims(&options.secret.0, token)?;
    principal(options, &claims, now_ms)
}

/// What a token says, unchecked: for `token inspect` only.
pub fn inspect(token: &str) -> Result<(Value, Value), Refusal> {
    shape(token)?;
    jsonwebtoken::decode_header(token).map_err(|error| unreadable_header(&error))?;
    let data = jsonwebtoken::dangerous::insecure_decode::<Value>(token)
        .map_err(|_| Refusal::invalid("the token's claims are not base64url of JSON"))?;
    let header = serde_json::to_value(data.header).map_err(|_| Refusal::invalid("the token's header cannot be read"))?;
    Ok((header, data.claims))
}

/// The crate's own texts may quote the token: all that is taken from them is the name of an algorithm.
fn unreadable_header(error: &jsonwebtoken::errors::Error) -> Refusal {
    let ErrorKind::Json(why) = error.kind() else {
        return Refusal::invalid("the token's header is not base64url of JSON");
    };
    let why = why.to_string();
    let named = why.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
    match named.filter(|name| name.len() <= 16 && name.bytes().all(|b| b.is_ascii_alphanumeric())) {
        Some(name) => Refusal::invalid(format!("the token's algorithm is {name}, none of HS256, HS384 and HS512")),
        None => Refusal::invalid("the token's header is not the JSON of a token's, with an algorithm of HS256, HS384 or HS512"),
    }
}

fn shape(token: &str) -> Result<(), Refusal> {
    if token.is_empty() {
        return Err(Refusal::missing());
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::invalid(format!("the token has {} bytes, at most {TOKEN_BYTES_MAX} are read", token.len())));
    }
    if token.bytes().filter(|b| *b == b'.').count() != 2 {
        return Err(Refusal::invalid("the token does not have three parts"));
    }
    Ok(())
}

fn signed_claims(secret: &[u8], token: &str) -> Result<Map<String, Value>, Refusal> {
    shape(token)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    validation.set_required_spec_claims::<&str>(&[]);
    validation.validate_exp = false;
    validation.validate_aud = false;
    let key = DecodingKey::from_secret(secret);
    let data = match jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation) {
        Ok(data) => data,
        Err(error) => return Err(unverified(token, &error)),
    };
    understood(&data.header)?;
    Ok(data.claims)
}

/// RFC 7515 §4.1.11: what must be understood and is not makes a token invalid; `b64` (RFC 7797) is one of those.
fn understood(header: &jsonwebtoken::Header) -> Result<(), Refusal> {
    if header.crit.is_some() {
        return Err(Refusal::invalid("the token's header has critical extensions"));
    }
    Ok(())
}

/// What is wrong with a token, its header first. The crate's own texts may quote the token, so they stay inside.
fn unverified(token: &str, error: &jsonwebtoken::errors::Error) -> Refusal {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| Refusal::invalid("the token's header cannot be read, or its algorithm is none of HS256, HS384 and HS512"));
    if let Err(refusal) = header.and_then(|header| understood(&header)) {
        return refusal;
    }
    match error.kind() {
        ErrorKind::InvalidSignature => Refusal::invalid("the token's signature is not ours"),
        ErrorKind::InvalidAlgorithm => Refusal::invalid("the token's algorithm is none of HS256, HS384 and HS512"),
        ErrorKind::Json(_) => Refusal::invalid("the token's claims cannot be read"),
        _ => Refusal::invalid("the token cannot be read"),
    }
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
    // A filter narrows what its bearer may see. Not being able to apply it must not widen that.
    if member(claims, "filter").is_some() {
        return Err(Refusal::forbidden("the token has a `filter`, which this version cannot apply"));
    }

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
        expires_at_ms,
        issued_at_ms,
        jti,
        roles,
    };
    let by_role: Vec<String> =
        principal.roles.iter().filter_map(|role| options.roles.get(&role.trim().to_uppercase())).flatten().cloned().collect();
    principal.grant(by_role);
    principal.grant(texts(claims, "permissions")?);
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
