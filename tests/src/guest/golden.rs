//! Golden events: what each kind of event says, without what every run has another of.
//!
//! One file an event, `tests/golden/events/NAME.json`, the same on every kernel. A case asks with [`check`] after the attempt that made
//! the event. Where an event differs, what should stand in its file is printed; `LATTICE_UPDATE_GOLDEN=1 lattice-vm-test …` writes it
//! there, and fails all the same: the next run compares.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::host::host;

/// Begins the line that has an event's name and what its file should hold.
pub const DIFFERS: &str = "golden event: ";

/// Fields that are of the run rather than of what happened, and what stands for them. One that is absent stays absent.
const OF_THE_RUN: [(&str, &str); 16] = [
    ("sequence", "<sequence>"),
    ("repeatsOf", "<sequence>"),
    ("time", "<time>"),
    ("firstTime", "<time>"),
    ("lastTime", "<time>"),
    ("node", "<node>"),
    ("bootId", "<boot>"),
    ("sha256", "<sha256>"),
    ("size", "<size>"),
    ("pid", "<pid>"),
    ("parentPid", "<pid>"),
    ("execSessionPid", "<pid>"),
    ("startBootNanos", "<nanos>"),
    ("containerId", "<container>"),
    ("cgroupId", "<cgroup>"),
    // Whether the caller was still there when the agent looked is chance.
    ("cwd", "<cwd>"),
];

/// Those of events that stand for several: how many there are is of the run as well, and the sentence says it.
const OF_SEVERAL: [(&str, &str); 4] = [
    ("count", "<count>"),
    ("firstSequence", "<sequence>"),
    ("lastSequence", "<sequence>"),
    ("ranges", "<ranges>"),
];

/// The suite's program.
const SUITE: &str = "lattice-vm-suite";

/// Names of the golden events that this run compared.
static COMPARED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// What differed since the last case ended.
static DIFFERENCES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn folder() -> PathBuf {
    host().material.join("golden")
}

/// Replaces what is of the run.
pub fn normalised(event: &Value) -> Value {
    let is_of_several = event.get("gap").is_some()
        || event
            .get("violation")
            .is_some_and(|violation| violation.get("lastTime").is_some());
    replaced(event, is_of_several)
}

fn replaced(value: &Value, is_of_several: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let more = if is_of_several { &OF_SEVERAL[..] } else { &[] };
                let stands_for = OF_THE_RUN.iter().chain(more).find(|(field, _)| field == name);
                let value = match (stands_for, value) {
                    (Some((_, text)), _) => json!(text),
                    (None, Value::Array(ancestors)) if name == "ancestors" => ancestors_of_the_case(ancestors),
                    (None, Value::String(text)) if name == "message" && is_of_several => json!(without_numbers(text)),
                    _ => replaced(value, is_of_several),
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(elements) => elements
            .iter()
            .map(|element| replaced(element, is_of_several))
            .collect(),
        // The number of a descriptor.
        Value::String(text) => match text.find("/fd/") {
            Some(at) => {
                let (head, rest) = text.split_at(at + "/fd/".len());
                json!(format!(
                    "{head}N{}",
                    rest.trim_start_matches(|digit: char| digit.is_ascii_digit())
                ))
            }
            None => value.clone(),
        },
        _ => value.clone(),
    }
}

/// Up to the suite itself; what started that is of the harness.
fn ancestors_of_the_case(ancestors: &[Value]) -> Value {
    let suite = ancestors.iter().rposition(|ancestor| ancestor["name"] == SUITE);
    let of_the_case = &ancestors[..suite.map_or(ancestors.len(), |place| place + 1)];
    let mut shown: Vec<Value> = of_the_case.iter().map(|ancestor| replaced(ancestor, false)).collect();
    // Of any but the suite it is chance whether it was still there when the agent looked for its executable.
    for ancestor in shown.iter_mut().filter(|ancestor| ancestor["name"] != SUITE) {
        ancestor.as_object_mut().map(|fields| fields.remove("executable"));
    }
    if of_the_case.len() < ancestors.len() {
        shown.push(json!("<of the harness>"));
    }
    Value::Array(shown)
}

/// A sentence with N for each number.
fn without_numbers(text: &str) -> String {
    let mut shortened = String::new();
    for character in text.chars() {
        match character.is_ascii_digit() {
            true if shortened.ends_with('N') => {}
            true => shortened.push('N'),
            false => shortened.push(character),
        }
    }
    shortened
}

