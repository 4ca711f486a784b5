//! What every request passes: who asks, how often, from which page.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State as FromState},
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    API, State, limit,
    problem::{Code, Problem},
    serve::{Https, Peer},
    unread,
};
use crate::{
    auth::{
        ADMIN_ACCESS, AUDIT_VIEW, AUDIT_WRITE, Principal, Refusal, RefusalKind,
        journal::{Entry, Limited},
        token,
    },
    metrics::unix_ms,
    session, wire,
};

/// A request's body has 30 s; what takes longer than this waits for the store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// The token of a request and whether a browser sent it by itself.
pub(super) enum Bearer {
    Header(String),
    Cookie(String),
}

impl Bearer {
    pub(super) fn text(&self) -> &str {
        match self {
            Bearer::Header(token) | Bearer::Cookie(token) => token,
        }
    }
}

/// The token of a request: `Authorization: Bearer`, else the sign-in cookie. Another scheme in the header is a refusal, and
/// the cookie does not mend it.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Bearer, Refusal> {
    match session::bearer(headers) {
        Some(token) => token.map(Bearer::Header),
        None => session::cookie(headers, session::COOKIE).map(Bearer::Cookie).ok_or_else(Refusal::missing),
    }
}

/// What a route asks of its caller.
#[derive(Clone, Copy)]
pub(super) enum Need {
    See,
    Act,
    Write,
}

/// Decides who may call. Refusals are counted and noted.
pub(super) async fn admit(state: &State, request: &Parts<'_>, need: Need) -> Result<Principal, Problem> {
    let bearer = bearer(request.headers).map_err(|refusal| refused(state, request, None, refusal))?;
    // A browser sends the cookie whoever wrote the page, so what changes something must come from a page of ours.
    if matches!(bearer, Bearer::Cookie(_)) && *request.method != Method::GET && !own_origin(state, request.headers) {
        return Err(Problem::new(
            Code::Origin,
            "with the cookie, requests that change something must come from auditcast's own page",
        ));
    }
    let verified = state.auth.verify(bearer.text(), unix_ms()).await;
    let principal = verified.map_err(|refusal| refused(state, request, Some(bearer.text()), refusal))?;
    let (allowed, lacking, wanted) = match need {
        Need::See => (principal.may_see(), AUDIT_VIEW, "`audit.view` or `admin.access`"),
        Need::Act => (principal.may_act(), ADMIN_ACCESS, "`admin.access`"),
        Need::Write => (principal.may_write(), AUDIT_WRITE, "`audit.write`"),
    };
    if allowed {
        // A page asks by itself, with its cookie; who sends the header does something.
        if matches!(bearer, Bearer::Header(_)) {
            state.people.touch(&principal, unix_ms()).await;
        }
        return Ok(principal);
    }
    state.metrics.auth_failures.inc(RefusalKind::Forbidden.as_str());
    state.auth.journal().note(from(Entry::permission_denied(lacking).of(&principal), request.peer));
    Err(Problem::new(Code::Forbidden, format!("this needs the permission {wanted}")))
}

pub(super) fn refused(state: &State, request: &Parts<'_>, token: Option<&str>, refusal: Refusal) -> Problem {
    state.metrics.auth_failures.inc(refusal.kind.as_str());
    state.auth.note_refusal(token, &refusal, request.peer, unix_ms());
    Problem::from(refusal)
}

fn from(entry: Entry, peer: Option<IpAddr>) -> Entry {
    match peer {
        Some(peer) => entry.from(peer),
        None => entry,
    }
}

/// Who asks, where that is known.
pub(super) fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0.ip())
}

/// What [`admit`] looks at.
pub(super) struct Parts<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) peer: Option<IpAddr>,
}

