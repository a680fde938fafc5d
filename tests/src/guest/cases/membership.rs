//! Who belongs to a container stays its member.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::{
    sys::{
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::content::NOT_IN_IMAGE;
use crate::guest::{
    actor::{VERB, Way},
    corpus::Outcome,
    host::host,
    policy::Policy,
    trial::{Case, Expected, Place, Trial, cause, path_word},
};

/// Levels of cgroups below the container's own.
const DEPTH: usize = 8;

fn good_and_bad(place: &Place) -> Result<Policy> {
    place.canary("bad", "bad")?;
    Policy::enforce().allow(&place.canary("good", "good")?)
}

/// A listed shell besides.
fn with_shell(place: &Place) -> Result<Policy> {
    let shell = place.path("sh");
    fs::copy("/usr/bin/busybox", &shell)?;
    good_and_bad(place)?.allow(&shell)
}

fn shell(trial: &Trial<'_>, line: &str) -> Vec<String> {
    let folder = path_word(&trial.place.folder);
    vec![path_word(&trial.path("sh")), "-c".into(), line.replace("DIR", &folder)]
}

/// The cgroups below a case's own, from the top.
fn nested(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    let mut folder = cgroup.to_path_buf();
    for level in 0..DEPTH {
        folder.push(format!("level{level}"));
        fs::create_dir_all(&folder)?;
        below.push(folder.clone());
    }
    Ok(below)
}

/// A process in the case's cgroup that waits for the file `go`; it is there before the agent comes.
fn older_than_the_agent(place: &Place) -> Result<Policy> {
    let policy = good_and_bad(place)?;
    fs::create_dir_all(&place.cgroup)?;
    let process = Command::new("lattice-vm-suite")
        .arg(VERB)
        .arg(&place.cgroup)
        .arg(Way::LateThread.word())
        .args([place.path("go"), place.path("bad")])
        .env("LATTICE_MARK", place.path("late-mark"))
        .stdin(Stdio::null())
        .spawn()?;
    fs::write(place.path("process"), process.id().to_string())?;
    // Not before it is where it belongs, and has its thread.
    let threads = format!("/proc/{}/task", process.id());
    while fs::read_dir(&threads)?.count() < 2 {
        sleep(Duration::from_millis(5));
    }
    Ok(policy)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_thread_of_a_process_older_than_the_agent_stays_a_member",
        prepare: older_than_the_agent,
        run: |trial| {
            // What it runs is not listed: said when the agent adopts its container.
            if !trial.is_control() {
                trial.event(cause("running-unlisted", "target", "not-in-image"), "none")?;
            }
            let process = Pid::from_raw(fs::read_to_string(trial.path("process"))?.parse()?);
            fs::write(trial.path("go"), "")?;
            let status = waitpid(process, None)?;
            let marks = fs::read_to_string(trial.path("late-mark")).unwrap_or_default();
            trial.tell(if marks.is_empty() {
                Outcome::Killed
            } else {
                Outcome::Ran
            })?;
            if trial.is_control() {
                ensure!(
                    matches!(status, WaitStatus::Exited(_, 0)) && !marks.is_empty(),
                    "without the agent: {status:?}"
                );
            } else {
                ensure!(
                    matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)) && marks.is_empty(),
                    "{status:?}"
                );
            }
            trial.owed(Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "a_task_that_is_born_in_the_cgroup_and_leaves_it_is_a_member",
        prepare: good_and_bad,
        run: |trial| {
            let cgroup = path_word(&trial.place.cgroup);
            for (name, expected) in [("good", Expected::Runs), ("bad", Expected::Killed(NOT_IN_IMAGE))] {
                let words = [
                    path_word(&host().material.join("canary/static")),
                    "born".to_owned(),
                    cgroup.clone(),
                    path_word(&trial.path(name)),
                ];
                trial.attempt(Path::new("/sys/fs/cgroup"), Way::Child, &words, expected)?;
            }
            Ok(())
        },
    },
    Case {
        name: "a_task_that_leaves_its_cgroup_stays_a_member",
        prepare: good_and_bad,
        run: |trial| {
            // Not the parent of all cases: runc turns controllers on there, and such a cgroup takes no process.
            let beside = path_word(&trial.place.cgroup.with_file_name("beside-all-cases"));
            fs::create_dir_all(&beside)?;
            for elsewhere in ["/sys/fs/cgroup", &beside] {
                for (name, expected) in [("good", Expected::Runs), ("bad", Expected::Killed(NOT_IN_IMAGE))] {
                    let words = [elsewhere.to_owned(), path_word(&trial.path(name))];
                    trial.start(Way::AfterMove, &words, expected)?;
                }
            }
            Ok(())
        },
    },
    Case {
        name: "a_task_that_moves_to_another_container_stays_a_member_of_the_first",
        prepare: with_shell,
        run: |trial| {
            // By a program of the first, in a subshell so that its status comes back.
            let other = trial
                .place
                .cgroup
                .with_file_name("monitor_lets_run_and_says_what_would_have_been");
            fs::create_dir_all(&other)?;
            let words = shell(
                trial,
                &format!(
                    "echo 0 > {}/cgroup.procs; ( DIR/bad; exit $? ); exit $?",
                    other.display()
                ),
            );
            trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "nested_cgroups_evade_nothing",
        prepare: good_and_bad,
        run: |trial| {
            for cgroup in nested(&trial.place.cgroup.clone())? {
                trial.attempt(
                    &cgroup,
                    Way::Exec,
                    &[path_word(&trial.path("bad"))],
                    Expected::Killed(NOT_IN_IMAGE),
                )?;
                trial.attempt(&cgroup, Way::Exec, &[path_word(&trial.path("good"))], Expected::Runs)?;
            }
            Ok(())
        },
    },
    Case {
        name: "children_are_members",
        prepare: with_shell,
        run: |trial| {
            let words = shell(trial, "DIR/bad; exit $?");
            trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))?;
            let words = shell(trial, "DIR/good; exit $?");
            trial.start(Way::Exec, &words, Expected::Runs)
        },
    },
    Case {
        name: "grandchildren_of_a_double_fork_are_members",
        prepare: with_shell,
        run: |trial| {
            let words = shell(
                trial,
                "( ( DIR/bad; echo $? > DIR/status ) & ); while ! [ -s DIR/status ]; do :; done; exit $(cat DIR/status)",
            );
            // `cat` is an applet that busybox starts by itself, without an exec.
            let _ = fs::remove_file(trial.path("status"));
            trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "children_that_leave_the_cgroup_are_members",
        prepare: with_shell,
        run: |trial| {
            let words = shell(
                trial,
                "( echo 0 > /sys/fs/cgroup/cgroup.procs; ( DIR/bad; exit $? ) ); exit $?",
            );
            trial.start(Way::Exec, &words, Expected::Killed(NOT_IN_IMAGE))
        },
    },
];
