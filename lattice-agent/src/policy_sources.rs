//! Where policies come from, put together: central, files, and the modes that were set at the agent itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lattice_policy::{ExecPolicy, Mode};

use crate::{
    kernel::heap,
    state::Shared,
    uplink::{PolicySink, denylist::CentralDenylist},
};

#[derive(Default)]
struct Told {
    files: Vec<Arc<ExecPolicy>>,
    central: Vec<Arc<ExecPolicy>>,
    /// Whether central, or what was kept from it, has said anything.
    has_central: bool,
    modes: BTreeMap<String, Mode>,
}

/// All sources, and where they go.
pub struct PolicySources {
    state: Arc<Shared>,
    told: Mutex<Told>,
    broken_files: AtomicU64,
    /// What may have held before this start and is not known now, a sentence each.
    unknown: Mutex<BTreeMap<Unknown, String>>,
}

/// A source of which something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unknown {
    /// Policy files that are broken, and of which nothing good was kept.
    Files,
    /// Central has said nothing yet, and nothing that it said before is to be had.
    Central,
    /// The modes that were set at this agent are damaged.
    Modes,
}

impl PolicySources {
    /// Nothing told yet.
    pub fn new(state: Arc<Shared>) -> Self {
        Self {
            state,
            told: Mutex::default(),
            broken_files: AtomicU64::new(0),
            unknown: Mutex::default(),
        }
    }

    /// Says that something of a source is not known, and why; or, with `None`, that all is. While anything is not, containers that were
    /// enforced before this start stay exactly as they were. Told before the policies that go with it: that all is known comes into force
    /// with those, since a moment in between would take what holds for what nobody claims.
    pub fn note_unknown(&self, source: Unknown, why: Option<String>) {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => unknown.insert(source, why),
            None => unknown.remove(&source),
        };
        if !unknown.is_empty() {
            self.state.enforcement().set_incomplete();
        }
    }

    /// Whether something of this source is not known.
    pub fn is_unknown(&self, source: Unknown) -> bool {
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.contains_key(&source)
    }

    /// What is not known, a sentence each.
    pub fn unknown(&self) -> BTreeMap<Unknown, String> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether central has said what holds, now or before a restart.
    pub fn has_central(&self) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).has_central
    }

    /// Policy files that cannot be understood as they are now.
    pub fn broken_files(&self) -> u64 {
        self.broken_files.load(Ordering::Relaxed)
    }

    /// Notes how many policy files cannot be understood.
    pub fn note_broken_files(&self, count: usize) {
        self.broken_files.store(count as u64, Ordering::Relaxed);
    }

    fn change(&self, change: impl FnOnce(&mut Told)) -> Result<(), String> {
        // Held over the change and what follows from it, so that two sources do not overtake each other.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut told);
        let mut policies: BTreeMap<(&str, &str), Arc<ExecPolicy>> = BTreeMap::new();
        // Central's word wins over a file's of the same name.
        for policy in told.files.iter().chain(&told.central) {
            policies.insert((&policy.namespace, &policy.name), Arc::clone(policy));
        }
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        self.state
            .apply(policies.into_values().collect(), told.modes.clone(), unknown.is_empty())
    }

    /// The files' policies, all of them.
    ///
    /// # Errors
    /// What was not put in force, and why; the rest is.
    pub fn set_files(&self, policies: Vec<Arc<ExecPolicy>>) -> Result<(), String> {
        let changed = self.change(|told| told.files = policies);
        heap::give_back();
        changed
    }

    /// The modes that hold by namespace, all of them.
    ///
    /// # Errors
    /// What was not put in force, and why; the rest is.
    pub fn set_modes(&self, modes: BTreeMap<String, Mode>) -> Result<(), String> {
        self.note_unknown(Unknown::Modes, None);
        self.change(|told| told.modes = modes)
    }
}

impl PolicySink for PolicySources {
    fn apply(&self, policies: Vec<ExecPolicy>, namespace_modes: BTreeMap<String, Mode>) -> Result<(), String> {
        self.note_unknown(Unknown::Central, None);
        let changed = self.change(|told| {
            told.central = policies.into_iter().map(Arc::new).collect();
            told.modes = namespace_modes;
            told.has_central = true;
        });
        heap::give_back();
        changed
    }

    fn deny(&self, list: CentralDenylist) -> Result<(), String> {
        match self.state.denials() {
            Some(denials) => denials.set_central(&self.state, list),
            None => Err("the agent is still starting".into()),
        }
    }
}
