//! The store's questions.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{DerivedPolicy, Remembered, writer::checksum};

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
    let revision: i64 = connection.query_row("SELECT last FROM revision", [], |row| row.get(0))?;
    remembered.revision = revision.cast_unsigned();
    Ok(remembered)
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
