//! `POST /api/v1/auth/login`, `refresh`, `logout`: sign-in for people (contract §10).
//!
//! A page takes its tokens as cookies, which no script can read: `__Host-auditcast` is the access token, and
//! `__Host-auditcast-refresh` is good for nothing but renewing and signing out. Both need TLS or this machine itself, because
//! browsers take `Secure` cookies from nowhere else.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State as FromState},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    State, guard, intake, limit,
    params::Params,
    problem::{Code, Problem},
    serve::Peer,
};
use crate::{
    auth::{
        Principal, RefusalKind,
        journal::{Entry, Limited},
        people::{Credentials, Refused, Signed, person::Stale},
    },
    metrics::unix_ms,
    session,
};

/// Longest body, bytes.
const BODY_BYTES_MAX: usize = 8192;
/// Who finds all places taken comes back after so many seconds.
const BUSY_RETRY_S: u64 = 2;

/// What may only be exchanged for another one, or ended.
const REFRESH_COOKIE: &str = "__Host-auditcast-refresh";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: String,
    password: String,
    totp: Option<String>,
    #[serde(default)]
    cookie: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: Option<String>,
    /// Whether somebody has been there since the last time; a page that renews by itself says no.
    active: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Logout {
    refresh_token: Option<String>,
}

/// To programs.
#[derive(Serialize)]
struct Tokens<'a> {
    access_token: &'a str,
    refresh_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    refresh_expires_in: u64,
}

/// To pages, which have the tokens in their cookies.
#[derive(Serialize)]
struct InCookies<'a> {
    token_type: &'static str,
    expires_in: u64,
    refresh_expires_in: u64,
    /// Seconds without activity after which the session ends.
    session_timeout: u64,
    user_id: &'a str,
    username: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
}

pub(super) async fn login(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    Params::read(request.uri(), &[])?;
    let (parts, body) = request.into_parts();
    let peer = peer(&parts)?;
    let client = limit::client(peer);
    let now_ms = unix_ms();
    // Before the body: a guess that is one too many costs nothing.
    if let Err(seconds) = state.limits.sign_in(&state.store, &client, now_ms).await {
        state.auth.journal().note(Entry::rate_limited(Limited::SignIn).from(peer));
        return Err(Problem::rate_limited("too many sign-ins", seconds));
    }
    let login: Login = read(&intake::read(body, BODY_BYTES_MAX).await?, "`username`, `password`, perhaps `totp` and `cookie`")?;
    if login.cookie {
        cookies_work(&state, &parts.headers)?;
    }
    let with = Credentials {
        username: &login.username,
        password: &login.password,
        totp: login.totp.as_deref().filter(|code| !code.is_empty()),
        address: client.strip_prefix("address:").unwrap_or(&client),
        peer,
    };
    match state.people.sign_in(with, now_ms).await {
        Ok(signed) => answer(&state, &signed, login.cookie),
        Err(refused) => Err(problem(&state, refused)),
    }
}

/// Who asks, behind whatever stands between.
fn peer(parts: &Parts) -> Result<IpAddr, Problem> {
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
    peer.ok_or_else(|| Problem::new(Code::Internal, "the client's address is not known"))
}

pub(super) async fn refresh(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    Params::read(request.uri(), &[])?;
    let (parts, body) = request.into_parts();
    let text = intake::read(body, BODY_BYTES_MAX).await?;
    let wanted: Refresh = match text.trim() {
        "" => Refresh { refresh_token: None, active: None },
        text => read(text, "`refresh_token`, perhaps `active`")?,
    };
    let cookie = session::cookie(&parts.headers, REFRESH_COOKIE);
    let (token, by_cookie) = match (wanted.refresh_token, cookie) {
        (Some(token), _) => (token, false),
        (None, Some(cookie)) => {
            own_page(&state, &parts.headers)?;
            (cookie, true)
        }
        (None, None) => return Err(Problem::new(Code::Missing, "there is neither `refresh_token` in the body nor its cookie")),
    };
    match state.people.refresh(&token, wanted.active.unwrap_or(true), peer(&parts)?, unix_ms()).await {
        Ok(signed) => answer(&state, &signed, by_cookie),
        Err(refused) => {
            let over = matches!(refused, Refused::Stale(_));
            let mut response = problem(&state, refused).into_response();
            if by_cookie && over {
                clear_cookies(response.headers_mut());
            }
            Ok(response)
        }
    }
}

