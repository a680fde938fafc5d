//! The policy of a container, for people and for whoever reads the cluster: the agents get theirs from central.

use lattice_policy::{ExecPolicy, to_json};
use serde_json::Value;

use super::{Child, ChildKind, Derived};

pub(super) const KIND: ChildKind = ChildKind {
    group: "lattice.dev",
    version: "v1alpha1",
    kind: "ExecPolicy",
    plural: "execpolicies",
};

pub(super) fn child(derived: &Derived, policy: &ExecPolicy) -> Child {
    // What was written as JSON is JSON.
    let mut document: Value = serde_json::from_str(&to_json(policy)).unwrap_or_default();
    super::child(KIND, derived.metadata(&policy.name), document["spec"].take())
}
