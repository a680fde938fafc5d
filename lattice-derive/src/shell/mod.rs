//! A scanner for POSIX shell text: which simple commands does it hold? It runs nothing and guesses nothing.
//!
//! ```text
//!   text ─► word: quotes, $…, $(…), `…` ─► lexer: words and operators ─► commands: simple commands, functions
//! ```
//!
//! What depends on a run (a variable, a substitution's output, a pattern) is [`Part::Dynamic`] or [`Part::Variable`].
//! Text that the scanner cannot read is a [`ShellError`], never a shorter list.

mod commands;
mod lexer;
mod word;

pub use commands::{Assignment, Script, SimpleCommand, assignment, scan};
pub use word::{Part, Word};

/// How deep substitutions may lie in each other.
pub const NESTING_MAX: usize = 32;
/// Simple commands in one text.
pub const COMMANDS_MAX: usize = 4096;

/// Why a text cannot be read as shell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShellError {
    /// A quote, substitution or here-document that does not end.
    #[error("{what} that begins in line {line} does not end")]
    Unterminated {
        /// What began.
        what: &'static str,
        /// Line, from 1.
        line: usize,
    },
    /// Substitutions nested too deep.
    #[error("substitutions lie deeper than {NESTING_MAX} in each other")]
    TooDeep,
    /// Too many commands.
    #[error("more than {COMMANDS_MAX} commands")]
    TooLong,
}

#[cfg(test)]
mod tests;
