//! TrustPolicy: whose signatures count for the images of a registry. Cluster-scoped.

use std::{borrow::Cow, fmt, str::FromStr};

use lattice_policy::document::{Findings, Node, Scoping};
use lattice_policy::validity::check_object_name;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::read_whole;

/// Whose signatures count for the images of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Name.
    pub name: String,
    /// What it says.
    pub spec: TrustPolicySpec,
}

/// What a TrustPolicy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustPolicySpec {
    /// The registry as `host` or `host:port`.
    #[schemars(
        length(max = 261),
        regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?$")
    )]
    pub registry: String,
    /// Signatures in cosign's format.
    pub cosign: Cosign,
}

/// How cosign signatures are checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cosign {
    /// The key that must have signed.
    pub public_key: PublicKey,
}

/// Where a public key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublicKey {
    /// The Secret that holds it: under `cosign.pub`, or as its only key.
    pub secret_ref: SecretReference,
}

/// A Secret by namespace and name; in text `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretReference {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
}

impl JsonSchema for SecretReference {
    fn schema_name() -> Cow<'static, str> {
        "SecretReference".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A Secret as `namespace/name`.",
            "type": "string",
            "maxLength": 317,
            "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        })
    }
}

/// The text is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not the namespace and name of a Secret")]
pub struct InvalidSecretReference;

impl TrustPolicy {
    /// Group and version.
    pub const API_VERSION: &str = "lattice.dev/v1alpha1";
    /// The kind's name.
    pub const KIND: &str = "TrustPolicy";

    pub(super) fn read(findings: &Findings, node: &Node) -> Option<Self> {
        read_whole(findings, node, Scoping::Cluster, |metadata, object| {
            let spec = object.required("spec").object()?;
            let registry_field = spec.required("registry");
            let registry = registry_field.non_empty_text().map(str::to_owned);
            if let Some(registry) = registry.as_deref().filter(|registry| !is_registry(registry)) {
                let message = "this is not the host of a registry, with a port where it has one";
                registry_field.report(
                    Some(registry),
                    message,
                    "Write it like registry.example.com or 127.0.0.1:5000, without a scheme and a path.",
                );
            }
            let cosign = spec.required("cosign").object();
            let secret_ref = cosign.and_then(|cosign| {
                let public_key = cosign.required("publicKey").object();
                cosign.finish();
                let public_key = public_key?;
                let advice = "Write namespace/name, like signing-keys/cosign-public.";
                let secret_ref = public_key.required("secretRef").parse(advice);
                public_key.finish();
                secret_ref
            });
            spec.finish();
            let cosign = Cosign {
                public_key: PublicKey {
                    secret_ref: secret_ref?,
                },
            };
            Some(Self {
                name: metadata.name,
                spec: TrustPolicySpec {
                    registry: registry?,
                    cosign,
                },
            })
        })
    }
}

/// Whether a text is `host` or `host:port`; the host may be an IPv6 address in brackets.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => check_object_name(&host.to_ascii_lowercase(), false).is_ok(),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl FromStr for SecretReference {
    type Err = InvalidSecretReference;

    /// # Errors
    /// When the text is not a namespace, `/` and a name.
    fn from_str(text: &str) -> Result<Self, InvalidSecretReference> {
        let (namespace, name) = text.split_once('/').ok_or(InvalidSecretReference)?;
        if check_object_name(namespace, true).is_err() || check_object_name(name, false).is_err() {
            return Err(InvalidSecretReference);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl TryFrom<String> for SecretReference {
    type Error = InvalidSecretReference;

    fn try_from(text: String) -> Result<Self, InvalidSecretReference> {
        text.parse()
    }
}

impl From<SecretReference> for String {
    fn from(reference: SecretReference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for SecretReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: bool) {
        assert_eq!(is_registry(text), expected, "{text}");
    }

    #[test]
    fn registries() {
        check("registry.example.com", true);
        check("Registry.Example.com", true);
        check("127.0.0.1:5000", true);
        check("localhost:5000", true);
        check("[::1]:5000", true);
        check("[::1]", true);
        check("https://registry.example.com", false);
        check("registry.example.com/team", false);
        check("registry.example.com:0", false);
        check("registry.example.com:", false);
        check("a b", false);
        check("", false);
    }
}
