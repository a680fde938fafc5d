//! A rollout through the hub: which node is given which mode, when, and what a restart keeps.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Agent, Central, NODES, PATIENCE, Place};
use lattice_api::{
    Object, read_objects,
    v1::{self as wire, agent_message::Kind},
};
use lattice_central::{
    gate::{Gate, PolicySource},
    metrics,
    objects::ObjectSet,
    rollout::{
        command::{Action, Command},
        driver::{ChangeError, Changed},
    },
};
use tokio::time::timeout;

const POLICY: &str = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: server, namespace: payments}
spec: {target: {workload: server}, mode: enforce, entries: [{path: /app/server}]}
";
const ROLLOUT: &str = "apiVersion: lattice.dev/v1alpha1
kind: LatticeRollout
metadata: {name: payments, namespace: payments}
spec:
  environment: production
  runtime: enforce
  burnIn: {minDuration: 0s}
  steps: [{pods: 50%, hold: 1h}]
";

fn objects(gates: &str) -> ObjectSet {
    let source = PolicySource {
        file: "gates.cedar".to_owned(),
        text: gates.to_owned(),
    };
    let mut set = ObjectSet {
        gate: Arc::new(Gate::read(&[source]).unwrap()),
        ..ObjectSet::default()
    };
    match read_objects("rollout.yaml", ROLLOUT.as_bytes()).unwrap().remove(0) {
        Object::LatticeRollout(rollout) => set.rollouts.insert("payments".to_owned(), Arc::new(rollout)),
        other => panic!("{other:?}"),
    };
    set
}

