//! The objects that users write, as files and the cluster have them.

mod cedar_policy;
mod container;
mod env;
mod freeze_window;
mod handler;
mod lattice_rollout;
mod lattice_service;
mod secret;
mod timespan;
mod trust_policy;

use std::collections::HashMap;

use lattice_policy::{
    Conflicts, Diagnostic, ExecPolicy, PolicyDocument, TracingPolicy, TracingPolicyKind,
    document::{self, Findings, Node},
    exec_policy_document::{self, read_exec_policy},
    tracing_policy::{self, read_tracing_policy},
};

pub use self::{
    cedar_policy::{CedarPolicy, CedarPolicySpec},
    container::{Container, ContainerPort, ResourceRequirements, VolumeMount},
    env::{EnvVar, EnvVarSource, KeySelector, ObjectFieldSelector, ResourceFieldSelector},
    freeze_window::{FreezeBegin, FreezeWindow},
    handler::{
        ExecAction, GrpcAction, Handler, HttpGetAction, HttpHeader, Lifecycle, Port, Probe, SleepAction,
        TcpSocketAction,
    },
    lattice_rollout::{
        Approval, ApprovalMode, Breaker, BurnIn, LatticeRollout, LatticeRolloutSpec, OnOpen, Runtime, Step, StepPods,
    },
    lattice_service::{Environment, ExternalRef, LatticeService, LatticeServiceSpec, ServiceSecret},
    secret::{Secret, SecretBytes},
    timespan::{InvalidTimespan, Timespan},
    trust_policy::{Cosign, PublicKey, SecretReference, TrustPolicy, TrustPolicySpec},
};

/// One object of any kind that is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// What may start in some containers.
    ExecPolicy(ExecPolicy),
    /// What may start in some containers, written for Tetragon.
    TracingPolicy(TracingPolicy),
    /// Whose signatures count for a registry.
    TrustPolicy(TrustPolicy),
    /// A service to run.
    LatticeService(LatticeService),
    /// Rules of the gates.
    CedarPolicy(CedarPolicy),
    /// How a namespace gets from monitor to enforce.
    LatticeRollout(LatticeRollout),
    /// Secret material.
    Secret(Secret),
}

impl Object {
    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ExecPolicy(_) => exec_policy_document::KIND,
            Self::TracingPolicy(tracing) => tracing.kind.name(),
            Self::TrustPolicy(_) => TrustPolicy::KIND,
            Self::LatticeService(_) => LatticeService::KIND,
            Self::CedarPolicy(_) => CedarPolicy::KIND,
            Self::LatticeRollout(_) => LatticeRollout::KIND,
            Self::Secret(_) => Secret::KIND,
        }
    }

    /// The namespace; empty for a cluster-scoped kind.
    pub fn namespace(&self) -> &str {
        match self {
            Self::ExecPolicy(policy) | Self::TracingPolicy(TracingPolicy { policy, .. }) => &policy.namespace,
            Self::TrustPolicy(_) | Self::CedarPolicy(_) => "",
            Self::LatticeService(service) => &service.namespace,
            Self::LatticeRollout(rollout) => &rollout.namespace,
            Self::Secret(secret) => &secret.namespace,
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Self::ExecPolicy(policy) | Self::TracingPolicy(TracingPolicy { policy, .. }) => &policy.name,
            Self::TrustPolicy(policy) => &policy.name,
            Self::LatticeService(service) => &service.name,
            Self::CedarPolicy(policy) => &policy.name,
            Self::LatticeRollout(rollout) => &rollout.name,
            Self::Secret(secret) => &secret.name,
        }
    }
}

