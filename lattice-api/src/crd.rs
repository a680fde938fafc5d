//! The custom resource definitions of Lattice's kinds, made from the types and readers that the programs use.
//!
//! ```text
//!   types with their documentation ──► JSON schema ──► structural schema ──► CustomResourceDefinition ──► deploy/crds/*.yaml
//! ```
//!
//! The API server checks an object's form by them, and what CEL can say besides. The readers of [`crate::object`] stay the last word: what
//! only they see shows in the object's conditions.

mod condition;
mod rollout_status;
mod structural;

use lattice_policy::exec_policy_document;
use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Value, json};

pub use self::{
    condition::{Condition, Status},
    rollout_status::{RolloutStatus, TrackStatus, WORKLOADS_SHOWN_MAXIMUM, WorkloadCounts},
};
use crate::object::{
    CedarPolicy, CedarPolicySpec, LatticeRollout, LatticeRolloutSpec, LatticeService, LatticeServiceSpec, TrustPolicy,
    TrustPolicySpec,
};

/// The group of all kinds.
pub const GROUP: &str = "lattice.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";

/// One kind, as the cluster is told of it.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Name of the definition, `<plural>.lattice.dev`.
    pub name: String,
    /// The CustomResourceDefinition.
    pub document: Value,
}

impl Definition {
    /// The definition as a YAML document.
    pub fn to_yaml(&self) -> String {
        // The serializer fails only for a writer that fails; a String does not.
        serde_saphyr::to_string_with_options(&self.document, serde_saphyr::ser_options! { yaml_12: false })
            .expect("JSON can be written as YAML")
    }
}

struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    is_namespaced: bool,
    /// What `kubectl explain` says of the kind.
    description: &'static str,
    spec: Schema,
    status: Schema,
    columns: Value,
}

/// The definitions of all kinds, by name.
pub fn definitions() -> Vec<Definition> {
    let kinds = [
        cedar_policy(),
        exec_policy(),
        lattice_rollout(),
        lattice_service(),
        trust_policy(),
    ];
    kinds.into_iter().map(define).collect()
}

fn cedar_policy() -> Kind {
    Kind {
        kind: CedarPolicy::KIND,
        plural: "cedarpolicies",
        short: &["cedar"],
        is_namespaced: false,
        description: "Rules in Cedar's language that decide what may be deployed, given secrets, enforced and excepted. What none permits is \
                      denied.",
        spec: schema_of::<CedarPolicySpec>(),
        status: schema_of::<Status>(),
        columns: json!([
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            wide("Message", "string", ".status.conditions[?(@.type==\"Ready\")].message"),
            age(),
        ]),
    }
}

fn exec_policy() -> Kind {
    Kind {
        kind: exec_policy_document::KIND,
        plural: "execpolicies",
        short: &["execpol"],
        is_namespaced: true,
        description: "What may start in some containers of the namespace. Central writes one for each LatticeService; one that people write \
                      is served as it is.",
        spec: exec_policy_document::spec_schema(),
        status: schema_of::<Status>(),
        columns: json!([
            column("Workload", "string", ".spec.target.workload"),
            column("Container", "string", ".spec.target.container"),
            column("Mode", "string", ".spec.mode"),
            column("Generation", "integer", ".spec.generation"),
            wide("Image", "string", ".spec.target.imageDigest"),
            wide("Scope", "string", ".spec.scope"),
            wide("Code loading", "string", ".spec.codeLoading"),
            age(),
        ]),
    }
}

fn lattice_rollout() -> Kind {
    Kind {
        kind: LatticeRollout::KIND,
        plural: "latticerollouts",
        short: &["lroll"],
        is_namespaced: true,
        description: "How the namespace gets from monitor to enforce, workload by workload: after a time of which everything is known, without \
                      a program that no list names, with approvals, on a few nodes first, and back where enforcing hurts. At most one a \
                      namespace: of several the oldest counts.",
        spec: schema_of::<LatticeRolloutSpec>(),
        status: schema_of::<RolloutStatus>(),
        columns: json!([
            column("Environment", "string", ".spec.environment"),
            column("Runtime", "string", ".spec.runtime"),
            column("Phase", "string", ".status.phase"),
            column("Enforced", "integer", ".status.workloads.enforced"),
            column("Workloads", "integer", ".status.workloads.total"),
            column("Misses", "integer", ".status.openMisses"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            wide("Waiting for", "string", ".status.waitingFor"),
            age(),
        ]),
    }
}

fn lattice_service() -> Kind {
    Kind {
        kind: LatticeService::KIND,
        plural: "latticeservices",
        short: &["lsvc"],
        is_namespaced: true,
        description: "A service to run: its containers, probes, hooks and secrets. Central verifies its images, asks the Cedar policies, derives \
                      what may start from the images' layers, and says in the conditions how far that came.",
        spec: schema_of::<LatticeServiceSpec>(),
        status: schema_of::<Status>(),
        columns: json!([
            column("Environment", "string", ".spec.environment"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            column("Reason", "string", ".status.conditions[?(@.type==\"Ready\")].reason"),
            wide("Image", "string", ".spec.containers[0].image"),
            wide("Message", "string", ".status.conditions[?(@.type==\"Ready\")].message"),
            age(),
        ]),
    }
}

fn trust_policy() -> Kind {
    Kind {
        kind: TrustPolicy::KIND,
        plural: "trustpolicies",
        short: &["trust"],
        is_namespaced: false,
        description: "Whose signatures count for the images of a registry. A registry that no TrustPolicy names is never contacted.",
        spec: schema_of::<TrustPolicySpec>(),
        status: schema_of::<Status>(),
        columns: json!([
            column("Registry", "string", ".spec.registry"),
            column("Key", "string", ".spec.cosign.publicKey.secretRef"),
            column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            wide("Message", "string", ".status.conditions[?(@.type==\"Ready\")].message"),
            age(),
        ]),
    }
}

fn schema_of<T: schemars::JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

/// A column of `kubectl get -o wide`.
fn wide(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path, "priority": 1})
}

fn age() -> Value {
    column("Age", "date", ".metadata.creationTimestamp")
}

fn define(kind: Kind) -> Definition {
    let name = format!("{}.{GROUP}", kind.plural);
    let document = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": format!("{}List", kind.kind),
                "plural": kind.plural,
                "singular": kind.kind.to_lowercase(),
                "shortNames": kind.short,
                "categories": ["lattice"],
            },
            "scope": if kind.is_namespaced { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": kind.columns,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": kind.description,
                    "required": ["spec"],
                    "properties": {
                        // The API server knows the form of these three itself.
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": structural::of(kind.spec),
                        "status": structural::of(kind.status),
                    },
                }},
            }],
        },
    });
    Definition { name, document }
}
