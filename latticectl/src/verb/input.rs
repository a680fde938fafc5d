//! Files that a verb reads, `-` for standard input.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use lattice_policy::{Diagnostic, document::MAX_FILE_BYTES};
use serde::Serialize;

use crate::failure::Failure;

/// A finding or a note, for programs.
#[derive(Serialize)]
pub(super) struct DiagnosticItem {
    file: String,
    line: u64,
    column: u64,
    field: String,
    value: Option<String>,
    message: String,
    advice: String,
}

impl From<Diagnostic> for DiagnosticItem {
    fn from(diagnostic: Diagnostic) -> Self {
        Self {
            file: diagnostic.file,
            line: diagnostic.line,
            column: diagnostic.column,
            field: diagnostic.field,
            value: diagnostic.value,
            message: diagnostic.message,
            advice: diagnostic.advice,
        }
    }
}

/// The file's name for people, and what it holds.
pub(super) fn read(path: &Path) -> Result<(String, Vec<u8>), Failure> {
    let failed = |error: io::Error| Failure::File {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know that it is too much.
    let most = MAX_FILE_BYTES as u64 + 1;
    let name = match path.to_str() {
        Some("-") => {
            io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(failed)?;
            "<stdin>".to_owned()
        }
        _ => {
            File::open(path)
                .map_err(failed)?
                .take(most)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            path.display().to_string()
        }
    };
    Ok((name, bytes))
}
