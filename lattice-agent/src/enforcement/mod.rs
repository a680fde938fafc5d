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
pub mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use lattice_common::{
    abi::{
        self, CgroupEntry, Container, FIRST_POLICY_SET, NO_SET, Namespace, RUNTIME_SET, Started, TaskState,
        cgroup_kind, container_flag, digest_words, namespace_flag,
    },
    verdict,
};
use lattice_policy::{ExecPolicy, FailAction, FileDigest, ImageDigest, Mode};

use self::{
    compile::{CompileError, Compiled, EntrySet, compile, fail_action, mode},
    tables::{TableError, Tables},
};
use crate::{containers::ContainerInfo, denylist::Denylist, error_chain::ErrorChain, kernel::pins::PinFolders};

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
    #[error("no room for another {what}: all {slots} are in use; raise --max-{what}s")]
    NoSlot {
        /// container, policy or namespace.
        what: &'static str,
        /// How many there are.
        slots: u32,
    },
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

struct LoadedPolicy {
    index: u32,
    source: Arc<ExecPolicy>,
    /// What happens in its containers while it is missing.
    missing: verdict::FailAction,
    set: u32,
}

struct LoadedContainer {
    index: u32,
    epoch: u32,
    info: ContainerInfo,
    policy: Option<PolicyName>,
}

struct LoadedSet {
    set: EntrySet,
    users: u32,
}

/// A container's standing, for people.
#[derive(Debug, Clone)]
pub struct ContainerStanding {
    /// The container.
    pub info: ContainerInfo,
    /// Its policy.
    pub policy: Option<Arc<ExecPolicy>>,
    /// The mode that holds.
    pub mode: Option<Mode>,
    /// Whether the mode comes from the namespace's override.
    pub is_override: bool,
    /// Whether its image is on the denylist, which wins over both.
    pub is_denied: bool,
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
    /// Policies that the kernel could not be given, and what holds for their containers instead.
    rejected: BTreeMap<PolicyName, verdict::FailAction>,
    namespaces: BTreeMap<String, u32>,
    used_namespaces: BTreeSet<u32>,
    overrides: BTreeMap<String, Mode>,
    used_policies: BTreeSet<u32>,
    used_containers: BTreeSet<u32>,
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

#[derive(Default)]
struct Inherited {
    cgroups: BTreeMap<u64, CgroupEntry>,
    policies: BTreeSet<u32>,
    sets: BTreeSet<u32>,
    settled: bool,
}

impl<T: Tables> Enforcement<T> {
    /// Takes over what the maps hold.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn adopt(tables: T) -> Result<Self, EnforcementError> {
        let containers = tables.containers()?;
        let sets = tables.sets()?;
        let policies = tables.policies()?;
        let cgroups = tables.cgroups()?;
        // What inherited containers refer to stays as it is until they have been told again.
        let mut used_namespaces: BTreeSet<u32> = containers.values().map(|container| container.namespace).collect();
        used_namespaces.extend(
            cgroups
                .values()
                .filter(|entry| entry.kind == cgroup_kind::POD)
                .map(|entry| entry.index),
        );
        used_namespaces.insert(0);
        let mut enforcement = Self {
            next_epoch: containers.values().map(|container| container.epoch).max().unwrap_or(0) + 1,
            next_set: sets.keys().copied().max().unwrap_or(0).max(FIRST_POLICY_SET - 1) + 1,
            used_containers: containers.keys().copied().collect(),
            used_policies: policies.keys().copied().collect(),
            tables,
            host_root: HostRoot::default(),
            may_use_bpf: BTreeSet::new(),
            denied_images: BTreeSet::new(),
            policies: BTreeMap::new(),
            containers: BTreeMap::new(),
            managed_root: None,
            pods: BTreeMap::new(),
            set_numbers: sets.iter().map(|(number, set)| (set.identity(), *number)).collect(),
            inherited: Inherited {
                cgroups,
                policies: policies.keys().copied().collect(),
                sets: sets
                    .keys()
                    .copied()
                    .filter(|&number| number >= FIRST_POLICY_SET)
                    .collect(),
                settled: false,
            },
            sets: sets
                .into_iter()
                .map(|(number, set)| (number, LoadedSet { set, users: 0 }))
                .collect(),
            rejected: BTreeMap::new(),
            earlier_slots: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            used_namespaces,
            overrides: BTreeMap::new(),
            is_complete: true,
            settle_is_due: false,
        };
        enforcement.used_policies.insert(0);
        Ok(enforcement)
    }