const PERMIT: &str = "permit (principal, action == Action::\"PromoteEnforcement\", resource)
unless { principal == Actor::\"mallory\" };";

async fn put_policy(central: &Central) {
    let Object::ExecPolicy(policy) = read_objects("policy.yaml", POLICY.as_bytes()).unwrap().remove(0) else {
        panic!("no policy")
    };
    let key = (policy.namespace.clone(), policy.name.clone());
    central
        .shared
        .board
        .set_documents(BTreeMap::from([(key, policy)]))
        .await
        .unwrap();
}

async fn look(central: &Central) {
    central.shared.rollouts.look(&central.shared).await.unwrap();
}

async fn say(central: &Central, action: Action, by: &str) -> Result<Changed, ChangeError> {
    let command = Command {
        action,
        workload: None,
        by: by.to_owned(),
        reason: "a test".to_owned(),
    };
    central
        .shared
        .rollouts
        .change(&central.shared, "payments", command)
        .await
}

fn approve() -> Action {
    Action::Approve { gate: String::new() }
}

/// The next set that the agent is given, which it then says to have applied: its revision, and the policy's mode.
async fn given(agent: &mut Agent) -> (u64, String) {
    let set = agent.policies().await;
    agent.apply(set.revision, "").await;
    (
        set.revision,
        set.policies
            .first()
            .map(|policy| policy.mode.clone())
            .unwrap_or_default(),
    )
}

/// Waits until central has heard that both nodes have applied what holds, with their containers.
async fn settled(central: &Central) {
    let shared = &central.shared;
    let is_settled = || {
        let revision = shared.board.policies().borrow().revision;
        let nodes = shared.nodes.all();
        nodes.values().all(|node| node.applied_revision == revision) && shared.standings.all().len() == 2
    };
    let waiting = async {
        while !is_settled() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("both agents apply it");
}

async fn connect(place: &Place, central: &Central, node: &str) -> Agent {
    let agent = Agent::connect(place, central.address, node).await;
    let container = wire::ContainerStatus {
        node: node.to_owned(),
        container: Some(wire::Container {
            container_id: format!("c-{node}"),
            namespace: "payments".to_owned(),
            pod: format!("pod-{node}"),
            workload: "server".to_owned(),
            ..wire::Container::default()
        }),
        policy: Some(wire::PolicyReference {
            namespace: "payments".to_owned(),
            name: "server".to_owned(),
            ..wire::PolicyReference::default()
        }),
        ..wire::ContainerStatus::default()
    };
    let standings = wire::Standings {
        clear: true,
        containers: vec![container],
        gone: Vec::new(),
    };
    agent.send(Kind::Standings(standings)).await;
    agent
}

#[tokio::test]
async fn a_canary_is_one_node_until_all_are_and_a_restart_keeps_it() {
    let place = Place::new();
    let central = Central::start(&place).await;
    put_policy(&central).await;
    let mut agents = [
        connect(&place, &central, NODES[0]).await,
        connect(&place, &central, NODES[1]).await,
    ];
    for agent in &mut agents {
        assert_eq!(given(agent).await.1, "enforce", "nobody has said otherwise");
    }

    // The rollout is new: its namespace monitors.
    central.objects.send_replace(objects(PERMIT));
    look(&central).await;
    for agent in &mut agents {
        assert_eq!(given(agent).await.1, "monitor");
    }
    settled(&central).await;
    look(&central).await;
    let all = central.shared.rollouts.all().await;
    assert_eq!(
        all[0].1.as_ref().unwrap().tracks["server"].phase.word(),
        "AwaitingApproval"
    );
    let modes = |central: &Central| {
        let set = central.shared.board.policies().borrow().clone();
        NODES.map(|node| set.for_node(node).policies[0].mode.clone())
    };
    assert_eq!(modes(&central), ["monitor", "monitor"]);

    // Whom Cedar does not permit does not approve.
    let denied = say(&central, approve(), "mallory").await.unwrap_err().to_string();
    assert!(
        denied.contains("PromoteEnforcement of namespace payments by mallory is denied"),
        "{denied}"
    );
    assert_eq!(say(&central, approve(), "ann").await.unwrap().revision, 0);
    let changed = say(&central, approve(), "bob").await.unwrap();
    assert_eq!(changed.transitions.last().unwrap().to, "Canary");
    let mut sorted = modes(&central);
    sorted.sort();
    assert_eq!(sorted, ["enforce", "monitor"]);
    let before = modes(&central);
    for (agent, mode) in agents.iter_mut().zip(&before) {
        assert_eq!(given(agent).await, (changed.revision, mode.clone()));
    }
    // What a person sets for the namespace wins, and is shown.
    let mut control = central.control(&place).await;
    let set = wire::SetModeRequest {
        namespace: "payments".to_owned(),
        mode: "deny".to_owned(),
        wait: false,
    };
    control.set_mode(set).await.unwrap();
    let shown = control
        .get_mode(wire::GetModeRequest::default())
        .await
        .unwrap()
        .into_inner()
        .modes;
    let shown: Vec<_> = shown
        .iter()
        .map(|mode| format!("{} {}", mode.mode, mode.source))
        .collect();
    assert_eq!(shown, ["deny namespace-override"]);
    let rollouts = control
        .list_rollouts(wire::ListRolloutsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .rollouts;
    assert_eq!(rollouts[0].tracks[0].overridden_by, "deny");
    control
        .set_mode(wire::SetModeRequest {
            namespace: "payments".to_owned(),
            ..wire::SetModeRequest::default()
        })
        .await
        .unwrap();
    drop(agents);
    central.stop().await;

    // A restart gives out the same before it has read anything.
    let central = Central::start(&place).await;
    put_policy(&central).await;
    assert_eq!(modes(&central), before);
    // A list that nobody has looked at is not enforced, not for a moment.
    let other = POLICY.replace("/app/server", "/app/other").replace(
        "workload: server",
        &format!("workload: server, imageDigest: \"sha256:{}\"", "1".repeat(64)),
    );
    let Object::ExecPolicy(other) = read_objects("policy.yaml", other.as_bytes()).unwrap().remove(0) else {
        panic!("no policy")
    };
    let key = (other.namespace.clone(), other.name.clone());
    central
        .shared
        .board
        .set_documents(BTreeMap::from([(key, other)]))
        .await
        .unwrap();
    assert_eq!(modes(&central), ["monitor", "monitor"]);
    // Without its LatticeRollout the policies say it themselves; what happened stays.
    look(&central).await;
    assert_eq!(modes(&central), ["enforce", "enforce"]);
    let history = central
        .shared
        .store
        .rollout_history(Some("payments".to_owned()), 100)
        .await
        .unwrap();
    assert!(history[0].reason.contains("the LatticeRollout is gone"), "{history:?}");
    assert!(
        history.iter().any(|told| told.by == "ann, bob" && told.to == "Canary"),
        "{history:?}"
    );
    assert!(matches!(
        say(&central, Action::Pause, "ann").await,
        Err(ChangeError::NoRollout(namespace)) if namespace == "payments"
    ));
}

#[tokio::test]
async fn only_an_operator_may_ask_or_say_something() {
    let place = Place::new();
    let central = Central::start(&place).await;
    let node = common::channel(central.address, place.client_tls(Some("node-worker-1")))
        .await
        .unwrap();
    let mut control = wire::control_client::ControlClient::new(node);
    let denied = tonic::Code::PermissionDenied;
    assert_eq!(
        control
            .list_rollouts(wire::ListRolloutsRequest::default())
            .await
            .unwrap_err()
            .code(),
        denied
    );
    assert_eq!(
        control
            .list_rollout_misses(wire::ListRolloutMissesRequest::default())
            .await
            .unwrap_err()
            .code(),
        denied
    );
    assert_eq!(
        control
            .list_rollout_history(wire::ListRolloutHistoryRequest::default())
            .await
            .unwrap_err()
            .code(),
        denied
    );
    assert_eq!(
        control
            .change_rollout(wire::ChangeRolloutRequest::default())
            .await
            .unwrap_err()
            .code(),
        denied
    );
    assert_eq!(
        control
            .simulate_rollout(wire::SimulateRolloutRequest::default())
            .await
            .unwrap_err()
            .code(),
        denied
    );
    let mut operator = central.control(&place).await;
    for (action, expected) in [("promote", "action: it is none of"), ("dismiss", "misses: 0 are named")] {
        let request = wire::ChangeRolloutRequest {
            action: action.to_owned(),
            ..wire::ChangeRolloutRequest::default()
        };
        let status = operator.change_rollout(request).await.unwrap_err();
        assert!(status.message().contains(expected), "{status:?}");
    }
}

fn two_hours_ago() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (now - Duration::from_secs(7_200)).as_nanos().try_into().unwrap()
}

/// A program that started in the container of a node, and that the list does not name.
fn violation(node: &str, sequence: u64, path: &str) -> wire::Event {
    wire::Event {
        node: node.to_owned(),
        boot_id: "boot-1".to_owned(),
        sequence,
        time_unix_nanos: two_hours_ago(),
        kind: Some(wire::event::Kind::Violation(wire::Violation {
            effective_action: "none".to_owned(),
            path: path.as_bytes().to_vec(),
            size_bytes: 1,
            container: Some(wire::Container {
                container_id: format!("c-{node}"),
                namespace: "payments".to_owned(),
                workload: "server".to_owned(),
                ..wire::Container::default()
            }),
            policy: Some(wire::PolicyReference {
                namespace: "payments".to_owned(),
                name: "server".to_owned(),
                ..wire::PolicyReference::default()
            }),
            role: "target".to_owned(),
            origin: "init".to_owned(),
            reason: "unlisted".to_owned(),
            drift: "unlisted-in-image".to_owned(),
            count: 1,
            ..wire::Violation::default()
        })),
    }
}

#[tokio::test]
async fn a_candidate_is_held_against_what_is_recorded_and_changes_nothing() {
    let place = Place::new();
    let central = Central::start(&place).await;
    put_policy(&central).await;
    let mut control = central.control(&place).await;
    let simulate = |documents: &str| wire::SimulateRolloutRequest {
        documents: documents.as_bytes().to_vec(),
        file: "candidate.yaml".to_owned(),
        since_unix_nanos: 0,
    };
    let none = control.simulate_rollout(simulate(POLICY)).await.unwrap_err();
    assert!(none.message().contains("has no LatticeRollout"), "{none:?}");
    central.objects.send_replace(objects(PERMIT));
    look(&central).await;
    let mut agent = connect(&place, &central, NODES[0]).await;
    agent.policies().await;
    agent.send_events(vec![violation(NODES[0], 1, "/bin/date")]).await;
    assert_eq!(agent.acknowledged().await, [1]);
    let before = central.shared.rollouts.all().await;

    let refuses = control.simulate_rollout(simulate(ROLLOUT)).await.unwrap().into_inner();
    assert_eq!(
        (refuses.outcome.as_str(), refuses.violations, refuses.refused),
        ("refuses", 1, 1),
        "{refuses:?}"
    );
    assert_eq!(
        (refuses.policies.as_slice(), refuses.misses[0].path.as_str()),
        (&["server".to_owned()][..], "/bin/date")
    );
    let listed = POLICY.replace("{path: /app/server}", "{path: /app/server}, {path: /bin/date}");
    let passes = control.simulate_rollout(simulate(&listed)).await.unwrap().into_inner();
    assert_eq!((passes.outcome.as_str(), passes.allowed), ("passes", 1), "{passes:?}");
    assert!(passes.transitions.iter().any(|told| told.to == "Canary"), "{passes:?}");
    let dropped = POLICY.replace("/app/server", "/bin/date");
    let unknown = control.simulate_rollout(simulate(&dropped)).await.unwrap().into_inner();
    assert_eq!(
        (unknown.outcome.as_str(), unknown.dropped[0].path.as_str()),
        ("unknown", "/app/server")
    );
    for (documents, expected) in [
        ("", "there is no document"),
        ("kind: Pod", "candidate.yaml:1:"),
        (
            &format!(
                "{POLICY}---\n{}",
                ROLLOUT.replace("namespace: payments", "namespace: shop")
            ),
            "a rollout is of one",
        ),
    ] {
        let refused = control.simulate_rollout(simulate(documents)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(expected), "{refused:?}");
    }
    assert_eq!(central.shared.rollouts.all().await, before);
}

#[tokio::test]
async fn what_central_counts_is_what_the_page_says() {
    let place = Place::new();
    let central = Central::start(&place).await;
    put_policy(&central).await;
    central.objects.send_replace(objects(PERMIT));
    look(&central).await;
    assert!(say(&central, approve(), "mallory").await.is_err());
    let mut control = central.control(&place).await;
    let status = control.get_status(wire::GetStatusRequest::default()).await.unwrap();
    let counters = status.into_inner().counters;
    let name = |name: &str| name.split(['{', ' ']).next().unwrap().to_owned();
    let scraped = metrics::text(&counters.clone().into_iter().collect(), true);
    let scraped = scraped.lines().filter(|line| !line.starts_with('#'));
    let served: BTreeSet<String> = scraped.map(name).collect();
    let shown: BTreeSet<String> = counters.keys().map(|counter| name(counter)).collect();
    let only_scraped = ["lattice_central_info", "lattice_central_ready"].map(str::to_owned);
    assert_eq!(served, shown.into_iter().chain(only_scraped).collect());
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, of_central) = page.split_once("\n## Central").unwrap();
    let documented: BTreeSet<String> = of_central
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(served, documented);
    let monitoring = "lattice_central_rollout_namespace_workloads{namespace=\"payments\",phase=\"Monitoring\"}";
    assert_eq!(
        (
            counters[monitoring],
            counters["lattice_central_rollout_approvals_refused_total"]
        ),
        (1, 1)
    );
}
