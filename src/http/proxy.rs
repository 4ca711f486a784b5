//! Who is at the other end, where proxies stand between: `X-Forwarded-For`, `X-Forwarded-Proto` and the PROXY protocol, believed
//! only from networks that are configured. From anybody else the headers are as good as not there.
//!
//! `Forwarded` (RFC 7239) is not read: a proxy that writes one of the two and passes the other on would let its clients choose
//! who they are.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use hyper::{HeaderMap, header::HeaderName};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// Hops that are followed back.
const HOPS_MAX: usize = 32;
/// Longest header of version 1 (the specification's).
const V1_BYTES_MAX: usize = 107;
/// Longest body of version 2: addresses and what is said of TLS.
const V2_BYTES_MAX: usize = 2048;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(drop)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(drop)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(()) } else { Ok(Network { address, bits }) }
    }
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        let left = |bits: u8, width: u32| width - u32::from(bits);
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(left(self.bits, 32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(left(self.bits, 128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Whom a listener believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `listen.trusted_proxies`.
    pub trusted: Vec<Network>,
    /// `listen.proxy_protocol`: a trusted one begins each connection with a PROXY header.
    pub protocol: bool,
}

/// The other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) peer: SocketAddr,
    /// The client came by TLS, here or at a proxy.
    pub(super) https: bool,
}

impl Proxies {
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.holds(address))
    }

    /// Whether a connection from there begins with a PROXY header.
    pub(super) fn announces(&self, address: IpAddr) -> bool {
        self.protocol && self.trusts(address)
    }

    /// Who sent a request with these headers, over a connection with this origin.
    pub(super) fn client(&self, origin: Origin, headers: &HeaderMap) -> Origin {
        if self.trusted.is_empty() || !self.trusts(origin.peer.ip()) {
            return origin;
        }
        let mut client = origin;
        // Each proxy adds on the right whom it had before it: the first from there that is none of ours is the client. What
        // stands further left is what that one says.
        let hops = |value: &str| value.split(',').rev().map(|hop| address(hop.trim())).collect::<Vec<_>>();
        let values = headers.get_all(HeaderName::from_static("x-forwarded-for")).iter().rev();
        let hops = values.flat_map(|value| value.to_str().map(hops).unwrap_or_else(|_| vec![None]));
        for hop in hops.take(HOPS_MAX) {
            let Some(hop) = hop else { break };
            client.peer = SocketAddr::new(hop, 0);
            if !self.trusts(hop) {
                break;
            }
        }
        let proto = headers.get_all(HeaderName::from_static("x-forwarded-proto")).iter().next_back();
        if let Some(proto) = proto.and_then(|value| value.to_str().ok()?.rsplit(',').next()) {
            client.https = proto.trim().eq_ignore_ascii_case("https");
        }
        client
    }
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let found = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    found.map(|address| address.to_canonical())
}

/// Takes the PROXY header off the front of a connection (version 1 or 2), and nothing behind it.
///
/// # Errors
///
/// There is none, or one that cannot be read: the connection is not to be used.
pub(super) async fn announced(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<Origin> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let own = Origin { peer, https: false };
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    if &head == V2_SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [version, family, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > V2_BYTES_MAX {
            return Err(bad());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return match version {
            // The proxy's own, to see whether somebody is here.
            0x20 => Ok(own),
            0x21 => version_2(own, family, &body).ok_or_else(bad),
            _ => Err(bad()),
        };
    }
    let mut line = head.to_vec();
    // Byte by byte, for what comes behind the line is not ours; proxies send it in one packet.
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_BYTES_MAX || !line.starts_with(b"PROXY ") {
            return Err(bad());
        }
        line.push(stream.read_u8().await?);
    }
    std::str::from_utf8(&line).ok().and_then(|line| version_1(own, line.trim_end())).ok_or_else(bad)
}

fn version_1(own: Origin, line: &str) -> Option<Origin> {
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(own);
    }
    let (source, _, port) = (words.next()?, words.next()?, words.next()?);
    let ip: IpAddr = match family {
        "TCP4" => source.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => source.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    Some(Origin { peer: SocketAddr::new(ip.to_canonical(), port.parse().ok()?), ..own })
}

