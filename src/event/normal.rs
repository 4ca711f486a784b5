//! The normal form and the category of a name (contract §3, "Normal form", "Category").

use super::Category;

/// First words of the OWASP logging vocabulary; a name that begins with one and `_` may carry arguments behind a `:`.
const OWASP: [&str; 13] = [
    "authn",
    "authz",
    "crypt",
    "excess",
    "input",
    "malicious",
    "privilege",
    "sensitive",
    "sequence",
    "session",
    "sys",
    "upload",
    "user",
];

/// First words that stand for a category other than by its own name.
const BY_FIRST_WORD: [(Category, &[&str]); 9] = [
    (
        Category::Auth,
        &[
            "authn",
            "authentication",
            "login",
            "logon",
            "logout",
            "signin",
            "sign",
            "password",
            "credentials",
            "invalid",
            "mfa",
            "account",
            "lockout",
            "brute",
        ],
    ),
    (Category::Permission, &["authz", "authorization", "access", "unauthorized", "forbidden", "privilege", "role"]),
    (Category::RateLimit, &["ratelimit", "rate", "excess", "throttled", "too"]),
    (Category::Security, &["suspicious", "malicious", "injection", "sql", "xss", "attack", "threat"]),
    (Category::Token, &["jwt", "refresh"]),
    (Category::User, &["register"]),
    (Category::Data, &["sensitive", "upload", "export", "database"]),
    (Category::Encryption, &["crypt"]),
    (Category::System, &["sys"]),
];

/// A trimmed name without its arguments, and the arguments of an OWASP name (`None` where there are none).
///
/// The first word is compared without case, so that what stands behind `:` (mostly a user) never becomes part of a name.
pub(super) fn split_args(trimmed: &str) -> (&str, Option<&str>) {
    let owasp = trimmed.split_once('_').is_some_and(|(word, _)| OWASP.iter().any(|known| known.eq_ignore_ascii_case(word)));
    match trimmed.split_once(':') {
        Some((name, args)) if owasp => {
            let args = args.trim();
            (name.trim_end(), (!args.is_empty()).then_some(args))
        }
        _ => (trimmed, None),
    }
}

/// `_` at the humps, lower case, runs of white space, `-`, `/` and `:` as one `_`. Folding twice changes nothing.
pub(super) fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len() + 4);
    let mut after_lower = false;
    let mut in_run = false;
    for c in text.chars() {
        if c.is_whitespace() || matches!(c, '-' | '/' | ':') {
            if !in_run {
                folded.push('_');
            }
            in_run = true;
            after_lower = false;
            continue;
        }
        in_run = false;
        // Upper-case letters that have no lower-case form (mathematical ones) would split again at the next folding.
        let has_lower = c.is_uppercase() && !c.to_lowercase().eq([c]);
        if has_lower && after_lower {
            folded.push('_');
        }
        folded.extend(c.to_lowercase());
        after_lower = c.is_lowercase();
    }
    folded
}

/// The normal form of a trimmed name without arguments.
pub(super) fn normal(name: &str) -> String {
    let mut normal = fold(name);
    if normal.contains('.') {
        return normal;
    }
    let underscore = match known_category(&normal) {
        // A name that is nothing but its category has no `_` behind it, and keeps the ones inside it.
        Some((_, len)) => (len < normal.len()).then_some(len),
        None => {
            let word = normal.len() - normal.trim_start_matches('_').len();
            normal.get(word..).and_then(|rest| rest.find('_')).map(|at| word + at)
        }
    };
    if let Some(at) = underscore {
        normal.replace_range(at..at + 1, ".");
    }
    normal
}

/// The normal form with every `.` written `_`: what patterns match.
pub(super) fn matching(normal: &str) -> String {
    normal.replace('.', "_")
}

/// The category of a normal form.
pub(super) fn category(normal: &str) -> Category {
    if let Some((category, _)) = known_category(normal) {
        return category;
    }
    let word = normal.split(['.', '_']).find(|word| !word.is_empty()).unwrap_or("");
    BY_FIRST_WORD.iter().find(|(_, words)| words.contains(&word)).map_or(Category::Other, |(category, _)| *category)
}

