//! Records of people's accounts: a hash, and a sorted set of their ends.

use super::{
    super::record::{Body, Change, Changed, Table},
    *,
};

impl RedisStore {
    fn record_keys(&self, table: Table) -> [&String; 2] {
        match table {
            Table::People => [&self.keys.people, &self.keys.people_ends],
            Table::Attempts => [&self.keys.attempts, &self.keys.attempts_ends],
        }
    }

    pub async fn record(&self, table: Table, name: &str) -> Result<Option<Body>, StoreError> {
        let mut command = cmd("HGET");
        command.arg(self.record_keys(table)[0]).arg(name);
        Ok(value::text(self.link.one(command).await?).map(Body))
    }

    pub async fn record_change(&self, change: &Change) -> Result<Changed, StoreError> {
        let written = |body: &Option<Body>| body.as_ref().map_or_else(String::new, |body| format!("={}", body.0));
        let args = [
            change.name.clone(),
            written(&change.before),
            written(&change.after),
            change.ttl_ms.map_or_else(String::new, |ms| ms.min(LONGEST_MS).to_string()),
            change.table.most().to_string(),
            u8::from(change.table.evicts()).to_string(),
        ];
        let reply = self.link.run(&scripts::RECORD, &self.record_keys(change.table), &args).await?;
        match value::text(reply).as_deref() {
            Some("done") => Ok(Changed::Done),
            Some("other") => Ok(Changed::Other),
            Some("full") => Ok(Changed::Full),
            _ => Err(self.link.garbled()),
        }
    }

    pub async fn records(&self, table: Table, after: &str, limit: usize) -> Result<Vec<(String, Body)>, StoreError> {
        let [records, ends] = self.record_keys(table);
        let mut command = cmd("ZRANGE");
        command.arg(ends).arg(0).arg(-1);
        let names = value::items(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        let mut names: Vec<String> = names.into_iter().filter_map(value::text).filter(|name| name.as_str() > after).collect();
        names.sort_unstable();
        names.truncate(limit);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = cmd("HMGET");
        command.arg(records).arg(&names);
        let texts = value::items(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        Ok(names.into_iter().zip(texts).filter_map(|(name, text)| Some((name, Body(value::text(text)?)))).collect())
    }
}

/// A thousand years: beyond it a script's numbers are no longer exact.
const LONGEST_MS: u64 = 31_536_000_000_000;
