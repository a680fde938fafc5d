//! `cargo xtask vm`: boots a Debian kernel in QEMU and runs one command in it.
//!
//! ```text
//!  guest ──► tree ──► cpio ──► qemu ──► ttyS1 ──► output ──► our stdout, exit status
//!    files of the run           └─────► ttyS0 ──► console ─► well, or 125
//! ```
//!
//! The promise to callers: the command's stdout and stderr come out on our stdout, byte for byte, and its exit status
//! is ours. 125 means that the VM failed and the command's result says nothing: the kernel crashed or warned, the time
//! ran out, or the machine did not come up; the reason is on stderr.

mod accelerator;
mod console;
mod cpio;
mod guest;
pub(crate) mod libraries;
mod output;
mod qemu;
mod tree;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use crate::{build, build_ebpf, process, setup::kernels, workspace};
use accelerator::Accelerator;
use output::Ending;
use qemu::{Machine, RunEnd};

/// The VM failed, whatever the command did.
const EXIT_VM_FAILED: u8 = 125;

/// Of the console, when it has to be shown.
const CONSOLE_TAIL_LINES: usize = 60;

/// What the kernel and its unpacked root need besides the command's own memory.
const MINIMUM_MEMORY_MIB: u64 = 1024;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernel series to boot
    #[arg(long, value_parser = kernels::parse_series)]
    kernel: String,
    /// File or folder of this machine to copy into the guest; a dynamic program brings its libraries
    #[arg(long = "copy", value_name = "HOST:GUEST")]
    copies: Vec<Copy>,
    /// Seconds until the VM is ended and counts as failed
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 300)]
    timeout_seconds: u64,
    /// Memory of the guest; by default 1024 and what the files need
    #[arg(long = "memory", value_name = "MIB")]
    memory_mib: Option<u64>,
    /// Processors of the guest
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Let a guest nanosecond be one instruction, on one processor: exact counts for benchmarks
    #[arg(long)]
    icount: bool,
    /// How QEMU runs the guest's instructions; by default KVM where a trial shows that it works
    #[arg(long = "accel", value_enum)]
    accelerator: Option<Accelerator>,
    /// Take lattice-agent and latticectl as they were built last
    #[arg(long)]
    no_build: bool,
    /// Print the kernel's console to stderr at the end
    #[arg(long)]
    console: bool,
    /// Words to add to the kernel's command line
    #[arg(long = "append", value_name = "WORDS")]
    kernel_arguments: Vec<String>,
    /// Program and arguments, or one line for the guest's shell
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// A file or folder to copy, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Copy {
    host: PathBuf,
    guest: PathBuf,
}

impl FromStr for Copy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once(':') {
            Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok(Self {
                host: host.into(),
                guest: guest.into(),
            }),
            _ => Err(format!("'{text}' is not HOST:GUEST with an absolute GUEST")),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match boot(arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::from(EXIT_VM_FAILED)
        }
    }
}

fn boot(arguments: &Arguments) -> Result<u8> {
    let kernel = kernels::ensure(&arguments.kernel)?;
    if !arguments.no_build {
        build_product()?;
    }
    let marker = random_marker()?;
    let tree = guest::build(&kernel, &arguments.copies, &arguments.command, &marker)?;

    let runs = workspace::target().join("vm");
    fs::create_dir_all(&runs).with_context(|| format!("cannot create {}", runs.display()))?;
    let accelerator = match arguments.accelerator {
        Some(accelerator) => accelerator,
        None => Accelerator::probe(&kernel.image(), &runs),
    };
    let folder = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(&runs)
        .context("cannot create the run's folder")?;
    let initramfs = folder.path().join("initramfs.cpio");
    let archive = File::create(&initramfs).with_context(|| format!("cannot create {}", initramfs.display()))?;
    tree.write(BufWriter::with_capacity(1 << 20, archive))?;

    let machine = Machine {
        kernel_image: kernel.image(),
        initramfs,
        console_log: folder.path().join("console.log"),
        memory_mib: arguments.memory_mib.unwrap_or_else(|| memory_for(tree.size_bytes())),
        cpus: arguments.cpus,
        accelerator,
        instruction_clock: arguments.icount,
        kernel_arguments: kernel_arguments(&arguments.kernel_arguments),
    };
    let timeout = Duration::from_secs(arguments.timeout_seconds);
    let end = qemu::run(&machine, &marker, timeout, &mut io::stdout().lock())?;
    let console = String::from_utf8_lossy(&fs::read(&machine.console_log).unwrap_or_default()).into_owned();
    if arguments.console {
        io::stderr()
            .write_all(console.as_bytes())
            .context("cannot print the console")?;
    }
    judge(&end, &console, arguments.timeout_seconds).map_err(|failure| {
        let kept = runs.join(format!("failed-console-{}.log", arguments.kernel));
        let place = match fs::write(&kept, &console) {
            Ok(()) => format!("whole console: {}", kept.display()),
            Err(error) => format!("the console could not be kept: {error}"),
        };
        let tail = console::tail(&console, CONSOLE_TAIL_LINES);
        failure.context(format!("{tail}\n{place}\nthe VM with kernel {} failed", kernel.release))
    })
}

