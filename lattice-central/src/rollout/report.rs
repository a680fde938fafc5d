//! What is said of a rollout in its object's status: how far each workload is, what it waits for, and what to do.

use lattice_api::{
    crd::{RolloutStatus, TrackStatus, WORKLOADS_SHOWN_MAXIMUM, WorkloadCounts},
    object::{ApprovalMode, LatticeRollout, LatticeRolloutSpec, Runtime, Timespan},
};

use super::{
    machine,
    state::{Phase, RolloutState, Track, UnixNanos},
};
use crate::conditions::{Holds, Told};

/// Digits of a gate that are enough to name it.
const GATE_DIGITS: usize = 12;
/// Bytes of what something waits for.
const WAITING_FOR_BYTES_MAXIMUM: usize = 1_024;
/// A clock is told in so many parts of the time that it takes, so that a status is not written every second for weeks.
const CLOCK_PARTS: u64 = 100;

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// All but the conditions.
    pub status: RolloutStatus,
    /// The conditions.
    pub conditions: Vec<Told>,
}

/// How far a rollout is; `overridden_by` is the mode that `latticectl mode set` holds over it, if any.
pub fn report(document: &LatticeRollout, state: &RolloutState, overridden_by: &str, time: UnixNanos) -> Report {
    let spec = &document.spec;
    let still = machine::standstill(state, spec, time);
    // One without a policy is remembered, but nothing waits for it.
    let tracks: Vec<_> = state
        .tracks
        .iter()
        .filter(|(_, track)| track.absent_since.is_none())
        .collect();
    let mut shown: Vec<_> = tracks
        .iter()
        .map(|(workload, track)| (rank(&track.phase), shown(workload, track, spec, still.as_deref())))
        .collect();
    shown.sort_by(|left, right| (left.0, &left.1.workload).cmp(&(right.0, &right.1.workload)));
    let mut counts = WorkloadCounts {
        total: tracks.len() as u64,
        ..WorkloadCounts::default()
    };
    for (_, track) in &tracks {
        *match track.phase {
            Phase::Monitoring => &mut counts.monitoring,
            Phase::AwaitingApproval { .. } => &mut counts.awaiting_approval,
            Phase::Canary { .. } => &mut counts.canary,
            Phase::Enforced => &mut counts.enforced,
            Phase::RolledBack { .. } => &mut counts.rolled_back,
        } += 1;
    }
    let all = Tracks {
        namespace: &document.namespace,
        spec,
        tracks: &tracks,
    };
    let conditions = all.conditions(still.as_deref(), overridden_by);
    let first = shown.first();
    let waiting_for = match first {
        None => "a policy: no service of the namespace has one".to_owned(),
        Some((_, track)) if track.waiting_for.is_empty() => String::new(),
        Some((_, track)) => format!("{}: {}", named(&track.workload), track.waiting_for),
    };
    let status = RolloutStatus {
        observed_generation: None,
        phase: first.map_or_else(|| "Pending".to_owned(), |(_, track)| track.phase.clone()),
        waiting_for: cut(waiting_for),
        workloads: counts,
        open_misses: tracks.iter().map(|(_, track)| track.misses.open() as u64).sum(),
        tracks: shown
            .into_iter()
            .take(WORKLOADS_SHOWN_MAXIMUM)
            .map(|(_, track)| track)
            .collect(),
        conditions: Vec::new(),
    };
    Report { status, conditions }
}

/// What was taken back first, then what is least far.
fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::RolledBack { .. } => 0,
        Phase::Monitoring => 1,
        Phase::AwaitingApproval { .. } => 2,
        Phase::Canary { .. } => 3,
        Phase::Enforced => 4,
    }
}

fn shown(workload: &str, track: &Track, spec: &LatticeRolloutSpec, still: Option<&str>) -> TrackStatus {
    let burn_in = &spec.burn_in;
    let mut shown = TrackStatus {
        workload: workload.to_owned(),
        phase: track.phase.word().to_owned(),
        since: date_time(track.since),
        clock: clock(track.clock.elapsed.as_secs(), burn_in.min_duration),
        quiet: clock(track.clock.quiet.as_secs(), burn_in.quiet_period),
        open_misses: track.misses.open() as u64,
        waiting_for: cut(waiting_for(track, spec, still)),
        ..TrackStatus::default()
    };
    match &track.phase {
        Phase::AwaitingApproval { gate } => {
            shown.gate = gate.chars().take(GATE_DIGITS).collect();
            if spec.approval.mode == ApprovalMode::Manual {
                shown.approvals = format!("{}/{}", track.approvals.0.len(), spec.approval.approvers);
            }
        }
        Phase::Canary { step, nodes, .. } => {
            shown.step = format!("{}/{}", step + 1, spec.steps.len());
            shown.canary_nodes = Some(nodes.len() as u64);
        }
        Phase::Monitoring | Phase::Enforced | Phase::RolledBack { .. } => {}
    }
    shown
}

