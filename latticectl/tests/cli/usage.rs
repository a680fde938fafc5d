//! Usage, help, completions and `policy check`: what asks nobody.

use std::{io::Write, process::Stdio};

use crate::support::{Shown, check_golden, latticectl, shown};

fn run(arguments: &[&str]) -> Shown {
    shown(latticectl().args(arguments).output().unwrap())
}

#[track_caller]
fn check_usage(arguments: &[&str], said: &str) {
    let shown = run(arguments);
    assert_eq!((shown.code, shown.stdout.as_str()), (64, ""), "{shown:?}");
    assert!(shown.stderr.contains(said), "{shown:?}");
}

#[test]
fn usage_is_64() {
    check_usage(&[], "Usage: latticectl");
    check_usage(&["statu"], "unrecognized subcommand");
    check_usage(&["events", "--limit", "few"], "--limit");
    check_usage(
        &["mode", "set", "-n", "payments", "Enforce"],
        "the modes are monitor, enforce and deny",
    );
    check_usage(&["mode", "set", "enforce"], "--namespace");
    check_usage(&["policy", "check"], "FILE");
    check_usage(&["--timeout", "0", "status"], "at least 1");
    check_usage(
        &["--central", "http://localhost:1", "status"],
        "must begin with https://",
    );
    check_usage(
        &["--central", "https://localhost:1", "status"],
        "--central needs --client-cert",
    );
    check_usage(
        &["--agent", "a", "status", "--central", "https://localhost:1"],
        "cannot be used together",
    );
    check_usage(&["status", "-o", "xml"], "possible values: table, json");
}

#[test]
fn a_flag_wins_over_the_environment() {
    let with_central = |url: &str, arguments: &[&str]| {
        let output = latticectl()
            .env("LATTICE_CENTRAL", url)
            .env("LATTICE_AGENT", "/none.sock")
            .args(arguments)
            .output();
        shown(output.unwrap())
    };
    let flag = with_central("https://localhost:1", &["status", "--agent", "/none.sock"]);
    assert!(
        flag.code == 2 && flag.stderr.contains("the agent at /none.sock"),
        "{flag:?}"
    );
    assert_eq!(with_central("", &["status"]), flag, "an empty variable says nothing");
    assert_eq!(with_central("http://localhost:1", &["status"]).code, 64);
}

#[test]
fn help_is_an_answer() {
    let shown = run(&["--help"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    for part in ["Examples:", "Exit codes:", "LATTICE_CENTRAL", "events"] {
        assert!(shown.stdout.contains(part), "{part}");
    }
    assert!(
        run(&["events", "--help"])
            .stdout
            .contains("latticectl events --follow -n payments")
    );
    assert!(run(&["--version"]).stdout.starts_with("latticectl "));
}

#[test]
fn completions_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let shown = run(&["completion", shell]);
        assert!(
            shown.code == 0 && shown.stdout.contains("events"),
            "{shell}: {}",
            shown.stderr
        );
    }
}

