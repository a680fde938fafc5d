//! What a rollout would have come to, had a candidate been the lists: the same machine, over what is recorded. No I/O, no clock.
//!
//! ```text
//!   candidate (policies, rollout) ─────────────┐
//!   recorded violations, gaps ─ by time ───────┼─► evidence, a step each ─► machine ─► transitions, misses, breaker
//!   containers, now and in the events ─────────┘
//! ```
//!
//! What is recorded is what no list allowed, and what was lost; never what was allowed. So an entry that the candidate has not, and the list in
//! force has, is an open question: `Outcome::Unknown`. Where nothing else is recorded it is assumed: containers ran all the time, their agents
//! were connected, and whoever had to approve did so at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lattice_api::object::{ApprovalMode, LatticeRolloutSpec};
use lattice_policy::{Entry, ExecPolicy, Origin};

use super::{
    evidence::{ContainerFacts, Evidence, NodeFacts, PolicyFacts, ViolationFacts, list_of},
    machine::{self, Now},
    miss::{self, Miss, Program, Review},
    state::{Decided, RolloutState, Track, Transition, UnixNanos},
};

const SECOND: u64 = 1_000_000_000;
/// Steps over the whole time; around an event they are a second each, as the driver's.
const STEPS: u64 = 20_000;
/// What holds a pod's namespaces; only a policy that names it is for it.
const SANDBOX_NAME: &str = "POD";

/// What is tried out.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The namespace.
    pub namespace: String,
    /// By which rules.
    pub spec: LatticeRolloutSpec,
    /// The lists.
    pub policies: Vec<ExecPolicy>,
}

/// A container, as it was told of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its node.
    pub node: String,
    /// Unique on its node.
    pub id: String,
    /// Its pod.
    pub pod: String,
    /// Its workload.
    pub workload: String,
    /// Its name in the pod.
    pub name: String,
    /// Its image, `sha256:…`; empty where it is not known.
    pub image: String,
}

/// Something that is recorded.
#[derive(Debug, Clone)]
pub enum Recorded {
    /// A program that no list allowed.
    Violation {
        /// Where.
        place: Place,
        /// What.
        facts: Box<ViolationFacts>,
    },
    /// Events that were lost.
    Gap {
        /// When, by the node's clock.
        time: UnixNanos,
        /// The node.
        node: String,
        /// Which.
        text: String,
    },
}

/// What a simulation goes by.
pub struct Question<'a> {
    /// What is tried out.
    pub candidate: &'a Candidate,
    /// The namespace's policies as they are.
    pub in_force: &'a [Arc<ExecPolicy>],
    /// What operators have dismissed.
    pub dismissed: &'a [(Miss, Decided)],
    /// The namespace's containers.
    pub containers: &'a [Place],
    /// What is recorded, of the namespace; gaps of all nodes.
    pub recorded: &'a [Recorded],
    /// When it begins.
    pub from: UnixNanos,
    /// When it ends.
    pub until: UnixNanos,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// In one word.
    pub outcome: Outcome,
    /// How many recorded programs came to what.
    pub counts: Counts,
    /// Where each workload of the candidate is at the end.
    pub tracks: BTreeMap<String, Track>,
    /// What happened, when.
    pub transitions: Vec<(UnixNanos, Transition)>,
    /// What the lists in force allow and the candidate does not.
    pub dropped: Vec<Dropped>,
    /// Policies of the candidate of which nothing is known: no container, no event.
    pub unseen: Vec<String>,
}

/// What came of it, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that is recorded would be refused.
    Passes,
    /// Something would.
    Refuses,
    /// Nothing that is recorded would, but not all that the candidate refuses is recorded.
    Unknown,
}

impl Outcome {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Refuses => "refuses",
            Self::Unknown => "unknown",
        }
    }
}

