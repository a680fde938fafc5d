//! What each verb asks a server, shows, and exits with.

use crate::support::{Answers, RunningServer, Shown, ask, check_golden, latticectl, shown};
use lattice_api::v1;
use lattice_policy::read_documents;

fn container(name: &str) -> v1::Container {
    v1::Container {
        container_id: "4f1c".to_owned(),
        namespace: "payments".to_owned(),
        workload: "payment-service".to_owned(),
        name: name.to_owned(),
        image_reference: "registry.example.com/payment-service".to_owned(),
        image_digest: format!("sha256:{}", "0".repeat(64)),
        cgroup_id: 77,
        ..Default::default()
    }
}

fn policy_reference() -> v1::PolicyReference {
    v1::PolicyReference {
        namespace: "payments".to_owned(),
        name: "payment-service".to_owned(),
        generation: 7,
        matched_entry: String::new(),
        no_match: String::new(),
    }
}

fn status() -> v1::GetStatusResponse {
    let container_status = |name: &str, policy| v1::ContainerStatus {
        node: "node-1".to_owned(),
        container: Some(container(name)),
        policy,
        mode: "monitor".to_owned(),
        mode_source: "policy".to_owned(),
    };
    v1::GetStatusResponse {
        role: "agent".to_owned(),
        version: "0.1.0".to_owned(),
        tier: Some(2),
        nodes: vec![v1::NodeStatus {
            node: "node-1".to_owned(),
            tier: 2,
            kernel_release: "6.1.0-49-amd64".to_owned(),
            agent_version: "0.1.0".to_owned(),
            connected: false,
            applied_revision: 12,
            apply_error: "policy payments/payment-service: map full".to_owned(),
            last_sequence: 341,
            denylist_revision: 11,
            denylist_error: "\"planet\" is neither image nor file".to_owned(),
        }],
        containers: vec![
            container_status("server", Some(policy_reference())),
            // Whoever names a container so must not reach the terminal.
            container_status("a\u{1b}[2J\nb", None),
        ],
        counters: [
            ("lattice_verdicts_total{reason=\"unlisted\"}", 3),
            ("lattice_verdicts_total{reason=\"role\"}", 0),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    }
}

fn events() -> Vec<v1::Event> {
    let event = |sequence, kind| v1::Event {
        node: "node-1".to_owned(),
        boot_id: "6d6c4f04-0b5a-4f6e-9d2b-8a4a4d6a1f00".to_owned(),
        sequence,
        time_unix_nanos: 1_763_710_873_123_456_789,
        kind: Some(kind),
    };
    let violation = |path: &[u8], mode: &str, action: &str, drift: &str| {
        v1::event::Kind::Violation(v1::Violation {
            mode: mode.to_owned(),
            verdict: "refuse".to_owned(),
            effective_action: action.to_owned(),
            path: path.to_vec(),
            container: Some(container("server")),
            policy: Some(policy_reference()),
            reason: "unlisted".to_owned(),
            drift: drift.to_owned(),
            ..Default::default()
        })
    };
    let gap = v1::Gap {
        first_sequence: 3,
        last_sequence: 9,
        cause: "ring-buffer-full".to_owned(),
        ranges: Vec::new(),
    };
    vec![
        event(
            1,
            violation(b"/tmp/back\x1b[2Jdoor\xff", "monitor", "none", "not-in-image"),
        ),
        event(
            2,
            violation(b"/usr/bin/wget", "enforce", "deny+kill", "unlisted-in-image"),
        ),
        event(10, v1::event::Kind::Gap(gap)),
    ]
}

#[track_caller]
fn check(answers: Answers, arguments: &[&str], golden: &str, code: i32) -> Vec<String> {
    let (shown, asked) = ask(answers, arguments);
    assert_eq!(shown.code, code, "{}", shown.stderr);
    assert!(
        !shown.stdout.contains('\u{1b}') && !shown.stderr.contains('\u{1b}'),
        "{shown:?}"
    );
    check_golden(golden, &shown.stdout);
    asked
}

#[test]
fn status_is_a_table_or_json() {
    check(
        Answers {
            status: status(),
            ..Default::default()
        },
        &["status"],
        "status.txt",
        0,
    );
    check(
        Answers {
            status: status(),
            ..Default::default()
        },
        &["status", "-o", "json"],
        "status.json",
        0,
    );
    check(Answers::default(), &["status"], "status_empty.txt", 0);
}

#[test]
fn tables_fit_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let _server = RunningServer::on_socket(
        &socket,
        Answers {
            status: status(),
            ..Default::default()
        },
    );
    let output = latticectl()
        .arg("--agent")
        .arg(&socket)
        .arg("status")
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    let shown = shown(output);
    assert_eq!(shown.code, 0);
    // The first line is a sentence; only tables are fitted.
    assert!(
        shown.stdout.lines().skip(1).all(|line| line.chars().count() <= 80),
        "{}",
        shown.stdout
    );
}

