//! The commit, the alert log, the commit log, and what a node finds when it starts.

use aws_lc_rs::digest::{Context, SHA256};
use serde::Deserialize;

use super::{lease::millis, *};

/// Entries put back by one script: bounds how long the server is busy with one request.
const RESTORE_ENTRIES: usize = 500;
const RESTORE_BYTES: usize = 1 << 20;
/// A dead letter's body is cut here.
const DEAD_BODY_BYTES: usize = 4096;

impl RedisStore {
    /// A commit that is asked again right after itself, because its answer was lost, gives the first answer again.
    pub async fn commit(&self, commit: &Commit) -> Result<Committed, StoreError> {
        let keys = &self.keys;
        let names = [
            &keys.meta,
            &keys.lease,
            &keys.alerts,
            &keys.state,
            &keys.open,
            &keys.done,
            &keys.commits,
            &keys.dead,
            &keys.dead_seen,
        ];
        let record = serde_json::to_string(&commit.record)
            .map_err(|e| StoreError::Broken(format!("the commit record cannot be written as JSON: {e}")))?;
        let mut args: Vec<Vec<u8>> =
            Vec::with_capacity(11 + commit.record.done.len() * 2 + commit.entries.len() * 4 + commit.dead_letters.len() * 5);
        let text = |n: u64| n.to_string().into_bytes();
        args.push(text(commit.fence));
        args.push(Vec::new());
        args.push(text(commit.record.slot));
        args.push(record.into_bytes());
        args.push(text(self.options.alerts_max));
        args.push(text(millis(self.options.alerts_retention)));
        args.push(text(self.options.dead_letters_max.max(1)));
        args.push(text(self.options.commits_max.max(1)));
        args.push(text(commit.record.done.len() as u64));
        args.push(text(commit.entries.len() as u64));
        args.push(text(commit.dead_letters.len() as u64));
        for (stream, entry) in &commit.record.done {
            args.push(stream.clone().into_bytes());
            args.push(entry.to_string().into_bytes());
        }
        let flag = |set: bool| if set { b"1".to_vec() } else { b"0".to_vec() };
        for entry in &commit.entries {
            args.push(entry.alert_id.clone().into_bytes());
            args.push(flag(entry.firing));
            args.push(flag(entry.first));
            args.push(entry.body.clone().into_bytes());
        }
        for letter in &commit.dead_letters {
            args.push(letter.source.clone().into_bytes());
            args.push(letter.stream.clone().into_bytes());
            args.push(letter.entry.to_string().into_bytes());
            args.push(letter.reason.clone().into_bytes());
            args.push(cut(&letter.body, DEAD_BODY_BYTES).as_bytes().to_vec());
        }
        let digest = digest(&args);
        if let Some(place) = args.get_mut(1) {
            *place = digest.into_bytes();
        }
        let reply = self.direct.run(&scripts::COMMIT, &names, &args).await?;
        let read = |reply| {
            let mut parts = value::items(reply)?.into_iter();
            let mut committed = Committed {
                n: value::number(&parts.next()?)?,
                seq: value::number(&parts.next()?)?,
                known: value::number(&parts.next()?)?,
                ..Committed::default()
            };
            if let (Some(before), Some(checks)) = (parts.next(), parts.next()) {
                committed.before = value::text(before)?;
                let check = |check| Some(Some(value::text(check)?).filter(|check| !check.is_empty()));
                committed.checks = value::items(checks)?.into_iter().map(check).collect::<Option<_>>()?;
            }
            Some(committed)
        };
        read(reply).ok_or_else(|| self.link.garbled())
    }

    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let k = &self.keys;
        let keys = [&k.meta, &k.open, &k.state, &k.done, &k.alerts, &k.commits];
        let reply = self.link.run(&scripts::RECOVER, &keys, &[FORMAT.to_string(), random()]).await?;
        let read = |reply| {
            let mut parts = value::items(reply)?.into_iter();
            let mut meta = value::items(parts.next()?)?.into_iter();
            let mut recovered = Recovered { epoch: value::text(meta.next()?)?, ..Recovered::default() };
            recovered.seq = meta.next().as_ref().and_then(value::number).unwrap_or(0);
            recovered.check = meta.next().and_then(value::text).unwrap_or_default();
            recovered.commit = meta.next().as_ref().and_then(value::number).unwrap_or(0);
            recovered.slot = meta.next().as_ref().and_then(value::number).unwrap_or(0);
            for (stream, entry) in value::pairs(parts.next()?)? {
                recovered.done.insert(value::text(stream)?, value::entry_id(entry)?);
            }
            recovered.open = states(parts.next()?)?;
            Some(recovered)
        };
        read(reply).ok_or_else(|| self.link.garbled())
    }

    pub async fn log_read(&self, after: u64, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let entries = self.log_range(&self.keys.alerts, after, limit).await?;
        entries.into_iter().map(|entry| log_entry(entry).ok_or_else(|| self.link.garbled())).collect()
    }

    pub async fn commits(&self, after: u64, limit: usize) -> Result<Vec<CommitRecord>, StoreError> {
        let entries = self.log_range(&self.keys.commits, after, limit).await?;
        entries.into_iter().map(|entry| commit_record(entry, &self.keys.commits)).collect()
    }

    pub async fn first_commit(&self) -> Result<u64, StoreError> {
        Ok(self.log_range(&self.keys.commits, 0, 1).await?.first().map_or(0, |entry| entry.id.ms))
    }

    async fn log_range(&self, key: &str, after: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (Some(from), true) = (after.checked_add(1), limit > 0) else { return Ok(Vec::new()) };
        let mut command = cmd("XRANGE");
        command.arg(key).arg(format!("{from}-0")).arg("+").arg("COUNT").arg(limit.min(COUNT_MAX));
        value::entries(self.link.one(command).await?).ok_or_else(|| self.link.garbled())
    }

    pub async fn log_bounds(&self) -> Result<LogBounds, StoreError> {
        let reply = self.link.run::<_, &str>(&scripts::BOUNDS, &[&self.keys.meta, &self.keys.alerts], &[]).await?;
        let read = |reply| {
            let mut parts = value::items(reply)?.into_iter();
            let epoch = value::text(parts.next()?)?;
            let head = value::number(&parts.next()?)?;
            let head_check = value::text(parts.next()?)?;
            let first = match value::text(parts.next()?)?.parse::<EntryId>() {
                Ok(oldest) => oldest.ms,
                Err(_) => head.checked_add(1)?,
            };
            Some(LogBounds { epoch, first, head, head_check })
        };
        read(reply).ok_or_else(|| self.link.garbled())
    }

    /// Refuses (`Broken`) entries that do not continue the log, before anything of their part (500 entries or 1 MiB) is written.
    pub async fn log_restore(&self, fence: u64, epoch: &str, entries: &[LogEntry]) -> Result<(), StoreError> {
        let keys = [&self.keys.meta, &self.keys.lease, &self.keys.alerts, &self.keys.state, &self.keys.open];
        for part in parts(entries, RESTORE_ENTRIES, RESTORE_BYTES, |entry| entry.body.len()) {
            let mut args = vec![fence.to_string(), epoch.to_owned(), part.len().to_string()];
            for entry in part {
                let about: About = serde_json::from_str(&entry.body).unwrap_or_default();
                let firing = match about.status.as_deref() {
                    Some("firing") => "1",
                    Some(_) => "0",
                    None => "",
                };
                args.extend([
                    entry.seq.to_string(),
                    entry.check.clone(),
                    about.alert_id.unwrap_or_default(),
                    firing.to_owned(),
                    entry.body.clone(),
                ]);
            }
            self.link.run(&scripts::RESTORE, &keys, &args).await?;
        }
        Ok(())
    }

    pub async fn alert(&self, alert_id: &str) -> Result<Option<LogEntry>, StoreError> {
        let mut command = cmd("HGET");
        command.arg(&self.keys.state).arg(alert_id);
        match self.link.one(command).await? {
            Value::Nil => Ok(None),
            found => state(found).map(Some).ok_or_else(|| self.link.garbled()),
        }
    }

    pub async fn firing(&self) -> Result<Vec<LogEntry>, StoreError> {
        let reply = self.link.run::<_, &str>(&scripts::FIRING, &[&self.keys.open, &self.keys.state], &[]).await?;
        states(reply).ok_or_else(|| self.link.garbled())
    }

    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut command = cmd("XREVRANGE");
        command.arg(&self.keys.dead).arg("+").arg("-").arg("COUNT").arg(limit.min(COUNT_MAX));
        let entries = value::entries(self.link.one(command).await?).ok_or_else(|| self.link.garbled())?;
        let letter = |entry: Entry| {
            let field = |name: &str| take(&entry, name);
            Some(DeadLetter {
                source: field("source")?,
                stream: field("stream")?,
                entry: field("entry")?.parse().ok()?,
                reason: field("reason")?,
                body: field("body")?,
            })
        };
        Ok(entries.into_iter().filter_map(letter).collect())
    }
}

