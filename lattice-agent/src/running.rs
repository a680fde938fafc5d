//! What already runs is judged too: when a container is adopted and whenever policies change, executables of its running processes that
//! its policy does not list are reported as `running-unlisted`, deleted files and memfds included. Where its namespace is so configured and
//! its mode is enforce they are killed besides.
//!
//! By the file, not by role or origin: nobody saw how these processes started. What a process does next is the kernel side's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    },
    path::PathBuf,
    sync::{Arc, Weak, mpsc::Receiver},
    thread::sleep,
    time::Duration,
};

use lattice_api::{
    event::violation_message,
    v1::{Event, PolicyReference, Violation, event::Kind},
};
use lattice_policy::{ExecPolicy, Mode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Sender;

use crate::{
    backend::container_message,
    enforcement::{ContainerStanding, tasks_below},
    events::{
        clock,
        explain::Node,
        process::{ancestors, parent_of, started},
    },
    kernel::{pidfd, sequence::SequenceCounter},
    state::Shared,
};

/// Changes that come in a bunch are looked at together.
const SETTLE: Duration = Duration::from_millis(200);
/// Largest executable that is read; a larger one counts as unlisted, without a digest.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// Digests and reports that are remembered; past that all are forgotten.
const MAX_REMEMBERED: usize = 16_384;
/// What `/proc/PID/exe` says of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// Looks for what was born while the others were killed, before the rest is left to the next change.
const KILL_ROUNDS: usize = 16;
/// In place of a namespace: all of them.
const EVERY_NAMESPACE: &str = "*";

/// Device, inode, size, and the times of the last changes.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A process by its number and its start, and what it runs.
type Seen = (u32, u64, Stamp);

/// In which namespaces what runs unlisted is killed.
#[derive(Debug, Clone, Default)]
pub struct Kills(BTreeSet<String>);

impl Kills {
    /// In these; `*` stands for all.
    pub fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self(namespaces.into_iter().collect())
    }

    /// Only in enforce: monitor refuses nothing, and deny sends no signal.
    fn holds(&self, standing: &ContainerStanding) -> bool {
        let namespace = standing.info.namespace.as_str();
        standing.mode == Some(Mode::Enforce) && [namespace, EVERY_NAMESPACE].iter().any(|name| self.0.contains(*name))
    }
}

/// Looks at running processes.
pub struct Running {
    /// Containers and policies; ends with them.
    pub state: Weak<Shared>,
    /// Numbers the events, together with the kernel.
    pub sequence: SequenceCounter,
    /// Where events go. One that finds no room is a gap, which the reader reports.
    pub events: Sender<Event>,
    /// Who is speaking.
    pub node: Node,
    /// Said when something changed.
    pub changes: Receiver<()>,
    /// Where it is more than told.
    pub kills: Kills,
}

/// What is known from earlier looks.
#[derive(Default)]
struct Remembered {
    digests: BTreeMap<Stamp, [u8; 32]>,
    /// What was told, and whether it was killed.
    told: BTreeMap<Seen, bool>,
}

struct Executable {
    path: Vec<u8>,
    digest: Option<[u8; 32]>,
    stamp: Stamp,
}

impl Running {
    /// Looks whenever something changed, until nobody is left to change anything.
    pub fn run(self) {
        let mut remembered = Remembered::default();
        while self.changes.recv().is_ok() {
            sleep(SETTLE);
            while self.changes.try_recv().is_ok() {}
            let Some(state) = self.state.upgrade() else { return };
            if remembered.digests.len() > MAX_REMEMBERED || remembered.told.len() > MAX_REMEMBERED {
                remembered = Remembered::default();
            }
            let standings: Vec<ContainerStanding> = state.enforcement().standings().collect();
            for standing in &standings {
                if let Some(policy) = &standing.policy {
                    self.look(&state, standing, policy, &mut remembered);
                }
            }
        }
    }

    fn look(
        &self,
        state: &Arc<Shared>,
        standing: &ContainerStanding,
        policy: &ExecPolicy,
        remembered: &mut Remembered,
    ) {
        let kills = self.kills.holds(standing);
        for _ in 0..KILL_ROUNDS {
            let mut is_any_killed = false;
            for process in tasks_below(&standing.info.cgroup_path) {
                is_any_killed |= self.judge(state, standing, policy, process, kills, remembered);
            }
            if !is_any_killed {
                break;
            }
        }
    }

