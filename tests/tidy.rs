//! Rules about the repository, as code: who may import whom, where the clock is read, how long a file may be, which words
//! stand nowhere, that a dashboard names only metrics that exist.
//!
//! Every rule is a function from (path, text) to complaints. `repository` runs them over the files; the other tests show of
//! each rule, on a few lines in memory, that it can fail.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A row imports from rows above it (smaller numbers), `src/lib.rs` has the map.
const ROWS: &[&[&str]] = &[
    &["event"],
    &["filter"],
    &["detect"],
    &["wire"],
    &["metrics", "store", "auth"],
    &["source", "hub", "notify"],
    &["monitor", "session"],
    &["http"],
    &["config", "server"],
    &["cli"],
    &["main"],
];

/// Imports within a row that the map says.
const SAME_ROW: &[(&str, &str)] = &[
    // A token's revocation and a user's permissions are the store's.
    ("auth", "store"),
    // The wiring is given the whole configuration, and hands each room its part.
    ("server", "config"),
];

/// No runtime, no clock, no lock, no log, no I/O.
const PURE: &[&str] = &["event", "filter", "detect", "wire"];
const IMPURE: &[&str] = &[
    "tokio",
    "Instant",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "Mutex",
    "RwLock",
    "tracing",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "println!",
    "eprintln!",
];

/// Files (or folders, with a `/`) that may ask the time of day, and for what. Everywhere else it is a parameter, or the store's.
const WALL_CLOCK: &[(&str, &str)] = &[
    ("src/store/embedded/clock.rs", "the store's own clock"),
    ("src/store/redis/mod.rs", "a seed, where the system has no random numbers"),
    ("src/metrics/health.rs", "the one place that everything above the store asks: tokens' exp, times in frames"),
];
/// Rooms that may ask how long something took or when to give up. Everywhere else it is a parameter.
const STOPWATCH: &[(&str, &str)] = &[
    ("src/store/", "time-outs"),
    ("src/source/", "polling"),
    ("src/hub/", "how long the log was not to be read"),
    ("src/monitor", "lease, checkpoints"),
    ("src/session/", "pings, silence, stalls"),
    ("src/http/", "limits, time-outs"),
    ("src/server", "the drain"),
    ("src/cli/", "commands for people"),
];

const LINES_MAX: usize = 600;
/// Longer, and why.
const LONG: &[(&str, &str)] = &[
    ("tests/tidy.rs", "each rule stands beside the proof that it can fail"),
    ("tests/suite/mod.rs", "one suite of scenarios that both stores run"),
    ("tests/session_feed.rs", "the feed over real sockets, one scenario after the other"),
    ("tests/store.rs", "what a server can do to us, one scenario after the other"),
    ("tests/embedded.rs", "what a disk can do to us, one scenario after the other"),
];
/// Files with an ignored test, and why.
const IGNORED: &[(&str, &str)] = &[("tests/embedded.rs", "the process that its tests start and kill")];

/// Licences of dependencies; `.deny.toml` has the same list.
const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `text` with comments and the insides of literals as blanks; line breaks stay.
fn code_only(text: &str) -> String {
    let src: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let mut i = 0;
    while i < src.len() {
        let at = |n: usize| src.get(i + n).copied().unwrap_or('\0');
        let starts_word = i == 0 || !is_word(src[i - 1]);
        let end = if at(0) == '/' && at(1) == '/' {
            (i..src.len()).find(|&j| src[j] == '\n').unwrap_or(src.len())
        } else if at(0) == '/' && at(1) == '*' {
            let mut depth = 0;
            let mut j = i;
            while j < src.len() {
                match (src[j], src.get(j + 1)) {
                    ('/', Some('*')) => (depth, j) = (depth + 1, j + 2),
                    ('*', Some('/')) => (depth, j) = (depth - 1, j + 2),
                    _ => j += 1,
                }
                if depth == 0 {
                    break;
                }
            }
            j
        } else if starts_word
            && (at(0) == 'r' && matches!(at(1), '"' | '#') || at(0) == 'b' && at(1) == 'r' && matches!(at(2), '"' | '#'))
        {
            let open = (i..src.len()).find(|&j| !matches!(src[j], 'b' | 'r' | '#')).unwrap_or(src.len());
            if src.get(open) != Some(&'"') {
                // A raw identifier.
                out.push(src[i]);
                i += 1;
                continue;
            }
            let hashes = src[i..open].iter().filter(|&&c| c == '#').count();
            let closes = |j: usize| src[j] == '"' && (1..=hashes).all(|n| src.get(j + n) == Some(&'#'));
            (open + 1..src.len()).find(|&j| closes(j)).map_or(src.len(), |j| j + hashes + 1)
        } else if at(0) == '"' {
            let mut j = i + 1;
            while j < src.len() && src[j] != '"' {
                j += if src[j] == '\\' { 2 } else { 1 };
            }
            j + 1
        } else if at(0) == '\'' && at(1) == '\\' {
            (i + 3..src.len()).find(|&j| src[j] == '\'').map_or(src.len(), |j| j + 1)
        } else if at(0) == '\'' && at(2) == '\'' {
            i + 3
        } else {
            out.push(src[i]);
            i += 1;
            continue;
        };
        let end = end.min(src.len());
        out.extend(src[i..end].iter().map(|&c| blank(c)));
        i = end;
    }
    out
}

