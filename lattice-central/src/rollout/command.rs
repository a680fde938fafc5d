//! What operators say to a rollout.

use lattice_api::object::ApprovalMode;

use super::{
    gate::{self, Approvals, Approved},
    machine::{Now, enter, transition},
    state::{Decided, Phase, RolloutState, Track, Transition},
};

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What.
    pub action: Action,
    /// Of which workload; `None` for all.
    pub workload: Option<String>,
    /// Who says it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To agree to what is known, or to that gate alone.
    Approve {
        /// First digits of the gate's hash; empty for whatever is asked now.
        gate: String,
    },
    /// That it stands still.
    Pause,
    /// That it goes on; what was taken back begins anew.
    Resume,
    /// That what is enforced is taken back.
    RollBack,
    /// That these misses are not to be listed.
    Dismiss(Vec<String>),
}

/// Why it is not done; then nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such workload.
    #[error("workload {0} has no policy in this namespace")]
    NoWorkload(String),
    /// Nobody is asked.
    #[error("nothing awaits approval: {0}")]
    NotAsked(String),
    /// Approvals are not asked for.
    #[error("the LatticeRollout says `approval.mode: auto`: nobody needs to approve")]
    Auto,
    /// The same certificate again.
    #[error(
        "{0} has approved this already; it takes {1} different operator certificates, each its own, so that one of them is not the \
         author's"
    )]
    Twice(String, u32),
    /// Nothing to be taken back.
    #[error("nothing is enforced here by the rollout")]
    NothingEnforced,
    /// It does not stand still.
    #[error("it is neither paused nor rolled back{0}")]
    NotStopped(&'static str),
    /// There is no such miss.
    #[error("there is no miss {0}; `latticectl rollout misses` shows them")]
    NoMiss(String),
}

/// Does what an operator says, or nothing.
///
/// # Errors
/// When it cannot be done; the state is as it was.
pub fn apply(
    mut state: RolloutState,
    command: &Command,
    now: &Now<'_>,
) -> Result<(RolloutState, Vec<Transition>), CommandError> {
    if let Some(workload) = command
        .workload
        .as_ref()
        .filter(|workload| !state.tracks.contains_key(*workload))
    {
        return Err(CommandError::NoWorkload(workload.clone()));
    }
    let decided = Decided {
        time: now.time,
        by: command.by.clone(),
        reason: command.reason.clone(),
    };
    let told = match &command.action {
        Action::Approve { gate } => approve(&mut state, command, gate, now)?,
        Action::Pause => {
            state.paused = Some(decided);
            vec![of_all(command, "pause")]
        }
        Action::Resume => resume(&mut state, command, now)?,
        Action::RollBack => roll_back(&mut state, command, now)?,
        Action::Dismiss(ids) => dismiss(&mut state, command, ids, &decided, now)?,
    };
    Ok((state, told))
}

/// The tracks that a command is for.
fn meant<'a>(state: &'a mut RolloutState, command: &'a Command) -> impl Iterator<Item = (&'a String, &'a mut Track)> {
    let is_meant = |workload: &String| command.workload.as_ref().is_none_or(|wanted| wanted == workload);
    state.tracks.iter_mut().filter(move |(workload, _)| is_meant(workload))
}

