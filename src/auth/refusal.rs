//! Why somebody does not get in: one type that knows its text, its HTTP status, its close code and its metric label.

use std::fmt;

/// What is wrong with a token, by what its bearer can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// No token.
    Missing,
    /// Not a token of ours: signature, algorithm, claims. Another one is needed.
    Invalid,
    /// Was good: get a new one and come back.
    Expired,
    /// Revoked: by `jwt:blacklist:{jti}`, or with all earlier tokens of the user.
    Blacklisted,
    /// A good token without the permission.
    Forbidden,
    /// The store cannot be asked: try again.
    Unavailable,
}

impl RefusalKind {
    pub const ALL: [RefusalKind; 6] = [
        RefusalKind::Missing,
        RefusalKind::Invalid,
        RefusalKind::Expired,
        RefusalKind::Blacklisted,
        RefusalKind::Forbidden,
        RefusalKind::Unavailable,
    ];

    /// Label `reason` of `auditcast_auth_failures_total`, and `code` of the API's problems.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalKind::Missing => "missing",
            RefusalKind::Invalid => "invalid",
            RefusalKind::Expired => "expired",
            RefusalKind::Blacklisted => "blacklisted",
            RefusalKind::Forbidden => "forbidden",
            RefusalKind::Unavailable => "unavailable",
        }
    }

    /// Where a refusal is HTTP (contract §5).
    pub fn http_status(self) -> u16 {
        match self {
            RefusalKind::Missing | RefusalKind::Invalid | RefusalKind::Expired | RefusalKind::Blacklisted => 401,
            RefusalKind::Forbidden => 403,
            RefusalKind::Unavailable => 503,
        }
    }

    /// Where the upgrade has succeeded already. From 3500 on the client must not come back as it is; 1013 is "try again later".
    pub fn close_code(self) -> u16 {
        match self {
            RefusalKind::Missing => 3502,
            RefusalKind::Invalid => 3500,
            RefusalKind::Expired => 3005,
            RefusalKind::Blacklisted => 3503,
            RefusalKind::Forbidden => 3507,
            RefusalKind::Unavailable => 1013,
        }
    }
}

/// A refusal as its bearer is told it. `text` is fit for a client: nothing of a secret, a store or a token is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub text: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Refusal {
        Refusal { kind, text: text.into() }
    }

    pub fn missing() -> Refusal {
        Refusal::new(RefusalKind::Missing, "a bearer token is needed")
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Invalid, text)
    }

    pub(crate) fn expired(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Expired, text)
    }

    pub(crate) fn forbidden(text: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Forbidden, text)
    }

    /// A's JavaScript client looks for the word.
    pub(crate) fn blacklisted() -> Refusal {
        Refusal::new(RefusalKind::Blacklisted, "the token is blacklisted")
    }

    /// The same by what holds for all tokens of a user.
    pub(crate) fn cut_off() -> Refusal {
        let text = "the token is blacklisted: this user's tokens that were issued before a given time are revoked";
        Refusal::new(RefusalKind::Blacklisted, text)
    }

    pub fn close_code(&self) -> u16 {
        self.kind.close_code()
    }

    pub fn http_status(&self) -> u16 {
        self.kind.http_status()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}
