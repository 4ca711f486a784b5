//! `GET /api/v1/alerts`, `GET /api/v1/alerts/{alert_id}`: the alert log and the current state of alerts (contract §7).

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State as FromState},
    response::Response,
};

use super::{
    State,
    guard::{self, Need},
    json,
    params::{Params, short},
    problem::{Code, Problem},
};
use crate::{
    filter::{self, Filter, Scope},
    store::{LogBounds, LogEntry},
    wire::{After, Pos, Sight, with_pos},
};

const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Entries that one call with a filter looks at.
const LOOKED_AT_MAX: usize = 10_000;

/// Longest alert id looked up, bytes.
const ALERT_ID_BYTES_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

pub(super) async fn list(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let sight = guard::admit(&state, &super::parts(&request), Need::See).await?.sight;
    let params = Params::read(request.uri(), &["after", "filter", "limit", "order", "status"])?;
    let limit = params.count("limit", LIMIT, LIMIT_MAX)?;
    let expression = params
        .get("filter")
        .map(|text| Filter::parse(text, Scope::Feed))
        .transpose()
        .map_err(|fault| Problem::bad_request(format!("`filter` {fault}")))?;
    let wanted = Wanted { sight, expression };
    match params.get("status") {
        None => {}
        Some("firing") => {
            for name in ["after", "order"] {
                if params.get(name).is_some() {
                    return Err(Problem::bad_request(format!(
                        "`{name}` does not go with `status`: that is the state, not the log"
                    )));
                }
            }
            let limit = params.get("limit").map(|_| limit);
            return firing(&state, limit, &wanted).await;
        }
        Some(other) => return Err(Problem::bad_request(format!("`status` is firing, not `{}`", short(other)))),
    }
    let order = match params.get("order") {
        None | Some("asc") => Order::Ascending,
        Some("desc") => Order::Descending,
        Some(other) => return Err(Problem::bad_request(format!("`order` is asc or desc, not `{}`", short(other)))),
    };
    let after =
        params.get("after").map(str::parse::<After>).transpose().map_err(|error| Problem::bad_request(error.to_string()))?;
    page(&state, after, limit, order, &wanted).await
}

/// What of the log is answered with.
struct Wanted {
    /// What the token lets its bearer see.
    sight: Option<Arc<Sight>>,
    expression: Option<Filter>,
}

impl Wanted {
    fn is_everything(&self) -> bool {
        self.sight.is_none() && self.expression.is_none()
    }

    /// What is no alert, such as an acknowledgement, passes every expression, as on the feed.
    fn has(&self, entry: &LogEntry) -> bool {
        self.sight.as_ref().is_none_or(|sight| sight.shows_body(&entry.body))
            && self.expression.as_ref().is_none_or(|expression| {
                let members = filter::members(&entry.body);
                members.is_some_and(|members| !members.contains_key("severity") || expression.matches(&members))
            })
    }
}

/// Every alert that is firing and may be seen, however many: a cut list would look like peace.
async fn firing(state: &State, limit: Option<usize>, wanted: &Wanted) -> Result<Response, Problem> {
    let bounds = state.store.log_bounds().await?;
    let mut entries = state.store.firing().await?;
    entries.retain(|entry| wanted.has(entry));
    if let Some(limit) = limit {
        entries.truncate(limit);
    }
    Ok(answer(state, &entries, None, &bounds))
}

fn expired() -> Problem {
    Problem::new(Code::PositionExpired, "what follows this position is not kept any more; begin without `after`")
}

