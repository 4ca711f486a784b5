//! The built-in rules: each carries scenarios that fire and near misses that do not; which are on without being asked for.

use std::{fs, path::PathBuf, sync::Arc};

use auditcast::{
    config::{Config, Sources},
    detect::{Detector, Observed},
    event::{Classifier, EntryId},
};
use tempfile::TempDir;

#[test]
fn their_own_tests_pass() {
    let config = Config::load(Sources::default()).expect("the defaults are good");
    let (tests, failed) = config.try_rules();
    let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(tests > 2 * config.detect.rules.len(), "{tests}");
}

/// Those whose false alarms are rare, and which say something that the guide's thresholds and the event alerts do not.
#[test]
fn which_are_on() {
    let config = Config::load(Sources::default()).expect("the defaults are good");
    let (on, off): (Vec<_>, Vec<_>) = config.detect.rules.iter().partition(|rule| rule.enabled);
    let names = |rules: Vec<&auditcast::detect::Rule>| rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        names(on),
        [
            "brute_force_distributed",
            "password_spraying",
            "credential_stuffing",
            "user_enumeration",
            "success_after_failures",
            "mfa_fatigue",
            "mfa_disabled",
            "admin_role_assigned",
            "lockout_burst",
            "session_hijack",
            "token_reuse",
            "permission_probing",
            "mass_export",
        ]
    );
    assert_eq!(
        names(off),
        [
            "brute_force_user",
            "brute_force_address",
            "brute_force_slow",
            "password_spraying_distributed",
            "success_after_failures_address",
            "concurrent_sessions",
            "rapid_access",
            "injection_burst",
            "audit_silence",
        ]
    );
}

struct Dir(TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().expect("a directory"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(&path, text).expect("a file");
        path
    }

    /// Reads `config.toml` with a rule file beside it; faults as they are told, without the directory's name.
    fn load(&self, config: &str, rules: &str) -> Result<Config, String> {
        self.write("rules/own.toml", rules);
        let path = self.write("config.toml", &format!("[rules]\ndir = \"rules\"\n{config}"));
        let place = format!("{}/", self.0.path().display());
        Config::load(Sources { path: Some(path), ..Sources::default() }).map_err(|error| error.to_string().replace(&place, ""))
    }
}

const GOOD: &str = r#"
[[rule]]
name = "payroll"
kind = "count"
events = ["payroll_*"]
where = 'details.amount > 1000'
by = ["user"]
window = "10m"
at_least = 3
message = "{user}: {value}"

[[test]]
rule = "payroll"
name = "three"
events = [{ event_type = "payroll.paid", user_id = "7", details = { amount = 2000 }, times = 3 }]
fires = ["7"]

[[test]]
rule = "payroll"
name = "two"
events = [{ event_type = "payroll.paid", user_id = "7", details = { amount = 2000 }, times = 2 }]
fires = []
"#;

#[test]
fn rule_files_add_rules_and_the_configuration_changes_them() {
    let dir = Dir::new();
    let config = dir.load("", GOOD).expect("it is good");
    let (tests, failed) = config.try_rules();
    assert!(tests > 2 && failed.is_empty(), "{failed:?}");
    let rule = |config: &Config| config.detect.rules.iter().find(|rule| rule.name == "payroll").cloned().expect("it is there");
    assert_eq!(rule(&config).window_ms, 600_000);
    let tuned = dir.load("[rule.payroll]\nwindow = \"5m\"\n[rule.brute_force_user]\nenabled = true\n", GOOD).expect("it is good");
    assert_eq!(rule(&tuned).window_ms, 300_000);
    assert!(tuned.detect.rules.iter().any(|rule| rule.name == "brute_force_user" && rule.enabled));
    assert_ne!(config.fingerprint(), tuned.fingerprint());
    let diff = Config::diff(&config, &tuned);
    assert_eq!((diff.live, diff.restart), (vec!["rule.brute_force_user.enabled".into(), "rule.payroll.window".into()], vec![]));
    let applied = config.with_live(&tuned).expect("they fit");
    assert_eq!(applied.fingerprint(), tuned.fingerprint());
    // A built-in rule may be tuned, and what it counts by: its tests are of it as it is delivered.
    let away = "[rule.brute_force_user]\nat_least = 20\n[metrics.failed_logins_last_hour]\nevents = [\"refused\"]\n";
    let (_, failed) = dir.load(away, GOOD).expect("it is good").try_rules();
    assert!(failed.is_empty(), "{failed:?}");
    // What the rule's own tests say of it holds as it is tuned.
    let wrong = dir.load("[rule.payroll]\nat_least = 4\n", GOOD).expect("it is good");
    let (_, failed) = wrong.try_rules();
    let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert_eq!(failed.len(), 1);
    assert!(
        failed[0].ends_with("rules/own.toml:12: test \"three\": expected payroll to fire for \"7\", found nobody"),
        "{failed:?}"
    );
}

