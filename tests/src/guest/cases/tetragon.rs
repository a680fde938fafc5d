//! Policies that were written for Tetragon, as files of the agent's: what `docs/tetragon.md` says of them, in containers.

use anyhow::{Result, ensure};
use lattice_policy::{Mode, Origin, Role, to_yaml};

use super::{
    container::{UNLISTED, replace},
    content::{MODIFIED, NOT_IN_IMAGE},
};
use crate::guest::{
    agent::{latticectl_alone, log_after, log_length, wait_for_log},
    container::{Container, SERVER, loader, prepare},
    host::{in_run, is_tier_1},
    policy::{NAMESPACE, Policy},
    trial::{Case, Cause, Expected, Place, Trial, cause},
};

/// What every list has besides what a case is about: the server, the shell that it starts, and busybox.
const NEEDED: [&str; 3] = [SERVER, "/usr/bin/dash", "/usr/bin/busybox"];
const GOOD: &str = "/usr/bin/good";
const PROBE: &str = "/usr/bin/probe";
/// Of a path entry, whose file lies in the image.
const ORIGIN: Cause = cause("origin", "target", "unlisted-in-image");

const KILL: &str = "[{action: Sigkill}]";

fn list(more: &[&str]) -> String {
    let paths: Vec<&str> = NEEDED.iter().chain(more).copied().collect();
    format!("[{}]", paths.join(", "))
}

/// A selector of the LSM hook.
fn selector(operator: &str, paths: &str, actions: &str) -> String {
    format!("    - matchArgs: [{{index: 0, operator: {operator}, values: {paths}}}]\n      matchActions: {actions}\n")
}

fn head(workload: &str) -> String {
    format!(
        "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicyNamespaced\nmetadata: {{name: {workload}, namespace: {NAMESPACE}}}\nspec:\n  \
         podSelector: {{matchLabels: {{lattice.dev/workload: {workload}}}}}\n  containerSelector: {{matchLabels: {{name: c}}}}\n"
    )
}

/// With the LSM hook and these selectors.
fn lsm(workload: &str, selectors: &[String]) -> Policy {
    Policy::text(format!(
        "{}  lsmhooks:\n  - hook: bprm_check_security\n    args: [{{index: 0, type: linux_binprm}}]\n    selectors:\n{}",
        head(workload),
        selectors.concat()
    ))
}

fn allowlist(workload: &str, more: &[&str], actions: &str) -> Policy {
    lsm(workload, &[selector("NotEqual", &list(more), actions)])
}

fn with_good(place: &Place) -> Result<Policy> {
    prepare(place)?;
    Ok(allowlist(&place.workload(), &[GOOD], KILL))
}

/// Writes a policy that the agent must refuse, and waits until it says so.
fn refuse(trial: &Trial<'_>, policy: &Policy, expected: &str) -> Result<()> {
    let log = log_length()?;
    policy.write(&trial.place.workload())?;
    wait_for_log(log, &format!("{}.yaml:", trial.place.workload()))?;
    let said = log_after(log)?;
    ensure!(said.contains(expected), "the agent says: {said}");
    Ok(())
}

