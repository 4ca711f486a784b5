//! `[listen]`: addresses, TLS, whom to believe.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    ask::{Ask, quoted},
    rooms::{MINUTE, MS, SECOND, address, ask_too_many, optional},
    url,
};
use crate::http::{Network, Proxies, TlsOptions};

const ORIGINS_MAX: usize = 256;
const NETWORKS_MAX: usize = 256;
/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

pub(super) struct Listen {
    pub public: SocketAddr,
    pub ops: SocketAddr,
    pub public_tls: Option<TlsOptions>,
    pub ops_tls: Option<TlsOptions>,
    pub external_url: Option<String>,
    pub cors_origins: Vec<String>,
    pub security_headers: bool,
    pub proxies: Proxies,
    pub metrics_token: Option<Vec<u8>>,
    pub header_timeout: Duration,
    pub shutdown_grace: Duration,
}

pub(super) fn read(root: &Ask<'_>) -> Listen {
    let listen = root.section("listen");
    let public = address(&listen, "public");
    let ops = address(&listen, "ops");
    if public == ops && public.port() != 0 {
        listen.fault("ops", format!("expected another address than listen.public, found {public} for both"));
    }
    let read = Listen {
        public,
        ops,
        public_tls: tls(&listen.section("public_tls")),
        ops_tls: tls(&listen.section("ops_tls")),
        external_url: optional(&listen, "external_url", "a URL such as \"https://auditcast.example\"", url::http_url),
        cors_origins: origins(&listen),
        security_headers: listen.boolean("security_headers"),
        proxies: proxies(&listen),
        metrics_token: metrics_token(&listen),
        header_timeout: listen.duration("header_timeout", MS * 100, MINUTE * 5),
        shutdown_grace: listen.duration("shutdown_grace", SECOND, MINUTE * 10),
    };
    listen.done();
    read
}

fn path(ask: &Ask<'_>, name: &str) -> Option<PathBuf> {
    let some = |text: &str| (!text.contains('\0')).then(|| PathBuf::from(text));
    optional(ask, name, "the path of a PEM file", some)
}

/// The files are read by who uses them: they change while the daemon runs.
fn tls(ask: &Ask<'_>) -> Option<TlsOptions> {
    let (certificate, key, client_ca) = (path(ask, "certificate"), path(ask, "key"), path(ask, "client_ca"));
    let client_required = ask.boolean("client_required");
    let only_13 = ask.word("min_version", &["1.2", "1.3"]) == "1.3";
    if client_required && client_ca.is_none() {
        ask.fault("client_required", "expected client_ca beside it, which says whose certificates are taken");
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(TlsOptions { certificate, key, client_ca, client_required, only_13 }),
        (Some(_), None) => {
            ask.fault("certificate", "expected key beside it, the path of the certificate's key");
            None
        }
        (None, Some(_)) => {
            ask.fault("key", "expected certificate beside it, the path of the key's certificate");
            None
        }
        (None, None) => {
            if client_ca.is_some() {
                ask.fault("client_ca", "expected certificate and key beside it: there is no TLS without them");
            }
            None
        }
    }
}

fn origins(ask: &Ask<'_>) -> Vec<String> {
    let mut origins: Vec<String> = Vec::new();
    for (text, origin) in ask.texts("cors_origins") {
        match url::origin_of(&text) {
            Some(read) if origins.len() < ORIGINS_MAX => {
                if !origins.contains(&read) {
                    origins.push(read);
                }
            }
            Some(_) => return ask_too_many(ask, "cors_origins", ORIGINS_MAX, origins),
            None if text.trim() == "*" => {
                let text = "expected origins by name, found \"*\": a browser sends the sign-in cookie along for any page";
                ask.fault_at(origin, &ask.key("cors_origins"), text);
            }
            None => {
                let text = format!("expected an origin such as \"https://admin.example\", found {}", quoted(&text));
                ask.fault_at(origin, &ask.key("cors_origins"), text);
            }
        }
    }
    origins
}

fn proxies(ask: &Ask<'_>) -> Proxies {
    let mut trusted: Vec<Network> = Vec::new();
    for (text, origin) in ask.texts("trusted_proxies") {
        match text.trim().parse() {
            Ok(_) if trusted.len() >= NETWORKS_MAX => trusted = ask_too_many(ask, "trusted_proxies", NETWORKS_MAX, trusted),
            Ok(network) => trusted.push(network),
            Err(()) => {
                let text = format!("expected a network such as \"10.0.0.0/8\", found {}", quoted(&text));
                ask.fault_at(origin, &ask.key("trusted_proxies"), text);
            }
        }
    }
    let protocol = ask.boolean("proxy_protocol");
    if protocol && trusted.is_empty() {
        ask.fault("proxy_protocol", "expected trusted_proxies beside it, which say whose headers are believed");
    }
    Proxies { trusted, protocol }
}

fn metrics_token(ask: &Ask<'_>) -> Option<Vec<u8>> {
    let token = ask.secret("metrics_token")?;
    if token.len() < TOKEN_BYTES_MIN || !token.iter().all(u8::is_ascii_graphic) {
        let text = format!("expected at least {TOKEN_BYTES_MIN} visible ASCII characters; make one with: openssl rand -hex 24");
        ask.fault("metrics_token", text);
    }
    Some(token)
}
