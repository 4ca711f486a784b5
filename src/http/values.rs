//! `GET /api/v1/metrics/current`, `GET /api/v1/metrics/history`: the scalars of contract §4 as JSON.

use std::sync::Arc;

use axum::{
    extract::{Request, State as FromState},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::{
    State,
    guard::{self, Need},
    json,
    params::{Params, short},
    problem::Problem,
};
use crate::{metrics::unix_ms, wire};

/// Snapshots answered at most, the newest: a day of them at the default interval.
const SNAPSHOTS_MAX: usize = 1440;

/// How far back without `since`: as long as snapshots are kept.
const HISTORY_S: u64 = 86_400;

#[derive(Serialize)]
struct Current {
    timestamp: String,
    metrics: Value,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Source {
    source: String,
    status: wire::SourceState,
    since: String,
}

/// The values of the last closed slot; before the first one, of none.
pub(super) async fn current(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let principal = guard::admit(&state, &super::parts(&request), Need::See).await?;
    Params::read(request.uri(), &[])?;
    let metrics = state.hub.metrics().unwrap_or_else(|| crate::detect::Metrics { timestamp_ms: unix_ms(), ..Default::default() });
    let source = |status: wire::SourceStatus| Source {
        source: status.source,
        status: status.status,
        since: wire::rfc3339(status.since_ms),
    };
    let current = Current {
        timestamp: wire::rfc3339(metrics.timestamp_ms),
        // They are of everything: who may see a part is not told of the whole.
        metrics: if principal.sight.is_some() { Value::Object(Default::default()) } else { wire::metrics_json(&metrics) },
        sources: state.hub.sources().into_iter().map(source).collect(),
    };
    super::to_json(&current)
}

#[derive(Serialize)]
struct Snapshot {
    timestamp: String,
    metrics: Box<RawValue>,
}

/// The snapshots at `security:metrics:{unix seconds}`, ascending.
pub(super) async fn history(FromState(state): FromState<Arc<State>>, request: Request) -> Result<Response, Problem> {
    let principal = guard::admit(&state, &super::parts(&request), Need::See).await?;
    let params = Params::read(request.uri(), &["since"])?;
    let now_s = unix_ms() / 1000;
    let since_s = match params.get("since") {
        None => now_s.saturating_sub(HISTORY_S),
        Some(text) => since(text, now_s).ok_or_else(|| {
            let text = short(text);
            Problem::bad_request(format!("`since` is a duration (2h), a time in RFC 3339 or Unix seconds, not `{text}`"))
        })?,
    };
    let stored = match principal.sight {
        None => state.store.metrics_history(since_s, SNAPSHOTS_MAX).await?,
        Some(_) => Vec::new(),
    };
    let mut text = String::from("{\"snapshots\":[");
    let mut first = true;
    for (unix_s, body) in stored {
        // The key is A's and anybody may write there: what is no JSON object is left out rather than passed on.
        let Ok(metrics) = serde_json::from_str::<Box<RawValue>>(&body) else { continue };
        if !metrics.get().starts_with('{') {
            continue;
        }
        let snapshot = Snapshot { timestamp: wire::rfc3339(unix_s.saturating_mul(1000)), metrics };
        let Ok(snapshot) = serde_json::to_string(&snapshot) else { continue };
        if !first {
            text.push(',');
        }
        first = false;
        text.push_str(&snapshot);
    }
    text.push_str("]}");
    Ok(json(text))
}

/// A duration before now, a time, or Unix seconds.
fn since(text: &str, now_s: u64) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok();
    }
    if let Ok(duration) = humantime::parse_duration(text) {
        return Some(now_s.saturating_sub(duration.as_secs()));
    }
    wire::unix_ms(text).map(|ms| ms / 1000)
}

#[cfg(test)]
mod tests {
    use super::since;

    #[test]
    fn since_is_a_duration_a_time_or_seconds() {
        assert_eq!(since("2h", 10_000), Some(2800));
        assert_eq!(since("30d", 10_000), Some(0));
        assert_eq!(since("1700000000", 10_000), Some(1_700_000_000));
        assert_eq!(since("2023-11-14T22:13:20Z", 10_000), Some(1_700_000_000));
        assert_eq!(since("2023-11-15T00:13:20+02:00", 10_000), Some(1_700_000_000));
        for bad in ["", "yesterday", "-1", "99999999999999999999", "2023-11-14"] {
            assert_eq!(since(bad, 10_000), None, "{bad}");
        }
    }
}