/// How many recorded programs came to what; counts of repetitions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// In containers of the candidate's policies.
    pub violations: u64,
    /// The candidate allows them.
    pub allowed: u64,
    /// It does not.
    pub refused: u64,
    /// Of both: judged by path alone, since the image was another one than the candidate's.
    pub by_path: u64,
    /// In containers that no policy of the candidate is for.
    pub of_others: u64,
    /// Gaps, on nodes with containers of the candidate.
    pub gaps: u64,
}

/// An entry that is in force and that the candidate has not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropped {
    /// The candidate's policy.
    pub policy: String,
    /// The program.
    pub path: String,
    /// As what it may start.
    pub role: String,
}

/// What is recorded, as the candidate has it.
struct Judged {
    time: UnixNanos,
    /// `None`: events were lost.
    violation: Option<ViolationFacts>,
    node: String,
    text: String,
}

/// Runs the machine over what is recorded.
pub fn simulate(question: &Question<'_>) -> Simulation {
    let all = Lists::of(question);
    let mut counts = Counts::default();
    let containers = containers(question, &all);
    let nodes: BTreeSet<&str> = containers.values().map(|container| container.node.as_str()).collect();
    let mut judged: Vec<Judged> = Vec::new();
    for recorded in question.recorded {
        match recorded {
            Recorded::Violation { place, facts } => judged.extend(judge(question, &all, place, facts, &mut counts)),
            Recorded::Gap { time, node, text } if nodes.contains(node.as_str()) => {
                counts.gaps += 1;
                judged.push(Judged {
                    time: (*time).clamp(question.from, question.until),
                    violation: None,
                    node: node.clone(),
                    text: text.clone(),
                });
            }
            Recorded::Gap { .. } => {}
        }
    }
    judged.sort_by_key(|judged| judged.time);
    let mut spec = question.candidate.spec.clone();
    spec.approval.mode = ApprovalMode::Auto;
    spec.paused = false;
    let evidence = Evidence {
        policies: question.candidate.policies.iter().map(facts_of).collect(),
        containers: containers.values().cloned().collect(),
        nodes: nodes
            .iter()
            .map(|node| {
                let facts = NodeFacts {
                    is_connected: true,
                    ..NodeFacts::default()
                };
                ((*node).to_owned(), facts)
            })
            .collect(),
        ..Evidence::default()
    };
    let run = Run {
        namespace: &question.candidate.namespace,
        spec: &spec,
        evidence,
        state: RolloutState::default(),
        transitions: Vec::new(),
        time: question.from,
    };
    let (state, transitions) = run.over(question, judged);
    let dropped = all.dropped(question);
    let seen: BTreeSet<&str> = containers
        .values()
        .filter_map(|container| container.policy.as_deref())
        .collect();
    let policies = question.candidate.policies.iter().map(|policy| policy.name.clone());
    let unseen: Vec<String> = policies.filter(|name| !seen.contains(name.as_str())).collect();
    let is_refused = |track: &Track| track.misses.open() > 0 || track.breaker.opened > 0;
    let outcome = if state.tracks.values().any(is_refused) {
        Outcome::Refuses
    } else if dropped.is_empty() && unseen.is_empty() {
        Outcome::Passes
    } else {
        Outcome::Unknown
    };
    Simulation {
        outcome,
        counts,
        tracks: state.tracks,
        transitions,
        dropped,
        unseen,
    }
}

/// The candidate's policies, and those in force that it leaves alone.
struct Lists<'a> {
    candidate: Vec<&'a ExecPolicy>,
    others: Vec<&'a ExecPolicy>,
}

impl<'a> Lists<'a> {
    fn of(question: &Question<'a>) -> Self {
        let candidate: Vec<&ExecPolicy> = question.candidate.policies.iter().collect();
        let is_replaced = |policy: &ExecPolicy| candidate.iter().any(|new| replaces(new, policy));
        let others = question.in_force.iter().map(Arc::as_ref);
        Self {
            others: others.filter(|policy| !is_replaced(policy)).collect(),
            candidate,
        }
    }

