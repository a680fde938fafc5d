//! `latticectl policy check FILE…`: whether files are right, and what their objects mean, in a sentence each.

mod meaning;

use std::path::PathBuf;

use lattice_api::{Object, read_objects};
use lattice_policy::escape::for_terminal;
use serde::Serialize;

use super::input::{self, DiagnosticItem};
use crate::{failure::Failure, output::Output};

#[derive(Serialize)]
struct PolicyCheck {
    items: Vec<CheckedItem>,
    /// Where Lattice is stricter than Tetragon, or logs otherwise.
    notes: Vec<DiagnosticItem>,
    /// What is wrong, or cannot be represented.
    diagnostics: Vec<DiagnosticItem>,
}

#[derive(Serialize)]
struct CheckedItem {
    file: String,
    kind: &'static str,
    namespace: String,
    name: String,
    meaning: String,
}

pub(crate) fn run(files: &[PathBuf], output: &mut Output) -> Result<(), Failure> {
    let mut items = Vec::new();
    let mut notes = Vec::new();
    let mut diagnostics = Vec::new();
    for path in files {
        let (file, bytes) = input::read(path)?;
        match read_objects(&file, &bytes) {
            Ok(objects) => {
                for object in objects {
                    items.push(CheckedItem {
                        file: file.clone(),
                        kind: object.kind(),
                        namespace: object.namespace().to_owned(),
                        name: object.name().to_owned(),
                        meaning: meaning::of(&object),
                    });
                    if let Object::TracingPolicy(read) = object {
                        notes.extend(read.notes);
                    }
                }
            }
            Err(found) => diagnostics.extend(found),
        }
    }
    let count = diagnostics.len();
    if output.is_json() {
        let check = PolicyCheck {
            items,
            notes: notes.into_iter().map(DiagnosticItem::from).collect(),
            diagnostics: diagnostics.into_iter().map(DiagnosticItem::from).collect(),
        };
        output.json("PolicyCheck", check)?;
    } else {
        for item in &items {
            output.line(&for_terminal(&format!("{}: {}", item.file, item.meaning)))?;
        }
        if items.is_empty() && count == 0 {
            eprintln!("The files hold no object.");
        }
        for note in &notes {
            eprintln!("note: {note}");
        }
        for diagnostic in &diagnostics {
            eprintln!("{diagnostic}");
        }
    }
    match count {
        0 => Ok(()),
        count => Err(Failure::Findings { count }),
    }
}
