//! A node of its own for one check: folders, a BPF file system, a cgroup, and the agent with what it is to have.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use caps::Capability;
use serde_json::Value;

use crate::{agent::Agent, confined::Confinement};

/// An agent that is not ready by then never will be.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLICY: &str = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: footprint, namespace: footprint}
spec: {mode: MODE, entries: [{path: /app/server}]}
";

/// The node; everything goes with it.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    confinement: Confinement,
}

/// The tier of this machine, as the agent finds out with everything that root has.
pub(crate) fn tier() -> Result<u64> {
    let output = Command::new(program("lattice-agent")?)
        .args(["probe", "-o", "json"])
        .output()
        .context("cannot start lattice-agent")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the probe's answer is no JSON")?;
    report["tier"].as_u64().context("this machine offers no tier")
}

/// A program of Lattice: beside this one, else along PATH.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let beside = own.with_file_name(name);
    Ok(if beside.exists() { beside } else { name.into() })
}

impl Node {
    pub(crate) fn new(confinement: Confinement) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
        let hierarchy = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        });
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = hierarchy
            .context("no cgroup2 mount")?
            .join(format!("lattice-footprint-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        let node = Self {
            folder,
            cgroup,
            confinement,
        };
        for name in ["bpf", "policies"] {
            fs::create_dir(node.path(name)).with_context(|| format!("cannot create {name}"))?;
        }
        node.set_mode("enforce")?;
        Ok(node)
    }

    /// Writes the policy, before the agent is started.
    pub(crate) fn set_mode(&self, mode: &str) -> Result<()> {
        let policy = POLICY.replace("MODE", mode);
        fs::write(self.path("policies/policy.yaml"), policy).context("cannot write the policy")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The BPF file system is there before the agent is.
    pub(crate) fn mount(&self) -> Result<()> {
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(self.path("bpf"))
            .status();
        ensure!(
            mounted.context("cannot start mount")?.success(),
            "cannot mount a BPF file system"
        );
        Ok(())
    }

    /// A program below the node's confinement.
    pub(crate) fn command(&self, program: &Path, arguments: &[&str]) -> Result<Command> {
        self.confined(&self.confinement, program, arguments)
    }

    /// The same with one capability more.
    pub(crate) fn command_with(&self, capability: Capability, program: &Path, arguments: &[&str]) -> Result<Command> {
        self.confined(
            &self.confinement.clone().with_capability(capability),
            program,
            arguments,
        )
    }

    fn confined(&self, confinement: &Confinement, program: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = confinement.command(self.folder.path(), program, arguments)?;
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&self, more: &[&str]) -> Result<Agent> {
        let log = File::create(self.path("log")).context("cannot create the log")?;
        let mut command = self.command(&program("lattice-agent")?, &["run"])?;
        command
            .arg("--bpf-file-system")
            .arg(self.path("bpf"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.path("run/agent.sock"))
            .arg("--policies")
            .arg(self.path("policies"))
            .arg(format!("--cgroup={}=footprint/footprint/main", self.cgroup.display()))
            .args(more)
            .stderr(log);
        let mut agent = Agent(command.spawn().context("cannot start the agent")?);
        let deadline = Instant::now() + START_LIMIT;
        while !self.log().contains(" ready ") {
            if let Some(status) = agent.0.try_wait().context("cannot wait for the agent")? {
                bail!("the agent ended with {status}: {}", self.last_line());
            }
            ensure!(
                Instant::now() < deadline,
                "the agent is not ready: {}",
                self.last_line()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(agent)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn last_line(&self) -> String {
        let log = self.log();
        log.lines().last().unwrap_or_default().chars().take(300).collect()
    }

    /// Puts a process into the container.
    pub(crate) fn enter(&self, process: u32) -> Result<()> {
        fs::write(self.cgroup.join("cgroup.procs"), process.to_string())
            .context("cannot move a process into the cgroup")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is pinned goes with the file system; where there is none, there is nothing to unmount.
        let _ = Command::new("umount")
            .arg(self.path("bpf"))
            .stderr(Stdio::null())
            .status();
        for _ in 0..100 {
            match fs::remove_dir(&self.cgroup) {
                Ok(()) => return,
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        eprintln!("footprint: {} could not be removed", self.cgroup.display());
    }
}
