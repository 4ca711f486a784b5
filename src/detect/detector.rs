//! The state machine: entries and slot ends in, transitions of alerts out.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde_json::{Map, json};

use super::{
    Alert, Gap, Kind, Metrics, Options, SourceIx, Totals,
    alerts::{AUDIT_CLOCK, AUDIT_GAP, AUDIT_LIMIT, Alerts, Limits, Origin},
    contributors::Contributors,
    durations,
    rules::Engine,
    sessions::{Sessions, Sign},
    tally::Tally,
    threshold::{Open, Reading, Rule, State},
    window::Window,
};
use crate::event::{Category, EntryId, Event, Lists, Outcome, Severity};

/// Where no window is configured (contract §4).
const WINDOW_MS_DEFAULT: u64 = 3_600_000;

pub(super) const ACTIVE_SESSIONS: &str = "active_sessions";
pub(super) const AUTH_SUCCESS_RATIO: &str = "auth_success_ratio";
pub(super) const ERROR_RATIO: &str = "error_ratio";
pub(super) const OPERATION_P95_SECONDS: &str = "operation_p95_seconds";
pub(super) const EVENTS_BY_SEVERITY: &str = "events_by_severity";
pub(super) const EVENTS_BY_CATEGORY: &str = "events_by_category";

/// Lanes of the ratios: what the ratio is about, and the rest.
const BAD: usize = 0;
const GOOD: usize = 1;

/// One entry on its way in.
pub struct Observed<'a> {
    pub source: SourceIx,
    /// The stream's key.
    pub stream: &'a str,
    pub entry: EntryId,
    pub event: &'a Event<'a>,
}

/// A window, and who stands behind it where a threshold wants to name them.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    pub window: Window,
    pub contributors: Option<Contributors>,
}

impl Measure {
    fn new(window_ms: u64, lanes: usize, traced: bool, entities_max: usize) -> Measure {
        Measure {
            window: Window::new(window_ms, lanes),
            contributors: traced.then(|| Contributors::new(window_ms, entities_max)),
        }
    }

    fn expire(&mut self, t: u64) {
        self.window.expire(t);
        if let Some(contributors) = &mut self.contributors {
            contributors.expire(t);
        }
    }

    fn is_empty(&self) -> bool {
        self.window.is_empty() && self.contributors.as_ref().is_none_or(Contributors::is_empty)
    }

    fn reading(&self, value: Option<f64>, events: u64) -> Reading<'_> {
        Reading { value, events, window_ms: Some(self.window.window_ms()), contributors: self.contributors.as_ref() }
    }
}

/// All windows.
#[derive(Clone, Debug)]
pub(super) struct Measures {
    /// In the order of [`Options::counts`].
    pub counts: Vec<Measure>,
    pub logins: Measure,
    pub outcomes: Measure,
    pub durations: Measure,
    pub severities: Measure,
    pub categories: Measure,
}

impl Measures {
    fn new(options: &Options) -> Measures {
        let traced = |name: &str| options.thresholds.iter().any(|t| t.enabled && t.metric == name);
        let own = |name: &str, lanes: usize| {
            let window_ms = options.windows_ms.get(name).copied().unwrap_or(WINDOW_MS_DEFAULT);
            Measure::new(window_ms, lanes, traced(name), options.entities_max)
        };
        Measures {
            counts: options.counts.iter().map(|c| Measure::new(c.window_ms, 1, traced(&c.name), options.entities_max)).collect(),
            logins: own(AUTH_SUCCESS_RATIO, 2),
            outcomes: own(ERROR_RATIO, 2),
            durations: own(OPERATION_P95_SECONDS, durations::LANES),
            severities: own(EVENTS_BY_SEVERITY, Severity::ALL.len()),
            categories: own(EVENTS_BY_CATEGORY, Category::ALL.len()),
        }
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Measure> {
        let fixed = [&mut self.logins, &mut self.outcomes, &mut self.durations, &mut self.severities, &mut self.categories];
        self.counts.iter_mut().chain(fixed)
    }

    fn all(&self) -> impl Iterator<Item = &Measure> {
        let fixed = [&self.logins, &self.outcomes, &self.durations, &self.severities, &self.categories];
        self.counts.iter().chain(fixed)
    }
}

/// Windows, sessions, thresholds and open alerts, and nothing that could not be written down: see [`Detector::snapshot`].
///
/// The caller orders the entries ([`super::Merge`]) and closes each slot before it gives an entry of a later one. What is given
/// out are transitions in their final order; the caller stores them before it tells anyone.
#[derive(Clone, Debug)]
pub struct Detector {
    pub(super) options: Arc<Options>,
    /// End of the last closed slot, Unix ms; 0 before the first entry or slot.
    pub(super) last_slot: u64,
    pub(super) measures: Measures,
    /// By bit of [`Lists`], which of [`Options::counts`] count it.
    by_list: Vec<Vec<usize>>,
    pub(super) sessions: Sessions,
    /// By name.
    pub(super) rules: Vec<Rule>,
    /// Open alerts of rules that are gone; they end with the next slot.
    pub(super) orphans: Vec<Open>,
    pub(super) alerts: Alerts,
    pub(super) engine: Engine,
    pub(super) tally: Tally,
    pub(super) metrics: Metrics,
}

impl Detector {
    /// A detector that has seen nothing.
    pub fn new(options: Arc<Options>) -> Detector {
        let mut rules: Vec<Rule> = options
            .thresholds
            .iter()
            .filter(|t| t.enabled)
            .map(|t| Rule { definition: t.clone(), state: State::default() })
            .collect();
        rules.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        rules.dedup_by(|later, first| later.definition.name == first.definition.name);
        Detector {
            last_slot: 0,
            measures: Measures::new(&options),
            by_list: by_list(&options),
            sessions: Sessions::new(options.interval_ms, options.session_timeout_ms, options.sessions_max),
            rules,
            orphans: Vec::new(),
            alerts: Alerts::default(),
            engine: Engine::new(&options),
            tally: Tally::new(&options.sources),
            metrics: Metrics::default(),
            options,
        }
    }

