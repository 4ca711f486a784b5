//! A WebSocket that says what it hears: for conformance suites, and nothing a client of the feed gets to. The handshake, the
//! limits, reading and writing are the feed's own.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    http::{Request, Response},
};
use tokio::time::timeout;

use super::{
    Context,
    decode::Incoming,
    handshake::{Upgrade, refuse},
    socket::Socket,
};
use crate::{
    hub::{Frame, Transport},
    metrics::unix_ms,
};

/// Answers a handshake; from then on, as a task of [`Context::tasks`], text comes back as text and binary as binary. Pings and
/// closes are answered, and what breaks the protocol or [`Options::frame_bytes_max`](super::Options) is closed with the code a
/// client of the feed would be closed with. Nobody is asked for a token. Who takes nothing for `write_timeout` is let go.
pub async fn echo(ctx: Arc<Context>, mut request: Request<Body>, peer: SocketAddr) -> Response<Body> {
    let upgrade = match Upgrade::of(&mut request) {
        Ok(upgrade) => upgrade,
        Err(response) => return *response,
    };
    let place = match ctx.hub.reserve(Transport::WebSocket, peer.ip(), unix_ms(), ctx.options.places()) {
        Ok(place) => place,
        Err(full) => return refuse(&ctx, &full.into()),
    };
    let (response, connection) = upgrade.accept(None);
    let tasks = ctx.tasks.clone();
    tasks.spawn(async move {
        if let Some(connected) = connection.await {
            converse(Socket::take(connected, ctx, place)).await;
        }
    });
    response
}

async fn converse(mut socket: Socket) {
    let patience = socket.link.ctx.options.write_timeout;
    loop {
        if timeout(patience, socket.flush()).await != Ok(true) {
            return;
        }
        match socket.incoming().await {
            Incoming::Text(text) => socket.link.lane().own().extend_from_slice(Frame::new(&text).bytes()),
            Incoming::Binary(bytes) => socket.link.lane().own().extend_from_slice(&Frame::binary(&bytes)),
            // What answers them waits already.
            Incoming::Ping | Incoming::Pong => {}
            Incoming::Close => return socket.drain().await,
            Incoming::End => return,
            Incoming::Fault(code) => {
                socket.close(code.code(), code.reason());
                if timeout(patience, socket.flush()).await == Ok(true) {
                    socket.drain().await;
                }
                return;
            }
        }
    }
}
