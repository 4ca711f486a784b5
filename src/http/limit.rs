//! How often a client may do something: a fixed number per window, by who asks.
//!
//! Each node counts for itself, which costs nothing and refuses at once, and tells the store, which counts for all of them under
//! A's names (`rate_limit:{limit_type}:{client_id}`). Sign-ins ask the store each time. Everything else is told in the background,
//! a client's requests together, and only of clients who have used up a part of what they may: so a request waits for nobody, and
//! with several nodes a client may get a few more through than he should. Where the store is away each node goes by its own count.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use crate::{
    metrics::unix_ms,
    store::{Rate, Store, Used},
};

/// Clients remembered at once. At the bound those whose window is over are forgotten; if nobody's is, a newcomer shares one
/// count with all other newcomers, so that a flood of addresses slows itself down and nobody who is known.
const CLIENTS_MAX: usize = 50_000;
/// Clients told of in one question.
const TOLD_MAX: usize = 1000;
/// What has been counted meanwhile is told together.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// The part of his limit that a client may use before the store hears of it.
const UNTOLD_PART: u32 = 16;

/// How often a client may do what, per [`Rates::window`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    pub window: Duration,
    /// `RATE_LIMIT_GENERAL`: requests to the API.
    pub general: u32,
    /// `RATE_LIMIT_AUTH`: sign-ins.
    pub auth: u32,
    /// Attempts to get the feed, per address that is not this machine's own.
    pub connections: u32,
    /// Requests to one endpoint (`events`), in place of the general limit.
    pub endpoints: Vec<(String, u32)>,
}

/// Every limit of a node.
pub struct Limits {
    general: Limit,
    auth: Limit,
    connections: Limit,
    endpoints: Vec<(String, Limit)>,
    untold: Arc<Notify>,
}

impl Limits {
    pub fn new(rates: &Rates) -> Limits {
        let untold = Arc::new(Notify::new());
        let limit = |name: &str, per_window| Limit::new(name, per_window, rates.window, untold.clone());
        Limits {
            general: limit("general", rates.general),
            auth: limit("auth", rates.auth),
            connections: limit("connections", rates.connections),
            endpoints: rates
                .endpoints
                .iter()
                .map(|(endpoint, per_window)| (endpoint.clone(), limit(&format!("endpoint:{endpoint}"), *per_window)))
                .collect(),
            untold,
        }
    }

    /// Counts a request to this endpoint of the API (`alerts/{alert_id}`). `Err`: the seconds after which there is room again, at
    /// least 1.
    pub fn request(&self, endpoint: &str, client: &str, now_ms: u64) -> Result<(), u64> {
        let own = self.endpoints.iter().find(|(name, _)| name == endpoint).map(|(_, limit)| limit);
        own.unwrap_or(&self.general).take(client, now_ms)
    }

    /// Counts an attempt to get the feed. A proxy on this machine that says nothing of its clients is all of them, so that
    /// loopback is not counted.
    pub fn connection(&self, address: IpAddr, now_ms: u64) -> Result<(), u64> {
        if address.to_canonical().is_loopback() {
            return Ok(());
        }
        self.connections.take(&client(address), now_ms)
    }

    /// Counts an attempt to sign in, on this node and then for all of them: who is refused here costs no question to the store.
    pub async fn sign_in(&self, store: &Store, client: &str, now_ms: u64) -> Result<(), u64> {
        self.auth.take_now(store, client, now_ms).await
    }

    /// Tells the store what was counted, for ever.
    pub async fn tell(&self, store: &Store) {
        loop {
            self.untold.notified().await;
            sleep(TELL_EVERY).await;
            let endpoints = self.endpoints.iter().map(|(_, limit)| limit);
            for limit in [&self.general, &self.connections].into_iter().chain(endpoints) {
                limit.tell(store).await;
            }
        }
    }
}

