//! Kubernetes' own Secret, as far as it is a file: `data` in base64, `stringData` as it is.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use lattice_policy::document::{Findings, Node, Scoping};

use super::read_whole;

/// All values of a Secret together have at most so many bytes (Kubernetes' own limit).
const MAX_SECRET_BYTES: usize = 1024 * 1024;

/// Secret material by key. Its content is shown nowhere: not by `Debug`, and not in a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `Opaque` where the document does not say.
    pub secret_type: String,
    /// The values by key, decoded; `stringData` wins over `data`.
    pub data: BTreeMap<String, SecretBytes>,
}

/// A value of a Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{} bytes]", self.0.len())
    }
}

impl Secret {
    /// Group and version.
    pub const API_VERSION: &str = "v1";
    /// The kind's name.
    pub const KIND: &str = "Secret";

    pub(super) fn read(findings: &Findings, node: &Node) -> Option<Self> {
        read_whole(findings, node, Scoping::Namespaced, |metadata, object| {
            let secret_type = object.field("type");
            let secret_type = match secret_type.is_present() {
                true => secret_type.non_empty_text().map(str::to_owned),
                false => Some("Opaque".to_owned()),
            };
            object.field("immutable").boolean();
            let mut data = BTreeMap::new();
            if let Some(encoded) = object.field("data").hide_values().object() {
                for (key, field) in encoded.members() {
                    // Line breaks stand in base64 that was pasted from a file.
                    let Some(text) = field.text() else { continue };
                    let text: String = text
                        .chars()
                        .filter(|character| !character.is_ascii_whitespace())
                        .collect();
                    match STANDARD.decode(text) {
                        Ok(bytes) => drop(data.insert(key.to_owned(), SecretBytes(bytes))),
                        Err(_) => field.report(
                            None,
                            "this is not base64",
                            "Encode it with `base64 -w0`, or write it as it is under stringData.",
                        ),
                    }
                }
            }
            if let Some(plain) = object.field("stringData").hide_values().object() {
                for (key, field) in plain.members() {
                    if let Some(text) = field.text() {
                        data.insert(key.to_owned(), SecretBytes(text.as_bytes().to_vec()));
                    }
                }
            }
            let size_bytes: usize = data.values().map(|value| value.0.len()).sum();
            if size_bytes > MAX_SECRET_BYTES {
                let message = format!("the values have {size_bytes} bytes, more than Kubernetes' {MAX_SECRET_BYTES}");
                object
                    .field("data")
                    .report(None, message, "Make several Secrets of it.");
            }
            Some(Self {
                namespace: metadata.namespace,
                name: metadata.name,
                secret_type: secret_type?,
                data,
            })
        })
    }
}
