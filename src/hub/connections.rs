//! Who is connected: reserved before anything is promised, released by a guard's drop.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Hub, unpoisoned};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    WebSocket,
    Sse,
}

impl Transport {
    /// The label `transport`.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Sse => "sse",
        }
    }
}

/// One connection, for `GET /connections`.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Counts up from 1 in this process.
    pub id: u64,
    /// `None` until the first frame brought a token.
    pub user_id: Option<String>,
    pub jti: Option<String>,
    pub address: IpAddr,
    pub transport: Transport,
    /// Unix ms.
    pub since_ms: u64,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `limits.connections`.
    Node,
    /// `limits.memory`.
    Memory,
    /// `limits.connections_per_user`.
    User,
}

#[derive(Default)]
pub(super) struct Registry {
    last: u64,
    connections: BTreeMap<u64, ConnectionInfo>,
    /// Set where a connection has been told to go.
    ended: HashMap<u64, Arc<AtomicBool>>,
    per_user: HashMap<String, usize>,
}

/// A place among the connections; given back by its drop.
pub struct Connection {
    id: u64,
    ended: Arc<AtomicBool>,
    registry: Arc<Mutex<Registry>>,
}

impl Hub {
    /// Takes a place, if there are fewer than `connections_max` and memory for one more.
    pub fn reserve(
        &self,
        transport: Transport,
        address: IpAddr,
        since_ms: u64,
        connections_max: usize,
    ) -> Result<Connection, Full> {
        if self.memory_full.load(Ordering::Relaxed) {
            return Err(Full::Memory);
        }
        let mut registry = unpoisoned(self.registry.lock());
        if registry.connections.len() >= connections_max {
            return Err(Full::Node);
        }
        registry.last += 1;
        let id = registry.last;
        registry.connections.insert(id, ConnectionInfo { id, user_id: None, jti: None, address, transport, since_ms });
        let ended = Arc::new(AtomicBool::new(false));
        registry.ended.insert(id, ended.clone());
        Ok(Connection { id, ended, registry: self.registry.clone() })
    }

    /// Above `limits.memory` nobody new gets a place; who has one keeps it.
    pub fn set_memory_full(&self, full: bool) {
        self.memory_full.store(full, Ordering::Relaxed);
    }

    /// Everybody who is connected to this node, in the order they came.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        unpoisoned(self.registry.lock()).connections.values().cloned().collect()
    }

    /// Tells every connection to go that `which` holds for, and how many those are. They say `bye` and are gone soon after.
    pub fn disconnect(&self, mut which: impl FnMut(&ConnectionInfo) -> bool) -> usize {
        let count = {
            let registry = unpoisoned(self.registry.lock());
            let told = registry.connections.values().filter(|info| which(info)).filter_map(|info| registry.ended.get(&info.id));
            told.map(|ended| ended.store(true, Ordering::Relaxed)).count()
        };
        if count > 0 {
            self.wake();
        }
        count
    }
}

impl Connection {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Somebody who may has ended this connection: [`Hub::disconnect`], which wakes whoever waits on the hub.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Says whose it is, if that user has fewer than `per_user_max`. Once per connection; the same user again is fine.
    pub fn name(&self, user_id: &str, jti: Option<&str>, per_user_max: usize) -> Result<(), Full> {
        let mut registry = unpoisoned(self.registry.lock());
        let registry = &mut *registry;
        let Some(info) = registry.connections.get_mut(&self.id) else { return Ok(()) };
        info.jti = jti.map(str::to_owned);
        if info.user_id.is_some() {
            return Ok(());
        }
        let count = registry.per_user.get(user_id).copied().unwrap_or_default();
        if count >= per_user_max {
            return Err(Full::User);
        }
        registry.per_user.insert(user_id.to_owned(), count + 1);
        info.user_id = Some(user_id.to_owned());
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut registry = unpoisoned(self.registry.lock());
        registry.ended.remove(&self.id);
        let Some(user_id) = registry.connections.remove(&self.id).and_then(|info| info.user_id) else { return };
        if let Some(count) = registry.per_user.get_mut(&user_id) {
            *count -= 1;
            if *count == 0 {
                registry.per_user.remove(&user_id);
            }
        }
    }
}
