//! `latticectl rollout simulate`: what a rollout would have come to, had a candidate been the lists.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use lattice_api::{
    object::Timespan,
    v1::{DroppedEntry, RolloutMiss, RolloutTransition, SimulateRolloutRequest, SimulateRolloutResponse},
};
use lattice_policy::escape::for_terminal;
use serde::Serialize;

use super::{MissItem, TrackItem, TransitionItem, miss, time, track_item, transition};
use crate::{
    connection::Connection,
    failure::Failure,
    output::{Output, Tone, or_dash, plain},
    verb::input,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RolloutSimulation {
    namespace: String,
    /// passes, refuses, unknown.
    outcome: String,
    from: String,
    until: String,
    policies: Vec<String>,
    recorded: Recorded,
    workloads: Vec<TrackItem>,
    transitions: Vec<TransitionItem>,
    misses: Vec<MissItem>,
    dropped: Vec<DroppedItem>,
    unseen: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    violations: u64,
    allowed: u64,
    refused: u64,
    by_path: u64,
    of_others: u64,
    gaps: u64,
}

#[derive(Serialize)]
struct DroppedItem {
    policy: String,
    path: String,
    role: String,
}

pub(super) async fn run(
    connection: &mut Connection,
    output: &mut Output,
    file: &Path,
    since: Option<Timespan>,
) -> Result<(), Failure> {
    let (file, documents) = input::read(file)?;
    let request = SimulateRolloutRequest {
        documents,
        file,
        since_unix_nanos: since.map(before_now).unwrap_or_default(),
    };
    let mut client = connection.client.clone();
    let answer = connection.answer(client.simulate_rollout(request)).await?;
    let outcome = match answer.outcome.as_str() {
        "passes" => Ok(()),
        "refuses" => Err(Failure::WouldRefuse),
        _ => Err(Failure::NotRecorded),
    };
    match output.is_json() {
        true => output.json("RolloutSimulation", document(answer))?,
        false => show(output, &answer)?,
    }
    outcome
}

fn before_now(since: Timespan) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = now.saturating_sub(since.duration());
    u64::try_from(then.as_nanos()).unwrap_or(u64::MAX)
}

fn show(output: &mut Output, answer: &SimulateRolloutResponse) -> Result<(), Failure> {
    let SimulateRolloutResponse {
        namespace,
        policies,
        violations,
        allowed,
        refused,
        by_path,
        of_others,
        gaps,
        ..
    } = answer;
    let line = format!(
        "{namespace}, with {}: from {} to {}",
        policies.join(", "),
        or_dash(&time(answer.from_unix_nanos).unwrap_or_default()),
        or_dash(&time(answer.until_unix_nanos).unwrap_or_default()),
    );
    output.line(&for_terminal(&line))?;
    output.line(&format!(
        "{violations} programs are recorded that no list allowed: {allowed} the candidate allows, {refused} it refuses; {by_path} judged by \
         path, since the image was another; {of_others} of other policies' containers; {gaps} gaps"
    ))?;
    output.line("")?;
    let header = ["TIME", "WORKLOAD", "FROM", "TO", "REASON"];
    let row = |told: &RolloutTransition| {
        let tone = if told.to == "RolledBack" {
            Tone::Bad
        } else {
            Tone::Plain
        };
        vec![
            plain(or_dash(&time(told.unix_nanos).unwrap_or_default())),
            plain(or_dash(&told.workload)),
            plain(or_dash(&told.from)),
            (or_dash(&told.to), tone),
            plain(&told.reason),
        ]
    };
    let changes = answer.transitions.iter().filter(|told| told.from != told.to);
    output.table(&header, changes.map(row).collect(), "Nothing would have happened.")?;
    if !answer.misses.is_empty() {
        output.line("")?;
        let header = ["REFUSED", "POLICY", "ROLE", "FROM", "REASON", "DRIFT", "COUNT"];
        let row = |miss: &RolloutMiss| {
            vec![
                (miss.path.clone(), Tone::Bad),
                plain(&miss.policy),
                plain(&miss.role),
                plain(&miss.origin),
                plain(&miss.reason),
                plain(or_dash(&miss.drift)),
                plain(miss.count.to_string()),
            ]
        };
        output.table(&header, answer.misses.iter().map(row).collect(), "")?;
    }
    if !answer.dropped.is_empty() {
        output.line("")?;
        let header = ["NOT LISTED ANY MORE", "POLICY", "ROLE"];
        let row = |dropped: &DroppedEntry| {
            vec![
                (dropped.path.clone(), Tone::Caution),
                plain(&dropped.policy),
                plain(&dropped.role),
            ]
        };
        output.table(&header, answer.dropped.iter().map(row).collect(), "")?;
    }
    for policy in &answer.unseen {
        output.line(&for_terminal(&format!(
            "of policy {policy} nothing is known: no container, no event"
        )))?;
    }
    Ok(())
}

fn document(answer: SimulateRolloutResponse) -> RolloutSimulation {
    RolloutSimulation {
        namespace: answer.namespace,
        outcome: answer.outcome,
        from: time(answer.from_unix_nanos).unwrap_or_default(),
        until: time(answer.until_unix_nanos).unwrap_or_default(),
        policies: answer.policies,
        recorded: Recorded {
            violations: answer.violations,
            allowed: answer.allowed,
            refused: answer.refused,
            by_path: answer.by_path,
            of_others: answer.of_others,
            gaps: answer.gaps,
        },
        workloads: answer.tracks.into_iter().map(track_item).collect(),
        transitions: answer.transitions.into_iter().map(transition).collect(),
        misses: answer.misses.into_iter().map(miss).collect(),
        dropped: answer
            .dropped
            .into_iter()
            .map(|dropped| DroppedItem {
                policy: dropped.policy,
                path: dropped.path,
                role: dropped.role,
            })
            .collect(),
        unseen: answer.unseen,
    }
}
