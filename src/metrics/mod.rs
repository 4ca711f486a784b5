//! Every Prometheus series, by name, in one place (contract §8).
//!
//! Two kinds. What follows from the streams is part of the detector's state ([`detect::Totals`]) and is rendered from the last
//! state that was [applied](Metrics::apply): absolute, so it is equal on every node and survives restarts. What happens at this
//! node (clients, commits, connections) is counted here, in the fields of [`Metrics`].
//!
//! Every labelled child is made at the start, so that it is there at 0, counting is one atomic addition, and no label value
//! can come from outside.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    process_collector::ProcessCollector,
};

use crate::{detect, event::Severity};

mod delivery;
mod health;
mod memory;
mod stream;

pub use delivery::{Arrivals, Delays, Delivery};
pub use health::{Check, Health, unix_ms};
pub use memory::resident_bytes;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How frames leave.
pub const TRANSPORTS: &[&str] = &["websocket", "sse", "http"];

/// Why a connection was not taken. The last one stands for whatever is not listed.
pub const REJECTIONS: &[&str] = &[
    "origin",
    "bad_request",
    "unauthorized",
    "forbidden",
    "too_many_connections",
    "too_many_per_user",
    "too_many_per_address",
    "rate_limited",
    "draining",
    "memory",
    "unavailable",
    "sockets",
    "other",
];

/// Close codes of our own (`wire::CloseCode`); what clients and networks make up is `other`.
pub const CLOSE_CODES: &[&str] = &[
    "1002", "1003", "1007", "1009", "1013", "3001", "3005", "3008", "3012", "3013", "3500", "3501", "3502", "3503", "3504",
    "3507", "other",
];

/// Why a token was refused: `auth::RefusalKind::as_str`; `sign_in`: a wrong user name, password or code.
pub const AUTH_FAILURES: &[&str] =
    &["missing", "invalid", "expired", "blacklisted", "forbidden", "unavailable", "sign_in", "other"];

/// What became of auditcast's own audit events: `auth::journal::Counts`.
pub const JOURNALLED: &[&str] = &["written", "merged", "summarised", "dropped"];

const PROCESSING_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const COMMIT_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Counters of one label with known values; what is not known counts as the last one.
pub struct Labelled {
    names: &'static [&'static str],
    children: Vec<IntCounter>,
}

impl Labelled {
    fn new(vec: &IntCounterVec, names: &'static [&'static str]) -> Labelled {
        Labelled { names, children: names.iter().map(|name| vec.with_label_values(&[*name])).collect() }
    }

    pub fn inc(&self, name: &str) {
        self.add(name, 1);
    }

    pub fn add(&self, name: &str, n: u64) {
        let at = self.names.iter().position(|known| *known == name).unwrap_or(self.names.len().saturating_sub(1));
        if let Some(child) = self.children.get(at) {
            child.inc_by(n);
        }
    }

    /// Brings a count that is kept elsewhere, and only grows, up to `total`. From one task only.
    pub fn set(&self, name: &str, total: u64) {
        self.add(name, total.saturating_sub(self.get(name)));
    }

    /// The count of a known label value, for tests and for what is told elsewhere.
    pub fn get(&self, name: &str) -> u64 {
        self.names.iter().position(|known| *known == name).and_then(|at| self.children.get(at)).map_or(0, IntCounter::get)
    }
}

/// The clients of the feed that are connected, by transport. Sockets of the API come and go and are none.
pub struct Connections {
    pub websocket: IntGauge,
    pub sse: IntGauge,
}

/// The series of this node, and the last state of the streams.
pub struct Metrics {
    registry: Registry,
    /// What `/readyz` says; `auditcast_ready` and `auditcast_store_up` follow it.
    pub health: Arc<Health>,
    state: Mutex<stream::State>,
    source_lag: GaugeVec,
    config_info: IntGaugeVec,
    ready: IntGauge,
    store_up: IntGauge,
    store_reconnects: IntCounter,

