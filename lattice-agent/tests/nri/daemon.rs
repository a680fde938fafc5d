//! A containerd 2 with NRI of the test's own: root, state, sockets and cgroups are the test's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, umount2};

use super::cgroups::Cgroups;

/// A pod of this handler has a `createContainer` hook in its containers' bundles.
pub(crate) const HOOKED: &str = "hooked";
pub(crate) const PLAIN: &str = "runc";

pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

/// What `cargo xtask setup` builds where there is Go; `LATTICE_TEST_TOOLS` says where it lies elsewhere.
fn tools() -> PathBuf {
    std::env::var_os("LATTICE_TEST_TOOLS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/containerd"),
        PathBuf::from,
    )
}

/// Why these tests cannot run here, if they cannot.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("containers need root".into());
    }
    let of_ours = ["containerd", "containerd-shim-runc-v2", "ctr"]
        .into_iter()
        .find(|program| !tools().join(program).is_file())
        .map(|program| format!("no {program} with NRI: `cargo xtask setup` builds it where there is Go"));
    of_ours.or_else(|| {
        ["runc", "busybox"]
            .into_iter()
            .find(|program| find(program).is_none())
            .map(|program| format!("{program} is not installed: run `cargo xtask setup`"))
    })
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    path.split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

#[track_caller]
pub(crate) fn wait_for(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Daemon {
    /// Starts it; `pause_image` is what holds a pod together.
    pub(crate) fn start(cgroups: &Cgroups, pause_image: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("lattice-nri-").tempdir().unwrap();
        let daemon = Self { folder, child: None };
        let at = |name: &str| daemon.path(name).display().to_string();
        for name in ["marks", "cni", "nri-plugins", "nri-conf", "opt"] {
            fs::create_dir(daemon.path(name)).unwrap();
        }
        let hook = daemon.path("busybox-hook");
        fs::copy(find("busybox").unwrap(), &hook).unwrap();
        fs::write(daemon.path("hooked.json"), daemon.hooked_specification(&hook)).unwrap();
        let runtime = |name: &str| {
            format!(
                "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.{name}]\nruntime_type = \"io.containerd.runc.v2\"\n"
            )
        };
        let config = format!(
            "version = 3\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n\
             [plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\nsocket_path = {:?}\nplugin_path = {:?}\nplugin_config_path = {:?}\n\
             [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"overlayfs\"\n\
             [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {pause_image:?}\n\
             [plugins.\"io.containerd.cri.v1.runtime\"]\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
             [plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [{:?}]\nconf_dir = {:?}\n\
             {}{}base_runtime_spec = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("opt"),
            at("nri.sock"),
            at("nri-plugins"),
            at("nri-conf"),
            at("cni"),
            at("cni"),
            runtime(PLAIN),
            runtime(HOOKED),
            at("hooked.json"),
        );
        fs::write(daemon.path("config.toml"), config).unwrap();
        let mut daemon = daemon;
        daemon.run(cgroups);
        daemon
    }

    /// The specification that `ctr` starts from, with a hook that leaves a mark: its program lies on the host alone.
    fn hooked_specification(&self, hook: &Path) -> String {
        let output = Command::new(tools().join("ctr"))
            .args(["oci", "spec"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut specification: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let arguments = ["busybox", "touch", &self.marks().join("hook").display().to_string()].map(str::to_owned);
        specification["hooks"] = serde_json::json!({"createContainer": [{"path": hook, "args": arguments}]});
        specification.to_string()
    }

    pub(crate) fn run(&mut self, cgroups: &Cgroups) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let path = format!("{}:{}", tools().display(), std::env::var("PATH").unwrap_or_default());
        let child = Command::new(tools().join("containerd"))
            .arg("--config")
            .arg(self.path("config.toml"))
            .env("PATH", path + ":/usr/sbin:/sbin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        cgroups.take_daemon(child.id());
        self.child = Some(child);
        wait_for(
            &format!("containerd serves; its log is {}", self.path("log").display()),
            Duration::from_secs(180),
            || self.try_ctr(&["version"]).status.success(),
        );
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

    pub(crate) fn nri_socket(&self) -> PathBuf {
        self.path("nri.sock")
    }

    /// A folder that containers find at /marks.
    pub(crate) fn marks(&self) -> PathBuf {
        self.path("marks")
    }

    fn try_ctr(&self, arguments: &[&str]) -> Output {
        Command::new(tools().join("ctr"))
            .arg("-a")
            .arg(self.socket())
            .args(["-n", "k8s.io"])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Imports an image for pods.
    pub(crate) fn import(&self, archive: &Path) {
        let output = self.try_ctr(&["images", "import", "--local", &archive.display().to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The ends of its log and of the agent's, for a failure's message.
    pub(crate) fn logs(&self) -> String {
        let end = |name: &str| {
            let log = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("{name}:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
        };
        format!("{}\n{}", end("log"), end("agent/log"))
    }
}

impl Daemon {
    /// What pods leave behind in its folder, which otherwise could not be removed. The last mount first.
    fn unmount_all(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(self.folder.path())) {
            if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
                println!("{point} stays: {error}");
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let ids = String::from_utf8(self.try_ctr(&["containers", "list", "-q"]).stdout).unwrap_or_default();
            for id in ids.lines() {
                self.try_ctr(&["task", "rm", "-f", id]);
                self.try_ctr(&["containers", "rm", id]);
            }
        }
        self.kill();
        self.unmount_all();
    }
}
