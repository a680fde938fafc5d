//! A containerd of the suite's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A running containerd; ends when dropped.
pub(super) struct Containerd {
    child: Child,
    /// Where it listens.
    pub(super) socket: PathBuf,
    namespace: String,
}

impl Containerd {
    /// Starts it, with root and state in the folder.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) fn start(folder: &Path, namespace: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let socket = folder.join("s");
        // The CRI plugin is for a kubelet; the opt plugin would make a folder outside of ours.
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {socket:?}\n",
            folder.join("root"),
            folder.join("state"),
        );
        let configuration = folder.join("config.toml");
        fs::write(&configuration, text)?;
        let log = fs::File::create(folder.join("log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start containerd")?;
        let mut containerd = Self {
            child,
            socket,
            namespace: namespace.to_owned(),
        };
        let started = Instant::now();
        while containerd.ctr(&["version"]).is_err() {
            if let Some(status) = containerd.child.try_wait()? {
                bail!("containerd: {status}: {}", fs::read_to_string(folder.join("log"))?);
            }
            ensure!(started.elapsed() < LIMIT, "containerd does not answer");
            sleep(Duration::from_millis(50));
        }
        Ok(containerd)
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(&self.socket)
            .args(["--namespace", &self.namespace])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("cannot start ctr")?;
        ensure!(
            output.status.success(),
            "ctr {words:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Takes an archive in OCI's layout.
    ///
    /// # Errors
    /// When ctr says no.
    pub(super) fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.to_string_lossy();
        self.ctr(&["images", "import", "--snapshotter", "overlayfs", &archive])
            .map(drop)
    }

    /// Ends what a failed case left, then the daemon.
    pub(super) fn end(self) {
        let containers = self.ctr(&["containers", "list", "--quiet"]).unwrap_or_default();
        for id in containers.lines() {
            // What stays is killed by its cgroup afterwards.
            let _ = self.ctr(&["tasks", "rm", "--force", id]);
            let _ = self.ctr(&["containers", "rm", id]);
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < LIMIT {
            sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
