//! Keys that auditcast shares with the application: metric snapshots, the token blacklist, permissions.

use super::{lease::millis, *};

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

    pub async fn blacklist(&self, jti: &str, ttl: Duration) -> Result<(), StoreError> {
        let mut command = cmd("SET");
        command.arg(blacklist_key(jti)).arg("1").arg("PX").arg(millis(ttl));
        self.link.one(command).await.map(drop)
    }

    /// `Broken` for a key of another shape: it grants nothing, and somebody should know.
    pub async fn permissions(&self, user_id: &str) -> Result<Vec<String>, StoreError> {
        let key = format!("permissions:user:{user_id}");
        let mut command = cmd("TYPE");
        command.arg(&key);
        let kind = value::text(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        let ask = |name| {
            let mut command = cmd(name);
            command.arg(&key);
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
    format!("jwt:blacklist:{jti}")
}

/// What applications write for "yes".
fn truthy(text: &str) -> bool {
    ["1", "true", "yes", "y", "on", "t", "granted", "allow", "allowed"].iter().any(|yes| text.trim().eq_ignore_ascii_case(yes))
}
