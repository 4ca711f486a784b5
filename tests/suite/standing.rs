//! What the store knows of people who are in, and that it tells of changes by itself.

use std::collections::BTreeSet;

use auditcast::store::{Change, Notice, Watch};
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
    for Change::Token(name) in &names {
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
