//! Bulk reads of audit streams: plain XREAD from positions of the caller's, over a socket of its own.

use std::{collections::BTreeSet, time::Instant};

use super::{
    connect::{PATIENCE, code_and_detail},
    lease::millis,
    resp::{self, Parser, Shape, Socket},
    *,
};
use crate::store::entry::Batch;

/// Memory that is kept for the next answer however small the last one was, bytes.
const KEPT_ALWAYS: usize = 64 << 10;
/// Beyond that, so many times what the last answer needed.
const KEPT_TIMES: usize = 4;
/// Answers whose memory is used again: the one that is worked on, and the one that comes.
const SPARE_MAX: usize = 2;
/// A read that did not come through in time asks for fewer entries, but for so many.
const COUNT_MIN: usize = 16;

/// Reads many streams at once. A read that is dropped loses nothing but its connection.
pub struct Reader {
    link: Arc<Link>,
    /// Taken out for every request and put back after a whole answer.
    socket: Option<Socket>,
    lost: bool,
    /// Streams that could not be read: asked one by one, lest they spoil the reply for the others.
    faulty: BTreeSet<String>,
    /// A request that is written and not answered yet.
    ahead: Option<Ahead>,
    /// The server's clock at the end of the last answer over this socket.
    store_ms: Option<u64>,
    /// Entries that one read of a stream can be expected to bring.
    count_max: usize,
    parser: Parser,
    request: Vec<u8>,
    spare: Vec<Arc<Batch>>,
    /// Bytes of the last answer.
    used: usize,
}

struct Ahead {
    request: Vec<u8>,
    shape: Shape,
    since: Instant,
}

/// An `XREAD` of some of the streams: their indexes.
type Group<'a> = &'a [usize];

impl Reader {
    pub(super) fn new(link: Arc<Link>) -> Reader {
        Reader {
            link,
            socket: None,
            lost: false,
            faulty: BTreeSet::new(),
            ahead: None,
            store_ms: None,
            count_max: COUNT_MAX,
            parser: Parser::new(),
            request: Vec::new(),
            spare: Vec::new(),
            used: 0,
        }
    }

