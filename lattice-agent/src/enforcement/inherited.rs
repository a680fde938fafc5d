//! What the pinned maps held before a restart, and how long it counts: until the same policies and containers have been told again.

use std::collections::{BTreeMap, BTreeSet};

use lattice_common::abi::{self, CgroupEntry, Container, FIRST_POLICY_SET, NO_SET, cgroup_kind};

use super::{Enforcement, EnforcementError, HostRoot, sets::LoadedSet, slots::Slots, tables::Tables};

#[derive(Default)]
pub(super) struct Inherited {
    pub(super) cgroups: BTreeMap<u64, CgroupEntry>,
    pub(super) policies: BTreeSet<u32>,
    pub(super) sets: BTreeSet<u32>,
    pub(super) settled: bool,
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
        let of_containers = containers.values().map(|container| container.namespace);
        let pods = cgroups.values().filter(|entry| entry.kind == cgroup_kind::POD);
        let namespace_slots = Slots::new(1, of_containers.chain(pods.map(|entry| entry.index)));
        Ok(Self {
            next_epoch: containers.values().map(|container| container.epoch).max().unwrap_or(0) + 1,
            next_set: sets.keys().copied().max().unwrap_or(0).max(FIRST_POLICY_SET - 1) + 1,
            container_slots: Slots::new(0, containers.keys().copied()),
            policy_slots: Slots::new(1, policies.keys().copied()),
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
            namespace_slots,
            overrides: BTreeMap::new(),
            is_complete: true,
            settle_is_due: false,
        })
    }

    /// Says that not all policies and modes are known that may have held before a restart. Containers that had a policy then keep it, with
    /// its mode, until [`Enforcement::apply_all`].
    pub fn set_incomplete(&mut self) {
        self.is_complete = false;
    }

    /// Whether what a container had before the restart is still in force for it, whatever is told now.
    pub(super) fn is_held(&self, container: &Container) -> bool {
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
        self.namespace_slots = Slots::new(1, self.namespaces.values().copied());
        let claimed: BTreeSet<u32> = self.policies.values().map(|loaded| loaded.index).collect();
        for index in inherited.policies.into_iter().filter(|index| !claimed.contains(index)) {
            self.tables.put_policy(index, abi::Policy::default())?;
            self.policy_slots.give_back(index);
        }
        for number in inherited.sets {
            if number != NO_SET && self.sets.get(&number).is_some_and(|loaded| loaded.users == 0) {
                self.drop_set(number)?;
            }
        }
        if self.rejected.is_empty() {
            Ok(())
        } else {
            self.retry_and_match()
        }
    }
}
