//! Why a policy holds or does not: which of its conditions failed, and which facts it looked at.
//!
//! A policy's conditions are taken apart at `&&`, and each part is asked by itself, by the same authorizer that decides.

use std::collections::BTreeSet;

use cedar_policy::{Authorizer, Decision, Entities, Policy, PolicySet, Request};
use serde_json::{Value, json};

/// Asks whether single conditions of a policy hold for one request.
pub(super) struct Explainer<'a> {
    pub(super) authorizer: &'a Authorizer,
    pub(super) request: &'a Request,
    pub(super) entities: &'a Entities,
    /// Value of an attribute, as messages show it: `resource.signers` → `["a"]`.
    pub(super) value_of: &'a dyn Fn(&str) -> Option<String>,
}

/// One condition of a policy.
struct Condition {
    /// `when` or `unless`.
    kind: String,
    body: Value,
}

impl Explainer<'_> {
    /// Whether the policy's head (principal, action, resource) is for this request.
    pub(super) fn head_matches(&self, policy: &Policy) -> bool {
        let Ok(mut document) = policy.to_json() else {
            return false;
        };
        document["conditions"] = json!([]);
        self.holds(document)
    }

    /// The conditions of a policy that do not hold, each with the facts that it looked at.
    pub(super) fn unmet(&self, policy: &Policy) -> Vec<String> {
        self.describe(policy, false)
    }

    /// The conditions of a policy that hold, each with the facts that it looked at.
    pub(super) fn met(&self, policy: &Policy) -> Vec<String> {
        self.describe(policy, true)
    }

    fn describe(&self, policy: &Policy, wanted: bool) -> Vec<String> {
        conditions(policy)
            .into_iter()
            .filter_map(|Condition { kind, body }| {
                let document = alone(&kind, &body);
                let text = condition_text(&document)?;
                (self.holds(document) == wanted).then(|| {
                    let mut attributes = BTreeSet::new();
                    attributes_of(&body, &mut attributes);
                    let facts: Vec<_> = attributes
                        .iter()
                        .map(|attribute| match (self.value_of)(attribute) {
                            Some(value) => format!("{attribute} is {value}"),
                            None => format!("{attribute} is absent"),
                        })
                        .collect();
                    let negation = if kind == "unless" { "not " } else { "" };
                    if facts.is_empty() {
                        format!("{negation}`{text}`")
                    } else {
                        format!("{negation}`{text}` ({})", facts.join(", "))
                    }
                })
            })
            .collect()
    }

    /// Whether a policy of this form holds; whatever it says, it is asked as a `permit`.
    fn holds(&self, mut document: Value) -> bool {
        document["effect"] = json!("permit");
        let Ok(policy) = Policy::from_json(None, document) else {
            return false;
        };
        let Ok(set) = PolicySet::from_policies([policy]) else {
            return false;
        };
        self.authorizer
            .is_authorized(self.request, &set, self.entities)
            .decision()
            == Decision::Allow
    }
}

/// A policy with one condition, for any principal, action and resource.
fn alone(kind: &str, body: &Value) -> Value {
    json!({
        "effect": "permit",
        "principal": {"op": "All"},
        "action": {"op": "All"},
        "resource": {"op": "All"},
        "conditions": [{"kind": kind, "body": body}],
    })
}

fn conditions(policy: &Policy) -> Vec<Condition> {
    let document = policy.to_json().unwrap_or_default();
    let mut all = Vec::new();
    for condition in document["conditions"].as_array().into_iter().flatten() {
        let kind = condition["kind"].as_str().unwrap_or("when");
        // `unless` turns its body round, so that only its whole can be asked.
        let parts = if kind == "when" {
            conjuncts(&condition["body"])
        } else {
            vec![&condition["body"]]
        };
        all.extend(parts.into_iter().map(|body| Condition {
            kind: kind.to_owned(),
            body: body.clone(),
        }));
    }
    all
}

fn conjuncts(body: &Value) -> Vec<&Value> {
    match body.get("&&") {
        Some(both) => [&both["left"], &both["right"]]
            .into_iter()
            .flat_map(conjuncts)
            .collect(),
        None => vec![body],
    }
}

/// The condition as Cedar writes it.
fn condition_text(document: &Value) -> Option<String> {
    let text = Policy::from_json(None, document.clone()).ok()?.to_string();
    let (_, rest) = text.split_once('{')?;
    let (body, _) = rest.rsplit_once('}')?;
    let body = body.split_whitespace().collect::<Vec<_>>().join(" ");
    // Cedar prints the whole in parentheses where it is an operation.
    let inner = body.strip_prefix('(').and_then(|body| body.strip_suffix(')'));
    Some(match inner {
        Some(inner) if parentheses_match(inner) => inner.to_owned(),
        _ => body,
    })
}

fn parentheses_match(text: &str) -> bool {
    let mut depth = 0_i32;
    for character in text.chars() {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

/// Every `principal.x`, `resource.x` and `context.x` in an expression, also those asked for with `has`.
fn attributes_of(expression: &Value, found: &mut BTreeSet<String>) {
    match expression {
        Value::Object(fields) => {
            for (operator, operand) in fields {
                if let ("." | "has", Some(variable), Some(attribute)) = (
                    operator.as_str(),
                    operand["left"]["Var"].as_str(),
                    operand["attr"].as_str(),
                ) {
                    found.insert(format!("{variable}.{attribute}"));
                }
                attributes_of(operand, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| attributes_of(item, found)),
        _ => {}
    }
}