    /// Says that not all policies and modes are known that may have held before a restart. Containers that had a policy then keep it, with
    /// its mode, until [`Enforcement::apply_all`].
    pub fn set_incomplete(&mut self) {
        self.is_complete = false;
    }

    /// Whether what a container had before the restart is still in force for it, whatever is told now.
    fn is_held(&self, container: &Container) -> bool {
        !self.is_complete && container.policy != 0 && self.inherited.policies.contains(&container.policy)
    }

    /// How many containers are so.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn held_count(&self) -> Result<usize, EnforcementError> {
        let mut count = 0;
        for known in self.containers.values().filter(|_| !self.is_complete) {
            count += usize::from(self.is_held(&self.tables.container(known.index)?));
        }
        Ok(count)
    }

    /// Whether a container's slot and policy are those of before the restart, and stay so for now.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn is_held_in(&self, cgroup_id: u64) -> Result<bool, EnforcementError> {
        let known = self.containers.get(&cgroup_id).map(|known| known.index);
        let inherited = self.inherited.cgroups.get(&cgroup_id);
        let inherited = inherited
            .filter(|entry| entry.kind == cgroup_kind::CONTAINER)
            .map(|entry| entry.index);
        match known.or(inherited) {
            Some(index) => Ok(self.is_held(&self.tables.container(index)?)),
            None => Ok(false),
        }
    }

    /// The maps, for what is only read.
    pub fn tables(&self) -> &T {
        &self.tables
    }

    /// Says what a cgroup below `cgroup_id` means that no map knows.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_managed_root(&mut self, cgroup_id: u64, unknown: FailAction) -> Result<(), EnforcementError> {
        self.tables
            .update_node(&mut |node| node.unknown = fail_action(unknown).0)?;
        let entry = CgroupEntry {
            kind: cgroup_kind::MANAGED_ROOT,
            ..CgroupEntry::default()
        };
        self.tables.put_cgroup(cgroup_id, entry)?;
        self.inherited.cgroups.remove(&cgroup_id);
        self.managed_root = Some(cgroup_id);
        Ok(())
    }

    /// The managed root, if there is one.
    pub fn managed_root(&self) -> Option<u64> {
        self.managed_root
    }

    /// Says that what is new below `cgroup_id` belongs to a pod of this container's namespace: until it is known itself, it is pending.
    fn set_pod(&mut self, cgroup_id: u64, namespace: &str) -> Result<(), EnforcementError> {
        let index = self.namespace_index(namespace)?;
        let pending = self.pending(namespace);
        let entry = CgroupEntry {
            kind: cgroup_kind::POD,
            index,
            epoch: 0,
            pending: pending.0,
        };
        self.tables.put_cgroup(cgroup_id, entry)?;
        self.inherited.cgroups.remove(&cgroup_id);
        self.pods.insert(cgroup_id, namespace.to_owned());
        Ok(())
    }

    /// What a pending container means: the strictest word of its namespace's policies for an unknown one; where the namespace has no
    /// policy there is nothing to wait for.
    fn pending(&self, namespace: &str) -> verdict::FailAction {
        let of_namespace = self.policies.iter().filter(|(name, _)| name.namespace == namespace);
        strictest(of_namespace.map(|(_, loaded)| fail_action(loaded.source.fail.unknown)))
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

    /// Namespaces whose containers may use bpf(2). Told before policies and containers.
    pub fn grant_bpf(&mut self, namespaces: impl IntoIterator<Item = String>) {
        self.may_use_bpf = namespaces.into_iter().collect();
    }

    /// Files that the kernel side holds as denied, also those of an earlier start.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn denied_files(&self) -> Result<BTreeSet<FileDigest>, EnforcementError> {
        let digest = |words: [u64; 4]| {
            let mut bytes = [0; 32];
            for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *to = word.to_ne_bytes();
            }
            FileDigest(bytes)
        };
        Ok(self.tables.denied()?.into_iter().map(digest).collect())
    }

    /// Replaces the denylist: it holds from the next exec on, in every mode. Returns the containers whose image is on it.
    ///
    /// # Errors
    /// When the kernel refuses; what was added until then is in force.
    pub fn set_denylist(&mut self, list: &Denylist) -> Result<Vec<ContainerInfo>, EnforcementError> {
        let wanted: BTreeSet<_> = list.files.iter().map(|file| digest_words(&file.0)).collect();
        let present = self.tables.denied()?;
        for digest in wanted.difference(&present) {
            self.tables.put_denied(*digest)?;
        }
        // The number spares the look-up: it rises after the first element is there and falls before the last is gone.
        let entries = wanted.len() as u32;
        self.tables.update_node(&mut |node| node.denylist_entries = entries)?;
        for digest in present.difference(&wanted) {
            self.tables.remove_denied(*digest)?;
        }
        self.denied_images = list.images.clone();
        let mut denied = Vec::new();
        let known: Vec<(u32, ContainerInfo)> = self
            .containers
            .values()
            .map(|known| (known.index, known.info.clone()))
            .collect();
        for (index, info) in known {
            let container = self.tables.container(index)?;
            let flags = self.container_flags(&info);
            if container.flags != flags {
                self.tables.put_container(index, Container { flags, ..container })?;
            }
            if flags & container_flag::DENIED != 0 {
                denied.push(info);
            }
        }
        Ok(denied)
    }

    fn container_flags(&self, info: &ContainerInfo) -> u32 {
        let own_root = if info.has_own_root { container_flag::OWN_ROOT } else { 0 };
        match info.image_digest {
            Some(image) if self.denied_images.contains(&image) => own_root | container_flag::DENIED,
            _ => own_root,
        }
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

    /// The container runtime's own programs, by digest and size.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_runtime_programs(&mut self, set: &EntrySet) -> Result<(), EnforcementError> {
        if let Some(old) = self.sets.remove(&RUNTIME_SET) {
            let stale = EntrySet {
                digests: old
                    .set
                    .digests
                    .into_iter()
                    .filter(|(digest, _)| !set.digests.contains_key(digest))
                    .collect(),
                sizes_bytes: old.set.sizes_bytes.difference(&set.sizes_bytes).copied().collect(),
                ..EntrySet::default()
            };
            self.tables.remove_set(RUNTIME_SET, &stale)?;
        }
        self.tables.put_set(RUNTIME_SET, set)?;
        self.sets.insert(
            RUNTIME_SET,
            LoadedSet {
                set: set.clone(),
                users: 1,
            },
        );
        Ok(())
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
        let mut told = BTreeSet::new();
        for policy in policies {
            let policy: Arc<ExecPolicy> = policy.into();
            let name = PolicyName {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            };
            // Of a policy that the kernel cannot be given, and without a generation before, the containers must not run as if there
            // were none: what the policy says of a full map holds.
            let fail = policy.fail;
            self.rejected.remove(&name);
            if let Err(error) = self.load(&name, policy) {
                if !self.policies.contains_key(&name) {
                    self.rejected.insert(name.clone(), fail_action(fail.map_full));
                }
                report.errors.push(error);
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
        for policy in removed {
            if let Err(error) = self.unload(&policy) {
                report.errors.push(error);
            }
        }
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
        let Compiled {
            set,
            policy: value,
            missing,
        } = compile(&policy)?;
        let text = || format!("{}/{}", name.namespace, name.name);
        let set = self
            .take_set(set)
            .map_err(|source| EnforcementError::Policy { policy: text(), source })?;
        let index = match self.policies.get(name) {
            Some(loaded) => loaded.index,
            None => self.free_policy()?,
        };
        self.tables
            .put_policy(index, abi::Policy { set, ..value })
            .map_err(|source| EnforcementError::Policy { policy: text(), source })?;
        let before = self.policies.insert(
            name.clone(),
            LoadedPolicy {
                index,
                source: policy,
                missing,
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
        self.used_policies.remove(&policy.index);
        self.release_set(policy.set)
    }

    /// The number of an equal set that is loaded, else of a new one.
    fn take_set(&mut self, set: EntrySet) -> Result<u32, TableError> {
        let identity = set.identity();
        if let Some(&number) = self.set_numbers.get(&identity)
            && number >= FIRST_POLICY_SET
            && let Some(loaded) = self.sets.get_mut(&number)
        {
            loaded.users += 1;
            return Ok(number);
        }
        let number = self.next_set;
        self.tables.put_set(number, &set)?;
        self.next_set += 1;
        self.set_numbers.insert(identity, number);
        self.sets.insert(number, LoadedSet { set, users: 1 });
        Ok(number)
    }

    fn release_set(&mut self, number: u32) -> Result<(), EnforcementError> {
        let Some(loaded) = self.sets.get_mut(&number) else {
            return Ok(());
        };
        loaded.users = loaded.users.saturating_sub(1);
        if loaded.users > 0 || (self.inherited.sets.contains(&number) && !self.inherited.settled) {
            return Ok(());
        }
        self.drop_set(number)
    }

    fn drop_set(&mut self, number: u32) -> Result<(), EnforcementError> {
        if let Some(loaded) = self.sets.remove(&number) {
            self.set_numbers.remove(&loaded.set.identity());
            self.tables.remove_set(number, &loaded.set)?;
        }
        Ok(())
    }

    fn free_policy(&mut self) -> Result<u32, EnforcementError> {
        let slots = self.tables.policy_slots();
        let index = (1..slots)
            .find(|index| !self.used_policies.contains(index))
            .ok_or(EnforcementError::NoSlot { what: "policy", slots })?;
        self.used_policies.insert(index);
        Ok(index)
    }

    /// Namespaces keep their index while the agent runs, and are found by name: an override is one write, whatever the number of
    /// containers.
    fn namespace_index(&mut self, namespace: &str) -> Result<u32, EnforcementError> {
        if let Some(&index) = self.namespaces.get(namespace) {
            return Ok(index);
        }
        let slots = self.tables.namespace_slots();
        let index = (1..slots)
            .find(|index| !self.used_namespaces.contains(index))
            .ok_or(EnforcementError::NoSlot {
                what: "namespace",
                slots,
            })?;
        let mode = self.overrides.get(namespace).map_or(0, |&held| mode(held).0);
        let flags = self.namespace_flags(namespace);
        self.tables.put_namespace(index, Namespace { mode, flags })?;
        self.used_namespaces.insert(index);
        self.namespaces.insert(namespace.to_owned(), index);
        Ok(index)
    }

    fn namespace_flags(&self, namespace: &str) -> u32 {
        if self.may_use_bpf.contains(namespace) {
            namespace_flag::BPF
        } else {
            0
        }
    }

    fn set_overrides(&mut self, overrides: BTreeMap<String, Mode>) -> Result<(), EnforcementError> {
        let before = std::mem::replace(&mut self.overrides, overrides);
        let changed: BTreeSet<String> = before.keys().chain(self.overrides.keys()).cloned().collect();
        for namespace in changed {
            let held = self.overrides.get(&namespace).copied();
            if before.get(&namespace).copied() != held {
                let index = self.namespace_index(&namespace)?;
                self.tables.put_namespace(
                    index,
                    Namespace {
                        mode: held.map_or(0, |held| mode(held).0),
                        flags: self.namespace_flags(&namespace),
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Makes a container known, or updates what is known of it.
    ///
    /// # Errors
    /// When there is no slot or the kernel refuses: the container then stays unknown, which the managed root's verdict is for.
    pub fn container_started(&mut self, info: ContainerInfo) -> Result<(), EnforcementError> {
        let namespace = self.namespace_index(&info.namespace)?;
        let policy = self.policy_for(&info);
        let (policy_index, missing) = self.policy_slot(policy.as_ref(), &info.namespace);
        let cgroup_id = info.cgroup_id;
        let (index, epoch, is_new) = match self.containers.get(&cgroup_id) {
            Some(known) => (known.index, known.epoch, false),
            None => match self.inherited.cgroups.remove(&cgroup_id) {
                Some(entry) if entry.kind == cgroup_kind::CONTAINER => (entry.index, entry.epoch, false),
                _ => (self.free_container()?, self.next_epoch, true),
            },
        };
        let before = self.tables.container(index)?;
        let is_new = is_new || before.epoch != epoch;
        if let Some(policy) = policy.clone().filter(|_| !is_new && before.policy != policy_index) {
            self.earlier_slots.insert(before.policy, policy);
        }
        let (policy_index, namespace, missing) = if !is_new && self.is_held(&before) {
            (before.policy, before.namespace, verdict::FailAction(before.missing))
        } else {
            (policy_index, namespace, missing)
        };
        let container = Container {
            epoch,
            policy: policy_index,
            namespace,
            flags: self.container_flags(&info),
            root_device: if info.root_device == 0 && !is_new {
                before.root_device
            } else {
                info.root_device
            },
            missing: missing.0,
            cgroup_id,
        };
        self.tables.put_container(index, container)?;
        if is_new {
            // Of a container that already runs, the next program to start is not its first.
            if info.is_running {
                let started = if info.has_own_root {
                    // Nobody saw its first program start, and what its processes have for root now is their own word.
                    Started {
                        epoch,
                        root_device: info.root_device,
                        ..Started::default()
                    }
                } else {
                    Started {
                        epoch,
                        root_device: self.host_root.device,
                        root_inode: self.host_root.inode,
                        mount_namespace: self.host_root.mount_namespace,
                        reserved: 0,
                    }
                };
                self.tables.put_started(index, started)?;
                self.mark_running(&info, index, epoch)?;
            }
            let entry = CgroupEntry {
                kind: cgroup_kind::CONTAINER,
                index,
                epoch,
                pending: 0,
            };
            if let Err(error) = self.tables.put_cgroup(cgroup_id, entry) {
                self.used_containers.remove(&index);
                return Err(error.into());
            }
            self.next_epoch += 1;
        }
        let pod = info.pod_cgroup_id.filter(|_| !info.pod.is_empty());
        let namespace = info.namespace.clone();
        self.containers.insert(
            cgroup_id,
            LoadedContainer {
                index,
                epoch,
                info,
                policy,
            },
        );
        match pod {
            Some(pod) if !self.pods.contains_key(&pod) => self.set_pod(pod, &namespace),
            _ => Ok(()),
        }
    }

    /// Marks what already runs: nobody knows where it came from, so only entries for any origin hold for it and its children.
    fn mark_running(&mut self, info: &ContainerInfo, container: u32, epoch: u32) -> Result<(), EnforcementError> {
        let state = TaskState {
            container,
            epoch,
            origin: verdict::Origin::UNKNOWN.0,
            ..TaskState::default()
        };
        let mut marked = BTreeSet::new();
        // Until a look finds nobody new: a child that was made meanwhile inherits the mark, or is found by the next look.
        for _ in 0..MARK_ROUNDS {
            let fresh: Vec<u32> = tasks_below(&info.cgroup_path)
                .into_iter()
                .filter(|task| marked.insert(*task))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for task in fresh {
                self.tables.put_task(task, state)?;
            }
        }
        Ok(())
    }

    /// Forgets a container. Tasks that are left of it are nobody's: the node's `unknown` verdict holds for them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn container_stopped(&mut self, cgroup_id: u64) -> Result<(), EnforcementError> {
        let Some(container) = self.containers.remove(&cgroup_id) else {
            return Ok(());
        };
        self.remove_container(cgroup_id, container.index)?;
        if let Some(pod) = container.info.pod_cgroup_id
            && self
                .containers
                .values()
                .all(|other| other.info.pod_cgroup_id != Some(pod))
            && self.pods.remove(&pod).is_some()
        {
            self.tables.remove_cgroup(pod)?;
        }
        Ok(())
    }

    fn remove_container(&mut self, cgroup_id: u64, index: u32) -> Result<(), EnforcementError> {
        self.tables.remove_cgroup(cgroup_id)?;
        self.tables.put_container(index, Container::default())?;
        self.used_containers.remove(&index);
        Ok(())
    }

    fn free_container(&mut self) -> Result<u32, EnforcementError> {
        let slots = self.tables.container_slots();
        let index = (0..slots)
            .find(|index| !self.used_containers.contains(index))
            .ok_or(EnforcementError::NoSlot {
                what: "container",
                slots,
            })?;
        self.used_containers.insert(index);
        Ok(index)
    }

    /// The most specific policy that matches; of several, the first by name.
    fn policy_for(&self, info: &ContainerInfo) -> Option<PolicyName> {
        self.policies
            .iter()
            .filter(|(name, loaded)| name.namespace == info.namespace && matches_target(&loaded.source, info))
            .max_by_key(|(name, loaded)| (specificity(&loaded.source), std::cmp::Reverse((*name).clone())))
            .map(|(name, _)| name.clone())
    }

    fn policy_slot(&self, policy: Option<&PolicyName>, namespace: &str) -> (u32, verdict::FailAction) {
        let index = policy
            .and_then(|name| self.policies.get(name))
            .map_or(0, |loaded| loaded.index);
        // The strictest word of the namespace's policies: a container that none matches must not be the way around them.
        let loaded = self.policies.iter().map(|(name, loaded)| (name, loaded.missing));
        let rejected = self.rejected.iter().map(|(name, missing)| (name, *missing));
        let missing = strictest(
            loaded
                .chain(rejected)
                .filter(|(name, _)| name.namespace == namespace)
                .map(|(_, missing)| missing),
        );
        (index, missing)
    }

    fn match_containers(&mut self) -> Result<(), EnforcementError> {
        let known: Vec<u64> = self.containers.keys().copied().collect();
        for cgroup_id in known {
            let Some(loaded) = self.containers.get(&cgroup_id) else {
                continue;
            };
            let policy = self.policy_for(&loaded.info);
            let (policy_index, missing) = self.policy_slot(policy.as_ref(), &loaded.info.namespace);
            let index = loaded.index;
            let namespace = loaded.info.namespace.clone();
            let container = self.tables.container(index)?;
            if self.is_held(&container) {
                continue;
            }
            let namespace = self.namespace_index(&namespace)?;
            let now = Container {
                policy: policy_index,
                missing: missing.0,
                namespace,
                ..container
            };
            if container != now {
                self.tables.put_container(index, now)?;
            }
            if let Some(loaded) = self.containers.get_mut(&cgroup_id) {
                loaded.policy = policy;
            }
        }
        for (pod, namespace) in self.pods.clone() {
            self.set_pod(pod, &namespace)?;
        }
        Ok(())
    }

    /// After a restart: all policies and containers have been told again; what nobody claimed goes. Where not all is known it goes later.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn settle(&mut self) -> Result<(), EnforcementError> {
        self.settle_is_due = !self.is_complete;
        if self.settle_is_due {
            return Ok(());
        }
        let inherited = std::mem::replace(
            &mut self.inherited,
            Inherited {
                settled: true,
                ..Inherited::default()
            },
        );
        for (cgroup_id, entry) in inherited.cgroups {
            match entry.kind {
                cgroup_kind::CONTAINER => self.remove_container(cgroup_id, entry.index)?,
                _ => self.tables.remove_cgroup(cgroup_id)?,
            }
        }
        self.used_namespaces = self.namespaces.values().copied().chain([0]).collect();
        let claimed: BTreeSet<u32> = self.policies.values().map(|loaded| loaded.index).collect();
        for index in inherited.policies.into_iter().filter(|index| !claimed.contains(index)) {
            self.tables.put_policy(index, abi::Policy::default())?;
            self.used_policies.remove(&index);
        }
        for number in inherited.sets {
            if number != NO_SET && self.sets.get(&number).is_some_and(|loaded| loaded.users == 0) {
                self.drop_set(number)?;
            }
        }
        Ok(())
    }

    /// The container in a slot, if the epoch is still its own.
    pub fn container_in_slot(&self, index: u32, epoch: u32) -> Option<&ContainerInfo> {
        self.containers
            .values()
            .find(|known| known.index == index && known.epoch == epoch)
            .map(|known| &known.info)
    }

    /// Whether a file is one of the container runtime's own programs.
    pub fn is_runtime_program(&self, digest: &[u8; 32]) -> bool {
        self.sets
            .get(&RUNTIME_SET)
            .is_some_and(|loaded| loaded.set.digests.contains_key(&digest_words(digest)))
    }

    /// Device of a known container's root file system.
    pub fn root_device_of(&self, cgroup_id: u64) -> Option<u32> {
        self.containers.get(&cgroup_id).map(|known| known.info.root_device)
    }

    /// The policy that a container has, or would have.
    pub fn policy_of(&self, info: &ContainerInfo) -> Option<&Arc<ExecPolicy>> {
        self.policies.get(&self.policy_for(info)?).map(|loaded| &loaded.source)
    }

    /// The policy in a slot, or the one that was there before a restart.
    pub fn policy_in_slot(&self, index: u32) -> Option<&ExecPolicy> {
        let now = self.policies.values().find(|loaded| loaded.index == index);
        now.or_else(|| self.policies.get(self.earlier_slots.get(&index)?))
            .map(|loaded| &*loaded.source)
    }

    /// All policies in force.
    pub fn policies(&self) -> impl Iterator<Item = &ExecPolicy> {
        self.policies.values().map(|loaded| &*loaded.source)
    }

    /// How many policies the kernel could not be given.
    pub fn rejected_count(&self) -> usize {
        self.rejected.len()
    }

    /// All overrides in force.
    pub fn overrides(&self) -> &BTreeMap<String, Mode> {
        &self.overrides
    }

    /// Every known container and what holds for it.
    pub fn standings(&self) -> impl Iterator<Item = ContainerStanding> {
        self.containers.values().map(|known| self.standing(known))
    }

    /// A container by its identifier in its runtime.
    pub fn container(&self, container_id: &str) -> Option<&ContainerInfo> {
        let mut all = self.containers.values();
        all.find(|known| known.info.container_id == container_id)
            .map(|known| &known.info)
    }

    /// What holds for the container whose root file system is on a device.
    pub fn standing_on_device(&self, device: u32) -> Option<ContainerStanding> {
        let known = self
            .containers
            .values()
            .find(|known| device != 0 && known.info.root_device == device)?;
        Some(self.standing(known))
    }

    fn standing(&self, known: &LoadedContainer) -> ContainerStanding {
        let policy = known
            .policy
            .as_ref()
            .and_then(|name| self.policies.get(name))
            .map(|loaded| Arc::clone(&loaded.source));
        let held = self.overrides.get(&known.info.namespace).copied();
        ContainerStanding {
            info: known.info.clone(),
            mode: held.or_else(|| policy.as_ref().map(|policy| policy.mode)),
            is_override: held.is_some(),
            is_denied: known
                .info
                .image_digest
                .is_some_and(|image| self.denied_images.contains(&image)),
            policy,
        }
    }
}

/// The strictest of several meanings; open where there is none.
fn strictest(actions: impl Iterator<Item = verdict::FailAction>) -> verdict::FailAction {
    actions
        .max_by_key(|&action| match action {
            verdict::FailAction::OPEN => 0,
            verdict::FailAction::CLOSED => 1,
            _ => 2,
        })
        .unwrap_or(verdict::FailAction::OPEN)
}

/// Looks for tasks of a running container before the rest is left to what they inherit.
const MARK_ROUNDS: usize = 16;

/// The processes of a cgroup and of those below it.
pub(crate) fn tasks_below(cgroup: &Path) -> Vec<u32> {
    let mut tasks: Vec<u32> = std::fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|task| *task != 0)
        .collect();
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tasks.extend(tasks_below(&entry.path()));
        }
    }
    tasks
}

fn matches_target(policy: &ExecPolicy, info: &ContainerInfo) -> bool {
    let target = &policy.target;
    target
        .workload
        .as_ref()
        .is_none_or(|workload| *workload == info.workload)
        && target
            .container
            .as_ref()
            .is_none_or(|container| *container == info.name)
        && target
            .image_digest
            .is_none_or(|digest| Some(digest) == info.image_digest)
}

fn specificity(policy: &ExecPolicy) -> u32 {
    let target = &policy.target;
    u32::from(target.image_digest.is_some())
        + u32::from(target.container.is_some())
        + u32::from(target.workload.is_some())
}

#[cfg(test)]
mod tests;
