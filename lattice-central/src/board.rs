//! What holds now: policies from documents and from derivations, mode overrides, and how far each service came.
//!
//! ```text
//!   directory ── documents ──┐
//!   reconciler ─ derived ────┼──► Board ──► store (commit) ──► PolicySet, revision + 1 ──► every agent's stream
//!   latticectl ─ modes ──────┘
//! ```
//!
//! Nothing is given out before the store has it, so that a restart never takes back what an agent was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lattice_api::v1 as wire;
use lattice_policy::{ExecPolicy, Mode};
use prost::Message;
use tokio::sync::{Mutex, watch};

use crate::{
    conditions::ServiceConditions,
    store::{DerivedPolicy, Remembered, Store, StoreError},
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
    policies: watch::Sender<Arc<wire::PolicySet>>,
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
        let policies = watch::Sender::new(Arc::new(contents.policy_set(remembered.revision)));
        Self {
            contents: Mutex::new(contents),
            policies,
            said: watch::Sender::new(0),
            store,
        }
    }

    /// The policy set; the newest wins.
    pub fn policies(&self) -> watch::Receiver<Arc<wire::PolicySet>> {
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
        let set = contents.policy_set(revision);
        tracing::info!(
            revision,
            policies = set.policies.len(),
            modes = set.namespace_modes.len(),
            "policy set"
        );
        self.policies.send_replace(Arc::new(set));
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

    fn policy_set(&self, revision: u64) -> wire::PolicySet {
        let derived = self
            .derived
            .iter()
            // A document that took the name later wins: it is what a person wrote.
            .filter(|(key, _)| !self.documents.contains_key(*key))
            .filter_map(|(_, derived)| derived.policy.as_ref());
        wire::PolicySet {
            revision,
            policies: self
                .documents
                .values()
                .chain(derived)
                .map(wire::ExecPolicy::from)
                .collect(),
            namespace_modes: self
                .modes
                .iter()
                .map(|(namespace, mode)| wire::NamespaceMode {
                    namespace: namespace.clone(),
                    mode: mode.word().to_owned(),
                })
                .collect(),
        }
    }
}

fn decode_policy(bytes: &[u8]) -> Result<ExecPolicy, String> {
    let message = wire::ExecPolicy::decode(bytes).map_err(|error| error.to_string())?;
    ExecPolicy::try_from(message).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
