//! What is proved: which tokens speak for somebody and which do not (contract §10), by claims, by shape, by key. Nothing here needs
//! a store; `tests/auth_store.rs` has the rest, `tests/auth_wycheproof.rs` vectors from elsewhere.

use std::{collections::BTreeMap, time::Duration};

use auditcast::auth::{Claims, Options, Refusal, RefusalKind, Secret, issue, token};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
const NOW_S: u64 = 1_700_000_000;
const NOW_MS: u64 = NOW_S * 1000;

fn options() -> Options {
    Options::new(Secret(SECRET.as_bytes().to_vec()))
}

fn sign(claims: &Value, algorithm: Algorithm) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// The base claims with `changes` laid over them; `null` takes a claim away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"user_id": "7", "role": "admin", "exp": NOW_S + 600});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn verify(changes: Value) -> Result<auditcast::auth::Principal, Refusal> {
    token::verify(&options(), &sign(&claims(changes), Algorithm::HS256), NOW_MS)
}

#[track_caller]
fn refused(changes: Value, kind: RefusalKind, word: &str) {
    let refusal = verify(changes.clone()).expect_err(&changes.to_string());
    assert_eq!(refusal.kind, kind, "{changes}: {refusal}");
    assert!(refusal.text.contains(word), "{changes}: {refusal}");
}

#[test]
fn every_hmac_algorithm_and_no_other() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = sign(&claims(json!({})), algorithm);
        assert_eq!(token::verify(&options(), &token, NOW_MS).unwrap().user_id, "7");
    }
    let good = sign(&claims(json!({})), Algorithm::HS256);
    let parts: Vec<&str> = good.split('.').collect();
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"RS256"}"#, r#"{"alg":"hs256"}"#, r#"{}"#, r#"{"alg":"ES256"}"#, "[]"] {
        for signature in [parts[2], ""] {
            let token = format!("{}.{}.{signature}", base64(header.as_bytes()), parts[1]);
            let refusal = token::verify(&options(), &token, NOW_MS).expect_err(header);
            assert_eq!(refusal.kind, RefusalKind::Invalid, "{header}");
        }
    }
}

#[test]
fn what_must_be_understood_and_is_not_refuses() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let token = jsonwebtoken::encode(&header, &claims(json!({})), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    assert!(token::verify(&options(), &token, NOW_MS).is_err_and(|refusal| refusal.text.contains("critical")));
}

#[test]
fn what_is_no_token_is_refused_unread() {
    for (token, kind) in [
        (String::new(), RefusalKind::Missing),
        ("a".to_owned(), RefusalKind::Invalid),
        ("a.b".to_owned(), RefusalKind::Invalid),
        ("a.b.c".to_owned(), RefusalKind::Invalid),
        ("a.b.c.d".to_owned(), RefusalKind::Invalid),
        ("..".to_owned(), RefusalKind::Invalid),
        ("ä.ö.ü".to_owned(), RefusalKind::Invalid),
        (format!("{}.b.c", "a".repeat(9000)), RefusalKind::Invalid),
    ] {
        assert_eq!(token::verify(&options(), &token, NOW_MS).unwrap_err().kind, kind, "{token:.20}");
    }
    let huge = sign(&claims(json!({"padding": "x".repeat(8 * 1024)})), Algorithm::HS256);
    assert!(token::verify(&options(), &huge, NOW_MS).is_err_and(|refusal| refusal.text.contains("at most 8192")));
    let other = jsonwebtoken::encode(&Header::default(), &claims(json!({})), &EncodingKey::from_secret(b"another")).unwrap();
    assert!(token::verify(&options(), &other, NOW_MS).is_err_and(|refusal| refusal.text.contains("signature")));
    for body in [json!([]), json!("text"), json!(7), json!(null)] {
        assert_eq!(token::verify(&options(), &sign(&body, Algorithm::HS256), NOW_MS).unwrap_err().kind, RefusalKind::Invalid);
    }
}

