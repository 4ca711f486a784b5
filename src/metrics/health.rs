//! What `/readyz` and `/livez` say: written by who knows, read by the listeners (contract §6.5).

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// This node's wall clock, Unix ms: for `exp`, for times in frames and for how old a check is. What decides about alerts is the
/// store's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The checks that must have been heard of before a node is ready. `lease` holds where the node knows who is active, itself or
/// another; `drain` fails from the stop signal on.
const NEEDED: [&str; 4] = ["source", "positions", "store", "lease"];

/// A loop that has said nothing for so long stands still for good: restarting helps.
const SILENCE_MAX_MS: u64 = 60_000;

/// One check as it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    pub ok: bool,
    /// One sentence; shown to whoever may reach the listener, so without addresses and secrets.
    pub text: String,
    /// Unix ms of the change from or to `ok`.
    #[serde(skip)]
    pub since_ms: u64,
}

/// What [`Health::ready`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    /// Every check, also those that were left out.
    pub checks: BTreeMap<String, Check>,
}

pub struct Health {
    inner: Mutex<Inner>,
}

struct Inner {
    checks: BTreeMap<String, Check>,
    beat_ms: Option<u64>,
    dead: Option<String>,
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

impl Health {
    /// Nothing is known yet, so nothing is ready.
    pub fn new() -> Health {
        let starting = || Check { ok: false, text: "starting".to_owned(), since_ms: 0 };
        let checks = NEEDED.iter().map(|name| ((*name).to_owned(), starting())).collect();
        Health { inner: Mutex::new(Inner { checks, beat_ms: None, dead: None }) }
    }

    /// Sets a check; `since_ms` moves only when `ok` changes.
    pub fn set(&self, name: &str, ok: bool, text: impl Into<String>, now_ms: u64) {
        let text = text.into();
        self.with(|inner| match inner.checks.get_mut(name) {
            Some(check) => {
                if check.ok != ok || check.since_ms == 0 {
                    check.since_ms = now_ms;
                }
                check.ok = ok;
                check.text = text;
            }
            None => drop(inner.checks.insert(name.to_owned(), Check { ok, text, since_ms: now_ms })),
        });
    }

    pub fn is_ok(&self, name: &str) -> bool {
        self.with(|inner| inner.checks.get(name).is_some_and(|check| check.ok))
    }

    /// Whether every check holds that is not in `exclude`.
    pub fn ready(&self, exclude: &[&str]) -> Readiness {
        self.with(|inner| Readiness {
            ready: inner.checks.iter().all(|(name, check)| check.ok || exclude.contains(&name.as_str())),
            checks: inner.checks.clone(),
        })
    }

    /// The monitor's loop has come round, whatever it found.
    pub fn beat(&self, now_ms: u64) {
        self.with(|inner| inner.beat_ms = Some(now_ms));
    }

    /// Something is broken that only a restart repairs.
    pub fn fail(&self, text: impl Into<String>) {
        let text = text.into();
        self.with(|inner| inner.dead = Some(text));
    }

    /// `Err` says why a restart would help. A store that is away is none: it would be away afterwards too.
    pub fn live(&self, now_ms: u64) -> Result<(), String> {
        self.with(|inner| match (&inner.dead, inner.beat_ms) {
            (Some(text), _) => Err(text.clone()),
            (None, Some(beat)) if now_ms.saturating_sub(beat) > SILENCE_MAX_MS => {
                Err(format!("the monitor has stood still for {} s", now_ms.saturating_sub(beat) / 1000))
            }
            _ => Ok(()),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_needed_check_has_said_so() {
        let health = Health::new();
        assert!(!health.ready(&[]).ready, "nothing is known yet");
        for name in NEEDED {
            assert!(!health.ready(&[]).ready);
            health.set(name, true, "ok", 1);
        }
        assert!(health.ready(&[]).ready);
        health.set("source", false, "app cannot be read", 5);
        assert!(!health.ready(&[]).ready);
        assert!(health.ready(&["source"]).ready, "left out");
        assert!(!health.ready(&["source"]).checks["source"].ok, "but shown");
        health.set("drain", false, "the daemon is stopping", 6);
        assert!(!health.ready(&["source"]).ready);
    }

    #[test]
    fn since_is_when_it_changed() {
        let health = Health::new();
        health.set("store", true, "ok", 10);
        health.set("store", true, "still ok", 20);
        assert_eq!(health.ready(&[]).checks["store"].since_ms, 10);
        health.set("store", false, "away", 30);
        assert_eq!(health.ready(&[]).checks["store"].since_ms, 30);
    }

    #[test]
    fn alive_unless_a_restart_would_help() {
        let health = Health::new();
        assert_eq!(health.live(1_000_000), Ok(()), "starting takes as long as it takes");
        health.beat(1_000_000);
        health.set("store", false, "away", 1_000_000);
        assert_eq!(health.live(1_060_000), Ok(()));
        assert_eq!(health.live(1_061_000), Err("the monitor has stood still for 61 s".to_owned()));
        health.beat(1_061_000);
        assert_eq!(health.live(1_061_000), Ok(()));
        health.fail("the log is closed");
        assert_eq!(health.live(1_061_000), Err("the log is closed".to_owned()));
    }
}
