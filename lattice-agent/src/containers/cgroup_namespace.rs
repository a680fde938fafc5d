//! The host's cgroup namespace, which an agent in a pod may have to enter.

use std::{fs, fs::File, io, os::unix::fs::MetadataExt as _};

use nix::sched::{CloneFlags, setns};

use crate::host_process::HostProcess;

const OWN: &str = "/proc/self/ns/cgroup";

/// Enters the host's cgroup namespace; whether it was another one. A runtime gives every container one of its own on a host with
/// cgroup2 alone, and in it no path of another container's cgroup means anything. Only for a process that has one thread.
///
/// # Errors
/// When it is another one and cannot be entered, which takes CAP_SYS_ADMIN.
///
/// # Minimum kernel version
/// 4.6.
pub fn enter_host(host: HostProcess) -> io::Result<bool> {
    let of_host = host.namespace("cgroup");
    let own = fs::metadata(OWN)?.ino();
    // Who may not look at process 1 cannot know of another namespace, and is told by what the mounts show.
    let Ok(found) = fs::metadata(&of_host) else {
        return Ok(false);
    };
    if own == found.ino() {
        return Ok(false);
    }
    setns(File::open(of_host)?, CloneFlags::CLONE_NEWCGROUP)?;
    Ok(true)
}