#[test]
fn events_are_sentences_or_json_lines() {
    let answers = || Answers {
        events: events(),
        ..Default::default()
    };
    let asked = check(
        answers(),
        &["events", "-n", "payments", "--limit", "3"],
        "events.txt",
        0,
    );
    assert_eq!(
        asked,
        ["ListEventsRequest { follow: false, namespace: \"payments\", limit: 3 }"]
    );
    let asked = check(answers(), &["events", "-o", "json"], "events.jsonl", 0);
    assert_eq!(
        asked,
        ["ListEventsRequest { follow: false, namespace: \"\", limit: 100 }"]
    );
}

#[test]
fn without_events_standard_output_is_empty() {
    let (shown, _) = ask(Answers::default(), &["events"]);
    let stderr = "No events: nothing was refused, and nothing would have been.\n".to_owned();
    assert_eq!(
        shown,
        Shown {
            stdout: String::new(),
            stderr,
            code: 0
        }
    );
}

#[test]
fn followed_events_come_at_once() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let server = RunningServer::on_socket(
        &socket,
        Answers {
            events: events(),
            ..Default::default()
        },
    );
    let mut child = latticectl()
        .arg("--agent")
        .arg(&socket)
        .args(["events", "--follow", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // All three are there while the stream is still open.
    for sequence in [1, 2, 10] {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["sequence"], sequence);
    }
    assert_eq!(
        server.asked(),
        ["ListEventsRequest { follow: true, namespace: \"\", limit: 100 }"]
    );
    assert!(
        child.try_wait().unwrap().is_none(),
        "it ended although the stream goes on"
    );
    drop(server);
    let ended = shown(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 2, "a stream that ends is no success");
    assert!(ended.stderr.contains("ended the stream"), "{ended:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let many: Vec<_> = (0..5_000).flat_map(|_| events()).collect();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let _server = RunningServer::on_socket(
        &socket,
        Answers {
            events: many,
            ..Default::default()
        },
    );
    let mut child = latticectl()
        .arg("--agent")
        .arg(&socket)
        .arg("events")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap()),
        (Some(0), String::new())
    );
}

fn set_mode(applied: u32, connected: u32) -> Answers {
    let answer = v1::SetModeResponse {
        revision: 8,
        agents_applied: applied,
        agents_connected: connected,
    };
    Answers {
        set_mode: Ok(answer),
        ..Default::default()
    }
}

#[test]
fn mode_set_waits_unless_told_otherwise() {
    let asked = check(
        set_mode(2, 2),
        &["mode", "set", "--namespace", "payments", "enforce"],
        "mode_set.txt",
        0,
    );
    assert_eq!(
        asked,
        ["SetModeRequest { namespace: \"payments\", mode: \"enforce\", wait: true }"]
    );
    let arguments = ["mode", "set", "-n", "payments", "deny", "--no-wait", "-o", "json"];
    let asked = check(set_mode(0, 2), &arguments, "mode_set.json", 0);
    assert_eq!(
        asked,
        ["SetModeRequest { namespace: \"payments\", mode: \"deny\", wait: false }"]
    );
    let asked = check(
        set_mode(1, 1),
        &["mode", "clear", "-n", "payments"],
        "mode_clear.txt",
        0,
    );
    assert_eq!(
        asked,
        ["SetModeRequest { namespace: \"payments\", mode: \"\", wait: true }"]
    );
    check(
        set_mode(0, 0),
        &["mode", "set", "-n", "payments", "monitor"],
        "mode_set_nobody.txt",
        0,
    );
}

