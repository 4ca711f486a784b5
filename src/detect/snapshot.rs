//! The state machine written down: a version, a line feed, JSON. What comes back goes on exactly as what went in.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Metrics, Options, SourceIx,
    alerts::Alerts,
    bits,
    contributors::SavedContributors,
    detector::{
        AUTH_SUCCESS_RATIO, Detector, ERROR_RATIO, EVENTS_BY_CATEGORY, EVENTS_BY_SEVERITY, Measure, OPERATION_P95_SECONDS,
    },
    rules::Saved,
    sessions::SavedSessions,
    tally::Tally,
    threshold::{Open, State as RuleState},
    window::SavedWindow,
};

/// Grows when an older daemon could not read what is written.
const VERSION: u32 = 2;
/// What is read; 1 had no rules.
const OLDEST: u32 = 1;

/// Why a snapshot cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Written by a newer version; the number it carries.
    Newer(u32),
    /// Not a snapshot, or not whole; what was found.
    Broken(String),
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Newer(version) => {
                write!(f, "the snapshot has format {version}, and this version reads formats up to {VERSION}")
            }
            SnapshotError::Broken(what) => write!(f, "the snapshot cannot be read: {what}"),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// Everything but the options, by name wherever the options give the order.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    slot: u64,
    /// What the numbers of sources mean.
    sources: Vec<String>,
    counts: BTreeMap<String, SavedMeasure>,
    measures: BTreeMap<String, SavedMeasure>,
    sessions: SavedSessions,
    /// Name → (metric, state).
    rules: BTreeMap<String, (String, RuleState)>,
    orphans: Vec<Open>,
    alerts: Alerts,
    tally: Tally,
    metrics: SavedMetrics,
    #[serde(default)]
    engine: Saved,
}

#[derive(Default, Serialize, Deserialize)]
struct SavedMeasure {
    window: SavedWindow,
    contributors: Option<SavedContributors>,
}

#[derive(Serialize, Deserialize)]
struct SavedMetrics {
    timestamp_ms: u64,
    scalars: BTreeMap<String, Scalar>,
    events_by_severity: BTreeMap<String, u64>,
    events_by_category: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Scalar(#[serde(with = "bits::float")] Option<f64>);

impl SavedMeasure {
    fn of(measure: &Measure) -> SavedMeasure {
        SavedMeasure {
            window: measure.window.save(),
            contributors: measure.contributors.as_ref().map(|contributors| contributors.save()),
        }
    }

    fn load(self, measure: &mut Measure, renumbered: &[Option<SourceIx>]) {
        measure.window.load(self.window);
        if let (Some(contributors), Some(saved)) = (&mut measure.contributors, self.contributors) {
            contributors.load(saved);
            contributors.renumber(renumbered);
        }
    }
}

impl Detector {
    /// The state, to be given to [`Detector::restore`]. Equal states give equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut data = format!("{VERSION}\n").into_bytes();
        // Writing JSON of our own types into memory cannot fail: every map key is a text.
        if serde_json::to_writer(&mut data, &self.state()).is_err() {
            data.clear();
        }
        data
    }

    /// A detector that goes on where [`Detector::snapshot`] was taken. With other options than then, what is unchanged by name
    /// keeps its state, as with [`Detector::set_options`].
    pub fn restore(options: Arc<Options>, data: &[u8]) -> Result<Detector, SnapshotError> {
        let broken = |what: &str| SnapshotError::Broken(what.to_owned());
        let at = data.iter().take(12).position(|b| *b == b'\n').ok_or_else(|| broken("no version"))?;
        let version = data.get(..at).and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse::<u32>().ok());
        match version {
            Some(OLDEST..=VERSION) => {}
            Some(version) if version > VERSION => return Err(SnapshotError::Newer(version)),
            _ => return Err(broken("no version")),
        }
        let state: State =
            serde_json::from_slice(data.get(at + 1..).unwrap_or_default()).map_err(|e| SnapshotError::Broken(e.to_string()))?;
        Ok(Detector::from_state(options, state))
    }

