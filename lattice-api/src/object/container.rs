//! A container, as Kubernetes names its parts.

use std::collections::BTreeMap;

use lattice_policy::document::{Field, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    env::{EnvVar, read_env_var},
    handler::{Lifecycle, Probe, read_lifecycle, read_probe},
};

/// A container of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Name, unique in the service.
    #[schemars(length(max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// The image, by digest unless a Cedar policy permits tags.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[!-~]+$"))]
    pub image: String,
    /// Replaces the image's ENTRYPOINT where it is not empty, and its CMD with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's CMD where it is not empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Replaces the image's WORKDIR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub working_dir: Option<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Ports that the container listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// What it needs and may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where volumes lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Says whether it must be restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Says whether it can serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Says whether it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// What happens after its start and before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// `Always` makes an init container a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Always"]))]
    pub restart_policy: Option<String>,
}

/// A port that a container listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPort {
    /// Number.
    pub container_port: u16,
    /// Name, by which probes and services may call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["TCP", "UDP", "SCTP"]))]
    pub protocol: Option<String>,
}

/// What a container needs and may take, as Kubernetes quantities.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceRequirements {
    /// What it needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, String>,
    /// What it may take.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, String>,
}

/// The API server takes whole numbers and strings.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}})
}

/// Where a volume lies in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    /// Name of the volume.
    pub name: String,
    /// Path in the container.
    pub mount_path: String,
    /// Path in the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// Whether the container must not write to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// Whether a container is among `containers` or `initContainers`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Main,
    Init,
}

pub(super) fn read_container(field: &Field<'_>, place: Place) -> Option<Container> {
    let object = field.object()?;
    let name_field = object.required("name");
    let name = owned_text(&name_field);
    if let Some(Err(message)) = name
        .as_deref()
        .map(|name| lattice_policy::validity::check_object_name(name, true))
    {
        name_field.report(name.as_deref(), message, lattice_policy::validity::OBJECT_NAME_ADVICE);
    }
    let image_field = object.required("image");
    let image = owned_text(&image_field);
    if let Some(image) = image.as_deref()
        && (image.len() > 1024 || image.contains(|character: char| !character.is_ascii_graphic()))
    {
        let message = "an image reference has at most 1024 visible ASCII characters";
        image_field.report(
            Some(image),
            message,
            "Write it like registry.example.com/name@sha256:….",
        );
    }
    let command = object.field("command").texts();
    let args = object.field("args").texts();
    let working_dir_field = object.field("workingDir");
    let working_dir = owned_text(&working_dir_field);
    if let Some(working_dir) = working_dir
        .as_deref()
        .filter(|working_dir| !working_dir.starts_with('/'))
    {
        working_dir_field.report(
            Some(working_dir),
            "this is not an absolute path",
            "Begin it with \"/\".",
        );
    }
    let env = object.field("env").items().iter().filter_map(read_env_var).collect();
    let ports = object.field("ports").items().iter().filter_map(read_port).collect();
    let resources = read_resources(&object.field("resources"));
    let volume_mounts = object
        .field("volumeMounts")
        .items()
        .iter()
        .filter_map(read_volume_mount)
        .collect();
    let liveness_probe = read_probe(&object.field("livenessProbe"));
    let readiness_probe = read_probe(&object.field("readinessProbe"));
    let startup_probe = read_probe(&object.field("startupProbe"));
    let lifecycle = read_lifecycle(&object.field("lifecycle"));
    let restart_policy_field = object.field("restartPolicy");
    let restart_policy = restart_policy_field.choice(&[("Always", "Always")]).map(str::to_owned);
    if place == Place::Main && restart_policy_field.is_present() {
        let message = "only an init container has a restart policy of its own";
        restart_policy_field.report(None, message, "Remove it, or move the container to initContainers.");
    }
    object.finish();
    Some(Container {
        name: name?,
        image: image?,
        command,
        args,
        working_dir,
        env,
        ports,
        resources,
        volume_mounts,
        liveness_probe,
        readiness_probe,
        startup_probe,
        lifecycle,
        restart_policy,
    })
}

/// A string that is not empty, as an owned one.
pub(super) fn owned_text(field: &Field<'_>) -> Option<String> {
    field.non_empty_text().map(str::to_owned)
}

fn read_port(field: &Field<'_>) -> Option<ContainerPort> {
    let object = field.object()?;
    let container_port = object.required("containerPort").integer();
    let name = owned_text(&object.field("name"));
    let protocols = [("TCP", "TCP"), ("UDP", "UDP"), ("SCTP", "SCTP")];
    let protocol = object.field("protocol").choice(&protocols).map(str::to_owned);
    object.finish();
    Some(ContainerPort {
        container_port: container_port?,
        name,
        protocol,
    })
}

fn read_resources(field: &Field<'_>) -> Option<ResourceRequirements> {
    let object = field.object()?;
    let requests = read_quantities(&object.field("requests"));
    let limits = read_quantities(&object.field("limits"));
    object.finish();
    Some(ResourceRequirements { requests, limits })
}

/// Kubernetes takes a quantity as a string or as a number.
fn read_quantities(field: &Field<'_>) -> BTreeMap<String, String> {
    let Some(object) = field.object() else {
        return BTreeMap::new();
    };
    let quantity = |(name, field): (&str, Field<'_>)| match &field.node()?.value {
        Value::Integer(integer) => Some((name.to_owned(), integer.to_string())),
        Value::Float(text) => Some((name.to_owned(), text.clone())),
        _ => owned_text(&field).map(|text| (name.to_owned(), text)),
    };
    object.members().filter_map(quantity).collect()
}

fn read_volume_mount(field: &Field<'_>) -> Option<VolumeMount> {
    let object = field.object()?;
    let (name, mount_path) = (
        owned_text(&object.required("name")),
        owned_text(&object.required("mountPath")),
    );
    let (sub_path, read_only) = (owned_text(&object.field("subPath")), object.field("readOnly").boolean());
    object.finish();
    Some(VolumeMount {
        name: name?,
        mount_path: mount_path?,
        sub_path,
        read_only,
    })
}