/// The path of the first difference, and both values there.
fn difference(made: &Value, golden: &Value, path: &str) -> Option<String> {
    match (made, golden) {
        (Value::Object(made), Value::Object(golden)) => {
            let names: BTreeSet<&String> = made.keys().chain(golden.keys()).collect();
            let nothing = Value::Null;
            names.into_iter().find_map(|name| {
                let of = |fields: &Map<String, Value>| fields.get(name).unwrap_or(&nothing).clone();
                difference(&of(made), &of(golden), &format!("{path}.{name}"))
            })
        }
        _ if made == golden => None,
        _ => Some(format!("{path} is {made}, golden is {golden}")),
    }
}

/// Compares an event with the golden one of that name. Where it differs the case goes on, so that one run shows all that differs, and
/// fails at its end, by [`none_differed`]; what should stand in the file is printed.
///
/// # Errors
/// When the file is no JSON.
pub fn check(name: &str, event: &Value) -> Result<()> {
    COMPARED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(name.to_owned());
    let made = normalised(event);
    let file = folder().join(format!("{name}.json"));
    let difference = match fs::read(&file) {
        Ok(bytes) => {
            let golden = serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", file.display()))?;
            difference(&made, &golden, "")
        }
        Err(error) => Some(format!("there is none: {error}")),
    };
    if let Some(difference) = difference {
        println!("{DIFFERS}{name} {made}");
        DIFFERENCES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(format!("{name}: {difference}"));
    }
    Ok(())
}

/// After a case: every event that it compared was the golden one.
///
/// # Errors
/// When one was not.
pub fn none_differed() -> Result<()> {
    let differences = std::mem::take(&mut *DIFFERENCES.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(
        differences.is_empty(),
        "not as the golden event: {}",
        differences.join("; ")
    );
    Ok(())
}

/// After all cases: each golden event was compared with one that was made.
///
/// # Errors
/// When one was not.
pub fn all_were_compared() -> Result<()> {
    let compared = COMPARED.lock().unwrap_or_else(PoisonError::into_inner);
    let files = fs::read_dir(folder()).context("there is no folder of golden events")?;
    let mut forgotten = Vec::new();
    for file in files {
        let name = file?.file_name().to_string_lossy().into_owned();
        if !compared.contains(name.trim_end_matches(".json")) {
            forgotten.push(name);
        }
    }
    ensure!(forgotten.is_empty(), "no case compares {forgotten:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_normalised(event: &Value, expected: &Value) {
        assert_eq!(difference(&normalised(event), expected, ""), None);
    }

    #[test]
    fn only_what_is_of_the_run_is_replaced() {
        check_normalised(
            &json!({"sequence": 7, "message": "7 m", "violation": {"pid": 1, "count": 1, "pathAsPassed": "/dev/fd/12", "argv": ["/proc/self/fd/3", "a"]}}),
            &json!({"sequence": "<sequence>", "message": "7 m", "violation": {"pid": "<pid>", "count": 1, "pathAsPassed": "/dev/fd/N", "argv": ["/proc/self/fd/N", "a"]}}),
        );
    }

    #[test]
    fn ancestors_above_the_suite_are_left_out() {
        let named = |name: &str| json!({"pid": 7, "name": name});
        let shown = |name: &str| json!({"pid": "<pid>", "name": name});
        check_normalised(
            &json!({"ancestors": [{"pid": 7, "name": "sh", "executable": "/bin/sh"}, named(SUITE), named(SUITE), named("sh"), named("init")]}),
            &json!({"ancestors": [shown("sh"), shown(SUITE), shown(SUITE), "<of the harness>"]}),
        );
        check_normalised(
            &json!({"ancestors": [named("sh")]}),
            &json!({"ancestors": [shown("sh")]}),
        );
    }

    #[test]
    fn numbers_of_what_stands_for_several_are_replaced() {
        check_normalised(
            &json!({"message": "12 events, 3 to 14, are lost", "gap": {"firstSequence": 3, "lastSequence": 14, "count": 12}}),
            &json!({"message": "N events, N to N, are lost", "gap": {"firstSequence": "<sequence>", "lastSequence": "<sequence>", "count": "<count>"}}),
        );
        check_normalised(
            &json!({"message": "84 more times", "violation": {"count": 84, "uid": 5, "lastTime": "x"}}),
            &json!({"message": "N more times", "violation": {"count": "<count>", "uid": 5, "lastTime": "<time>"}}),
        );
    }

    #[test]
    fn a_field_too_many_too_few_or_of_another_value_is_a_difference() {
        let golden = json!({"a": 1, "b": {"c": [1, 2]}});
        for made in [
            json!({"a": 1}),
            json!({"a": 1, "b": {"c": [1, 2], "d": 1}}),
            json!({"a": 1, "b": {"c": [2, 1]}}),
            json!([]),
        ] {
            assert!(difference(&made, &golden, "").is_some(), "{made}");
        }
    }
}
