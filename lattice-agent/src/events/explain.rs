//! From a record to an event: which container, which policy, what kind of drift, and a sentence.

use lattice_api::{
    event::violation_message,
    v1::{self, Event, Violation, event::Kind},
};
use lattice_common::{
    abi::{digest_bytes, hook, record_flag},
    verdict::{Effect, Reason},
};
use lattice_policy::ExecPolicy;

use super::{
    clock::wall_nanos,
    process,
    record::{self, JudgedFile},
};
use crate::{backend::container_message, containers::ContainerInfo};

/// `s_magic` of tmpfs, where memfds live.
const TMPFS: u32 = 0x0102_1994;

/// Who is speaking.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name of the node.
    pub name: String,
    /// This boot.
    pub boot_id: String,
    /// 1 or 2.
    pub tier: u32,
}

/// Makes the event of a judged file.
pub fn explain(
    record: &JudgedFile,
    node: &Node,
    container: Option<&ContainerInfo>,
    policy: Option<&ExecPolicy>,
    boot_offset_nanos: i128,
) -> Event {
    let effective_action = effective_action(record);
    let mut violation = Violation {
        hook: hook::name(record.hook).into(),
        mode: record.mode.text().unwrap_or("deny").into(),
        verdict: "refuse".into(),
        effective_action: effective_action.into(),
        signal_return_code: (record.flags & record_flag::SIGNAL != 0).then_some(record.signal_result),
        path: record.path.clone().unwrap_or_default(),
        path_as_passed: record.name.clone().unwrap_or_default(),
        sha256: if record.flags & record_flag::DIGEST != 0 {
            digest_bytes(&record.digest).to_vec()
        } else {
            Vec::new()
        },
        size_bytes: record.size_bytes,
        argv: record.argv.clone().unwrap_or_default(),
        argv_truncated: record.flags & record_flag::ARGV_CUT != 0,
        argv_source: argv_source(record).into(),
        cwd: process::working_directory(record.pid, record.start_boot_nanos).unwrap_or_default(),
        uid: record.uid,
        gid: record.gid,
        pid: record.pid,
        parent_pid: record.parent_pid,
        start_boot_nanos: record.start_boot_nanos,
        exec_session_pid: record.session,
        ancestors: record.ancestors.iter().map(ancestor).collect(),
        comm: record.comm.clone(),
        container: Some(container.map_or_else(
            || v1::Container {
                cgroup_id: record.cgroup_id,
                ..v1::Container::default()
            },
            container_message,
        )),
        policy: policy.map(|policy| policy_reference(policy, record, node.tier)),
        role: record.role.text().unwrap_or_default().into(),
        origin: record.origin.text().unwrap_or("unknown").into(),
        reason: record.reason.text().unwrap_or("unlisted").into(),
        drift: drift(record, policy).into(),
        message: String::new(),
        tier: node.tier,
        count: 1,
        repeats_of: 0,
        first_unix_nanos: 0,
        last_unix_nanos: 0,
    };
    violation.message = violation_message(&violation);
    Event {
        node: node.name.clone(),
        boot_id: node.boot_id.clone(),
        sequence: record.sequence,
        time_unix_nanos: wall_nanos(record.time_boot_nanos, boot_offset_nanos),
        kind: Some(Kind::Violation(violation)),
    }
}

/// What was really done: a signal that failed is not a kill.
fn effective_action(record: &JudgedFile) -> &'static str {
    let killed = record.flags & record_flag::SIGNAL != 0 && record.signal_result == 0;
    let denies = !matches!(record.hook, hook::SCHED_PROCESS_EXEC | hook::BPRM_COMMITTED_CREDS);
    match (record.effect, killed, denies) {
        (Effect::RUN | Effect::NOTE, ..) => "none",
        (_, true, true) => "deny+kill",
        (_, true, false) => "kill",
        (_, false, true) => "deny",
        (_, false, false) => "none",
    }
}

fn policy_reference(policy: &ExecPolicy, record: &JudgedFile, tier: u32) -> v1::PolicyReference {
    let has_entry = record.flags & record_flag::ENTRY != 0;
    // The record's number is of the generation that was in force; of another one it would name another entry.
    let matched = (has_entry && policy.generation == record.generation)
        .then(|| policy.entries.get(record.entry as usize))
        .flatten()
        .map(|entry| entry.path.to_string());
    v1::PolicyReference {
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        generation: record.generation,
        matched_entry: matched.unwrap_or_default(),
        no_match: if has_entry { "" } else { no_match(record, tier) }.into(),
    }
}

/// Why no entry matched.
fn no_match(record: &JudgedFile, tier: u32) -> &'static str {
    match record.reason {
        Reason::UNRESOLVED | Reason::UNRESOLVED_OPEN => "unresolved",
        Reason::UNLISTED if record.flags & record_flag::DIGEST != 0 => "content",
        Reason::UNLISTED if tier == 2 && record.flags & record_flag::LOWER == 0 => "not-on-layers",
        Reason::UNLISTED => "size",
        // Of a container whose policy is not in force it is named all the same.
        Reason::MISSING => "not-loaded",
        _ => "",
    }
}

fn argv_source(record: &JudgedFile) -> &'static str {
    match record.flags & (record_flag::ARGV | record_flag::ARGV_OF_PROGRAM) {
        0 => "",
        record_flag::ARGV => "caller",
        _ => "program",
    }
}

/// What became of the image: whether the file belongs to it, was changed in it, or never was in it.
fn drift(record: &JudgedFile, policy: Option<&ExecPolicy>) -> &'static str {
    let unlinked = record.flags & record_flag::UNLINKED != 0;
    // Tier 2 cannot resolve paths: what the caller passed is the nearest there is.
    let path = record.path.as_deref().or(record.name.as_deref()).unwrap_or_default();
    match record.reason {
        Reason::DENYLISTED => "denylisted",
        Reason::ROLE | Reason::ORIGIN | Reason::APPLET => "unlisted-in-image",
        Reason::UNRESOLVED | Reason::UNRESOLVED_OPEN => "unresolved",
        Reason::UNLISTED | Reason::MAPPING
            if unlinked && record.file_system == TMPFS && path.starts_with(b"/memfd:") =>
        {
            "memfd"
        }
        Reason::UNLISTED | Reason::MAPPING if unlinked => "deleted",
        Reason::UNLISTED | Reason::MAPPING if record.flags & record_flag::LOWER != 0 => "unlisted-in-image",
        Reason::UNLISTED if is_listed_path(path, policy) => "modified",
        Reason::UNLISTED | Reason::MAPPING => "not-in-image",
        _ => "",
    }
}

fn is_listed_path(path: &[u8], policy: Option<&ExecPolicy>) -> bool {
    policy.is_some_and(|policy| {
        policy.entries.iter().any(|entry| {
            entry.path.as_bytes() == path
                || entry
                    .real_path
                    .as_ref()
                    .is_some_and(|real_path| real_path.as_bytes() == path)
        })
    })
}

/// The kernel's word, and the whole path of the executable if the process is still the one that the kernel saw.
fn ancestor(record: &record::Ancestor) -> v1::Ancestor {
    v1::Ancestor {
        pid: record.pid,
        executable: process::executable(record.pid, Some(record.start_boot_nanos)).unwrap_or_default(),
        name: record.name.clone(),
        start_boot_nanos: record.start_boot_nanos,
    }
}

#[cfg(test)]
mod tests;
