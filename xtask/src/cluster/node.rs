//! The node: its namespaces, what is mounted in them, and its network. One process holds them open.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::setsid,
};

use super::place::Place;
use crate::{process, workspace};

pub(super) const NODE_NAME: &str = "node1";
/// Of a bridge that leads nowhere: a kubelet takes no loopback address.
pub(super) const NODE_ADDRESS: &str = "10.210.0.1";
pub(super) const POD_NETWORK: &str = "10.244.0.0/24";
pub(super) const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The first address of the service network is the API server's.
pub(super) const API_SERVICE_ADDRESS: &str = "10.96.0.1";

/// Settings of the whole machine that a kubelet insists on. It gets files of its own to write to.
const MACHINE_SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Makes the namespaces, says so, and stays.
///
/// # Errors
///
/// Where something cannot be made; then the namespaces go with this process.
pub(super) fn hold(place: &Place) -> Result<ExitCode> {
    setsid().context("cannot leave the terminal's session")?;
    let processes = place.control_groups()?.system_processes();
    fs::write(&processes, "0").with_context(|| format!("cannot enter {}", processes.display()))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("cannot make namespaces")?;
    // Nothing that is mounted from here on reaches the machine; what is mounted here reaches the pods.
    flags("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    flags("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    mount_own_folders(place)?;
    mount_own_settings(place)?;
    mount_kernel_file_systems()?;
    make_network()?;
    let ready = place.node_is_ready();
    fs::write(&ready, "").with_context(|| format!("cannot write {}", ready.display()))?;
    loop {
        thread::sleep(Duration::from_secs(3_600));
    }
}

fn mount_own_folders(place: &Place) -> Result<()> {
    new_file_system("tmpfs", "/run")?;
    for folder in ["/run/containerd", "/run/netns", "/run/nri", "/run/lock"] {
        fs::DirBuilder::new()
            .mode(0o755)
            .create(folder)
            .with_context(|| format!("cannot create {folder}"))?;
    }
    for folder in ["/var/lib", "/var/log"] {
        bind(&place.on_node(folder), Path::new(folder))?;
    }
    Ok(())
}

fn mount_own_settings(place: &Place) -> Result<()> {
    let folder = place.on_node("settings");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for setting in MACHINE_SETTINGS {
        let real = Path::new("/proc/sys").join(setting);
        let Ok(value) = fs::read(&real) else { continue };
        let own = folder.join(setting.replace('/', "."));
        fs::write(&own, value).with_context(|| format!("cannot write {}", own.display()))?;
        bind(&own, &real)?;
    }
    Ok(())
}

fn mount_kernel_file_systems() -> Result<()> {
    // Programs that are pinned here go with the cluster.
    new_file_system("bpf", "/sys/fs/bpf")?;
    for (kind, folder, sign) in [
        ("securityfs", "/sys/kernel/security", "/sys/kernel/security/lsm"),
        ("tracefs", "/sys/kernel/tracing", "/sys/kernel/tracing/events"),
    ] {
        if !Path::new(sign).exists() {
            // Not every kernel has them, and nothing of a node depends on them.
            let _ = new_file_system(kind, folder);
        }
    }
    Ok(())
}

fn make_network() -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", "node0", "type", "bridge"])?;
    ip(&["address", "add", &format!("{NODE_ADDRESS}/24"), "dev", "node0"])?;
    ip(&["link", "set", "node0", "up"])?;
    ip(&["route", "add", "default", "dev", "node0"])?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    fs::write(forward, "1").with_context(|| format!("cannot write {forward}"))?;
    // Only where bridges filter at all; the setting is of this network alone.
    let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program = workspace::find_program("ip").context("no ip: run `cargo xtask setup`")?;
    process::execute(Command::new(program).args(arguments))
}

fn flags(path: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot set how mounts of {path} propagate"))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {} on {}", source.display(), target.display()))
}

fn new_file_system(kind: &str, target: &str) -> Result<()> {
    let options = (kind == "tmpfs").then_some("mode=755");
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} on {target}"))
}
