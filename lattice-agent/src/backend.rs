//! What the agent tells `latticectl` of itself.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use lattice_api::v1::{self, ContainerStatus, EffectiveMode, GetStatusResponse, NodeStatus};
use lattice_policy::{ExecPolicy, Mode};
use tokio::sync::watch;

use crate::{
    containers::ContainerInfo,
    control::Backend,
    denials::Denials,
    enforcement::ContainerStanding,
    events::explain::Node,
    policy_sources::PolicySources,
    probe,
    spool::Spool,
    state::Shared,
    uplink::{Connection, StandingSource},
};

/// Answers from the agent's state.
pub struct AgentBackend {
    /// Containers, policies, counters.
    pub state: Arc<Shared>,
    /// Where modes go.
    pub sources: Arc<PolicySources>,
    /// Events that wait.
    pub spool: Arc<Spool>,
    /// Who is speaking.
    pub node: Node,
    /// The kernel's release.
    pub kernel_release: String,
    /// How it stands with central; absent without one.
    pub central: Option<watch::Receiver<Connection>>,
    /// containerd's socket.
    pub containerd: Option<PathBuf>,
}

/// The wire's form of a container.
pub fn container_message(info: &ContainerInfo) -> v1::Container {
    v1::Container {
        container_id: info.container_id.clone(),
        namespace: info.namespace.clone(),
        pod: info.pod.clone(),
        workload: info.workload.clone(),
        name: info.name.clone(),
        service_account: info.service_account.clone(),
        image_reference: info.image_reference.clone(),
        image_digest: info.image_digest.map(|digest| digest.to_string()).unwrap_or_default(),
        cgroup_id: info.cgroup_id,
    }
}

fn source(is_override: bool) -> String {
    if is_override { "namespace-override" } else { "policy" }.into()
}

/// The wire's form of what holds for a container.
fn status_message(node: &str, standing: &ContainerStanding) -> ContainerStatus {
    ContainerStatus {
        node: node.to_owned(),
        container: Some(container_message(&standing.info)),
        policy: standing.policy.as_ref().map(|policy| v1::PolicyReference {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            generation: policy.generation,
            matched_entry: String::new(),
            no_match: String::new(),
        }),
        mode: match standing.mode {
            // The denylist kills, whatever the mode.
            _ if standing.is_denied => Mode::Enforce.to_string(),
            mode => mode.map(|mode| mode.to_string()).unwrap_or_default(),
        },
        mode_source: match standing.mode {
            _ if standing.is_denied => "denylist".into(),
            mode => mode.map(|_| source(standing.is_override)).unwrap_or_default(),
        },
    }
}

/// What holds for the node's containers, for central.
pub struct NodeStandings {
    /// Containers and policies.
    pub state: Arc<Shared>,
    /// The node's name.
    pub node: String,
}

impl StandingSource for NodeStandings {
    fn all(&self) -> Vec<ContainerStatus> {
        let standings: Vec<ContainerStanding> = self.state.enforcement().standings().collect();
        standings
            .iter()
            .map(|standing| status_message(&self.node, standing))
            .collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.state.changes()
    }
}

impl Backend for AgentBackend {
    fn status(&self) -> GetStatusResponse {
        let standings: Vec<ContainerStanding> = self.state.enforcement().standings().collect();
        GetStatusResponse {
            role: "agent".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            tier: Some(self.node.tier),
            nodes: vec![NodeStatus {
                node: self.node.name.clone(),
                tier: self.node.tier,
                kernel_release: self.kernel_release.clone(),
                agent_version: env!("CARGO_PKG_VERSION").into(),
                connected: self
                    .central
                    .as_ref()
                    .is_some_and(|central| *central.borrow() == Connection::Connected),
                applied_revision: 0,
                apply_error: String::new(),
                last_sequence: self.spool.highest(&self.node.boot_id),
                denylist_revision: 0,
                denylist_error: String::new(),
            }],
            containers: standings
                .iter()
                .map(|standing| status_message(&self.node.name, standing))
                .collect(),
            counters: self.state.counters().into_iter().collect(),
        }
    }

    fn effective_modes(&self, namespace: &str) -> Vec<EffectiveMode> {
        let enforcement = self.state.enforcement();
        enforcement
            .policies()
            .filter(|policy| namespace.is_empty() || policy.namespace == namespace)
            .map(|policy| {
                let held = enforcement.overrides().get(&policy.namespace).copied();
                EffectiveMode {
                    namespace: policy.namespace.clone(),
                    policy: policy.name.clone(),
                    mode: held.unwrap_or(policy.mode).to_string(),
                    source: source(held.is_some()),
                    nodes: Vec::new(),
                }
            })
            .collect()
    }

    fn policies(&self, namespace: &str) -> Vec<ExecPolicy> {
        let enforcement = self.state.enforcement();
        enforcement
            .policies()
            .filter(|policy| namespace.is_empty() || policy.namespace == namespace)
            .cloned()
            .collect()
    }

    fn denials(&self) -> (u64, Vec<v1::Denial>) {
        self.state.denials().map(Denials::all).unwrap_or_default()
    }

    fn node_report(&self) -> Result<v1::NodeReport, String> {
        let report = probe::in_child(&self.node.name, self.containerd.as_deref());
        report.map(|report| v1::NodeReport {
            active_tier: Some(self.node.tier),
            ..report
        })
    }

    fn apply_namespace_modes(&self, modes: BTreeMap<String, Mode>) -> Result<(), String> {
        self.sources.set_modes(modes)
    }
}
