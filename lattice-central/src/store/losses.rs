//! Gaps: what they say is lost is kept exactly, whatever came before.
//!
//! An agent whose acknowledgements were lost does not know what is stored here. Where it has to give such events up, its gap names more
//! than is lost, and begins with a number that is taken. So from a gap is left out what is stored, and what a gap said before; the rest
//! is kept, under numbers of its own.
//!
//! ```text
//!   stored 1..=100, gap 1..=200 ──► gap 101..=200        the same gap again ──► nothing
//! ```

use lattice_api::v1::{Event, Gap, SequenceRange, event::Kind};
use prost::Message;
use rusqlite::{Connection, params};

use super::NewEvent;

/// Ranges that one stored gap names.
const RANGES_IN_A_GAP: usize = 512;

/// First and last, both included. As SQLite's integers: no boot counts to 2^63.
type Span = (i64, i64);

/// What is left of a gap, as events to be stored; notes that these numbers were spoken of.
pub(super) fn what_is_new(connection: &Connection, new: &NewEvent) -> rusqlite::Result<Vec<NewEvent>> {
    let Ok(Event {
        kind: Some(Kind::Gap(gap)),
        ..
    }) = Event::decode(&new.event[..])
    else {
        // Not a gap after all: kept as it came.
        return Ok(vec![new.clone()]);
    };
    let mut unspoken = Vec::new();
    for span in spans(&gap) {
        let before = spoken_of(connection, new, span)?;
        unspoken.extend(without(span, before.into_iter()));
    }
    let mut lost = Vec::new();
    for &span in &unspoken {
        // Each number is looked for once, since from now on it was spoken of: what a node can ask for is bounded by what it sent.
        lost.extend(missing(connection, new, span)?);
        speak_of(connection, new, span)?;
    }
    Ok(lost
        .chunks(RANGES_IN_A_GAP)
        .map(|spans| piece(new, &gap, spans))
        .collect())
}

/// What a gap names, in order and without overlaps.
fn spans(gap: &Gap) -> Vec<Span> {
    let named: Vec<(u64, u64)> = if gap.ranges.is_empty() {
        vec![(gap.first_sequence, gap.last_sequence.max(gap.first_sequence))]
    } else {
        gap.ranges.iter().map(|range| (range.first, range.last)).collect()
    };
    let mut spans: Vec<Span> = named
        .into_iter()
        .filter_map(|(first, last)| Some((i64::try_from(first).ok()?, i64::try_from(last).unwrap_or(i64::MAX))))
        .filter(|(first, last)| first <= last)
        .collect();
    spans.sort_unstable();
    let mut joined: Vec<Span> = Vec::new();
    for (first, last) in spans {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// A span without what is known of it; that comes in order and without overlaps.
fn without(span: Span, known: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut rest = Vec::new();
    let mut from = Some(span.0);
    for (first, last) in known {
        let Some(start) = from else { break };
        if start < first {
            rest.push((start, first - 1));
        }
        from = last
            .checked_add(1)
            .map(|next| next.max(start))
            .filter(|next| *next <= span.1);
    }
    rest.extend(from.map(|start| (start, span.1)));
    rest
}

/// What gaps before spoke of, as far as it lies in the span.
fn spoken_of(connection: &Connection, new: &NewEvent, (first, last): Span) -> rusqlite::Result<Vec<Span>> {
    // Rows do not overlap: only the last that begins before the span can reach into it.
    let mut statement = connection.prepare_cached(
        "SELECT first, last FROM spoken_of WHERE node = ?1 AND boot_id = ?2 AND first <= ?4 AND last >= ?3
           AND first >= coalesce((SELECT max(first) FROM spoken_of WHERE node = ?1 AND boot_id = ?2 AND first <= ?3), 0)
         ORDER BY first",
    )?;
    let rows = statement.query_map(params![new.node, new.boot_id, first, last], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    rows.collect()
}

fn speak_of(connection: &Connection, new: &NewEvent, (first, last): Span) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO spoken_of (node, boot_id, first, last) VALUES (?, ?, ?, ?)")?
        .execute(params![new.node, new.boot_id, first, last])?;
    Ok(())
}

/// What of the span is not stored.
fn missing(connection: &Connection, new: &NewEvent, (first, last): Span) -> rusqlite::Result<Vec<Span>> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence FROM events WHERE node = ? AND boot_id = ? AND sequence BETWEEN ? AND ? ORDER BY sequence",
    )?;
    let rows = statement.query_map(params![new.node, new.boot_id, first, last], |row| row.get::<_, i64>(0))?;
    // Neighbours are joined, so that what is held is bounded by the holes.
    let mut stored: Vec<Span> = Vec::new();
    for sequence in rows {
        let sequence = sequence?;
        match stored.last_mut() {
            Some(before) if before.1 + 1 == sequence => before.1 = sequence,
            _ => stored.push((sequence, sequence)),
        }
    }
    Ok(without((first, last), stored.into_iter()))
}

