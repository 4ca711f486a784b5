//! What is proved: every kind of key checks the algorithms that it says, and no other, from PEM and from a set; what a token's header
//! says chooses among keys and never what a key does; weak and broken keys are refused with the reason.

use auditcast::auth::{Algorithm, Jwks, Key, Options, Secret, token};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

const SECRET: &[u8] = b"a secret of more than thirty-two bytes, for tests";
const NOW_MS: u64 = 1_700_000_000_000;

fn url(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

enum Private {
    Rsa(Box<rsa::KeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// The private half signs, the public one is what we are given.
struct Pair {
    private: Private,
    pem: String,
    jwk: Value,
    /// What it can do, and what it does where nothing is said.
    can: &'static [&'static str],
    usual: &'static [&'static str],
}

const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let n = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        let e = pair.public_key().exponent().big_endian_without_leading_zero().to_vec();
        let (pem, jwk) = (pem("PUBLIC KEY", spki.as_ref()), json!({"kty": "RSA", "n": url(&n), "e": url(&e)}));
        pairs.push(Pair { private: Private::Rsa(Box::new(pair)), pem, jwk, can: &RSA, usual: &["RS256"] });
    }
    let curves: [(_, _, &[&str]); 3] = [
        (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", &["ES256"]),
        (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", &["ES384"]),
        (&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521", &["ES512"]),
    ];
    for (curve, name, does) in curves {
        let pair = EcdsaKeyPair::generate(curve).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let point = pair.public_key().as_ref()[1..].to_vec();
        let (x, y) = point.split_at(point.len() / 2);
        let (pem, jwk) = (pem("PUBLIC KEY", spki.as_ref()), json!({"kty": "EC", "crv": name, "x": url(x), "y": url(y)}));
        pairs.push(Pair { private: Private::Ec(pair), pem, jwk, can: does, usual: does });
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": url(pair.public_key().as_ref())});
    let does = &["EdDSA", "Ed25519"];
    let pem = pem("PUBLIC KEY", spki.as_ref());
    pairs.push(Pair { private: Private::Ed(pair), pem, jwk, can: does, usual: does });
    pairs
}

impl Pair {
    fn token(&self, header: Value) -> String {
        let message = format!("{}.{}", url(header.to_string().as_bytes()), url(claims().to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.private {
            Private::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Private::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Private::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match header["alg"].as_str().unwrap() {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", url(&signature))
    }
}

fn claims() -> Value {
    json!({"sub": "7", "exp": NOW_MS / 1000 + 600})
}

fn mac(secret: &[u8], header: Value) -> String {
    let message = format!("{}.{}", url(header.to_string().as_bytes()), url(claims().to_string().as_bytes()));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", url(mac.as_ref()))
}

fn options(keys: Vec<Key>) -> Options {
    Options { keys, ..Options::new(Secret(SECRET.to_vec())) }
}

fn named(names: &[&str]) -> Vec<Algorithm> {
    names.iter().map(|name| Algorithm::named(name).unwrap()).collect()
}

fn set(jwks: &[Value], algorithms: &[Algorithm]) -> Jwks {
    Jwks::read("auth.keys.set", &json!({ "keys": jwks }).to_string(), algorithms, true).unwrap()
}

fn with(mut jwk: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

#[track_caller]
fn refused(options: &Options, token: &str, word: &str) {
    let refusal = token::verify(options, token, NOW_MS).expect_err(word);
    assert!(refusal.text.contains(word), "{word}: {refusal}");
}

#[test]
fn every_kind_of_key_does_what_it_says_and_nothing_else() {
    let pairs = pairs();
    for pair in &pairs {
        let usual = options(vec![Key::from_pem("auth.keys.pem", &pair.pem, None, &[]).unwrap()]);
        let all = options(vec![Key::from_pem("auth.keys.pem", &pair.pem, None, &named(pair.can)).unwrap()]);
        let jwk = options(set(std::slice::from_ref(&pair.jwk), &[]).keys);
        for name in pair.can {
            let token = pair.token(json!({"alg": name}));
            assert_eq!(token::signed_by(&all, &token).unwrap(), "auth.keys.pem", "{name}");
            assert_eq!(token::verify(&all, &token, NOW_MS).unwrap().user_id, "7", "{name}");
            for options in [&usual, &jwk] {
                assert_eq!(token::verify(options, &token, NOW_MS).is_ok(), pair.usual.contains(name), "{name}");
            }
            // One that is said alone.
            let one = options(set(&[with(pair.jwk.clone(), json!({"alg": name}))], &[]).keys);
            for other in pair.can {
                let same = other == name || pair.usual.contains(&"EdDSA");
                let token = pair.token(json!({"alg": other}));
                assert_eq!(token::verify(&one, &token, NOW_MS).is_ok(), same, "{other} by a key for {name}");
            }
            // A good signature with another key's, and one that was changed.
            refused(&options(vec![]), &token, "no key here");
            let at = token.len() - 20;
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            refused(&all, &format!("{}{other}{}", &token[..at], &token[at + 1..]), "not ours");
        }
        for name in RSA.iter().chain(&["ES256", "ES384", "ES512", "EdDSA", "HS256"]).filter(|name| !pair.can.contains(name)) {
            let error = Key::from_pem("x", &pair.pem, None, &named(&[name])).unwrap_err();
            assert!(error.contains("does not do"), "{error}");
            let token = pair.token(json!({"alg": name}));
            assert!(token::verify(&all, &token, NOW_MS).is_err(), "{name}");
        }
    }
}

/// The oldest trick: the public key, which everybody has, as the secret of an HMAC.
#[test]
fn a_public_key_is_nobodys_secret() {
    for pair in pairs() {
        let options = options(vec![Key::from_pem("x", &pair.pem, Some("k".into()), &[]).unwrap()]);
        for secret in [pair.pem.as_bytes(), pair.pem.trim().as_bytes()] {
            refused(&options, &mac(secret, json!({"alg": "HS256"})), "signature is not ours");
            refused(&options, &mac(secret, json!({"alg": "HS256", "kid": "k"})), "no key here");
        }
    }
}

#[test]
fn kid_selects_where_it_is_given() {
    let [one, two] = [(); 2].map(|()| pairs().remove(1));
    let key = |pair: &Pair, kid: Option<&str>| Key::from_pem("auth.keys.k", &pair.pem, kid.map(str::to_owned), &[]).unwrap();
    let both = options(vec![key(&one, Some("one")), key(&two, Some("two"))]);
    let say = |pair: &Pair, kid: Option<&str>| match kid {
        Some(kid) => pair.token(json!({"alg": "ES256", "kid": kid})),
        None => pair.token(json!({"alg": "ES256"})),
    };
    for (pair, kid) in [(&one, None), (&two, None), (&one, Some("one")), (&two, Some("two"))] {
        assert!(token::verify(&both, &say(pair, kid), NOW_MS).is_ok(), "{kid:?}");
    }
    refused(&both, &say(&one, Some("two")), "signature is not ours");
    refused(&both, &say(&one, Some("three")), "not known here");
    assert!(token::names_unknown_key(&both, &say(&one, Some("three"))));
    assert!(!token::names_unknown_key(&both, &say(&one, Some("two"))) && !token::names_unknown_key(&both, &say(&one, None)));
    refused(&both, &one.token(json!({"alg": "ES256", "kid": 1})), "`kid` is no text");
    // A key that has no name is for every token that names none of the others.
    let nameless = options(vec![key(&one, None), key(&two, Some("two"))]);
    assert!(token::verify(&nameless, &say(&one, Some("whatever")), NOW_MS).is_ok());
    refused(&nameless, &say(&one, Some("two")), "signature is not ours");
    // So is the secret.
    assert!(token::verify(&both, &mac(SECRET, json!({"alg": "HS256", "kid": "app-2024"})), NOW_MS).is_ok());
    refused(&both, &mac(SECRET, json!({"alg": "HS256", "kid": "one"})), "no key here");
}

#[test]
fn a_set_is_looked_at_key_by_key() {
    let pair = pairs().remove(1);
    let jwk = |more: Value| with(pair.jwk.clone(), more);
    for (more, keys, other, fault) in [
        (json!({"use": "sig", "alg": "ES256", "key_ops": ["verify"]}), 1, 0, ""),
        (json!({"use": "enc"}), 0, 1, ""),
        (json!({"key_ops": ["deriveKey"]}), 0, 1, ""),
        (json!({"alg": "ECDH-ES"}), 0, 1, ""),
        (json!({"crv": "secp256k1"}), 0, 1, ""),
        (json!({"kty": "AKP"}), 0, 1, ""),
        (json!({"alg": "ES384"}), 0, 0, "says ES384"),
        (json!({"alg": "HS256"}), 0, 0, "says HS256"),
        (json!({"crv": "P-384"}), 0, 0, "another length"),
        (json!({"x": pair.jwk["y"]}), 0, 0, "not a P-256 key that can be used"),
        (json!({"x": "%"}), 0, 0, "no `x`"),
        (json!({"x": 1}), 0, 0, "no text"),
        (json!({"kty": "oct", "k": url(&[7; 32])}), 0, 0, "without `alg`"),
        (json!({"kty": "oct", "alg": "HS256", "k": url(&[7; 31])}), 0, 0, "31 bytes"),
        (json!({"kty": "oct", "alg": "HS256", "k": url(&[7; 32])}), 1, 0, ""),
    ] {
        let read = set(&[jwk(more.clone())], &[]);
        let said = read.faults.first().map(ToString::to_string).unwrap_or_default();
        assert_eq!((read.keys.len(), read.other, read.faults.is_empty()), (keys, other, fault.is_empty()), "{more}: {said}");
        assert!(said.contains(fault), "{more}: {said}");
    }
    let twice = set(&[jwk(json!({"kid": "a"})), jwk(json!({"kid": "a"}))], &[]);
    assert_eq!((twice.keys.len(), twice.faults[0].to_string()), (1, "key 2 of it has the same `kid` as another".to_owned()));
    assert_eq!(set(&[jwk(json!({}))], &named(&["RS256"])).other, 1, "not what is wanted of the set");
    let secret = json!({"kty": "oct", "alg": "HS256", "k": url(&[7; 32])});
    let mixed = json!({"keys": [pair.jwk, secret]}).to_string();
    assert!(Jwks::read("x", &mixed, &[], true).unwrap_err().contains("mixes"));
    let published = Jwks::read("x", &mixed, &[], false).unwrap();
    assert_eq!((published.keys.len(), published.faults[0].text.as_str()), (1, "is a secret, and was published"));
    for text in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert!(Jwks::read("x", text, &[], true).unwrap_err().contains("list `keys`"), "{text}");
    }
    assert!(Jwks::read("x", &json!({"keys": vec![json!({}); 65]}).to_string(), &[], true).unwrap_err().contains("at most 64"));
}

const WEAK: &str = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCl9eUYBAwHOFdA6wWGZUVYjbQ9\nyo8FgzKL7UESqMgSv98g5ZWwweogijbhVCu6ZTq/9G2LFzRzlsCvz/cgH7SfWpp6\nrjBwkCkNaGzaUY/0Z1igHLGfoRqW1kzEP9aQeyMBH4fW1jBTk/UsRyZQqjJ30AN1\n9lzVVi346/AdQaH6gQIDAQAB\n-----END PUBLIC KEY-----\n";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIBLjCB4aADAgECAhR/1Deb0kqV37xpIKocxaXzdf7+9TAFBgMrZXAwDDEKMAgG\nA1UEAwwBYTAgFw0yNjExMjgwMDQwMTVaGA8yMTA5MDExNzAwNDAxNVowDDEKMAgG\nA1UEAwwBYTAqMAUGAytlcAMhAPmEKTk7MsID9iCMz8Ho0pBT0Hq59C6OwjK9iyms\nUwkco1MwUTAdBgNVHQ4EFgQU9oJfHV8x/3rgBw9G4Aqw8w9pTLAwHwYDVR0jBBgw\nFoAU9oJfHV8x/3rgBw9G4Aqw8w9pTLAwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXAD\nQQArgHElYFg0BNIY8m9eJCiav/DBdA4rB/agISmqTOWWMhhfHyZrNCevFv6tc9Rn\n7bUZxjT5DIT+vqjsCziTGdgJ\n-----END CERTIFICATE-----\n";

#[test]
fn what_is_no_good_key_is_refused_with_the_reason() {
    let good = pairs().remove(1).pem;
    let private = Ed25519KeyPair::generate().unwrap().to_pkcs8().unwrap();
    for (text, word) in [
        (WEAK.to_owned(), "is an RSA key of 1024 bits, at least 2048 are needed"),
        (CERTIFICATE.to_owned(), "certificate"),
        (pem("PRIVATE KEY", private.as_ref()), "is a private key, which must not leave whoever signs"),
        (good.repeat(2), "more than one key"),
        (String::new(), "no PEM"),
        (good.replace("MF", "!!"), "no PEM"),
        (pem("PUBLIC KEY", &[0x30, 0x80]), "no public key of RSA"),
        (pem("PUBLIC KEY", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), "no public key of RSA"),
        (good.replace("-----BEGIN", "-----BEGIN X"), "no PEM"),
    ] {
        let error = Key::from_pem("x", &text, None, &[]).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
        assert!(!error.contains("MC4"), "nothing of the key is told");
    }
    assert!(
        !format!("{:?}", set(&[json!({"kty": "oct", "alg": "HS256", "k": url(b"0123456789abcdef0123456789abcdef")})], &[]))
            .contains("0123")
    );
}
