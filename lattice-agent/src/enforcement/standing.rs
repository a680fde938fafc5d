//! What holds for which container, for people and for events.

use std::sync::Arc;

use lattice_policy::{ExecPolicy, Mode};

use super::{Enforcement, LoadedContainer, tables::Tables};
use crate::containers::ContainerInfo;

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

impl<T: Tables> Enforcement<T> {
    /// The container in a slot, if the epoch is still its own.
    pub fn container_in_slot(&self, index: u32, epoch: u32) -> Option<&ContainerInfo> {
        self.containers
            .values()
            .find(|known| known.index == index && known.epoch == epoch)
            .map(|known| &known.info)
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