/// The gap of some spans, as the one that came would have said it.
fn piece(new: &NewEvent, gap: &Gap, spans: &[Span]) -> NewEvent {
    let ranges: Vec<SequenceRange> = spans
        .iter()
        .map(|&(first, last)| SequenceRange {
            first: first.cast_unsigned(),
            last: last.cast_unsigned(),
        })
        .collect();
    let first = ranges.first().map_or(0, |range| range.first);
    let last = ranges.last().map_or(0, |range| range.last);
    let gap = Gap {
        first_sequence: first,
        last_sequence: last,
        cause: gap.cause.clone(),
        ranges: if ranges.len() > 1 { ranges } else { Vec::new() },
    };
    // It was decoded before.
    let event = Event::decode(&new.event[..]).unwrap_or_default();
    let event = Event {
        sequence: first,
        kind: Some(Kind::Gap(gap)),
        ..event
    };
    NewEvent {
        sequence: first,
        event: event.encode_to_vec(),
        ..new.clone()
    }
}

/// Notes what gaps spoke of that an earlier schema kept without noting it.
pub(super) fn note_stored_gaps(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare("SELECT node, boot_id, sequence, event FROM events WHERE namespace = '' ORDER BY cursor")?;
    let rows = statement.query_map([], |row| {
        Ok(NewEvent {
            node: row.get(0)?,
            boot_id: row.get(1)?,
            sequence: row.get::<_, i64>(2)?.cast_unsigned(),
            namespace: String::new(),
            event: row.get(3)?,
            is_gap: true,
        })
    })?;
    for stored in rows {
        let stored = stored?;
        let Ok(Event {
            kind: Some(Kind::Gap(gap)),
            ..
        }) = Event::decode(&stored.event[..])
        else {
            continue;
        };
        for span in spans(&gap) {
            let before = spoken_of(connection, &stored, span)?;
            for rest in without(span, before.into_iter()) {
                speak_of(connection, &stored, rest)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_without(span: Span, known: &[Span], expected: &[Span]) {
        assert_eq!(without(span, known.iter().copied()), expected);
    }

    #[test]
    fn a_span_without_what_is_known() {
        check_without((1, 9), &[], &[(1, 9)]);
        check_without((1, 9), &[(1, 9)], &[]);
        check_without((1, 9), &[(0, 3)], &[(4, 9)]);
        check_without((1, 9), &[(7, 20)], &[(1, 6)]);
        check_without((1, 9), &[(2, 2), (4, 5), (9, 9)], &[(1, 1), (3, 3), (6, 8)]);
        check_without((1, i64::MAX), &[(5, i64::MAX)], &[(1, 4)]);
        check_without((i64::MAX, i64::MAX), &[], &[(i64::MAX, i64::MAX)]);
    }

    #[test]
    fn what_a_gap_names_is_put_in_order() {
        let check = |ranges: &[(u64, u64)], expected: &[Span]| {
            let ranges = ranges.iter().map(|&(first, last)| SequenceRange { first, last });
            let gap = Gap {
                ranges: ranges.collect(),
                ..Gap::default()
            };
            assert_eq!(spans(&gap), expected);
        };
        check(&[(5, 6), (1, 2)], &[(1, 2), (5, 6)]);
        check(&[(1, 3), (2, 9), (10, 11)], &[(1, 11)]);
        check(&[(3, 1), (u64::MAX, u64::MAX)], &[]);
        check(&[(7, u64::MAX)], &[(7, i64::MAX)]);
    }
}
