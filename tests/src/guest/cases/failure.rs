//! What a failure means is its namespace's word: each cause is made to happen, with each of the words.
//!
//! Most need maps of their own sizes or cgroups that the agent is not told of, so the agent is started apart: on new maps, with policies of
//! the case's own. Its containers lie on the host's files, which in tier 2 have no content that could be listed: there, a canary that may
//! run is listed by its path.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lattice_policy::{Entry, ExecPolicy, FailAction, FileDigest, FileKind, Mode, Origin, Role, to_yaml};
use nix::sys::signal::Signal;

use super::{
    agent_life::last_sequence,
    container::{UNLISTED, listing, replace},
    content::NOT_IN_IMAGE,
};
use crate::guest::{
    actor::Way,
    agent::{self, log_after, log_length, wait_for_log},
    container::{Container, prepare},
    events::{self, Event},
    golden,
    host::{host, is_tier_1},
    node::apart_folder,
    policy::Policy,
    trial::{Case, Cause, Expected, Place, Trial, cause, path_word},
};

const MISSING: Cause = cause("missing", "target", "");
const PENDING: Cause = cause("pending", "target", "");
const PENDING_OPEN: Cause = cause("pending-open", "target", "");
const UNKNOWN: Cause = cause("unknown", "target", "");
const UNKNOWN_OPEN: Cause = cause("unknown-open", "target", "");

/// What may be said, and how it is called here.
const WORDS: [(FailAction, &str); 3] = [
    (FailAction::Open, "open"),
    (FailAction::Closed, "closed"),
    (FailAction::Kill, "kill"),
];

fn any(place: &Place) -> Result<Policy> {
    place.canary("any", "any")?;
    place.canary("good", "good")?;
    Ok(Policy::enforce())
}

/// A container of the case's workload, in a cgroup of its own, which the agent is told of where it has a namespace.
struct Own {
    cgroup: PathBuf,
    argument: String,
}

impl Own {
    fn new(trial: &Trial<'_>, below: &str, namespace: &str, more: &str) -> Result<Self> {
        let cgroup = root(trial).join(below);
        fs::create_dir_all(&cgroup)?;
        let argument = format!("{}={namespace}/{}/c{more}", cgroup.display(), trial.place.workload());
        Ok(Self { cgroup, argument })
    }
}

/// Without an agent it runs in such a cgroup.
fn control(trial: &mut Trial<'_>) -> Result<()> {
    let own = Own::new(trial, "control", "none", "")?;
    let words = [path_word(&trial.path("any"))];
    trial.attempt(&own.cgroup, Way::Exec, &words, Expected::Runs)
}

/// The cgroup that all of a case's own lie below.
fn root(trial: &Trial<'_>) -> PathBuf {
    host().cgroups.join(format!("own-{}", trial.place.name))
}

/// Writes a policy of an agent that is started apart, whose target is the case's workload unless it has another.
fn write(folder: &Path, trial: &Trial<'_>, namespace: &str, mut policy: ExecPolicy) -> Result<()> {
    policy.namespace = namespace.into();
    policy.name = format!("of-{namespace}");
    if policy.target.workload.is_none() {
        policy.target.workload = Some(trial.place.workload());
    }
    let new = folder.join(format!("{namespace}.new"));
    fs::write(&new, to_yaml(&policy))?;
    Ok(fs::rename(new, folder.join(format!("{namespace}.yaml")))?)
}

/// Runs with an agent of the case's own, and with the usual one again afterwards, whatever came of it.
fn apart(trial: &mut Trial<'_>, arguments: &[String], run: impl FnOnce(&mut Trial<'_>) -> Result<()>) -> Result<()> {
    let result = trial.node.start_apart(arguments).and_then(|()| run(trial));
    trial.node.end_apart()?;
    result
}

fn verdicts(reason: &str) -> Result<u64> {
    agent::counter(&format!("lattice_verdicts_total{{reason=\"{reason}\"}}"))
}

/// Tries, and holds the counter of the reason against it.
fn try_counted(trial: &mut Trial<'_>, cgroup: &Path, program: &str, reason: &str, expected: Expected) -> Result<()> {
    let before = verdicts(reason)?;
    trial.attempt(cgroup, Way::Exec, &[path_word(&trial.path(program))], expected)?;
    let counted = verdicts(reason)? - before;
    ensure!(counted == 1, "{reason} was counted {counted} times for one exec");
    Ok(())
}

