//! What holds now: policies from documents and from derivations, mode overrides, and how far each service came.
//!
//! ```text
//!   directory ── documents ──┐
//!   reconciler ─ derived ────┼──► Board ──► store (commit) ──► PolicySet, revision + 1 ──► every agent's stream
//!   latticectl ─ modes ──────┤
//!   rollouts ─── reaches ────┘
//! ```
//!
//! Nothing is given out before the store has it, so that a restart never takes back what an agent was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
};

use lattice_api::v1 as wire;
use lattice_policy::{ExecPolicy, Mode};
use prost::Message;
use tokio::sync::{Mutex, watch};

use crate::{
    conditions::ServiceConditions,
    rollout::{
        evidence::{PolicyFacts, list_of},
        state::{Governed, Reach, RolloutState},
    },
    store::{DerivedPolicy, Remembered, Store, StoreError, StoredRollout, StoredTransition},
};

/// Namespace and name.
pub type Key = (String, String);

/// What was derived for one container, and is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Derived {
    service: String,
    generation: u64,
    /// `None` where it was withdrawn; the generation stays, so that it never falls.
    policy: Option<ExecPolicy>,
}

#[derive(Default)]
struct Contents {
    documents: BTreeMap<Key, ExecPolicy>,
    derived: BTreeMap<Key, Derived>,
    modes: BTreeMap<String, Mode>,
    services: BTreeMap<Key, ServiceConditions>,
    /// By namespace that has a rollout: where its policies are enforced, by name.
    rollouts: BTreeMap<String, BTreeMap<String, Governed>>,
}

/// The policy set as it is given out, with what differs between nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// What nodes are given that are no canaries.
    set: wire::PolicySet,
    /// By namespace that has a rollout: its policies, and where each is enforced.
    governed: BTreeMap<String, Vec<(PolicyFacts, Reach)>>,
}

impl Deref for Published {
    type Target = wire::PolicySet;

    fn deref(&self) -> &wire::PolicySet {
        &self.set
    }
}

impl Published {
    /// What a node is given.
    pub fn for_node(&self, node: &str) -> wire::PolicySet {
        let mut set = self.set.clone();
        let on_some = |reach: &Reach| matches!(reach, Reach::Nodes(nodes) if nodes.contains(node));
        let canaries: BTreeMap<(&str, &str), Mode> = self
            .governed
            .values()
            .flatten()
            .filter(|(_, reach)| on_some(reach))
            .map(|(facts, reach)| {
                let policy = &facts.policy;
                (
                    (policy.namespace.as_str(), policy.name.as_str()),
                    reach.mode(node, policy.mode),
                )
            })
            .collect();
        if canaries.is_empty() {
            return set;
        }
        for policy in &mut set.policies {
            if let Some(mode) = canaries.get(&(policy.namespace.as_str(), policy.name.as_str())) {
                policy.mode = mode.word().to_owned();
            }
        }
        set
    }

    /// The policies of a namespace that has a rollout; none before it is known.
    pub fn facts(&self, namespace: &str) -> Vec<PolicyFacts> {
        let governed = self.governed.get(namespace).into_iter().flatten();
        governed.map(|(facts, _)| facts.clone()).collect()
    }

    /// Where a rollout enforces a policy; `None` where there is no rollout.
    pub fn reach(&self, namespace: &str, policy: &str) -> Option<&Reach> {
        let governed = self.governed.get(namespace)?;
        let found = governed.iter().find(|(facts, _)| facts.policy.name == policy);
        found.map(|(_, reach)| reach)
    }
}

/// Why a derivation could not be put into force.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another service's policy, or a document, has the name.
    #[error("the policy name {namespace}/{name} is taken by {holder}; rename the service or that policy")]
    NameTaken {
        /// Namespace of the policy.
        namespace: String,
        /// Name of the policy.
        name: String,
        /// Who has it.
        holder: String,
    },
}

/// What holds now.
pub struct Board {
    contents: Mutex<Contents>,
    policies: watch::Sender<Arc<Published>>,
    /// Counts what was said of services, so that somebody can wait for more.
    said: watch::Sender<u64>,
    store: Store,
}

