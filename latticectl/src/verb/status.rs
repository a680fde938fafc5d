//! `latticectl status`.

use std::collections::BTreeMap;

use lattice_api::{
    event::container_name,
    node_report::tier_sentence,
    v1::{ContainerStatus, GetStatusRequest, GetStatusResponse, NodeStatus},
};
use lattice_policy::escape::for_terminal;
use serde::Serialize;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Output, Tone, mode_cell, or_dash, plain},
};

#[derive(Serialize)]
struct StatusDocument {
    role: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<u32>,
    nodes: Vec<NodeItem>,
    containers: Vec<ContainerItem>,
    counters: BTreeMap<String, u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeItem {
    node: String,
    tier: u32,
    kernel_release: String,
    agent_version: String,
    connected: bool,
    applied_revision: u64,
    apply_error: String,
    last_sequence: u64,
    denylist_revision: u64,
    denylist_error: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerItem {
    node: String,
    namespace: String,
    workload: String,
    name: String,
    container_id: String,
    image_reference: String,
    image_digest: String,
    cgroup_id: u64,
    /// `None`: no policy matches the container.
    policy: Option<PolicyItem>,
    mode: String,
    mode_source: String,
}

#[derive(Serialize)]
struct PolicyItem {
    namespace: String,
    name: String,
    generation: u64,
}

pub(crate) async fn run(connection: &mut Connection, output: &mut Output) -> Result<(), Failure> {
    let mut client = connection.client.clone();
    let mut status = connection.answer(client.get_status(GetStatusRequest {})).await?;
    status.nodes.sort_by(|left, right| left.node.cmp(&right.node));
    status
        .containers
        .sort_by_cached_key(|container| (container_name(container.container.as_ref()), container.node.clone()));
    if output.is_json() {
        return output.json("Status", document(status));
    }
    let tier = status
        .tier
        .map(|tier| format!(", {}", tier_sentence(tier)))
        .unwrap_or_default();
    output.line(&for_terminal(&format!("{} {}{tier}", status.role, status.version)))?;
    output.line("")?;
    let header = [
        "NODE",
        "CONNECTED",
        "TIER",
        "KERNEL",
        "AGENT",
        "REVISION",
        "LAST EVENT",
        "PROBLEM",
    ];
    output.table(
        &header,
        status.nodes.iter().map(node_row).collect(),
        "No node has connected yet.",
    )?;
    output.line("")?;
    let header = ["CONTAINER", "NODE", "POLICY", "MODE", "SOURCE"];
    let containers = status.containers.iter().map(container_row).collect();
    output.table(&header, containers, "No container is known.")?;
    let counters: BTreeMap<_, _> = status.counters.iter().filter(|(_, value)| **value > 0).collect();
    if !counters.is_empty() {
        output.line("")?;
        let rows = counters
            .into_iter()
            .map(|(name, value)| vec![plain(name), plain(value.to_string())])
            .collect();
        output.table(&["COUNTER", "VALUE"], rows, "")?;
    }
    Ok(())
}

fn node_row(node: &NodeStatus) -> Vec<(String, Tone)> {
    let connected = match node.connected {
        true => ("yes".to_owned(), Tone::Good),
        false => ("no".to_owned(), Tone::Bad),
    };
    let problem = match (node.apply_error.as_str(), node.denylist_error.as_str()) {
        ("", "") => plain("-"),
        (error, "") => (error.to_owned(), Tone::Bad),
        ("", error) => (format!("denylist: {error}"), Tone::Bad),
        (policies, denylist) => (format!("denylist: {denylist}; {policies}"), Tone::Bad),
    };
    vec![
        plain(&node.node),
        connected,
        plain(node.tier.to_string()),
        plain(or_dash(&node.kernel_release)),
        plain(or_dash(&node.agent_version)),
        plain(node.applied_revision.to_string()),
        plain(node.last_sequence.to_string()),
        problem,
    ]
}

fn container_row(status: &ContainerStatus) -> Vec<(String, Tone)> {
    let policy = match &status.policy {
        Some(policy) => plain(format!(
            "{}/{} (generation {})",
            policy.namespace, policy.name, policy.generation
        )),
        None => ("none".to_owned(), Tone::Bad),
    };
    vec![
        plain(container_name(status.container.as_ref())),
        plain(or_dash(&status.node)),
        policy,
        mode_cell(&or_dash(&status.mode)),
        plain(or_dash(&status.mode_source)),
    ]
}

fn document(status: GetStatusResponse) -> StatusDocument {
    StatusDocument {
        role: status.role,
        version: status.version,
        tier: status.tier,
        nodes: status.nodes.into_iter().map(node_item).collect(),
        containers: status.containers.into_iter().map(container_item).collect(),
        counters: status.counters.into_iter().collect(),
    }
}

fn node_item(node: NodeStatus) -> NodeItem {
    NodeItem {
        node: node.node,
        tier: node.tier,
        kernel_release: node.kernel_release,
        agent_version: node.agent_version,
        connected: node.connected,
        applied_revision: node.applied_revision,
        apply_error: node.apply_error,
        last_sequence: node.last_sequence,
        denylist_revision: node.denylist_revision,
        denylist_error: node.denylist_error,
    }
}

fn container_item(status: ContainerStatus) -> ContainerItem {
    let container = status.container.unwrap_or_default();
    ContainerItem {
        node: status.node,
        namespace: container.namespace,
        workload: container.workload,
        name: container.name,
        container_id: container.container_id,
        image_reference: container.image_reference,
        image_digest: container.image_digest,
        cgroup_id: container.cgroup_id,
        policy: status.policy.map(|policy| PolicyItem {
            namespace: policy.namespace,
            name: policy.name,
            generation: policy.generation,
        }),
        mode: status.mode,
        mode_source: status.mode_source,
    }
}