/// The names of the policies in the case's events so far.
fn policies_named(trial: &Trial<'_>) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    events::documents_of_workload(&trial.node.told, &trial.place.workload())
        .iter()
        .map(|document| &document["violation"]["policy"])
        .map(|policy| (text(&policy["name"]), text(&policy["noMatch"])))
        .collect()
}

fn entry(path: &str) -> Entry {
    Entry {
        path: path.into(),
        sha256: None,
        real_path: None,
        size_bytes: None,
        kind: None,
        roles: vec![Role::Target],
        from: Origin::Any,
        applets: Vec::new(),
        because: Vec::new(),
    }
}

/// Entries that need this much room in one of the maps.
fn entries_for(map: &str, count: u32) -> Vec<Entry> {
    let of_content = |number: u32| {
        let mut digest = [7; 32];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        Entry {
            sha256: Some(FileDigest(digest)),
            size_bytes: Some(1),
            ..entry(&format!("/nowhere/{number}"))
        }
    };
    match map {
        "PATHS" => (0..count).map(|number| entry(&format!("/nowhere/{number}"))).collect(),
        "APPLETS" => vec![Entry {
            kind: Some(FileKind::Multicall),
            applets: (0..count).map(|number| format!("applet{number}")).collect(),
            ..of_content(count)
        }],
        _ => (0..count).map(of_content).collect(),
    }
}

/// Room in each map that is to be too small.
const ROOM: u32 = 16;
/// Room for entries: a set of paths needs as many there.
const ENTRIES_ROOM: u32 = 40;
/// Maps that a policy can be too large for, with what it has too many of.
const MAPS: [(&str, &str, u32); 3] = [
    ("ENTRIES", "entries", ENTRIES_ROOM + 1),
    ("PATHS", "paths", ROOM + 1),
    ("APPLETS", "applets", ROOM + 1),
];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_policy_that_does_not_fit_has_its_own_word_for_that",
        prepare: any,
        run: map_full,
    },
    Case {
        name: "a_policy_that_fits_again_holds_again",
        prepare: any,
        run: room_again,
    },
    Case {
        name: "policies_and_namespaces_without_a_slot_open_nothing",
        prepare: any,
        run: no_slot,
    },
    Case {
        name: "a_container_of_a_known_pod_is_pending_with_its_namespaces_word",
        prepare: any,
        run: pending,
    },
    Case {
        name: "a_cgroup_below_the_managed_root_has_the_nodes_word",
        prepare: any,
        run: unknown,
    },
    Case {
        name: "a_container_without_a_policy_has_its_namespaces_word",
        prepare: any,
        run: missing,
    },
];

/// In tier 2 what is in memory has no identity at all: it is unlisted.
pub(super) const IN_TIER_1: &[Case] = &[Case {
    name: "an_unresolved_file_has_its_policys_word",
    prepare: any,
    run: unresolved,
}];

/// In tier 2 a file that is as long as a listed one is unresolved: nobody has told of its inode.
pub(super) const IN_A_CONTAINER: &[Case] = &[Case {
    name: "in_a_container_an_unresolved_file_has_its_policys_word",
    prepare: |place| prepare(place).and_then(|()| listing(Mode::Enforce)),
    run: unresolved_in_a_container,
}];

fn unresolved_in_a_container(trial: &mut Trial<'_>) -> Result<()> {
    let container = Container::start(trial)?;
    for (action, word) in WORDS {
        if !trial.is_control() {
            replace(trial, &listing(Mode::Enforce)?.unresolved(action))?;
        }
        let unresolved = |reason| cause(reason, "target", "unresolved");
        let expected = match word {
            _ if is_tier_1() => Expected::Killed(UNLISTED),
            "open" => Expected::Noted(unresolved("unresolved-open")),
            "closed" => Expected::Denied(unresolved("unresolved")),
            _ => Expected::Killed(unresolved("unresolved")),
        };
        container.session(trial, &["/bin/bad"], expected)?;
        container.application(trial, "exec /bin/bad", expected)?;
    }
    container.end()
}

