//! What the enforcement needs of the kernel's maps, as a trait: the logic above it is tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use lattice_common::abi::{
    AppletKey, CgroupEntry, Container, DigestWords, EntryKey, EntryRule, Namespace, NodeConfig, PATH_KEY_BYTES,
    PathKey, Policy, SizeKey, Started, TaskState,
};

use super::compile::EntrySet;
use crate::kernel::maps::Maps;

/// Why a map could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The map has no room.
    #[error("kernel map {map} is full; raise {}", size_flag(map))]
    Full {
        /// Which map.
        map: &'static str,
    },
    /// A process could not be marked.
    #[error("process {process} could not be marked as the container's")]
    Task {
        /// Which process.
        process: u32,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("the kernel refused to {action} map {map}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Which map.
        map: &'static str,
        /// What it said.
        #[source]
        source: Box<MapError>,
    },
}

/// The option that makes a map larger, from the next load on.
fn size_flag(map: &str) -> &'static str {
    match map {
        "PATHS" => "--max-paths",
        "APPLETS" => "--max-applets",
        "CGROUPS" => "--max-containers",
        "ENTRIES" | "SIZES" => "--max-entries",
        _ => "nothing: its size is fixed",
    }
}

/// The kernel's maps, one method a change.
pub trait Tables {
    /// Puts a container into its slot.
    ///
    /// # Errors
    /// When the slot is out of range or the kernel refuses.
    fn put_container(&mut self, index: u32, container: Container) -> Result<(), TableError>;
    /// A container's slot.
    ///
    /// # Errors
    /// When the slot is out of range or the kernel refuses.
    fn container(&self, index: u32) -> Result<Container, TableError>;
    /// Marks a process that already runs; one that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn put_task(&mut self, process: u32, state: TaskState) -> Result<(), TableError>;
    /// Says that a container's first program has started.
    ///
    /// # Errors
    /// When the slot is out of range or the kernel refuses.
    fn put_started(&mut self, index: u32, started: Started) -> Result<(), TableError>;
    /// All slots in use.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn containers(&self) -> Result<BTreeMap<u32, Container>, TableError>;
    /// Number of slots.
    fn container_slots(&self) -> u32;
    /// Says what a cgroup is.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn put_cgroup(&mut self, cgroup_id: u64, entry: CgroupEntry) -> Result<(), TableError>;
    /// Forgets a cgroup; one that is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_cgroup(&mut self, cgroup_id: u64) -> Result<(), TableError>;
    /// All cgroups.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn cgroups(&self) -> Result<BTreeMap<u64, CgroupEntry>, TableError>;
    /// Puts a policy into its slot: the flip to another set or mode.
    ///
    /// # Errors
    /// When the slot is out of range or the kernel refuses.
    fn put_policy(&mut self, index: u32, policy: Policy) -> Result<(), TableError>;
    /// All slots in use.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn policies(&self) -> Result<BTreeMap<u32, Policy>, TableError>;
    /// Number of slots; slot 0 is never used.
    fn policy_slots(&self) -> u32;
    /// Puts a namespace into its slot: the flip of its mode.
    ///
    /// # Errors
    /// When the slot is out of range or the kernel refuses.
    fn put_namespace(&mut self, index: u32, namespace: Namespace) -> Result<(), TableError>;
    /// Number of slots; slot 0 is never used.
    fn namespace_slots(&self) -> u32;
    /// Loads a set, all or nothing.
    ///
    /// # Errors
    /// When a map is full or the kernel refuses; what was put in is taken out again.
    fn put_set(&mut self, number: u32, set: &EntrySet) -> Result<(), TableError>;
    /// Removes a set.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_set(&mut self, number: u32, set: &EntrySet) -> Result<(), TableError>;
    /// All sets.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn sets(&self) -> Result<BTreeMap<u32, EntrySet>, TableError>;
    /// Puts a digest on the denylist.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    fn put_denied(&mut self, digest: DigestWords) -> Result<(), TableError>;
    /// Takes a digest off the denylist; one that is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_denied(&mut self, digest: DigestWords) -> Result<(), TableError>;
    /// The whole denylist.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn denied(&self) -> Result<BTreeSet<DigestWords>, TableError>;
    /// Changes what holds for the node.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn update_node(&mut self, change: &mut dyn FnMut(&mut NodeConfig)) -> Result<(), TableError>;
}

