//! Where a rollout is: what is kept over a restart, as one document.

use std::collections::{BTreeMap, BTreeSet};

use lattice_policy::Mode;
use serde::{Deserialize, Serialize};

use super::{breaker::BreakerState, clock::BurnInClock, gate::Approvals, miss::Misses};

/// A time: nanoseconds since the Unix epoch.
pub type UnixNanos = u64;

/// A rollout's state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutState {
    /// The events that were looked at, up to this place in the store.
    pub cursor: i64,
    /// Who stopped it, apart from the document.
    pub paused: Option<Decided>,
    /// By workload; of policies for all workloads, under the empty name.
    pub tracks: BTreeMap<String, Track>,
}

/// Who decided something, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// When.
    pub time: UnixNanos,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// One workload on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Track {
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    pub since: UnixNanos,
    /// Its policies by name, as they were when the evidence was gathered.
    pub lists: BTreeMap<String, List>,
    /// Since when it has no policy; `None` where it has.
    pub absent_since: Option<UnixNanos>,
    /// Nodes that have containers of it. One that is away stays, since its containers may go on.
    pub nodes: BTreeSet<String>,
    /// How long it was looked at.
    pub clock: BurnInClock,
    /// What the lists did not name, and started or tried to.
    pub misses: Misses,
    /// Who agreed.
    pub approvals: Approvals,
    /// What may take it back.
    pub breaker: BreakerState,
}

/// What is remembered of a policy's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Of the image that it is for; empty where it is for all.
    pub image: String,
    /// Rises with each change.
    pub generation: u64,
    /// SHA-256 over all that it says, but its mode.
    pub content: String,
    /// SHA-256 over the paths, and how each may start, without their bytes: a rebuilt image has the same.
    pub shape: String,
}

/// How far a track is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Phase {
    /// Looked at.
    Monitoring,
    /// Looked at for long enough; people are asked.
    AwaitingApproval {
        /// Hash of what they are asked about.
        gate: String,
    },
    /// Enforced on some nodes.
    Canary {
        /// Which step, from 0.
        step: usize,
        /// For how long the step was looked at, in nanoseconds.
        held: u64,
        /// Where it is enforced.
        nodes: BTreeSet<String>,
    },
    /// Enforced.
    Enforced,
    /// Taken back.
    RolledBack {
        /// Monitoring begins anew then; `None` where a person must say so.
        until: Option<UnixNanos>,
        /// Why.
        reason: String,
    },
}

impl Phase {
    /// Every phase's word.
    pub const WORDS: [&str; 5] = ["Monitoring", "AwaitingApproval", "Canary", "Enforced", "RolledBack"];

    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Monitoring => "Monitoring",
            Self::AwaitingApproval { .. } => "AwaitingApproval",
            Self::Canary { .. } => "Canary",
            Self::Enforced => "Enforced",
            Self::RolledBack { .. } => "RolledBack",
        }
    }

    /// Where the track's policies are enforced.
    pub fn reach(&self) -> Reach {
        match self {
            Self::Canary { nodes, .. } => Reach::Nodes(nodes.clone()),
            Self::Enforced => Reach::Everywhere,
            Self::Monitoring | Self::AwaitingApproval { .. } | Self::RolledBack { .. } => Reach::Nowhere,
        }
    }
}

/// Where a policy is enforced; elsewhere it monitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// On no node.
    Nowhere,
    /// On these.
    Nodes(BTreeSet<String>),
    /// On every node.
    Everywhere,
}

impl Reach {
    /// The mode that a policy has on a node. One that says `deny` for itself refuses by that.
    pub fn mode(&self, node: &str, own: Mode) -> Mode {
        match self {
            Self::Nodes(nodes) if nodes.contains(node) => Self::Everywhere.mode_elsewhere(own),
            _ => self.mode_elsewhere(own),
        }
    }

    /// The mode that it has on a node that is no canary.
    pub fn mode_elsewhere(&self, own: Mode) -> Mode {
        let is_enforced = matches!(self, Self::Everywhere);
        match (is_enforced, own) {
            (false, _) => Mode::Monitor,
            (true, Mode::Deny) => Mode::Deny,
            (true, _) => Mode::Enforce,
        }
    }
}

/// A policy that a rollout decides the mode of: where it is enforced, and the list that this is said of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Governed {
    /// The list.
    pub list: List,
    /// Where.
    pub reach: Reach,
}

impl List {
    /// Whether what was seen of an earlier list holds for this one: of the same image it is what the specification says now; another image
    /// must have the same programs in the same places.
    pub fn continues(&self, before: &Self) -> bool {
        before.image == self.image || before.shape == self.shape
    }
}

impl RolloutState {
    /// One that looks at what happens after this place in the store.
    pub fn from_now_on(cursor: i64) -> Self {
        Self {
            cursor,
            ..Self::default()
        }
    }

    /// Where each policy is enforced, by its name.
    pub fn governed(&self) -> BTreeMap<String, Governed> {
        let mut governed = BTreeMap::new();
        for track in self.tracks.values() {
            for (name, list) in &track.lists {
                let (list, reach) = (list.clone(), track.phase.reach());
                governed.insert(name.clone(), Governed { list, reach });
            }
        }
        governed
    }

    /// The state as it is kept.
    pub fn encode(&self) -> Vec<u8> {
        // Maps of strings, numbers and texts: there is no value in it that JSON lacks.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From what was kept.
    ///
    /// # Errors
    /// When it is not a state, or one of another release.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// What happened to a track, for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transition {
    /// The workload; empty where all are meant.
    pub workload: String,
    /// The phase before; empty where there was none.
    pub from: String,
    /// The phase after.
    pub to: String,
    /// Who did it: an operator, `lattice-central`, or the document.
    pub by: String,
    /// Why.
    pub reason: String,
    /// SHA-256 over what was known then.
    pub evidence: String,
}
