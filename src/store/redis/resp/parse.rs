//! From the bytes of an answer to the places of its fields, in place: nothing is copied, nothing allocated per field, and
//! what has been looked at once is not looked at again, however small the parts are that the bytes come in.
//!
//! An answer is the replies to `TIME`, some `XREAD`s and `TIME` again, or a stream's description, in RESP2 or RESP3. Every length and line end is checked.
//! What is kept is bounded, and never by giving up a stream: of an entry far larger than an event may be only the beginning is
//! kept, and where a reply is too large as a whole the last entries of its streams are left for the next read.

use super::{
    shape::{Kind, Shape},
    text::{LINE_MAX, Malformed, entry_id, length, line_at, number, span, text_at},
};
use crate::{
    event::EntryId,
    store::{
        StreamInfo,
        entry::{Field, Row, Span, saturated},
        redis::value::clock_ms,
    },
};

/// Bytes of one entry that are kept; [`Row::size`] says how many there were.
const ENTRY_KEPT_MAX: usize = 4 << 20;
/// The same once the answer as a whole is too large: still more than an event may have, so it is known for what it is.
const ENTRY_KEPT_SHORT: usize = 68 << 10;
/// Beyond, an answer keeps one entry of each stream.
const ANSWER_KEPT_MAX: usize = 64 << 20;
/// Fields of one entry that are kept.
const FIELDS_MAX: u64 = 1 << 16;
/// A stream's name.
const NAME_MAX: u64 = 1 << 20;
/// An id, a number as text.
const WORD_MAX: u64 = 64;
/// Values that are passed over at a time, nested ones included: more than come in the time that an answer has. They cost no memory.
const SKIPPED_MAX: u64 = 1 << 40;
/// A text as long as the server's own limit allows (`proto-max-bulk-len`).
const TEXT_MAX: u64 = u32::MAX as u64;

/// One stream of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Which of the `XREAD`s gave it.
    pub(super) read: usize,
    pub(super) name: Span,
    /// Its rows: from here, so many.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// There was more than is kept.
    pub(super) cut: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Reply,
    Seconds,
    Micros,
    Stream,
    Name,
    Entries,
    Entry,
    Id,
    Fields,
    Field,
    Value,
    /// Of a stream's description: a name, what it is, and of an entry its id.
    FactName,
    Fact,
    FirstId,
}

/// What a stream's description says, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Length,
    Last,
    Added,
    Deleted,
    First,
    Other,
}

impl Fact {
    fn named(name: &[u8]) -> Fact {
        match name {
            b"length" => Fact::Length,
            b"last-generated-id" => Fact::Last,
            b"entries-added" => Fact::Added,
            b"max-deleted-entry-id" => Fact::Deleted,
            b"first-entry" => Fact::First,
            _ => Fact::Other,
        }
    }
}

enum Token {
    /// A text or a number, and how long it was before anything was cut off.
    Text(Span, u64),
    Array(u64),
    Map(u64),
    Push(u64),
    Attribute(u64),
    Nil,
    Error(Span),
}

/// A text of which only the beginning is kept.
#[derive(Clone, Copy, Debug)]
struct Long {
    kept: usize,
    /// Bytes behind what is kept, not seen yet.
    left: u64,
    size: u64,
}

/// Takes one answer after the other apart.
#[derive(Debug)]
pub struct Parser {
    shape: Shape,
    /// Looked at up to here.
    pos: usize,
    at: At,
    /// Values to be passed over before `at` goes on.
    skip: u64,
    long: Option<Long>,
    reply: usize,
    /// Streams come as pairs of a map.
    map: bool,
    streams_left: u64,
    entries_left: u64,
    /// Names and values of the entry's fields, and those that are too many.
    texts_left: u64,
    texts_over: u64,
    row: Row,
    row_bytes: u64,
    row_kept: usize,
    field: Span,
    last_id: Option<EntryId>,
    seconds: u64,
    fact: Fact,
    facts_left: u64,
    /// Values of the first entry behind its id.
    behind: u64,
    /// The stream's description.
    pub(in crate::store::redis) info: StreamInfo,
    /// Unix ms, of both TIMEs.
    pub(super) times: [Option<u64>; 2],
    /// Error replies, by the number of the reply.
    pub(super) errors: Vec<(usize, String)>,
    pub(super) found: Vec<Found>,
    pub(super) rows: Vec<Row>,
    pub(in crate::store::redis) fields: Vec<Field>,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser::new()
    }
}

