//! Events as people and programs read them.

use lattice_api::{
    event::{event_message, event_namespace, lost_events, to_json_line, to_line},
    v1::{self, event::Kind},
};
use proptest::prelude::*;

fn violation() -> v1::Violation {
    v1::Violation {
        hook: "bprm_check_security".to_owned(),
        mode: "enforce".to_owned(),
        verdict: "refuse".to_owned(),
        effective_action: "deny+kill".to_owned(),
        signal_return_code: Some(0),
        path: b"/usr/bin/wget".to_vec(),
        path_as_passed: b"wget".to_vec(),
        sha256: vec![0xab; 32],
        size_bytes: 4096,
        argv: vec![b"wget".to_vec(), b"http://example.com".to_vec()],
        argv_truncated: true,
        cwd: b"/app".to_vec(),
        uid: 1000,
        gid: 1000,
        pid: 42,
        parent_pid: 7,
        ancestors: vec![v1::Ancestor {
            pid: 7,
            executable: b"/app/\xff".to_vec(),
            name: b"\xff".to_vec(),
            start_boot_nanos: 4_000_000_000,
        }],
        comm: b"server".to_vec(),
        container: Some(v1::Container {
            container_id: "c1".to_owned(),
            namespace: "payments".to_owned(),
            workload: "payment-service".to_owned(),
            name: "server".to_owned(),
            image_digest: format!("sha256:{}", "0".repeat(64)),
            cgroup_id: 9,
            ..Default::default()
        }),
        policy: Some(v1::PolicyReference {
            namespace: "payments".to_owned(),
            name: "payment-service".to_owned(),
            generation: 7,
            matched_entry: String::new(),
            no_match: "content".to_owned(),
        }),
        role: "target".to_owned(),
        origin: "init".to_owned(),
        reason: "unlisted".to_owned(),
        drift: "unlisted-in-image".to_owned(),
        message: String::new(),
        tier: 1,
        count: 1,
        repeats_of: 0,
        first_unix_nanos: 0,
        last_unix_nanos: 0,
        start_boot_nanos: 5_000_000_000,
        argv_source: "caller".to_owned(),
        exec_session_pid: 0,
    }
}

fn event(kind: Kind) -> v1::Event {
    v1::Event {
        node: "node-1".to_owned(),
        boot_id: "6d6c4f04-0b5a-4f6e-9d2b-8a4a4d6a1f00".to_owned(),
        sequence: u64::MAX,
        time_unix_nanos: 1_763_710_873_123_456_789,
        kind: Some(kind),
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut v1::Violation), expected: &str) {
    let mut violation = violation();
    change(&mut violation);
    assert_eq!(event_message(&event(Kind::Violation(violation))), expected);
}

