//! How many sockets one address may hold open at once.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::hub;

pub(super) struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize, ahash::RandomState>>,
}

/// An address's place; given back by its drop.
pub(super) struct Place(Option<(Arc<Addresses>, IpAddr)>);

impl Addresses {
    pub(super) fn new(max: usize) -> Arc<Addresses> {
        Arc::new(Addresses { max, open: Mutex::default() })
    }

    /// `None`: that address has all it may. What is shared by many (this machine's own addresses) is not counted.
    pub(super) fn take(self: &Arc<Addresses>, address: IpAddr) -> Option<Place> {
        let Some(network) = hub::network(address) else { return Some(Place(None)) };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(network).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place(Some((self.clone(), network))))
    }
}

impl Place {
    /// Of a connection that is counted elsewhere, or not at all.
    pub(super) fn none() -> Place {
        Place(None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((addresses, network)) = self.0.take() else { return };
        let mut open = addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_an_address_and_nothing_is_kept_of_who_is_gone() {
        let addresses = Addresses::new(2);
        let take = |text: &str| addresses.take(text.parse().unwrap());
        let (a, b) = (take("192.0.2.1"), take("::ffff:192.0.2.1"));
        assert!(a.is_some() && b.is_some() && take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
        drop(a);
        let again = take("192.0.2.1");
        assert!(again.is_some());
        let own: Vec<_> = (0..10).map(|_| take("127.0.0.1").is_some()).collect();
        assert!(own.iter().all(|taken| *taken));
        drop((b, again));
        assert!(addresses.open.lock().unwrap().is_empty());
    }
}
