//! What is proved: a token's `filter` claim narrows what its bearer sees, everywhere and whatever is asked for: the log and the state
//! by HTTP, one alert, metrics, WebSocket and Server-Sent Events with live, replayed and firing alerts and with live events. A
//! client's own filter narrows further and never widens; a refreshed token's filter holds from the next frame on.

mod support_http;
mod support_ws;

use std::{sync::Arc, time::Duration};

use auditcast::{
    auth::Claims,
    event::Severity,
    store::{Commit, CommitRecord, NewEntry},
    wire::Sight,
};
use serde_json::{Value, json};
use support_http::{Server, ServerOptions, now_ms, start};
use support_ws::{Entered, Socket, Way, enter, next, next_of, say};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

fn token(server: &Server, filter: Option<Value>) -> String {
    let claims = Claims {
        user_id: "7".into(),
        permissions: vec!["audit.view".into()],
        sight: filter.map(|claim| Sight::from_claim(&claim).unwrap()),
        ttl: Duration::from_secs(3600),
        now_ms: now_ms(),
        ..Claims::default()
    };
    server.auth.issue(&claims).unwrap()
}

/// id, type, severity: all firing.
const ALERTS: [(&str, &str, &str); 4] = [
    ("a1", "auth.failed", "high"),
    ("b2", "data.export", "high"),
    ("c3", "auth.failed", "low"),
    ("d4", "high_failed_login_rate", "critical"),
];

async fn raise(server: &Server, slot: u64, alerts: &[(&str, &str, &str)], frame_type: &str) {
    let lease = server.store.lease("test", 0).await.unwrap();
    let entry = |(id, event_type, severity): &(&str, &str, &str)| {
        NewEntry {
        alert_id: (*id).into(),
        body: match frame_type {
            "security_alert" => json!({
                "type": frame_type, "alert_id": id, "event_type": event_type, "severity": severity, "kind": "event", "status": "firing"
            }),
            _ => json!({"type": frame_type, "alert_id": id, "by": "ana", "comment": "mine"}),
        }
        .to_string(),
        firing: frame_type == "security_alert",
        first: frame_type == "security_alert",
    }
    };
    let commit = Commit {
        fence: lease.fence,
        record: CommitRecord { slot, time: slot, ..CommitRecord::default() },
        entries: alerts.iter().map(entry).collect(),
        dead_letters: vec![],
    };
    server.store.commit(&commit).await.unwrap();
}

fn ids(body: &Value) -> Vec<String> {
    body["alerts"].as_array().unwrap().iter().map(|frame| frame["alert_id"].as_str().unwrap().to_owned()).collect()
}

async fn socket(server: &Server, path: &str, token: &str) -> Socket {
    match enter(server.public, path, Way::Header, token).await {
        Entered::In(socket, _) => *socket,
        other => panic!("{other:?}"),
    }
}

/// Ids of the alerts that come before the one called `last`, which everybody sees.
async fn before(socket: &mut Socket, last: &str) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let frame = next(socket).await;
        match frame["type"].as_str().unwrap() {
            "security_alert" if frame["alert_id"] == last => return ids,
            "security_alert" | "alert_acknowledged" => {
                ids.push(format!(
                    "{}{}",
                    &frame["alert_id"].as_str().unwrap(),
                    if frame["by"].is_string() { " ack" } else { "" }
                ));
            }
            "subscribed" | "position" | "source_status" => {}
            other => panic!("{other}: {frame}"),
        }
    }
}

/// Of an alert that is not in the log any more.
const ACKNOWLEDGED: (&str, &str, &str) = ("k5", "", "");

fn sees_all(claim: &Option<Value>) -> bool {
    claim.as_ref().is_none_or(|claim| *claim == json!({}))
}

/// Whom each claim shows what of [`ALERTS`].
fn claims() -> Vec<(Option<Value>, Vec<&'static str>)> {
    vec![
        (None, vec!["a1", "b2", "c3", "d4"]),
        (Some(json!({})), vec!["a1", "b2", "c3", "d4"]),
        (Some(json!({"min_severity": "high"})), vec!["a1", "b2", "d4"]),
        (Some(json!({"types": ["auth.*", "high_*"]})), vec!["a1", "c3", "d4"]),
        (Some(json!({"min_severity": "high", "types": ["auth.*"]})), vec!["a1"]),
        (Some(json!({"min_severity": "critical", "types": ["auth.*"]})), vec![]),
    ]
}

