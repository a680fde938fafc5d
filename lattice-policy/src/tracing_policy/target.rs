//! Which containers: `podSelector`, `containerSelector` and their kin.

use super::{notes::Notes, schema::is_blank};
use crate::document::{Field, Object};

/// Tetragon's name for a pod's namespace among its labels.
const NAMESPACE_LABEL: &str = "k8s:io.kubernetes.pod.namespace";
/// The label by which what is written for Tetragon finds a workload's pods.
pub const WORKLOAD_LABEL: &str = "app.kubernetes.io/name";
/// Labels that name a workload: Lattice's own means it; the others do by convention.
const WORKLOAD_LABELS: [&str; 3] = ["lattice.dev/workload", WORKLOAD_LABEL, "app"];

/// What the selectors of a policy say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// Namespace, where a label says it.
    pub(super) namespace: Option<String>,
    /// Workload.
    pub(super) workload: Option<String>,
    /// Container.
    pub(super) container: Option<String>,
    /// Whether pods are selected at all.
    pub(super) has_pods: bool,
}

/// Reads the selectors of `spec`.
pub(super) fn read(spec: &Object<'_>, notes: &Notes) -> Selected {
    let mut selected = Selected::default();
    let pods = spec.field("podSelector");
    // An absent selector and a null one select nothing by themselves; an empty one selects all pods.
    if let Some(pairs) = pairs(&pods) {
        selected.has_pods = true;
        read_pods(&pairs, &mut selected, notes);
    }
    for pair in pairs(&spec.field("containerSelector")).unwrap_or_default() {
        match pair.key.as_str() {
            "name" => take(&pair, &mut selected.container),
            _ => pair.field.report(
                Some(&pair.key),
                "Lattice cannot represent this: it picks a pod's containers by name",
                "Select by \"name\"; for an image, give an ExecPolicy's target.imageDigest.",
            ),
        }
    }
    let host = spec.field("hostSelector");
    if host
        .node()
        .is_some_and(|node| node.value != crate::document::Value::Null)
    {
        host.report(
            None,
            "Lattice cannot represent this: it judges containers, never the host's own programs",
            "Remove it, or leave the host to Tetragon in a policy of its own.",
        );
    }
    let nodes = spec.field("nodeSelector");
    if !is_blank(&nodes) {
        nodes.report(
            None,
            "Lattice cannot represent this: a policy holds on every node that runs its containers",
            "Remove it, or give the file only to the agents of those nodes.",
        );
    }
    selected
}

fn read_pods(pairs: &[Pair<'_>], selected: &mut Selected, notes: &Notes) {
    for pair in pairs {
        if pair.key == NAMESPACE_LABEL {
            take(pair, &mut selected.namespace);
        } else if WORKLOAD_LABELS.contains(&pair.key.as_str()) {
            if pair.key != WORKLOAD_LABELS[0] {
                let message = format!(
                    "Lattice finds containers by their workload's name, not by labels: this is read as the workload \"{}\", whatever \
                     labels its pods have",
                    crate::escape::escaped_and_cut(&pair.value, 80)
                );
                let advice =
                    "Make sure that the workload has this name; \"lattice.dev/workload\" says so without this note.";
                notes.add(&pair.field, message, advice);
            }
            take(pair, &mut selected.workload);
        } else {
            pair.field.report(
                Some(&pair.key),
                "Lattice cannot represent this: it knows a pod's namespace and workload, and none of its other labels",
                "Name the workload by \"lattice.dev/workload\" or \"app.kubernetes.io/name\", or select all pods with {}.",
            );
        }
    }
}

fn take(pair: &Pair<'_>, place: &mut Option<String>) {
    match place {
        Some(earlier) if *earlier != pair.value => {
            let message = "another label names another one, so this selects nothing";
            pair.field.report(Some(&pair.value), message, "Keep one of the two.");
        }
        _ => *place = Some(pair.value.clone()),
    }
}

/// A label that must have one value.
struct Pair<'n> {
    key: String,
    value: String,
    field: Field<'n>,
}

/// A label selector as pairs; `None` where it is absent or null.
fn pairs<'n>(field: &Field<'n>) -> Option<Vec<Pair<'n>>> {
    if field.node()?.value == crate::document::Value::Null {
        return None;
    }
    let selector = field.object()?;
    let mut pairs = Vec::new();
    let labels = selector.field("matchLabels");
    if !is_blank(&labels)
        && let Some(labels) = labels.object()
    {
        for (key, field) in labels.members() {
            if let Some(value) = field.text() {
                let (key, value) = (key.to_owned(), value.to_owned());
                pairs.push(Pair { key, value, field });
            }
        }
    }
    for expression in super::schema::items(&selector, "matchExpressions") {
        pairs.extend(one_value(&expression));
    }
    selector.finish();
    Some(pairs)
}

fn one_value<'n>(field: &Field<'n>) -> Option<Pair<'n>> {
    let expression = field.object()?;
    let key = expression.required("key").non_empty_text();
    let operator = expression.required("operator");
    let values_field = expression.field("values");
    let values = values_field.texts();
    let is_in = match operator.text() {
        Some("In") => true,
        Some(text) => {
            operator.report(
                Some(text),
                "Lattice cannot represent this: it picks containers by one name, not by what they are not",
                "Use In with one value.",
            );
            false
        }
        None => false,
    };
    if is_in && values.len() != 1 {
        values_field.report(
            None,
            format!(
                "Lattice cannot represent this: {} names, and a policy is for one",
                values.len()
            ),
            "Write a policy for each.",
        );
        expression.finish();
        return None;
    }
    expression.finish();
    let value = values.into_iter().next()?;
    is_in.then_some(Pair {
        key: key?.to_owned(),
        value,
        field: values_field,
    })
}
