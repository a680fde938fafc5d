//! The whole ExecPolicy, carried in an annotation: Tetragon ignores it, and Lattice loses nothing on the way back.
//!
//! It counts only while it and the specification say the same: a list that somebody edited for Tetragon must not be undone by what
//! the document carries.

use super::{
    read::{TracingPolicyKind, read_written},
    write::{Carry, TracingPolicyDocument},
};
use crate::{
    Entry, ExecPolicy, FilePath, Mode, Origin, Target,
    document::{self, Field, Findings},
    escape::escaped_and_cut,
    exec_policy_document::read_exec_policy,
};

/// Name of the annotation.
pub const ANNOTATION: &str = "lattice.dev/exec-policy";

/// What the API server takes of all annotations of an object together, less what others may need.
pub(super) const MAX_ANNOTATION_BYTES: usize = 192 * 1024;

const ADVICE: &str = "Convert the ExecPolicy again, or remove the annotation to have the specification hold as it is.";

/// Reads the annotation, and holds it against what the specification says.
pub(super) fn read(field: &Field<'_>, kind: TracingPolicyKind, specified: &ExecPolicy) -> Option<ExecPolicy> {
    let text = field.text()?;
    let carried = match parse(text) {
        Ok(carried) => carried,
        Err(reason) => {
            field.report(None, format!("the annotation holds no ExecPolicy: {reason}"), ADVICE);
            return None;
        }
    };
    let written = TracingPolicyDocument::of(&carried, Carry::Nothing)
        .ok()
        .filter(|_| kind == TracingPolicyKind::Namespaced)
        .and_then(|(document, _)| read_written("annotation", document.to_yaml().as_bytes(), kind));
    match written {
        Some(written) if essence(&written) == essence(specified) => Some(carried),
        _ => {
            let message = "the annotation and the specification do not say the same: one of them was changed";
            field.report(None, message, ADVICE);
            None
        }
    }
}

fn parse(text: &str) -> Result<ExecPolicy, String> {
    let first = |found: Vec<document::Diagnostic>| {
        found.first().map_or_else(String::new, |first| {
            // The finding's place is in the annotation, so the file's name would mislead.
            let field = if first.field.is_empty() {
                String::new()
            } else {
                format!("{}: ", first.field)
            };
            escaped_and_cut(&format!("{field}{}", first.message), 300)
        })
    };
    let nodes = document::parse("annotation", text.as_bytes()).map_err(first)?;
    let [node] = nodes.as_slice() else {
        return Err(format!("it has {} documents", nodes.len()));
    };
    let findings = Findings::new("annotation");
    let header = document::read_header(&findings, node);
    let is_policy = header.is_some_and(|header| {
        header.api_version == crate::exec_policy_document::API_VERSION
            && header.kind == crate::exec_policy_document::KIND
    });
    let policy = read_exec_policy(&findings, node).filter(|_| is_policy);
    findings
        .into_result(())
        .map_err(first)
        .and_then(|()| policy.ok_or_else(|| "it is of another kind".to_owned()))
}

/// What a specification for Tetragon says of a policy.
type Essence<'p> = (&'p str, &'p str, &'p Target, Mode, Vec<(&'p FilePath, Origin)>);

fn essence(policy: &ExecPolicy) -> Essence<'_> {
    let mut paths: Vec<_> = policy
        .entries
        .iter()
        .map(|Entry { path, from, .. }| (path, *from))
        .collect();
    paths.sort_by(|left, right| left.0.cmp(right.0));
    (&policy.namespace, &policy.name, &policy.target, policy.mode, paths)
}