/// Ends the session of whatever token is shown. One that is over already is no error: signed out is signed out.
pub(super) async fn logout(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    Params::read(request.uri(), &[])?;
    let (parts, body) = request.into_parts();
    let text = intake::read(body, BODY_BYTES_MAX).await?;
    let wanted: Logout = match text.trim() {
        "" => Logout::default(),
        text => read(text, "`refresh_token`")?,
    };
    let refresh_cookie = session::cookie(&parts.headers, REFRESH_COOKIE);
    let access = guard::bearer(&parts.headers).ok();
    if refresh_cookie.is_some() || matches!(access, Some(guard::Bearer::Cookie(_))) {
        own_page(&state, &parts.headers)?;
    }
    let tokens: Vec<String> = wanted.refresh_token.into_iter().chain(refresh_cookie).collect();
    if tokens.is_empty() && access.is_none() {
        return Err(Problem::new(Code::Missing, "there is no token to sign out with"));
    }
    let (peer, now_ms) = (peer(&parts)?, unix_ms());
    for token in &tokens {
        state.people.sign_out(token, peer, now_ms).await?;
    }
    if let Some(access) = &access {
        match state.auth.verify(access.text(), now_ms).await {
            Ok(principal) => end_access(&state, &principal, peer, now_ms).await?,
            Err(refusal) if refusal.kind == RefusalKind::Unavailable => return Err(refusal.into()),
            // Expired and revoked ones are void already; others only matter where there is nothing else.
            Err(refusal) if tokens.is_empty() && refusal.kind == RefusalKind::Invalid => {
                let request = guard::Parts { method: &parts.method, headers: &parts.headers, peer: Some(peer) };
                return Err(guard::refused(&state, &request, Some(access.text()), refusal));
            }
            Err(_) => {}
        }
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    clear_cookies(response.headers_mut());
    Ok(response)
}

/// Ends the access token's session, and the token itself also where it was issued by somebody else.
async fn end_access(state: &State, principal: &Principal, peer: IpAddr, now_ms: u64) -> Result<(), Problem> {
    let Some(jti) = &principal.jti else {
        return Err(Problem::bad_request("the token has no `jti`, so it cannot be made void before it expires"));
    };
    if let Some(username) = &principal.username {
        state.people.sign_out_access(username, jti, peer, now_ms).await?;
    }
    let left = std::time::Duration::from_millis(principal.expires_at_ms.saturating_sub(now_ms));
    state.store.blacklist(jti, left + crate::auth::LEEWAY_MAX).await?;
    Ok(())
}

/// The error of the parser may quote a password, so it stays here.
fn read<T: for<'a> Deserialize<'a>>(text: &str, members: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        let what =
            if error.is_data() { "has other members or kinds of values than" } else { "is not the JSON of an object with" };
        Problem::new(Code::BadJson, format!("the body {what} {members}"))
    })
}

/// A browser sends cookies whoever wrote the page, so what uses them must come from a page of ours.
fn own_page(state: &State, headers: &HeaderMap) -> Result<(), Problem> {
    match guard::own_origin(state, headers) {
        true => Ok(()),
        false => {
            Err(Problem::new(Code::Origin, "with the cookie, requests that change something must come from auditcast's own page"))
        }
    }
}

/// Whether cookies may be given to who asks: a page of ours, over TLS or on this machine.
fn cookies_work(state: &State, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    own_page(state, headers)?;
    let origin = origin.to_str().unwrap_or_default();
    if origin.starts_with("https://") || is_loopback(origin) {
        return Ok(());
    }
    Err(Problem::bad_request(
        "this page came without TLS, and browsers keep the sign-in cookie only of https:// and of this machine (http://127.0.0.1, \
         http://localhost): reach auditcast by https://, or by a tunnel to 127.0.0.1",
    ))
}

