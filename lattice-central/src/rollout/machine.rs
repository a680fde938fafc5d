//! The machine: from a state, and what is known now, to the next state, and what is to be told. No I/O, no clock.

use std::{collections::BTreeMap, time::Duration};

use lattice_api::object::{ApprovalMode, LatticeRolloutSpec, OnOpen, Runtime, Step};

use super::{
    breaker::BreakerState,
    clock::BurnInClock,
    evidence::Evidence,
    gate::{self, Approvals, CENTRAL},
    miss::Misses,
    state::{Decided, List, Phase, RolloutState, Track, Transition, UnixNanos},
    steps,
};

/// Who changes something by what stands in the LatticeRollout.
const DOCUMENT: &str = "the LatticeRollout";

/// A workload without a policy is remembered for so long.
const REMEMBERED_WITHOUT_POLICY: Duration = Duration::from_secs(24 * 3_600);

/// What a step of the machine goes by.
pub struct Now<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// What its LatticeRollout says.
    pub spec: &'a LatticeRolloutSpec,
    /// What is known.
    pub evidence: &'a Evidence,
    /// The time.
    pub time: UnixNanos,
}

/// One step.
pub fn advance(mut state: RolloutState, now: &Now<'_>) -> (RolloutState, Vec<Transition>) {
    let mut told = Vec::new();
    take_lists(&mut state, now, &mut told);
    let still = standstill(&state, now.spec, now.time);
    let mut opened = None;
    for (workload, track) in &mut state.tracks {
        let mut step = TrackStep {
            now,
            workload,
            still: still.as_deref(),
            told: &mut told,
        };
        opened = opened.or(step.run(track));
    }
    if let Some(reason) = opened {
        state.paused = state.paused.or_else(|| {
            Some(Decided {
                time: now.time,
                by: CENTRAL.to_owned(),
                reason,
            })
        });
    }
    state.cursor = state.cursor.max(now.evidence.cursor);
    (state, told)
}

/// Why nothing is promoted; `None` where it may be.
pub fn standstill(state: &RolloutState, spec: &LatticeRolloutSpec, time: UnixNanos) -> Option<String> {
    if spec.paused {
        return Some("paused by the LatticeRollout".to_owned());
    }
    if let Some(Decided { by, reason, .. }) = &state.paused {
        return Some(format!("paused by {by}: {reason}"));
    }
    let seconds = time / 1_000_000_000;
    let frozen = spec.freeze_windows.iter().find(|window| window.holds(seconds))?;
    Some(match frozen.reason.as_str() {
        "" => "frozen".to_owned(),
        reason => format!("frozen: {reason}"),
    })
}

/// Which workloads there are, by the policies: what is new begins in monitoring, what is gone ends.
fn take_lists(state: &mut RolloutState, now: &Now<'_>, told: &mut Vec<Transition>) {
    let mut found: BTreeMap<String, BTreeMap<String, List>> = BTreeMap::new();
    for facts in &now.evidence.policies {
        let workload = facts.policy.target.workload.clone().unwrap_or_default();
        let lists = found.entry(workload).or_default();
        lists.insert(facts.policy.name.clone(), facts.list.clone());
    }
    state.tracks.retain(|workload, track| {
        if found.contains_key(workload) {
            track.absent_since = None;
            return true;
        }
        // A file that is replaced, or read again after a restart, is away for a moment.
        let since = *track.absent_since.get_or_insert(now.time);
        let is_over = u128::from(now.time.saturating_sub(since)) >= REMEMBERED_WITHOUT_POLICY.as_nanos();
        if is_over {
            let reason = "it has no policy any more";
            told.push(transition(
                now,
                workload,
                track,
                track.phase.word(),
                "",
                CENTRAL,
                reason,
            ));
        }
        !is_over
    });
    for (workload, lists) in found {
        let Some(track) = state.tracks.get_mut(&workload) else {
            let track = Track {
                phase: Phase::Monitoring,
                since: now.time,
                lists,
                absent_since: None,
                nodes: Default::default(),
                clock: BurnInClock::default(),
                misses: Misses::default(),
                approvals: Approvals::default(),
                breaker: BreakerState::default(),
            };
            told.push(transition(
                now,
                &workload,
                &track,
                "",
                track.phase.word(),
                CENTRAL,
                "its list is new",
            ));
            state.tracks.insert(workload, track);
            continue;
        };
        let other = lists.iter().find(|(name, list)| {
            let before = track.lists.get(*name);
            !before.is_some_and(|before| list.continues(before))
        });
        if let Some((name, _)) = other {
            let reason = format!("policy {name} is for another image, with another list");
            track.clock.restart();
            track.approvals = Approvals::default();
            if !matches!(track.phase, Phase::RolledBack { .. }) {
                enter(track, Phase::Monitoring, now, &workload, CENTRAL, &reason, told);
            }
        }
        track.lists = lists;
    }
}

