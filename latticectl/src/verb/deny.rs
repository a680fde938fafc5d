//! `latticectl deny`.

use chrono::SecondsFormat;
use lattice_api::{
    event::{container_name, time_text},
    v1::{Denial, DenyRequest, DenyResponse, LiftDenialRequest, ListDenialsRequest},
};
use lattice_policy::{Denied, escape::for_terminal};
use serde::Serialize;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Output, or_dash, plain},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DenialChange {
    /// `image` or `file`.
    of: &'static str,
    digest: String,
    /// `denied` or `lifted`.
    state: &'static str,
    revision: u64,
    agents_applied: u32,
    agents_connected: u32,
    /// Containers of the image that were running, as far as agents have told.
    running: Vec<RunningItem>,
}

#[derive(Serialize)]
struct RunningItem {
    node: String,
    container: String,
}

#[derive(Serialize)]
struct DenialList {
    revision: u64,
    items: Vec<DenialItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DenialItem {
    /// `image` or `file`.
    of: String,
    digest: String,
    kill_running: bool,
    reason: String,
    set_by: String,
    /// `None`: it is not known.
    set_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifted: Option<LiftedItem>,
}

#[derive(Serialize)]
struct LiftedItem {
    by: String,
    time: String,
    reason: String,
}

/// Denies a digest on every node.
pub(crate) async fn set(
    connection: &mut Connection,
    output: &mut Output,
    denied: Denied,
    kill_running: bool,
    reason: &str,
    wait: bool,
) -> Result<(), Failure> {
    let request = DenyRequest {
        kind: denied.kind().to_owned(),
        digest: denied.digest(),
        kill_running,
        reason: reason.to_owned(),
        wait,
    };
    let mut client = connection.client.clone();
    let answer = connection.answer(client.deny(request)).await?;
    show(output, denied, "denied", &answer, wait)?;
    if !output.is_json() {
        let fate = if kill_running {
            "is killed"
        } else {
            "starts nothing any more, and goes on"
        };
        for status in &answer.running {
            let name = container_name(status.container.as_ref());
            output.line(&for_terminal(&format!(
                "  {name} on {} runs it, and {fate}",
                status.node
            )))?;
        }
    }
    complete(&answer, wait)
}

/// Takes a denial back.
pub(crate) async fn remove(
    connection: &mut Connection,
    output: &mut Output,
    denied: Denied,
    reason: &str,
    wait: bool,
) -> Result<(), Failure> {
    let request = LiftDenialRequest {
        kind: denied.kind().to_owned(),
        digest: denied.digest(),
        reason: reason.to_owned(),
        wait,
    };
    let mut client = connection.client.clone();
    let answer = connection.answer(client.lift_denial(request)).await?;
    show(output, denied, "lifted", &answer, wait)?;
    complete(&answer, wait)
}

fn show(
    output: &mut Output,
    denied: Denied,
    state: &'static str,
    answer: &DenyResponse,
    wait: bool,
) -> Result<(), Failure> {
    let (applied, connected) = (answer.agents_applied, answer.agents_connected);
    if output.is_json() {
        let running = answer.running.iter();
        let running = running.map(|status| RunningItem {
            node: status.node.clone(),
            container: container_name(status.container.as_ref()),
        });
        let change = DenialChange {
            of: denied.kind(),
            digest: denied.digest(),
            state,
            revision: answer.revision,
            agents_applied: applied,
            agents_connected: connected,
            running: running.collect(),
        };
        return output.json("DenialChange", change);
    }
    let what = match state {
        "denied" => format!("{denied} is denied"),
        _ => format!("{denied} is no longer denied"),
    };
    let who = match (wait, connected) {
        (_, 0) => "no agent is connected; each takes it over when it connects".to_owned(),
        (true, 1) => format!("{applied} of 1 connected agent has applied it"),
        (true, _) => format!("{applied} of {connected} connected agents have applied it"),
        (false, _) => format!("{connected} connected agents will apply it"),
    };
    output.line(&format!("{what} (revision {}): {who}", answer.revision))
}

fn complete(answer: &DenyResponse, wait: bool) -> Result<(), Failure> {
    let (applied, connected) = (answer.agents_applied, answer.agents_connected);
    match wait && applied < connected {
        true => Err(Failure::NotApplied { applied, connected }),
        false => Ok(()),
    }
}

/// Shows what is denied, and since when, by whom and why.
pub(crate) async fn list(connection: &mut Connection, output: &mut Output, history: bool) -> Result<(), Failure> {
    let mut client = connection.client.clone();
    let answer = connection
        .answer(client.list_denials(ListDenialsRequest { history }))
        .await?;
    if output.is_json() {
        let list = DenialList {
            revision: answer.revision,
            items: answer.denials.into_iter().map(item).collect(),
        };
        return output.json("DenialList", list);
    }
    let mut header = vec!["OF", "DIGEST", "KILLS", "SINCE", "BY", "REASON"];
    if history {
        header.extend(["LIFTED", "BY", "REASON"]);
    }
    let row = |denial: &Denial| {
        let mut row = vec![
            plain(&denial.kind),
            plain(&denial.digest),
            plain(if denial.kill_running { "yes" } else { "no" }),
            plain(or_dash(&time(denial.set_unix_nanos).unwrap_or_default())),
            plain(or_dash(&denial.set_by)),
            plain(or_dash(&denial.reason)),
        ];
        if history {
            row.push(plain(or_dash(&time(denial.lifted_unix_nanos).unwrap_or_default())));
            row.push(plain(or_dash(&denial.lifted_by)));
            row.push(plain(or_dash(&denial.lift_reason)));
        }
        row
    };
    let rows = answer.denials.iter().map(row).collect();
    output.table(&header, rows, "Nothing is denied.")
}

fn time(unix_nanos: u64) -> Option<String> {
    (unix_nanos != 0).then(|| time_text(unix_nanos, SecondsFormat::Secs))
}

fn item(denial: Denial) -> DenialItem {
    DenialItem {
        lifted: time(denial.lifted_unix_nanos).map(|time| LiftedItem {
            by: denial.lifted_by,
            time,
            reason: denial.lift_reason,
        }),
        set_time: time(denial.set_unix_nanos),
        of: denial.kind,
        digest: denial.digest,
        kill_running: denial.kill_running,
        reason: denial.reason,
        set_by: denial.set_by,
    }
}
