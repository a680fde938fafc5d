//! `latticectl doctor`: what this node offers. Everything is tried by the agent, or, where none runs, by its program; here it is shown.

use std::{
    io,
    path::{Path, PathBuf},
};

use lattice_api::{
    node_report::{exit_code, from_json, to_json, to_text},
    v1::{GetNodeReportRequest, NodeReport},
};
use tokio::process::Command;

use crate::{arguments::Arguments, connection::Connection, failure::Failure, output::Output};

const PROGRAM: &str = "lattice-agent";

pub(crate) async fn run(
    arguments: &Arguments,
    output: &mut Output,
    required_tier: Option<u32>,
    program: Option<&Path>,
) -> Result<(), Failure> {
    let report = match Connection::open(arguments).await {
        Ok(connection) => ask(&connection).await?,
        // Central has no node of its own to fall back to.
        Err(Failure::Unreachable { .. }) if arguments.central.is_none() => tried_by_program(arguments, program).await?,
        Err(failure) => return Err(failure),
    };
    let text = match output.is_json() {
        true => to_json(&report),
        false => to_text(&report),
    };
    output.line(&text)?;
    match (exit_code(&report), required_tier) {
        (0, Some(required)) if report.tier > required => Err(Failure::TierTooLow {
            required,
            found: report.tier,
        }),
        (0, _) => Ok(()),
        (1, _) => Err(Failure::NothingEnforced),
        _ => Err(Failure::NotFoundOut),
    }
}

async fn ask(connection: &Connection) -> Result<NodeReport, Failure> {
    let mut client = connection.client.clone();
    connection.answer(client.get_node_report(GetNodeReportRequest {})).await
}

/// No agent answers: its program tries without one.
async fn tried_by_program(arguments: &Arguments, named: Option<&Path>) -> Result<NodeReport, Failure> {
    let program = named.map_or_else(beside_us, Path::to_owned);
    let failed = |reason: String| Failure::Program {
        program: program.clone(),
        reason,
    };
    let mut command = Command::new(&program);
    command.args(["probe", "--output", "json"]).kill_on_drop(true);
    let output = tokio::time::timeout(arguments.timeout, command.output()).await;
    let output = match output {
        Ok(output) => output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed("there is no such program".to_owned()),
            _ => failed(error.to_string()),
        })?,
        Err(_) => {
            return Err(failed(format!(
                "it did not end within {} s",
                arguments.timeout.as_secs()
            )));
        }
    };
    from_json(&output.stdout).map_err(|error| failed(format!("it ended with {}, and {error}", output.status)))
}

/// The agent's program is installed beside this one, or is on PATH.
fn beside_us() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    beside
        .filter(|program| program.exists())
        .unwrap_or_else(|| PROGRAM.into())
}
