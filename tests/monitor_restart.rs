//! A restarted node, and one that followed, has the state of one that ran through; nothing is lost and nothing told twice.

mod monitor_support;

use std::time::Duration;

use auditcast::config::Config;
use monitor_support::*;

both!(
    a_killed_node_goes_on_as_if_it_had_run_through,
    a_snapshot_in_between_changes_nothing,
    what_is_told_is_told_once_over_many_deaths,
    a_threshold_of_a_new_configuration_fires,
    dead_letters_are_kept_once_over_restarts,
    snapshots_of_metrics_are_stored_once_at_their_seconds,
    a_stream_made_while_running_is_read_whole,
);

fn traffic(from: usize, to: usize) -> Vec<Vec<(String, String)>> {
    (from..to)
        .map(|n| match n % 10 {
            0 => high(n),
            1..=4 => fields("auth.failed", &format!("u{}", n % 7)),
            5 => fields("permission.denied", "p"),
            6 => vec![("nothing".to_owned(), "here".to_owned())],
            _ => fields("auth.success", &format!("u{}", n % 5)),
        })
        .collect()
}

/// Entries in two streams, with the node killed after each part in `deaths`; then a clean end. What it left is compared.
async fn run(engine: &Engine, config: &Config, deaths: &[usize], checkpoint: Duration) -> (Written, Vec<String>) {
    let mut node = start(engine, config, "a", checkpoint).await;
    node.leads().await;
    for part in 0..4 {
        append(&node.store, "one", &traffic(part * 50, part * 50 + 50)).await;
        append(&node.store, "two", &traffic(1000 + part * 50, 1000 + part * 50 + 50)).await;
        node.has_taken(&["one", "two"]).await;
        if deaths.contains(&part) {
            node.kill().await;
            node = start(engine, config, "a", checkpoint).await;
            node.leads().await;
        }
    }
    node.stop().await;
    let store = engine.open().await;
    let (written, users) = (written(&store, config).await, users(&store).await);
    store.close().await;
    (written, users)
}

/// Everything but what depends on when the two runs were: a run takes entries at its own times.
fn counts(written: &Written) -> String {
    let totals = &written.totals;
    let sources: Vec<_> = totals.sources.iter().map(|s| (&s.name, s.events, &s.invalid, &s.gaps)).collect();
    let values = &written.values;
    let counted: Vec<_> = written.streams.iter().map(|(key, _, counted)| (key, counted)).collect();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        totals.events,
        sources,
        totals.alerts,
        totals.alerts_active,
        values.scalars,
        values.events_by_severity,
        values.events_by_category,
        counted
    )
}

