//! Bulk reads of audit streams, and following the alert log and the commit log. Plain XREAD from positions of the caller's.

use std::collections::BTreeSet;

use super::{
    connect::Owned,
    lease::millis,
    log::{commit_record, log_entry},
    *,
};

/// Reads many streams at once. A read that is dropped loses nothing but its connection.
pub struct Reader {
    connection: Owned,
    /// Streams that could not be read: asked one by one, lest they spoil the reply for the others.
    faulty: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(link: Arc<Link>) -> Reader {
        Reader { connection: Owned::new(link), faulty: BTreeSet::new() }
    }

    pub async fn read(&mut self, cursors: &[(String, EntryId)], count: usize, block: Duration) -> Result<ReadReply, StoreError> {
        let count = count.clamp(1, COUNT_MAX);
        let answer = match self.bulk(cursors, count, Duration::ZERO).await? {
            Ok(answer) => answer,
            // One of the good ones has gone bad: the server names none of them.
            Err(_) => self.single(cursors, count).await?,
        };
        let news = self.note(cursors, &answer.faults);
        if !answer.streams.is_empty() || block.is_zero() || news {
            return Ok(answer);
        }
        if answer.faults.len() == cursors.len() {
            // Nothing to wait for on the server.
            tokio::time::sleep(block).await;
            return Ok(answer);
        }
        match self.bulk(cursors, count, block).await? {
            Ok(waited) => Ok(ReadReply { faults: answer.faults, ..waited }),
            Err(_) => {
                let answer = self.single(cursors, count).await?;
                self.note(cursors, &answer.faults);
                Ok(answer)
            }
        }
    }

    /// Keeps which streams are faulty; says whether that is news.
    fn note(&mut self, cursors: &[(String, EntryId)], faults: &[(usize, StreamFault)]) -> bool {
        let faulty = faults.iter().filter_map(|(index, _)| Some(cursors.get(*index)?.0.clone())).collect();
        let changed = self.faulty != faulty;
        self.faulty = faulty;
        changed
    }

