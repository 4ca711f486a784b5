//! What may reach a terminal: text of others without anything that steers it.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use crate::event::Severity;

/// Characters that steer a terminal or turn the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text of others on one line: what steers becomes a space.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect()
}

/// JSON of others: what steers becomes a `\u` escape, which means the same.
pub fn plain_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if !steers(c) {
            out.push(c);
        } else if c.is_ascii_whitespace() {
            // Between values; inside a text JSON allows none of these.
            out.push(' ');
        } else {
            let mut units = [0_u16; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Whether standard output takes colours: a terminal, and `NO_COLOR` not set.
pub fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The escape sequence a severity is written in.
pub fn severity_colour(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "\x1b[36m",
        Severity::Medium => "\x1b[33m",
        Severity::High => "\x1b[31m",
        Severity::Critical => "\x1b[1;97;41m",
    }
}

pub const RESOLVED_COLOUR: &str = "\x1b[32m";
pub const RESET: &str = "\x1b[0m";

/// Writes a line to standard output. `false`: nobody reads it any more.
pub fn line(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_ok()
}

/// Ends when nobody reads standard output any more, although nothing is being written: the other end of a pipe was closed. Never
/// ends where that cannot be seen, as with a file.
pub async fn unread() {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;

        use tokio::{io::Interest, net::unix::pipe::Sender};
        // Unchecked: the checked one would take it out of blocking mode, which lines are written in. Nothing is written here.
        if let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned()
            && let Ok(stdout) = Sender::from_owned_fd_unchecked(stdout)
            && stdout.ready(Interest::ERROR).await.is_ok()
        {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_steers_the_terminal() {
        let evil = "a\x1b[2Jb\r\nc\u{9b}d\u{202e}e\u{7f}f";
        assert_eq!(plain(evil), "a [2Jb  c d e f");
        let json = serde_json::to_string(evil).unwrap();
        let shown = plain_json(&json);
        assert!(!shown.chars().any(steers), "{shown:?}");
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), evil, "and it means the same");
    }
}