    /// See [`super::super::Reader::read`].
    pub async fn read<S: AsRef<str>>(
        &mut self,
        cursors: &[(S, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<ReadReply, StoreError> {
        let count = self.count(count);
        let mut faults = Vec::new();
        // What is not only waited for is looked at first.
        if block.is_zero() || self.ahead.is_some() || cursors.is_empty() || self.any_faulty(cursors) {
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
            faults = answer.faults;
        }
        match self.bulk(cursors, count, block).await? {
            Ok(waited) => Ok(ReadReply { faults, ..waited }),
            Err(_) => {
                let answer = self.single(cursors, count).await?;
                self.note(cursors, &answer.faults);
                Ok(answer)
            }
        }
    }

    /// See [`super::super::Reader::ask_ahead`].
    pub async fn ask_ahead<S: AsRef<str>>(&mut self, cursors: &[(S, EntryId)], count: usize) {
        if self.ahead.is_some() || cursors.is_empty() {
            return;
        }
        let Some(mut socket) = self.socket.take() else { return };
        let (good, faulty) = self.sorted(cursors);
        let shape = self.encode(cursors, &groups(&good, &faulty), self.count(count), Duration::ZERO);
        match tokio::time::timeout(PATIENCE, socket.write(&self.link, &self.request)).await {
            Ok(Ok(())) => {
                self.socket = Some(socket);
                self.ahead = Some(Ahead { request: std::mem::take(&mut self.request), shape, since: Instant::now() });
            }
            // The next read connects anew, and tells of it.
            _ => self.lost = true,
        }
    }

    fn count(&self, asked: usize) -> usize {
        asked.clamp(1, COUNT_MAX).min(self.count_max)
    }

    fn any_faulty<S: AsRef<str>>(&self, cursors: &[(S, EntryId)]) -> bool {
        !self.faulty.is_empty() && cursors.iter().any(|(name, _)| self.faulty.contains(name.as_ref()))
    }

    /// Indexes of the streams that can be read, and of those that could not be.
    fn sorted<S: AsRef<str>>(&self, cursors: &[(S, EntryId)]) -> (Vec<usize>, Vec<usize>) {
        if self.faulty.is_empty() {
            return ((0..cursors.len()).collect(), Vec::new());
        }
        (0..cursors.len()).partition(|i| cursors.get(*i).is_some_and(|(name, _)| !self.faulty.contains(name.as_ref())))
    }

    /// Keeps which streams are faulty; says whether that is news.
    fn note<S: AsRef<str>>(&mut self, cursors: &[(S, EntryId)], faults: &[(usize, StreamFault)]) -> bool {
        if faults.is_empty() && self.faulty.is_empty() {
            return false;
        }
        let mut changed = false;
        for (index, (name, _)) in cursors.iter().enumerate() {
            let name = name.as_ref();
            if !faults.iter().any(|(faulty, _)| *faulty == index) {
                changed |= self.faulty.remove(name);
            } else if !self.faulty.contains(name) {
                changed |= self.faulty.insert(name.to_owned());
            }
        }
        changed
    }

    /// All good streams in one XREAD, and without waiting also each faulty one in one of its own. The inner error is the
    /// refusal of the common XREAD.
    async fn bulk<S: AsRef<str>>(
        &mut self,
        cursors: &[(S, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Result<ReadReply, StreamFault>, StoreError> {
        let (good, mut faulty) = self.sorted(cursors);
        if !block.is_zero() {
            faulty.clear();
        }
        let groups = groups(&good, &faulty);
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
    async fn single<S: AsRef<str>>(&mut self, cursors: &[(S, EntryId)], count: usize) -> Result<ReadReply, StoreError> {
        let indexes: Vec<usize> = (0..cursors.len()).collect();
        let groups: Vec<Group<'_>> = indexes.chunks(1).collect();
        let (mut answer, refusals) = self.xread(cursors, &groups, count, Duration::ZERO).await?;
        // A group is a stream, so its number is the stream's index.
        answer.faults.extend(refusals);
        Ok(answer)
    }

    /// Writes into `request`: TIME, an XREAD per group, TIME. A read that waits does without the first where the clock is known,
    /// for the server would answer it at once and wake us for nothing.
    fn encode<S: AsRef<str>>(&mut self, cursors: &[(S, EntryId)], groups: &[Group<'_>], count: usize, block: Duration) -> Shape {
        let time_before = block.is_zero() || self.store_ms.is_none();
        let request = &mut self.request;
        request.clear();
        if time_before {
            resp::command(request, &[b"TIME"]);
        }
        for group in groups {
            resp::begin(request, 4 + 2 * usize::from(!block.is_zero()) + 2 * group.len());
            resp::word(request, b"XREAD");
            resp::word(request, b"COUNT");
            resp::number(request, count as u64);
            if !block.is_zero() {
                resp::word(request, b"BLOCK");
                resp::number(request, millis(block));
            }
            resp::word(request, b"STREAMS");
            let asked = || group.iter().filter_map(|index| cursors.get(*index));
            for (name, _) in asked() {
                resp::word(request, name.as_ref().as_bytes());
            }
            for (_, after) in asked() {
                resp::id(request, *after);
            }
        }
        resp::command(request, &[b"TIME"]);
        Shape { time_before, reads: groups.len(), count, time_after: true, ..Shape::default() }
    }

    /// Asks one XREAD per group, unless just that was asked ahead. Also gives the groups that were refused.
    async fn xread<S: AsRef<str>>(
        &mut self,
        cursors: &[(S, EntryId)],
        groups: &[Group<'_>],
        count: usize,
        block: Duration,
    ) -> Result<(ReadReply, Vec<(usize, StreamFault)>), StoreError> {
        let (bytes, shape, age) = self.exchange(cursors, groups, count, block).await?;
        self.used = bytes.len();
        let link = self.link.clone();
        let answer = self.parser.answer(bytes);
        let mut refusals = Vec::new();
        for (reply, text) in answer.errors() {
            match reply.checked_sub(usize::from(shape.time_before)).filter(|group| *group < groups.len()) {
                Some(group) => refusals.push((group, stream_fault(&link, code_and_detail(text))?)),
                None => return Err(link.refused(text)),
            }
        }
        let [before, after] = answer.times();
        let before_ms = before.or(self.store_ms).ok_or_else(|| link.garbled())?;
        let after_ms = after.ok_or_else(|| link.garbled())?;
        let mut streams = Vec::new();
        let mut left: &[usize] = &[];
        let mut read = None;
        let mut cut = None;
        for stream in answer.streams() {
            if read != Some(stream.read) {
                read = Some(stream.read);
                left = groups.get(stream.read).copied().unwrap_or_default();
            }
            let same = |index: &usize| cursors.get(*index).is_some_and(|(asked, _)| asked.as_ref().as_bytes() == stream.name);
            let at = left.iter().position(same).ok_or_else(|| link.garbled())?;
            let index = *left.get(at).ok_or_else(|| link.garbled())?;
            left = left.get(at + 1..).unwrap_or_default();
            if stream.cut {
                cut = cut.max(Some(stream.entries.len()));
            }
            if !stream.entries.is_empty() {
                let full = stream.entries.len() >= count || stream.cut;
                streams.push(StreamEntries { index, entries: stream.entries, full });
            }
        }
        let batch = answer.batch();
        self.keep(batch);
        self.store_ms = Some(after_ms);
        self.count_max = match cut {
            // Asked for again and again, what cannot be kept would only be thrown away.
            Some(kept) => kept.max(1),
            None => self.count_max.saturating_mul(2).min(COUNT_MAX),
        };
        streams.sort_by_key(|stream: &StreamEntries| stream.index);
        Ok((ReadReply { before_ms, after_ms, age, streams, faults: Vec::new() }, refusals))
    }

    /// One request and its answer: the bytes, what they are, and how long ago they were asked for if that was ahead.
    async fn exchange<S: AsRef<str>>(
        &mut self,
        cursors: &[(S, EntryId)],
        groups: &[Group<'_>],
        count: usize,
        block: Duration,
    ) -> Result<(Vec<u8>, Shape, Duration), StoreError> {
        let link = self.link.clone();
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                (self.ahead, self.store_ms) = (None, None);
                link.open_still()?;
                let made = Socket::connect(&link).await.inspect_err(|_| self.lost = true)?;
                if std::mem::take(&mut self.lost) {
                    link.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                made
            }
        };
        let shape = self.encode(cursors, groups, count, block);
        let ahead = self.ahead.take();
        let work = async {
            if let Some(ahead) = ahead {
                let wanted = ahead.request == self.request;
                let buf = self.memory();
                self.parser.expect(ahead.shape);
                let bytes = socket.answer(&link, &mut self.parser, buf).await?;
                let age = ahead.since.elapsed();
                if wanted {
                    return Ok((bytes, age));
                }
                // Positions have changed meanwhile: what came is read again where it is wanted.
                let batch = self.parser.answer(bytes).batch();
                self.keep(batch);
            }
            socket.write(&link, &self.request).await?;
            let buf = self.memory();
            self.parser.expect(shape);
            Ok((socket.answer(&link, &mut self.parser, buf).await?, Duration::ZERO))
        };
        let outcome = match tokio::time::timeout(block.saturating_add(PATIENCE), work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                if self.parser.some() {
                    // It came, but not in time.
                    self.count_max = (count / 4).max(COUNT_MIN);
                }
                Err(link.silent())
            }
        };
        match outcome {
            Ok((bytes, age)) => {
                self.socket = Some(socket);
                Ok((bytes, shape, age))
            }
            Err(error) => {
                self.lost = true;
                Err(error)
            }
        }
    }

    /// Memory for an answer: that of an earlier one, if nobody needs it any more and it is not far too large.
    fn memory(&mut self) -> Vec<u8> {
        let most = KEPT_ALWAYS.max(self.used.saturating_mul(KEPT_TIMES));
        self.spare.retain(|batch| batch.bytes.capacity() <= most);
        self.parser.shrink(most);
        let free = self.spare.iter().position(|batch| Arc::strong_count(batch) == 1);
        let batch = free.and_then(|at| Arc::try_unwrap(self.spare.remove(at)).ok()).unwrap_or_default();
        self.parser.fields = batch.fields;
        batch.bytes
    }

    fn keep(&mut self, batch: Arc<Batch>) {
        if self.spare.len() >= SPARE_MAX {
            self.spare.remove(0);
        }
        self.spare.push(batch);
    }
}

/// The good ones together, each of the others by itself.
fn groups<'a>(good: &'a [usize], faulty: &'a [usize]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::with_capacity(1 + faulty.len());
    if !good.is_empty() {
        groups.push(good);
    }
    groups.extend(faulty.chunks(1));
    groups
}

/// Whether an error reply is about one stream, or about the server or the user as a whole.
pub(super) fn stream_fault(link: &Link, (code, detail): (&str, &str)) -> Result<StreamFault, StoreError> {
    let text = || format!("{code} {detail}").trim().to_owned();
    match code {
        "WRONGTYPE" => Ok(StreamFault::WrongType(text())),
        // `… no permissions to run the 'xread' command`: no stream at all can be read.
        "NOPERM" if detail.contains("to run the '") => Err(link.meaning(code, detail)),
        "NOPERM" => Ok(StreamFault::Forbidden(text())),
        _ => match link.meaning(code, detail) {
            StoreError::Broken(_) => Ok(StreamFault::Other(text())),
            whole => Err(whole),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_given_back_when_little_comes() {
        let mut reader = Reader::new(Arc::new(Link::open("redis://h:1/0").unwrap()));
        let batch = |bytes: usize| Arc::new(Batch { bytes: Vec::with_capacity(bytes), fields: Vec::new() });
        reader.used = 1 << 20;
        reader.keep(batch(1 << 20));
        assert_eq!(reader.memory().capacity(), 1 << 20, "used again");
        assert_eq!(reader.memory().capacity(), 0);

        let needed = batch(1 << 20);
        reader.keep(needed.clone());
        assert_eq!(reader.memory().capacity(), 0, "an entry needs it still");
        drop(needed);
        assert_eq!(reader.memory().capacity(), 1 << 20);

        for _ in 0..5 {
            reader.keep(batch(1 << 20));
        }
        assert_eq!(reader.spare.len(), SPARE_MAX);
        reader.used = 100;
        assert_eq!(reader.memory().capacity(), 0, "after a small answer the large ones go");
        assert!(reader.spare.is_empty());
        reader.keep(batch(10_000));
        assert_eq!(reader.memory().capacity(), 10_000);
    }
}