impl Board {
    /// Begins with what the store remembers: what held before a restart holds until something else is proven.
    pub fn new(store: Store, remembered: Remembered) -> Self {
        for name in &remembered.damaged_policies {
            tracing::error!(policy = %name, "the kept policy's checksum does not hold; it does not count until it is derived again");
        }
        let mut contents = Contents::default();
        for (namespace, word) in remembered.namespace_modes {
            match word.parse() {
                Ok(mode) => drop(contents.modes.insert(namespace, mode)),
                Err(_) => {
                    tracing::error!(%namespace, mode = %word, "the kept mode is none; the override does not count")
                }
            }
        }
        for kept in remembered.derived_policies {
            let DerivedPolicy {
                namespace,
                name,
                service,
                generation,
                policy,
            } = kept;
            let policy = policy.and_then(|bytes| match decode_policy(&bytes) {
                Ok(policy) => Some(policy),
                Err(error) => {
                    tracing::error!(%namespace, %name, %error, "the kept policy cannot be read; it does not count");
                    None
                }
            });
            contents.derived.insert(
                (namespace, name),
                Derived {
                    service,
                    generation,
                    policy,
                },
            );
        }
        for namespace in &remembered.damaged_rollouts {
            tracing::error!(%namespace, "the kept rollout's checksum does not hold; it begins anew, in monitor");
            contents.rollouts.insert(namespace.clone(), BTreeMap::new());
        }
        for kept in &remembered.rollouts {
            let Some(bytes) = &kept.state else { continue };
            let governed = match RolloutState::decode(bytes) {
                Ok(state) => state.governed(),
                Err(error) => {
                    tracing::error!(namespace = %kept.namespace, %error, "the kept rollout cannot be read; it begins anew, in monitor");
                    BTreeMap::new()
                }
            };
            contents.rollouts.insert(kept.namespace.clone(), governed);
        }
        let policies = watch::Sender::new(Arc::new(contents.published(remembered.revision)));
        Self {
            contents: Mutex::new(contents),
            policies,
            said: watch::Sender::new(0),
            store,
        }
    }

    /// The policy set; the newest wins.
    pub fn policies(&self) -> watch::Receiver<Arc<Published>> {
        self.policies.subscribe()
    }

    /// The documents that are served as they are.
    ///
    /// # Errors
    /// When the store refuses; then the old ones stay in force.
    pub async fn set_documents(&self, documents: BTreeMap<Key, ExecPolicy>) -> Result<(), StoreError> {
        let mut contents = self.contents.lock().await;
        if contents.documents == documents {
            return Ok(());
        }
        let revision = self.store.keep_policies(Vec::new()).await?;
        contents.documents = documents;
        self.publish(&contents, revision);
        Ok(())
    }

    /// Sets or clears a namespace's mode; the answer is the revision that says so to the agents.
    ///
    /// # Errors
    /// When the store refuses; then the old mode stays in force.
    pub async fn set_mode(&self, namespace: String, mode: Option<Mode>) -> Result<u64, StoreError> {
        let mut contents = self.contents.lock().await;
        let word = mode.map(|mode| mode.word().to_owned());
        let revision = self.store.set_mode(namespace.clone(), word).await?;
        match mode {
            Some(mode) => contents.modes.insert(namespace, mode),
            None => contents.modes.remove(&namespace),
        };
        self.publish(&contents, revision);
        Ok(revision)
    }

