//! Two weeks in a millisecond, and what no sequence of inputs may lead to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lattice_api::object::{
    ApprovalMode, Environment, FreezeBegin, FreezeWindow, LatticeRolloutSpec, OnOpen, Runtime, Step, StepPods, Timespan,
};
use lattice_central::rollout::{
    command::{Action, Command, CommandError, apply},
    evidence::{ContainerFacts, Evidence, NodeFacts, PolicyFacts, ViolationFacts, list_of},
    machine::{Now, advance},
    state::{Phase, RolloutState, Transition},
};
use lattice_policy::{
    CodeLoading, Entry, ExecPolicy, FailSemantics, FileDigest, FilePath, ImageDigest, Mode, Origin, Role, Scope, Target,
};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// In November 2026.
const BEGIN: u64 = 1_796_000_000;

fn entry(path: &str, digest: u8) -> Entry {
    Entry {
        path: FilePath::from(path),
        sha256: Some(FileDigest([digest; 32])),
        real_path: None,
        size_bytes: None,
        kind: None,
        roles: vec![Role::Target],
        from: Origin::Any,
        applets: Vec::new(),
        because: Vec::new(),
    }
}

fn policy(workload: &str, image: u8, entries: Vec<Entry>) -> ExecPolicy {
    ExecPolicy {
        namespace: "payments".to_owned(),
        name: workload.to_owned(),
        target: Target {
            workload: Some(workload.to_owned()),
            container: None,
            image_digest: Some(ImageDigest([image; 32])),
        },
        mode: Mode::Monitor,
        fail: FailSemantics::default(),
        code_loading: CodeLoading::Image,
        scope: Scope::Declared,
        generation: 1,
        entries,
        map: Vec::new(),
    }
}

fn staging() -> LatticeRolloutSpec {
    LatticeRolloutSpec::defaults(Environment::Staging)
}

/// A namespace in a box: what is there, and the machine over it.
struct World {
    spec: LatticeRolloutSpec,
    state: RolloutState,
    policies: Vec<ExecPolicy>,
    containers: Vec<ContainerFacts>,
    nodes: BTreeMap<String, NodeFacts>,
    forbidden: BTreeMap<String, String>,
    seconds: u64,
    told: Vec<Transition>,
    /// Seconds of which all was known at both ends, counted apart from the machine: its clock may count fewer.
    witnessed: u64,
    was_complete: bool,
}

impl World {
    fn new(spec: LatticeRolloutSpec) -> Self {
        let container = |node: &str, id: &str| ContainerFacts {
            node: node.to_owned(),
            id: id.to_owned(),
            pod: format!("pod-{id}"),
            workload: "server".to_owned(),
            policy: Some("server".to_owned()),
        };
        let connected = NodeFacts {
            is_connected: true,
            ..NodeFacts::default()
        };
        let mut world = Self {
            spec,
            state: RolloutState::default(),
            policies: vec![policy("server", 1, vec![entry("/app/server", 7)])],
            containers: vec![container("a", "1"), container("b", "2"), container("b", "3")],
            nodes: ["a", "b"].map(|node| (node.to_owned(), connected.clone())).into(),
            forbidden: BTreeMap::new(),
            seconds: BEGIN,
            told: Vec::new(),
            witnessed: 0,
            was_complete: false,
        };
        world.look(0, Vec::new(), BTreeMap::new());
        world
    }

    fn evidence(&self, covers: u64, violations: Vec<ViolationFacts>, gaps: BTreeMap<String, String>) -> Evidence {
        let facts = |policy: &ExecPolicy| PolicyFacts {
            list: list_of(policy),
            policy: Arc::new(policy.clone()),
        };
        Evidence {
            covers: Duration::from_secs(covers),
            cursor: 0,
            policies: self.policies.iter().map(facts).collect(),
            containers: self.containers.clone(),
            nodes: self.nodes.clone(),
            violations,
            gaps,
            forbidden: self.forbidden.clone(),
        }
    }

