//! Programs that run beside the demo, and foreground programs with a time limit.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{cgroups::Cgroups, interrupt, place::START_LIMIT};
use crate::process;

/// How long a daemon may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(10);
const LOG_TAIL_LINES: usize = 20;

/// Moves itself into a cgroup, then becomes the program: so nothing that the program starts can be outside.
const ENTER_CGROUP: &str = r#"echo $$ >"$1" && shift && exec "$@""#;

/// A running program; asked to end when dropped, and killed if it does not.
pub(super) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program, in the cgroup of the demo's daemons where there is one. Its output is appended to the log, stdout to `output` where given.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub(super) fn start(
        name: &str,
        command: &Command,
        cgroups: Option<&Cgroups>,
        log: &Path,
        output: Option<File>,
    ) -> Result<Self> {
        let log_file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let output = match output {
            Some(file) => file,
            None => log_file.try_clone().context("cannot share a log")?,
        };
        let processes = cgroups.map_or_else(|| PathBuf::from("/dev/null"), Cgroups::daemons_processes);
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", ENTER_CGROUP, "sh"])
            .arg(processes)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log_file)
            // A Ctrl-C of the terminal is for the demo, which ends its daemons in order.
            .process_group(0);
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        let child = shell
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::display(command)))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Waits until the daemon does what `look` looks for.
    ///
    /// # Errors
    ///
    /// Where it ended, or has not come up in time; the error shows the end of its log.
    pub(super) fn wait_until(&mut self, look: impl Fn() -> bool) -> Result<()> {
        let ready = interrupt::wait_for(START_LIMIT, || {
            if let Some(status) = self.child.try_wait().context("cannot wait for a daemon")? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            Ok(look().then_some(()))
        })?;
        ready.ok_or_else(|| {
            anyhow!(
                "{} did not come up within {} s; its log ends with:\n{}",
                self.name,
                START_LIMIT.as_secs(),
                self.log_tail()
            )
        })
    }

    fn log_tail(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    ///
    /// Where it cannot be killed.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Not reaped yet, so the number is still this child's.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let started = Instant::now();
        while started.elapsed() < END_LIMIT {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("demo: {} did not end when asked to, and is killed", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a foreground program did.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs a program to its end.
///
/// # Errors
///
/// Where it cannot be started or does not end in time; then it is killed.
pub(super) fn finish(command: &mut Command, limit: Duration) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::display(command)))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = interrupt::wait_for(limit, || child.try_wait().context("cannot wait for a program"));
    let status = match status {
        Ok(Some(status)) => status,
        other => {
            // It may have ended this moment; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
            other?;
            bail!(
                "`{}` did not end within {} s",
                process::display(command),
                limit.as_secs()
            );
        }
    };
    let text =
        |reader: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned();
    Ok(Finished {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Reads a pipe beside, so that a program that prints much does not wait for us.
fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read until then is shown.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// A port of the loopback that nobody listens on at this moment.
///
/// # Errors
///
/// Where none can be had.
pub(super) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
    Ok(listener.local_addr().context("cannot find a free port")?.port())
}

/// Whether somebody listens there.
pub(super) fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}
