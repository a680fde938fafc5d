//! `latticectl policy list`.

use lattice_api::v1::ListPoliciesRequest;
use lattice_policy::{ExecPolicy, Target, to_json};
use serde::Serialize;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Output, mode_cell, plain},
};

#[derive(Serialize)]
struct PolicyList {
    /// ExecPolicy documents, as `policy check` reads them.
    items: Vec<serde_json::Value>,
}

pub(crate) async fn run(
    connection: &mut Connection,
    output: &mut Output,
    namespace: Option<&str>,
) -> Result<(), Failure> {
    let request = ListPoliciesRequest {
        namespace: namespace.unwrap_or_default().to_owned(),
    };
    let mut client = connection.client.clone();
    let messages = connection.answer(client.list_policies(request)).await?.policies;
    let unreadable = |reason: String| Failure::Unreadable {
        whom: connection.whom.clone(),
        reason,
    };
    let mut policies = Vec::with_capacity(messages.len());
    for message in messages {
        policies.push(ExecPolicy::try_from(message).map_err(|fault| unreadable(fault.to_string()))?);
    }
    policies.sort_by(|left, right| (&left.namespace, &left.name).cmp(&(&right.namespace, &right.name)));
    if output.is_json() {
        let documents = policies.iter().map(|policy| serde_json::from_str(&to_json(policy)));
        let items = documents
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(error.to_string()))?;
        return output.json("PolicyList", PolicyList { items });
    }
    let rows = policies
        .iter()
        .map(|policy| {
            vec![
                plain(&policy.namespace),
                plain(&policy.name),
                plain(target(&policy.target)),
                mode_cell(policy.mode.word()),
                plain(policy.entries.len().to_string()),
                plain(policy.scope.word()),
                plain(policy.code_loading.word()),
                plain(policy.generation.to_string()),
            ]
        })
        .collect();
    let header = [
        "NAMESPACE",
        "NAME",
        "WORKLOAD/CONTAINER",
        "MODE",
        "ENTRIES",
        "SCOPE",
        "CODE LOADING",
        "GENERATION",
    ];
    output.table(&header, rows, "No policy is in force there.")
}

fn target(target: &Target) -> String {
    let or_all = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
    format!("{}/{}", or_all(&target.workload), or_all(&target.container))
}
