//! What is proved: who has the right password (and code) gets in and nobody else does, whatever is wrong looks the same, a refresh
//! token is good once, and whatever ends a session ends all its tokens. Over real sockets, on the embedded store.

mod support_http;

use std::time::Duration;

use auditcast::{
    auth::{
        Secret,
        people::{self, password::Hash, person::Person, totp},
    },
    store::{
        self,
        record::{Change, Changed, Table},
    },
};
use serde_json::{Value, json};
use support_http::{Response, Server, ServerOptions, now_ms, start};

const PASSWORD: &str = "TestPass123!";

async fn edit(server: &Server, name: &str, change: impl Fn(&mut Person)) {
    let before = server.store.record(Table::People, name).await.unwrap();
    let mut person = match &before {
        Some(body) => people::read(name, body).unwrap(),
        None => Person::new(format!("id-{name}"), name.into(), Hash::make(PASSWORD, 4).unwrap(), now_ms()),
    };
    change(&mut person);
    let after = Some(people::write(&person).unwrap());
    let change = Change { table: Table::People, name: name.into(), before, after, ttl_ms: None };
    assert_eq!(server.store.record_change(&change).await.unwrap(), Changed::Done);
}

async fn with_ana() -> Server {
    let server = start(ServerOptions::default()).await;
    edit(&server, "ana", |person| person.role = Some("ADMIN".into())).await;
    server
}

async fn call(server: &Server, what: &str, headers: &[(&str, &str)], body: Value) -> Response {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    server.send("POST", &format!("/api/v1/auth/{what}"), headers, &text).await
}

async fn login(server: &Server, name: &str, password: &str) -> Response {
    call(server, "login", &[], json!({"username": name, "password": password})).await
}

/// Access and refresh token.
fn tokens(response: Response) -> (String, String) {
    let body = response.json(200);
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (text("access_token"), text("refresh_token"))
}

async fn sees(server: &Server, token: &str) -> bool {
    let response = server.get("/api/v1/alerts", token).await;
    match response.status {
        200 => true,
        401 => {
            assert!(response.body.contains("blacklisted"), "{}", response.body);
            false
        }
        other => panic!("{other}: {}", response.body),
    }
}

#[tokio::test]
async fn a_sign_in_gives_what_the_contract_says() {
    let server = with_ana().await;
    let body = login(&server, " Ana", PASSWORD).await.json(200);
    let members: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["access_token", "expires_in", "refresh_expires_in", "refresh_token", "token_type"]);
    assert_eq!(
        (&body["token_type"], &body["expires_in"], &body["refresh_expires_in"]),
        (&json!("Bearer"), &json!(1800), &json!(604_800))
    );
    let access = body["access_token"].as_str().unwrap();
    let (_, claims) = auditcast::auth::token::inspect(access).unwrap();
    assert_eq!((&claims["sub"], &claims["user_id"], &claims["username"]), (&json!("id-ana"), &json!("id-ana"), &json!("ana")));
    assert_eq!((&claims["role"], &claims["type"], &claims["permissions"]), (&json!("ADMIN"), &json!("access"), &json!([])));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 1800);
    assert!(sees(&server, access).await);
    // A refresh token opens nothing.
    server.get("/api/v1/alerts", body["refresh_token"].as_str().unwrap()).await.problem(401, "invalid");
    server.stop().await;
}

