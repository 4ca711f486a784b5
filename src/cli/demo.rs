//! `demo`: the whole product on a fresh machine, in one process.

use clap::Args;

use super::{Failure, Global};

#[derive(Clone, Debug, Default, Args)]
pub struct Demo {
    /// Use this Redis instead of the embedded store
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Port of the page [default: a free one]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Audit events a second of the simulated application
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: Option<u32>,
}

pub async fn run(_global: Global, _args: Demo) -> Result<(), Failure> {
    Err(Failure::run("demo is not wired yet"))
}