    /// The candidate's policy for a container: the most specific of all, as on a node; which image it is for does not count, since a
    /// candidate is often of the next one.
    fn policy_for(&self, place: &Place) -> Option<&'a ExecPolicy> {
        let of_candidate = self.candidate.iter().map(|policy| (*policy, true));
        let all = of_candidate.chain(self.others.iter().map(|policy| (*policy, false)));
        let matching = all.filter(|(policy, _)| is_for(policy, place));
        let best = matching.max_by_key(|(policy, _)| {
            let target = &policy.target;
            let specificity = u32::from(target.container.is_some()) + u32::from(target.workload.is_some());
            (specificity, std::cmp::Reverse(&policy.name))
        });
        best.filter(|(_, is_candidate)| *is_candidate).map(|(policy, _)| policy)
    }

    fn dropped(&self, question: &Question<'_>) -> Vec<Dropped> {
        let mut dropped = BTreeSet::new();
        for new in &self.candidate {
            for old in question.in_force.iter().filter(|old| replaces(new, old)) {
                let is_same_image = old.target.image_digest == new.target.image_digest;
                for entry in &old.entries {
                    for role in &entry.roles {
                        let has = |other: &Entry| {
                            let is_it = other.path == entry.path && (!is_same_image || other.sha256 == entry.sha256);
                            let is_from = other.from == Origin::Any || other.from == entry.from;
                            is_it && is_from && other.roles.contains(role)
                        };
                        if !new.entries.iter().any(has) {
                            dropped.insert(Dropped {
                                policy: new.name.clone(),
                                path: String::from_utf8_lossy(entry.path.as_bytes()).into_owned(),
                                role: role.word().to_owned(),
                            });
                        }
                    }
                }
            }
        }
        dropped.into_iter().collect()
    }
}

/// Whether a policy takes the place of another: it has its name, or is for the same containers.
fn replaces(new: &ExecPolicy, old: &ExecPolicy) -> bool {
    let (new_target, old_target) = (&new.target, &old.target);
    new.name == old.name || (new_target.workload == old_target.workload && new_target.container == old_target.container)
}

fn is_for(policy: &ExecPolicy, place: &Place) -> bool {
    let target = &policy.target;
    let is_workload = target
        .workload
        .as_ref()
        .is_none_or(|workload| *workload == place.workload);
    is_workload
        && match &target.container {
            Some(container) => *container == place.name,
            None => place.name != SANDBOX_NAME,
        }
}

fn facts_of(policy: &ExecPolicy) -> PolicyFacts {
    PolicyFacts {
        list: list_of(policy),
        policy: Arc::new(policy.clone()),
    }
}

/// The containers of the candidate, those of the events included.
fn containers(question: &Question<'_>, lists: &Lists<'_>) -> BTreeMap<Place, ContainerFacts> {
    let of_events = question.recorded.iter().filter_map(|recorded| match recorded {
        Recorded::Violation { place, .. } => Some(place),
        Recorded::Gap { .. } => None,
    });
    let mut containers = BTreeMap::new();
    for place in question.containers.iter().chain(of_events) {
        if let Some(policy) = lists.policy_for(place) {
            let facts = ContainerFacts {
                node: place.node.clone(),
                id: place.id.clone(),
                pod: place.pod.clone(),
                workload: place.workload.clone(),
                policy: Some(policy.name.clone()),
            };
            containers.insert(place.clone(), facts);
        }
    }
    containers
}

