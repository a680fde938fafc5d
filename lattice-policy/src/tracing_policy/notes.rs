//! What a reader should know although nothing is wrong: where Lattice is stricter, or logs otherwise.

use crate::document::{Diagnostic, Field, Findings};

/// Collects the notes of one document.
pub(super) struct Notes(Findings);

impl Notes {
    /// None so far.
    pub(super) fn new(file: &str) -> Self {
        Self(Findings::new(file))
    }

    /// Adds a note about a field.
    pub(super) fn add(&self, field: &Field<'_>, message: impl Into<String>, advice: &str) {
        self.0.add(field.location(), field.path(), None, message.into(), advice);
    }

    /// By place in the file.
    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.0.into_diagnostics()
    }
}
