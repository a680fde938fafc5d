//! The one writer: takes all commands that wait, runs them in one transaction, commits, and only then answers.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    DerivedPolicy, Lifted, NewEvent, StoreError, StoredDenial, StoredRollout, StoredTransition, losses, reader,
};

/// More commands than this do not share a transaction, so that the first of them need not wait long.
const COMMANDS_IN_A_TRANSACTION_MAXIMUM: usize = 64;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Command {
    InsertEvents {
        events: Vec<NewEvent>,
        answer: Answer<usize>,
    },
    SetMode {
        namespace: String,
        mode: Option<String>,
        answer: Answer<u64>,
    },
    KeepPolicies {
        policies: Vec<DerivedPolicy>,
        answer: Answer<u64>,
    },
    Deny {
        denial: StoredDenial,
        answer: Answer<u64>,
    },
    /// 0 for an answer: nothing is to be given out.
    KeepRollout {
        rollout: StoredRollout,
        transitions: Vec<StoredTransition>,
        is_given_out: bool,
        answer: Answer<u64>,
    },
    /// 0 for an answer: there is none to be lifted.
    LiftDenial {
        kind: String,
        digest: String,
        lifted: Lifted,
        answer: Answer<u64>,
    },
}

/// What a command came to, before the commit.
enum Done {
    Inserted(Answer<usize>, usize),
    Revised(Answer<u64>, u64),
}

pub(super) struct Writer {
    connection: Connection,
    last_cursor: watch::Sender<i64>,
}

impl Writer {
    /// Starts the writer's thread, which ends when all senders are gone. Returns the cursor that it keeps current.
    pub(super) fn start(
        connection: Connection,
        mut commands: mpsc::Receiver<Command>,
        cursor: i64,
    ) -> std::io::Result<watch::Receiver<i64>> {
        let (last_cursor, receiver) = watch::channel(cursor);
        let mut writer = Self {
            connection,
            last_cursor,
        };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let mut waiting = Vec::new();
                while let Some(first) = commands.blocking_recv() {
                    waiting.push(first);
                    while waiting.len() < COMMANDS_IN_A_TRANSACTION_MAXIMUM {
                        let Ok(next) = commands.try_recv() else { break };
                        waiting.push(next);
                    }
                    writer.commit_together(&mut waiting);
                }
            })?;
        Ok(receiver)
    }

    fn commit_together(&mut self, waiting: &mut Vec<Command>) {
        let mut unanswered = Vec::new();
        match self.run_transaction(waiting, &mut unanswered) {
            Ok(cursor) => {
                for done in unanswered {
                    // Whoever asked may be gone; what was committed stays.
                    match done {
                        Done::Inserted(answer, count) => drop(answer.send(Ok(count))),
                        Done::Revised(answer, revision) => drop(answer.send(Ok(revision))),
                    }
                }
                self.last_cursor
                    .send_if_modified(|last| std::mem::replace(last, cursor) != cursor);
            }
            Err(error) => {
                tracing::error!(%error, "the store could not commit; nothing of it is acknowledged");
                let failed = || StoreError::Failed {
                    what: "commit",
                    problem: error.to_string(),
                };
                for done in unanswered {
                    match done {
                        Done::Inserted(answer, _) => drop(answer.send(Err(failed()))),
                        Done::Revised(answer, _) => drop(answer.send(Err(failed()))),
                    }
                }
                for command in waiting.drain(..) {
                    match command {
                        Command::InsertEvents { answer, .. } => drop(answer.send(Err(failed()))),
                        Command::SetMode { answer, .. }
                        | Command::KeepPolicies { answer, .. }
                        | Command::Deny { answer, .. }
                        | Command::KeepRollout { answer, .. }
                        | Command::LiftDenial { answer, .. } => {
                            drop(answer.send(Err(failed())));
                        }
                    }
                }
            }
        }
    }

    fn run_transaction(&mut self, waiting: &mut Vec<Command>, unanswered: &mut Vec<Done>) -> rusqlite::Result<i64> {
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Taken from the front one by one, so that a failure leaves the rest to be answered.
        while !waiting.is_empty() {
            match waiting.remove(0) {
                Command::InsertEvents { events, answer } => {
                    let inserted = insert_events(&transaction, &events);
                    unanswered.push(Done::Inserted(answer, *inserted.as_ref().unwrap_or(&0)));
                    inserted?;
                }
                Command::SetMode {
                    namespace,
                    mode,
                    answer,
                } => {
                    let revision = set_mode(&transaction, &namespace, mode.as_deref());
                    unanswered.push(Done::Revised(answer, *revision.as_ref().unwrap_or(&0)));
                    revision?;
                }
                Command::KeepPolicies { policies, answer } => {
                    let revision = keep_policies(&transaction, &policies);
                    unanswered.push(Done::Revised(answer, *revision.as_ref().unwrap_or(&0)));
                    revision?;
                }
                Command::Deny { denial, answer } => {
                    let revision = deny(&transaction, &denial);
                    unanswered.push(Done::Revised(answer, *revision.as_ref().unwrap_or(&0)));
                    revision?;
                }
                Command::KeepRollout {
                    rollout,
                    transitions,
                    is_given_out,
                    answer,
                } => {
                    let revision = keep_rollout(&transaction, &rollout, &transitions, is_given_out);
                    unanswered.push(Done::Revised(answer, *revision.as_ref().unwrap_or(&0)));
                    revision?;
                }
                Command::LiftDenial {
                    kind,
                    digest,
                    lifted,
                    answer,
                } => {
                    let revision = lift(&transaction, &kind, &digest, &lifted);
                    unanswered.push(Done::Revised(answer, *revision.as_ref().unwrap_or(&0)));
                    revision?;
                }
            }
        }
        let cursor = reader::last_cursor(&transaction)?;
        transaction.commit()?;
        Ok(cursor)
    }
}