#[test]
fn exp_is_needed_and_ends_with_the_leeway() {
    refused(json!({"exp": null}), RefusalKind::Invalid, "`exp`");
    refused(json!({"exp": NOW_S - 10}), RefusalKind::Expired, "expired");
    assert_eq!(verify(json!({"exp": NOW_S - 9})).unwrap().expires_at_ms, NOW_MS - 9000, "but the connection ends at exp");
    assert_eq!(verify(json!({"exp": NOW_S as f64 + 0.5})).unwrap().expires_at_ms, NOW_MS + 500);
    for bad in [json!("1800000000"), json!(-1), json!(true), json!(1e30), json!(u64::MAX), json!(NOW_MS * 1000)] {
        refused(json!({"exp": bad}), RefusalKind::Invalid, "not a time");
    }
    assert_eq!(verify(json!({"exp": [NOW_S + 600]})).unwrap_err().kind, RefusalKind::Invalid);
    let beyond = format!(r#"{{"user_id":"7","exp":{}}}"#, "9".repeat(400));
    let message = format!("{}.{}", base64(br#"{"alg":"HS256"}"#), base64(beyond.as_bytes()));
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256).unwrap();
    assert_eq!(token::verify(&options(), &format!("{message}.{signature}"), NOW_MS).unwrap_err().kind, RefusalKind::Invalid);
}

#[test]
fn leeway_has_a_limit() {
    let options = Options { leeway: Duration::from_secs(3600), ..options() };
    let at = |exp: u64| token::verify(&options, &sign(&claims(json!({"exp": exp})), Algorithm::HS256), NOW_MS);
    assert!(at(NOW_S - 59).is_ok());
    assert!(at(NOW_S - 60).is_err());
}

#[test]
fn nbf_and_iat() {
    assert!(verify(json!({"nbf": NOW_S + 10})).is_ok());
    refused(json!({"nbf": NOW_S + 11}), RefusalKind::Invalid, "not valid yet");
    refused(json!({"nbf": "soon"}), RefusalKind::Invalid, "`nbf`");
    assert_eq!(verify(json!({"iat": NOW_S - 5})).unwrap().issued_at_ms, Some(NOW_MS - 5000));
    assert!(verify(json!({"iat": NOW_S - 24 * 3600})).is_ok());
    refused(json!({"iat": NOW_S - 24 * 3600 - 11}), RefusalKind::Expired, "older");
    refused(json!({"iat": NOW_S + 3600}), RefusalKind::Invalid, "future");
    refused(json!({"iat": "x"}), RefusalKind::Invalid, "`iat`");
}

#[test]
fn whom_it_speaks_for() {
    let user = |changes: Value| verify(changes).unwrap().user_id;
    assert_eq!(user(json!({"user_id": 42})), "42");
    assert_eq!(user(json!({"user_id": "a", "sub": "b"})), "a");
    assert_eq!(user(json!({"user_id": null, "sub": "b"})), "b");
    assert_eq!(user(json!({"user_id": null, "sub": 9_007_199_254_740_993_u64})), "9007199254740993");
    refused(json!({"user_id": null}), RefusalKind::Invalid, "`user_id`");
    for bad in [json!(""), json!(1.5), json!([1]), json!({"id": 1}), json!("x".repeat(257)), json!(true)] {
        refused(json!({"user_id": bad, "sub": "b"}), RefusalKind::Invalid, "`user_id`");
    }
    assert_eq!(verify(json!({"username": "eve"})).unwrap().username.as_deref(), Some("eve"));
    assert_eq!(verify(json!({"jti": "j", "token_id": "t"})).unwrap().jti.as_deref(), Some("j"));
    assert_eq!(verify(json!({"token_id": "t"})).unwrap().jti.as_deref(), Some("t"));
    assert_eq!(verify(json!({})).unwrap().jti, None);
    refused(json!({"jti": ["j"]}), RefusalKind::Invalid, "`jti`");
}

#[test]
fn type_audience_issuer_filter() {
    assert!(verify(json!({"type": "access"})).is_ok());
    refused(json!({"type": "refresh"}), RefusalKind::Invalid, "`type`");
    refused(json!({"type": 1}), RefusalKind::Invalid, "`type`");
    refused(json!({"aud": "somebody"}), RefusalKind::Invalid, "audience");
    refused(json!({"filter": "severity >= high"}), RefusalKind::Forbidden, "filter");
    let options = Options { audience: Some("us".into()), issuer: Some("idp".into()), ..options() };
    for (aud, iss, fits) in [
        (json!("us"), json!("idp"), true),
        (json!(["them", "us"]), json!("idp"), true),
        (json!("them"), json!("idp"), false),
        (json!([]), json!("idp"), false),
        (json!([1]), json!("idp"), false),
        (json!(null), json!("idp"), false),
        (json!("us"), json!("other"), false),
        (json!("us"), json!(null), false),
        (json!("us"), json!(["idp"]), false),
    ] {
        let token = sign(&claims(json!({"aud": aud, "iss": iss})), Algorithm::HS256);
        assert_eq!(token::verify(&options, &token, NOW_MS).is_ok(), fits, "{aud} {iss}");
    }
}

#[test]
fn permissions_are_a_union() {
    let principal = verify(json!({"role": null})).unwrap();
    assert!(principal.permissions.is_empty() && !principal.may_see() && !principal.may_act() && !principal.may_write());
    for role in ["admin", "ADMIN", "Admin"] {
        let admin = verify(json!({"role": role})).unwrap();
        assert!(admin.may_see() && admin.may_act() && !admin.may_write(), "{role}");
    }
    let observer = verify(json!({"role": "OBSERVER"})).unwrap();
    assert!(!observer.may_see());
    let observer = verify(json!({"role": "observer", "permissions": ["audit.view"]})).unwrap();
    assert!(observer.may_see() && !observer.may_act());
    assert_eq!(observer.permissions, ["audit.view", "data.view", "session.view"]);
    let several = verify(json!({"role": "nobody", "roles": ["observer", "researcher"], "permissions": "audit.write"})).unwrap();
    assert!(several.has("agent.manage") && several.has("data.view") && several.may_write());
    refused(json!({"permissions": [1]}), RefusalKind::Invalid, "`permissions`");
    refused(json!({"role": {"name": "admin"}}), RefusalKind::Invalid, "`role`");
}

#[test]
fn what_we_issue_we_take() {
    let options = Options { audience: Some("us".into()), issuer: Some("idp".into()), ..options() };
    let claims = Claims {
        user_id: "ops".into(),
        username: Some("Ops".into()),
        role: Some("admin".into()),
        permissions: vec!["audit.write".into()],
        ttl: Duration::from_secs(3600),
        now_ms: NOW_MS,
        sight: None,
        jti: None,
    };
    let token = issue::issue(&options, &claims).unwrap();
    let principal = token::verify(&options, &token, NOW_MS).unwrap();
    assert_eq!((principal.user_id.as_str(), principal.username.as_deref()), ("ops", Some("Ops")));
    assert_eq!(principal.expires_at_ms, NOW_MS + 3_600_000);
    assert!(principal.may_see() && principal.may_write());
    assert_eq!(principal.jti.as_deref().map(str::len), Some(32));
    let other = token::verify(&options, &issue::issue(&options, &claims).unwrap(), NOW_MS).unwrap();
    assert_ne!(principal.jti, other.jti);
    let (header, body) = token::inspect(&token).unwrap();
    assert_eq!(header["alg"], "HS256");
    for (name, value) in [
        ("sub", json!("ops")),
        ("user_id", json!("ops")),
        ("type", json!("access")),
        ("iat", json!(NOW_S)),
        ("exp", json!(NOW_S + 3600)),
    ] {
        assert_eq!(body[name], value, "{name}");
    }
    for bad in [Claims { ttl: Duration::ZERO, ..claims.clone() }, Claims { user_id: String::new(), ..claims.clone() }] {
        assert!(issue::issue(&options, &bad).is_err());
    }
}

#[test]
fn refusals_say_nothing_of_the_secret_and_have_their_numbers() {
    let numbers: BTreeMap<&str, (u16, u16)> =
        RefusalKind::ALL.iter().map(|kind| (kind.as_str(), (kind.http_status(), kind.close_code()))).collect();
    assert_eq!(numbers["invalid"], (401, 3500));
    assert_eq!(numbers["expired"], (401, 3005));
    assert_eq!(numbers["blacklisted"], (401, 3503));
    assert_eq!(numbers["forbidden"], (403, 3507));
    assert_eq!(numbers["unavailable"].0, 503);
    let labels = auditcast::metrics::AUTH_FAILURES;
    assert!(numbers.keys().all(|name| labels.contains(name)), "each has its series");
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0_u32, |n, byte| n << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(n >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

#[test]
fn a_secret_of_before_checks_and_does_not_sign() {
    let (old, new) = ("the secret of before, which is long enough", "the secret of now, which is long enough too");
    let secret = |text: &str| Secret(text.as_bytes().to_vec());
    let claims = Claims { user_id: "ops".into(), ttl: Duration::from_secs(60), now_ms: NOW_MS, ..Claims::default() };
    let before = issue::issue(&Options::new(secret(old)), &claims).unwrap();
    let rotated = Options { previous_secrets: vec![secret(SECRET), secret(old)], ..Options::new(secret(new)) };
    assert_eq!(token::verify(&rotated, &before, NOW_MS).unwrap().user_id, "ops");
    assert_eq!(token::signed_by(&rotated, &before).unwrap(), "auth.previous_secrets[1]");
    let after = issue::issue(&rotated, &claims).unwrap();
    assert_eq!(token::signed_by(&rotated, &after).unwrap(), "auth.secret");
    let done = Options::new(secret(new));
    assert!(token::verify(&done, &after, NOW_MS).is_ok());
    assert!(token::verify(&done, &before, NOW_MS).is_err_and(|refusal| refusal.text.contains("signature")));
}
