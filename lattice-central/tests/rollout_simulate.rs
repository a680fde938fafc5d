//! What a candidate would have come to, over what is recorded.

use std::sync::Arc;

use lattice_api::object::{ApprovalMode, Environment, LatticeRolloutSpec, Step, StepPods, Timespan};
use lattice_central::rollout::{
    evidence::ViolationFacts,
    miss::Miss,
    simulate::{Candidate, Dropped, Outcome, Place, Question, Recorded, Simulation, simulate},
    state::{Decided, Phase},
};
use lattice_policy::{
    CodeLoading, Entry, ExecPolicy, FailSemantics, FileDigest, FilePath, ImageDigest, Mode, Origin, Role, Scope, Target,
};

const SECOND: u64 = 1_000_000_000;
const BEGIN: u64 = 1_796_000_000 * SECOND;
const HOUR: u64 = 3_600;

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

fn place(node: &str, id: &str, image: u8) -> Place {
    Place {
        node: node.to_owned(),
        id: id.to_owned(),
        pod: format!("pod-{id}"),
        workload: "server".to_owned(),
        name: "main".to_owned(),
        image: format!("sha256:{}", hex::encode([image; 32])),
    }
}

/// A program of the container's image that the list in force does not name, so many hours after the beginning.
fn violation(at: &Place, hours: u64, path: &str, digest: u8, drift: &str) -> Recorded {
    Recorded::Violation {
        place: at.clone(),
        facts: Box::new(ViolationFacts {
            node: at.node.clone(),
            container: at.id.clone(),
            pod: at.pod.clone(),
            workload: at.workload.clone(),
            policy: "server".to_owned(),
            generation: 1,
            path: path.to_owned(),
            sha256: hex::encode([digest; 32]),
            size_bytes: 1,
            role: "target".to_owned(),
            origin: "any".to_owned(),
            reason: "unlisted".to_owned(),
            drift: drift.to_owned(),
            is_refused: false,
            count: 1,
            time: BEGIN + hours * HOUR * SECOND,
        }),
    }
}

/// A day of clock, four hours of quiet, one canary step of an hour.
fn spec() -> LatticeRolloutSpec {
    LatticeRolloutSpec {
        steps: vec![Step {
            pods: StepPods::Count(1),
            hold: Timespan::from_seconds(HOUR),
        }],
        ..LatticeRolloutSpec::defaults(Environment::Development)
    }
}

struct World {
    candidate: Candidate,
    in_force: Vec<Arc<ExecPolicy>>,
    dismissed: Vec<(Miss, Decided)>,
    containers: Vec<Place>,
    recorded: Vec<Recorded>,
    hours: u64,
}

impl World {
    /// One container on each of two nodes; what is in force is what is tried out.
    fn new(entries: Vec<Entry>) -> Self {
        let policy = policy("server", 1, entries);
        Self {
            in_force: vec![Arc::new(policy.clone())],
            candidate: Candidate {
                namespace: "payments".to_owned(),
                spec: spec(),
                policies: vec![policy],
            },
            dismissed: Vec::new(),
            containers: vec![place("a", "1", 1), place("b", "2", 1)],
            recorded: Vec::new(),
            hours: 48,
        }
    }

    fn run(&self) -> Simulation {
        simulate(&Question {
            candidate: &self.candidate,
            in_force: &self.in_force,
            dismissed: &self.dismissed,
            containers: &self.containers,
            recorded: &self.recorded,
            from: BEGIN,
            until: BEGIN + self.hours * HOUR * SECOND,
        })
    }
}

fn server() -> Vec<Entry> {
    vec![entry("/app/server", 7)]
}

/// Each change of phase, with the hour.
fn phases(simulation: &Simulation) -> Vec<(u64, &str)> {
    let changes = simulation.transitions.iter().filter(|(_, told)| told.from != told.to);
    changes
        .map(|(time, told)| ((time - BEGIN) / SECOND / HOUR, told.to.as_str()))
        .collect()
}

#[test]
fn a_list_of_which_nothing_was_missed_is_enforced_after_its_time() {
    let world = World::new(server());
    let simulation = world.run();
    assert_eq!(simulation.outcome, Outcome::Passes);
    assert_eq!(
        phases(&simulation),
        [
            (0, "Monitoring"),
            (24, "AwaitingApproval"),
            (24, "Canary"),
            (25, "Enforced")
        ]
    );
}

#[test]
fn what_is_recorded_and_the_candidate_lists_is_no_miss_any_more() {
    let mut world = World::new(server());
    world.recorded = vec![violation(&world.containers[0], 2, "/bin/date", 9, "unlisted-in-image")];
    let before = world.run();
    assert_eq!(before.outcome, Outcome::Refuses);
    assert_eq!(phases(&before), [(0, "Monitoring")]);
    assert_eq!(before.tracks["server"].misses.open(), 1);
    world.candidate.policies = vec![policy(
        "server",
        1,
        vec![entry("/app/server", 7), entry("/bin/date", 9)],
    )];
    let after = world.run();
    assert_eq!((after.outcome, after.counts.allowed), (Outcome::Passes, 1));
    assert_eq!(phases(&after).last(), Some(&(25, "Enforced")));
    // The same path with other bytes is another program.
    world.candidate.policies = vec![policy(
        "server",
        1,
        vec![entry("/app/server", 7), entry("/bin/date", 8)],
    )];
    assert_eq!(world.run().outcome, Outcome::Refuses);
}

