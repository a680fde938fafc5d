//! lattice-agent, connected to the demo's central and containerd.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::Result;

use super::{
    central::{Central, NODE},
    containerd::Containerd,
    daemon::{self, Daemon},
    place::Place,
};
use crate::workspace;

const UNINSTALL_LIMIT: Duration = Duration::from_secs(30);

/// A running agent. What it enforces outlives it; `uninstall` ends that when this is dropped.
pub(super) struct Agent {
    command: Command,
    bpf_file_system: PathBuf,
    daemon: Option<Daemon>,
}

impl Agent {
    /// Starts it and waits until central says that it is connected.
    ///
    /// # Errors
    ///
    /// Where it does not come up.
    pub(super) fn start(place: &Place, central: &Central, containerd: &Containerd) -> Result<Self> {
        // A BPF file system of the demo's own: the agent mounts it, and pins nothing elsewhere.
        let bpf_file_system = place.folder("bpf")?;
        let mut command = Command::new(workspace::host_program("lattice-agent"));
        command.arg("run").args(["--node", NODE]);
        command.arg("--bpf-file-system").arg(&bpf_file_system);
        command.arg("--containerd").arg(containerd.socket());
        command.arg("--managed-root").arg(place.cgroups.containers());
        command.arg("--socket").arg(place.socket("agent"));
        command.arg("--state").arg(place.folder("agent")?);
        command.args(["--central", &central.url()]);
        for (flag, file) in [
            ("--client-cert", format!("node-{NODE}.crt")),
            ("--client-key", format!("node-{NODE}.key")),
            ("--ca", "ca.crt".to_owned()),
        ] {
            command.arg(flag).arg(central.tls(&file));
        }
        let mut agent = Self {
            command,
            bpf_file_system,
            daemon: None,
        };
        agent.start_again(place, central)?;
        Ok(agent)
    }

    /// Starts it after [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// Where it does not come up.
    pub(super) fn start_again(&mut self, place: &Place, central: &Central) -> Result<()> {
        let mut daemon = Daemon::start(
            "lattice-agent",
            &self.command,
            Some(&place.cgroups),
            &place.log("agent"),
            None,
        )?;
        daemon.wait_until(|| matches!(central.node(), Ok(Some(_))))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// As a crash would end it.
    ///
    /// # Errors
    ///
    /// Where it cannot be killed.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), Daemon::kill)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.daemon = None;
        let mut uninstall = Command::new(workspace::host_program("lattice-agent"));
        uninstall
            .arg("uninstall")
            .arg("--bpf-file-system")
            .arg(&self.bpf_file_system);
        match daemon::finish(&mut uninstall, UNINSTALL_LIMIT) {
            Ok(finished) if finished.status.success() => {}
            Ok(finished) => eprintln!("demo: lattice-agent uninstall: {}", finished.stderr.trim()),
            // Asked to stop: unmounting the BPF file system ends its pins as well.
            Err(_) => {}
        }
    }
}
