//! Events from records, and what becomes of hostile bytes on their whole way.

use std::mem::offset_of;

use lattice_api::event::{to_json_line, to_line};
use lattice_common::abi::{AncestorRecord, ExecRecord, record_kind};
use lattice_policy::FilePath;
use proptest::prelude::*;

use super::*;
use crate::{
    events::record::{Record, decode},
    spool::Spool,
};

fn node() -> Node {
    Node {
        name: "node-1".into(),
        boot_id: "boot-1".into(),
        tier: 1,
    }
}

/// Texts of a record, as the kernel side would write them.
struct Texts<'a> {
    path: &'a [u8],
    name: &'a [u8],
    comm: &'a [u8],
    argv: &'a [Vec<u8>],
    ancestor: &'a [u8],
}

fn record(texts: &Texts<'_>) -> Box<JudgedFile> {
    let mut bytes = vec![0; size_of::<ExecRecord>()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let length = |text: &[u8]| u32::try_from(text.len()).unwrap().to_ne_bytes();
    put(offset_of!(ExecRecord, kind), &record_kind::EXEC.to_ne_bytes());
    put(offset_of!(ExecRecord, hook), &hook::BPRM_CHECK_SECURITY.to_ne_bytes());
    put(offset_of!(ExecRecord, sequence), &1u64.to_ne_bytes());
    put(offset_of!(ExecRecord, reason), &Reason::UNLISTED.0.to_ne_bytes());
    put(offset_of!(ExecRecord, effect), &Effect::KILL.0.to_ne_bytes());
    put(offset_of!(ExecRecord, flags), &record_flag::ARGV.to_ne_bytes());
    put(offset_of!(ExecRecord, path), texts.path);
    put(offset_of!(ExecRecord, path_length), &length(texts.path));
    put(offset_of!(ExecRecord, name), texts.name);
    put(offset_of!(ExecRecord, name_length), &length(texts.name));
    put(offset_of!(ExecRecord, comm), texts.comm);
    let argv: Vec<u8> = texts
        .argv
        .iter()
        .flat_map(|text| [text.as_slice(), &[0]].concat())
        .collect();
    put(offset_of!(ExecRecord, argv), &argv);
    put(offset_of!(ExecRecord, argv_length), &length(&argv));
    put(offset_of!(ExecRecord, ancestor_count), &1u32.to_ne_bytes());
    let ancestor = offset_of!(ExecRecord, ancestors);
    put(ancestor + offset_of!(AncestorRecord, pid), &u32::MAX.to_ne_bytes());
    put(ancestor + offset_of!(AncestorRecord, name), texts.ancestor);
    put(
        ancestor + offset_of!(AncestorRecord, name_length),
        &length(texts.ancestor),
    );
    match decode(&bytes) {
        Ok(Record::Exec(record)) => record,
        other => panic!("{other:?}"),
    }
}

fn violation(event: &Event) -> &Violation {
    match &event.kind {
        Some(Kind::Violation(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_is_named_only_by_its_own_generation() {
    let mut record = record(&Texts {
        path: b"/bin/sh",
        name: b"sh",
        comm: b"app",
        argv: &[],
        ancestor: b"app",
    });
    record.flags |= record_flag::ENTRY;
    record.reason = Reason::ORIGIN;
    record.generation = 7;
    let policy = |generation| {
        let text = format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: p, namespace: ns}}\nspec:\n  mode: enforce\n  \
             generation: {generation}\n  entries:\n  - {{path: /bin/sh, sha256: \"{}\", from: exec-session}}\n",
            "00".repeat(32)
        );
        lattice_policy::read_documents("p.yaml", text.as_bytes())
            .unwrap()
            .remove(0)
    };
    let named = |generation| {
        let event = explain(&record, &node(), None, Some(&policy(generation)), 0);
        violation(&event).policy.clone().unwrap()
    };
    assert_eq!(named(7).matched_entry, "/bin/sh");
    // Replaced since: the number would name another entry.
    assert_eq!((named(8).matched_entry.as_str(), named(8).generation), ("", 7));
}

#[test]
fn why_no_entry_matched() {
    let check = |reason: Reason, flags: u32, tier: u32, expected: &str| {
        let mut record = record(&Texts {
            path: b"/a",
            name: b"/a",
            comm: b"a",
            argv: &[],
            ancestor: b"a",
        });
        (record.reason, record.flags) = (reason, flags);
        assert_eq!(no_match(&record, tier), expected, "{reason:?} {flags} {tier}");
    };
    check(Reason::UNLISTED, record_flag::DIGEST, 1, "content");
    check(Reason::UNLISTED, 0, 1, "size");
    check(Reason::UNLISTED, record_flag::LOWER, 2, "size");
    check(Reason::UNLISTED, record_flag::UPPER, 2, "not-on-layers");
    check(Reason::UNRESOLVED_OPEN, 0, 1, "unresolved");
    check(Reason::MISSING, 0, 1, "not-loaded");
}

/// Bytes that the kernel hands on as they are: anything but a zero.
fn text(bytes: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![1..=255u8, 1..32u8, Just(b'\\'), Just(0x1b), Just(0xff), Just(b'\n')],
        1..bytes,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Record, event, spool, JSON: the bytes are the same at the end, and nothing on the way is what a terminal would obey.
    #[test]
    fn bytes_arrive_as_they_were_and_no_terminal_obeys_them(
        path in text(200), name in text(200), comm in text(15), argv in prop::collection::vec(text(40), 0..8),
        ancestor in text(40),
    ) {
        let record = record(&Texts { path: &path, name: &name, comm: &comm, argv: &argv, ancestor: &ancestor });
        let event = explain(&record, &node(), None, None, 0);
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path(), 1 << 20).unwrap();
        spool.append(std::slice::from_ref(&event)).unwrap();
        drop(spool);
        let sent = Spool::open(folder.path(), 1 << 20).unwrap().next_batch(2, usize::MAX).unwrap();
        prop_assert_eq!(&sent, &[event]);
        let told = violation(&sent[0]);
        prop_assert_eq!((&told.path, &told.path_as_passed, &told.comm, &told.argv), (&path, &name, &comm, &argv));
        prop_assert_eq!(&told.ancestors[0].name, &ancestor);
        let (line, json) = (to_line(&sent[0]), to_json_line(&sent[0]));
        for shown in [&line, &json] {
            prop_assert!(shown.chars().all(|character| !character.is_control()), "{:?}", shown);
        }
        // The escape reads back to the bytes.
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        let field = |name: &str| FilePath::from_escaped(document["violation"][name].as_str().unwrap()).unwrap().as_bytes().to_vec();
        prop_assert_eq!([field("path"), field("pathAsPassed"), field("comm")], [path, name, comm]);
        for (shown, was) in document["violation"]["argv"].as_array().unwrap().iter().zip(&argv) {
            let read = FilePath::from_escaped(shown.as_str().unwrap()).unwrap();
            prop_assert_eq!(read.as_bytes(), was.as_slice());
        }
    }
}
