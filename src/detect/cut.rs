//! Texts from outside, held to a size.

use serde_json::{Map, Value};

/// At most `bytes_max` bytes of a text, cut between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// Details of one alert at most, as JSON, and of one member of them.
const DETAILS_BYTES_MAX: usize = 8 * 1024;
const MEMBER_BYTES_MAX: usize = 1024;
/// Members that are kept before all others.
const FIRST: [&str; 7] = ["ip_address", "user_agent", "session_id", "duration_ms", "resource", "reason", "outcome"];

/// What an alert keeps of an event's details: all of them up to 8 KiB, else the well-known ones first, long texts cut at 1 KiB and
/// `truncated: true`. The event itself stays whole where it came from; what is kept in the store must not grow with what an
/// application logs.
pub(super) fn details(details: &Map<String, Value>) -> Map<String, Value> {
    let size = |map: &Map<String, Value>| serde_json::to_string(map).map_or(usize::MAX, |text| text.len());
    if size(details) <= DETAILS_BYTES_MAX {
        return details.clone();
    }
    let mut kept = Map::new();
    let mut room = DETAILS_BYTES_MAX;
    let known = FIRST.iter().filter_map(|name| details.get_key_value(*name));
    let others = details.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    for (name, value) in known.chain(others) {
        let value = match value {
            Value::String(text) => Value::String(cut_at(text, MEMBER_BYTES_MAX)),
            Value::Array(_) | Value::Object(_) => {
                let text = value.to_string();
                if text.len() <= MEMBER_BYTES_MAX { value.clone() } else { Value::String(cut_at(&text, MEMBER_BYTES_MAX)) }
            }
            plain => plain.clone(),
        };
        let cost = name.len() + value.to_string().len() + 4;
        if name.len() <= MEMBER_BYTES_MAX && cost <= room {
            room -= cost;
            kept.insert(name.clone(), value);
        }
    }
    kept.insert("truncated".to_owned(), true.into());
    kept
}

/// The longest beginning of at most `bytes` bytes that ends between characters, with a sign that something is missing.
fn cut_at(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    format!("{}…", cut(text, bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn small_details_are_whole_and_great_ones_bounded() {
        let small = json!({"ip_address": "10.0.0.1", "x": [1, 2, {"y": "z"}]});
        assert_eq!(details(small.as_object().unwrap()), *small.as_object().unwrap());
        let mut great = Map::new();
        great.insert("ip_address".into(), "10.0.0.1".into());
        great.insert("reason".into(), "ä".repeat(5000).into());
        for n in 0..100 {
            great.insert(format!("a{n}"), "x".repeat(600).into());
        }
        let kept = details(&great);
        assert_eq!(kept["ip_address"], "10.0.0.1");
        assert_eq!(kept["truncated"], true);
        assert!(kept["reason"].as_str().unwrap().ends_with('…'));
        assert!(serde_json::to_string(&kept).unwrap().len() <= DETAILS_BYTES_MAX + 64);
    }
}
