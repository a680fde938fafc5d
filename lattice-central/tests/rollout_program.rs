//! A rollout with the real programs on this machine's kernel: monitor, a miss, review, approvals, canary, enforce, an attack, the breaker.

mod common;

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use common::{
    PATIENCE, Place, channel,
    node::{Node, wait_for_container},
    operator,
    program::{Program, free_address},
};
use lattice_api::v1::{self as wire, control_client::ControlClient};
use lattice_central::init_tls::{TlsRequest, init_tls};
use tonic::{Code, transport::Channel};

/// `ls` is listed, but only for the entrypoint's own tree: a session that starts it is refused, though the image holds it.
const POLICY: &str = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: server, namespace: payments}
spec:
  target: {workload: server}
  mode: monitor
  entries:
  - {path: /bin/true}
  - {path: /bin/ls, from: init}
  - {path: /lib64/ld-linux-x86-64.so.2, roles: [elf-interpreter]}
";

const ROLLOUT: &str = "apiVersion: lattice.dev/v1alpha1
kind: LatticeRollout
metadata: {name: payments, namespace: payments}
spec:
  environment: production
  runtime: enforce
  burnIn: {minDuration: 4s, quietPeriod: 2s}
  steps: [{pods: 1, hold: 2s}]
  breaker: {window: 1m, refusals: 2, pods: 1, backOff: 1s, maxAutoRearm: 0}
";