async fn a_killed_node_goes_on_as_if_it_had_run_through(engine: &mut Engine) {
    let config = streams(r#"["one", "two"]"#, "earliest");
    let other = match engine {
        Engine::Redis(_) => Engine::redis(),
        Engine::Embedded(_) => Engine::embedded(),
    };
    let (through, told_through) = run(&other, &config, &[], NEVER).await;
    let (restarted, told) = run(engine, &config, &[0, 2], NEVER).await;
    assert_eq!(counts(&restarted), counts(&through));
    assert_eq!(told_through.len(), 40);
    assert_eq!(told.len(), 40, "each once: {told:?}");
}

async fn a_snapshot_in_between_changes_nothing(engine: &mut Engine) {
    let config = streams(r#"["one", "two"]"#, "earliest");
    let mut node = start(engine, &config, "a", Duration::from_millis(50)).await;
    node.leads().await;
    append(&node.store, "one", &traffic(0, 60)).await;
    node.has_taken(&["one"]).await;
    let store = node.store.clone();
    until("a snapshot", async || store.snapshots().await.is_ok_and(|s| !s.is_empty())).await;
    append(&node.store, "two", &traffic(100, 160)).await;
    node.has_taken(&["two"]).await;
    node.kill().await;

    // From the snapshot and the records behind it, and from the records alone, to the same state.
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    node.stop().await;
    let store = engine.open().await;
    let with = written(&store, &config).await;
    store.close().await;
    assert_eq!(with.totals.sources[0].events, 108);
    assert_eq!(with.totals.sources[0].invalid.values().sum::<u64>(), 12);
    assert_eq!(with.values.scalars["failed_logins_last_hour"], 48.0);
}

async fn what_is_told_is_told_once_over_many_deaths(engine: &mut Engine) {
    let config = streams(r#"["one"]"#, "earliest");
    let mut expected = Vec::new();
    for round in 0..6 {
        let mut node = start(engine, &config, &format!("n{}", round % 2), Duration::from_millis(30)).await;
        if round > 0 {
            // The dead one's lease has to run out where the name is another.
            node.leads().await;
        }
        // A type each: beyond 100 of one type in one slot they would be told as one.
        let one = |n: usize| fields(&format!("security.injection_attempt_{n}"), &(round * 30 + n).to_string());
        let batch: Vec<_> = (0..30).map(one).collect();
        expected.extend((0..30).map(|n| (round * 30 + n).to_string()));
        append(&node.store, "one", &batch).await;
        let (store, wanted) = (node.store.clone(), round * 30 + round * 5);
        // Somewhere in the middle.
        until("some of them", async || users(&store).await.len() >= wanted.min(round * 30 + 20)).await;
        node.kill().await;
    }
    let mut node = start(engine, &config, "last", NEVER).await;
    node.leads().await;
    node.has_taken(&["one"]).await;
    let told = users(&node.store).await;
    assert_eq!(told, expected, "each once, in order");
    node.stop().await;
}

async fn a_threshold_of_a_new_configuration_fires(engine: &mut Engine) {
    let plain = streams(r#"["one"]"#, "earliest");
    let mut node = start(engine, &plain, "a", NEVER).await;
    node.leads().await;
    let failed: Vec<_> = (0..20).map(|_| fields("auth.failed", "eve")).collect();
    append(&node.store, "one", &failed).await;
    node.has_taken(&["one"]).await;
    node.kill().await;

    let strict = config(
        "[[source]]\nname = \"app\"\nkind = \"stream\"\nstreams = [\"one\"]\nstart = \"earliest\"\n\
         [[threshold]]\nname = \"few\"\nmetric = \"failed_logins_last_hour\"\nabove = 10\nseverity = \"high\"\n",
    );
    let node = start(engine, &strict, "a", NEVER).await;
    let store = node.store.clone();
    until("the new threshold", async || told(&store).await.iter().any(|(rule, status, _)| rule == "few" && status == "firing"))
        .await;
    node.stop().await;
}

async fn dead_letters_are_kept_once_over_restarts(engine: &mut Engine) {
    let config = streams(r#"["one"]"#, "earliest");
    for round in 0..3 {
        let mut node = start(engine, &config, "a", NEVER).await;
        node.leads().await;
        append(&node.store, "one", &[vec![("data".to_owned(), "{".to_owned())], fields("x.y", "u")]).await;
        node.has_taken(&["one"]).await;
        let letters = node.store.dead_letters(100).await.expect("dead letters are read");
        assert_eq!(letters.len(), round + 1, "{letters:?}");
        node.kill().await;
    }
}

async fn snapshots_of_metrics_are_stored_once_at_their_seconds(engine: &mut Engine) {
    let config = streams(r#"["one"]"#, "earliest");
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    append(&node.store, "one", &traffic(0, 10)).await;
    node.has_taken(&["one"]).await;
    let store = node.store.clone();
    until("a snapshot of metrics", async || !store.metrics_history(0, 100).await.expect("history").is_empty()).await;
    let first = store.metrics_history(0, 100).await.expect("history")[0].0;
    let died = store.now_ms().await.expect("the clock") / 1000;
    drop(store);
    node.kill().await;
    // Down over some of them: they are made up for, each at its own second.
    let store = engine.open().await;
    until("two seconds", async || store.now_ms().await.expect("the clock") / 1000 >= died + 3).await;
    store.close().await;
    let mut node = start(engine, &config, "b", NEVER).await;
    node.leads().await;
    let store = node.store.clone();
    until("the latest", async || {
        store.metrics_history(0, 100).await.expect("history").last().is_some_and(|(second, _)| *second >= died + 3)
    })
    .await;
    let seconds: Vec<u64> = store.metrics_history(0, 100).await.expect("history").into_iter().map(|(s, _)| s).collect();
    let last = seconds.last().copied().expect("some");
    assert_eq!(seconds, (first..=last).collect::<Vec<_>>(), "one at each second");
    node.stop().await;
}

async fn a_stream_made_while_running_is_read_whole(engine: &mut Engine) {
    let config = streams(r#"["log:*"]"#, "now");
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    append(&node.store, "log:a", &[high(1)]).await;
    node.has_taken(&["log:a"]).await;
    append(&node.store, "log:b", &[high(2), high(3)]).await;
    node.has_taken(&["log:b"]).await;
    let store = node.store.clone();
    until("both", async || users(&store).await.len() == 3).await;
    drop(store);
    node.kill().await;
    // Made while nobody looked, of a source that has been seen: whole as well.
    let store = engine.open().await;
    append(&store, "log:c", &[high(4)]).await;
    store.close().await;
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    node.has_taken(&["log:a", "log:b", "log:c"]).await;
    assert_eq!(users(&node.store).await, ["1", "2", "3", "4"]);
    node.stop().await;
    let store = engine.open().await;
    assert_eq!(written(&store, &config).await.totals.sources[0].events, 4);
    store.close().await;
}