    fn interval(&self) -> u64 {
        self.options.interval_ms.max(1)
    }

    fn limits(&self) -> Limits {
        Limits { suppress_ms: self.options.suppress_ms, entities_max: self.options.entities_max }
    }

    /// End of the last closed slot, Unix ms; 0 before the first entry or slot.
    pub fn last_slot(&self) -> u64 {
        self.last_slot
    }

    /// End of the open slot: the next multiple of the interval since the epoch.
    pub fn next_slot(&self) -> u64 {
        (self.last_slot / self.interval()).saturating_add(1).saturating_mul(self.interval())
    }

    /// The time an entry counts at. The first entry ever decides where slots begin.
    fn clamp(&mut self, time_ms: u64) -> u64 {
        if self.last_slot == 0 {
            self.last_slot = time_ms.saturating_sub(1) / self.interval() * self.interval();
        }
        time_ms.max(self.last_slot.saturating_add(1))
    }

    /// Takes in one entry. `time_ms` is its time in the open slot: above the last closed slot's end, not above the open one's.
    pub fn observe(&mut self, time_ms: u64, o: &Observed<'_>, out: &mut Vec<Alert>) {
        let time = self.clamp(time_ms);
        let slot = self.next_slot();
        let event = o.event;
        let lists = event.lists();
        let duration_ms = event.duration_ms();
        self.tally.event(o.source, o.entry.ms.min(time), event, duration_ms);

        let address = event.ip_address();
        let user = event.user_id.as_deref().or(event.username.as_deref());
        let mut overflow = 0;
        let mut trace = |contributors: &mut Option<Contributors>| {
            if let Some(contributors) = contributors {
                overflow += contributors.add(time, slot, (o.source, o.entry), user, address.as_deref());
            }
        };
        let m = &mut self.measures;
        for list in lists.bits() {
            for at in self.by_list.get(list as usize).into_iter().flatten() {
                if let Some(measure) = m.counts.get_mut(*at) {
                    measure.window.add(time, slot, 0, 1);
                    trace(&mut measure.contributors);
                }
            }
        }
        if lists.has(Lists::FAILED_LOGIN) {
            m.logins.window.add(time, slot, BAD, 1);
            trace(&mut m.logins.contributors);
        }
        if lists.has(Lists::SUCCESSFUL_LOGIN) {
            m.logins.window.add(time, slot, GOOD, 1);
        }
        if event.outcome.is_bad() {
            m.outcomes.window.add(time, slot, BAD, 1);
            trace(&mut m.outcomes.contributors);
        } else {
            m.outcomes.window.add(time, slot, GOOD, 1);
        }
        if let Some(lane) = duration_ms.and_then(durations::lane) {
            m.durations.window.add(time, slot, lane, 1);
            trace(&mut m.durations.contributors);
        }
        m.severities.window.add(time, slot, event.severity as usize, 1);
        m.categories.window.add(time, slot, event.kind.category as usize, 1);

        if let Some(session) = event.session_id()
            && !self.sessions.observe(time, &session, sign(event, lists))
        {
            self.tally.sessions_overflow += 1;
        }
        if event.severity >= self.options.alert_events_at {
            let told = out.len();
            let origin = Origin { source: o.source, sources: &self.options.sources, stream: o.stream, entry: o.entry };
            let limits = self.limits();
            overflow += self.alerts.event(time, &origin, event, limits, out);
            self.tell(told, out);
        }
        self.tally.entities_overflow = self.tally.entities_overflow.saturating_add(overflow);
        let told = out.len();
        self.engine.observe(time, slot, &self.options, o, lists, out);
        self.tell(told, out);
    }