#[test]
fn a_candidate_of_the_next_image_is_judged_by_path() {
    let mut world = World::new(server());
    world.recorded = vec![violation(&world.containers[0], 2, "/bin/date", 9, "unlisted-in-image")];
    world.candidate.policies = vec![policy(
        "server",
        2,
        vec![entry("/app/server", 70), entry("/bin/date", 90)],
    )];
    let simulation = world.run();
    assert_eq!((simulation.outcome, simulation.counts.by_path), (Outcome::Passes, 1));
}

#[test]
fn an_entry_that_is_gone_is_an_open_question_since_nobody_records_what_is_allowed() {
    let mut world = World::new(vec![entry("/app/server", 7), entry("/bin/sh", 8)]);
    world.candidate.policies = vec![policy("server", 1, server())];
    let simulation = world.run();
    assert_eq!(simulation.outcome, Outcome::Unknown);
    let dropped = Dropped {
        policy: "server".to_owned(),
        path: "/bin/sh".to_owned(),
        role: "target".to_owned(),
    };
    assert_eq!(simulation.dropped, [dropped]);
    // So is one that may start from fewer places.
    let narrower = Entry {
        from: Origin::ExecSession,
        ..entry("/bin/sh", 8)
    };
    world.candidate.policies = vec![policy("server", 1, vec![entry("/app/server", 7), narrower])];
    assert_eq!(world.run().dropped.len(), 1);
}

#[test]
fn a_policy_of_which_nothing_is_known_is_an_open_question() {
    let mut world = World::new(server());
    world.containers.clear();
    let simulation = world.run();
    assert_eq!(
        (simulation.outcome, simulation.unseen),
        (Outcome::Unknown, vec!["server".to_owned()])
    );
}

#[test]
fn a_gap_costs_a_moment_of_the_clock_and_the_quiet_before() {
    let mut world = World::new(server());
    world.recorded = vec![Recorded::Gap {
        time: BEGIN + 22 * HOUR * SECOND,
        node: "a".to_owned(),
        text: "5–9 (ring buffer full)".to_owned(),
    }];
    let simulation = world.run();
    assert_eq!(simulation.counts.gaps, 1);
    assert_eq!(phases(&simulation).last(), Some(&(27, "Enforced")));
    let elapsed = simulation.tracks["server"].clock.elapsed.as_secs();
    assert!((48 * HOUR - 5..48 * HOUR).contains(&elapsed), "{elapsed}");
    // Of a node without its containers it is no matter.
    world.recorded = vec![Recorded::Gap {
        time: BEGIN,
        node: "c".to_owned(),
        text: String::new(),
    }];
    assert_eq!(world.run().counts.gaps, 0);
}

#[test]
fn the_breaker_opens_as_it_would_have_and_not_for_an_attack() {
    let mut world = World::new(server());
    let places = world.containers.clone();
    let burst = |drift: &str| -> Vec<Recorded> {
        (0..6)
            .map(|number| violation(&places[number % 2], 30, "/bin/date", 9, drift))
            .collect()
    };
    world.candidate.spec.breaker.pods = 2;
    world.recorded = burst("unlisted-in-image");
    let simulation = world.run();
    assert_eq!(simulation.outcome, Outcome::Refuses);
    assert!(
        phases(&simulation).contains(&(30, "RolledBack")),
        "{:?}",
        phases(&simulation)
    );
    assert_eq!(simulation.tracks["server"].breaker.opened, 1);
    world.recorded = burst("not-in-image");
    let attack = world.run();
    assert_eq!(attack.tracks["server"].phase, Phase::Enforced);
    assert_eq!(
        (attack.outcome, attack.tracks["server"].breaker.opened),
        (Outcome::Refuses, 0)
    );
}

#[test]
fn what_was_dismissed_is_and_other_containers_are_left_alone() {
    let mut world = World::new(server());
    world.recorded = vec![violation(&world.containers[0], 2, "/bin/date", 9, "unlisted-in-image")];
    let miss = world.run().tracks["server"]
        .misses
        .kept
        .values()
        .next()
        .unwrap()
        .clone();
    world.dismissed = vec![(
        miss,
        Decided {
            time: BEGIN,
            by: "operator".to_owned(),
            reason: "a test".to_owned(),
        },
    )];
    let simulation = world.run();
    assert_eq!(simulation.outcome, Outcome::Passes);
    assert_eq!(phases(&simulation).last(), Some(&(25, "Enforced")));
    let mut other = world.containers[0].clone();
    other.workload = "ledger".to_owned();
    world.recorded = vec![violation(&other, 2, "/bin/date", 9, "unlisted-in-image")];
    assert_eq!(world.run().counts.of_others, 1);
}

#[test]
fn the_same_question_has_the_same_answer_and_what_stands_still_does_not() {
    let mut world = World::new(server());
    world.candidate.spec.paused = true;
    world.candidate.spec.approval.mode = ApprovalMode::Manual;
    let first = world.run();
    assert_eq!(phases(&first).last(), Some(&(25, "Enforced")));
    assert_eq!(first, world.run());
}
