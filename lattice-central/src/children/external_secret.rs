//! A secret that the External Secrets operator fetches: central never sees its value.

use lattice_api::object::ServiceSecret;
use serde_json::json;

use super::{Child, ChildKind, Derived};

pub(super) const KIND: ChildKind = ChildKind {
    group: "external-secrets.io",
    version: "v1",
    kind: "ExternalSecret",
    plural: "externalsecrets",
};

/// The Kubernetes Secret that comes of it has the secret's name in the service, so that `secretKeyRef` and `volumeMounts` name it so.
pub(super) fn child(derived: &Derived, secret: &ServiceSecret) -> Child {
    let spec = json!({
        "refreshInterval": "1h",
        "secretStoreRef": {"kind": "ClusterSecretStore", "name": secret.external_ref.store},
        "target": {"name": secret.name, "creationPolicy": "Owner"},
        "dataFrom": [{"extract": {"key": secret.external_ref.key}}],
    });
    super::child(KIND, derived.metadata(&secret.name), spec)
}
