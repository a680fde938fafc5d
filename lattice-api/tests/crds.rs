//! The committed custom resource definitions are what the types say, and a cluster would take them.

use std::{collections::BTreeSet, fs, path::Path};

use lattice_api::crd::{Definition, definitions};
use serde_json::Value;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds")
}

#[test]
fn committed_definitions_are_current() {
    let definitions = definitions();
    let file_of = |definition: &Definition| format!("{}.yaml", definition.name);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        for definition in &definitions {
            fs::write(folder().join(file_of(definition)), definition.to_yaml()).unwrap();
        }
    }
    let committed: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(committed, definitions.iter().map(file_of).collect());
    for definition in &definitions {
        let committed = fs::read_to_string(folder().join(file_of(definition))).unwrap();
        assert!(
            committed == definition.to_yaml(),
            "deploy/crds/{} is not current: run `cargo xtask codegen` and commit the result",
            file_of(definition)
        );
    }
}

fn schemas() -> impl Iterator<Item = (String, Value)> {
    definitions().into_iter().map(|definition| {
        let version = definition.document.pointer("/spec/versions/0/schema/openAPIV3Schema");
        (definition.name, version.unwrap().clone())
    })
}

/// Calls `look` with each schema and its path, from the outside in.
fn walk(path: &str, schema: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, look);
    }
    for (key, place) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{place}"), &schema[key], look);
        }
    }
}

/// Kubernetes' rules for structural schemas.
#[test]
fn schemas_are_structural() {
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, schema| {
            let at = format!("{name}{path}");
            let is_free = schema.get("x-kubernetes-int-or-string").is_some()
                || schema.get("x-kubernetes-preserve-unknown-fields").is_some();
            assert_eq!(schema["type"].is_string(), !is_free, "{at}: {schema}");
            for key in ["oneOf", "anyOf", "allOf", "not", "$ref", "$defs", "const", "$schema"] {
                assert!(schema.get(key).is_none(), "{at} has {key}");
            }
            assert!(
                schema["type"] != "array" || schema["items"].is_object(),
                "{at} has no items"
            );
            if let Some(format) = schema.get("format") {
                assert!(
                    ["int32", "int64", "date-time"].contains(&format.as_str().unwrap()),
                    "{at}: {format}"
                );
            }
            for field in schema["required"].as_array().into_iter().flatten() {
                assert!(
                    schema["properties"][field.as_str().unwrap()].is_object(),
                    "{at}: {field}"
                );
            }
        });
    }
}

/// As the readers have it: what they do without, the cluster must not ask for.
#[test]
fn only_what_the_readers_need_is_required() {
    let mut required = Vec::new();
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, schema| {
            if path.starts_with(".spec")
                && let Some(fields) = schema["required"].as_array()
            {
                let fields: Vec<&str> = fields.iter().map(|field| field.as_str().unwrap()).collect();
                let kind = name.split('.').next().unwrap();
                required.push(format!("{}: {}", once(&format!("{kind}{path}")), fields.join(" ")));
            }
        });
    }
    required.sort();
    required.dedup();
    let expected = include_str!("required_fields.txt");
    let found = required.join("\n") + "\n";
    assert!(found == expected, "{found}");
}

#[test]
fn every_field_says_what_it_is() {
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, schema| {
            // These three are described by the API server; what lies in a list or map is described with it.
            let is_known = [".apiVersion", ".kind", ".metadata"].contains(&path);
            if !is_known && !path.ends_with("[]") && !path.ends_with("{}") {
                let description = schema["description"].as_str().unwrap_or_default();
                assert!(description.len() > 4, "{name}{path} has no description");
            }
        });
    }
}

/// Each field of a document that has all of them is one that the schema knows, or the API server would drop it in silence.
#[test]
fn nothing_that_the_readers_take_is_dropped() {
    let documents = include_str!("all_fields.yaml");
    let objects = lattice_api::read_objects("all_fields.yaml", documents.as_bytes()).unwrap();
    assert!(objects.len() >= definitions().len());
    let mut untouched: BTreeSet<String> = BTreeSet::new();
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, _| {
            if path.starts_with(".spec") {
                untouched.insert(once(&format!("{name}{path}")));
            }
        });
    }
    for document in documents.split("\n---\n") {
        let document: Value = serde_saphyr::from_str(document).unwrap();
        let definition = definitions()
            .into_iter()
            .find(|definition| definition.document["spec"]["names"]["kind"] == document["kind"])
            .unwrap();
        let schema = &definition.document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        visit(
            &format!("{}.spec", definition.name),
            schema,
            &document["spec"],
            &mut untouched,
        );
    }
    assert!(untouched.is_empty(), "no document of all_fields.yaml has {untouched:?}");
}

/// Of what several fields have in common it is enough to see each part in one of them.
fn once(path: &str) -> String {
    path.replace("livenessProbe", "probe")
        .replace("readinessProbe", "probe")
        .replace("startupProbe", "probe")
        .replace("preStop", "postStart")
        .replace("initContainers", "containers")
}

fn visit(path: &str, schema: &Value, value: &Value, untouched: &mut BTreeSet<String>) {
    untouched.remove(&once(path));
    if schema.get("x-kubernetes-preserve-unknown-fields").is_some() {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match schema["properties"].get(name) {
                    Some(property) => visit(&format!("{path}.{name}"), property, value, untouched),
                    None => {
                        let any = &schema["additionalProperties"];
                        assert!(any.is_object(), "the schema has no {path}.{name}");
                        visit(&format!("{path}{{}}"), any, value, untouched);
                    }
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| visit(&format!("{path}[]"), &schema["items"], item, untouched)),
        _ => {}
    }
}

/// Helm installs what is in there.
#[test]
fn the_chart_has_these_definitions() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let real = |path: &str| deploy.join(path).canonicalize().unwrap();
    assert_eq!(real("charts/lattice/crds"), real("crds"));
}
