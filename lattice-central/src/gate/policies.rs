//! Cedar policies from text: parsed, named, validated strictly against the schema, or refused with file and line.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

/// The schema's source, as it is shown to users.
pub const SCHEMA_SOURCE: &str = include_str!("lattice.cedarschema");

/// A file of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySource {
    /// The file's name, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// One thing that is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {problem}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct PolicyProblem {
    /// The file.
    pub file: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

/// What follows from a policy that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It decides.
    Decide,
    /// It never denies; it is shown as a warning.
    Warn,
    /// It never denies; it is shown.
    Info,
}

/// Where a policy stands, and what follows from it.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) outcome: Outcome,
    /// `@advice("…")`: what its author tells those whom it stops.
    pub(super) advice: Option<String>,
}

/// A policy's name and place, as messages show them.
pub(super) struct Named<'a>(pub(super) &'a PolicyId, pub(super) &'a Origin);

impl fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\" ({}:{})", self.0, self.1.file, self.1.line)
    }
}

/// Policies that passed validation.
#[derive(Debug, Clone)]
pub(super) struct Policies {
    pub(super) schema: Arc<Schema>,
    /// Those that decide.
    pub(super) deciding: PolicySet,
    /// Those that only show.
    pub(super) showing: PolicySet,
    pub(super) origins: BTreeMap<PolicyId, Origin>,
}

impl Policies {
    /// An empty set.
    pub(super) fn none() -> Self {
        Self {
            schema: schema(),
            deciding: PolicySet::new(),
            showing: PolicySet::new(),
            origins: BTreeMap::new(),
        }
    }

    /// Reads all files; one bad policy refuses them all, since half a set of rules is another set of rules.
    ///
    /// # Errors
    /// Every problem that was found: syntax, templates, a name twice, an unknown outcome, and what the validator refuses.
    pub(super) fn read(sources: &[PolicySource]) -> Result<Self, Vec<PolicyProblem>> {
        let mut policies = Self::none();
        let mut problems = Vec::new();
        for source in sources {
            policies.add_file(source, &mut problems);
        }
        let validator = Validator::new(policies.schema.as_ref().clone());
        for set in [&policies.deciding, &policies.showing] {
            for error in validator.validate(set, ValidationMode::Strict).validation_errors() {
                let origin = &policies.origins[error.policy_id()];
                let source = sources.iter().find(|source| source.file == origin.file);
                let line = source
                    .and_then(|source| line_of(error, &source.text))
                    .unwrap_or(origin.line);
                let help = error.help().map(|help| format!(" ({help})")).unwrap_or_default();
                problems.push(PolicyProblem {
                    file: origin.file.clone(),
                    line: Some(line),
                    problem: format!("{error}{help}"),
                });
            }
        }
        if problems.is_empty() {
            Ok(policies)
        } else {
            Err(problems)
        }
    }

    fn add_file(&mut self, source: &PolicySource, problems: &mut Vec<PolicyProblem>) {
        let mut report = |line: Option<usize>, problem: String| {
            problems.push(PolicyProblem {
                file: source.file.clone(),
                line,
                problem,
            });
        };
        let parsed = match PolicySet::from_str(&source.text) {
            Ok(parsed) => parsed,
            Err(errors) => {
                for error in errors.iter() {
                    report(line_of(error, &source.text), error.to_string());
                }
                return;
            }
        };
        if parsed.num_of_templates() > 0 {
            report(
                None,
                "templates (?principal, ?resource) are not supported; write a policy a case".to_owned(),
            );
            return;
        }
        let mut in_order: Vec<_> = parsed
            .policies()
            .map(|policy| (source.text.find(policy.to_string().trim()).unwrap_or(0), policy))
            .collect();
        // Two policies of the same text have the same place; their ids tell them apart, in an order that never varies.
        in_order.sort_by_key(|(offset, policy)| (*offset, policy.id().clone()));
        for (number, (offset, policy)) in (1..).zip(in_order) {
            let line = line_at(&source.text, offset);
            let outcome = match (policy.annotation("outcome"), policy.effect()) {
                (None | Some("deny"), _) => Outcome::Decide,
                (Some("warn"), Effect::Forbid) => Outcome::Warn,
                (Some("info"), Effect::Forbid) => Outcome::Info,
                (Some("warn" | "info"), Effect::Permit) => {
                    report(
                        Some(line),
                        "@outcome(\"warn\") and @outcome(\"info\") belong on a forbid policy: on a permit they would \
                         neither permit nor be seen"
                            .to_owned(),
                    );
                    continue;
                }
                (Some(other), _) => {
                    report(
                        Some(line),
                        format!("@outcome({other:?}) is none of \"warn\", \"info\", \"deny\""),
                    );
                    continue;
                }
            };
            let name = match policy.annotation("id") {
                Some(id) if !id.is_empty() => id.to_owned(),
                _ => format!("{}#{number}", source.file),
            };
            let id = PolicyId::new(name);
            if let Some(first) = self.origins.get(&id) {
                report(
                    Some(line),
                    format!("@id(\"{id}\") is taken by the policy at {}:{}", first.file, first.line),
                );
                continue;
            }
            let named: Policy = policy.new_id(id.clone());
            let set = if outcome == Outcome::Decide {
                &mut self.deciding
            } else {
                &mut self.showing
            };
            if let Err(error) = set.add(named) {
                report(Some(line), error.to_string());
                continue;
            }
            let advice = policy
                .annotation("advice")
                .filter(|advice| !advice.is_empty())
                .map(str::to_owned);
            self.origins.insert(
                id,
                Origin {
                    file: source.file.clone(),
                    line,
                    outcome,
                    advice,
                },
            );
        }
    }
}

/// The schema of `lattice.cedarschema`.
pub(super) fn schema() -> Arc<Schema> {
    // The text is part of the program, and a test reads it.
    let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA_SOURCE).expect("lattice.cedarschema is valid");
    Arc::new(schema)
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn line_of(error: &dyn Diagnostic, text: &str) -> Option<usize> {
    let label = error.labels()?.next()?;
    Some(line_at(text, label.offset()))
}
