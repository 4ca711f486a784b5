//! What a client says, out of bytes as they come. tungstenite's protocol over memory: it is there only from the first byte of a
//! message to its last, so that who listens costs nothing.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::wire::CloseCode;

/// Taken over from the input at once.
const READ_BUFFER: usize = 256;

/// What came from the client.
#[derive(Debug)]
pub(super) enum Incoming {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// Answered already.
    Ping,
    Pong,
    /// The client closes; the answer is among what goes out.
    Close,
    /// The connection is gone.
    End,
    /// The client broke the protocol or a limit: end with this code.
    Fault(CloseCode),
}

/// Memory that looks like a socket.
struct Memory<'a> {
    input: &'a [u8],
    /// There will be no more.
    eof: bool,
    output: &'a mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.eof {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buf)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where messages begin and end in the bytes, and nothing else: what is wrong with them is found by who reads them.
#[derive(Debug, Default)]
struct Boundary {
    header: [u8; 14],
    /// Bytes of a header that is not complete.
    have: usize,
    /// Bytes of the payload to come.
    left: u64,
    /// More fragments of the message come.
    fragmented: bool,
}

impl Boundary {
    /// Between two messages.
    fn is_at_rest(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.fragmented
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= n as u64;
                bytes = bytes.get(n..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else { return };
            bytes = rest;
            let [b0, b1, extended @ ..] = &mut self.header;
            match self.have {
                0 => *b0 = *first,
                1 => *b1 = *first,
                n => {
                    if let Some(byte) = extended.get_mut(n - 2) {
                        *byte = *first;
                    }
                }
            }
            self.have += 1;
            if self.have < 2 {
                continue;
            }
            let mask = if *b1 & 0x80 == 0 { 0 } else { 4 };
            let (size, len) = match *b1 & 0x7f {
                126 => (2, u64::from(u16::from_be_bytes([extended[0], extended[1]]))),
                127 => (8, extended[..8].iter().fold(0, |len, byte| len << 8 | u64::from(*byte))),
                len => (0, u64::from(len)),
            };
            if self.have == 2 + size + mask {
                // Control frames come between fragments and are none.
                if *b0 & 0x08 == 0 {
                    self.fragmented = *b0 & 0x80 == 0;
                }
                (self.have, self.left) = (0, len);
            }
        }
    }
}

struct Decoder {
    context: WebSocketContext,
    boundary: Boundary,
    input: Vec<u8>,
    /// So much of the input is decoded.
    at: usize,
    eof: bool,
    /// One of the two has said that it closes.
    closing: bool,
    /// What came made no sense: where the next frame begins is not known, and nothing more is read.
    broken: bool,
}

/// The reading side of a WebSocket.
pub(super) struct Decode {
    decoder: Option<Box<Decoder>>,
    frame_bytes_max: usize,
}

impl Decode {
    /// Frames and messages above `frame_bytes_max` are faults.
    pub(super) fn new(frame_bytes_max: usize) -> Decode {
        Decode { decoder: None, frame_bytes_max }
    }

