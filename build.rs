//! The git revision for `--version`; without git, or outside a checkout, there is none.

use std::{path::Path, process::Command};

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=AUDITCAST_REVISION");
    // What a build without a checkout was told counts.
    if std::env::var_os("AUDITCAST_REVISION").is_some() {
        return;
    }
    // The log of HEAD changes with every commit and checkout, in a worktree too.
    for log in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", log]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    if let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo:rustc-env=AUDITCAST_REVISION={revision}");
    }
}
