//! The store's questions.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{DerivedPolicy, Lifted, Remembered, StoredDenial, StoredRollout, StoredTransition, writer::checksum};

/// An event as it comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in commit order.
    pub cursor: i64,
    /// The encoded event.
    pub event: Vec<u8>,
}

pub(super) fn remembered(connection: &Connection) -> rusqlite::Result<Remembered> {
    let mut remembered = Remembered::default();
    let mut modes = connection.prepare("SELECT namespace, mode FROM namespace_modes ORDER BY namespace")?;
    for row in modes.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
        remembered.namespace_modes.push(row?);
    }
    let mut policies = connection.prepare(
        "SELECT namespace, name, service, generation, policy, sha256 FROM derived_policies ORDER BY namespace, name",
    )?;
    let read = |row: &Row<'_>| -> rusqlite::Result<(DerivedPolicy, Vec<u8>)> {
        let generation: i64 = row.get(3)?;
        let policy = DerivedPolicy {
            namespace: row.get(0)?,
            name: row.get(1)?,
            service: row.get(2)?,
            generation: generation.cast_unsigned(),
            policy: row.get(4)?,
        };
        Ok((policy, row.get(5)?))
    };
    for row in policies.query_map([], read)? {
        let (mut policy, sha256) = row?;
        if checksum(policy.policy.as_deref()) != sha256 {
            remembered
                .damaged_policies
                .push(format!("{}/{}", policy.namespace, policy.name));
            policy.policy = None;
        }
        remembered.derived_policies.push(policy);
    }
    let mut denials = connection.prepare(&format!(
        "SELECT {DENIAL} FROM denials WHERE lifted_unix_nanos IS NULL ORDER BY number"
    ))?;
    for row in denials.query_map([], denial)? {
        remembered.denials.push(row?);
    }
    let mut rollouts = connection.prepare("SELECT namespace, state, sha256 FROM rollouts ORDER BY namespace")?;
    let read = |row: &Row<'_>| -> rusqlite::Result<(StoredRollout, Vec<u8>)> {
        let rollout = StoredRollout {
            namespace: row.get(0)?,
            state: row.get(1)?,
        };
        Ok((rollout, row.get(2)?))
    };
    for row in rollouts.query_map([], read)? {
        let (rollout, sha256) = row?;
        match checksum(rollout.state.as_deref()) == sha256 {
            true => remembered.rollouts.push(rollout),
            false => remembered.damaged_rollouts.push(rollout.namespace),
        }
    }
    let revision: i64 = connection.query_row("SELECT last FROM revision", [], |row| row.get(0))?;
    remembered.revision = revision.cast_unsigned();
    Ok(remembered)
}

const DENIAL: &str =
    "kind, digest, kill_running, reason, set_by, set_unix_nanos, lifted_unix_nanos, lifted_by, lift_reason";

fn denial(row: &Row<'_>) -> rusqlite::Result<StoredDenial> {
    let lifted: Option<i64> = row.get(6)?;
    let lifted = match lifted {
        Some(unix_nanos) => Some(Lifted {
            unix_nanos: unix_nanos.cast_unsigned(),
            by: row.get(7)?,
            reason: row.get(8)?,
        }),
        None => None,
    };
    let set_unix_nanos: i64 = row.get(5)?;
    Ok(StoredDenial {
        kind: row.get(0)?,
        digest: row.get(1)?,
        kill_running: row.get(2)?,
        reason: row.get(3)?,
        set_by: row.get(4)?,
        set_unix_nanos: set_unix_nanos.cast_unsigned(),
        lifted,
    })
}

pub(super) fn denials(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<StoredDenial>> {
    connection
        .prepare_cached(&format!("SELECT {DENIAL} FROM denials ORDER BY number DESC LIMIT ?"))?
        .query_map([limit], denial)?
        .collect()
}

pub(super) fn rollout_history(
    connection: &Connection,
    namespace: Option<&str>,
    limit: u32,
) -> rusqlite::Result<Vec<StoredTransition>> {
    const COLUMNS: &str = "namespace, unix_nanos, workload, from_phase, to_phase, by, reason, evidence";
    let read = |row: &Row<'_>| {
        let unix_nanos: i64 = row.get(1)?;
        Ok(StoredTransition {
            namespace: row.get(0)?,
            unix_nanos: unix_nanos.cast_unsigned(),
            workload: row.get(2)?,
            from: row.get(3)?,
            to: row.get(4)?,
            by: row.get(5)?,
            reason: row.get(6)?,
            evidence: row.get(7)?,
        })
    };
    match namespace {
        Some(namespace) => connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM rollout_history WHERE namespace = ? ORDER BY number DESC LIMIT ?"
            ))?
            .query_map(params![namespace, limit], read)?
            .collect(),
        None => connection
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM rollout_history ORDER BY number DESC LIMIT ?"
            ))?
            .query_map([limit], read)?
            .collect(),
    }
}

pub(super) fn last_cursor(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(cursor), 0) FROM events", [], |row| row.get(0))
}

pub(super) fn events_after(
    connection: &Connection,
    cursor: i64,
    namespace: Option<&str>,
    limit: u32,
) -> rusqlite::Result<Vec<StoredEvent>> {
    let read = |row: &Row<'_>| {
        Ok(StoredEvent {
            cursor: row.get(0)?,
            event: row.get(1)?,
        })
    };
    match namespace {
        Some(namespace) => connection
            .prepare_cached(
                "SELECT cursor, event FROM events WHERE namespace = ? AND cursor > ? ORDER BY cursor LIMIT ?",
            )?
            .query_map(params![namespace, cursor, limit], read)?
            .collect(),
        None => connection
            .prepare_cached("SELECT cursor, event FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?")?
            .query_map(params![cursor, limit], read)?
            .collect(),
    }
}

pub(super) fn cursor_before_newest(
    connection: &Connection,
    namespace: Option<&str>,
    count: u32,
) -> rusqlite::Result<i64> {
    // The one that stands just before the newest `count`; where there are fewer, all of them.
    let cursor: Option<i64> = match namespace {
        Some(namespace) => connection
            .query_row(
                "SELECT cursor FROM events WHERE namespace = ? ORDER BY cursor DESC LIMIT 1 OFFSET ?",
                params![namespace, count],
                |row| row.get(0),
            )
            .optional()?,
        None => connection
            .query_row(
                "SELECT cursor FROM events ORDER BY cursor DESC LIMIT 1 OFFSET ?",
                [count],
                |row| row.get(0),
            )
            .optional()?,
    };
    Ok(cursor.unwrap_or(0))
}

pub(super) fn last_sequence(connection: &Connection, node: &str, boot_id: &str) -> rusqlite::Result<u64> {
    // Compared as signed: sequences begin at 1 with each boot, and none lives to count to 2^63.
    let last: i64 = connection.query_row(
        "SELECT coalesce(max(sequence), 0) FROM events WHERE node = ? AND boot_id = ?",
        [node, boot_id],
        |row| row.get(0),
    )?;
    Ok(last.cast_unsigned())
}
