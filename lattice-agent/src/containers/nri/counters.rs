//! What the plugin counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the agent's start, by documented name.
#[derive(Debug, Default)]
pub struct Counters {
    connected: AtomicU64,
    disconnected: AtomicU64,
    guarded: AtomicU64,
    late: AtomicU64,
    unresolved: AtomicU64,
    refused_calls: AtomicU64,
}

/// How a container's start was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The maps were filled before.
    Guarded,
    /// They were not yet, when the time was up.
    Late,
    /// They could not be.
    Unresolved,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn connected(&self) {
        add(&self.connected);
    }

    pub(super) fn disconnected(&self) {
        add(&self.disconnected);
    }

    pub(super) fn start(&self, outcome: Outcome) {
        add(match outcome {
            Outcome::Guarded => &self.guarded,
            Outcome::Late => &self.late,
            Outcome::Unresolved => &self.unresolved,
        });
    }

    pub(super) fn refused_call(&self) {
        add(&self.refused_calls);
    }

    /// Each counter's name and value.
    pub fn all(&self) -> [(&'static str, u64); 6] {
        [
            ("lattice_nri_registrations_total", &self.connected),
            ("lattice_nri_disconnections_total", &self.disconnected),
            ("lattice_nri_starts_total{outcome=\"guarded\"}", &self.guarded),
            ("lattice_nri_starts_total{outcome=\"late\"}", &self.late),
            ("lattice_nri_starts_total{outcome=\"unresolved\"}", &self.unresolved),
            ("lattice_nri_calls_not_understood_total", &self.refused_calls),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}
