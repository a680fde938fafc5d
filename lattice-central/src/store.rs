//! What must outlive the process: events, mode overrides, denials, the last good derivations. One SQLite file.
//!
//! ```text
//!   hub, control, reconciler ──► commands ──► writer thread ──► one transaction for all that waits ──► COMMIT ──► answers
//!                                                                                                       └─► last cursor
//!   ListEvents ◄── reader thread pool (own connection) ◄── by cursor ◄────────────────────────────────────────┘
//! ```
//!
//! An answer means: committed, with `synchronous = FULL`, in the write-ahead log on disk.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot, watch};

mod losses;
mod reader;
mod writer;

pub use reader::StoredEvent;

use self::writer::{Command, Writer};

/// The file in the state directory.
const FILE_NAME: &str = "central.sqlite";
/// What each schema version adds to the one before it.
const SCHEMA: [&str; 4] = [
    include_str!("store/schema.sql"),
    include_str!("store/spoken_of.sql"),
    include_str!("store/denials.sql"),
    include_str!("store/rollouts.sql"),
];
const SCHEMA_VERSION: i64 = SCHEMA.len() as i64;
/// Commands that may wait for the writer; then senders wait.
const COMMANDS_WAITING_MAXIMUM: usize = 256;

/// Why the store could not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened, or is damaged.
    #[error(
        "{path}: {problem}. The store of events and modes must be readable; restore the file from a backup, or move it away \
         to begin an empty one"
    )]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        problem: String,
    },
    /// Written by a later Lattice.
    #[error(
        "{path}: schema version {found} is not {SCHEMA_VERSION}; it was written by another version of lattice-central"
    )]
    Version {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
    },
    /// A statement failed.
    #[error("the store refused to {what}: {problem}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What SQLite said.
        problem: String,
    },
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

/// An event as it goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Name of the node, already held against its certificate.
    pub node: String,
    /// The node's boot.
    pub boot_id: String,
    /// The kernel's sequence number.
    pub sequence: u64,
    /// Namespace of the container; empty for gaps.
    pub namespace: String,
    /// The encoded event.
    pub event: Vec<u8>,
    /// Whether it is a gap: of one, only what is neither stored nor was said before is kept.
    pub is_gap: bool,
}

/// A derivation's last good result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedPolicy {
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub name: String,
    /// Name of the LatticeService that it was derived from.
    pub service: String,
    /// Rises whenever `policy` changes.
    pub generation: u64,
    /// The encoded policy; `None` where it was withdrawn.
    pub policy: Option<Vec<u8>>,
}

/// A denial, in force or lifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDenial {
    /// `image` or `file`.
    pub kind: String,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Whether what runs of the image is killed.
    pub kill_running: bool,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub set_by: String,
    /// When.
    pub set_unix_nanos: u64,
    /// When, by whom and why it was lifted.
    pub lifted: Option<Lifted>,
}

/// The end of a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    /// When.
    pub unix_nanos: u64,
    /// Who lifted it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A rollout's state, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRollout {
    /// Its namespace.
    pub namespace: String,
    /// The encoded state; `None` where its LatticeRollout is gone.
    pub state: Option<Vec<u8>>,
}

/// Something that happened to a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTransition {
    /// Its namespace.
    pub namespace: String,
    /// When.
    pub unix_nanos: u64,
    /// The workload; empty where all are meant.
    pub workload: String,
    /// The phase before; may be empty.
    pub from: String,
    /// The phase after; may be empty.
    pub to: String,
    /// Who did it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// SHA-256, in hexadecimal, over what was known.
    pub evidence: String,
}

/// What the store held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Mode by namespace.
    pub namespace_modes: Vec<(String, String)>,
    /// Derivations whose checksum held.
    pub derived_policies: Vec<DerivedPolicy>,
    /// Denials that hold.
    pub denials: Vec<StoredDenial>,
    /// Rollouts whose checksum held.
    pub rollouts: Vec<StoredRollout>,
    /// Namespaces of rollouts whose checksum did not hold; they do not count.
    pub damaged_rollouts: Vec<String>,
    /// `namespace/name` of derivations whose checksum did not hold; they do not count.
    pub damaged_policies: Vec<String>,
    /// The last revision that was given out.
    pub revision: u64,
}

