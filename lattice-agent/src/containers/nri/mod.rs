//! The agent as a plugin of the container runtime, by NRI (Node Resource Interface; containerd 2.0 and later).
//!
//! ```text
//!   runtime ◄── one socket ──► trunk (frames) ──► message (ttrpc) ──► session (register, configure, calls) ──► Runtime
//!                                                                         └─ an answer in time, whatever happens
//! ```
//!
//! The runtime asks its plugins before it lets a container's first program start, and waits for the answer. By then the
//! container's process sits in its cgroup, so whoever fills the kernel's maps before answering judges the very first exec.
//!
//! The plugin guards; it never decides whether a container may start. It changes no container, subscribes only to what it needs
//! (that a container was created its watcher hears from the runtime's API),
//! and answers every call without an error and within [`Settings::answer_within`], since a runtime drops a plugin that is late
//! and refuses the container at an error. What could not be done in time is counted and logged, and the kernel's own verdicts
//! for cgroups that nobody named (`pending`, `unknown`) hold until it is done.

mod counters;
#[allow(
    missing_docs,
    unreachable_pub,
    unused,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from NRI's .proto file"
)]
mod generated;
mod message;
mod session;
mod trunk;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::watch, task::JoinHandle};

pub use self::counters::Counters;
use super::LateCause;

/// How long a container's start waits for us. A runtime waits 2 s before it drops the plugin, unless it is configured otherwise.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Which runtime, and who we are to it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its NRI socket, as given by `--nri`.
    pub socket: PathBuf,
    /// The most that a container's start waits. Where the runtime says how long it waits, half of that at most.
    pub answer_within: Duration,
}

/// Why a container starts without its maps filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGuarded {
    /// The runtime's own API does not answer, or does not know it.
    #[error("containerd does not say what it is: {0}")]
    Unknown(String),
    /// It has no cgroup of its own.
    #[error("its process has no cgroup of its own in the cgroup2 hierarchy")]
    NoCgroup,
    /// The maps could not be filled.
    #[error("it could not be taken into account; the log says why")]
    NotTaken,
    /// The agent is at fault.
    #[error("the work for it was cut off: {0}")]
    CutOff(String),
}

/// What becomes of what the runtime tells. Identifiers are those of the runtime's API.
pub trait Runtime: Send + Sync + 'static {
    /// A container was there before the plugin was: `pid` is its process, 0 where it has none. Must not wait.
    fn listed(&self, id: String, pid: u32, is_running: bool);

    /// A container's process `pid` is in its cgroup, and starts its program as soon as the future ends.
    fn starting(&self, id: String, pid: u32) -> BoxFuture<'static, Result<(), NotGuarded>>;

    /// A container's start was answered although its maps are not filled. Must not wait. Without an id the runtime named none that
    /// could be used.
    fn unguarded(&self, id: Option<String>, cause: LateCause);

    /// A container's program has started. Must not wait.
    fn running(&self, id: String, pid: u32);

    /// A container has ended, or is about to. Must not wait.
    fn stopped(&self, id: String);

    /// A container is gone. Must not wait.
    fn removed(&self, id: String);
}

/// How it stands with the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Not connected: containers start without asking.
    Away,
    /// Registered, configured, and told of all that runs.
    Registered,
}

/// Keeps the plugin connected until it is dropped.
pub struct Plugin {
    connection: watch::Receiver<Connection>,
    counters: Arc<Counters>,
    session: JoinHandle<()>,
}

impl Plugin {
    /// Starts it. Whether the runtime is there does not matter: it is waited for.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settings: Settings, runtime: Arc<dyn Runtime>) -> Self {
        let (sender, connection) = watch::channel(Connection::Away);
        let counters = Arc::new(Counters::default());
        let session = tokio::spawn(session::keep_connected(
            settings,
            runtime,
            Arc::clone(&counters),
            sender,
        ));
        Self {
            connection,
            counters,
            session,
        }
    }

    /// How it stands, now and at every change.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.session.abort();
    }
}
