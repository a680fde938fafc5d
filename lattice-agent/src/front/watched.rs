//! Which roots are watched, for which cgroups.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

#[derive(Debug)]
struct Root {
    /// Where it was found last.
    path: PathBuf,
    cgroup_ids: BTreeSet<u64>,
}

/// By device, as the kernel counts it.
#[derive(Debug, Default)]
pub(super) struct Watched {
    roots: RwLock<BTreeMap<u32, Root>>,
}

impl Watched {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<u32, Root>> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Root>> {
        self.roots.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn contains(&self, device: u32) -> bool {
        self.read().contains_key(&device)
    }

    /// Adds a root, and takes it back where `mark` fails and it was not there before.
    pub(super) fn add<E>(
        &self,
        device: u32,
        path: &Path,
        cgroup_id: u64,
        mark: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let was_there = {
            let mut roots = self.write();
            let was_there = roots.contains_key(&device);
            let root = roots.entry(device).or_insert_with(|| Root {
                path: PathBuf::new(),
                cgroup_ids: BTreeSet::new(),
            });
            root.path = path.to_path_buf();
            root.cgroup_ids.insert(cgroup_id);
            was_there
        };
        // Not under the lock, which judging takes.
        mark().inspect_err(|_| {
            if !was_there {
                self.write().remove(&device);
            }
        })
    }

    /// Removes a cgroup; calls `unmark` where it was the root's last.
    pub(super) fn remove<E>(
        &self,
        device: u32,
        cgroup_id: u64,
        unmark: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let removed = {
            let mut roots = self.write();
            let Some(root) = roots.get_mut(&device) else {
                return Ok(());
            };
            if !root.cgroup_ids.remove(&cgroup_id) || !root.cgroup_ids.is_empty() {
                return Ok(());
            }
            roots.remove(&device)
        };
        removed.map_or(Ok(()), |root| unmark(&root.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_unmarked_with_its_last_cgroup_only() {
        let watched = Watched::default();
        let add = |cgroup_id, path: &str| {
            watched
                .add(52, Path::new(path), cgroup_id, || Ok::<(), ()>(()))
                .unwrap()
        };
        let mut unmarked = Vec::new();
        let mut remove = |cgroup_id| {
            watched
                .remove(52, cgroup_id, |path| {
                    unmarked.push(path.to_path_buf());
                    Ok::<(), ()>(())
                })
                .unwrap();
            unmarked.len()
        };
        add(1, "/proc/1/root");
        // The device went from a container that ended to the next before the first one was forgotten.
        add(2, "/proc/2/root");
        assert_eq!(remove(1), 0);
        assert!(watched.contains(52));
        assert_eq!(remove(1), 0);
        assert_eq!(remove(3), 0);
        assert_eq!(remove(2), 1);
        assert!(!watched.contains(52));
        assert_eq!(unmarked, [PathBuf::from("/proc/2/root")]);
    }

    #[test]
    fn a_root_that_could_not_be_marked_is_not_kept() {
        let watched = Watched::default();
        assert_eq!(watched.add(52, Path::new("/x"), 1, || Err("refused")), Err("refused"));
        assert!(!watched.contains(52));
    }
}
