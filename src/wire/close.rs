//! Why the server ends a connection.

/// Close codes of the feed (contract §5). The range tells a client what to do: 3000–3499 come back with backoff, 3500–3999 do
/// not. `1013` (try again later, RFC 6455 registry) stands where the contract names none: the store is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseCode {
    Protocol,
    Binary,
    InvalidUtf8,
    TooLarge,
    Unavailable,
    ShuttingDown,
    TokenExpired,
    TooSlow,
    NoPong,
    RateLimited,
    InvalidToken,
    BadRequests,
    AuthTimeout,
    Revoked,
    TooManyConnections,
    Forbidden,
}

impl CloseCode {
    pub const ALL: [CloseCode; 16] = [
        CloseCode::Protocol,
        CloseCode::Binary,
        CloseCode::InvalidUtf8,
        CloseCode::TooLarge,
        CloseCode::Unavailable,
        CloseCode::ShuttingDown,
        CloseCode::TokenExpired,
        CloseCode::TooSlow,
        CloseCode::NoPong,
        CloseCode::RateLimited,
        CloseCode::InvalidToken,
        CloseCode::BadRequests,
        CloseCode::AuthTimeout,
        CloseCode::Revoked,
        CloseCode::TooManyConnections,
        CloseCode::Forbidden,
    ];

    pub fn code(self) -> u16 {
        match self {
            CloseCode::Protocol => 1002,
            CloseCode::Binary => 1003,
            CloseCode::InvalidUtf8 => 1007,
            CloseCode::TooLarge => 1009,
            CloseCode::Unavailable => 1013,
            CloseCode::ShuttingDown => 3001,
            CloseCode::TokenExpired => 3005,
            CloseCode::TooSlow => 3008,
            CloseCode::NoPong => 3012,
            CloseCode::RateLimited => 3013,
            CloseCode::InvalidToken => 3500,
            CloseCode::BadRequests => 3501,
            CloseCode::AuthTimeout => 3502,
            CloseCode::Revoked => 3503,
            CloseCode::TooManyConnections => 3504,
            CloseCode::Forbidden => 3507,
        }
    }

    /// The text in `bye` and in the close frame; under 123 bytes.
    pub fn reason(self) -> &'static str {
        match self {
            CloseCode::Protocol => "protocol error",
            CloseCode::Binary => "only text frames are read",
            CloseCode::InvalidUtf8 => "a text frame is not UTF-8",
            CloseCode::TooLarge => "the frame is too large",
            CloseCode::Unavailable => "the store is not reachable",
            CloseCode::ShuttingDown => "shutting down",
            CloseCode::TokenExpired => "token expired",
            CloseCode::TooSlow => "too slow",
            CloseCode::NoPong => "no pong",
            CloseCode::RateLimited => "rate limited",
            CloseCode::InvalidToken => "invalid token",
            CloseCode::BadRequests => "too many bad requests",
            CloseCode::AuthTimeout => "not authenticated in time",
            CloseCode::Revoked => "token is blacklisted",
            CloseCode::TooManyConnections => "too many connections",
            CloseCode::Forbidden => "forbidden",
        }
    }

    /// Whether coming back, with backoff, makes sense.
    pub fn reconnect(self) -> bool {
        !(3500..4000).contains(&self.code())
    }

    /// `code` of `auditcast_disconnects_total`.
    pub fn label(self) -> &'static str {
        match self {
            CloseCode::Protocol => "1002",
            CloseCode::Binary => "1003",
            CloseCode::InvalidUtf8 => "1007",
            CloseCode::TooLarge => "1009",
            CloseCode::Unavailable => "1013",
            CloseCode::ShuttingDown => "3001",
            CloseCode::TokenExpired => "3005",
            CloseCode::TooSlow => "3008",
            CloseCode::NoPong => "3012",
            CloseCode::RateLimited => "3013",
            CloseCode::InvalidToken => "3500",
            CloseCode::BadRequests => "3501",
            CloseCode::AuthTimeout => "3502",
            CloseCode::Revoked => "3503",
            CloseCode::TooManyConnections => "3504",
            CloseCode::Forbidden => "3507",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CloseCode;

    #[test]
    fn labels_are_the_codes_and_reasons_fit() {
        for code in CloseCode::ALL {
            assert_eq!(code.label(), code.code().to_string());
            assert!(code.reason().len() <= 123);
        }
        assert!(CloseCode::Revoked.reason().contains("blacklisted"));
        assert!(CloseCode::TooSlow.reconnect() && !CloseCode::InvalidToken.reconnect());
    }
}
