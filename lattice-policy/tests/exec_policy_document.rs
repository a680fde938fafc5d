//! The ExecPolicy document: what it means, what its absence of fields means, and that nothing is lost on the way.

mod policies;

use lattice_policy::{
    CodeLoading, Entry, ExecPolicy, FailAction, FailSemantics, FileDigest, FileKind, FilePath, ImageDigest, MapRule,
    Mode, Origin, Role, Scope, Target, read_documents, to_json, to_yaml,
};
use policies::policy;
use proptest::prelude::*;

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

const EVERY_FIELD: &str = r#"
apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: payment-service, namespace: payments, labels: {team: payments}}
spec:
  target: {workload: payment-service, container: server, imageDigest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
  mode: enforce
  fail: {unresolved: kill, mapFull: open, missing: closed}
  codeLoading: listed
  scope: image
  generation: 7
  entries:
  - path: /app/server
    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    realPath: /app/server-1.2
    size: 1048576
    kind: multicall
    roles: [target, script-interpreter]
    from: exec-session
    applets: [sh, wget]
    because: ["entrypoint of image", "layer"]
  - path: /opt/tool\x0a
  map:
  - /usr/lib/plugin.so
  - 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  - {path: /usr/lib/both.so, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}
"#;

fn plain_entry(path: impl Into<FilePath>, sha256: Option<FileDigest>) -> Entry {
    Entry {
        path: path.into(),
        sha256,
        real_path: None,
        size_bytes: None,
        kind: None,
        roles: vec![Role::Target],
        from: Origin::Any,
        applets: Vec::new(),
        because: Vec::new(),
    }
}

#[test]
fn every_field_is_read() {
    let digest: FileDigest = DIGEST.parse().unwrap();
    let both = MapRule {
        path: Some("/usr/lib/both.so".into()),
        sha256: Some(digest),
    };
    let expected = ExecPolicy {
        namespace: "payments".to_owned(),
        name: "payment-service".to_owned(),
        target: Target {
            workload: Some("payment-service".to_owned()),
            container: Some("server".to_owned()),
            image_digest: Some(ImageDigest(digest.0)),
        },
        mode: Mode::Enforce,
        fail: FailSemantics {
            unresolved: FailAction::Kill,
            unknown: FailAction::Closed,
            map_full: FailAction::Open,
            missing: FailAction::Closed,
        },
        code_loading: CodeLoading::Listed,
        scope: Scope::Image,
        generation: 7,
        entries: vec![
            Entry {
                real_path: Some("/app/server-1.2".into()),
                size_bytes: Some(1_048_576),
                kind: Some(FileKind::Multicall),
                roles: vec![Role::Target, Role::ScriptInterpreter],
                from: Origin::ExecSession,
                applets: vec!["sh".to_owned(), "wget".to_owned()],
                because: vec!["entrypoint of image".to_owned(), "layer".to_owned()],
                ..plain_entry("/app/server", Some(digest))
            },
            plain_entry("/opt/tool\n", None),
        ],
        map: vec![
            MapRule {
                path: Some("/usr/lib/plugin.so".into()),
                sha256: None,
            },
            MapRule {
                path: None,
                sha256: Some(digest),
            },
            both,
        ],
    };
    assert_eq!(
        read_documents("policy.yaml", EVERY_FIELD.as_bytes()),
        Ok(vec![expected])
    );
}

#[test]
fn what_is_absent_has_its_default() {
    let text = format!(
        "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: a, namespace: b}}\nspec:\n  entries:\n  - {{path: /bin/sh, sha256: {DIGEST}}}\n"
    );
    let expected = ExecPolicy {
        namespace: "b".to_owned(),
        name: "a".to_owned(),
        target: Target::default(),
        mode: Mode::Monitor,
        fail: FailSemantics::default(),
        code_loading: CodeLoading::Image,
        scope: Scope::Declared,
        generation: 0,
        entries: vec![plain_entry("/bin/sh", Some(DIGEST.parse().unwrap()))],
        map: Vec::new(),
    };
    assert_eq!(read_documents("policy.yaml", text.as_bytes()), Ok(vec![expected]));
}

#[track_caller]
fn check_count(text: &str, expected: usize) {
    let policies = read_documents("policies.yaml", text.as_bytes()).unwrap_or_else(|errors| panic!("{}", errors[0]));
    assert_eq!(policies.len(), expected);
}

#[test]
fn files_hold_any_number_of_documents() {
    let one = |name: &str| {
        format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: {name}, namespace: b}}\nspec: {{entries: []}}\n"
        )
    };
    check_count("", 0);
    check_count("# nothing yet\n", 0);
    check_count("---\n---\n", 0);
    check_count(&one("a"), 1);
    check_count(&format!("---\n{}---\n{}...\n---\n", one("a"), one("b")), 2);
    check_count(&format!("\u{feff}{}", one("a").replace('\n', "\r\n")), 1);
    // JSON with tabs, escaped slashes and surrogate pairs.
    check_count(
        "{\n\t\"apiVersion\": \"lattice.dev\\/v1alpha1\",\n\t\"kind\": \"ExecPolicy\",\n\t\"metadata\": {\"name\": \"a\", \"namespace\": \"b\"},\n\t\"spec\": {\"entries\": [{\"path\": \"\\/bin\\/\\ud83d\\ude00\"}]}\n}",
        1,
    );
    // An anchor may spare some writing.
    check_count(
        "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {name: a, namespace: b}\nspec:\n  entries:\n  - {path: /a, because: &why [\"x\"]}\n  - {path: /b, because: *why}\n",
        1,
    );
}

#[test]
fn the_yaml_that_is_written() {
    let policy = read_documents("policy.yaml", EVERY_FIELD.as_bytes()).unwrap().remove(0);
    assert_eq!(to_yaml(&policy), include_str!("every_field.yaml"));
}

proptest! {
    // A failing case belongs into this file as a test of its own, not into a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn nothing_is_lost_in_a_round_trip(policy in policy()) {
        prop_assume!(policy.check().is_ok());
        let yaml = to_yaml(&policy);
        prop_assert_eq!(read_documents("a.yaml", yaml.as_bytes()), Ok(vec![policy.clone()]), "{}", yaml);
        let json = to_json(&policy);
        prop_assert_eq!(read_documents("a.json", json.as_bytes()), Ok(vec![policy]), "{}", json);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        // Neither panics nor accepts: no short random input is a policy.
        if let Ok(policies) = read_documents("noise", &bytes) {
            prop_assert!(policies.is_empty());
        }
    }

    #[test]
    fn a_damaged_document_is_read_or_refused(at in 0..1200_usize, replacement in prop::collection::vec(any::<u8>(), 0..4), cut in 0..20_usize) {
        let mut bytes = EVERY_FIELD.as_bytes().to_vec();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, replacement);
        match read_documents("damaged.yaml", &bytes) {
            // What is accepted holds what every policy must hold.
            Ok(policies) => for policy in policies {
                prop_assert_eq!(policy.check(), Ok(()));
            },
            Err(diagnostics) => for diagnostic in diagnostics {
                let shown = diagnostic.to_string();
                prop_assert!(shown.chars().all(|character| !character.is_control()), "{:?}", shown);
                prop_assert!(shown.starts_with("damaged.yaml:"), "{}", shown);
            },
        }
    }
}
