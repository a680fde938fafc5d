//! What the front decides: scripts. At `sched_process_exec` only the interpreter is left to be seen, so of a script's own content the
//! floor knows nothing; every other file is the floor's, which cannot be raced and outlives the agent.
//!
//! A listed script is one of the image's read-only layers, or a path entry; read again at every exec, since what an overlay shows may
//! have been written to. The open is judged before the kernel guards the file from writers: this is content at the time of asking.

use std::{
    fs::File,
    os::fd::{AsFd as _, BorrowedFd},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use lattice_api::{
    event::violation_message,
    v1::{Event, PolicyReference, Violation, event::Kind},
};
use lattice_common::{
    abi::{EntryRule, digest_bytes},
    verdict::{Act, Effect, Facts, Identity, Membership, Origin, verdict},
};
use lattice_policy::{ExecPolicy, Mode, Role};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Sender;

use crate::{
    backend::container_message,
    enforcement::{ContainerStanding, compile},
    events::{
        explain::Node,
        process::{ancestors, parent_of},
    },
    front::{Answer, Judge},
    kernel::sequence::SequenceCounter,
    state::Shared,
};

/// Largest script that is read; a larger one is refused as unresolved.
const MAX_SCRIPT_BYTES: u64 = 16 << 20;

/// Judges scripts in the agent.
pub struct ScriptJudge {
    /// Containers, policies, known files.
    pub state: Arc<Shared>,
    /// Numbers the events, together with the kernel.
    pub sequence: SequenceCounter,
    /// Where events go. One that finds no room is a gap, which the reader reports.
    pub events: Sender<Event>,
    /// Who is speaking.
    pub node: Node,
}

/// What is known of a script.
struct Script {
    digest: Option<[u8; 32]>,
    size_bytes: u64,
}

impl Judge for ScriptJudge {
    fn judge(&self, pid: i32, file: BorrowedFd<'_>, device: u32, inode: u64) -> Answer {
        let Ok(file) = file.try_clone_to_owned().map(File::from) else {
            return Answer::Allow;
        };
        let mut magic = [0; 2];
        if file.read_at(&mut magic, 0).is_ok_and(|read| read == 2) && &magic != b"#!" {
            return Answer::Allow;
        }
        let Some(standing) = self.state.standing_on_device(device) else {
            return Answer::Allow;
        };
        let (Some(policy), Some(mode)) = (&standing.policy, standing.mode) else {
            return Answer::Allow;
        };
        let script = read(&file);
        let identity = match script.digest {
            None => Identity::UNRESOLVED,
            Some(digest) if self.is_listed(policy, device, inode, &digest) => Identity::LISTED_DIGEST,
            Some(_) => Identity::UNLISTED,
        };
        let decision = verdict(Facts {
            act: Act::EXEC,
            membership: Membership::MEMBER,
            identity,
            // Where the task came from is in the kernel; the floor judges the interpreter by it.
            allowed_origins: if identity == Identity::LISTED_DIGEST {
                EntryRule::ANY_ORIGIN
            } else {
                0
            },
            other_role: false,
            other_name: false,
            origin: Origin(EntryRule::ANY_ORIGIN),
            denylisted: false,
            mode: compile::mode(mode),
            fail: compile::fail_action(policy.fail.unresolved),
        });
        let (answer, action) = match decision.effect {
            Effect::RUN => return Answer::Allow,
            Effect::NOTE => (Answer::Allow, "none"),
            Effect::KILL => (Answer::KillAndDeny, "deny+kill"),
            _ => (Answer::Deny, "deny"),
        };
        let reason = decision.reason.text().unwrap_or("unlisted");
        let event = self.event(pid, &file, &standing, policy, mode, &script, reason, action);
        if self.events.try_send(event).is_err() {
            tracing::warn!("the event of a refused script found no room and is a gap");
        }
        answer
    }
}

impl ScriptJudge {
    fn is_listed(&self, policy: &ExecPolicy, device: u32, inode: u64, digest: &[u8; 32]) -> bool {
        let Some((known, is_path)) = self.state.known_file(device, inode) else {
            return false;
        };
        policy
            .entries
            .iter()
            .filter(|entry| entry.roles.contains(&Role::Target))
            .any(|entry| match entry.sha256 {
                // The layer's digest at the container's start, and the same now.
                Some(listed) => !is_path && listed.0 == digest_bytes(&known) && listed.0 == *digest,
                None => is_path && crate::inodes::path_digest(entry.path.as_bytes()) == digest_bytes(&known),
            })
    }

    #[expect(clippy::too_many_arguments, reason = "one event has as many sources")]
    fn event(
        &self,
        pid: i32,
        file: &File,
        standing: &ContainerStanding,
        policy: &ExecPolicy,
        mode: Mode,
        script: &Script,
        reason: &str,
        action: &str,
    ) -> Event {
        let process = u32::try_from(pid).unwrap_or(0);
        let parent = parent_of(process).unwrap_or(0);
        let path = path_of(file, standing);
        let mut violation = Violation {
            hook: "fanotify".into(),
            mode: mode.to_string(),
            verdict: "refuse".into(),
            effective_action: action.into(),
            signal_return_code: (action == "deny+kill").then_some(0),
            path,
            sha256: script.digest.map(|digest| digest.to_vec()).unwrap_or_default(),
            size_bytes: script.size_bytes,
            pid: process,
            parent_pid: parent,
            ancestors: ancestors(parent),
            container: Some(container_message(&standing.info)),
            policy: Some(PolicyReference {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                generation: policy.generation,
                matched_entry: String::new(),
                no_match: if script.digest.is_some() {
                    "content"
                } else {
                    "unresolved"
                }
                .into(),
            }),
            role: "target".into(),
            origin: "unknown".into(),
            reason: reason.into(),
            drift: if reason.starts_with("unresolved") {
                "unresolved"
            } else {
                "not-in-image"
            }
            .into(),
            tier: self.node.tier,
            count: 1,
            ..Violation::default()
        };
        violation.message = violation_message(&violation);
        Event {
            node: self.node.name.clone(),
            boot_id: self.node.boot_id.clone(),
            sequence: self.sequence.next(),
            time_unix_nanos: crate::events::clock::now_nanos(),
            kind: Some(Kind::Violation(violation)),
        }
    }
}

fn read(file: &File) -> Script {
    let size_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    if size_bytes > MAX_SCRIPT_BYTES {
        return Script {
            digest: None,
            size_bytes,
        };
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 14];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => {
                return Script {
                    digest: Some(hasher.finalize().into()),
                    size_bytes,
                };
            }
            Ok(read) if at < MAX_SCRIPT_BYTES => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            _ => {
                return Script {
                    digest: None,
                    size_bytes,
                };
            }
        }
    }
}

/// The path inside the container, as far as the agent sees it.
fn path_of(file: &File, standing: &ContainerStanding) -> Vec<u8> {
    use std::os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _};
    let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())) else {
        return Vec::new();
    };
    let bytes = path.as_os_str().as_bytes();
    let end = format!("/{}/rootfs/", standing.info.container_id);
    match bytes.windows(end.len()).position(|window| window == end.as_bytes()) {
        Some(position) => bytes[position + end.len() - 1..].to_vec(),
        None => bytes.to_vec(),
    }
}
