//! The binary as a user runs it: exit codes, what is on stdout and what on stderr. On an embedded store in a directory of its own,
//! so nothing else need run.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Runs the binary in `dir` with these variables and no others.
fn run_with(dir: &Path, env: &[(&str, &str)], args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_auditcast"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("AUDITCAST__STORE__URL", "embedded:store")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn run(dir: &Path, args: &[&str]) -> Output {
    run_with(dir, &[("JWT_SECRET_KEY", SECRET)], args, "")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", out(output), err(output));
}

#[test]
fn help_and_version_end_with_0_and_name_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]);
    exits(&help, 0);
    for command in ["serve", "demo", "check", "rules", "replay", "emit", "watch", "token", "doctor", "health"] {
        assert!(out(&help).contains(&format!("  {command} ")), "{command}: {}", out(&help));
        exits(&run(dir.path(), &[command, "--help"]), 0);
    }
    let by_word = run(dir.path(), &["help"]);
    exits(&by_word, 0);
    assert_eq!(out(&by_word), out(&help));
    for later in ["explain", "silence", "notify"] {
        assert!(!out(&help).contains(later), "{later}");
    }
    let version = run(dir.path(), &["--version"]);
    exits(&version, 0);
    assert!(out(&version).starts_with(concat!("auditcast ", env!("CARGO_PKG_VERSION"), " (")), "{}", out(&version));
}

#[test]
fn wrong_usage_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["nonsense"],
        &["--log", "xml", "check"],
        &["emit"],
        &["emit", ""],
        &["emit", "x", "--file", "f"],
        &["emit", "x", "--severity", "worst"],
        &["emit", "x", "--detail", "novalue"],
        &["emit", "x", "--stream", "other"],
        &["emit", "x", "--stream", "{auditcast}:intake"],
        &["emit", "--file", "not-there.jsonl"],
        &["token", "issue"],
        &["token", "issue", "--user", "u", "--for", "soon"],
        &["token", "issue", "--user", "u", "--for", "25h"],
        &["token", "issue", "--user", "u", "--role", "emperor"],
        &["token", "revoke"],
        &["token", "revoke", "not-a-token"],
        &["token", "revoke", "a.b.c", "--jti", "x"],
        &["token", "inspect", "not-a-token"],
        &["health", "--url", "bogus"],
        &["health", "--url", "http://h:99999"],
        &["watch"],
        &["watch", "--token", "t", "--url", "ftp://h"],
        &["watch", "--token", "t", "--after", "a b"],
        &["doctor", "--pre", "--post"],
        &["--config", "not-there.toml", "check"],
        &["--env-file", "not-there", "check"],
    ] {
        let output = run(dir.path(), args);
        exits(&output, 2);
        assert!(!err(&output).is_empty() && out(&output).is_empty(), "{args:?}: {}", out(&output));
        let first = err(&output).lines().next().unwrap().to_owned();
        assert!(!first.is_empty() && !first.ends_with(':'), "the first line stands alone: {first}");
    }
    exits(&run(dir.path(), &["emit", &"x".repeat(257)]), 2);
    for args in [&[][..], &["token"]] {
        let alone = run(dir.path(), args);
        exits(&alone, 2);
        assert!(err(&alone).starts_with("error: a command is needed, one of those below\n\n"), "{}", err(&alone));
    }
    let missing = run(dir.path(), &["token", "issue"]);
    assert!(
        err(&missing).starts_with("error: the following required arguments were not provided: --user <ID>\n\nUsage: "),
        "{}",
        err(&missing)
    );
}

