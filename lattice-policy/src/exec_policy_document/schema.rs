//! What the fields of a document may hold, for the schema: the words are those that the reader knows.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::write::{FailDocument, TargetDocument};
use crate::{CodeLoading, FailAction, FailSemantics, FileKind, Mode, Origin, Role, Scope, Word};

fn words<T: Word>() -> Schema {
    let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
    json_schema!({"type": "string", "enum": words})
}

pub(super) fn mode(_: &mut SchemaGenerator) -> Schema {
    words::<Mode>()
}

pub(super) fn fail_action(_: &mut SchemaGenerator) -> Schema {
    words::<FailAction>()
}

pub(super) fn code_loading(_: &mut SchemaGenerator) -> Schema {
    words::<CodeLoading>()
}

pub(super) fn scope(_: &mut SchemaGenerator) -> Schema {
    words::<Scope>()
}

pub(super) fn kind(_: &mut SchemaGenerator) -> Schema {
    words::<FileKind>()
}

pub(super) fn from(_: &mut SchemaGenerator) -> Schema {
    words::<Origin>()
}

pub(super) fn roles(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": words::<Role>()})
}

/// A rule is a string or an object, which no structural schema can say: the reader checks it.
pub(super) fn map_rules(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"x-kubernetes-preserve-unknown-fields": true}})
}

pub(super) fn default_mode() -> &'static str {
    Mode::Monitor.word()
}

pub(super) fn default_code_loading() -> &'static str {
    CodeLoading::default().word()
}

pub(super) fn default_scope() -> &'static str {
    Scope::default().word()
}

pub(super) fn default_fail() -> FailDocument {
    FailDocument::of(&FailSemantics::default())
}

pub(super) fn closed() -> &'static str {
    FailAction::Closed.word()
}

pub(super) fn open() -> &'static str {
    FailAction::Open.word()
}

pub(super) fn no_target() -> TargetDocument<'static> {
    TargetDocument::default()
}

pub(super) fn none() -> &'static [String] {
    &[]
}
