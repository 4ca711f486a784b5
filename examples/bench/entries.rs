//! Audit entries as an application writes them: a fixed mix of types, so that the default rules have work and few alerts.
//!
//! The `n`-th entry is always the same, whoever asks for it.

/// Bytes of names and values of one entry. `details.user_agent` is as long as it takes.
pub const PAYLOAD_BYTES: usize = 393;

/// Names of the fields, in the order of [`Entry::values`].
pub const FIELDS: [&str; 4] = ["event_type", "user_id", "timestamp", "details"];

/// Type and share in a hundred. None is an alert by itself.
const MIX: [(&str, u32); 14] = [
    ("api.request", 30),
    ("auth.success", 14),
    ("data.read", 12),
    ("auth.failed_login", 8),
    ("session.created", 7),
    ("token.refreshed", 6),
    ("session.destroyed", 5),
    ("permission.denied", 4),
    ("rate_limit.exceeded", 4),
    ("user.updated", 3),
    ("AUTH_FAILURE", 2),
    ("data.exported", 2),
    ("session.timeout", 2),
    ("config.changed", 1),
];

/// Users, addresses and sessions that take part.
const USERS: u64 = 5_000;
const ADDRESSES: u64 = 4_000;
const SESSIONS: u64 = 20_000;

/// One entry's values.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub values: [String; 4],
}

/// A well-mixed number of `n` (splitmix64), so that neighbours have nothing in common and runs are alike.
fn scatter(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn event_type(dice: u64) -> &'static str {
    let mut rest = (dice % 100) as u32;
    for (name, share) in MIX {
        if rest < share {
            return name;
        }
        rest -= share;
    }
    MIX[0].0
}

/// RFC 3339 with milliseconds; only the time of day, at one date, is made here.
fn timestamp(date: &str, n: u64) -> String {
    let ms = scatter(n) % 86_400_000;
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{date}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

impl Entry {
    /// The `n`-th entry. `date` (`2026-11-23`) is the day of its timestamp.
    pub fn nth(n: u64, date: &str) -> Entry {
        let dice = scatter(n);
        let kind = event_type(dice >> 8);
        let outcome = match kind {
            "auth.failed_login" | "AUTH_FAILURE" => "failure",
            "permission.denied" | "rate_limit.exceeded" => "denied",
            _ => "success",
        };
        let user = 10_000 + (dice >> 16) % USERS;
        let address = (dice >> 24) % ADDRESSES;
        let details = format!(
            concat!(
                r#"{{"ip_address":"203.0.{}.{}","session_id":"s-{:012x}","duration_ms":{},"resource":"/api/v2/orders/{:06}","#,
                r#""outcome":"{}","request_id":"{:016x}","user_agent":""#
            ),
            address / 250,
            address % 250,
            scatter((dice >> 32) % SESSIONS) & 0xffff_ffff_ffff,
            1 + (dice >> 40) % 900,
            (dice >> 20) % 1_000_000,
            outcome,
            dice,
        );
        let mut entry = Entry { values: [kind.to_owned(), user.to_string(), timestamp(date, n), details] };
        let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 ";
        let missing = PAYLOAD_BYTES.saturating_sub(entry.bytes() + 2);
        entry.values[3].extend(agent.chars().cycle().take(missing));
        entry.values[3].push_str("\"}");
        entry
    }

    /// One that is an alert by itself: of the type given, by the user given.
    #[allow(dead_code, reason = "the in-process benches have no alerts of this kind")]
    pub fn critical(kind: &str, user: &str, date: &str) -> Entry {
        let details = r#"{"ip_address":"203.0.113.7","resource":"/api/v2/orders","outcome":"denied"}"#;
        Entry { values: [kind.to_owned(), user.to_owned(), timestamp(date, 0), details.to_owned()] }
    }

    /// Bytes of names and values.
    pub fn bytes(&self) -> usize {
        FIELDS.iter().map(|name| name.len()).sum::<usize>() + self.values.iter().map(String::len).sum::<usize>()
    }

    /// As an envelope holds it.
    #[allow(dead_code, reason = "the benches over Redis write flat fields")]
    pub fn envelope(&self) -> String {
        let [kind, user, time, details] = &self.values;
        format!(r#"{{"event_type":"{kind}","user_id":{user},"timestamp":"{time}","details":{details}}}"#)
    }
}