fn approve(
    state: &mut RolloutState,
    command: &Command,
    wanted: &str,
    now: &Now<'_>,
) -> Result<Vec<Transition>, CommandError> {
    if now.spec.approval.mode == ApprovalMode::Auto {
        return Err(CommandError::Auto);
    }
    let (mut told, mut others, mut twice) = (Vec::new(), Vec::new(), false);
    for (workload, track) in meant(state, command) {
        let Phase::AwaitingApproval { gate: asked } = &track.phase else {
            let unmet = gate::unmet(track, now.spec).join(", ");
            others.push(format!(
                "{} is in {}{}{unmet}",
                named(workload),
                track.phase.word(),
                if unmet.is_empty() { "" } else { ": " }
            ));
            continue;
        };
        let gate = gate::snapshot(now.namespace, workload, track, now.spec);
        if !gate.starts_with(wanted) {
            others.push(format!(
                "{} asks about gate {}, not {wanted}",
                named(workload),
                &gate[..12]
            ));
            continue;
        }
        // What was asked about is what is known, but for the moment before the next step of the machine.
        if *asked != gate {
            others.push(format!("{} is about to ask about another gate", named(workload)));
            continue;
        }
        if track.approvals.0.iter().any(|approved| approved.by == command.by) {
            twice = true;
            continue;
        }
        track.approvals.0.push(Approved {
            by: command.by.clone(),
            time: now.time,
            gate: gate.clone(),
        });
        let reason = format!(
            "approved gate {}{}{}",
            &gate[..12],
            separator(&command.reason),
            command.reason
        );
        let word = track.phase.word();
        told.push(transition(now, workload, track, word, word, &command.by, &reason));
    }
    match (told.is_empty(), twice) {
        (false, _) => Ok(told),
        (true, true) => Err(CommandError::Twice(command.by.clone(), now.spec.approval.approvers)),
        (true, false) if others.is_empty() => Err(CommandError::NotAsked("the namespace has no policy".to_owned())),
        (true, false) => Err(CommandError::NotAsked(others.join("; "))),
    }
}

fn resume(state: &mut RolloutState, command: &Command, now: &Now<'_>) -> Result<Vec<Transition>, CommandError> {
    let mut told = Vec::new();
    // One workload can be taken up again while the rest stands still.
    if command.workload.is_none() && state.paused.take().is_some() {
        told.push(of_all(command, "resume"));
    }
    for (workload, track) in meant(state, command) {
        if matches!(track.phase, Phase::RolledBack { .. }) {
            track.breaker = Default::default();
            track.clock.restart();
            enter(
                track,
                Phase::Monitoring,
                now,
                workload,
                &command.by,
                &command.reason,
                &mut told,
            );
        }
    }
    match told.is_empty() {
        true if now.spec.paused => Err(CommandError::NotStopped(
            " but by the LatticeRollout: set its `paused` to false",
        )),
        true => Err(CommandError::NotStopped("")),
        false => Ok(told),
    }
}

fn roll_back(state: &mut RolloutState, command: &Command, now: &Now<'_>) -> Result<Vec<Transition>, CommandError> {
    let mut told = Vec::new();
    for (workload, track) in meant(state, command) {
        if matches!(track.phase, Phase::Canary { .. } | Phase::Enforced) {
            track.clock.restart();
            track.approvals = Approvals::default();
            let phase = Phase::RolledBack {
                until: None,
                reason: format!("by {}: {}", command.by, command.reason),
            };
            enter(track, phase, now, workload, &command.by, &command.reason, &mut told);
        }
    }
    match told.is_empty() {
        true => Err(CommandError::NothingEnforced),
        false => Ok(told),
    }
}

fn dismiss(
    state: &mut RolloutState,
    command: &Command,
    ids: &[String],
    decided: &Decided,
    now: &Now<'_>,
) -> Result<Vec<Transition>, CommandError> {
    for id in ids {
        let mut is_there = false;
        for (_, track) in meant(state, command) {
            is_there |= track.misses.dismiss(id, decided);
        }
        if !is_there {
            return Err(CommandError::NoMiss(id.clone()));
        }
    }
    let mut told = Vec::new();
    for (workload, track) in meant(state, command) {
        let of_it: Vec<_> = ids
            .iter()
            .filter(|id| track.misses.kept.contains_key(*id))
            .cloned()
            .collect();
        if !of_it.is_empty() {
            let reason = format!("dismissed {}: {}", of_it.join(", "), command.reason);
            let word = track.phase.word();
            told.push(transition(now, workload, track, word, word, &command.by, &reason));
        }
    }
    Ok(told)
}

/// What is told of the namespace as a whole.
fn of_all(command: &Command, what: &str) -> Transition {
    Transition {
        workload: String::new(),
        from: String::new(),
        to: String::new(),
        by: command.by.clone(),
        reason: format!("{what}{}{}", separator(&command.reason), command.reason),
        evidence: String::new(),
    }
}

fn separator(reason: &str) -> &'static str {
    if reason.is_empty() { "" } else { ": " }
}

fn named(workload: &str) -> &str {
    if workload.is_empty() {
        "the whole namespace"
    } else {
        workload
    }
}
