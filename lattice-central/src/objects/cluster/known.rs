//! What is known of the cluster's objects: each at its last good state, and what is wrong with a newer one.

use std::collections::{BTreeMap, BTreeSet};

use kube::{core::DynamicObject, runtime::watcher::Event};
use lattice_api::object::{CedarPolicy, LatticeRollout, LatticeService, Object, Secret, SecretReference, TrustPolicy};
use lattice_policy::exec_policy_document::{API_VERSION, KIND};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    reading,
    watching::{Change, KINDS, Kind, Watched},
};
use crate::{
    board::Key,
    children::{MANAGED_BY, MANAGED_BY_LABEL},
    objects::{
        ObjectSet,
        gates::{self, Gates},
        last_good::LastGood,
        parts::Parts,
    },
};

/// An object of which central says how it fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) key: Key,
    /// What it is called in messages.
    pub(super) origin: String,
    pub(super) generation: i64,
    /// What its status says now.
    pub(super) status: Value,
    pub(super) standing: Standing,
}

/// How an object fares by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It counts.
    Good,
    /// It cannot be read, or does not go with the others; what it said before counts, if that was good.
    Invalid(String),
    /// It counts, but what it refers to cannot be used.
    Unusable(String),
    /// It is as good as another one that counts, and there may be only one.
    Surplus(String),
}

struct KnownObject {
    uid: String,
    /// Seconds since the Unix epoch.
    created: i64,
    generation: i64,
    last_good: Option<Object>,
    problems: Vec<String>,
    status: Value,
}

/// All that is known.
pub(super) struct Known {
    last_good: LastGood,
    objects: BTreeMap<(Kind, Key), KnownObject>,
    secrets: BTreeMap<SecretReference, Option<Secret>>,
    gates: Gates,
    /// Objects that a list under way has not shown yet, by what is listed; those that are left at its end are gone.
    unseen: BTreeMap<Watched, BTreeSet<Key>>,
    listed: BTreeSet<Watched>,
    /// Why keys cannot be used, by registry.
    trust_problems: BTreeMap<String, Vec<String>>,
    /// Which rollout counts, by namespace.
    rollouts: BTreeMap<String, String>,
}

impl Known {
    pub(super) fn new(last_good: LastGood) -> Self {
        Self {
            gates: Gates::of_before(&last_good),
            last_good,
            objects: BTreeMap::new(),
            secrets: BTreeMap::new(),
            unseen: BTreeMap::new(),
            listed: BTreeSet::new(),
            trust_problems: BTreeMap::new(),
            rollouts: BTreeMap::new(),
        }
    }