/// What a recorded violation would be under the candidate; `None` where it would be none, or is none of the candidate's.
fn judge(
    question: &Question<'_>,
    lists: &Lists<'_>,
    place: &Place,
    facts: &ViolationFacts,
    counts: &mut Counts,
) -> Option<Judged> {
    let Some(policy) = lists.policy_for(place) else {
        counts.of_others += facts.count;
        return None;
    };
    counts.violations += facts.count;
    let image = policy.target.image_digest.map(|digest| digest.to_string());
    let is_of_its_image = image.is_none_or(|image| place.image.is_empty() || place.image == image);
    // A file of an older image has other bytes in the new one; which, nobody has recorded.
    let (sha256, size_bytes) = match is_of_its_image {
        true => (facts.sha256.as_str(), Some(facts.size_bytes)),
        false => ("", None),
    };
    counts.by_path += if is_of_its_image { 0 } else { facts.count };
    let program = Program {
        path: &facts.path,
        sha256,
        size_bytes,
        role: &facts.role,
        origin: &facts.origin,
        reason: &facts.reason,
    };
    // What is denied is refused whatever a list says.
    if facts.drift != "denylisted" && miss::allows(policy, &program) {
        counts.allowed += facts.count;
        return None;
    }
    counts.refused += facts.count;
    let time = facts.time.clamp(question.from, question.until);
    Some(Judged {
        time,
        node: facts.node.clone(),
        text: String::new(),
        violation: Some(ViolationFacts {
            policy: policy.name.clone(),
            time,
            ..facts.clone()
        }),
    })
}

/// The machine on its way.
struct Run<'a> {
    namespace: &'a str,
    spec: &'a LatticeRolloutSpec,
    evidence: Evidence,
    state: RolloutState,
    transitions: Vec<(UnixNanos, Transition)>,
    time: UnixNanos,
}

impl Run<'_> {
    fn over(mut self, question: &Question<'_>, judged: Vec<Judged>) -> (RolloutState, Vec<(UnixNanos, Transition)>) {
        let coarse = ((question.until - question.from) / STEPS).max(SECOND);
        self.step(question.from, Vec::new());
        self.dismiss(question.dismissed);
        let mut judged = judged.into_iter().peekable();
        let mut was_event = true;
        while self.time < question.until || judged.peek().is_some() {
            let step = if was_event { SECOND } else { coarse };
            let mut next = self.time.saturating_add(step).min(question.until);
            if let Some(first) = judged.peek()
                && first.time <= next
            {
                // All is told in the second in which it happens.
                let before = first.time.saturating_sub(SECOND);
                next = if before > self.time {
                    before
                } else {
                    first.time.max(self.time)
                };
            }
            let mut now = Vec::new();
            while let Some(event) = judged.next_if(|event| event.time <= next) {
                now.push(event);
            }
            was_event = !now.is_empty();
            self.step(next, now);
        }
        (self.state, self.transitions)
    }

    fn step(&mut self, time: UnixNanos, judged: Vec<Judged>) {
        self.evidence.covers = Duration::from_nanos(time.saturating_sub(self.time));
        self.time = time;
        (self.evidence.violations, self.evidence.gaps) = Default::default();
        if !judged.is_empty() {
            let governed = self.state.governed();
            for event in judged {
                match event.violation {
                    None => drop(self.evidence.gaps.insert(event.node, event.text)),
                    Some(mut violation) => {
                        let reach = governed.get(&violation.policy).map(|governed| &governed.reach);
                        violation.is_refused = reach.is_some_and(|reach| {
                            reach.mode(&event.node, lattice_policy::Mode::Enforce) != lattice_policy::Mode::Monitor
                        });
                        self.evidence.violations.push(violation);
                    }
                }
            }
        }
        let now = Now {
            namespace: self.namespace,
            spec: self.spec,
            evidence: &self.evidence,
            time,
        };
        let (state, told) = machine::advance(std::mem::take(&mut self.state), &now);
        self.state = state;
        self.transitions.extend(told.into_iter().map(|told| (time, told)));
    }

    /// What operators have dismissed of a policy of the same name stays so.
    fn dismiss(&mut self, dismissed: &[(Miss, Decided)]) {
        for (miss, why) in dismissed {
            let track = self
                .state
                .tracks
                .values_mut()
                .find(|track| track.lists.contains_key(&miss.policy));
            if let Some(track) = track {
                let review = Review::Dismissed(why.clone());
                let miss = Miss {
                    count: 0,
                    review,
                    ..miss.clone()
                };
                track.misses.kept.insert(miss.id(), miss);
            }
        }
    }
}