    /// `auditcast_replayed_entries_total`: entries read again after a start or a takeover.
    pub replayed_entries: IntCounter,
    /// `auditcast_event_processing_seconds`: arrival to commit.
    pub event_processing: Histogram,
    /// `auditcast_slots_late_total`: slots closed more than an interval after their end.
    pub slots_late: IntCounter,
    /// `auditcast_commit_seconds`.
    pub commit: Histogram,
    /// `auditcast_active`: 1 on the active node.
    pub active: IntGauge,
    /// `auditcast_connections{transport}`.
    pub connections: Connections,
    /// `auditcast_connections_rejected_total{reason}`, of [`REJECTIONS`].
    pub connections_rejected: Labelled,
    /// `auditcast_disconnects_total{code}`, of [`CLOSE_CODES`]; use [`Metrics::disconnected`].
    pub disconnects: Labelled,
    /// `auditcast_frames_sent_total{transport}`, of [`TRANSPORTS`]; `http` counts frames in answers of the API.
    pub frames_sent: Labelled,
    /// `auditcast_auth_failures_total{reason}`, of [`AUTH_FAILURES`].
    pub auth_failures: Labelled,
    /// `auditcast_journal_events_total{status}`, of [`JOURNALLED`].
    pub journal: Labelled,
    /// `auditcast_alert_delivery_seconds`: arrival to socket, replays left out.
    pub alert_delivery: Delivery,
    /// `auditcast_config_last_reload_successful`; 1 from the start.
    pub config_reload_ok: Gauge,
}

impl Metrics {
    /// All series, at 0. `sources` are the configured names, `rules` the thresholds with their severities; what is built in
    /// (`event`, `audit_gap`, `audit_clock`) is added.
    pub fn new(
        sources: &[String],
        rules: &[(String, Severity)],
        version: &str,
        revision: &str,
        config_hash: &str,
    ) -> Arc<Metrics> {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        let build_info = make.gauges("auditcast_build_info", "Version and revision of this binary.", &["version", "revision"]);
        build_info.with_label_values(&[version, revision]).set(1);
        let config_info = make.gauges("auditcast_config_info", "Fingerprint of the configuration in force.", &["hash"]);
        config_info.with_label_values(&[config_hash]).set(1);
        let config_reload_ok =
            Gauge::new("auditcast_config_last_reload_successful", "Whether the last reading of the configuration was taken.")
                .expect("the name is ours");
        make.register(&config_reload_ok);
        config_reload_ok.set(1.0);
        let source_lag = GaugeVec::new(
            Opts::new("auditcast_source_lag_entries", "Entries of a source that are not read yet; absent while unknown."),
            &["source"],
        )
        .expect("the name is ours");
        make.register(&source_lag);
        make.register_process();

        let connections = make.gauges("auditcast_connections", "Clients of the feed that are connected.", &["transport"]);
        let connections = Connections {
            websocket: connections.with_label_values(&["websocket"]),
            sse: connections.with_label_values(&["sse"]),
        };
        Arc::new(Metrics {
            health: Arc::new(Health::new()),
            state: Mutex::new(stream::State::new(sources, rules)),
            source_lag,
            config_info,
            ready: make.gauge("auditcast_ready", "Whether every check of /readyz holds."),
            store_up: make.gauge("auditcast_store_up", "Whether the store answers."),
            store_reconnects: make
                .counter("auditcast_store_reconnects_total", "Connections to the store that were lost and made anew."),
            replayed_entries: make
                .counter("auditcast_replayed_entries_total", "Entries read again after a start or a takeover, without effect."),
            event_processing: make.histogram(
                "auditcast_event_processing_seconds",
                "Time from an entry's arrival to the commit that has its effects.",
                PROCESSING_BUCKETS,
            ),
            slots_late: make
                .counter("auditcast_slots_late_total", "Slots that were closed more than an interval after their end."),
            commit: make.histogram("auditcast_commit_seconds", "Time the store takes for a commit.", COMMIT_BUCKETS),
            active: make.gauge("auditcast_active", "Whether this node detects."),
            connections,
            connections_rejected: make.labelled(
                "auditcast_connections_rejected_total",
                "Connections that were not taken.",
                "reason",
                REJECTIONS,
            ),
            disconnects: make.labelled(
                "auditcast_disconnects_total",
                "Connections that ended, by close code.",
                "code",
                CLOSE_CODES,
            ),
            frames_sent: make.labelled("auditcast_frames_sent_total", "Frames sent to clients.", "transport", TRANSPORTS),
            auth_failures: make.labelled(
                "auditcast_auth_failures_total",
                "Tokens and sign-ins that were refused.",
                "reason",
                AUTH_FAILURES,
            ),
            journal: make.labelled(
                "auditcast_journal_events_total",
                "What happened at this node and was noted for auditcast's own audit trail.",
                "status",
                JOURNALLED,
            ),
            alert_delivery: make.delivery(
                "auditcast_alert_delivery_seconds",
                "Time from an entry's arrival to its alert's way into a client's socket, replays left out.",
            ),
            config_reload_ok,
            registry,
        })
    }