/// The exit status that a run deserves.
fn judge(end: &RunEnd, console: &str, timeout_seconds: u64) -> Result<u8> {
    if let Some(line) = console::first_failure(console) {
        bail!("the kernel reported: {line}");
    }
    match end {
        RunEnd::Guest(Ending::Status(status)) => Ok(*status),
        RunEnd::Guest(Ending::Failed(reason)) => bail!("the guest could not run the command: {reason}"),
        RunEnd::TimedOut => bail!("the command did not end within {timeout_seconds} s (--timeout)"),
        RunEnd::QemuExited(status) => bail!("QEMU ended before the command did ({status})"),
    }
}

fn kernel_arguments(more: &[String]) -> Vec<String> {
    // loglevel=5 still prints warnings; all below them costs seconds on an emulated serial line. Under emulation on a
    // busy host a processor may stand still for long, which is no lockup of the guest's making.
    let base = "console=ttyS0 rdinit=/init oops=panic panic=-1 loglevel=5 watchdog_thresh=60 net.ifnames=0";
    base.split(' ').map(String::from).chain(more.iter().cloned()).collect()
}

/// The archive and the unpacked files are in memory at once while the kernel boots, and the root's tmpfs may fill half
/// of the memory.
fn memory_for(size_bytes: u64) -> u64 {
    MINIMUM_MEMORY_MIB + 3 * size_bytes.div_ceil(1 << 20)
}

fn build_product() -> Result<()> {
    build_ebpf::run(&build_ebpf::Arguments::quiet())?;
    let mut cargo = build::cargo();
    cargo.args(["build", "--quiet"]);
    for name in guest::PRODUCT_PROGRAMS {
        cargo.args(["--package", name]);
    }
    process::execute(&mut cargo)
}

/// A word that the command's output does not hold by chance.
fn random_marker() -> Result<String> {
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot read a random number")?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    Ok(format!("lattice-vm-{}-{now:x}", random.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_copy(text: &str, expected: Option<(&str, &str)>) {
        let expected = expected.map(|(host, guest)| Copy {
            host: host.into(),
            guest: guest.into(),
        });
        assert_eq!(text.parse::<Copy>().ok(), expected, "{text}");
    }

    #[test]
    fn copies_are_two_paths_and_the_guest_is_absolute() {
        check_copy("target/x:/usr/bin/x", Some(("target/x", "/usr/bin/x")));
        check_copy("/a:b:/c", Some(("/a:b", "/c")));
        check_copy("/a", None);
        check_copy(":/c", None);
        check_copy("/a:c", None);
    }

    #[test]
    fn only_a_status_on_a_clean_console_is_a_result() {
        let status = |status| RunEnd::Guest(Ending::Status(status));
        assert_eq!(judge(&status(3), "[ 0.1] fine\n", 10).unwrap(), 3);
        judge(&status(0), "[ 5.0] WARNING: CPU: 0 PID: 9 at kernel/x.c:1\n", 10).unwrap_err();
        judge(&RunEnd::Guest(Ending::Failed("no bpf".to_owned())), "", 10).unwrap_err();
        judge(&RunEnd::QemuExited("exit status: 0".to_owned()), "", 10).unwrap_err();
        let message = format!("{:#}", judge(&RunEnd::TimedOut, "", 10).unwrap_err());
        assert!(message.contains("--timeout"), "{message}");
    }
}
