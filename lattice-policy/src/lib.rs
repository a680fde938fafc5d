//! The domain of execution policies: what an [`ExecPolicy`] says, without saying how it travels.
//!
//! ```text
//!   YAML / JSON ──► document (strict, with file, line, field) ──► ExecPolicy ──► agent's maps
//!   derivation ─────────────────────────────────────────────────────▲
//!   TracingPolicy (Tetragon) ◄──► tracing_policy ───────────────────┘
//! ```
#![forbid(unsafe_code)]

pub mod denial;
pub mod digest;
pub mod document;
pub mod escape;
pub mod exec_policy;
pub mod exec_policy_document;
pub mod file_path;
pub mod policy_file;
pub mod tracing_policy;
pub mod validity;
mod words;

pub use denial::{Denied, InvalidDenied};
pub use digest::{FileDigest, ImageDigest, InvalidDigest};
pub use document::Diagnostic;
pub use exec_policy::{
    CodeLoading, Entry, ExecPolicy, FailAction, FailSemantics, FileKind, MapRule, Mode, Origin, Role, Scope, Target,
};
pub use exec_policy_document::{read_documents, to_json, to_yaml};
pub use file_path::{FilePath, InvalidPath};
pub use policy_file::{Conflicts, PolicyDocument, PolicyFile, read_policies};
pub use tracing_policy::{TracingPolicy, TracingPolicyKind};
pub use validity::InvalidPolicy;
pub use words::{UnknownWord, Word};
