//! From what the API server sends to an object, by the same readers that read files.

use kube::core::DynamicObject;
use lattice_api::object::{Object, read_objects};
use serde_json::{Value, json};

/// Reads an object of a cluster: its identity and what its owner wrote, without what the API server added.
///
/// # Errors
/// What is wrong with it, a line each, with the field.
pub(super) fn read(api_version: &str, kind: &str, object: &DynamicObject) -> Result<Object, Vec<String>> {
    let mut metadata = json!({"name": object.metadata.name});
    if let Some(namespace) = &object.metadata.namespace {
        metadata["namespace"] = json!(namespace);
    }
    let mut document = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    for (name, value) in object.data.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()) {
            document[name] = without_nulls(value.clone());
        }
    }
    let text = document.to_string();
    match read_objects(kind, text.as_bytes()) {
        Ok(mut objects) => objects.pop().ok_or_else(|| vec!["it is empty".to_owned()]),
        // Lines are those of the text above, which nobody wrote.
        Err(diagnostics) => Err(diagnostics
            .iter()
            .map(|diagnostic| {
                let value = diagnostic
                    .value
                    .as_ref()
                    .map(|value| format!(" \"{value}\""))
                    .unwrap_or_default();
                format!(
                    "{}{value}: {}. {}",
                    diagnostic.field, diagnostic.message, diagnostic.advice
                )
            })
            .collect()),
    }
}

/// To the API server a field that is null is one that is absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> DynamicObject {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_the_api_server_added_is_not_read() {
        let sent = object(
            r#"{"apiVersion": "lattice.dev/v1alpha1", "kind": "TrustPolicy",
                "metadata": {"name": "a", "uid": "1", "resourceVersion": "5", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z",
                             "managedFields": [{"manager": "kubectl"}], "finalizers": ["x"]},
                "spec": {"registry": "registry.example.com", "cosign": {"publicKey": {"secretRef": "a/b", "other": null}}},
                "status": {"conditions": []}}"#,
        );
        let Ok(Object::TrustPolicy(policy)) = read("lattice.dev/v1alpha1", "TrustPolicy", &sent) else {
            panic!("must be read");
        };
        assert_eq!(
            (policy.name.as_str(), policy.spec.registry.as_str()),
            ("a", "registry.example.com")
        );
    }

    #[test]
    fn what_is_wrong_is_said_by_field() {
        let sent = object(
            r#"{"metadata": {"name": "a"}, "spec": {"registry": "https://x", "cosign": {"publicKey": {"secretRef": "a/b"}}}}"#,
        );
        let problems = read("lattice.dev/v1alpha1", "TrustPolicy", &sent).unwrap_err();
        assert!(problems[0].starts_with("spec.registry \"https://x\": "), "{problems:?}");
    }
}
