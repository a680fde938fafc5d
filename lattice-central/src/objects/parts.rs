//! Puts objects together, wherever they were read from.

use std::{collections::BTreeMap, sync::Arc};

use lattice_api::object::{Object, Secret, TrustPolicy};

use super::{ObjectSet, gates::Gates, trust::Trust};
use crate::board::Key;

/// A set in the making. Of two objects of one kind and name the first counts.
pub(super) struct Parts<'a> {
    set: ObjectSet,
    trust_policies: BTreeMap<&'a str, &'a TrustPolicy>,
    secrets: BTreeMap<Key, &'a Secret>,
    first: BTreeMap<(&'static str, &'a str, &'a str), String>,
}

impl<'a> Parts<'a> {
    /// None yet but the Cedar policies.
    pub(super) fn new(gates: &Gates) -> Self {
        Self {
            set: ObjectSet {
                services: BTreeMap::new(),
                documents: BTreeMap::new(),
                rollouts: BTreeMap::new(),
                trust: Arc::default(),
                gate: gates.gate(),
                problems: gates.problems().clone(),
                files: BTreeMap::new(),
                uids: BTreeMap::new(),
            },
            trust_policies: BTreeMap::new(),
            secrets: BTreeMap::new(),
            first: BTreeMap::new(),
        }
    }

    /// Adds an object. `origin` is what it stands in.
    pub(super) fn add(&mut self, origin: &str, object: &'a Object) {
        let (kind, namespace, name) = (object.kind(), object.namespace(), object.name());
        if let Some(first) = self.first.get(&(kind, namespace, name)) {
            let problem =
                format!("{origin}: {kind} {namespace}/{name} is in {first} already, which counts; remove one of them");
            self.problems(origin, [problem]);
            return;
        }
        self.first.insert((kind, namespace, name), origin.to_owned());
        let key = (namespace.to_owned(), name.to_owned());
        match object {
            Object::ExecPolicy(policy) => drop(self.set.documents.insert(key, policy.clone())),
            // What is written for Tetragon is refused where it is read; the others are with the gate.
            Object::TracingPolicy(_) | Object::CedarPolicy(_) => {}
            Object::LatticeService(service) => {
                self.set.files.insert(key.clone(), origin.to_owned());
                self.set.services.insert(key, Arc::new(service.clone()));
            }
            Object::LatticeRollout(rollout) => {
                let of_namespace = self.set.rollouts.get(namespace).map(|first| first.name.clone());
                match of_namespace {
                    None => drop(
                        self.set
                            .rollouts
                            .insert(namespace.to_owned(), Arc::new(rollout.clone())),
                    ),
                    Some(first) => {
                        let problem = format!(
                            "{origin}: namespace {namespace} has a LatticeRollout already, {first}, which counts; remove one of them"
                        );
                        self.problems(origin, [problem]);
                    }
                }
            }
            Object::TrustPolicy(policy) => drop(self.trust_policies.insert(&policy.name, policy)),
            Object::Secret(secret) => self.add_secret(secret),
        }
    }

    pub(super) fn add_secret(&mut self, secret: &'a Secret) {
        self.secrets
            .insert((secret.namespace.clone(), secret.name.clone()), secret);
    }

    /// Says by which uid a cluster knows a service.
    pub(super) fn uid(&mut self, service: &Key, uid: &str) {
        self.set.uids.insert(service.clone(), uid.to_owned());
    }

    /// Adds what is wrong with what stands in `origin`.
    pub(super) fn problems(&mut self, origin: &str, problems: impl IntoIterator<Item = String>) {
        let mut problems = problems.into_iter().peekable();
        if problems.peek().is_some() {
            self.set.problems.entry(origin.to_owned()).or_default().extend(problems);
        }
    }

    /// All of it.
    pub(super) fn into_set(self) -> ObjectSet {
        let trust = Trust::new(self.trust_policies.into_values(), &self.secrets);
        ObjectSet {
            trust: Arc::new(trust),
            ..self.set
        }
    }
}
