//! What the guest part of the benchmark tells the host part: one line of JSON a measurement. Both include this file, so
//! that there is one definition and the host part needs none of the guest's dependencies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Begins a line that carries a measurement; all other lines are for people.
pub(crate) const LINE_PREFIX: &str = "measurement ";

/// One measured situation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The requirement: P1, P2, P3 or N6.
    pub(crate) requirement: String,
    /// What was measured, in a few words.
    pub(crate) case: String,
    /// Entries of the measured container's policy.
    pub(crate) entries: u32,
    /// Containers that the agent knew, each with a policy of its own.
    pub(crate) containers: u32,
    /// Figures by name; the name ends in the unit.
    pub(crate) values: BTreeMap<String, f64>,
    /// What each BPF program took, for one exec.
    pub(crate) programs: BTreeMap<String, ProgramCost>,
    /// What a reader must know besides.
    pub(crate) note: String,
}

/// One BPF program's part in one exec.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct ProgramCost {
    /// How often it ran.
    pub(crate) runs: f64,
    /// Instructions in all its runs together; nanoseconds where the clock is a real one.
    pub(crate) instructions: f64,
}
