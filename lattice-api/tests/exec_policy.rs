//! ExecPolicy on the wire: nothing is lost, and what is wrong is named.

use lattice_api::v1;
use lattice_policy::{ExecPolicy, read_documents};
use proptest::prelude::*;
use prost::Message;

const DOCUMENT: &str = include_str!("../../lattice-policy/tests/every_field.yaml");

fn policy() -> ExecPolicy {
    read_documents("every_field.yaml", DOCUMENT.as_bytes())
        .unwrap()
        .remove(0)
}

#[test]
fn every_field_survives_the_wire() {
    let bytes = v1::ExecPolicy::from(&policy()).encode_to_vec();
    let message = v1::ExecPolicy::decode(bytes.as_slice()).unwrap();
    assert_eq!(ExecPolicy::try_from(message), Ok(policy()));
}

#[track_caller]
fn check(change: impl FnOnce(&mut v1::ExecPolicy), expected: &str) {
    let mut message = v1::ExecPolicy::from(&policy());
    change(&mut message);
    let shown = ExecPolicy::try_from(message).unwrap_err().to_string();
    let expected = expected.replace(
        "ADVICE",
        "Sender and receiver may be of different releases: compare `latticectl status` of both.",
    );
    assert_eq!(shown, expected);
}

#[test]
fn what_is_wrong_is_named() {
    check(
        |policy| policy.target = None,
        "spec.target: the message has no such field. ADVICE",
    );
    check(
        |policy| policy.mode = String::new(),
        "spec.mode: this value is none of: monitor, enforce, deny. ADVICE",
    );
    check(
        |policy| policy.fail.as_mut().unwrap().map_full = "shut\u{1b}".to_owned(),
        "spec.fail.mapFull: \"shut\\x1b\": this value is none of: open, closed, kill. ADVICE",
    );
    check(
        |policy| policy.entries[0].sha256 = vec![0; 31],
        "spec.entries[0].sha256: a SHA-256 digest has 32 bytes, not 31. ADVICE",
    );
    check(
        |policy| policy.entries[1].roles[0] = "any".to_owned(),
        "spec.entries[1].roles[0]: \"any\": this value is none of: target, script-interpreter, elf-interpreter. ADVICE",
    );
    check(
        |policy| policy.entries[1].path = Vec::new(),
        "spec.entries[1].path: \"\" is not an absolute path. Begin it with \"/\".",
    );
    check(
        |policy| policy.map[0] = v1::MapRule::default(),
        "spec.map[0]: the rule names neither a path nor a digest. Give it a path, a sha256, or both.",
    );
    check(
        |policy| policy.entries = vec![v1::Entry::default(); 4097],
        "spec.entries: the list has 4097 items, more than the 4096 that are held. Make the list shorter.",
    );
    check(
        |policy| policy.entries[0].because = vec![String::new(); 65],
        "spec.entries[0].because: the list has 65 items, more than the 64 that are held. Make the list shorter.",
    );
    check(
        |policy| policy.namespace = "Payments".to_owned(),
        "metadata.namespace: \"Payments\": this is not a name of at most 63 bytes that Kubernetes would take. Use lower-case letters, digits and hyphens, a letter or digit first and last.",
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_messages_are_converted_or_refused(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = v1::ExecPolicy::from(&policy()).encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = v1::ExecPolicy::decode(bytes.as_slice())
            && let Ok(policy) = ExecPolicy::try_from(message)
        {
            prop_assert_eq!(policy.check(), Ok(()));
        }
    }
}
