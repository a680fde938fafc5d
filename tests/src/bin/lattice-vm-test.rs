//! The host side of the VM suite: compiles the canaries, boots the kernel with all that the guest needs, and ends as the guest did.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use lattice_tests::material::{self, find};

/// Runs the VM suite on one kernel.
#[derive(Parser)]
struct Arguments {
    /// Kernel series to boot
    #[arg(long)]
    kernel: String,
    /// Seconds until the VM counts as hanging
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// The xtask that boots the VM [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    xtask: Option<PathBuf>,
    /// Only cases whose name holds one of these words
    only: Vec<String>,
}

/// Programs of this machine that a container in the guest is made of.
const COPIED: [(&str, &str); 1] = [("runc", "/usr/bin/runc")];

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let programs = own.parent().context("this program lies in no folder")?;
    let folder = tempfile::tempdir().context("cannot make a folder for the canaries")?;
    let xtask = arguments.xtask.unwrap_or_else(|| programs.join("xtask"));
    let suite = programs.join("lattice-vm-suite");
    material::build(folder.path(), &xtask, &suite, false)?;
    let mut vm = Command::new(xtask);
    vm.args([
        "vm",
        "--no-build",
        "--kernel",
        &arguments.kernel,
        "--timeout",
        &arguments.timeout.to_string(),
    ]);
    vm.arg("--copy").arg(copy(folder.path(), Path::new("/material")));
    vm.arg("--copy")
        .arg(copy(&suite, Path::new("/usr/bin/lattice-vm-suite")));
    for (name, guest) in COPIED {
        vm.arg("--copy").arg(copy(&find(name)?, Path::new(guest)));
    }
    vm.args(["--", "lattice-vm-suite"]).args(&arguments.only);
    let status = vm.status().context("cannot start xtask vm")?;
    Ok(ExitCode::from(
        status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

fn copy(host: &Path, guest: &Path) -> String {
    format!("{}:{}", host.display(), guest.display())
}
