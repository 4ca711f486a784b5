//! What is proved: a set of keys by its URL is fetched, again when it is time and when a token names an unknown key, the latter not
//! often; what was fetched last stays in force whatever the server does; and nothing that is no set, too long, too slow or somewhere
//! else is taken. Over real sockets.

mod support_tls;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use auditcast::{
    auth::{Auth, Endpoint, Options, RefusalKind, Remote, Secret},
    store::{self, Store, Target},
};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use support_tls::Authority;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const NOW_MS: u64 = 1_700_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn url(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

struct Signer(EcdsaKeyPair, &'static str);

impl Signer {
    fn new(kid: &'static str) -> Signer {
        Signer(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid)
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "x": url(x), "y": url(y), "kid": self.1, "alg": "ES256"})
    }

    fn token(&self) -> String {
        let header = json!({"alg": "ES256", "kid": self.1});
        let claims = json!({"sub": "7", "role": "ADMIN", "exp": NOW_MS / 1000 + 600});
        let message = format!("{}.{}", url(header.to_string().as_bytes()), url(claims.to_string().as_bytes()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", url(signature.as_ref()))
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len())
}

fn set(signers: &[&Signer]) -> String {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    answer("200 OK", "", &json!({ "keys": keys }).to_string())
}

/// A server that says what it is told to; "" is silence. What it was asked is kept.
struct Provider {
    address: SocketAddr,
    says: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    async fn start(says: String) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider =
            Provider { address: listener.local_addr().unwrap(), says: Arc::new(Mutex::new(says)), asked: Arc::default() };
        let (says, asked) = (provider.says.clone(), provider.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let (says, asked) = (says.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let n = tcp.read(&mut request).await.unwrap_or(0);
                    asked.lock().unwrap().push(String::from_utf8_lossy(&request[..n]).into_owned());
                    let says = says.lock().unwrap().clone();
                    if says.is_empty() {
                        let _ = tcp.read(&mut request).await;
                    }
                    let _ = tcp.write_all(says.as_bytes()).await;
                });
            }
        });
        provider
    }

    fn say(&self, says: String) {
        *self.says.lock().unwrap() = says;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn remote(&self) -> Remote {
        let endpoint = Endpoint::parse(&format!("http://{}/keys?a=b", self.address)).unwrap();
        Remote { from: "auth.keys.idp".into(), endpoint, algorithms: Vec::new() }
    }
}

async fn auth(provider: &Provider, refresh: Duration) -> (Auth, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(store::Options {
        target: Target::Embedded(dir.path().to_owned()),
        prefix: "{auditcast}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(3600),
        alerts_max: 1000,
        dead_letters_max: 1000,
        commits_max: 1000,
        intake_max: 1000,
    })
    .await
    .unwrap();
    store.prepare().await.unwrap();
    let options = Options { remotes: vec![provider.remote()], jwks_refresh: refresh, ..options() };
    let auth = Auth::new(options, store);
    tokio::spawn(auth.clone().keep_keys());
    (auth, dir)
}

fn options() -> Options {
    Options::new(Secret(b"a secret of more than thirty-two bytes, for tests".to_vec()))
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn a_new_key_is_found_when_a_token_names_it_and_not_asked_for_often() {
    let (one, two, three) = (Signer::new("one"), Signer::new("two"), Signer::new("three"));
    let provider = Provider::start(set(&[&one])).await;
    let (auth, _dir) = auth(&provider, Duration::from_secs(3600)).await;
    // Perhaps before the first answer has come: then it is waited for.
    assert!(auth.verify(&one.token(), NOW_MS).await.unwrap().may_act());
    until("the questions of the start", || provider.asked() >= 1).await;
    let asked = provider.asked();
    let request = provider.asked.lock().unwrap()[0].to_ascii_lowercase();
    assert!(request.starts_with("get /keys?a=b http/1.1\r\n"), "{request}");
    assert!(
        request.contains(&format!("host: {}\r\n", provider.address)) && request.contains("application/jwk-set+json"),
        "{request}"
    );

    provider.say(set(&[&one, &two]));
    let later = NOW_MS + 31_000;
    // Many at once, one question.
    let verdicts = futures::future::join_all((0..50).map(|_| {
        let (auth, token) = (auth.clone(), two.token());
        async move { auth.verify(&token, later).await.is_ok() }
    }))
    .await;
    assert!(verdicts.iter().all(|good| *good), "{verdicts:?}");
    assert_eq!(provider.asked(), asked + 1);
    assert!(auth.verify(&one.token(), later).await.is_ok());

    // Soon after: what is unknown is refused unasked, however often it comes.
    provider.say(set(&[&one, &two, &three]));
    for _ in 0..20 {
        let refusal = auth.verify(&three.token(), later + 29_000).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.text.contains("not known here")), (RefusalKind::Invalid, true), "{refusal}");
    }
    assert_eq!(provider.asked(), asked + 1);
    assert!(auth.verify(&three.token(), later + 30_000).await.is_ok());
    // A bad signature of a known key asks nobody.
    let token = three.token();
    let bad = format!("{}.{}", token.rsplit_once('.').unwrap().0, one.token().rsplit_once('.').unwrap().1);
    assert!(auth.verify(&bad, later + 100_000).await.unwrap_err().text.contains("signature"));
    assert_eq!(provider.asked(), asked + 2);
}

