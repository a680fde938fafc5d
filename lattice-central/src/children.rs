//! The objects that a service comes to in a cluster: its policies, ExternalSecrets, Service and Deployment. Pure; `applier` brings them
//! there.
//!
//! Images are by the digest that was verified, whatever the service writes: a tag that moves later moves nothing that runs.

mod deployment;
mod exec_policy;
mod external_secret;
mod service;

use std::collections::BTreeMap;

use lattice_api::object::LatticeService;
use lattice_policy::ExecPolicy;
use serde_json::{Value, json};

/// The label that all of them carry.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY: &str = "lattice-central";
/// The label that names the service; pods are selected by it.
pub const SERVICE_LABEL: &str = "lattice.dev/service";

/// A kind of child, as the API server names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChildKind {
    /// Group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Name of the kind.
    pub kind: &'static str,
    /// Plural, as in the path.
    pub plural: &'static str,
}

/// All kinds, in the order in which they are applied: what holds for a pod is there before the pod.
pub const KINDS: [ChildKind; 4] = [
    exec_policy::KIND,
    external_secret::KIND,
    service::KIND,
    deployment::KIND,
];

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// What it is.
    pub kind: ChildKind,
    /// Its name, in the service's namespace.
    pub name: String,
    /// The whole document.
    pub document: Value,
}

/// A verified and derived service.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// What its owner wrote.
    pub service: LatticeService,
    /// `metadata.uid` of the LatticeService: with it go its children.
    pub uid: String,
    /// The image of each container by its digest, `registry/repository@sha256:…`.
    pub images: BTreeMap<String, String>,
    /// What may start, with the generations that are in force.
    pub policies: Vec<ExecPolicy>,
}

/// The objects of a service, in the order in which they are applied.
pub fn children(derived: &Derived) -> Vec<Child> {
    let policies = derived
        .policies
        .iter()
        .map(|policy| exec_policy::child(derived, policy));
    let secrets = derived
        .service
        .spec
        .secrets
        .iter()
        .map(|secret| external_secret::child(derived, secret));
    policies
        .chain(secrets)
        .chain(service::child(derived))
        .chain([deployment::child(derived)])
        .collect()
}

impl Derived {
    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.service.namespace,
            "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": LatticeService::API_VERSION,
                "kind": LatticeService::KIND,
                "name": self.service.name,
                "uid": self.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        })
    }

    fn labels(&self) -> Value {
        json!({
            "app.kubernetes.io/name": self.service.name,
            MANAGED_BY_LABEL: MANAGED_BY,
            SERVICE_LABEL: self.service.name,
        })
    }

    /// What selects the pods; never changes, since a Deployment's selector cannot.
    fn selector(&self) -> Value {
        json!({SERVICE_LABEL: self.service.name})
    }
}

fn child(kind: ChildKind, metadata: Value, spec: Value) -> Child {
    let api_version = if kind.group.is_empty() {
        kind.version.to_owned()
    } else {
        format!("{}/{}", kind.group, kind.version)
    };
    Child {
        kind,
        name: metadata["name"].as_str().unwrap_or_default().to_owned(),
        document: json!({"apiVersion": api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}),
    }
}

#[cfg(test)]
mod tests;