/// One step of one track.
struct TrackStep<'a, 'n> {
    now: &'a Now<'n>,
    workload: &'a str,
    still: Option<&'a str>,
    told: &'a mut Vec<Transition>,
}

impl TrackStep<'_, '_> {
    /// The reason, where the breaker opened and all is to stand still.
    fn run(&mut self, track: &mut Track) -> Option<String> {
        let Now {
            spec, evidence, time, ..
        } = *self.now;
        self.take_events(track);
        for facts in &evidence.policies {
            if track.lists.contains_key(&facts.policy.name) {
                track.misses.settle(&facts.policy);
            }
        }
        self.find_nodes(track);
        let hold = match track.absent_since {
            Some(_) => Some("it has no policy".to_owned()),
            None => evidence.hold(self.workload, &track.lists, &track.nodes),
        };
        let counted = track.clock.advance(evidence.covers, hold);
        if matches!(track.phase, Phase::Canary { .. } | Phase::Enforced)
            && let Some(reason) = track.breaker.look(&spec.breaker, evidence, time)
        {
            return self.open(track, reason);
        }
        if spec.runtime == Runtime::Monitor {
            if !matches!(track.phase, Phase::Monitoring) {
                self.go(
                    track,
                    Phase::Monitoring,
                    DOCUMENT,
                    "the namespace is to stay in monitor",
                );
            }
            return None;
        }
        self.progress(track, counted);
        None
    }

    fn take_events(&mut self, track: &mut Track) {
        let Now { evidence, time, .. } = *self.now;
        for violation in &evidence.violations {
            let is_ours = track.lists.contains_key(&violation.policy)
                || (violation.policy.is_empty() && violation.workload == self.workload);
            if !is_ours {
                continue;
            }
            // What is denied is refused whatever a list says.
            if violation.drift != "denylisted" && track.misses.take(violation, time) {
                track.clock.disturbed();
                if matches!(track.phase, Phase::AwaitingApproval { .. }) {
                    let reason = format!("{:?} is on no list", violation.path);
                    track.approvals = Approvals::default();
                    self.go(track, Phase::Monitoring, CENTRAL, &reason);
                }
            }
            track.breaker.take(violation, time);
        }
        // What was lost may have been a miss.
        if track.nodes.iter().any(|node| evidence.gaps.contains_key(node)) {
            track.clock.disturbed();
        }
    }

    /// Which nodes have containers of it; one that is not connected keeps those that it had.
    fn find_nodes(&self, track: &mut Track) {
        let evidence = self.now.evidence;
        let pods = evidence.pods(&track.lists);
        track.nodes.retain(|node| {
            let is_connected = evidence.nodes.get(node).is_some_and(|facts| facts.is_connected);
            !is_connected || pods.contains_key(node.as_str())
        });
        track.nodes.extend(pods.keys().map(|node| (*node).to_owned()));
    }

    fn open(&mut self, track: &mut Track, reason: String) -> Option<String> {
        let Now { spec, time, .. } = *self.now;
        let until = track.breaker.open(&spec.breaker, time);
        let reason = format!("the breaker opened: {reason}");
        match spec.breaker.on_open {
            OnOpen::Monitor => {
                track.clock.restart();
                track.approvals = Approvals::default();
                let phase = Phase::RolledBack {
                    until,
                    reason: reason.clone(),
                };
                self.go(track, phase, CENTRAL, &reason);
                None
            }
            OnOpen::Pause => {
                let word = track.phase.word();
                self.told
                    .push(transition(self.now, self.workload, track, word, word, CENTRAL, &reason));
                Some(reason)
            }
        }
    }