    /// Whether every kind, and each of these Secrets, was listed once.
    pub(super) fn is_complete<'a>(&self, mut secrets: impl Iterator<Item = &'a SecretReference>) -> bool {
        KINDS.iter().all(|kind| self.listed.contains(&Watched::Kind(*kind)))
            && secrets.all(|reference| self.listed.contains(&Watched::Secret(reference.clone())))
    }

    /// Takes a change; whether anything that central goes by may be different.
    pub(super) fn take(&mut self, change: Change) -> bool {
        let Change { of, event } = change;
        match event {
            Event::Init => {
                let present = match &of {
                    Watched::Kind(kind) => {
                        let all = self.objects.keys().filter(|(other, _)| other == kind);
                        all.map(|(_, key)| key.clone()).collect()
                    }
                    Watched::Secret(reference) => {
                        BTreeSet::from([(reference.namespace.clone(), reference.name.clone())])
                    }
                };
                self.unseen.insert(of, present);
                false
            }
            Event::InitApply(object) => {
                if let Some(unseen) = self.unseen.get_mut(&of) {
                    unseen.remove(&key_of(&object));
                }
                self.put(&of, &object)
            }
            Event::InitDone => {
                let is_first = self.listed.insert(of.clone());
                let mut is_changed = is_first;
                for key in self.unseen.remove(&of).unwrap_or_default() {
                    is_changed |= self.remove(&of, &key);
                }
                if is_first && matches!(of, Watched::Kind(_)) && self.is_complete(std::iter::empty()) {
                    self.forget_gone();
                }
                is_changed
            }
            Event::Apply(object) => self.put(&of, &object),
            Event::Delete(object) => self.remove(&of, &key_of(&object)),
        }
    }

    fn put(&mut self, of: &Watched, object: &DynamicObject) -> bool {
        match of {
            Watched::Secret(reference) => {
                // What is wrong with a Secret shows with the TrustPolicy that names it.
                let secret = match reading::read("v1", Secret::KIND, object) {
                    Ok(Object::Secret(secret)) => Some(secret),
                    _ => None,
                };
                let before = self.secrets.insert(reference.clone(), secret);
                before.as_ref() != self.secrets.get(reference)
            }
            Watched::Kind(kind) => self.put_object(*kind, object),
        }
    }

    fn put_object(&mut self, kind: Kind, object: &DynamicObject) -> bool {
        let key = key_of(object);
        let labels = object.metadata.labels.as_ref();
        let is_own = labels.is_some_and(|labels| labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY));
        // Such an ExecPolicy is what a derivation came to, not a document.
        if is_own && kind.name == KIND {
            return self.remove(&Watched::Kind(kind), &key);
        }
        let name = kept_name(kind, &key);
        let created = object.metadata.creation_timestamp.as_ref();
        let created = created.map_or(i64::MAX, |time| time.0.as_second());
        let status = object.data.get("status").cloned().unwrap_or_default();
        let generation = object.metadata.generation.unwrap_or(0);
        let read = reading::read(API_VERSION, kind.name, object);
        let uid = object.metadata.uid.clone().unwrap_or_default();
        // One that was made anew under the same name owes nothing to the one before, also where nobody told that that one is gone.
        let before = self.objects.remove(&(kind, key.clone()));
        let same = before.as_ref().filter(|before| before.uid == uid);
        let (last_good, problems) = match read {
            Ok(read) => {
                if same.and_then(|before| before.last_good.as_ref()) != Some(&read) {
                    // A document of JSON has no value that JSON lacks.
                    self.last_good
                        .keep(&name, &serde_json::to_vec(object).unwrap_or_default());
                }
                (Some(read), Vec::new())
            }
            Err(problems) => {
                let last_good = match same {
                    Some(before) => before.last_good.clone(),
                    // Until it is good, what was good before a restart holds.
                    None => self.last_good.read(&name).and_then(|bytes| {
                        let kept: DynamicObject = serde_json::from_slice(&bytes).ok()?;
                        let is_same = kept.metadata.uid.as_deref() == Some(&uid);
                        is_same.then(|| reading::read(API_VERSION, kind.name, &kept).ok())?
                    }),
                };
                (last_good, problems)
            }
        };
        let now = KnownObject {
            uid,
            created,
            generation,
            last_good,
            problems,
            status,
        };
        let is_changed = before.as_ref().is_none_or(|before| {
            before.last_good != now.last_good || before.problems != now.problems || before.uid != now.uid
        });
        self.objects.insert((kind, key), now);
        is_changed
    }

    fn remove(&mut self, of: &Watched, key: &Key) -> bool {
        match of {
            Watched::Kind(kind) => {
                self.last_good.forget(&kept_name(*kind, key));
                self.objects.remove(&(*kind, key.clone())).is_some()
            }
            Watched::Secret(reference) => self
                .secrets
                .insert(reference.clone(), None)
                .is_none_or(|before| before.is_some()),
        }
    }

    /// What is kept of objects that are gone.
    fn forget_gone(&self) {
        let present: BTreeSet<String> = self.objects.keys().map(|(kind, key)| kept_name(*kind, key)).collect();
        self.last_good
            .retain(|name| name == gates::KEPT_AS || present.contains(name));
    }

    /// The Secrets that TrustPolicies name.
    pub(super) fn wanted_secrets(&self) -> BTreeSet<SecretReference> {
        let objects = self.objects.values().filter_map(|known| known.last_good.as_ref());
        objects
            .filter_map(|object| match object {
                Object::TrustPolicy(TrustPolicy { spec, .. }) => Some(spec.cosign.public_key.secret_ref.clone()),
                _ => None,
            })
            .collect()
    }

    /// Everything that the cluster says, as far as it is good.
    pub(super) fn objects(&mut self) -> ObjectSet {
        let texts = self.objects.values().filter_map(|known| match &known.last_good {
            Some(Object::CedarPolicy(policy)) => {
                Some((format!("CedarPolicy {}", policy.name), policy.spec.policies.clone()))
            }
            _ => None,
        });
        let texts = texts.collect();
        // One that cannot be read may hold the forbid.
        let unreadable = self
            .objects
            .iter()
            .filter(|((kind, _), known)| kind.name == CedarPolicy::KIND && known.last_good.is_none())
            .map(|((kind, key), known)| (origin(*kind, key), known.problems.join("; ")))
            .collect();
        self.gates.take(texts, unreadable, &self.last_good);
        let mut parts = Parts::new(&self.gates);
        let mut all: Vec<_> = self.objects.iter().collect();
        // Of several rollouts of a namespace the oldest counts: a new one takes nothing over by its name.
        all.sort_by_key(|((kind, key), known)| (*kind, known.created, key));
        for ((kind, key), known) in all {
            let origin = origin(*kind, key);
            if let Some(object) = &known.last_good {
                parts.add(&origin, object);
            }
            if kind.name == LatticeService::KIND {
                parts.uid(key, &known.uid);
            }
            parts.problems(
                &origin,
                known.problems.iter().map(|problem| format!("{origin}: {problem}")),
            );
        }
        for secret in self.secrets.values().flatten() {
            parts.add_secret(secret);
        }
        let set = parts.into_set();
        self.trust_problems = set.trust.problems.clone();
        let counting = set.rollouts.iter();
        self.rollouts = counting
            .map(|(namespace, rollout)| (namespace.clone(), rollout.name.clone()))
            .collect();
        set
    }

    /// Every object, for what is said of it.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        self.objects
            .iter()
            .map(|((kind, key), known)| Subject {
                kind: *kind,
                key: key.clone(),
                origin: origin(*kind, key),
                generation: known.generation,
                status: known.status.clone(),
                standing: self.standing(&origin(*kind, key), known),
            })
            .collect()
    }

    fn standing(&self, origin: &str, known: &KnownObject) -> Standing {
        let mut problems = known.problems.clone();
        problems.extend(self.gates.problems().get(origin).into_iter().flatten().cloned());
        if !problems.is_empty() {
            return Standing::Invalid(problems.join("; "));
        }
        let policy = match &known.last_good {
            Some(Object::TrustPolicy(policy)) => policy,
            Some(Object::LatticeRollout(LatticeRollout { namespace, name, .. })) => {
                return match self.rollouts.get(namespace).filter(|counts| *counts != name) {
                    Some(counts) => Standing::Surplus(format!(
                        "namespace {namespace} has a LatticeRollout already, {counts}, which is older and counts; remove one of them"
                    )),
                    None => Standing::Good,
                };
            }
            _ => return Standing::Good,
        };
        let of_registry = self.trust_problems.get(&policy.spec.registry).into_iter().flatten();
        let own: Vec<&str> = of_registry
            .filter_map(|problem| problem.strip_prefix(origin)?.strip_prefix(": "))
            .collect();
        if own.is_empty() {
            Standing::Good
        } else {
            Standing::Unusable(own.join("; "))
        }
    }
}

fn key_of(object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// What an object is called in messages.
fn origin(kind: Kind, (namespace, name): &Key) -> String {
    if namespace.is_empty() {
        format!("{} {name}", kind.name)
    } else {
        format!("{} {namespace}/{name}", kind.name)
    }
}

/// Names of objects can be longer than those of files.
fn kept_name(kind: Kind, (namespace, name): &Key) -> String {
    hex::encode(Sha256::digest(format!("{}/{namespace}/{name}", kind.name)))
}

#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod tests;
