//! Who is connected: reserved before anything is promised, released by a guard's drop.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Hub, network, unpoisoned};
use crate::{
    auth::{Principal, may_see},
    wire::CloseCode,
};

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
    /// Has other permissions than its client was told.
    changed: AtomicBool,
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
    /// `exp` and `iat` of its token, Unix ms.
    expires_at_ms: u64,
    issued_at_ms: Option<u64>,
    /// What its token and its roles permit; shared by all who may do the same.
    claimed: Arc<[String]>,
}

/// Whom a connection speaks for.
pub struct Bearer<'a> {
    pub user_id: &'a str,
    pub jti: Option<&'a str>,
    /// `exp` and `iat` of its token, Unix ms.
    pub expires_at_ms: u64,
    pub issued_at_ms: Option<u64>,
}

impl Named {
    fn bearer(&self) -> Bearer<'_> {
        Bearer {
            user_id: &self.user_id,
            jti: self.jti.as_deref(),
            expires_at_ms: self.expires_at_ms,
            issued_at_ms: self.issued_at_ms,
        }
    }
}

/// Somebody who has connections.
struct User {
    connections: usize,
    /// What the store grants.
    granted: Arc<[String]>,
}

/// What [`Connection::name`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Agreed,
    /// The user's other connections go by other permissions: one of the two is out of date.
    Differs,
}

#[derive(Default)]
pub(super) struct Registry {
    last: u64,
    connections: BTreeMap<u64, (Arc<Entry>, Option<Named>)>,
    per_address: HashMap<IpAddr, usize>,
    users: HashMap<Arc<str>, User>,
    /// Sets of permissions that tokens bring.
    claims: HashSet<Arc<[String]>>,
}

impl Registry {
    /// One copy for all who have the same.
    fn share(&mut self, claimed: &[String]) -> Arc<[String]> {
        if let Some(known) = self.claims.get(claimed) {
            return known.clone();
        }
        let claimed: Arc<[String]> = claimed.into();
        self.claims.insert(claimed.clone());
        claimed
    }

    fn unshare(&mut self, claimed: Arc<[String]>) {
        // The set's own, and this one.
        if Arc::strong_count(&claimed) <= 2 {
            self.claims.remove(&claimed);
        }
    }
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
        let entry = Arc::new(Entry { id, address, transport, since_ms, ended: OnceLock::new(), changed: AtomicBool::new(false) });
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

    /// What the store grants these users now. Whose connections may no longer see ends with [`CloseCode::Forbidden`]; whose
    /// permissions are others than they were is told so ([`Connection::news`]). Gives how many of either there are.
    pub fn grant(&self, granted: &HashMap<String, Vec<String>>) -> (usize, usize) {
        let (mut ended, mut told) = (0, 0);
        {
            let mut registry = unpoisoned(self.registry.lock());
            // Whether they are others than before.
            let mut concerned: HashMap<Arc<str>, bool> = HashMap::new();
            for (user_id, granted) in granted {
                let Some((user_id, _)) = registry.users.get_key_value(user_id.as_str()) else { continue };
                let user_id = user_id.clone();
                let Some(user) = registry.users.get_mut(&user_id) else { continue };
                let changed = *user.granted != **granted;
                if changed {
                    user.granted = granted.as_slice().into();
                }
                concerned.insert(user_id, changed);
            }
            for (entry, named) in registry.connections.values() {
                let Some(named) = named else { continue };
                let Some(changed) = concerned.get(&named.user_id) else { continue };
                let granted = registry.users.get(&named.user_id).map(|user| &*user.granted).unwrap_or_default();
                // Judged also where nothing has changed: who came in meanwhile did so by what the store said then.
                if !may_see(&named.claimed) && !may_see(granted) {
                    ended += usize::from(entry.ended.set(CloseCode::Forbidden).is_ok());
                } else if *changed {
                    entry.changed.store(true, Ordering::Relaxed);
                    told += 1;
                }
            }
        }
        self.told(ended + told);
        (ended, told)
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

    /// The permissions that its client has not been told of yet, once: the token's and the store's together.
    pub fn news(&self) -> Option<Vec<String>> {
        if !self.entry.changed.swap(false, Ordering::Relaxed) {
            return None;
        }
        let registry = unpoisoned(self.registry.lock());
        let named = registry.connections.get(&self.entry.id)?.1.as_ref()?;
        let granted = registry.users.get(&named.user_id).map(|user| &*user.granted).unwrap_or_default();
        let mut all: Vec<String> = named.claimed.iter().chain(granted).cloned().collect();
        all.sort_unstable();
        all.dedup();
        Some(all)
    }

    /// Whose it is, once that has been said.
    pub fn user_id(&self) -> Option<Arc<str>> {
        let registry = unpoisoned(self.registry.lock());
        registry.connections.get(&self.entry.id)?.1.as_ref().map(|named| named.user_id.clone())
    }

    /// Says whose it is, if that user has fewer than `per_user_max`; again with a newer token of the same user. What the store
    /// grants is taken over with a user's first connection, and then goes by [`Hub::grant`], which judges all of them.
    pub fn name(&self, principal: &Principal, per_user_max: usize) -> Result<Known, Full> {
        let mut registry = unpoisoned(self.registry.lock());
        let registry = &mut *registry;
        let claimed = registry.share(&principal.claimed);
        let before = match registry.connections.get(&self.entry.id) {
            None => return Ok(Known::Agreed),
            Some((_, named)) => named.as_ref().map(|named| named.user_id.clone()),
        };
        let known = registry.users.get_key_value(principal.user_id.as_str()).map(|(user_id, _)| user_id.clone());
        let user_id = before.clone().or(known).unwrap_or_else(|| principal.user_id.as_str().into());
        let user = match registry.users.get_mut(&user_id) {
            Some(user) => user,
            None => {
                let user = User { connections: 0, granted: principal.granted.as_slice().into() };
                registry.users.entry(user_id.clone()).or_insert(user)
            }
        };
        let known = if *user.granted == *principal.granted { Known::Agreed } else { Known::Differs };
        if before.is_none() {
            if user.connections >= per_user_max {
                if user.connections == 0 {
                    registry.users.remove(&user_id);
                }
                registry.unshare(claimed);
                return Err(Full::User);
            }
            user.connections += 1;
        }
        let named = Named {
            user_id,
            jti: principal.jti.as_deref().map(Box::from),
            expires_at_ms: principal.expires_at_ms,
            issued_at_ms: principal.issued_at_ms,
            claimed,
        };
        let Some((entry, place)) = registry.connections.get_mut(&self.entry.id) else { return Ok(known) };
        if let Some(old) = place.replace(named) {
            let differs = place.as_ref().is_some_and(|named| named.claimed != old.claimed);
            entry.changed.fetch_or(differs, Ordering::Relaxed);
            registry.unshare(old.claimed);
        }
        Ok(known)
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
        if let Some(user) = registry.users.get_mut(&named.user_id) {
            user.connections -= 1;
            if user.connections == 0 {
                registry.users.remove(&named.user_id);
            }
        }
        registry.unshare(named.claimed);
    }
}
