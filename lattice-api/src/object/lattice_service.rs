//! LatticeService: what runs, and from what. Namespaced.

use std::{collections::HashMap, fmt};

use lattice_policy::document::{Field, Findings, Node, Object, Scoping};
use serde::{Deserialize, Serialize};

use super::{
    container::{Container, Place, owned_text, read_container},
    read_whole,
};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatticeServiceSpec {
    /// Which rules hold for it.
    pub environment: Environment,
    /// How many pods; 1 where the document does not say.
    pub replicas: u32,
    /// At least one.
    pub containers: Vec<Container>,
    /// Run before the others, each to its end unless it is a sidecar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// Secrets that come from outside the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<ServiceSecret>,
}

/// Which rules hold for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSecret {
    /// Name in the service.
    pub name: String,
    /// Where it is.
    pub external_ref: ExternalRef,
}

/// A key of a secret store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalRef {
    /// Name of the store.
    pub store: String,
    /// Key in it.
    pub key: String,
}

impl Environment {
    const WORDS: [(&str, Self); 3] = [
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
    let init_fields = spec.field("initContainers").items();
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
    let secret_fields = spec.field("secrets").items();
    let secrets = secret_fields.iter().filter_map(read_secret).collect();
    spec.finish();
    Some(LatticeServiceSpec {
        environment: environment?,
        replicas,
        containers: containers.into_iter().collect::<Option<_>>()?,
        init_containers: init_containers.into_iter().collect::<Option<_>>()?,
        secrets,
    })
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
