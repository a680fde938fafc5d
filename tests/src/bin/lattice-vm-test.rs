//! The host side of the VM suite: compiles the canaries, boots the kernel with all that the guest needs, and ends as the guest did.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use lattice_tests::canary_build;

/// Runs the VM suite on one kernel.
#[derive(Parser)]
struct Arguments {
    /// Kernel series to boot
    #[arg(long)]
    kernel: String,
    /// Seconds until the VM counts as hanging
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// The xtask that boots the VM [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    xtask: Option<PathBuf>,
    /// Only cases whose name holds one of these words
    only: Vec<String>,
}

/// Programs of this machine that a container in the guest is made of.
const COPIED: [(&str, &str); 2] = [("runc", "/usr/bin/runc"), ("dash", "/usr/bin/dash")];

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let programs = own.parent().context("this program lies in no folder")?;
    let folder = tempfile::tempdir().context("cannot make a folder for the canaries")?;
    let mut vm = Command::new(arguments.xtask.unwrap_or_else(|| programs.join("xtask")));
    vm.args([
        "vm",
        "--no-build",
        "--kernel",
        &arguments.kernel,
        "--timeout",
        &arguments.timeout.to_string(),
    ]);
    canary_build::build(folder.path())?;
    // As a folder: the dynamic one's loader is made by the cases, in the guest.
    vm.arg("--copy").arg(copy(folder.path(), Path::new("/canary")));
    vm.arg("--copy").arg(copy(
        &programs.join("lattice-vm-suite"),
        Path::new("/usr/bin/lattice-vm-suite"),
    ));
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

fn find(name: &str) -> Result<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} on PATH: run `cargo xtask setup`"))
}
