//! YAML and JSON documents as trees that know where each value stands, and a strict way to read objects out of them.
//!
//! ```text
//!   bytes ──parse──► Node (value + line, column) ──Field, Object──► a kind's own type
//!             │                                        │
//!             └──────────── Diagnostic (file, line, column, field, value, message, advice) ◄┘
//! ```
//!
//! Strict means: a field that nobody asked for, a key twice, a value of another type, an empty value and what other YAML
//! readers would take for something else are all errors. A reader goes on after an error, so that one run shows them all.

mod compose;
mod diagnostic;
mod field;
mod header;
mod node;
mod scalar;

pub use compose::{MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, parse};
pub use diagnostic::{Diagnostic, Findings};
pub use field::{Field, Object};
pub use header::{Header, Metadata, Scoping, read_header, read_metadata};
pub use node::{Location, Member, Node, Value};
