//! `cargo xtask setup`: installs what the other verbs need, and nothing where it is there already.
//!
//! Packages come from Debian's own archive, through apt; all else is built or unpacked into the target folder. Nothing
//! of the machine's own is started, enabled, replaced or removed.

mod containerd;
mod cosign;
pub(crate) mod kernels;
mod linker;
pub(crate) mod packages;
pub(crate) mod progress;

use anyhow::Result;

#[derive(Default, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments) -> Result<()> {
    packages::ensure()?;
    linker::ensure()?;
    for series in kernels::SERIES {
        let kernel = kernels::ensure(series)?;
        say(&format!("kernel {series}: {} is there", kernel.release));
    }
    cosign::ensure()?;
    containerd::ensure()
}

/// One line about one step.
fn say(text: &str) {
    println!("setup: {text}");
}
