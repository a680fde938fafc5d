//! What holds for the containers of each node, as their agents say it. Kept in memory alone: an agent that connects says it anew.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lattice_api::v1::{self as wire, ContainerStatus};

/// Containers that a node may have; an agent's own table has 2,048.
const CONTAINERS_MAXIMUM: usize = 4_096;
/// Containers in one message.
const MESSAGE_CONTAINERS_MAXIMUM: usize = 512;
/// Identifiers in one message.
const MESSAGE_GONE_MAXIMUM: usize = CONTAINERS_MAXIMUM;
/// Bytes of a name, a reference or a digest.
const TEXT_BYTES_MAXIMUM: usize = 1_024;

/// Why a message is refused; nothing of it is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StandingsError {
    /// The message is too long.
    #[error("{field} has {count} elements, more than {maximum}")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        maximum: usize,
    },
    /// The node has too many containers.
    #[error("node {node} would have more than {CONTAINERS_MAXIMUM} containers")]
    Full {
        /// The node.
        node: String,
    },
    /// A text is too long.
    #[error("{field} of a container has {bytes} bytes, more than {TEXT_BYTES_MAXIMUM}")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// A standing without a container.
    #[error("containers has an element without a container")]
    NoContainer,
}

/// All nodes' containers.
#[derive(Debug, Default)]
pub struct Standings {
    nodes: Mutex<BTreeMap<String, BTreeMap<u64, ContainerStatus>>>,
}

impl Standings {
    /// Takes what a node's agent says. The caller has held the names in it against the agent's own.
    ///
    /// # Errors
    /// When a list or a text is too long, or the node has too many containers.
    pub fn take(&self, node: &str, message: wire::Standings) -> Result<(), StandingsError> {
        check(&message)?;
        let mut nodes = self.nodes();
        let mut containers = match (message.clear, nodes.remove(node)) {
            (false, Some(containers)) => containers,
            _ => BTreeMap::new(),
        };
        for cgroup_id in message.gone {
            containers.remove(&cgroup_id);
        }
        let mut result = Ok(());
        for status in message.containers {
            let Some(container) = &status.container else { continue };
            if containers.len() >= CONTAINERS_MAXIMUM && !containers.contains_key(&container.cgroup_id) {
                result = Err(StandingsError::Full { node: node.to_owned() });
                break;
            }
            containers.insert(container.cgroup_id, status);
        }
        nodes.insert(node.to_owned(), containers);
        result
    }

    /// Every container of every node. Of a node that is away it is what was said last.
    pub fn all(&self) -> Vec<ContainerStatus> {
        self.nodes()
            .values()
            .flat_map(|containers| containers.values().cloned())
            .collect()
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<u64, ContainerStatus>>> {
        // A panic while it is held leaves at worst a node out, whose agent says all again when it connects.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(message: &wire::Standings) -> Result<(), StandingsError> {
    for (field, count, maximum) in [
        ("containers", message.containers.len(), MESSAGE_CONTAINERS_MAXIMUM),
        ("gone", message.gone.len(), MESSAGE_GONE_MAXIMUM),
    ] {
        if count > maximum {
            return Err(StandingsError::TooMany { field, count, maximum });
        }
    }
    message.containers.iter().try_for_each(check_texts)
}

fn check_texts(status: &ContainerStatus) -> Result<(), StandingsError> {
    let container = status.container.as_ref().ok_or(StandingsError::NoContainer)?;
    let policy = status.policy.as_ref();
    let texts = [
        ("container_id", container.container_id.as_str()),
        ("namespace", &container.namespace),
        ("pod", &container.pod),
        ("workload", &container.workload),
        ("name", &container.name),
        ("service_account", &container.service_account),
        ("image_reference", &container.image_reference),
        ("image_digest", &container.image_digest),
        ("policy.namespace", policy.map_or("", |policy| &policy.namespace)),
        ("policy.name", policy.map_or("", |policy| &policy.name)),
        (
            "policy.matched_entry",
            policy.map_or("", |policy| &policy.matched_entry),
        ),
        ("mode", &status.mode),
        ("mode_source", &status.mode_source),
    ];
    match texts.iter().find(|(_, text)| text.len() > TEXT_BYTES_MAXIMUM) {
        Some((field, text)) => Err(StandingsError::TooLong {
            field,
            bytes: text.len(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(cgroup_id: u64, mode: &str) -> ContainerStatus {
        ContainerStatus {
            container: Some(wire::Container {
                cgroup_id,
                ..Default::default()
            }),
            mode: mode.to_owned(),
            ..Default::default()
        }
    }

    fn message(clear: bool, containers: &[(u64, &str)], gone: &[u64]) -> wire::Standings {
        wire::Standings {
            clear,
            containers: containers.iter().map(|(id, mode)| status(*id, mode)).collect(),
            gone: gone.to_vec(),
        }
    }

    fn known(standings: &Standings) -> Vec<(u64, String)> {
        let all = standings.all().into_iter();
        all.map(|status| (status.container.map_or(0, |container| container.cgroup_id), status.mode))
            .collect()
    }

    #[test]
    fn a_stream_begins_anew_and_goes_on_with_differences() {
        let standings = Standings::default();
        let take = |node, message| standings.take(node, message).unwrap();
        take("a", message(true, &[(1, "monitor"), (2, "monitor")], &[]));
        take("b", message(true, &[(1, "deny")], &[]));
        take("a", message(false, &[(2, "enforce"), (3, "monitor")], &[1, 99]));
        let expected = [(2, "enforce"), (3, "monitor"), (1, "deny")].map(|(id, mode)| (id, mode.to_owned()));
        assert_eq!(known(&standings), expected);
        take("a", message(true, &[], &[]));
        assert_eq!(known(&standings), [(1, "deny".to_owned())]);
    }

    #[test]
    fn what_an_agent_says_is_capped() {
        let standings = Standings::default();
        let many: Vec<(u64, &str)> = (0..=512).map(|id| (id, "deny")).collect();
        let error = standings.take("a", message(true, &many, &[])).unwrap_err();
        assert_eq!(error.to_string(), "containers has 513 elements, more than 512");
        assert!(known(&standings).is_empty());
        let mut long = message(true, &[(1, "deny")], &[]);
        long.containers[0].mode = "x".repeat(1_025);
        let error = standings.take("a", long).unwrap_err();
        assert_eq!(error.to_string(), "mode of a container has 1025 bytes, more than 1024");
        let nameless = wire::Standings {
            containers: vec![ContainerStatus::default()],
            ..Default::default()
        };
        assert_eq!(standings.take("a", nameless), Err(StandingsError::NoContainer));
        for batch in 0..8 {
            let full: Vec<(u64, &str)> = (batch * 512..(batch + 1) * 512).map(|id| (id, "deny")).collect();
            standings.take("a", message(false, &full, &[])).unwrap();
        }
        // What is known can change; what is new has no room.
        standings.take("a", message(false, &[(0, "monitor")], &[])).unwrap();
        let error = standings
            .take("a", message(false, &[(9_999, "deny")], &[]))
            .unwrap_err();
        assert_eq!(error.to_string(), "node a would have more than 4096 containers");
        assert_eq!(known(&standings).len(), 4_096);
    }
}