    /// Counts an entry that could not be read.
    pub fn invalid(&mut self, source: SourceIx, reason: &'static str) {
        self.tally.invalid(source, reason);
    }

    /// Raises `audit_gap`. While one about the same stream and reason is open, another hole counts in it (`details.count`,
    /// `missed`, `to` when it resolves) if it comes within a minute. All but `unreadable` resolve `event_alert_ttl` after the first.
    pub fn gap(&mut self, time_ms: u64, gap: &Gap, out: &mut Vec<Alert>) {
        let time = self.clamp(time_ms);
        self.tally.gap(gap.source, gap.reason);
        let told = out.len();
        let source = self.source_name(gap.source);
        let (slot, limits) = (self.next_slot(), self.limits());
        self.tally.entities_overflow += self.alerts.gap(time, slot, &source, gap, limits, out);
        self.tell(told, out);
    }

    /// The stream can be read again: resolves its `audit_gap` of reason `unreadable`, if there is one.
    pub fn readable(&mut self, time_ms: u64, _source: SourceIx, stream: &str, out: &mut Vec<Alert>) {
        let time = self.clamp(time_ms);
        let told = out.len();
        self.alerts.readable(time, stream, out);
        self.tell(told, out);
    }

    /// Streams whose `audit_gap` of reason `unreadable` is open.
    pub fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.alerts.unreadable()
    }

    /// Raises `audit_clock` for an id that is `ahead_ms` ahead of the store's clock, once per source and hour. The entry itself
    /// is given to [`Detector::observe`] beside.
    pub fn future_id(
        &mut self,
        time_ms: u64,
        source: SourceIx,
        stream: &str,
        entry: EntryId,
        ahead_ms: u64,
        out: &mut Vec<Alert>,
    ) {
        let time = self.clamp(time_ms);
        let told = out.len();
        let slot = self.next_slot();
        let origin = Origin { source, sources: &self.options.sources, stream, entry };
        self.alerts.clock(time, slot, &origin, ahead_ms, out);
        self.tell(told, out);
    }

    /// Closes every slot up to `slot_end`, one by one as long as anything can change. What one slot gives out is ordered by
    /// the rule's name.
    pub fn close(&mut self, slot_end: u64, out: &mut Vec<Alert>) {
        if self.last_slot == 0 {
            // Nothing was ever seen, so there is nothing to close before this one.
            self.last_slot = (slot_end / self.interval()).saturating_sub(1).saturating_mul(self.interval());
        }
        while self.next_slot() <= slot_end {
            if self.quiescent_after() {
                self.skip_to(slot_end);
                return;
            }
            self.close_one(self.next_slot(), out);
        }
    }

    fn close_one(&mut self, slot_end: u64, out: &mut Vec<Alert>) {
        let told = out.len();
        self.measures.all_mut().for_each(|m| m.expire(slot_end));
        self.sessions.expire(slot_end);
        let limits = self.limits();
        self.tally.entities_overflow += self.alerts.close(slot_end, self.options.event_alert_ttl_ms, limits, out);
        for orphan in self.orphans.drain(..) {
            out.push(orphan.resolved(slot_end, None, None, None));
        }
        for rule in &mut self.rules {
            let reading = reading(&self.options, &self.measures, &self.sessions, &rule.definition.metric);
            out.extend(rule.close(slot_end, &reading, &self.options.sources));
        }
        self.engine.close(slot_end, &self.options, out);
        let mut lost = Map::new();
        for (rule, n) in self.engine.take_lost() {
            self.tally.entities_overflow = self.tally.entities_overflow.saturating_add(n.evicted + n.refused);
            lost.insert(rule.to_owned(), json!({ "evicted": n.evicted, "refused": n.refused, "untold": n.untold }));
        }
        if !lost.is_empty() {
            self.alerts.limit(slot_end, lost, out);
        }
        if let Some(new) = out.get_mut(told..) {
            new.sort_by(|a, b| a.rule.cmp(&b.rule));
        }
        self.tell(told, out);
        self.last_slot = slot_end;
        self.tally.slots_closed += 1;
        self.metrics = self.measure(slot_end);
    }