fn map_full(trial: &mut Trial<'_>) -> Result<()> {
    if trial.is_control() {
        return control(trial);
    }
    let folder = apart_folder()?;
    let mut arguments = vec!["--policies".to_owned(), path_word(&folder)];
    for (flag, count) in [
        ("--max-entries", ENTRIES_ROOM),
        ("--max-paths", ROOM),
        ("--max-applets", ROOM),
    ] {
        arguments.extend([flag.to_owned(), count.to_string()]);
    }
    let mut containers = Vec::new();
    for (map, namespace, count) in MAPS {
        for (action, word) in WORDS {
            let namespace = format!("{namespace}-{word}");
            let mut policy = Policy::enforce().0;
            policy.entries = entries_for(map, count);
            policy.fail.map_full = action;
            write(&folder, trial, &namespace, policy)?;
            let own = Own::new(trial, &namespace, &namespace, "")?;
            arguments.extend(["--cgroup".to_owned(), own.argument]);
            containers.push((map, namespace, word, own.cgroup));
        }
    }
    // In monitor no failure of ours refuses anything.
    let mut policy = Policy::new(Mode::Monitor).0;
    policy.entries = entries_for("ENTRIES", ENTRIES_ROOM + 1);
    policy.fail.map_full = FailAction::Kill;
    write(&folder, trial, "in-monitor", policy)?;
    let monitored = Own::new(trial, "in-monitor", "in-monitor", "")?;
    arguments.extend(["--cgroup".to_owned(), monitored.argument]);
    // One that is not meant by the policy that does not fit, in its namespace.
    let other = root(trial).join("other");
    fs::create_dir_all(&other)?;
    arguments.extend([
        "--cgroup".to_owned(),
        format!("{}=entries-kill/other/c", other.display()),
    ]);
    let log = log_length()?;
    apart(trial, &arguments, |trial| {
        let said = log_after(log)?;
        for (map, namespace, word, cgroup) in &containers {
            let named = format!("policy {namespace}/of-{namespace} is not loaded");
            let rest = said.split_once(&named).map_or("", |(_, rest)| rest);
            let rest = rest.split("policy ").next().unwrap_or_default();
            ensure!(
                rest.contains(&format!("kernel map {map} is full; raise --max-")),
                "the log says of {namespace}: {rest:?}"
            );
            let (reason, expected) = match *word {
                "open" => ("missing-open", Expected::Runs),
                "closed" => ("missing", Expected::Denied(MISSING)),
                _ => ("missing", Expected::Killed(MISSING)),
            };
            try_counted(trial, cgroup, "any", reason, expected).with_context(|| namespace.clone())?;
            if *word != "open" {
                let named = policies_named(trial).pop();
                ensure!(
                    named == Some((format!("of-{namespace}"), "not-loaded".into())),
                    "the event names {named:?}"
                );
            }
        }
        try_counted(trial, &monitored.cgroup, "any", "missing", Expected::Noted(MISSING)).context("in monitor")?;
        let words = [path_word(&trial.path("any"))];
        let outcome = trial.act(&other, Way::Exec, &words)?;
        ensure!(outcome.ran(), "a container that no policy means: {outcome:?}");
        let rejected = agent::metric("lattice_policies_rejected")?;
        ensure!(rejected == 10.0, "{rejected} policies are rejected");
        // What was open is told once a container.
        check_no_policy(trial, "not-loaded", 3, "no-policy-not-loaded")
    })
}

/// The notices `no-policy` of the case's workload: as many as expected, and none more. In tier 1 the first is the golden one.
fn check_no_policy(trial: &Trial<'_>, cause: &str, expected: usize, golden: &str) -> Result<()> {
    let started = Instant::now();
    let notices = loop {
        let mut notices = events::notices_of_workload(&trial.node.told, &trial.place.workload());
        notices.retain(|document| document["notice"]["notice"] == "no-policy");
        if notices.len() >= expected || started.elapsed() > Duration::from_secs(30) {
            break notices;
        }
        sleep(Duration::from_millis(10));
    };
    let are_right = notices.iter().all(|document| document["notice"]["cause"] == cause);
    ensure!(
        notices.len() == expected && are_right,
        "{} containers are told for {cause}, expected {expected}: {notices:?}",
        notices.len()
    );
    match notices.first() {
        Some(first) if is_tier_1() => golden::check(golden, first),
        _ => Ok(()),
    }
}

