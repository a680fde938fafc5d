//! `cargo xtask build`: everything a user of the checkout runs.

use std::process::Command;

use anyhow::Result;

use crate::{build_ebpf, process, setup, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    build_ebpf::run(&build_ebpf::Arguments::default())?;
    process::execute(cargo().arg("build"))
}

/// The cargo of the host crates, in the checkout.
pub(crate) fn cargo() -> Command {
    // Cargo names itself to what it runs; a plain name serves where xtask was started by hand.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    cargo
}

/// `cargo test` of everything that needs nothing but this machine.
pub(crate) fn tests() -> Command {
    let mut cargo = cargo();
    cargo.args([
        "test",
        "--workspace",
        "--exclude",
        "lattice-ebpf",
        "--exclude",
        "lattice-tests",
    ]);
    cargo
}
