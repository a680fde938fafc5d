//! The native suite: the container cases on this machine's own kernel.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};

fn main() -> Result<ExitCode> {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let programs = own.parent().context("this program lies in no folder")?;
    lattice_tests::native::run(programs, &only)
}
