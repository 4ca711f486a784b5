//! Addresses and networks. IPv4 within IPv6 (`::ffff:192.0.2.7`) is the IPv4 address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An address as logs have it; `None` where it is none.
pub fn address(text: &str) -> Option<IpAddr> {
    IpAddr::from_str(text.trim()).ok().map(|ip| ip.to_canonical())
}

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of an address; bits behind the prefix are cut off. `None`: the prefix is longer than the address.
    pub fn of(ip: IpAddr, prefix: u8) -> Option<Network> {
        let base = match ip {
            IpAddr::V4(ip) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Network { base, prefix })
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        Network::of(ip, self.prefix).is_some_and(|network| network.base == self.base)
    }
}

impl FromStr for Network {
    type Err = String;

    /// `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`. Bits behind the prefix are refused: they are a slip.
    fn from_str(text: &str) -> Result<Network, String> {
        let bad = || format!("expected an address or a network such as \"10.0.0.0/8\", found \"{text}\"");
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let ip = IpAddr::from_str(ip).map_err(|_| bad())?;
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        let network = Network::of(ip, prefix.unwrap_or(whole)).ok_or_else(bad)?;
        if network.base != ip {
            return Err(format!("expected a network without bits behind its prefix, such as \"{network}\", found \"{text}\""));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.base, self.prefix) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{}", self.base),
            (base, prefix) => write!(f, "{base}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_they_hold() {
        for (network, ip, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("2001:db8::/32", "2001:db8:1::7", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address(ip).unwrap()), inside, "{network} {ip}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "::/129", "x", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        assert_eq!(address(" 10.0.0.1 "), address("10.0.0.1"));
        assert_eq!(address("10.0.0.1:80"), None);
    }
}
