//! The Lua scripts, one file each under `lua/`. Every script names all the keys it touches, and all of them begin with the
//! prefix, which is one hash slot. A script that fails is not undone, so each refuses what it refuses before its first write.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::StoreError;

/// A script and the name the server knows it by.
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    /// SHA-1 of the text: that is how `EVALSHA` calls it.
    pub(super) sha: String,
}

impl Script {
    /// What cannot be explained says where it happened.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Broken(text) => StoreError::Broken(format!("{text} (script {})", self.name)),
            error => error,
        }
    }
}

macro_rules! scripts {
    ($($item:ident = $name:literal $(after $with:literal)?;)*) => {
        $(pub(super) static $item: LazyLock<Script> = LazyLock::new(|| {
            let text = concat!($(include_str!(concat!("lua/", $with, ".lua")),)? include_str!(concat!("lua/", $name, ".lua")));
            Script { name: $name, text, sha: hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref()) }
        });)*
    };
}

scripts! {
    FIRST = "first" after "begin";
    LEASE = "lease" after "begin";
    RELEASE = "release";
    COMMIT = "commit";
    RECOVER = "recover" after "begin";
    FIRING = "firing";
    BOUNDS = "bounds";
    RESTORE = "restore";
    INTAKE = "intake";
    RATE = "rate";
    RECORD = "record";
    REPLACE = "replace";
    SNAPSHOT_BEGIN = "snapshot_begin";
    SNAPSHOT_PART = "snapshot_part";
    SNAPSHOT_END = "snapshot_end";
    SNAPSHOT_DROP = "snapshot_drop";
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
