//! The objects that users write, read from a directory or from an API server, and watched: the last good state is what holds.
//!
//! ```text
//!   DIR/*.yaml, *.yml, *.json ──► files (each: last good objects, or why not) ──┐
//!   DIR/*.cedar, CedarPolicy ─► gate (the last good set) ───────────────────────┼──► ObjectSet ──► reconciler
//!   inotify, and every few seconds ─► scan                                      │
//!   TrustPolicy + Secret ──────► trust ◄────────────────────────────────────────┘
//! ```
//!
//! A file counts as a whole: where one document in it is wrong, nothing of its new content does, and what the file said
//! before stays, through a restart too. A file that is gone takes its objects along.

use std::{collections::BTreeMap, sync::Arc};

use lattice_api::object::{LatticeRollout, LatticeService};
use lattice_policy::ExecPolicy;

use crate::{board::Key, gate::Gate};

mod cluster;
mod directory;
mod gates;
mod last_good;
mod parts;
mod trust;
mod watcher;

pub use cluster::{ClusterError, ClusterSource};
pub use directory::DirectoryReader;
pub use trust::Trust;
pub use watcher::watch;

/// Everything that users wrote, as far as it is good.
#[derive(Debug, Clone, Default)]
pub struct ObjectSet {
    /// Services, by namespace and name.
    pub services: BTreeMap<Key, Arc<LatticeService>>,
    /// ExecPolicy documents, which are served as they are.
    pub documents: BTreeMap<Key, ExecPolicy>,
    /// Rollouts, by namespace.
    pub rollouts: BTreeMap<String, Arc<LatticeRollout>>,
    /// Whose signatures count, by registry.
    pub trust: Arc<Trust>,
    /// The Cedar policies.
    pub gate: Arc<Gate>,
    /// What is wrong, by file or object; each with line and field.
    pub problems: BTreeMap<String, Vec<String>>,
    /// What each service stands in: a file, or itself as an object.
    pub files: BTreeMap<Key, String>,
    /// `metadata.uid` of each service that is an object of a cluster.
    pub uids: BTreeMap<Key, String>,
}

fn log_problems(set: &ObjectSet, before: Option<&ObjectSet>) {
    for (file, problems) in &set.problems {
        if before.is_some_and(|before| before.problems.get(file) == Some(problems)) {
            continue;
        }
        for problem in problems {
            tracing::error!(origin = %file, "{problem} (what was said here before, if it ever was good, stays in force)");
        }
    }
    for (registry, problems) in &set.trust.problems {
        if before.is_some_and(|before| before.trust.problems.get(registry) == Some(problems)) {
            continue;
        }
        for problem in problems {
            tracing::error!(%registry, "{problem}");
        }
    }
}
