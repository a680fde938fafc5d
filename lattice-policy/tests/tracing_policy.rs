//! Policies for Tetragon: what they come to, why others are refused, and what of an ExecPolicy comes back.
//!
//! `tracing_policy/read/NAME.yaml` has its notes and its ExecPolicy in `NAME.txt`, `tracing_policy/refused/NAME.yaml` what is wrong
//! with it; `UPDATE_GOLDEN=1 cargo test` writes them anew.

mod policies;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lattice_policy::{
    CodeLoading, Diagnostic, ExecPolicy, FilePath, Mode, Origin, Role, read_policies, to_yaml,
    tracing_policy::{Carry, TracingPolicyDocument},
};
use policies::policy;
use proptest::prelude::*;

fn texts(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

fn documents(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/tracing_policy")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(files.len() >= 7, "only {} files in {}", files.len(), folder.display());
    files
}

#[track_caller]
fn check_golden(path: &Path, found: &str) {
    let golden = path.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, found).unwrap();
    }
    assert_eq!(
        found,
        fs::read_to_string(&golden).unwrap_or_default(),
        "{}",
        path.display()
    );
}

#[test]
fn what_policies_come_to() {
    for path in documents("read") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let file = read_policies(name, &fs::read(&path).unwrap()).unwrap_or_else(|found| panic!("{}", texts(&found)));
        let mut found = texts(&file.notes);
        for document in &file.documents {
            found.push_str("---\n");
            // The loaders are the same in each, and have a test of their own.
            let mut policy = document.policy.clone();
            policy.entries.retain(|entry| entry.roles != [Role::ElfInterpreter]);
            found.push_str(&to_yaml(&policy));
        }
        check_golden(&path, &found);
    }
}

#[test]
fn what_is_refused_and_why() {
    for path in documents("refused") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = read_policies(name, &fs::read(&path).unwrap()).expect_err(name);
        check_golden(&path, &texts(&found));
    }
}

fn read_one(yaml: &str) -> ExecPolicy {
    let mut file =
        read_policies("written.yaml", yaml.as_bytes()).unwrap_or_else(|found| panic!("{}{yaml}", texts(&found)));
    assert_eq!(
        (file.documents.len(), file.notes.as_slice()),
        (1, [].as_slice()),
        "{yaml}"
    );
    file.documents.remove(0).policy
}

const DERIVED: &str = include_str!("tracing_policy/derived.yaml");

/// A policy as derivation makes it.
fn derived() -> ExecPolicy {
    read_one(DERIVED)
}

#[test]
fn the_document_that_is_written() {
    for (carry, golden) in [(Carry::Annotation, "derived"), (Carry::Nothing, "derived_plain")] {
        let (document, losses) = TracingPolicyDocument::of(&derived(), carry).unwrap();
        let lines: String = losses.iter().map(|loss| format!("# {loss}\n")).collect();
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/tracing_policy")
            .join(golden);
        check_golden(&path, &format!("{lines}{}", document.to_yaml()));
    }
}

#[test]
fn what_is_derived_comes_back_whole() {
    let (document, _) = TracingPolicyDocument::of(&derived(), Carry::Annotation).unwrap();
    assert_eq!(read_one(&document.to_yaml()), derived());
    assert_eq!(read_one(&document.to_json()), derived());
}

#[test]
fn without_the_annotation_paths_origins_and_mode_come_back() {
    let (document, _) = TracingPolicyDocument::of(&derived(), Carry::Nothing).unwrap();
    let file = read_policies("plain.yaml", document.to_yaml().as_bytes()).unwrap();
    let policy = &file.documents[0].policy;
    let of = |policy: &ExecPolicy| -> Vec<(String, Origin)> {
        let seen = policy
            .entries
            .iter()
            .filter(|entry| entry.roles.contains(&Role::Target));
        let mut paths: Vec<_> = seen
            .map(|entry| (entry.real_path.as_ref().unwrap_or(&entry.path).to_string(), entry.from))
            .collect();
        paths.sort();
        paths
    };
    assert_eq!(of(policy), of(&derived()));
    assert_eq!(
        (policy.mode, &policy.target.workload),
        (Mode::Enforce, &derived().target.workload)
    );
    assert_eq!(policy.code_loading, CodeLoading::Off);
}

