//! The agent under test: started, waited for, stopped in kind and unkind ways.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    events::{Follower, Told},
    host::{host, in_run},
};

/// How long a start may take: BPF programs are verified under emulation.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Lines of the log that are shown after failures.
const LINES_SHOWN: usize = 30;

/// A running agent, and who follows its events.
pub struct Agent {
    child: Child,
    /// Ends with the agent.
    _follower: Follower,
}

impl Agent {
    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready in time; the end of its log is in the error.
    pub fn start(arguments: &[String], told: &Told) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_file())
            .context("cannot open the agent's log")?;
        let offset = log.metadata()?.len() as usize;
        let mut child = host()
            .program("lattice-agent")
            .arg("run")
            .arg("--state")
            .arg(in_run("lattice-state"))
            .arg("--bpf-file-system")
            .arg(&host().bpf_file_system)
            .arg("--socket")
            .arg(host().socket())
            .args(arguments)
            .env("NO_COLOR", "1")
            .env("LATTICE_LOG", "info,lattice_agent::kernel::object=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start lattice-agent")?;
        let started = Instant::now();
        loop {
            let text = log_after(offset)?;
            if text.lines().any(|line| line.contains(" ready")) {
                break;
            }
            if let Some(status) = child.try_wait()? {
                bail!("lattice-agent ended with {status}: {}", tail(&text));
            }
            if started.elapsed() > START_LIMIT {
                let _ = child.kill();
                bail!("lattice-agent is not ready after {START_LIMIT:?}: {}", tail(&text));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(Self {
            child,
            _follower: Follower::start(told)?,
        })
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Ends it with a signal, and waits.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where every start appends its log.
fn log_file() -> PathBuf {
    in_run("agent.log")
}

/// A question to the agent.
pub(super) fn latticectl() -> Command {
    let mut command = host().program("latticectl");
    command.arg("--agent").arg(host().socket());
    command
}

/// What asks no agent.
pub(super) fn latticectl_alone() -> Command {
    host().program("latticectl")
}

/// Length of the log so far.
///
/// # Errors
/// When it cannot be read.
pub fn log_length() -> Result<usize> {
    Ok(fs::metadata(log_file()).map_or(0, |metadata| metadata.len()) as usize)
}

/// The log from an offset on.
///
/// # Errors
/// When it cannot be read.
pub fn log_after(offset: usize) -> Result<String> {
    let bytes = fs::read(log_file()).context("cannot read the agent's log")?;
    Ok(String::from_utf8_lossy(bytes.get(offset..).unwrap_or_default()).into_owned())
}

/// Waits until the log holds a text after an offset.
///
/// # Errors
/// When it does not in time.
pub fn wait_for_log(offset: usize, text: &str) -> Result<()> {
    let started = Instant::now();
    while !log_after(offset)?.contains(text) {
        if started.elapsed() > Duration::from_secs(60) {
            bail!("the agent's log does not say {text:?}: {}", tail(&log_after(offset)?));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Keeps the agent's log where it outlives the suite's own folders; says where.
///
/// # Errors
/// When it cannot be copied.
pub fn keep_log(to: &Path) -> Result<()> {
    fs::copy(log_file(), to).with_context(|| format!("cannot keep the agent's log as {}", to.display()))?;
    Ok(())
}

/// Prints what the agent's log says besides its events, for a look at failures.
pub fn print_troubles() {
    let text = log_after(0).unwrap_or_default();
    for line in text
        .lines()
        .filter(|line| !line.contains("sequence=") && !line.contains(" DEBUG "))
        .take(LINES_SHOWN)
    {
        println!("agent: {}", line.chars().take(400).collect::<String>());
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join(" | ")
}

/// `latticectl status -o json`.
///
/// # Errors
/// When there is no answer.
pub fn status() -> Result<serde_json::Value> {
    let output = latticectl()
        .args(["status", "-o", "json"])
        .output()
        .context("cannot start latticectl")?;
    if !output.status.success() {
        bail!("latticectl status: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// One of the agent's counters.
///
/// # Errors
/// When there is no answer or no such counter.
pub fn counter(name: &str) -> Result<u64> {
    status()?["counters"][name]
        .as_u64()
        .with_context(|| format!("status has no counter {name}"))
}

/// A metric by its whole name, from the agent's listener for those who run it.
///
/// # Errors
/// When there is no answer or no such metric.
pub fn metric(name: &str) -> Result<f64> {
    let mut stream = UnixStream::connect(in_run("admin.sock")).context("the agent has no admin socket")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let value = answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .with_context(|| format!("no metric {name}"))?;
    Ok(value.trim().parse()?)
}

/// Removes every pin.
///
/// # Errors
/// When it says no.
pub fn uninstall() -> Result<String> {
    let output = host()
        .program("lattice-agent")
        .arg("uninstall")
        .arg("--bpf-file-system")
        .arg(&host().bpf_file_system)
        .output()?;
    if !output.status.success() {
        bail!("uninstall: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where the programs and maps are pinned.
pub fn pins() -> PathBuf {
    host().bpf_file_system.join("lattice")
}