fn is_loopback(origin: &str) -> bool {
    let Some(host) = origin.strip_prefix("http://") else { return false };
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let named = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    named || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn answer(state: &State, signed: &Signed, cookies: bool) -> Result<Response, Problem> {
    if !cookies {
        return super::to_json(&Tokens {
            access_token: &signed.access_token,
            refresh_token: &signed.refresh_token,
            token_type: "Bearer",
            expires_in: signed.expires_in_s,
            refresh_expires_in: signed.refresh_expires_in_s,
        });
    }
    let mut response = super::to_json(&InCookies {
        token_type: "Cookie",
        expires_in: signed.expires_in_s,
        refresh_expires_in: signed.refresh_expires_in_s,
        session_timeout: state.people.options().session_timeout.as_secs(),
        user_id: &signed.user_id,
        username: &signed.username,
        role: signed.role.as_deref(),
    })?;
    for (name, value, seconds) in [
        (session::COOKIE, &signed.access_token, signed.expires_in_s),
        (REFRESH_COOKIE, &signed.refresh_token, signed.refresh_expires_in_s),
    ] {
        set_cookie(response.headers_mut(), name, value, seconds);
    }
    Ok(response)
}

fn clear_cookies(headers: &mut HeaderMap) {
    for name in [session::COOKIE, REFRESH_COOKIE] {
        set_cookie(headers, name, "", 0);
    }
}

fn set_cookie(headers: &mut HeaderMap, name: &str, value: &str, seconds: u64) {
    let cookie = format!("{name}={value}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Strict");
    // Tokens are base64url, hexadecimal and dots.
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        headers.append(header::SET_COOKIE, cookie);
    }
}

fn problem(state: &State, refused: Refused) -> Problem {
    match refused {
        Refused::Wrong => {
            state.metrics.auth_failures.inc("sign_in");
            Problem::new(Code::BadCredentials, "the user name, the password or the code is not right")
        }
        Refused::Later(ms) => Problem::rate_limited("too many attempts", ms.div_ceil(1000).max(1)),
        Refused::Busy => {
            let mut problem = Problem::new(Code::Busy, "too many sign in at this moment");
            problem.retry_after = Some(BUSY_RETRY_S);
            problem
        }
        Refused::Stale(Stale::TimedOut) => {
            state.metrics.auth_failures.inc(RefusalKind::Expired.as_str());
            Problem::new(Code::Expired, "the session has ended, because nobody used it for too long; sign in again")
        }
        Refused::Stale(_) => {
            state.metrics.auth_failures.inc(RefusalKind::Invalid.as_str());
            Problem::new(Code::Invalid, "the refresh token is not good, or no longer; sign in again")
        }
        Refused::Store(error) => error.into(),
        Refused::Issue(error) => {
            tracing::error!(%error, "could not issue a token");
            Problem::new(Code::Internal, "the token could not be issued")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_its_origin() {
        for (origin, expected) in [
            ("http://127.0.0.1:8787", true),
            ("http://127.1.2.3", true),
            ("http://localhost:1", true),
            ("http://audit.localhost", true),
            ("http://[::1]:8787", true),
            ("http://10.0.0.1:8787", false),
            ("http://127.0.0.1.evil.example", false),
            ("http://localhost.evil.example", false),
            ("https://127.0.0.1", false),
            ("null", false),
        ] {
            assert_eq!(is_loopback(origin), expected, "{origin}");
        }
    }

    #[test]
    fn a_body_that_cannot_be_read_is_not_quoted() {
        for text in [
            r#"{"username":"a","password":"hunter2","cookie":"hunter2"}"#,
            r#"{"hunter2":1}"#,
            r#"{"username":"hunter2""#,
            "hunter2",
        ] {
            let problem = read::<Login>(text, "x").err().unwrap();
            assert!(!problem.detail.contains("hunter2"), "{}", problem.detail);
        }
    }

    #[test]
    fn a_cookie_is_of_this_host_alone_and_for_no_script() {
        let mut headers = HeaderMap::new();
        set_cookie(&mut headers, session::COOKIE, "a.b-c_d", 60);
        let cookie = headers[header::SET_COOKIE].to_str().unwrap();
        assert_eq!(cookie, "__Host-auditcast=a.b-c_d; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Strict");
        assert!(!format!("{headers:?}").contains("a.b-c_d"));
    }
}
