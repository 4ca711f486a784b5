//! An echo server on the daemon's own handshake, limits and framing, reading and writing, so that conformance suites for
//! WebSocket can be pointed at it: `cargo run --example echo -- 127.0.0.1:9001 --max-frame 16777216`.
//!
//! Text comes back as text, binary as binary; pings are answered, closes are answered, and what breaks the protocol or a limit
//! is closed with the code the daemon would close with.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use auditcast::session::{Incoming, Upgrade};
use axum::{body::Body, http::Request};
use hyper::{body::Incoming as IncomingBody, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_tungstenite::tungstenite::Message;

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
    let listener = TcpListener::bind(address).await?;
    println!("listening ws://{}", listener.local_addr()?);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await?;
        let (tcp, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, frame_bytes_max));
            let connection =
                hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(tcp), service);
            if let Err(error) = connection.with_upgrades().await {
                eprintln!("{error}");
            }
            drop(place);
        });
    }
}

async fn answer(request: Request<IncomingBody>, frame_bytes_max: usize) -> Result<axum::http::Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    let upgrade = match Upgrade::of(&mut request) {
        Ok(upgrade) => upgrade,
        Err(response) => return Ok(*response),
    };
    let (response, socket) = upgrade.accept(None, frame_bytes_max);
    tokio::spawn(async move {
        let Some(mut socket) = socket.await else { return };
        loop {
            let message = match socket.incoming().await {
                Incoming::Text(text) => Message::Text(text),
                Incoming::Binary(bytes) => Message::Binary(bytes),
                Incoming::Ping | Incoming::Pong => continue,
                Incoming::Close => return socket.drain().await,
                Incoming::End => return,
                Incoming::Fault(fault) => return socket.close(fault.0.code(), fault.0.reason()).await,
            };
            if !socket.send(message).await {
                return;
            }
        }
    });
    Ok(response)
}
