//! A lattice-agent of the test's own, as a process that can be killed, stopped and started again.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lattice_api::v1::{
    GetStatusRequest, GetStatusResponse, ListEventsRequest, control_client::ControlClient, event::Kind,
};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

use super::{cgroups::Cgroups, daemon::Daemon};

const UP_WITHIN: Duration = Duration::from_secs(180);

pub(crate) type Counters = BTreeMap<String, u64>;

/// The one that was built with this test, unless `LATTICE_TEST_AGENT` names another.
fn program() -> Command {
    let named = std::env::var_os("LATTICE_TEST_AGENT");
    Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_lattice-agent").into()))
}

pub(crate) struct Agent<'world> {
    runtime: &'world Runtime,
    cgroups: &'world Cgroups,
    folder: PathBuf,
    socket: PathBuf,
    nri_socket: PathBuf,
    child: Option<Child>,
}

impl<'world> Agent<'world> {
    /// With the policy that is in the folder `policies` of the daemon's.
    pub(crate) fn start(runtime: &'world Runtime, cgroups: &'world Cgroups, daemon: &Daemon) -> Self {
        let folder = daemon.path("agent");
        for name in ["bpf", "state", "policies"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut agent = Self {
            runtime,
            cgroups,
            folder,
            socket: daemon.socket(),
            nri_socket: daemon.nri_socket(),
            child: None,
        };
        agent.run();
        agent.until_registered();
        agent
    }

    /// Starts the process.
    pub(crate) fn run(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let mut command = program();
        command.args(["run", "--node", "nri-test"]);
        for (flag, value) in [
            ("--bpf-file-system", self.folder.join("bpf")),
            ("--state", self.folder.join("state")),
            ("--policies", self.folder.join("policies")),
            ("--socket", self.folder.join("sock")),
            ("--containerd", self.socket.clone()),
            ("--nri", self.nri_socket.clone()),
            ("--managed-root", self.cgroups.managed()),
        ] {
            command.arg(flag).arg(value);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.cgroups.take_daemon(child.id());
        self.child = Some(child);
    }

    /// Waits until containerd asks it before a container starts. What ends meanwhile is started again, as whoever supervises an agent
    /// does it; the answer is how often.
    pub(crate) fn until_registered(&mut self) -> usize {
        let (mut restarts, deadline) = (0, Instant::now() + UP_WITHIN);
        while !self.is_registered() {
            assert!(
                Instant::now() < deadline,
                "the plugin is not registered:\n{}",
                self.log_text()
            );
            if !self.lives() {
                self.kill();
                self.run();
                restarts += 1;
            }
            thread::sleep(Duration::from_millis(50));
        }
        restarts
    }

    fn is_registered(&mut self) -> bool {
        let registrations = |counters: Counters| counters.get("lattice_nri_registrations_total").copied();
        self.lives()
            && self
                .try_counters()
                .and_then(registrations)
                .is_some_and(|times| times > 0)
    }

    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn try_counters(&self) -> Option<Counters> {
        Some(self.status()?.counters.into_iter().collect())
    }

    fn status(&self) -> Option<GetStatusResponse> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.folder.join("sock").display())).ok()?;
        self.runtime.block_on(async {
            let channel = endpoint.connect().await.ok()?;
            let status = ControlClient::new(channel).get_status(GetStatusRequest {}).await.ok()?;
            Some(status.into_inner())
        })
    }

    /// How many notices of a kind it has told, as far as it remembers.
    pub(crate) fn notices(&self, kind: &str) -> u64 {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.folder.join("sock").display())).unwrap();
        self.runtime.block_on(async {
            let channel = endpoint.connect().await.unwrap();
            let mut client = ControlClient::new(channel);
            let events = client.list_events(ListEventsRequest::default());
            let mut events = events.await.unwrap().into_inner();
            let mut count = 0;
            while let Some(event) = events.message().await.unwrap() {
                count += u64::from(matches!(event.kind, Some(Kind::Notice(notice)) if notice.notice == kind));
            }
            count
        })
    }

    /// Whether it refuses before the program is anything: no tracepoint sees that one start.
    pub(crate) fn is_tier_1(&self) -> bool {
        self.status().and_then(|status| status.tier) == Some(1)
    }

    /// Its counters: those of the kernel, which outlive it, and its own.
    pub(crate) fn counters(&self) -> Counters {
        self.try_counters()
            .unwrap_or_else(|| panic!("the agent does not answer: {}", self.log_text()))
    }

    fn pid(&self) -> Option<Pid> {
        let child = self.child.as_ref()?;
        Some(Pid::from_raw(child.id().try_into().unwrap()))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have been ended by its watchdog.
            let _ = kill(pid, signal);
        }
    }

    fn lives(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// As a crash does it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// From then on nothing is enforced here.
    pub(crate) fn uninstall(&mut self) {
        self.kill();
        // Where another agent runs on this kernel, this says that programs are still loaded, which are not ours.
        let _ = program()
            .args(["uninstall", "--bpf-file-system"])
            .arg(self.folder.join("bpf"))
            .output();
        let _ = umount2(&self.folder.join("bpf"), MntFlags::MNT_DETACH);
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.uninstall();
    }
}