#[tokio::test]
async fn whatever_is_wrong_looks_the_same() {
    let server = with_ana().await;
    edit(&server, "off", |person| person.disabled = true).await;
    let secret = totp::fresh().unwrap();
    edit(&server, "two", |person| {
        person.totp = Some(people::person::Totp { secret: totp::Stored::seal(&secret, "two", None).unwrap(), last_step: 0 });
    })
    .await;
    let long = "x".repeat(1000);
    let mut bodies = Vec::new();
    for (name, password, code) in [
        ("ana", "wrong", None),
        ("ana", "", None),
        ("ana", long.as_str(), None),
        ("ana", "testpass123!", None),
        ("nobody", PASSWORD, None),
        ("no such name", PASSWORD, None),
        ("", "", None),
        ("off", PASSWORD, None),
        ("two", PASSWORD, None),
        ("two", PASSWORD, Some("12345")),
        ("two", "wrong", Some("123456")),
    ] {
        let body = json!({"username": name, "password": password, "totp": code});
        let response = call(&server, "login", &[], body).await;
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        let problem = response.problem(401, "bad_credentials");
        bodies.push(problem.to_string());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_an_old_one_ends_everything() {
    let server = with_ana().await;
    let (access1, refresh1) = tokens(login(&server, "ana", PASSWORD).await);
    let (access2, refresh2) = tokens(call(&server, "refresh", &[], json!({"refresh_token": refresh1})).await);
    assert!(sees(&server, &access1).await && sees(&server, &access2).await, "a renewal takes nothing away");
    let (other, _) = tokens(login(&server, "ana", PASSWORD).await);
    call(&server, "refresh", &[], json!({"refresh_token": refresh1})).await.problem(401, "invalid");
    call(&server, "refresh", &[], json!({"refresh_token": refresh2})).await.problem(401, "invalid");
    assert!(!sees(&server, &access1).await && !sees(&server, &access2).await);
    assert!(sees(&server, &other).await, "another sign-in is another family");
    for bad in ["", "acr1.00.00.00", "x", access1.as_str()] {
        call(&server, "refresh", &[], json!({"refresh_token": bad})).await.problem(401, "invalid");
    }
    call(&server, "refresh", &[], Value::Null).await.problem(401, "missing");
    server.stop().await;
}

#[tokio::test]
async fn signing_out_makes_both_void_by_either() {
    let server = with_ana().await;
    for by in ["access", "refresh", "both"] {
        let (access, refresh) = tokens(login(&server, "ana", PASSWORD).await);
        let (newer, refresh) = tokens(call(&server, "refresh", &[], json!({"refresh_token": refresh})).await);
        let bearer = format!("Bearer {access}");
        let headers: &[(&str, &str)] = if by == "refresh" { &[] } else { &[("authorization", &bearer)] };
        let body = if by == "access" { Value::Null } else { json!({"refresh_token": refresh}) };
        for _ in 0..2 {
            let response = call(&server, "logout", headers, body.clone()).await;
            assert_eq!((response.status, response.body.as_str()), (204, ""), "{by}");
        }
        assert!(!sees(&server, &access).await && !sees(&server, &newer).await, "{by}");
        call(&server, "refresh", &[], json!({"refresh_token": refresh})).await.problem(401, "invalid");
    }
    call(&server, "logout", &[], Value::Null).await.problem(401, "missing");
    call(&server, "logout", &[("authorization", "Bearer x.y.z")], Value::Null).await.problem(401, "invalid");
    // A token of somebody else's making ends too.
    let theirs = server.token_with("ADMIN", &[], "of-the-application");
    assert_eq!(call(&server, "logout", &[("authorization", &format!("Bearer {theirs}"))], Value::Null).await.status, 204);
    assert!(!sees(&server, &theirs).await);
    server.stop().await;
}

#[tokio::test]
async fn pages_get_cookies_and_must_be_ours() {
    let server = with_ana().await;
    let here = format!("http://{}", server.public);
    let body = json!({"username": "ana", "password": PASSWORD, "cookie": true});
    call(&server, "login", &[("origin", "https://evil.example")], body.clone()).await.problem(403, "forbidden_origin");
    let response = call(&server, "login", &[("origin", &here)], body.clone()).await;
    let cookies = response.cookies();
    assert!(cookies.iter().all(|c| c.ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict")), "{cookies:?}");
    let jar: Vec<&str> = cookies.iter().map(|cookie| cookie.split(';').next().unwrap()).collect();
    assert!(jar[0].starts_with("__Host-auditcast=") && jar[1].starts_with("__Host-auditcast-refresh=acr1."), "{jar:?}");
    let jar = jar.join("; ");
    let answer = response.json(200);
    assert!(answer.get("access_token").is_none() && answer.get("refresh_token").is_none());
    assert_eq!(
        (&answer["username"], &answer["role"], &answer["session_timeout"]),
        (&json!("ana"), &json!("ADMIN"), &json!(1800))
    );
    assert_eq!(server.send("GET", "/api/v1/alerts", &[("cookie", &jar)], "").await.status, 200);

    for origin in [None, Some("https://evil.example"), Some("null")] {
        for what in ["refresh", "logout"] {
            let headers: Vec<(&str, &str)> =
                [("cookie", jar.as_str())].into_iter().chain(origin.map(|o| ("origin", o))).collect();
            call(&server, what, &headers, Value::Null).await.problem(403, "forbidden_origin");
        }
    }
    let ours = |jar: &str| [("cookie".to_owned(), jar.to_owned()), ("origin".to_owned(), here.clone())];
    let renewed = {
        let headers = ours(&jar);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let response = call(&server, "refresh", &headers, json!({"active": false})).await;
        let renewed: Vec<String> = response.cookies().iter().map(|c| c.split(';').next().unwrap().to_owned()).collect();
        assert!(response.json(200)["expires_in"].as_u64().unwrap() <= 1800);
        renewed.join("; ")
    };
    let headers = ours(&renewed);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let response = call(&server, "logout", &headers, Value::Null).await;
    assert_eq!(response.status, 204);
    assert!(response.cookies().iter().all(|cookie| cookie.contains("=; Max-Age=0;")));
    server.send("GET", "/api/v1/alerts", &[("cookie", &renewed)], "").await.problem(401, "blacklisted");
    // What is over takes its cookies with it.
    let response = call(&server, "refresh", &headers, Value::Null).await;
    assert_eq!(response.cookies().len(), 2);
    response.problem(401, "invalid");
    server.stop().await;
}

#[tokio::test]
async fn without_tls_only_this_machine_gets_cookies() {
    let server = with_ana().await;
    let body = json!({"username": "ana", "password": PASSWORD, "cookie": true});
    let headers = [("host", "audit.example"), ("origin", "http://audit.example")];
    let problem = call(&server, "login", &headers, body.clone()).await.problem(400, "bad_request");
    assert!(problem["detail"].as_str().unwrap().contains("https://"), "{problem}");
    let headers = [("host", "audit.example"), ("origin", "https://audit.example")];
    assert_eq!(call(&server, "login", &headers, body).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_code_is_needed_and_never_taken_twice() {
    let server = start(ServerOptions {
        people: people::Options { encryption_key: Some(Secret(b"a key".to_vec())), ..support_http::people_options() },
        ..ServerOptions::default()
    })
    .await;
    // RFC 6238's secret: its codes are computed here by steps around now.
    let secret = Secret(b"12345678901234567890".to_vec());
    let key = Secret(b"a key".to_vec());
    edit(&server, "two", |person| {
        person.totp =
            Some(people::person::Totp { secret: totp::Stored::seal(&secret, "two", Some(&key)).unwrap(), last_step: 0 });
    })
    .await;
    let code = totp::code_at(&secret, now_ms());
    let with = |code: &str| json!({"username": "two", "password": PASSWORD, "totp": code});
    assert_eq!(call(&server, "login", &[], with(&code)).await.status, 200);
    call(&server, "login", &[], with(&code)).await.problem(401, "bad_credentials");
    // At once from many places: one gets in.
    let next = totp::code_at(&secret, now_ms() + 30_000);
    let all = futures::future::join_all((0..5).map(|_| call(&server, "login", &[], with(&next)))).await;
    assert_eq!(all.iter().filter(|response| response.status == 200).count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn bs_hashes_are_taken_once_and_made_anew() {
    let server = start(ServerOptions::default()).await;
    let legacy = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    edit(&server, "old", |person| person.password = Hash::import(legacy, 4).unwrap()).await;
    login(&server, "old", "Password").await.problem(401, "bad_credentials");
    assert_eq!(login(&server, "old", "password").await.status, 200);
    let stored = server.store.record(Table::People, "old").await.unwrap().unwrap();
    assert!(!stored.0.contains(legacy) && stored.0.contains("$2b$04$"));
    assert_eq!(login(&server, "old", "password").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn past_the_limit_nothing_is_looked_at() {
    let server = start(ServerOptions { rate_auth: 3, ..ServerOptions::default() }).await;
    edit(&server, "ana", |_| {}).await;
    for _ in 0..3 {
        login(&server, "ana", "wrong").await.problem(401, "bad_credentials");
    }
    let response = login(&server, "ana", PASSWORD).await;
    let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    response.problem(429, "rate_limited");
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_fails_is_locked_out_whether_it_exists_or_not() {
    let server = with_ana().await;
    for name in ["ana", "nobody"] {
        for _ in 0..5 {
            login(&server, name, "wrong").await.problem(401, "bad_credentials");
        }
        let response = login(&server, name, PASSWORD).await;
        let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((59..=60).contains(&wait), "{wait}");
        response.problem(429, "rate_limited");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_with_the_token_is_activity_and_a_page_s_is_not() {
    let server = with_ana().await;
    // Begun a while ago, as the record has it.
    let age = async |ms: u64| {
        let body = server.store.record(Table::People, "ana").await.unwrap().unwrap();
        let mut record: Value = serde_json::from_str(&body.0).unwrap();
        for session in record["sessions"].as_array_mut().unwrap() {
            session["active_ms"] = json!(now_ms() - ms);
        }
        let after = Some(store::record::Body(record.to_string()));
        let change = Change { table: Table::People, name: "ana".into(), before: Some(body), after, ttl_ms: None };
        assert_eq!(server.store.record_change(&change).await.unwrap(), Changed::Done);
    };
    let active = async || {
        let body = server.store.record(Table::People, "ana").await.unwrap().unwrap();
        let record: Value = serde_json::from_str(&body.0).unwrap();
        now_ms() - record["sessions"][0]["active_ms"].as_u64().unwrap()
    };
    let (access, _) = tokens(login(&server, "ana", PASSWORD).await);
    age(1_000_000).await;
    let cookie = format!("__Host-auditcast={access}");
    assert_eq!(server.send("GET", "/api/v1/alerts", &[("cookie", &cookie)], "").await.status, 200);
    assert!(active().await >= 1_000_000);
    assert!(sees(&server, &access).await);
    assert!(active().await < 20_000);
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_for_too_long_ends_the_session() {
    let times = people::Options { session_timeout: Duration::from_secs(2), ..support_http::people_options() };
    let server = start(ServerOptions { people: times, ..ServerOptions::default() }).await;
    edit(&server, "ana", |_| {}).await;
    let body = login(&server, "ana", PASSWORD).await.json(200);
    assert_eq!(body["expires_in"], 2, "an access token does not outlive the session");
    let mut refresh = body["refresh_token"].as_str().unwrap().to_owned();
    let begun = tokio::time::Instant::now();
    loop {
        let response = call(&server, "refresh", &[], json!({"refresh_token": refresh, "active": false})).await;
        if response.status == 401 {
            response.problem(401, "expired");
            break;
        }
        refresh = tokens(response).1;
        assert!(begun.elapsed() < Duration::from_secs(10), "renewed for ever");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(1900));
    server.stop().await;
}
