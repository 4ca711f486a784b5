//! URLs, as far as configuration must tell good from bad and hide what is secret in them.

use std::path::PathBuf;

use crate::store::Target;

/// A URL without what stands before its `@`, which may be a password; also of a text that is no URL.
pub(super) fn masked(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        (_, Some(_)) => "***".to_owned(),
        _ => url.to_owned(),
    }
}

/// Reads `store.url`; `password` counts where it has none. Says what is wrong without saying what is in it.
pub(super) fn store_target(url: &str, password: Option<&str>) -> Result<Target, String> {
    let expected = "expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or embedded:DIR";
    if let Some(dir) = url.strip_prefix("embedded:") {
        if dir.is_empty() || dir.contains('\0') {
            return Err("expected a directory, embedded:DIR".to_owned());
        }
        return Ok(Target::Embedded(PathBuf::from(dir)));
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Err(expected.to_owned()) };
    if let "redis+sentinel" | "redis+cluster" = scheme {
        return Err(format!("{scheme}:// is not supported yet, use redis:// or rediss:// with the address of one primary"));
    }
    if !matches!(scheme, "redis" | "rediss") {
        return Err(expected.to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (userinfo, address) = authority.rsplit_once('@').map_or((None, authority), |(user, address)| (Some(user), address));
    if tail.contains('@') {
        return Err("a password in the URL must be percent-encoded, or be given by REDIS_PASSWORD".to_owned());
    }
    if !is_host_port(address) {
        return Err(format!("{expected}: its host or port is not one"));
    }
    let db = tail.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    if !db.is_empty() && db.parse::<u16>().is_err() {
        return Err(format!("{expected}: its database is not a number"));
    }
    let Some(password) = password.filter(|_| userinfo.is_none_or(|user| !user.contains(':') || user.ends_with(':'))) else {
        return Ok(Target::Redis(url.to_owned()));
    };
    let user = userinfo.unwrap_or_default().trim_end_matches(':');
    Ok(Target::Redis(format!("{scheme}://{user}:{}@{address}{tail}", percent_encoded(password))))
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `host`, `host:port`, `[v6]:port`.
fn is_host_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if port.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let host_ok = host.is_none_or(|host| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
    });
    host_ok && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// `http(s)://host[:port][/path][?query][#fragment]`, given back without a `/` at its end.
pub(super) fn http_url(text: &str) -> Option<String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let clean =
        text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'`'));
    (clean && is_host_port(&rest[..end])).then(|| text.trim_end_matches('/').to_owned())
}

/// The origin of a URL as a browser sends it: lower case, without a path.
pub(super) fn origin_of(url: &str) -> Option<String> {
    let url = http_url(url)?;
    let host = url.find("://")? + 3;
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    let origin = url[..end].to_ascii_lowercase();
    // Browsers leave the scheme's own port out.
    let default_port = if origin.starts_with("https:") { ":443" } else { ":80" };
    Some(origin.strip_suffix(default_port).unwrap_or(&origin).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, password: Option<&str>) -> String {
        match store_target(url, password) {
            Ok(Target::Redis(url)) => url,
            Ok(Target::Embedded(dir)) => format!("dir {}", dir.display()),
            Err(text) => format!("error {text}"),
        }
    }

    #[test]
    fn a_password_counts_where_the_url_has_none() {
        for (url, password, wanted) in [
            ("redis://h:6379/0", None, "redis://h:6379/0"),
            ("redis://h:6379/0", Some("p@ss/w:rd"), "redis://:p%40ss%2Fw%3Ard@h:6379/0"),
            ("redis://:own@h", Some("other"), "redis://:own@h"),
            ("rediss://app@h:1/2?protocol=resp3", Some("x"), "rediss://app:x@h:1/2?protocol=resp3"),
            ("redis://app:@h", Some("x"), "redis://app:x@h"),
            ("redis://[::1]:6379", Some("x"), "redis://:x@[::1]:6379"),
            ("embedded:/var/lib/auditcast", Some("x"), "dir /var/lib/auditcast"),
        ] {
            assert_eq!(target(url, password), wanted, "{url}");
        }
    }

    #[test]
    fn bad_urls_are_refused_and_never_shown() {
        for url in [
            "",
            "localhost",
            "http://h",
            "redis://",
            "redis://h:0",
            "redis://h:99999",
            "redis://h/x",
            "redis://a b",
            "embedded:",
            "redis://:pw/slash@h",
            "redis+sentinel://:pw@h",
            "redis+cluster://h",
            "redis://[::1",
            "redis://h:+1",
        ] {
            let text = target(url, None);
            assert!(text.starts_with("error "), "{url}: {text}");
            assert!(!text.contains("pw"), "{text}");
        }
    }

    #[test]
    fn what_may_be_secret_is_masked() {
        for (url, wanted) in [
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://user:pw@h:1/0", "redis://***@h:1/0"),
            ("redis://:p@w@h", "redis://***@h"),
            ("pw@h", "***"),
            ("embedded:dir", "embedded:dir"),
        ] {
            assert_eq!(masked(url), wanted);
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for (url, wanted) in [
            ("https://Admin.Example:8443/x", Some("https://admin.example:8443")),
            ("https://a.example:443", Some("https://a.example")),
            ("http://a.example/", Some("http://a.example")),
            ("*", None),
            ("a.example", None),
            ("https://", None),
        ] {
            assert_eq!(origin_of(url).as_deref(), wanted, "{url}");
        }
    }
}
