//! `latticectl rollout`.

mod simulate;

use chrono::SecondsFormat;
use lattice_api::{
    event::time_text,
    object::Timespan,
    v1::{
        ChangeRolloutRequest, ChangeRolloutResponse, ListRolloutHistoryRequest, ListRolloutMissesRequest,
        ListRolloutsRequest, Rollout, RolloutMiss, RolloutTrack, RolloutTransition,
    },
};
use lattice_policy::escape::for_terminal;
use serde::Serialize;

use crate::{
    arguments::RolloutVerb,
    connection::Connection,
    failure::Failure,
    output::{Output, Tone, or_dash, plain},
};

/// Digits of a gate's hash that are shown.
const GATE_DIGITS: usize = 12;

#[derive(Serialize)]
struct RolloutList {
    items: Vec<RolloutItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RolloutItem {
    namespace: String,
    name: String,
    environment: String,
    runtime: String,
    /// `None`: it may go on.
    standstill: Option<String>,
    min_duration_seconds: u64,
    quiet_period_seconds: u64,
    approvers: u32,
    steps: u32,
    workloads: Vec<TrackItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TrackItem {
    /// Empty: all of the namespace.
    workload: String,
    phase: String,
    since: String,
    policies: Vec<String>,
    elapsed_seconds: u64,
    quiet_seconds: u64,
    /// `None`: the clock runs.
    hold: Option<String>,
    open_misses: u32,
    gate: Option<String>,
    approvals: Vec<ApprovalItem>,
    step: Option<u32>,
    nodes: Vec<String>,
    breaker_opened: u32,
    rolled_back_because: Option<String>,
    rearm: Option<String>,
    overridden_by: Option<String>,
}

#[derive(Serialize)]
struct ApprovalItem {
    by: String,
    time: String,
}

#[derive(Serialize)]
struct MissList {
    items: Vec<MissItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MissItem {
    id: String,
    namespace: String,
    workload: String,
    policy: String,
    path: String,
    sha256: String,
    role: String,
    origin: String,
    reason: String,
    drift: String,
    count: u64,
    was_refused: bool,
    first: String,
    last: String,
    review: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dismissed: Option<DismissedItem>,
}

#[derive(Serialize)]
struct DismissedItem {
    by: String,
    time: String,
    reason: String,
}

#[derive(Serialize)]
struct TransitionList {
    items: Vec<TransitionItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RolloutChange {
    transitions: Vec<TransitionItem>,
    revision: u64,
    agents_applied: u32,
    agents_connected: u32,
}

#[derive(Serialize)]
struct TransitionItem {
    time: String,
    namespace: String,
    workload: String,
    from: String,
    to: String,
    by: String,
    reason: String,
    evidence: String,
}

/// Runs a verb.
pub(crate) async fn run(verb: &RolloutVerb, connection: &mut Connection, output: &mut Output) -> Result<(), Failure> {
    let change = |action: &str, namespace: &str, workload: &str, reason: &str| ChangeRolloutRequest {
        action: action.to_owned(),
        namespace: namespace.to_owned(),
        workload: workload.to_owned(),
        reason: reason.to_owned(),
        ..ChangeRolloutRequest::default()
    };
    match verb {
        RolloutVerb::Status { namespace } => status(connection, output, namespace.as_deref()).await,
        RolloutVerb::History { namespace, limit } => history(connection, output, namespace.as_deref(), *limit).await,
        RolloutVerb::Misses { namespace, all } => misses(connection, output, namespace.as_deref(), *all).await,
        RolloutVerb::Simulate { file, since } => simulate::run(connection, output, file, *since).await,
        RolloutVerb::Dismiss { misses, which, reason } => {
            let request = ChangeRolloutRequest {
                misses: misses.clone(),
                ..change("dismiss", &which.namespace, &which.workload, reason)
            };
            tell(connection, output, request).await
        }
        RolloutVerb::Approve {
            which,
            gate,
            reason,
            no_wait,
        } => {
            let request = ChangeRolloutRequest {
                gate: gate.clone(),
                wait: !no_wait,
                ..change("approve", &which.namespace, &which.workload, reason)
            };
            tell(connection, output, request).await
        }
        RolloutVerb::Pause { namespace, reason } => {
            tell(connection, output, change("pause", namespace, "", reason)).await
        }
        RolloutVerb::Resume { which, reason } => {
            let request = change("resume", &which.namespace, &which.workload, reason);
            tell(connection, output, request).await
        }
        RolloutVerb::Rollback { which, reason, no_wait } => {
            let request = ChangeRolloutRequest {
                wait: !no_wait,
                ..change("rollback", &which.namespace, &which.workload, reason)
            };
            tell(connection, output, request).await
        }
    }
}

async fn tell(connection: &mut Connection, output: &mut Output, request: ChangeRolloutRequest) -> Result<(), Failure> {
    let wait = request.wait;
    let mut client = connection.client.clone();
    let answer = connection.answer(client.change_rollout(request)).await?;
    let ChangeRolloutResponse {
        transitions,
        revision,
        agents_applied: applied,
        agents_connected: connected,
    } = answer;
    if output.is_json() {
        let change = RolloutChange {
            transitions: transitions.into_iter().map(transition).collect(),
            revision,
            agents_applied: applied,
            agents_connected: connected,
        };
        output.json("RolloutChange", change)?;
    } else {
        for told in &transitions {
            let phase = match (told.from.as_str(), told.to.as_str()) {
                ("", "") => String::new(),
                (from, to) if from == to => format!(" stays in {to}"),
                (from, to) => format!(" goes from {from} to {to}"),
            };
            let line = format!("{}{phase}: {}", named(&told.namespace, &told.workload), told.reason);
            output.line(&for_terminal(&line))?;
        }
        if revision != 0 {
            let who = match (wait, connected) {
                (_, 0) => "no agent is connected; each takes it over when it connects".to_owned(),
                (true, 1) => format!("{applied} of 1 connected agent has applied it"),
                (true, _) => format!("{applied} of {connected} connected agents have applied it"),
                (false, _) => format!("{connected} connected agents will apply it"),
            };
            output.line(&format!("revision {revision}: {who}"))?;
        }
    }
    match wait && revision != 0 && applied < connected {
        true => Err(Failure::NotApplied { applied, connected }),
        false => Ok(()),
    }
}

async fn status(connection: &mut Connection, output: &mut Output, namespace: Option<&str>) -> Result<(), Failure> {
    let request = ListRolloutsRequest {
        namespace: namespace.unwrap_or_default().to_owned(),
    };
    let mut client = connection.client.clone();
    let rollouts = connection.answer(client.list_rollouts(request)).await?.rollouts;
    if output.is_json() {
        let items = rollouts.into_iter().map(item).collect();
        return output.json("RolloutList", RolloutList { items });
    }
    let mut rows = Vec::new();
    for rollout in &rollouts {
        if rollout.tracks.is_empty() {
            let nothing = || plain("-");
            let why = plain("no service of it has a policy yet");
            rows.push(vec![
                plain(&rollout.namespace),
                nothing(),
                plain("Pending"),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                why,
            ]);
        }
        rows.extend(rollout.tracks.iter().map(|track| row(rollout, track)));
    }
    let header = [
        "NAMESPACE",
        "WORKLOAD",
        "PHASE",
        "CLOCK",
        "QUIET",
        "MISSES",
        "APPROVALS",
        "WHY",
    ];
    output.table(&header, rows, "No namespace has a LatticeRollout there.")
}

fn row(rollout: &Rollout, track: &RolloutTrack) -> Vec<(String, Tone)> {
    let of = |seconds: u64, needed: u64| {
        let span = |seconds| Timespan::from_seconds(seconds).to_string();
        plain(format!("{}/{}", span(seconds), span(needed)))
    };
    let phase = match track.phase.as_str() {
        "Canary" => format!("Canary {}/{}", track.step, rollout.steps),
        phase => phase.to_owned(),
    };
    let tone = match track.phase.as_str() {
        "Enforced" => Tone::Good,
        "RolledBack" => Tone::Bad,
        _ => Tone::Caution,
    };
    let misses = match track.open_misses {
        0 => plain("0"),
        count => (count.to_string(), Tone::Bad),
    };
    vec![
        plain(&rollout.namespace),
        plain(if track.workload.is_empty() {
            "*"
        } else {
            &track.workload
        }),
        (phase, tone),
        of(track.elapsed_seconds, rollout.min_duration_seconds),
        of(track.quiet_seconds, rollout.quiet_period_seconds),
        misses,
        plain(match (track.phase.as_str(), rollout.approvers) {
            (_, 0) => "not asked".to_owned(),
            ("AwaitingApproval", approvers) => format!("{}/{approvers}", track.approvals.len()),
            _ => "-".to_owned(),
        }),
        plain(or_dash(&why(rollout, track))),
    ]
}

/// Why a workload is not further, or where it is enforced.
fn why(rollout: &Rollout, track: &RolloutTrack) -> String {
    let mut why = Vec::new();
    if !track.overridden_by.is_empty() {
        why.push(format!("`mode set` says {}, which wins", track.overridden_by));
    }
    if !rollout.standstill.is_empty() && track.phase != "Enforced" {
        why.push(rollout.standstill.clone());
    }
    if !track.hold.is_empty() {
        why.push(format!("the clock stands still: {}", track.hold));
    }
    match track.phase.as_str() {
        "AwaitingApproval" => {
            let digits: String = track.gate.chars().take(GATE_DIGITS).collect();
            why.push(format!("gate {digits}"));
        }
        "Canary" => why.push(format!("enforced on {}", track.nodes.join(", "))),
        "RolledBack" => {
            let again = match time(track.rearm_unix_nanos) {
                Some(time) => format!("begins anew at {time}"),
                None => "begins anew when somebody resumes it".to_owned(),
            };
            why.push(format!("{}; {again}", track.rolled_back_because));
        }
        "Monitoring" if rollout.runtime == "monitor" => why.push("stays in monitor".to_owned()),
        _ => {}
    }
    why.join("; ")
}

async fn misses(
    connection: &mut Connection,
    output: &mut Output,
    namespace: Option<&str>,
    all: bool,
) -> Result<(), Failure> {
    let request = ListRolloutMissesRequest {
        namespace: namespace.unwrap_or_default().to_owned(),
        all,
    };
    let mut client = connection.client.clone();
    let misses = connection.answer(client.list_rollout_misses(request)).await?.misses;
    let open = misses.iter().filter(|miss| miss.review == "open").count();
    if output.is_json() {
        let items = misses.into_iter().map(miss).collect();
        output.json("RolloutMissList", MissList { items })?;
    } else {
        let header = [
            "ID",
            "NAMESPACE",
            "POLICY",
            "PATH",
            "ROLE",
            "FROM",
            "REASON",
            "DRIFT",
            "COUNT",
            "LAST",
            "REVIEW",
        ];
        let row = |miss: &RolloutMiss| {
            let review = match miss.review.as_str() {
                "dismissed" => plain(format!("dismissed: {}", miss.dismissed_because)),
                "open" => ("open".to_owned(), Tone::Bad),
                other => plain(other),
            };
            vec![
                plain(&miss.id),
                plain(&miss.namespace),
                plain(or_dash(&miss.policy)),
                plain(&miss.path),
                plain(&miss.role),
                plain(&miss.origin),
                plain(&miss.reason),
                plain(or_dash(&miss.drift)),
                plain(miss.count.to_string()),
                plain(or_dash(&time(miss.last_unix_nanos).unwrap_or_default())),
                review,
            ]
        };
        output.table(&header, misses.iter().map(row).collect(), "Nothing is to be reviewed.")?;
    }
    match open {
        0 => Ok(()),
        count => Err(Failure::OpenMisses { count }),
    }
}

async fn history(
    connection: &mut Connection,
    output: &mut Output,
    namespace: Option<&str>,
    limit: u32,
) -> Result<(), Failure> {
    let request = ListRolloutHistoryRequest {
        namespace: namespace.unwrap_or_default().to_owned(),
        limit,
    };
    let mut client = connection.client.clone();
    let transitions = connection
        .answer(client.list_rollout_history(request))
        .await?
        .transitions;
    if output.is_json() {
        let items = transitions.into_iter().map(transition).collect();
        return output.json("RolloutTransitionList", TransitionList { items });
    }
    let header = ["TIME", "NAMESPACE", "WORKLOAD", "FROM", "TO", "BY", "REASON"];
    let row = |told: &RolloutTransition| {
        vec![
            plain(or_dash(&time(told.unix_nanos).unwrap_or_default())),
            plain(&told.namespace),
            plain(or_dash(&told.workload)),
            plain(or_dash(&told.from)),
            plain(or_dash(&told.to)),
            plain(&told.by),
            plain(&told.reason),
        ]
    };
    let rows = transitions.iter().map(row).collect();
    output.table(&header, rows, "Nothing has happened there.")
}

fn named(namespace: &str, workload: &str) -> String {
    match workload {
        "" => format!("namespace {namespace}"),
        workload => format!("{namespace}/{workload}"),
    }
}

fn time(unix_nanos: u64) -> Option<String> {
    (unix_nanos != 0).then(|| time_text(unix_nanos, SecondsFormat::Secs))
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn item(rollout: Rollout) -> RolloutItem {
    RolloutItem {
        namespace: rollout.namespace,
        name: rollout.name,
        environment: rollout.environment,
        runtime: rollout.runtime,
        standstill: some(rollout.standstill),
        min_duration_seconds: rollout.min_duration_seconds,
        quiet_period_seconds: rollout.quiet_period_seconds,
        approvers: rollout.approvers,
        steps: rollout.steps,
        workloads: rollout.tracks.into_iter().map(track_item).collect(),
    }
}

fn track_item(track: RolloutTrack) -> TrackItem {
    let approvals = track.approvals.into_iter().map(|approval| ApprovalItem {
        by: approval.by,
        time: time(approval.unix_nanos).unwrap_or_default(),
    });
    TrackItem {
        workload: track.workload,
        phase: track.phase,
        since: time(track.since_unix_nanos).unwrap_or_default(),
        policies: track.policies,
        elapsed_seconds: track.elapsed_seconds,
        quiet_seconds: track.quiet_seconds,
        hold: some(track.hold),
        open_misses: track.open_misses,
        gate: some(track.gate),
        approvals: approvals.collect(),
        step: (track.step != 0).then_some(track.step),
        nodes: track.nodes,
        breaker_opened: track.breaker_opened,
        rolled_back_because: some(track.rolled_back_because),
        rearm: time(track.rearm_unix_nanos),
        overridden_by: some(track.overridden_by),
    }
}

fn miss(miss: RolloutMiss) -> MissItem {
    MissItem {
        dismissed: time(miss.dismissed_unix_nanos).map(|time| DismissedItem {
            by: miss.dismissed_by,
            time,
            reason: miss.dismissed_because,
        }),
        id: miss.id,
        namespace: miss.namespace,
        workload: miss.workload,
        policy: miss.policy,
        path: miss.path,
        sha256: miss.sha256,
        role: miss.role,
        origin: miss.origin,
        reason: miss.reason,
        drift: miss.drift,
        count: miss.count,
        was_refused: miss.was_refused,
        first: time(miss.first_unix_nanos).unwrap_or_default(),
        last: time(miss.last_unix_nanos).unwrap_or_default(),
        review: miss.review,
    }
}

fn transition(told: RolloutTransition) -> TransitionItem {
    TransitionItem {
        time: time(told.unix_nanos).unwrap_or_default(),
        namespace: told.namespace,
        workload: told.workload,
        from: told.from,
        to: told.to,
        by: told.by,
        reason: told.reason,
        evidence: told.evidence,
    }
}
