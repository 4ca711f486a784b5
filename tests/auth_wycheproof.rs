//! What is proved: the JSON Web Signature and JSON Web Key vectors of Wycheproof, with the keys as they stand in them, read as an
//! operator's set of keys is read. Every invalid one is refused, by the key or by the signature; every valid one is accepted. What
//! is otherwise stands in [`EXCEPTIONS`], with the reason.
//!
//! The vectors' payloads are no claims, so a good signature shows as claims that cannot be read, and a bad one as anything else.

use std::path::PathBuf;

use auditcast::auth::{Jwks, Options, Secret, token};
use serde_json::{Value, json};

/// Vector (`s`: signatures, `k`: keys), what happens here, and why.
const EXCEPTIONS: &[(&str, bool, &str)] = &[
    ("s346", false, "signed with PS384 by a key that says PS256: the algorithm is the key's"),
    ("s350", false, "signed with PS384 by a key that says PS256: the algorithm is the key's"),
    ("s347", false, "the key says ES521, an algorithm that RFC 7518 does not have (the header says ES512)"),
    ("s351", false, "the same key"),
    ("s367", true, "letter for letter the valid 357: the padding that its comment speaks of is not there"),
    ("s370", true, "letter for letter the valid 357: the padding that its comment speaks of is not there"),
    ("s372", false, "valid only to who skips foreign characters in base64url, which RFC 7515 §2 does not"),
    ("s373", false, "valid only to who skips foreign characters in base64url, which RFC 7515 §2 does not"),
];

/// `$AUDITCAST_VECTORS`, else beside the repository.
fn vectors(file: &str) -> Option<Value> {
    let root = std::env::var_os("AUDITCAST_VECTORS").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    let text = std::fs::read_to_string(root.join("wycheproof").join(file)).ok()?;
    Some(serde_json::from_str(&text).expect("the vectors are JSON"))
}

/// Whether the signature is taken for good, and what was said if not.
fn accepts(keys: &Value, jws: &str) -> (bool, String) {
    let set = match Jwks::read("vector", &keys.to_string(), &[], true) {
        Ok(set) => set,
        Err(text) => return (false, text),
    };
    if let Some(fault) = set.faults.first() {
        return (false, fault.to_string());
    }
    // The secret is needed and not theirs.
    let options = Options { keys: set.keys, ..Options::new(Secret(vec![0x5a; 32])) };
    let refusal = token::verify(&options, jws, 1_700_000_000_000).expect_err("no vector is a token");
    (refusal.text == "the token's claims cannot be read", refusal.text)
}

#[test]
fn wycheproof() {
    let (Some(signatures), Some(keys)) = (vectors("json_web_signature_test.json"), vectors("json_web_key_test.json")) else {
        println!("not run: no vectors");
        return;
    };
    let mut wrong = Vec::new();
    let (mut good, mut bad, mut excepted) = (0, 0, 0);
    for (kind, file) in [("s", &signatures), ("k", &keys)] {
        for group in file["testGroups"].as_array().unwrap() {
            let key = if group["public"].is_null() { &group["private"] } else { &group["public"] };
            let set = if key["keys"].is_array() { key.clone() } else { json!({ "keys": [key] }) };
            for test in group["tests"].as_array().unwrap() {
                // Some are JSON and not compact: no token of ours.
                let jws = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
                let id = format!("{kind}{}", test["tcId"]);
                let valid = test["result"] == "valid";
                let (accepted, said) = accepts(&set, &jws);
                let exception = EXCEPTIONS.iter().find(|(excepted, ..)| *excepted == id);
                let wanted = exception.map_or(valid, |(_, wanted, _)| *wanted);
                assert!(exception.is_none() || wanted != valid, "{id} is no exception any more");
                if accepted != wanted {
                    wrong.push(format!("{id} {} ({}): {said}", test["comment"], test["result"]));
                }
                match (exception.is_some(), wanted) {
                    (true, _) => excepted += 1,
                    (false, true) => good += 1,
                    (false, false) => bad += 1,
                }
            }
        }
    }
    println!("{good} valid ones accepted, {bad} invalid ones refused, {excepted} exceptions");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((good + bad + excepted, excepted), (427, EXCEPTIONS.len()));
}
