//! `selectors`: on which paths, and from where.

use std::collections::BTreeSet;

use super::{
    MAX_PATH_ENTRY_BYTES, action,
    decision::{PathCondition, Selector, Start},
    notes::Notes,
    schema::{self, REMOVE_CONDITION},
};
use crate::{
    FilePath,
    document::{Field, Object, Value},
};

/// More than so many selectors a hook Tetragon does not take.
const MAX_SELECTORS: usize = 5;

/// Which of a hook's arguments is the file that is started.
#[derive(Clone, Copy)]
pub(super) struct PathArgument {
    /// As the traced function counts its arguments.
    pub(super) function_index: u32,
    /// As the specification lists them; `None` where it lists none.
    pub(super) listed_index: Option<u32>,
}

/// Reads a hook's selectors; without any Tetragon posts an event for every call.
pub(super) fn read(hook: &Object<'_>, argument: PathArgument, notes: &Notes) -> Option<Vec<Selector>> {
    let field = hook.field("selectors");
    if schema::is_blank(&field) {
        return Some(Vec::new());
    }
    let items = field.items();
    if items.len() > MAX_SELECTORS {
        let message = format!(
            "{} selectors, and Tetragon takes at most {MAX_SELECTORS} a hook",
            items.len()
        );
        field.report(None, message, "Join those with the same actions.");
        return None;
    }
    let selectors: Vec<Option<Selector>> = items.iter().map(|item| read_selector(item, argument, notes)).collect();
    selectors.into_iter().collect()
}

fn read_selector(item: &Field<'_>, argument: PathArgument, notes: &Notes) -> Option<Selector> {
    let object = item.object()?;
    let arguments = schema::items(&object, "matchArgs");
    let has_arguments = !arguments.is_empty();
    let paths: Vec<_> = arguments
        .iter()
        .map(|item| read_path_condition(item, argument, notes))
        .collect();
    let starts: Vec<_> = schema::items(&object, "matchPIDs")
        .iter()
        .map(|item| read_start(item, notes))
        .collect();
    refuse_callers(&object.field("matchBinaries"), has_arguments);
    for (name, reason) in [
        (
            "matchParentBinaries",
            "the kernel side knows no caller's parent by name",
        ),
        ("matchData", "only the started file is looked at"),
        ("matchReturnArgs", "a start is judged before there is a return value"),
        ("matchReturnActions", "a start is judged before there is a return value"),
        (
            "matchNamespaces",
            "the kernel's namespaces of the caller are no condition",
        ),
        (
            "matchNamespaceChanges",
            "the kernel's namespaces of the caller are no condition",
        ),
        ("matchCapabilities", "the caller's capabilities are no condition"),
        ("matchCapabilityChanges", "the caller's capabilities are no condition"),
    ] {
        schema::refuse(&object, name, reason, REMOVE_CONDITION);
    }
    let reason = "a policy has one target, and no selector has one of its own";
    schema::refuse(&object, "matchWorkloads", reason, "Write a policy for each workload.");
    schema::refuse(
        &object,
        "macros",
        "macros are not expanded",
        "Write out what the macro holds.",
    );
    // A name for Tetragon's own metrics; it has no effect.
    if !schema::is_blank(&object.field("label")) {
        object.field("label").text();
    }
    let outcome = action::read(&object, notes);
    object.finish();
    Some(Selector {
        paths: paths.into_iter().collect::<Option<_>>()?,
        starts: starts.into_iter().collect::<Option<_>>()?,
        outcome: outcome?,
    })
}

/// A condition on who calls: the kernel side has none, and the field is often taken for what it is not.
fn refuse_callers(field: &Field<'_>, has_arguments: bool) {
    if schema::is_blank(field) {
        return;
    }
    let (message, advice) = match has_arguments {
        true => (
            "Lattice cannot represent this: matchBinaries is the program that calls execve, and by which program another one is \
             started is no condition here",
            "Remove it if the policy is right for every caller; an ExecPolicy's entries can say \"from: init\" or \"from: exec-session\".",
        ),
        false => (
            "Lattice cannot represent this: matchBinaries is the program that calls execve, not the one that is started, and by which \
             program another one is started is no condition here",
            "If these are the programs that may (or may not) start, write them in matchArgs, with the operator NotEqual (or Equal).",
        ),
    };
    field.report(None, message, advice);
}

#[derive(Clone, Copy)]
enum Operator {
    In,
    NotIn,
    Pattern,
    Other,
}

