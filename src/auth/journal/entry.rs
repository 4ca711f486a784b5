//! What auditcast says about itself: one constructor a kind of event, so that no free text, and with it no token, password or
//! cookie, can get in.
//!
//! The names are chosen for the lists of contract §3: `auth.failed_login` counts as a failed login, `auth.login_success` as a
//! successful one, `rate_limit.exceeded` and `permission.denied` as violations, `token.reuse_detected` is of severity high, and
//! a refused token is none of these. A test beside this file holds them to the classifier.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::super::{Principal, RefusalKind};

/// Longest name of a user, an actor or an id in an entry, bytes; the rest is cut off.
const NAME_BYTES_MAX: usize = 256;
/// Most names in a list, such as the keys that a reload changed.
const LIST_MAX: usize = 50;

/// Why a sign-in failed. All of them are told alike to who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginFailure {
    /// Nobody has this name. What was typed is not kept: it may be a password in the wrong field.
    UnknownUser,
    WrongPassword,
    /// The password was right, the second factor was not, or was missing.
    SecondFactor,
    Disabled,
    /// Right or wrong, nothing is tried while the account is locked.
    Locked,
}

impl LoginFailure {
    pub const ALL: [LoginFailure; 5] = [
        LoginFailure::UnknownUser,
        LoginFailure::WrongPassword,
        LoginFailure::SecondFactor,
        LoginFailure::Disabled,
        LoginFailure::Locked,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            LoginFailure::UnknownUser => "unknown_user",
            LoginFailure::WrongPassword => "wrong_password",
            LoginFailure::SecondFactor => "second_factor",
            LoginFailure::Disabled => "disabled",
            LoginFailure::Locked => "locked",
        }
    }
}

/// What somebody did to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountChange {
    Created,
    Deleted,
    Disabled,
    Enabled,
    Unlocked,
    PasswordChanged,
    /// Another role, or other permissions.
    RoleChanged,
    SecondFactorAdded,
    SecondFactorRemoved,
}

/// Which limit was passed; `details.limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    Api,
    SignIn,
    /// Attempts to get the feed.
    Attempts,
    Connections,
    ConnectionsPerUser,
    /// Requests on one connection.
    Frames,
}

impl Limited {
    pub fn as_str(self) -> &'static str {
        match self {
            Limited::Api => "api",
            Limited::SignIn => "sign_in",
            Limited::Attempts => "attempts",
            Limited::Connections => "connections",
            Limited::ConnectionsPerUser => "connections_per_user",
            Limited::Frames => "frames",
        }
    }
}

/// One event of auditcast's own, on its way. Who it is about and from where is added by [`Entry::user`], [`Entry::of`],
/// [`Entry::from`] and [`Entry::by`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub(super) event_type: &'static str,
    user_id: Option<String>,
    username: Option<String>,
    address: Option<IpAddr>,
    /// In the order they were given.
    details: Vec<(&'static str, String)>,
}

impl Entry {
    fn new(event_type: &'static str) -> Entry {
        Entry { event_type, user_id: None, username: None, address: None, details: Vec::new() }
    }

    // People.

    /// `session_id` names the session and opens nothing: never a token.
    pub fn login_success(session_id: &str) -> Entry {
        Entry::new("auth.login_success").with("session_id", session_id)
    }

    /// Name the user only where there is such a user.
    pub fn login_failed(why: LoginFailure) -> Entry {
        Entry::new("auth.failed_login").with("reason", why.as_str())
    }

    /// An account was locked after so many failures, for so many seconds.
    pub fn account_locked(failures: u32, seconds: u64) -> Entry {
        Entry::new("auth.account_locked").with("failures", &failures.to_string()).with("seconds", &seconds.to_string())
    }

    pub fn account(change: AccountChange) -> Entry {
        Entry::new(match change {
            AccountChange::Created => "user.created",
            AccountChange::Deleted => "user.deleted",
            AccountChange::Disabled => "user.disabled",
            AccountChange::Enabled => "user.enabled",
            AccountChange::Unlocked => "user.unlocked",
            AccountChange::PasswordChanged => "user.password_changed",
            AccountChange::RoleChanged => "user.role_changed",
            AccountChange::SecondFactorAdded => "user.second_factor_added",
            AccountChange::SecondFactorRemoved => "user.second_factor_removed",
        })
    }

    pub fn logout(session_id: &str) -> Entry {
        Entry::new("auth.logout").with("session_id", session_id)
    }

    pub fn session_renewed(session_id: &str) -> Entry {
        Entry::new("session.renewed").with("session_id", session_id)
    }

    /// Ended by inactivity.
    pub fn session_timeout(session_id: &str) -> Entry {
        Entry::new("session.timeout").with("session_id", session_id)
    }

    /// Ended by somebody else, or because its refresh token was used twice.
    pub fn session_revoked(session_id: &str) -> Entry {
        Entry::new("session.revoked").with("session_id", session_id)
    }

    /// A refresh token that was used before: it is in two hands.
    pub fn token_reused(session_id: &str) -> Entry {
        Entry::new("token.reuse_detected").with("session_id", session_id)
    }

