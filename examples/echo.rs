//! An echo server on the daemon's own accept loop, handshake, limits and framing, reading and writing, so that conformance suites
//! for WebSocket can be pointed at it: `cargo run --example echo -- 127.0.0.1:9001 --max-frame 16777216`. Every path echoes.
//!
//! Text comes back as text, binary as binary; pings are answered, closes are answered, and what breaks the protocol or a limit
//! is closed with the code the daemon would close with.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use auditcast::{
    auth::{self, Auth, Secret},
    http::{self, Peer},
    hub::{self, Hub},
    metrics::Metrics,
    session::{self, Context},
    store::{self, Store},
};
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The daemon's own limit for frames of a client.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Connections at once.
const CONNECTIONS_MAX: usize = 256;

fn usage() -> String {
    "usage: echo [ADDRESS:PORT] [--max-frame BYTES]".to_owned()
}

fn arguments() -> Result<(SocketAddr, usize), String> {
    let mut address = SocketAddr::from(([127, 0, 0, 1], 9001));
    let mut frame_bytes_max = FRAME_BYTES_MAX;
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--max-frame" => {
                let bytes = rest.next().ok_or_else(usage)?;
                frame_bytes_max = bytes.parse().map_err(|_| format!("`--max-frame` is a number of bytes, not `{bytes}`"))?;
            }
            text => address = text.parse().map_err(|_| usage())?,
        }
    }
    Ok((address, frame_bytes_max))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, frame_bytes_max) = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            std::process::exit(2);
        }
    };
    let dir = tempfile::tempdir()?;
    let ctx = context(dir.path(), frame_bytes_max).await?;
    let metrics = ctx.metrics.clone();
    let edge = http::Edge {
        header_timeout: Duration::from_secs(10),
        sockets_max: CONNECTIONS_MAX,
        sockets_per_address_max: CONNECTIONS_MAX,
        proxies: http::Proxies::default(),
        tls: None,
    };
    let listener = TcpListener::bind(address).await?;
    println!("listening ws://{}", listener.local_addr()?);
    let router = Router::new().fallback(echo).with_state(ctx);
    let stop = CancellationToken::new();
    tokio::select! {
        () = http::serve(listener, router, edge, metrics, stop, TaskTracker::new()) => {}
        // The directory goes, too.
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

async fn echo(State(ctx): State<Arc<Context>>, request: Request) -> Response {
    match request.extensions().get::<Peer>().copied() {
        Some(Peer(peer)) => session::echo(ctx, request, peer).await.into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// What clients of the feed share. Of all this an echo needs the limits: it asks no store and reads no log.
async fn context(dir: &std::path::Path, frame_bytes_max: usize) -> Result<Arc<Context>, Box<dyn std::error::Error>> {
    let store = Store::open(store::Options {
        target: store::Target::Embedded(dir.to_owned()),
        prefix: "{auditcast}".into(),
        lease_ttl: Duration::from_secs(5),
        alerts_retention: Duration::from_secs(3600),
        alerts_max: 1,
        dead_letters_max: 1,
        commits_max: 1,
        intake_max: 1,
    })
    .await?;
    let auth =
        auth::Options { leeway: Duration::ZERO, ..auth::Options::new(Secret(b"nobody signs in at an echo server".to_vec())) };
    let options = session::Options {
        events_rate: 1,
        ping_interval: Duration::from_secs(25),
        idle_timeout: Duration::from_secs(60),
        auth_timeout: Duration::from_secs(5),
        frame_bytes_max,
        connections_max: CONNECTIONS_MAX,
        connections_per_user_max: CONNECTIONS_MAX,
        connections_per_address_max: CONNECTIONS_MAX,
        write_timeout: Duration::from_secs(60),
        drain_window: Duration::from_secs(1),
        origins: vec![],
    };
    let hub = Hub::new(hub::Options { ring: 1, events_ring: 1 });
    let metrics = Metrics::new(&[], &[], env!("CARGO_PKG_VERSION"), "echo", "0");
    Ok(Context::new(hub, store.clone(), Auth::new(auth, store), metrics, options, "echo".into()))
}
