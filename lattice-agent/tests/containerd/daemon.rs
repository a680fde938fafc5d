//! A containerd of the test's own: root, state and socket in a temporary folder, without its CRI plugin.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    child: Option<Child>,
    pub(crate) snapshotter: &'static str,
}

/// Why these tests cannot run here, if they cannot.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("containers need root".into());
    }
    ["containerd", "ctr", "runc", "busybox"]
        .into_iter()
        .find(|program| find(program).is_none())
        .map(|program| format!("{program} is not installed: run `cargo xtask setup`"))
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    path.split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("lattice-containerd-")
            .tempdir()
            .unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock")
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        fs::create_dir(folder.path().join("marks")).unwrap();
        let mut daemon = Self {
            folder,
            child: None,
            snapshotter: "overlayfs",
        };
        daemon.run();
        daemon
    }

    pub(crate) fn run(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let child = Command::new(find("containerd").unwrap())
            .arg("--config")
            .arg(self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.try_ctr(&["version"]).status.success() {
            assert!(
                Instant::now() < deadline,
                "containerd did not start: {}",
                fs::read_to_string(self.path("log")).unwrap()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As a crash does it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("sock")
    }

    /// A folder that containers find at /marks.
    pub(crate) fn marks(&self) -> PathBuf {
        self.path("marks")
    }

    pub(crate) fn try_ctr(&self, arguments: &[&str]) -> Output {
        Command::new(find("ctr").unwrap())
            .arg("-a")
            .arg(self.socket())
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments);
        assert!(
            output.status.success(),
            "ctr {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Imports an image; with the native snapshotter where overlayfs cannot be had on this folder.
    pub(crate) fn import(&mut self, archive: &Path) {
        let archive = archive.display().to_string();
        let output = self.try_ctr(&["images", "import", "--snapshotter", self.snapshotter, &archive]);
        if !output.status.success() {
            println!(
                "overlayfs: {}; using the native snapshotter",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            self.snapshotter = "native";
            self.ctr(&["images", "import", "--snapshotter", "native", &archive]);
        }
    }

    /// `ctr run` of busybox's shell, with labels.
    pub(crate) fn run_container(
        &self,
        flags: &[&str],
        image: &str,
        id: &str,
        labels: &[(&str, &str)],
        script: &str,
    ) -> Output {
        let mount = format!("type=bind,src={},dst=/marks,options=rbind:rw", self.marks().display());
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut arguments = vec!["run", "--snapshotter", self.snapshotter, "--mount", &mount];
        arguments.extend(flags);
        for label in &labels {
            arguments.extend(["--label", label]);
        }
        arguments.extend([image, id, "/bin/busybox", "sh", "-c", script]);
        self.try_ctr(&arguments)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            for id in self.ctr(&["containers", "list", "-q"]).lines() {
                self.try_ctr(&["task", "rm", "-f", id]);
                self.try_ctr(&["containers", "rm", id]);
            }
            self.kill();
        }
    }
}
