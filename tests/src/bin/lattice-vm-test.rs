//! The host side of the VM suite: compiles the canaries, boots the kernel with all that the guest needs, and ends as the guest did.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use lattice_tests::{
    guest::golden::DIFFERS,
    material::{self, find},
};

/// Runs the VM suite on one kernel.
#[derive(Parser)]
struct Arguments {
    /// Kernel series to boot
    #[arg(long)]
    kernel: String,
    /// Seconds until the VM counts as hanging
    // Several times what an idle machine takes, since an emulator on a busy one is that much slower.
    #[arg(long, default_value_t = 2400)]
    timeout: u64,
    /// The xtask that boots the VM [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    xtask: Option<PathBuf>,
    /// Refused execs in a row of the case that counts them
    #[arg(long, value_name = "COUNT", default_value_t = lattice_tests::guest::host::REFUSED_EXECS)]
    refused_execs: u64,
    /// Only cases whose name holds one of these words
    only: Vec<String>,
}

/// Programs of this machine that a container in the guest is made of.
const COPIED: [(&str, &str); 1] = [("runc", "/usr/bin/runc")];
/// The golden events.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/events");
/// Where this is set, golden events that differ are written anew.
const UPDATE: &str = "LATTICE_UPDATE_GOLDEN";

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
        .arg(copy(Path::new(GOLDEN), Path::new("/material/golden")));
    vm.arg("--copy")
        .arg(copy(&suite, Path::new("/usr/bin/lattice-vm-suite")));
    for (name, guest) in COPIED {
        vm.arg("--copy").arg(copy(&find(name)?, Path::new(guest)));
    }
    vm.args(["--", "lattice-vm-suite", "--refused-execs"])
        .arg(arguments.refused_execs.to_string())
        .args(&arguments.only);
    let status = match std::env::var_os(UPDATE) {
        Some(_) => update_golden(vm)?,
        None => vm.status().context("cannot start xtask vm")?,
    };
    Ok(ExitCode::from(
        status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

/// Runs the VM and writes the golden events that it says differ.
fn update_golden(mut vm: Command) -> Result<ExitStatus> {
    let mut child = vm.stdout(Stdio::piped()).spawn().context("cannot start xtask vm")?;
    let stdout = child.stdout.take().context("xtask vm has no pipe")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        let Some((name, event)) = line.strip_prefix(DIFFERS).and_then(|rest| rest.split_once(' ')) else {
            println!("{line}");
            continue;
        };
        let event: serde_json::Value = serde_json::from_str(event).with_context(|| format!("the event of {name}"))?;
        let file = Path::new(GOLDEN).join(format!("{name}.json"));
        fs::write(&file, format!("{event:#}\n")).with_context(|| format!("cannot write {}", file.display()))?;
        println!("written: {}", file.display());
    }
    Ok(child.wait()?)
}

fn copy(host: &Path, guest: &Path) -> String {
    format!("{}:{}", host.display(), guest.display())
}
