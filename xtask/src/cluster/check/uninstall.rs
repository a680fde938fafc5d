//! What is left when Lattice goes: nothing in the cluster; on the node what it enforced, until that is removed too, and then nothing.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};

use super::{GUARDED, NAMESPACE, World, wait_until};
use crate::workspace;

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

pub(super) fn leaves_nothing(world: &World) -> Result<()> {
    world.helm.uninstall(NAMESPACE)?;
    let agent_ends = || Ok(world.agent_process().is_err());
    wait_until("the agent's pod is gone", Duration::from_secs(60), agent_ends)?;
    let left = world.kubectl.run(&[
        "get",
        "all,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,clusterroles,clusterrolebindings",
        "--namespace",
        NAMESPACE,
        "--selector=app.kubernetes.io/part-of=lattice",
        "--output=name",
    ])?;
    // The DaemonSet's and the Deployment's pods and sets go after these.
    let is_passing =
        |name: &str| name.starts_with("pod/") || name.contains("replicaset") || name.contains("controllerrevision");
    let left: Vec<&str> = left.lines().filter(|name| !is_passing(name)).collect();
    ensure!(left.is_empty(), "helm left {left:?}");

    let command = ["/usr/bin/wget", "--version"];
    let (status, output) = world.kubectl.exec(GUARDED, &command)?;
    ensure!(
        status == 137 && output.is_empty(),
        "what was enforced ended with the release: {status} {output}"
    );
    let on_node =
        |program: &Path, arguments: &[&str]| super::super::component::run_inside(&world.place, program, arguments);
    let pins = || on_node(Path::new("/bin/ls"), &[BPF_FILE_SYSTEM]);
    ensure!(pins()?.contains("lattice"), "there are no pins where there should be");
    on_node(&workspace::host_program("lattice-agent"), &["uninstall"])?;
    let pinned = pins()?;
    ensure!(!pinned.contains("lattice"), "pins are left: {pinned}");
    let (status, output) = world.kubectl.exec(GUARDED, &command)?;
    ensure!(
        status == 0 && output.contains("GNU Wget"),
        "something still refuses it: {status} {output}"
    );
    Ok(())
}