    /// Shows the state at a slot's end: counters and gauges of the streams are set to it, not increased by it.
    pub fn apply(&self, totals: &detect::Totals, metrics: &detect::Metrics) {
        self.state().apply(totals.clone(), metrics.clone());
    }

    /// Entries of a source that wait to be read; `None` where that is not known.
    pub fn set_source_lag(&self, source: &str, entries: Option<u64>) {
        if !self.state().has_source(source) {
            return;
        }
        match entries {
            Some(entries) => self.source_lag.with_label_values(&[source]).set(entries as f64),
            None => drop(self.source_lag.remove_label_values(&[source])),
        }
    }

    /// `Store::reconnects`, which only grows.
    pub fn set_store_reconnects(&self, total: u64) {
        let _one_at_a_time = self.state();
        self.store_reconnects.inc_by(total.saturating_sub(self.store_reconnects.get()));
    }

    /// After a reload: the series of new rules appear at 0, those of gone ones stay as long as they have counts.
    pub fn set_config(&self, rules: &[(String, Severity)], hash: &str) {
        self.state().set_rules(rules);
        self.config_info.reset();
        self.config_info.with_label_values(&[hash]).set(1);
    }

    /// Counts a connection's end; codes that are not ours are `other`.
    pub fn disconnected(&self, code: u16) {
        self.disconnects.inc(&code.to_string());
    }

    /// The text format 0.0.4.
    pub fn render(&self) -> String {
        self.ready.set(i64::from(self.health.ready(&[]).ready));
        self.store_up.set(i64::from(self.health.is_ok("store")));
        let mut families = self.registry.gather();
        families.extend(self.state().families());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = String::with_capacity(32 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(%error, "could not render the metrics");
        }
        text
    }

    fn state(&self) -> MutexGuard<'_, stream::State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes and registers; a failure means that a name stands twice in this file.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, collector: &C) {
        self.registry.register(Box::new(collector.clone())).expect("every name stands once");
    }

    fn register_process(&self) {
        self.registry.register(Box::new(ProcessCollector::for_self())).expect("every name stands once");
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("the name is ours");
        self.register(&counter);
        counter
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("the name is ours");
        self.register(&gauge);
        gauge
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect("the name is ours");
        self.register(&gauges);
        gauges
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("the name is ours");
        self.register(&histogram);
        histogram
    }

    fn delivery(&self, name: &str, help: &str) -> Delivery {
        let delivery = Delivery::new(name, help);
        self.register(&delivery);
        delivery
    }

    fn labelled(&self, name: &str, help: &str, label: &str, values: &'static [&'static str]) -> Labelled {
        let vec = IntCounterVec::new(Opts::new(name, help), &[label]).expect("the name is ours");
        self.register(&vec);
        Labelled::new(&vec, values)
    }
}

/// Names of series that are not scalars of the streams: an own metric of one of these names would stand twice.
pub fn is_reserved(metric: &str) -> bool {
    let name = format!("auditcast_{metric}");
    stream::FAMILIES.contains(&name.as_str()) || NODE_FAMILIES.contains(&name.as_str())
}

/// The series of a node, for [`is_reserved`]; a test holds that none is missing.
const NODE_FAMILIES: &[&str] = &[
    "auditcast_active",
    "auditcast_alert_delivery_seconds",
    "auditcast_auth_failures_total",
    "auditcast_build_info",
    "auditcast_commit_seconds",
    "auditcast_config_info",
    "auditcast_config_last_reload_successful",
    "auditcast_connections",
    "auditcast_connections_rejected_total",
    "auditcast_disconnects_total",
    "auditcast_event_processing_seconds",
    "auditcast_frames_sent_total",
    "auditcast_journal_events_total",
    "auditcast_ready",
    "auditcast_replayed_entries_total",
    "auditcast_slots_late_total",
    "auditcast_source_lag_entries",
    "auditcast_store_reconnects_total",
    "auditcast_store_up",
];

/// Label sets of the streams' series, by name.
type Counts = BTreeMap<Vec<String>, f64>;

#[cfg(test)]
mod tests;