    /// Returns whether the process was killed now.
    fn judge(
        &self,
        state: &Arc<Shared>,
        standing: &ContainerStanding,
        policy: &ExecPolicy,
        process: u32,
        kills: bool,
        remembered: &mut Remembered,
    ) -> bool {
        // Who has entered and not yet started a program of the container runs the host's.
        let mark = state.enforcement().tables().tasks.get(process);
        if !mark.is_ok_and(|mark| mark.is_some_and(|mark| mark.origin != 0)) {
            return false;
        }
        // Before anything is read of it: what is signalled is what was looked at, also where its number has gone to another since.
        let held = kills.then(|| pidfd::open(process.cast_signed()));
        // One that has ended meanwhile runs nothing.
        let Some(start) = started(process) else { return false };
        let Ok(executable) = executable(process, &mut remembered.digests) else {
            return false;
        };
        let is_runtime = executable
            .digest
            .is_some_and(|digest| state.enforcement().is_runtime_program(&digest));
        if is_runtime || is_listed(policy, &executable) {
            return false;
        }
        let seen = (process, start, executable.stamp);
        if remembered
            .told
            .get(&seen)
            .is_some_and(|&was_killed| was_killed || !kills)
        {
            return false;
        }
        let killed = match held {
            // It may run another program by now, which the kernel side has judged.
            Some(_) if !is_running_still(process, &executable.stamp) => return false,
            Some(held) => Some(held.and_then(|held| pidfd::kill(held.as_fd()))),
            None => None,
        };
        let is_killed = matches!(killed, Some(Ok(())));
        remembered.told.insert(seen, is_killed);
        if let Some(Err(error)) = &killed {
            tracing::warn!(process, %error, "a running program that its policy does not list could not be killed");
        }
        let event = self.event(process, standing, policy, executable, killed);
        if self.events.try_send(event).is_err() {
            tracing::warn!("the event of a running program found no room and is a gap");
        }
        is_killed
    }

    fn event(
        &self,
        process: u32,
        standing: &ContainerStanding,
        policy: &ExecPolicy,
        executable: Executable,
        killed: Option<io::Result<()>>,
    ) -> Event {
        let parent = parent_of(process).unwrap_or(0);
        let (path, drift) = described(&executable.path, policy);
        let mut violation = Violation {
            hook: "running".into(),
            mode: standing.mode.map(|mode| mode.to_string()).unwrap_or_default(),
            verdict: "refuse".into(),
            effective_action: if matches!(killed, Some(Ok(()))) { "kill" } else { "none" }.into(),
            signal_return_code: killed.map(|killed| match killed {
                Ok(()) => 0,
                Err(error) => -error.raw_os_error().unwrap_or(1),
            }),
            path,
            sha256: executable.digest.map(|digest| digest.to_vec()).unwrap_or_default(),
            size_bytes: executable.stamp.2,
            pid: process,
            parent_pid: parent,
            ancestors: ancestors(parent),
            comm: fs::read(format!("/proc/{process}/comm"))
                .unwrap_or_default()
                .trim_ascii_end()
                .to_vec(),
            container: Some(container_message(&standing.info)),
            policy: Some(PolicyReference {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                generation: policy.generation,
                no_match: if executable.digest.is_some() {
                    "content"
                } else {
                    "unresolved"
                }
                .into(),
                ..PolicyReference::default()
            }),
            role: "target".into(),
            origin: "unknown".into(),
            reason: "running-unlisted".into(),
            drift: drift.into(),
            tier: self.node.tier,
            ..Violation::default()
        };
        violation.message = violation_message(&violation);
        Event {
            node: self.node.name.clone(),
            boot_id: self.node.boot_id.clone(),
            sequence: self.sequence.next(),
            time_unix_nanos: clock::now_nanos(),
            kind: Some(Kind::Violation(violation)),
        }
    }
}

/// Links to what a process runs: its first thread's, and the others', since a first thread that has ended shows none.
fn links(process: u32) -> impl Iterator<Item = PathBuf> {
    let threads = format!("/proc/{process}/task");
    let others = fs::read_dir(threads).into_iter().flatten().flatten();
    let first = PathBuf::from(format!("/proc/{process}/exe"));
    std::iter::once(first).chain(others.map(|thread| thread.path().join("exe")))
}