const OPERATORS: [(&str, Operator); 38] = [
    ("Equal", Operator::In),
    ("NotEqual", Operator::NotIn),
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Prefix", Operator::Pattern),
    ("NotPrefix", Operator::Pattern),
    ("Postfix", Operator::Pattern),
    ("NotPostfix", Operator::Pattern),
    ("SubString", Operator::Pattern),
    ("SubStringIgnCase", Operator::Pattern),
    ("GreaterThan", Operator::Other),
    ("LessThan", Operator::Other),
    ("GT", Operator::Other),
    ("LT", Operator::Other),
    ("Mask", Operator::Other),
    ("SPort", Operator::Other),
    ("NotSPort", Operator::Other),
    ("SPortPriv", Operator::Other),
    ("NotSportPriv", Operator::Other),
    ("DPort", Operator::Other),
    ("NotDPort", Operator::Other),
    ("DPortPriv", Operator::Other),
    ("NotDPortPriv", Operator::Other),
    ("SAddr", Operator::Other),
    ("NotSAddr", Operator::Other),
    ("DAddr", Operator::Other),
    ("NotDAddr", Operator::Other),
    ("Protocol", Operator::Other),
    ("Family", Operator::Other),
    ("State", Operator::Other),
    ("InMap", Operator::Other),
    ("NotInMap", Operator::Other),
    ("CapabilitiesGained", Operator::Other),
    ("InRange", Operator::Other),
    ("NotInRange", Operator::Other),
    ("CelExpr", Operator::Other),
    ("FileType", Operator::Other),
    ("NotFileType", Operator::Other),
];

fn read_path_condition(item: &Field<'_>, argument: PathArgument, notes: &Notes) -> Option<PathCondition> {
    let object = item.object()?;
    let index = object.field("index");
    let listed = object.field("args");
    let is_path = match schema::is_blank(&listed) {
        false => {
            let indexes: Vec<Option<u32>> = listed.items().iter().map(Field::integer).collect();
            indexes.len() == 1 && indexes[0].is_some() && indexes[0] == argument.listed_index
        }
        true => match index.is_present() {
            true => index.integer::<u32>() == Some(argument.function_index),
            false => argument.function_index == 0,
        },
    };
    if !is_path {
        let message = format!(
            "Lattice cannot represent this: only argument {}, the started file, is looked at",
            argument.function_index
        );
        index.report(None, message, REMOVE_CONDITION);
    }
    let operator_field = object.required("operator");
    let operator = operator_field.choice(&OPERATORS);
    let reason = match operator {
        Some(Operator::Pattern) => "Lattice cannot represent this: whole paths are compared, never parts of them",
        Some(Operator::Other) => "Lattice cannot represent this: a path is equal to another one, or it is not",
        _ => "",
    };
    if !reason.is_empty() {
        let advice = "List the whole paths with Equal or NotEqual.";
        operator_field.report(operator_field.text(), reason, advice);
    }
    if let Some(word @ ("In" | "NotIn")) = operator_field.node().and_then(|node| match &node.value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    }) {
        let canonical = if word == "In" { "Equal" } else { "NotEqual" };
        let message =
            format!("Tetragon's schema has no \"{word}\" here and refuses the document; it is read as \"{canonical}\"");
        notes.add(&operator_field, message, &format!("Write {canonical}."));
    }
    let values_field = object.required("values");
    let items = values_field.items();
    if values_field.is_present() && items.is_empty() {
        values_field.report(
            None,
            "the list is empty",
            "List at least one path, or remove the condition.",
        );
    }
    let values: Vec<Option<FilePath>> = items.iter().map(read_path).collect();
    object.finish();
    let values = values.into_iter().collect::<Option<BTreeSet<_>>>()?;
    if !is_path || values.is_empty() {
        return None;
    }
    match operator? {
        Operator::In => Some(PathCondition::In(values)),
        Operator::NotIn => Some(PathCondition::NotIn(values)),
        Operator::Pattern | Operator::Other => None,
    }
}

/// Tetragon knows no escapes: a value stands for its own bytes.
fn read_path(field: &Field<'_>) -> Option<FilePath> {
    let text = field.text()?;
    let path = FilePath::from(text);
    if let Err(error) = path.check() {
        field.report(Some(text), format!("the path {error}"), error.advice());
        return None;
    }
    if text.len() > MAX_PATH_ENTRY_BYTES {
        let message = format!(
            "Lattice cannot represent this: the kernel side compares paths of at most {MAX_PATH_ENTRY_BYTES} bytes"
        );
        let advice = "Name the file by its sha256 in an ExecPolicy instead.";
        field.report(Some(text), message, advice);
        return None;
    }
    Some(path)
}

/// The one question about process numbers that has an answer here: whether the caller descends from the container's first process.
fn read_start(item: &Field<'_>, notes: &Notes) -> Option<Start> {
    let object = item.object()?;
    let operator = object
        .required("operator")
        .choice(&[("In", Start::Init), ("NotIn", Start::ExecSession)]);
    let values_field = object.required("values");
    let values: Vec<Option<u32>> = values_field.items().iter().map(Field::integer).collect();
    let is_namespace = !schema::is_blank(&object.field("isNamespacePID"));
    let follows = !schema::is_blank(&object.field("followForks"));
    for name in ["isNamespacePID", "followForks"] {
        object.field(name).boolean();
    }
    object.finish();
    let is_first_process = values.contains(&Some(1)) && values.iter().all(|value| matches!(value, Some(0 | 1)));
    if !(is_first_process && is_namespace && follows) {
        item.report(
            None,
            "Lattice cannot represent this: of a caller's process number only one thing counts, whether it descends from the \
             container's first process",
            "Write values: [1], isNamespacePID: true, followForks: true; or remove the condition.",
        );
        return None;
    }
    let message = "Tetragon looks ten ancestors up for process 1 of the PID namespace; Lattice marks whole trees, by whether they entered \
                   the container from outside";
    notes.add(item, message, "Nothing to do.");
    operator
}
