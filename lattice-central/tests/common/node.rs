//! The agent's program on this machine's kernel, with a container that is a cgroup.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use lattice_api::v1 as wire;

use super::{NODES, PATIENCE, Place, operator, program::Program};

/// Digest of the image that the container is said to be of.
pub const IMAGE: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A node of its own on this machine: a BPF file system, a cgroup, and folders.
pub struct Node {
    folder: tempfile::TempDir,
    pub cgroup: PathBuf,
}

impl Node {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let hierarchy = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        });
        // Tests of one program run beside each other.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lattice-central-test-{}-{number}", std::process::id());
        let cgroup = hierarchy.expect("a cgroup2 mount").join(name);
        fs::create_dir(&cgroup).expect("this test needs root");
        let node = Self { folder, cgroup };
        node.mount();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn mount(&self) {
        fs::create_dir_all(self.path("bpf")).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(self.path("bpf"))
            .status();
        assert!(mounted.unwrap().success());
    }

    /// Everything that is pinned goes: what holds afterwards comes from the disk.
    pub fn unmount(&self) {
        // In a test that fails it may not be there.
        let _ = Command::new("umount").arg(self.path("bpf")).status();
    }

    pub fn start_agent(&self, place: &Place, central: &str) -> Agent {
        // Built together with central's own.
        let program = Path::new(env!("CARGO_BIN_EXE_lattice-central")).with_file_name("lattice-agent");
        assert!(
            program.exists(),
            "{} is not built: cargo build -p lattice-agent",
            program.display()
        );
        let tls = |name: &str| place.tls().join(name);
        let log = self.path("agent.log");
        let child = Command::new(program)
            .args(["run", "--node", NODES[0], "--central", central])
            .arg("--bpf-file-system")
            .arg(self.path("bpf"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.path("run/agent.sock"))
            .arg(format!(
                "--cgroup={}=payments/server/main,image={IMAGE}",
                self.cgroup.display()
            ))
            .arg("--client-cert")
            .arg(tls("node-worker-1.crt"))
            .arg("--client-key")
            .arg(tls("node-worker-1.key"))
            .arg("--ca")
            .arg(tls("ca.crt"))
            .env("NO_COLOR", "1")
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let agent = Agent(child);
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&log).unwrap().contains(" ready ") {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        agent
    }

    /// A program that stays in the container.
    pub fn spawn(&self, program: &str) -> Child {
        let entered = format!("echo 0 >{}/cgroup.procs; exec {program}", self.cgroup.display());
        Command::new("/bin/sh").args(["-c", &entered]).spawn().unwrap()
    }

    /// Starts a program in the container.
    pub fn exec(&self, program: &str) -> ExitStatus {
        let entered = format!("echo 0 >{}/cgroup.procs; exec {program}", self.cgroup.display());
        Command::new("/bin/sh").args(["-c", &entered]).status().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.unmount();
        // What a test that failed has left running.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        // The cgroup may still hold a task that dies.
        let _ = fs::remove_dir(&self.cgroup);
    }
}

pub struct Agent(pub Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // As a crash does.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until central says of the node's one container what is wanted.
pub async fn wait_for_container(place: &Place, program: &Program, connected: bool) -> wire::ContainerStatus {
    let deadline = Instant::now() + PATIENCE;
    let mut control = operator(place, program.address).await;
    loop {
        let answer = control.get_status(wire::GetStatusRequest::default()).await.unwrap();
        let status = answer.into_inner();
        let is_connected = status.nodes.iter().any(|node| node.connected == connected);
        if let [container] = &status.containers[..]
            && container.policy.is_some()
            && is_connected
        {
            return container.clone();
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