/// `E2BIG`: a preallocated hash map without a free element.
const E2BIG: i32 = 7;

pub(crate) fn refused(action: &'static str, map: &'static str) -> impl Fn(MapError) -> TableError {
    move |source| match &source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(E2BIG) => TableError::Full { map },
        _ => TableError::Kernel {
            action,
            map,
            source: Box::new(source),
        },
    }
}

pub(crate) fn absent_is_fine(result: Result<(), MapError>, map: &'static str) -> Result<(), TableError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused("remove from", map)(error)),
    }
}

impl Tables for Maps {
    fn put_container(&mut self, index: u32, container: Container) -> Result<(), TableError> {
        self.containers
            .set(index, container, 0)
            .map_err(refused("write", "CONTAINERS"))
    }

    fn container(&self, index: u32) -> Result<Container, TableError> {
        self.containers.get(&index, 0).map_err(refused("read", "CONTAINERS"))
    }

    fn put_task(&mut self, process: u32, state: TaskState) -> Result<(), TableError> {
        self.tasks
            .put(process, &state)
            .map_err(|source| TableError::Task { process, source })
    }

    fn put_started(&mut self, index: u32, started: Started) -> Result<(), TableError> {
        self.started.set(index, started, 0).map_err(refused("write", "STARTED"))
    }

    fn containers(&self) -> Result<BTreeMap<u32, Container>, TableError> {
        (0..self.containers.len())
            .map(|index| Ok((index, Tables::container(self, index)?)))
            .filter(|slot| !matches!(slot, Ok((_, container)) if container.epoch == 0))
            .collect()
    }

    fn container_slots(&self) -> u32 {
        self.containers.len()
    }

    fn put_cgroup(&mut self, cgroup_id: u64, entry: CgroupEntry) -> Result<(), TableError> {
        self.cgroups
            .insert(cgroup_id, entry, 0)
            .map_err(refused("write", "CGROUPS"))
    }

    fn remove_cgroup(&mut self, cgroup_id: u64) -> Result<(), TableError> {
        absent_is_fine(self.cgroups.remove(&cgroup_id), "CGROUPS")
    }

    fn cgroups(&self) -> Result<BTreeMap<u64, CgroupEntry>, TableError> {
        self.cgroups
            .iter()
            .collect::<Result<_, _>>()
            .map_err(refused("read", "CGROUPS"))
    }

    fn put_policy(&mut self, index: u32, policy: Policy) -> Result<(), TableError> {
        self.policies
            .set(index, policy, 0)
            .map_err(refused("write", "POLICIES"))
    }

    fn policies(&self) -> Result<BTreeMap<u32, Policy>, TableError> {
        (0..self.policies.len())
            .map(|index| {
                Ok((
                    index,
                    self.policies.get(&index, 0).map_err(refused("read", "POLICIES"))?,
                ))
            })
            .filter(|slot| !matches!(slot, Ok((_, policy)) if policy.set == 0))
            .collect()
    }

    fn policy_slots(&self) -> u32 {
        self.policies.len()
    }

    fn put_namespace(&mut self, index: u32, namespace: Namespace) -> Result<(), TableError> {
        self.namespaces
            .set(index, namespace, 0)
            .map_err(refused("write", "NAMESPACES"))
    }

    fn namespace_slots(&self) -> u32 {
        self.namespaces.len()
    }

    fn put_set(&mut self, number: u32, set: &EntrySet) -> Result<(), TableError> {
        let result = insert_set(self, number, set);
        if result.is_err() {
            // What of it went in is unreachable, but takes room.
            let _ = self.remove_set(number, set);
        }
        result
    }

