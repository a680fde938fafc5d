//! Policies as they may be, for properties.

use lattice_policy::{
    CodeLoading, Entry, ExecPolicy, FailAction, FailSemantics, FileDigest, FileKind, FilePath, ImageDigest, MapRule,
    Mode, Origin, Role, Scope, Target,
};
use proptest::prelude::*;

fn texts(of: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        4 => of.prop_map(String::from),
        // What YAML would take for something else, if it were written plain.
        1 => prop::sample::select(vec!["yes", "null", "~", "0644", "1e3", "- a", "a: b", "#", "true", " x ", "'", "\"", "|", "&a", "*a", "!t", "%", "@", "`", "---", "...", "<<", "a\nb", "\t", "\u{85}", "\u{2028}", "\u{feff}", "\\x41", "a #b", "[", "{", "=", ".inf", "1:30", "2001-01-01", "?"]).prop_map(String::from),
    ]
}

fn file_path() -> impl Strategy<Value = FilePath> {
    let part = prop::collection::vec(
        any::<u8>().prop_filter("no separator", |byte| !matches!(byte, 0 | b'/')),
        1..12,
    )
    .prop_filter("no dots", |part| !matches!(part.as_slice(), b"." | b".."));
    prop::collection::vec(part, 1..4).prop_map(|parts| {
        FilePath::from_bytes(
            parts
                .iter()
                .flat_map(|part| [b"/".as_slice(), part].concat())
                .collect::<Vec<u8>>(),
        )
    })
}

fn fail_action() -> impl Strategy<Value = FailAction> {
    prop::sample::select(vec![FailAction::Open, FailAction::Closed, FailAction::Kill])
}

prop_compose! {
    fn entry()(
        path in file_path(),
        sha256: Option<[u8; 32]>,
        real_path in prop::option::of(file_path()),
        size_bytes: Option<u64>,
        kind in prop::option::of(prop::sample::select(vec![FileKind::Elf, FileKind::Script])),
        roles in prop::sample::subsequence(vec![Role::ElfInterpreter, Role::Target, Role::ScriptInterpreter], 1..=3),
        from in prop::sample::select(vec![Origin::Any, Origin::Init, Origin::ExecSession]),
        applets in prop::collection::vec(texts("[^/\0]{1,9}"), 0..3),
        because in prop::collection::vec(texts(".{0,40}"), 0..4),
    ) -> Entry {
        let applets: Vec<String> = applets;
        let kind = if applets.is_empty() { kind } else { Some(FileKind::Multicall) };
        Entry { path, sha256: sha256.map(FileDigest), real_path, size_bytes, kind, roles, from, applets, because }
    }
}

prop_compose! {
    pub(crate) fn policy()(
        namespace in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?",
        name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,5}){0,2}",
        workload in prop::option::of(texts("\\PC{1,20}")),
        container in prop::option::of(texts("\\PC{1,20}")),
        image: Option<[u8; 32]>,
        mode in prop::sample::select(vec![Mode::Monitor, Mode::Enforce, Mode::Deny]),
        fail in (fail_action(), fail_action(), fail_action(), fail_action()),
        code_loading in prop::sample::select(vec![CodeLoading::Off, CodeLoading::Note, CodeLoading::Image, CodeLoading::Listed]),
        scope in prop::sample::select(vec![Scope::Declared, Scope::Image]),
        generation: u64,
        entries in prop::collection::vec(entry(), 0..5),
        map in prop::collection::vec((prop::option::of(file_path()), prop::option::of(any::<[u8; 32]>())), 0..4),
    ) -> ExecPolicy {
        let map = map
            .into_iter()
            .filter(|(path, sha256)| path.is_some() || sha256.is_some())
            .map(|(path, sha256)| MapRule { path, sha256: sha256.map(FileDigest) })
            .collect();
        let (unresolved, unknown, map_full, missing) = fail;
        let fail = FailSemantics { unresolved, unknown, map_full, missing };
        let target = Target { workload, container, image_digest: image.map(ImageDigest) };
        ExecPolicy { namespace, name, target, mode, fail, code_loading, scope, generation, entries, map }
    }
}
