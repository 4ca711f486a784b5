//! Texts from outside, held to a size.

/// At most `bytes_max` bytes of a text, cut between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}