    fn remove_set(&mut self, number: u32, set: &EntrySet) -> Result<(), TableError> {
        for digest in set.digests.keys() {
            absent_is_fine(
                self.entries.remove(&EntryKey {
                    digest: *digest,
                    set: number,
                    reserved: 0,
                }),
                "ENTRIES",
            )?;
        }
        for &size_bytes in &set.sizes_bytes {
            absent_is_fine(
                self.sizes.remove(&SizeKey {
                    size_bytes,
                    set: number,
                    reserved: 0,
                }),
                "SIZES",
            )?;
        }
        for path in set.paths.keys() {
            if let Some(key) = PathKey::new(number, path) {
                absent_is_fine(self.paths.remove(&key), "PATHS")?;
            }
        }
        for (entry, name) in set.applets.keys() {
            if let Some(key) = AppletKey::new(number, *entry, name) {
                absent_is_fine(self.applets.remove(&key), "APPLETS")?;
            }
        }
        Ok(())
    }

    fn sets(&self) -> Result<BTreeMap<u32, EntrySet>, TableError> {
        let mut sets: BTreeMap<u32, EntrySet> = BTreeMap::new();
        for element in self.entries.iter() {
            let (key, rule): (EntryKey, EntryRule) = element.map_err(refused("read", "ENTRIES"))?;
            sets.entry(key.set).or_default().digests.insert(key.digest, rule);
        }
        for key in self.sizes.keys() {
            let key = key.map_err(refused("read", "SIZES"))?;
            sets.entry(key.set).or_default().sizes_bytes.insert(key.size_bytes);
        }
        for element in self.paths.iter() {
            let (key, rule): (PathKey, EntryRule) = element.map_err(refused("read", "PATHS"))?;
            let length = key.path.iter().position(|&byte| byte == 0).unwrap_or(PATH_KEY_BYTES);
            sets.entry(key.set)
                .or_default()
                .paths
                .insert(key.path[..length].to_vec(), rule);
        }
        for element in self.applets.iter() {
            let (key, rule): (AppletKey, EntryRule) = element.map_err(refused("read", "APPLETS"))?;
            sets.entry(key.set)
                .or_default()
                .applets
                .insert((key.entry, key.text().to_vec()), rule);
        }
        Ok(sets)
    }

    fn put_denied(&mut self, digest: DigestWords) -> Result<(), TableError> {
        self.denylist.insert(digest, 1, 0).map_err(refused("write", "DENYLIST"))
    }

    fn remove_denied(&mut self, digest: DigestWords) -> Result<(), TableError> {
        absent_is_fine(self.denylist.remove(&digest), "DENYLIST")
    }

    fn denied(&self) -> Result<BTreeSet<DigestWords>, TableError> {
        self.denylist
            .keys()
            .collect::<Result<_, _>>()
            .map_err(refused("read", "DENYLIST"))
    }

    fn update_node(&mut self, change: &mut dyn FnMut(&mut NodeConfig)) -> Result<(), TableError> {
        Maps::update_node(self, change).map_err(refused("write", "NODE"))
    }
}

fn insert_set(maps: &mut Maps, number: u32, set: &EntrySet) -> Result<(), TableError> {
    for (digest, rule) in &set.digests {
        let digest: DigestWords = *digest;
        maps.entries
            .insert(
                EntryKey {
                    digest,
                    set: number,
                    reserved: 0,
                },
                rule,
                0,
            )
            .map_err(refused("write", "ENTRIES"))?;
    }
    for &size_bytes in &set.sizes_bytes {
        maps.sizes
            .insert(
                SizeKey {
                    size_bytes,
                    set: number,
                    reserved: 0,
                },
                1,
                0,
            )
            .map_err(refused("write", "SIZES"))?;
    }
    for (path, rule) in &set.paths {
        if let Some(key) = PathKey::new(number, path) {
            maps.paths.insert(key, rule, 0).map_err(refused("write", "PATHS"))?;
        }
    }
    for ((entry, name), rule) in &set.applets {
        if let Some(key) = AppletKey::new(number, *entry, name) {
            maps.applets.insert(key, rule, 0).map_err(refused("write", "APPLETS"))?;
        }
    }
    Ok(())
}