    fn look(&mut self, covers: u64, violations: Vec<ViolationFacts>, gaps: BTreeMap<String, String>) {
        self.seconds += covers;
        let has_on = |node: &String| self.containers.iter().any(|container| container.node == *node);
        let is_complete = !self.containers.is_empty()
            && !gaps.keys().any(has_on)
            && self
                .nodes
                .iter()
                .all(|(node, facts)| facts.is_connected || !has_on(node));
        self.witnessed += if is_complete && self.was_complete { covers } else { 0 };
        self.was_complete = is_complete;
        let evidence = self.evidence(covers, violations, gaps);
        let now = Now {
            namespace: "payments",
            spec: &self.spec,
            evidence: &evidence,
            time: self.seconds * SECOND,
        };
        let (state, told) = advance(self.state.clone(), &now);
        self.state = state;
        self.check(&told);
        self.told.extend(told);
    }

    /// What holds whatever happened.
    fn check(&self, told: &[Transition]) {
        let (approval, burn_in) = (&self.spec.approval, &self.spec.burn_in);
        for told in told {
            if !matches!(told.to.as_str(), "Canary" | "Enforced") || matches!(told.from.as_str(), "Canary" | "Enforced")
            {
                continue;
            }
            assert_eq!(told.from, "AwaitingApproval", "{told:?}");
            let track = &self.state.tracks[&told.workload];
            assert!(track.clock.elapsed >= burn_in.min_duration.duration(), "{told:?}");
            assert!(track.clock.quiet >= burn_in.quiet_period.duration(), "{told:?}");
            assert_eq!(track.misses.open(), 0, "{told:?}");
            let people: BTreeSet<&str> = told.by.split(", ").collect();
            let wanted = usize::try_from(approval.approvers).unwrap();
            assert!(
                approval.mode == ApprovalMode::Auto || people.len() >= wanted,
                "{told:?}"
            );
            assert!(people.iter().all(|by| !self.forbidden.contains_key(*by)), "{told:?}");
        }
        for track in self.state.tracks.values() {
            assert!(
                track.clock.elapsed <= Duration::from_secs(self.witnessed),
                "the clock counts what nobody saw"
            );
        }
    }

    /// Time passes, a look every hour.
    fn pass(&mut self, seconds: u64) {
        let mut left = seconds;
        while left > 0 {
            let covers = left.min(HOUR);
            self.look(covers, Vec::new(), BTreeMap::new());
            left -= covers;
        }
    }

    fn happens(&mut self, violation: ViolationFacts) {
        self.look(1, vec![violation], BTreeMap::new());
    }

    fn say(&mut self, action: Action, by: &str) -> Result<(), CommandError> {
        let command = Command {
            action,
            workload: None,
            by: by.to_owned(),
            reason: "because".to_owned(),
        };
        let evidence = self.evidence(0, Vec::new(), BTreeMap::new());
        let now = Now {
            namespace: "payments",
            spec: &self.spec,
            evidence: &evidence,
            time: self.seconds * SECOND,
        };
        let (state, told) = apply(self.state.clone(), &command, &now)?;
        self.state = state;
        self.told.extend(told);
        self.look(0, Vec::new(), BTreeMap::new());
        Ok(())
    }

    fn approve(&mut self, by: &str) -> Result<(), CommandError> {
        let gate = String::new();
        self.say(Action::Approve { gate }, by)
    }

    fn phase(&self) -> &Phase {
        &self.state.tracks["server"].phase
    }

    /// How many nodes enforce; all where every one does.
    fn enforcing(&self) -> usize {
        let nodes = self.nodes.keys();
        let governed = &self.state.governed()["server"];
        nodes
            .filter(|node| governed.reach.mode(node, Mode::Monitor) == Mode::Enforce)
            .count()
    }

