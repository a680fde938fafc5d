//! One part of the benchmark, in a VM of its own or on this machine with mounts of its own.

use std::{
    fmt,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::measurement::{LINE_PREFIX, Measurement};
use crate::{build, build_ebpf, process, workspace};

const GUEST_PROGRAM: &str = "bench-guest";
/// Real time: emulation that counts is slow, and the machine may have other work.
const LIMIT_SECONDS: u32 = 1500;
/// A thousand policies, and the agent that reads them.
const MEMORY_MIB: u32 = 3072;

/// As the guest program names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// P1: one exec, by kind
    PerExec,
    /// P1: as entries and containers grow
    Scale,
    /// P2: cycles without an agent, in monitor, in enforce
    Throughput,
    /// P3: memory, CPU at rest, time to protection
    Footprint,
    /// P3: time to protection by an emulated clock that runs with this machine's
    Start,
    /// P1: nanoseconds of one exec, on this machine's own kernel
    Native,
    /// N6: from a mode's change to the kernel, on this machine's own kernel
    Flip,
}

impl Part {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// Whether it is measured on this machine's own kernel rather than in a VM.
    pub(super) fn is_native(self) -> bool {
        matches!(self, Self::Native | Self::Flip)
    }

    /// Whether the guest's clock counts instructions.
    fn counts(self) -> bool {
        self != Self::Start
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        formatter.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Brings everything up to date that the guest runs.
///
/// # Errors
///
/// Where a build fails.
pub(super) fn build() -> Result<()> {
    build_ebpf::run(&build_ebpf::Arguments::quiet())?;
    let mut cargo = build::cargo();
    cargo.args([
        "build",
        "--quiet",
        "--package",
        "lattice-agent",
        "--package",
        "lattice-central",
        "--package",
        "latticectl",
    ]);
    process::execute(&mut cargo)?;
    process::execute(build::cargo().args(["build", "--quiet", "--package", "lattice-tests", "--bin", GUEST_PROGRAM]))
}

/// Runs a part and adds what it measured, also where it ends badly later.
///
/// # Errors
///
/// Where the VM or the part fails.
pub(super) fn in_guest(part: Part, series: &str, quick: bool, measurements: &mut Vec<Measurement>) -> Result<()> {
    let sha256sum = workspace::find_program("sha256sum").context("no sha256sum on PATH")?;
    let mut xtask = Command::new(std::env::current_exe().context("cannot find our own program")?);
    xtask.args(["vm", "--no-build", "--kernel", series]);
    xtask.args([
        "--timeout",
        &LIMIT_SECONDS.to_string(),
        "--memory",
        &MEMORY_MIB.to_string(),
    ]);
    for (host, guest) in [
        (workspace::host_program(GUEST_PROGRAM), GUEST_PROGRAM),
        (sha256sum, "sha256sum"),
    ] {
        xtask.args(["--copy", &format!("{}:/opt/bench/{guest}", host.display())]);
    }
    if part.counts() {
        xtask.arg("--icount");
    }
    xtask.args(["--", &format!("/opt/bench/{GUEST_PROGRAM}"), &part.to_string()]);
    if quick {
        xtask.arg("--quick");
    }
    listen(&mut xtask, measurements)
}

/// Its own mounts: a BPF file system where the agent has its pins, and a /tmp that ends with it.
const OWN_MOUNTS: &str = "mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /tmp && exec \"$@\"";

/// Likewise on this machine, with mounts of its own.
///
/// # Errors
///
/// Where the part fails, or another agent is at work: its programs would run at each exec too.
pub(super) fn on_this_machine(part: Part, quick: bool, measurements: &mut Vec<Measurement>) -> Result<()> {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", OWN_MOUNTS, "sh"])
        .arg(workspace::host_program(GUEST_PROGRAM))
        .arg(part.to_string());
    if quick {
        command.arg("--quick");
    }
    let programs = workspace::host_program(GUEST_PROGRAM);
    let folder = programs.parent().context("our programs are in no folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.display()));
    listen(&mut command, measurements)
}

/// Runs a measuring program and takes what it says.
fn listen(command: &mut Command, measurements: &mut Vec<Measurement>) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::display(command)))?;
    let stdout = child.stdout.take().context("it was started without a pipe")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what the guest says")?;
        match line.strip_prefix(LINE_PREFIX) {
            Some(json) => {
                let measurement: Measurement =
                    serde_json::from_str(json).with_context(|| format!("what was measured cannot be read: {json}"))?;
                eprintln!("bench:   {}", measurement.case);
                measurements.push(measurement);
            }
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait().context("cannot wait for it")?;
    if !status.success() {
        bail!("the measuring program ended with {status}; what it said is above");
    }
    Ok(())
}