/// A case: its container, and what is done in it.
macro_rules! case {
    ($name:literal, $run:expr) => {
        Case {
            name: $name,
            prepare: with_good,
            run: |trial| {
                let container = Container::start(trial)?;
                let run: fn(&Container, &mut Trial<'_>) -> Result<()> = $run;
                run(&container, trial)?;
                container.end()
            },
        }
    };
}

pub(super) const CASES: &[Case] = &[
    case!("tetragon_an_allowlist_lets_its_paths_start_alone", allowlists),
    case!("tetragon_the_actions_are_the_mode", modes),
    case!("tetragon_a_denylist_wins_over_an_allowlist", denylists),
    case!("tetragon_what_cannot_be_represented_changes_nothing", refused),
    case!("tetragon_paths_are_what_the_kernel_resolves", paths),
    case!("tetragon_descent_from_process_1_is_the_origin", origins),
    case!("tetragon_a_script_and_its_interpreter_are_judged", scripts),
    case!("tetragon_a_second_policy_for_a_container_does_not_hold", second),
    case!("tetragon_what_lattice_writes_is_what_it_reads", written),
];

/// Listed paths run, whoever calls; others do not.
fn holds(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    container.session(trial, &[GOOD], Expected::Runs)?;
    // By a link the path is another, and what it resolves to is listed.
    container.session(trial, &["/bin/good"], Expected::Runs)?;
    container.application(trial, "exec /bin/good", Expected::Runs)?;
    container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
    container.session(trial, &["/bin/bad"], Expected::Killed(UNLISTED))?;
    container.application(trial, "exec /bin/longer", Expected::Killed(UNLISTED))
}

fn allowlists(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    holds(container, trial)?;
    if trial.is_control() {
        return Ok(());
    }
    let listed = list(&[GOOD]);
    let head = head(&workload);
    let bprm = "    syscall: false\n    args: [{index: 0, type: linux_binprm}]\n    selectors:\n";
    let signal = "[{action: Signal, argSig: 9}]";
    let kprobe = |call: &str| {
        let selector = selector(
            "NotEqual",
            &listed,
            "[{action: Override, argError: -1}, {action: Sigkill}]",
        );
        format!("{head}  kprobes:\n  - call: {call}\n{bprm}{selector}")
    };
    let system_calls = format!(
        "{head}  kprobes:\n  - call: sys_execve\n    syscall: true\n    args: [{{index: 0, type: string}}]\n    selectors:\n{}  \
         - call: sys_execveat\n    syscall: true\n    args: [{{index: 1, type: string}}]\n    selectors:\n    \
         - matchArgs: [{{index: 1, operator: NotEqual, values: {listed}}}]\n      matchActions: {signal}\n",
        selector("NotEqual", &listed, signal)
    );
    let short = format!(
        "{head}  tracing:\n  - call: execve\n    syscall: true\n    args: [{{index: 0, type: string}}]\n    selectors:\n{}",
        selector("NotIn", &listed, signal)
    );
    let cluster = format!(
        "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicy\nmetadata: {{name: {workload}}}\nspec:\n  podSelector: {{matchLabels: \
         {{'k8s:io.kubernetes.pod.namespace': {NAMESPACE}, app: {workload}}}}}\n  fentries:\n  - call: security_bprm_check\n{bprm}{}",
        selector("NotIn", &listed, signal)
    );
    for (text, note) in [
        (kprobe("security_bprm_check"), ""),
        (kprobe("security_bprm_creds_for_exec"), "script's interpreter"),
        (system_calls, ""),
        (short, "NOT CANONICAL"),
        (cluster, "it is read as \"NotEqual\""),
    ] {
        // Nothing runs in between: it shows that the next one holds.
        replace(
            trial,
            &Policy::new(Mode::Enforce).allow_image(SERVER, &[Role::Target], Origin::Any)?,
        )?;
        container.session(trial, &[GOOD], Expected::Killed(UNLISTED))?;
        let log = log_length()?;
        replace(trial, &Policy::text(text))?;
        ensure!(log_after(log)?.contains(note), "the log does not say {note:?}");
        holds(container, trial)?;
    }
    Ok(())
}

fn modes(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    for (actions, options, expected) in [
        (KILL, "", Expected::Killed(UNLISTED)),
        ("[{action: Override, argError: -1}]", "", Expected::Denied(UNLISTED)),
        (
            "[{action: Override, argError: -1}, {action: Post}]",
            "",
            Expected::Denied(UNLISTED),
        ),
        (
            "[{action: Signal, argSig: 9}, {action: Override, argError: -1}]",
            "",
            Expected::Killed(UNLISTED),
        ),
        ("[{action: Post}]", "", Expected::Noted(UNLISTED)),
        ("[]", "", Expected::Noted(UNLISTED)),
        (
            KILL,
            "  options: [{name: policy-mode, value: monitor}]\n",
            Expected::Noted(UNLISTED),
        ),
        (
            KILL,
            "  options: [{name: policy-mode, value: enforce}]\n",
            Expected::Killed(UNLISTED),
        ),
    ] {
        if !trial.is_control() {
            replace(trial, &allowlist(&workload, &[GOOD], actions).and(options))?;
        }
        container.session(trial, &["/bin/longer"], expected)?;
        container.application(trial, "exec /bin/longer", expected)?;
        container.session(trial, &[GOOD], Expected::Runs)?;
        if trial.is_control() {
            break;
        }
    }
    Ok(())
}

fn denylists(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    let allow = |operator| selector(operator, &list(&[GOOD, PROBE]), KILL);
    let deny = |operator| selector(operator, &format!("[{PROBE}, /usr/bin/longer]"), KILL);
    let hook = "  - hook: bprm_check_security\n    args: [{index: 0, type: linux_binprm}]\n    selectors:\n";
    for policy in [
        lsm(&workload, &[allow("NotEqual"), deny("Equal")]),
        lsm(&workload, &[deny("In"), allow("NotIn")]),
        Policy::text(format!(
            "{}  lsmhooks:\n{hook}{}{hook}{}",
            head(&workload),
            deny("Equal"),
            allow("NotEqual")
        )),
    ] {
        if !trial.is_control() {
            replace(trial, &policy)?;
        }
        container.session(trial, &[GOOD], Expected::Runs)?;
        container.session(trial, &[PROBE], Expected::Killed(UNLISTED))?;
        container.application(trial, "exec /bin/probe", Expected::Killed(UNLISTED))?;
        container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
        container.session(trial, &["/bin/worker"], Expected::Killed(UNLISTED))?;
        if trial.is_control() {
            break;
        }
    }
    Ok(())
}

fn refused(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    let callers =
        "    - matchBinaries: [{operator: NotIn, values: [/app/server]}]\n      matchActions: [{action: Sigkill}]\n";
    let of_callers = format!(
        "    - matchBinaries: [{{operator: In, values: [/usr/bin/dash]}}]\n      matchArgs: [{{index: 0, operator: NotEqual, values: {}}}]\n      \
         matchActions: {KILL}\n",
        list(&[GOOD, "/usr/bin/longer"])
    );
    let policies = [
        // A denylist alone, of each operator and action.
        (
            lsm(&workload, &[selector("Equal", "[/usr/bin/probe]", KILL)]),
            "the policy names what may not start",
        ),
        (
            lsm(
                &workload,
                &[selector("In", "[/usr/bin/probe]", "[{action: Signal, argSig: 9}]")],
            ),
            "the policy names what may not start",
        ),
        (
            lsm(&workload, &[callers.to_owned()]),
            "matchBinaries is the program that calls execve",
        ),
        (
            lsm(&workload, &[of_callers]),
            "matchBinaries is the program that calls execve",
        ),
        (
            lsm(&workload, &[selector("Prefix", "[/usr/bin/]", KILL)]),
            "whole paths are compared",
        ),
        (
            lsm(
                &workload,
                &[
                    selector("NotEqual", &list(&[GOOD, PROBE]), KILL),
                    selector("Equal", &format!("[{PROBE}]"), "[{action: Override, argError: -1}]"),
                ],
            ),
            "",
        ),
    ];
    for (policy, expected) in policies {
        if !trial.is_control() {
            refuse(trial, &policy, expected)?;
        }
        // The file's last good state holds.
        container.session(trial, &[GOOD], Expected::Runs)?;
        container.session(trial, &[PROBE], Expected::Killed(UNLISTED))?;
        container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
        if trial.is_control() {
            break;
        }
    }
    Ok(())
}

fn paths(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let session =
        |trial: &mut Trial<'_>, line: &str, expected| container.session(trial, &["/bin/sh", "-c", line], expected);
    // The same bytes under another name are another path.
    session(
        trial,
        "cp /bin/good /tmp/good && exec /tmp/good",
        Expected::Killed(NOT_IN_IMAGE),
    )?;
    session(
        trial,
        "ln /usr/bin/good /usr/bin/other && exec /usr/bin/other",
        Expected::Killed(other_link()),
    )?;
    session(
        trial,
        "ln -s /usr/bin/longer /tmp/link && exec /tmp/link",
        Expected::Killed(UNLISTED),
    )?;
    session(trial, "cd /usr/bin && exec ../bin/./good", Expected::Runs)?;
    // Whatever lies at the path may start: that is what a path is worth. The floor goes by the inode that lay there.
    let other = if is_tier_1() {
        Expected::Runs
    } else {
        Expected::Killed(MODIFIED)
    };
    session(
        trial,
        "cp /bin/bad /usr/bin/next && mv /usr/bin/next /usr/bin/good && exec /usr/bin/good",
        other,
    )
}

/// A link is a change of the writable layer: the file was copied up for it.
fn other_link() -> Cause {
    NOT_IN_IMAGE
}

fn origins(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    let pids = |operator: &str, values: &str, path: &str| {
        format!(
            "    - matchPIDs: [{{operator: {operator}, values: {values}, isNamespacePID: true, followForks: true}}]\n      \
             matchArgs: [{{index: 0, operator: Equal, values: [{path}]}}]\n      matchActions: {KILL}\n"
        )
    };
    if !trial.is_control() {
        let selectors = [
            selector("NotEqual", &list(&[GOOD, PROBE, "/usr/bin/worker"]), KILL),
            pids("In", "[1]", PROBE),
            pids("NotIn", "[0, 1]", "/usr/bin/worker"),
        ];
        replace(trial, &lsm(&workload, &selectors))?;
    }
    container.session(trial, &[PROBE], Expected::Runs)?;
    container.session(trial, &["/bin/sh", "-c", "/bin/probe; exit $?"], Expected::Runs)?;
    container.application(trial, "exec /bin/probe", Expected::Killed(ORIGIN))?;
    container.application(trial, "exec /bin/worker", Expected::Runs)?;
    container.session(trial, &["/bin/worker"], Expected::Killed(ORIGIN))?;
    container.session(trial, &[GOOD], Expected::Runs)?;
    container.application(trial, "exec /bin/good", Expected::Runs)
}

fn scripts(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    let script = "/app/listed-script";
    container.session(trial, &[script], Expected::Killed(script_cause()))?;
    if !trial.is_control() {
        replace(trial, &allowlist(&workload, &[GOOD, script], KILL))?;
    }
    container.session(trial, &[script], Expected::Runs)?;
    // The interpreter is judged too, where Tetragon's hook may not see it.
    if !trial.is_control() {
        let values = format!("[{SERVER}, /usr/bin/busybox, {GOOD}, {script}]");
        replace(trial, &lsm(&workload, &[selector("NotEqual", &values, KILL)]))?;
    }
    container.session(
        trial,
        &[script],
        Expected::Killed(cause("unlisted", "script-interpreter", "unlisted-in-image")),
    )
}

/// The front says of a script what it can see.
fn script_cause() -> Cause {
    UNLISTED.in_tier_2(NOT_IN_IMAGE)
}

fn second(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    if !trial.is_control() {
        // For every workload of the namespace, so for this one too: Tetragon would apply both. It comes later in the order of names.
        let values = list(&["/usr/bin/longer"]);
        let text = format!(
            "apiVersion: cilium.io/v1alpha1\nkind: TracingPolicyNamespaced\nmetadata: {{name: zz-all, namespace: {NAMESPACE}}}\nspec:\n  \
             podSelector: {{}}\n  lsmhooks:\n  - hook: bprm_check_security\n    args: [{{index: 0, type: linux_binprm}}]\n    \
             selectors:\n{}",
            selector("NotEqual", &values, KILL)
        );
        let log = log_length()?;
        crate::guest::policy::write_text("zz-all", &text)?;
        wait_for_log(log, "zz-all.yaml:")?;
    }
    let result = container
        .session(trial, &[GOOD], Expected::Runs)
        .and_then(|()| container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED)));
    if !trial.is_control() {
        std::fs::remove_file(crate::guest::policy::folder().join("zz-all.yaml"))?;
        let log = log_length()?;
        allowlist(&workload, &[GOOD], KILL).write(&workload)?;
        wait_for_log(log, "policies from files are in force")?;
    }
    result
}

