//! A frame as it goes out: made once, shared by everybody who gets it.

use bytes::{BufMut, Bytes};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// A WebSocket text frame from a server: one piece, no mask (RFC 6455 §5.2). Whoever speaks something else takes the text.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Bytes,
    /// The same memory, behind the header.
    text: Utf8Bytes,
}

/// FIN and the opcode of text.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
/// Longest header of a server's frame.
const HEADER_BYTES_MAX: usize = 10;

impl Frame {
    pub fn new(text: &str) -> Frame {
        let mut bytes = Vec::with_capacity(text.len() + HEADER_BYTES_MAX);
        let header = header(TEXT, text.len(), &mut bytes);
        bytes.put_slice(text.as_bytes());
        // What is shared for long holds no spare room.
        bytes.shrink_to_fit();
        let bytes = Bytes::from(bytes);
        // It was text a line above.
        let text = Utf8Bytes::try_from(bytes.slice(header..)).unwrap_or_default();
        Frame { bytes, text }
    }

    /// The same with bytes for a payload, which no frame of the feed has.
    pub fn binary(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(payload.len() + HEADER_BYTES_MAX);
        header(BINARY, payload.len(), &mut bytes);
        bytes.put_slice(payload);
        bytes
    }

    /// With the header: what a WebSocket sends.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The JSON.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        self.bytes.len()
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Frame {
        Frame::new(&text)
    }
}

/// Puts the header of a frame with so many bytes of payload; gives its length.
fn header(first: u8, len: usize, out: &mut Vec<u8>) -> usize {
    out.push(first);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => out.push(len),
        (_, Ok(len)) => {
            out.push(126);
            out.put_u16(len);
        }
        _ => {
            out.push(127);
            out.put_u64(len as u64);
        }
    }
    out.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_how_long_the_text_is() {
        for (len, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let text = "x".repeat(len);
            let frame = Frame::new(&text);
            assert_eq!(frame.as_str(), text);
            assert_eq!(frame.bytes()[..header.len()], header);
            assert_eq!(frame.wire_len(), header.len() + len);
        }
    }
}