/// An address as the client of a limit: an IPv6 client has a whole /64 to himself, so that is what counts.
pub(super) fn client(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(ip) => format!("address:{ip}"),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("address:{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

struct Limit {
    /// A's `limit_type`.
    name: String,
    per_window: u32,
    window: Duration,
    clients: Mutex<Clients>,
    untold: Arc<Notify>,
}

#[derive(Default)]
struct Clients {
    windows: HashMap<String, Window, ahash::RandomState>,
    strangers: Window,
    swept_ms: u64,
    /// Of whom the store should hear; each once.
    telling: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Window {
    ends_ms: u64,
    /// By all nodes, as far as that is known.
    used: u32,
    /// Here, since the store was told last.
    untold: u32,
    telling: bool,
}

impl Window {
    /// Begins anew when it is over. A clock that was set back must not lock anybody out.
    fn at(&mut self, now_ms: u64, window_ms: u64) {
        if now_ms >= self.ends_ms || self.ends_ms - now_ms > window_ms {
            *self = Window { ends_ms: now_ms.saturating_add(window_ms), telling: self.telling, ..Window::default() };
        }
    }
}

impl Limit {
    /// `per_window` times per `window`; 0 refuses everything.
    fn new(name: &str, per_window: u32, window: Duration, untold: Arc<Notify>) -> Limit {
        Limit { name: name.to_owned(), per_window, window, clients: Mutex::default(), untold }
    }

    fn window_ms(&self) -> u64 {
        u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one here.
    fn take(&self, client: &str, now_ms: u64) -> Result<(), u64> {
        self.count(client, now_ms, true)
    }

    /// Counts one here and, where that is not refused, in the store.
    async fn take_now(&self, store: &Store, client: &str, now_ms: u64) -> Result<(), u64> {
        self.count(client, now_ms, false)?;
        let rate = Rate { limit: self.name.clone(), client: client.to_owned(), by: 1 };
        match store.rate_count(&[rate], self.window).await.as_deref() {
            Ok(&[Some(used)]) => {
                self.learn(client, used, now_ms);
                if used.used > u64::from(self.per_window) {
                    return Err(seconds(used.ends_in_ms));
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, limit = self.name, "could not count for all nodes"),
        }
        Ok(())
    }

    fn count(&self, client: &str, now_ms: u64, tell: bool) -> Result<(), u64> {
        let window_ms = self.window_ms();
        let mut clients = self.clients();
        let clients = &mut *clients;
        if clients.windows.len() >= CLIENTS_MAX && now_ms.saturating_sub(clients.swept_ms) >= window_ms.min(1000) {
            clients.swept_ms = now_ms;
            clients.windows.retain(|_, window| now_ms < window.ends_ms);
        }
        let known = clients.windows.contains_key(client) || clients.windows.len() < CLIENTS_MAX;
        let window = match known {
            true => clients.windows.entry(client.to_owned()).or_default(),
            false => &mut clients.strangers,
        };
        window.at(now_ms, window_ms);
        if window.used >= self.per_window {
            return Err(seconds(window.ends_ms - now_ms));
        }
        window.used += 1;
        if known && tell {
            window.untold += 1;
            if window.untold >= (self.per_window / UNTOLD_PART).max(1) && !window.telling {
                window.telling = true;
                clients.telling.push(client.to_owned());
                self.untold.notify_one();
            }
        }
        Ok(())
    }

    async fn tell(&self, store: &Store) {
        loop {
            let rates = self.to_tell(unix_ms());
            if rates.is_empty() {
                return;
            }
            match store.rate_count(&rates, self.window).await {
                Ok(used) => {
                    for (rate, used) in rates.iter().zip(used) {
                        if let Some(used) = used {
                            self.learn(&rate.client, used, unix_ms());
                        }
                    }
                }
                // They stay counted here.
                Err(error) => tracing::debug!(%error, limit = self.name, "could not count for all nodes"),
            }
        }
    }

    /// What the store should hear now.
    fn to_tell(&self, now_ms: u64) -> Vec<Rate> {
        let mut clients = self.clients();
        let clients = &mut *clients;
        let left = clients.telling.len().saturating_sub(TOLD_MAX);
        let mut rates = Vec::new();
        for client in clients.telling.drain(left..) {
            let Some(window) = clients.windows.get_mut(&client) else { continue };
            window.telling = false;
            if now_ms < window.ends_ms && window.untold > 0 {
                rates.push(Rate { limit: self.name.clone(), by: std::mem::take(&mut window.untold), client });
            }
        }
        rates
    }

    /// Goes on from what all nodes have counted together.
    fn learn(&self, client: &str, used: Used, now_ms: u64) {
        let mut clients = self.clients();
        if let Some(window) = clients.windows.get_mut(client) {
            window.ends_ms = now_ms.saturating_add(used.ends_in_ms.min(self.window_ms()));
            window.used = u32::try_from(used.used).unwrap_or(u32::MAX).saturating_add(window.untold);
        }
    }
}

/// For `Retry-After`.
fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_window: u32) -> Limit {
        Limit::new("general", per_window, Duration::from_secs(60), Arc::default())
    }

    #[test]
    fn so_many_a_window_and_each_client_for_itself() {
        let limit = limit(2);
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
        let limit = limit(3);
        for n in 0..CLIENTS_MAX {
            assert_eq!(limit.take(&n.to_string(), 1000), Ok(()));
        }
        let taken = (0..100).filter(|n| limit.take(&format!("new {n}"), 1000).is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(limit.take("7", 1000), Ok(()), "who is known is not touched");
        assert_eq!(limit.take("new 0", 62_000), Ok(()), "and later there is room again");
        assert!(limit.clients().windows.len() < 10);
    }

    #[test]
    fn what_others_have_counted_counts_here() {
        let limit = limit(160);
        for n in 1..10 {
            assert_eq!(limit.take("a", n), Ok(()));
        }
        assert_eq!(limit.to_tell(10), [], "too little to speak of");
        assert_eq!(limit.take("a", 10), Ok(()));
        let told = limit.to_tell(11);
        assert_eq!(told, [Rate { limit: "general".into(), client: "a".into(), by: 10 }]);
        assert_eq!(limit.take("a", 12), Ok(()));
        limit.learn("a", Used { used: 158, ends_in_ms: 5000 }, 13);
        assert_eq!(limit.take("a", 14), Ok(()));
        assert_eq!(limit.take("a", 15), Err(5), "until the window of all nodes ends");
        assert_eq!(limit.take("a", 5013), Ok(()));
    }

    #[test]
    fn an_address_counts_by_network() {
        let of = |text: &str| client(text.parse().unwrap());
        assert_eq!(of("192.0.2.7"), "address:192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "address:192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
    }
}
