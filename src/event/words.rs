//! The words of the enums: what is read from events, and what stands on the wire and in labels.

use std::{fmt, str::FromStr};

use super::{Category, Invalid, Outcome, Severity, TimestampFault};

impl Severity {
    /// The severity that a word of contract §3 stands for, in any case; white space around it is ignored.
    pub fn parse(word: &str) -> Option<Severity> {
        const WORDS: [(&str, Severity); 13] = [
            ("debug", Severity::Low),
            ("info", Severity::Low),
            ("notice", Severity::Low),
            ("low", Severity::Low),
            ("warn", Severity::Medium),
            ("warning", Severity::Medium),
            ("medium", Severity::Medium),
            ("error", Severity::High),
            ("alert", Severity::High),
            ("high", Severity::High),
            ("fatal", Severity::Critical),
            ("emergency", Severity::Critical),
            ("critical", Severity::Critical),
        ];
        let word = word.trim();
        WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, severity)| *severity)
    }
}

/// The text is none of the severity words of contract §3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSeverity(pub String);

impl fmt::Display for UnknownSeverity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no severity (low, medium, high, critical)", self.0)
    }
}

impl std::error::Error for UnknownSeverity {}

impl FromStr for Severity {
    type Err = UnknownSeverity;

    fn from_str(word: &str) -> Result<Severity, UnknownSeverity> {
        Severity::parse(word).ok_or_else(|| UnknownSeverity(word.to_owned()))
    }
}

impl Outcome {
    pub const ALL: [Outcome; 5] = [Outcome::Success, Outcome::Failure, Outcome::Denied, Outcome::Error, Outcome::Unknown];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failure => "failure",
            Outcome::Denied => "denied",
            Outcome::Error => "error",
            Outcome::Unknown => "unknown",
        }
    }

    /// Failure, denied or error: what turns a login into a failed one and counts in `error_ratio`.
    pub fn is_bad(self) -> bool {
        matches!(self, Outcome::Failure | Outcome::Denied | Outcome::Error)
    }

    /// What a member `outcome`, `result` or `status` says, in any case; `None` where it is no known word.
    pub(super) fn of_member(word: &str) -> Option<Outcome> {
        const WORDS: [(&str, Outcome); 17] = [
            ("success", Outcome::Success),
            ("succeeded", Outcome::Success),
            ("ok", Outcome::Success),
            ("allowed", Outcome::Success),
            ("granted", Outcome::Success),
            ("true", Outcome::Success),
            ("failure", Outcome::Failure),
            ("failed", Outcome::Failure),
            ("fail", Outcome::Failure),
            ("rejected", Outcome::Failure),
            ("invalid", Outcome::Failure),
            ("false", Outcome::Failure),
            ("denied", Outcome::Denied),
            ("forbidden", Outcome::Denied),
            ("blocked", Outcome::Denied),
            ("unauthorized", Outcome::Denied),
            ("error", Outcome::Error),
        ];
        let word = word.trim();
        WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, outcome)| *outcome)
    }

    /// What a member `success` says.
    pub(super) fn of_truth(word: &str) -> Option<Outcome> {
        match word.trim() {
            word if word.eq_ignore_ascii_case("true") => Some(Outcome::Success),
            word if word.eq_ignore_ascii_case("false") => Some(Outcome::Failure),
            _ => None,
        }
    }

    /// What the first telling word of a matching form says.
    pub(super) fn of_name(matching: &str) -> Outcome {
        matching
            .split('_')
            .find_map(|word| match word {
                "ok" | "granted" | "allowed" => Some(Outcome::Success),
                "fail" | "failed" | "failure" | "failures" | "invalid" | "rejected" | "unsuccessful" | "violation" => {
                    Some(Outcome::Failure)
                }
                "denied" | "unauthorized" | "forbidden" | "blocked" => Some(Outcome::Denied),
                "error" => Some(Outcome::Error),
                _ if word.starts_with("success") || word.starts_with("succeed") => Some(Outcome::Success),
                _ => None,
            })
            .unwrap_or(Outcome::Unknown)
    }
}

impl Category {
    /// The 14 of contract §3 and `other`, in the order of the enum.
    pub const ALL: [Category; 15] = [
        Category::Auth,
        Category::Session,
        Category::Permission,
        Category::RateLimit,
        Category::Security,
        Category::Token,
        Category::User,
        Category::Admin,
        Category::Data,
        Category::Api,
        Category::Encryption,
        Category::Config,
        Category::System,
        Category::Audit,
        Category::Other,
    ];

    /// The word used on the wire and in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Category::Auth => "auth",
            Category::Session => "session",
            Category::Permission => "permission",
            Category::RateLimit => "rate_limit",
            Category::Security => "security",
            Category::Token => "token",
            Category::User => "user",
            Category::Admin => "admin",
            Category::Data => "data",
            Category::Api => "api",
            Category::Encryption => "encryption",
            Category::Config => "config",
            Category::System => "system",
            Category::Audit => "audit",
            Category::Other => "other",
        }
    }
}