    #[track_caller]
    fn is_in(&self, word: &str) {
        assert_eq!(self.phase().word(), word, "{:#?}", self.told.last());
    }

    #[track_caller]
    fn holds(&self, expected: &str) {
        let hold = self.state.tracks["server"].clock.hold.clone().unwrap_or_default();
        assert!(hold.contains(expected), "{hold:?}");
    }

    /// To the gate, and through it.
    fn promoted(spec: LatticeRolloutSpec) -> Self {
        let mut world = Self::new(spec);
        world.pass(15 * DAY);
        world.approve("ann").unwrap();
        world
    }
}

fn violation(path: &str, drift: &str, is_refused: bool) -> ViolationFacts {
    ViolationFacts {
        node: "a".to_owned(),
        container: "1".to_owned(),
        pod: "pod-1".to_owned(),
        workload: "server".to_owned(),
        policy: "server".to_owned(),
        generation: 1,
        path: path.to_owned(),
        sha256: "ab".repeat(32),
        size_bytes: 5,
        role: "target".to_owned(),
        origin: "init".to_owned(),
        reason: "unlisted".to_owned(),
        drift: drift.to_owned(),
        is_refused,
        count: 1,
        time: BEGIN * SECOND,
    }
}

fn gap(node: &str) -> BTreeMap<String, String> {
    [(node.to_owned(), "5–9 (ring-buffer-full)".to_owned())].into()
}

#[test]
fn two_weeks_with_gaps_a_breaker_and_a_rearm() {
    let mut world = World::new(staging());
    world.is_in("Monitoring");
    assert_eq!(world.told[0].reason, "its list is new");
    world.pass(5 * DAY);
    // A day without a node's agent counts for nothing, and says why.
    world.nodes.get_mut("b").unwrap().is_connected = false;
    world.pass(DAY);
    world.holds("the agent of b, which had containers of it, is not connected");
    world.nodes.get_mut("b").unwrap().is_connected = true;
    // Nor do events that are lost; and quiet begins anew, since one of them may have been a miss.
    world.pass(5 * DAY);
    world.look(600, Vec::new(), gap("a"));
    world.holds("a lost events: 5–9");
    assert_eq!(world.state.tracks["server"].clock.quiet, Duration::ZERO);
    // A miss is open until somebody looks at it.
    world.pass(2 * DAY);
    world.happens(violation("/usr/bin/curl", "unlisted-in-image", false));
    world.pass(20 * DAY);
    world.is_in("Monitoring");
    let id = world.state.tracks["server"].misses.kept.keys().next().unwrap().clone();
    let missing = world
        .say(Action::Dismiss(vec!["nothing".to_owned()]), "ann")
        .unwrap_err();
    assert_eq!(missing, CommandError::NoMiss("nothing".to_owned()));
    world.say(Action::Dismiss(vec![id]), "ann").unwrap();
    world.is_in("AwaitingApproval");
    assert_eq!(world.enforcing(), 0);
    world.approve("ann").unwrap();
    world.is_in("Canary");
    assert_eq!(world.enforcing(), 1);
    world.pass(HOUR + 600);
    world.is_in("Enforced");
    assert_eq!(world.enforcing(), 2);

    // A probe's program is refused, and its container ends.
    let mut refused = violation("/bin/probe", "unlisted-in-image", true);
    refused.time = world.seconds * SECOND;
    world.happens(refused);
    world.is_in("Enforced");
    let first = world.containers.remove(0);
    world.look(1, Vec::new(), BTreeMap::new());
    world.look(3, Vec::new(), BTreeMap::new());
    world.is_in("RolledBack");
    assert_eq!(world.enforcing(), 0);
    let told = world.told.last().unwrap();
    assert!(
        told.reason.contains("\"/bin/probe\", which the image holds"),
        "{}",
        told.reason
    );
    assert_eq!((told.by.as_str(), told.evidence.len()), ("lattice-central", 64));
    world.containers.push(first);
    // It begins anew by itself, with the whole clock.
    world.pass(HOUR);
    world.is_in("Monitoring");
    assert!(world.state.tracks["server"].clock.elapsed <= Duration::from_secs(600));
    // The list is corrected: the miss is over by that.
    world.pass(20 * DAY);
    world.is_in("Monitoring");
    let mut probe = entry("/bin/probe", 0xab);
    probe.from = Origin::Init;
    world.policies[0].entries.push(probe);
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("AwaitingApproval");
    world.approve("ann").unwrap();
    world.pass(HOUR + 600);
    world.is_in("Enforced");

    // The second time a person must say so.
    let mut refused = violation("/bin/hook", "unlisted-in-image", true);
    refused.time = world.seconds * SECOND;
    world.happens(refused);
    world.containers.retain(|container| container.id != "1");
    world.look(1, Vec::new(), BTreeMap::new());
    world.look(3, Vec::new(), BTreeMap::new());
    assert!(matches!(world.phase(), Phase::RolledBack { until: None, .. }));
    world.pass(30 * DAY);
    world.is_in("RolledBack");
    world.say(Action::Resume, "ann").unwrap();
    world.is_in("Monitoring");
}

