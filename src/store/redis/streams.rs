//! Looking at audit streams and appending to them.

use std::collections::BTreeSet;

use super::{connect::code_and_detail, reader::stream_fault, *};

/// Entries appended by one request.
const APPENDED_AT_ONCE: usize = 500;
/// Keys looked at by one SCAN.
pub(super) const SCANNED_AT_ONCE: usize = 1000;

impl RedisStore {
    pub async fn stream_info(&self, stream: &str) -> Result<Result<Option<StreamInfo>, StreamFault>, StoreError> {
        let text = match self.direct.describe(stream).await? {
            Some(Ok(info)) => return Ok(Ok(Some(info))),
            Some(Err(text)) => text,
            None => return Ok(Err(StreamFault::Other("its first or last entry is too large to be looked at".to_owned()))),
        };
        match code_and_detail(&text) {
            ("ERR", detail) if detail.starts_with("no such key") => Ok(Ok(None)),
            refusal => stream_fault(&self.link, refusal).map(Err),
        }
    }

    pub async fn stream_range(&self, stream: &str, after: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, StoreError> {
        let (Some(from), true) = (after.next(), count > 0) else { return Ok(Vec::new()) };
        let mut command = cmd("XRANGE");
        command.arg(stream).arg(from.to_string()).arg(to.to_string()).arg("COUNT").arg(count.min(COUNT_MAX));
        value::entries(self.link.one(command).await?).ok_or_else(|| self.link.garbled())
    }

    /// Names that are not UTF-8 are left out.
    pub async fn find_streams(&self, glob: &str) -> Result<Vec<String>, StoreError> {
        let mut found = BTreeSet::new();
        let mut cursor = 0;
        loop {
            let (next, keys) = self.scan(glob, cursor, Some("stream")).await?;
            found.extend(keys.into_iter().filter(|key| !key.starts_with(&self.keys.prefix)));
            if next == 0 {
                return Ok(found.into_iter().collect());
            }
            cursor = next;
        }
    }

    pub(super) async fn scan(&self, pattern: &str, cursor: u64, kind: Option<&str>) -> Result<(u64, Vec<String>), StoreError> {
        let mut command = cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCANNED_AT_ONCE);
        if let Some(kind) = kind {
            command.arg("TYPE").arg(kind);
        }
        let reply = self.link.one(command).await?;
        let read = |reply| {
            let mut parts = value::items(reply)?.into_iter();
            let next = value::number(&parts.next()?)?;
            let keys = value::items(parts.next()?)?;
            Some((next, keys.into_iter().filter_map(|key| String::from_utf8(value::bytes(key)?).ok()).collect()))
        };
        read(reply).ok_or_else(|| self.link.garbled())
    }

    /// Not repeated when the connection is lost: after an error, what of a part (500 entries) was taken is not known.
    pub async fn append(&self, stream: &str, entries: &[Vec<(String, String)>]) -> Result<Vec<EntryId>, StoreError> {
        let mut ids = Vec::with_capacity(entries.len());
        for part in entries.chunks(APPENDED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(part.len());
            for fields in part {
                let command = pipeline.cmd("XADD").arg(stream).arg("*");
                for (name, value) in fields {
                    command.arg(name).arg(value);
                }
            }
            for reply in self.link.ask_once(&pipeline).await? {
                let id = value::entry_id(self.link.reply(Some(reply))?).ok_or_else(|| self.link.garbled())?;
                ids.push(id);
            }
        }
        Ok(ids)
    }
}