/// What the product is made of: up to the unit tests at the file's end.
fn without_tests(code: &str) -> &str {
    let test_module = code.match_indices("#[cfg(test)]").find(|(at, found)| {
        let rest = code[at + found.len()..].trim_start();
        rest.starts_with("mod ") || rest.starts_with("#[")
    });
    test_module.map_or(code, |(at, _)| &code[..at])
}

/// Offsets where `word` stands by itself.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && (word.ends_with('!') || !after.is_some_and(is_word))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn is_unit_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

/// `src/store/redis/mod.rs` → `store`.
fn room(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let first = rest.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&room))
}

/// First path segments behind `crate::`, groups included, with their offsets.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate").collect::<Vec<_>>() {
        let Some(rest) = code[at + 5..].trim_start().strip_prefix("::") else { continue };
        let rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.push((at, std::mem::take(&mut item)));
                        continue;
                    }
                    _ => {}
                }
                item.push(c);
            }
            found.push((at, item));
        } else {
            found.push((at, rest.to_owned()));
        }
    }
    found
        .into_iter()
        .map(|(at, path)| (at, path.trim_start().chars().take_while(|&c| is_word(c)).collect::<String>()))
        .filter(|(_, name)| !name.is_empty())
        .collect()
}

fn layers(path: &str, text: &str) -> Vec<String> {
    let Some(from) = room(path).filter(|from| *from != "lib") else { return Vec::new() };
    let Some(from_row) = row(from) else { return vec![format!("{path}: the room {from} is not on the map (ROWS)")] };
    if is_unit_test_file(path) {
        return Vec::new();
    }
    let code = code_only(text);
    let code = without_tests(&code);
    let mut complaints = Vec::new();
    for (at, to) in imports(code) {
        let Some(to_row) = row(&to) else { continue };
        if to != from && to_row >= from_row && !SAME_ROW.contains(&(from, to.as_str())) {
            complaints.push(format!("{path}:{}: {from} imports {to}, which is not above it", line_of(code, at)));
        }
    }
    complaints
}

fn redis_crate(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || path.starts_with("src/store/redis") {
        return Vec::new();
    }
    let code = code_only(text);
    // In the store's own files, and where the module was imported by name, a bare `redis::` is the module.
    let module_known = path.starts_with("src/store/") || code.contains("store::redis;") || code.contains("super::redis;");
    let mut complaints = Vec::new();
    for at in words(&code, "redis") {
        let before = code[..at].trim_end();
        let follows_path = code[at + 5..].trim_start().starts_with("::");
        let absolute = before.strip_suffix("::").is_some_and(|b| !b.ends_with(|c: char| is_word(c) || c == '>'));
        let used = before.ends_with("use") || before.ends_with("extern crate");
        let bare = follows_path && !before.ends_with("::") && !before.ends_with('{') && !before.ends_with(',') && !module_known;
        if absolute || used && !module_known || bare {
            complaints.push(format!("{path}:{}: names the redis crate; only src/store/redis does", line_of(&code, at)));
        }
    }
    complaints
}