#[test]
fn the_definitions_are_those_of_the_checkout() {
    let shown = run(&["crds"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let committed: String = files
        .iter()
        .map(|file| format!("---\n{}", std::fs::read_to_string(file).unwrap()))
        .collect();
    assert_eq!(shown.stdout, committed);
}

const ALL_KINDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lattice-api/tests/all_kinds.yaml");
const EVERY_FIELD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lattice-policy/tests/every_field.yaml");

/// Without the folder of the checkout, which differs from machine to machine.
fn portable(text: &str) -> String {
    text.replace(concat!(env!("CARGO_MANIFEST_DIR"), "/../"), "")
}

#[test]
fn policy_check_says_what_files_mean() {
    let shown = run(&["policy", "check", ALL_KINDS, EVERY_FIELD]);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    check_golden("policy_check.txt", &portable(&shown.stdout));
    let shown = run(&["policy", "check", "-o", "json", EVERY_FIELD]);
    assert_eq!(shown.code, 0);
    check_golden("policy_check.json", &portable(&shown.stdout));
}

fn check_stdin(text: &str, form: &str) -> Shown {
    let mut child = latticectl()
        .args(["policy", "check", "-", "-o", form])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    shown(child.wait_with_output().unwrap())
}

#[test]
fn policy_check_names_what_is_wrong() {
    let text = "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {name: a, namespace: b}\nspec: {mode: enforced, entries: []}\n";
    let shown = check_stdin(text, "table");
    assert_eq!((shown.code, shown.stdout.as_str()), (1, ""));
    assert_eq!(
        shown.stderr,
        "<stdin>:4:14: spec.mode: \"enforced\": this value is not known here. Did you mean \"enforce\"? Possible: monitor, enforce, deny.\nlatticectl: 1 finding in the files\n"
    );
    let shown = check_stdin(text, "json");
    let check: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown.code, 1);
    assert_eq!(check["diagnostics"][0]["field"], "spec.mode");
    assert_eq!(check["diagnostics"][0]["line"], 4);
}

#[test]
fn a_file_that_cannot_be_read_is_not_a_finding() {
    let shown = run(&["policy", "check", "/nonexistent/policy.yaml"]);
    assert_eq!(shown.code, 2);
    assert!(
        shown
            .stderr
            .contains("/nonexistent/policy.yaml: No such file or directory"),
        "{shown:?}"
    );
}

const TRACING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lattice-policy/tests/tracing_policy");

/// Runs with one of lattice-policy's documents; each says itself what it is for.
fn run_on(arguments: &[&str], document: &str) -> Shown {
    let file = format!("{TRACING}/{document}");
    let shown = run(&[arguments, &[&file]].concat());
    Shown {
        stdout: portable(&shown.stdout),
        stderr: portable(&shown.stderr),
        ..shown
    }
}

#[test]
fn policy_check_explains_what_was_written_for_tetragon() {
    let shown = run_on(&["policy", "check"], "read/short_form.yaml");
    assert_eq!(shown.code, 0);
    check_golden("policy_check_tracing.txt", &shown.stdout);
    check_golden("policy_check_tracing_notes.txt", &shown.stderr);
    let shown = run_on(&["policy", "check", "-o", "json"], "read/origins.yaml");
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    check_golden("policy_check_tracing.json", &shown.stdout);
    let shown = run_on(&["policy", "check"], "refused/not_representable.yaml");
    assert_eq!((shown.code, shown.stdout.as_str()), (1, ""));
    assert!(
        shown
            .stderr
            .contains("refused/not_representable.yaml:11:17: spec.hostSelector: Lattice cannot represent this"),
        "{shown:?}"
    );
}

#[test]
fn policy_convert_writes_both_ways() {
    let shown = run_on(&["policy", "convert", "--to", "tracing-policy"], "derived.yaml");
    assert_eq!(shown.code, 0);
    check_golden("policy_convert_tracing.yaml", &shown.stdout);
    check_golden("policy_convert_tracing.txt", &shown.stderr);

    let there = convert_stdin("exec-policy", &shown.stdout);
    assert_eq!((there.code, there.stderr.as_str()), (0, ""));
    let derived = std::fs::read_to_string(format!("{TRACING}/derived.yaml")).unwrap();
    assert_eq!(
        lattice_policy::read_documents("back.yaml", there.stdout.as_bytes()),
        lattice_policy::read_documents("derived.yaml", derived.as_bytes())
    );

    let shown = run_on(
        &["policy", "convert", "--to", "tracing-policy", "--plain", "-o", "json"],
        "derived.yaml",
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    check_golden("policy_convert_plain.json", &shown.stdout);

    let shown = run_on(&["policy", "convert", "--to", "exec-policy"], "read/denylist_wins.yaml");
    assert_eq!(shown.code, 0);
    check_golden("policy_convert_exec.yaml", &shown.stdout);
    // The short form becomes what Tetragon takes.
    let shown = run_on(&["policy", "convert", "--to", "tracing-policy"], "read/short_form.yaml");
    assert!(
        shown.code == 0 && shown.stdout.contains("lsmhooks:") && !shown.stdout.contains("tracing:"),
        "{shown:?}"
    );
}

fn convert_stdin(to: &str, text: &str) -> Shown {
    let mut child = latticectl()
        .args(["policy", "convert", "--to", to])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    shown(child.wait_with_output().unwrap())
}

#[test]
fn policy_convert_writes_all_or_nothing() {
    let good =
        "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {name: a, namespace: b}\nspec: {entries: []}\n";
    let bad = good
        .replace("name: a", "name: c")
        .replace("entries", "target: {workload: \"x y\"}, entries");
    let shown = convert_stdin("tracing-policy", &format!("{good}---\n{bad}"));
    assert_eq!((shown.code, shown.stdout.as_str()), (1, ""));
    assert!(
        shown
            .stderr
            .starts_with("b/c: spec.target.workload: \"x y\": the name is no label"),
        "{shown:?}"
    );
    let shown = convert_stdin(
        "tracing-policy",
        &format!("{good}---\n{}", good.replace("name: a", "name: c")),
    );
    assert_eq!(
        (shown.code, shown.stdout.matches("\n---\n").count()),
        (0, 1),
        "{shown:?}"
    );
    let shown = convert_stdin("exec-policy", "");
    assert_eq!(
        (shown.code, shown.stdout.as_str(), shown.stderr.as_str()),
        (0, "", "The files hold no policy.\n")
    );
    check_usage(&["policy", "convert"], "--to");
    check_usage(
        &["policy", "convert", "--to", "apparmor"],
        "exec-policy, tracing-policy",
    );
}