#[test]
fn loaders_may_load_and_are_no_commands() {
    let text = fs::read_to_string(
        documents("read")
            .iter()
            .find(|path| path.ends_with("lsm_allowlist.yaml"))
            .unwrap(),
    )
    .unwrap();
    let policy = read_policies("a.yaml", text.as_bytes())
        .unwrap()
        .documents
        .remove(0)
        .policy;
    let entry = |path: &str| policy.entries.iter().find(|entry| entry.path == path.into());
    assert_eq!(
        entry("/lib64/ld-linux-x86-64.so.2").unwrap().roles,
        [Role::ElfInterpreter]
    );
    assert!(entry("/app/server").unwrap().roles.contains(&Role::Target));
    assert!(entry("/bin/sh").is_none());
}

fn refused(policy: &ExecPolicy) -> String {
    let faults = TracingPolicyDocument::of(policy, Carry::Annotation).expect_err("a document was written");
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn what_no_document_can_say_is_refused() {
    let mut policy = derived();
    policy.target.workload = Some("a b".into());
    policy.entries[0].path = lattice_policy::FilePath::from_bytes(*b"/a\xff");
    policy.entries[0].real_path = None;
    assert_eq!(
        refused(&policy),
        "spec.target.workload: \"a b\": the name is no label of at most 63 bytes that Kubernetes would take. Use letters, digits, \"-\", \"_\" and \".\", a letter or digit first and last.\n\
         spec.entries[0].path: \"/a\\\\xff\": the path is not UTF-8, and Tetragon's documents know no escape for other bytes. Leave this policy to Lattice.\n"
    );
    let mut large = derived();
    large.entries[0].because = vec!["x".repeat(8000); 60];
    assert!(refused(&large).contains("--plain"), "{}", refused(&large));
    assert!(TracingPolicyDocument::of(&large, Carry::Nothing).is_ok());
}

#[test]
fn hostile_files_end_soon() {
    let started = Instant::now();
    let header =
        "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicyNamespaced\nmetadata: {name: a, namespace: b}\nspec:\n";
    let hook = "  - hook: bprm_check_security\n    args: [{index: 0, type: linux_binprm}]\n";
    let check = |text: &str, expected: &str| {
        let found = read_policies("hostile.yaml", text.as_bytes()).expect_err(expected);
        assert!(texts(&found).contains(expected), "{}", texts(&found));
    };
    check(&"a: b\n".repeat(2_100_000), "more than the 4194304 that are read");
    check(
        &format!("{header}  lsmhooks:\n{}", hook.repeat(30_000)),
        "30000 hooks, more than the 16",
    );
    let paths: String = (0..200_000).map(|number| format!("/{number},")).collect();
    let values = format!(
        "{header}  lsmhooks:\n{hook}    selectors: [{{matchArgs: [{{index: 0, operator: NotEqual, values: [{paths}]}}]}}]\n"
    );
    check(&values, "the policy names 200000 paths");
    let conditions = "{index: 0, operator: NotEqual, values: *v},".repeat(2000);
    let repeated = format!(
        "{header}  podSelector: {{matchLabels: {{}}}}\n  lsmhooks:\n{hook}    tags: &v [{paths}]\n    selectors: [{{matchArgs: [{conditions}]}}]\n"
    );
    check(&repeated, "the aliases repeat more than is read");
    check(
        &format!("{header}  lsmhooks: {}", "[".repeat(500_000)),
        "more than 64 deep",
    );
    let documents: String = (0..30_000)
        .map(|number| {
            format!(
                "---\n{}  lsmhooks: []\n",
                header.replace("name: a", &format!("name: a{number}"))
            )
        })
        .collect();
    check(&documents, "no hook judges the start of a program");
    // Many of Lattice's own are no fault, and are not held against each other.
    let many: String = (0..20_000)
        .map(|number| format!("---\napiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: a{number}, namespace: b}}\nspec: {{entries: []}}\n"))
        .collect();
    assert_eq!(
        read_policies("many.yaml", many.as_bytes()).unwrap().documents.len(),
        20_000
    );
    let hooks = format!("{hook}    selectors: [{{matchActions: [{{action: Sigkill}}]}}]\n");
    let many: String = (0..12_000)
        .map(|number| {
            format!(
                "---\n{}  podSelector: {{matchLabels: {{app: a{number}}}}}\n  lsmhooks:\n{hooks}",
                header.replace("name: a", &format!("name: a{number}"))
            )
        })
        .collect();
    check(&many, "more than 4096 policies for Tetragon");
    // Far above what it takes, and far below what a product of two sizes would take.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

const EVERY_PART: &str = include_str!("tracing_policy/read/origins.yaml");

/// What of Tetragon's schema (CRD 1.8.13) is written: each field with its type, or with the words that it takes. Its decoder refuses
/// any other field.
const SCHEMA: &[(&str, &str)] = &[
    ("apiVersion", "cilium.io/v1alpha1"),
    ("kind", "TracingPolicyNamespaced"),
    ("metadata.name", "string"),
    ("metadata.namespace", "string"),
    ("metadata.annotations.*", "string"),
    ("spec.podSelector.matchLabels.*", "string"),
    ("spec.containerSelector.matchLabels.*", "string"),
    ("spec.lsmhooks[].hook", "bprm_check_security"),
    ("spec.lsmhooks[].args[].index", "number"),
    ("spec.lsmhooks[].args[].type", "linux_binprm"),
    ("spec.lsmhooks[].selectors[].matchPIDs[].operator", "In NotIn"),
    ("spec.lsmhooks[].selectors[].matchPIDs[].values[]", "number"),
    ("spec.lsmhooks[].selectors[].matchPIDs[].isNamespacePID", "boolean"),
    ("spec.lsmhooks[].selectors[].matchPIDs[].followForks", "boolean"),
    ("spec.lsmhooks[].selectors[].matchArgs[].index", "number"),
    ("spec.lsmhooks[].selectors[].matchArgs[].operator", "Equal NotEqual"),
    ("spec.lsmhooks[].selectors[].matchArgs[].values[]", "string"),
    ("spec.lsmhooks[].selectors[].matchActions[].action", "Override Sigkill"),
    ("spec.lsmhooks[].selectors[].matchActions[].argError", "number"),
    ("spec.options[].name", "policy-mode"),
    ("spec.options[].value", "enforce monitor"),
];

/// What does not fit, by its path.
fn misfits(path: &str, value: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let is_own = path.ends_with(".annotations") || path.ends_with(".matchLabels");
                let key = if is_own { "*" } else { key };
                misfits(format!("{path}.{key}").trim_start_matches('.'), member, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| misfits(&format!("{path}[]"), item, found)),
        scalar => {
            let fits = SCHEMA.iter().any(|(known, takes)| {
                *known == path
                    && match scalar {
                        Value::String(text) => *takes == "string" || takes.split(' ').any(|word| word == text),
                        Value::Number(_) => *takes == "number",
                        Value::Bool(_) => *takes == "boolean",
                        _ => false,
                    }
            });
            if !fits {
                found.push(format!("{path}: {scalar}"));
            }
        }
    }
}

/// A policy that a document for Tetragon can say: names are labels, paths are UTF-8.
fn sayable(mut policy: ExecPolicy) -> ExecPolicy {
    let label = |name: Option<String>| {
        name.map(|name| {
            format!(
                "a-{}.Z",
                name.chars().filter(char::is_ascii_alphanumeric).collect::<String>()
            )
        })
    };
    let path =
        |path: &FilePath| FilePath::from_bytes(path.as_bytes().iter().copied().map(char::from).collect::<String>());
    policy.target.workload = label(policy.target.workload);
    policy.target.container = label(policy.target.container);
    for entry in &mut policy.entries {
        entry.path = path(&entry.path);
        entry.real_path = entry.real_path.as_ref().map(path);
    }
    policy
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_policy_comes_back_whole(policy in policy().prop_map(sayable)) {
        prop_assume!(policy.check().is_ok());
        let (document, _) = TracingPolicyDocument::of(&policy, Carry::Annotation).unwrap();
        prop_assert_eq!(&read_one(&document.to_yaml()), &policy);
        let json = document.to_json();
        prop_assert_eq!(&read_one(&json), &policy);
        let mut found = Vec::new();
        misfits("", &serde_json::from_str(&json).unwrap(), &mut found);
        prop_assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn any_policy_comes_back_or_is_refused(policy in policy()) {
        prop_assume!(policy.check().is_ok());
        if let Ok((document, _)) = TracingPolicyDocument::of(&policy, Carry::Annotation) {
            prop_assert_eq!(&read_one(&document.to_yaml()), &policy);
        }
    }

    #[test]
    fn what_does_not_come_back_is_named(policy in policy().prop_map(sayable)) {
        prop_assume!(policy.check().is_ok());
        let (document, losses) = TracingPolicyDocument::of(&policy, Carry::Nothing).unwrap();
        let yaml = document.to_yaml();
        let file = read_policies("plain.yaml", yaml.as_bytes()).map_err(|found| TestCaseError::fail(format!("{}{yaml}", texts(&found))))?;
        let back = &file.documents[0].policy;
        // What Tetragon is told comes back in any case.
        prop_assert_eq!((&back.namespace, &back.name, back.mode), (&policy.namespace, &policy.name, policy.mode));
        prop_assert_eq!((&back.target.workload, &back.target.container), (&policy.target.workload, &policy.target.container));
        let is_lost = |field: &str| losses.iter().any(|loss| loss.field == field);
        prop_assert_eq!(policy.target.image_digest.is_some(), is_lost("spec.target.imageDigest"));
        prop_assert_eq!(policy.code_loading != back.code_loading, is_lost("spec.codeLoading"));
        prop_assert_eq!(policy.scope != back.scope, is_lost("spec.scope"));
        prop_assert_eq!(policy.generation != back.generation, is_lost("spec.generation"));
        prop_assert!(is_lost("spec.fail"));
        for (index, entry) in policy.entries.iter().enumerate() {
            let field = |name: &str| format!("spec.entries[{index}]{name}");
            let path = entry.real_path.as_ref().unwrap_or(&entry.path);
            let same = back.entries.iter().find(|found| found.path == *path);
            let Some(found) = same.filter(|_| !is_lost(&field(""))) else {
                prop_assert!(is_lost(&field("")), "entry {} is missing:\n{}", index, yaml);
                continue;
            };
            prop_assert_eq!(entry.sha256.is_some(), is_lost(&field(".sha256")));
            prop_assert!(entry.real_path.as_ref().is_none_or(|real_path| *real_path == entry.path) || is_lost(&field(".path")));
            prop_assert!(entry.from == found.from || found.from == Origin::Any, "{:?} {:?}", entry, found);
            let more_roles = !(entry.roles.contains(&Role::Target) && entry.roles.contains(&Role::ScriptInterpreter));
            prop_assert_eq!(more_roles, is_lost(&field(".roles")));
            for (name, is_there) in [(".size", entry.size_bytes.is_some()), (".kind", entry.kind.is_some()), (".because", !entry.because.is_empty()), (".applets", !entry.applets.is_empty())] {
                prop_assert_eq!(is_there, is_lost(&field(name)), "{}", name);
            }
        }
    }

    #[test]
    fn a_damaged_document_is_read_or_refused(at in 0..1400_usize, replacement in prop::collection::vec(any::<u8>(), 0..4), cut in 0..20_usize) {
        let mut bytes = EVERY_PART.as_bytes().to_vec();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, replacement);
        match read_policies("damaged.yaml", &bytes) {
            Ok(file) => for document in file.documents {
                prop_assert_eq!(document.policy.check(), Ok(()));
            },
            Err(diagnostics) => for diagnostic in diagnostics {
                let shown = diagnostic.to_string();
                prop_assert!(shown.chars().all(|character| !character.is_control()), "{:?}", shown);
            },
        }
    }
}
