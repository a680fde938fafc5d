//! What is known of a namespace at one moment, and whether that is all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lattice_policy::ExecPolicy;
use sha2::{Digest, Sha256};

use super::state::{List, UnixNanos};

/// What is known of a namespace now, and what happened since the last look.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The time that has passed since the last look; 0 at the first.
    pub covers: Duration,
    /// The events that were looked at, up to this place in the store.
    pub cursor: i64,
    /// The namespace's policies, as they are published.
    pub policies: Vec<PolicyFacts>,
    /// The namespace's containers, as agents tell of them.
    pub containers: Vec<ContainerFacts>,
    /// All nodes.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// What was refused, or would have been, since the last look.
    pub violations: Vec<ViolationFacts>,
    /// What was lost since the last look, by node.
    pub gaps: BTreeMap<String, String>,
    /// Whom Cedar does not let promote, and why.
    pub forbidden: BTreeMap<String, String>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyFacts {
    /// What it says.
    pub policy: Arc<ExecPolicy>,
    /// What is remembered of its list.
    pub list: List,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its node.
    pub node: String,
    /// Unique on its node.
    pub id: String,
    /// Its pod; its own name where it has none.
    pub pod: String,
    /// Its workload.
    pub workload: String,
    /// Name of the policy that holds for it.
    pub policy: Option<String>,
}

/// One node's agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Whether it is connected.
    pub is_connected: bool,
    /// Why what it enforces is not what it was given; empty where it is.
    pub behind: String,
    /// Which of its events have not arrived; empty where all have.
    pub missing: String,
}

/// One refusal, or what would have been one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViolationFacts {
    /// The node.
    pub node: String,
    /// The container on it.
    pub container: String,
    /// Its pod.
    pub pod: String,
    /// Its workload.
    pub workload: String,
    /// The policy that did not allow it.
    pub policy: String,
    /// That policy's generation.
    pub generation: u64,
    /// Of the program.
    pub path: String,
    /// Of the program, in hexadecimal; empty where it was not had.
    pub sha256: String,
    /// Of the program.
    pub size_bytes: u64,
    /// As what it was to start.
    pub role: String,
    /// From where.
    pub origin: String,
    /// Why it was not allowed.
    pub reason: String,
    /// What became of the image.
    pub drift: String,
    /// Whether it was refused, and not only noted.
    pub is_refused: bool,
    /// How many refusals it stands for.
    pub count: u64,
    /// When, by the node's clock.
    pub time: UnixNanos,
}

impl Evidence {
    /// Why not everything is known of a workload; `None` where it is.
    pub fn hold(&self, workload: &str, lists: &BTreeMap<String, List>, nodes: &BTreeSet<String>) -> Option<String> {
        let of_track = |container: &&ContainerFacts| {
            container
                .policy
                .as_ref()
                .is_some_and(|policy| lists.contains_key(policy))
                || (container.policy.is_none() && (workload.is_empty() || container.workload == workload))
        };
        let containers: Vec<_> = self.containers.iter().filter(of_track).collect();
        if let Some(bare) = containers.iter().find(|container| container.policy.is_none()) {
            return Some(format!("container {} on {} has no policy", bare.id, bare.node));
        }
        for node in nodes {
            let facts = self.nodes.get(node).cloned().unwrap_or_default();
            if !facts.is_connected {
                return Some(format!(
                    "the agent of {node}, which had containers of it, is not connected"
                ));
            }
            if !facts.behind.is_empty() {
                return Some(format!("{node} {}", facts.behind));
            }
            if !facts.missing.is_empty() {
                return Some(format!("{node}: {}", facts.missing));
            }
            if let Some(gap) = self.gaps.get(node) {
                return Some(format!("{node} lost events: {gap}"));
            }
        }
        containers.is_empty().then(|| "no container of it runs".to_owned())
    }

    /// Pods of a track by node.
    pub fn pods<'a>(&'a self, lists: &BTreeMap<String, List>) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let mut pods: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in &self.containers {
            if container
                .policy
                .as_ref()
                .is_some_and(|policy| lists.contains_key(policy))
            {
                pods.entry(&container.node).or_default().insert(&container.pod);
            }
        }
        pods
    }
}

/// What is remembered of a policy's list.
pub fn list_of(policy: &ExecPolicy) -> List {
    let (mut content, mut shape) = (Sha256::new(), Sha256::new());
    let target = &policy.target;
    let head = format!(
        "{:?} {:?} {} {} {} {} {}\n",
        target.workload,
        target.container,
        policy.code_loading,
        policy.fail.unresolved,
        policy.fail.unknown,
        policy.fail.map_full,
        policy.fail.missing,
    );
    content.update(&head);
    let mut shapes: Vec<String> = Vec::new();
    for entry in &policy.entries {
        let mut roles: Vec<_> = entry.roles.iter().map(|role| role.word()).collect();
        roles.sort_unstable();
        let how = format!(
            "{:?} {} {} {:?}",
            entry.path.as_bytes(),
            roles.join(","),
            entry.from,
            entry.applets
        );
        content.update(format!("{how} {:?}\n", entry.sha256.map(|digest| digest.to_string())));
        shapes.push(how);
    }
    for rule in &policy.map {
        let path = rule.path.as_ref().map(|path| path.as_bytes().to_vec());
        content.update(format!(
            "map {path:?} {:?}\n",
            rule.sha256.map(|digest| digest.to_string())
        ));
    }
    shapes.sort();
    shape.update(shapes.join("\n"));
    List {
        image: target.image_digest.map(|digest| digest.to_string()).unwrap_or_default(),
        generation: policy.generation,
        content: hex::encode(content.finalize()),
        shape: hex::encode(shape.finalize()),
    }
}