    /// Whether closing slots would change nothing but the time: all windows empty, no sessions, no alert open, pending or held.
    pub fn quiescent_after(&self) -> bool {
        self.measures.all().all(Measure::is_empty)
            && self.sessions.is_empty()
            && self.alerts.is_idle()
            && self.orphans.is_empty()
            && self.engine.is_quiet()
            // A rule that nothing at all crosses (`below`) has not been looked at since the options were new.
            && self.rules.iter().all(|rule| {
                let reading = reading(&self.options, &self.measures, &self.sessions, &rule.definition.metric);
                rule.state == State::Inactive && !rule.crossed(&reading)
            })
    }

    /// Closes every slot up to `slot_end` at once. Does nothing unless [`Detector::quiescent_after`].
    pub fn skip_to(&mut self, slot_end: u64) {
        let interval = self.interval();
        let to = slot_end / interval * interval;
        if !self.quiescent_after() || to <= self.last_slot {
            return;
        }
        if self.last_slot != 0 {
            self.tally.slots_closed += (to - self.last_slot).div_ceil(interval);
        }
        // What is kept for nothing goes; quiet as it is, nothing comes of it.
        self.engine.close(to, &self.options, &mut Vec::new());
        self.last_slot = to;
        self.metrics = self.measure(to);
    }

    /// The values at the end of the last closed slot.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The counters, whole; what the configuration names is there from the start.
    pub fn totals(&self) -> Totals {
        let rules = self.rules.iter().filter_map(|rule| match &rule.state {
            State::Firing { open, .. } => Some((rule.definition.name.as_str(), open.severity(), 1)),
            _ => None,
        });
        let orphans = self.orphans.iter().map(|open| (open.rule(), open.severity(), 1));
        self.tally.totals(&self.options, rules.chain(orphans).chain(self.alerts.active()).chain(self.engine.active()))
    }

    /// Takes the store's open alerts for the open ones. A threshold that fires here and not there was resolved by hand: it is
    /// held until its value has cleared. One that fires there and not here goes on firing; one whose rule is gone ends with
    /// the next slot.
    pub fn adopt_open(&mut self, open: Vec<Alert>) {
        self.adopt(open, State::Held, false);
    }

    /// The same, where entries were taken in under other options than those that decided then: a threshold that fires here and
    /// not there was never told of, and is looked at anew at the next slot's end.
    pub fn adopt_open_anew(&mut self, open: Vec<Alert>) {
        self.adopt(open, State::Inactive, true);
    }

    fn adopt(&mut self, open: Vec<Alert>, not_stored: State, anew: bool) {
        let (thresholds, others): (Vec<Alert>, Vec<Alert>) = open.into_iter().partition(|a| a.kind == Kind::Threshold);
        let own =
            |alert: &Alert| alert.kind == Kind::Event || [AUDIT_GAP, AUDIT_CLOCK, AUDIT_LIMIT].contains(&alert.rule.as_str());
        let (others, of_rules): (Vec<Alert>, Vec<Alert>) = others.into_iter().partition(own);
        self.alerts.adopt(others);
        self.orphans.clear();
        let (known, gone): (Vec<Alert>, Vec<Alert>) = of_rules.into_iter().partition(|alert| self.engine.has(&alert.rule));
        self.orphans.extend(gone.into_iter().map(Open::new));
        let (slot, interval_ms) = (self.next_slot(), self.interval());
        self.engine.adopt(known, anew, slot, interval_ms);
        let mut stored: BTreeMap<String, Alert> = BTreeMap::new();
        for alert in thresholds {
            if let Some(older) = stored.insert(alert.rule.clone(), alert) {
                self.orphans.push(Open::new(older));
            }
        }
        for rule in &mut self.rules {
            rule.state = match (std::mem::take(&mut rule.state), stored.remove(&rule.definition.name)) {
                (State::Firing { open, clear_since_ms }, Some(alert)) if open.id() == alert.alert_id => {
                    State::Firing { open, clear_since_ms }
                }
                (_, Some(alert)) => State::Firing { open: Box::new(Open::new(alert)), clear_since_ms: None },
                (State::Firing { .. }, None) => not_stored.clone(),
                (state, None) => state,
            };
        }
        self.orphans.extend(stored.into_values().map(Open::new));
    }

