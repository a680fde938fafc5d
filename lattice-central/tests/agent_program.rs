//! The agent's program and central's, on this machine's kernel: what holds while central is away, and what it knows when it comes.

mod common;

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use common::{
    NODES, PATIENCE, Place,
    node::{IMAGE, Node, wait_for_container},
    operator,
    program::{Program, free_address},
    stored,
};
use lattice_api::v1::{self as wire, event::Kind};
use prost::Message as _;

const POLICY: &str = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: server, namespace: payments}
spec: {target: {workload: server}, mode: enforce, entries: [{path: /app/server}]}
";

async fn wait_for_events(place: &Place, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while stored(&place.settings.state).len() < count {
        assert!(Instant::now() < deadline, "{:?}", stored(&place.settings.state));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_without_central_enforces_what_it_kept_and_tells_it_later() {
    let (place, node) = (Place::new(), Node::new());
    fs::write(place.objects().join("policy.yaml"), POLICY).unwrap();
    let address = free_address();
    let url = format!("https://localhost:{}", address.port());

    // Nobody was ever there: nothing is known, nothing is refused, and it goes on trying.
    let agent = node.start_agent(&place, &url);
    assert_eq!(node.exec("/bin/true").code(), Some(0));
    let program = Program::start(&place, address);
    let container = wait_for_container(&place, &program, true).await;
    assert_eq!(
        (container.mode.as_str(), container.mode_source.as_str()),
        ("enforce", "policy")
    );
    assert_eq!(container.node, NODES[0]);
    let policy = container.policy.unwrap();
    assert_eq!(
        (policy.namespace.as_str(), policy.name.as_str()),
        ("payments", "server")
    );
    assert_eq!(node.exec("/bin/true").signal(), Some(9));
    wait_for_events(&place, 1).await;

    // Both die, and what was pinned is gone: as after a reboot in which central does not come back.
    drop(agent);
    wait_for_container(&place, &program, false).await;
    drop(program);
    node.unmount();
    let deadline = Instant::now() + PATIENCE;
    // The kernel takes the programs down a moment later.
    while node.exec("/bin/true").code() != Some(0) {
        assert!(Instant::now() < deadline, "it is still enforced");
    }
    node.mount();
    let _agent = node.start_agent(&place, &url);
    assert_eq!(node.exec("/bin/true").signal(), Some(9));

    // What happened meanwhile arrives when central does.
    let program = Program::start(&place, address);
    wait_for_container(&place, &program, true).await;
    wait_for_events(&place, 2).await;
    assert!(stored(&place.settings.state).values().all(|count| *count == 1));
}

/// The events of one kind of notice that are stored, by effective action.
fn notices(place: &Place) -> Vec<String> {
    let connection = rusqlite::Connection::open(place.settings.state.join("central.sqlite")).unwrap();
    let mut statement = connection.prepare("SELECT event FROM events ORDER BY cursor").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let events = rows.map(|row| wire::Event::decode(row.unwrap().as_slice()).unwrap());
    let notice = |event: wire::Event| match event.kind {
        Some(wire::event::Kind::Notice(notice)) => Some(format!(
            "{} {} {}",
            notice.notice, notice.effective_action, notice.reason
        )),
        _ => None,
    };
    events.filter_map(notice).collect()
}

async fn wait_for_notices(place: &Place, expected: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    while notices(place) != expected {
        assert!(Instant::now() < deadline, "{:?}", notices(place));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn deny(kill_running: bool, reason: &str) -> wire::DenyRequest {
    wire::DenyRequest {
        kind: "image".to_owned(),
        digest: IMAGE.to_owned(),
        kill_running,
        reason: reason.to_owned(),
        wait: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_reaches_the_kernel_at_once_and_outlives_central_and_the_agent() {
    let (place, node) = (Place::new(), Node::new());
    let monitor = POLICY.replace("mode: enforce", "mode: monitor");
    fs::write(place.objects().join("policy.yaml"), monitor).unwrap();
    let address = free_address();
    let url = format!("https://localhost:{}", address.port());
    let program = Program::start(&place, address);
    let agent = node.start_agent(&place, &url);
    wait_for_container(&place, &program, true).await;
    // Monitor refuses nothing.
    assert_eq!(node.exec("/bin/true").code(), Some(0));
    let mut running = node.spawn("sleep 600");

    // Reported, refused at once, and what runs goes on.
    let mut control = operator(&place, address).await;
    let began = Instant::now();
    let answer = control.deny(deny(false, "CVE")).await.unwrap().into_inner();
    let took = began.elapsed();
    println!(
        "a denial was in the kernel {} ms after the operator's call",
        took.as_millis()
    );
    assert_eq!((answer.agents_applied, answer.agents_connected), (1, 1));
    assert_eq!(answer.running.len(), 1);
    assert_eq!(node.exec("/bin/true").signal(), Some(9));
    assert!(running.try_wait().unwrap().is_none());
    wait_for_notices(&place, &["denied-image none CVE"]).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let container = wait_for_container(&place, &program, true).await;
        if (container.mode.as_str(), container.mode_source.as_str()) == ("enforce", "denylist") {
            break;
        }
        assert!(Instant::now() < deadline, "{container:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Asked for, it is killed too.
    control.deny(deny(true, "worse")).await.unwrap();
    assert_eq!(running.wait().unwrap().signal(), Some(9));
    wait_for_notices(&place, &["denied-image none CVE", "denied-image kill worse"]).await;

    // All die, and what was pinned is gone. The next start has it from the disk, without central.
    drop(agent);
    drop(program);
    node.unmount();
    let deadline = Instant::now() + PATIENCE;
    while node.exec("/bin/true").code() != Some(0) {
        assert!(Instant::now() < deadline, "it is still enforced");
    }
    node.mount();
    let agent = node.start_agent(&place, &url);
    assert_eq!(node.exec("/bin/true").signal(), Some(9));

    // Central has it from its store: who, when and why.
    let _program = Program::start(&place, address);
    let mut control = operator(&place, address).await;
    let list = wire::ListDenialsRequest { history: true };
    let kept = control.list_denials(list).await.unwrap().into_inner().denials;
    let reasons: Vec<&str> = kept.iter().map(|denial| denial.reason.as_str()).collect();
    assert_eq!(reasons, ["worse", "CVE"]);
    assert!(kept.iter().all(|denial| denial.set_by.starts_with("operator sha256:")));
    assert!(kept[0].set_unix_nanos >= kept[1].set_unix_nanos && kept[1].set_unix_nanos != 0);

    // And takes it back.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = control.get_status(wire::GetStatusRequest::default()).await.unwrap();
        if status.into_inner().nodes.iter().any(|node| node.connected) {
            break;
        }
        assert!(Instant::now() < deadline, "the agent does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lift = wire::LiftDenialRequest {
        kind: "image".to_owned(),
        digest: IMAGE.to_owned(),
        reason: "fixed".to_owned(),
        wait: true,
    };
    let lifted = control.lift_denial(lift.clone()).await.unwrap().into_inner();
    assert_eq!(lifted.agents_applied, 1);
    assert_eq!(node.exec("/bin/true").code(), Some(0));
    let again = control.lift_denial(lift).await.unwrap_err();
    assert_eq!(again.code(), tonic::Code::NotFound);
    drop(agent);
}

/// Files of the flood: each refused once has an event of its own, equal ones would be counted.
const FILES: usize = 48;
const ROUNDS: usize = 4;

/// All that central has: numbers of events in the order in which they were committed, and what gaps name.
fn kept(place: &Place) -> (Vec<u64>, Vec<(u64, u64)>) {
    let connection = rusqlite::Connection::open(place.settings.state.join("central.sqlite")).unwrap();
    let mut statement = connection.prepare("SELECT event FROM events ORDER BY cursor").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let (mut events, mut lost) = (Vec::new(), Vec::new());
    for row in rows {
        let event = wire::Event::decode(&row.unwrap()[..]).unwrap();
        match event.kind.unwrap() {
            Kind::Violation(violation) => {
                assert_eq!(violation.reason, "unlisted", "{violation:?}");
                assert!(!violation.message.is_empty());
                events.push(event.sequence);
            }
            Kind::Gap(gap) if gap.ranges.is_empty() => lost.push((gap.first_sequence, gap.last_sequence)),
            Kind::Notice(notice) => panic!("{notice:?}"),
            Kind::Gap(gap) => lost.extend(gap.ranges.iter().map(|range| (range.first, range.last))),
        }
    }
    (events, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_long_outage_every_violation_arrives_once_and_in_order() {
    let (place, node) = (Place::new(), Node::new());
    fs::write(place.objects().join("policy.yaml"), POLICY).unwrap();
    let address = free_address();
    let url = format!("https://localhost:{}", address.port());
    let program = Program::start(&place, address);
    let mut agent = node.start_agent(&place, &url);
    wait_for_container(&place, &program, true).await;
    assert_eq!(node.exec("/bin/true").signal(), Some(9));
    wait_for_events(&place, 1).await;
    drop(program);

    // The outage: central is away for all rounds, and the agent is killed between two of them.
    let mut refused = 1;
    for round in 0..ROUNDS {
        for number in 0..FILES {
            let file = node.path(&format!("file-{round}-{number}"));
            fs::copy("/bin/true", &file).unwrap();
            assert_eq!(node.exec(file.to_str().unwrap()).signal(), Some(9));
            refused += 1;
        }
        if round == 1 {
            drop(agent);
            agent = node.start_agent(&place, &url);
        }
        // The next window: in one of them no more than 64 are told one by one.
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    }
    let program = Program::start(&place, address);
    wait_for_container(&place, &program, true).await;
    wait_for_events(&place, refused).await;
    let (events, lost) = kept(&place);
    assert_eq!(lost, [], "nothing was lost");
    assert_eq!(events.len(), refused, "{events:?}");
    assert!(events.is_sorted_by(|one, next| one < next), "{events:?}");
    assert_eq!(events.last().unwrap() - events[0] + 1, refused as u64, "{events:?}");
}
