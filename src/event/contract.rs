//! The pattern lists and the severity table of contract §3, word for word.

use super::{Options, PatternList};

/// `events` and `except` of one list.
type List = (&'static [&'static str], &'static [&'static str]);

/// What the first eight lists are called in errors, in the bit order of [`super::Lists`].
pub const LIST_NAMES: [&str; 8] = [
    "failed_logins",
    "successful_logins",
    "rate_limit_violations",
    "permission_violations",
    "suspicious_activities",
    "session_timeouts",
    "session_opens",
    "session_ends",
];

const FAILED_LOGINS: List = (
    &[
        "auth_fail*",
        "*_auth_fail*",
        "authn_fail*",
        "authentication_fail*",
        "*_authentication_fail*",
        "*failed_authentication",
        "*login*fail*",
        "*fail*login*",
        "*logon*fail*",
        "*signin*fail*",
        "*sign_in*fail*",
        "*login_error",
        "*login_denied",
        "*login_rejected",
        "*login_invalid*",
        "*login_unsuccessful",
        "*invalid_credentials",
        "*bad_credentials",
        "*invalid_password",
        "*wrong_password",
        "*bad_password",
        "*password_fail*",
    ],
    &[
        "*_success*",
        "*multiple*",
        "*too_many*",
        "*_max",
        "*_reset",
        "*_cleared",
        "*failover*",
        "*failed_over*",
        "*mfa*",
        "*totp*",
    ],
);

const SUCCESSFUL_LOGINS: List = (
    &[
        "login",
        "auth_login",
        "user_login",
        "client_login",
        "auth_success*",
        "*_auth_success*",
        "authn_success*",
        "authentication_success*",
        "*_authentication_success*",
        "*login_success*",
        "*login_succeeded",
        "*login_ok",
        "*successful_login",
        "*logged_in",
        "*signed_in",
        "*signin_success*",
        "*sign_in_success*",
    ],
    &[],
);

const RATE_LIMIT_VIOLATIONS: List = (
    &["*rate_limit*", "*ratelimit*", "*throttled", "*too_many_requests"],
    &[
        "*_reset",
        "*_checked",
        "*_allowed",
        "*_passed",
        "*_ok",
        "*_warning",
        "*_approaching",
        "*config*",
        "*_changed",
        "*_updated",
        "*_created",
        "*_deleted",
    ],
);

const PERMISSION_VIOLATIONS: List = (
    &[
        "*permission_denied",
        "*permission_violation*",
        "permission_*_denied",
        "permission_*_failed",
        "*permission_escalation*",
        "*privilege_escalation*",
        "*access_denied*",
        "*unauthorized*",
        "*forbidden*",
        "authz_fail*",
        "*authorization_fail*",
        "*authorization_denied",
    ],
    &[],
);

/// Beside these, the list of suspicious activities holds [`HIGH`].
const SUSPICIOUS: &[&str] = &[
    "auth_multiple_failed_attempts",
    "auth_suspicious_activity",
    "permission_escalation_attempt",
    "security_injection_attempt",
    "*suspicious*",
];

const SESSION_TIMEOUTS: List =
    (&["*session_timeout", "*session_timed_out", "*session_expired", "*session_expiration", "session_*_timeout"], &[]);

const SESSION_OPENS: List = (&["*session_created", "*session_started", "*session_opened"], &[]);

/// A session time-out is a session end too, without being named here.
const SESSION_ENDS: List = (
    &[
        "*session_destroyed",
        "*session_destruction",
        "*session_ended",
        "*session_closed",
        "*session_terminated",
        "*session_revoked",
        "*session_invalidated",
        "*session_deleted",
        "*logout",
        "*logout_success",
        "*logged_out",
        "*signed_out",
    ],
    &[],
);

/// Names that are at least `high`, unless `severity.defaults` is `"a"`.
pub const HIGH: &[&str] = &[
    "*suspicious_activity*",
    "*escalation_attempt",
    "*privilege_escalation*",
    "*injection_attempt*",
    "*sql_injection*",
    "*xss_attempt*",
    "*multiple_failed*",
    "*too_many_failed*",
    "*too_many_attempts",
    "*attempts_exceeded",
    "*fail_max",
    "*brute_force*",
    "*token_reuse*",
    "*session_hijack*",
    "*use_after_expire*",
    "*impossible_travel*",
    "malicious_*",
    "*attack_detected",
    "*threat_detected",
];

/// Names that are at least `medium`, beside what counts as failed login, rate-limit or permission violation.
pub const MEDIUM: &[&str] = &[
    "*_fail",
    "*_fail_*",
    "*_failure",
    "*_failure_*",
    "*_error",
    "*_violation*",
    "*_rejected",
    "*_blocked",
    "*_invalid",
    "*_lock",
    "*_locked",
    "*lockout*",
    "*suspicious*",
];

/// The four names that A's rule calls `high`, in normal form.
pub(super) const A_HIGH: [&str; 4] =
    ["auth.multiple_failed_attempts", "auth.suspicious_activity", "permission.escalation_attempt", "security.injection_attempt"];

impl Options {
    /// What holds where nothing is configured: the eight lists of contract §3 in the bit order of [`super::Lists`], the full
    /// severity table, no overrides, nothing masked or dropped beside the built-in names.
    pub fn contract() -> Options {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let list = |(events, except): List| PatternList { events: owned(events), except: owned(except) };
        let suspicious = PatternList { events: owned(&[SUSPICIOUS, HIGH].concat()), except: Vec::new() };
        Options {
            lists: vec![
                list(FAILED_LOGINS),
                list(SUCCESSFUL_LOGINS),
                list(RATE_LIMIT_VIOLATIONS),
                list(PERMISSION_VIOLATIONS),
                suspicious,
                list(SESSION_TIMEOUTS),
                list(SESSION_OPENS),
                list(SESSION_ENDS),
            ],
            overrides: Vec::new(),
            table: true,
            event_may_lower: false,
            mask: Vec::new(),
            drop: Vec::new(),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::contract()
    }
}
