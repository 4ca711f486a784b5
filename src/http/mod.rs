//! Routers, listeners, the page.

use std::time::Duration;

/// `[listen]` and what the edge needs.
#[derive(Clone, Debug)]
pub struct Options {
    pub external_url: Option<String>,
    /// `CORS_ORIGINS`.
    pub cors_origins: Vec<String>,
    /// `SECURITY_HEADERS_ENABLED`.
    pub security_headers: bool,
    /// Longest request head wait.
    pub header_timeout: Duration,
    /// Longest body of `POST /api/v1/events`, bytes (1 MiB).
    pub body_bytes_max: usize,
    /// Sockets accepted at once on a listener.
    pub sockets_max: usize,
    /// `RATE_LIMIT_GENERAL` requests per `RATE_LIMIT_WINDOW` and client.
    pub rate_general: u32,
    pub rate_window: Duration,
}