#[test]
fn a_token_that_cannot_be_read_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    // {"alg":"none","typ":"JWT"} . {"sub":"7"}
    let none = run(dir.path(), &["token", "inspect", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiI3In0."]);
    exits(&none, 1);
    assert!(out(&none).contains("\"reason\": \"the token's algorithm is none, which is not taken here\""), "{}", out(&none));
    for (token, wanted) in [
        ("garbage", "the token does not have three parts\n"),
        ("?.?.?", "the token's header is not base64url of JSON\n"),
        ("eyJhbGciOiJIUzI1NiJ9.?.x", "the token's claims are not base64url of JSON\n"),
    ] {
        let output = run(dir.path(), &["token", "inspect", token]);
        exits(&output, 2);
        assert_eq!(err(&output), wanted, "{token}");
    }
}

/// With few requests allowed the page would be refused now and then; who sets that should know.
#[test]
fn a_rate_limit_that_is_too_tight_for_the_page_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let env = [
        ("JWT_SECRET_KEY", SECRET),
        ("RATE_LIMIT_GENERAL", "10"),
        ("AUDITCAST__LISTEN__PUBLIC", "127.0.0.1:0"),
        ("AUDITCAST__LISTEN__OPS", "127.0.0.1:0"),
    ];
    let text = "RATE_LIMIT_GENERAL allows 10 API requests in 1m, and the page alone needs about 30 a minute";
    let check = run_with(dir.path(), &env, &["check"], "");
    exits(&check, 0);
    assert!(err(&check).starts_with(text), "{}", err(&check));
    let doctor = run_with(dir.path(), &env, &["doctor", "--pre"], "");
    exits(&doctor, 0);
    assert!(out(&doctor).contains(&format!("warn rate limits: {text}; ")), "{}", out(&doctor));
}

#[test]
fn check_shows_what_is_in_force_and_hides_secrets() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), "[monitor]\ninterval = \"2s\"\n").unwrap();
    let output = run_with(dir.path(), &[("JWT_SECRET_KEY", SECRET), ("REDIS_PASSWORD", "hunter2")], &["check"], "");
    exits(&output, 0);
    let text = out(&output);
    let line = |key: &str| text.lines().find(|l| l.starts_with(&format!("{key} "))).unwrap_or_else(|| panic!("{key}: {text}"));
    assert!(text.starts_with("config=config.toml\n"), "{text}");
    assert!(line("monitor.interval").ends_with("# config.toml:2"), "{text}");
    assert!(
        line("store.url").contains("\"embedded:store\"") && line("store.url").ends_with("# environment AUDITCAST__STORE__URL")
    );
    assert!(line("auth.secret").contains("\"***\"") && line("auth.secret").ends_with("# environment JWT_SECRET_KEY"));
    assert!(line("alerts.retention").contains("# default"));
    assert!(!text.contains(SECRET) && !text.contains("hunter2"));
    assert!(err(&output).is_empty());

    let without = run_with(dir.path(), &[], &["check"], "");
    exits(&without, 0);
    assert!(err(&without).contains("serve` does not start without it"), "{}", err(&without));
}

#[test]
fn check_names_every_fault_and_ends_with_2() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.toml"), "[monitor]\ninterval = \"50ms\"\n[feeed]\n").unwrap();
    let output = run_with(dir.path(), &[("AUDITCAST__LIMITS__CONNECTIONS", "many")], &["check", "--config", "c.toml"], "");
    exits(&output, 2);
    assert_eq!(
        err(&output),
        "c.toml:2: monitor.interval: expected a duration of at least 100ms, found \"50ms\"\n\
         c.toml:3: feeed: unknown section, did you mean \"feed\"?\n\
         environment AUDITCAST__LIMITS__CONNECTIONS: limits.connections: expected a whole number from 1 to 1000000, found \"many\"\n"
    );
    assert!(out(&output).is_empty());
}

