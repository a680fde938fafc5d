//! Runs a test program of cargo's in a VM instead of here: `cargo test` calls it where it is named as the target's runner.
//!
//! The program finds the agent, runc, and containerd with NRI there, which `LATTICE_TEST_AGENT` and `LATTICE_TEST_TOOLS` name.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use lattice_tests::material::find;

/// Runs a test program in a VM.
#[derive(Parser)]
struct Arguments {
    /// Kernel series to boot
    #[arg(long)]
    kernel: String,
    /// Seconds until the VM counts as hanging
    #[arg(long, default_value_t = 1200)]
    timeout: u64,
    /// Memory of the guest in MiB: images are unpacked there
    #[arg(long, default_value_t = 4096)]
    memory: u64,
    /// Variables of this process that the program gets
    #[arg(long, value_name = "NAME", default_value = "LATTICE_TEST_CONTAINERS")]
    pass: Vec<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

const GUEST_TOOLS: &str = "/tools";
const GUEST_PROGRAM: &str = "/usr/bin/lattice-test";

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let programs = own.parent().context("this program lies in no folder")?;
    let tools = programs.with_file_name("tools").join("containerd");
    let [program, rest @ ..] = &arguments.command[..] else {
        return Ok(ExitCode::from(64));
    };
    if !tools.join("containerd").is_file() {
        // It looks for the same, and says why it does nothing.
        let status = Command::new(program).args(rest).status();
        return Ok(ended(status.with_context(|| format!("cannot start {program}"))?));
    }
    let mut vm = Command::new(programs.join("xtask"));
    vm.args(["vm", "--no-build", "--kernel", &arguments.kernel]);
    vm.args(["--timeout", &arguments.timeout.to_string()]);
    vm.args(["--memory", &arguments.memory.to_string()]);
    let copies: [(PathBuf, &str); 3] = [
        (program.into(), GUEST_PROGRAM),
        (tools, GUEST_TOOLS),
        (find("runc")?, "/usr/bin/runc"),
    ];
    for (host, guest) in copies {
        vm.arg("--copy").arg(copy(&host, guest));
    }
    vm.args(["--", "busybox", "env"]);
    vm.arg(format!("LATTICE_TEST_TOOLS={GUEST_TOOLS}"));
    vm.arg("LATTICE_TEST_AGENT=/usr/bin/lattice-agent");
    for name in &arguments.pass {
        if let Ok(value) = std::env::var(name) {
            vm.arg(format!("{name}={value}"));
        }
    }
    vm.arg(GUEST_PROGRAM).args(rest);
    Ok(ended(vm.status().context("cannot start xtask vm")?))
}

fn ended(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn copy(host: &Path, guest: &str) -> String {
    format!("{}:{guest}", host.display())
}