/// What a workload waits for; empty where it is where it was to be taken.
fn waiting_for(track: &Track, spec: &LatticeRolloutSpec, still: Option<&str>) -> String {
    let is_to_stay = spec.runtime == Runtime::Monitor && matches!(track.phase, Phase::Monitoring);
    if is_to_stay || matches!(track.phase, Phase::Enforced) {
        return String::new();
    }
    let mut waits: Vec<String> = still.map(|still| format!("it is {still}")).into_iter().collect();
    if let Some(hold) = &track.clock.hold {
        waits.push(format!("the clock stands still: {hold}"));
    }
    match &track.phase {
        Phase::Monitoring => waits.extend(unmet(track, spec)),
        Phase::AwaitingApproval { .. } => waits.push(match spec.approval.mode {
            ApprovalMode::Manual => format!(
                "{} of {} operators have approved",
                track.approvals.0.len(),
                spec.approval.approvers
            ),
            ApprovalMode::Auto => "Cedar permits PromoteEnforcement to Actor::\"lattice-central\"".to_owned(),
        }),
        Phase::Canary { step, held, .. } => {
            if let Some(of_step) = spec.steps.get(*step) {
                let held = clock(held / 1_000_000_000, of_step.hold);
                waits.push(format!("step {} of {} is held {held}", step + 1, spec.steps.len()));
            }
            if track.misses.open() > 0 {
                waits.push("misses are to be reviewed".to_owned());
            }
        }
        Phase::RolledBack { until, reason } => waits.push(match until {
            Some(until) => format!("it was rolled back ({reason}) and begins anew at {}", date_time(*until)),
            None => format!("it was rolled back ({reason}) and begins anew when somebody resumes it"),
        }),
        Phase::Enforced => {}
    }
    waits.join("; ")
}

/// What keeps a workload in monitoring, with clocks told in parts.
fn unmet(track: &Track, spec: &LatticeRolloutSpec) -> Vec<String> {
    let burn_in = &spec.burn_in;
    let mut unmet = Vec::new();
    for (what, have, need) in [
        ("the clock", track.clock.elapsed, burn_in.min_duration),
        ("the quiet period", track.clock.quiet, burn_in.quiet_period),
    ] {
        if have < need.duration() {
            unmet.push(format!("{what} is at {}", clock(have.as_secs(), need)));
        }
    }
    match track.misses.open() {
        0 => {}
        1 => unmet.push("1 miss is open".to_owned()),
        count => unmet.push(format!("{count} misses are open")),
    }
    unmet
}

/// The workloads that have a policy.
struct Tracks<'a> {
    namespace: &'a str,
    spec: &'a LatticeRolloutSpec,
    tracks: &'a [(&'a String, &'a Track)],
}