pub(super) fn own_origin(state: &State, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok()) else { return false };
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let at_host = host.is_some_and(|host| {
        origin
            .split_once("://")
            .is_some_and(|(scheme, rest)| matches!(scheme, "http" | "https") && rest.eq_ignore_ascii_case(host))
    });
    let listed = |known: &String| known.trim_end_matches('/').eq_ignore_ascii_case(origin);
    at_host
        || state.options.external_url.iter().any(|url| listed(&super::origin_of(url)))
        || state.options.cors_origins.iter().any(listed)
}

/// `RATE_LIMIT_GENERAL` per user, else per address; and no token in a query, where it would end up in logs and histories.
pub(super) async fn limit(FromState(state): FromState<Arc<State>>, request: Request, next: Next) -> Response {
    let (request, rest) = unread::lend(request);
    let response = answer(&state, request, next).await;
    rest.drop_from(response).await
}

async fn answer(state: &State, request: Request, next: Next) -> Response {
    // Who wanted the feed is one of its connections that were not taken, also when turned away here.
    let rejected = |reason| {
        if request.uri().path() == super::STREAM {
            state.metrics.connections_rejected.inc(reason);
        }
    };
    if request.uri().query().is_some_and(wire::token_in_query) {
        rejected("bad_request");
        return Problem::new(Code::TokenInQuery, "a token belongs into the Authorization header, never into the query")
            .into_response();
    }
    let now_ms = unix_ms();
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let endpoint = path.strip_prefix(API).unwrap_or(path);
    if let Err(seconds) = state.limits.request(endpoint, &client(state, &request, now_ms), now_ms) {
        rejected("rate_limited");
        state.auth.journal().note(from(Entry::rate_limited(Limited::Api), address(&request)));
        return Problem::rate_limited("too many requests", seconds).into_response();
    }
    // The feed answers at once and for ever; its own room sees to its clocks.
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Unavailable, "the store did not answer in time").into_response(),
    }
}

/// Only a good signature makes a user of a client: else anybody could use up anybody's share.
fn client(state: &State, request: &Request, now_ms: u64) -> String {
    if let Ok(bearer) = bearer(request.headers())
        && let Ok(principal) = token::verify(&state.auth.options(), bearer.text(), now_ms)
    {
        return format!("user:{}", principal.user_id);
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    peer.map_or_else(|| "address:unknown".to_owned(), |peer| limit::client(peer.ip()))
}

/// Everything but scripts, styles, images and connections of our own is off.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                   base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Security headers on every answer, also on errors.
pub(super) async fn headers(FromState(state): FromState<Arc<State>>, request: Request, next: Next) -> Response {
    let tls = request.extensions().get::<Https>().is_some_and(|https| https.0);
    let mut response = next.run(request).await;
    if state.options.security_headers {
        let https =
            tls || state.options.external_url.as_deref().is_some_and(|url| url.to_ascii_lowercase().starts_with("https://"));
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, CSP),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        if https {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HeaderValue::from_static("max-age=31536000"));
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(header::HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn token(list: &[(header::HeaderName, &str)]) -> Option<String> {
        bearer(&headers(list)).ok().map(|bearer| bearer.text().to_owned())
    }

    #[test]
    fn a_token_comes_by_header_or_cookie() {
        assert_eq!(token(&[(header::AUTHORIZATION, "Bearer a.b.c")]).as_deref(), Some("a.b.c"));
        assert_eq!(token(&[(header::AUTHORIZATION, "bearer  a.b.c ")]).as_deref(), Some("a.b.c"));
        assert_eq!(token(&[(header::COOKIE, "x=1; __Host-auditcast=a.b.c")]).as_deref(), Some("a.b.c"));
        for wrong in ["a.b.c", "Basic a.b.c", "Bearer", "Bearer ", ""] {
            assert_eq!(token(&[(header::AUTHORIZATION, wrong), (header::COOKIE, "__Host-auditcast=a.b.c")]), None, "{wrong:?}");
        }
        assert_eq!(token(&[(header::COOKIE, "auditcast=a.b.c; __Host-auditcast=")]), None);
        assert_eq!(token(&[]), None);
    }
}
