//! Namespaces: their slots, and the modes that override those of their policies.

use std::collections::{BTreeMap, BTreeSet};

use lattice_common::abi::{Namespace, namespace_flag};
use lattice_policy::Mode;

use super::{Enforcement, EnforcementError, compile::mode, tables::Tables};

impl<T: Tables> Enforcement<T> {
    /// Namespaces keep their index while anything is in them, and are found by name: an override is one write, whatever the number of
    /// containers.
    pub(super) fn namespace_index(&mut self, namespace: &str) -> Result<u32, EnforcementError> {
        if let Some(&index) = self.namespaces.get(namespace) {
            return Ok(index);
        }
        let slots = self.tables.namespace_slots();
        let index = self.namespace_slots.take(slots).ok_or(EnforcementError::NoSlot {
            what: "namespaces",
            slots: slots - 1,
        })?;
        let mode = self.overrides.get(namespace).map_or(0, |&held| mode(held).0);
        let flags = self.namespace_flags(namespace);
        if let Err(error) = self.tables.put_namespace(index, Namespace { mode, flags }) {
            self.namespace_slots.give_back(index);
            return Err(error.into());
        }
        self.namespaces.insert(namespace.to_owned(), index);
        Ok(index)
    }

    /// Gives a namespace's slot away once nothing is in it.
    pub(super) fn release_namespace(&mut self, namespace: &str) {
        let is_used = self.overrides.contains_key(namespace)
            || self.pods.values().any(|of_pod| of_pod == namespace)
            || self.containers.values().any(|known| known.info.namespace == namespace);
        if !is_used && let Some(index) = self.namespaces.remove(namespace) {
            self.namespace_slots.give_back(index);
        }
    }

    fn namespace_flags(&self, namespace: &str) -> u32 {
        if self.may_use_bpf.contains(namespace) {
            namespace_flag::BPF
        } else {
            0
        }
    }

    pub(super) fn set_overrides(&mut self, overrides: BTreeMap<String, Mode>) -> Result<(), EnforcementError> {
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
                self.release_namespace(&namespace);
            }
        }
        Ok(())
    }

    /// Namespaces whose containers may use bpf(2). Told before policies and containers.
    pub fn grant_bpf(&mut self, namespaces: impl IntoIterator<Item = String>) {
        self.may_use_bpf = namespaces.into_iter().collect();
    }

    /// All overrides in force.
    pub fn overrides(&self) -> &BTreeMap<String, Mode> {
        &self.overrides
    }
}
