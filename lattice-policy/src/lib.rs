//! The domain of execution policies: what an [`ExecPolicy`] says, without saying how it travels.
//!
//! ```text
//!   YAML / JSON ──► document (strict, with file, line, field) ──► ExecPolicy ──► agent's maps
//!   derivation ─────────────────────────────────────────────────────▲
//! ```
#![forbid(unsafe_code)]

pub mod digest;
pub mod exec_policy;
pub mod file_path;

pub use digest::{FileDigest, ImageDigest, InvalidDigest};
pub use exec_policy::{
    CodeLoading, Entry, ExecPolicy, FailAction, FailSemantics, FileKind, MapRule, Mode, Origin, Role, Scope, Target,
};
pub use file_path::FilePath;
