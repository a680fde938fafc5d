use std::{collections::BTreeSet, time::Duration};

use lattice_api::object::{Environment, Step, StepPods};

use super::*;
use crate::rollout::{
    breaker::BreakerState,
    clock::BurnInClock,
    gate::{Approvals, Approved},
    miss::{Miss, Misses, Review},
    state::Decided,
};

const DAY: u64 = 86_400;

fn track(phase: Phase, elapsed: u64) -> Track {
    let mut clock = BurnInClock::default();
    for covers in [0, elapsed] {
        clock.advance(Duration::from_secs(covers), None);
    }
    Track {
        phase,
        since: 1_796_000_000_000_000_000,
        lists: Default::default(),
        absent_since: None,
        nodes: BTreeSet::new(),
        clock,
        misses: Misses::default(),
        approvals: Approvals::default(),
        breaker: BreakerState::default(),
    }
}

fn open_miss() -> Misses {
    let miss = Miss {
        policy: "cart".to_owned(),
        path: "/bin/date".to_owned(),
        sha256: String::new(),
        size_bytes: 0,
        role: "target".to_owned(),
        origin: "any".to_owned(),
        reason: "unlisted".to_owned(),
        drift: "unlisted-in-image".to_owned(),
        count: 1,
        was_refused: false,
        first: 0,
        last: 0,
        review: Review::Open,
    };
    Misses {
        kept: [("3f0c2a9b7d11".to_owned(), miss)].into(),
        left_out: 0,
    }
}

fn document(runtime: Runtime) -> LatticeRollout {
    let mut spec = LatticeRolloutSpec::defaults(Environment::Production);
    spec.runtime = runtime;
    LatticeRollout {
        namespace: "payments".to_owned(),
        name: "payments".to_owned(),
        spec,
    }
}

fn state<const N: usize>(tracks: [(&str, Track); N]) -> RolloutState {
    RolloutState {
        tracks: tracks.map(|(workload, track)| (workload.to_owned(), track)).into(),
        ..RolloutState::default()
    }
}

fn told(report: &Report) -> Vec<String> {
    let told = report.conditions.iter();
    told.map(|told| format!("{} {} {}: {}", told.kind, told.holds.word(), told.reason, told.message))
        .collect()
}

#[track_caller]
fn check(document: &LatticeRollout, state: &RolloutState, phase: &str, waiting_for: &str, expected: &[&str]) {
    let report = report(document, state, "", 1_796_000_000_000_000_000);
    assert_eq!(report.status.phase, phase);
    assert_eq!(report.status.waiting_for, waiting_for);
    assert_eq!(told(&report), expected);
}

const PROGRESSING: &str = "Progressing True Progressing: nothing holds it up";
const COMPLETE: &str = "EvidenceComplete True Complete: of every workload all is known";
const WELL: &str = "Degraded False AsExpected: no workload was rolled back";

#[test]
fn a_namespace_without_a_policy_is_pending() {
    let nothing = "no service of the namespace has a policy yet; what monitors and enforces are policies";
    check(
        &document(Runtime::Enforce),
        &RolloutState::default(),
        "Pending",
        "a policy: no service of the namespace has one",
        &[
            &format!("EvidenceComplete Unknown NoPolicy: {nothing}"),
            &format!("GateSatisfied Unknown NoPolicy: {nothing}"),
            "Approved Unknown NotAsked: nobody is asked yet: the gate is not satisfied",
            PROGRESSING,
            WELL,
            &format!("Ready False Pending: {nothing}"),
        ],
    );
}

#[test]
fn what_monitors_says_what_is_missing_and_what_to_do() {
    let mut cart = track(Phase::Monitoring, 2 * DAY + 7);
    cart.misses = open_miss();
    cart.clock.hold = Some("the agent of node-2, which had containers of it, is not connected".to_owned());
    let state = state([("cart", cart), ("ledger", track(Phase::Enforced, 9 * DAY))]);
    let unmet = "the clock is at 1d23h2m24s/1w, the quiet period is at 1d23h31m12s/3d, 1 miss is open";
    check(
        &document(Runtime::Enforce),
        &state,
        "Monitoring",
        &format!(
            "cart: the clock stands still: the agent of node-2, which had containers of it, is not connected; {}",
            unmet.replace(", ", "; ")
        ),
        &[
            "EvidenceComplete False Incomplete: the clock stands still for cart: the agent of node-2, which had containers of it, is not \
             connected. It goes on when that is over",
            &format!(
                "GateSatisfied False MissesOpen: cart: {unmet}. `latticectl rollout misses -n payments` shows the misses: name each in its \
                 service, or dismiss it"
            ),
            "Approved Unknown NotAsked: nobody is asked yet: the gate is not satisfied",
            PROGRESSING,
            WELL,
            "Ready False Progressing: 1 of 2 workloads are enforced",
        ],
    );
}

