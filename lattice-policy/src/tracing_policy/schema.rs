//! What Tetragon's schema has and Lattice has nothing for.

use super::notes::Notes;
use crate::document::{Field, Object, Value};

/// Whether a field is absent or has a value that says nothing, as the schema's defaults have.
pub(super) fn is_blank(field: &Field<'_>) -> bool {
    match field.node().map(|node| &node.value) {
        None | Some(Value::Null | Value::Boolean(false) | Value::Integer(0)) => true,
        Some(Value::Text(text)) => text.is_empty(),
        Some(Value::Sequence(items)) => items.is_empty(),
        Some(Value::Mapping(members)) => members.is_empty(),
        Some(_) => false,
    }
}

/// Refuses a field that says something, with the reason.
pub(super) fn refuse(object: &Object<'_>, name: &'static str, reason: &str, advice: &str) {
    let field = object.field(name);
    if !is_blank(&field) {
        let value = field.node().and_then(|node| node.value.scalar_text());
        field.report(
            value.as_deref(),
            format!("Lattice cannot represent this: {reason}"),
            advice,
        );
    }
}

/// Notes a field that only changes what is logged, or how Tetragon attaches.
pub(super) fn note(notes: &Notes, object: &Object<'_>, name: &'static str, message: &str) {
    let field = object.field(name);
    if !is_blank(&field) {
        notes.add(&field, message, "Nothing to do.");
    }
}

/// The items of a list that may be absent or empty.
pub(super) fn items<'n>(object: &Object<'n>, name: &'static str) -> Vec<Field<'n>> {
    let field = object.field(name);
    match is_blank(&field) {
        true => Vec::new(),
        false => field.items(),
    }
}

/// Part of the advice where a condition has no counterpart.
pub(super) const REMOVE_CONDITION: &str =
    "Remove the condition if the policy is right without it; else leave this policy to Tetragon.";
/// Advice where a hook is none that judges the start of a program.
pub(super) const OTHER_HOOK: &str =
    "Keep it in a policy of its own for Tetragon, and write the part about programs with lsmhooks bprm_check_security.";
