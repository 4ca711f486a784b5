//! `rules` and `replay`, as a person uses them.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let done =
        Command::new(env!("CARGO_BIN_EXE_auditcast")).args(arguments).current_dir(dir).env_clear().output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (done.status.code(), text(done.stdout), text(done.stderr))
}

#[test]
fn list_and_show() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("config.toml"), "[rule.brute_force_user]\nenabled = true\nat_least = 20\n").expect("a file");
    let (code, list, _) = run(dir.path(), &["rules", "list"]);
    assert_eq!(code, Some(0));
    for line in [
        "on   high      threshold  high_failed_login_rate",
        "on   medium    count      brute_force_user",
        "off  medium    count      brute_force_address",
    ] {
        assert!(list.lines().any(|l| l.starts_with(line)), "{list}");
    }
    let (code, shown, _) = run(dir.path(), &["rules", "show", "brute_force_user"]);
    assert_eq!(code, Some(0));
    assert!(shown.starts_with("[rule.brute_force_user]\n"), "{shown}");
    for (key, origin) in [("at_least = 20 ", "# config.toml:3"), ("window = \"10m\" ", "# built-in/logins.toml:")] {
        assert!(shown.lines().any(|l| l.starts_with(key) && l.contains(origin)), "{shown}");
    }
    let (code, _, error) = run(dir.path(), &["rules", "show", "nope"]);
    assert_eq!((code, error.trim_end()), (Some(2), "there is no rule \"nope\"; `auditcast rules list` names them"));
}

#[test]
fn check_runs_the_tests_of_rule_files() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("rules")).expect("a directory");
    fs::write(dir.path().join("config.toml"), "[rules]\ndir = \"rules\"\n").expect("a file");
    let rule = "[[rule]]\nname = \"r\"\nkind = \"match\"\nevents = [\"x_*\"]\nby = [\"user\"]\n";
    let test = |name: &str, event: &str, fires: &str| {
        format!(
            "[[test]]\nname = \"{name}\"\nrule = \"r\"\nevents = [{{ event_type = \"{event}\", user_id = \"7\" }}]\nfires = [{fires}]\n"
        )
    };
    let write = |tests: &str| fs::write(dir.path().join("rules/r.toml"), format!("{rule}{tests}")).expect("a file");
    write(&[test("it does", "x.y", "\"7\""), test("it does not", "y.y", "")].concat());
    let (code, out, error) = run(dir.path(), &["check"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.lines().any(|l| l.starts_with("rule tests=") && l.ends_with(" passed")), "{out}");
    write(&[test("it does", "x.y", "\"7\""), test("it does not", "x.y", "")].concat());
    let (code, _, error) = run(dir.path(), &["check"]);
    assert_eq!(code, Some(2));
    assert_eq!(error.trim_end(), "rules/r.toml:11: test \"it does not\": expected r to fire for nobody, found \"7\"");
}

#[test]
fn replay_gives_the_same_for_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut lines = Vec::new();
    for n in 0..5 {
        let at = format!("2026-01-01T10:0{n}:00Z");
        lines.push(
            json!({"event_type": "AUTH_FAILURE", "user_id": 7, "timestamp": at, "details": {"ip_address": "192.0.2.7"}})
                .to_string(),
        );
    }
    lines.push("rubbish".to_owned());
    lines.push(format!("10:05:00 {}", json!({"event_type": "AUTH_SUCCESS", "user_id": 7, "timestamp": "2026-01-01T10:05:00Z"})));
    lines.push(json!({"event_type": "data.read", "timestamp": "2026-01-01T12:00:00Z"}).to_string());
    fs::write(dir.path().join("f.jsonl"), lines.join("\n")).expect("a file");
    let (code, out, error) = run(dir.path(), &["replay", "--file", "f.jsonl"]);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(error.trim_end(), "7 events, 1 alerts fired, 1 lines that are no event, 0 events without a time");
    let alerts: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let said: Vec<_> = alerts
        .iter()
        .map(|a| (a["status"].as_str(), a["rule"].as_str(), a["message"].as_str(), a["timestamp"].as_str()))
        .collect();
    let rule = Some("success_after_failures");
    let text = "7 signed in after 5 failed logins in 10m";
    assert_eq!(
        said,
        [
            (Some("firing"), rule, Some(text), Some("2026-01-01T10:05:00.000Z")),
            (Some("resolved"), rule, Some(format!("Resolved: {text}").as_str()), Some("2026-01-01T10:10:00.000Z")),
        ]
    );
    assert_eq!(alerts[0]["evidence"].as_array().map(Vec::len), Some(6));
    assert_eq!((&alerts[0]["user_id"], &alerts[0]["details"]["entity"]), (&json!("7"), &json!({"user": "7"})));
    assert_eq!(run(dir.path(), &["replay", "--file", "f.jsonl"]).1, out);
    // Other rules: one alert more, told by itself.
    for (name, at_least) in [("before", 9), ("after", 3)] {
        fs::create_dir(dir.path().join(name)).expect("a directory");
        let rule = format!(
            "[[rule]]\nname = \"few\"\nkind = \"count\"\nlists = [\"failed_logins_last_hour\"]\nby = [\"user\"]\nwindow = \"1h\"\nat_least = {at_least}\n"
        );
        let test = |name: &str, times: u64, fires: &str| {
            format!(
                "[[test]]\nname = \"{name}\"\nrule = \"few\"\nevents = [{{ event_type = \"auth.failed\", user_id = \"7\", times = {times} }}]\nfires = [{fires}]\n"
            )
        };
        let tests = [test("it does", at_least, "\"7\""), test("it does not", at_least - 1, "")].concat();
        fs::write(dir.path().join(name).join("few.toml"), format!("{rule}{tests}")).expect("a file");
    }
    let (code, out, error) = run(dir.path(), &["replay", "--file", "f.jsonl", "--rules", "before", "--diff", "after"]);
    assert_eq!((code, error.trim_end()), (Some(0), "1 added, 0 removed, 0 changed"));
    let change: Value = serde_json::from_str(out.trim_end()).expect("it is JSON");
    assert_eq!(
        (&change["change"], &change["alert"]["rule"], &change["alert"]["value"]),
        (&json!("added"), &json!("few"), &json!(3))
    );

    // One file is as good as its directory, and a pipe in a directory is not waited for.
    let one = run(dir.path(), &["replay", "--file", "f.jsonl", "--rules", "before/few.toml", "--diff", "after/few.toml"]);
    assert_eq!((one.0, one.1), (Some(0), out));
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("after/pipe.toml")).status().expect("mkfifo runs");
    assert!(made.success());
    let (code, _, error) = run(dir.path(), &["replay", "--file", "f.jsonl", "--rules", "after"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("\"pipe.toml\" in it is no regular file"), "{error}");

    let (code, _, error) = run(dir.path(), &["replay", "--file", "none.jsonl"]);
    assert_eq!(code, Some(1));
    assert!(error.starts_with("could not read none.jsonl: "), "{error}");
}