async fn page(state: &State, after: Option<After>, limit: usize, order: Order, wanted: &Wanted) -> Result<Response, Problem> {
    let bounds = state.store.log_bounds().await?;
    let mut from = match after {
        None | Some(After::Earliest) => None,
        Some(after) => {
            let located = state.hub.locate(&state.store, &after).await?;
            if located.recovered.is_err() {
                return Err(expired());
            }
            Some(located.pos.seq)
        }
    };
    let mut kept = Vec::new();
    let (mut looked_at, mut last) = (0, None);
    let more = loop {
        let at_once = if wanted.is_everything() { limit } else { LIMIT_MAX };
        let (entries, beyond) = read(state, from, at_once, order, &bounds).await?;
        let mut left = entries.len();
        for entry in entries {
            left -= 1;
            looked_at += 1;
            from = Some(entry.seq);
            last = Some(pos_of(&entry));
            if wanted.has(&entry) {
                kept.push(entry);
                if kept.len() == limit {
                    break;
                }
            }
        }
        let more = beyond || left > 0;
        if !more || kept.len() == limit || looked_at >= LOOKED_AT_MAX {
            break more;
        }
    };
    Ok(answer(state, &kept, last.filter(|_| more), &bounds))
}

/// At most so many entries behind (or before) a place of the log, and whether there are more.
async fn read(
    state: &State,
    from: Option<u64>,
    limit: usize,
    order: Order,
    bounds: &LogBounds,
) -> Result<(Vec<LogEntry>, bool), Problem> {
    let oldest = bounds.first.max(1);
    Ok(match order {
        Order::Ascending => {
            // One more than asked for says whether there is a next page.
            let mut entries = state.store.log_read(from.unwrap_or(oldest - 1), limit + 1).await?;
            // Trimmed since the bounds were read: a page must not begin behind a hole.
            if let (Some(seq), Some(first)) = (from, entries.first())
                && first.seq != seq + 1
            {
                return Err(expired());
            }
            let more = entries.len() > limit;
            entries.truncate(limit);
            (entries, more)
        }
        Order::Descending => {
            let newest = from.map_or(bounds.head, |seq| seq.saturating_sub(1));
            let start = newest.saturating_sub(limit as u64).max(oldest - 1);
            let wanted = usize::try_from(newest.saturating_sub(start)).unwrap_or(limit);
            let mut entries = if wanted == 0 { Vec::new() } else { state.store.log_read(start, wanted).await? };
            entries.retain(|entry| entry.seq <= newest);
            entries.reverse();
            (entries, start >= oldest)
        }
    })
}

pub(super) async fn one(
    FromState(state): FromState<Arc<State>>,
    Path(alert_id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let sight = guard::admit(&state, &super::parts(&request), Need::See).await?.sight;
    Params::read(request.uri(), &[])?;
    let unknown = || Problem::new(Code::UnknownAlert, format!("there is no alert `{}`", short(&alert_id)));
    if alert_id.is_empty() || alert_id.len() > ALERT_ID_BYTES_MAX || !alert_id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(unknown());
    }
    let entry = state.store.alert(&alert_id).await?;
    // What may not be seen is not there.
    let seen = entry.filter(|entry| sight.is_none_or(|sight| sight.shows_body(&entry.body)));
    let entry = seen.ok_or_else(unknown)?;
    state.metrics.frames_sent.inc("http");
    Ok(json(frame(&entry)))
}

fn pos_of(entry: &LogEntry) -> String {
    Pos { seq: entry.seq, check: entry.check.clone() }.to_string()
}

fn frame(entry: &LogEntry) -> String {
    with_pos(&entry.body, &pos_of(entry), false)
}

/// Bodies of the log are JSON already, so the answer is put together as text.
fn answer(state: &State, entries: &[LogEntry], next: Option<String>, bounds: &LogBounds) -> Response {
    state.metrics.frames_sent.add("http", entries.len() as u64);
    let head = match bounds.head {
        0 => Pos::origin(&bounds.epoch),
        seq => Pos { seq, check: bounds.head_check.clone() },
    };
    let mut text = String::with_capacity(64 + entries.iter().map(|entry| entry.body.len() + 48).sum::<usize>());
    text.push_str("{\"alerts\":[");
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&frame(entry));
    }
    text.push(']');
    if let Some(next) = next {
        text.push_str(&format!(",\"next\":\"{next}\""));
    }
    text.push_str(&format!(",\"head\":\"{head}\"}}"));
    json(text)
}
