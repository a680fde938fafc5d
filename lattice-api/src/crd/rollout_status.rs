//! What Lattice says of a rollout: how far each workload is, and what it waits for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// Workloads that are shown one by one.
pub const WORKLOADS_SHOWN_MAXIMUM: usize = 100;

/// How far the rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// The generation of the object that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<u64>,
    /// The phase of the workload that is least far; RolledBack where one is.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["Pending", "Monitoring", "AwaitingApproval", "Canary", "Enforced", "RolledBack"]))]
    pub phase: String,
    /// What it waits for, in a sentence; absent where it is where it was to be taken.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1_024))]
    pub waiting_for: String,
    /// How many workloads are in which phase.
    pub workloads: WorkloadCounts,
    /// Programs that no list names and nobody has reviewed: `latticectl rollout misses` shows them.
    pub open_misses: u64,
    /// Each workload; of more than 100, those that are least far. Clocks are brought up to date a hundred times in all, and not every second.
    #[schemars(length(max = 100))]
    pub tracks: Vec<TrackStatus>,
    /// Conditions: EvidenceComplete, GateSatisfied, Approved, Progressing, Degraded, Ready.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How many workloads are in which phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadCounts {
    /// All that have a policy.
    pub total: u64,
    /// Looked at.
    pub monitoring: u64,
    /// Looked at for long enough; people are asked.
    pub awaiting_approval: u64,
    /// Enforced on some nodes.
    pub canary: u64,
    /// Enforced.
    pub enforced: u64,
    /// Taken back.
    pub rolled_back: u64,
}

/// How far one workload is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackStatus {
    /// The workload; empty for the policies that are for all.
    pub workload: String,
    /// Its phase.
    pub phase: String,
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// Time of which everything was known, of the time that it takes.
    pub clock: String,
    /// The part of it since the last miss, of the time that it takes.
    pub quiet: String,
    /// Programs that nobody has reviewed.
    pub open_misses: u64,
    /// Operators who approved, of those that it takes; absent where nobody is asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub approvals: String,
    /// The first digits of the gate that they are asked about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gate: String,
    /// The canary step, of all steps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// On how many nodes the canary step enforces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_nodes: Option<u64>,
    /// What it waits for; absent where it is where it was to be taken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1_024))]
    pub waiting_for: String,
}
