//! Identities that any node computes alike.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};

/// The first 32 hexadecimal characters of SHA-256 over the parts. Each part is preceded by its length, so no two lists of
/// parts read the same.
pub(super) fn identity(parts: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    let mut hex = String::with_capacity(32);
    for byte in context.finish().as_ref().iter().take(16) {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_eq!(identity(&["a", "b"]).len(), 32);
        assert_eq!(identity(&["a", "b"]), identity(&["a", "b"]));
        assert_ne!(identity(&["ab", ""]), identity(&["a", "b"]));
        assert_ne!(identity(&["ab"]), identity(&["ab", ""]));
    }
}
