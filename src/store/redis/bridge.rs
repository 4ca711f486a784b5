//! For the bridges: the intake stream, A's keys, channels.

use std::sync::atomic::AtomicU64;

use aws_lc_rs::digest::{SHA256, digest};
use redis::{PushInfo, PushKind, aio::MultiplexedConnection};
use tokio::sync::mpsc;

use super::{lease::millis, *};

/// Items taken in by one script: bounds how long the server is busy with one request.
const TAKEN_AT_ONCE: usize = 500;
const TAKEN_BYTES: usize = 1 << 20;
/// A longer deduplication key is kept as its digest.
const DEDUP_BYTES: usize = 128;
/// Values read by one request.
const VALUES_AT_ONCE: usize = 200;
/// Messages of a channel that wait for `next`; what comes when it is full is lost and counted.
const WAITING: usize = 10_000;

impl RedisStore {
    pub fn intake_stream(&self) -> String {
        self.keys.intake.clone()
    }

    /// Asked again after an error, items with a `dedup` are taken once; those without may be taken twice.
    pub async fn intake(&self, items: &[IntakeItem], dedup_ttl: Duration) -> Result<Vec<Taken>, StoreError> {
        let keys = [&self.keys.intake, &self.keys.seen, &self.keys.seen_ids];
        let mut taken = Vec::with_capacity(items.len());
        for part in parts(items, TAKEN_AT_ONCE, TAKEN_BYTES, |item| item.body.len()) {
            let mut args = vec![millis(dedup_ttl).to_string(), self.options.intake_max.max(1).to_string(), random()];
            for item in part {
                let dedup = item.dedup.as_deref().map(dedup_key).unwrap_or_default();
                args.extend([item.source.clone(), dedup, item.body.clone()]);
            }
            let reply = self.link.run(&scripts::INTAKE, &keys, &args).await?;
            let answers = value::text(reply).ok_or_else(|| self.link.garbled())?;
            let before = taken.len();
            for answer in answers.split(' ') {
                let read = || match answer.split_at_checked(1)? {
                    ("+", id) => Some(Taken::New(id.parse().ok()?)),
                    ("=", id) => Some(Taken::Known(id.parse().ok()?)),
                    _ => None,
                };
                taken.push(read().ok_or_else(|| self.link.garbled())?);
            }
            if taken.len() - before != part.len() {
                return Err(self.link.garbled());
            }
        }
        Ok(taken)
    }

    /// Where a bridge stands, as it wrote it down.
    pub async fn bookmark(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut commands = redis::pipe();
        commands.cmd("HGET").arg(&self.keys.bookmarks).arg(name);
        let reply = self.link.ask(&commands).await?.pop().ok_or_else(|| self.link.garbled())?;
        Ok(value::text(reply))
    }

    pub async fn set_bookmark(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let mut commands = redis::pipe();
        commands.cmd("HSET").arg(&self.keys.bookmarks).arg(name).arg(text);
        self.link.ask(&commands).await?;
        Ok(())
    }

    /// Counts these deduplication keys as taken, at no entry.
    pub async fn mark_seen(&self, keys: &[String], ttl: Duration) -> Result<(), StoreError> {
        let until = self.now_ms().await?.saturating_add(millis(ttl));
        for part in keys.chunks(TAKEN_AT_ONCE) {
            let mut commands = redis::pipe();
            for key in part {
                // As the script names it.
                let key = format!("event {}", dedup_key(key));
                commands.cmd("ZADD").arg(&self.keys.seen).arg("NX").arg(until).arg(&key);
                commands.cmd("HSETNX").arg(&self.keys.seen_ids).arg(&key).arg("0-0");
            }
            self.link.ask(&commands).await?;
        }
        Ok(())
    }

