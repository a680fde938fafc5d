//! `latticectl mode`.

use lattice_api::v1::{GetModeRequest, SetModeRequest};
use lattice_policy::{Mode, escape::for_terminal};
use serde::Serialize;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Output, mode_cell, plain},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModeChange<'a> {
    namespace: &'a str,
    /// `None`: the override is cleared.
    mode: Option<&'static str>,
    revision: u64,
    agents_applied: u32,
    agents_connected: u32,
}

#[derive(Serialize)]
struct ModeList {
    items: Vec<ModeItem>,
}

#[derive(Serialize)]
struct ModeItem {
    namespace: String,
    policy: String,
    mode: String,
    source: String,
    /// Of a canary: where it holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<String>,
}

/// Sets the override of a namespace, or clears it.
pub(crate) async fn set(
    connection: &mut Connection,
    output: &mut Output,
    namespace: &str,
    mode: Option<Mode>,
    wait: bool,
) -> Result<(), Failure> {
    let word = mode.map(Mode::word);
    let request = SetModeRequest {
        namespace: namespace.to_owned(),
        mode: word.unwrap_or_default().to_owned(),
        wait,
    };
    let mut client = connection.client.clone();
    let answer = connection.answer(client.set_mode(request)).await?;
    let (applied, connected) = (answer.agents_applied, answer.agents_connected);
    if output.is_json() {
        let change = ModeChange {
            namespace,
            mode: word,
            revision: answer.revision,
            agents_applied: applied,
            agents_connected: connected,
        };
        output.json("ModeChange", change)?;
    } else {
        let what = match word {
            Some(word) => format!("namespace {} is in mode {word}", for_terminal(namespace)),
            None => format!("namespace {} is in the modes of its policies", for_terminal(namespace)),
        };
        let who = match (wait, connected) {
            (_, 0) => "no agent is connected; each takes it over when it connects".to_owned(),
            (true, 1) => format!("{applied} of 1 connected agent has applied it"),
            (true, _) => format!("{applied} of {connected} connected agents have applied it"),
            (false, _) => format!("{connected} connected agents will apply it"),
        };
        output.line(&format!("{what} (revision {}): {who}", answer.revision))?;
    }
    match wait && applied < connected {
        true => Err(Failure::NotApplied { applied, connected }),
        false => Ok(()),
    }
}

/// Shows which mode holds for each policy, and who says so.
pub(crate) async fn get(
    connection: &mut Connection,
    output: &mut Output,
    namespace: Option<&str>,
) -> Result<(), Failure> {
    let request = GetModeRequest {
        namespace: namespace.unwrap_or_default().to_owned(),
    };
    let mut client = connection.client.clone();
    let mut modes = connection.answer(client.get_mode(request)).await?.modes;
    modes.sort_by(|left, right| (&left.namespace, &left.policy).cmp(&(&right.namespace, &right.policy)));
    if output.is_json() {
        let item = |mode: lattice_api::v1::EffectiveMode| ModeItem {
            namespace: mode.namespace,
            policy: mode.policy,
            mode: mode.mode,
            source: mode.source,
            nodes: mode.nodes,
        };
        return output.json(
            "ModeList",
            ModeList {
                items: modes.into_iter().map(item).collect(),
            },
        );
    }
    let rows = modes
        .iter()
        .map(|mode| {
            vec![
                plain(&mode.namespace),
                plain(crate::output::or_dash(&mode.policy)),
                mode_cell(&mode.mode),
                plain(match mode.nodes.as_slice() {
                    [] => mode.source.clone(),
                    nodes => format!("{} on {}", mode.source, nodes.join(", ")),
                }),
            ]
        })
        .collect();
    output.table(
        &["NAMESPACE", "POLICY", "MODE", "SOURCE"],
        rows,
        "No policy is in force there, and no mode is set.",
    )
}
