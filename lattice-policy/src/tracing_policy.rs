//! Tetragon's `TracingPolicy` and `TracingPolicyNamespaced`, read as execution policies and written from them.
//!
//! ```text
//!   document ──► target, hook, selector (strict: what Lattice has nothing for is a finding)
//!                    └──► decision: each path and origin ──► first selector that matches ──► entries, mode
//!   ExecPolicy ──► write: lsmhooks bprm_check_security, and the policy itself in an annotation ──► document
//! ```
//!
//! Read is what a policy *does* at the start of a program. `matchBinaries` is the program that calls execve, not the one that is
//! started; selectors are tried in their order and the first that matches decides; a path that a list names and one that no list
//! names are asked the same question. What would have to be left out, also in part, refuses the document. What Lattice does more
//! strictly, or only logs otherwise, is a note.
//!
//! Facts about Tetragon are those of cilium/tetragon at 4fbfe2d74 (schema 1.8.13); `docs/tetragon.md` has them in a table.

mod action;
mod carried;
mod decision;
mod hook;
mod loaders;
mod notes;
mod read;
mod schema;
mod selector;
mod target;
mod write;

pub use carried::ANNOTATION;
pub use read::{TracingPolicy, TracingPolicyKind, read_tracing_policy};
pub use target::WORKLOAD_LABEL;
pub use write::{Carry, Loss, TracingPolicyDocument};

/// Group and version of Tetragon's kinds.
pub const API_VERSION: &str = "cilium.io/v1alpha1";

/// The kernel side takes a path entry's path of at most so many bytes.
pub const MAX_PATH_ENTRY_BYTES: usize = 251;
