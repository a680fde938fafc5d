//! A containerd of the demo's own, and containers in it, through `ctr`.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    daemon::{self, Daemon, Finished},
    place::Place,
    programs::MARKS_IN_CONTAINER,
    report::WaitStatus,
};
use crate::{process, workspace};

const LIMIT: Duration = Duration::from_secs(60);

/// A running containerd.
pub(super) struct Containerd {
    ctr: PathBuf,
    socket: PathBuf,
    namespace: String,
    fifos: PathBuf,
    marks: PathBuf,
    logs: PathBuf,
    exec_sessions: AtomicU64,
    _daemon: Daemon,
}

/// What an exec session came to.
pub(super) struct ExecSession {
    pub(super) status: WaitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Containerd {
    /// # Errors
    ///
    /// Where containerd is missing or does not come up.
    pub(super) fn start(place: &Place) -> Result<Self> {
        let find = |name| workspace::find_program(name).ok_or_else(|| anyhow!("no {name}: run `cargo xtask setup`"));
        let (program, ctr) = (find("containerd")?, find("ctr")?);
        let folder = place.folder("containerd")?;
        let socket = place.socket("containerd");
        // The CRI plugin is for a kubelet; the opt plugin would make a folder outside of ours.
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {socket:?}\n",
            folder.join("root"),
            folder.join("state"),
        );
        let configuration = folder.join("config.toml");
        fs::write(&configuration, text).with_context(|| format!("cannot write {}", configuration.display()))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&configuration);
        let daemon = Daemon::start(
            "containerd",
            &command,
            Some(&place.cgroups),
            &place.log("containerd"),
            None,
        )?;
        let mut containerd = Self {
            ctr,
            socket,
            namespace: place.cgroups.containers_name(),
            fifos: place.folder("fifos")?,
            marks: place.folder("marks")?,
            logs: place.logs().to_owned(),
            exec_sessions: AtomicU64::new(0),
            _daemon: daemon,
        };
        let probe = containerd.command(&["version"]);
        let answers = move || {
            let mut command = Command::new(probe.get_program());
            command.args(probe.get_args());
            daemon::finish(&mut command, LIMIT).is_ok_and(|finished| finished.status.success())
        };
        containerd._daemon.wait_until(answers)?;
        Ok(containerd)
    }

    pub(super) fn socket(&self) -> &PathBuf {
        &self.socket
    }

    /// Where the canaries of all containers leave their marks.
    pub(super) fn marks(&self) -> &PathBuf {
        &self.marks
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ctr);
        command
            .arg("--address")
            .arg(&self.socket)
            .args(["--namespace", &self.namespace])
            .args(arguments);
        command
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments);
        let Finished { status, stdout, stderr } = daemon::finish(&mut command, LIMIT)?;
        if !status.success() {
            bail!(
                "`{}` failed with {status}: {}",
                process::display(&command),
                stderr.trim()
            );
        }
        Ok(stdout)
    }

    /// # Errors
    ///
    /// Where the image cannot be had.
    pub(super) fn pull(&self, image: &str) -> Result<()> {
        self.ctr(&["images", "pull", "--plain-http", "--snapshotter", "overlayfs", image])
            .map(drop)
    }

    /// Creates a container of the workload `payment-service`, then starts its task.
    ///
    /// # Errors
    ///
    /// Where either fails.
    pub(super) fn run(&self, id: &str, image: &str, listen: &str) -> Result<()> {
        let mount = format!(
            "type=bind,src={},dst={MARKS_IN_CONTAINER},options=rbind:rw",
            self.marks.display()
        );
        let listen = format!("LISTEN={listen}");
        // `ctr` puts it into the cgroup /NAMESPACE/ID, which is below the agent's managed root.
        let mut arguments = vec!["containers", "create", "--snapshotter", "overlayfs", "--net-host"];
        arguments.extend(["--mount", &mount, "--env", &listen]);
        for label in [
            "lattice.dev/namespace=payments",
            "lattice.dev/workload=payment-service",
            "lattice.dev/container=server",
        ] {
            arguments.extend(["--label", label]);
        }
        arguments.extend([image, id]);
        self.ctr(&arguments)?;
        let log = format!("file://{}", self.logs.join(format!("{id}.log")).display());
        let fifos = self.fifos.display().to_string();
        self.ctr(&[
            "tasks",
            "start",
            "--detach",
            "--log-uri",
            &log,
            "--fifo-dir",
            &fifos,
            id,
        ])
        .map(drop)
    }

    /// Enters a container from outside, as a probe or an operator does.
    ///
    /// # Errors
    ///
    /// Where `ctr` cannot be run or hangs. That the runtime could not start the program is a status.
    pub(super) fn exec(&self, id: &str, program: &[&str]) -> Result<ExecSession> {
        let session = format!("demo-{}", self.exec_sessions.fetch_add(1, Ordering::Relaxed));
        let fifos = self.fifos.display().to_string();
        let mut arguments = vec!["tasks", "exec", "--exec-id", &session, "--fifo-dir", &fifos, id];
        arguments.extend(program);
        let Finished { status, stdout, stderr } = daemon::finish(&mut self.command(&arguments), LIMIT)?;
        let status = match status.code() {
            // ctr's own words, when there was no process whose status it could take over.
            Some(_) if stderr.lines().any(|line| line.starts_with("ctr: ")) => {
                WaitStatus::NotStarted(stderr.trim().to_owned())
            }
            Some(code) => WaitStatus::from_exit_code(code),
            None => bail!("ctr itself ended with {status}: {}", stderr.trim()),
        };
        Ok(ExecSession { status, stdout, stderr })
    }

    /// How many containers there are of an image in this repository.
    ///
    /// # Errors
    ///
    /// Where containerd cannot be asked.
    pub(super) fn containers_of(&self, repository: &str) -> Result<usize> {
        let list = self.ctr(&["containers", "list"])?;
        Ok(list
            .lines()
            .filter(|line| line.contains(&format!("/{repository}@")))
            .count())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let containers = self.ctr(&["containers", "list", "--quiet"]).unwrap_or_default();
        for id in containers.lines() {
            // What stays is killed by its cgroup afterwards.
            let _ = self.ctr(&["tasks", "rm", "--force", id]);
            let _ = self.ctr(&["containers", "rm", id]);
        }
    }
}
