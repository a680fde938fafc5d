//! Which policy holds for which container, and how that gets into the kernel's maps without a moment that is weaker than both the
//! state before and the state after.
//!
//! ```text
//!   policies ──► compile ──► sets (shared by content) ──► POLICIES[index]  ◄── one write is the flip
//!   overrides ─────────────────────────────────────────► NAMESPACES[index] ◄── one write is the mode
//!   containers ──► slot + epoch ──► CONTAINERS[slot] ──► CGROUPS[cgroup id]
//! ```
//!
//! After a restart the pinned maps are the truth until the same policies and containers have been told again: slots, epochs and sets
//! that are in use are found there and kept.

pub mod compile;
mod containers;
mod denied;
mod inherited;
mod namespaces;
mod rejected;
mod sets;
mod slots;
mod standing;
pub mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use lattice_common::abi;
use lattice_policy::{ExecPolicy, ImageDigest, Mode};

pub(crate) use self::containers::tasks_below;
use self::{
    compile::{CompileError, Compiled, compile},
    inherited::Inherited,
    sets::LoadedSet,
    slots::Slots,
    tables::{TableError, Tables},
};
pub use self::{rejected::Unguarded, standing::ContainerStanding};
use crate::{containers::ContainerInfo, error_chain::ErrorChain, kernel::pins::PinFolders};

/// Why a change was not made, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum EnforcementError {
    /// A policy cannot be given to the kernel; the generation before stays in force.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The kernel refused a change.
    #[error("policy {policy} is not loaded; what was in force before stays")]
    Policy {
        /// namespace/name.
        policy: String,
        /// Why.
        #[source]
        source: TableError,
    },
    /// The kernel refused a change that belongs to no policy.
    #[error("the kernel's maps could not be brought up to date")]
    Tables(#[from] TableError),
    /// No slot is free.
    #[error("no room for more {what}: {slots} are in use; raise --max-{what}")]
    NoSlot {
        /// containers or namespaces.
        what: &'static str,
        /// How many there are.
        slots: u32,
    },
    /// No slot is free for a policy.
    #[error("policy {policy} is not loaded; no room for more policies: {slots} are in use; raise --max-policies")]
    NoPolicySlot {
        /// namespace/name.
        policy: String,
        /// How many there are.
        slots: u32,
    },
}

impl EnforcementError {
    fn tables(policy: &PolicyName, source: TableError) -> Self {
        Self::Policy {
            policy: policy.to_string(),
            source,
        }
    }
}

/// Several policies can fail at once; the others are loaded.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// What was not loaded, and why.
    pub errors: Vec<EnforcementError>,
}

impl ApplyReport {
    /// The errors in one text, each with its causes; empty where all is well.
    pub fn text(&self) -> String {
        self.errors
            .iter()
            .map(|error| ErrorChain(error).to_string())
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct PolicyName {
    namespace: String,
    name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

struct LoadedPolicy {
    index: u32,
    source: Arc<ExecPolicy>,
    set: u32,
}

struct LoadedContainer {
    index: u32,
    epoch: u32,
    info: ContainerInfo,
    policy: Option<PolicyName>,
}

/// Root directory and mount namespace of the host's own processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostRoot {
    /// `s_dev` of its file system in the kernel's encoding.
    pub device: u32,
    /// Its inode.
    pub inode: u64,
    /// Number of the mount namespace; 0 where it is not known.
    pub mount_namespace: u32,
}

/// The state of enforcement on this node.
pub struct Enforcement<T> {
    tables: T,
    host_root: HostRoot,
    may_use_bpf: BTreeSet<String>,
    denied_images: BTreeSet<ImageDigest>,
    policies: BTreeMap<PolicyName, LoadedPolicy>,
    containers: BTreeMap<u64, LoadedContainer>,
    managed_root: Option<u64>,
    /// Namespaces of pods, by the pod's cgroup.
    pods: BTreeMap<u64, String>,
    sets: BTreeMap<u32, LoadedSet>,
    set_numbers: BTreeMap<[u8; 32], u32>,
    /// Policies that the kernel could not be given, and without a generation before.
    rejected: BTreeMap<PolicyName, Arc<ExecPolicy>>,
    namespaces: BTreeMap<String, u32>,
    namespace_slots: Slots,
    overrides: BTreeMap<String, Mode>,
    policy_slots: Slots,
    container_slots: Slots,
    /// Policies by the slots that they had before a restart: what happened meanwhile names those.
    earlier_slots: BTreeMap<u32, PolicyName>,
    next_epoch: u32,
    next_set: u32,
    /// Found in the pinned maps and not yet claimed; gone when [`Enforcement::settle`] is called.
    inherited: Inherited,
    /// Whether all policies and modes that may have held before are known. While they are not, inherited containers stay as they were.
    is_complete: bool,
    settle_is_due: bool,
}

impl<T: Tables> Enforcement<T> {
    /// The maps, for what is only read.
    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// Says what the host's own processes have for root.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_host_root(&mut self, root: HostRoot) -> Result<(), EnforcementError> {
        self.host_root = root;
        Ok(self
            .tables
            .update_node(&mut |node| node.host_root_device = root.device)?)
    }

    /// Which process the agent is, and where its pins lie: nobody in a container may reach for them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard(&mut self, process: u32, pins: PinFolders) -> Result<(), EnforcementError> {
        Ok(self.tables.update_node(&mut |node| {
            node.agent_process = process;
            node.pins_device = pins.device;
            node.links_inode = pins.links_inode;
            node.maps_inode = pins.maps_inode;
        })?)
    }

