use lattice_api::v1::{self as wire, Gap, SequenceRange, event::Kind};
use prost::Message;

use super::*;

fn event(node: &str, sequence: u64, namespace: &str) -> NewEvent {
    NewEvent {
        node: node.to_owned(),
        boot_id: "boot".to_owned(),
        sequence,
        namespace: namespace.to_owned(),
        event: format!("{node}/{sequence}").into_bytes(),
        is_gap: false,
    }
}

/// A gap of node a's boot.
fn gap(ranges: &[(u64, u64)]) -> NewEvent {
    let (first, last) = (ranges[0].0, ranges[ranges.len() - 1].1);
    let gap = Gap {
        first_sequence: first,
        last_sequence: last,
        cause: "spool-full".to_owned(),
        ranges: ranges
            .iter()
            .filter(|_| ranges.len() > 1)
            .map(|&(first, last)| SequenceRange { first, last })
            .collect(),
    };
    let wire = wire::Event {
        node: "a".to_owned(),
        boot_id: "boot".to_owned(),
        sequence: first,
        time_unix_nanos: 7,
        kind: Some(Kind::Gap(gap)),
    };
    NewEvent {
        event: wire.encode_to_vec(),
        is_gap: true,
        ..event("a", first, "")
    }
}

/// What stored gaps say, one after the other: number, and ranges.
async fn gaps(store: &Store) -> Vec<(u64, Vec<(u64, u64)>)> {
    let events = store.events_after(0, Some(String::new()), u32::MAX).await.unwrap();
    let told = events.iter().map(|stored| {
        let event = wire::Event::decode(&stored.event[..]).unwrap();
        let Some(Kind::Gap(gap)) = event.kind else {
            panic!("not a gap");
        };
        assert_eq!((gap.cause.as_str(), event.time_unix_nanos), ("spool-full", 7));
        let ranges: Vec<_> = gap.ranges.iter().map(|range| (range.first, range.last)).collect();
        match ranges.is_empty() {
            true => (event.sequence, vec![(gap.first_sequence, gap.last_sequence)]),
            false => (event.sequence, ranges),
        }
    });
    told.collect()
}

fn texts(events: &[StoredEvent]) -> Vec<&str> {
    events
        .iter()
        .map(|event| std::str::from_utf8(&event.event).unwrap())
        .collect()
}

fn policy(generation: u64, content: Option<&str>) -> DerivedPolicy {
    DerivedPolicy {
        namespace: "payments".to_owned(),
        name: "payment-service".to_owned(),
        service: "payment-service".to_owned(),
        generation,
        policy: content.map(|content| content.as_bytes().to_vec()),
    }
}

#[tokio::test]
async fn an_event_is_stored_once_however_often_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let first = vec![
        event("a", 1, "payments"),
        event("a", 2, "shop"),
        event("b", 1, "payments"),
    ];
    assert_eq!(store.insert_events(first.clone()).await.unwrap(), 3);
    assert_eq!(store.insert_events(first).await.unwrap(), 0);
    assert_eq!(
        store
            .insert_events(vec![event("a", 2, "shop"), event("a", u64::MAX, "shop")])
            .await
            .unwrap(),
        1
    );
    let all = store.events_after(0, None, 100).await.unwrap();
    assert_eq!(texts(&all), ["a/1", "a/2", "b/1", "a/18446744073709551615"]);
    let payments = store.events_after(0, Some("payments".to_owned()), 100).await.unwrap();
    assert_eq!(texts(&payments), ["a/1", "b/1"]);
    assert_eq!(store.last_sequence("b".to_owned(), "boot".to_owned()).await.unwrap(), 1);
}