/// A derived policy, written for Tetragon by `latticectl policy convert`: with the whole policy it holds by content, and plain by path.
fn written(container: &Container, trial: &mut Trial<'_>) -> Result<()> {
    let workload = trial.place.workload();
    let change = "cp /bin/bad /usr/bin/next && mv /usr/bin/next /usr/bin/good && exec /usr/bin/good";
    if trial.is_control() {
        return container.session(trial, &["/bin/sh", "-c", change], Expected::Runs);
    }
    let mut policy = Policy::enforce()
        .allow_image(SERVER, &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/dash", &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/busybox", &[Role::Target], Origin::Any)?
        .allow_image(GOOD, &[Role::Target], Origin::Any)?
        .allow_image(loader()?, &[Role::ElfInterpreter], Origin::Any)?
        .0;
    policy.name.clone_from(&workload);
    policy.target.workload = Some(workload.clone());
    let source = in_run(format!("{workload}.yaml"));
    std::fs::write(&source, to_yaml(&policy))?;
    let convert = |more: &[&str]| -> Result<Policy> {
        let output = latticectl_alone()
            .args(["policy", "convert", "--to", "tracing-policy"])
            .args(more)
            .arg(&source)
            .output()?;
        ensure!(
            output.status.success(),
            "latticectl policy convert: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        ensure!(text.contains("kind: TracingPolicyNamespaced"), "{text}");
        Ok(Policy::text(text))
    };
    replace(trial, &convert(&[])?)?;
    container.session(trial, &[GOOD], Expected::Runs)?;
    container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))?;
    // The role stays: a loader is no command.
    container.session(trial, &["/bin/sh", "-c", change], Expected::Killed(MODIFIED))?;
    // Without the whole policy whatever lies at the path starts. The floor goes by the inode that lies there when it is told.
    replace(trial, &convert(&["--plain"])?)?;
    container.session(trial, &[GOOD], Expected::Runs)?;
    container.session(trial, &["/bin/longer"], Expected::Killed(UNLISTED))
}
