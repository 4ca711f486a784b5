//! What others have built, for comparison. Installed on demand by pip and npm into `target/bench-peers`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Res,
    process::Proc,
    servers::{Bench, Kind},
};

/// Readers, as they are called here and what runs them.
const READERS: [&str; 2] = ["redis-py", "ioredis"];

const REQUIREMENTS: &str = include_str!("peers/requirements.txt");
const PACKAGE: &str = include_str!("peers/package.json");
/// Name and text of each script.
const SCRIPTS: [(&str, &str); 4] = [
    ("reader.py", include_str!("peers/reader.py")),
    ("reader.js", include_str!("peers/reader.js")),
    ("uws.py", include_str!("peers/uws.py")),
    ("ws.js", include_str!("peers/ws.js")),
];

/// What could be installed.
#[derive(Default)]
pub struct Peers {
    dir: PathBuf,
    python: bool,
    uws: bool,
    node: bool,
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}

fn install(what: &str, command: &mut Command) -> bool {
    println!("installing {what}");
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("left out: {what} ({})", last_line(&output.stderr));
            false
        }
        Err(error) => {
            println!("left out: {what} ({}: {error})", command.get_program().display());
            false
        }
    }
}

impl Peers {
    /// Installs what is wanted and missing; what cannot be had is named and left out.
    pub fn new(wanted: bool) -> Res<Peers> {
        if !wanted {
            return Ok(Peers::default());
        }
        // target/release/examples/bench → target/bench-peers
        let exe = std::env::current_exe()?;
        let dir = exe.ancestors().nth(3).ok_or("this program does not lie in a target directory")?.join("bench-peers");
        fs::create_dir_all(&dir)?;
        for (name, text) in SCRIPTS {
            fs::write(dir.join(name), text)?;
        }
        let venv = dir.join("venv");
        let pip = venv.join("bin/pip");
        let python = pip.is_file() || install("a Python environment", Command::new("python3").args(["-m", "venv"]).arg(&venv));
        // `None` where it is there, else why not.
        let lacks = |module: &str| {
            let mut test = Command::new(venv.join("bin/python"));
            match test.args(["-c", &format!("import {module}")]).output() {
                Ok(output) if output.status.success() => None,
                Ok(output) => Some(last_line(&output.stderr)),
                Err(error) => Some(error.to_string()),
            }
        };
        let python_has = |module: &str| {
            let lines = REQUIREMENTS.lines().filter(|line| line.split("==").next() == Some(module));
            let mut command = Command::new(&pip);
            command.args(["install", "--quiet", "--disable-pip-version-check"]).args(lines);
            let there = python && (lacks(module).is_none() || install(module, &mut command));
            match there.then(|| lacks(module)) {
                Some(Some(why)) => {
                    println!("left out: {module} ({why})");
                    false
                }
                there => there.is_some(),
            }
        };
        // Its library wants libuv, which no wheel brings (Debian: apt install libuv1).
        let uws = python_has("socketify");
        let hiredis = python_has("hiredis");
        let python = python_has("redis") && hiredis;
        fs::write(dir.join("package.json"), PACKAGE)?;
        let installed = |dir: &Path| ["ioredis", "ws"].iter().all(|name| dir.join("node_modules").join(name).is_dir());
        let mut npm = Command::new("npm");
        npm.current_dir(&dir).args(["install", "--silent", "--no-audit", "--no-fund"]);
        let node = installed(&dir) || install("ioredis and ws", &mut npm);
        Ok(Peers { dir, python, uws, node })
    }

    /// Names of the consumers that are there.
    pub fn readers(&self) -> Vec<&'static str> {
        let there = [self.python, self.node];
        READERS.into_iter().zip(there).filter_map(|(name, there)| there.then_some(name)).collect()
    }

    /// The broadcasters that are there.
    pub fn broadcasters(&self) -> Vec<Kind> {
        [(Kind::Uws, self.uws), (Kind::NodeWs, self.node)].into_iter().filter_map(|(kind, there)| there.then_some(kind)).collect()
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new(self.dir.join("venv/bin/python"));
        command.arg(self.dir.join(script));
        command
    }

    fn node(&self, script: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(self.dir.join(script));
        command
    }

    /// Says `ready`, begins at `go`, says `done`. `arguments` are port, entries, stream.
    pub fn reader(&self, bench: &Bench, name: &str, arguments: &[String]) -> Res<Proc> {
        let mut command = if name == READERS[0] { self.python("reader.py") } else { self.node("reader.js") };
        bench.foreign(name, command.args(arguments))
    }

    /// Says `listening ADDRESS`; what a client of `/publish` says goes to all of `/ws`.
    pub fn broadcaster(&self, bench: &Bench, kind: Kind) -> Res<Proc> {
        let mut command = if kind == Kind::Uws { self.python("uws.py") } else { self.node("ws.js") };
        bench.foreign(kind.name(), &mut command)
    }
}