/// The longest known category that the name equals or begins with (then `.` or `_`), and its length in bytes.
fn known_category(name: &str) -> Option<(Category, usize)> {
    Category::ALL
        .into_iter()
        .filter(|category| *category != Category::Other)
        .filter_map(|category| {
            let rest = name.strip_prefix(category.as_str())?;
            (rest.is_empty() || rest.starts_with(['.', '_'])).then_some((category, category.as_str().len()))
        })
        .max_by_key(|(_, len)| *len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &str, expected: &str, args: Option<&str>) {
        let (name, found) = split_args(written.trim());
        assert_eq!((normal(name).as_str(), found), (expected, args), "{written:?}");
        assert_eq!(normal(&normal(name)), normal(name), "twice: {written:?}");
    }

    #[test]
    fn names_take_their_normal_form() {
        for (written, expected) in [
            // The contract's two examples.
            ("AUTH_SUCCESS", "auth.success"),
            ("RATE_LIMIT_EXCEEDED", "rate_limit.exceeded"),
            // Trimmed.
            ("  login \n", "login"),
            ("\u{3000}auth.success\u{a0}", "auth.success"),
            // A lower-case letter followed by an upper-case one.
            ("LoginFailed", "login.failed"),
            ("loginFailedTwice", "login.failed_twice"),
            ("HTTPError", "httperror"),
            ("userID", "user.id"),
            ("auth.LoginFailed", "auth.login_failed"),
            ("login2Factor", "login2factor"),
            ("überÄrger", "über.ärger"),
            // Runs become one `_`; a `_` that was written is not part of a run.
            ("login failed", "login.failed"),
            ("login - / : failed", "login.failed"),
            ("login-failed", "login.failed"),
            ("api/v1/login", "api.v1_login"),
            ("a::b", "a.b"),
            ("a_-b", "a._b"),
            ("user.created:bob", "user.created_bob"),
            // A dot keeps the shape.
            ("auth.multiple_failed_attempts", "auth.multiple_failed_attempts"),
            ("Foo_Bar.Baz", "foo_bar.baz"),
            ("a.b.c_d", "a.b.c_d"),
            // Behind the known category, else behind the first word.
            ("rate_limit_exceeded", "rate_limit.exceeded"),
            ("rate_limit", "rate_limit"),
            ("RATE-LIMIT", "rate_limit"),
            ("rate_limiter_full", "rate.limiter_full"),
            ("session_timeout", "session.timeout"),
            ("authn_login_fail", "authn.login_fail"),
            ("authx_y", "authx.y"),
            ("something_else_here", "something.else_here"),
            ("login", "login"),
            ("auth", "auth"),
            ("_private_event", "_private.event"),
            ("_", "_"),
            ("-", "_"),
            ("foo_", "foo."),
        ] {
            check(written, expected, None);
        }
    }

    #[test]
    fn arguments_of_owasp_names_leave_the_name() {
        for (written, expected, args) in [
            ("authn_login_fail:joebob1", "authn.login_fail", Some("joebob1")),
            ("authn_login_fail_max:joebob1,3", "authn.login_fail_max", Some("joebob1,3")),
            ("authz_fail:joebob1,resource:x", "authz.fail", Some("joebob1,resource:x")),
            ("AUTHN_LOGIN_FAIL:Bob", "authn.login_fail", Some("Bob")),
            ("session_created: bob ", "session.created", Some("bob")),
            ("sys_startup :x", "sys.startup", Some("x")),
            ("sys_startup:", "sys.startup", None),
            ("sys_startup", "sys.startup", None),
            // Not of the vocabulary, or no `_` behind the word.
            ("login_failed:bob", "login.failed_bob", None),
            ("users_created:bob", "users.created_bob", None),
            ("user:created_bob", "user.created_bob", None),
        ] {
            check(written, expected, args);
        }
        for word in OWASP {
            assert_eq!(split_args(&format!("{word}_x:y")), (format!("{word}_x").as_str(), Some("y")));
        }
    }

    #[test]
    fn categories_by_name_then_by_first_word() {
        for (name, expected) in [
            ("auth.success", Category::Auth),
            ("auth_x", Category::Auth),
            ("auth", Category::Auth),
            ("authx.success", Category::Other),
            ("rate_limit.exceeded", Category::RateLimit),
            ("rate_limit", Category::RateLimit),
            ("rate.limit", Category::RateLimit),
            ("session.created", Category::Session),
            ("too.many_requests", Category::RateLimit),
            ("sign.in_failed", Category::Auth),
            ("user.created", Category::User),
            ("user_data.x", Category::User),
            ("audit.view", Category::Audit),
            ("configuration.changed", Category::Other),
            ("config.changed", Category::Config),
            ("", Category::Other),
            ("_login.x", Category::Auth),
            ("payment.refused", Category::Other),
        ] {
            assert_eq!(category(name), expected, "{name:?}");
        }
        for (words, expected) in [
            (
                "authn authentication login logon logout signin sign password credentials invalid mfa account lockout brute",
                Category::Auth,
            ),
            ("authz authorization access unauthorized forbidden privilege role", Category::Permission),
            ("ratelimit rate excess throttled too", Category::RateLimit),
            ("suspicious malicious injection sql xss attack threat", Category::Security),
            ("jwt refresh", Category::Token),
            ("register", Category::User),
            ("sensitive upload export database", Category::Data),
            ("crypt", Category::Encryption),
            ("sys", Category::System),
        ] {
            for word in words.split(' ') {
                assert_eq!(category(word), expected, "{word}");
                assert_eq!(category(&format!("{word}.x")), expected, "{word}.x");
                assert_eq!(category(&format!("{word}s")), Category::Other, "{word}s");
            }
        }
    }
}
