//! What is left when Lattice goes as it should: nothing on the node, and nothing in the cluster.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};

use super::{GUARDED, NAMESPACE, World, wait_until};
use crate::workspace;

/// Where the agent leaves something of its own on a node, and what of it.
const PLACES: [(&str, &str); 4] = [
    ("/sys/fs/bpf", "lattice"),
    ("/var/lib/lattice", "spool"),
    ("/run/lattice", "agent.sock"),
    ("/var/lib/kubelet/seccomp/lattice", "agent.json"),
];

/// `agent.uninstall`: the DaemonSet has rolled out when no node has anything left.
pub(super) fn cleans_the_node(world: &World) -> Result<()> {
    let command = ["/usr/bin/wget", "--version"];
    let on_node =
        |program: &Path, arguments: &[&str]| super::super::component::run_inside(&world.place, program, arguments);
    let list = |folder: &str| on_node(Path::new("/bin/ls"), &["-A", folder]);
    let (status, output) = world.kubectl.exec(GUARDED, &command)?;
    ensure!(
        status == 137 && output.is_empty(),
        "it runs before anything is removed: {status} {output}"
    );
    for (folder, name) in PLACES {
        let found = list(folder)?;
        ensure!(found.contains(name), "no {name} in {folder} before: {found}");
    }
    // By the kernel's own list, not by what the agent says of itself.
    let loaded = || on_node(&workspace::host_program("lattice-footprint"), &["loaded"]);
    ensure!(!loaded()?.trim().is_empty(), "no program of ours is loaded before");

    let mut values = world.values()?;
    values["agent"]["uninstall"] = true.into();
    world.helm.install(NAMESPACE, &values)?;
    world.kubectl.run(&[
        "rollout",
        "status",
        "daemonset/lattice-agent",
        "--namespace",
        NAMESPACE,
        "--timeout=120s",
    ])?;
    for (folder, _) in PLACES {
        let left: Vec<String> = list(folder)?
            .lines()
            // The BPF file system is the node's; of the others nobody else has anything there.
            .filter(|name| folder != PLACES[0].0 || name.starts_with("lattice"))
            .map(str::to_owned)
            .collect();
        ensure!(left.is_empty(), "{folder} still has {left:?}");
    }
    let left = loaded()?;
    ensure!(left.trim().is_empty(), "programs are still loaded: {left}");
    let (status, output) = world.kubectl.exec(GUARDED, &command)?;
    ensure!(
        status == 0 && output.contains("GNU Wget"),
        "something still refuses it: {status} {output}"
    );
    Ok(())
}

pub(super) fn leaves_nothing(world: &World) -> Result<()> {
    world.helm.uninstall(NAMESPACE)?;
    wait_until("the agent's pod is gone", Duration::from_secs(60), || {
        Ok(world.process_of(b"lattice-agent", None).is_err())
    })?;
    let left = world.kubectl.run(&[
        "get",
        "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,clusterroles,clusterrolebindings,\
         validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings",
        "--namespace",
        NAMESPACE,
        "--selector=app.kubernetes.io/part-of=lattice",
        "--output=name",
    ])?;
    // Pods that are ending, and what the API server's garbage collector has not come to yet, are on their way.
    let is_passing =
        |name: &str| name.starts_with("pod/") || name.contains("replicaset") || name.contains("controllerrevision");
    let left: Vec<&str> = left.lines().filter(|name| !is_passing(name)).collect();
    ensure!(left.is_empty(), "helm left {left:?}");
    Ok(())
}
