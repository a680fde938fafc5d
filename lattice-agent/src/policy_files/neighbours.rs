//! Which files could hold a policy that conflicts with one of another file, without a look at all of them.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use super::FilePolicy;

/// The files by the namespaces of their policies. Two policies for Tetragon conflict, or one with an ExecPolicy; two ExecPolicies do not.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    all: HashMap<String, BTreeSet<PathBuf>>,
    tracing: HashMap<String, BTreeSet<PathBuf>>,
}

impl Neighbours {
    pub(super) fn add(&mut self, path: &Path, policies: &[FilePolicy]) {
        for listed in policies {
            let namespace = &listed.policy.namespace;
            let maps = [Some(&mut self.all), listed.is_tracing.then_some(&mut self.tracing)];
            for map in maps.into_iter().flatten() {
                map.entry(namespace.clone()).or_default().insert(path.to_path_buf());
            }
        }
    }

    pub(super) fn remove(&mut self, path: &Path, policies: &[FilePolicy]) {
        for listed in policies {
            for map in [&mut self.all, &mut self.tracing] {
                if let Some(paths) = map.get_mut(&listed.policy.namespace) {
                    paths.remove(path);
                    if paths.is_empty() {
                        map.remove(&listed.policy.namespace);
                    }
                }
            }
        }
    }

    /// The files that these policies may conflict with, in the order of their names.
    pub(super) fn of(&self, policies: &[FilePolicy]) -> BTreeSet<&Path> {
        policies
            .iter()
            .filter_map(|listed| {
                let map = if listed.is_tracing { &self.all } else { &self.tracing };
                map.get(&listed.policy.namespace)
            })
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }
}