#[tokio::test]
async fn readers_follow_by_cursor_and_miss_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let mut last = store.last_cursor();
    let writers: Vec<_> = (0..8)
        .map(|node| {
            let store = store.clone();
            tokio::spawn(async move {
                for sequence in 1..=50 {
                    store
                        .insert_events(vec![event(&format!("n{node}"), sequence, "payments")])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    let (mut cursor, mut seen) = (0, std::collections::HashSet::new());
    while seen.len() < 400 {
        for stored in store.events_after(cursor, None, 7).await.unwrap() {
            assert!(stored.cursor > cursor);
            cursor = stored.cursor;
            assert!(seen.insert(stored.event));
        }
        if seen.len() < 400 && *last.borrow_and_update() <= cursor {
            last.changed().await.unwrap();
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn the_newest_events_are_found_by_count() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let events = (1..=10)
        .map(|number| event("a", number, if number % 2 == 0 { "even" } else { "odd" }))
        .collect();
    store.insert_events(events).await.unwrap();
    let cursor = store.cursor_before_newest(None, 3).await.unwrap();
    assert_eq!(
        texts(&store.events_after(cursor, None, 100).await.unwrap()),
        ["a/8", "a/9", "a/10"]
    );
    let even = Some("even".to_owned());
    let cursor = store.cursor_before_newest(even.clone(), 2).await.unwrap();
    assert_eq!(
        texts(&store.events_after(cursor, even.clone(), 100).await.unwrap()),
        ["a/8", "a/10"]
    );
    assert_eq!(store.cursor_before_newest(even, 100).await.unwrap(), 0);
}

#[tokio::test]
async fn everything_survives_a_restart_and_revisions_go_on_rising() {
    let directory = tempfile::tempdir().unwrap();
    let (store, remembered) = Store::open(directory.path()).unwrap();
    assert_eq!(remembered, Remembered::default());
    assert_eq!(
        store
            .set_mode("payments".to_owned(), Some("enforce".to_owned()))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        store
            .set_mode("shop".to_owned(), Some("deny".to_owned()))
            .await
            .unwrap(),
        2
    );
    assert_eq!(store.set_mode("shop".to_owned(), None).await.unwrap(), 3);
    assert_eq!(store.keep_policies(vec![policy(4, Some("content"))]).await.unwrap(), 4);
    store.insert_events(vec![event("a", 1, "payments")]).await.unwrap();
    drop(store);

    let (store, remembered) = Store::open(directory.path()).unwrap();
    assert_eq!(
        remembered.namespace_modes,
        [("payments".to_owned(), "enforce".to_owned())]
    );
    assert_eq!(remembered.derived_policies, [policy(4, Some("content"))]);
    assert_eq!(remembered.revision, 4);
    assert_eq!(store.insert_events(vec![event("a", 1, "payments")]).await.unwrap(), 0);
    assert_eq!(store.keep_policies(vec![policy(5, None)]).await.unwrap(), 5);
    drop(store);
    let (_, remembered) = Store::open(directory.path()).unwrap();
    assert_eq!(remembered.derived_policies, [policy(5, None)]);
}

#[tokio::test]
async fn a_policy_whose_bytes_were_changed_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    store.keep_policies(vec![policy(7, Some("content"))]).await.unwrap();
    drop(store);
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    connection
        .execute("UPDATE derived_policies SET policy = x'00'", [])
        .unwrap();
    drop(connection);
    let (_, remembered) = Store::open(directory.path()).unwrap();
    assert_eq!(remembered.damaged_policies, ["payments/payment-service"]);
    assert_eq!(remembered.derived_policies, [policy(7, None)]);
}

#[tokio::test]
async fn a_failed_commit_acknowledges_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    store.insert_events(vec![event("a", 1, "payments")]).await.unwrap();
    // Another writer holds the lock for longer than the store waits: the real cause of a real failure.
    let other = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.insert_events(vec![event("a", 2, "payments")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { what: "commit", .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.insert_events(vec![event("a", 2, "payments")]).await.unwrap(), 1);
    assert_eq!(texts(&store.events_after(0, None, 100).await.unwrap()), ["a/1", "a/2"]);
}

#[track_caller]
fn refused(directory: &Path, expected: &str) {
    let error = Store::open(directory).err().expect("must be refused").to_string();
    assert!(error.contains(expected) && error.contains("central.sqlite"), "{error}");
}

#[test]
fn what_is_no_store_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    refused(&directory.path().join("absent"), "unable to open database file");
    std::fs::write(
        directory.path().join(FILE_NAME),
        "this is no database, whatever its name says".repeat(100),
    )
    .unwrap();
    refused(
        directory.path(),
        "not a database. The store of events and modes must be readable; restore the file",
    );
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    store
        .insert_events((1..2_000).map(|number| event("a", number, "payments")).collect())
        .await
        .unwrap();
    drop(store);
    let path = directory.path().join(FILE_NAME);
    let connection = Connection::open(&path).unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(connection);
    let expected = format!("schema version 99 is not {SCHEMA_VERSION}");
    refused(directory.path(), &expected);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60..64].copy_from_slice(&(SCHEMA_VERSION as u32).to_be_bytes()); // user_version, back to what it was
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8_192].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    refused(directory.path(), "restore the file from a backup");
}

#[tokio::test]
async fn a_gap_after_lost_acknowledgements_says_what_is_lost_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    // Stored, and the agent never heard of it: it gave all up and said so.
    store
        .insert_events((1..=100).map(|number| event("a", number, "payments")).collect())
        .await
        .unwrap();
    store
        .insert_events(vec![event("a", 150, "payments"), event("b", 120, "payments")])
        .await
        .unwrap();
    assert_eq!(store.insert_events(vec![gap(&[(1, 200)])]).await.unwrap(), 1);
    assert_eq!(gaps(&store).await, [(101, vec![(101, 149), (151, 200)])]);
    // Again, since that was not acknowledged either; and another that overlaps.
    assert_eq!(
        store
            .insert_events(vec![gap(&[(1, 200)]), gap(&[(101, 149)])])
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        store
            .insert_events(vec![gap(&[(90, 90), (140, 205), (300, 300)])])
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        gaps(&store).await,
        [(101, vec![(101, 149), (151, 200)]), (201, vec![(201, 205), (300, 300)])]
    );
    // All of it is stored: there is nothing to say.
    assert_eq!(store.insert_events(vec![gap(&[(1, 50)])]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_gap_of_too_many_pieces_becomes_several() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    let every_other = (1..=1_200).map(|number| event("a", number * 2, "payments"));
    store.insert_events(every_other.collect()).await.unwrap();
    assert_eq!(store.insert_events(vec![gap(&[(1, 2_400)])]).await.unwrap(), 1);
    let told = gaps(&store).await;
    assert_eq!(
        told.iter().map(|(_, ranges)| ranges.len()).collect::<Vec<_>>(),
        [512, 512, 176]
    );
    let lost = told.into_iter().flat_map(|(_, ranges)| ranges);
    assert!(lost.eq((1..=1_200).map(|number| (number * 2 - 1, number * 2 - 1))));
}

#[tokio::test]
async fn a_store_of_version_1_is_taken_over_with_what_its_gaps_said() {
    let directory = tempfile::tempdir().unwrap();
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    connection
        .execute_batch(&format!("{} PRAGMA user_version = 1;", SCHEMA[0]))
        .unwrap();
    for stored in [event("a", 1, "payments"), gap(&[(5, 9)]), event("a", 20, "")] {
        connection
            .execute(
                "INSERT INTO events (node, boot_id, sequence, namespace, received_unix_nanos, event) VALUES (?, ?, ?, ?, 0, ?)",
                rusqlite::params![stored.node, stored.boot_id, stored.sequence.cast_signed(), stored.namespace, stored.event],
            )
            .unwrap();
    }
    drop(connection);
    for _ in 0..2 {
        let (store, _) = Store::open(directory.path()).unwrap();
        assert_eq!(store.insert_events(vec![gap(&[(5, 9)])]).await.unwrap(), 0);
        drop(store);
    }
    let (store, _) = Store::open(directory.path()).unwrap();
    assert_eq!(store.insert_events(vec![gap(&[(8, 12)])]).await.unwrap(), 1);
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    let rows: i64 = connection
        .query_row("SELECT count(*) FROM events WHERE sequence = 10", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_store_of_any_version_keeps_what_it_has() {
    for version in 1..SCHEMA.len() {
        let directory = tempfile::tempdir().unwrap();
        let old = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        let schema: String = SCHEMA[..version].concat();
        old.execute_batch(&format!("{schema} PRAGMA user_version = {version};"))
            .unwrap();
        old.execute("INSERT INTO namespace_modes VALUES ('payments', 'enforce')", [])
            .unwrap();
        drop(old);
        let (store, remembered) = Store::open(directory.path()).unwrap();
        assert_eq!(
            remembered.namespace_modes,
            [("payments".to_owned(), "enforce".to_owned())]
        );
        assert_eq!(store.denials(10).await.unwrap(), []);
        let denial = StoredDenial {
            kind: "file".to_owned(),
            digest: "sha256:00".to_owned(),
            kill_running: false,
            reason: "why".to_owned(),
            set_by: "operator".to_owned(),
            set_unix_nanos: u64::MAX,
            lifted: None,
        };
        assert_eq!(store.deny(denial.clone()).await.unwrap(), 1);
        drop(store);
        let (_, remembered) = Store::open(directory.path()).unwrap();
        assert_eq!(remembered.denials, [denial]);
    }
}
