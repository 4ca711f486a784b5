//! A connection for one request at a time, by the protocol written by hand: for what an alert waits for, and for what may be
//! answered with more than anybody wants to hold. The shared connection has a task of its own that requests are handed to and
//! answers from; each hand-over wakes a thread, twice for every alert.

use super::{
    connect::{Link, PATIENCE, code_and_detail, forbids_scripts},
    resp::{self, Parser, Socket, Unanswered},
    scripts::Script,
    *,
};

/// Cheap to share; requests wait for each other.
pub(super) struct Direct {
    link: Arc<Link>,
    seat: tokio::sync::Mutex<Seat>,
}

#[derive(Default)]
struct Seat {
    /// Taken out for every request and put back after a whole answer: who is dropped half-way takes it with him.
    socket: Option<Socket>,
    /// There was one.
    lost: bool,
    request: Vec<u8>,
}

impl Direct {
    pub(super) fn new(link: Arc<Link>) -> Direct {
        Direct { link, seat: tokio::sync::Mutex::default() }
    }

    /// As [`Link::run`]: by the script's digest, by its text where the server does not have it (any more). Scripts bear being
    /// run twice: when the connection turns out to be gone, it is asked once more.
    pub(super) async fn run<K: AsRef<[u8]>, A: AsRef<[u8]>>(
        &self,
        script: &Script,
        keys: &[K],
        args: &[A],
    ) -> Result<Value, StoreError> {
        let link = &self.link;
        let work = async {
            let mut seat = self.seat.lock().await;
            seat.call(b"EVALSHA", script.sha.as_bytes(), keys, args);
            let said = seat.ask(link, None).await?;
            if !matches!(&said, Err(text) if code_and_detail(text).0 == "NOSCRIPT") {
                return Ok(said);
            }
            seat.call(b"EVAL", script.text.as_bytes(), keys, args);
            seat.ask(link, None).await
        };
        let said = match tokio::time::timeout(PATIENCE, work).await {
            Ok(said) => said?,
            Err(_) => return Err(link.silent()),
        };
        said.map_err(|text| match code_and_detail(&text) {
            (code, detail) if forbids_scripts(code, detail) => link.no_scripts(),
            (code, detail) => link.meaning(code, detail),
        })
        .map_err(|error| script.named(error))
    }

    /// `XINFO STREAM`, which brings the first entry and the last whole, of whatever size they are; the inner error is the server's
    /// refusal. `None`: it began to answer and did not come to an end in time.
    pub(super) async fn describe(&self, stream: &str) -> Result<Option<Result<StreamInfo, String>>, StoreError> {
        let mut parser = Parser::new();
        let work = async {
            let mut seat = self.seat.lock().await;
            seat.request.clear();
            resp::command(&mut seat.request, &[b"XINFO", b"STREAM", stream.as_bytes()]);
            seat.ask(&self.link, Some(&mut parser)).await
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(said) => Ok(Some(said?.map(|_| parser.info))),
            Err(_) if parser.describes() => Ok(None),
            Err(_) => Err(self.link.silent()),
        }
    }

    /// The connection, where one is open, is closed.
    pub(super) fn close(&self) {
        if let Ok(mut seat) = self.seat.try_lock() {
            seat.socket = None;
        }
    }
}

impl Seat {
    /// Writes down the request.
    fn call<K: AsRef<[u8]>, A: AsRef<[u8]>>(&mut self, how: &[u8], body: &[u8], keys: &[K], args: &[A]) {
        let request = &mut self.request;
        request.clear();
        request.shrink_to(REQUEST_KEPT);
        resp::begin(request, 3 + keys.len() + args.len());
        resp::word(request, how);
        resp::word(request, body);
        resp::number(request, keys.len() as u64);
        keys.iter().for_each(|key| resp::word(request, key.as_ref()));
        args.iter().for_each(|arg| resp::word(request, arg.as_ref()));
    }

    /// Sends the request and gives its reply, a stream's description to the parser; the inner error is the server's refusal.
    async fn ask(&mut self, link: &Link, mut parser: Option<&mut Parser>) -> Result<Result<Value, String>, StoreError> {
        let mut again = self.socket.is_some();
        loop {
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => {
                    link.open_still()?;
                    let made = Socket::connect(link).await?;
                    if std::mem::take(&mut self.lost) {
                        link.reconnects.fetch_add(1, Ordering::Relaxed);
                    }
                    made
                }
            };
            // Until it has answered, whatever ends this.
            self.lost = true;
            let asked = match socket.send(&self.request).await {
                Ok(()) => match parser.as_deref_mut() {
                    Some(parser) => socket.facts(parser).await,
                    None => socket.reply().await,
                },
                Err(error) => Err(Unanswered::Lost(error)),
            };
            match asked {
                Ok(said) => {
                    (self.socket, self.lost) = (Some(socket), false);
                    return Ok(said);
                }
                Err(Unanswered::Garbled) => return Err(link.garbled()),
                // It had been lost before, most likely.
                Err(Unanswered::Lost(_)) if again => again = false,
                Err(Unanswered::Lost(error)) => return Err(link.failure(&error)),
            }
        }
    }
}

/// Memory of a request that is kept for the next one, bytes.
const REQUEST_KEPT: usize = 64 << 10;