fn room_again(trial: &mut Trial<'_>) -> Result<()> {
    if trial.is_control() {
        return control(trial);
    }
    let folder = apart_folder()?;
    let of = |entries: u32| {
        let mut policy = Policy::enforce().0;
        policy.entries = entries_for("ENTRIES", entries);
        policy
    };
    let listing = |name: &str, more: u32| {
        let mut policy = of(more);
        policy.entries.push(entry(&path_word(&trial.path(name))));
        policy
    };
    // More than half of the room for each: they do not fit together.
    write(&folder, trial, "first", of(ENTRIES_ROOM / 2))?;
    write(&folder, trial, "second", listing("good", ENTRIES_ROOM / 2))?;
    let second = Own::new(trial, "second", "second", "")?;
    let arguments: Vec<String> = [
        "--policies",
        &path_word(&folder),
        "--max-entries",
        &ENTRIES_ROOM.to_string(),
    ]
    .into_iter()
    .chain(["--cgroup", &second.argument])
    .map(String::from)
    .collect();
    apart(trial, &arguments, |trial| {
        let cgroup = &second.cgroup;
        let program = |trial: &Trial<'_>, name: &str| [path_word(&trial.path(name))];
        let attempt = |trial: &mut Trial<'_>, name: &str, expected: Expected| {
            let words = program(trial, name);
            trial.attempt(cgroup, Way::Exec, &words, expected)
        };
        attempt(trial, "good", Expected::Denied(MISSING))?;
        // The first goes: the second fits by that alone, in the same look at the folder.
        let log = log_length()?;
        fs::remove_file(folder.join("first.yaml"))?;
        wait_for_log(log, "policies from files are in force")?;
        attempt(trial, "good", Expected::Runs)?;
        attempt(trial, "any", Expected::Killed(not_in_image()))?;
        // One that grows too large leaves the generation before in force.
        let log = log_length()?;
        write(&folder, trial, "second", of(ENTRIES_ROOM))?;
        wait_for_log(log, "kernel map ENTRIES is full")?;
        attempt(trial, "good", Expected::Runs)?;
        attempt(trial, "any", Expected::Killed(not_in_image()))?;
        // Also over a restart, which meets the file and what is pinned, and cannot have both.
        trial.node.restart_apart(Signal::SIGKILL, &arguments)?;
        attempt(trial, "any", Expected::Denied(MISSING))?;
        attempt(trial, "good", Expected::Denied(MISSING))?;
        let log = log_length()?;
        let mut smaller = of(3);
        smaller.entries.push(entry(&path_word(&trial.path("good"))));
        write(&folder, trial, "second", smaller)?;
        wait_for_log(log, "policies from files are in force")?;
        attempt(trial, "good", Expected::Runs)?;
        attempt(trial, "any", Expected::Killed(not_in_image()))
    })
}

/// A file of the host by the floor, which resolves no path.
fn not_in_image() -> Cause {
    NOT_IN_IMAGE
}

fn no_slot(trial: &mut Trial<'_>) -> Result<()> {
    if trial.is_control() {
        return control(trial);
    }
    let folder = apart_folder()?;
    // In the order of namespaces: the first has the only slot.
    write(&folder, trial, "a-first", Policy::enforce().0)?;
    let mut arguments = vec!["--policies".to_owned(), path_word(&folder)];
    arguments.extend(["--max-policies", "1"].map(String::from));
    let first = Own::new(trial, "a-first", "a-first", "")?;
    arguments.extend(["--cgroup".to_owned(), first.argument]);
    let mut containers = Vec::new();
    for (action, word) in WORDS {
        let namespace = format!("b-{word}");
        let mut policy = Policy::enforce().0;
        policy.fail.map_full = action;
        write(&folder, trial, &namespace, policy)?;
        let own = Own::new(trial, &namespace, &namespace, "")?;
        arguments.extend(["--cgroup".to_owned(), own.argument]);
        containers.push((namespace, word, own.cgroup));
    }
    let log = log_length()?;
    apart(trial, &arguments, |trial| {
        try_counted(
            trial,
            &first.cgroup,
            "any",
            "unlisted",
            Expected::Killed(not_in_image()),
        )?;
        let said = log_after(log)?;
        for (namespace, word, cgroup) in &containers {
            let named = format!("policy {namespace}/of-{namespace} is not loaded");
            let rest = said.split_once(&named).map_or("", |(_, rest)| rest);
            let rest = rest.split("policy ").next().unwrap_or_default();
            ensure!(rest.contains("--max-policies"), "the log says of {namespace}: {rest:?}");
            let (reason, expected) = match *word {
                "open" => ("missing-open", Expected::Runs),
                "closed" => ("missing", Expected::Denied(MISSING)),
                _ => ("missing", Expected::Killed(MISSING)),
            };
            try_counted(trial, cgroup, "any", reason, expected).with_context(|| namespace.clone())?;
        }
        Ok(())
    })
}