    pub(super) fn state(&self) -> State {
        let m = &self.measures;
        let fixed = [
            (AUTH_SUCCESS_RATIO, &m.logins),
            (ERROR_RATIO, &m.outcomes),
            (OPERATION_P95_SECONDS, &m.durations),
            (EVENTS_BY_SEVERITY, &m.severities),
            (EVENTS_BY_CATEGORY, &m.categories),
        ];
        State {
            slot: self.last_slot,
            sources: self.options.sources.clone(),
            counts: self
                .options
                .counts
                .iter()
                .zip(&m.counts)
                .map(|(count, measure)| (count.name.clone(), SavedMeasure::of(measure)))
                .collect(),
            measures: fixed.into_iter().map(|(name, measure)| (name.to_owned(), SavedMeasure::of(measure))).collect(),
            sessions: self.sessions.save(),
            rules: self
                .rules
                .iter()
                .map(|r| (r.definition.name.clone(), (r.definition.metric.clone(), r.state.clone())))
                .collect(),
            orphans: self.orphans.clone(),
            alerts: self.alerts.clone(),
            tally: self.tally.clone(),
            metrics: SavedMetrics {
                timestamp_ms: self.metrics.timestamp_ms,
                scalars: self.metrics.scalars.iter().map(|(name, v)| (name.clone(), Scalar(Some(*v)))).collect(),
                events_by_severity: self.metrics.events_by_severity.clone(),
                events_by_category: self.metrics.events_by_category.clone(),
            },
            engine: self.engine.save(),
        }
    }

    pub(super) fn from_state(options: Arc<Options>, mut state: State) -> Detector {
        let mut d = Detector::new(options.clone());
        d.last_slot = state.slot;
        let renumbered: Vec<Option<SourceIx>> = state
            .sources
            .iter()
            .map(|name| options.sources.iter().position(|s| s == name).and_then(|at| SourceIx::try_from(at).ok()))
            .collect();
        for (count, measure) in options.counts.iter().zip(&mut d.measures.counts) {
            state.counts.remove(&count.name).unwrap_or_default().load(measure, &renumbered);
        }
        let m = &mut d.measures;
        for (name, measure) in [
            (AUTH_SUCCESS_RATIO, &mut m.logins),
            (ERROR_RATIO, &mut m.outcomes),
            (OPERATION_P95_SECONDS, &mut m.durations),
            (EVENTS_BY_SEVERITY, &mut m.severities),
            (EVENTS_BY_CATEGORY, &mut m.categories),
        ] {
            state.measures.remove(name).unwrap_or_default().load(measure, &renumbered);
        }
        d.sessions.load(state.sessions);
        d.orphans = state.orphans;
        for rule in &mut d.rules {
            if let Some((metric, saved)) = state.rules.remove(&rule.definition.name) {
                match saved {
                    // The same name over another metric is another rule.
                    RuleState::Firing { open, .. } if metric != rule.definition.metric => d.orphans.push(*open),
                    saved if metric == rule.definition.metric => rule.state = saved,
                    _ => {}
                }
            }
        }
        d.orphans.extend(state.rules.into_values().filter_map(|(_, rule)| match rule {
            RuleState::Firing { open, .. } => Some(*open),
            _ => None,
        }));
        let (slot, interval_ms) = (d.next_slot(), options.interval_ms.max(1));
        d.orphans.extend(d.engine.load(state.engine, &renumbered, slot, interval_ms));
        d.alerts = state.alerts;
        d.alerts.repair();
        d.tally = state.tally;
        d.tally.configure(&options.sources);
        d.metrics = Metrics {
            timestamp_ms: state.metrics.timestamp_ms,
            scalars: state.metrics.scalars.into_iter().filter_map(|(name, v)| Some((name, v.0?))).collect(),
            events_by_severity: state.metrics.events_by_severity,
            events_by_category: state.metrics.events_by_category,
        };
        d
    }
}
