//! From what central has to what the machine goes by: events by cursor, standings, nodes, what is published.

use std::{collections::BTreeMap, time::Duration};

use lattice_api::v1::{self as wire, event::Kind};
use prost::Message as _;

use super::{
    evidence::{ContainerFacts, Evidence, NodeFacts, ViolationFacts},
    sequences::Sequences,
    state::UnixNanos,
};
use crate::{
    server::Shared,
    store::{Store, StoreError},
};

/// Events that are read from the store at a time.
const EVENTS_AT_A_TIME: u32 = 1_024;
/// Bytes of a path that are kept for review.
const PATH_BYTES_MAXIMUM: usize = 1_024;
/// What is refused or noted whatever a list says: no list can be wrong about it.
const NOT_OF_A_LIST: [&str; 11] = [
    "mapped-anonymous",
    "granted",
    "bpf",
    "signal",
    "trace",
    "pins",
    "missing",
    "unknown",
    "unknown-open",
    "pending",
    "pending-open",
];

/// What happened, in the order in which it was committed.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// With its place in the store, and its namespace.
    violations: Vec<(i64, String, ViolationFacts)>,
    /// With its place in the store: node, and what was lost.
    gaps: Vec<(i64, String, String)>,
}

/// Reads the events.
#[derive(Debug, Default)]
pub(super) struct Observer {
    sequences: Sequences,
    /// The last event that was read.
    cursor: i64,
}

impl Observer {
    /// Begins after this place in the store.
    pub(super) fn after(cursor: i64) -> Self {
        Self {
            sequences: Sequences::default(),
            cursor,
        }
    }

    /// The last event that was read.
    pub(super) fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Goes back, to read again what could not be kept.
    pub(super) fn go_back(&mut self, cursor: i64) {
        self.cursor = self.cursor.min(cursor);
    }

    /// Reads what was committed since.
    ///
    /// # Errors
    /// When the store cannot be read; what was read before counts, and is read again.
    pub(super) async fn read(&mut self, store: &Store) -> Result<Seen, StoreError> {
        let mut seen = Seen::default();
        let mut cursor = self.cursor;
        loop {
            let events = store.events_after(cursor, None, EVENTS_AT_A_TIME).await?;
            let Some(last) = events.last() else { break };
            for stored in &events {
                match wire::Event::decode(stored.event.as_slice()) {
                    Ok(event) => self.take(stored.cursor, event, &mut seen),
                    Err(error) => tracing::error!(cursor = stored.cursor, %error, "a stored event cannot be read"),
                }
            }
            cursor = last.cursor;
        }
        self.cursor = cursor;
        Ok(seen)
    }

    fn take(&mut self, cursor: i64, event: wire::Event, seen: &mut Seen) {
        let (node, boot_id) = (&event.node, &event.boot_id);
        match event.kind {
            Some(Kind::Violation(violation)) => {
                self.sequences.take(node, boot_id, event.sequence, event.sequence);
                if let Some(namespace) = namespace_of(&violation) {
                    let facts = violation_facts(&event.node, event.time_unix_nanos, violation);
                    seen.violations.push((cursor, namespace, facts));
                }
            }
            Some(Kind::Gap(gap)) => {
                if gap.ranges.is_empty() {
                    self.sequences
                        .take(node, boot_id, gap.first_sequence, gap.last_sequence);
                }
                for range in &gap.ranges {
                    self.sequences.take(node, boot_id, range.first, range.last);
                }
                let text = format!("{}–{} ({})", gap.first_sequence, gap.last_sequence, gap.cause);
                seen.gaps.push((cursor, event.node, text));
            }
            Some(Kind::Notice(_)) | None => self.sequences.take(node, boot_id, event.sequence, event.sequence),
        }
    }

    /// What is known of a namespace now, and happened in it after a place in the store.
    pub(super) fn evidence(
        &self,
        shared: &Shared,
        namespace: &str,
        seen: &Seen,
        after: i64,
        covers: Duration,
    ) -> Evidence {
        let published = shared.board.policies().borrow().clone();
        let nodes = shared.nodes.all().into_iter().map(|(name, node)| {
            let behind = match (node.apply_error.as_str(), node.applied_revision) {
                ("", applied) if applied >= published.revision => String::new(),
                ("", applied) => format!("has applied revision {applied}, and {} holds", published.revision),
                (error, _) => format!("could not apply what holds: {error}"),
            };
            let facts = NodeFacts {
                is_connected: node.connected,
                behind,
                missing: self.sequences.missing(&name),
            };
            (name, facts)
        });
        let violations = seen.violations.iter();
        let violations = violations.filter(|(cursor, of, _)| *cursor > after && of == namespace);
        let gaps = seen.gaps.iter().filter(|(cursor, ..)| *cursor > after);
        Evidence {
            covers,
            cursor: self.cursor,
            policies: published.facts(namespace),
            containers: containers(shared, namespace),
            nodes: nodes.collect(),
            violations: violations.map(|(_, _, facts)| facts.clone()).collect(),
            gaps: gaps.map(|(_, node, text)| (node.clone(), text.clone())).collect(),
            forbidden: BTreeMap::new(),
        }
    }
}

/// The namespace in which a list may be wrong; `None` where no list can be.
pub(super) fn namespace_of(violation: &wire::Violation) -> Option<String> {
    let namespace = &violation.container.as_ref()?.namespace;
    let is_of_a_list = !namespace.is_empty() && !NOT_OF_A_LIST.contains(&violation.reason.as_str());
    is_of_a_list.then(|| namespace.clone())
}

fn containers(shared: &Shared, namespace: &str) -> Vec<ContainerFacts> {
    let of_namespace = |status: wire::ContainerStatus| {
        let container = status.container.filter(|container| container.namespace == namespace)?;
        Some(ContainerFacts {
            node: status.node,
            pod: pod(&container),
            id: container_id(&container),
            workload: container.workload,
            policy: status.policy.map(|policy| policy.name).filter(|name| !name.is_empty()),
        })
    };
    shared.standings.all().into_iter().filter_map(of_namespace).collect()
}

pub(super) fn container_id(container: &wire::Container) -> String {
    match container.container_id.as_str() {
        "" => format!("cgroup-{}", container.cgroup_id),
        id => id.to_owned(),
    }
}

pub(super) fn pod(container: &wire::Container) -> String {
    match container.pod.as_str() {
        "" => container_id(container),
        pod => pod.to_owned(),
    }
}

pub(super) fn violation_facts(node: &str, time: UnixNanos, violation: wire::Violation) -> ViolationFacts {
    let container = violation.container.unwrap_or_default();
    let policy = violation.policy.unwrap_or_default();
    // Tier 2 has no resolved path for every file; what was passed is the nearest there is.
    let path = match violation.path.is_empty() {
        true => &violation.path_as_passed,
        false => &violation.path,
    };
    let cut = &path[..path.len().min(PATH_BYTES_MAXIMUM)];
    ViolationFacts {
        node: node.to_owned(),
        container: container_id(&container),
        pod: pod(&container),
        workload: container.workload,
        policy: policy.name,
        generation: policy.generation,
        path: String::from_utf8_lossy(cut).into_owned(),
        sha256: hex::encode(&violation.sha256),
        size_bytes: violation.size_bytes,
        role: violation.role,
        origin: violation.origin,
        reason: violation.reason,
        drift: violation.drift,
        is_refused: violation.effective_action != "none",
        count: violation.count.max(1),
        time,
    }
}
