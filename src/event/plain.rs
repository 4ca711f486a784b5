//! Entries as nearly all are: everything borrowed, their JSON looked at and not made into anything.
//!
//! What is odd in any way (not UTF-8, an envelope inside a field, escapes in names, texts where objects should be, JSON that
//! [`Scan`] does not read) is left to [`super::decode`], which reads all there is. What is read here is understood just the same.

use super::{
    Outcome,
    details::{Details, Rest, Source},
    mask::{Fate, MASK, Mask},
    scan::{Raw, Scan, Shape},
};

/// Members that an event's outcome or detection hangs on, at one level.
#[derive(Clone, Copy, Default)]
struct Telling<'a> {
    ip_address: Raw<'a>,
    user_agent: Raw<'a>,
    resource: Raw<'a>,
    reason: Raw<'a>,
    session_id: Raw<'a>,
    duration_ms: Raw<'a>,
    outcome: Raw<'a>,
    result: Raw<'a>,
    status: Raw<'a>,
    success: Raw<'a>,
}

impl<'a> Telling<'a> {
    /// Of two members of one name the last counts, also if it is `null`.
    #[inline]
    fn take(&mut self, name: &str, raw: Raw<'a>) {
        let place = match name {
            "ip_address" => &mut self.ip_address,
            "user_agent" => &mut self.user_agent,
            "resource" => &mut self.resource,
            "reason" => &mut self.reason,
            "session_id" => &mut self.session_id,
            "duration_ms" => &mut self.duration_ms,
            "outcome" => &mut self.outcome,
            "result" => &mut self.result,
            "status" => &mut self.status,
            "success" => &mut self.success,
            _ => return,
        };
        *place = raw;
    }
}

/// The top level of an entry, and what tells in its details.
#[derive(Default)]
pub(super) struct Plain<'a> {
    pub event_type: &'a str,
    pub timestamp: Raw<'a>,
    pub user_id: Raw<'a>,
    pub username: Raw<'a>,
    pub event_id: Raw<'a>,
    pub message: Raw<'a>,
    pub severity: Raw<'a>,
    top: Telling<'a>,
    inner: Telling<'a>,
    source: Source<'a>,
    /// A name is masked or dropped.
    pub marked: bool,
}

impl<'a> Plain<'a> {
    /// Reads flat fields; `None` where there is more to it.
    pub fn flat(&mut self, fields: &[(&'a [u8], &'a [u8])], mask: &Mask) -> Option<()> {
        let mut event_type = None;
        let mut details = "";
        let mut rest = Rest::default();
        for &(name, value) in fields {
            let value = std::str::from_utf8(value).ok()?;
            let place = match name {
                b"event_type" => {
                    event_type = Some(value);
                    continue;
                }
                b"details" => {
                    details = value;
                    continue;
                }
                b"timestamp" => &mut self.timestamp,
                b"user_id" => &mut self.user_id,
                b"username" => &mut self.username,
                b"event_id" => &mut self.event_id,
                b"message" => &mut self.message,
                b"severity" => &mut self.severity,
                _ => {
                    let name = std::str::from_utf8(name).ok()?;
                    rest.push(name, value);
                    let raw = self.field(name, value, mask)?;
                    self.top.take(name, raw);
                    continue;
                }
            };
            *place = Raw::text(value);
        }
        self.event_type = event_type?;
        if details.starts_with('{') || !matches!(details.trim(), "" | "null") {
            let mut scan = Scan::new(details, mask);
            self.look_inside(&mut scan)?;
            if !scan.at_end() {
                return None;
            }
            self.marked |= scan.marked;
        }
        self.source = Source::Flat { details, rest };
        Some(())
    }

