//! One client: WebSocket, Server-Sent Events (contract §5).
//!
//! A client is a `feed` (cursors and filters: what to send) and a way out, on which what the socket has not taken yet keeps its
//! place. News is written by the [`sweep`], which goes from client to client; a client's own task reads, and writes where the
//! socket was full. Nobody waits for anybody; a client's memory is bounded by a page of the log and one batch. Every task is in
//! [`Context::tasks`] and ends when the hub drains.
//!
//! | file | subject |
//! |---|---|
//! | `handshake`, `admission` | who comes in, and how a refusal is told |
//! | `client` | a WebSocket's own task: requests, answers, the end |
//! | `sweep` | who writes news, and the clocks of all clients |
//! | `standing` | who is in and should not be any more |
//! | `lane` | the way out to one client |
//! | `pipe` | the socket under it, with TLS or without |
//! | `batch` | what goes out in one write, made once for all who get the same |
//! | `feed`, `out` | what a client is to be sent |
//! | `socket`, `decode` | reading, waiting for room, closing |
//! | `sse` | the same feed as Server-Sent Events |
//! | `echo` | the handshake, `socket` and `decode` alone, for conformance suites |

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;

use crate::{
    auth::{
        Auth, Principal, Refusal,
        journal::{Entry, Limited},
    },
    hub::{Connection, Full, Hub, Places},
    metrics::{Metrics, unix_ms},
    store::Store,
    wire,
};

mod admission;
mod batch;
mod client;
mod decode;
mod echo;
mod feed;
mod handshake;
mod lane;
mod out;
mod pipe;
mod rate;
mod socket;
mod sse;
mod standing;
mod sweep;

pub use admission::{COOKIE, bearer, cookie};
pub use echo::echo;
pub use handshake::{Giver, Handover, websocket};
pub use sse::sse;
pub use standing::standing;
pub use sweep::sweep;

/// `[feed]`, `[limits]` as far as they are about one client.
#[derive(Clone, Debug)]
pub struct Options {
    /// Live events a second to one client; a burst above loses some, told by `gap`.
    pub events_rate: u32,
    pub ping_interval: Duration,
    /// 60 s of silence closes.
    pub idle_timeout: Duration,
    /// Time for the first frame to bring a token.
    pub auth_timeout: Duration,
    /// Longest frame from a client, bytes (16 KiB).
    pub frame_bytes_max: usize,
    pub connections_max: usize,
    pub connections_per_user_max: usize,
    pub connections_per_address_max: usize,
    /// A write that stands still for so long makes a client too slow (3008).
    pub write_timeout: Duration,
    /// At shutdown `retry_in_ms` is spread over this.
    pub drain_window: Duration,
    /// `CORS_ORIGINS` and `listen.external_url`: Origins that may connect beside the host itself.
    pub origins: Vec<String>,
}

impl Options {
    fn places(&self) -> Places {
        Places { all: self.connections_max, per_address: self.connections_per_address_max }
    }
}

/// What every client of this node shares.
pub struct Context {
    pub hub: Arc<Hub>,
    pub store: Store,
    pub auth: Auth,
    pub metrics: Arc<Metrics>,
    pub options: Options,
    /// This node's name, as `hello` says it.
    pub node: String,
    /// Every client's task: close it and wait for it after [`Hub::start_drain`].
    pub tasks: TaskTracker,
    sweep: sweep::Sweep,
    standing: standing::Standing,
    stretches: batch::Stretches,
    /// What a client gets that asks for nothing special.
    everything: Arc<wire::Subscription>,
}

impl Context {
    /// Counts and notes that a token was refused, or was not there.
    fn refused(&self, token: Option<&str>, refusal: &Refusal, address: IpAddr) {
        self.metrics.auth_failures.inc(refusal.kind.as_str());
        self.auth.note_refusal(token, refusal, Some(address), unix_ms());
    }

    /// Notes that there was no place.
    fn full(&self, full: Full, address: IpAddr) -> admission::Denied {
        if matches!(full, Full::Node | Full::Address) {
            self.auth.journal().note(Entry::rate_limited(Limited::Connections).from(address));
        }
        full.into()
    }

    /// A connection's name, as `hello` and `GET /connections` say it.
    fn name_of(&self, place: &Connection) -> String {
        format!("{}-{}", self.node, place.id())
    }

    /// Whoever makes one runs [`sweep`] and [`standing`] beside it.
    pub fn new(hub: Arc<Hub>, store: Store, auth: Auth, metrics: Arc<Metrics>, options: Options, node: String) -> Arc<Context> {
        Arc::new(Context {
            hub,
            store,
            auth,
            metrics,
            options,
            node,
            tasks: TaskTracker::new(),
            sweep: sweep::Sweep::new(),
            standing: standing::Standing::default(),
            stretches: batch::Stretches::default(),
            everything: Arc::default(),
        })
    }

    /// Why a connection has to end that has done nothing wrong: the drain, an admin's word, a revocation, its token's `exp`.
    fn over(&self, place: &Connection, expires_at: tokio::time::Instant, now: tokio::time::Instant) -> Option<wire::CloseCode> {
        if self.hub.draining().is_some() {
            return Some(wire::CloseCode::ShuttingDown);
        }
        if let Some(code) = place.ended() {
            return Some(code);
        }
        (now >= expires_at).then_some(wire::CloseCode::TokenExpired)
    }

    /// The first frame of a client's.
    fn hello(&self, place: &Connection, principal: &Principal) -> String {
        let options = &self.options;
        wire::hello(&wire::Hello {
            version: env!("CARGO_PKG_VERSION"),
            connection: self.name_of(place),
            node: self.node.clone(),
            time: wire::rfc3339(unix_ms()),
            user: principal.user_id.clone(),
            permissions: principal.permissions.clone(),
            expires_at: wire::rfc3339(principal.expires_at_ms),
            ping_interval_ms: u64::try_from(options.ping_interval.as_millis()).unwrap_or(u64::MAX),
            head: self.hub.head_pos().to_string(),
            limits: wire::HelloLimits {
                frame_bytes: options.frame_bytes_max,
                events_rate: options.events_rate,
                connections_per_user: options.connections_per_user_max,
            },
            reconnect: wire::Reconnect { min_ms: RECONNECT_MIN_MS, max_ms: RECONNECT_MAX_MS },
        })
    }
}

/// Advice for coming back: full jitter between the two.
const RECONNECT_MIN_MS: u64 = 500;
const RECONNECT_MAX_MS: u64 = 20_000;

/// When the client with this number should come back, so that all of them together come evenly over `window`.
fn retry_in_ms(connection: u64, window: Duration) -> u64 {
    // Multiples of the golden ratio fill the unit interval evenly, however many there are.
    let spread = (connection as f64 * 0.618_033_988_749_894_9).fract();
    let window = window.as_millis().min(3_600_000) as f64;
    RECONNECT_MIN_MS + (spread * window) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_back_evenly() {
        let mut times: Vec<u64> = (1..=200).map(|n| retry_in_ms(n, Duration::from_secs(10)) - RECONNECT_MIN_MS).collect();
        times.sort_unstable();
        for tenth in 0..10 {
            let count = times.iter().filter(|t| (tenth * 1000..(tenth + 1) * 1000).contains(*t)).count();
            assert!((15..=25).contains(&count), "{count} of 200 in second {tenth}");
        }
    }
}