/// The first of a process' links that leads somewhere, where it leads, and the file.
fn opened(process: u32) -> io::Result<(Vec<u8>, File)> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for link in links(process) {
        match fs::read_link(&link).and_then(|path| Ok((path, File::open(&link)?))) {
            Ok((path, file)) => return Ok((path.into_os_string().into_vec(), file)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn stamp(file: &File) -> io::Result<(Stamp, bool)> {
    let metadata = file.metadata()?;
    let stamp = (
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    );
    Ok((stamp, metadata.is_file()))
}

/// Whether a process runs the file that it ran.
fn is_running_still(process: u32, before: &Stamp) -> bool {
    let now = opened(process).and_then(|(_, file)| stamp(&file));
    now.is_ok_and(|((device, inode, ..), _)| (device, inode) == (before.0, before.1))
}

/// The file that a process runs, and its content: what it holds now, which is what it was started from while the kernel keeps it from being
/// written to.
fn executable(process: u32, digests: &mut BTreeMap<Stamp, [u8; 32]>) -> io::Result<Executable> {
    let (path, mut file) = opened(process)?;
    let (stamp, is_file) = stamp(&file)?;
    let digest = match digests.get(&stamp) {
        Some(digest) => Some(*digest),
        None if !is_file || stamp.2 > MAX_FILE_BYTES => None,
        None => {
            let digest = digest(&mut file)?;
            digests.insert(stamp, digest);
            Some(digest)
        }
    };
    Ok(Executable { path, digest, stamp })
}

fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut left = MAX_FILE_BYTES;
    loop {
        match file.read(&mut buffer)? as u64 {
            0 => return Ok(hasher.finalize().into()),
            read if read <= left => {
                hasher.update(&buffer[..read as usize]);
                left -= read;
            }
            _ => return Err(io::Error::other("it grows while it is read")),
        }
    }
}

fn is_listed(policy: &ExecPolicy, executable: &Executable) -> bool {
    policy.entries.iter().any(|entry| match entry.sha256 {
        Some(listed) => executable.digest == Some(listed.0),
        None => entry.path.as_bytes() == executable.path,
    })
}

/// The path without the kernel's addition, and what became of the file.
fn described(path: &[u8], policy: &ExecPolicy) -> (Vec<u8>, &'static str) {
    let is_listed = |path: &[u8]| policy.entries.iter().any(|entry| entry.path.as_bytes() == path);
    match path.strip_suffix(DELETED) {
        Some(path) if path.starts_with(b"/memfd:") => (path.to_vec(), "memfd"),
        Some(path) => (path.to_vec(), "deleted"),
        None if is_listed(path) => (path.to_vec(), "modified"),
        None => (path.to_vec(), "not-in-image"),
    }
}

#[cfg(test)]
mod tests {
    use lattice_policy::{CodeLoading, Entry, FailSemantics, FileDigest, Mode, Origin, Role, Scope, Target};

    use super::*;

    fn policy(path: &str, digest: Option<[u8; 32]>) -> ExecPolicy {
        ExecPolicy {
            namespace: "n".into(),
            name: "p".into(),
            target: Target::default(),
            mode: Mode::Enforce,
            fail: FailSemantics::default(),
            code_loading: CodeLoading::Image,
            scope: Scope::Declared,
            generation: 1,
            entries: vec![Entry {
                path: path.into(),
                sha256: digest.map(FileDigest),
                real_path: None,
                size_bytes: None,
                kind: None,
                roles: vec![Role::Target],
                from: Origin::Any,
                applets: Vec::new(),
                because: Vec::new(),
            }],
            map: Vec::new(),
        }
    }

    #[test]
    fn this_process_is_known_by_its_content_and_by_its_path() {
        let own = executable(std::process::id(), &mut BTreeMap::new()).unwrap();
        let content: [u8; 32] = Sha256::digest(fs::read("/proc/self/exe").unwrap()).into();
        assert_eq!(own.digest, Some(content));
        assert!(is_listed(&policy("/elsewhere", Some(content)), &own));
        assert!(!is_listed(&policy("/elsewhere", Some([1; 32])), &own));
        let path = String::from_utf8(own.path.clone()).unwrap();
        assert!(is_listed(&policy(&path, None), &own));
        assert!(!is_listed(&policy("/elsewhere", None), &own));
    }

    #[test]
    fn what_became_of_a_file_is_in_its_path() {
        let policy = policy("/app/server", Some([1; 32]));
        for (path, expected) in [
            ("/memfd:x (deleted)", ("/memfd:x", "memfd")),
            ("/app/server (deleted)", ("/app/server", "deleted")),
            ("/app/server", ("/app/server", "modified")),
            ("/tmp/x", ("/tmp/x", "not-in-image")),
        ] {
            let (found, drift) = described(path.as_bytes(), &policy);
            assert_eq!((String::from_utf8(found).unwrap().as_str(), drift), expected);
        }
    }
}
