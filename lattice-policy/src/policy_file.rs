//! A file of policies as an agent gets it: ExecPolicy and Tetragon's kinds, mixed.

use std::collections::HashMap;

use crate::{
    Diagnostic, ExecPolicy, Target,
    document::{self, Findings, Node},
    exec_policy_document::{API_VERSION, KIND, read_exec_policy},
    tracing_policy::{self, TracingPolicyKind, read_tracing_policy},
};

/// A file may hold so many policies for Tetragon: each is held against all others.
const MAX_TRACING_POLICIES: usize = 4096;

/// A policy, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDocument {
    /// The policy.
    pub policy: ExecPolicy,
    /// The kind of Tetragon's that it was read from; `None` for an ExecPolicy.
    pub tracing: Option<TracingPolicyKind>,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its policies, in order.
    pub documents: Vec<PolicyDocument>,
    /// What a reader should know although nothing is wrong.
    pub notes: Vec<Diagnostic>,
}

impl PolicyDocument {
    /// Why `other` cannot hold beside this policy.
    pub fn conflict(&self, other: &Self) -> Option<&'static str> {
        let is_tracing = self.tracing.is_some() || other.tracing.is_some();
        conflict(&self.policy, &other.policy, is_tracing)
    }
}

/// Why two policies cannot hold beside each other, one of which was written for Tetragon where `is_tracing`: of the policies that
/// match a container Lattice takes the most specific, and Tetragon applies all of its own, so that one of the two would silently not
/// hold.
pub fn conflict(policy: &ExecPolicy, other: &ExecPolicy, is_tracing: bool) -> Option<&'static str> {
    if policy.namespace != other.namespace {
        return None;
    }
    if policy.name == other.name {
        return Some("the policies have the same namespace and name");
    }
    (is_tracing && may_overlap(&policy.target, &other.target)).then_some(
        "both are for the same containers: Tetragon applies all of its policies, Lattice the most specific one, so the other would not \
         hold",
    )
}

/// Finds the policies of a file that cannot hold beside each other.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// Each policy with its line, by namespace.
    namespaces: HashMap<String, Vec<(PolicyDocument, u64)>>,
    /// Where each namespace and name is in its namespace's list.
    names: HashMap<(String, String), usize>,
    tracing: usize,
}

impl Conflicts {
    /// Adds a policy of the file; a finding where it conflicts with an earlier one.
    pub fn add(&mut self, findings: &Findings, node: &Node, document: &PolicyDocument) {
        let policy = &document.policy;
        let earlier = self.namespaces.entry(policy.namespace.clone()).or_default();
        let name = (policy.namespace.clone(), policy.name.clone());
        let same_name = self
            .names
            .insert(name, earlier.len())
            .and_then(|index| earlier.get(index));
        self.tracing += usize::from(document.tracing.is_some());
        if self.tracing > MAX_TRACING_POLICIES {
            if document.tracing.is_some() {
                let message = format!("the file holds more than {MAX_TRACING_POLICIES} policies for Tetragon");
                findings.add(node.location, "", None, message, "Split it into several files.");
            }
            return;
        }
        let conflicting = same_name.or_else(|| {
            earlier
                .iter()
                .filter(|(other, _)| document.tracing.is_some() || other.tracing.is_some())
                .find(|(other, _)| document.conflict(other).is_some())
        });
        if let Some((other, line)) = conflicting
            && let Some(conflict) = document.conflict(other)
        {
            let field = "metadata.name";
            let message = format!("{conflict}; the other is {} of line {line}", other.policy.name);
            let advice = "Make one policy of the two, or give them different names or targets.";
            findings.add(node.locate(field), field, Some(&policy.name), message, advice);
        }
        earlier.push((document.clone(), node.location.line));
    }
}

/// Whether a container can match both.
fn may_overlap(left: &Target, right: &Target) -> bool {
    fn agree<T: PartialEq>(left: Option<&T>, right: Option<&T>) -> bool {
        left.zip(right).is_none_or(|(left, right)| left == right)
    }
    agree(left.workload.as_ref(), right.workload.as_ref())
        && agree(left.container.as_ref(), right.container.as_ref())
        && agree(left.image_digest.as_ref(), right.image_digest.as_ref())
}

/// Reads a file of ExecPolicy, TracingPolicy and TracingPolicyNamespaced documents, YAML or JSON.
///
/// # Errors
/// Everything that is wrong or cannot be represented, each with its place; nothing of the file counts then.
pub fn read_policies(file_name: &str, bytes: &[u8]) -> Result<PolicyFile, Vec<Diagnostic>> {
    let nodes = document::parse(file_name, bytes)?;
    let findings = Findings::new(file_name);
    let mut file = PolicyFile::default();
    let mut conflicts = Conflicts::default();
    for node in &nodes {
        let Some((document, notes)) = read_document(&findings, node) else {
            continue;
        };
        conflicts.add(&findings, node, &document);
        file.documents.push(document);
        file.notes.extend(notes);
    }
    findings.into_result(file)
}

fn read_document(findings: &Findings, node: &Node) -> Option<(PolicyDocument, Vec<Diagnostic>)> {
    let header = document::read_header(findings, node)?;
    if header.api_version == tracing_policy::API_VERSION
        && let Some(kind) = TracingPolicyKind::of_name(&header.kind)
    {
        let read = read_tracing_policy(findings, kind, node)?;
        let document = PolicyDocument {
            policy: read.policy,
            tracing: Some(kind),
        };
        return Some((document, read.notes));
    }
    if header.api_version == API_VERSION && header.kind == KIND {
        let policy = read_exec_policy(findings, node)?;
        return Some((PolicyDocument { policy, tracing: None }, Vec::new()));
    }
    let found = format!("{} {}", header.api_version, header.kind);
    let message = format!(
        "only {API_VERSION} {KIND} and {} TracingPolicy and TracingPolicyNamespaced are read here",
        tracing_policy::API_VERSION
    );
    let advice = "Keep other kinds in files of their own.";
    findings.add(node.locate("kind"), "kind", Some(&found), message, advice);
    None
}
