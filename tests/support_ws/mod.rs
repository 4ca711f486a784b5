//! A WebSocket client over a real socket, and the four ways that a token takes.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Socket = WebSocketStream<TcpStream>;

/// How a token comes to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Header,
    Subprotocol,
    Cookie,
    FirstFrame,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Header, Way::Subprotocol, Way::Cookie, Way::FirstFrame];
}

/// What came of it.
#[derive(Debug)]
pub enum Entered {
    /// `hello` has been read.
    In(Box<Socket>, Value),
    /// By HTTP: status and body.
    Refused(u16, String),
    /// By the frames before the close frame, its code and its reason.
    Closed(Vec<Value>, u16, String),
}

pub async fn enter(at: SocketAddr, path: &str, way: Way, token: &str) -> Entered {
    let mut request = format!("ws://{at}{path}").into_client_request().expect("a request");
    let (name, value) = match way {
        Way::Header => ("authorization", format!("Bearer {token}")),
        Way::Subprotocol => ("sec-websocket-protocol", format!("auditcast.v1, auditcast.token.{token}")),
        Way::Cookie => ("cookie", format!("__Host-auditcast={token}")),
        Way::FirstFrame => ("x-none", String::new()),
    };
    request.headers_mut().append(name, value.parse().expect("a value"));
    let tcp = TcpStream::connect(at).await.expect("a connection");
    let mut socket = match timeout(PATIENCE, client_async(request, tcp)).await.expect("an answer") {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
            return Entered::Refused(response.status().as_u16(), body);
        }
        Err(error) => panic!("{error}"),
    };
    if way == Way::FirstFrame && !token.is_empty() {
        say(&mut socket, json!({"type": "auth", "token": token})).await;
    }
    let mut before = Vec::new();
    loop {
        match message(&mut socket).await {
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                if frame["type"] == "hello" {
                    return Entered::In(Box::new(socket), frame);
                }
                before.push(frame);
            }
            Message::Close(Some(frame)) => return Entered::Closed(before, frame.code.into(), frame.reason.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

pub async fn message(socket: &mut Socket) -> Message {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("a message").expect("an open connection").expect("a message") {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}

pub async fn next(socket: &mut Socket) -> Value {
    match message(socket).await {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

/// The next frame of this type; those before it are skipped.
pub async fn next_of(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let frame = next(socket).await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

pub async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.expect("is sent");
}
