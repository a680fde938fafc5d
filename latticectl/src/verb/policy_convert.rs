//! `latticectl policy convert --to FORM FILE…`: ExecPolicy and Tetragon's TracingPolicy, each as the other.

use std::path::PathBuf;

use lattice_policy::{
    Diagnostic, ExecPolicy,
    escape::for_terminal,
    read_policies, to_json, to_yaml,
    tracing_policy::{Carry, Loss, TracingPolicyDocument},
};
use serde::Serialize;

use super::input::{self, DiagnosticItem};
use crate::{arguments::PolicyForm, failure::Failure, output::Output};

#[derive(Serialize)]
struct PolicyConversion {
    /// The documents.
    items: Vec<serde_json::Value>,
    /// What they do not say.
    losses: Vec<LossItem>,
    /// What reading brought up although nothing is wrong.
    notes: Vec<DiagnosticItem>,
}

#[derive(Serialize)]
struct LossItem {
    namespace: String,
    name: String,
    field: String,
    message: String,
}

/// A policy in its other form.
struct Converted {
    yaml: String,
    json: String,
    losses: Vec<Loss>,
}

pub(crate) fn run(to: PolicyForm, is_plain: bool, files: &[PathBuf], output: &mut Output) -> Result<(), Failure> {
    let carry = if is_plain { Carry::Nothing } else { Carry::Annotation };
    let mut policies = Vec::new();
    let mut notes = Vec::new();
    let mut findings: Vec<String> = Vec::new();
    for path in files {
        let (file, bytes) = input::read(path)?;
        match read_policies(&file, &bytes) {
            Ok(read) => {
                policies.extend(read.documents.into_iter().map(|document| document.policy));
                notes.extend(read.notes);
            }
            Err(found) => findings.extend(found.iter().map(Diagnostic::to_string)),
        }
    }
    let mut converted = Vec::new();
    for policy in &policies {
        match convert(policy, to, carry) {
            Ok(document) => converted.push((policy, document)),
            Err(found) => findings.extend(found),
        }
    }
    // Half of what was asked for would be taken for all of it.
    if !findings.is_empty() {
        for finding in &findings {
            eprintln!("{}", for_terminal(finding));
        }
        return Err(Failure::Findings { count: findings.len() });
    }
    if output.is_json() {
        return output.json("PolicyConversion", document(converted, notes)?);
    }
    for note in &notes {
        eprintln!("note: {note}");
    }
    for (policy, Converted { losses, .. }) in &converted {
        for loss in losses {
            eprintln!(
                "{}",
                for_terminal(&format!("{}/{}: {loss}", policy.namespace, policy.name))
            );
        }
    }
    if converted.is_empty() {
        eprintln!("The files hold no policy.");
    }
    for (number, (_, Converted { yaml, .. })) in converted.iter().enumerate() {
        if number > 0 {
            output.line("---")?;
        }
        output.line(yaml.trim_end_matches('\n'))?;
    }
    Ok(())
}

fn convert(policy: &ExecPolicy, to: PolicyForm, carry: Carry) -> Result<Converted, Vec<String>> {
    match to {
        PolicyForm::ExecPolicy => Ok(Converted {
            yaml: to_yaml(policy),
            json: to_json(policy),
            losses: Vec::new(),
        }),
        PolicyForm::TracingPolicy => match TracingPolicyDocument::of(policy, carry) {
            Ok((document, losses)) => Ok(Converted {
                yaml: document.to_yaml(),
                json: document.to_json(),
                losses,
            }),
            Err(faults) => Err(faults
                .iter()
                .map(|fault| format!("{}/{}: {fault}", policy.namespace, policy.name))
                .collect()),
        },
    }
}

fn document(converted: Vec<(&ExecPolicy, Converted)>, notes: Vec<Diagnostic>) -> Result<PolicyConversion, Failure> {
    let mut conversion = PolicyConversion {
        items: Vec::new(),
        losses: Vec::new(),
        notes: notes.into_iter().map(DiagnosticItem::from).collect(),
    };
    for (policy, Converted { json, losses, .. }) in converted {
        let item = serde_json::from_str(&json).map_err(|error| Failure::Unreadable {
            whom: "the writer".to_owned(),
            reason: error.to_string(),
        })?;
        conversion.items.push(item);
        conversion.losses.extend(losses.into_iter().map(|loss| LossItem {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            field: loss.field,
            message: loss.message,
        }));
    }
    Ok(conversion)
}