fn purity(path: &str, text: &str) -> Vec<String> {
    if !room(path).is_some_and(|room| PURE.contains(&room)) || is_unit_test_file(path) {
        return Vec::new();
    }
    let code = code_only(text);
    let code = without_tests(&code);
    let complain = |word: &&str| {
        let at = words(code, word).next()?;
        Some(format!("{path}:{}: {word} in a pure room", line_of(code, at)))
    };
    IMPURE.iter().filter_map(complain).collect()
}

fn clocks(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || is_unit_test_file(path) {
        return Vec::new();
    }
    let code = code_only(text);
    let code = without_tests(&code);
    let mut complaints = Vec::new();
    for (word, places) in
        [("SystemTime::now", WALL_CLOCK), ("Timestamp::now", WALL_CLOCK), ("Zoned::now", WALL_CLOCK), ("Instant::now", STOPWATCH)]
    {
        if !places.iter().any(|(place, _)| path.starts_with(place)) {
            complaints.extend(
                words(code, word).map(|at| format!("{path}:{}: {word} is asked here; time is a parameter", line_of(code, at))),
            );
        }
    }
    complaints
}

fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines <= LINES_MAX || LONG.iter().any(|(long, _)| *long == path) {
        return Vec::new();
    }
    vec![format!("{path}: {lines} lines; past {LINES_MAX} it has a second subject")]
}

fn banned(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    // Spelt in two, or this file would complain about itself.
    for word in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
        complaints.extend(words(text, word).map(|at| format!("{path}:{}: {word}", line_of(text, at))));
    }
    if path.ends_with(".rs") {
        let code = code_only(text);
        for word in ["unimplemented!", "todo!", "dbg!", "unbounded_channel"] {
            complaints.extend(words(&code, word).map(|at| format!("{path}:{}: {word}", line_of(&code, at))));
        }
        if !IGNORED.iter().any(|(file, _)| *file == path) {
            let ignored = code.match_indices("#[ignore");
            complaints.extend(ignored.map(|(at, _)| format!("{path}:{}: an ignored test", line_of(&code, at))));
        }
    }
    complaints
}

/// Names in a dashboard or rule that no series has. `code` is the text of `src/metrics*` and `src/detect/**`.
fn metric_names(path: &str, text: &str, code: &str) -> Vec<String> {
    let exists = |name: &str| {
        let bare = name.strip_prefix("auditcast_").unwrap_or(name);
        [name, bare].iter().any(|n| code.contains(&format!("\"{n}\"")))
    };
    let mut complaints = Vec::new();
    for (at, prefix) in text.match_indices("auditcast_") {
        if text[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let name: String = prefix.chars().chain(text[at + prefix.len()..].chars().take_while(|&c| is_word(c))).collect();
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        if !exists(&name) && !histogram.is_some_and(exists) {
            complaints.push(format!("{path}:{}: there is no metric {name}", line_of(text, at)));
        }
    }
    complaints
}

fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let complain = |word: &&str| Some(format!("{path}:{}: {word} is a path of one machine", line_of(text, text.find(*word)?)));
    ["/root/", "/home/", "../shared/"].iter().filter_map(complain).collect()
}

/// Whether an SPDX expression can be satisfied with the licences of the list. Old manifests write `/` for `OR`.
fn licence_allowed(expression: &str) -> bool {
    fn any(tokens: &[String], at: &mut usize) -> bool {
        let mut ok = all(tokens, at);
        while tokens.get(*at).is_some_and(|t| t == "OR" || t == "/") {
            *at += 1;
            ok |= all(tokens, at);
        }
        ok
    }
    fn all(tokens: &[String], at: &mut usize) -> bool {
        let mut ok = one(tokens, at);
        while tokens.get(*at).is_some_and(|t| t == "AND") {
            *at += 1;
            ok &= one(tokens, at);
        }
        ok
    }
    fn one(tokens: &[String], at: &mut usize) -> bool {
        let Some(token) = tokens.get(*at) else { return false };
        *at += 1;
        if token == "(" {
            let ok = any(tokens, at);
            *at += 1;
            return ok;
        }
        let mut name = token.clone();
        if tokens.get(*at).is_some_and(|t| t == "WITH") {
            name = format!("{name} WITH {}", tokens.get(*at + 1).map_or("", |t| t));
            *at += 2;
        }
        LICENCES.contains(&name.as_str())
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " / ");
    let tokens: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
    let mut at = 0;
    any(&tokens, &mut at) && at == tokens.len()
}

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Files under `dir` whose names end so, as (path from the root, text).
fn files(dir: &str, endings: &[&str]) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "__pycache__") {
                    walk(&path, found);
                }
            } else {
                found.push(path);
            }
        }
    }
    let base = root();
    let mut paths = Vec::new();
    walk(&base.join(dir), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter(|path| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path.strip_prefix(&base).unwrap_or(&path).to_string_lossy().into_owned(), text)
        })
        .collect()
}

