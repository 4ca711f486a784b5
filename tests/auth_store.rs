//! What is proved: a user's own permissions count, a revoked token is refused and stays refused whatever becomes of the key,
//! and seeing needs a permission. On the embedded store; `tests/store.rs` holds both stores to the same answers.

use std::time::Duration;

use auditcast::{
    auth::{Auth, Claims, Options, RefusalKind, Secret},
    store::{self, Store, Target},
};

const NOW_MS: u64 = 1_700_000_000_000;

#[path = "support/redis.rs"]
mod redis_server;

async fn open(dir: &std::path::Path) -> Store {
    open_target(Target::Embedded(dir.to_owned())).await
}

async fn open_target(target: Target) -> Store {
    let store = Store::open(store::Options {
        target,
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
    store
}

fn options() -> Options {
    Options { leeway: Duration::ZERO, ..Options::new(Secret(b"a secret of more than thirty-two bytes, for tests".to_vec())) }
}

fn claims(role: &str, jti: &str) -> Claims {
    Claims {
        user_id: "7".into(),
        role: Some(role.into()),
        ttl: Duration::from_secs(600),
        now_ms: NOW_MS,
        jti: Some(jti.into()),
        ..Claims::default()
    }
}

#[tokio::test]
async fn seeing_needs_a_permission() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Auth::new(options(), open(dir.path()).await);
    let admin = auth.issue(&claims("admin", "a")).unwrap();
    assert!(auth.admit(&admin, NOW_MS).await.unwrap().may_act());
    let observer = auth.issue(&claims("observer", "b")).unwrap();
    assert_eq!(auth.admit(&observer, NOW_MS).await.unwrap_err().kind, RefusalKind::Forbidden);
    assert_eq!(auth.verify(&observer, NOW_MS).await.unwrap().user_id, "7");
    assert_eq!(auth.admit(&admin, NOW_MS + 600_000).await.unwrap_err().kind, RefusalKind::Expired);
}

#[tokio::test]
async fn a_revocation_once_seen_holds_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let auth = Auth::new(options(), store.clone());
    let token = auth.issue(&claims("admin", "seen")).unwrap();
    assert!(auth.admit(&token, NOW_MS).await.is_ok());

    // One second is the shortest life a key can have: then it is gone from the store, and still known here.
    store.blacklist("seen", Duration::from_secs(1)).await.unwrap();
    let refusal = auth.admit(&token, NOW_MS).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.close_code()), (RefusalKind::Blacklisted, 3503));
    assert!(refusal.text.contains("blacklisted"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while store.blacklisted("seen").await.unwrap() {
        assert!(tokio::time::Instant::now() < deadline, "the key lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(auth.admit(&token, NOW_MS).await.unwrap_err().kind, RefusalKind::Blacklisted);
    let clone = auth.clone();
    assert_eq!(clone.admit(&token, NOW_MS).await.unwrap_err().kind, RefusalKind::Blacklisted, "every clone knows");

    let other = auth.issue(&claims("admin", "other")).unwrap();
    assert!(auth.admit(&other, NOW_MS).await.is_ok());
}

#[tokio::test]
async fn a_permission_key_of_another_shape_grants_and_takes_nothing() {
    let server = redis_server::RedisServer::start(&[]);
    let mut client = server.client();
    redis::cmd("RPUSH").arg("permissions:user:7").arg("admin.access").exec(&mut client).unwrap();
    let auth = Auth::new(options(), open_target(Target::Redis(server.url())).await);
    let admin = auth.issue(&claims("admin", "a")).unwrap();
    assert!(auth.admit(&admin, NOW_MS).await.unwrap().may_act());
    let observer = auth.issue(&claims("observer", "b")).unwrap();
    assert_eq!(auth.admit(&observer, NOW_MS).await.unwrap_err().kind, RefusalKind::Forbidden);
}
