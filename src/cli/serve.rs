//! `serve`: the daemon.

use clap::Args;

use super::{Failure, Global};

#[derive(Clone, Debug, Default, Args)]
pub struct Serve {}

pub async fn run(_global: Global, _args: Serve) -> Result<(), Failure> {
    Err(Failure::run("serve is not wired yet"))
}