#[test]
fn approvals_are_of_different_people_for_what_is_known_and_for_a_day() {
    let mut world = World::new(LatticeRolloutSpec::defaults(Environment::Production));
    let early = world.approve("ann").unwrap_err();
    assert!(
        early
            .to_string()
            .contains("server is in Monitoring: the clock is at 0s of 1w"),
        "{early}"
    );
    world.pass(8 * DAY);
    world.is_in("AwaitingApproval");
    world.approve("ann").unwrap();
    assert_eq!(
        world.approve("ann").unwrap_err(),
        CommandError::Twice("ann".to_owned(), 2)
    );
    world.is_in("AwaitingApproval");
    // It is of no use a day later.
    world.pass(DAY);
    world.approve("bob").unwrap();
    world.is_in("AwaitingApproval");
    // Nor when something else is known: a list that changed, here.
    world.policies[0].entries.push(entry("/bin/sh", 9));
    world.look(1, Vec::new(), BTreeMap::new());
    assert!(world.state.tracks["server"].approvals.0.is_empty());
    let other = world
        .say(
            Action::Approve {
                gate: "0000".to_owned(),
            },
            "bob",
        )
        .unwrap_err();
    assert!(other.to_string().contains("asks about gate"), "{other}");
    // Cedar may say no to one of them.
    world.approve("ann").unwrap();
    world.forbidden.insert("bob".to_owned(), "denied".to_owned());
    world.approve("bob").unwrap();
    world.is_in("AwaitingApproval");
    world.forbidden.clear();
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Canary");
    let told = world.told.last().unwrap();
    assert_eq!(told.by, "ann, bob");
}

#[test]
fn a_miss_takes_the_approvals_along() {
    let mut world = World::new(LatticeRolloutSpec::defaults(Environment::Production));
    world.pass(8 * DAY);
    world.approve("ann").unwrap();
    world.happens(violation("/tmp/x", "not-in-image", false));
    world.is_in("Monitoring");
    assert!(world.state.tracks["server"].approvals.0.is_empty());
    assert_eq!(world.state.tracks["server"].clock.quiet, Duration::ZERO);
}

#[test]
fn a_freeze_stops_promotions_and_no_rollback() {
    let mut spec = staging();
    spec.freeze_windows = vec![FreezeWindow {
        begins: FreezeBegin::Once(BEGIN + 14 * DAY),
        length: Timespan::from_seconds(10 * DAY),
        reason: "year's end".to_owned(),
    }];
    let mut world = World::new(spec);
    world.pass(15 * DAY);
    world.is_in("Monitoring");
    world.spec.freeze_windows.clear();
    world.look(1, Vec::new(), BTreeMap::new());
    world.approve("ann").unwrap();
    world.pass(HOUR + 600);
    world.is_in("Enforced");
    world.spec.freeze_windows = vec![FreezeWindow {
        begins: FreezeBegin::Weekly(0),
        length: Timespan::from_seconds(7 * DAY - 1),
        reason: String::new(),
    }];
    world.say(Action::RollBack, "bob").unwrap();
    world.is_in("RolledBack");
    assert_eq!(world.enforcing(), 0);
}

