//! A file of policies as an agent gets it: ExecPolicy and Tetragon's kinds, mixed.

use crate::{
    Diagnostic, ExecPolicy, Target,
    document::{self, Findings, Node},
    exec_policy_document::{API_VERSION, KIND, read_exec_policy},
    tracing_policy::{self, TracingPolicyKind, read_tracing_policy},
};

/// A file may hold so many policies: each is held against the others.
const MAX_POLICIES: usize = 4096;

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
    /// Why `other` cannot hold beside this policy: of the policies that match a container Lattice takes the most specific, and
    /// Tetragon applies all of its own, so that one of the two would silently not hold.
    pub fn conflict(&self, other: &Self) -> Option<String> {
        let (policy, named) = (&self.policy, &other.policy);
        if policy.namespace != named.namespace {
            return None;
        }
        if policy.name == named.name {
            return Some("the policies have the same namespace and name".to_owned());
        }
        let is_tracing = self.tracing.is_some() || other.tracing.is_some();
        (is_tracing && may_overlap(&policy.target, &named.target)).then(|| {
            "both are for the same containers: Tetragon applies all of its policies, Lattice the most specific one, so the other would \
             not hold"
                .to_owned()
        })
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
    let mut lines = Vec::new();
    for node in &nodes {
        if file.documents.len() >= MAX_POLICIES {
            let message = format!("the file holds more than {MAX_POLICIES} policies");
            findings.add(node.location, "", None, message, "Split it into several files.");
            break;
        }
        let Some((document, notes)) = read_document(&findings, node) else {
            continue;
        };
        for (earlier, line) in file.documents.iter().zip(&lines) {
            if let Some(conflict) = document.conflict(earlier) {
                let field = "metadata.name";
                let message = format!("{conflict}; the other is {} of line {line}", earlier.policy.name);
                let advice = "Make one policy of the two, or give them different targets.";
                findings.add(node.locate(field), field, Some(&document.policy.name), message, advice);
                break;
            }
        }
        file.documents.push(document);
        lines.push(node.location.line);
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