fn pending(trial: &mut Trial<'_>) -> Result<()> {
    let any = [path_word(&trial.path("any"))];
    if trial.is_control() {
        return control(trial);
    }
    let folder = apart_folder()?;
    let mut arguments = vec!["--policies".to_owned(), path_word(&folder)];
    let mut pods = Vec::new();
    for (action, word) in WORDS {
        let mut policy = Policy::enforce().0;
        policy.fail.unknown = action;
        write(&folder, trial, word, policy)?;
        pods.push((word, word));
    }
    // The namespace's only policy does not fit, and what it says of an unknown container holds all the same.
    let mut policy = Policy::enforce().0;
    policy.entries = entries_for("PATHS", ROOM + 1);
    policy.fail.unknown = FailAction::Kill;
    write(&folder, trial, "too-large", policy)?;
    pods.push(("too-large", "kill"));
    // In monitor nothing is refused.
    let mut policy = Policy::new(Mode::Monitor).0;
    policy.fail.unknown = FailAction::Kill;
    write(&folder, trial, "watched", policy)?;
    pods.push(("watched", "none"));
    arguments.extend(["--max-paths".to_owned(), ROOM.to_string()]);
    let mut cgroups = Vec::new();
    for (namespace, word) in pods {
        let known = Own::new(trial, &format!("pod-{namespace}/known"), namespace, ",pod=web-0")?;
        arguments.extend(["--cgroup".to_owned(), known.argument]);
        let new = known.cgroup.with_file_name("new");
        fs::create_dir_all(&new)?;
        cgroups.push((word, new));
    }
    apart(trial, &arguments, |trial| {
        for (word, cgroup) in &cgroups {
            let (reason, cause, action) = match *word {
                "open" => ("pending-open", PENDING_OPEN, "none"),
                "closed" => ("pending", PENDING, "deny"),
                "kill" => ("pending", PENDING, "deny+kill"),
                _ => ("pending", PENDING, "none"),
            };
            // Of a container that nobody has named no workload can be told.
            let before = verdicts(reason)?;
            let sequence = last_sequence(trial);
            let outcome = trial.act(cgroup, Way::Exec, &any)?;
            let is_right = match action {
                "none" => outcome.ran(),
                "deny" if is_tier_1() => outcome.was_denied(),
                _ => outcome.was_killed(),
            };
            ensure!(is_right, "{}: {outcome:?}", cgroup.display());
            let event = check_nameless(trial, sequence, cause, action)?;
            let golden = match *word {
                "open" => Some("pending-open"),
                "closed" => Some("pending"),
                _ => None,
            };
            if let Some(name) = golden.filter(|_| is_tier_1()) {
                golden::check(name, &event.document)?;
            }
            let counted = verdicts(reason)? - before;
            ensure!(counted == 1, "{reason} was counted {counted} times");
        }
        Ok(())
    })
}

/// The next event after a number, of a container that the agent has no name for.
fn check_nameless(trial: &Trial<'_>, after: u64, cause: Cause, action: &str) -> Result<Event> {
    let started = Instant::now();
    let event = loop {
        let next = events::all(&trial.node.told)
            .into_iter()
            .find(|event| event.sequence > after && event.violation.is_some());
        if let Some(event) = next {
            break event;
        }
        ensure!(started.elapsed() < Duration::from_secs(30), "no event of {cause:?}");
        sleep(Duration::from_millis(10));
    };
    let violation = event.violation.as_ref().context("no violation")?;
    let action = match action {
        "deny" | "deny+kill" if !is_tier_1() => "kill",
        action => action,
    };
    ensure!(
        (violation.reason.as_str(), violation.effective_action.as_str()) == (cause.reason, action),
        "the event says {} {}, expected {} {action}",
        violation.reason,
        violation.effective_action,
        cause.reason
    );
    Ok(event)
}