#[test]
fn a_pause_holds_what_is_and_the_document_may_take_it_back() {
    let mut world = World::promoted(staging());
    world.is_in("Canary");
    world.say(Action::Pause, "bob").unwrap();
    world.pass(DAY);
    world.is_in("Canary");
    assert_eq!(world.enforcing(), 1);
    world.say(Action::Resume, "bob").unwrap();
    world.pass(600);
    world.is_in("Enforced");
    assert!(matches!(
        world.say(Action::Resume, "bob"),
        Err(CommandError::NotStopped(_))
    ));
    world.spec.runtime = Runtime::Monitor;
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Monitoring");
    assert_eq!(world.told.last().unwrap().by, "the LatticeRollout");
    world.pass(60 * DAY);
    world.is_in("Monitoring");
}

#[test]
fn another_image_with_another_list_begins_in_monitoring_and_a_rebuilt_one_goes_on() {
    let mut world = World::promoted(staging());
    world.pass(2 * HOUR);
    world.is_in("Enforced");
    // The same programs in the same places, of another build.
    world.policies = vec![policy("server", 2, vec![entry("/app/server", 8)])];
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Enforced");
    // What the same image's specification says now.
    world.policies = vec![policy("server", 2, vec![entry("/app/server", 8), entry("/bin/sh", 9)])];
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Enforced");
    // A service that comes new does not wait for the others, nor they for it.
    world.policies.push(policy("other", 5, vec![entry("/app/other", 1)]));
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Enforced");
    assert_eq!(world.state.tracks["other"].phase, Phase::Monitoring);
    assert_eq!(
        world.state.tracks["other"].clock.hold.as_deref(),
        Some("no container of it runs")
    );
    // Another image with other programs.
    world.policies[0] = policy("server", 3, vec![entry("/app/server", 8), entry("/app/worker", 3)]);
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Monitoring");
    assert_eq!(world.state.tracks["server"].clock.elapsed, Duration::ZERO);
    // One whose policy is away for a while goes on; one whose policy is gone ends.
    world.policies.remove(0);
    world.pass(2 * HOUR);
    world.is_in("Monitoring");
    world.holds("it has no policy");
    world.policies.insert(
        0,
        policy("server", 3, vec![entry("/app/server", 8), entry("/app/worker", 3)]),
    );
    world.pass(2 * HOUR);
    world.is_in("Monitoring");
    assert!(world.state.tracks["server"].clock.elapsed > Duration::ZERO);
    world.policies.pop();
    world.pass(25 * HOUR);
    assert_eq!(world.state.tracks.len(), 1);
    assert_eq!(world.told.last().unwrap().reason, "it has no policy any more");
}

#[test]
fn a_restart_goes_on_and_does_not_count_what_it_did_not_see() {
    let mut world = World::new(staging());
    world.pass(3 * DAY);
    let before = world.state.tracks["server"].clock.elapsed;
    let kept = world.state.encode();
    world.state = RolloutState::decode(&kept).unwrap();
    world.seconds += 5 * DAY;
    world.look(0, Vec::new(), BTreeMap::new());
    assert_eq!(world.state.tracks["server"].clock.elapsed, before);
    // A node that does not come back with central is missed.
    world.state = RolloutState::decode(&kept).unwrap();
    world.containers.retain(|container| container.node == "a");
    world.nodes.remove("b");
    world.pass(DAY);
    world.holds("the agent of b");
    assert_eq!(world.state.tracks["server"].clock.elapsed, before);
    // When it comes and has none of them, it is not waited for any more.
    world.nodes.insert(
        "b".to_owned(),
        NodeFacts {
            is_connected: true,
            ..NodeFacts::default()
        },
    );
    world.pass(DAY);
    assert!(world.state.tracks["server"].clock.elapsed > before);
    assert!(RolloutState::decode(b"{\"planet\": 1}").is_err());
}

