//! Tier 2's front: fanotify asks before an exec opens its files, so that what is not listed is refused cleanly.
//!
//! ```text
//!   exec in a container ──► kernel: FAN_OPEN_EXEC_PERM ──► event thread ──► judging threads ──► answer
//!   (program, #! interpreter,          ▲                      │  └ overdue: the chosen failure
//!    ELF interpreter: each asks)       └ ignore marks         └──► heartbeat ──► watchdog process
//! ```
//!
//! The front proves nothing by itself: it is asked before the file is protected from writers, does not see stores to mapped pages, and
//! opens the gate when the agent ends. The BPF floor, which is pinned, judges every exec again. So the front may fail open, and
//! must never hold up a node:
//!
//! * only container file systems are watched: see [`root`];
//! * an answer is given within [`Options::answer_within`], whatever the judge does;
//! * when the event thread ends, however it ends, it closes the group, and the kernel lets everything pending go on;
//! * when it hangs, the watchdog process kills the agent, with the same effect: see [`watchdog`].

mod counters;
mod event_loop;
mod group;
mod pending;
mod place;
mod root;
#[cfg(test)]
mod tests;
pub mod watchdog;
mod watched;
mod workers;

use std::{
    io::{self, PipeWriter},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

pub use self::counters::Counts;
use self::{
    counters::Counters, event_loop::EventLoop, group::SharedGroup, place::Placer, root::Protected, watched::Watched,
};
use crate::{error_chain::ErrorChain, kernel::fanotify::Group};

/// Decides about files that are opened for execution. Called from several threads at once.
pub trait Judge: Send + Sync {
    /// Which answer, for an exec that opens `file`.
    ///
    /// `pid` is the process that opens, as the agent's PID namespace numbers it (0: not to be seen there). `device` is the file
    /// system's own (`s_dev`, major << 20 | minor; not always what stat shows), `inode` the file's number on it.
    ///
    /// Must not open files on a watched file system by path, nor start a program from one: read `file`. May not return in time: then
    /// the failure is answered, and what is returned later has no effect. May panic: likewise.
    fn judge(&self, pid: i32, file: BorrowedFd<'_>, device: u32, inode: u64) -> Answer;
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The open goes on.
    Allow,
    /// The open goes on, and this file is not asked for again until it is written to or [`Front::flush`] is called.
    ///
    /// For everybody on that file system, so not where the verdict depends on who asks. Only for what cannot change: stores to
    /// mapped pages are no writes to fanotify, and a write before the answer is not seen.
    AllowAndIgnore,
    /// The open fails with EPERM.
    Deny,
    /// The process gets SIGKILL, and then the open fails.
    KillAndDeny,
}

/// What is answered where the judge has no answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failure {
    /// Goes on; the pinned floor still judges it.
    #[default]
    Allow,
    /// Fails with EPERM: for hosts where a false refusal costs less than a kill by the floor.
    Deny,
}

/// How the front runs.
#[derive(Debug)]
pub struct Options {
    /// What is answered when the judge panics, hangs, or is late.
    pub failure: Failure,
    /// How long after reading a question its answer is given, at the latest.
    pub answer_within: Duration,
    /// The watchdog that the event thread reports to; without one, a hanging agent holds up the execs in its containers.
    pub heartbeat: Option<watchdog::Heartbeat>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            failure: Failure::default(),
            answer_within: Duration::from_secs(2),
            heartbeat: None,
        }
    }
}