#[tokio::test]
async fn the_last_good_set_stays_whatever_comes() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let provider = Provider::start(set(&[&one])).await;
    let (auth, _dir) = auth(&provider, Duration::from_millis(20)).await;
    assert!(auth.verify(&one.token(), NOW_MS).await.is_ok());
    let elsewhere = Provider::start(set(&[&two])).await;
    let weak = json!({"keys": [{"kty": "oct", "alg": "HS256", "k": url(&[7; 32])}]}).to_string();
    for bad in [
        answer("500 Internal Server Error", "", ""),
        answer("302 Found", &format!("Location: http://{}/\r\n", elsewhere.address), ""),
        answer("200 OK", "", "<html>"),
        answer("200 OK", "", r#"{"keys":[]}"#),
        answer("200 OK", "", &weak),
        "garbage".to_owned(),
    ] {
        provider.say(bad.clone());
        let asked = provider.asked();
        until("it to be asked twice more", || provider.asked() >= asked + 2).await;
        assert!(auth.verify(&one.token(), NOW_MS).await.is_ok(), "{bad:.40}");
    }
    assert_eq!(elsewhere.asked(), 0, "no redirect is followed");
    provider.say(set(&[&two]));
    let mut now_ms = NOW_MS;
    timeout(PATIENCE, async {
        // The key that is gone is good no more.
        while auth.verify(&one.token(), NOW_MS).await.is_ok() {
            now_ms += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("well again");
    assert!(auth.verify(&two.token(), NOW_MS).await.is_ok());

    // Other options: the set stays known where it is still wanted, and goes where it is not.
    auth.replace_options(Options { remotes: vec![provider.remote()], ..options() });
    assert!(auth.verify(&two.token(), NOW_MS).await.is_ok());
    auth.replace_options(options());
    assert!(auth.verify(&two.token(), NOW_MS).await.is_err());
}

#[tokio::test]
async fn what_is_no_answer_is_told() {
    let one = Signer::new("one");
    let provider = Provider::start(String::new()).await;
    let remote = provider.remote();
    let long = json!({"keys": [], "padding": "x".repeat(300 << 10)}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100 << 10));
    let many = json!({ "keys": vec![one.jwk(); 65] }).to_string();
    for (says, word) in [
        (String::new(), "did not answer within 5 s"),
        (answer("404 Not Found", "", ""), "answered 404"),
        (answer("301 Moved Permanently", "Location: https://idp.example/\r\n", ""), "redirects are not followed"),
        (answer("200 OK", "", &long), "more than 262144 bytes"),
        (head, "did not answer as HTTP does"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_owned(), "did not send all"),
        ("nonsense\r\n\r\n".to_owned(), "did not answer as HTTP does"),
        (answer("200 OK", "", "[]"), "no JSON object with a list `keys`"),
        (answer("200 OK", "", &many), "has 65 keys"),
    ] {
        provider.say(says);
        let error = remote.fetch().await.map(|set| set.keys.len()).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
        assert!(!error.contains("xxxx"), "nothing of the answer is told");
    }
    provider.say(set(&[&one, &one, &Signer::new("two")]));
    let set = remote.fetch().await.unwrap();
    assert_eq!((set.keys.len(), set.faults.len()), (2, 1));
    let closed = Remote { endpoint: Endpoint::parse("http://127.0.0.1:1/").unwrap(), ..remote };
    assert!(closed.fetch().await.unwrap_err().contains("cannot be reached"));
}

/// The whole way, as a command takes it: who is not trusted, or is somebody else, has no keys for us.
#[tokio::test]
async fn over_tls_only_from_who_is_trusted() {
    let (authority, another) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.issue(&["localhost"]);
    let one = Signer::new("one");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let (acceptor, says) = (TlsAcceptor::from(Arc::new(config)), set(&[&one]));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            let mut request = vec![0; 4096];
            let _ = tls.read(&mut request).await;
            let _ = tls.write_all(says.as_bytes()).await;
            let _ = tls.shutdown().await;
        }
    });
    let inspect = async |host: &str, trusted: &Authority| -> Value {
        let done = tokio::process::Command::new(env!("CARGO_BIN_EXE_auditcast"))
            .args(["token", "inspect", &one.token()])
            .current_dir(trusted.dir.path())
            .env_clear()
            .env("JWT_SECRET_KEY", "a secret of more than thirty-two bytes, for tests")
            .env("AUDITCAST__AUTH__KEYS__IDP__JWKS_URL", format!("https://{host}:{port}/keys"))
            .env("SSL_CERT_FILE", trusted.path("ca.pem"))
            .output()
            .await
            .unwrap();
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)))
    };
    let told = inspect("localhost", &authority).await;
    assert_eq!((&told["key"], &told["header"]["kid"], told.get("unknown_keys")), (&json!("auth.keys.idp"), &json!("one"), None));
    assert_eq!(told["reason"], "the token has expired", "and not that its key is unknown");
    for (host, trusted) in [("localhost", &another), ("127.0.0.1", &authority)] {
        let told = inspect(host, trusted).await;
        let why = told["unknown_keys"]["auth.keys.idp"].as_str().unwrap();
        assert!(why.contains("is not trusted"), "{host}: {why}");
        assert!(told.get("key").is_none() && told["reason"].as_str().unwrap().contains("not known here"), "{told}");
    }
}