    fn decoder(&mut self) -> &mut Decoder {
        let max = self.frame_bytes_max;
        self.decoder.get_or_insert_with(|| {
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER)
                .write_buffer_size(0)
                .max_frame_size(Some(max))
                .max_message_size(Some(max));
            Box::new(Decoder {
                context: WebSocketContext::new(Role::Server, Some(config)),
                boundary: Boundary::default(),
                input: Vec::new(),
                at: 0,
                eof: false,
                closing: false,
                broken: false,
            })
        })
    }

    /// Bytes that came.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let decoder = self.decoder();
        decoder.boundary.pass(bytes);
        decoder.input.extend_from_slice(bytes);
    }

    /// No more will come.
    pub(super) fn end(&mut self) {
        self.decoder().eof = true;
    }

    /// The next thing in what came, its answers put into `output`; `None`: more must come first.
    pub(super) fn next(&mut self, output: &mut Vec<u8>) -> Option<Incoming> {
        let decoder = self.decoder.as_mut()?;
        if decoder.broken {
            return Some(Incoming::End);
        }
        let mut memory = Memory { input: decoder.input.get(decoder.at..).unwrap_or_default(), eof: decoder.eof, output };
        let read = decoder.context.read(&mut memory);
        if let Ok(Message::Ping(_) | Message::Close(_)) = &read {
            // The answer. An error says that the connection is over after a close, which is told below.
            let _ = decoder.context.flush(&mut memory);
        }
        decoder.at = decoder.input.len() - memory.input.len();
        let incoming = match read {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                decoder.input = Vec::new();
                decoder.at = 0;
                if decoder.boundary.is_at_rest() && !decoder.closing {
                    self.decoder = None;
                }
                return None;
            }
            Ok(Message::Text(text)) => Incoming::Text(text),
            Ok(Message::Binary(bytes)) => Incoming::Binary(bytes),
            Ok(Message::Ping(_)) => Incoming::Ping,
            Ok(Message::Pong(_)) => Incoming::Pong,
            Ok(Message::Close(_)) => Incoming::Close,
            // Only made for writing; a reader never gives one.
            Ok(Message::Frame(_)) => Incoming::Fault(CloseCode::Protocol),
            Err(Error::Capacity(_)) => Incoming::Fault(CloseCode::TooLarge),
            Err(Error::Utf8(_)) => Incoming::Fault(CloseCode::InvalidUtf8),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Incoming::End,
            Err(Error::Protocol(_)) => Incoming::Fault(CloseCode::Protocol),
            Err(_) => Incoming::End,
        };
        decoder.broken = matches!(incoming, Incoming::End | Incoming::Fault(_));
        decoder.closing |= decoder.broken || matches!(incoming, Incoming::Close);
        Some(incoming)
    }

    /// Our close frame, into `output`. What comes after it is only waited for.
    pub(super) fn close(&mut self, code: u16, reason: &'static str, output: &mut Vec<u8>) {
        let decoder = self.decoder();
        decoder.closing = true;
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        let mut memory = Memory { input: &[], eof: false, output };
        // Who has closed already has its answer.
        let _ = decoder.context.close(&mut memory, Some(frame));
    }

    /// Holds nothing.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.decoder.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Everything up to the first fault that comes of bytes in pieces of these sizes, as texts; and the answers.
    fn decode(bytes: &[u8], mut sizes: impl Iterator<Item = usize>) -> (Vec<String>, Vec<u8>, Decode) {
        let mut decode = Decode::new(16 * 1024);
        let (mut seen, mut output) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = sizes.next().unwrap_or(1).clamp(1, rest.len());
            decode.take(&rest[..n]);
            rest = &rest[n..];
            while let Some(incoming) = decode.next(&mut output) {
                let ends = matches!(incoming, Incoming::Fault(_) | Incoming::End);
                seen.push(match incoming {
                    Incoming::Text(text) => text.to_string(),
                    other => format!("{other:?}"),
                });
                if ends {
                    assert!(matches!(decode.next(&mut output), Some(Incoming::End)), "nothing is read after a fault");
                    return (seen, output, decode);
                }
            }
        }
        (seen, output, decode)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn fragments_with_control_frames_between_them_in_any_pieces(sizes in proptest::collection::vec(1_usize..40, 1..200)) {
            let long = "ü".repeat(300);
            let mut bytes = Vec::new();
            bytes.extend(frame(0x01, b"one "));
            bytes.extend(frame(0x89, b"are you there"));
            bytes.extend(frame(0x00, &long.as_bytes()[..333]));
            bytes.extend(frame(0x8a, b""));
            bytes.extend(frame(0x80, &long.as_bytes()[333..]));
            bytes.extend(frame(0x81, b""));
            bytes.extend(frame(0x81, b"two"));
            let (seen, output, decode) = decode(&bytes, sizes.into_iter());
            prop_assert_eq!(seen, vec!["Ping".to_owned(), "Pong".to_owned(), format!("one {long}"), String::new(), "two".to_owned()]);
            prop_assert_eq!(output, [&[0x8a, 13][..], b"are you there"].concat());
            prop_assert!(decode.is_idle());
        }

        #[test]
        fn nothing_that_comes_is_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..50) {
            decode(&bytes, std::iter::repeat(size));
        }
    }

    #[test]
    fn a_message_that_has_begun_is_remembered() {
        let whole = frame(0x81, b"hello");
        for cut in 1..whole.len() {
            let mut decode = Decode::new(1024);
            let mut output = Vec::new();
            decode.take(&whole[..cut]);
            assert!(decode.next(&mut output).is_none() && !decode.is_idle(), "{cut}");
            decode.take(&whole[cut..]);
            assert!(matches!(decode.next(&mut output), Some(Incoming::Text(text)) if text.as_str() == "hello"), "{cut}");
            assert!(decode.next(&mut output).is_none() && decode.is_idle(), "{cut}");
        }
    }

    #[test]
    fn closing_is_answered_once() {
        let (seen, output, _) = decode(&frame(0x88, &[0x03, 0xe8]), std::iter::repeat(3));
        assert_eq!((seen, output), (vec!["Close".to_owned(), "End".to_owned()], vec![0x88, 2, 0x03, 0xe8]));
        let mut decode = Decode::new(1024);
        let mut output = Vec::new();
        decode.close(3001, "shutting down", &mut output);
        assert_eq!(output.len(), 2 + 2 + "shutting down".len());
        decode.take(&frame(0x88, &[0x0b, 0xb9]));
        assert!(matches!(decode.next(&mut output), Some(Incoming::Close)));
        assert_eq!(output.len(), 2 + 2 + "shutting down".len());
    }

    #[test]
    fn what_breaks_a_rule_is_a_fault_with_its_code() {
        let fault = |bytes: &[u8]| decode(bytes, std::iter::repeat(1000)).0.pop();
        assert_eq!(fault(&frame(0x81, &[0xff])).as_deref(), Some("Fault(InvalidUtf8)"));
        assert_eq!(fault(&frame(0x81, &vec![b'x'; 17 * 1024])).as_deref(), Some("Fault(TooLarge)"));
        assert_eq!(fault(&[0x81, 0x01, b'x']).as_deref(), Some("Fault(Protocol)"));
        assert_eq!(fault(&frame(0x80, b"x")).as_deref(), Some("Fault(Protocol)"));
        assert_eq!(fault(&frame(0xc1, b"x")).as_deref(), Some("Fault(Protocol)"));
    }
}
