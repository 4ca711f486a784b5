//! What the store knows of people who are in, and that it tells of changes by itself.

use std::collections::BTreeSet;

use auditcast::store::{Change, Grant, Notice, PERMISSIONS_MAX, RESOURCE, Watch};
use tokio::time::timeout;

use super::*;

/// Waits until the watch has told of all of these, in whatever parts.
pub async fn told(watch: &mut Watch, expected: &[Change]) {
    let mut missing: Vec<&Change> = expected.iter().collect();
    while !missing.is_empty() {
        match timeout(PATIENCE, watch.next()).await.expect("a notice in time").expect("the store is there") {
            Notice::Changes(changes) => missing.retain(|change| !changes.contains(change)),
            Notice::Everything => panic!("one by one; missing: {missing:?}"),
        }
    }
}

pub async fn begun(store: &Store) -> Watch {
    let mut watch = store.watch();
    let first = timeout(PATIENCE, watch.next()).await.expect("a notice in time").expect("the store is there");
    assert_eq!((first, watch.refused()), (Notice::Everything, None));
    watch
}

pub async fn a_watch_tells_at_once_of_tokens_that_are_revoked(engine: &Engine) {
    let store = engine.open().await;
    store.blacklist("before", Duration::from_secs(60)).await.unwrap();
    let mut watch = begun(&store).await;
    store.set_bookmark("not", "of interest").await.unwrap();
    let since = Instant::now();
    store.blacklist("t1", Duration::from_secs(60)).await.unwrap();
    told(&mut watch, &[Change::Token("t1".into())]).await;
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    // A name is taken as it is.
    let names = ["a:b", "ü", "*", ""].map(|name| Change::Token(name.to_owned()));
    for name in &names {
        let Change::Token(name) = name else { panic!("{name:?}") };
        store.blacklist(name, Duration::from_secs(60)).await.unwrap();
    }
    told(&mut watch, &names).await;
    store.close().await;
}

