//! Keys that auditcast shares with the application: metric snapshots, the token blacklist, permissions.

use super::{lease::millis, *};

/// What a revoked token's key begins with.
pub(super) const BLACKLIST: &str = "jwt:blacklist:";
/// Keys in one command: the server does nothing else meanwhile.
const KEYS_AT_ONCE: usize = 512;

impl RedisStore {
    pub async fn metrics_put(&self, unix_s: u64, json: &str, ttl: Duration) -> Result<(), StoreError> {
        let seconds = ttl.as_secs().max(1);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg(metrics_key(unix_s)).arg(json).arg("EX").arg(seconds).arg("NX");
        pipeline.cmd("ZADD").arg(&self.keys.metrics).arg(unix_s).arg(unix_s);
        pipeline.cmd("ZREMRANGEBYSCORE").arg(&self.keys.metrics).arg("-inf").arg(unix_s.saturating_sub(seconds));
        for reply in self.link.ask(&pipeline).await? {
            self.link.reply(Some(reply))?;
        }
        Ok(())
    }

    pub async fn metrics_history(&self, since_s: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut command = cmd("ZREVRANGEBYSCORE");
        command.arg(&self.keys.metrics).arg("+inf").arg(since_s).arg("LIMIT").arg(0).arg(limit.min(COUNT_MAX));
        let stored = value::items(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        let seconds: Vec<u64> = stored.iter().rev().filter_map(value::number).collect();
        if seconds.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("MGET");
        for second in &seconds {
            command.arg(metrics_key(*second));
        }
        let values = value::items(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        Ok(seconds.into_iter().zip(values).filter_map(|(second, json)| Some((second, value::text(json)?))).collect())
    }

    pub async fn blacklisted(&self, jti: &str) -> Result<bool, StoreError> {
        let mut command = cmd("EXISTS");
        command.arg(blacklist_key(jti));
        Ok(value::number(&self.link.one(command).await?).ok_or_else(|| self.link.garbled())? > 0)
    }

    /// `EXISTS` counts, and nearly always counts none or all: then that is the answer, else each is asked.
    pub async fn blacklisted_among(&self, jtis: &[String]) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        for part in jtis.chunks(KEYS_AT_ONCE) {
            let mut command = cmd("EXISTS");
            for jti in part {
                command.arg(blacklist_key(jti));
            }
            let count = value::number(&self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
            if count == 0 {
                continue;
            }
            if count == part.len() as u64 {
                found.extend_from_slice(part);
                continue;
            }
            let mut pipeline = Pipeline::with_capacity(part.len());
            for jti in part {
                pipeline.cmd("EXISTS").arg(blacklist_key(jti));
            }
            for (reply, jti) in self.link.ask(&pipeline).await?.into_iter().zip(part) {
                if value::number(&self.link.reply(Some(reply))?).ok_or_else(|| self.link.garbled())? > 0 {
                    found.push(jti.clone());
                }
            }
        }
        Ok(found)
    }

    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        let mut command = cmd("SET");
        command.arg(blacklist_key(jti)).arg("1").arg("PX").arg(millis(ttl));
        self.link.one(command).await.map(drop)
    }

    /// One question for both, and one more for who has permissions of his own.
    pub async fn standing(&self, user_id: &str, jti: Option<&str>) -> Result<Standing, StoreError> {
        let key = permissions_key(user_id);
        let mut pipeline = Pipeline::with_capacity(2);
        if let Some(jti) = jti {
            pipeline.cmd("EXISTS").arg(blacklist_key(jti));
        }
        pipeline.cmd("TYPE").arg(&key);
        let mut replies = self.link.ask(&pipeline).await?;
        let kind = self.link.reply(replies.pop());
        let blacklisted = match jti {
            Some(_) => value::number(&self.link.reply(replies.pop())?).ok_or_else(|| self.link.garbled())? > 0,
            None => false,
        };
        let permissions = match kind {
            Ok(kind) => self.permissions_of(&key, kind).await,
            Err(error) => Err(error),
        };
        Ok(Standing { blacklisted, permissions })
    }

    /// `Broken` for a key of another shape: it grants nothing, and somebody should know.
    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let key = permissions_key(user_id);
        let mut command = cmd("TYPE");
        command.arg(&key);
        let kind = self.link.one(command).await?;
        self.permissions_of(&key, kind).await
    }

    /// `kind`: what `TYPE` has said of the key.
    async fn permissions_of(&self, key: &str, kind: Value) -> Result<Vec<String>, StoreError> {
        let kind = value::text(kind).ok_or_else(|| self.link.garbled())?;
        let ask = |name| {
            let mut command = cmd(name);
            command.arg(key);
            self.link.one(command)
        };
        let mut permissions: Vec<String> = match kind.as_str() {
            "none" => Vec::new(),
            "set" => {
                let members = value::items(ask("SMEMBERS").await?).ok_or_else(|| self.link.garbled())?;
                members.into_iter().filter_map(value::text).collect()
            }
            "hash" => {
                let pairs = value::pairs(ask("HGETALL").await?).ok_or_else(|| self.link.garbled())?;
                let granted = |(name, value)| truthy(&value::text(value)?).then(|| value::text(name)).flatten();
                pairs.into_iter().filter_map(granted).collect()
            }
            "string" => {
                // Gone between the two questions: nothing granted.
                let text = value::text(ask("GET").await?).unwrap_or_else(|| "[]".to_owned());
                serde_json::from_str(&text).map_err(|_| {
                    StoreError::Broken(format!("the key {key} holds neither a set, a hash nor a JSON array of texts"))
                })?
            }
            other => {
                return Err(StoreError::Broken(format!(
                    "the key {key} is a {other}, not a set, a hash or a JSON array of texts"
                )));
            }
        };
        permissions.sort_unstable();
        permissions.dedup();
        Ok(permissions)
    }
}

fn metrics_key(unix_s: u64) -> String {
    format!("security:metrics:{unix_s}")
}

fn blacklist_key(jti: &str) -> String {
    format!("{BLACKLIST}{jti}")
}

fn permissions_key(user_id: &str) -> String {
    format!("permissions:user:{user_id}")
}

/// What applications write for "yes".
fn truthy(text: &str) -> bool {
    ["1", "true", "yes", "y", "on", "t", "granted", "allow", "allowed"].iter().any(|yes| text.trim().eq_ignore_ascii_case(yes))
}
