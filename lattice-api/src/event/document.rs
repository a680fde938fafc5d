//! The JSON form of an event, for sinks and for `latticectl events -o json`.
//!
//! It is versioned by `apiVersion`; within a version, fields are only ever added. Times are RFC 3339 in UTC with nanoseconds,
//! sequences and sizes are numbers, digests are 64 hexadecimal digits. Bytes from the container (paths, arguments, names of
//! commands) are strings in the escape of [`Escaped`]: control characters and bytes that are not UTF-8 as `\xNN`, a backslash
//! as `\\`; where they are not UTF-8, a field of the same name with `Base64` at its end has them exactly. What is empty or
//! not known is left out.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::SecondsFormat;
use lattice_policy::escape::Escaped;
use serde::Serialize;

use super::{event_message, event_time, lost_events, refusals, time_text};
use crate::v1;

/// An event: what identifies it, and one of `violation`, `gap` and `notice`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventDocument {
    /// `lattice.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Event`.
    pub kind: &'static str,
    /// Name of the node.
    pub node: String,
    /// Boot of the node.
    pub boot_id: String,
    /// Number within the boot; (node, bootId, sequence) identifies the event.
    pub sequence: u64,
    /// When it happened.
    pub time: String,
    /// The sentence for people.
    pub message: String,
    /// A program that the policy does not let start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<ViolationDocument>,
    /// Events that were lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<GapDocument>,
    /// Something about a whole container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<NoticeDocument>,
}

/// Bytes as an escaped string, and exactly where they are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BytesDocument {
    /// The escaped string.
    pub escaped: String,
    /// The bytes in base64; `None` where they are UTF-8.
    pub base64: Option<String>,
}

/// A program that the policy does not let start; fields as in `events.proto`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct ViolationDocument {
    pub hook: String,
    pub mode: String,
    pub verdict: String,
    pub effective_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_return_code: Option<i32>,
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub drift: String,
    pub tier: u32,
    pub count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats_of: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_time: Option<String>,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    pub path_as_passed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_as_passed_base64: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    pub size: u64,
    pub argv: Vec<String>,
    /// One for each of `argv`, if any of them is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv_base64: Option<Vec<String>>,
    pub argv_truncated: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub argv_source: String,
    pub cwd: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd_base64: Option<String>,
    pub role: String,
    pub origin: String,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub parent_pid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_boot_nanos: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_session_pid: Option<u32>,
    pub comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm_base64: Option<String>,
    pub ancestors: Vec<AncestorDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyDocument>,
}

/// A process above the one that was judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct AncestorDocument {
    pub pid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_boot_nanos: u64,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_base64: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub executable: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable_base64: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The container in which it happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct ContainerDocument {
    pub container_id: String,
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    pub workload: String,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_reference: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_digest: String,
    pub cgroup_id: u64,
}

/// The policy that held.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct PolicyDocument {
    pub namespace: String,
    pub name: String,
    pub generation: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub matched_entry: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub no_match: String,
}

/// Events that were lost: `firstSequence` to `lastSequence`, both included.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct GapDocument {
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// How many events are lost.
    pub count: u64,
    pub cause: String,
    /// Where not all between first and last is lost: what is, as pairs of first and last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<(u64, u64)>,
}

/// Something about a whole container; fields as in `events.proto`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in events.proto")]
pub struct NoticeDocument {
    pub notice: String,
    pub effective_action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cause: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerDocument>,
}

impl BytesDocument {
    /// The two forms of some bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let base64 = std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes));
        Self {
            escaped: Escaped(bytes).to_string(),
            base64,
        }
    }
}

fn time_of(unix_nanos: u64) -> Option<String> {
    (unix_nanos != 0).then(|| time_text(unix_nanos, SecondsFormat::Nanos))
}

impl From<&v1::Event> for EventDocument {
    fn from(event: &v1::Event) -> Self {
        let (mut violation, mut gap, mut notice) = (None, None, None);
        match &event.kind {
            Some(v1::event::Kind::Violation(content)) => violation = Some(content.into()),
            Some(v1::event::Kind::Gap(content)) => gap = Some(content.into()),
            Some(v1::event::Kind::Notice(content)) => notice = Some(content.into()),
            None => {}
        }
        Self {
            api_version: "lattice.dev/v1alpha1",
            kind: "Event",
            node: event.node.clone(),
            boot_id: event.boot_id.clone(),
            sequence: event.sequence,
            time: event_time(event, SecondsFormat::Nanos),
            message: event_message(event),
            violation,
            gap,
            notice,
        }
    }
}