const GATES: &str = "@id(\"operators-promote\")
permit (principal, action == Action::\"PromoteEnforcement\", resource == Namespace::\"payments\")
when { context.environment == \"production\" };
";

type Control = ControlClient<Channel>;

async fn track(control: &mut Control) -> (wire::Rollout, wire::RolloutTrack) {
    let answer = control
        .list_rollouts(wire::ListRolloutsRequest::default())
        .await
        .unwrap();
    let rollout = answer.into_inner().rollouts.remove(0);
    let track = rollout.tracks.first().cloned().unwrap_or_default();
    (rollout, track)
}

async fn wait_for_phase(control: &mut Control, phase: &str) -> wire::RolloutTrack {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (rollout, track) = track(control).await;
        if track.phase == phase {
            return track;
        }
        assert!(Instant::now() < deadline, "{phase}: {rollout:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn misses(control: &mut Control) -> Vec<wire::RolloutMiss> {
    let request = wire::ListRolloutMissesRequest::default();
    control.list_rollout_misses(request).await.unwrap().into_inner().misses
}

fn change(action: &str) -> wire::ChangeRolloutRequest {
    wire::ChangeRolloutRequest {
        namespace: "payments".to_owned(),
        action: action.to_owned(),
        reason: "a test".to_owned(),
        wait: true,
        ..wire::ChangeRolloutRequest::default()
    }
}

/// Another operator: a certificate of its own, from the same authority.
async fn second_operator(place: &Place, address: std::net::SocketAddr) -> Control {
    let directory = place.directory.path().join("second");
    fs::create_dir_all(&directory).unwrap();
    for name in ["ca.crt", "ca.key"] {
        fs::copy(place.tls().join(name), directory.join(name)).unwrap();
    }
    init_tls(&TlsRequest {
        directory: directory.clone(),
        ..TlsRequest::default()
    })
    .unwrap();
    for half in ["crt", "key"] {
        let from = directory.join(format!("operator.{half}"));
        fs::copy(from, place.tls().join(format!("second-operator.{half}"))).unwrap();
    }
    ControlClient::new(
        channel(address, place.client_tls(Some("second-operator")))
            .await
            .unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_taken_to_enforce_and_back_and_an_attack_takes_nothing_back() {
    let (place, node) = (Place::new(), Node::new());
    for (name, text) in [
        ("policy.yaml", POLICY),
        ("rollout.yaml", ROLLOUT),
        ("gates.cedar", GATES),
    ] {
        fs::write(place.objects().join(name), text).unwrap();
    }
    let address = free_address();
    let url = format!("https://localhost:{}", address.port());
    let program = Program::start(&place, address);
    let _agent = node.start_agent(&place, &url);
    wait_for_container(&place, &program, true).await;
    let mut ann = operator(&place, address).await;
    let mut bob = second_operator(&place, address).await;

    // Monitor: what is on no list runs, and is to be reviewed; the clock alone is not enough.
    assert_eq!(node.exec("/bin/true").code(), Some(0));
    assert_eq!(node.exec("/bin/ls >/dev/null").code(), Some(0));
    let deadline = Instant::now() + PATIENCE;
    while misses(&mut ann).await.is_empty() {
        assert!(Instant::now() < deadline, "no miss");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while track(&mut ann).await.1.elapsed_seconds < 5 {
        assert!(Instant::now() < deadline, "{:?}", track(&mut ann).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, waiting) = track(&mut ann).await;
    assert_eq!(
        (waiting.phase.as_str(), waiting.open_misses),
        ("Monitoring", 1),
        "{waiting:?}"
    );
    let early = ann.change_rollout(change("approve")).await.unwrap_err();
    assert!(early.message().contains("1 miss is open"), "{early:?}");

    // Review, and two people.
    let open = misses(&mut ann).await;
    assert!(open[0].path.ends_with("/ls") && !open[0].was_refused, "{open:?}");
    let dismiss = wire::ChangeRolloutRequest {
        misses: vec![open[0].id.clone()],
        ..change("dismiss")
    };
    ann.change_rollout(dismiss).await.unwrap();
    promote(&mut ann, &mut bob, &node).await;
    let modes = ann
        .get_mode(wire::GetModeRequest::default())
        .await
        .unwrap()
        .into_inner()
        .modes;
    let shown: Vec<_> = modes
        .iter()
        .map(|mode| format!("{} {} {:?}", mode.mode, mode.source, mode.nodes))
        .collect();
    assert_eq!(shown, ["enforce rollout [\"worker-1\"]", "monitor rollout []"]);
    assert_eq!(node.exec("/bin/ls").signal(), Some(9));
    wait_for_phase(&mut ann, "Enforced").await;
    assert_eq!(node.exec("/bin/true").code(), Some(0));

    // A program that the list allows only elsewhere is refused again: the list is wrong, and the workload goes back to monitor.
    assert_eq!(node.exec("/bin/ls").signal(), Some(9));
    let back = wait_for_phase(&mut ann, "RolledBack").await;
    assert!(
        back.rolled_back_because
            .contains("/ls\", which the image holds, was refused 2 times"),
        "{back:?}"
    );
    assert_eq!((back.breaker_opened, back.rearm_unix_nanos), (1, 0));
    let deadline = Instant::now() + PATIENCE;
    while node.exec("/bin/ls >/dev/null").code() != Some(0) {
        assert!(Instant::now() < deadline, "it is still enforced");
    }

    // All of it is kept, and a person begins anew.
    drop((program, ann, bob));
    let program = Program::start(&place, address);
    wait_for_container(&place, &program, true).await;
    let mut ann = operator(&place, address).await;
    let mut bob = second_operator(&place, address).await;
    let kept = wait_for_phase(&mut ann, "RolledBack").await;
    assert_eq!(kept.rolled_back_because, back.rolled_back_because);
    ann.change_rollout(change("resume")).await.unwrap();
    promote(&mut ann, &mut bob, &node).await;
    wait_for_phase(&mut ann, "Enforced").await;

    // An attacker who is killed again and again earns nothing, whatever he starts besides.
    for _ in 0..5 {
        assert_eq!(node.exec("/bin/uname").signal(), Some(9));
    }
    for _ in 0..2 {
        assert_eq!(node.exec("/bin/ls").signal(), Some(9));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(track(&mut ann).await.1.phase, "Enforced");
    assert_eq!(node.exec("/bin/uname").signal(), Some(9));
    let attacks = misses(&mut ann).await;
    assert_eq!(attacks.len(), 1, "{attacks:?}");
    assert!(
        attacks[0].was_refused && attacks[0].drift == "not-in-image",
        "{attacks:?}"
    );

    let history = wire::ListRolloutHistoryRequest::default();
    let mut history = ann
        .list_rollout_history(history)
        .await
        .unwrap()
        .into_inner()
        .transitions;
    history.reverse();
    let phases: Vec<&str> = history
        .iter()
        .filter(|told| told.from != told.to)
        .map(|told| told.to.as_str())
        .collect();
    let once = ["Monitoring", "AwaitingApproval", "Canary", "Enforced"];
    assert_eq!(phases, [&once[..], &["RolledBack"], &once].concat());
    let promoted = history.iter().find(|told| told.to == "Canary").unwrap();
    assert_eq!(promoted.by.matches("operator sha256:").count(), 2, "{promoted:?}");
    assert_eq!(promoted.evidence.len(), 64);
}

/// Two people approve what is asked; the second time of the same one does not count. What is refused then dies at once.
async fn promote(ann: &mut Control, bob: &mut Control, node: &Node) {
    let asked = wait_for_phase(ann, "AwaitingApproval").await;
    assert_eq!(asked.gate.len(), 64);
    let first = ann.change_rollout(change("approve")).await.unwrap().into_inner();
    assert_eq!(first.revision, 0, "{first:?}");
    let again = ann.change_rollout(change("approve")).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again:?}");
    assert!(again.message().contains("has approved this already"), "{again:?}");
    assert_eq!(node.exec("/bin/true").code(), Some(0));
    let began = Instant::now();
    let second = bob.change_rollout(change("approve")).await.unwrap().into_inner();
    println!(
        "enforced in the kernel {} ms after the second approval",
        began.elapsed().as_millis()
    );
    let last = second.transitions.last().unwrap();
    assert_eq!((second.agents_applied, last.to.as_str()), (1, "Canary"));
}
