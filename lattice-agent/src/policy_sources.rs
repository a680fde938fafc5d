//! Where policies come from, put together: central, files, and the modes that were set at the agent itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use lattice_policy::{ExecPolicy, Mode};

use crate::{state::Shared, uplink::PolicySink};

#[derive(Default)]
struct Told {
    files: Vec<ExecPolicy>,
    central: Vec<ExecPolicy>,
    modes: BTreeMap<String, Mode>,
}

/// All sources, and where they go.
pub struct PolicySources {
    state: Arc<Shared>,
    told: Mutex<Told>,
}

impl PolicySources {
    /// Nothing told yet.
    pub fn new(state: Arc<Shared>) -> Self {
        Self {
            state,
            told: Mutex::default(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Told)) -> Result<(), String> {
        // Held over the change and what follows from it, so that two sources do not overtake each other.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut told);
        let mut policies: BTreeMap<(String, String), ExecPolicy> = BTreeMap::new();
        // Central's word wins over a file's of the same name.
        for policy in told.files.iter().chain(&told.central) {
            policies.insert((policy.namespace.clone(), policy.name.clone()), policy.clone());
        }
        self.state.apply(policies.into_values().collect(), told.modes.clone())
    }

    /// The files' policies, all of them.
    ///
    /// # Errors
    /// What was not put in force, and why; the rest is.
    pub fn set_files(&self, policies: Vec<ExecPolicy>) -> Result<(), String> {
        self.change(|told| told.files = policies)
    }

    /// The modes that hold by namespace, all of them.
    ///
    /// # Errors
    /// What was not put in force, and why; the rest is.
    pub fn set_modes(&self, modes: BTreeMap<String, Mode>) -> Result<(), String> {
        self.change(|told| told.modes = modes)
    }
}

impl PolicySink for PolicySources {
    fn apply(&self, policies: Vec<ExecPolicy>, namespace_modes: BTreeMap<String, Mode>) -> Result<(), String> {
        self.change(|told| {
            told.central = policies;
            told.modes = namespace_modes;
        })
    }
}
