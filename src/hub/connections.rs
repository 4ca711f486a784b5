//! Who is connected: reserved before anything is promised, released by a guard's drop.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, atomic::Ordering},
};

use super::{Hub, network, unpoisoned};
use crate::{auth::Principal, wire::CloseCode};

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
    /// `limits.connections_per_address`.
    Address,
}

/// How many connections there may be at once.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub all: usize,
    /// Of them, of one address; see [`network`].
    pub per_address: usize,
}

/// A connection as the registry and its owner share it.
struct Entry {
    id: u64,
    address: IpAddr,
    transport: Transport,
    since_ms: u64,
    /// Has been told to go, and why.
    ended: OnceLock<CloseCode>,
}

impl Entry {
    /// The first reason stays.
    fn end(&self, code: CloseCode) {
        let _ = self.ended.set(code);
    }
}

/// Whose connection it is.
struct Named {
    /// Shared by all connections of a user.
    user_id: Arc<str>,
    jti: Option<Box<str>>,
    /// `exp` of its token, Unix ms.
    expires_at_ms: u64,
}

/// Whom a connection speaks for.
pub struct Bearer<'a> {
    pub user_id: &'a str,
    pub jti: Option<&'a str>,
    /// `exp` of its token, Unix ms.
    pub expires_at_ms: u64,
}

impl Named {
    fn bearer(&self) -> Bearer<'_> {
        Bearer { user_id: &self.user_id, jti: self.jti.as_deref(), expires_at_ms: self.expires_at_ms }
    }
}

#[derive(Default)]
pub(super) struct Registry {
    last: u64,
    connections: BTreeMap<u64, (Arc<Entry>, Option<Named>)>,
    per_user: HashMap<Arc<str>, usize>,
    per_address: HashMap<IpAddr, usize>,
}

/// A place among the connections; given back by its drop.
pub struct Connection {
    entry: Arc<Entry>,
    registry: Arc<Mutex<Registry>>,
}

impl Hub {
    /// Takes a place, if there is one, and memory for it.
    pub fn reserve(&self, transport: Transport, address: IpAddr, since_ms: u64, places: Places) -> Result<Connection, Full> {
        if self.memory_full.load(Ordering::Relaxed) {
            return Err(Full::Memory);
        }
        let mut registry = unpoisoned(self.registry.lock());
        if registry.connections.len() >= places.all {
            return Err(Full::Node);
        }
        if let Some(network) = network(address) {
            let count = registry.per_address.entry(network).or_default();
            if *count >= places.per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        registry.last += 1;
        let id = registry.last;
        let entry = Arc::new(Entry { id, address, transport, since_ms, ended: OnceLock::new() });
        registry.connections.insert(id, (entry.clone(), None));
        Ok(Connection { entry, registry: self.registry.clone() })
    }

    /// Above `limits.memory` nobody new gets a place; who has one keeps it.
    pub fn set_memory_full(&self, full: bool) {
        self.memory_full.store(full, Ordering::Relaxed);
    }

    /// Everybody who is connected to this node, in the order they came.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        unpoisoned(self.registry.lock()).connections.values().map(info).collect()
    }

    /// Tells every connection to go that `which` holds for, and how many those are. They say `bye` and are gone soon after.
    pub fn disconnect(&self, mut which: impl FnMut(&ConnectionInfo) -> bool) -> usize {
        let count = {
            let registry = unpoisoned(self.registry.lock());
            let told = registry.connections.values().filter(|connection| which(&info(connection)));
            told.inspect(|(entry, _)| entry.end(CloseCode::Forbidden)).count()
        };
        self.told(count)
    }

    /// As [`Hub::disconnect`], by whom connections speak for, saying why.
    pub fn end(&self, code: CloseCode, mut which: impl FnMut(&Bearer<'_>) -> bool) -> usize {
        let count = {
            let registry = unpoisoned(self.registry.lock());
            let named = registry.connections.values().filter_map(|(entry, named)| Some((entry, named.as_ref()?)));
            named.filter(|(_, named)| which(&named.bearer())).filter(|(entry, _)| entry.ended.set(code).is_ok()).count()
        };
        self.told(count)
    }

    fn told(&self, count: usize) -> usize {
        if count > 0 {
            self.disconnections.fetch_add(1, Ordering::Release);
            self.wake();
        }
        count
    }

    /// Looks at everybody who is in and has said who he is.
    pub fn each_bearer(&self, mut look: impl FnMut(&Bearer<'_>)) {
        let registry = unpoisoned(self.registry.lock());
        registry.connections.values().filter_map(|(_, named)| named.as_ref()).for_each(|named| look(&named.bearer()));
    }

    /// How often [`Hub::disconnect`] has ended somebody.
    pub fn disconnections(&self) -> u64 {
        self.disconnections.load(Ordering::Acquire)
    }
}

fn info((entry, named): &(Arc<Entry>, Option<Named>)) -> ConnectionInfo {
    ConnectionInfo {
        id: entry.id,
        user_id: named.as_ref().map(|named| named.user_id.to_string()),
        jti: named.as_ref().and_then(|named| named.jti.as_deref()).map(str::to_owned),
        address: entry.address,
        transport: entry.transport,
        since_ms: entry.since_ms,
    }
}

impl Connection {
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    pub fn address(&self) -> IpAddr {
        self.entry.address
    }

    /// Why this connection has been ended from elsewhere ([`Hub::disconnect`], [`Hub::end`], which wake whoever waits on the
    /// hub), if it has.
    pub fn ended(&self) -> Option<CloseCode> {
        self.entry.ended.get().copied()
    }

    /// Whose it is, once that has been said.
    pub fn user_id(&self) -> Option<Arc<str>> {
        let registry = unpoisoned(self.registry.lock());
        registry.connections.get(&self.entry.id)?.1.as_ref().map(|named| named.user_id.clone())
    }

    /// Says whose it is, if that user has fewer than `per_user_max`. Once per connection; the same user again is fine.
    pub fn name(&self, principal: &Principal, per_user_max: usize) -> Result<(), Full> {
        let user_id = principal.user_id.as_str();
        let (jti, expires_at_ms) = (principal.jti.as_deref().map(Box::from), principal.expires_at_ms);
        let mut registry = unpoisoned(self.registry.lock());
        let registry = &mut *registry;
        let Some((_, named)) = registry.connections.get_mut(&self.entry.id) else { return Ok(()) };
        if let Some(named) = named {
            (named.jti, named.expires_at_ms) = (jti, expires_at_ms);
            return Ok(());
        }
        let known = registry.per_user.get_key_value(user_id).map(|(user_id, count)| (user_id.clone(), *count));
        let (user_id, count) = known.unwrap_or_else(|| (user_id.into(), 0));
        if count >= per_user_max {
            return Err(Full::User);
        }
        registry.per_user.insert(user_id.clone(), count + 1);
        *named = Some(Named { user_id, jti, expires_at_ms });
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut registry = unpoisoned(self.registry.lock());
        let Some((entry, named)) = registry.connections.remove(&self.entry.id) else { return };
        if let Some(network) = network(entry.address)
            && let Some(count) = registry.per_address.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                registry.per_address.remove(&network);
            }
        }
        let Some(named) = named else { return };
        if let Some(count) = registry.per_user.get_mut(&named.user_id) {
            *count -= 1;
            if *count == 0 {
                registry.per_user.remove(&named.user_id);
            }
        }
    }
}