#[test]
fn a_token_is_issued_inspected_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let issued =
        run(dir.path(), &["token", "issue", "--user", "7", "--role", "admin", "--permission", "audit.write", "--for", "10m"]);
    exits(&issued, 0);
    let token = out(&issued).trim_end().to_owned();
    assert_eq!(token.split('.').count(), 3, "only the token: {token}");
    assert!(err(&issued).is_empty());

    let good = run(dir.path(), &["token", "inspect", &token]);
    exits(&good, 0);
    let told: serde_json::Value = serde_json::from_str(&out(&good)).unwrap();
    assert_eq!(told["valid"], true);
    assert_eq!((&told["user_id"], &told["revoked"]), (&"7".into(), &false.into()));
    let permissions = told["permissions"].to_string();
    assert!(permissions.contains("admin.access") && permissions.contains("audit.write"), "{permissions}");
    assert_eq!(told["may_see"], true);

    let issued = run(dir.path(), &["token", "issue", "--user", "8", "--role", "observer"]);
    let weak = run(dir.path(), &["token", "inspect", out(&issued).trim_end()]);
    exits(&weak, 0);
    let told: serde_json::Value = serde_json::from_str(&out(&weak)).unwrap();
    assert_eq!((&told["valid"], &told["may_see"]), (&true.into(), &false.into()));
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("audit.view")), "{told}");

    let other_key =
        run_with(dir.path(), &[("JWT_SECRET_KEY", "another-key-another-key-another-key")], &["token", "inspect", "-"], &token);
    exits(&other_key, 1);
    assert!(out(&other_key).contains("\"valid\": false"));

    let revoked = run_with(dir.path(), &[("AUDITCAST_TOKEN", &token)], &["token", "revoke"], "");
    exits(&revoked, 0);
    assert!(out(&revoked).starts_with("revoked "), "{}", out(&revoked));
    let after = run(dir.path(), &["token", "inspect", &token]);
    exits(&after, 1);
    assert!(out(&after).contains("blacklisted"), "{}", out(&after));

    let no_key = run_with(dir.path(), &[], &["token", "issue", "--user", "7"], "");
    exits(&no_key, 2);
    assert!(err(&no_key).contains("openssl rand"), "{}", err(&no_key));
}

#[test]
fn emit_appends_and_prints_ids() {
    let dir = tempfile::tempdir().unwrap();
    let is_id = |id: &str| id.split_once('-').is_some_and(|(ms, seq)| ms.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok());
    let one = run(dir.path(), &["emit", "auth.failed", "--user", "7", "--ip", "10.0.0.1", "--detail", "attempts=3"]);
    exits(&one, 0);
    assert!(is_id(out(&one).trim_end()), "{}", out(&one));

    let lines = "2024-01-15 INFO {\"event_type\":\"A\"}\n\n{\"event_type\":\"B\"}\n";
    let many = run_with(dir.path(), &[], &["emit", "--file", "-"], lines);
    exits(&many, 0);
    assert_eq!(out(&many).lines().filter(|line| is_id(line)).count(), 2, "{}", out(&many));

    fs::write(dir.path().join("f.jsonl"), "{\"event_type\":\"A\"}\nnothing\n{\"event_type\":\"B\"}\n").unwrap();
    let bad = run(dir.path(), &["emit", "--file", "f.jsonl"]);
    exits(&bad, 1);
    assert_eq!(out(&bad).lines().count(), 2, "what is good is appended");
    assert_eq!(err(&bad), "f.jsonl:2: skipped: it holds no JSON object\n1 line of f.jsonl was skipped\n");
}

/// An HTTP server that answers `n` requests with `status`; gives its address.
fn answers(n: usize, status: &'static str, body: &'static str) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let mut heads = Vec::new();
        for _ in 0..n {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            heads.push(String::from_utf8(head).unwrap().lines().next().unwrap().to_owned());
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
        }
        heads
    });
    (url, served)
}