#[test]
fn what_is_not_told_holds_the_clock() {
    let mut world = World::new(staging());
    let set = |world: &mut World, behind: &str, missing: &str| {
        world.nodes.insert(
            "a".to_owned(),
            NodeFacts {
                is_connected: true,
                behind: behind.to_owned(),
                missing: missing.to_owned(),
            },
        );
        world.pass(600);
    };
    set(&mut world, "has applied revision 3, and 4 holds", "");
    world.holds("a has applied revision 3");
    set(&mut world, "", "event 7 has not arrived");
    world.holds("a: event 7 has not arrived");
    set(&mut world, "", "");
    world.containers[0].policy = None;
    world.pass(600);
    world.holds("container 1 on a has no policy");
    world.containers.clear();
    world.pass(600);
    world.holds("no container of it runs");
    assert_eq!(world.state.tracks["server"].clock.elapsed, Duration::ZERO);
}

/// An enforced namespace in which a program is refused, and the container ends.
fn after_refusal(violations: Vec<ViolationFacts>, ends: bool) -> World {
    let mut world = World::promoted(staging());
    world.pass(2 * HOUR);
    world.is_in("Enforced");
    for mut violation in violations {
        violation.time = world.seconds * SECOND;
        world.happens(violation);
    }
    if ends {
        world.containers.retain(|container| container.id != "1");
    }
    for _ in 0..5 {
        world.look(1, Vec::new(), BTreeMap::new());
    }
    world
}

#[test]
fn drift_opens_no_breaker_nor_does_what_its_container_does_afterwards() {
    for drift in [
        "not-in-image",
        "modified",
        "memfd",
        "deleted",
        "denylisted",
        "unresolved",
        "",
    ] {
        after_refusal(vec![violation("/tmp/x", drift, true)], true).is_in("Enforced");
    }
    let attack = || {
        vec![
            violation("/usr/bin/wget", "unlisted-in-image", true),
            violation("/tmp/backdoor", "not-in-image", true),
        ]
    };
    after_refusal(attack(), true).is_in("Enforced");
    // In any order, and for as long as it is remembered.
    for mut violations in [attack(), attack().into_iter().rev().collect()] {
        let mut spec = staging();
        (spec.breaker.refusals, spec.breaker.pods) = (1, 1);
        let mut world = World::promoted(spec);
        world.pass(2 * HOUR);
        for violation in &mut violations {
            violation.time = world.seconds * SECOND;
        }
        world.look(1, violations, BTreeMap::new());
        for _ in 0..700 {
            world.look(1, Vec::new(), BTreeMap::new());
        }
        world.is_in("Enforced");
    }
    // Without the end of the container a refusal is for review.
    let world = after_refusal(vec![violation("/usr/bin/wget", "unlisted-in-image", true)], false);
    world.is_in("Enforced");
    assert_eq!(world.state.tracks["server"].misses.open(), 1);
    after_refusal(vec![violation("/usr/bin/wget", "unlisted-in-image", true)], true).is_in("RolledBack");
    // What was only noted hurts nobody.
    after_refusal(vec![violation("/usr/bin/wget", "unlisted-in-image", false)], true).is_in("Enforced");
    // An agent that is away tells of no end.
    let mut world = World::promoted(staging());
    world.pass(2 * HOUR);
    let mut refused = violation("/usr/bin/wget", "unlisted-in-image", true);
    refused.time = world.seconds * SECOND;
    world.happens(refused);
    world.nodes.get_mut("a").unwrap().is_connected = false;
    world.containers.retain(|container| container.node != "a");
    world.pass(600);
    world.is_in("Enforced");
}

