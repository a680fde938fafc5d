//! From policies to documents. What is written reads back as the same policy; what has its default is left out.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Serialize;

use super::{
    read::{API_VERSION, KIND},
    schema,
};
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

/// The JSON schema of a document's `spec`, with nothing referred to elsewhere. It says what a document's form is; the reader is stricter.
pub fn spec_schema() -> Schema {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<SpecDocument<'static>>()
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

/// What may start in some containers of the namespace. Everything else is refused, or reported, as `mode` says.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SpecDocument<'p> {
    /// The containers that the policy is for. What is absent matches all; of several policies the most specific one holds.
    #[serde(skip_serializing_if = "TargetDocument::is_empty")]
    #[schemars(default = "schema::no_target")]
    target: TargetDocument<'p>,
    /// What happens to a program that is not allowed, unless the namespace's mode or a rollout says otherwise.
    #[schemars(schema_with = "schema::mode", default = "schema::default_mode")]
    mode: &'static str,
    /// What a failure to decide means, by its cause.
    #[schemars(default = "schema::default_fail")]
    fail: FailDocument,
    /// Which files a running program may map as code: `off` any, `note` any with an event, `image` the image's own and those of `map`,
    /// `listed` only those of `map`.
    #[schemars(schema_with = "schema::code_loading", default = "schema::default_code_loading")]
    code_loading: &'static str,
    /// How wide the list was derived: `declared` what the specification starts, `image` every executable of the image.
    #[schemars(schema_with = "schema::scope", default = "schema::default_scope")]
    scope: &'static str,
    /// Rises with every change of what is derived.
    #[schemars(default)]
    generation: u64,
    /// The programs that may start. An empty list lets nothing start.
    #[schemars(length(max = 4096))]
    entries: Vec<EntryDocument<'p>>,
    /// Files that may be mapped executable besides: each a path, a SHA-256, or an object of `path` and `sha256`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = 4096), schema_with = "schema::map_rules")]
    map: Vec<MapRuleDocument>,
}

/// The containers that the policy is for.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TargetDocument<'p> {
    /// Name of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    workload: Option<&'p str>,
    /// Name of the container in its pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    container: Option<&'p str>,
    /// Digest of the image that the container was created from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    image_digest: Option<String>,
}

impl TargetDocument<'_> {
    fn is_empty(&self) -> bool {
        self.workload.is_none() && self.container.is_none() && self.image_digest.is_none()
    }
}

/// What a failure to decide means: `open` the program runs, `closed` it is refused, `kill` it is refused and its task killed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FailDocument {
    /// The file's path or content could not be had.
    #[schemars(schema_with = "schema::fail_action", default = "schema::closed")]
    unresolved: &'static str,
    /// The cgroup is one that no container is known for.
    #[schemars(schema_with = "schema::fail_action", default = "schema::closed")]
    unknown: &'static str,
    /// The kernel's maps had no room for the policy.
    #[schemars(schema_with = "schema::fail_action", default = "schema::closed")]
    map_full: &'static str,
    /// No policy is for the container.
    #[schemars(schema_with = "schema::fail_action", default = "schema::open")]
    missing: &'static str,
}

/// A program that may start.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EntryDocument<'p> {
    /// Where the image or the author says that it lies.
    #[schemars(length(max = 16384), regex(pattern = "^/"))]
    path: String,
    /// The content that is allowed, wherever it lies. Without it the entry is for whatever lies at `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    sha256: Option<String>,
    /// The path with all symbolic links resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384), regex(pattern = "^/"))]
    real_path: Option<String>,
    /// Size of the file in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// What the file is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, schema_with = "schema::kind")]
    kind: Option<&'static str>,
    /// How it may start: named by execve, by the first line of a listed script, or by a listed ELF file. `[target]` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, length(min = 1, max = 3), schema_with = "schema::roles")]
    roles: Option<Vec<&'static str>>,
    /// From where it may start: `any`, the entrypoint's own tree (`init`), or a session that entered from outside (`exec-session`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default, schema_with = "schema::from")]
    from: Option<&'static str>,
    /// The names by which a program of many applets may be called; all where there is none.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(default = "schema::none", length(max = 1024), inner(length(min = 1, max = 255)))]
    applets: &'p [String],
    /// Why it is listed, from the cause to the file.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(default = "schema::none", length(max = 64), inner(length(max = 8192)))]
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
    pub(super) fn of(fail: &FailSemantics) -> Self {
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
