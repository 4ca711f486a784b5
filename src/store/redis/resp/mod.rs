//! The protocol spoken by hand, for bulk reads: the redis crate makes a tree of every reply, which costs many times what the
//! reply is worth.
//!
//! | file | subject |
//! |---|---|
//! | `parse` | an answer's bytes to the places of its fields (pure) |
//! | `shape` | which replies make up an answer (pure) |
//! | `text` | lines, lengths, numbers, ids (pure) |
//! | `reply` | one small reply of any shape (pure) |
//! | `socket` | TCP, TLS or a Unix socket; the greeting; one request, one answer |

mod parse;
mod reply;
mod shape;
mod socket;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

pub(super) use self::socket::{Socket, Unanswered};
pub use self::{parse::Parser, shape::Shape, text::Malformed};
use crate::{
    event::EntryId,
    store::entry::{Batch, Entry},
};

/// What one `XREAD` gave of one stream.
#[derive(Debug)]
pub struct Stream<'a> {
    /// Which of the `XREAD`s.
    pub read: usize,
    pub name: &'a [u8],
    pub entries: Vec<Entry>,
    /// There was more in the answer than is kept.
    pub cut: bool,
}

/// A whole answer, taken apart.
pub struct Answer<'p> {
    parser: &'p Parser,
    batch: Arc<Batch>,
}

impl Parser {
    /// The answer that [`Parser::feed`] has found whole in these bytes.
    pub fn answer(&mut self, bytes: Vec<u8>) -> Answer<'_> {
        let batch = Arc::new(Batch { bytes, fields: std::mem::take(&mut self.fields) });
        Answer { parser: self, batch }
    }
}

impl<'p> Answer<'p> {
    /// The clock before and after the reads, Unix ms, as far as it was asked.
    pub fn times(&self) -> [Option<u64>; 2] {
        self.parser.times
    }

    /// Error replies and which reply each was, counted over the whole answer.
    pub fn errors(&self) -> &'p [(usize, String)] {
        &self.parser.errors
    }

    /// In the order of the answer; also streams without entries.
    pub fn streams(&self) -> impl Iterator<Item = Stream<'_>> {
        self.parser.found.iter().map(|found| {
            let rows = self.parser.rows.get(found.first..found.first + found.rows).unwrap_or_default();
            Stream {
                read: found.read,
                name: found.name.of(&self.batch.bytes),
                entries: rows.iter().map(|row| Entry::at(&self.batch, row)).collect(),
                cut: found.cut,
            }
        })
    }

    /// The memory behind it, to be used again when no entry needs it any more.
    pub(super) fn batch(&self) -> Arc<Batch> {
        self.batch.clone()
    }
}

/// Adds a command of so many words.
pub(super) fn begin(request: &mut Vec<u8>, words: usize) {
    request.push(b'*');
    digits(request, words as u64);
    request.extend_from_slice(b"\r\n");
}

pub(super) fn word(request: &mut Vec<u8>, text: &[u8]) {
    request.push(b'$');
    digits(request, text.len() as u64);
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(text);
    request.extend_from_slice(b"\r\n");
}

pub(super) fn command(request: &mut Vec<u8>, words: &[&[u8]]) {
    begin(request, words.len());
    for text in words {
        word(request, text);
    }
}

pub(super) fn number(request: &mut Vec<u8>, n: u64) {
    let mut text = Vec::with_capacity(20);
    digits(&mut text, n);
    word(request, &text);
}

pub(super) fn id(request: &mut Vec<u8>, id: EntryId) {
    let mut text = Vec::with_capacity(41);
    digits(&mut text, id.ms);
    text.push(b'-');
    digits(&mut text, id.seq);
    word(request, &text);
}

fn digits(out: &mut Vec<u8>, mut n: u64) {
    let from = out.len();
    loop {
        // Below ten.
        out.push(b'0' + (n % 10) as u8);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    if let Some(written) = out.get_mut(from..) {
        written.reverse();
    }
}