#[test]
fn one_program_refused_in_many_pods_opens_it() {
    let mut spec = staging();
    (spec.breaker.refusals, spec.breaker.pods) = (4, 2);
    let mut world = World::promoted(spec);
    world.pass(2 * HOUR);
    let mut refused = |pod: &str, path: &str, count: u64| {
        let mut violation = violation(path, "unlisted-in-image", true);
        (violation.pod, violation.container) = (format!("pod-{pod}"), pod.to_owned());
        violation.node = if pod == "1" { "a" } else { "b" }.to_owned();
        (violation.time, violation.count) = (world.seconds * SECOND, count);
        world.happens(violation);
        world.phase().word()
    };
    assert_eq!(refused("1", "/bin/ls", 9), "Enforced");
    assert_eq!(refused("2", "/bin/cat", 9), "Enforced");
    assert_eq!(refused("3", "/bin/ls", 1), "RolledBack");
}

#[test]
fn a_breaker_may_pause_instead() {
    let mut spec = staging();
    spec.breaker.on_open = OnOpen::Pause;
    let mut world = World::promoted(spec);
    world.is_in("Canary");
    let mut refused = violation("/bin/ls", "unlisted-in-image", true);
    refused.time = world.seconds * SECOND;
    world.happens(refused);
    world.containers.retain(|container| container.id != "1");
    world.look(1, Vec::new(), BTreeMap::new());
    world.look(3, Vec::new(), BTreeMap::new());
    world.is_in("Canary");
    assert!(
        world
            .state
            .paused
            .as_ref()
            .unwrap()
            .reason
            .contains("the breaker opened")
    );
    world.pass(10 * DAY);
    world.is_in("Canary");
}

#[test]
fn nobody_needs_to_approve_where_the_document_says_so_but_cedar_must() {
    let mut spec = LatticeRolloutSpec::defaults(Environment::Development);
    assert_eq!(spec.approval.mode, ApprovalMode::Auto);
    spec.steps = vec![Step {
        pods: StepPods::Percent(50),
        hold: Timespan::from_seconds(60),
    }];
    let mut world = World::new(spec);
    world
        .forbidden
        .insert("lattice-central".to_owned(), "denied".to_owned());
    world.pass(2 * DAY);
    world.is_in("AwaitingApproval");
    assert_eq!(world.approve("ann"), Err(CommandError::Auto));
    world.forbidden.clear();
    world.look(1, Vec::new(), BTreeMap::new());
    world.is_in("Canary");
}

#[test]
fn a_flood_of_misses_is_bounded_and_blocks() {
    let mut world = World::new(staging());
    let many = (0..1_100)
        .map(|number| violation(&format!("/tmp/{number}"), "not-in-image", false))
        .collect();
    world.look(1, many, BTreeMap::new());
    let misses = &world.state.tracks["server"].misses;
    assert_eq!((misses.kept.len(), misses.left_out, misses.open()), (1_000, 100, 1_001));
    world.pass(60 * DAY);
    world.is_in("Monitoring");
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Input {
    Pass(u64),
    Violation(u8, u8, bool),
    Gap,
    Disconnect(bool),
    Containers(u8),
    Policy(u8, u8),
    Approve(u8),
    Pause,
    Resume,
    RollBack,
    DismissAll,
    Restart,
    Forbid(bool),
    Freeze(bool),
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        8 => (1u64..5 * DAY).prop_map(Input::Pass),
        3 => (0u8..3, 0u8..7, any::<bool>()).prop_map(|(path, drift, refused)| Input::Violation(path, drift, refused)),
        1 => Just(Input::Gap),
        1 => any::<bool>().prop_map(Input::Disconnect),
        1 => (0u8..4).prop_map(Input::Containers),
        1 => (1u8..3, 1u8..4).prop_map(|(image, programs)| Input::Policy(image, programs)),
        8 => (0u8..3).prop_map(Input::Approve),
        1 => Just(Input::Pause),
        2 => Just(Input::Resume),
        1 => Just(Input::RollBack),
        4 => Just(Input::DismissAll),
        1 => Just(Input::Restart),
        1 => any::<bool>().prop_map(Input::Forbid),
        1 => any::<bool>().prop_map(Input::Freeze),
    ];
    prop::collection::vec(input, 1..60)
}

