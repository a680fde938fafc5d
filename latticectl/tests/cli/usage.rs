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
