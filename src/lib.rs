//! auditcast reads security audit streams, computes the documented metrics and thresholds, and pushes alerts to
//! authenticated admin clients, Prometheus and on-call tooling.
//!
//! # The idea
//!
//! Audit entries come from ordered logs. Alerts go into an ordered log. Between the two sits a pure state machine
//! ([`detect`]): no clock, no I/O, no runtime; time is a parameter. Whatever leaves the house (a frame, a page, a
//! metric) is read from a log by a cursor. Nothing is ever pushed out of a queue that could be lost.
//!
//! # The rooms
//!
//! A row imports only from rows above it; `tests/tidy.rs` holds that.
//!
//! | room | subject |
//! |---|---|
//! | [`event`] | what happened: decode, normal form, category, outcome, severity (pure) |
//! | [`detect`] | when it matters: clock and slots, windows, metrics, thresholds, alert life (pure) |
//! | [`wire`] | what clients see: frames, requests, close codes, JSON of the API (pure) |
//! | [`metrics`] | every Prometheus series, by name, in one place |
//! | [`store`] | where it lasts: audit logs, alert log, commit, lease, snapshots; Redis or embedded |
//! | [`auth`] | who may look: tokens, permissions, revocation |
//! | [`source`] | bridges in: keys, channel, file |
//! | [`hub`] | the tail of the alert log and the live events in memory; cursors on it |
//! | [`monitor`] | the one loop that owns the detector: batches in, commits out |
//! | [`session`] | one client: WebSocket, SSE |
//! | [`http`] | routers, listeners, the page |
//! | [`config`] | config.toml, environment, flags → each room's `Options` |
//! | [`server`] | the only wiring: bind → run → drain |
//! | [`cli`] | one file per command |

pub mod auth;
pub mod cli;
pub mod config;
pub mod detect;
pub mod event;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod monitor;
pub mod server;
pub mod session;
pub mod source;
pub mod store;
pub mod wire;
