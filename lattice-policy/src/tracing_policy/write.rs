//! From a policy to the canonical document, and what Tetragon does not do of it.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    API_VERSION, MAX_PATH_ENTRY_BYTES, WORKLOAD_LABEL,
    carried::{ANNOTATION, MAX_ANNOTATION_BYTES},
    read::TracingPolicyKind,
};
use crate::{
    CodeLoading, Entry, ExecPolicy, FilePath, InvalidPolicy, Mode, Origin, Role, Scope, escape::json_for_terminal,
    exec_policy_document::to_compact_json,
};

/// A label's value and a container's name have at most so many bytes.
const MAX_LABEL_BYTES: usize = 63;

/// Whether the document carries the whole policy along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// In an annotation, which Tetragon ignores: Lattice reads the same policy back.
    Annotation,
    /// Nothing but what Tetragon understands.
    Nothing,
}

/// Something of a policy that the document does not say to Tetragon, or to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The field by its path in the ExecPolicy document.
    pub field: String,
    /// What it comes to; without a full stop at its end.
    pub message: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// A `TracingPolicyNamespaced` as Tetragon's strict decoder takes it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TracingPolicyDocument {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Clone, Serialize)]
struct Metadata {
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    pod_selector: LabelSelector,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_selector: Option<LabelSelector>,
    lsmhooks: [LsmHook; 1],
    options: [Setting; 1],
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    match_labels: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Serialize)]
struct LsmHook {
    hook: &'static str,
    args: [Argument; 1],
    selectors: Vec<Selector>,
}

