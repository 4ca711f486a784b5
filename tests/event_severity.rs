//! Severity by document A's own function: its source is taken from the seed and run by Python over a table of names in normal
//! form; with `severity.defaults = "a"` ours says the same of each.

use std::{env, fs, io::Write, path::PathBuf, process};

use auditcast::event::{Classifier, Options};

/// The method of the class, with its indentation, up to the end of its block.
fn method_source() -> Option<String> {
    let folder = env::var_os("AUDITCAST_SEEDS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/seeds"), PathBuf::from);
    let seed = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("000") && name.ends_with(".txt"))
    })?;
    let text = fs::read_to_string(seed).expect("the seed is readable text");
    let mut lines = text.lines().skip_while(|line| !line.trim_start().starts_with("def _get_event_severity("));
    let head = lines.next().expect("the seed has A's method");
    let indent = head.len() - head.trim_start().len();
    let body = lines.take_while(|line| line.trim().is_empty() || line.starts_with(&" ".repeat(indent + 1)));
    Some([head].into_iter().chain(body).map(|line| format!("{}\n", line.get(indent..).unwrap_or(""))).collect())
}

/// Every category and a word that stands for one, with every ending that could matter to either side.
fn names() -> Vec<String> {
    let heads = ["auth", "session", "permission", "rate_limit", "security", "token", "user", "data", "login", "payment"];
    let tails = [
        "success",
        "failed",
        "denied",
        "failure",
        "fail",
        "multiple_failed_attempts",
        "suspicious_activity",
        "escalation_attempt",
        "injection_attempt",
        "access_denied_twice",
        "unfailed",
        "undenied",
        "faileddenied",
        "deny",
        "brute_force_detected",
        "exceeded",
        "locked",
        "created",
        "escalation_attempts",
        "x.failed",
    ];
    let composed = heads.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}.{tail}")));
    let whole =
        ["login", "failed", "denied", "logout", "malicious.sqli", "authn.login_fail_max", "auth.suspicious.activity", "ä.failed"];
    composed.chain(whole.map(str::to_owned)).collect()
}

#[test]
fn as_documents_a_own_function_says() {
    let Some(source) = method_source() else {
        println!("not run: no seeds");
        return;
    };
    let names = names();
    assert!(names.len() >= 200);
    let script =
        format!("import sys, json\n{source}\nprint(json.dumps([_get_event_severity(None, n) for n in json.load(sys.stdin)]))\n");
    let mut python = process::Command::new("python3")
        .args(["-c", &script])
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut input = python.stdin.take().expect("stdin is a pipe");
    input.write_all(serde_json::to_string(&names).unwrap().as_bytes()).unwrap();
    drop(input);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let theirs: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(theirs.len(), names.len());

    let mut classifier = Classifier::new(Options { table: false, ..Options::contract() }).unwrap();
    let mut seen = [0; 3];
    for (name, theirs) in names.iter().zip(&theirs) {
        let kind = classifier.event_type(name).unwrap();
        assert_eq!(&kind.normal, name, "the table holds normal forms");
        assert_eq!(kind.severity.as_str(), theirs, "{name}");
        seen[kind.severity as usize] += 1;
    }
    assert!(seen.iter().all(|&n| n >= 4), "the table reaches low, medium and high: {seen:?}");
}
