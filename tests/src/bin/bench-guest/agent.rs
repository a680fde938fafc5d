//! The agent under measurement: started, watched by its log and by its cgroup's CPU account, ended.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{central::Central, stage::Stage, statistics};

/// Name of the agent's own cgroup: its account holds what ended threads took, too.
const AGENT_CGROUP: &str = "bench-agent";
const LOG: &str = "/tmp/bench-agent.log";
const STATE: &str = "/tmp/bench-state";
/// Where the BPF file system is.
pub(crate) const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";
/// Guest time, in which an instruction is a nanosecond: an agent that has not started after this never will.
const START_LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Where the cgroup2 hierarchy is mounted, where no mount says otherwise.
const UNIFIED: &str = "/sys/fs/cgroup";

const READY: &str = "ready";
const IN_FORCE: &str = "policies from files are in force";

/// A running agent.
pub(crate) struct Agent {
    child: Child,
    /// From the start of its program to its word that it is ready.
    pub(crate) start_duration: Duration,
    /// CPU that the start took.
    pub(crate) start_cpu: Duration,
}

/// Where the agent has its policies from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The stage's files.
    Files,
    /// A central.
    Central(&'a Central),
}

/// The cgroup of a container.
pub(crate) fn cgroup(container: u32) -> PathBuf {
    cgroups().join(format!("bench-{container}"))
}

/// The cgroup2 hierarchy; beside version 1 it is not where it is by itself.
fn cgroups() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let found = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| path.into())
        });
        found.unwrap_or_else(|| UNIFIED.into())
    })
}

impl Agent {
    /// Starts it for `containers` containers, numbered from 0, and waits until it says that it is ready.
    ///
    /// # Errors
    ///
    /// Where it does not start; the end of its log is in the error.
    pub(crate) fn start(stage: &Stage, containers: u32) -> Result<Self> {
        Self::start_with(Source::Files, stage, containers)
    }

    /// Likewise, with the policies of a source.
    ///
    /// # Errors
    ///
    /// Where it does not start; the end of its log is in the error.
    pub(crate) fn start_with(source: Source<'_>, stage: &Stage, containers: u32) -> Result<Self> {
        let mut command = Command::new("sh");
        // The shell moves itself and then becomes the agent: every instruction is on the cgroup's account.
        let own = cgroups().join(AGENT_CGROUP);
        fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
        command
            .arg("-c")
            .arg(format!("echo 0 >{}/cgroup.procs; exec \"$@\"", own.display()))
            .args(["sh", "lattice-agent", "run", "--state", STATE]);
        match source {
            Source::Files => command.arg("--policies").arg(stage.policies()),
            Source::Central(central) => command.args(central.agent_arguments()),
        };
        for container in 0..containers {
            let folder = cgroup(container);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            command.arg(format!(
                "--cgroup={}={}/w{container}/c,root={}",
                folder.display(),
                stage.namespace(container),
                stage.root().display()
            ));
        }
        let log = File::create(LOG).with_context(|| format!("cannot create {LOG}"))?;
        let cpu_before = cpu()?;
        let started = Instant::now();
        let child = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the agent's log")?)
            .stderr(log)
            .spawn()
            .context("cannot start the agent")?;
        let mut agent = Self {
            child,
            start_duration: Duration::ZERO,
            start_cpu: Duration::ZERO,
        };
        agent.wait_for(READY, 0)?;
        agent.start_duration = started.elapsed();
        agent.start_cpu = cpu()?.saturating_sub(cpu_before);
        Ok(agent)
    }

    /// Changes policies, and waits until the agent has them in force.
    ///
    /// # Errors
    ///
    /// Where `change` fails or the agent does not take the change up.
    pub(crate) fn change_policies(&mut self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = occurrences(IN_FORCE);
        change()?;
        self.wait_for(IN_FORCE, before)
    }

    fn wait_for(&mut self, words: &str, before: usize) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while occurrences(words) <= before {
            if let Some(status) = self.child.try_wait().context("cannot wait for the agent")? {
                bail!("the agent ended ({status}):\n{}", log_tail());
            }
            ensure!(
                Instant::now() < deadline,
                "the agent did not say {words:?}:\n{}",
                log_tail()
            );
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// A field of its /proc status in KiB.
    ///
    /// # Errors
    ///
    /// Where /proc cannot be read or has no such field.
    pub(crate) fn status_kib(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix(field)?
                    .strip_prefix(':')?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("{path} has no {field}"))
    }

    /// Waits until the agent has nothing to do any more.
    ///
    /// # Errors
    ///
    /// Where its account cannot be read.
    pub(crate) fn wait_until_quiet(&self) -> Result<()> {
        let mut before = cpu()?;
        for _ in 0..100 {
            thread::sleep(Duration::from_millis(300));
            let now = cpu()?;
            // What it takes to look around; see the idle figure.
            if now.saturating_sub(before) < Duration::from_millis(3) {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Ends it with SIGKILL: what is pinned stays.
    ///
    /// # Errors
    ///
    /// Where it cannot be waited for.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot end the agent")?;
        self.child.wait().context("cannot wait for the agent")?;
        Ok(())
    }

    /// Ends it and removes all that it left in the kernel.
    ///
    /// # Errors
    ///
    /// Where something stays.
    pub(crate) fn remove(self) -> Result<()> {
        self.kill()?;
        let removed = Command::new("lattice-agent")
            .arg("uninstall")
            .stdout(Stdio::null())
            .status()
            .context("cannot uninstall")?;
        ensure!(removed.success(), "uninstall ended with {removed}");
        fs::remove_dir_all(STATE).with_context(|| format!("cannot remove {STATE}"))?;
        for _ in 0..200 {
            if !statistics::any_loaded()? {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("programs are still loaded after the uninstall")
    }
}

/// CPU time of the agent's cgroup.
///
/// # Errors
///
/// Where its account cannot be read.
pub(crate) fn cpu() -> Result<Duration> {
    let path = cgroups().join(AGENT_CGROUP).join("cpu.stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let micros = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    Ok(Duration::from_micros(
        micros.with_context(|| format!("{} has no usage_usec", path.display()))?,
    ))
}

/// Errors that the agent has logged.
pub(crate) fn logged_errors() -> Vec<String> {
    log_text()
        .lines()
        .filter(|line| line.contains("ERROR"))
        .map(str::to_owned)
        .collect()
}

fn log_text() -> String {
    let text = fs::read(LOG).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

fn occurrences(words: &str) -> usize {
    log_text().lines().filter(|line| line.contains(words)).count()
}

fn log_tail() -> String {
    let text = log_text();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