    // Tokens and permissions.

    /// `None` where there is nothing to tell: a store that is away refuses everybody. `why` is the refusal's own sentence, which has
    /// nothing of the token in it.
    pub fn token_refused(kind: RefusalKind) -> Option<Entry> {
        Some(match kind {
            RefusalKind::Missing => Entry::new("token.missing"),
            // Everybody's, once in a while.
            RefusalKind::Expired => Entry::new("token.expired"),
            RefusalKind::Invalid | RefusalKind::Blacklisted => Entry::new("token.rejected").with("reason", kind.as_str()),
            RefusalKind::Forbidden => Entry::permission_denied("audit.view"),
            RefusalKind::Unavailable => return None,
        })
    }

    pub fn token_issued(jti: &str) -> Entry {
        Entry::new("token.issued").with("token_id", jti)
    }

    pub fn token_revoked(jti: &str) -> Entry {
        Entry::new("token.revoked").with("token_id", jti)
    }

    /// All of a user's tokens that were issued before now.
    pub fn tokens_revoked() -> Entry {
        Entry::new("token.revoked").with("reason", "all_of_user")
    }

    /// `permission`: what was asked for and is not there.
    pub fn permission_denied(permission: &str) -> Entry {
        Entry::new("permission.denied").with("permission", permission)
    }

    pub fn permission_granted(permission: &str, resource: Option<&str>) -> Entry {
        Entry::new("permission.granted").with("permission", permission).perhaps("resource", resource)
    }

    pub fn permission_revoked(permission: &str, resource: Option<&str>) -> Entry {
        Entry::new("permission.revoked").with("permission", permission).perhaps("resource", resource)
    }

    pub fn rate_limited(limit: Limited) -> Entry {
        Entry::new("rate_limit.exceeded").with("limit", limit.as_str())
    }

    // Who watches.

    /// A client of the feed is in. Those who may act are told apart from those who may only see.
    pub fn connected(principal: &Principal, transport: &'static str, connection: &str) -> Entry {
        Entry::new(if principal.may_act() { "admin.connected" } else { "audit.connected" })
            .of(principal)
            .with("transport", transport)
            .with("connection", connection)
    }

    /// `code`: of ours; `None` where the client left by itself.
    pub fn disconnected(may_act: bool, transport: &'static str, connection: &str, code: Option<u16>) -> Entry {
        let code = code.map(|code| code.to_string());
        Entry::new(if may_act { "admin.disconnected" } else { "audit.disconnected" })
            .with("transport", transport)
            .with("connection", connection)
            .perhaps("code", code.as_deref())
    }

    /// Somebody who may has ended others' connections.
    pub fn connections_ended(count: usize) -> Entry {
        Entry::new("admin.connections_ended").with("connections", &count.to_string())
    }

    // The daemon itself.

    /// `changed`: names of keys, never their values.
    pub fn config_reloaded(changed: &[String]) -> Entry {
        let mut list: Vec<&str> = changed.iter().take(LIST_MAX).map(String::as_str).collect();
        if changed.len() > LIST_MAX {
            list.push("…");
        }
        Entry::new("config.reloaded").with_all("changed", &list.join(", "))
    }

    /// A configuration that was not taken; what is wrong with it stands in the log.
    pub fn config_refused() -> Entry {
        Entry::new("config.reload_failed")
    }

    // Who, and from where.

    pub fn user(mut self, user_id: &str, username: Option<&str>) -> Entry {
        self.user_id = Some(cut(user_id));
        self.username = username.map(cut);
        self
    }

    pub fn of(self, principal: &Principal) -> Entry {
        self.user(&principal.user_id, principal.username.as_deref())
    }

    pub fn from(mut self, address: IpAddr) -> Entry {
        self.address = Some(address.to_canonical());
        self
    }

    /// Who did it, where that is not whom it is about: a user id, or `cli:` and the name of the shell's user.
    pub fn by(self, actor: &str) -> Entry {
        self.with("by", actor)
    }

    fn with(mut self, name: &'static str, text: &str) -> Entry {
        self.details.push((name, cut(text)));
        self
    }

    /// As [`Entry::with`], of any length.
    fn with_all(mut self, name: &'static str, text: &str) -> Entry {
        self.details.push((name, text.to_owned()));
        self
    }

    fn perhaps(self, name: &'static str, text: Option<&str>) -> Entry {
        match text {
            Some(text) => self.with(name, text),
            None => self,
        }
    }

    pub(super) fn names_user(&self) -> bool {
        self.user_id.is_some()
    }

    /// What makes two entries of one second one: type, address, user, and why or of what.
    pub(super) fn key(&self) -> Key {
        let tells = ["reason", "limit", "permission", "session_id", "token_id"];
        let what = self.details.iter().find(|(name, _)| tells.contains(name));
        Key {
            event_type: self.event_type,
            address: self.address,
            user_id: self.user_id.clone(),
            what: what.map(|(_, text)| text.clone()).unwrap_or_default(),
        }
    }