pub async fn many_tokens_are_looked_up_together(engine: &Engine) {
    let store = engine.open().await;
    let names: Vec<String> = (0..1300).map(|n| format!("t{n}")).collect();
    assert!(store.blacklisted_among(&names).await.unwrap().is_empty() && store.blacklisted_among(&[]).await.unwrap().is_empty());
    let listed: Vec<String> = names.iter().skip(600).take(600).cloned().collect();
    for name in &listed {
        store.blacklist(name, Duration::from_secs(60)).await.unwrap();
    }
    let found = |found: Vec<String>| found.into_iter().collect::<BTreeSet<_>>();
    // None, some and all of what is asked at once.
    assert_eq!(found(store.blacklisted_among(&names).await.unwrap()), found(listed.clone()));
    assert_eq!(store.blacklisted_among(&listed).await.unwrap().len(), 600);
    store.close().await;
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

pub async fn a_cut_off_is_kept_and_only_moves_on(engine: &Engine) {
    let store = engine.open().await;
    let mut watch = begun(&store).await;
    assert_eq!(store.standing("7", None).await.unwrap().cut_off_ms, None);
    let now_ms = 1_700_000_000_123;
    assert_eq!(store.cut_off("7", now_ms).await.unwrap(), now_ms);
    told(&mut watch, &[Change::CutOffs]).await;
    assert_eq!(store.cut_off("7", now_ms - 1).await.unwrap(), now_ms, "an earlier one changes nothing");
    assert_eq!(store.cut_off("7", now_ms + 1).await.unwrap(), now_ms + 1);
    assert_eq!(store.cut_off("ü b", 5).await.unwrap(), 5);
    store.close().await;
    drop((store, watch));

    let store = engine.open().await;
    let mut users: Vec<String> = (0..1000).map(|n| format!("u{n}")).collect();
    users.extend(names(&["7", "ü b"]));
    let found = store.cut_offs(&users).await.unwrap();
    assert_eq!(found, [("7".to_owned(), now_ms + 1), ("ü b".to_owned(), 5)]);
    store.blacklist("t", PATIENCE).await.unwrap();
    assert_eq!(store.revocations("7", Some("t")).await.unwrap(), (true, Some(now_ms + 1)));
    assert_eq!(store.revocations("8", None).await.unwrap(), (false, None));
    assert!(store.cut_offs(&[]).await.unwrap().is_empty());
    assert!(matches!(store.cut_off("", 1).await, Err(StoreError::Refused(_))));
    store.close().await;
}

pub async fn permissions_are_given_and_taken(engine: &Engine) {
    let store = engine.open().await;
    let mut watch = begun(&store).await;
    let changed = store.grant("7", None, &names(&["audit.view", "Historial de Conversaciones", "audit.view"]), Grant::Give).await;
    assert_eq!(changed.unwrap(), ["audit.view", "Historial de Conversaciones"]);
    told(&mut watch, &[Change::Permissions("7".into())]).await;
    assert_eq!(store.grant("7", None, &names(&["audit.view"]), Grant::Give).await.unwrap(), names(&[]), "had it already");
    // For the resource that counts here, and for one that does not.
    store.grant("7", Some(RESOURCE), &names(&["admin.access"]), Grant::Give).await.unwrap();
    told(&mut watch, &[Change::Permissions("7".into())]).await;
    store.grant("7", Some("payroll"), &names(&["user.manage"]), Grant::Give).await.unwrap();
    store.grant("8", Some(RESOURCE), &names(&["audit.view"]), Grant::Give).await.unwrap();
    let sevens = names(&["Historial de Conversaciones", "admin.access", "audit.view"]);
    assert_eq!(store.permissions("7").await.unwrap(), sevens);
    assert_eq!(store.standing("7", None).await.unwrap().permissions.unwrap(), sevens);
    assert_eq!(store.permissions_at("7", Some("payroll")).await.unwrap(), ["user.manage"]);
    assert_eq!(store.permissions_at("7", None).await.unwrap(), ["Historial de Conversaciones", "audit.view"]);
    let among = store.permissions_among(&names(&["8", "nobody", "7"])).await.unwrap();
    assert_eq!(among, [names(&["audit.view"]), vec![], sevens]);
    // Many who have none, in parts.
    let nobody: Vec<String> = (0..700).map(|n| format!("u{n}")).collect();
    assert_eq!(store.permissions_among(&nobody).await.unwrap(), vec![Vec::<String>::new(); 700]);

    assert_eq!(store.grant("7", None, &names(&["audit.view", "x"]), Grant::Take).await.unwrap(), ["audit.view"]);
    assert_eq!(store.grant("7", Some(RESOURCE), &names(&["admin.access"]), Grant::Take).await.unwrap(), ["admin.access"]);
    assert_eq!(store.permissions("7").await.unwrap(), ["Historial de Conversaciones"]);
    assert!(store.grant("nobody", None, &names(&["x"]), Grant::Take).await.unwrap().is_empty());

    let many: Vec<String> = (0..=PERMISSIONS_MAX).map(|n| format!("p{n}")).collect();
    let long = "x".repeat(257);
    for (user, resource, list) in [
        ("9", None, &many[..]),
        ("9", None, &names(&[""])[..]),
        ("9", None, &names(&["a\nb"])[..]),
        ("9", None, &[long.clone()][..]),
        ("", None, &names(&["a"])[..]),
        (&long, None, &names(&["a"])[..]),
        ("9", Some("a:b"), &names(&["a"])[..]),
        ("9", Some(""), &names(&["a"])[..]),
    ] {
        let refused = store.grant(user, resource, list, Grant::Give).await;
        assert!(matches!(&refused, Err(StoreError::Refused(_))), "{user} {resource:?}: {refused:?}");
    }
    assert_eq!(store.grant("9", None, &many[1..], Grant::Give).await.unwrap().len(), PERMISSIONS_MAX);
    assert!(matches!(store.grant("9", None, &many[..1], Grant::Give).await, Err(StoreError::Refused(_))));
    store.close().await;
}