impl Tracks<'_> {
    fn conditions(&self, still: Option<&str>, overridden_by: &str) -> Vec<Told> {
        let mut conditions = vec![self.evidence()];
        if self.spec.runtime == Runtime::Enforce {
            conditions.extend([self.gate(), self.approved()]);
        }
        conditions.push(match still {
            None => Told::new(
                "Progressing",
                Holds::True,
                "Progressing",
                "nothing holds it up".to_owned(),
            ),
            Some(still) => {
                let reason = if still.starts_with("frozen") {
                    "Frozen"
                } else {
                    "Paused"
                };
                let message = match reason {
                    "Paused" if self.spec.paused => format!("{still}. Set `paused` to false to go on"),
                    "Paused" => format!("{still}. `latticectl rollout resume -n {}` goes on", self.namespace),
                    _ => format!("{still}. It goes on by itself when the window is over"),
                };
                Told::new("Progressing", Holds::False, reason, message)
            }
        });
        conditions.extend([self.degraded(), self.ready(overridden_by)]);
        conditions
    }

    /// What is to be said of each workload of which something holds.
    fn those(&self, say: impl Fn(&Track) -> Option<String>) -> Vec<String> {
        let said = self.tracks.iter();
        said.filter_map(|(workload, track)| Some(format!("{}: {}", named(workload), say(track)?)))
            .collect()
    }

    fn evidence(&self) -> Told {
        let kind = "EvidenceComplete";
        if self.tracks.is_empty() {
            return Told::new(kind, Holds::Unknown, "NoPolicy", self.no_policy());
        }
        let held = self.those(|track| track.clock.hold.clone());
        if held.is_empty() {
            return Told::new(
                kind,
                Holds::True,
                "Complete",
                "of every workload all is known".to_owned(),
            );
        }
        let message = format!(
            "the clock stands still for {}. It goes on when that is over",
            several(&held)
        );
        Told::new(kind, Holds::False, "Incomplete", message)
    }

    fn gate(&self) -> Told {
        let kind = "GateSatisfied";
        if self.tracks.is_empty() {
            return Told::new(kind, Holds::Unknown, "NoPolicy", self.no_policy());
        }
        let unmet = self.those(|track| match track.phase {
            Phase::Monitoring => Some(unmet(track, self.spec).join(", ")).filter(|unmet| !unmet.is_empty()),
            Phase::RolledBack { .. } => Some("it was rolled back".to_owned()),
            _ => None,
        });
        let misses: usize = self.tracks.iter().map(|(_, track)| track.misses.open()).sum();
        if unmet.is_empty() {
            let message = "every workload was looked at for long enough, it was quiet, and no miss is open".to_owned();
            return Told::new(kind, Holds::True, "Satisfied", message);
        }
        let (reason, what_to_do) = match misses {
            0 => ("BurnIn", String::new()),
            _ => (
                "MissesOpen",
                format!(
                    ". `latticectl rollout misses -n {}` shows the misses: name each in its service, or dismiss it",
                    self.namespace
                ),
            ),
        };
        Told::new(kind, Holds::False, reason, format!("{}{what_to_do}", several(&unmet)))
    }

    fn approved(&self) -> Told {
        let kind = "Approved";
        let asked = self.those(|track| match &track.phase {
            Phase::AwaitingApproval { gate } => {
                let digits: String = gate.chars().take(GATE_DIGITS).collect();
                let (have, need) = (track.approvals.0.len(), self.spec.approval.approvers);
                Some(format!("gate {digits}, {have} of {need}"))
            }
            _ => None,
        });
        if !asked.is_empty() {
            return match self.spec.approval.mode {
                ApprovalMode::Manual => {
                    let message = format!(
                        "operators are asked: {}. `latticectl rollout approve -n {}`; each needs a certificate of their own that Cedar lets \
                         promote",
                        several(&asked),
                        self.namespace
                    );
                    Told::new(kind, Holds::False, "AwaitingApproval", message)
                }
                ApprovalMode::Auto => {
                    let message =
                        "no Cedar policy permits PromoteEnforcement of this namespace to Actor::\"lattice-central\""
                            .to_owned();
                    Told::new(kind, Holds::False, "NotPermitted", message)
                }
            };
        }
        let is_past = |track: &Track| matches!(track.phase, Phase::Canary { .. } | Phase::Enforced);
        if !self.tracks.is_empty() && self.tracks.iter().all(|(_, track)| is_past(track)) {
            return Told::new(
                kind,
                Holds::True,
                "Approved",
                "what is enforced was approved".to_owned(),
            );
        }
        let message = "nobody is asked yet: the gate is not satisfied".to_owned();
        Told::new(kind, Holds::Unknown, "NotAsked", message)
    }

    fn degraded(&self) -> Told {
        let kind = "Degraded";
        let back = self.those(|track| match &track.phase {
            Phase::RolledBack { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        if back.is_empty() {
            return Told::new(
                kind,
                Holds::False,
                "AsExpected",
                "no workload was rolled back".to_owned(),
            );
        }
        let message = format!(
            "{}. Put the list right, then `latticectl rollout resume -n {}`",
            several(&back),
            self.namespace
        );
        Told::new(kind, Holds::True, "RolledBack", message)
    }

    fn ready(&self, overridden_by: &str) -> Told {
        let over = match overridden_by {
            "" => String::new(),
            mode => format!(
                ". But `latticectl mode set` says {mode} for the namespace, which wins; `latticectl mode clear -n {}` ends that",
                self.namespace
            ),
        };
        let (holds, reason, message) = match self.spec.runtime {
            _ if self.tracks.is_empty() => (Holds::False, "Pending", self.no_policy()),
            Runtime::Monitor => (
                Holds::True,
                "StaysInMonitor",
                "the namespace stays in monitor".to_owned(),
            ),
            Runtime::Enforce => {
                let enforced = |track: &Track| matches!(track.phase, Phase::Enforced);
                let count = self.tracks.iter().filter(|(_, track)| enforced(track)).count();
                let message = format!("{count} of {} workloads are enforced", self.tracks.len());
                match count == self.tracks.len() {
                    true => (Holds::True, "Enforced", message),
                    false => (Holds::False, "Progressing", message),
                }
            }
        };
        match over.is_empty() {
            true => Told::new("Ready", holds, reason, message),
            false => Told::new("Ready", Holds::False, "Overridden", format!("{message}{over}")),
        }
    }

    fn no_policy(&self) -> String {
        "no service of the namespace has a policy yet; what monitors and enforces are policies".to_owned()
    }
}

/// A few of many.
fn several(of: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = of.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    match of.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown}; and {more} more"),
    }
}

fn named(workload: &str) -> &str {
    if workload.is_empty() {
        "the whole namespace"
    } else {
        workload
    }
}

fn clock(seconds: u64, of: Timespan) -> String {
    let part = (of.seconds() / CLOCK_PARTS).max(1);
    let seconds = if seconds >= of.seconds() {
        of.seconds()
    } else {
        seconds - seconds % part
    };
    format!("{}/{of}", Timespan::from_seconds(seconds))
}

fn date_time(time: UnixNanos) -> String {
    let time = i64::try_from(time).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_nanos(time).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(WAITING_FOR_BYTES_MAXIMUM));
    text
}

#[cfg(test)]
mod tests;