fn unknown(trial: &mut Trial<'_>) -> Result<()> {
    let any = [path_word(&trial.path("any"))];
    if trial.is_control() {
        return control(trial);
    }
    let folder = apart_folder()?;
    let cgroup = root(trial).join("pod/container");
    fs::create_dir_all(&cgroup)?;
    for (_, word) in WORDS {
        let arguments = [
            "--policies",
            &path_word(&folder),
            "--managed-root",
            &path_word(&root(trial)),
            "--unknown",
            word,
        ]
        .map(String::from);
        apart(trial, &arguments, |trial| {
            let (reason, cause, action) = match word {
                "open" => ("unknown-open", UNKNOWN_OPEN, "none"),
                "closed" => ("unknown", UNKNOWN, "deny"),
                _ => ("unknown", UNKNOWN, "deny+kill"),
            };
            let before = verdicts(reason)?;
            let sequence = last_sequence(trial);
            let outcome = trial.act(&cgroup, Way::Exec, &any)?;
            let is_right = match action {
                "none" => outcome.ran(),
                "deny" if is_tier_1() => outcome.was_denied(),
                _ => outcome.was_killed(),
            };
            ensure!(is_right, "--unknown {word}: {outcome:?}");
            check_nameless(trial, sequence, cause, action)?;
            let counted = verdicts(reason)? - before;
            ensure!(counted == 1, "{reason} was counted {counted} times");
            Ok(())
        })?;
    }
    Ok(())
}

fn missing(trial: &mut Trial<'_>) -> Result<()> {
    if trial.is_control() {
        return control(trial);
    }
    let folder = apart_folder()?;
    let mut arguments = vec!["--policies".to_owned(), path_word(&folder)];
    let mut containers = Vec::new();
    for (action, word) in WORDS {
        let mut policy = Policy::enforce().0;
        policy.target.workload = Some("others".into());
        policy.fail.missing = action;
        write(&folder, trial, word, policy)?;
        let own = Own::new(trial, word, word, "")?;
        arguments.extend(["--cgroup".to_owned(), own.argument]);
        containers.push((word, own.cgroup));
    }
    // Nobody has said a word of this namespace.
    let unsaid = Own::new(trial, "unsaid", "unsaid", "")?;
    arguments.extend(["--cgroup".to_owned(), unsaid.argument]);
    apart(trial, &arguments, |trial| {
        for (word, cgroup) in &containers {
            let (reason, expected) = match *word {
                "open" => ("missing-open", Expected::Runs),
                "closed" => ("missing", Expected::Denied(MISSING)),
                _ => ("missing", Expected::Killed(MISSING)),
            };
            try_counted(trial, cgroup, "any", reason, expected).with_context(|| (*word).to_owned())?;
        }
        try_counted(trial, &unsaid.cgroup, "any", "missing-open", Expected::Runs)?;
        check_no_policy(trial, "missing", 1, "no-policy")
    })
}

fn unresolved(trial: &mut Trial<'_>) -> Result<()> {
    // A copy in memory that can still be written to: the file that this names has bytes that nobody can vouch for.
    let way = Way::Memory;
    if trial.is_control() {
        return trial.start(way, &[path_word(&trial.path("good"))], Expected::Runs);
    }
    let folder = apart_folder()?;
    let mut arguments = vec!["--policies".to_owned(), path_word(&folder)];
    let mut containers = Vec::new();
    for mode in [Mode::Enforce, Mode::Deny, Mode::Monitor] {
        for (action, word) in WORDS {
            let namespace = format!("{mode}-{word}");
            let policy = Policy::new(mode).allow(&trial.path("good"))?.unresolved(action).0;
            write(&folder, trial, &namespace, policy)?;
            let own = Own::new(trial, &namespace, &namespace, "")?;
            arguments.extend(["--cgroup".to_owned(), own.argument]);
            containers.push((mode, word, own.cgroup));
        }
    }
    apart(trial, &arguments, |trial| {
        for (mode, word, cgroup) in &containers {
            let unresolved = |reason| cause(reason, "target", "unresolved");
            let (reason, expected) = match (*mode, *word) {
                (_, "open") => ("unresolved-open", Expected::Noted(unresolved("unresolved-open"))),
                (Mode::Monitor, _) => ("unresolved", Expected::Noted(unresolved("unresolved"))),
                (_, "closed") => ("unresolved", Expected::Denied(unresolved("unresolved"))),
                _ => ("unresolved", Expected::Killed(unresolved("unresolved"))),
            };
            let before = verdicts(reason)?;
            trial
                .attempt(cgroup, way, &[path_word(&trial.path("good"))], expected)
                .with_context(|| format!("{mode}, {word}"))?;
            let counted = verdicts(reason)? - before;
            ensure!(counted == 1, "{reason} was counted {counted} times");
        }
        Ok(())
    })
}
