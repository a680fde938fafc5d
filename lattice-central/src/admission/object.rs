//! Which images an object runs, and of which workload it is: out of the object alone, whatever stands in it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::review::{Malformed, shown};
use crate::children::SERVICE_LABEL;

/// Containers and image volumes of one object; a pod of more would not fit into etcd with its status.
const IMAGES_MAXIMUM: usize = 1_000;
/// Images that differ, of one object: each may cost requests to a registry.
const DIFFERENT_IMAGES_MAXIMUM: usize = 64;
/// A reference has a host, a repository of at most 255 bytes, a tag of at most 128, and a digest.
const IMAGE_BYTES_MAXIMUM: usize = 1_024;
/// Names of Kubernetes' objects are shorter.
const NAME_BYTES_MAXIMUM: usize = 253;

/// Where a kind has its pod: the pod's own metadata and spec are below.
const POD_OF: [(&str, &[&str]); 8] = [
    ("Pod", &[]),
    ("ReplicationController", &["spec", "template"]),
    ("Deployment", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// Where a pod names images, in the order in which they are started, and where each item does.
const LISTS: [(&str, &[&str]); 4] = [
    ("initContainers", &["image"]),
    ("containers", &["image"]),
    ("ephemeralContainers", &["image"]),
    ("volumes", &["image", "reference"]),
];

/// An image, and where it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `spec.template.spec.containers[0].image`.
    pub field: String,
    /// The container's name, or the volume's.
    pub container: String,
    /// The reference.
    pub image: String,
}

/// The images of an object, in the order in which they are started.
///
/// # Errors
/// When the object is of no kind that runs images, or a field is not what Kubernetes has there.
pub fn images(kind: &str, object: &Value) -> Result<Vec<Named>, Malformed> {
    let (pod, path) = pod_of(kind, object)?;
    let is_template = !path.is_empty();
    let path = format!("{path}spec");
    let Some(spec) = pod.get("spec").filter(|spec| !spec.is_null()) else {
        return Err(Malformed::new(&path, "is missing"));
    };
    let mut all = Vec::new();
    for (list, of_each) in LISTS {
        let path = format!("{path}.{list}");
        let items = match spec.get(list) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(other) => {
                return Err(Malformed::new(
                    &path,
                    format!("is no list: {}", shown(&other.to_string())),
                ));
            }
        };
        if all.len() + items.len() > IMAGES_MAXIMUM {
            return Err(Malformed::new(
                &path,
                format!("has {} items; an object may name {IMAGES_MAXIMUM} images", items.len()),
            ));
        }
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let container = text(item, "name", &path, NAME_BYTES_MAXIMUM)?.unwrap_or_default();
            let (holder, field) = match of_each {
                [outer, _] => (item.get(outer).unwrap_or(&Value::Null), format!("{path}.{outer}")),
                _ => (item, path.clone()),
            };
            // A volume of another kind.
            if list == "volumes" && holder.is_null() {
                continue;
            }
            let last = of_each.last().copied().unwrap_or_default();
            let image = text(holder, last, &field, IMAGE_BYTES_MAXIMUM)?.unwrap_or_default();
            match image {
                // Kubernetes lets a template leave it out for somebody else to fill in, and a volume's later; the pod is judged then.
                "" if is_template || list == "volumes" => {}
                "" => return Err(Malformed::new(&format!("{field}.{last}"), "is missing")),
                image => all.push(Named {
                    field: format!("{field}.{last}"),
                    container: container.to_owned(),
                    image: image.to_owned(),
                }),
            }
        }
    }
    let different: BTreeSet<&str> = all.iter().map(|named| named.image.as_str()).collect();
    if different.len() > DIFFERENT_IMAGES_MAXIMUM {
        return Err(Malformed::new(
            &path,
            format!(
                "names {} different images; {DIFFERENT_IMAGES_MAXIMUM} are judged of one object",
                different.len()
            ),
        ));
    }
    Ok(all)
}

/// Whose object it is, as far as the object says so. Nothing here is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The LatticeService that the pod's label names.
    pub service: Option<String>,
    /// The workload: the controller's name, or the object's own.
    pub name: String,
}

/// # Errors
/// When the object is of no kind that runs images, or a name is none.
pub fn workload(kind: &str, object: &Value) -> Result<Workload, Malformed> {
    let (pod, path) = pod_of(kind, object)?;
    let no_labels = Value::Null;
    let labels = |of: &Value| of.pointer("/metadata/labels").unwrap_or(&no_labels).clone();
    let service = text(
        &labels(pod),
        SERVICE_LABEL,
        &format!("{path}metadata.labels"),
        NAME_BYTES_MAXIMUM,
    )?
    .map(str::to_owned);
    let no_metadata = Value::Null;
    let metadata = object.get("metadata").unwrap_or(&no_metadata);
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let controller = owners
        .into_iter()
        .flatten()
        .find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    let name = match controller {
        Some(owner) => text(owner, "name", "metadata.ownerReferences", NAME_BYTES_MAXIMUM)?,
        None => match text(metadata, "name", "metadata", NAME_BYTES_MAXIMUM)? {
            Some(name) => Some(name),
            None => {
                text(metadata, "generateName", "metadata", NAME_BYTES_MAXIMUM)?.map(|name| name.trim_end_matches('-'))
            }
        },
    };
    let name = name.unwrap_or_default();
    // A ReplicaSet of a Deployment is called after it and its template.
    let labels = labels(pod);
    let hash = labels.get("pod-template-hash").and_then(Value::as_str);
    let name = hash
        .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
        .unwrap_or(name);
    Ok(Workload {
        service,
        name: name.to_owned(),
    })
}

/// The part of an object that has a pod's metadata and spec, and the path to it, with a dot at its end.
fn pod_of<'a>(kind: &str, object: &'a Value) -> Result<(&'a Value, String), Malformed> {
    let (_, steps) = POD_OF.iter().find(|(known, _)| *known == kind).ok_or_else(|| {
        Malformed::new(
            "request.kind.kind",
            format!("{} runs no images that are known", shown(kind)),
        )
    })?;
    let mut path = String::new();
    let mut part = object;
    for step in *steps {
        path.push_str(step);
        part = part.get(step).ok_or_else(|| Malformed::new(&path, "is missing"))?;
        path.push('.');
    }
    Ok((part, path))
}

fn text<'a>(of: &'a Value, key: &str, path: &str, most: usize) -> Result<Option<&'a str>, Malformed> {
    let field = || format!("{path}.{key}");
    match of.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() > most => Err(Malformed::new(
            &field(),
            format!("has {} bytes instead of at most {most}: {}", text.len(), shown(text)),
        )),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => Err(Malformed::new(
            &field(),
            format!("is no text: {}", shown(&other.to_string())),
        )),
    }
}