#[test]
fn sentences() {
    check(
        |violation| {
            violation.path.clear();
            violation.path_as_passed.clear();
            violation.role = "elf-interpreter".to_owned();
            violation.comm = b"sh".to_vec();
            violation.drift = "not-in-image".to_owned();
        },
        "the ELF interpreter of \"sh\" was killed before its first instruction: policy payments/payment-service does not list it, and the image does not hold it. The image did not bring these bytes: find out what wrote them; if they belong there, build them into the image.",
    );
    check(
        |_| {},
        "\"/usr/bin/wget\" was killed before its first instruction: the image holds it, but policy payments/payment-service does not list it. If the service needs it, name it in its command, probes or hooks; else find out what started it.",
    );
    check(
        |violation| {
            violation.effective_action = "none".to_owned();
            violation.mode = "monitor".to_owned();
            violation.path = b"/tmp/back\x1b[2Jdoor".to_vec();
            violation.drift = "not-in-image".to_owned();
        },
        "\"/tmp/back\\x1b[2Jdoor\" would have been killed (the mode is monitor): policy payments/payment-service does not list it, and the image does not hold it. The image did not bring these bytes: find out what wrote them; if they belong there, build them into the image.",
    );
    check(
        |violation| {
            violation.reason = "origin".to_owned();
            violation.path = b"/bin/sh".to_vec();
            violation.effective_action = "deny".to_owned();
        },
        "\"/bin/sh\" was refused: policy payments/payment-service lists it, but not for a start by the application's own processes. If the application itself is to start it, its command must name it; else find out what in it tried.",
    );
    check(
        |violation| {
            violation.reason = "role".to_owned();
            violation.path = b"/lib64/ld-linux-x86-64.so.2".to_vec();
            violation.signal_return_code = Some(-16);
        },
        "\"/lib64/ld-linux-x86-64.so.2\" was refused (the signal besides failed with -16): policy payments/payment-service lists it, but not as a command of its own. Start the program itself; if this one is to start by itself, list it as target.",
    );
    check(
        |violation| {
            violation.reason = "unresolved-open".to_owned();
            violation.effective_action = "none".to_owned();
        },
        "\"/usr/bin/wget\" was let through: neither its content nor its path could be had for certain. The policy's \"fail\" says open for this case; closed would refuse it.",
    );
    check(
        |violation| {
            violation.reason = "missing".to_owned();
            violation.policy = None;
            violation.path = Vec::new();
        },
        "\"wget\" was killed before its first instruction: no policy matches the container. `latticectl service list` says where its chain stopped.",
    );
    check(|violation| violation.message = "as carried".to_owned(), "as carried");
}

#[test]
fn what_is_counted_says_how_often() {
    let counting = |violation: &mut v1::Violation, count, repeats_of| {
        (violation.count, violation.repeats_of) = (count, repeats_of);
        violation.last_unix_nanos = 1;
        violation.comm.clear();
        violation.drift = "not-in-image".to_owned();
    };
    let after = "policy payments/payment-service does not list it, and the image does not hold it. The image did not bring these bytes: find out what wrote them; if they belong there, build them into the image.";
    check(
        |violation| counting(violation, 1492, 17),
        &format!("\"/usr/bin/wget\" was killed before its first instruction 1492 more times, as in event 17: {after}"),
    );
    check(
        |violation| {
            counting(violation, 1, 17);
            violation.path.clear();
            violation.path_as_passed.clear();
        },
        &format!("a file was killed before its first instruction once more, as in event 17: {after}"),
    );
    check(
        |violation| {
            counting(violation, 5, 0);
            violation.path.clear();
            violation.path_as_passed.clear();
            violation.drift.clear();
        },
        "one or another of many files was killed before its first instruction 5 more times: policy payments/payment-service does not list it. If the service needs it, name it in its command, probes or hooks; else find out what started it.",
    );
}

#[test]
fn gaps_say_what_was_lost() {
    let gap = |first_sequence, last_sequence, cause: &str| {
        event_message(&event(Kind::Gap(v1::Gap {
            first_sequence,
            last_sequence,
            cause: cause.to_owned(),
            ranges: Vec::new(),
        })))
    };
    assert_eq!(
        gap(5, 7, "ring-buffer-full"),
        "3 events, 5 to 7, are lost: the kernel's ring buffer was full. Verdicts were not affected; give the agent a larger ring buffer."
    );
    assert_eq!(gap(5, 5, "new-cause"), "event 5 is lost: new-cause.");
    assert!(gap(0, u64::MAX, "spool-full").starts_with("18446744073709551615 events"));
}

#[test]
fn a_gap_of_pieces_counts_what_is_lost() {
    let gap = v1::Gap {
        first_sequence: 2,
        last_sequence: 9,
        cause: "spool-full".to_owned(),
        ranges: vec![
            v1::SequenceRange { first: 2, last: 3 },
            v1::SequenceRange { first: 9, last: 9 },
        ],
    };
    assert_eq!(lost_events(&gap), 3);
    let event = event(Kind::Gap(gap));
    assert!(event_message(&event).starts_with("3 events between 2 and 9 are lost: the agent's spool was full"));
    let document: serde_json::Value = serde_json::from_str(&to_json_line(&event)).unwrap();
    assert_eq!(document["gap"]["ranges"], serde_json::json!([[2, 3], [9, 9]]));
    assert_eq!(document["gap"]["count"], 3);
}