    fn progress(&mut self, track: &mut Track, counted: Duration) {
        let Now {
            namespace,
            spec,
            evidence,
            time,
        } = *self.now;
        let is_complete = track.clock.hold.is_none();
        match &mut track.phase {
            Phase::Monitoring => {
                if self.still.is_none() && is_complete && gate::unmet(track, spec).is_empty() {
                    let gate = gate::snapshot(namespace, self.workload, track, spec);
                    let phase = Phase::AwaitingApproval { gate };
                    self.go(
                        track,
                        phase,
                        CENTRAL,
                        "the clock is full, it was quiet, and no miss is open",
                    );
                    self.promote(track, is_complete);
                }
            }
            Phase::AwaitingApproval { gate: asked } => {
                let asked = asked.clone();
                if let Some(unmet) = gate::unmet(track, spec).first().cloned() {
                    track.approvals = Approvals::default();
                    self.go(track, Phase::Monitoring, CENTRAL, &unmet);
                    return;
                }
                let gate = gate::snapshot(namespace, self.workload, track, spec);
                for by in track.approvals.expire(&gate, time) {
                    let word = track.phase.word();
                    let reason = format!("the approval of {by} does not count any more");
                    self.told
                        .push(transition(self.now, self.workload, track, word, word, CENTRAL, &reason));
                }
                if gate != asked {
                    track.phase = Phase::AwaitingApproval { gate };
                }
                self.promote(track, is_complete);
            }
            Phase::Canary { step, held, nodes } => {
                let of_step = spec.steps.get(*step).copied();
                *held = held.saturating_add(u64::try_from(counted.as_nanos()).unwrap_or(u64::MAX));
                if self.still.is_some() || !is_complete {
                    return;
                }
                if let Some(Step { pods, hold }) = of_step {
                    *nodes = steps::nodes(namespace, pods, &evidence.pods(&track.lists), nodes);
                    if u128::from(*held) < hold.duration().as_nanos() {
                        return;
                    }
                }
                let next = *step + 1;
                if track.misses.open() == 0 {
                    self.enter_step(track, next, CENTRAL);
                }
            }
            Phase::RolledBack { until, .. } => {
                if self.still.is_none() && until.is_some_and(|until| until <= time) {
                    track.clock.restart();
                    self.go(track, Phase::Monitoring, CENTRAL, "the back-off is over");
                }
            }
            Phase::Enforced => {}
        }
    }

    /// Goes on where enough people agree, or nobody must.
    fn promote(&mut self, track: &mut Track, is_complete: bool) {
        let Now { spec, evidence, .. } = *self.now;
        if self.still.is_some() || !is_complete || !track.approvals.are_enough(spec, evidence) {
            return;
        }
        let by = match spec.approval.mode {
            ApprovalMode::Auto => CENTRAL.to_owned(),
            ApprovalMode::Manual => track.approvals.counting(evidence).join(", "),
        };
        self.enter_step(track, 0, &by);
    }

    fn enter_step(&mut self, track: &mut Track, step: usize, by: &str) {
        let Now {
            namespace,
            spec,
            evidence,
            ..
        } = *self.now;
        let Some(Step { pods, hold }) = spec.steps.get(step) else {
            self.go(track, Phase::Enforced, by, "all steps are done");
            return;
        };
        let already = match &track.phase {
            Phase::Canary { nodes, .. } => nodes.clone(),
            _ => Default::default(),
        };
        let nodes = steps::nodes(namespace, *pods, &evidence.pods(&track.lists), &already);
        let names: Vec<_> = nodes.iter().map(String::as_str).collect();
        let reason = format!(
            "step {} of {}: at least {pods} of the pods, on {}, for {hold}",
            step + 1,
            spec.steps.len(),
            names.join(", ")
        );
        self.go(track, Phase::Canary { step, held: 0, nodes }, by, &reason);
    }

    fn go(&mut self, track: &mut Track, phase: Phase, by: &str, reason: &str) {
        enter(track, phase, self.now, self.workload, by, reason, self.told);
    }
}

/// Enters a phase, and says so.
pub(super) fn enter(
    track: &mut Track,
    phase: Phase,
    now: &Now<'_>,
    workload: &str,
    by: &str,
    reason: &str,
    told: &mut Vec<Transition>,
) {
    told.push(transition(
        now,
        workload,
        track,
        track.phase.word(),
        phase.word(),
        by,
        reason,
    ));
    (track.phase, track.since) = (phase, now.time);
}

/// What is told of a track, with what is known of it now.
pub(super) fn transition(
    now: &Now<'_>,
    workload: &str,
    track: &Track,
    from: &str,
    to: &str,
    by: &str,
    reason: &str,
) -> Transition {
    Transition {
        workload: workload.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        by: by.to_owned(),
        reason: reason.to_owned(),
        evidence: gate::evidence_hash(now.namespace, workload, track, now.spec),
    }
}
