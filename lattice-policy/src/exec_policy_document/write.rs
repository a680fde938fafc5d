//! From policies to documents. What is written reads back as the same policy; what has its default is left out.

use serde::Serialize;

use super::read::{API_VERSION, KIND};
use crate::{Entry, ExecPolicy, FailSemantics, MapRule, Origin, Role, escape::json_for_terminal};

/// The document as YAML.
pub fn to_yaml(policy: &ExecPolicy) -> String {
    // The serializer fails only for what these plain structs cannot contain, and for a writer that fails; a String does not.
    serde_saphyr::to_string_with_options(&Document::of(policy), serde_saphyr::ser_options! { yaml_12: false })
        .expect("plain structs of strings, numbers and lists can be written as YAML")
}

/// The document as JSON, indented.
pub fn to_json(policy: &ExecPolicy) -> String {
    // As above: no map with other keys than strings, no writer that can fail.
    let json = serde_json::to_string_pretty(&Document::of(policy))
        .expect("plain structs of strings, numbers and lists can be written as JSON");
    // JSON takes characters raw that YAML does not.
    json_for_terminal(&json)
}

/// The document as JSON in one line.
pub(crate) fn to_compact_json(policy: &ExecPolicy) -> String {
    let json = serde_json::to_string(&Document::of(policy))
        .expect("plain structs of strings, numbers and lists can be written as JSON");
    json_for_terminal(&json)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'p> {
    api_version: &'static str,
    kind: &'static str,
    metadata: MetadataDocument<'p>,
    spec: SpecDocument<'p>,
}

#[derive(Serialize)]
struct MetadataDocument<'p> {
    name: &'p str,
    namespace: &'p str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecDocument<'p> {
    #[serde(skip_serializing_if = "TargetDocument::is_empty")]
    target: TargetDocument<'p>,
    mode: &'static str,
    fail: FailDocument,
    code_loading: &'static str,
    scope: &'static str,
    generation: u64,
    entries: Vec<EntryDocument<'p>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    map: Vec<MapRuleDocument>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TargetDocument<'p> {
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_digest: Option<String>,
}

impl TargetDocument<'_> {
    fn is_empty(&self) -> bool {
        self.workload.is_none() && self.container.is_none() && self.image_digest.is_none()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailDocument {
    unresolved: &'static str,
    unknown: &'static str,
    map_full: &'static str,
    missing: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryDocument<'p> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    real_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    applets: &'p [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    because: &'p [String],
}

#[derive(Serialize)]
struct MapRuleDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl<'p> Document<'p> {
    fn of(policy: &'p ExecPolicy) -> Self {
        let target = TargetDocument {
            workload: policy.target.workload.as_deref(),
            container: policy.target.container.as_deref(),
            image_digest: policy.target.image_digest.map(|digest| digest.to_string()),
        };
        let spec = SpecDocument {
            target,
            mode: policy.mode.word(),
            fail: FailDocument::of(&policy.fail),
            code_loading: policy.code_loading.word(),
            scope: policy.scope.word(),
            generation: policy.generation,
            entries: policy.entries.iter().map(EntryDocument::of).collect(),
            map: policy.map.iter().map(MapRuleDocument::of).collect(),
        };
        let metadata = MetadataDocument {
            name: &policy.name,
            namespace: &policy.namespace,
        };
        Self {
            api_version: API_VERSION,
            kind: KIND,
            metadata,
            spec,
        }
    }
}

impl FailDocument {
    fn of(fail: &FailSemantics) -> Self {
        Self {
            unresolved: fail.unresolved.word(),
            unknown: fail.unknown.word(),
            map_full: fail.map_full.word(),
            missing: fail.missing.word(),
        }
    }
}

impl<'p> EntryDocument<'p> {
    fn of(entry: &'p Entry) -> Self {
        Self {
            path: entry.path.to_string(),
            sha256: entry.sha256.map(|digest| digest.to_string()),
            real_path: entry.real_path.as_ref().map(ToString::to_string),
            size: entry.size_bytes,
            kind: entry.kind.map(|kind| kind.word()),
            roles: (entry.roles != [Role::Target]).then(|| entry.roles.iter().map(|role| role.word()).collect()),
            from: (entry.from != Origin::Any).then(|| entry.from.word()),
            applets: &entry.applets,
            because: &entry.because,
        }
    }
}

impl MapRuleDocument {
    fn of(rule: &MapRule) -> Self {
        Self {
            path: rule.path.as_ref().map(ToString::to_string),
            sha256: rule.sha256.map(|digest| digest.to_string()),
        }
    }
}