#[test]
fn who_is_asked_is_told_for_what() {
    let gate = "5b1f0c6d2e91aabbccdd".to_owned();
    let mut ledger = track(Phase::AwaitingApproval { gate: gate.clone() }, 8 * DAY);
    ledger.approvals.0.push(Approved {
        by: "operator sha256:1".to_owned(),
        time: 0,
        gate,
    });
    check(
        &document(Runtime::Enforce),
        &state([("ledger", ledger)]),
        "AwaitingApproval",
        "ledger: 1 of 2 operators have approved",
        &[
            COMPLETE,
            "GateSatisfied True Satisfied: every workload was looked at for long enough, it was quiet, and no miss is open",
            "Approved False AwaitingApproval: operators are asked: ledger: gate 5b1f0c6d2e91, 1 of 2. `latticectl rollout approve -n \
             payments`; each needs a certificate of their own that Cedar lets promote",
            PROGRESSING,
            WELL,
            "Ready False Progressing: 0 of 1 workloads are enforced",
        ],
    );
}

#[test]
fn what_was_taken_back_comes_first() {
    let reason = "the breaker opened: \"/bin/date\" was refused 5 times".to_owned();
    let back = Phase::RolledBack { until: None, reason };
    let canary = Phase::Canary {
        step: 1,
        held: 3_600_000_000_000,
        nodes: ["a".to_owned()].into(),
    };
    let state = state([("api", track(canary, 8 * DAY)), ("cart", track(back, 0))]);
    let mut document = document(Runtime::Enforce);
    let report = report(&document, &state, "", 0);
    assert_eq!(report.status.phase, "RolledBack");
    let order: Vec<_> = report
        .status
        .tracks
        .iter()
        .map(|track| track.workload.as_str())
        .collect();
    assert_eq!(order, ["cart", "api"]);
    let api = &report.status.tracks[1];
    assert_eq!((api.step.as_str(), api.canary_nodes), ("2/3", Some(1)));
    assert_eq!(api.waiting_for, "step 2 of 3 is held 57m36s/12h");
    let degraded = told(&report)
        .into_iter()
        .find(|told| told.starts_with("Degraded"))
        .unwrap();
    assert_eq!(
        degraded,
        "Degraded True RolledBack: cart: the breaker opened: \"/bin/date\" was refused 5 times. Put the list right, then `latticectl \
         rollout resume -n payments`"
    );
    // A rollout with fewer steps than the one that it is at says what there is to say.
    document.spec.steps = vec![Step {
        pods: StepPods::Count(1),
        hold: Timespan::from_seconds(1),
    }];
    let api = super::report(&document, &state, "", 0).status.tracks.remove(1);
    assert_eq!((api.step.as_str(), api.waiting_for.as_str()), ("2/1", ""));
}

#[test]
fn one_that_stays_in_monitor_is_ready_and_one_that_is_overridden_is_not() {
    let state = state([("cart", track(Phase::Monitoring, 60))]);
    let stays = "Ready True StaysInMonitor: the namespace stays in monitor";
    check(
        &document(Runtime::Monitor),
        &state,
        "Monitoring",
        "",
        &[COMPLETE, PROGRESSING, WELL, stays],
    );
    let over = report(&document(Runtime::Monitor), &state, "enforce", 0);
    assert_eq!(
        told(&over).last().unwrap(),
        "Ready False Overridden: the namespace stays in monitor. But `latticectl mode set` says enforce for the namespace, which wins; \
         `latticectl mode clear -n payments` ends that"
    );
}

#[test]
fn what_stands_still_says_how_it_goes_on() {
    let mut state = state([("cart", track(Phase::Monitoring, 8 * DAY))]);
    state.paused = Some(Decided {
        time: 0,
        by: "operator sha256:1".to_owned(),
        reason: "incident 7".to_owned(),
    });
    let document = document(Runtime::Enforce);
    let paused = report(&document, &state, "", 0);
    let progressing = told(&paused)
        .into_iter()
        .find(|told| told.starts_with("Progressing"))
        .unwrap();
    assert_eq!(
        progressing,
        "Progressing False Paused: paused by operator sha256:1: incident 7. `latticectl rollout resume -n payments` goes on"
    );
    assert_eq!(
        paused.status.waiting_for,
        "cart: it is paused by operator sha256:1: incident 7"
    );
}

#[test]
fn a_clock_that_runs_changes_a_status_a_hundred_times_and_not_every_second() {
    let document = document(Runtime::Enforce);
    let at = |seconds| report(&document, &state([("cart", track(Phase::Monitoring, seconds))]), "", 0);
    let mut changes = 0;
    let mut before = at(0);
    for minute in 1..=7 * 24 * 60 {
        let now = at(minute * 60);
        changes += usize::from(now != before);
        before = now;
    }
    // The clock of a week and a quiet period of three days in it.
    assert!((100..=200).contains(&changes), "{changes}");
}

#[test]
fn of_many_workloads_the_least_far_are_shown() {
    let mut tracks = RolloutState::default();
    for number in 0..150 {
        tracks
            .tracks
            .insert(format!("w{number:03}"), track(Phase::Enforced, 8 * DAY));
    }
    tracks.tracks.insert("z".to_owned(), track(Phase::Monitoring, 0));
    let mut gone = track(Phase::Monitoring, 0);
    gone.absent_since = Some(1);
    tracks.tracks.insert("gone".to_owned(), gone);
    let report = report(&document(Runtime::Enforce), &tracks, "", 0);
    assert_eq!(report.status.tracks.len(), 100);
    assert_eq!(report.status.tracks[0].workload, "z");
    let counts = report.status.workloads;
    assert_eq!((counts.total, counts.enforced, counts.monitoring), (151, 150, 1));
}