    /// Whether the kernel side announces new cgroups.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn announce_cgroups(&mut self, announce: bool) -> Result<(), EnforcementError> {
        Ok(self
            .tables
            .update_node(&mut |node| node.announce_cgroups = u32::from(announce))?)
    }

    /// Like [`Enforcement::apply`], where what is told is all that may have held before a restart. In one step with it: before, nothing may
    /// be taken for what nobody claims.
    pub fn apply_all(
        &mut self,
        policies: Vec<impl Into<Arc<ExecPolicy>>>,
        overrides: BTreeMap<String, Mode>,
    ) -> ApplyReport {
        self.is_complete = true;
        self.apply(policies, overrides)
    }

    /// Replaces all policies and overrides. A policy that cannot be loaded leaves its generation before in force, and is reported.
    pub fn apply(
        &mut self,
        policies: Vec<impl Into<Arc<ExecPolicy>>>,
        overrides: BTreeMap<String, Mode>,
    ) -> ApplyReport {
        let mut report = ApplyReport::default();
        let mut failed = Vec::new();
        let mut told = BTreeSet::new();
        for policy in policies {
            let policy: Arc<ExecPolicy> = policy.into();
            let name = PolicyName {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            };
            match self.load(&name, Arc::clone(&policy)) {
                Ok(()) => {
                    self.rejected.remove(&name);
                }
                Err(error) => {
                    if !self.policies.contains_key(&name) {
                        self.rejected.insert(name.clone(), policy);
                    }
                    failed.push((name.clone(), error));
                }
            }
            told.insert(name);
        }
        self.rejected.retain(|name, _| told.contains(name));
        let gone: Vec<PolicyName> = self
            .policies
            .keys()
            .filter(|name| !told.contains(name))
            .cloned()
            .collect();
        if let Err(error) = self.set_overrides(overrides) {
            report.errors.push(error);
        }
        // Containers leave a policy before its slot is given away.
        let removed: Vec<LoadedPolicy> = gone.iter().filter_map(|name| self.policies.remove(name)).collect();
        if let Err(error) = self.match_containers() {
            report.errors.push(error);
        }
        let has_room = !removed.is_empty() && !self.rejected.is_empty();
        for policy in removed {
            if let Err(error) = self.unload(&policy) {
                report.errors.push(error);
            }
        }
        // What went has made room.
        if has_room {
            let loaded = self.retry();
            failed.retain(|(name, _)| !loaded.contains(name));
            if let Err(error) = self.match_containers() {
                report.errors.push(error);
            }
        }
        report.errors.extend(failed.into_iter().map(|(_, error)| error));
        if self.is_complete
            && self.settle_is_due
            && let Err(error) = self.settle()
        {
            report.errors.push(error);
        }
        report
    }

    fn load(&mut self, name: &PolicyName, policy: Arc<ExecPolicy>) -> Result<(), EnforcementError> {
        if self.policies.get(name).is_some_and(|loaded| loaded.source == policy) {
            return Ok(());
        }
        let Compiled { set, policy: value } = compile(&policy)?;
        let set = self
            .take_set(set)
            .map_err(|source| EnforcementError::tables(name, source))?;
        let index = match self.policies.get(name) {
            Some(loaded) => loaded.index,
            None => match self.free_policy(name) {
                Ok(index) => index,
                Err(error) => {
                    self.release_set(set)?;
                    return Err(error);
                }
            },
        };
        if let Err(source) = self.tables.put_policy(index, abi::Policy { set, ..value }) {
            if !self.policies.contains_key(name) {
                self.policy_slots.give_back(index);
            }
            self.release_set(set)?;
            return Err(EnforcementError::tables(name, source));
        }
        let before = self.policies.insert(
            name.clone(),
            LoadedPolicy {
                index,
                source: policy,
                set,
            },
        );
        if let Some(before) = before {
            self.release_set(before.set)?;
        }
        Ok(())
    }

    fn unload(&mut self, policy: &LoadedPolicy) -> Result<(), EnforcementError> {
        self.tables.put_policy(policy.index, abi::Policy::default())?;
        self.policy_slots.give_back(policy.index);
        self.release_set(policy.set)
    }

    fn free_policy(&mut self, name: &PolicyName) -> Result<u32, EnforcementError> {
        let slots = self.tables.policy_slots();
        self.policy_slots
            .take(slots)
            .ok_or_else(|| EnforcementError::NoPolicySlot {
                policy: name.to_string(),
                slots: slots - 1,
            })
    }

    /// All policies in force.
    pub fn policies(&self) -> impl Iterator<Item = &ExecPolicy> {
        self.policies.values().map(|loaded| &*loaded.source)
    }
}

#[cfg(test)]
mod tests;