impl Parser {
    pub fn new() -> Parser {
        Parser {
            shape: Shape::default(),
            pos: 0,
            at: At::Reply,
            skip: 0,
            long: None,
            reply: 0,
            map: false,
            streams_left: 0,
            entries_left: 0,
            texts_left: 0,
            texts_over: 0,
            row: Row { id: EntryId::ZERO, first: 0, fields: 0, size: 0 },
            row_bytes: 0,
            row_kept: 0,
            field: Span::default(),
            last_id: None,
            seconds: 0,
            fact: Fact::Other,
            facts_left: 0,
            behind: 0,
            info: StreamInfo::default(),
            times: [None; 2],
            errors: Vec::new(),
            found: Vec::new(),
            rows: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// An answer of this shape comes next, at the beginning of the buffer.
    pub fn expect(&mut self, shape: Shape) {
        self.shape = shape;
        (self.pos, self.at, self.skip, self.long, self.reply) = (0, At::Reply, 0, None, 0);
        self.times = [None; 2];
        self.info = StreamInfo::default();
        self.errors.clear();
        self.found.clear();
        self.rows.clear();
        self.fields.clear();
    }

    /// Bytes of the buffer that belong to the answer, once it is whole.
    pub fn end(&self) -> usize {
        self.pos
    }

    /// Whether anything of a stream has come.
    pub(in crate::store::redis) fn some(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Whether a stream's description is on its way.
    pub(in crate::store::redis) fn describes(&self) -> bool {
        self.skip > 0 || matches!(self.at, At::FactName | At::Fact | At::FirstId)
    }

    /// Gives memory back that is far more than `most` bytes of answers need.
    pub(in crate::store::redis) fn shrink(&mut self, most: usize) {
        let most = most / size_of::<Row>();
        self.rows.clear();
        self.rows.shrink_to(most);
    }

    /// Looks at what has come since the last call. `true`: the answer is whole. Bytes that are not kept are taken out of the
    /// buffer, from those that were not looked at before.
    ///
    /// # Errors
    ///
    /// [`Malformed`]; the connection is then of no use any more.
    pub fn feed(&mut self, buf: &mut Vec<u8>) -> Result<bool, Malformed> {
        loop {
            if self.skip > 0 {
                if !self.pass_over(buf)? {
                    return Ok(false);
                }
                continue;
            }
            match self.at {
                At::Reply if self.reply >= self.shape.replies() => return Ok(true),
                At::Stream if self.streams_left == 0 => {
                    self.reply += 1;
                    self.at = At::Reply;
                    continue;
                }
                At::Stream if self.map => {
                    self.streams_left -= 1;
                    self.at = At::Name;
                }
                At::Entry if self.entries_left == 0 => {
                    self.at = At::Stream;
                    continue;
                }
                At::FactName if self.facts_left == 0 => {
                    self.reply += 1;
                    self.at = At::Reply;
                    continue;
                }
                At::Field => {
                    self.fields_at_once(buf)?;
                    if self.texts_left == 0 {
                        self.end_entry();
                        continue;
                    }
                }
                _ => {}
            }
            let Some(token) = self.token(buf)? else { return Ok(false) };
            self.take(token, buf)?;
        }
    }

    fn take(&mut self, token: Token, buf: &[u8]) -> Result<(), Malformed> {
        match (self.at, token) {
            // Told about the reply that follows, or about something else altogether.
            (_, Token::Attribute(pairs)) => self.skip = pairs.saturating_mul(2),
            (At::Reply, Token::Push(items)) => self.skip = items,
            (At::Reply, token) => return self.begin_reply(token, buf),
            (At::Seconds, Token::Text(text, _)) => {
                self.seconds = number(text.of(buf)).ok_or(Malformed)?;
                self.at = At::Micros;
            }
            (At::Micros, Token::Text(text, _)) => {
                let micros = number(text.of(buf)).ok_or(Malformed)?;
                let ms = clock_ms(self.seconds, micros).ok_or(Malformed)?;
                let which = usize::from(!self.shape.time_before || self.reply > self.shape.any);
                *self.times.get_mut(which).ok_or(Malformed)? = Some(ms);
                self.reply += 1;
                self.at = At::Reply;
            }
            (At::Stream, Token::Array(2)) => {
                self.streams_left -= 1;
                self.at = At::Name;
            }
            (At::Name, Token::Text(name, _)) => {
                let read = self.reply - self.shape.any - usize::from(self.shape.time_before);
                self.found.push(Found { read, name, first: self.rows.len(), rows: 0, cut: false });
                self.last_id = None;
                self.at = At::Entries;
            }
            (At::Entries, Token::Array(entries)) if entries <= self.shape.count as u64 => {
                self.entries_left = entries;
                self.at = At::Entry;
            }
            (At::Entry, Token::Array(2)) => {
                self.entries_left -= 1;
                let found = self.found.last_mut().ok_or(Malformed)?;
                if found.rows > 0 && self.pos > ANSWER_KEPT_MAX {
                    found.cut = true;
                    self.skip = self.entries_left + 2;
                    self.entries_left = 0;
                } else {
                    self.at = At::Id;
                }
            }
            (At::Id, Token::Text(text, _)) => {
                let id = entry_id(text.of(buf)).ok_or(Malformed)?;
                if self.last_id.replace(id).is_some_and(|last| last >= id) {
                    return Err(Malformed);
                }
                self.row = Row { id, first: saturated(self.fields.len()), fields: 0, size: 0 };
                (self.row_bytes, self.row_kept) = (0, 0);
                self.at = At::Fields;
            }
            (At::Fields, token) => {
                let texts = match token {
                    Token::Array(texts) if texts % 2 == 0 => texts,
                    Token::Map(pairs) => pairs.saturating_mul(2),
                    Token::Nil => 0,
                    _ => return Err(Malformed),
                };
                self.texts_left = texts.min(2 * FIELDS_MAX);
                self.texts_over = texts - self.texts_left;
                self.at = At::Field;
            }
            (At::Field, Token::Text(name, size)) => {
                self.field = name;
                self.row_bytes = self.row_bytes.saturating_add(size);
                self.row_kept += name.len as usize;
                self.texts_left -= 1;
                self.at = At::Value;
            }
            (At::Value, Token::Text(value, size)) => {
                self.fields.push(Field { name: self.field, value });
                self.row_bytes = self.row_bytes.saturating_add(size);
                self.row_kept += value.len as usize;
                self.texts_left -= 1;
                self.at = At::Field;
            }
            (At::FactName, Token::Text(name, _)) => {
                self.fact = Fact::named(name.of(buf));
                self.facts_left -= 1;
                self.at = At::Fact;
            }
            (At::Fact, token) => {
                self.at = At::FactName;
                return self.take_fact(token, buf);
            }
            (At::FirstId, Token::Text(text, _)) => {
                self.info.first = Some(entry_id(text.of(buf)).ok_or(Malformed)?);
                self.skip = self.behind;
                self.at = At::FactName;
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// Entries come whole, and may be of any size: of the first one the id is kept, the rest is passed over.
    fn take_fact(&mut self, token: Token, buf: &[u8]) -> Result<(), Malformed> {
        match (self.fact, token) {
            (Fact::First, Token::Array(items @ 1..)) => {
                self.behind = items - 1;
                self.at = At::FirstId;
            }
            (Fact::First | Fact::Other, Token::Array(items)) => self.skip = items,
            (Fact::Other, Token::Map(pairs)) => self.skip = pairs.saturating_mul(2),
            (Fact::First | Fact::Other, Token::Nil) | (Fact::Other, Token::Text(..)) => {}
            (fact, Token::Text(text, _)) => {
                let text = text.of(buf);
                let count = || number(text).ok_or(Malformed);
                let id = || entry_id(text).ok_or(Malformed);
                match fact {
                    Fact::Length => self.info.length = count()?,
                    Fact::Added => self.info.added = Some(count()?),
                    Fact::Last => self.info.last_generated = id()?,
                    Fact::Deleted => self.info.max_deleted = Some(id()?),
                    Fact::First | Fact::Other => return Err(Malformed),
                }
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn begin_reply(&mut self, token: Token, buf: &[u8]) -> Result<(), Malformed> {
        let kind = self.shape.kind(self.reply);
        match (kind, token) {
            (_, Token::Error(text)) => {
                let text = String::from_utf8_lossy(text.of(buf)).into_owned();
                self.errors.push((self.reply, text));
                self.reply += 1;
            }
            (Kind::Time, Token::Array(2)) => self.at = At::Seconds,
            (Kind::Read, Token::Nil) => self.reply += 1,
            (Kind::Read, Token::Array(streams)) => {
                (self.streams_left, self.map, self.at) = (streams, false, At::Stream);
            }
            (Kind::Read, Token::Map(streams)) => {
                (self.streams_left, self.map, self.at) = (streams, true, At::Stream);
            }
            (Kind::Info, Token::Array(items)) if items % 2 == 0 => (self.facts_left, self.at) = (items / 2, At::FactName),
            (Kind::Info, Token::Map(facts)) => (self.facts_left, self.at) = (facts, At::FactName),
            (Kind::Any, token) => {
                self.skip = match token {
                    Token::Array(items) => items,
                    Token::Map(pairs) => pairs.saturating_mul(2),
                    _ => 0,
                };
                self.reply += 1;
            }
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// The fields of an entry that are here whole and are what nearly every field is.
    fn fields_at_once(&mut self, buf: &[u8]) -> Result<(), Malformed> {
        let kept_max = self.kept_max();
        let (mut pos, mut left) = (self.pos, self.texts_left);
        let (mut bytes, mut kept) = (self.row_bytes, self.row_kept);
        while left >= 2 {
            let Some((name, value_at)) = text_at(buf, pos)? else { break };
            let Some((value, next)) = text_at(buf, value_at)? else { break };
            let both = name.len as usize + value.len as usize;
            if kept + both > kept_max {
                break;
            }
            self.fields.push(Field { name, value });
            (pos, left) = (next, left - 2);
            (bytes, kept) = (bytes + both as u64, kept + both);
        }
        (self.pos, self.texts_left, self.row_bytes, self.row_kept) = (pos, left, bytes, kept);
        Ok(())
    }

    fn end_entry(&mut self) {
        let fields = saturated(self.fields.len()) - self.row.first;
        let size = if self.texts_over > 0 { u32::MAX } else { u32::try_from(self.row_bytes).unwrap_or(u32::MAX) };
        self.rows.push(Row { fields, size, ..self.row });
        if let Some(found) = self.found.last_mut() {
            found.rows += 1;
        }
        self.skip = self.texts_over;
        self.at = At::Entry;
    }

    fn kept_max(&self) -> usize {
        if self.pos > ANSWER_KEPT_MAX { ENTRY_KEPT_SHORT } else { ENTRY_KEPT_MAX }
    }

    /// Values that nobody asked for, whatever they hold. `true`: all are behind us.
    fn pass_over(&mut self, buf: &mut Vec<u8>) -> Result<bool, Malformed> {
        let from = self.pos;
        while self.skip > 0 {
            let Some(token) = self.token(buf)? else { break };
            let inside = match token {
                Token::Array(items) => items,
                Token::Map(pairs) => pairs.saturating_mul(2),
                // Does not count itself.
                Token::Attribute(pairs) => pairs.saturating_mul(2).saturating_add(1),
                Token::Push(_) => return Err(Malformed),
                Token::Text(..) | Token::Nil | Token::Error(_) => 0,
            };
            self.skip = (self.skip - 1).saturating_add(inside);
            if self.skip > SKIPPED_MAX {
                return Err(Malformed);
            }
        }
        buf.drain(from..self.pos);
        self.pos = from;
        Ok(self.skip == 0)
    }

    /// The next token, if it is here whole.
    fn token(&mut self, buf: &mut Vec<u8>) -> Result<Option<Token>, Malformed> {
        if let Some(long) = self.long {
            return self.go_on(long, buf);
        }
        let Some(&kind) = buf.get(self.pos) else { return Ok(None) };
        let Some(line) = line_at(buf, self.pos + 1)? else { return Ok(None) };
        let next = line.start as usize + line.len as usize + 2;
        let text = line.of(buf);
        let token = match kind {
            b'$' | b'=' | b'!' => {
                let Some(size) = length(text)? else {
                    self.pos = next;
                    return Ok(Some(Token::Nil));
                };
                return self.long_text(kind, size, next, buf);
            }
            b'*' | b'~' => length(text)?.map_or(Token::Nil, Token::Array),
            b'%' => Token::Map(length(text)?.ok_or(Malformed)?),
            b'>' => Token::Push(length(text)?.ok_or(Malformed)?),
            b'|' => Token::Attribute(length(text)?.ok_or(Malformed)?),
            b'_' if text.is_empty() => Token::Nil,
            b'+' | b':' | b',' | b'(' | b'#' => Token::Text(line, u64::from(line.len)),
            b'-' => Token::Error(line),
            _ => return Err(Malformed),
        };
        self.pos = next;
        Ok(Some(token))
    }

    /// A text of a stated size that begins at `start`.
    fn long_text(&mut self, kind: u8, size: u64, start: usize, buf: &mut Vec<u8>) -> Result<Option<Token>, Malformed> {
        let here = buf.len().checked_sub(start).is_some_and(|here| here as u64 >= size.saturating_add(2));
        let most = match self.at {
            // Whole, it is passed over together with what is around it.
            _ if self.skip > 0 && here => size,
            _ if self.skip > 0 => 0,
            At::Reply if kind == b'!' => LINE_MAX as u64,
            At::Reply => 0,
            At::Field | At::Value => self.kept_max().saturating_sub(self.row_kept) as u64,
            At::Name if size <= NAME_MAX => size,
            At::Seconds | At::Micros | At::Id | At::FactName | At::FirstId if size <= WORD_MAX => size,
            At::Fact => WORD_MAX,
            _ => return Err(Malformed),
        };
        if size > TEXT_MAX {
            return Err(Malformed);
        }
        if size > most {
            self.pos = start;
            let kept = usize::try_from(most).map_err(|_| Malformed)?;
            let long = Long { kept, left: size - most, size };
            self.long = Some(long);
            return self.go_on(long, buf);
        }
        let end = start + usize::try_from(size).map_err(|_| Malformed)?;
        match buf.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Malformed),
            None => return Ok(None),
        }
        let mut text = span(start, end)?;
        if kind == b'=' && self.skip == 0 {
            // Three letters say what kind of text it is.
            if text.of(buf).get(3) != Some(&b':') {
                return Err(Malformed);
            }
            text = span(start + 4, end)?;
        }
        self.pos = end + 2;
        Ok(Some(if kind == b'!' { Token::Error(text) } else { Token::Text(text, u64::from(text.len)) }))
    }

    /// In the middle of a text of which only the beginning is kept.
    fn go_on(&mut self, mut long: Long, buf: &mut Vec<u8>) -> Result<Option<Token>, Malformed> {
        let end = self.pos + long.kept;
        if buf.len() <= end {
            return Ok(None);
        }
        let here = usize::try_from(long.left).unwrap_or(usize::MAX).min(buf.len() - end);
        buf.drain(end..end + here);
        long.left -= here as u64;
        self.long = Some(long);
        if long.left > 0 {
            return Ok(None);
        }
        match buf.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Malformed),
            None => return Ok(None),
        }
        let text = span(self.pos, end)?;
        self.pos = end + 2;
        self.long = None;
        Ok(Some(Token::Text(text, long.size)))
    }
}
