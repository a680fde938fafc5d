//! Policies that the kernel could not be given, and without a generation before in force: their containers must not run as if there were
//! none. What such a policy says of a full map holds for them, and whenever there is room again it is tried again.

use std::sync::Arc;

use lattice_common::{abi::IN_MONITOR, verdict};
use lattice_policy::{ExecPolicy, Mode};

use super::{Enforcement, EnforcementError, PolicyName, compile::fail_action, tables::Tables};
use crate::containers::{ContainerInfo, identity::SANDBOX_NAME};

/// What is said of a failure, as the kernel's fields have it: what is done, and whether only in monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u32);

impl Word {
    /// Of nobody: there is nothing to be refused for.
    pub(super) const OPEN: Self = Self(verdict::FailAction::OPEN.0);

    pub(super) fn new(action: lattice_policy::FailAction, mode: Mode) -> Self {
        match (fail_action(action), mode) {
            (verdict::FailAction::OPEN, _) => Self::OPEN,
            (action, Mode::Monitor) => Self(action.0 | IN_MONITOR),
            (action, _) => Self(action.0),
        }
    }

    /// The field's value.
    pub(super) fn value(self) -> u32 {
        self.0
    }

    /// The strictest of several; open where there is none.
    pub(super) fn strictest(words: impl Iterator<Item = Self>) -> Self {
        let strictness = |word: &Self| {
            let kills = word.0 & !IN_MONITOR == verdict::FailAction::KILL.0;
            (*word != Self::OPEN, word.0 & IN_MONITOR == 0, kills)
        };
        words.max_by_key(strictness).unwrap_or(Self::OPEN)
    }
}

/// Why a container may start what it likes although its namespace has policies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unguarded {
    /// None of them is for it.
    Missing,
    /// Its own, of this name, is not loaded.
    NotLoaded(String),
}

impl<T: Tables> Enforcement<T> {
    /// What a policy of a namespace says of a failure.
    pub(super) fn word(&self, policy: &ExecPolicy, action: lattice_policy::FailAction) -> Word {
        let held = self.overrides.get(&policy.namespace).copied();
        Word::new(action, held.unwrap_or(policy.mode))
    }

    /// How many policies the kernel could not be given.
    pub fn rejected_count(&self) -> usize {
        self.rejected.len()
    }

    /// The policy that a container would have, had the kernel been given it.
    pub fn rejected_policy_of(&self, info: &ContainerInfo) -> Option<&ExecPolicy> {
        Some(self.rejected.get(&self.policy_for(info)?)?)
    }

    /// Containers that may start what they like although their namespace has policies: by the word of one, or for want of one.
    pub fn unguarded(&self) -> impl Iterator<Item = (&ContainerInfo, Unguarded)> {
        self.containers
            .keys()
            .filter_map(|cgroup_id| self.unguarded_in(*cgroup_id))
    }

    /// The container in a cgroup, if it is one of those.
    pub fn unguarded_in(&self, cgroup_id: u64) -> Option<(&ContainerInfo, Unguarded)> {
        let known = self.containers.get(&cgroup_id)?;
        // What holds a pod's namespaces starts nothing of anybody's.
        if known.info.name == SANDBOX_NAME {
            return None;
        }
        let name = known.policy.as_ref();
        if name.is_some_and(|name| self.policies.contains_key(name)) {
            return None;
        }
        let has_policies = self.policies_of(&known.info.namespace).next().is_some();
        let (_, missing) = self.policy_slot(name, &known.info);
        let why = match name {
            Some(name) => Unguarded::NotLoaded(name.name.clone()),
            None => Unguarded::Missing,
        };
        (has_policies && missing == Word::OPEN).then_some((&known.info, why))
    }

    /// Tries again what was rejected, after something was let go. Returns those that are loaded now.
    pub(super) fn retry(&mut self) -> Vec<PolicyName> {
        let rejected: Vec<(PolicyName, Arc<ExecPolicy>)> = self
            .rejected
            .iter()
            .map(|(name, policy)| (name.clone(), Arc::clone(policy)))
            .collect();
        let mut loaded = Vec::new();
        for (name, policy) in rejected {
            if self.load(&name, policy).is_ok() {
                self.rejected.remove(&name);
                loaded.push(name);
            }
        }
        loaded
    }

    /// As [`Enforcement::retry`], and what is loaded now holds.
    pub(super) fn retry_and_match(&mut self) -> Result<(), EnforcementError> {
        for name in self.retry() {
            tracing::info!(policy = %name, "there is room again: the policy is in force");
        }
        self.match_containers()
    }
}

#[cfg(test)]
mod tests {
    use lattice_policy::FailAction::{Closed, Kill, Open};

    use super::*;

    #[test]
    fn the_strictest_word_is_one_that_refuses() {
        let order = [
            Word::new(Open, Mode::Enforce),
            Word::new(Closed, Mode::Monitor),
            Word::new(Kill, Mode::Monitor),
            Word::new(Closed, Mode::Deny),
            Word::new(Kill, Mode::Enforce),
        ];
        for (place, word) in order.iter().enumerate() {
            assert_eq!(Word::strictest(order[..=place].iter().copied()), *word);
            assert_eq!(Word::strictest(order[..=place].iter().rev().copied()), *word);
        }
        assert_eq!(Word::strictest(std::iter::empty()), Word::OPEN);
        assert_eq!(Word::new(Open, Mode::Monitor), Word::OPEN);
    }
}