    /// What `INFO` says of the server and its memory, by name; refused by some ACLs.
    pub async fn server_info(&self) -> Result<std::collections::BTreeMap<String, String>, StoreError> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("server");
        commands.cmd("INFO").arg("memory");
        let replies = self.link.ask(&commands).await?;
        let mut facts = std::collections::BTreeMap::new();
        for text in replies.into_iter().filter_map(value::text) {
            facts.extend(text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())));
        }
        Ok(facts)
    }

    /// A key may come more than once in a round; names that are not UTF-8 are left out.
    pub async fn scan_keys(&self, pattern: &str, cursor: u64) -> Result<(u64, Vec<String>), StoreError> {
        self.scan(pattern, cursor, None).await
    }

    pub async fn key_values(&self, keys: &[String]) -> Result<Vec<Option<String>>, StoreError> {
        let mut values = Vec::with_capacity(keys.len());
        for part in keys.chunks(VALUES_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(part.len());
            for key in part {
                pipeline.cmd("GET").arg(key);
            }
            // Two rounds rather than a TYPE for each: nearly all are texts.
            let mut hashes = Vec::new();
            for (reply, key) in self.link.ask(&pipeline).await?.into_iter().zip(part) {
                match reply {
                    Value::ServerError(error) if error.code() == "WRONGTYPE" => {
                        hashes.push((values.len(), key));
                        values.push(None);
                    }
                    reply => values.push(value::text(self.link.reply(Some(reply))?)),
                }
            }
            let mut pipeline = Pipeline::with_capacity(hashes.len());
            for (_, key) in &hashes {
                pipeline.cmd("HGETALL").arg(key);
            }
            for (reply, (index, _)) in self.link.ask(&pipeline).await?.into_iter().zip(hashes) {
                let value = match reply {
                    Value::ServerError(error) if error.code() == "WRONGTYPE" => None,
                    reply => object(self.link.reply(Some(reply))?).ok_or_else(|| self.link.garbled())?,
                };
                if let Some(place) = values.get_mut(index) {
                    *place = value;
                }
            }
        }
        Ok(values)
    }

    /// Listens to a channel, or to all that match where `pattern` has a glob's characters. What is published while nobody
    /// listens is gone: after an error, subscribe again.
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription, StoreError> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let state = Arc::new(State::default());
        let seen = state.clone();
        let push = move |info: PushInfo| {
            match info.kind {
                PushKind::Disconnection => seen.gone.store(true, Ordering::Release),
                PushKind::Message | PushKind::PMessage => {}
                _ => return Ok(()),
            }
            if sender.try_send(info).is_err() {
                seen.missed.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let mut connection = self.link.pushed(push).await?;
        let glob = pattern.contains(['*', '?', '[']);
        let subscribed = async { if glob { connection.psubscribe(pattern).await } else { connection.subscribe(pattern).await } };
        match tokio::time::timeout(connect::PATIENCE, subscribed).await {
            Ok(Ok(())) => Ok(Subscription { receiver, state, link: self.link.clone(), _connection: connection }),
            Ok(Err(error)) => Err(self.link.failure(&error)),
            Err(_) => Err(self.link.silent()),
        }
    }
}

#[derive(Default)]
struct State {
    gone: std::sync::atomic::AtomicBool,
    missed: AtomicU64,
}

/// Messages of a channel, over a connection of its own; dropped, it unsubscribes.
pub struct Subscription {
    receiver: mpsc::Receiver<PushInfo>,
    state: Arc<State>,
    link: Arc<Link>,
    _connection: MultiplexedConnection,
}

impl Subscription {
    /// The next message: channel and payload. Cancel-safe. `Unavailable` when the connection is lost; that is the end.
    pub async fn next(&mut self) -> Result<(String, Vec<u8>), StoreError> {
        // The news that the connection is gone may have found the queue full, so the flag is looked at as well.
        let info = match self.receiver.try_recv() {
            Ok(info) => info,
            Err(_) if self.state.gone.load(Ordering::Acquire) => return Err(self.lost()),
            Err(_) => self.receiver.recv().await.ok_or_else(|| self.lost())?,
        };
        let skipped = match info.kind {
            PushKind::Message => 0,
            // The pattern comes first.
            PushKind::PMessage => 1,
            _ => return Err(self.lost()),
        };
        let mut data = info.data.into_iter().skip(skipped);
        let mut message = || Some((value::text(data.next()?)?, value::bytes(data.next()?)?));
        message().ok_or_else(|| self.link.garbled())
    }

    /// A message that is here already; `None` where one would have to be waited for.
    pub fn ready(&mut self) -> Option<(String, Vec<u8>)> {
        futures::FutureExt::now_or_never(self.next())?.ok()
    }

    /// Messages lost because nobody took them in time, since this was last asked.
    pub fn missed(&self) -> u64 {
        self.state.missed.swap(0, Ordering::Relaxed)
    }

    fn lost(&self) -> StoreError {
        StoreError::Unavailable(format!("Redis at {} closed the subscription", self.link.address))
    }
}

/// The name of what is taken once; a long one is kept as its digest.
fn dedup_key(key: &str) -> String {
    if key.len() > DEDUP_BYTES {
        return format!("sha256:{}", hex(digest(&SHA256, key.as_bytes()).as_ref()));
    }
    key.to_owned()
}

/// A hash as a JSON object of texts; an empty one is no value.
fn object(reply: Value) -> Option<Option<String>> {
    let mut object = serde_json::Map::new();
    for (name, value) in value::pairs(reply)? {
        object.insert(value::text(name)?, serde_json::Value::String(value::text(value)?));
    }
    Some((!object.is_empty()).then(|| serde_json::Value::Object(object).to_string()))
}
