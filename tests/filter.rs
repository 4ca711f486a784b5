//! The filter language. What it says of a subject is held against a naive evaluator that walks the same tests over plain JSON;
//! what it prints reads the same again; and each slip is told where it is and what was expected.

use std::net::{IpAddr, Ipv4Addr};

use auditcast::filter::{Filter, Scope, TESTS_MAX};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn members(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("it is an object")
}

fn frame() -> Map<String, Value> {
    members(json!({
        "event_type": "auth.login_failed", "severity": "high", "message": "m \"q\"", "user_id": "7", "username": "Eve",
        "kind": "rule", "status": "firing", "rule": "brute_force", "value": 12, "labels": {"team": "sec"}, "source": "app",
        "details": {
            "ip_address": "10.1.2.3", "user_agent": "curl/8.1", "bytes": 1500, "text": "42", "ok": true,
            "roles": ["dev", "admin", 7], "geo": {"country": "DE"}, "odd name": "x", "v6": "2001:DB8::1", "empty": ""
        }
    }))
}

#[test]
fn each_operator_holds_and_fails() {
    let frame = frame();
    for (text, holds) in [
        (r#"severity >= medium"#, true),
        (r#"severity > high"#, false),
        (r#"severity in [low, "high"]"#, true),
        (r#"severity != high"#, false),
        (r#"event_type glob "auth.*""#, true),
        (r#"event_type glob "auth.?""#, false),
        (r#"user = "7""#, true),
        (r#"username = "eve""#, false),
        (r#"username in ["Adam", "Eve"]"#, true),
        (r#"username not in ["Adam", "Eve"]"#, false),
        (r#"message contains "\"q\"""#, true),
        (r#"message prefix "m" and message suffix '"'"#, true),
        (r#"details.user_agent matches '^curl/\d+'"#, true),
        (r#"user_agent matches "(?i)^CURL""#, true),
        (r#"ip_address within "10.0.0.0/8""#, true),
        (r#"ip_address within ["192.0.2.0/24", "::/0"]"#, false),
        (r#"ip_address = "::ffff:10.1.2.3""#, true),
        (r#"ip_address in ["10.1.2.4", "10.1.2.3"]"#, true),
        (r#"details.v6 within '2001:db8::/32'"#, true),
        (r#"details.bytes > 1000"#, true),
        (r#"details.bytes prefix "15""#, true),
        (r#"details.bytes = "1500""#, true),
        (r#"details.text >= 42 and details.text = 42 and details.text = "42""#, true),
        (r#"details.text in [41, 42]"#, true),
        (r#"details.ok = true"#, true),
        (r#"details.ok = "true""#, true),
        (r#"details.roles = "admin""#, true),
        (r#"details.roles = 7"#, true),
        (r#"details.roles = "root""#, false),
        (r#"details.geo.country = "DE" and details.geo present"#, true),
        (r#"details.geo = "DE""#, false),
        (r#"details."odd name" = "x""#, true),
        (r#"details.empty present"#, true),
        (r#"details.nothing present"#, false),
        (r#"details.nothing absent and session_id absent"#, true),
        // A test of what is not there fails, so its opposite holds.
        (r#"details.nothing != "x""#, true),
        (r#"details.nothing not in ["x"]"#, true),
        (r#"not details.nothing > 1"#, true),
        (r#"details.nothing < 1"#, false),
        (r#"kind = rule && status == firing"#, true),
        (r#"labels.team = "sec" and value >= 12"#, true),
        (r#"outcome = failure or severity = high"#, true),
        (r#"severity = low and severity = low or severity = high"#, true),
        (r#"severity = low and (severity = low or severity = high)"#, false),
        (r#"!(severity = low || severity = medium)"#, true),
    ] {
        let filter = Filter::parse(text, Scope::Feed).unwrap_or_else(|fault| panic!("{text}\n{}", fault.pointed()));
        assert_eq!(filter.matches(&frame), holds, "{text}");
    }
}

/// How it is written does not matter, so those who ask for the same share what is made for them.
#[test]
fn what_says_the_same_is_equal() {
    let parse = |text: &str| Filter::parse(text, Scope::Feed).unwrap();
    for (one, other) in [
        (r#"severity>=high"#, r#"( severity   >=  "high" )"#),
        (r#"user in ["b","a","b"]"#, r#"user in ['a', 'b']"#),
        (r#"not user = "a""#, r#"user != "a""#),
        (r#"not (user present)"#, r#"user absent"#),
        (r#"not not user present"#, r#"user present"#),
        (r#"(user = "a" and user = "b") and user = "c""#, r#"user = "a" && (user = "b" && user == "c")"#),
        (r#"details.ip_address = "10.0.0.1""#, r#"ip_address = "10.0.0.1""#),
        (r#"ip_address within ["10.0.0.0/8"]"#, r#"ip_address within "10.0.0.0/8""#),
    ] {
        assert_eq!(parse(one), parse(other));
        assert_eq!(parse(one).as_str(), parse(other).as_str());
    }
    assert_ne!(parse(r#"user = "a""#), parse(r#"user = "A""#));
}

#[test]
fn faults_point_at_the_character() {
    for (text, pointed) in [
        ("", "  \n  ^ expected a field, found the end"),
        (
            "severity",
            "  severity\n          ^ expected one of =, !=, <, <=, >, >=, in, not in, present and absent behind `severity`, found the end",
        ),
        ("severity >= urgent", "  severity >= urgent\n              ^ expected low, medium, high or critical, found `urgent`"),
        (
            "severity contains \"h\"",
            "  severity contains \"h\"\n           ^ expected one of =, !=, <, <=, >, >=, in, not in, present and absent behind `severity`, found `contains`",
        ),
        (
            "outcome > success",
            "  outcome > success\n          ^ expected one of =, !=, in, not in, present and absent behind `outcome`, found `>`",
        ),
        (
            "category = login",
            "  category = login\n             ^ expected auth, session, permission, rate_limit, security, token, user, admin, data, api, encryption, config, system, audit or other, found `login`",
        ),
        (
            "usr = \"x\"",
            "  usr = \"x\"\n  ^ there is no field `usr`, expected event_type, severity, category, outcome, source, user, user_id, username, message, ip_address, session_id, user_agent, duration_ms, kind, status, rule, alert_id, value, threshold, labels.NAME and details.NAME",
        ),
        ("user = alice", "  user = alice\n         ^ expected a text in quotes, found `alice`; write \"alice\""),
        ("user = 7", "  user = 7\n         ^ expected a text in quotes, found the number 7"),
        ("user = \"alice", "  user = \"alice\n         ^ expected a closing \" for this text"),
        ("user = 'alice", "  user = 'alice\n         ^ expected a closing ' for this text"),
        (
            "message matches \"\\d\"",
            "  message matches \"\\d\"\n                   ^ expected \\\" or \\\\, found \\d; in single quotes a backslash is a backslash",
        ),
        (
            "message matches '(a'",
            "  message matches '(a'\n                  ^ expected a regular expression, found a fault in it: unclosed group",
        ),
        (
            "message matches '(a{1000}){1000}'",
            "  message matches '(a{1000}){1000}'\n                  ^ expected a regular expression that compiles to at most 65536 bytes",
        ),
        (
            "ip_address = \"10.0.0.0/8\"",
            "  ip_address = \"10.0.0.0/8\"\n               ^ expected an address in quotes, such as \"192.0.2.7\"; a network is asked with `within`, found the text \"10.0.0.0/8\"",
        ),
        (
            "ip_address prefix \"10.\"",
            "  ip_address prefix \"10.\"\n             ^ expected one of =, !=, in, not in, within, present and absent behind `ip_address`; networks are asked with `within`, found `prefix`",
        ),
        (
            "ip_address within \"10.0.0.1/8\"",
            "  ip_address within \"10.0.0.1/8\"\n                    ^ expected a network without bits behind its prefix, such as \"10.0.0.0/8\", found \"10.0.0.1/8\"",
        ),
        (
            "ip_address within 10.0.0.0",
            "  ip_address within 10.0.0.0\n                    ^ expected a number, found `10.0.0.0`; a text, such as an address, stands in quotes",
        ),
        (
            "(user = \"a\"",
            "  (user = \"a\"\n             ^ expected `and`, `or` or the `)` to the `(` at character 1, found the end",
        ),
        ("user = \"a\")", "  user = \"a\")\n            ^ expected `and`, `or` or the end, found `)`"),
        (
            "user = \"a\" user = \"b\"",
            "  user = \"a\" user = \"b\"\n             ^ expected `and`, `or` or the end, found `user`",
        ),
        ("user in \"a\"", "  user in \"a\"\n          ^ expected a list in brackets, found the text \"a\""),
        ("user in []", "  user in []\n           ^ expected a text in quotes, found `]`"),
        ("user in [\"a\" \"b\"]", "  user in [\"a\" \"b\"]\n               ^ expected `,` or `]`, found the text \"b\""),
        (
            "details.x in [1, \"b\"]",
            "  details.x in [1, \"b\"]\n                   ^ expected a list of texts or a list of numbers, found the text \"b\"",
        ),
        ("details.x < \"b\"", "  details.x < \"b\"\n              ^ expected a number behind `<`, found the text \"b\""),
        ("details = \"b\"", "  details = \"b\"\n          ^ expected `.` and a name behind `details`, found `=`"),
        ("and user = \"a\"", "  and user = \"a\"\n  ^ expected a field, found `and`"),
        ("user not = \"a\"", "  user not = \"a\"\n           ^ expected `in` behind `not`, found `=`"),
        (
            "event_type = \"AUTH_FAILURE\"",
            "  event_type = \"AUTH_FAILURE\"\n               ^ expected an event type in its normal form, which is lower case, found \"AUTH_FAILURE\"",
        ),
        ("user = \"ä\" § x", "  user = \"ä\" § x\n             ^ expected a field, a value or an operator, found `§`"),
    ] {
        let fault = Filter::parse(text, Scope::Feed).expect_err(text);
        assert_eq!(fault.pointed(), pointed, "{text}");
    }
    let fault = Filter::parse("status = firing", Scope::Event).expect_err("events have none");
    assert_eq!(fault.to_string(), "at character 1: expected a field of an event, found `status`, which only alerts have");
}

#[test]
fn everything_has_a_limit() {
    let many = |n: usize, part: &str, joint: &str| vec![part; n].join(joint);
    for (text, what) in [
        (many(TESTS_MAX + 1, "user present", " or "), "128 tests"),
        (format!("{}user present{}", "(".repeat(40), ")".repeat(40)), "32 parentheses"),
        (format!("{}user present", "not ".repeat(40)), "32 parentheses"),
        (format!("user = \"{}\"", "x".repeat(5000)), "4096 bytes"),
        (format!("user in [{}]", many(1001, "''", ",")), "1000 items"),
        (many(9, "user matches 'x'", " or "), "8 regular expressions"),
        (format!("user glob '*?{}'", "a".repeat(255)), "256 bytes of globs"),
        (format!("user matches '{}'", "x".repeat(513)), "512 bytes"),
        (format!("user matches '(?i){}'", "[a-\u{10ffff}]".repeat(4)), "takes too long"),
        (many(3, "user matches 'x{400}'", " or "), "1000 characters"),
        (many(3, r"user matches '(?i)[[^a]b]\pL'", " or "), "takes too long"),
        (format!("details{} present", ".a".repeat(9)), "8 names"),
    ] {
        let fault = Filter::parse(&text, Scope::Event).expect_err(what);
        assert!(fault.to_string().contains(what), "{fault}");
    }
}

/// An expression as a tree of our own.
#[derive(Clone, Debug)]
enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    /// `details.NAME OPERATOR OPERAND`.
    Test(&'static str, &'static str, Value),
    Severity(&'static str, usize),
}

const LEVELS: [&str; 4] = ["low", "medium", "high", "critical"];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TEXTS: [&str; 7] = ["", "x", "xy", "yx", "5", "10.0.0.7", "a\"b\\"];
const NUMBERS: [i64; 4] = [-1, 0, 5, 7];

fn text() -> impl Strategy<Value = Value> {
    prop::sample::select(&TEXTS[..]).prop_map(Value::from)
}

fn number() -> impl Strategy<Value = Value> {
    prop::sample::select(&NUMBERS[..]).prop_map(Value::from)
}

fn tree() -> impl Strategy<Value = Tree> {
    let name = || prop::sample::select(&NAMES[..]);
    let full = || prop::sample::select(&TEXTS[1..]).prop_map(Value::from);
    let leaf = prop_oneof![
        (name(), prop::sample::select(vec!["=", "!=", "glob"]), text()).prop_map(|(n, op, v)| Tree::Test(n, op, v)),
        (name(), prop::sample::select(vec!["prefix", "suffix", "contains"]), full()).prop_map(|(n, op, v)| Tree::Test(n, op, v)),
        (name(), prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]), number())
            .prop_map(|(n, op, v)| Tree::Test(n, op, v)),
        (name(), prop::sample::select(vec!["in", "not in"]), prop::collection::vec(text(), 1..4))
            .prop_map(|(n, op, v)| Tree::Test(n, op, v.into())),
        (name(), prop::sample::select(vec!["in", "not in"]), prop::collection::vec(number(), 1..4))
            .prop_map(|(n, op, v)| Tree::Test(n, op, v.into())),
        (name(), prop::sample::select(vec!["present", "absent"])).prop_map(|(n, op)| Tree::Test(n, op, Value::Null)),
        (name(), any::<bool>()).prop_map(|(n, flag)| Tree::Test(n, "=", flag.into())),
        (name(), prop::sample::select(vec![0u8, 8, 24, 32])).prop_map(|(n, bits)| Tree::Test(n, "within", bits.into())),
        (prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]), 0..4usize).prop_map(|(op, at)| Tree::Severity(op, at)),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::All),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::Any),
            inner.prop_map(|part| Tree::Not(Box::new(part))),
        ]
    })
}

fn network(bits: u64) -> String {
    format!("{}/{bits}", Ipv4Addr::from_bits(if bits == 0 { 0 } else { (0x0a00_0007u64 & !((1u64 << (32 - bits)) - 1)) as u32 }))
}

fn written(tree: &Tree) -> String {
    let join = |parts: &[Tree], word: &str| {
        let parts: Vec<String> = parts.iter().map(|part| format!("({})", written(part))).collect();
        parts.join(word)
    };
    match tree {
        Tree::All(parts) => join(parts, " and "),
        Tree::Any(parts) => join(parts, "||"),
        Tree::Not(part) => format!("not({})", written(part)),
        Tree::Severity(op, at) => format!("severity{op}{}", LEVELS[*at]),
        Tree::Test(name, "within", bits) => format!("details.{name} within '{}'", network(bits.as_u64().unwrap())),
        Tree::Test(name, op, Value::Null) => format!("details.{name} {op}"),
        // Texts of JSON are texts here: its only escapes in these are the two there are.
        Tree::Test(name, op, operand) => format!("details.{name} {op} {operand}"),
    }
}

/// The same by the book: every item of a list, every number as text and back.
fn naive(tree: &Tree, subject: &Map<String, Value>) -> bool {
    match tree {
        Tree::All(parts) => parts.iter().all(|part| naive(part, subject)),
        Tree::Any(parts) => parts.iter().any(|part| naive(part, subject)),
        Tree::Not(part) => !naive(part, subject),
        Tree::Severity(op, wanted) => {
            let found = subject.get("severity").and_then(|s| LEVELS.iter().position(|level| s == level));
            let order = found.map(|found| found.cmp(wanted));
            match *op {
                "=" => order.is_some_and(|o| o.is_eq()),
                "!=" => !order.is_some_and(|o| o.is_eq()),
                "<" => order.is_some_and(|o| o.is_lt()),
                "<=" => order.is_some_and(|o| o.is_le()),
                ">" => order.is_some_and(|o| o.is_gt()),
                _ => order.is_some_and(|o| o.is_ge()),
            }
        }
        Tree::Test(name, "!=", operand) => !naive(&Tree::Test(name, "=", operand.clone()), subject),
        Tree::Test(name, "not in", operand) => !naive(&Tree::Test(name, "in", operand.clone()), subject),
        Tree::Test(name, "absent", operand) => !naive(&Tree::Test(name, "present", operand.clone()), subject),
        Tree::Test(name, op, operand) => match &subject["details"][name] {
            Value::Null => false,
            _ if *op == "present" => true,
            Value::Object(_) => false,
            Value::Array(items) => items.iter().any(|item| plain(item, op, operand)),
            item => plain(item, op, operand),
        },
    }
}

fn plain(item: &Value, op: &str, operand: &Value) -> bool {
    let (text, number) = match item {
        Value::String(text) => (text.clone(), text.parse::<f64>().ok()),
        Value::Number(number) => (number.to_string(), number.as_f64()),
        Value::Bool(flag) => (flag.to_string(), None),
        _ => return false,
    };
    match (op, operand) {
        ("=", Value::Bool(flag)) => text == flag.to_string(),
        ("in", Value::Array(items)) => items.iter().any(|wanted| plain(item, "=", wanted)),
        ("within", bits) => text.parse::<IpAddr>().is_ok_and(|ip| {
            let bits = bits.as_u64().unwrap();
            matches!(ip, IpAddr::V4(ip) if (u64::from(ip.to_bits()) >> (32 - bits)) == (0x0a00_0007u64 >> (32 - bits)))
        }),
        (op, Value::Number(wanted)) => {
            let wanted = wanted.as_f64().unwrap();
            // A flag is no number, but a number's test of it must not fail for its text.
            let Some(found) = number else { return false };
            match op {
                "=" => found == wanted,
                "<" => found < wanted,
                "<=" => found <= wanted,
                ">" => found > wanted,
                _ => found >= wanted,
            }
        }
        (op, Value::String(wanted)) => match op {
            "=" => text == *wanted || (item.is_number() && wanted.parse::<f64>().ok() == number),
            "prefix" => text.starts_with(wanted),
            "suffix" => text.ends_with(wanted),
            "contains" => text.contains(wanted),
            // None of the texts has a sign of globs in it.
            _ => text == *wanted,
        },
        other => panic!("{other:?}"),
    }
}

fn subject() -> impl Strategy<Value = Map<String, Value>> {
    let item = prop_oneof![text(), number(), any::<bool>().prop_map(Value::from)];
    let value = prop_oneof![
        Just(Value::Null),
        item.clone(),
        prop::collection::vec(item, 0..3).prop_map(Value::from),
        Just(json!({"inner": 1}))
    ];
    let severity = prop_oneof![Just(Value::Null), prop::sample::select(&LEVELS[..]).prop_map(Value::from)];
    (severity, [value.clone(), value.clone(), value.clone(), value])
        .prop_map(|(severity, [a, b, c, d])| members(json!({"severity": severity, "details": {"a": a, "b": b, "c": c, "d": d}})))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn says_what_the_naive_evaluator_says(tree in tree(), subjects in prop::collection::vec(subject(), 1..4)) {
        let text = written(&tree);
        let filter = Filter::parse(&text, Scope::Feed);
        let Ok(filter) = filter else { panic!("{text}\n{}", filter.unwrap_err().pointed()) };
        let again = Filter::parse(filter.as_str(), Scope::Feed);
        prop_assert_eq!(again.as_ref().map(Filter::as_str), Ok(filter.as_str()), "printed from {}", text);
        for subject in &subjects {
            let expected = naive(&tree, subject);
            prop_assert_eq!(filter.matches(subject), expected, "{} of {:?}", filter, subject);
            prop_assert_eq!(again.as_ref().is_ok_and(|again| again.matches(subject)), expected);
        }
    }

    /// Whatever is written, it is read or told of; what is told points into the text.
    #[test]
    fn nothing_makes_it_fall(text in "[a-z=!<>()\\[\\]\"'., \\\\0-9äand]{0,60}") {
        if let Err(fault) = Filter::parse(&text, Scope::Feed) {
            prop_assert!(fault.character() <= text.chars().count() + 1);
            prop_assert_eq!(fault.pointed().lines().count(), 2);
        }
    }
}