impl TimestampFault {
    pub const ALL: [TimestampFault; 3] = [TimestampFault::Missing, TimestampFault::Unreadable, TimestampFault::Skewed];

    /// The label `reason` of `auditcast_timestamps_replaced_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            TimestampFault::Missing => "missing",
            TimestampFault::Unreadable => "unreadable",
            TimestampFault::Skewed => "skewed",
        }
    }
}

impl Invalid {
    pub const ALL: [Invalid; 8] = [
        Invalid::BadJson,
        Invalid::NotAnObject,
        Invalid::NoEventType,
        Invalid::BadEventType,
        Invalid::BadUtf8,
        Invalid::TooLarge,
        Invalid::NoFields,
        Invalid::FutureId,
    ];

    /// The dead letter's `reason` and the label of `auditcast_source_invalid_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Invalid::BadJson => "bad_json",
            Invalid::NotAnObject => "not_an_object",
            Invalid::NoEventType => "no_event_type",
            Invalid::BadEventType => "bad_event_type",
            Invalid::BadUtf8 => "bad_utf8",
            Invalid::TooLarge => "too_large",
            Invalid::NoFields => "no_fields",
            Invalid::FutureId => "future_id",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for TimestampFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A sentence for people; labels and dead letters have [`Invalid::as_str`].
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Invalid::BadJson => "the entry's one field does not hold readable JSON",
            Invalid::NotAnObject => "the entry's one field holds JSON that is not an object",
            Invalid::NoEventType => "the entry has no `event_type`",
            Invalid::BadEventType => "`event_type` is not a text of 1 to 256 bytes",
            Invalid::BadUtf8 => "the entry is not UTF-8 text",
            Invalid::TooLarge => "the entry is larger than 64 KiB",
            Invalid::NoFields => "the entry has no fields",
            Invalid::FutureId => "the entry's id is more than 5 s ahead of the store's clock",
        })
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_words() {
        for (words, severity) in [
            ("debug info notice low", Severity::Low),
            ("warn warning medium", Severity::Medium),
            ("error alert high", Severity::High),
            ("fatal emergency critical", Severity::Critical),
        ] {
            for word in words.split(' ') {
                assert_eq!(Severity::parse(word), Some(severity), "{word}");
                assert_eq!(word.to_uppercase().parse(), Ok(severity), "{word}");
            }
        }
        assert_eq!("severe".parse::<Severity>(), Err(UnknownSeverity("severe".into())));
        assert_eq!(Severity::parse(""), None);
    }

    #[test]
    fn outcome_words_of_members() {
        for (words, outcome) in [
            ("success succeeded ok allowed granted true", Outcome::Success),
            ("failure failed fail rejected invalid false", Outcome::Failure),
            ("denied forbidden blocked unauthorized", Outcome::Denied),
            ("error", Outcome::Error),
        ] {
            for word in words.split(' ') {
                assert_eq!(Outcome::of_member(word), Some(outcome), "{word}");
                assert_eq!(Outcome::of_member(&format!(" {}", word.to_uppercase())), Some(outcome), "{word}");
            }
        }
        assert_eq!(Outcome::of_member("200"), None);
    }

    #[test]
    fn outcome_of_names_is_the_first_telling_word() {
        for (name, outcome) in [
            ("auth_success", Outcome::Success),
            ("login_successful", Outcome::Success),
            ("login_succeeded", Outcome::Success),
            ("access_granted", Outcome::Success),
            ("rate_limit_ok", Outcome::Success),
            ("request_allowed", Outcome::Success),
            ("authn_login_fail", Outcome::Failure),
            ("auth_multiple_failed_attempts", Outcome::Failure),
            ("auth_failure", Outcome::Failure),
            ("login_failures", Outcome::Failure),
            ("invalid_credentials", Outcome::Failure),
            ("login_unsuccessful", Outcome::Failure),
            ("login_rejected", Outcome::Failure),
            ("policy_violation", Outcome::Failure),
            ("access_denied", Outcome::Denied),
            ("unauthorized_access", Outcome::Denied),
            ("forbidden", Outcome::Denied),
            ("ip_blocked", Outcome::Denied),
            ("login_error", Outcome::Error),
            ("login_failed_after_success", Outcome::Failure),
            ("success_after_failed", Outcome::Success),
            ("failing", Outcome::Unknown),
            ("login", Outcome::Unknown),
            ("errors", Outcome::Unknown),
            ("", Outcome::Unknown),
        ] {
            assert_eq!(Outcome::of_name(name), outcome, "{name}");
        }
    }

    #[test]
    fn words_on_the_wire_are_those_of_serde() {
        for severity in Severity::ALL {
            assert_eq!(serde_json::to_value(severity).unwrap(), severity.as_str());
        }
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        for (i, category) in Category::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(category).unwrap(), category.as_str());
            assert_eq!(category as usize, i);
        }
        assert_eq!(format!("{:>6}|{}", Severity::Low, Invalid::TooLarge), "   low|the entry is larger than 64 KiB");
    }
}
