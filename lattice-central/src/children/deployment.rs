//! The Deployment: the service's containers as they are written, with the verified digests.

use std::collections::BTreeSet;

use lattice_api::object::Container;
use serde_json::{Value, json};

use super::{Child, ChildKind, Derived};

pub(super) const KIND: ChildKind = ChildKind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
};

pub(super) fn child(derived: &Derived) -> Child {
    let spec = &derived.service.spec;
    let mut pod = json!({"containers": containers(derived, &spec.containers)});
    if !spec.init_containers.is_empty() {
        pod["initContainers"] = containers(derived, &spec.init_containers);
    }
    let volumes = volumes(derived);
    if !volumes.is_empty() {
        pod["volumes"] = Value::Array(volumes);
    }
    let spec = json!({
        "replicas": spec.replicas,
        "selector": {"matchLabels": derived.selector()},
        "template": {"metadata": {"labels": derived.labels()}, "spec": pod},
    });
    super::child(KIND, derived.metadata(&derived.service.name), spec)
}

fn containers(derived: &Derived, containers: &[Container]) -> Value {
    let pinned = containers.iter().map(|container| {
        let mut container = container.clone();
        if let Some(image) = derived.images.get(&container.name) {
            container.image.clone_from(image);
        }
        // Fields are named as Kubernetes names them, and none is of a kind that JSON lacks.
        serde_json::to_value(container).unwrap_or_default()
    });
    Value::Array(pinned.collect())
}

/// A volume that is mounted under the name of a secret is that secret; any other is empty at the start of each pod.
fn volumes(derived: &Derived) -> Vec<Value> {
    let spec = &derived.service.spec;
    let all = spec.containers.iter().chain(&spec.init_containers);
    let names: BTreeSet<&str> = all
        .flat_map(|container| &container.volume_mounts)
        .map(|mount| mount.name.as_str())
        .collect();
    names
        .into_iter()
        .map(|name| {
            if spec.secrets.iter().any(|secret| secret.name == name) {
                json!({"name": name, "secret": {"secretName": name}})
            } else {
                json!({"name": name, "emptyDir": {}})
            }
        })
        .collect()
}