    /// Puts a service's derivation into force, all of it or none. A generation rises only where content changed, and a
    /// container that is gone loses its policy. Returns the generations by policy name.
    ///
    /// # Errors
    /// When a policy's name is taken, or the store refuses; then what was in force stays.
    pub async fn set_derived(
        &self,
        service: &Key,
        policies: Vec<ExecPolicy>,
    ) -> Result<BTreeMap<String, u64>, BoardError> {
        let mut contents = self.contents.lock().await;
        let mut changed = BTreeMap::new();
        let mut generations = BTreeMap::new();
        for mut policy in policies {
            let key = (policy.namespace.clone(), policy.name.clone());
            contents.check_name(&key, &service.1)?;
            let known = contents.derived.get(&key);
            let generation = known.map_or(0, |known| known.generation);
            policy.generation = generation;
            if known.is_none_or(|known| known.policy.as_ref() != Some(&policy) || known.service != service.1) {
                policy.generation = generation + 1;
                let derived = Derived {
                    service: service.1.clone(),
                    generation: policy.generation,
                    policy: Some(policy.clone()),
                };
                changed.insert(key, derived);
            }
            generations.insert(policy.name, policy.generation);
        }
        for (key, derived) in contents.of_service(service) {
            if derived.policy.is_some() && !generations.contains_key(&key.1) {
                changed.insert(
                    key.clone(),
                    Derived {
                        policy: None,
                        ..derived.clone()
                    },
                );
            }
        }
        self.keep(&mut contents, changed).await?;
        Ok(generations)
    }

    /// Withdraws the policies and conditions of every service that is not among these.
    ///
    /// # Errors
    /// When the store refuses; then they stay in force.
    pub async fn retain_services(&self, services: &BTreeSet<Key>) -> Result<(), BoardError> {
        let mut contents = self.contents.lock().await;
        contents.services.retain(|key, _| services.contains(key));
        let gone: BTreeMap<Key, Derived> = contents
            .derived
            .iter()
            .filter(|(key, derived)| {
                derived.policy.is_some() && !services.contains(&(key.0.clone(), derived.service.clone()))
            })
            .map(|(key, derived)| {
                (
                    key.clone(),
                    Derived {
                        policy: None,
                        ..derived.clone()
                    },
                )
            })
            .collect();
        for (namespace, name) in gone.keys() {
            tracing::info!(%namespace, %name, "the service is gone, and its policy with it");
        }
        self.keep(&mut contents, gone).await
    }

    async fn keep(&self, contents: &mut Contents, changed: BTreeMap<Key, Derived>) -> Result<(), BoardError> {
        if changed.is_empty() {
            return Ok(());
        }
        let rows = changed
            .iter()
            .map(|((namespace, name), derived)| DerivedPolicy {
                namespace: namespace.clone(),
                name: name.clone(),
                service: derived.service.clone(),
                generation: derived.generation,
                policy: derived
                    .policy
                    .as_ref()
                    .map(|policy| wire::ExecPolicy::from(policy).encode_to_vec()),
            })
            .collect();
        let revision = self.store.keep_policies(rows).await?;
        contents.derived.extend(changed);
        self.publish(contents, revision);
        Ok(())
    }

    fn publish(&self, contents: &Contents, revision: u64) {
        let set = contents.published(revision);
        tracing::info!(
            revision,
            policies = set.policies.len(),
            modes = set.namespace_modes.len(),
            "policy set"
        );
        self.policies.send_replace(Arc::new(set));
    }

    /// Keeps what became of a namespace's rollout, and puts its effect into force; with no state the rollout is gone, and its policies have
    /// the modes that they say. The answer is the revision that says so to the agents; 0 where they are given nothing new.
    ///
    /// # Errors
    /// When the store refuses; then nothing has changed.
    pub async fn keep_rollout(
        &self,
        namespace: &str,
        state: Option<&RolloutState>,
        transitions: Vec<StoredTransition>,
    ) -> Result<u64, StoreError> {
        let mut contents = self.contents.lock().await;
        let governed = state.map(RolloutState::governed);
        let before = contents.rollouts.get(namespace);
        let is_given_out = before.map(enforced) != governed.as_ref().map(enforced);
        let rollout = StoredRollout {
            namespace: namespace.to_owned(),
            state: state.map(RolloutState::encode),
        };
        let revision = self.store.keep_rollout(rollout, transitions, is_given_out).await?;
        match governed {
            Some(governed) => drop(contents.rollouts.insert(namespace.to_owned(), governed)),
            None => drop(contents.rollouts.remove(namespace)),
        }
        if is_given_out {
            self.publish(&contents, revision);
        }
        Ok(revision)
    }

