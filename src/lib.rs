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
//! A row imports only from rows above it; `tests/tidy.rs` holds that, and what the pure rooms must not contain.
//!
//! | room | subject |
//! |---|---|
//! | [`event`] | what happened: decode, mask, normal form, category, outcome, severity (pure) |
//! | [`filter`] | which ones: a typed language over the fields of events and alerts (pure) |
//! | [`detect`] | when it matters: arrival clock and slots, windows, metrics, thresholds, rules, alert life (pure) |
//! | [`wire`] | what clients see: frames, requests, close codes, positions, JSON of the API (pure) |
//! | [`metrics`] | every Prometheus series, by name, in one place; what `/readyz` says |
//! | [`store`] | where it lasts: audit logs, alert log, commit, lease, snapshots; Redis or embedded |
//! | [`auth`] | who may look: tokens, permissions, revocation; sign-in for people; the daemon's own audit trail |
//! | [`source`] | bridges in: keys, channel, file |
//! | [`hub`] | the tail of the alert log and the live events in memory; cursors on it; who is connected |
//! | [`monitor`] | the one loop that owns the detector: batches in, commits out; leading and following |
//! | [`session`] | one client: WebSocket, SSE |
//! | [`http`] | routers, listeners, the page |
//! | [`config`] | config.toml, environment, flags → each room's `Options` |
//! | [`server`] | the only wiring: bind → run → drain |
//! | [`cli`] | one file per command |
//!
//! # The life of an audit event
//!
//! 1. [`store::Reader`] has a batch of entries from every stream that is not waiting for another ([`monitor`]): an entry is a place in
//!    the bytes of one reply. In a backlog the next reply is on its way meanwhile.
//! 2. [`detect::Merge`] puts them into one order and says which slots are closed in between.
//! 3. [`event::Classifier`] makes an [`event::Event`] of each, borrowed, its details not taken apart before somebody asks; what cannot
//!    be read becomes a dead letter and is counted.
//! 4. [`detect::Detector`] takes it in and answers with transitions of alerts, mostly none.
//! 5. A [`store::Commit`] makes transitions, positions and the record of what was taken in true together, or not at all. Only now
//!    do the alerts exist.
//! 6. Every node's [`hub::Hub`] follows the alert log and makes the frame once, as bytes, with its position. Where the ring ends with
//!    the entry before, a node hands its hub what it has committed itself.
//! 7. A [`session`] is a cursor on the hub (below it: on the store) and a filter. What is there for it goes out in one write: of
//!    the sweep, which goes from client to client when there is news, or of the client's own task, when its socket was full.
//!
//! # One that leads, others that follow
//!
//! Any number of nodes run the same loop. The one with the lease leads; a commit with another fencing number than the lease's is
//! refused. A follower takes the same entries into the same slots, as the commit log says, and so does a restart: newest good
//! snapshot, then the commit log, silently, then lead or follow. Nothing at or below `done` is alerted again, nothing above it is
//! forgotten.
//!
//! # What does not happen
//!
//! - Nothing in [`event`], [`filter`], [`detect`] and [`wire`] waits, locks, logs, or asks for the time.
//! - Nobody but the monitor changes the detector; nobody but a commit makes an alert.
//! - No frame is sent that is not stored (live events, which say so, excepted).
//! - No client is waited for, by anyone but its own task: the sweep passes by who has no room. No queue has no end.
//! - No client has a timer, and none that is idle has a buffer.
//! - Nobody asks the store about each client again and again: it tells what is revoked ([`store::Watch`]), and one task of
//!   [`session`] ends whom that concerns.
//! - Nothing is written to a stream or key of the application (`emit` and the demo, which are asked to, excepted).
//! - Nothing here asks others by HTTP but [`auth`], for the public keys of who signs tokens: one GET, with limits, and no answer
//!   stops anything.
//! - Only `store/redis` knows the redis crate, only [`server`] starts tasks that outlive their caller.
//!
//! # In short
//!
//! ```
//! use std::sync::Arc;
//! use auditcast::{config::{Config, Sources}, detect::{Detector, Observed}, event::{Classifier, EntryId}};
//!
//! let config = Config::load(Sources::default()).expect("the defaults are good");
//! let mut classifier = Classifier::new(config.event.clone()).expect("so are their patterns");
//! let mut detector = Detector::new(Arc::new(config.detect.clone()));
//! let mut alerts = Vec::new();
//! for n in 1..=51 {
//!     let fields: [(&[u8], &[u8]); 2] = [(b"event_type", b"AUTH_FAILURE"), (b"user_id", b"42")];
//!     let (entry, time_ms) = (EntryId::new(1_700_000_000_000 + n, 0), 1_700_000_000_000 + n);
//!     let event = classifier.decode(&fields, time_ms, &jiff::tz::TimeZone::UTC).expect("it has an event_type");
//!     detector.observe(time_ms, &Observed { source: 0, stream: "audit:events", entry, event: &event }, &mut alerts);
//! }
//! detector.close(1_700_000_005_000, &mut alerts);
//! assert_eq!(alerts.len(), 1);
//! assert_eq!(alerts[0].message, "High failed login rate detected: 51 in last hour");
//! ```

pub mod auth;
pub mod cli;
pub mod config;
pub mod detect;
pub mod event;
pub mod filter;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod monitor;
pub mod server;
pub mod session;
pub mod source;
pub mod store;
pub mod wire;