fn insert_events(connection: &Connection, events: &[NewEvent]) -> rusqlite::Result<usize> {
    let mut inserted = 0;
    for event in events {
        if event.is_gap {
            let mut is_new = false;
            for piece in losses::what_is_new(connection, event)? {
                is_new |= insert_event(connection, &piece)?;
            }
            inserted += usize::from(is_new);
        } else {
            inserted += usize::from(insert_event(connection, event)?);
        }
    }
    Ok(inserted)
}

/// Stores one event; whether it was new.
fn insert_event(connection: &Connection, event: &NewEvent) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO events (node, boot_id, sequence, namespace, received_unix_nanos, event) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (node, boot_id, sequence) DO NOTHING",
    )?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    let received = i64::try_from(now).unwrap_or(i64::MAX);
    let inserted = statement.execute(params![
        event.node,
        event.boot_id,
        event.sequence.cast_signed(),
        event.namespace,
        received,
        event.event
    ])?;
    Ok(inserted == 1)
}

fn set_mode(connection: &Connection, namespace: &str, mode: Option<&str>) -> rusqlite::Result<u64> {
    match mode {
        Some(mode) => connection.execute(
            "INSERT INTO namespace_modes (namespace, mode) VALUES (?, ?)
             ON CONFLICT (namespace) DO UPDATE SET mode = excluded.mode",
            [namespace, mode],
        )?,
        None => connection.execute("DELETE FROM namespace_modes WHERE namespace = ?", [namespace])?,
    };
    next_revision(connection)
}

fn keep_policies(connection: &Connection, policies: &[DerivedPolicy]) -> rusqlite::Result<u64> {
    for DerivedPolicy {
        namespace,
        name,
        service,
        generation,
        policy,
    } in policies
    {
        let sha256 = checksum(policy.as_deref());
        connection.execute(
            "INSERT INTO derived_policies (namespace, name, service, generation, policy, sha256) VALUES (?, ?, ?, ?, ?, ?)
             ON CONFLICT (namespace, name) DO UPDATE SET service = excluded.service, generation = excluded.generation,
               policy = excluded.policy, sha256 = excluded.sha256",
            params![namespace, name, service, generation.cast_signed(), policy, sha256],
        )?;
    }
    next_revision(connection)
}

fn keep_rollout(
    connection: &Connection,
    rollout: &StoredRollout,
    transitions: &[StoredTransition],
    is_given_out: bool,
) -> rusqlite::Result<u64> {
    let StoredRollout { namespace, state } = rollout;
    connection.execute(
        "INSERT INTO rollouts (namespace, state, sha256) VALUES (?, ?, ?)
         ON CONFLICT (namespace) DO UPDATE SET state = excluded.state, sha256 = excluded.sha256",
        params![namespace, state, checksum(state.as_deref())],
    )?;
    for told in transitions {
        connection.execute(
            "INSERT INTO rollout_history (namespace, unix_nanos, workload, from_phase, to_phase, by, reason, evidence)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                told.namespace,
                told.unix_nanos.cast_signed(),
                told.workload,
                told.from,
                told.to,
                told.by,
                told.reason,
                told.evidence,
            ],
        )?;
    }
    if is_given_out { next_revision(connection) } else { Ok(0) }
}

fn deny(connection: &Connection, denial: &StoredDenial) -> rusqlite::Result<u64> {
    let replaced = Lifted {
        unix_nanos: denial.set_unix_nanos,
        by: denial.set_by.clone(),
        reason: "set again".to_owned(),
    };
    end(connection, &denial.kind, &denial.digest, &replaced)?;
    connection.execute(
        "INSERT INTO denials (kind, digest, kill_running, reason, set_by, set_unix_nanos) VALUES (?, ?, ?, ?, ?, ?)",
        params![
            denial.kind,
            denial.digest,
            denial.kill_running,
            denial.reason,
            denial.set_by,
            denial.set_unix_nanos.cast_signed(),
        ],
    )?;
    next_revision(connection)
}

fn lift(connection: &Connection, kind: &str, digest: &str, lifted: &Lifted) -> rusqlite::Result<u64> {
    match end(connection, kind, digest, lifted)? {
        0 => Ok(0),
        _ => next_revision(connection),
    }
}

fn end(connection: &Connection, kind: &str, digest: &str, lifted: &Lifted) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE denials SET lifted_unix_nanos = ?, lifted_by = ?, lift_reason = ?
         WHERE kind = ? AND digest = ? AND lifted_unix_nanos IS NULL",
        params![lifted.unix_nanos.cast_signed(), lifted.by, lifted.reason, kind, digest],
    )
}

/// The checksum beside what is kept; of what was withdrawn, that of nothing.
pub(super) fn checksum(kept: Option<&[u8]>) -> Vec<u8> {
    Sha256::digest(kept.unwrap_or_default()).to_vec()
}

fn next_revision(connection: &Connection) -> rusqlite::Result<u64> {
    let last: Option<i64> = connection
        .query_row("UPDATE revision SET last = last + 1 RETURNING last", [], |row| {
            row.get(0)
        })
        .optional()?;
    last.map(i64::cast_unsigned).ok_or(rusqlite::Error::QueryReturnedNoRows)
}
