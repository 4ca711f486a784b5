//! What the bridges take in is taken in once, over restarts, rotations and nodes.

mod monitor_support;

use std::{fs, io::Write, path::Path};

use auditcast::config::Config;
use monitor_support::*;

both!(
    a_file_is_followed_over_rotations_and_truncation,
    a_file_that_was_rotated_while_nobody_looked_is_read_on,
    what_is_no_event_is_a_dead_letter_and_the_file_goes_on,
);

fn file(path: &Path) -> Config {
    config(&format!(
        "[[source]]\nname = \"log\"\nkind = \"file\"\npath = {:?}\nstart = \"earliest\"\n",
        path.display().to_string()
    ))
}

fn line(user: usize) -> String {
    format!("2026-01-01 INFO audit {{\"event_type\":\"security.injection_attempt\",\"user_id\":\"{user}\"}}\n")
}

fn add(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("the file opens");
    file.write_all(text.as_bytes()).expect("the file is written");
}

async fn seen(node: &Node, wanted: &[usize]) {
    let wanted: Vec<String> = wanted.iter().map(usize::to_string).collect();
    until(&format!("{wanted:?}, there is {:?}", users(&node.store).await), async || {
        users(&node.store).await.len() >= wanted.len()
    })
    .await;
    assert_eq!(users(&node.store).await, wanted);
}

async fn a_file_is_followed_over_rotations_and_truncation(engine: &mut Engine) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("app.log");
    let config = file(&path);
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    // Made while it is looked for; half a line is none yet.
    let (half, rest) = (&line(2)[..30], &line(2)[30..]);
    add(&path, &format!("{}{half}", line(1)));
    seen(&node, &[1]).await;
    add(&path, rest);
    seen(&node, &[1, 2]).await;
    // Rotated away, with a last line that nobody ended, and made anew.
    add(&path, line(3).trim_end());
    fs::rename(&path, dir.path().join("app.log.1")).expect("it is renamed");
    add(&path, &line(4));
    seen(&node, &[1, 2, 3, 4]).await;
    // Emptied, and written to again; the same line is another event.
    fs::OpenOptions::new().write(true).truncate(true).open(&path).expect("it is emptied");
    let emptied = node.store.clone();
    until("it is seen to be empty", async || {
        let place = emptied.bookmark("file:log").await.expect("the bookmark").unwrap_or_default();
        place.contains("\"offset\":0")
    })
    .await;
    drop(emptied);
    add(&path, &line(4));
    seen(&node, &[1, 2, 3, 4, 4]).await;
    node.kill().await;
    // Nothing again after a death.
    add(&path, &line(5));
    let mut node = start(engine, &config, "b", NEVER).await;
    node.leads().await;
    seen(&node, &[1, 2, 3, 4, 4, 5]).await;
    node.stop().await;
}

async fn a_file_that_was_rotated_while_nobody_looked_is_read_on(engine: &mut Engine) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("app.log");
    let config = file(&path);
    add(&path, &[line(1), line(2)].concat());
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    seen(&node, &[1, 2]).await;
    node.kill().await;
    // Twice, and something that is not of a rotation beside it.
    add(&path, &line(3));
    fs::rename(&path, dir.path().join("app.log.2")).expect("it is renamed");
    settle(dir.path(), "app.log.2", 1);
    add(&dir.path().join("app.log.1"), &line(4));
    settle(dir.path(), "app.log.1", 2);
    add(&dir.path().join("app.log.err"), &line(99));
    settle(dir.path(), "app.log.err", 3);
    add(&path, &line(5));
    settle(dir.path(), "app.log", 4);
    let mut node = start(engine, &config, "b", NEVER).await;
    node.leads().await;
    seen(&node, &[1, 2, 3, 4, 5]).await;
    node.kill().await;
    // Another file of the same length at the same place is another file, whatever its number.
    let old = fs::read(&path).expect("the file is read");
    fs::OpenOptions::new().write(true).truncate(true).open(&path).expect("it is emptied");
    add(&path, &[line(6), line(7)].concat());
    assert!(fs::read(&path).expect("the file is read").len() >= old.len());
    let mut node = start(engine, &config, "c", NEVER).await;
    node.leads().await;
    seen(&node, &[1, 2, 3, 4, 5, 6, 7]).await;
    node.stop().await;
}

/// Last written so many minutes ago as nobody can mistake.
fn settle(dir: &Path, name: &str, order: u64) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000 + order * 60);
    let file = fs::OpenOptions::new().append(true).open(dir.join(name)).expect("the file opens");
    file.set_modified(time).expect("the time is set");
}

