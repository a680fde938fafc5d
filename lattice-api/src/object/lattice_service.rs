//! LatticeService: what runs, and from what. Namespaced.

use std::{collections::HashMap, fmt};

use lattice_policy::document::{Field, Findings, Node, Object, Scoping};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    container::{Container, Place, owned_text, read_container},
    read_whole,
};

/// A service has at most so many containers, and at most so many init containers.
const MAX_CONTAINERS: usize = 64;
/// A service has at most so many secrets.
const MAX_SECRETS: usize = 256;
/// A service has at most so many replicas.
const MAX_REPLICAS: u32 = 100_000;

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatticeService {
    /// Namespace.
    pub namespace: String,
    /// Name; the workload's, too.
    pub name: String,
    /// What it says.
    pub spec: LatticeServiceSpec,
}

/// What a LatticeService says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.containers.all(c, !has(self.initContainers) || !self.initContainers.exists(i, i.name == c.name))",
        "message": "a container and an init container have the same name",
    },
    {
        "rule": "self.containers.all(c, !has(c.restartPolicy))",
        "message": "only an init container has a restart policy of its own",
    },
]))]
pub struct LatticeServiceSpec {
    /// Which rules hold for it.
    pub environment: Environment,
    /// How many pods; 1 where the document does not say.
    #[schemars(default = "one_replica", range(max = 100_000))]
    pub replicas: u32,
    /// At least one.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub containers: Vec<Container>,
    /// Run before the others, each to its end unless it is a sidecar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub init_containers: Vec<Container>,
    /// Secrets that come from outside the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub secrets: Vec<ServiceSecret>,
}

/// Which rules hold for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Environment {
    /// Where it is made.
    Development,
    /// Where it is tried.
    Staging,
    /// Where it counts.
    Production,
}

/// A secret that comes from outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSecret {
    /// Name in the service.
    pub name: String,
    /// Where it is.
    pub external_ref: ExternalRef,
}

/// A key of a secret store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalRef {
    /// Name of the store.
    pub store: String,
    /// Key in it.
    pub key: String,
}

fn one_replica() -> u32 {
    1
}

impl Environment {
    pub(super) const WORDS: [(&str, Self); 3] = [
        ("development", Self::Development),
        ("staging", Self::Staging),
        ("production", Self::Production),
    ];
}

impl fmt::Display for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        })
    }
}

impl LatticeService {
    /// Group and version.
    pub const API_VERSION: &str = "lattice.dev/v1alpha1";
    /// The kind's name.
    pub const KIND: &str = "LatticeService";

    pub(super) fn read(findings: &Findings, node: &Node) -> Option<Self> {
        read_whole(findings, node, Scoping::Namespaced, |metadata, object| {
            let spec = read_spec(object.required("spec").object()?)?;
            Some(Self {
                namespace: metadata.namespace,
                name: metadata.name,
                spec,
            })
        })
    }
}

fn read_spec(spec: Object<'_>) -> Option<LatticeServiceSpec> {
    let environment = spec.required("environment").choice(&Environment::WORDS);
    let replicas_field = spec.field("replicas");
    let replicas = replicas_field.integer().unwrap_or(1);
    if replicas > MAX_REPLICAS {
        let message = format!("a service has at most {MAX_REPLICAS} replicas");
        replicas_field.report(Some(&replicas.to_string()), message, "Give a smaller number.");
    }
    let containers_field = spec.required("containers");
    let container_fields = containers_field.items();
    if containers_field.is_present() && container_fields.is_empty() {
        containers_field.report(None, "a service has at least one container", "Add one.");
    }
    check_count(&containers_field, MAX_CONTAINERS);
    let init_field = spec.field("initContainers");
    check_count(&init_field, MAX_CONTAINERS);
    let init_fields = init_field.items();
    let containers: Vec<_> = container_fields
        .iter()
        .map(|field| read_container(field, Place::Main))
        .collect();
    let init_containers: Vec<_> = init_fields
        .iter()
        .map(|field| read_container(field, Place::Init))
        .collect();
    let all_fields = container_fields.iter().chain(&init_fields);
    check_names(all_fields.zip(containers.iter().chain(&init_containers)));
    let secrets_field = spec.field("secrets");
    check_count(&secrets_field, MAX_SECRETS);
    let mut secrets: Vec<ServiceSecret> = Vec::new();
    for field in secrets_field.items().iter().take(MAX_SECRETS) {
        let Some(secret) = read_secret(field) else { continue };
        if secrets.iter().any(|earlier| earlier.name == secret.name) {
            field.report(
                Some(&secret.name),
                "another secret has the same name",
                "Rename one of the two.",
            );
        }
        secrets.push(secret);
    }
    spec.finish();
    Some(LatticeServiceSpec {
        environment: environment?,
        replicas,
        containers: containers.into_iter().collect::<Option<_>>()?,
        init_containers: init_containers.into_iter().collect::<Option<_>>()?,
        secrets,
    })
}

fn check_count(field: &Field<'_>, most: usize) {
    let count = field.items().len();
    if count > most {
        let message = format!("the list has {count} items, more than the {most} that a service may have");
        field.report(None, message, "Make the list shorter.");
    }
}

/// A pod's containers share one space of names.
fn check_names<'a, 'n: 'a>(containers: impl Iterator<Item = (&'a Field<'n>, &'a Option<Container>)>) {
    let mut earlier: HashMap<&str, &Field<'_>> = HashMap::new();
    for (field, container) in containers {
        let Some(container) = container else { continue };
        if let Some(other) = earlier.insert(&container.name, field) {
            let message = format!("{} has the same name", other.path());
            field.report(Some(&container.name), message, "Rename one of the two.");
        }
    }
}

fn read_secret(field: &Field<'_>) -> Option<ServiceSecret> {
    let object = field.object()?;
    let name = owned_text(&object.required("name"));
    let reference = object.required("externalRef").object();
    object.finish();
    let reference = reference?;
    let (store, key) = (
        owned_text(&reference.required("store")),
        owned_text(&reference.required("key")),
    );
    reference.finish();
    Some(ServiceSecret {
        name: name?,
        external_ref: ExternalRef {
            store: store?,
            key: key?,
        },
    })
}