fn version_2(own: Origin, family: u8, body: &[u8]) -> Option<Origin> {
    /// What the proxy says of TLS between the client and itself.
    const SSL: u8 = 0x20;
    let (ip, port, mut rest): (IpAddr, _, _) = match family {
        0x11 => {
            let (addresses, rest) = body.split_at_checked(12)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = addresses else { return None };
            (Ipv4Addr::new(*a, *b, *c, *d).into(), [*high, *low], rest)
        }
        0x21 => {
            let (addresses, rest) = body.split_at_checked(36)?;
            let source: [u8; 16] = addresses.get(..16)?.try_into().ok()?;
            (Ipv6Addr::from(source).to_canonical(), addresses.get(32..34)?.try_into().ok()?, rest)
        }
        // Neither TCP nor an address: the connection itself is all there is to know.
        _ => return Some(own),
    };
    let mut origin = Origin { peer: SocketAddr::new(ip, u16::from_be_bytes(port)), ..own };
    while let Some(([kind, high, low], behind)) = rest.split_first_chunk::<3>() {
        let (value, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if *kind == SSL {
            origin.https = value.first().is_some_and(|client| client & 1 == 1);
        }
        rest = behind;
    }
    Some(origin)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    fn proxies(trusted: &[&str]) -> Proxies {
        Proxies { trusted: trusted.iter().map(|text| text.parse().unwrap()).collect(), protocol: true }
    }

    #[test]
    fn networks() {
        for (network, address, holds) in [
            ("10.0.0.0/8", "10.255.1.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::/0", "2001:db8::1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.holds(address.parse().unwrap()), holds, "{network:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::1/129", "x", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_from_the_right_that_is_no_proxy_is_the_client() {
        let known = proxies(&["10.0.0.0/8", "2001:db8:ffff::/48"]);
        for (peer, forwarded, client) in [
            ("10.0.0.1", &["203.0.113.5"][..], "203.0.113.5"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
            ("10.0.0.1", &["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
            ("10.0.0.1", &["203.0.113.5", "10.0.0.3, 10.0.0.2"], "203.0.113.5"),
            ("10.0.0.1", &["203.0.113.5:4711"], "203.0.113.5"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:203.0.113.5"], "203.0.113.5"),
            ("::ffff:10.0.0.1", &["203.0.113.5"], "203.0.113.5"),
            ("2001:db8:ffff::1", &["203.0.113.5"], "203.0.113.5"),
            // All of them ours: the one furthest away.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What cannot be read ends it, and what stands left of it is not believed.
            ("10.0.0.1", &["203.0.113.5, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.5, x, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            // Nobody's proxy.
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
            }
            let origin = Origin { peer: SocketAddr::new(peer.parse().unwrap(), 1), https: false };
            let found = known.client(origin, &headers).peer.ip().to_canonical();
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-proto", HeaderValue::from_static("http, HTTPS"));
        let from = |peer: &str| known.client(Origin { peer: peer.parse().unwrap(), https: false }, &headers).https;
        assert!(from("10.0.0.1:1") && !from("203.0.113.9:1"));
    }

    async fn read(bytes: Vec<u8>) -> (Option<Origin>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let origin = announced(&mut stream, "10.0.0.1:9".parse().unwrap()).await.ok();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (origin, rest)
    }

    #[tokio::test]
    async fn a_proxy_header_is_taken_off_and_nothing_behind_it() {
        let v2 = |command: u8, family: u8, body: &[u8]| {
            let mut bytes = V2_SIGNATURE.to_vec();
            bytes.extend([command, family]);
            bytes.extend((body.len() as u16).to_be_bytes());
            bytes.extend(body);
            bytes.extend(b"GET /");
            bytes
        };
        let four = [203, 0, 113, 5, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        let mut tls = four.to_vec();
        tls.extend([0x04, 0, 1, 7, 0x20, 0, 5, 1, 0, 0, 0, 0]);
        let six = [&"2001:db8::5".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 16], &[0x12, 0x67, 0, 80]].concat();
        for (bytes, peer, https) in [
            (b"PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\nGET /".to_vec(), "203.0.113.5:4711", false),
            (b"PROXY TCP6 2001:db8::5 ::1 4711 80\r\nGET /".to_vec(), "[2001:db8::5]:4711", false),
            (b"PROXY UNKNOWN\r\nGET /".to_vec(), "10.0.0.1:9", false),
            (b"PROXY UNKNOWN a b c d\r\nGET /".to_vec(), "10.0.0.1:9", false),
            (v2(0x21, 0x11, &four), "203.0.113.5:4711", false),
            (v2(0x21, 0x11, &tls), "203.0.113.5:4711", true),
            (v2(0x21, 0x21, &six), "[2001:db8::5]:4711", false),
            (v2(0x20, 0x11, &four), "10.0.0.1:9", false),
            (v2(0x21, 0x00, &[]), "10.0.0.1:9", false),
        ] {
            let (origin, rest) = read(bytes.clone()).await;
            assert_eq!(origin, Some(Origin { peer: peer.parse().unwrap(), https }), "{bytes:?}");
            assert_eq!(rest, b"GET /");
        }
        let mut short = v2(0x21, 0x11, &four);
        short.truncate(20);
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 x 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.5\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.5 10.0.0.1 471111 80\r\n".to_vec(),
            [b"PROXY TCP4 ", &[b'1'; 200][..]].concat(),
            v2(0x31, 0x11, &four),
            v2(0x21, 0x11, &four[..11]),
            short,
            b"PROXY".to_vec(),
        ] {
            assert_eq!(read(bytes.clone()).await.0, None, "{bytes:?}");
        }
    }
}
