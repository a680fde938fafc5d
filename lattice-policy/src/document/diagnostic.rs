//! What is wrong with a document, for people.

use std::{cell::RefCell, fmt};

use super::Location;
use crate::escape::escaped_and_cut;

/// How much of a value a diagnostic shows, in characters.
const VALUE_CHARACTERS: usize = 80;

/// After so many findings a file is not read to its end for more.
const MAX_FINDINGS: usize = 100;

/// One thing that is wrong in a file. Shows as `file:line:column: field: value: message. Advice.` in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// Line, counted from 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// Column in characters, counted from 1; 0 where the file as a whole is meant.
    pub column: u64,
    /// The field, like `spec.entries[3].path`; empty where none is meant.
    pub field: String,
    /// The value as it was written, escaped and cut; `None` where there is none or it must not be shown.
    pub value: Option<String>,
    /// What is wrong; without a full stop at its end.
    pub message: String,
    /// What to do about it: a sentence.
    pub advice: String,
}

impl Diagnostic {
    /// A finding about the file as a whole.
    pub fn of_file(file: &str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            field: String::new(),
            value: None,
            message: message.into(),
            advice: advice.into(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&escaped_and_cut(&self.file, usize::MAX))?;
        if self.line > 0 {
            write!(formatter, ":{}:{}", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(formatter, ": {}", escaped_and_cut(&self.field, 300))?;
        }
        if let Some(value) = &self.value {
            write!(formatter, ": \"{value}\"")?;
        }
        write!(formatter, ": {}. {}", self.message, self.advice)
    }
}

impl std::error::Error for Diagnostic {}

/// Collects the diagnostics of one file while it is read.
#[derive(Debug)]
pub struct Findings {
    file: String,
    diagnostics: RefCell<Vec<Diagnostic>>,
}

impl Findings {
    /// None so far, for this file.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            diagnostics: RefCell::default(),
        }
    }

    /// Adds one. The value is escaped and cut here.
    pub fn add(&self, location: Location, field: &str, value: Option<&str>, message: String, advice: &str) {
        let mut diagnostics = self.diagnostics.borrow_mut();
        if diagnostics.len() >= MAX_FINDINGS {
            return;
        }
        diagnostics.push(Diagnostic {
            file: self.file.clone(),
            line: location.line,
            column: location.column,
            field: field.to_owned(),
            value: value.map(|value| escaped_and_cut(value, VALUE_CHARACTERS)),
            message,
            advice: advice.to_owned(),
        });
    }

    /// Adds what a check of the policy itself found; its value is escaped already.
    pub(crate) fn add_fault(&self, location: Location, fault: &crate::InvalidPolicy) {
        self.add(location, &fault.field, None, fault.message.clone(), fault.advice);
        if let Some(last) = self.diagnostics.borrow_mut().last_mut() {
            last.value = (!fault.value.is_empty()).then(|| fault.value.clone());
        }
    }

    /// Name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// How many there are; equal before and after reading something means that it was without fault.
    pub fn count(&self) -> usize {
        self.diagnostics.borrow().len()
    }

    /// The value where nothing was found.
    ///
    /// # Errors
    /// Everything that was found, by place in the file.
    pub fn into_result<T>(self, value: T) -> Result<T, Vec<Diagnostic>> {
        let diagnostics = self.into_diagnostics();
        match diagnostics.is_empty() {
            true => Ok(value),
            false => Err(diagnostics),
        }
    }

    /// Everything that was found, by place in the file.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        let mut diagnostics = self.diagnostics.into_inner();
        diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        diagnostics
    }
}
