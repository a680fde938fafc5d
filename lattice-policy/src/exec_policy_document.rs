//! The ExecPolicy document: the same object as YAML, as JSON and as a custom resource.

mod read;
mod schema;
mod write;

pub use read::{API_VERSION, KIND, read_documents, read_exec_policy};
pub(crate) use write::to_compact_json;
pub use write::{spec_schema, to_json, to_yaml};
