//! The simulated application of the demo: some hundred users live a day in fast motion, and now and then somebody attacks.
//! The same seed gives the same trail.

use std::time::Duration;

use serde_json::json;

/// One audit entry: the fields of an `XADD`.
pub type Fields = Vec<(String, String)>;

/// A whole round: a calm start, five attacks, and calm for long enough that everything resolves.
pub const ROUND: Duration = Duration::from_secs(150);

const USERS: usize = 120;

/// (first second, seconds it takes, events in all, what)
const ATTACKS: [(f64, f64, u32, Attack); 5] = [
    (5.0, 6.0, 64, Attack::BruteForce),
    (20.0, 8.0, 48, Attack::Spraying),
    (35.0, 5.0, 130, Attack::Flood),
    (45.0, 1.0, 2, Attack::Injection),
    (52.0, 1.0, 1, Attack::Escalation),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    BruteForce,
    Spraying,
    Flood,
    Injection,
    Escalation,
}

#[derive(Clone)]
struct User {
    id: u64,
    name: String,
    address: String,
    session: Option<String>,
}

pub struct Application {
    users: Vec<User>,
    random: u64,
    /// Ordinary events a second.
    rate: f64,
    /// Up to where time has been lived.
    lived: f64,
    owed: f64,
    sessions: u64,
}

impl Application {
    pub fn new(seed: u64, rate: u32) -> Application {
        const NAMES: [&str; 12] =
            ["ana", "ben", "chloe", "dmitri", "elif", "farid", "grace", "hiro", "ines", "jonas", "kofi", "lena"];
        let users = (0..USERS)
            .map(|i| User {
                id: 1000 + i as u64,
                name: format!("{}.{}", NAMES[i % NAMES.len()], i / NAMES.len() + 1),
                address: format!("10.20.{}.{}", i / 60 + 1, i % 60 + 10),
                session: None,
            })
            .collect();
        Application { users, random: seed | 1, rate: f64::from(rate), lived: 0.0, owed: 0.0, sessions: 0 }
    }

    /// What happened since the last call; `elapsed` counts from the start.
    pub fn live(&mut self, elapsed: Duration) -> Vec<Fields> {
        let now = elapsed.as_secs_f64();
        let span = (now - self.lived).clamp(0.0, 5.0);
        let mut events = Vec::new();
        self.owed += span * self.rate;
        while self.owed >= 1.0 {
            self.owed -= 1.0;
            events.push(self.ordinary());
        }
        let round = ROUND.as_secs_f64();
        for (start, takes, count, attack) in ATTACKS {
            let done = |at: f64| {
                let since = at % round - start;
                ((since / takes).clamp(0.0, 1.0) * f64::from(count)) as u32
            };
            let (before, after) = (done(self.lived), done(now));
            for n in before..after {
                events.push(self.attack(attack, n));
            }
        }
        self.lived = now;
        events
    }

    /// xorshift64*: good enough to make a day look like one.
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let value = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap_or(0) % n.max(1)
    }

    fn ordinary(&mut self) -> Fields {
        let at = self.below(USERS);
        let user = self.users[at].clone();
        let dice = self.below(100);
        let duration_ms = 3 + self.below(60) * self.below(8);
        let Some(session) = user.session.clone() else {
            // One login in thirty goes wrong at first.
            if self.below(30) == 0 {
                return entry(
                    "auth.login_failed",
                    &user,
                    &user.address,
                    json!({"reason": "wrong password", "duration_ms": duration_ms}),
                );
            }
            self.sessions += 1;
            let session = format!("sess-{:05}", self.sessions);
            self.users[at].session = Some(session.clone());
            return entry("auth.login_success", &user, &user.address, json!({"session_id": session, "duration_ms": duration_ms}));
        };
        match dice {
            0..=2 => {
                self.users[at].session = None;
                entry("auth.logout", &user, &user.address, json!({"session_id": session}))
            }
            3 => {
                self.users[at].session = None;
                entry("session.timeout", &user, &user.address, json!({"session_id": session}))
            }
            4 => entry(
                "permission.denied",
                &user,
                &user.address,
                json!({"session_id": session, "resource": "reports/payroll", "outcome": "denied"}),
            ),
            5..=12 => entry(
                "data.export",
                &user,
                &user.address,
                json!({"session_id": session, "resource": "reports/monthly", "rows": self.below(900), "duration_ms": duration_ms * 9}),
            ),
            13..=30 => {
                entry("user.profile_updated", &user, &user.address, json!({"session_id": session, "duration_ms": duration_ms}))
            }
            31..=40 => entry("token.refreshed", &user, &user.address, json!({"session_id": session, "duration_ms": duration_ms})),
            _ => entry(
                "api.request",
                &user,
                &user.address,
                json!({"session_id": session, "path": "/api/sessions", "status_code": 200, "duration_ms": duration_ms}),
            ),
        }
    }

    fn attack(&mut self, attack: Attack, n: u32) -> Fields {
        let victim = self.users[7].clone();
        match attack {
            Attack::BruteForce => {
                entry("AUTH_FAILURE", &victim, "203.0.113.66", json!({"reason": "wrong password", "attempt": n + 1}))
            }
            Attack::Spraying => {
                let user = self.users[n as usize % USERS].clone();
                entry(
                    "auth.login_failed",
                    &user,
                    "198.51.100.23",
                    json!({"reason": "wrong password", "user_agent": "python-requests/2.31"}),
                )
            }
            Attack::Flood => entry(
                "RATE_LIMIT_EXCEEDED",
                &self.users[31].clone(),
                "192.0.2.99",
                json!({"endpoint": "/api/export", "limit": 10}),
            ),
            Attack::Injection => entry(
                "security.injection_attempt",
                &self.users[52].clone(),
                "203.0.113.80",
                json!({"field": "session_name", "input": "' OR 1=1 --", "outcome": "denied"}),
            ),
            Attack::Escalation => entry(
                "permission.escalation_attempt",
                &self.users[88].clone(),
                "10.20.2.38",
                json!({"from_role": "OBSERVER", "to_role": "ADMIN", "outcome": "denied"}),
            ),
        }
    }
}

fn entry(event_type: &str, user: &User, address: &str, mut details: serde_json::Value) -> Fields {
    details["ip_address"] = address.into();
    vec![
        ("event_type".to_owned(), event_type.to_owned()),
        ("user_id".to_owned(), user.id.to_string()),
        ("username".to_owned(), user.name.clone()),
        ("details".to_owned(), details.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(seconds: u64) -> Vec<Fields> {
        let mut app = Application::new(7, 20);
        (1..=seconds * 10).flat_map(|tenth| app.live(Duration::from_millis(tenth * 100))).collect()
    }

    fn count(trail: &[Fields], event_type: &str) -> usize {
        trail.iter().filter(|fields| fields[0].1 == event_type).count()
    }

    #[test]
    fn a_round_holds_every_attack_once() {
        let trail = trail(ROUND.as_secs() - 1);
        assert_eq!(count(&trail, "AUTH_FAILURE"), 64);
        assert_eq!(count(&trail, "RATE_LIMIT_EXCEEDED"), 130);
        assert_eq!(count(&trail, "security.injection_attempt"), 2);
        assert_eq!(count(&trail, "permission.escalation_attempt"), 1);
        assert!(count(&trail, "auth.login_success") > 100);
    }

    #[test]
    fn the_first_threshold_is_crossed_well_before_20_s() {
        assert!(count(&trail(15), "AUTH_FAILURE") > 50);
    }

    #[test]
    fn the_same_seed_gives_the_same_trail() {
        assert_eq!(trail(20), trail(20));
    }
}
