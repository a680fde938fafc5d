//! `cargo xtask codegen`: writes generated code anew, and what is rendered from the chart.
//!
//! The generators are tests of the crates that own the code: a plain run proves that what is committed is current, a
//! run with `UPDATE_GENERATED=1` writes it. So `cargo test` alone finds stale code, and nothing is generated twice.

use std::process::Command;

use anyhow::Result;

use crate::{build, install_file, process};

/// Tests that own generated code.
const GENERATORS: [&str; 3] = ["generated", "crds", "containerd_generated"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only deploy/install.yaml, for which nothing but helm is built
    #[arg(long)]
    chart: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.chart {
        return install_file::write();
    }
    process::execute(generators().env("UPDATE_GENERATED", "1"))?;
    // Last, since the chart has the definitions that a generator makes.
    install_file::write()
}

/// Proves that what is committed is what would be generated.
///
/// # Errors
///
/// Where it is not; the test's own output says which file.
pub(crate) fn check() -> Result<()> {
    process::execute(generators().env_remove("UPDATE_GENERATED"))
}

/// Of the same packages as all tests: of fewer, what they depend on would have other features and be built once more.
fn generators() -> Command {
    let mut cargo = build::tests();
    cargo.arg("--quiet");
    for test in GENERATORS {
        cargo.args(["--test", test]);
    }
    cargo
}
