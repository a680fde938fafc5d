//! CedarPolicy: rules of the gates, as an object. Cluster-scoped.

use lattice_policy::document::{Findings, Node, Scoping};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::read_whole;

/// One object holds at most so many bytes of policies.
const MAX_POLICY_BYTES: usize = 256 * 1024;

/// Cedar policies that decide what may be deployed, given secrets, enforced and excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CedarPolicy {
    /// Name.
    pub name: String,
    /// What it says.
    pub spec: CedarPolicySpec,
}

/// What a CedarPolicy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CedarPolicySpec {
    /// The policies in Cedar's language, each with an `@id`. `lattice-central schema` prints what they may speak of. They count together with
    /// all others: where one of all is invalid, the last good set as a whole stays in force.
    #[schemars(length(min = 1, max = 262_144))]
    pub policies: String,
}

impl CedarPolicy {
    /// Group and version.
    pub const API_VERSION: &str = "lattice.dev/v1alpha1";
    /// The kind's name.
    pub const KIND: &str = "CedarPolicy";

    pub(super) fn read(findings: &Findings, node: &Node) -> Option<Self> {
        read_whole(findings, node, Scoping::Cluster, |metadata, object| {
            let spec = object.required("spec").object()?;
            let field = spec.required("policies");
            let policies = field.non_empty_text().map(str::to_owned);
            if let Some(text) = policies.as_deref().filter(|text| text.len() > MAX_POLICY_BYTES) {
                let message = format!("the text has {} bytes, more than {MAX_POLICY_BYTES}", text.len());
                field.report(None, message, "Split it into several objects.");
            }
            spec.finish();
            Some(Self {
                name: metadata.name,
                spec: CedarPolicySpec { policies: policies? },
            })
        })
    }
}