    /// All good streams in one XREAD, and without waiting also each faulty one in one of its own. The inner error is the
    /// refusal of the common XREAD.
    async fn bulk(
        &mut self,
        cursors: &[(String, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Result<ReadReply, StreamFault>, StoreError> {
        let (faulty, good): (Vec<usize>, Vec<usize>) =
            (0..cursors.len()).partition(|i| cursors.get(*i).is_some_and(|(name, _)| self.faulty.contains(name)));
        let alone: &[usize] = if block.is_zero() { &faulty } else { &[] };
        let mut groups: Vec<&[usize]> = Vec::with_capacity(1 + alone.len());
        if !good.is_empty() {
            groups.push(&good);
        }
        groups.extend(alone.chunks(1));
        let (mut answer, refusals) = self.xread(cursors, &groups, count, block).await?;
        for (group, fault) in refusals {
            match groups.get(group) {
                Some([index]) if faulty.contains(index) => answer.faults.push((*index, fault)),
                _ => return Ok(Err(fault)),
            }
        }
        Ok(Ok(answer))
    }

    /// Every stream in an XREAD of its own, without waiting.
    async fn single(&mut self, cursors: &[(String, EntryId)], count: usize) -> Result<ReadReply, StoreError> {
        let indexes: Vec<usize> = (0..cursors.len()).collect();
        let groups: Vec<&[usize]> = indexes.chunks(1).collect();
        let (mut answer, refusals) = self.xread(cursors, &groups, count, Duration::ZERO).await?;
        // A group is a stream, so its number is the stream's index.
        answer.faults.extend(refusals);
        Ok(answer)
    }

    /// TIME, an XREAD per group, TIME. Also gives the groups that were refused.
    async fn xread(
        &mut self,
        cursors: &[(String, EntryId)],
        groups: &[&[usize]],
        count: usize,
        block: Duration,
    ) -> Result<(ReadReply, Vec<(usize, StreamFault)>), StoreError> {
        let mut pipeline = Pipeline::with_capacity(groups.len() + 2);
        pipeline.cmd("TIME");
        for group in groups {
            let command = pipeline.cmd("XREAD").arg("COUNT").arg(count);
            if !block.is_zero() {
                command.arg("BLOCK").arg(millis(block));
            }
            command.arg("STREAMS");
            let asked = || group.iter().filter_map(|index| cursors.get(*index));
            for (name, _) in asked() {
                command.arg(name);
            }
            for (_, after) in asked() {
                command.arg(after.to_string());
            }
        }
        pipeline.cmd("TIME");
        let replies = self.connection.ask(&pipeline, block).await?;
        let link = self.connection.link.clone();
        let mut replies = replies.into_iter();
        let time = |reply| value::time_ms(link.reply(reply)?).ok_or_else(|| link.garbled());
        let before_ms = time(replies.next())?;
        let mut streams = Vec::new();
        let mut refusals = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            match replies.next() {
                Some(Value::ServerError(error)) => refusals.push((number, stream_fault(&link, &error)?)),
                Some(reply) => {
                    let mut left = group.iter();
                    for (name, entries) in value::streams(reply).ok_or_else(|| link.garbled())? {
                        let same = |index: &&usize| cursors.get(**index).is_some_and(|(asked, _)| asked.as_bytes() == name);
                        let index = *left.find(same).ok_or_else(|| link.garbled())?;
                        if !entries.is_empty() {
                            streams.push(StreamEntries { index, full: entries.len() >= count, entries });
                        }
                    }
                }
                None => return Err(link.garbled()),
            }
        }
        let after_ms = time(replies.next())?;
        streams.sort_by_key(|stream: &StreamEntries| stream.index);
        Ok((ReadReply { before_ms, after_ms, streams, faults: Vec::new() }, refusals))
    }
}

/// Whether an error reply is about one stream, or about the server or the user as a whole.
pub(super) fn stream_fault(link: &Link, error: &redis::ServerError) -> Result<StreamFault, StoreError> {
    let detail = error.details().unwrap_or_default();
    let text = || format!("{} {detail}", error.code()).trim().to_owned();
    match error.code() {
        "WRONGTYPE" => Ok(StreamFault::WrongType(text())),
        // `… no permissions to run the 'xread' command`: no stream at all can be read.
        "NOPERM" if detail.contains("to run the '") => Err(link.refusal(error)),
        "NOPERM" => Ok(StreamFault::Forbidden(text())),
        _ => match link.refusal(error) {
            StoreError::Broken(_) => Ok(StreamFault::Other(text())),
            whole => Err(whole),
        },
    }
}

/// Follows the alert log or the commit log. A read that is dropped loses nothing but its connection.
pub struct Tail {
    connection: Owned,
    keys: Arc<Keys>,
}

impl Tail {
    pub(super) fn new(link: Arc<Link>, keys: Arc<Keys>) -> Tail {
        Tail { connection: Owned::new(link), keys }
    }

    pub async fn alerts(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<LogEntry>, StoreError> {
        let key = self.keys.alerts.clone();
        let garbled = self.connection.link.clone();
        let entries = self.follow(&key, after, limit, block).await?;
        entries.into_iter().map(|entry| log_entry(entry).ok_or_else(|| garbled.garbled())).collect()
    }

    pub async fn commits(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<CommitRecord>, StoreError> {
        let key = self.keys.commits.clone();
        let entries = self.follow(&key, after, limit, block).await?;
        entries.into_iter().map(|entry| commit_record(entry, &key)).collect()
    }

    async fn follow(&mut self, key: &str, after: u64, limit: usize, block: Duration) -> Result<Vec<Entry>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        let command = pipeline.cmd("XREAD").arg("COUNT").arg(limit.clamp(1, COUNT_MAX));
        if !block.is_zero() {
            command.arg("BLOCK").arg(millis(block));
        }
        // Ids are `seq-0`: everything above `seq-MAX` is everything after seq.
        command.arg("STREAMS").arg(key).arg(EntryId::new(after, u64::MAX).to_string());
        let reply = self.connection.ask(&pipeline, block).await?.pop();
        let link = &self.connection.link;
        let streams = value::streams(link.reply(reply)?).ok_or_else(|| link.garbled())?;
        Ok(streams.into_iter().flat_map(|(_, entries)| entries).collect())
    }
}
