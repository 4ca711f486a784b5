//! Keys that auditcast shares with the application: metric snapshots, the token blacklist. And the cut-offs, which go with it.

use super::{lease::millis, *};
use crate::store::CUT_OFFS_MAX;

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

    pub async fn cut_off(&self, user_id: &str, before_ms: u64) -> Result<u64, StoreError> {
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.cmd("ZADD").arg(&self.keys.cutoffs).arg("GT").arg(before_ms).arg(user_id);
        // The earliest go first.
        let last = -1 - i64::try_from(CUT_OFFS_MAX).unwrap_or(i64::MAX - 1);
        pipeline.cmd("ZREMRANGEBYRANK").arg(&self.keys.cutoffs).arg(0).arg(last);
        pipeline.cmd("ZSCORE").arg(&self.keys.cutoffs).arg(user_id);
        let mut in_force = None;
        for reply in self.link.ask(&pipeline).await? {
            in_force = score(&self.link.reply(Some(reply))?);
        }
        in_force
            .ok_or_else(|| StoreError::Refused(format!("{CUT_OFFS_MAX} users have had later tokens cut off, more are not kept")))
    }

    pub async fn cut_offs(&self, user_ids: &[String]) -> Result<Vec<(String, u64)>, StoreError> {
        let mut found = Vec::new();
        for part in user_ids.chunks(KEYS_AT_ONCE) {
            let mut command = cmd("ZMSCORE");
            command.arg(&self.keys.cutoffs).arg(part);
            let scores = value::items(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
            found.extend(part.iter().zip(&scores).filter_map(|(user_id, found)| Some((user_id.clone(), score(found)?))));
        }
        Ok(found)
    }

    /// What [`RedisStore::standing`] and [`RedisStore::revocations`] ask first, and the rest of the answer.
    async fn ask_standing(
        &self,
        user_id: &str,
        jti: Option<&str>,
        more: &[String],
    ) -> Result<(bool, Option<u64>, Vec<Value>), StoreError> {
        let mut pipeline = Pipeline::with_capacity(2 + more.len());
        if let Some(jti) = jti {
            pipeline.cmd("EXISTS").arg(blacklist_key(jti));
        }
        pipeline.cmd("ZSCORE").arg(&self.keys.cutoffs).arg(user_id);
        for key in more {
            pipeline.cmd("TYPE").arg(key);
        }
        let mut replies = self.link.ask(&pipeline).await?.into_iter();
        let blacklisted = match jti {
            Some(_) => value::number(&self.link.reply(replies.next())?).ok_or_else(|| self.link.garbled())? > 0,
            None => false,
        };
        let cut_off_ms = score(&self.link.reply(replies.next())?);
        Ok((blacklisted, cut_off_ms, replies.collect()))
    }

    /// One question for all, and one more for who has permissions of his own.
    pub async fn standing(&self, user_id: &str, jti: Option<&str>) -> Result<Standing, StoreError> {
        let keys = permissions::keys(user_id);
        let (blacklisted, cut_off_ms, kinds) = self.ask_standing(user_id, jti, &keys).await?;
        let permissions = self.permissions_by_kind(&keys, kinds).await.and_then(permissions::union);
        Ok(Standing { blacklisted, cut_off_ms, permissions })
    }

    pub async fn revocations(&self, user_id: &str, jti: Option<&str>) -> Result<(bool, Option<u64>), StoreError> {
        let (blacklisted, cut_off_ms, _) = self.ask_standing(user_id, jti, &[]).await?;
        Ok((blacklisted, cut_off_ms))
    }
}

/// A score as a time: RESP2 says it as text, RESP3 as a number.
fn score(value: &Value) -> Option<u64> {
    match value {
        Value::Double(score) if *score >= 0.0 => Some(*score as u64),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n as u64),
        other => value::number(other),
    }
}

fn metrics_key(unix_s: u64) -> String {
    format!("security:metrics:{unix_s}")
}

fn blacklist_key(jti: &str) -> String {
    format!("{BLACKLIST}{jti}")
}