    /// Says how far a service came.
    pub async fn set_conditions(&self, service: Key, conditions: ServiceConditions) {
        let mut contents = self.contents.lock().await;
        let before = contents.services.insert(service.clone(), conditions.clone());
        if before.as_ref() != Some(&conditions) {
            conditions.log(&service);
            self.said.send_modify(|said| *said += 1);
        }
    }

    /// Changes whenever something new is said of a service.
    pub fn said(&self) -> watch::Receiver<u64> {
        self.said.subscribe()
    }

    /// How far each service came.
    pub async fn services(&self) -> BTreeMap<Key, ServiceConditions> {
        self.contents.lock().await.services.clone()
    }

    /// The generations of a service that are in force.
    pub async fn generations(&self, service: &Key) -> BTreeMap<String, u64> {
        let contents = self.contents.lock().await;
        let of_service = contents
            .of_service(service)
            .filter(|(_, derived)| derived.policy.is_some());
        of_service
            .map(|(key, derived)| (key.1.clone(), derived.generation))
            .collect()
    }
}

impl Contents {
    fn of_service<'a>(&'a self, service: &'a Key) -> impl Iterator<Item = (&'a Key, &'a Derived)> {
        self.derived
            .iter()
            .filter(|(key, derived)| key.0 == service.0 && derived.service == service.1)
    }

    fn check_name(&self, key: &Key, service: &str) -> Result<(), BoardError> {
        let taken = |holder: String| BoardError::NameTaken {
            namespace: key.0.clone(),
            name: key.1.clone(),
            holder,
        };
        if self.documents.contains_key(key) {
            return Err(taken("an ExecPolicy document".to_owned()));
        }
        match self.derived.get(key) {
            Some(other) if other.policy.is_some() && other.service != service => {
                Err(taken(format!("the service {}", other.service)))
            }
            _ => Ok(()),
        }
    }

    fn published(&self, revision: u64) -> Published {
        let derived = self
            .derived
            .iter()
            // A document that took the name later wins: it is what a person wrote.
            .filter(|(key, _)| !self.documents.contains_key(*key))
            .filter_map(|(_, derived)| derived.policy.as_ref());
        let mut governed: BTreeMap<String, Vec<(PolicyFacts, Reach)>> = BTreeMap::new();
        for namespace in self.rollouts.keys() {
            governed.insert(namespace.clone(), Vec::new());
        }
        let mut policies = Vec::new();
        for policy in self.documents.values().chain(derived) {
            let mut message = wire::ExecPolicy::from(policy);
            if let Some(rollout) = self.rollouts.get(&policy.namespace) {
                let list = list_of(policy);
                // What the rollout has not seen yet monitors until it has.
                let known = rollout.get(&policy.name).filter(|known| list.continues(&known.list));
                let reach = known.map_or(Reach::Nowhere, |known| known.reach.clone());
                message.mode = reach.mode_elsewhere(policy.mode).word().to_owned();
                let facts = PolicyFacts {
                    policy: Arc::new(policy.clone()),
                    list,
                };
                governed
                    .entry(policy.namespace.clone())
                    .or_default()
                    .push((facts, reach));
            }
            policies.push(message);
        }
        let namespace_modes = self.modes.iter().map(|(namespace, mode)| wire::NamespaceMode {
            namespace: namespace.clone(),
            mode: mode.word().to_owned(),
        });
        let set = wire::PolicySet {
            revision,
            policies,
            namespace_modes: namespace_modes.collect(),
        };
        Published { set, governed }
    }
}

/// What of a rollout's word makes a difference: all else monitors.
fn enforced(rollout: &BTreeMap<String, Governed>) -> BTreeMap<&String, &Governed> {
    let is_enforced = |(_, governed): &(&String, &Governed)| governed.reach != Reach::Nowhere;
    rollout.iter().filter(is_enforced).collect()
}

fn decode_policy(bytes: &[u8]) -> Result<ExecPolicy, String> {
    let message = wire::ExecPolicy::decode(bytes).map_err(|error| error.to_string())?;
    ExecPolicy::try_from(message).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
