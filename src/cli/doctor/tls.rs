//! Certificates: that they can be used, how long they are good, that they name the address people use.

use std::path::Path;

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
};

use super::Report;
use crate::{
    config::Config,
    http::{Tls, TlsOptions},
    metrics::unix_ms,
};

/// A certificate that ends sooner should have been renewed already.
const WARN_DAYS: i64 = 14;
const DAY_S: i64 = 86_400;

pub(super) fn check(report: &mut Report, config: &Config) {
    let both = [("listen.public_tls", &config.public_tls), ("listen.ops_tls", &config.ops_tls)];
    for (name, options) in both.into_iter().filter_map(|(name, options)| Some((name, options.as_ref()?))) {
        if let Err(text) = Tls::open(options.clone()) {
            report.fail(name, text, "the daemon does not start with it");
            continue;
        }
        let Some(certificate) = CertificateDer::pem_file_iter(&options.certificate).ok().and_then(|mut all| all.next()?.ok())
        else {
            continue;
        };
        validity(report, name, options, &certificate);
        let host = config.http.external_url.as_deref().filter(|_| name == "listen.public_tls").and_then(host);
        if let Some(host) = host
            && let (Ok(parsed), Ok(server)) = (ParsedCertificate::try_from(&certificate), ServerName::try_from(host))
            && verify_server_name(&parsed, &server).is_err()
        {
            report.warn(
                name,
                format!("the certificate does not name {host}, the host of listen.external_url"),
                "browsers refuse it",
            );
        }
        private(report, name, &options.key);
    }
}

fn validity(report: &mut Report, name: &str, options: &TlsOptions, certificate: &CertificateDer<'_>) {
    let shown = options.certificate.display();
    let now_s = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
    match valid(certificate) {
        None => report.warn(name, format!("{shown}: its time cannot be read"), "see openssl x509 -noout -dates"),
        Some((from_s, _)) if from_s > now_s => report.fail(name, format!("{shown} is not good yet"), "see the machine's clock"),
        Some((_, until_s)) if until_s <= now_s => report.fail(name, format!("{shown} has ended"), "renew it"),
        Some((_, until_s)) => {
            let days = (until_s - now_s) / DAY_S;
            let text = format!("{shown} is good for {days} days");
            if days < WARN_DAYS { report.warn(name, text, "renew it") } else { report.ok(name, text) }
        }
    }
}

fn private(report: &mut Report, name: &str, key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::metadata(key).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0) {
        let shown = key.display();
        report.warn(name, format!("everybody on this machine may read {shown}"), format!("chmod 640 {shown}"));
    }
}

/// The host of a URL.
fn host(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    }
}

/// From when until when a certificate is good, Unix s. Of X.509 (RFC 5280 §4.1) just what leads there.
fn valid(certificate: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, validity, _) = element(rest)? else { return None };
    let (kind, from, rest) = element(validity)?;
    let from_s = time(kind, from)?;
    let (kind, until, _) = element(rest)?;
    Some((from_s, time(kind, until)?))
}

/// The first element of DER: its kind, its content, what comes behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(kind: u8, text: &[u8]) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match kind {
        // Two digits are of 1950 to 2049.
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &text).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::{host, valid};

    #[test]
    fn when_a_certificate_ends() {
        for (from, until, wanted) in [
            (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 2), (1_577_836_800, 1_893_542_400)),
            // Beyond 2049 it is written otherwise.
            (date_time_ymd(1999, 12, 31), date_time_ymd(2050, 1, 1), (946_598_400, 2_524_608_000)),
        ] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            (params.not_before, params.not_after) = (from, until);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(valid(certificate.der()), Some(wanted));
            for cut in 0..certificate.der().len() {
                let cut = certificate.der().get(..cut).unwrap_or_default();
                assert!(valid(cut).is_none_or(|found| found == wanted));
            }
        }
    }

    #[test]
    fn hosts() {
        for (url, wanted) in [
            ("https://audit.example", "audit.example"),
            ("https://audit.example:8443/x", "audit.example"),
            ("https://[2001:db8::1]:8443", "2001:db8::1"),
        ] {
            assert_eq!(host(url), Some(wanted));
        }
    }
}
