//! Starts QEMU, follows its two serial lines, and ends it.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    accelerator::Accelerator,
    output::{Ending, OutputSplitter},
};
use crate::{process, workspace};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// All that makes one machine differ from another.
pub(crate) struct Machine {
    pub(crate) kernel_image: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) console_log: PathBuf,
    pub(crate) memory_mib: u64,
    pub(crate) cpus: u32,
    pub(crate) accelerator: Accelerator,
    /// One guest nanosecond an instruction, always emulated: exact counts for benchmarks.
    pub(crate) instruction_clock: bool,
    pub(crate) kernel_arguments: Vec<String>,
}

/// How a run of a machine ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    Guest(Ending),
    TimedOut,
    /// QEMU ended before the guest said anything: a panic, or QEMU's own error.
    QemuExited(String),
}

/// Boots, copies the command's output to `output` as it comes, and returns once the guest has said how it ended.
///
/// # Errors
///
/// Where QEMU is missing or cannot be started, or `output` cannot be written.
pub(crate) fn run(machine: &Machine, marker: &str, timeout: Duration, output: &mut impl Write) -> Result<RunEnd> {
    let mut child = KillOnDrop(start(machine)?);
    let bytes = follow(
        child
            .0
            .stdout
            .take()
            .context("QEMU was started without a pipe for its output")?,
    );
    let deadline = Instant::now() + timeout;
    let mut splitter = OutputSplitter::new(marker);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(RunEnd::TimedOut);
        }
        match bytes.recv_timeout(left.min(POLL_INTERVAL)) {
            Ok(piece) => {
                output
                    .write_all(&splitter.push(&piece))
                    .and_then(|()| output.flush())
                    .context("cannot write output")?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.0.wait().context("cannot wait for QEMU")?;
                return Ok(RunEnd::QemuExited(status.to_string()));
            }
        }
        if let Some(ending) = splitter.ending() {
            return Ok(RunEnd::Guest(ending.clone()));
        }
    }
}

fn start(machine: &Machine) -> Result<Child> {
    let qemu = workspace::find_program("qemu-system-x86_64").context("no QEMU on PATH: run `cargo xtask setup`")?;
    // setpriv (util-linux, on every Debian) lets the kernel end QEMU when xtask is killed and cannot do it itself.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(qemu);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "pc",
    ]);
    if machine.instruction_clock {
        command.args([
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0",
            "-cpu",
            "max",
            "-smp",
            "1",
        ]);
    } else {
        command
            .args(machine.accelerator.arguments())
            .args(["-smp", &machine.cpus.to_string()]);
    }
    command
        .args(["-m", &format!("{}M", machine.memory_mib)])
        .args([
            "-chardev",
            &format!("file,id=console,path={}", escape_commas(&machine.console_log)),
        ])
        .args(["-device", "isa-serial,chardev=console"])
        .args([
            "-chardev",
            "stdio,id=output,signal=off",
            "-device",
            "isa-serial,chardev=output",
        ])
        .arg("-kernel")
        .arg(&machine.kernel_image)
        .arg("-initrd")
        .arg(&machine.initramfs)
        .arg("-append")
        .arg(machine.kernel_arguments.join(" "))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::display(&command)))
}

/// QEMU doubles a comma in an option's value.
fn escape_commas(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Reads on a thread of its own, so that the deadline holds while nothing comes.
fn follow(mut stdout: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stdout.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    receiver
}

/// The guest's files are all in its memory: nothing is lost by ending it at once.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