#[test]
fn agents_that_have_not_applied_a_mode_are_a_difference() {
    let (shown, _) = ask(set_mode(1, 3), &["mode", "set", "-n", "payments", "enforce"]);
    assert_eq!(shown.code, 1);
    assert_eq!(
        shown.stderr,
        "latticectl: only 1 of 3 connected agents have applied it so far. `latticectl status` shows what keeps the others.\n"
    );
}

#[test]
fn mode_get_names_the_source() {
    let mode = |namespace: &str, policy: &str, mode: &str, source: &str| v1::EffectiveMode {
        namespace: namespace.to_owned(),
        policy: policy.to_owned(),
        mode: mode.to_owned(),
        source: source.to_owned(),
        nodes: match source {
            "rollout" if mode == "enforce" => vec!["node-1".to_owned(), "node-2".to_owned()],
            _ => Vec::new(),
        },
    };
    let answers = || Answers {
        modes: vec![
            mode("payments", "payment-service", "enforce", "namespace-override"),
            mode("shop", "cart", "enforce", "rollout"),
            mode("shop", "cart", "monitor", "rollout"),
            mode("billing", "ledger", "monitor", "policy"),
        ],
        ..Default::default()
    };
    let asked = check(answers(), &["mode", "get"], "mode_get.txt", 0);
    assert_eq!(asked, ["GetModeRequest { namespace: \"\" }"]);
    let asked = check(
        answers(),
        &["mode", "get", "--namespace", "payments", "-o", "json"],
        "mode_get.json",
        0,
    );
    assert_eq!(asked, ["GetModeRequest { namespace: \"payments\" }"]);
}

