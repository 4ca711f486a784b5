//! Following the alert log and the commit log: plain XREAD from positions of the caller's, over a socket of its own.

use super::{
    connect::PATIENCE,
    lease::millis,
    log::{commit_record, log_entry},
    resp::{self, Parser, Shape, Socket},
    *,
};

/// Follows the alert log or the commit log. A read that is dropped loses nothing but its connection.
pub struct Tail {
    link: Arc<Link>,
    keys: Arc<Keys>,
    /// Taken out for every request and put back after a whole answer.
    socket: Option<Socket>,
    lost: bool,
    parser: Parser,
    request: Vec<u8>,
}

impl Tail {
    pub(super) fn new(link: Arc<Link>, keys: Arc<Keys>) -> Tail {
        Tail { link, keys, socket: None, lost: false, parser: Parser::new(), request: Vec::new() }
    }

    pub async fn alerts(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<LogEntry>, StoreError> {
        let keys = self.keys.clone();
        let entries = self.follow(&keys.alerts, after, limit, block).await?;
        entries.into_iter().map(|entry| log_entry(entry).ok_or_else(|| self.link.garbled())).collect()
    }

    pub async fn commits(&mut self, after: u64, limit: usize, block: Duration) -> Result<Vec<CommitRecord>, StoreError> {
        let keys = self.keys.clone();
        let entries = self.follow(&keys.commits, after, limit, block).await?;
        entries.into_iter().map(|entry| commit_record(entry, &keys.commits)).collect()
    }

    /// See [`super::super::Tail::rest`].
    pub async fn rest(&mut self, pause: Duration) {
        let Some(socket) = &mut self.socket else { return };
        // However it ends: what is lost is met by the next read.
        let _ = tokio::time::timeout(pause, socket.lost()).await;
    }

    async fn follow(&mut self, key: &str, after: u64, limit: usize, block: Duration) -> Result<Vec<Entry>, StoreError> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                self.link.open_still()?;
                let made = Socket::connect(&self.link).await.inspect_err(|_| self.lost = true)?;
                if std::mem::take(&mut self.lost) {
                    self.link.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                made
            }
        };
        let count = limit.clamp(1, COUNT_MAX);
        self.encode(key, after, count, block);
        self.parser.expect(Shape { reads: 1, count, ..Shape::default() });
        let (link, request, parser) = (&self.link, &self.request, &mut self.parser);
        let work = async {
            socket.write(link, request).await?;
            socket.answer(link, parser, Vec::new()).await
        };
        let answered = match tokio::time::timeout(block.saturating_add(PATIENCE), work).await {
            Ok(answered) => answered,
            Err(_) => Err(link.silent()),
        };
        let bytes = answered.inspect_err(|_| self.lost = true)?;
        self.socket = Some(socket);
        let answer = self.parser.answer(bytes);
        match answer.errors().first() {
            Some((_, text)) => Err(self.link.refused(text)),
            None => Ok(answer.streams().flat_map(|stream| stream.entries).collect()),
        }
    }

    fn encode(&mut self, key: &str, after: u64, count: usize, block: Duration) {
        let request = &mut self.request;
        request.clear();
        resp::begin(request, 6 + 2 * usize::from(!block.is_zero()));
        resp::word(request, b"XREAD");
        resp::word(request, b"COUNT");
        resp::number(request, count as u64);
        if !block.is_zero() {
            resp::word(request, b"BLOCK");
            resp::number(request, millis(block));
        }
        resp::word(request, b"STREAMS");
        resp::word(request, key.as_bytes());
        // Ids are `seq-0`: everything above `seq-MAX` is everything after seq.
        resp::id(request, EntryId::new(after, u64::MAX));
    }
}