async fn what_is_no_event_is_a_dead_letter_and_the_file_goes_on(engine: &mut Engine) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("app.log");
    let config = file(&path);
    let huge = format!("{{\"event_type\":\"x.y\",\"a\":\"{}\"}}\n", "x".repeat(3 << 20));
    add(&path, &[&line(1), &huge, "no JSON\n\n", &line(2)].concat());
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    seen(&node, &[1, 2]).await;
    let intake = node.store.intake_stream();
    node.has_taken(&[&intake]).await;
    let letters = node.store.dead_letters(10).await.expect("dead letters");
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.source == "log" && letter.body.len() <= 4096));
    node.kill().await;
    let mut node = start(engine, &config, "a", NEVER).await;
    node.leads().await;
    add(&path, &line(3));
    seen(&node, &[1, 2, 3]).await;
    assert_eq!(node.store.dead_letters(10).await.expect("dead letters").len(), 2, "once");
    node.stop().await;
}

// ---- what only a server can do

fn keys(start: &str) -> Config {
    config(&format!("[[source]]\nname = \"keys\"\nkind = \"keys\"\nstart = \"{start}\"\n"))
}

fn event(user: usize) -> String {
    format!("{{\"event_type\":\"security.injection_attempt\",\"user_id\":\"{user}\"}}")
}

async fn all_of(node: &Node, wanted: usize) -> Vec<String> {
    until(&format!("{wanted} of them"), async || users(&node.store).await.len() >= wanted).await;
    let mut users = users(&node.store).await;
    users.sort();
    users
}

async fn each_key_is_taken_once(notifications: &str) {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    redis::cmd("CONFIG").arg("SET").arg("notify-keyspace-events").arg(notifications).exec(&mut client).expect("it is set");
    let mut set = |n: usize| {
        redis::cmd("SET").arg(format!("audit:event:2026-01-01T00:00:0{n}:id{n}")).arg(event(n)).exec(&mut client).expect("a key")
    };
    set(0);
    let config = keys("now");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    until("the bridge has begun", async || node.store.bookmark("keys:keys").await.is_ok_and(|bookmark| bookmark.is_some())).await;
    set(1);
    set(2);
    if notifications.is_empty() {
        // Found by the scan that a start begins with.
        node.kill().await;
        node = start(&engine, &config, "b", NEVER).await;
        node.leads().await;
    }
    assert_eq!(all_of(&node, 2).await, ["1", "2"], "what was there before `now` is not taken");
    node.kill().await;
    set(3);
    // A hash counts like a text.
    redis::cmd("HSET")
        .arg("audit:event:2026-01-01T00:00:04:id4")
        .arg(&["event_type", "security.injection_attempt", "user_id", "4"])
        .exec(&mut server.client())
        .expect("a hash");
    let mut node = start(&engine, &config, "b", NEVER).await;
    node.leads().await;
    // Both bridge here, whoever leads.
    let mut second = start(&engine, &config, "c", NEVER).await;
    second.follows().await;
    assert_eq!(all_of(&node, 4).await, ["1", "2", "3", "4"]);
    let intake = node.store.intake_stream();
    node.has_taken(&[&intake]).await;
    assert_eq!(all_of(&node, 4).await.len(), 4, "each once");
    node.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_is_taken_once_with_notifications() {
    each_key_is_taken_once("KA").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_is_taken_once_without_notifications() {
    each_key_is_taken_once("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_last_hour_are_known_by_their_names() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let now = engine.open().await.now_ms().await.expect("the clock") / 1000;
    for (n, time) in [(1, (now - 60).to_string()), (2, (now - 7200).to_string()), (3, "when".to_owned())] {
        redis::cmd("SET").arg(format!("audit:event:{time}:id{n}")).arg(event(n)).exec(&mut client).expect("a key");
    }
    let mut node = start(&engine, &keys("1h"), "a", NEVER).await;
    node.leads().await;
    assert_eq!(all_of(&node, 1).await, ["1"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_heard_again_after_its_connection_was_cut() {
    let engine = Engine::redis();
    let Engine::Redis(server) = &engine else { unreachable!() };
    let mut client = server.client();
    let config = config("[[source]]\nname = \"live\"\nkind = \"channel\"\npattern = \"audit:*\"\n");
    let mut node = start(&engine, &config, "a", NEVER).await;
    node.leads().await;
    for user in 1..3 {
        until("somebody listens", async || {
            let n: u64 = redis::cmd("PUBSUB").arg("NUMPAT").query(&mut client).expect("a number");
            n > 0
        })
        .await;
        redis::cmd("PUBLISH").arg("audit:live").arg(event(user)).exec(&mut client).expect("it is published");
        seen(&node, &(1..=user).collect::<Vec<_>>()).await;
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec(&mut client).expect("it is cut");
    }
    node.stop().await;
}
