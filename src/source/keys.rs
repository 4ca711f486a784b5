//! A's keys, `audit:event:{timestamp}:{event_id}`: each once, whatever the number of nodes. Keyspace notifications are a hint that
//! makes it quick; SCAN finds every key all the same. Nothing is ever written to a key of A's.

use std::time::Duration;

use ahash::AHashSet;
use tokio::time::{Instant, timeout};

use super::{BATCH_MAX, BridgeError, Options, SEEN_TTL, Start, item};
use crate::{event, store::Store};

const SCAN_EVERY: Duration = Duration::from_secs(30);
/// Keys remembered here so that a scan does not ask the store for each of them again.
const KNOWN_MAX: usize = 1_000_000;

pub(super) async fn run(options: &Options, pattern: &str, store: &Store) -> BridgeError {
    match watch(options, pattern, store).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn watch(options: &Options, pattern: &str, store: &Store) -> Result<std::convert::Infallible, BridgeError> {
    let bookmark = format!("keys:{}", options.name);
    let hints = format!("__keyspace@{}__:{pattern}", store.database());
    let mut subscription = store.subscribe(&hints).await?;
    let mut known: AHashSet<u64> = AHashSet::new();
    let hasher = ahash::RandomState::new();
    if store.bookmark(&bookmark).await?.is_none() {
        if options.start != Start::Earliest {
            let since_ms = match options.start {
                Start::Ago(ago) => store.now_ms().await?.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                Start::Earliest | Start::Now => u64::MAX,
            };
            let mut cursor = 0;
            loop {
                let (next, keys) = store.scan_keys(pattern, cursor).await?;
                let old = |key: &&String| key_ms(options, pattern, key).is_none_or(|ms| ms < since_ms);
                let marks: Vec<String> = keys.iter().filter(old).map(|key| mark(options, key)).collect();
                store.mark_seen(&marks, SEEN_TTL).await?;
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        store.set_bookmark(&bookmark, "begun").await?;
    }
    let mut next_scan = Instant::now();
    loop {
        if Instant::now() >= next_scan {
            let mut unknown = Vec::new();
            let mut cursor = 0;
            loop {
                let (next, keys) = store.scan_keys(pattern, cursor).await?;
                unknown.extend(keys.into_iter().filter(|key| !known.contains(&hasher.hash_one(key))));
                while unknown.len() >= BATCH_MAX {
                    let rest = unknown.split_off(BATCH_MAX);
                    take(options, store, &unknown, &mut known, &hasher).await?;
                    unknown = rest;
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            take(options, store, &unknown, &mut known, &hasher).await?;
            next_scan = Instant::now() + SCAN_EVERY;
        }
        let wait = next_scan.saturating_duration_since(Instant::now());
        let Ok(hint) = timeout(wait, subscription.next()).await else { continue };
        let mut keys = Vec::new();
        let mut hint = Some(hint?);
        while let Some((channel, _)) = hint {
            // `__keyspace@0__:audit:event:…`
            if let Some((_, key)) = channel.split_once("__:")
                && !known.contains(&hasher.hash_one(key))
                && !keys.iter().any(|k| k == key)
            {
                keys.push(key.to_owned());
            }
            hint = if keys.len() < BATCH_MAX { subscription.ready() } else { None };
        }
        take(options, store, &keys, &mut known, &hasher).await?;
    }
}

fn mark(options: &Options, key: &str) -> String {
    format!("key:{}:{key}", options.name)
}

/// The time in a key's name, Unix ms: what is between the pattern's own text and the last part.
fn key_ms(options: &Options, pattern: &str, key: &str) -> Option<u64> {
    let own = pattern.split(['*', '?', '[', '\\']).next().unwrap_or("");
    let (time, _) = key.strip_prefix(own)?.rsplit_once(':')?;
    event::parse_ms(time, &options.timezone).and_then(|ms| u64::try_from(ms).ok())
}

/// Hands the values of these keys to the intake; a key that is gone again or holds nothing readable is left for the next look.
async fn take(
    options: &Options,
    store: &Store,
    keys: &[String],
    known: &mut AHashSet<u64>,
    hasher: &ahash::RandomState,
) -> Result<(), BridgeError> {
    if keys.is_empty() {
        return Ok(());
    }
    let values = store.key_values(keys).await?;
    let mut items = Vec::with_capacity(keys.len());
    let mut taken = Vec::with_capacity(keys.len());
    for (key, value) in keys.iter().zip(values) {
        if let Some(value) = value {
            items.push(item(&options.name, Some(mark(options, key)), value.as_bytes()));
            taken.push(hasher.hash_one(key));
        }
    }
    store.intake(&items, SEEN_TTL).await?;
    if known.len() + taken.len() > KNOWN_MAX {
        // The store knows them all the same.
        known.clear();
    }
    known.extend(taken);
    Ok(())
}