    /// The event as JSON, as it is stored. `count`: how many were alike, where that is more than one.
    pub(super) fn body(&self, at_ms: u64, count: u64) -> String {
        let mut body = Map::new();
        body.insert("event_type".to_owned(), self.event_type.into());
        body.insert("timestamp".to_owned(), at_ms.into());
        for (name, value) in [("user_id", &self.user_id), ("username", &self.username)] {
            if let Some(text) = value {
                body.insert(name.to_owned(), text.clone().into());
            }
        }
        let mut details: Map<String, Value> =
            self.details.iter().map(|(name, text)| ((*name).to_owned(), text.clone().into())).collect();
        if let Some(address) = self.address {
            details.insert("ip_address".to_owned(), address.to_string().into());
        }
        if count > 1 {
            details.insert("count".to_owned(), count.into());
        }
        if !details.is_empty() {
            body.insert("details".to_owned(), details.into());
        }
        Value::Object(body).to_string()
    }

    /// What stands for `count` events of a type that were too many to be written one by one.
    pub(super) fn summary(event_type: &'static str, at_ms: u64, count: u64) -> String {
        serde_json::json!({
            "event_type": event_type,
            "timestamp": at_ms,
            "details": {"count": count, "reason": "summarised"},
        })
        .to_string()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    event_type: &'static str,
    address: Option<IpAddr>,
    user_id: Option<String>,
    /// Why, which limit, which session.
    what: String,
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::event::{Classifier, Lists, Options, Outcome, Severity};

    /// Name, category, severity, outcome, lists: what the contract makes of each entry.
    #[test]
    fn each_counts_where_it_belongs() {
        let permission = || Entry::permission_granted("audit.view", None);
        let table: Vec<(Entry, &str, Severity, Outcome, Lists)> = vec![
            (Entry::login_success("s"), "auth", Severity::Low, Outcome::Success, Lists::SUCCESSFUL_LOGIN),
            (Entry::login_failed(LoginFailure::Locked), "auth", Severity::Medium, Outcome::Failure, Lists::FAILED_LOGIN),
            (Entry::account_locked(5, 900), "auth", Severity::Medium, Outcome::Unknown, Lists::default()),
            (Entry::account(AccountChange::Created), "user", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::account(AccountChange::Unlocked), "user", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::account(AccountChange::PasswordChanged), "user", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::account(AccountChange::SecondFactorRemoved), "user", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::logout("s"), "auth", Severity::Low, Outcome::Unknown, Lists::SESSION_END),
            (Entry::session_renewed("s"), "session", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::session_revoked("s"), "session", Severity::Low, Outcome::Unknown, Lists::SESSION_END),
            (
                Entry::session_timeout("s"),
                "session",
                Severity::Low,
                Outcome::Unknown,
                Lists::SESSION_TIMEOUT.with(Lists::SESSION_END),
            ),
            (Entry::token_reused("s"), "token", Severity::High, Outcome::Unknown, Lists::SUSPICIOUS),
            (Entry::token_issued("j"), "token", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::token_revoked("j"), "token", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::permission_denied("p"), "permission", Severity::Medium, Outcome::Denied, Lists::PERMISSION),
            (permission(), "permission", Severity::Low, Outcome::Success, Lists::default()),
            (Entry::permission_revoked("p", Some("r")), "permission", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::rate_limited(Limited::SignIn), "rate_limit", Severity::Medium, Outcome::Unknown, Lists::RATE_LIMIT),
            (Entry::disconnected(true, "sse", "n-1", None), "admin", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::disconnected(false, "sse", "n-1", Some(3001)), "audit", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::connections_ended(3), "admin", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::config_reloaded(&[]), "config", Severity::Low, Outcome::Unknown, Lists::default()),
            (Entry::config_refused(), "config", Severity::Medium, Outcome::Failure, Lists::default()),
        ];
        let mut classifier = Classifier::new(Options::contract()).unwrap();
        for (entry, category, severity, outcome, lists) in table {
            let body = entry.user("7", Some("eve")).from("::ffff:192.0.2.1".parse().unwrap()).body(1_700_000_000_000, 3);
            let event = classifier.decode_json(&body, 1_700_000_000_500, &TimeZone::UTC).unwrap();
            assert_eq!(event.kind.category.as_str(), category, "{body}");
            assert_eq!((event.severity, event.outcome, event.kind.lists), (severity, outcome, lists), "{body}");
            assert!(body.contains(r#""ip_address":"192.0.2.1""#) && body.contains(r#""count":3"#), "{body}");
            assert_eq!(event.kind.written, event.kind.normal, "{body}");
        }
    }

    #[test]
    fn every_refusal_has_its_name() {
        let named = |kind| Entry::token_refused(kind).map(|entry| entry.event_type);
        assert_eq!(
            RefusalKind::ALL.map(named),
            [
                Some("token.missing"),
                Some("token.rejected"),
                Some("token.expired"),
                Some("token.rejected"),
                Some("permission.denied"),
                None
            ]
        );
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        let entry = Entry::login_failed(LoginFailure::Disabled).user(&"é".repeat(1000), None);
        assert_eq!(entry.user_id.as_deref().map(str::len), Some(256));
        assert_eq!(cut(&format!("x{}", "é".repeat(200))).len(), 255);
    }
}