#[derive(Debug, Clone, Serialize)]
struct Argument {
    index: u32,
    r#type: &'static str,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(rename = "matchPIDs", skip_serializing_if = "Option::is_none")]
    match_pids: Option<[Processes; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    match_args: Option<[PathMatch; 1]>,
    match_actions: Vec<Action>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Processes {
    operator: &'static str,
    values: [u32; 1],
    #[serde(rename = "isNamespacePID")]
    is_namespace_pid: bool,
    follow_forks: bool,
}

#[derive(Debug, Clone, Serialize)]
struct PathMatch {
    index: u32,
    operator: &'static str,
    values: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arg_error: Option<i32>,
}

#[derive(Debug, Clone, Serialize)]
struct Setting {
    name: &'static str,
    value: &'static str,
}

impl TracingPolicyDocument {
    /// Writes a policy for Tetragon, and says what of it Tetragon does not do; with [`Carry::Nothing`] also what is lost.
    ///
    /// # Errors
    /// What no such document can say: names that are no labels, paths that are not UTF-8 or too long, and with
    /// [`Carry::Annotation`] a policy that is too large for an annotation.
    pub fn of(policy: &ExecPolicy, carry: Carry) -> Result<(Self, Vec<Loss>), Vec<InvalidPolicy>> {
        policy.check()?;
        let mut faults = Vec::new();
        let mut labels = |label, field: &str, value: &Option<String>| {
            let value = value.as_ref()?;
            if !is_label(value) {
                let message =
                    format!("the name is no label of at most {MAX_LABEL_BYTES} bytes that Kubernetes would take");
                let advice = "Use letters, digits, \"-\", \"_\" and \".\", a letter or digit first and last.";
                faults.push(InvalidPolicy::new(field, value, message, advice));
            }
            Some(LabelSelector {
                match_labels: BTreeMap::from([(label, value.clone())]),
            })
        };
        let pod_selector = labels(WORKLOAD_LABEL, "spec.target.workload", &policy.target.workload);
        let container_selector = labels("name", "spec.target.container", &policy.target.container);
        let paths = paths(policy, &mut faults);
        let mut annotations = BTreeMap::new();
        if carry == Carry::Annotation {
            let json = to_compact_json(policy);
            if json.len() > MAX_ANNOTATION_BYTES {
                let message = format!(
                    "the policy has {} bytes as an annotation, and at most {MAX_ANNOTATION_BYTES} fit",
                    json.len()
                );
                let advice = "Convert it with --plain, which leaves the annotation out and says what is lost.";
                faults.push(InvalidPolicy::new("spec", "", message, advice));
            }
            annotations.insert(ANNOTATION, json);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let hook = LsmHook {
            hook: "bprm_check_security",
            args: [Argument {
                index: 0,
                r#type: "linux_binprm",
            }],
            selectors: selectors(&paths, policy.mode),
        };
        let document = Self {
            api_version: API_VERSION,
            kind: TracingPolicyKind::Namespaced.name(),
            metadata: Metadata {
                name: policy.name.clone(),
                namespace: policy.namespace.clone(),
                annotations,
            },
            spec: Spec {
                pod_selector: pod_selector.unwrap_or(LabelSelector {
                    match_labels: BTreeMap::new(),
                }),
                container_selector,
                lsmhooks: [hook],
                options: [Setting {
                    name: "policy-mode",
                    value: match policy.mode {
                        Mode::Monitor => "monitor",
                        Mode::Enforce | Mode::Deny => "enforce",
                    },
                }],
            },
        };
        Ok((document, losses(policy, carry)))
    }

    /// As YAML.
    pub fn to_yaml(&self) -> String {
        // As in the ExecPolicy's writer: plain structs and a String do not fail.
        serde_saphyr::to_string_with_options(self, serde_saphyr::ser_options! { yaml_12: false })
            .expect("plain structs of strings, numbers and lists can be written as YAML")
    }

    /// As JSON, indented.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self)
            .expect("plain structs of strings, numbers and lists can be written as JSON");
        json_for_terminal(&json)
    }
}

fn is_label(value: &str) -> bool {
    let is_outer = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = value.as_bytes();
    bytes.len() <= MAX_LABEL_BYTES
        && bytes.first().is_some_and(is_outer)
        && bytes.last().is_some_and(is_outer)
        && bytes
            .iter()
            .all(|byte| is_outer(byte) || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether Tetragon's hook sees starts in this role.
fn is_seen(role: Role) -> bool {
    matches!(role, Role::Target | Role::ScriptInterpreter)
}

/// The path that the kernel reports for an entry's file.
fn resolved(entry: &Entry) -> &FilePath {
    entry.real_path.as_ref().unwrap_or(&entry.path)
}

/// What may start, and from where; two entries for one path allow what either does.
fn paths(policy: &ExecPolicy, faults: &mut Vec<InvalidPolicy>) -> BTreeMap<String, Origin> {
    let mut paths = BTreeMap::new();
    for (index, entry) in policy.entries.iter().enumerate() {
        if !entry.roles.iter().copied().any(is_seen) {
            continue;
        }
        let path = resolved(entry);
        let field = match entry.real_path {
            Some(_) => format!("spec.entries[{index}].realPath"),
            None => format!("spec.entries[{index}].path"),
        };
        let Ok(text) = std::str::from_utf8(path.as_bytes()) else {
            let message = "the path is not UTF-8, and Tetragon's documents know no escape for other bytes";
            let advice = "Leave this policy to Lattice.";
            faults.push(InvalidPolicy::new(field, &path.to_string(), message, advice));
            continue;
        };
        if text.len() > MAX_PATH_ENTRY_BYTES {
            let message = format!("the path has more than {MAX_PATH_ENTRY_BYTES} bytes, and could not be read back");
            faults.push(InvalidPolicy::new(
                field,
                text,
                message,
                "Leave this policy to Lattice.",
            ));
            continue;
        }
        paths
            .entry(text.to_owned())
            .and_modify(|from| {
                if *from != entry.from {
                    *from = Origin::Any;
                }
            })
            .or_insert(entry.from);
    }
    paths
}

/// What is not listed is refused; what is listed for one kind of start is refused from the other.
fn selectors(paths: &BTreeMap<String, Origin>, mode: Mode) -> Vec<Selector> {
    let with = |wanted: Origin| -> Vec<String> {
        paths
            .iter()
            .filter(|(_, from)| **from == wanted)
            .map(|(path, _)| path.clone())
            .collect()
    };
    let refusal = |operator, values: Vec<String>, processes: Option<&'static str>| Selector {
        match_pids: processes.map(|operator| {
            [Processes {
                operator,
                values: [1],
                is_namespace_pid: true,
                follow_forks: true,
            }]
        }),
        // Without a condition a selector matches always, which is what an empty list of allowed programs means.
        match_args: (!values.is_empty()).then_some([PathMatch {
            index: 0,
            operator,
            values,
        }]),
        match_actions: actions(mode),
    };
    let mut selectors = vec![refusal("NotEqual", paths.keys().cloned().collect(), None)];
    for (from, processes) in [(Origin::ExecSession, "In"), (Origin::Init, "NotIn")] {
        let values = with(from);
        if !values.is_empty() {
            selectors.push(refusal("Equal", values, Some(processes)));
        }
    }
    selectors
}

/// In monitor the actions are those of enforce, and the option keeps them from being carried out: `tetra tp set-mode` can flip it.
fn actions(mode: Mode) -> Vec<Action> {
    let deny = Action {
        action: "Override",
        arg_error: Some(-1),
    };
    let kill = Action {
        action: "Sigkill",
        arg_error: None,
    };
    match mode {
        Mode::Deny => vec![deny],
        Mode::Monitor | Mode::Enforce => vec![deny, kill],
    }
}

fn losses(policy: &ExecPolicy, carry: Carry) -> Vec<Loss> {
    let mut losses = Vec::new();
    let mut lose = |field: String, message: &str| {
        losses.push(Loss {
            field,
            message: message.to_owned(),
        });
    };
    // What the annotation brings back is lost only without it.
    let is_plain = carry == Carry::Nothing;
    if policy.target.workload.is_some() {
        lose(
            "spec.target.workload".to_owned(),
            "Tetragon finds pods by labels: the pods must have app.kubernetes.io/name with this value",
        );
    }
    if policy.target.image_digest.is_some() {
        lose(
            "spec.target.imageDigest".to_owned(),
            "Tetragon does not know a container's image digest: the policy holds for every image",
        );
    }
    lose(
        "spec.fail".to_owned(),
        "Tetragon lets run what it cannot resolve, and what starts before it knows the container",
    );
    if policy.code_loading != CodeLoading::Off {
        lose("spec.codeLoading".to_owned(), "Tetragon judges no executable mappings");
    }
    if is_plain && policy.scope != Scope::Declared {
        lose("spec.scope".to_owned(), "it is not written");
    }
    if is_plain && policy.generation != 0 {
        lose("spec.generation".to_owned(), "it is not written");
    }
    for (index, entry) in policy.entries.iter().enumerate() {
        let mut lose = |name: &str, message: &str| lose(format!("spec.entries[{index}]{name}"), message);
        let is_written = entry.roles.iter().copied().any(is_seen);
        if !is_written {
            lose(
                "",
                "Tetragon does not judge loaders: any may be used, and this entry is left out",
            );
        }
        if is_written && entry.sha256.is_some() {
            lose(
                ".sha256",
                &format!(
                    "Tetragon compares the path alone: whatever lies at {} may start",
                    resolved(entry)
                ),
            );
        }
        if is_written && !(entry.roles.contains(&Role::Target) && entry.roles.contains(&Role::ScriptInterpreter)) {
            lose(
                ".roles",
                "Tetragon knows no roles: the file may be a command and a script's interpreter",
            );
        }
        if is_written && entry.from != Origin::Any {
            lose(
                ".from",
                "Tetragon tells by descent from process 1 of the PID namespace, ten levels up",
            );
        }
        if !entry.applets.is_empty() {
            lose(".applets", "Tetragon knows no applets: all may start");
        }
        if is_plain {
            if is_written
                && entry
                    .real_path
                    .as_ref()
                    .is_some_and(|real_path| *real_path != entry.path)
            {
                lose(".path", "the resolved path is written in its place");
            }
            for (name, is_there) in [
                (".size", entry.size_bytes.is_some()),
                (".kind", entry.kind.is_some()),
                (".because", !entry.because.is_empty()),
            ] {
                if is_there {
                    lose(name, "it is not written");
                }
            }
        }
    }
    for index in 0..policy.map.len() {
        lose(format!("spec.map[{index}]"), "Tetragon judges no executable mappings");
    }
    losses
}
