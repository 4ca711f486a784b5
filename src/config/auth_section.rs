//! `[auth]`: what tokens are checked with, and what they must say.

use std::time::Duration;

use super::{
    ask::{Ask, quoted},
    rooms::{DAY, MINUTE, is_name, optional},
};
use crate::auth::{self, Algorithm, Endpoint, Jwks, Key, Remote, Secret};

const ROLES_MAX: usize = 256;
const PREVIOUS_MAX: usize = 8;
const KEY_TABLES_MAX: usize = 32;
const KEY_FILE_BYTES_MAX: u64 = 256 << 10;

/// The key is kept apart: only `serve` and `token issue` cannot do without one.
pub(super) fn options(ask: &Ask<'_>) -> (auth::Options, Option<Secret>) {
    let secret = ask.secret("secret").map(Secret);
    if let Some(Err(text)) = secret.as_ref().map(auth::Options::check) {
        ask.fault("secret", text);
    }
    let some_text = |text: &str| (text.len() <= 512 && !text.chars().any(char::is_control)).then(|| text.to_owned());
    let (keys, remotes) = keys(&ask.section("keys"));
    let mut auth = auth::Options {
        previous_secrets: previous_secrets(ask),
        keys,
        remotes,
        jwks_refresh: ask.duration("jwks_refresh", MINUTE, DAY),
        issuer: optional(ask, "issuer", "a text of at most 512 bytes", some_text),
        audience: optional(ask, "audience", "a text of at most 512 bytes", some_text),
        leeway: ask.duration("leeway", Duration::ZERO, auth::LEEWAY_MAX),
        max_age: ask.duration("max_age", MINUTE, DAY * 3650),
        roles: Default::default(),
        ..auth::Options::new(Secret(Vec::new()))
    };
    let roles = ask.section("roles");
    for name in roles.names() {
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            ask.fault("roles", format!("expected names of 1 to 128 bytes, found {}", quoted(&name)));
        }
        let permissions = roles.texts(&name);
        for (permission, origin) in &permissions {
            if permission.is_empty() || permission.len() > 128 || permission.chars().any(char::is_control) {
                let text = format!("expected a permission such as \"audit.view\", found {}", quoted(permission));
                roles.fault_at(origin.clone(), &roles.key(&name), text);
            }
        }
        // Names count without case (contract §10); a variable can only write lower case.
        auth.roles.insert(name.to_uppercase(), permissions.into_iter().map(|(p, _)| p).collect());
    }
    if auth.roles.len() > ROLES_MAX {
        ask.fault("roles", format!("expected at most {ROLES_MAX} roles"));
    }
    roles.done();
    (auth, secret)
}

fn previous_secrets(ask: &Ask<'_>) -> Vec<Secret> {
    let mut previous = Vec::new();
    let given = ask.secrets("previous_secrets");
    if given.len() > PREVIOUS_MAX {
        ask.fault("previous_secrets", format!("expected at most {PREVIOUS_MAX} of them"));
    }
    for (n, (secret, origin)) in given.into_iter().enumerate() {
        let secret = Secret(secret);
        if let Err(text) = auth::Options::check_named(&secret, &format!("secret {} of it", n + 1)) {
            ask.fault_at(origin, &ask.key("previous_secrets"), text);
        }
        previous.push(secret);
    }
    previous
}

/// `[auth.keys.NAME]`: one public key, or a set.
fn keys(tables: &Ask<'_>) -> (Vec<Key>, Vec<Remote>) {
    let (mut keys, mut remotes) = (Vec::new(), Vec::new());
    for name in tables.names() {
        let ask = tables.section(&name);
        let from = tables.key(&name);
        if !is_name(&name) {
            tables.fault(&name, "expected a name of [a-z0-9_], 1 to 64 characters");
        }
        let algorithms = algorithms(&ask);
        let kid = |text: &str| (text.len() <= 256).then(|| text.to_owned());
        let kid = if ask.has("kid") { optional(&ask, "kid", "a text of at most 256 bytes", kid) } else { None };
        let places: Vec<&str> = ["pem", "pem_file", "jwks_file", "jwks_url"].into_iter().filter(|place| ask.has(place)).collect();
        let [place] = places[..] else {
            places.iter().for_each(|place| ask.passed(place));
            tables.fault(&name, "expected one of pem, pem_file, jwks_file and jwks_url");
            ask.done();
            continue;
        };
        if place.starts_with("jwks") && kid.is_some() {
            ask.fault("kid", "the keys of a set say their own `kid`");
        }
        if place == "jwks_url" {
            let expected = "an https URL without a user in it, or an http one of this machine";
            if let Some(endpoint) = ask.parsed(place, expected, Endpoint::parse) {
                remotes.push(Remote { from, endpoint, algorithms });
            }
            ask.done();
            continue;
        }
        let text = if place == "pem" {
            ask.secret("pem").map(|pem| String::from_utf8_lossy(&pem).into_owned())
        } else {
            ask.file(place, KEY_FILE_BYTES_MAX)
        };
        let read = match text {
            None => Ok(Vec::new()),
            Some(text) if place == "jwks_file" => set(&from, &text, &algorithms),
            Some(text) => Key::from_pem(&from, &text, kid, &algorithms).map(|key| vec![key]),
        };
        match read {
            Ok(more) => keys.extend(more),
            Err(text) => ask.fault(place, format!("the key {text}")),
        }
        ask.done();
    }
    if tables.names().len() > KEY_TABLES_MAX {
        tables.fault_at(tables.origin(""), "auth.keys", format!("expected at most {KEY_TABLES_MAX} of them"));
    }
    (keys, remotes)
}

/// A file is the operator's own, so that every key in it is looked at strictly.
fn set(from: &str, text: &str, algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    let set = Jwks::read(from, text, algorithms, true).map_err(|text| format!("set {text}"))?;
    match set.faults.first() {
        Some(fault) => Err(format!("set cannot be used: {fault}")),
        None if set.keys.is_empty() => Err("set has no key for signatures of tokens in it".to_owned()),
        None => Ok(set.keys),
    }
}

fn algorithms(ask: &Ask<'_>) -> Vec<Algorithm> {
    let mut algorithms = Vec::new();
    for (text, origin) in ask.texts("algorithms") {
        match Algorithm::named(&text) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                let known: Vec<&str> = Algorithm::ALL.iter().map(|a| a.as_str()).collect();
                let text = format!("expected some of {}, found {}", known.join(", "), quoted(&text));
                ask.fault_at(origin, &ask.key("algorithms"), text);
            }
        }
    }
    algorithms
}
