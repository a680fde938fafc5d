//! From documents to policies.

use std::collections::HashMap;

use crate::{
    CodeLoading, Entry, ExecPolicy, FailSemantics, FileDigest, FilePath, MapRule, Mode, Origin, Role, Scope, Target,
    Word,
    document::{self, Diagnostic, Field, Findings, Node, Object, Scoping},
};

/// Group and version of Lattice's own kinds.
pub const API_VERSION: &str = "lattice.dev/v1alpha1";
/// The kind's name.
pub const KIND: &str = "ExecPolicy";

const PATH_ADVICE: &str = "Write a backslash as \\\\ and any other byte as \\xNN.";
const DIGEST_ADVICE: &str = "Write what sha256sum prints for the file, without a prefix.";

/// Reads a file of nothing but ExecPolicy documents, YAML or JSON.
///
/// # Errors
/// Everything that is wrong, each with its place; nothing of the file counts then.
pub fn read_documents(file_name: &str, bytes: &[u8]) -> Result<Vec<ExecPolicy>, Vec<Diagnostic>> {
    let nodes = document::parse(file_name, bytes)?;
    let findings = Findings::new(file_name);
    let mut policies: Vec<ExecPolicy> = Vec::new();
    let mut names: HashMap<(String, String), u64> = HashMap::new();
    for node in &nodes {
        let Some(header) = document::read_header(&findings, node) else {
            continue;
        };
        if header.api_version != API_VERSION || header.kind != KIND {
            let found = format!("{} {}", header.api_version, header.kind);
            let message = format!("only {API_VERSION} {KIND} is read here");
            findings.add(
                node.locate("kind"),
                "kind",
                Some(&found),
                message,
                "Keep other kinds in files of their own.",
            );
            continue;
        }
        let Some(policy) = read_exec_policy(&findings, node) else {
            continue;
        };
        let name = (policy.namespace.clone(), policy.name.clone());
        if let Some(line) = names.insert(name, node.location.line) {
            let message = format!("the policy of line {line} has the same namespace and name");
            let field = "metadata.name";
            findings.add(
                node.locate(field),
                field,
                Some(&policy.name),
                message,
                "Rename one of them.",
            );
        }
        policies.push(policy);
    }
    findings.into_result(policies)
}

/// Reads one document whose kind is known to be ExecPolicy; `None` where anything was found wrong.
pub fn read_exec_policy(findings: &Findings, node: &Node) -> Option<ExecPolicy> {
    let before = findings.count();
    let object = Object::root(findings, node)?;
    object.field("apiVersion");
    object.field("kind");
    let metadata = document::read_metadata(&object, Scoping::Namespaced);
    let spec = object.required("spec").object();
    object.finish();
    let policy = spec.map(|spec| read_spec(spec))?;
    let metadata = metadata?;
    if findings.count() != before {
        return None;
    }
    let policy = ExecPolicy {
        namespace: metadata.namespace,
        name: metadata.name,
        ..policy?
    };
    if let Err(faults) = policy.check() {
        for fault in faults {
            findings.add_fault(node.locate(&fault.field), &fault);
        }
        return None;
    }
    Some(policy)
}

fn read_spec(spec: Object<'_>) -> Option<ExecPolicy> {
    let target = spec.field("target").object().map(read_target).unwrap_or_default();
    let mode = choice(&spec.field("mode")).unwrap_or(Mode::Monitor);
    let fail = spec.field("fail").object().map(read_fail).unwrap_or_default();
    let code_loading: CodeLoading = choice(&spec.field("codeLoading")).unwrap_or_default();
    let scope: Scope = choice(&spec.field("scope")).unwrap_or_default();
    let generation = spec.field("generation").integer().unwrap_or(0);
    let entries_field = spec.field("entries");
    if !entries_field.is_present() {
        entries_field.report(
            None,
            "the field is missing",
            "Add it; \"entries: []\" lets nothing start.",
        );
    }
    let entries: Option<Vec<Entry>> = entries_field.items().iter().map(read_entry).collect();
    let map: Option<Vec<MapRule>> = spec.field("map").items().iter().map(read_map_rule).collect();
    spec.finish();
    let (namespace, name) = Default::default();
    Some(ExecPolicy {
        namespace,
        name,
        target,
        mode,
        fail,
        code_loading,
        scope,
        generation,
        entries: entries?,
        map: map?,
    })
}

fn choice<T: Word>(field: &Field<'_>) -> Option<T> {
    field.choice(T::WORDS)
}

fn read_target(object: Object<'_>) -> Target {
    let target = Target {
        workload: object.field("workload").text().map(str::to_owned),
        container: object.field("container").text().map(str::to_owned),
        image_digest: object
            .field("imageDigest")
            .parse("Write the image's digest: sha256: and 64 hexadecimal digits."),
    };
    object.finish();
    target
}

fn read_fail(object: Object<'_>) -> FailSemantics {
    let standard = FailSemantics::default();
    let fail = FailSemantics {
        unresolved: choice(&object.field("unresolved")).unwrap_or(standard.unresolved),
        unknown: choice(&object.field("unknown")).unwrap_or(standard.unknown),
        map_full: choice(&object.field("mapFull")).unwrap_or(standard.map_full),
        missing: choice(&object.field("missing")).unwrap_or(standard.missing),
    };
    object.finish();
    fail
}

fn read_entry(field: &Field<'_>) -> Option<Entry> {
    let object = field.object()?;
    let path = read_path(&object.required("path"));
    let sha256 = read_digest(&object.field("sha256"));
    let real_path = read_path(&object.field("realPath"));
    let size_bytes = object.field("size").integer();
    let kind = choice(&object.field("kind"));
    let roles_field = object.field("roles");
    let roles = match roles_field.is_present() {
        true => roles_field.items().iter().filter_map(choice).collect(),
        false => vec![Role::Target],
    };
    let from: Origin = choice(&object.field("from")).unwrap_or_default();
    let applets = object.field("applets").texts();
    let because = object.field("because").texts();
    object.finish();
    Some(Entry {
        path: path?,
        sha256,
        real_path,
        size_bytes,
        kind,
        roles,
        from,
        applets,
        because,
    })
}

/// A rule is an object, or a string: a path if it begins with `/`, else a digest.
fn read_map_rule(field: &Field<'_>) -> Option<MapRule> {
    if let Some(Node {
        value: document::Value::Text(text),
        ..
    }) = field.node()
    {
        return match text.starts_with('/') {
            true => Some(MapRule {
                path: Some(read_path(field)?),
                sha256: None,
            }),
            false => Some(MapRule {
                path: None,
                sha256: Some(read_digest(field)?),
            }),
        };
    }
    let object = field.object()?;
    let rule = MapRule {
        path: read_path(&object.field("path")),
        sha256: read_digest(&object.field("sha256")),
    };
    object.finish();
    Some(rule)
}

fn read_path(field: &Field<'_>) -> Option<FilePath> {
    let text = field.text()?;
    let path = FilePath::from_escaped(text);
    if path.is_none() {
        field.report(
            Some(text),
            "a backslash stands before neither a backslash nor xNN",
            PATH_ADVICE,
        );
    }
    path
}

fn read_digest(field: &Field<'_>) -> Option<FileDigest> {
    let text = field.text()?;
    let digest = text.parse().ok();
    if digest.is_none() {
        field.report(
            Some(text),
            "this is not 64 lower-case hexadecimal digits",
            DIGEST_ADVICE,
        );
    }
    digest
}