#[test]
fn health_is_0_or_1() {
    let dir = tempfile::tempdir().unwrap();
    let (url, served) = answers(2, "200 OK", "body");
    exits(&run(dir.path(), &["health", "--url", &url]), 0);
    exits(&run(dir.path(), &["health", "--ready", "--url", &url]), 0);
    assert_eq!(served.join().unwrap(), ["GET /livez HTTP/1.1", "GET /readyz HTTP/1.1"]);

    let (url, served) = answers(1, "503 Service Unavailable", "body");
    let ill = run(dir.path(), &["health", "--ready", "--url", &url]);
    exits(&ill, 1);
    assert_eq!(err(&ill), format!("{url}/readyz answered 503: body\n"));
    served.join().unwrap();

    let checks = r#"{"ready":false,"checks":{"lease":{"ok":true,"text":"n1"},"source":{"ok":false,"text":"app is stalled"},"store":{"ok":false,"text":"it is away"}}}"#;
    let (url, served) = answers(1, "503 Service Unavailable", checks);
    let ill = run(dir.path(), &["health", "--ready", "--url", &url]);
    exits(&ill, 1);
    assert_eq!(err(&ill), format!("{url} is not ready: source: app is stalled; store: it is away\n"));
    served.join().unwrap();

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    exits(&run(dir.path(), &["health", "--url", &format!("http://{free}")]), 1);
}

#[test]
fn doctor_says_a_line_each_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let listen = [("AUDITCAST__LISTEN__PUBLIC", "127.0.0.1:0"), ("AUDITCAST__LISTEN__OPS", "127.0.0.1:0")];
    let with_key = [&listen[..], &[("JWT_SECRET_KEY", SECRET)]].concat();
    let fresh = run_with(dir.path(), &with_key, &["doctor", "--pre"], "");
    exits(&fresh, 0);
    assert!(out(&fresh).contains("ok   store: embedded:store is not there yet, the first start makes it\n"), "{}", out(&fresh));
    assert!(!dir.path().join("store").exists(), "to look is not to make");
    exits(&run(dir.path(), &["emit", "x", "--stream", "audit:events"]), 0);
    let well = run_with(dir.path(), &with_key, &["doctor"], "");
    exits(&well, 0);
    let text = out(&well);
    for wanted in
        ["ok   secret: ", "ok   store: embedded", "ok   clock: ", "ok   source audit: the stream audit:events has 1 entry\n"]
    {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let no_key = run_with(dir.path(), &listen, &["doctor"], "");
    exits(&no_key, 1);
    assert!(out(&no_key).contains("fail secret: no signing key is set; make one with: "), "{}", out(&no_key));
    assert_eq!(err(&no_key), "1 check failed\n");

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let taken = [&with_key[..1], &[("AUDITCAST__LISTEN__OPS", address.as_str()), ("JWT_SECRET_KEY", SECRET)]].concat();
    let output = run_with(dir.path(), &taken, &["doctor", "--pre"], "");
    exits(&output, 1);
    assert!(out(&output).contains(&format!("fail listen.ops: {address}: ")), "{}", out(&output));

    let serve = run_with(dir.path(), &taken, &["serve"], "");
    exits(&serve, 1);
    let text = err(&serve);
    assert!(text.ends_with("another process has this port: end that one, or take another port\n"), "{text}");

    // A sample password of the guide: told, and nothing contradicts itself where Redis is not there.
    let closed = format!("redis://{}/0", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let away = [&with_key[..], &[("AUDITCAST__STORE__URL", closed.as_str()), ("REDIS_PASSWORD", "your-redis-password")]].concat();
    let output = run_with(dir.path(), &away, &["doctor", "--pre"], "");
    exits(&output, 1);
    let text = out(&output);
    assert!(text.contains("warn secret: REDIS_PASSWORD is the sample text of the guide"), "{text}");
    assert!(
        text.lines()
            .any(|l| l.starts_with("fail store: ") && l.ends_with("refused the connection; start it, or correct REDIS_URL")),
        "{text}"
    );
}

#[test]
fn a_demo_on_a_redis_that_is_not_there_ends_at_once_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(dir.path(), &["demo", "--redis", &format!("redis://{closed}/0")]);
    exits(&output, 1);
    assert_eq!(err(&output), format!("the demo cannot use its store: Redis at {closed} refused the connection\n"));
    assert!(out(&output).is_empty());
}