/// Why the front could not be started, or a root not be watched.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The kernel has no fanotify permission events for us.
    #[error(
        "fanotify does not work here; it needs Linux 5.15 with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, and CAP_SYS_ADMIN"
    )]
    Unsupported(#[source] io::Error),
    /// A file system that must never be watched could not be found out.
    #[error("cannot find out which file system {path} is on, and so not which ones must not be watched")]
    Protected {
        /// What stands for it.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the front's threads")]
    Thread(#[source] io::Error),
    /// The root is gone, or not to be seen.
    #[error("cannot open the root {root}")]
    Open {
        /// The root.
        root: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Only overlays are watched.
    #[error(
        "{root} is not on an overlay (file system type {file_system:#x}): only a container's own overlay is watched"
    )]
    NotAnOverlay {
        /// The root.
        root: PathBuf,
        /// `f_type` of statfs.
        file_system: i64,
    },
    /// The file system is the host's or the agent's.
    #[error(
        "{root} is on device {major}:{minor}, which {owner} is on too: watching it could freeze the node, so it is left to the floor"
    )]
    NotTheContainersOwn {
        /// The root.
        root: PathBuf,
        /// Of the superblock.
        major: u32,
        /// Of the superblock.
        minor: u32,
        /// Who else lives there.
        owner: String,
    },
    /// The kernel refused the mark.
    #[error("cannot change what fanotify watches at {path}")]
    Mark {
        /// The root, or what stands for all.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The front, as long as it is held. Dropped, it closes the group: what is pending goes on, and nothing is asked any more.
#[derive(Debug)]
pub struct Front {
    group: Arc<SharedGroup>,
    watched: Arc<Watched>,
    protected: Protected,
    counters: Arc<Counters>,
    /// Closed to end the event thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Starts the threads. Nothing is asked until a root is watched.
    ///
    /// # Errors
    /// Where fanotify does not work, or the host's and the agent's own file systems cannot be found out.
    pub fn start(judge: Arc<dyn Judge>) -> Result<Self, FrontError> {
        Self::start_with(judge, Options::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_with(judge: Arc<dyn Judge>, options: Options) -> Result<Self, FrontError> {
        let placer = Placer::new().map_err(FrontError::Unsupported)?;
        let protected = Protected::find(&placer)?;
        let group = Arc::new(SharedGroup::new(Group::open().map_err(FrontError::Unsupported)?));
        let (watched, counters) = (Arc::new(Watched::default()), Arc::new(Counters::default()));
        let (stopped, stop) = io::pipe().map_err(FrontError::Thread)?;
        let workers =
            workers::Workers::start(judge, watched.clone(), placer, counters.clone()).map_err(FrontError::Thread)?;
        let event_loop = EventLoop::new(group.clone(), workers, counters.clone(), options, stopped);
        let thread = event_loop.start().map_err(FrontError::Thread)?;
        Ok(Self {
            group,
            watched,
            protected,
            counters,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Asks from now on for every exec of a file on this container's own root file system, and returns that file system's device
    /// (`s_dev`, major << 20 | minor). What started before was not asked.
    ///
    /// `root` is the container's root as the agent can open it, such as /proc/PID/root. Watching it again, also for another cgroup, is
    /// harmless.
    ///
    /// # Errors
    /// When it is not a container's own overlay, or is gone.
    pub fn watch(&self, root: &Path, cgroup_id: u64) -> Result<u32, FrontError> {
        let opened = root::open(root, &self.protected)?;
        let refused = |source| FrontError::Mark {
            path: root.to_path_buf(),
            source,
        };
        // First known, then watched: the first question must find its device.
        self.watched.add(opened.device, root, cgroup_id, || {
            self.group.with(|group| group.watch(opened.folder())).map_err(refused)
        })?;
        Ok(opened.device)
    }

    /// Asks no more for a root on behalf of this cgroup; when that was the last one, not at all.
    ///
    /// A file system that is gone has lost its mark by itself. The cgroup is named because the kernel gives a device number to the
    /// next container as soon as it is free.
    ///
    /// # Errors
    /// When the mark cannot be removed; it is forgotten nevertheless.
    pub fn forget(&self, root_device: u32, cgroup_id: u64) -> Result<(), FrontError> {
        self.watched.remove(root_device, cgroup_id, |path| {
            // Gone, or by now another file system: then there is no mark of ours either.
            let Some(opened) = root::open(path, &self.protected)
                .ok()
                .filter(|opened| opened.device == root_device)
            else {
                return Ok(());
            };
            let refused = |source| FrontError::Mark {
                path: path.to_path_buf(),
                source,
            };
            match self.group.with(|group| group.unwatch(opened.folder())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(refused)?,
            }
            // Otherwise a verdict of now would hold when the same root is watched again.
            self.flush()
        })
    }

    /// Asks for every file again, also for those that were to be ignored. To be called when a policy has become tighter, after the
    /// judge knows of it: a verdict that is being found meanwhile is not kept.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&self) -> Result<(), FrontError> {
        self.group.flush_ignored().map_err(|source| FrontError::Mark {
            path: PathBuf::from("(all ignored files)"),
            source,
        })
    }

    /// Whether questions are answered. Once false it stays so: the floor judges alone, until another front is started.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the front's event thread panicked outside of its loop");
        }
    }
}

/// For the log: the operating system's text alone does not say what was tried.
fn warn(what: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error = %ErrorChain(error), "{what}");
}
