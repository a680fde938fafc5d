//! From the API server's bytes to what is asked. Whoever reaches the listener may send them.

use std::collections::BTreeSet;

use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionReview, META_API_VERSION_V1, META_KIND, Operation},
};
use serde_json::{Value, json};

use super::object::{self, Named, Workload};

/// Bytes of a request: an object and the one before it, each as large as etcd takes, and what belongs to both.
pub const BYTES_MAXIMUM: usize = 8 * 1024 * 1024;
/// Bytes of a user's name, a namespace, a kind.
const TEXT_BYTES_MAXIMUM: usize = 1_024;
/// Characters of a foreign value that an error shows.
const SHOWN_MAXIMUM: usize = 120;

/// A field that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    field: String,
    problem: String,
}

impl Malformed {
    pub(super) fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.into(),
        }
    }
}

/// A foreign value, in one line and not too much of it.
pub(super) fn shown(value: &str) -> String {
    let mut text: String = value.escape_debug().take(SHOWN_MAXIMUM).collect();
    if value.chars().count() > SHOWN_MAXIMUM {
        text.push('…');
    }
    format!("\"{text}\"")
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Review {
    /// As it came, without the objects.
    pub request: AdmissionRequest<DynamicObject>,
    /// Of the object.
    pub namespace: String,
    /// Kind of the object.
    pub kind: String,
    /// Whose it is.
    pub workload: Workload,
    /// Who asks.
    pub user: String,
    /// The images that it did not name before.
    pub images: Vec<Named>,
}

impl Review {
    /// Whether nothing comes of it, whatever is answered.
    pub fn is_dry_run(&self) -> bool {
        self.request.dry_run
    }
}

/// Reads a review.
///
/// # Errors
/// When it is none, or a field of it is not what it should be.
pub fn read(bytes: &[u8]) -> Result<Review, Malformed> {
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(bytes).map_err(|error| Malformed::new("AdmissionReview", error.to_string()))?;
    for (field, found, expected) in [
        ("apiVersion", &review.types.api_version, META_API_VERSION_V1),
        ("kind", &review.types.kind, META_KIND),
    ] {
        if found != expected {
            return Err(Malformed::new(
                field,
                format!("is {} instead of {expected}", shown(found)),
            ));
        }
    }
    let mut request: AdmissionRequest<DynamicObject> =
        review.try_into().map_err(|_| Malformed::new("request", "is missing"))?;
    let (object, before) = (request.object.take(), request.old_object.take());
    let namespace = request.namespace.clone().unwrap_or_default();
    let user = request.user_info.username.clone().unwrap_or_default();
    let kind = request.kind.kind.clone();
    for (field, text) in [
        ("request.uid", &request.uid),
        ("request.name", &request.name),
        ("request.namespace", &namespace),
        ("request.userInfo.username", &user),
        ("request.kind.kind", &kind),
    ] {
        if text.len() > TEXT_BYTES_MAXIMUM {
            return Err(Malformed::new(
                field,
                format!("has {} bytes instead of at most {TEXT_BYTES_MAXIMUM}", text.len()),
            ));
        }
    }
    if request.uid.is_empty() {
        return Err(Malformed::new("request.uid", "is missing"));
    }
    if namespace.is_empty() {
        return Err(Malformed::new("request.namespace", "is missing"));
    }
    let object = match (&request.operation, object) {
        (Operation::Create | Operation::Update, Some(object)) => value(object),
        (Operation::Create | Operation::Update, None) => return Err(Malformed::new("request.object", "is missing")),
        // Nothing starts by it.
        (Operation::Delete | Operation::Connect, _) => {
            return Err(Malformed::new(
                "request.operation",
                "is neither CREATE nor UPDATE; correct the rules of the webhook configuration",
            ));
        }
    };
    let mut images = object::images(&kind, &object)?;
    if let Some(before) = before {
        // What cannot be read of the object before is no reason to leave out any of the new one.
        let before = object::images(&kind, &value(before)).unwrap_or_default();
        let known: BTreeSet<String> = before.into_iter().map(|named| named.image).collect();
        images.retain(|named| !known.contains(&named.image));
    }
    Ok(Review {
        workload: object::workload(&kind, &object)?,
        request,
        namespace,
        kind,
        user,
        images,
    })
}

/// The object as one tree.
fn value(object: DynamicObject) -> Value {
    // Metadata was read from JSON, which has what it came to.
    let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
    let mut value = match object.data {
        Value::Object(fields) => Value::Object(fields),
        _ => json!({}),
    };
    value["metadata"] = metadata;
    value
}
