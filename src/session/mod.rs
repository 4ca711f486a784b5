//! One client: WebSocket, Server-Sent Events (contract §5).

use std::time::Duration;

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
    /// A write that stands still for so long makes a client too slow (3008).
    pub write_timeout: Duration,
    /// At shutdown `retry_in_ms` is spread over this.
    pub drain_window: Duration,
    /// `CORS_ORIGINS` and `listen.external_url`: Origins that may connect beside the host itself.
    pub origins: Vec<String>,
}
