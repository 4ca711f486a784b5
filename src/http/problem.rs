//! Errors of the API as problems (RFC 9457): `type`, `title`, `status`, `detail`, `code`.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;

use crate::{
    auth::{Refusal, RefusalKind},
    store::StoreError,
};

/// What went wrong, for programs: the member `code`. OpenAPI lists them; a test holds both alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    BadJson,
    TokenInQuery,
    BadCredentials,
    Missing,
    Invalid,
    Expired,
    Blacklisted,
    Forbidden,
    Origin,
    NotFound,
    UnknownAlert,
    MethodNotAllowed,
    PositionExpired,
    TooLarge,
    UnsupportedType,
    RateLimited,
    Busy,
    Unavailable,
    Timeout,
    Internal,
}

impl Code {
    pub const ALL: [Code; 21] = [
        Code::BadRequest,
        Code::BadJson,
        Code::TokenInQuery,
        Code::BadCredentials,
        Code::Missing,
        Code::Invalid,
        Code::Expired,
        Code::Blacklisted,
        Code::Forbidden,
        Code::Origin,
        Code::NotFound,
        Code::UnknownAlert,
        Code::MethodNotAllowed,
        Code::PositionExpired,
        Code::TooLarge,
        Code::UnsupportedType,
        Code::RateLimited,
        Code::Busy,
        Code::Unavailable,
        Code::Timeout,
        Code::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Code::BadRequest => "bad_request",
            Code::BadJson => "bad_json",
            Code::TokenInQuery => "token_in_query",
            Code::BadCredentials => "bad_credentials",
            Code::Missing => "missing",
            Code::Invalid => "invalid",
            // Of a token with status 401, of a position with 410 (contract §7).
            Code::Expired | Code::PositionExpired => "expired",
            Code::Blacklisted => "blacklisted",
            Code::Forbidden => "forbidden",
            Code::Origin => "forbidden_origin",
            Code::NotFound => "not_found",
            Code::UnknownAlert => "unknown_alert",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::TooLarge => "too_large",
            Code::UnsupportedType => "unsupported_type",
            Code::RateLimited => "rate_limited",
            Code::Busy => "busy",
            Code::Unavailable => "unavailable",
            Code::Timeout => "timeout",
            Code::Internal => "internal",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Code::BadRequest | Code::BadJson | Code::TokenInQuery => StatusCode::BAD_REQUEST,
            Code::BadCredentials | Code::Missing | Code::Invalid | Code::Expired | Code::Blacklisted => StatusCode::UNAUTHORIZED,
            Code::Forbidden | Code::Origin => StatusCode::FORBIDDEN,
            Code::NotFound | Code::UnknownAlert => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::PositionExpired => StatusCode::GONE,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::Busy | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Timeout => StatusCode::REQUEST_TIMEOUT,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Code::BadRequest => "Bad request",
            Code::BadJson => "Not JSON",
            Code::TokenInQuery => "Token in the query",
            Code::BadCredentials => "Sign-in refused",
            Code::Missing => "Token missing",
            Code::Invalid => "Token invalid",
            Code::Expired => "Token expired",
            Code::Blacklisted => "Token blacklisted",
            Code::Forbidden => "Permission missing",
            Code::Origin => "Origin not allowed",
            Code::NotFound => "Not found",
            Code::UnknownAlert => "Unknown alert",
            Code::MethodNotAllowed => "Method not allowed",
            Code::PositionExpired => "Position expired",
            Code::TooLarge => "Body too large",
            Code::UnsupportedType => "Unsupported content type",
            Code::RateLimited => "Too many requests",
            Code::Busy => "Too busy",
            Code::Unavailable => "Store not reachable",
            Code::Timeout => "Request took too long",
            Code::Internal => "Internal error",
        }
    }
}

/// An error as an answer.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    /// One sentence for people; nothing of a secret or of the store is in it.
    pub detail: String,
    /// Seconds, where coming back makes sense.
    pub retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Body9457<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        let retry_after = (code == Code::Unavailable).then_some(5);
        Problem { code, detail: detail.into(), retry_after }
    }

    /// 429: what there was too much of, and when there is room again.
    pub(super) fn rate_limited(what: &str, seconds: u64) -> Problem {
        let mut problem = Problem::new(Code::RateLimited, format!("{what}; there is room again in {seconds} s"));
        problem.retry_after = Some(seconds);
        problem
    }

    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(Code::BadRequest, detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let code = match refusal.kind {
            RefusalKind::Missing => Code::Missing,
            RefusalKind::Invalid => Code::Invalid,
            RefusalKind::Expired => Code::Expired,
            RefusalKind::Blacklisted => Code::Blacklisted,
            RefusalKind::Forbidden => Code::Forbidden,
            RefusalKind::Unavailable => Code::Unavailable,
        };
        Problem::new(code, refusal.text)
    }
}

/// The client learns that the store failed, the log what it said.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Unavailable(text) => {
                tracing::debug!(%text, "could not answer a request");
                Problem::new(Code::Unavailable, "the store is not reachable")
            }
            other => {
                tracing::warn!(error = %other, "could not answer a request");
                Problem::new(Code::Internal, "the store could not answer")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let status = self.code.status();
        let body = Body9457 {
            r#type: "about:blank",
            title: self.code.title(),
            status: status.as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750 §3: a challenge without an error code where no token came.
            let challenge = if matches!(self.code, Code::Missing | Code::BadCredentials) {
                "Bearer"
            } else {
                "Bearer error=\"invalid_token\""
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
