//! Two nodes, and stores that lose things: one at a time decides, and the next one knows all that was decided.

mod monitor_support;

use std::time::{Duration, Instant};

use monitor_support::{server::RedisServer, *};

both!(
    a_second_node_takes_over_without_loss_or_double,
    a_leader_that_lost_the_lease_stores_nothing_more,
    a_stream_made_while_following_is_known_to_who_takes_over,
    a_long_batch_does_not_cost_the_lease,
    who_follows_shows_what_the_leader_shows,
);

fn failed(n: usize) -> Vec<Vec<(String, String)>> {
    (0..n).map(|_| fields("auth.failed", "eve")).collect()
}

async fn a_second_node_takes_over_without_loss_or_double(engine: &mut Engine) {
    let config = streams(r#"["one", "two"]"#, "earliest");
    let store = engine.open().await;
    let mut nodes = vec![start_on(store.clone(), &config, "n0", NEVER)];
    nodes[0].leads().await;
    let mut expected = 0;
    for round in 1..4 {
        let mut next = start_on(store.clone(), &config, &format!("n{round}"), NEVER);
        next.follows().await;
        let batch: Vec<_> = (expected..expected + 40).map(high).collect();
        append(&store, "one", &batch).await;
        append(&store, "two", &failed(10)).await;
        expected += 40;
        // Somewhere in the middle: what is decided and not stored is decided again.
        let half = expected - 40 + round * 8;
        until("some of them", async || users(&store).await.len() >= half).await;
        nodes.remove(0).kill().await;
        next.leads().await;
        taken(&store, &["one", "two"]).await;
        next.shows("auditcast_failed_logins_last_hour", &(round * 10).to_string()).await;
        next.shows("auditcast_source_events_total{source=\"app\"}", &(round * 50).to_string()).await;
        nodes.push(next);
    }
    let wanted: Vec<String> = (0..expected).map(|n| n.to_string()).collect();
    assert_eq!(users(&store).await, wanted, "each once, in order");
    for node in nodes {
        node.stop().await;
    }
    store.close().await;
}

async fn a_leader_that_lost_the_lease_stores_nothing_more(engine: &mut Engine) {
    let config = streams(r#"["one"]"#, "earliest");
    let store = engine.open().await;
    let mut node = start_on(store.clone(), &config, "a", NEVER);
    node.leads().await;
    // Taken away between two renewals, as from a process that was stopped for a while.
    let held = store.lease("a", 0).await.expect("the lease");
    store.release("a", held.fence).await.expect("the lease is given back");
    let thief = store.lease("thief", held.fence).await.expect("the lease");
    assert_eq!((thief.node.as_str(), thief.fence), ("thief", held.fence + 1));
    let head = store.recover().await.expect("the state").commit;
    append(&store, "one", &[high(1)]).await;
    node.follows().await;
    assert_eq!(store.recover().await.expect("the state").commit, head, "no commit under the old number");
    assert_eq!(users(&store).await, Vec::<String>::new());
    store.release("thief", thief.fence).await.expect("the lease is given back");
    node.leads().await;
    taken(&store, &["one"]).await;
    assert_eq!(users(&store).await, ["1"]);
    node.stop().await;
    store.close().await;
}

async fn a_stream_made_while_following_is_known_to_who_takes_over(engine: &mut Engine) {
    let config = streams(r#"["log:*"]"#, "now");
    let store = engine.open().await;
    let mut leader = start_on(store.clone(), &config, "a", NEVER);
    leader.leads().await;
    let mut other = start_on(store.clone(), &config, "b", NEVER);
    other.follows().await;
    for stream in ["log:x", "log:y"] {
        append(&store, stream, &failed(7)).await;
        append(&store, stream, &[high(1)]).await;
        taken(&store, &[stream]).await;
    }
    other.shows("auditcast_failed_logins_last_hour", "14").await;
    leader.kill().await;
    other.leads().await;
    append(&store, "log:x", &failed(1)).await;
    append(&store, "log:z", &failed(2)).await;
    taken(&store, &["log:x", "log:y"]).await;
    other.shows("auditcast_failed_logins_last_hour", "17").await;
    assert_eq!(users(&store).await, ["1", "1"]);
    other.stop().await;
    store.close().await;
}

async fn a_long_batch_does_not_cost_the_lease(engine: &mut Engine) {
    const STREAMS: usize = 24;
    let config = streams(r#"["log:*"]"#, "earliest");
    let store = engine.open().await;
    let names: Vec<String> = (0..STREAMS).map(|n| format!("log:{n}")).collect();
    for name in &names {
        // One read of all of them is one batch.
        append(&store, name, &failed(1000)).await;
    }
    let mut leader = start_on(store.clone(), &config, "a", NEVER);
    leader.leads().await;
    let fence = store.lease("a", 0).await.expect("the lease").fence;
    let mut other = start_on(store.clone(), &config, "b", NEVER);
    other.follows().await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    taken(&store, &names).await;
    leader.shows("auditcast_failed_logins_last_hour", &(STREAMS * 1000).to_string()).await;
    other.shows("auditcast_failed_logins_last_hour", &(STREAMS * 1000).to_string()).await;
    assert_eq!(store.lease("a", fence).await.expect("the lease").fence, fence, "it never changed hands");
    // No record holds more than a replay can.
    for record in store.commits(0, 1000).await.expect("the records") {
        let taken: u64 = record
            .marks
            .iter()
            .filter_map(|m| m.pointer("/taken")?.as_object())
            .flat_map(|t| t.values())
            .filter_map(|n| n.as_u64())
            .sum();
        assert!(taken <= 20_000, "{taken} in one record");
    }
    leader.stop().await;
    other.stop().await;
    store.close().await;
}

/// The series about the streams, which are equal on every node (contract §8).
fn shown(node: &Node) -> Vec<String> {
    const OWN: [&str; 10] = [
        "_lag_entries",
        "_build_info",
        "_config_",
        "_connections",
        "_store_",
        "_ready",
        "_active ",
        "_seconds_",
        "_replayed_",
        "_late_",
    ];
    let text = node.metrics.render();
    let about_streams = |line: &&str| line.starts_with("auditcast_") && !OWN.iter().any(|own| line.contains(own));
    text.lines().filter(about_streams).map(str::to_owned).collect()
}

async fn who_follows_shows_what_the_leader_shows(engine: &mut Engine) {
    let config = streams(r#"["one", "log:*"]"#, "earliest");
    let store = engine.open().await;
    append(&store, "log:old", &failed(3)).await;
    let mut leader = start_on(store.clone(), &config, "a", NEVER);
    leader.leads().await;
    for n in 0..5 {
        append(&store, "one", &[high(n), fields("session.created", &format!("s{n}")), vec![("x".into(), "y".into())]]).await;
        append(&store, &format!("log:{n}"), &failed(n + 1)).await;
        taken(&store, &["one", &format!("log:{n}")]).await;
    }
    // From the records alone, and then beside the leader.
    let mut other = start_on(store.clone(), &config, "b", NEVER);
    other.follows().await;
    append(&store, "one", &[fields("rate_limit.exceeded", "eve"), high(9)]).await;
    taken(&store, &["one"]).await;
    let (a, b) = (&leader, &other);
    until("both show the same", async || {
        let (shown_a, shown_b) = (shown(a), shown(b));
        assert!(shown_a.len() > 100);
        shown_a == shown_b || {
            let last = |s: &[String]| s.iter().find(|l| l.starts_with("auditcast_slots_closed_total")).cloned();
            // At the same slot there is no excuse.
            last(&shown_a) == last(&shown_b) && {
                let differs: Vec<_> = shown_a.iter().zip(&shown_b).filter(|(a, b)| a != b).collect();
                panic!("{differs:?}")
            }
        }
    })
    .await;
    leader.stop().await;
    other.stop().await;
    store.close().await;
}

// ---- what only a server can do

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_gets_back_what_the_leader_knows() {
    let mut engine = Engine::redis();
    let config = streams(r#"["one"]"#, "earliest");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    append(&node.store, "one", &failed(10)).await;
    append(&node.store, "one", &[high(1)]).await;
    node.has_taken(&["one"]).await;
    let hub = node.hub.clone();
    until("the hub has it", async || hub.head() == 1).await;
    redis::cmd("FLUSHALL").exec(&mut engine.server().client()).expect("everything is gone");
    let store = node.store.clone();
    until("a gap", async || !gaps(&store).await.is_empty()).await;
    append(&node.store, "one", &failed(5)).await;
    append(&node.store, "one", &[high(2)]).await;
    node.has_taken(&["one"]).await;
    node.shows("auditcast_failed_logins_last_hour", "15").await;
    node.shows("auditcast_alerts_active{rule=\"event\",severity=\"high\"}", "2").await;
    assert_eq!(users(&store).await, ["1", "2"], "what was told is put back");
    assert_eq!(gaps(&store).await, [("reset".to_owned(), "one".to_owned(), "firing".to_owned(), None)]);
    drop((store, hub));
    node.kill().await;
    // And it is all there for the next one.
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    append(&node.store, "one", &failed(1)).await;
    node.has_taken(&["one"]).await;
    node.shows("auditcast_failed_logins_last_hour", "16").await;
    assert_eq!(gaps(&node.store).await.len(), 1, "told once");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_of_two_nodes_finds_the_store_empty_puts_back_what_it_knows() {
    let mut engine = Engine::redis();
    let config = streams(r#"["one"]"#, "earliest");
    let mut leader = start(&engine, &config, "a", NEVER).await;
    leader.leads().await;
    let mut other = start(&engine, &config, "b", NEVER).await;
    other.follows().await;
    append(&leader.store, "one", &failed(10)).await;
    append(&leader.store, "one", &[high(1)]).await;
    leader.has_taken(&["one"]).await;
    other.shows("auditcast_failed_logins_last_hour", "10").await;
    for hub in [leader.hub.clone(), other.hub.clone()] {
        until("the hub has it", async || hub.head() == 1).await;
    }
    redis::cmd("FLUSHALL").exec(&mut engine.server().client()).expect("everything is gone");
    let store = other.store.clone();
    until("a gap", async || !gaps(&store).await.is_empty()).await;
    append(&store, "one", &failed(5)).await;
    taken(&store, &["one"]).await;
    assert_eq!(users(&store).await, ["1"]);
    for node in [&leader, &other] {
        node.shows("auditcast_failed_logins_last_hour", "15").await;
    }
    drop(store);
    leader.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_in_time_is_brought_up_again() {
    let mut engine = Engine::redis();
    let config = streams(r#"["one"]"#, "earliest");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    append(&node.store, "one", &[high(1), high(2)]).await;
    node.has_taken(&["one"]).await;
    redis::cmd("SAVE").exec(&mut engine.server().client()).expect("it is saved");
    append(&node.store, "one", &[high(3)]).await;
    node.has_taken(&["one"]).await;
    let hub = node.hub.clone();
    until("the hub has all", async || hub.head() == 3).await;
    // What came after the save is lost, as by a replica that was promoted too early.
    engine.server().kill();
    engine.server().start_again();
    let store = node.store.clone();
    until("a gap", async || match store.log_read(0, 1000).await {
        Ok(log) => log.iter().any(|entry| entry.body.contains("audit_gap")),
        Err(_) => false,
    })
    .await;
    append(&store, "one", &[high(4)]).await;
    node.has_taken(&["one"]).await;
    assert_eq!(users(&store).await, ["1", "2", "3", "4"]);
    let told = gaps(&store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0.as_str(), told[0].1.as_str()), ("rewound", "one"));
    drop((store, hub));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_while_nobody_looked_is_told() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let config = streams(r#"["one"]"#, "earliest");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    append(&node.store, "one", &failed(10)).await;
    node.has_taken(&["one"]).await;
    node.kill().await;
    let store = engine.open().await;
    append(&store, "one", &failed(20)).await;
    redis::cmd("XTRIM").arg("one").arg("MAXLEN").arg(5).exec(&mut server.client()).expect("it is trimmed");
    store.close().await;
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    {
        let store = node.store.clone();
        until("a gap", async || !gaps(&store).await.is_empty()).await;
    }
    node.has_taken(&["one"]).await;
    // The ten that had been taken in cannot be counted again, and 15 were never seen.
    let told = gaps(&node.store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0.as_str(), told[0].3), ("trimmed", Some(10)));
    node.shows("auditcast_source_gaps_total{source=\"app\",reason=\"trimmed\"}", "2").await;
    // 10 and 15: the counter agrees with the stream again.
    node.stop().await;
    let store = engine.open().await;
    assert_eq!(written(&store, &config).await.streams[1].2, Some(30));
    store.close().await;
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    assert_eq!(gaps(&node.store).await.len(), 1, "told once");
    node.shows("auditcast_failed_logins_last_hour", "5").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trimmed_behind_a_snapshot_is_missed_exactly() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let config = streams(r#"["one"]"#, "earliest");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    append(&node.store, "one", &failed(10)).await;
    node.has_taken(&["one"]).await;
    node.stop().await;
    let store = engine.open().await;
    append(&store, "one", &failed(20)).await;
    redis::cmd("XTRIM").arg("one").arg("MAXLEN").arg(5).exec(&mut server.client()).expect("it is trimmed");
    store.close().await;
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    node.has_taken(&["one"]).await;
    let told = gaps(&node.store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0.as_str(), told[0].3), ("trimmed", Some(15)));
    node.shows("auditcast_failed_logins_last_hour", "15").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_from_the_future_counts_now_and_is_told_once() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let config = streams(r#"["one", "two"]"#, "earliest");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    add_with_id(server, "one", "4102444800000-0", &fields("auth.failed", "eve"));
    add_with_id(server, "one", "4102444800000-1", &high(1));
    append(&node.store, "two", &[high(2)]).await;
    node.has_taken(&["one", "two"]).await;
    node.kill().await;
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    add_with_id(server, "one", "4102444800000-2", &fields("auth.failed", "eve"));
    node.has_taken(&["one", "two"]).await;
    node.shows("auditcast_failed_logins_last_hour", "2").await;
    let mut users = users(&node.store).await;
    users.sort();
    assert_eq!(users, ["1", "2"]);
    let clocks = log(&node.store).await.into_iter().filter(|a| text(a, "/rule") == "audit_clock").count();
    assert_eq!(clocks, 1, "once per source and hour");
    assert_eq!(node.store.dead_letters(100).await.expect("dead letters").len(), 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_could_not_be_read_is_told_as_readable_by_the_next_leader() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let config = streams(r#"["one", "two"]"#, "earliest");
    redis::cmd("SET").arg("two").arg("text").exec(&mut server.client()).expect("a text");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    let store = engine.open().await;
    until("a gap", async || !gaps(&store).await.is_empty()).await;
    append(&store, "one", &[high(1)]).await;
    taken(&store, &["one"]).await;
    assert_eq!(users(&store).await, ["1"], "the other goes on");
    node.kill().await;
    redis::cmd("DEL").arg("two").exec(&mut server.client()).expect("it is gone");
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    until("the end", async || gaps(&store).await.len() == 2).await;
    node.kill().await;
    // Unreadable once more, and then no longer configured.
    redis::cmd("SET").arg("two").arg("text").exec(&mut server.client()).expect("a text");
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    until("a gap", async || gaps(&store).await.len() == 3).await;
    node.kill().await;
    let mut node = start(&engine, &streams(r#"["one"]"#, "earliest"), "c", NEVER).await;
    node.leads().await;
    until("the end", async || gaps(&store).await.len() == 4).await;
    let told: Vec<_> = gaps(&store).await.into_iter().map(|(reason, stream, status, _)| (reason, stream, status)).collect();
    let gap = |status: &str| ("unreadable".to_owned(), "two".to_owned(), status.to_owned());
    assert_eq!(told, [gap("firing"), gap("resolved"), gap("firing"), gap("resolved")]);
    node.stop().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_an_outage_loses_nothing() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let config = streams(r#"["one"]"#, "earliest");
    let mut node = start(&engine, &config, "a", Duration::from_millis(50)).await;
    node.leads().await;
    append(&node.store, "one", &[high(1)]).await;
    node.has_taken(&["one"]).await;
    // From here on no commit goes through, and snapshots would.
    break_commits(server);
    append(&node.store, "one", &[high(2)]).await;
    let hub = node.hub.clone();
    until("an outage", async || !node.metrics.health.is_ok("store")).await;
    drop(hub);
    node.stop().await;
    mend_commits(server);
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    node.has_taken(&["one"]).await;
    assert_eq!(users(&node.store).await, ["1", "2"]);
    node.shows("auditcast_source_events_total{source=\"app\"}", "2").await;
    node.stop().await;
}

/// Every commit adds to the commit log, and first of all.
fn break_commits(server: &RedisServer) {
    let mut client = server.client();
    redis::cmd("RENAME").arg("{auditcast}:commits").arg("kept").exec(&mut client).expect("it is elsewhere");
    redis::cmd("SET").arg("{auditcast}:commits").arg("x").exec(&mut client).expect("a text");
}

fn mend_commits(server: &RedisServer) {
    redis::cmd("RENAME").arg("kept").arg("{auditcast}:commits").exec(&mut server.client()).expect("it is back");
}

/// With an alert that never ends, every slot since then is closed by itself: some five billion of them. The same as a store whose
/// clock was set ahead by years.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn years_of_slots_to_close_are_told_stored_in_parts_and_left_for_a_stop() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let config = config(
        "[[source]]\nname = \"app\"\nkind = \"stream\"\nstreams = [\"one\"]\nstart = \"earliest\"\n\
         [[threshold]]\nname = \"nobody\"\nmetric = \"active_sessions\"\nbelow = 1\n",
    );
    add_with_id(server, "one", "1262304000000-0", &fields("auth.failed", "eve"));
    let store = engine.open().await;
    let mut slots = Vec::new();
    for _ in 0..2 {
        let node = start(&engine, &config, "a", NEVER).await;
        let told = || node.metrics.health.ready(&[]).checks;
        let says = || told().get("positions").is_some_and(|check| !check.ok && check.text.contains("are still to be closed"));
        until("a word about it", async || says()).await;
        assert!(!node.metrics.health.ready(&[]).ready);
        let begun = Instant::now();
        node.stop().await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        slots.push(store.recover().await.expect("the state is read").slot);
    }
    assert!(1_262_304_000_000 < slots[0] && slots[0] < slots[1], "it goes on where it was: {slots:?}");
    assert!(slots[1] < store.now_ms().await.expect("the clock") - 86_400_000, "{slots:?}: there was nothing to be seen");
    assert_eq!(log(&store).await.iter().map(|alert| text(alert, "/rule")).collect::<Vec<_>>(), ["nobody"]);
    store.close().await;
}
