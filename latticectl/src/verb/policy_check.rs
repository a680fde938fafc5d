//! `latticectl policy check FILE…`: whether files are right, and what their objects mean, in a sentence each.

mod meaning;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use lattice_api::read_objects;
use lattice_policy::{Diagnostic, document::MAX_FILE_BYTES, escape::for_terminal};
use serde::Serialize;

use crate::{failure::Failure, output::Output};

#[derive(Serialize)]
struct PolicyCheck {
    items: Vec<CheckedItem>,
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

#[derive(Serialize)]
struct DiagnosticItem {
    file: String,
    line: u64,
    column: u64,
    field: String,
    value: Option<String>,
    message: String,
    advice: String,
}

pub(crate) fn run(files: &[PathBuf], output: &mut Output) -> Result<(), Failure> {
    let mut items = Vec::new();
    let mut diagnostics = Vec::new();
    for path in files {
        let file = match path.to_str() {
            Some("-") => "<stdin>".to_owned(),
            _ => path.display().to_string(),
        };
        match read_objects(&file, &read(path)?) {
            Ok(objects) => items.extend(objects.iter().map(|object| CheckedItem {
                file: file.clone(),
                kind: object.kind(),
                namespace: object.namespace().to_owned(),
                name: object.name().to_owned(),
                meaning: meaning::of(object),
            })),
            Err(found) => diagnostics.extend(found),
        }
    }
    let count = diagnostics.len();
    if output.is_json() {
        let diagnostics = diagnostics.into_iter().map(diagnostic_item).collect();
        output.json("PolicyCheck", PolicyCheck { items, diagnostics })?;
    } else {
        for item in &items {
            output.line(&for_terminal(&format!("{}: {}", item.file, item.meaning)))?;
        }
        if items.is_empty() && count == 0 {
            eprintln!("The files hold no object.");
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

/// One byte more than is allowed is enough to know that it is too much.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::File {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut bytes = Vec::new();
    let most = MAX_FILE_BYTES as u64 + 1;
    match path.to_str() {
        Some("-") => io::stdin().lock().take(most).read_to_end(&mut bytes),
        _ => File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes),
    }
    .map_err(failed)?;
    Ok(bytes)
}

fn diagnostic_item(diagnostic: Diagnostic) -> DiagnosticItem {
    DiagnosticItem {
        file: diagnostic.file,
        line: diagnostic.line,
        column: diagnostic.column,
        field: diagnostic.field,
        value: diagnostic.value,
        message: diagnostic.message,
        advice: diagnostic.advice,
    }
}
