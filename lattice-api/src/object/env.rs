//! A container's environment variables, as Kubernetes names their parts.

use lattice_policy::document::Field;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{container::owned_text, exactly_one_of};

const SOURCES: [&str; 4] = ["configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"];

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.value) && has(self.valueFrom))",
    "message": "a variable has a value or comes from somewhere, not both",
}]))]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value; `$(NAME)` in it stands for an earlier variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value comes from when the container starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where a variable's value comes from: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [exactly_one_of(&SOURCES)]))]
pub struct EnvVarSource {
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeySelector>,
    /// A key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeySelector>,
    /// A field of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<ObjectFieldSelector>,
    /// A resource of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_field_ref: Option<ResourceFieldSelector>,
}

/// A key of a ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySelector {
    /// Name of the object.
    pub name: String,
    /// Key in it.
    pub key: String,
    /// Whether the container may start without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A field of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectFieldSelector {
    /// The field, like `metadata.name`.
    pub field_path: String,
    /// Version of the pod's schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
}

/// A resource of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourceFieldSelector {
    /// The resource, like `limits.cpu`.
    pub resource: String,
    /// The container, if not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// What the value is divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divisor: Option<String>,
}

pub(super) fn read_env_var(field: &Field<'_>) -> Option<EnvVar> {
    let object = field.object()?;
    let name = owned_text(&object.required("name"));
    // A value may be a secret, whatever the handbook says.
    let value = object.field("value").hide_values().text().map(str::to_owned);
    let value_from_field = object.field("valueFrom");
    let value_from = read_source(&value_from_field);
    if value.is_some() && value_from_field.is_present() {
        value_from_field.report(
            None,
            "a variable has a value or comes from somewhere, not both",
            "Remove one of them.",
        );
    }
    object.finish();
    Some(EnvVar {
        name: name?,
        value,
        value_from,
    })
}

fn read_source(field: &Field<'_>) -> Option<EnvVarSource> {
    let object = field.object()?;
    let source = EnvVarSource {
        config_map_key_ref: read_key_selector(&object.field("configMapKeyRef")),
        secret_key_ref: read_key_selector(&object.field("secretKeyRef")),
        field_ref: read_field_selector(&object.field("fieldRef")),
        resource_field_ref: read_resource_selector(&object.field("resourceFieldRef")),
    };
    let count = SOURCES.iter().filter(|name| object.field(name).is_present()).count();
    if count != 1 {
        field.report(
            None,
            format!("{count} sources stand here"),
            &format!("Name exactly one of {}.", SOURCES.join(", ")),
        );
    }
    object.finish();
    Some(source)
}

fn read_key_selector(field: &Field<'_>) -> Option<KeySelector> {
    let object = field.object()?;
    let (name, key) = (
        owned_text(&object.required("name")),
        owned_text(&object.required("key")),
    );
    let optional = object.field("optional").boolean();
    object.finish();
    Some(KeySelector {
        name: name?,
        key: key?,
        optional,
    })
}

fn read_field_selector(field: &Field<'_>) -> Option<ObjectFieldSelector> {
    let object = field.object()?;
    let field_path = owned_text(&object.required("fieldPath"));
    let api_version = owned_text(&object.field("apiVersion"));
    object.finish();
    Some(ObjectFieldSelector {
        field_path: field_path?,
        api_version,
    })
}

fn read_resource_selector(field: &Field<'_>) -> Option<ResourceFieldSelector> {
    let object = field.object()?;
    let resource = owned_text(&object.required("resource"));
    let container_name = owned_text(&object.field("containerName"));
    let divisor = owned_text(&object.field("divisor"));
    object.finish();
    Some(ResourceFieldSelector {
        resource: resource?,
        container_name,
        divisor,
    })
}