    /// Takes new options. What is unchanged by name keeps its state; windows of another length keep what they can; the open
    /// alert of a threshold that is gone or switched off ends with the next slot.
    pub fn set_options(&mut self, options: Arc<Options>) {
        let state = self.state();
        *self = Detector::from_state(options, state);
    }

    /// Resolves an open alert for somebody who says so; `false` if it is not open. A threshold fires again only after its value
    /// has cleared.
    pub fn resolve_by_hand(&mut self, alert_id: &str, time_ms: u64, out: &mut Vec<Alert>) -> bool {
        let time = self.clamp(time_ms);
        let told = out.len();
        let (options, measures, sessions) = (&self.options, &self.measures, &self.sessions);
        let alert = self.rules.iter_mut().find_map(|rule| {
            let reading = reading(options, measures, sessions, &rule.definition.metric);
            rule.resolve_by_hand(alert_id, time, &reading)
        });
        let alert = alert.or_else(|| self.engine.resolve_by_hand(alert_id, time));
        let alert = alert.or_else(|| self.alerts.resolve_by_hand(alert_id, time)).or_else(|| {
            let at = self.orphans.iter().position(|open| open.id() == alert_id)?;
            Some(self.orphans.swap_remove(at).resolved(time, None, None, None))
        });
        out.extend(alert);
        self.tell(told, out);
        out.len() > told
    }

    fn source_name(&self, source: SourceIx) -> Cow<'static, str> {
        self.options.sources.get(usize::from(source)).map_or(Cow::Borrowed("unknown"), |name| Cow::Owned(name.clone()))
    }

    /// Counts the transitions that were just given out.
    fn tell(&mut self, told: usize, out: &[Alert]) {
        out.iter().skip(told).for_each(|alert| self.tally.alert(alert));
    }

    fn measure(&self, slot_end: u64) -> Metrics {
        let own = [ACTIVE_SESSIONS, AUTH_SUCCESS_RATIO, ERROR_RATIO, OPERATION_P95_SECONDS];
        let names = own.into_iter().chain(self.options.counts.iter().map(|c| c.name.as_str()));
        let value = |name| reading(&self.options, &self.measures, &self.sessions, name).value;
        let m = &self.measures;
        Metrics {
            timestamp_ms: slot_end,
            scalars: names.filter_map(|name| Some((name.to_owned(), value(name)?))).collect(),
            events_by_severity: Severity::ALL
                .iter()
                .map(|s| (s.as_str().to_owned(), m.severities.window.lane(*s as usize)))
                .collect(),
            events_by_category: Category::ALL
                .iter()
                .map(|c| (c.as_str().to_owned(), m.categories.window.lane(*c as usize)))
                .collect(),
        }
    }
}

fn by_list(options: &Options) -> Vec<Vec<usize>> {
    let mut counts = vec![Vec::new(); u64::BITS as usize];
    for (at, count) in options.counts.iter().enumerate() {
        if let Some(counts) = counts.get_mut(count.list as usize) {
            counts.push(at);
        }
    }
    counts
}

/// A scalar of §4 by its name; absent if there is none of that name.
fn reading<'a>(options: &Options, m: &'a Measures, sessions: &Sessions, metric: &str) -> Reading<'a> {
    let ratio = |measure: &'a Measure, lane: usize| {
        let all = measure.window.sum();
        measure.reading((all > 0).then(|| measure.window.lane(lane) as f64 / all as f64), all)
    };
    if let Some(at) = options.counts.iter().position(|c| c.name == metric)
        && let Some(measure) = m.counts.get(at)
    {
        let n = measure.window.lane(0);
        return measure.reading(Some(n as f64), n);
    }
    match metric {
        ACTIVE_SESSIONS => {
            let n = sessions.active() as u64;
            Reading { value: Some(n as f64), events: n, window_ms: None, contributors: None }
        }
        AUTH_SUCCESS_RATIO => ratio(&m.logins, GOOD),
        ERROR_RATIO => ratio(&m.outcomes, BAD),
        OPERATION_P95_SECONDS => {
            let (lanes, n) = (m.durations.window.lanes(), m.durations.window.sum());
            m.durations.reading(durations::p95_seconds(lanes, n), n)
        }
        _ => Reading { value: None, events: 0, window_ms: None, contributors: None },
    }
}

/// What an event says of its session. A logout that failed ended nothing.
fn sign(event: &Event<'_>, lists: Lists) -> Sign {
    let failed = event.outcome == Outcome::Failure;
    if lists.has(Lists::SESSION_TIMEOUT) || (lists.has(Lists::SESSION_END) && !failed) {
        Sign::End
    } else if failed {
        Sign::Failed
    } else {
        Sign::Life
    }
}