#[test]
fn notices_speak_of_whole_containers() {
    let notice = |notice: &str, action: &str, cause: &str| v1::ContainerNotice {
        notice: notice.to_owned(),
        container: violation().container,
        effective_action: action.to_owned(),
        cause: cause.to_owned(),
        reason: "CVE-2026-1\u{1b}[2J".to_owned(),
        message: String::new(),
    };
    for (kind, action, cause, expected) in [
        (
            "late-start",
            "none",
            "timeout",
            "the agent could not answer the runtime in time",
        ),
        ("late-start", "none", "unresolved", "could not be found out"),
        (
            "denied-image",
            "none",
            "running",
            "which is on the denylist (CVE-2026-1\\x1b[2J). It starts nothing any more",
        ),
        ("denied-image", "kill", "running", "and was killed"),
        ("denied-image", "none", "kill-failed", "it could not be killed"),
        ("new\n", "none", "", "notice new\\x0a of the container"),
    ] {
        let event = event(Kind::Notice(notice(kind, action, cause)));
        assert!(event_message(&event).contains(expected), "{}", event_message(&event));
        assert_eq!(event_namespace(&event), "payments");
        assert!(to_line(&event).contains("  payments/"), "{}", to_line(&event));
    }
    let line = to_json_line(&event(Kind::Notice(notice("denied-image", "kill", "running"))));
    let document: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(document["notice"]["notice"], "denied-image");
    assert_eq!(document["notice"]["effectiveAction"], "kill");
    assert_eq!(document["notice"]["reason"], "CVE-2026-1\u{1b}[2J");
    assert_eq!(document["notice"]["container"]["namespace"], "payments");
    assert!(document.get("violation").is_none() && document.get("gap").is_none());
}

#[test]
fn the_json_form_is_stable() {
    let golden = include_str!("event.json");
    // The golden file is indented to be read; the form itself is one line.
    let line = to_json_line(&event(Kind::Violation(violation())));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    let expected: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(value, expected, "{line}");
    assert!(!line.contains('\n'));
    assert!(line.contains("\"sequence\":18446744073709551615"), "{line}");
}

#[test]
fn a_line_has_time_place_and_sentence() {
    let line = to_line(&event(Kind::Gap(v1::Gap {
        first_sequence: 1,
        last_sequence: 1,
        cause: "agent-down".to_owned(),
        ranges: Vec::new(),
    })));
    assert_eq!(
        line,
        "2025-11-21T07:41:13.123Z  node-1  event 1 is lost: more happened than the kernel's ring buffer holds while the agent was not running. Verdicts were not affected; see its log for why it ended."
    );
    let mut hostile = violation();
    hostile.message = "\u{1b}]0;owned\u{7}\u{202e}".to_owned();
    hostile.container = None;
    assert_eq!(
        to_line(&event(Kind::Violation(hostile))),
        "2025-11-21T07:41:13.123Z  ?/?/?  \\x1b]0;owned\\x07\\xe2\\x80\\xae"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_event_reaches_a_terminal_raw(path: Vec<u8>, message: String, comm: Vec<u8>, argument: Vec<u8>, workload: String, reason: String, time: u64) {
        let mut hostile = violation();
        (hostile.path, hostile.message, hostile.comm, hostile.argv, hostile.reason) = (path, message, comm, vec![argument], reason);
        hostile.container.as_mut().unwrap().workload = workload;
        let event = v1::Event { time_unix_nanos: time, ..event(Kind::Violation(hostile)) };
        for shown in [to_line(&event), to_json_line(&event)] {
            prop_assert!(shown.chars().all(|character| !character.is_control() && character != '\u{202e}'), "{:?}", shown);
        }
        prop_assert!(serde_json::from_str::<serde_json::Value>(&to_json_line(&event)).is_ok());
    }
}
