//! What all kinds have in common: `apiVersion`, `kind` and `metadata`.

use super::{Field, Findings, Node, Object};
use crate::validity::{OBJECT_NAME_ADVICE, check_object_name};

/// Which kind of object a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
}

/// Whether objects of a kind lie in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoping {
    /// `metadata.namespace` is required.
    Namespaced,
    /// `metadata.namespace` must not be there.
    Cluster,
}

/// Name and namespace of an object. Labels and annotations are checked, and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Name, unique in its namespace.
    pub name: String,
    /// Empty for a cluster-scoped kind.
    pub namespace: String,
}

/// Reads `apiVersion` and `kind`, and nothing else.
pub fn read_header(findings: &Findings, node: &Node) -> Option<Header> {
    let object = Object::root(findings, node)?;
    let api_version = object.required("apiVersion").non_empty_text();
    let kind = object.required("kind").non_empty_text();
    Some(Header {
        api_version: api_version?.to_owned(),
        kind: kind?.to_owned(),
    })
}

/// Reads `metadata` of the object that a document is.
pub fn read_metadata(object: &Object<'_>, scoping: Scoping) -> Option<Metadata> {
    let metadata = object.required("metadata").object()?;
    let name_field = metadata.required("name");
    let name = name_field.text().filter(|name| check_name(&name_field, name, false));
    let namespace = match scoping {
        Scoping::Namespaced => {
            let field = metadata.required("namespace");
            field.text().filter(|namespace| check_name(&field, namespace, true))
        }
        Scoping::Cluster => {
            let field = metadata.field("namespace");
            if field.is_present() {
                field.report(None, "objects of this kind lie in no namespace", "Remove the field.");
            }
            Some("")
        }
    };
    for name in ["labels", "annotations"] {
        if let Some(strings) = metadata.field(name).object() {
            for (_, field) in strings.members() {
                field.text();
            }
        }
    }
    metadata.finish();
    Some(Metadata {
        name: name?.to_owned(),
        namespace: namespace?.to_owned(),
    })
}

fn check_name(field: &Field<'_>, name: &str, is_namespace: bool) -> bool {
    let checked = check_object_name(name, is_namespace);
    if let Err(message) = &checked {
        field.report(Some(name), message.as_str(), OBJECT_NAME_ADVICE);
    }
    checked.is_ok()
}
