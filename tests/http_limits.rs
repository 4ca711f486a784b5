//! Limits of two nodes that share a store: what one has counted the other knows, and neither waits for it but at a sign-in.

mod suite;

use std::{sync::Arc, time::Duration};

use auditcast::{
    http::{Limits, Rates},
    store::Store,
};
use redis::cmd;
use suite::{Engine, server::RedisServer};

const PATIENCE: Duration = Duration::from_secs(10);
const NOW_MS: u64 = 1_700_000_000_000;

fn rates() -> Rates {
    Rates { window: Duration::from_secs(60), general: 20, auth: 5, connections: 3, endpoints: vec![("events".to_owned(), 2)] }
}

struct Node {
    limits: Arc<Limits>,
    store: Store,
}

async fn node(server: &RedisServer) -> Node {
    let store = Store::open(suite::options(auditcast::store::Target::Redis(server.url()))).await.unwrap();
    let limits = Arc::new(Limits::new(&rates()));
    let telling = (limits.clone(), store.clone());
    tokio::spawn(async move { telling.0.tell(&telling.1).await });
    Node { limits, store }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {what}");
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn sign_ins_are_counted_for_all_nodes_before_they_are_answered() {
    let Engine::Redis(server) = Engine::redis() else { unreachable!() };
    let (a, b) = (node(&server).await, node(&server).await);
    let client = "address:192.0.2.7";
    for n in 0..5 {
        let node = if n % 2 == 0 { &a } else { &b };
        assert_eq!(node.limits.sign_in(&node.store, client, NOW_MS).await, Ok(()), "sign-in {n}");
    }
    for node in [&a, &b] {
        let after = node.limits.sign_in(&node.store, client, NOW_MS).await.unwrap_err();
        assert!((50..=60).contains(&after), "{after}");
    }
    assert_eq!(a.limits.sign_in(&a.store, "address:192.0.2.8", NOW_MS).await, Ok(()), "somebody else");

    // As A's application would count.
    let key = "rate_limit:auth:address:192.0.2.7";
    let mut redis = server.client();
    let count = || -> (i64, i64) {
        let mut redis = server.client();
        (cmd("GET").arg(key).query(&mut redis).unwrap(), cmd("PTTL").arg(key).query(&mut redis).unwrap())
    };
    let (used, left_ms) = count();
    assert!(used >= 6 && (50_000..=60_000).contains(&left_ms), "{used} {left_ms}");
    for _ in 0..100 {
        a.limits.sign_in(&a.store, client, NOW_MS).await.unwrap_err();
    }
    assert_eq!(count().0, used, "who is refused here is not asked about there");

    // A count without an end gets one; another kind of key counts for nothing.
    cmd("SET").arg("rate_limit:auth:endless").arg(4).exec(&mut redis).unwrap();
    assert_eq!(a.limits.sign_in(&a.store, "endless", NOW_MS).await, Ok(()));
    assert!(a.limits.sign_in(&a.store, "endless", NOW_MS).await.is_err());
    assert!(cmd("PTTL").arg("rate_limit:auth:endless").query::<i64>(&mut redis).unwrap() > 0);
    cmd("LPUSH").arg("rate_limit:auth:list").arg(4).exec(&mut redis).unwrap();
    assert_eq!(a.limits.sign_in(&a.store, "list", NOW_MS).await, Ok(()));

    // Without the store each goes by what it has counted itself.
    drop(server);
    for n in 0..6 {
        let taken = a.limits.sign_in(&a.store, "address:192.0.2.9", NOW_MS).await;
        assert_eq!(taken.is_ok(), n < 5, "sign-in {n} without the store");
    }
}

#[tokio::test]
async fn requests_are_told_to_the_other_nodes_and_wait_for_nobody() {
    let Engine::Redis(server) = Engine::redis() else { unreachable!() };
    let (a, b) = (node(&server).await, node(&server).await);
    let user = "user:7";
    for n in 0..20 {
        assert_eq!(a.limits.request("alerts", user, now_ms()), Ok(()), "request {n}");
    }
    let refused = a.limits.request("alerts", user, now_ms()).unwrap_err();
    assert!((50..=60).contains(&refused), "{refused}");
    // The other node hears of it with its first news of this client's.
    let told = || cmd("GET").arg("rate_limit:general:user:7").query::<Option<u32>>(&mut server.client()).unwrap();
    until("the store is told", || told() == Some(20)).await;
    assert_eq!(b.limits.request("alerts", user, now_ms()), Ok(()));
    until("the store is told", || told() == Some(21)).await;
    until("the other node refuses", || b.limits.request("alerts", user, now_ms()).is_err()).await;

    // One endpoint has a limit of its own, beside it.
    for n in 0..3 {
        assert_eq!(a.limits.request("events", "user:8", now_ms()).is_ok(), n < 2, "{n}");
    }
    assert_eq!(a.limits.request("alerts", "user:8", now_ms()), Ok(()));
    let key = "rate_limit:endpoint:events:user:8";
    until("it is told too", || cmd("GET").arg(key).query::<Option<u32>>(&mut server.client()).unwrap() == Some(2)).await;
}

#[tokio::test]
async fn attempts_to_connect_count_by_address() {
    let Engine::Redis(server) = Engine::redis() else { unreachable!() };
    let a = node(&server).await;
    for n in 0..4 {
        assert_eq!(a.limits.connection("192.0.2.7".parse().unwrap(), NOW_MS).is_ok(), n < 3, "{n}");
        let neighbour = format!("2001:db8:1:2::{n}").parse().unwrap();
        assert_eq!(a.limits.connection(neighbour, NOW_MS).is_ok(), n < 3, "of one /64, {n}");
    }
    for _ in 0..10 {
        assert_eq!(a.limits.connection("127.0.0.1".parse().unwrap(), NOW_MS), Ok(()), "this machine's own are not counted");
    }
}