/// The documents at the root, and the configuration.
fn documents() -> Vec<(String, String)> {
    fs::read_dir(root())
        .expect("the repository's root can be listed")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md") || name == "config.toml" || name == "Cargo.toml")
        .map(|name| (name.clone(), fs::read_to_string(root().join(&name)).unwrap_or_default()))
        .collect()
}

#[test]
fn repository() {
    let source = files("src", &[".rs"]);
    assert!(source.len() > 10, "the source was not found under {}", root().display());
    let tests: Vec<_> = files("tests", &[".rs", ".py"]).into_iter().chain(files("examples", &[".rs"])).collect();
    let page = files("src", &[".html", ".css", ".js"]);
    let grafana = files("grafana", &[".json", ".yml"]);
    let documents: Vec<_> = documents().into_iter().chain(files("docs", &[".md"])).collect();

    let mut complaints = Vec::new();
    for (path, text) in &source {
        for rule in [layers, redis_crate, purity, clocks] {
            complaints.extend(rule(path, text));
        }
    }
    for (path, text) in source.iter().chain(&tests).chain(&page) {
        complaints.extend(length(path, text));
        complaints.extend(banned(path, text));
    }
    for (path, text) in source.iter().chain(&documents).chain(&grafana).chain(&page) {
        complaints.extend(machine_paths(path, text));
    }
    let series: String = source
        .iter()
        .filter(|(path, _)| (path.starts_with("src/metrics") || path.starts_with("src/detect/")) && !is_unit_test_file(path))
        .map(|(_, text)| text.as_str())
        .collect();
    for (path, text) in &grafana {
        complaints.extend(metric_names(path, text, &series));
    }
    complaints.sort();
    complaints.dedup();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn licences_of_dependencies() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata gives JSON");
    let packages = metadata["packages"].as_array().expect("packages are a list");
    assert!(packages.len() > 50, "only {} packages", packages.len());
    let refused: BTreeSet<String> = packages
        .iter()
        .filter(|package| !licence_allowed(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "\n{}\n", refused.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_licence_list_is_the_one_of_cargo_deny() {
    let text = fs::read_to_string(root().join(".deny.toml")).expect(".deny.toml is there");
    let deny: toml::Value = toml::from_str(&text).expect(".deny.toml is TOML");
    let listed: Vec<&str> = deny["licenses"]["allow"].as_array().expect("a list").iter().filter_map(|l| l.as_str()).collect();
    assert_eq!(listed, LICENCES);
}

/// A rule, a text it must complain about and one it must not.
#[track_caller]
fn check(rule: fn(&str, &str) -> Vec<String>, path: &str, bad: &[&str], good: &[&str]) {
    for text in bad {
        assert!(!rule(path, text).is_empty(), "{path} with `{text}` must be refused");
    }
    for text in good {
        assert_eq!(rule(path, text), Vec::<String>::new(), "{path} with `{text}` must pass");
    }
}

#[test]
fn layers_can_fail() {
    let bad = ["use crate::monitor::Monitor;", "use crate::{event::Event, session::Session};", "fn f() { crate::http::serve() }"];
    let good = [
        "use crate::event::Event;",
        "use crate::{event::{Event, EntryId}, wire};",
        "use crate::store::Store;",
        "// crate::http is not named\nconst S: &str = \"crate::http\";",
        "fn f() {}\n#[cfg(test)]\nmod tests { use crate::http::serve; }",
        "use crate::hub::Ring;",
    ];
    check(layers, "src/hub/mod.rs", &bad, &good);
    check(layers, "src/auth/mod.rs", &["use crate::metrics::Metrics;"], &["use crate::store::Store;"]);
    check(layers, "src/store/mod.rs", &["use crate::auth::Secret;"], &["use crate::event::EntryId;"]);
    check(layers, "src/event/decode.rs", &["use crate::detect::Alert;"], &["use crate::event::EntryId;"]);
    check(layers, "src/helpers/mod.rs", &["fn f() {}"], &[]);
}

#[test]
fn the_redis_crate_can_fail() {
    let bad = ["use redis::Client;", "use ::redis::cmd;", "fn f() -> redis::RedisResult<()> {}", "extern crate redis;"];
    let good = [
        "// redis::Client",
        "let s = \"redis://h\";",
        "use crate::store::redis;\nfn f(s: redis::RedisStore) {}",
        "let redis = 1;",
    ];
    check(redis_crate, "src/hub/mod.rs", &bad, &good);
    check(redis_crate, "src/store/mod.rs", &["use ::redis::cmd;"], &["pub mod redis;\nfn f(s: redis::RedisStore) {}"]);
    check(redis_crate, "src/store/redis/mod.rs", &[], &["use ::redis::cmd;"]);
}

#[test]
fn purity_can_fail() {
    let bad = [
        "use tokio::sync;",
        "let t = Instant::now();",
        "static M: Mutex<u8>;",
        "tracing::warn!(\"x\")",
        "use std::fs;",
        "println!(\"\")",
    ];
    let good = [
        "// tokio\nlet s = \"Mutex\";",
        "struct InstantLike;",
        "let l = LazyLock::new(f);",
        "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }",
    ];
    check(purity, "src/detect/window.rs", &bad, &good);
    check(purity, "src/monitor.rs", &[], &bad);
}

#[test]
fn clocks_can_fail() {
    let bad = ["let t = std::time::SystemTime::now();", "let t = Instant::now();", "let t = jiff::Timestamp::now();"];
    check(clocks, "src/wire/frame.rs", &bad, &["fn f(now: Instant) {}", "// Instant::now()"]);
    check(clocks, "src/monitor.rs", &["SystemTime::now()"], &["Instant::now()"]);
}

#[test]
fn length_can_fail() {
    let long = "x\n".repeat(LINES_MAX + 1);
    check(length, "src/hub/mod.rs", &[&long], &[&long[2..]]);
}

#[test]
fn banned_words_can_fail() {
    let words = [concat!("// TO", "DO: later"), concat!("// FIX", "ME"), concat!("// XX", "X")];
    check(banned, "src/hub/mod.rs", &words, &["// todos are listed elsewhere"]);
    let code = [
        "fn f() { unimplemented!() }",
        "fn f() { todo!() }",
        "dbg!(x);",
        "let c = mpsc::unbounded_channel();",
        "#[ignore]\nfn t() {}",
    ];
    check(banned, "src/hub/mod.rs", &code, &["// todo!() is refused", "let s = \"dbg!\";"]);
}

#[test]
fn metric_names_can_fail() {
    let code = r#"counter("auditcast_events_total"); histogram("auditcast_commit_seconds"); gauge("session_timeouts")"#;
    let good = "rate(auditcast_events_total[5m]) auditcast_commit_seconds_bucket auditcast_session_timeouts job=\"auditcast\"";
    assert_eq!(metric_names("d.json", good, code), Vec::<String>::new());
    assert_eq!(metric_names("d.json", "auditcast_evnts_total", code).len(), 1);
    assert_eq!(metric_names("d.json", "auditcast_commit_seconds_p95", code).len(), 1);
}

#[test]
fn machine_paths_can_fail() {
    let sample = format!("see {}someone/", concat!("/ho", "me/"));
    check(machine_paths, "README.md", &[&sample], &["see /etc/auditcast/config.toml"]);
}

#[test]
fn licence_expressions() {
    for good in
        ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception OR GPL-2.0"]
    {
        assert!(licence_allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-2.0 OR LGPL-3.0) AND MIT", "GPL-2.0 WITH Classpath-exception-2.0"] {
        assert!(!licence_allowed(bad), "{bad}");
    }
}

#[test]
fn code_only_blanks_comments_and_literals() {
    let text = "a /* b /* c */ d */ e // f\n\"g\\\"h\" i 'j' '\\'' k<'l> r#\"m \" n\"# b\"o\" p";
    let words: Vec<String> = code_only(text).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "e", "i", "k<'l>", "b", "p"]);
}
