//! What must not be an argument, where every other user of the machine could read it: from a terminal without echo, standard
//! input, or a file.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read, Write},
    path::Path,
};

use super::Failure;

/// Longest line or file read, bytes.
const BYTES_MAX: u64 = 4096;

/// A new password: from `file` (`-`: standard input), else asked for twice on a terminal, else the first line of standard input.
pub(super) async fn new_password(file: Option<&Path>) -> Result<String, Failure> {
    if let Some(file) = file.filter(|file| *file != Path::new("-")) {
        let shown = file.display();
        let mut text = String::new();
        let read = fs::File::open(file).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
        read.map_err(|error| Failure::usage(format!("the password file {shown} cannot be read: {error}")))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if file.is_some() || !io::stdin().is_terminal() {
        return line("", Echo::AsIs).await;
    }
    let password = line("Password: ", Echo::Off).await?;
    if line("Once more: ", Echo::Off).await? != password {
        return Err(Failure::usage("the two passwords are not the same"));
    }
    Ok(password)
}

/// A line of standard input; the prompt only where somebody sees it.
pub(super) async fn visible(prompt: &str) -> Result<String, Failure> {
    line(prompt, Echo::AsIs).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    AsIs,
    Off,
}

async fn line(prompt: &str, echo: Echo) -> Result<String, Failure> {
    let terminal = io::stdin().is_terminal();
    if terminal && !prompt.is_empty() {
        eprint!("{prompt}");
        let _ = io::stderr().flush();
    }
    let silent = match terminal && echo == Echo::Off {
        true => Some(Silent::begin()?),
        false => None,
    };
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        io::stdin().lock().take(BYTES_MAX).read_line(&mut text).map(|_| text)
    });
    // An interrupt must not leave a terminal behind that shows nothing.
    let text = tokio::select! {
        read = read => read.map_err(|error| Failure::run(format!("standard input cannot be read: {error}")))?,
        _ = tokio::signal::ctrl_c() => {
            drop(silent);
            eprintln!();
            return Err(Failure::run("interrupted, nothing was changed"));
        }
    };
    if silent.is_some() {
        eprintln!();
    }
    drop(silent);
    let text = text.map_err(|error| Failure::run(format!("standard input cannot be read: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that shows nothing of what is typed, as long as this lives.
struct Silent(rustix::termios::Termios);

impl Silent {
    fn begin() -> Result<Silent, Failure> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let failed = |error: rustix::io::Errno| Failure::run(format!("the terminal's echo cannot be switched off: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Silent(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // It was possible a moment ago; where it is not now, there is no terminal any more.
        let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Flush, &self.0);
    }
}