/// Broken rule files, and what a person is told.
#[test]
fn faults() {
    let rule = |body: &str| {
        format!(
            "[[rule]]\nname = \"r\"\n{body}\n[[test]]\nname = \"t\"\nrule = \"r\"\nevents = []\nfires = []\n[[test]]\nname = \"u\"\nrule = \"r\"\nevents = []\nfires = [\"\"]\n"
        )
    };
    let mut wrong = Vec::new();
    for (text, told) in [
        (
            "[[rule]]\nname = \"r\"\nkind = \"match\"\n".to_owned(),
            "rules/own.toml:1: rule.r: expected at least one [[test]] where it fires, and one where it does not",
        ),
        ("[[rule]]\nkind = \"match\"\n".into(), "rules/own.toml:1: rule[0]: expected a name"),
        ("[other]\nx = 1\n".into(), "rules/own.toml:1: other: unknown section, a rule file has [[rule]] and [[test]]"),
        ("[[rule]\n".into(), "rules/own.toml:1: not TOML: unclosed array table, expected `]`"),
        (
            GOOD.replace("payroll\"", "mfa_fatigue\""),
            "rules/own.toml:2: rule.mfa_fatigue: the rule \"mfa_fatigue\" is there already (built-in/accounts.toml:3)",
        ),
        (
            rule("kind = \"counts\""),
            "rules/own.toml:3: rule.r.kind: expected one of \"match\", \"count\", \"distinct\", \"sum\", \"avg\", \"p95\", \"ratio\", \"spike\", \"sequence\", \"change\", \"new\", \"absence\", found \"counts\"",
        ),
        (
            rule("events = [\"x\"]"),
            "rules/own.toml:1: rule.r.kind: expected one of \"match\", \"count\", \"distinct\", \"sum\", \"avg\", \"p95\", \"ratio\", \"spike\", \"sequence\", \"change\", \"new\", \"absence\", found nothing; without one there is no rule \"r\" yet",
        ),
        (
            rule("kind = \"count\"\nwindow = \"1m\""),
            "rules/own.toml:1: rule.r.at_least: expected a whole number from 1 to 10000, found nothing",
        ),
        (
            rule("kind = \"count\"\nat_least = 3"),
            "rules/own.toml:1: rule.r.window: expected a duration of up to 90d, found nothing",
        ),
        (
            rule("kind = \"count\"\nat_least = 3\nwindow = \"100d\""),
            "rules/own.toml:5: rule.r.window: expected a duration of at most 90d, found \"100d\"",
        ),
        (
            rule("kind = \"match\"\nwhere = 'user = bob'"),
            "rules/own.toml:4: rule.r.where: at character 8: expected a text in quotes, found `bob`; write \"bob\"",
        ),
        (
            rule("kind = \"match\"\nwhere = 'status = firing'"),
            "rules/own.toml:4: rule.r.where: at character 1: expected a field of an event, found `status`, which only alerts have",
        ),
        (
            rule("kind = \"match\"\nby = [\"usr\"]"),
            "rules/own.toml:4: rule.r.by: expected a field of an event, or \"ip_address/24\", found \"usr\"",
        ),
        (
            rule("kind = \"match\"\nby = [\"user/24\"]"),
            "rules/own.toml:4: rule.r.by: expected a field of an event, or \"ip_address/24\", found \"user/24\"",
        ),
        (
            rule("kind = \"match\"\nlists = [\"failed_login\"]"),
            "rules/own.toml:4: rule.r.lists: there is no list of a metric \"failed_login\"",
        ),
        (
            rule("kind = \"match\"\nevents = [\"a?\"]"),
            "rules/own.toml:4: rule.r.events: expected a pattern where * is the only wildcard, found \"a?\"",
        ),
        (
            rule("kind = \"match\"\nmessage = \"{user} did it\""),
            "rules/own.toml:4: rule.r.message: expected only {value}, {name}, {window}, {threshold}, {entity} in braces, found \"{user}\"",
        ),
        (
            rule("kind = \"match\"\nfor = \"1m\""),
            "rules/own.toml:4: rule.r.for: expected no `for`: a rule of kind \"match\" is crossed for an instant",
        ),
        (
            rule("kind = \"match\"\nseverity = \"urgent\""),
            "rules/own.toml:4: rule.r.severity: expected one of \"low\", \"medium\", \"high\", \"critical\", found \"urgent\"",
        ),
        (rule("kind = \"match\"\ntreshold = 3"), "rules/own.toml:4: rule.r.treshold: unknown key"),
        (
            rule("kind = \"distinct\"\nwindow = \"1m\"\nat_least = 5"),
            "rules/own.toml:1: rule.r.of: expected a field of an event, such as \"user\" or \"details.resource\", found nothing",
        ),
        (
            rule("kind = \"sequence\"\nwindow = \"1m\""),
            "rules/own.toml:1: rule.r.after: expected a table, such as { lists = [\"failed_logins_last_hour\"], at_least = 5 }, found nothing",
        ),
        (
            rule("kind = \"change\"\nwindow = \"1m\"\nof = [\"user\"]"),
            "rules/own.toml:1: rule.r.by: expected what tells entities apart, such as [\"user\"], for a rule of kind \"change\"",
        ),
        (
            rule("kind = \"count\"\nwindow = \"1m\"\nat_least = 5\nclear_at = 5"),
            "rules/own.toml:6: rule.r.clear_at: expected less than 5, where it fires",
        ),
        (
            rule("kind = \"ratio\"\nwindow = \"1m\"\nhits = 'outcome = failure'\nat_least = 5"),
            "rules/own.toml:6: rule.r.at_least: expected a part from 0 to 1, found 5",
        ),
        (
            GOOD.replace("times = 3", "times = 3, at = \"soon\""),
            "rules/own.toml:15: test[0]: expected a duration of up to a year, such as \"10m\"",
        ),
        (
            GOOD.replace("fires = []\n", ""),
            "rules/own.toml:18: test[1]: expected `fires` with a list of the entities that fire, [] for none",
        ),
    ] {
        let dir = Dir::new();
        let found = dir.load("", &text).expect_err(told);
        if !found.lines().any(|line| line == told) {
            wrong.push(format!("expected\n{told}\nfound\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whom rules do not look at, unless one says that it does.
#[test]
fn allow_lists() {
    let fired = |more: &str| {
        let dir = Dir::new();
        let lists = "allow_users = [\"scanner\"]\nallow_networks = [\"10.20.0.0/16\"]\n";
        let config = dir.load(&format!("{lists}{more}"), GOOD).expect("it is good");
        let mut classifier = Classifier::new(config.event.clone()).expect("the patterns are good");
        let mut detector = Detector::new(Arc::new(config.detect));
        let mut out = Vec::new();
        let start = 1_700_000_000_000;
        for n in 0..30u64 {
            for (user, address) in [("scanner", "192.0.2.1"), ("7", "10.20.1.1"), ("8", "192.0.2.8")] {
                let kind = if n % 6 == 5 { "auth.success" } else { "auth.failed" };
                let fields: [(&[u8], &[u8]); 3] =
                    [(b"event_type", kind.as_bytes()), (b"username", user.as_bytes()), (b"ip_address", address.as_bytes())];
                let event = classifier.decode(&fields, start + n, &jiff::tz::TimeZone::UTC).expect("it is an event");
                let entry = EntryId::new(start + n, out.len() as u64);
                detector.observe(start + n, &Observed { source: 0, stream: "s", entry, event: &event }, &mut out);
            }
        }
        out.iter().filter_map(|alert| alert.username.clone()).collect::<Vec<_>>()
    };
    assert_eq!(fired(""), ["8"]);
    assert_eq!(fired("[rule.success_after_failures]\nallow_lists = false\n"), ["scanner", "7", "8"]);
}