#[test]
fn policy_list_gives_documents_that_can_be_checked() {
    let document = include_str!("../../../lattice-policy/tests/every_field.yaml");
    let policy = read_documents("every_field.yaml", document.as_bytes())
        .unwrap()
        .remove(0);
    let answers = || Answers {
        policies: vec![(&policy).into()],
        ..Default::default()
    };
    check(answers(), &["policy", "list"], "policy_list.txt", 0);
    let (shown, _) = ask(answers(), &["policy", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(
        (&list["apiVersion"], &list["kind"]),
        (&"lattice.dev/v1alpha1".into(), &"PolicyList".into())
    );
    let item = list["items"][0].to_string();
    assert_eq!(read_documents("item.json", item.as_bytes()), Ok(vec![policy]));
}

#[test]
fn a_policy_that_cannot_be_read_is_named() {
    let broken = v1::ExecPolicy {
        namespace: "a".to_owned(),
        ..Default::default()
    };
    let (shown, _) = ask(
        Answers {
            policies: vec![broken],
            ..Default::default()
        },
        &["policy", "list"],
    );
    assert_eq!(shown.code, 2);
    assert!(
        shown
            .stderr
            .contains("answered cannot be read: spec.target: the message has no such field"),
        "{shown:?}"
    );
}

#[test]
fn service_list_says_where_the_chain_stopped() {
    let condition = |name: &str, status: &str, reason: &str, message: &str| v1::Condition {
        r#type: name.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let service = |name: &str, conditions| v1::ServiceStatus {
        namespace: "payments".to_owned(),
        name: name.to_owned(),
        conditions,
    };
    let services = vec![
        service(
            "unsigned-twin",
            vec![
                condition(
                    "ImageVerified",
                    "False",
                    "NoSignature",
                    "no signature by the key in signing-keys/cosign-public. Sign the image with it.",
                ),
                condition("Authorized", "Unknown", "NotReached", ""),
            ],
        ),
        service(
            "payment-service",
            vec![
                condition("ImageVerified", "True", "Signed", ""),
                condition("Ready", "True", "Ready", ""),
            ],
        ),
        service("new", Vec::new()),
    ];
    let answers = || Answers {
        services: Ok(services.clone()),
        ..Default::default()
    };
    check(answers(), &["service", "list"], "service_list.txt", 0);
    let asked = check(
        answers(),
        &["service", "list", "-n", "payments", "-o", "json"],
        "service_list.json",
        0,
    );
    assert_eq!(asked, ["ListServicesRequest { namespace: \"payments\" }"]);
}

#[test]
fn what_the_other_side_says_decides_the_exit_code() {
    let answered = |status| Answers {
        set_mode: Err(status),
        ..Default::default()
    };
    let arguments = ["mode", "set", "-n", "payments", "enforce"];
    let (shown, _) = ask(
        answered(tonic::Status::permission_denied(
            "role agent may not set modes\u{1b}[2J",
        )),
        &arguments,
    );
    assert_eq!((shown.code, shown.stdout.as_str()), (1, ""));
    assert!(
        shown
            .stderr
            .contains("refused: role agent may not set modes\\x1b[2J. Use a certificate"),
        "{shown:?}"
    );
    let (shown, _) = ask(answered(tonic::Status::internal("database is locked")), &arguments);
    assert_eq!(shown.code, 2);
    let (shown, _) = ask(Answers::default(), &["service", "list"]);
    assert_eq!(shown.code, 2);
    assert!(
        shown
            .stderr
            .ends_with("cannot do this: an agent reads no services: ask central.\n"),
        "{shown:?}"
    );
}

/// Runs `latticectl status` on a terminal of its own.
fn on_a_terminal(socket: &std::path::Path, no_colour: &str) -> String {
    // `script` is part of every Debian (bsdutils); it gives its child a pseudo-terminal.
    let line = format!(
        "{} --agent {} status",
        env!("CARGO_BIN_EXE_latticectl"),
        socket.display()
    );
    let output = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("NO_COLOR", no_colour)
        .env("COLUMNS", "200")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let _server = RunningServer::on_socket(
        &socket,
        Answers {
            status: status(),
            ..Default::default()
        },
    );
    let coloured = on_a_terminal(&socket, "");
    assert!(
        coloured.contains("\u{1b}[") && !coloured.contains("a\u{1b}[2J"),
        "{coloured:?}"
    );
    let plain = on_a_terminal(&socket, "1");
    assert!(plain.contains("node-1") && !plain.contains('\u{1b}'), "{plain:?}");
}

fn node_report(tier: u32, lsm: &str) -> v1::NodeReport {
    v1::NodeReport {
        node: "node-1".to_owned(),
        kernel_release: "6.1.0-49-amd64".to_owned(),
        architecture: "x86_64".to_owned(),
        agent_version: "0.1.0".to_owned(),
        tier,
        active_tier: None,
        findings: vec![
            v1::Finding {
                check: "kernel".to_owned(),
                result: "offered".to_owned(),
                found: "Linux 6.1.0-49-amd64 on x86_64".to_owned(),
                ..Default::default()
            },
            v1::Finding {
                check: "bpf-lsm".to_owned(),
                result: lsm.to_owned(),
                // Whatever a kernel says must not reach the terminal.
                found: "the kernel refused\u{1b}[2J".to_owned(),
                consequence: "tier 1 cannot be had".to_owned(),
                advice: "boot with lsm=capability,bpf".to_owned(),
            },
        ],
        not_refused: vec![v1::NotRefused {
            what: "a script on a volume or tmpfs: not judged".to_owned(),
            why: "only the container's own overlay is watched".to_owned(),
        }],
    }
}

#[test]
fn doctor_shows_what_the_agent_tried() {
    let answers = || Answers {
        node_report: Ok(v1::NodeReport {
            active_tier: Some(2),
            ..node_report(2, "missing")
        }),
        ..Default::default()
    };
    let (table, asked) = ask(answers(), &["doctor"]);
    assert_eq!((table.code, table.stderr.as_str()), (0, ""));
    assert_eq!(asked, ["GetNodeReportRequest"]);
    check_golden("doctor.txt", &table.stdout);
    let (json, _) = ask(answers(), &["doctor", "-o", "json"]);
    assert_eq!(json.code, 0);
    check_golden("doctor.json", &json.stdout);
}

#[test]
fn doctor_exits_with_what_was_found_out() {
    let code = |report: v1::NodeReport, arguments: &[&str]| {
        let answers = Answers {
            node_report: Ok(report),
            ..Default::default()
        };
        let (shown, _) = ask(answers, arguments);
        assert!(shown.stdout.contains("bpf-lsm"), "{shown:?}");
        (shown.code, shown.stderr)
    };
    assert_eq!(code(node_report(1, "offered"), &["doctor", "--require-tier", "1"]).0, 0);
    assert_eq!(code(node_report(1, "offered"), &["doctor", "--require-tier", "2"]).0, 0);
    let too_low = code(node_report(2, "missing"), &["doctor", "--require-tier", "1"]);
    assert_eq!(
        too_low,
        (
            1,
            "latticectl: this node has tier 2, and tier 1 is required\n".to_owned()
        )
    );
    assert_eq!(code(node_report(0, "missing"), &["doctor"]).0, 1);
    assert_eq!(code(node_report(0, "unknown"), &["doctor"]).0, 2);
}

#[test]
fn doctor_runs_the_agents_program_where_no_agent_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(
        path("report.json"),
        lattice_api::node_report::to_json(&node_report(2, "missing")),
    )
    .unwrap();
    let doctor = |script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let text = format!("#!/bin/sh\necho \"$@\" >{}\n{script}\n", path("arguments").display());
        std::fs::write(path("agent"), text).unwrap();
        std::fs::set_permissions(path("agent"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = latticectl();
        command
            .arg("--agent")
            .arg(path("none.sock"))
            .args(["doctor", "--program"])
            .arg(path("agent"));
        shown(command.output().unwrap())
    };
    let good = doctor(&format!("cat {}", path("report.json").display()));
    assert!(
        good.code == 0 && good.stdout.contains("change: boot with lsm=capability,bpf"),
        "{good:?}"
    );
    let arguments = std::fs::read_to_string(path("arguments")).unwrap();
    assert_eq!(arguments, "probe --output json\n");
    let bad = doctor("echo nonsense; exit 3");
    assert!(
        bad.code == 2 && bad.stderr.contains("no report in JSON") && bad.stdout.is_empty(),
        "{bad:?}"
    );
    std::fs::remove_file(path("agent")).unwrap();
    let mut command = latticectl();
    command
        .arg("--agent")
        .arg(path("none.sock"))
        .args(["doctor", "--program"])
        .arg(path("agent"));
    let none = shown(command.output().unwrap());
    assert!(
        none.code == 2 && none.stderr.contains("there is no such program"),
        "{none:?}"
    );
}

const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn denied(applied: u32, connected: u32, running: Vec<v1::ContainerStatus>) -> Answers {
    Answers {
        deny: Ok(v1::DenyResponse {
            revision: 9,
            agents_applied: applied,
            agents_connected: connected,
            running,
        }),
        ..Default::default()
    }
}

#[test]
fn denials_are_set_and_lifted_with_a_reason() {
    let running = || status().containers;
    let image = ["deny", "image", DIGEST, "--kill-running", "--reason", "CVE-2026-1"];
    let asked = check(denied(2, 2, running()), &image, "deny_image.txt", 0);
    let expected = format!(
        "DenyRequest {{ kind: \"image\", digest: \"{DIGEST}\", kill_running: true, reason: \"CVE-2026-1\", wait: true }}"
    );
    assert_eq!(asked, [expected]);
    let json = ["deny", "image", DIGEST, "--reason", "x", "--no-wait", "-o", "json"];
    check(denied(0, 2, running()), &json, "deny_image.json", 0);
    let digits = DIGEST.strip_prefix("sha256:").unwrap();
    let asked = check(
        denied(0, 0, Vec::new()),
        &["deny", "file", digits, "--reason", "incident 17"],
        "deny_file.txt",
        0,
    );
    assert!(
        asked[0].contains(&format!("kind: \"file\", digest: \"{DIGEST}\"")),
        "{asked:?}"
    );
    let asked = check(
        denied(1, 1, Vec::new()),
        &["deny", "remove", "file", digits, "--reason", "wrong build"],
        "deny_remove.txt",
        0,
    );
    assert!(asked[0].starts_with("LiftDenialRequest { kind: \"file\""), "{asked:?}");
    let (shown, _) = ask(denied(1, 3, Vec::new()), &["deny", "image", DIGEST, "--reason", "x"]);
    assert_eq!(shown.code, 1);
    assert!(shown.stderr.contains("only 1 of 3 connected agents"), "{shown:?}");
    for (arguments, expected) in [
        (vec!["deny", "image", DIGEST], "--reason"),
        (vec!["deny", "image", digits, "--reason", "x"], "does not begin with"),
        (vec!["deny", "remove", "file", "abc", "--reason", "x"], "64 lower-case"),
        (vec!["deny", "remove", "planet", DIGEST, "--reason", "x"], "planet"),
    ] {
        let (shown, asked) = ask(Answers::default(), &arguments);
        assert_eq!((shown.code, asked.len()), (64, 0), "{shown:?}");
        assert!(shown.stderr.contains(expected), "{shown:?}");
    }
    let (shown, _) = ask(Answers::default(), &image);
    assert_eq!(shown.code, 2);
    assert!(shown.stderr.contains("ask central"), "{shown:?}");
}

#[test]
fn denials_are_listed_with_who_when_and_why() {
    let denial = v1::Denial {
        kind: "image".to_owned(),
        digest: DIGEST.to_owned(),
        kill_running: true,
        reason: "a\u{1b}[2Jb".to_owned(),
        set_by: "operator sha256:00".to_owned(),
        set_unix_nanos: 1_763_710_873_123_456_789,
        ..Default::default()
    };
    let lifted = v1::Denial {
        kind: "file".to_owned(),
        lifted_unix_nanos: 1_763_710_874_000_000_000,
        lifted_by: "operator sha256:01".to_owned(),
        lift_reason: "wrong build".to_owned(),
        ..denial.clone()
    };
    let answers = |denials| Answers {
        denials: v1::ListDenialsResponse { revision: 9, denials },
        ..Default::default()
    };
    check(answers(vec![denial.clone()]), &["deny", "list"], "deny_list.txt", 0);
    check(
        answers(vec![denial.clone()]),
        &["deny", "list", "-o", "json"],
        "deny_list.json",
        0,
    );
    let asked = check(
        answers(vec![lifted, denial]),
        &["deny", "list", "--history"],
        "deny_history.txt",
        0,
    );
    assert_eq!(asked, ["ListDenialsRequest { history: true }"]);
    check(answers(Vec::new()), &["deny", "list"], "deny_list_empty.txt", 0);
}

fn rollouts() -> Vec<v1::Rollout> {
    let track = |workload: &str, phase: &str| v1::RolloutTrack {
        workload: workload.to_owned(),
        phase: phase.to_owned(),
        since_unix_nanos: 1_763_710_873_000_000_000,
        policies: vec![workload.to_owned()],
        elapsed_seconds: 432_000,
        quiet_seconds: 3_605,
        ..Default::default()
    };
    let rollout = |namespace: &str, tracks| v1::Rollout {
        namespace: namespace.to_owned(),
        name: namespace.to_owned(),
        environment: "production".to_owned(),
        runtime: "enforce".to_owned(),
        standstill: String::new(),
        min_duration_seconds: 604_800,
        quiet_period_seconds: 259_200,
        approvers: 2,
        steps: 3,
        tracks,
    };
    let held = v1::RolloutTrack {
        hold: "the agent of node-2, which had containers of it, is not connected".to_owned(),
        open_misses: 2,
        ..track("cart", "Monitoring")
    };
    let asked = v1::RolloutTrack {
        gate: "5b1f".repeat(16),
        approvals: vec![v1::RolloutApproval {
            by: "operator sha256:9f86".to_owned(),
            unix_nanos: 1_763_710_873_000_000_000,
        }],
        ..track("ledger", "AwaitingApproval")
    };
    let canary = v1::RolloutTrack {
        step: 2,
        held_seconds: 60,
        nodes: vec!["node-1".to_owned()],
        ..track("mail", "Canary")
    };
    let back = v1::RolloutTrack {
        rolled_back_because: "the breaker opened: \"/bin/ls\"\u{1b}[2J".to_owned(),
        breaker_opened: 2,
        ..track("server", "RolledBack")
    };
    vec![
        rollout("billing", Vec::new()),
        v1::Rollout {
            standstill: "frozen: holidays".to_owned(),
            ..rollout("payments", vec![held, asked, canary, track("web", "Enforced"), back])
        },
    ]
}

#[test]
fn rollout_status_says_where_each_is_and_why() {
    let answers = || Answers {
        rollouts: Ok(rollouts()),
        ..Default::default()
    };
    let asked = check(answers(), &["rollout", "status"], "rollout_status.txt", 0);
    assert_eq!(asked, ["ListRolloutsRequest { namespace: \"\" }"]);
    check(
        answers(),
        &["rollout", "status", "-o", "json"],
        "rollout_status.json",
        0,
    );
    check(
        Answers::default(),
        &["rollout", "status", "-n", "x"],
        "rollout_status_none.txt",
        0,
    );
}

#[test]
fn rollout_misses_exit_with_1_while_one_is_open() {
    let miss = |id: &str, review: &str| v1::RolloutMiss {
        id: id.to_owned(),
        namespace: "payments".to_owned(),
        workload: "server".to_owned(),
        policy: "server".to_owned(),
        path: "/usr/bin/curl".to_owned(),
        sha256: "ab".repeat(32),
        role: "target".to_owned(),
        origin: "exec-session".to_owned(),
        reason: "unlisted".to_owned(),
        drift: "unlisted-in-image".to_owned(),
        count: 17,
        first_unix_nanos: 1_763_710_000_000_000_000,
        last_unix_nanos: 1_763_710_873_000_000_000,
        review: review.to_owned(),
        ..Default::default()
    };
    let dismissed = v1::RolloutMiss {
        dismissed_by: "operator sha256:9f86".to_owned(),
        dismissed_unix_nanos: 1_763_710_873_000_000_000,
        dismissed_because: "penetration test 12".to_owned(),
        ..miss("3f0c2a9b7d12", "dismissed")
    };
    let answers = |misses: Vec<v1::RolloutMiss>| Answers {
        misses,
        ..Default::default()
    };
    let both = || answers(vec![miss("3f0c2a9b7d11", "open"), dismissed.clone()]);
    let asked = check(both(), &["rollout", "misses", "--all"], "rollout_misses.txt", 1);
    assert_eq!(asked, ["ListRolloutMissesRequest { namespace: \"\", all: true }"]);
    check(both(), &["rollout", "misses", "-o", "json"], "rollout_misses.json", 1);
    check(
        answers(vec![dismissed.clone()]),
        &["rollout", "misses", "-n", "payments"],
        "rollout_misses_over.txt",
        0,
    );
}

#[test]
fn what_an_operator_says_to_a_rollout_is_shown_with_what_it_led_to() {
    let told = |from: &str, to: &str, reason: &str| v1::RolloutTransition {
        namespace: "payments".to_owned(),
        unix_nanos: 1_763_710_873_000_000_000,
        workload: "server".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        by: "operator sha256:9f86".to_owned(),
        reason: reason.to_owned(),
        evidence: "cd".repeat(32),
    };
    let transitions = || {
        vec![
            told("AwaitingApproval", "AwaitingApproval", "approved gate 5b1f5b1f5b1f"),
            told(
                "AwaitingApproval",
                "Canary",
                "step 1 of 3: at least 1 of the pods, on node-1, for 1h",
            ),
        ]
    };
    let answers = || Answers {
        change_rollout: Ok(v1::ChangeRolloutResponse {
            transitions: transitions(),
            revision: 14,
            agents_applied: 2,
            agents_connected: 2,
        }),
        transitions: transitions(),
        ..Default::default()
    };
    let approve = ["rollout", "approve", "-n", "payments", "--gate", "5b1f"];
    let asked = check(answers(), &approve, "rollout_approve.txt", 0);
    assert!(
        asked[0].contains("action: \"approve\"") && asked[0].contains("gate: \"5b1f\""),
        "{asked:?}"
    );
    let as_json = [
        "rollout",
        "rollback",
        "-n",
        "payments",
        "--reason",
        "it does not start",
        "-o",
        "json",
    ];
    let asked = check(answers(), &as_json, "rollout_rollback.json", 0);
    assert!(
        asked[0].contains("reason: \"it does not start\"") && asked[0].contains("wait: true"),
        "{asked:?}"
    );
    check(
        answers(),
        &["rollout", "history", "-n", "payments"],
        "rollout_history.txt",
        0,
    );
    check(
        answers(),
        &["rollout", "history", "-o", "json"],
        "rollout_history.json",
        0,
    );
    let dismiss = [
        "rollout", "dismiss", "-n", "payments", "3f0c", "4a1d", "--reason", "a test",
    ];
    let (shown, asked) = ask(answers(), &dismiss);
    assert_eq!(shown.code, 0);
    assert!(asked[0].contains("misses: [\"3f0c\", \"4a1d\"]"), "{asked:?}");
    let refused = Answers {
        change_rollout: Err(tonic::Status::failed_precondition(
            "operator sha256:9f86 has approved this already",
        )),
        ..Default::default()
    };
    let (shown, _) = ask(refused, &["rollout", "approve", "-n", "payments"]);
    assert_eq!(shown.code, 1);
    assert!(shown.stderr.contains("has approved this already"), "{}", shown.stderr);
    for usage in [
        &["rollout", "pause", "-n", "payments"][..],
        &["rollout", "dismiss", "-n", "payments", "--reason", "x"],
        &["rollout", "approve"],
    ] {
        assert_eq!(ask(Answers::default(), usage).0.code, 64, "{usage:?}");
    }
}

/// Of a candidate that refuses a program, and has one no more.
fn simulation() -> v1::SimulateRolloutResponse {
    let began = 1_763_000_000_000_000_000;
    let told = |hours: u64, from: &str, to: &str, reason: &str| v1::RolloutTransition {
        namespace: "payments".to_owned(),
        unix_nanos: began + hours * 3_600_000_000_000,
        workload: "server".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        by: "lattice-central".to_owned(),
        reason: reason.to_owned(),
        evidence: "cd".repeat(32),
    };
    v1::SimulateRolloutResponse {
        namespace: "payments".to_owned(),
        outcome: "refuses".to_owned(),
        from_unix_nanos: began,
        until_unix_nanos: began + 200 * 3_600_000_000_000,
        policies: vec!["server".to_owned(), "worker".to_owned()],
        violations: 12,
        allowed: 10,
        refused: 2,
        by_path: 3,
        of_others: 1,
        gaps: 1,
        tracks: vec![v1::RolloutTrack {
            workload: "server".to_owned(),
            phase: "RolledBack".to_owned(),
            since_unix_nanos: began + 180 * 3_600_000_000_000,
            policies: vec!["server".to_owned()],
            open_misses: 1,
            breaker_opened: 1,
            rolled_back_because: "the breaker opened".to_owned(),
            ..v1::RolloutTrack::default()
        }],
        transitions: vec![
            told(0, "", "Monitoring", "its list is new"),
            told(168, "AwaitingApproval", "AwaitingApproval", "no change of phase"),
            told(168, "AwaitingApproval", "Enforced", "all steps are done"),
            told(180, "Enforced", "RolledBack", "the breaker opened"),
        ],
        misses: vec![v1::RolloutMiss {
            id: "3f0c2a9b7d11".to_owned(),
            namespace: "payments".to_owned(),
            workload: "server".to_owned(),
            policy: "server".to_owned(),
            path: "/bin/date\u{1b}[2J".to_owned(),
            role: "target".to_owned(),
            origin: "init".to_owned(),
            reason: "unlisted".to_owned(),
            drift: "unlisted-in-image".to_owned(),
            count: 2,
            review: "open".to_owned(),
            ..v1::RolloutMiss::default()
        }],
        dropped: vec![v1::DroppedEntry {
            policy: "server".to_owned(),
            path: "/bin/sh".to_owned(),
            role: "target".to_owned(),
        }],
        unseen: vec!["worker".to_owned()],
    }
}

#[test]
fn a_simulation_says_what_a_candidate_would_have_come_to() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "kind: ExecPolicy").unwrap();
    let path = file.path().to_str().unwrap();
    let answers = |outcome: &str| Answers {
        simulation: Ok(v1::SimulateRolloutResponse {
            outcome: outcome.to_owned(),
            ..simulation()
        }),
        ..Default::default()
    };
    let simulate = ["rollout", "simulate", path];
    let asked = check(answers("refuses"), &simulate, "rollout_simulate.txt", 1);
    assert!(asked[0].contains("since_unix_nanos: 0"), "{asked:?}");
    let as_json = ["rollout", "simulate", path, "-o", "json"];
    check(answers("refuses"), &as_json, "rollout_simulate.json", 1);
    check(answers("unknown"), &simulate, "rollout_simulate.txt", 2);
    let since = ["rollout", "simulate", path, "--since", "2w"];
    let asked = check(answers("passes"), &since, "rollout_simulate.txt", 0);
    assert!(!asked[0].contains("since_unix_nanos: 0"), "{asked:?}");
    let wrong = Answers {
        simulation: Err(tonic::Status::invalid_argument("candidate.yaml:1:1: kind: wrong")),
        ..Default::default()
    };
    let (shown, _) = ask(wrong, &simulate);
    assert_eq!(shown.code, 1);
    assert!(
        shown.stderr.contains("refused: candidate.yaml:1:1: kind: wrong"),
        "{shown:?}"
    );
    let (shown, asked) = ask(Answers::default(), &["rollout", "simulate", path, "--since", "soon"]);
    assert!(shown.code == 64 && asked.is_empty(), "{shown:?}");
}