#[tokio::test]
async fn the_log_the_state_and_one_alert() {
    let server = start(ServerOptions::default()).await;
    raise(&server, 5000, &ALERTS, "security_alert").await;
    raise(&server, 10_000, &[ACKNOWLEDGED], "alert_acknowledged").await;
    for (claim, shown) in claims() {
        let bearer = token(&server, claim.clone());
        let get = async |path: &str| server.get(path, &bearer).await;
        let mut log = ids(&get("/api/v1/alerts").await.json(200));
        if sees_all(&claim) {
            assert_eq!(log.pop().as_deref(), Some(ACKNOWLEDGED.0));
        }
        assert_eq!(log, shown, "{claim:?}");
        assert_eq!(ids(&get("/api/v1/alerts?status=firing").await.json(200)).len(), shown.len(), "{claim:?}");
        let mut newest = ids(&get("/api/v1/alerts?order=desc&filter=severity+%3C+critical").await.json(200));
        newest.retain(|id| id != ACKNOWLEDGED.0);
        assert!(newest.iter().all(|id| id != "d4" && shown.contains(&id.as_str())), "{claim:?} {newest:?}");
        let one_by_one = get("/api/v1/alerts?limit=1").await.json(200);
        assert_eq!(ids(&one_by_one), shown.iter().take(1).map(ToString::to_string).collect::<Vec<_>>(), "{claim:?}");
        for (id, ..) in ALERTS {
            let answer = get(&format!("/api/v1/alerts/{id}")).await;
            if shown.contains(&id) {
                answer.json(200);
            } else {
                // Word for word what is said of one that is not there.
                let hidden = answer.problem(404, "unknown_alert");
                let unknown = get("/api/v1/alerts/zz").await.problem(404, "unknown_alert");
                assert_eq!(hidden["detail"].as_str().unwrap().replace(id, "zz"), unknown["detail"], "{claim:?}");
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_of_everything() {
    let server = start(ServerOptions::default()).await;
    let metrics = auditcast::detect::Metrics { timestamp_ms: 5000, ..Default::default() };
    server.hub.push_metrics(metrics, true);
    let (all, part) = (token(&server, None), token(&server, Some(json!({"min_severity": "high"}))));
    assert!(!server.get("/api/v1/metrics/current", &all).await.json(200)["metrics"].as_object().unwrap().is_empty());
    assert_eq!(server.get("/api/v1/metrics/current", &part).await.json(200)["metrics"], json!({}));
    assert_eq!(server.get("/api/v1/metrics/history?since=1h", &part).await.json(200)["snapshots"], json!([]));
    let mut sockets = [socket(&server, "/ws?metrics=true", &all).await, socket(&server, "/ws?metrics=true", &part).await];
    for socket in &mut sockets {
        next_of(socket, "subscribed").await;
    }
    let metrics = auditcast::detect::Metrics { timestamp_ms: 10_000, ..Default::default() };
    server.hub.push_metrics(metrics, true);
    next_of(&mut sockets[0], "security_metrics").await;
    raise(&server, 5000, &ALERTS[..1], "security_alert").await;
    assert_eq!(next(&mut sockets[1]).await["alert_id"], "a1", "and nothing before it");
    server.stop().await;
}

#[tokio::test]
async fn the_feed_live_replayed_and_firing() {
    let server = start(ServerOptions::default()).await;
    let claims = || claims().into_iter().filter(|(_, shown)| !shown.is_empty());
    let mut live = Vec::new();
    for (claim, shown) in claims() {
        live.push((socket(&server, "/ws?events=low", &token(&server, claim.clone())).await, claim, shown));
    }
    for (socket, ..) in &mut live {
        next_of(socket, "subscribed").await;
    }
    raise(&server, 5000, &ALERTS, "security_alert").await;
    raise(&server, 10_000, &[ACKNOWLEDGED], "alert_acknowledged").await;
    raise(&server, 15_000, &[("z9", "auth.last", "critical")], "security_alert").await;
    let of_the_log = |claim: &Option<Value>, shown: &[&str]| -> Vec<String> {
        let ack = sees_all(claim).then_some("k5 ack");
        shown.iter().copied().chain(ack).map(str::to_owned).collect()
    };
    for (socket, claim, shown) in &mut live {
        assert_eq!(before(socket, "z9").await, of_the_log(claim, shown), "{claim:?}");
    }
    // Live events of the same connections.
    for (event_type, severity) in
        [("auth.x", Severity::High), ("data.x", Severity::High), ("auth.y", Severity::Low), ("auth.last", Severity::Critical)]
    {
        let frame = json!({"type": "security_event", "event_type": event_type, "severity": severity.as_str()});
        let event_type: Arc<str> = event_type.into();
        server.hub.push_event(severity, &event_type, frame.to_string());
    }
    for (socket, claim, _) in &mut live {
        let sight = claim.as_ref().map(|claim| Sight::from_claim(claim).unwrap());
        let mut seen = Vec::new();
        loop {
            let frame = next_of(socket, "security_event").await;
            if frame["event_type"] == "auth.last" {
                break;
            }
            seen.push(frame["event_type"].as_str().unwrap().to_owned());
        }
        let shown = |severity, name: &&str| sight.as_ref().is_none_or(|sight| sight.shows(severity, name));
        let wanted: Vec<&str> = [(Severity::High, "auth.x"), (Severity::High, "data.x"), (Severity::Low, "auth.y")]
            .into_iter()
            .filter(|(severity, name)| shown(*severity, name))
            .map(|(_, name)| name)
            .collect();
        assert_eq!(seen, wanted, "{claim:?}");
    }
    // Replayed and firing; and a filter of the client's own narrows further, whatever it says.
    for (claim, shown) in claims() {
        let bearer = token(&server, claim.clone());
        for own in ["", "&min_severity=low", "&types=*"] {
            let mut replayed = socket(&server, &format!("/ws?after=earliest{own}"), &bearer).await;
            assert_eq!(before(&mut replayed, "z9").await, of_the_log(&claim, &shown), "{claim:?} {own}");
            let mut firing = socket(&server, &format!("/ws?active=true{own}"), &bearer).await;
            assert_eq!(before(&mut firing, "z9").await, shown, "{claim:?} {own}");
        }
        let mut narrow = socket(&server, "/ws?active=true&types=data.*,auth.last", &bearer).await;
        let wanted: Vec<&str> = shown.into_iter().filter(|id| *id == "b2").collect();
        assert_eq!(before(&mut narrow, "z9").await, wanted, "{claim:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn server_sent_events() {
    let server = start(ServerOptions::default()).await;
    raise(&server, 5000, &ALERTS, "security_alert").await;
    let bearer = token(&server, Some(json!({"types": ["high_*"]})));
    let mut tcp = TcpStream::connect(server.public).await.unwrap();
    let request = format!("GET /api/v1/stream?after=earliest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\"d4\"") {
        let n = timeout(support_ws::PATIENCE, tcp.read(&mut buffer)).await.expect("more").unwrap();
        assert!(n > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(["a1", "b2", "c3"].iter().all(|id| !text.contains(&format!("\"{id}\""))), "{text}");
    drop(tcp);
    server.stop().await;
}

#[tokio::test]
async fn a_refreshed_token_brings_its_own_filter() {
    let server = start(ServerOptions::default()).await;
    let (all, part) = (token(&server, None), token(&server, Some(json!({"types": ["data.*", "*.last"]}))));
    let mut socket = socket(&server, "/ws?min_severity=high", &all).await;
    next_of(&mut socket, "subscribed").await;
    let refresh = |token: &str| json!({"type": "refresh", "id": 1, "token": token});
    let of = |round: usize, alerts: &[(&str, &'static str, &'static str)]| -> Vec<(String, &'static str, &'static str)> {
        alerts.iter().map(|(id, event_type, severity)| (format!("{id}{round}"), *event_type, *severity)).collect()
    };
    for (round, (token, wanted)) in
        [(&part, vec!["b2"]), (&all, vec!["a1", "b2", "d4"]), (&part, vec!["b2"])].into_iter().enumerate()
    {
        say(&mut socket, refresh(token)).await;
        next_of(&mut socket, "ok").await;
        let alerts = of(round, &[&ALERTS[..], &[("z9", "x.last", "high")]].concat());
        let alerts: Vec<_> = alerts.iter().map(|(id, event_type, severity)| (id.as_str(), *event_type, *severity)).collect();
        raise(&server, 5000 * (round as u64 + 1), &alerts, "security_alert").await;
        let wanted: Vec<String> = wanted.iter().map(|id| format!("{id}{round}")).collect();
        assert_eq!(before(&mut socket, &format!("z9{round}")).await, wanted, "round {round}");
    }
    // One that cannot be read changes nothing.
    let claims = json!({"sub": "7", "permissions": ["audit.view"], "exp": now_ms() / 1000 + 600, "filter": "severity >= high"});
    let key = jsonwebtoken::EncodingKey::from_secret(b"a secret of more than thirty-two bytes, for tests");
    let unreadable = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    say(&mut socket, refresh(&unreadable)).await;
    let refused = next_of(&mut socket, "error").await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    raise(&server, 50_000, &ALERTS, "security_alert").await;
    assert_eq!(next_of(&mut socket, "security_alert").await["alert_id"], "b2");
    for way in Way::ALL {
        match enter(server.public, "/ws", way, &unreadable).await {
            Entered::Refused(403, body) if way == Way::Header => assert!(body.contains("`filter`"), "{body}"),
            Entered::Closed(before, 3507, _) if way != Way::Header => {
                assert!(before[0]["message"].as_str().unwrap().contains("`filter`"))
            }
            other => panic!("{way:?}: {other:?}"),
        }
    }
    drop(socket);
    server.stop().await;
}
