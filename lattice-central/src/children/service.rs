//! The Service in front of the pods, where a container has ports.

use serde_json::{Value, json};

use super::{Child, ChildKind, Derived};

pub(super) const KIND: ChildKind = ChildKind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
};

pub(super) fn child(derived: &Derived) -> Option<Child> {
    let containers = &derived.service.spec.containers;
    let ports: Vec<Value> = containers
        .iter()
        .flat_map(|container| &container.ports)
        .map(|port| {
            // Several ports need names of their own.
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let name = port
                .name
                .clone()
                .unwrap_or_else(|| format!("{}-{}", protocol.to_lowercase(), port.container_port));
            json!({"name": name, "port": port.container_port, "targetPort": port.container_port, "protocol": protocol})
        })
        .collect();
    if ports.is_empty() {
        return None;
    }
    let spec = json!({"selector": derived.selector(), "ports": ports});
    Some(super::child(KIND, derived.metadata(&derived.service.name), spec))
}