    /// An unknown field: a text, or members where it holds JSON.
    fn field(&mut self, name: &str, value: &'a str, mask: &Mask) -> Option<Raw<'a>> {
        if matches!(name, "data" | "payload") && matches!(value.trim_start().bytes().next(), Some(b'{' | 0xEF)) {
            return None;
        }
        self.marked |= mask.fate(name) != Fate::Keep;
        match value.bytes().next() {
            Some(b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n') => {}
            _ => return Some(Raw::text(value)),
        }
        if !value.trim_start_matches([' ', '\t', '\r', '\n']).starts_with(['{', '[']) {
            return Some(Raw::text(value));
        }
        let mut scan = Scan::new(value, mask);
        let raw = scan.value()?;
        self.marked |= scan.marked;
        scan.at_end().then_some(raw)
    }

    /// Reads an envelope; `None` where there is more to it, or it cannot be read.
    pub fn envelope(&mut self, text: &'a str, mask: &Mask) -> Option<()> {
        let mut event_type = Raw::default();
        let mut has_details = false;
        let mut scan = Scan::new(text, mask);
        let mut more = scan.open()?;
        while more {
            let name = scan.name()?;
            if name == "details" && scan.at_object() && !has_details {
                self.look_inside(&mut scan)?;
                has_details = true;
                more = scan.more()?;
                continue;
            }
            let value = scan.value()?;
            let place = match name {
                "details" => {
                    if has_details || !value.is_absent() {
                        return None;
                    }
                    more = scan.more()?;
                    continue;
                }
                "event_type" => &mut event_type,
                "timestamp" => &mut self.timestamp,
                "user_id" => &mut self.user_id,
                "username" => &mut self.username,
                "event_id" => &mut self.event_id,
                "message" => &mut self.message,
                "severity" => &mut self.severity,
                _ => {
                    scan.mark(name);
                    self.top.take(name, value);
                    more = scan.more()?;
                    continue;
                }
            };
            *place = value;
            more = scan.more()?;
        }
        if !scan.at_end() || event_type.shape != Shape::Text {
            return None;
        }
        for place in [self.timestamp, self.user_id, self.username, self.event_id, self.message] {
            if matches!(place.shape, Shape::Bool | Shape::Nested) {
                return None;
            }
        }
        self.event_type = event_type.text;
        self.marked |= scan.marked;
        self.source = Source::Envelope(text);
        Some(())
    }

    fn look_inside(&mut self, scan: &mut Scan<'a, '_>) -> Option<()> {
        let mut more = scan.open()?;
        while more {
            let name = scan.name()?;
            scan.mark(name);
            let value = scan.value()?;
            self.inner.take(name, value);
            more = scan.more()?;
        }
        Some(())
    }

    /// What the members say of the outcome, those at the top level before those in `details`.
    pub fn outcome(&self) -> Option<Outcome> {
        let (top, inner) = (&self.top, &self.inner);
        let by_word = |raw: Raw<'a>| Outcome::of_member(&raw.said()?);
        let by_truth = |raw: Raw<'a>| Outcome::of_truth(&raw.said()?);
        [top.outcome, inner.outcome, top.result, inner.result, top.status, inner.status]
            .into_iter()
            .find_map(by_word)
            .or_else(|| [top.success, inner.success].into_iter().find_map(by_truth))
    }

    /// The details, without what follows from the event's type and time.
    pub fn details(&mut self, mask: &Mask) -> Details<'a> {
        let marked = self.marked;
        let asked = |name: &str, inner: Raw<'a>, top: Raw<'a>| {
            let raw = if inner.is_absent() { top } else { inner };
            match if marked { mask.fate(name) } else { Fate::Keep } {
                Fate::Keep => raw,
                Fate::Mask if raw.is_absent() => raw,
                Fate::Mask => Raw::text(MASK),
                Fate::Drop => Raw::default(),
            }
        };
        Details {
            ip_address: asked("ip_address", self.inner.ip_address, self.top.ip_address),
            user_agent: asked("user_agent", self.inner.user_agent, self.top.user_agent),
            resource: asked("resource", self.inner.resource, self.top.resource),
            reason: asked("reason", self.inner.reason, self.top.reason),
            session_id: asked("session_id", self.inner.session_id, self.top.session_id),
            duration_ms: asked("duration_ms", self.inner.duration_ms, self.top.duration_ms),
            source: std::mem::take(&mut self.source),
            ..Details::default()
        }
    }
}
