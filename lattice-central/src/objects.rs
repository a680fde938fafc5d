//! The objects that users write, read from a directory and watched: the last good state is what holds.
//!
//! ```text
//!   DIR/*.yaml, *.yml, *.json ──► files (each: last good objects, or why not) ──┐
//!   DIR/*.cedar ──────────────► gate (the last good set) ───────────────────────┼──► ObjectSet ──► reconciler
//!   inotify, and every few seconds ─► scan                                      │
//!   TrustPolicy + Secret ──────► trust ◄────────────────────────────────────────┘
//! ```
//!
//! A file counts as a whole: where one document in it is wrong, nothing of its new content does, and what the file said
//! before stays, through a restart too. A file that is gone takes its objects along.

use std::{collections::BTreeMap, sync::Arc};

use lattice_api::object::LatticeService;
use lattice_policy::ExecPolicy;

use crate::{board::Key, gate::Gate};

mod directory;
mod last_good;
mod trust;
mod watcher;

pub use directory::DirectoryReader;
pub use trust::Trust;
pub use watcher::watch;

/// Everything that the directory says, as far as it is good.
#[derive(Debug, Clone)]
pub struct ObjectSet {
    /// Services, by namespace and name.
    pub services: BTreeMap<Key, Arc<LatticeService>>,
    /// ExecPolicy documents, which are served as they are.
    pub documents: BTreeMap<Key, ExecPolicy>,
    /// Whose signatures count, by registry.
    pub trust: Arc<Trust>,
    /// The Cedar policies.
    pub gate: Arc<Gate>,
    /// What is wrong, by file; each with line and field.
    pub problems: BTreeMap<String, Vec<String>>,
    /// The file that each service stands in.
    pub files: BTreeMap<Key, String>,
}