const DRIFTS: [&str; 7] = [
    "unlisted-in-image",
    "not-in-image",
    "modified",
    "memfd",
    "deleted",
    "denylisted",
    "unresolved",
];

impl World {
    /// One thing happens. What operators say may be refused: that is an answer too.
    fn take(&mut self, input: &Input, drifts: &[&str]) {
        let all: Vec<ContainerFacts> = World::new(staging()).containers;
        match input {
            Input::Pass(seconds) => {
                let mut left = *seconds;
                while left > 0 {
                    let covers = left.min(6 * HOUR);
                    self.look(covers, Vec::new(), BTreeMap::new());
                    left -= covers;
                }
            }
            Input::Violation(path, drift, refused) => {
                let drift = drifts[usize::from(*drift) % drifts.len()];
                let mut violation = violation(&format!("/x/{path}"), drift, *refused);
                violation.time = self.seconds * SECOND;
                self.happens(violation);
            }
            Input::Gap => self.look(1, Vec::new(), gap("a")),
            Input::Disconnect(connected) => self.nodes.get_mut("b").unwrap().is_connected = *connected,
            Input::Containers(count) => self.containers = all.into_iter().take(usize::from(*count)).collect(),
            Input::Policy(image, programs) => {
                let entries = (0..*programs)
                    .map(|number| entry(&format!("/app/{number}"), number + 1))
                    .collect();
                self.policies = vec![policy("server", *image, entries)];
            }
            Input::Approve(who) => drop(self.approve(["ann", "bob", "eve"][usize::from(*who)])),
            Input::Pause => drop(self.say(Action::Pause, "ann")),
            Input::Resume => drop(self.say(Action::Resume, "ann")),
            Input::RollBack => drop(self.say(Action::RollBack, "ann")),
            Input::DismissAll => {
                let ids = self.state.tracks["server"].misses.kept.keys().cloned().collect();
                let _ = self.say(Action::Dismiss(ids), "ann");
            }
            Input::Restart => {
                self.state = RolloutState::decode(&self.state.encode()).unwrap();
                self.look(0, Vec::new(), BTreeMap::new());
            }
            Input::Forbid(forbid) => {
                self.forbidden.clear();
                if *forbid {
                    self.forbidden.insert("bob".to_owned(), "denied".to_owned());
                }
            }
            Input::Freeze(frozen) => self.spec.paused = *frozen,
        }
        self.look(1, Vec::new(), BTreeMap::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_is_enforced_without_its_approvals_and_a_full_clock(inputs in inputs()) {
        let mut spec = LatticeRolloutSpec::defaults(Environment::Production);
        spec.burn_in.min_duration = Timespan::from_seconds(4 * DAY);
        spec.burn_in.quiet_period = Timespan::from_seconds(DAY);
        let mut world = World::new(spec);
        for input in &inputs {
            // `World::check` looks at every step of it.
            world.take(input, &DRIFTS);
            let is_promoted = matches!(world.phase(), Phase::Canary { .. } | Phase::Enforced);
            prop_assert!(world.enforcing() == 0 || is_promoted);
        }
    }

    #[test]
    fn no_breaker_opens_where_all_that_is_refused_drifted(inputs in inputs()) {
        let mut world = World::promoted(staging());
        for input in &inputs {
            world.take(input, &DRIFTS[1..]);
        }
        prop_assert_eq!(world.state.tracks["server"].breaker.opened, 0);
    }
}