impl From<&v1::Violation> for ViolationDocument {
    fn from(violation: &v1::Violation) -> Self {
        let (path, path_as_passed) = (
            BytesDocument::new(&violation.path),
            BytesDocument::new(&violation.path_as_passed),
        );
        let (cwd, comm) = (BytesDocument::new(&violation.cwd), BytesDocument::new(&violation.comm));
        let is_text = violation
            .argv
            .iter()
            .all(|argument| std::str::from_utf8(argument).is_ok());
        Self {
            hook: violation.hook.clone(),
            mode: violation.mode.clone(),
            verdict: violation.verdict.clone(),
            effective_action: violation.effective_action.clone(),
            signal_return_code: violation.signal_return_code,
            reason: violation.reason.clone(),
            drift: violation.drift.clone(),
            tier: violation.tier,
            count: refusals(violation),
            repeats_of: violation.repeats_of,
            first_time: time_of(violation.first_unix_nanos),
            last_time: time_of(violation.last_unix_nanos),
            path: path.escaped,
            path_base64: path.base64,
            path_as_passed: path_as_passed.escaped,
            path_as_passed_base64: path_as_passed.base64,
            sha256: hex::encode(&violation.sha256),
            size: violation.size_bytes,
            argv: violation
                .argv
                .iter()
                .map(|argument| Escaped(argument).to_string())
                .collect(),
            argv_base64: (!is_text).then(|| {
                violation
                    .argv
                    .iter()
                    .map(|argument| STANDARD.encode(argument))
                    .collect()
            }),
            argv_truncated: violation.argv_truncated,
            argv_source: violation.argv_source.clone(),
            cwd: cwd.escaped,
            cwd_base64: cwd.base64,
            role: violation.role.clone(),
            origin: violation.origin.clone(),
            uid: violation.uid,
            gid: violation.gid,
            pid: violation.pid,
            parent_pid: violation.parent_pid,
            start_boot_nanos: violation.start_boot_nanos,
            exec_session_pid: (violation.exec_session_pid != 0).then_some(violation.exec_session_pid),
            comm: comm.escaped,
            comm_base64: comm.base64,
            ancestors: violation.ancestors.iter().map(AncestorDocument::from).collect(),
            container: violation.container.as_ref().map(ContainerDocument::from),
            policy: violation.policy.as_ref().map(PolicyDocument::from),
        }
    }
}

impl From<&v1::Ancestor> for AncestorDocument {
    fn from(ancestor: &v1::Ancestor) -> Self {
        let (executable, name) = (
            BytesDocument::new(&ancestor.executable),
            BytesDocument::new(&ancestor.name),
        );
        Self {
            pid: ancestor.pid,
            start_boot_nanos: ancestor.start_boot_nanos,
            name: name.escaped,
            name_base64: name.base64,
            executable: executable.escaped,
            executable_base64: executable.base64,
        }
    }
}

impl From<&v1::Container> for ContainerDocument {
    fn from(container: &v1::Container) -> Self {
        Self {
            container_id: container.container_id.clone(),
            namespace: container.namespace.clone(),
            pod: container.pod.clone(),
            workload: container.workload.clone(),
            name: container.name.clone(),
            service_account: container.service_account.clone(),
            image_reference: container.image_reference.clone(),
            image_digest: container.image_digest.clone(),
            cgroup_id: container.cgroup_id,
        }
    }
}

impl From<&v1::PolicyReference> for PolicyDocument {
    fn from(policy: &v1::PolicyReference) -> Self {
        Self {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            generation: policy.generation,
            matched_entry: policy.matched_entry.clone(),
            no_match: policy.no_match.clone(),
        }
    }
}

impl From<&v1::ContainerNotice> for NoticeDocument {
    fn from(notice: &v1::ContainerNotice) -> Self {
        Self {
            notice: notice.notice.clone(),
            effective_action: notice.effective_action.clone(),
            cause: notice.cause.clone(),
            reason: notice.reason.clone(),
            container: notice.container.as_ref().map(ContainerDocument::from),
        }
    }
}

impl From<&v1::Gap> for GapDocument {
    fn from(gap: &v1::Gap) -> Self {
        Self {
            first_sequence: gap.first_sequence,
            last_sequence: gap.last_sequence,
            count: lost_events(gap),
            cause: gap.cause.clone(),
            ranges: gap.ranges.iter().map(|range| (range.first, range.last)).collect(),
        }
    }
}
