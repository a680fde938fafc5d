//! Derives what may start in a container from what its image holds and its service says. Pure: no I/O, no clock.
//!
//! ```text
//!   layer's entries ─► LayerBuilder ─► LayerSummary ┐
//!   layer's entries ─► LayerBuilder ─► LayerSummary ┼─► ImageTree ┐
//!                           ImageConfig ────────────┴─────────────┴─► Image ┐
//!                                                                           ├─► derive ─► Derivation: ExecPolicy,
//!   ServiceSpec: command, args, env, probes, hooks ─────────────────────────┘             evidence, diagnostics
//! ```
//!
//! [`derive()`] follows each command of the specification: PATH and symbolic links ([`tree`]), ELF and `#!` interpreters
//! ([`shebang`]), programs that start others, and shell text ([`shell`]). It guesses nothing: what only a run can tell
//! becomes a [`Diagnostic`], and what the specification itself names and the image does not have is a [`DeriveError`].
//! The same input gives the same output, byte for byte.
#![forbid(unsafe_code)]

mod builder;
mod derive;
mod diff;
mod entries;
mod error;
mod expand;
mod image;
mod image_scope;
mod layer;
pub mod path;
mod script;
mod service;
pub mod shebang;
pub mod shell;
pub mod tree;
mod walk;
mod wrapper;

pub use builder::LayerBuilder;
pub use derive::{DEFAULT_PATH, Derivation, Image, Settings, derive, derive_container};
pub use diff::{Change, diff};
pub use entries::EntryEvidence;
pub use error::{CommandField, CommandProblem, DeriveError, Diagnostic, Problem};
pub use image::{DiffId, ImageConfig, Platform};
pub use layer::{
    ElfInterpreter, FileContent, FileFacts, LayerSummary, SCRIPT_BYTES_MAX, SCRIPT_HEAD_BYTES, ScriptText,
};
pub use path::InvalidPath;
pub use service::{ContainerSpec, EnvValue, EnvVar, ServiceSpec};
pub use tree::ImageTree;