/// Reads a file of documents of any of these kinds, YAML or JSON, mixed.
///
/// # Errors
/// Everything that is wrong, each with its place; nothing of the file counts then.
pub fn read_objects(file_name: &str, bytes: &[u8]) -> Result<Vec<Object>, Vec<Diagnostic>> {
    let nodes = document::parse(file_name, bytes)?;
    let findings = Findings::new(file_name);
    let mut objects = Vec::new();
    let mut conflicts = Conflicts::default();
    let mut lines: HashMap<(&'static str, String, String), u64> = HashMap::new();
    for node in &nodes {
        let Some(object) = read_object(&findings, node) else {
            continue;
        };
        let document = match &object {
            Object::ExecPolicy(policy) => Some((policy.clone(), None)),
            Object::TracingPolicy(read) => Some((read.policy.clone(), Some(read.kind))),
            _ => None,
        };
        if let Some((policy, tracing)) = document {
            conflicts.add(&findings, node, &PolicyDocument { policy, tracing });
            objects.push(object);
            continue;
        }
        let identity = (object.kind(), object.namespace().to_owned(), object.name().to_owned());
        if let Some(line) = lines.insert(identity, node.location.line) {
            let message = format!("the {} of line {line} has the same name", object.kind());
            let field = "metadata.name";
            findings.add(
                node.locate(field),
                field,
                Some(object.name()),
                message,
                "Rename one of them.",
            );
        }
        objects.push(object);
    }
    findings.into_result(objects)
}

fn read_object(findings: &Findings, node: &Node) -> Option<Object> {
    let header = document::read_header(findings, node)?;
    let kinds = [
        (exec_policy_document::API_VERSION, exec_policy_document::KIND),
        (TrustPolicy::API_VERSION, TrustPolicy::KIND),
        (LatticeService::API_VERSION, LatticeService::KIND),
        (CedarPolicy::API_VERSION, CedarPolicy::KIND),
        (LatticeRollout::API_VERSION, LatticeRollout::KIND),
        (Secret::API_VERSION, Secret::KIND),
        (tracing_policy::API_VERSION, TracingPolicyKind::Cluster.name()),
        (tracing_policy::API_VERSION, TracingPolicyKind::Namespaced.name()),
    ];
    match kinds.iter().find(|(_, kind)| *kind == header.kind) {
        None => {
            let known: Vec<_> = kinds.iter().map(|(_, kind)| *kind).collect();
            let message = "this kind is not read".to_owned();
            let advice = format!("Kinds that are: {}.", known.join(", "));
            findings.add(node.locate("kind"), "kind", Some(&header.kind), message, &advice);
            None
        }
        Some((api_version, kind)) if *api_version != header.api_version => {
            let field = "apiVersion";
            let message = format!("{kind} is not of this group and version");
            let advice = format!("Write {api_version}.");
            findings.add(node.locate(field), field, Some(&header.api_version), message, &advice);
            None
        }
        Some((_, TrustPolicy::KIND)) => TrustPolicy::read(findings, node).map(Object::TrustPolicy),
        Some((_, LatticeService::KIND)) => LatticeService::read(findings, node).map(Object::LatticeService),
        Some((_, CedarPolicy::KIND)) => CedarPolicy::read(findings, node).map(Object::CedarPolicy),
        Some((_, LatticeRollout::KIND)) => LatticeRollout::read(findings, node).map(Object::LatticeRollout),
        Some((_, Secret::KIND)) => Secret::read(findings, node).map(Object::Secret),
        Some((_, name)) => match TracingPolicyKind::of_name(name) {
            Some(kind) => read_tracing_policy(findings, kind, node).map(Object::TracingPolicy),
            None => read_exec_policy(findings, node).map(Object::ExecPolicy),
        },
    }
}

/// The rule of a schema by which an object has exactly one of these fields, as the readers demand.
fn exactly_one_of(names: &[&str]) -> serde_json::Value {
    let present: Vec<String> = names.iter().map(|name| format!("has(self.{name}) ? 1 : 0")).collect();
    serde_json::json!({
        "rule": format!("({}) == 1", present.iter().map(|term| format!("({term})")).collect::<Vec<_>>().join(" + ")),
        "message": format!("name exactly one of {}", names.join(", ")),
    })
}

/// Reads the parts of a document that every kind has and gives its object to `read`; `None` where anything was found wrong.
fn read_whole<T>(
    findings: &Findings,
    node: &Node,
    scoping: document::Scoping,
    read: impl FnOnce(document::Metadata, &document::Object<'_>) -> Option<T>,
) -> Option<T> {
    let before = findings.count();
    let object = document::Object::root(findings, node)?;
    object.field("apiVersion");
    object.field("kind");
    // What stands in the metadata does not keep the rest from being looked at.
    let metadata = document::read_metadata(&object, scoping);
    let placeholder = || document::Metadata {
        name: String::new(),
        namespace: String::new(),
    };
    let value = read(metadata.unwrap_or_else(placeholder), &object);
    object.finish();
    value.filter(|_| findings.count() == before)
}
