//! Containers: their slots and epochs, which policy holds for each, and what already ran in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use lattice_common::{
    abi::{CgroupEntry, Container, Started, TaskState, cgroup_kind, container_flag},
    verdict,
};
use lattice_policy::{ExecPolicy, FailAction};

use super::{
    Enforcement, EnforcementError, LoadedContainer, PolicyName, compile::fail_action, rejected::Word, tables::Tables,
};
use crate::containers::{ContainerInfo, identity::SANDBOX_NAME};

impl<T: Tables> Enforcement<T> {
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
        let entry = CgroupEntry {
            kind: cgroup_kind::POD,
            index,
            epoch: 0,
            pending: self.pending(namespace).value(),
        };
        self.tables.put_cgroup(cgroup_id, entry)?;
        self.inherited.cgroups.remove(&cgroup_id);
        self.pods.insert(cgroup_id, namespace.to_owned());
        Ok(())
    }

    /// What a pending container means: the strictest word of its namespace's policies for an unknown one; where the namespace has no
    /// policy there is nothing to wait for.
    fn pending(&self, namespace: &str) -> Word {
        let policies = self.policies_of(namespace);
        Word::strictest(policies.map(|policy| self.word(policy, policy.fail.unknown)))
    }

    /// All policies of a namespace, whether the kernel could be given them or not.
    pub(super) fn policies_of<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a ExecPolicy> + use<'a, T> {
        let loaded = in_namespace(&self.policies, namespace).map(|(_, loaded)| &*loaded.source);
        let rejected = in_namespace(&self.rejected, namespace).map(|(_, policy)| &**policy);
        loaded.chain(rejected)
    }

    pub(super) fn container_flags(&self, info: &ContainerInfo) -> u32 {
        let own_root = if info.has_own_root { container_flag::OWN_ROOT } else { 0 };
        match info.image_digest {
            Some(image) if self.denied_images.contains(&image) => own_root | container_flag::DENIED,
            _ => own_root,
        }
    }

    /// Makes a container known, or updates what is known of it.
    ///
    /// # Errors
    /// When there is no slot or the kernel refuses: the container then stays unknown, which the managed root's verdict is for.
    pub fn container_started(&mut self, info: ContainerInfo) -> Result<(), EnforcementError> {
        let namespace = self.namespace_index(&info.namespace)?;
        let policy = self.policy_for(&info);
        let (policy_index, missing) = self.policy_slot(policy.as_ref(), &info);
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
            (before.policy, before.namespace, before.missing)
        } else {
            (policy_index, namespace, missing.value())
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
            missing,
            cgroup_id,
        };
        if let Err(error) = self.put_container(&info, index, container, is_new) {
            if is_new {
                self.container_slots.give_back(index);
            }
            return Err(error);
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

    /// The slot before the cgroup that points to it.
    fn put_container(
        &mut self,
        info: &ContainerInfo,
        index: u32,
        container: Container,
        is_new: bool,
    ) -> Result<(), EnforcementError> {
        self.tables.put_container(index, container)?;
        if !is_new {
            return Ok(());
        }
        let epoch = container.epoch;
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
            self.mark_running(info, index, epoch)?;
        }
        let entry = CgroupEntry {
            kind: cgroup_kind::CONTAINER,
            index,
            epoch,
            pending: 0,
        };
        self.tables.put_cgroup(info.cgroup_id, entry)?;
        self.next_epoch += 1;
        Ok(())
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
        let namespace = container.info.namespace;
        if let Some(pod) = container.info.pod_cgroup_id
            && self
                .containers
                .values()
                .all(|other| other.info.pod_cgroup_id != Some(pod))
            && self.pods.remove(&pod).is_some()
        {
            self.tables.remove_cgroup(pod)?;
        }
        self.release_namespace(&namespace);
        Ok(())
    }

    pub(super) fn remove_container(&mut self, cgroup_id: u64, index: u32) -> Result<(), EnforcementError> {
        self.tables.remove_cgroup(cgroup_id)?;
        self.tables.put_container(index, Container::default())?;
        self.container_slots.give_back(index);
        Ok(())
    }

    fn free_container(&mut self) -> Result<u32, EnforcementError> {
        let slots = self.tables.container_slots();
        self.container_slots.take(slots).ok_or(EnforcementError::NoSlot {
            what: "containers",
            slots,
        })
    }

    /// The most specific policy that matches; of several, the first by name. It may be one that the kernel could not be given.
    pub(super) fn policy_for(&self, info: &ContainerInfo) -> Option<PolicyName> {
        self.policies_of(&info.namespace)
            .filter(|policy| matches_target(policy, info))
            .max_by_key(|policy| (specificity(policy), std::cmp::Reverse(policy.name.as_str())))
            .map(|policy| PolicyName {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
            })
    }

    /// The slot of a container's policy, 0 without one, and what its programs meet then.
    pub(super) fn policy_slot(&self, policy: Option<&PolicyName>, info: &ContainerInfo) -> (u32, Word) {
        if let Some(rejected) = policy.and_then(|name| self.rejected.get(name)) {
            return (0, self.word(rejected, rejected.fail.map_full));
        }
        let index = policy
            .and_then(|name| self.policies.get(name))
            .map_or(0, |loaded| loaded.index);
        if info.name == SANDBOX_NAME {
            return (index, Word::OPEN);
        }
        // The strictest word of the namespace's policies: a container that none matches must not be the way around them.
        let policies = self.policies_of(&info.namespace);
        let missing = Word::strictest(policies.map(|policy| self.word(policy, policy.fail.missing)));
        (index, missing)
    }

    pub(super) fn match_containers(&mut self) -> Result<(), EnforcementError> {
        let known: Vec<u64> = self.containers.keys().copied().collect();
        for cgroup_id in known {
            let Some(loaded) = self.containers.get(&cgroup_id) else {
                continue;
            };
            let policy = self.policy_for(&loaded.info);
            let (policy_index, missing) = self.policy_slot(policy.as_ref(), &loaded.info);
            let index = loaded.index;
            let namespace = loaded.info.namespace.clone();
            let container = self.tables.container(index)?;
            if self.is_held(&container) {
                continue;
            }
            let namespace = self.namespace_index(&namespace)?;
            let now = Container {
                policy: policy_index,
                missing: missing.value(),
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
}

/// What belongs to the policies of a namespace, whatever the number of others.
fn in_namespace<'a, V>(
    map: &'a BTreeMap<PolicyName, V>,
    namespace: &str,
) -> impl Iterator<Item = (&'a PolicyName, &'a V)> + use<'a, V> {
    let namespace = namespace.to_owned();
    let first = PolicyName {
        namespace: namespace.clone(),
        name: String::new(),
    };
    map.range(first..)
        .take_while(move |(name, _)| name.namespace == namespace)
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
        && target.container.as_ref().map_or_else(
            // What holds a pod's namespaces is the node's own: its image is in the kubelet's configuration, and nobody can start
            // anything in it. Who means it has to name it.
            || info.name != SANDBOX_NAME,
            |container| *container == info.name,
        )
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