/// A handle on the store; clones share one writer, which ends with the last of them.
#[derive(Clone)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    last_cursor: watch::Receiver<i64>,
    reader: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens or creates the store below a directory, and says what it holds.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or has another schema version.
    pub fn open(directory: &Path) -> Result<(Self, Remembered), StoreError> {
        let path = directory.join(FILE_NAME);
        let unusable = |problem: rusqlite::Error| StoreError::Unusable {
            path: path.clone(),
            problem: problem.to_string(),
        };
        let writer = Connection::open(&path).map_err(unusable)?;
        prepare(&writer).map_err(unusable)?;
        match schema_version(&writer).map_err(unusable)? {
            found @ 0..=SCHEMA_VERSION => migrate(&writer, found).map_err(unusable)?,
            found => return Err(StoreError::Version { path, found }),
        }
        let check: String = writer
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(unusable)?;
        if check != "ok" {
            return Err(StoreError::Unusable { path, problem: check });
        }
        let remembered = reader::remembered(&writer).map_err(unusable)?;
        let cursor = reader::last_cursor(&writer).map_err(unusable)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&path, flags).map_err(unusable)?;
        let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAXIMUM);
        let last_cursor = Writer::start(writer, waiting, cursor).map_err(|error| StoreError::Unusable {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        Ok((
            Self {
                commands,
                last_cursor,
                reader: Arc::new(Mutex::new(reader)),
            },
            remembered,
        ))
    }

    /// Stores events, each at most once, and of gaps what is really lost. When this returns they are on disk; how many were new is the
    /// answer.
    ///
    /// # Errors
    /// When the transaction could not be committed: then none of them counts as stored, and the sender keeps them.
    pub async fn insert_events(&self, events: Vec<NewEvent>) -> Result<usize, StoreError> {
        self.ask(|answer| Command::InsertEvents { events, answer }).await
    }

    /// Sets or (with `None`) clears a namespace's mode, and returns the new revision.
    ///
    /// # Errors
    /// When the transaction could not be committed.
    pub async fn set_mode(&self, namespace: String, mode: Option<String>) -> Result<u64, StoreError> {
        self.ask(|answer| Command::SetMode {
            namespace,
            mode,
            answer,
        })
        .await
    }

    /// Keeps derivations, all or none, and returns the new revision.
    ///
    /// # Errors
    /// When the transaction could not be committed.
    pub async fn keep_policies(&self, policies: Vec<DerivedPolicy>) -> Result<u64, StoreError> {
        self.ask(|answer| Command::KeepPolicies { policies, answer }).await
    }

    /// Keeps a denial; one of the same digest that holds is replaced, and ends with it. Returns the new revision.
    ///
    /// # Errors
    /// When the transaction could not be committed.
    pub async fn deny(&self, denial: StoredDenial) -> Result<u64, StoreError> {
        self.ask(|answer| Command::Deny { denial, answer }).await
    }

    /// Notes that a denial is lifted, and returns the new revision; `None` where none of this digest holds.
    ///
    /// # Errors
    /// When the transaction could not be committed.
    pub async fn lift_denial(&self, kind: String, digest: String, lifted: Lifted) -> Result<Option<u64>, StoreError> {
        let revision = self.ask(|answer| Command::LiftDenial {
            kind,
            digest,
            lifted,
            answer,
        });
        // Revisions begin at 1.
        Ok(Some(revision.await?).filter(|revision| *revision != 0))
    }

    /// Denials that hold or ever did, the newest first; at most `limit`.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn denials(&self, limit: u32) -> Result<Vec<StoredDenial>, StoreError> {
        self.read(move |connection| reader::denials(connection, limit)).await
    }

    /// Keeps what became of a rollout, all or none. Returns the new revision where its effect is to be given out, else 0.
    ///
    /// # Errors
    /// When the transaction could not be committed.
    pub async fn keep_rollout(
        &self,
        rollout: StoredRollout,
        transitions: Vec<StoredTransition>,
        is_given_out: bool,
    ) -> Result<u64, StoreError> {
        self.ask(|answer| Command::KeepRollout {
            rollout,
            transitions,
            is_given_out,
            answer,
        })
        .await
    }

    /// What happened to rollouts (of a namespace), the newest first; at most `limit`.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn rollout_history(
        &self,
        namespace: Option<String>,
        limit: u32,
    ) -> Result<Vec<StoredTransition>, StoreError> {
        self.read(move |connection| reader::rollout_history(connection, namespace.as_deref(), limit))
            .await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// The cursor of the newest committed event; changes with each commit that added some.
    pub fn last_cursor(&self) -> watch::Receiver<i64> {
        self.last_cursor.clone()
    }

    /// Events after a cursor, in order of commit; at most `limit`. With a namespace, only its own.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn events_after(
        &self,
        cursor: i64,
        namespace: Option<String>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.read(move |connection| reader::events_after(connection, cursor, namespace.as_deref(), limit))
            .await
    }

    /// The cursor after which exactly the newest `count` events (of the namespace) follow.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn cursor_before_newest(&self, namespace: Option<String>, count: u32) -> Result<i64, StoreError> {
        self.read(move |connection| reader::cursor_before_newest(connection, namespace.as_deref(), count))
            .await
    }

    /// The highest sequence stored for a node's boot.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn last_sequence(&self, node: String, boot_id: String) -> Result<u64, StoreError> {
        self.read(move |connection| reader::last_sequence(connection, &node, &boot_id))
            .await
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.reader.clone();
        let result = tokio::task::spawn_blocking(move || {
            // A panic while a query ran leaves the connection usable: SQLite knows no half-read state.
            let connection = reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            query(&connection)
        });
        let failed = |problem: String| StoreError::Failed { what: "read", problem };
        result
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // One writer only: a second lattice-central on the same state directory is refused here, not at its first event.
    connection.pragma_update(None, "busy_timeout", 2_000)
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// From an earlier version, or from nothing: all of it, or none.
fn migrate(connection: &Connection, from: i64) -> rusqlite::Result<()> {
    if from == SCHEMA_VERSION {
        return Ok(());
    }
    let missing: String = SCHEMA.iter().skip(from as usize).copied().collect();
    let done = connection
        .execute_batch(&format!("BEGIN IMMEDIATE; {missing}"))
        .and_then(|()| match from {
            1 => losses::note_stored_gaps(connection),
            _ => Ok(()),
        })
        .and_then(|()| connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")));
    if done.is_err() && !connection.is_autocommit() {
        // The file is as it was; what failed is told.
        connection.execute_batch("ROLLBACK")?;
    }
    done
}

#[cfg(test)]
mod tests;