/// What a frame says of itself, for putting it back.
#[derive(Default, Deserialize)]
struct About {
    alert_id: Option<String>,
    status: Option<String>,
}

/// Tells a commit from any other: of all arguments, each with its length.
fn digest(args: &[Vec<u8>]) -> String {
    let mut context = Context::new(&SHA256);
    for arg in args {
        context.update(&(arg.len() as u64).to_be_bytes());
        context.update(arg);
    }
    hex(context.finish().as_ref())
}

/// The longest beginning of at most `most` bytes that ends between characters.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

fn take(entry: &Entry, name: &str) -> Option<String> {
    entry.field(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
}

pub(super) fn log_entry(entry: Entry) -> Option<LogEntry> {
    Some(LogEntry { seq: entry.id.ms, check: take(&entry, "check")?, body: take(&entry, "body")? })
}

pub(super) fn commit_record(entry: Entry, key: &str) -> Result<CommitRecord, StoreError> {
    let unread = |why: String| StoreError::Broken(format!("record {} of {key} cannot be read: {why}", entry.id.ms));
    let text = take(&entry, "record").ok_or_else(|| unread("it has no field `record`".to_owned()))?;
    let record: CommitRecord = serde_json::from_str(&text).map_err(|e| unread(e.to_string()))?;
    Ok(CommitRecord { n: entry.id.ms, ..record })
}

/// `{seq}-{check} {body}`
fn state(value: Value) -> Option<LogEntry> {
    let text = value::text(value)?;
    let (position, body) = text.split_once(' ')?;
    let (seq, check) = position.split_once('-')?;
    Some(LogEntry { seq: seq.parse().ok()?, check: check.to_owned(), body: body.to_owned() })
}

fn states(value: Value) -> Option<Vec<LogEntry>> {
    // An alert whose state is gone has nothing to show.
    value::items(value)?.into_iter().filter(|found| *found != Value::BulkString(Vec::new())).map(state).collect()
}
