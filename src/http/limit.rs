//! How many requests a client may send: a fixed number per window, by who asks.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Clients remembered at once. At the bound those whose window is over are forgotten; if nobody's is, a newcomer shares one
/// count with all other newcomers, so that a flood of addresses slows itself down and nobody who is known.
const CLIENTS_MAX: usize = 50_000;

pub struct Limit {
    per_window: u32,
    window_ms: u64,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    windows: HashMap<String, Window, ahash::RandomState>,
    strangers: Window,
    swept_ms: u64,
}

#[derive(Clone, Copy, Default)]
struct Window {
    began_ms: u64,
    used: u32,
}

impl Limit {
    /// `per_window` requests per `window`; 0 refuses everything.
    pub fn new(per_window: u32, window: Duration) -> Limit {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
        Limit { per_window, window_ms, clients: Mutex::default() }
    }

    /// Counts one request. `Err`: the seconds after which there is room again, at least 1.
    pub fn take(&self, client: &str, now_ms: u64) -> Result<(), u64> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = &mut *clients;
        if clients.windows.len() >= CLIENTS_MAX && now_ms.saturating_sub(clients.swept_ms) >= self.window_ms.min(1000) {
            clients.swept_ms = now_ms;
            clients.windows.retain(|_, window| now_ms.saturating_sub(window.began_ms) < self.window_ms);
        }
        let known = clients.windows.contains_key(client);
        let window = if known || clients.windows.len() < CLIENTS_MAX {
            clients.windows.entry(client.to_owned()).or_insert(Window { began_ms: now_ms, used: 0 })
        } else {
            &mut clients.strangers
        };
        // A clock set back begins a new window too: it must not lock anybody out.
        if now_ms.abs_diff(window.began_ms) >= self.window_ms {
            *window = Window { began_ms: now_ms, used: 0 };
        }
        if window.used >= self.per_window {
            let left_ms = (window.began_ms + self.window_ms).saturating_sub(now_ms);
            return Err(left_ms.div_ceil(1000).max(1));
        }
        window.used += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_window_and_each_client_for_itself() {
        let limit = Limit::new(2, Duration::from_secs(60));
        assert_eq!(limit.take("a", 1000), Ok(()));
        assert_eq!(limit.take("a", 2000), Ok(()));
        assert_eq!(limit.take("a", 2001), Err(59));
        assert_eq!(limit.take("b", 2001), Ok(()));
        assert_eq!(limit.take("a", 60_999), Err(1));
        assert_eq!(limit.take("a", 61_000), Ok(()));
        assert_eq!(limit.take("a", 0), Ok(()), "the clock was set back");
    }

    #[test]
    fn a_flood_of_addresses_slows_only_itself() {
        let limit = Limit::new(3, Duration::from_secs(60));
        for n in 0..CLIENTS_MAX {
            assert_eq!(limit.take(&n.to_string(), 1000), Ok(()));
        }
        let taken = (0..100).filter(|n| limit.take(&format!("new {n}"), 1000).is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(limit.take("7", 1000), Ok(()), "who is known is not touched");
        assert_eq!(limit.take("new 0", 62_000), Ok(()), "and later there is room again");
        assert!(limit.clients.lock().unwrap().windows.len() < 10);
    }
}
