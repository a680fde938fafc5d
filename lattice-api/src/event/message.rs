//! The sentence that says what happened, why, and what to do next.

use lattice_policy::{FilePath, escape::escaped_and_cut};

use crate::v1;

/// A path is shown up to so many characters; the whole of it stands in the event.
const PATH_CHARACTERS: usize = 256;

/// The sentence that the event carries, or else one made from its fields. Not yet safe for a terminal where it was carried.
pub fn event_message(event: &v1::Event) -> String {
    match &event.kind {
        Some(v1::event::Kind::Violation(violation)) if violation.message.is_empty() => violation_message(violation),
        Some(v1::event::Kind::Violation(violation)) => violation.message.clone(),
        Some(v1::event::Kind::Gap(gap)) => gap_message(gap),
        Some(v1::event::Kind::Notice(notice)) if notice.message.is_empty() => notice_message(notice),
        Some(v1::event::Kind::Notice(notice)) => notice.message.clone(),
        None => "an event of a kind that this release does not know: install a newer one to read it.".to_owned(),
    }
}

/// What happened to a program that the policy does not let start, why, and what to do next.
pub fn violation_message(violation: &v1::Violation) -> String {
    let (reason, _) = reason_and_openness(&violation.reason);
    format!(
        "{} {}{}: {}. {}",
        subject(violation),
        what(violation),
        how_often(violation),
        why(violation, reason),
        advice(violation, reason)
    )
}

/// Whether the event counts refusals that have no event of their own.
fn is_counting(violation: &v1::Violation) -> bool {
    violation.last_unix_nanos != 0
}

/// In an event that counts: how many besides those that have events of their own.
fn how_often(violation: &v1::Violation) -> String {
    if !is_counting(violation) {
        return String::new();
    }
    let times = match violation.count {
        1 => "once more".to_owned(),
        count => format!("{count} more times"),
    };
    match violation.repeats_of {
        0 => format!(" {times}"),
        first => format!(" {times}, as in event {first}"),
    }
}

/// The file by its path. Tier 2 sees which ELF interpreter was mapped for a program, and not by which path.
fn subject(violation: &v1::Violation) -> String {
    let is_nameless = violation.path.is_empty() && violation.path_as_passed.is_empty() && violation.comm.is_empty();
    if is_counting(violation) && is_nameless {
        return match violation.repeats_of {
            0 => "one or another of many files".to_owned(),
            _ => "a file".to_owned(),
        };
    }
    let named = |name: &[u8]| cut(&FilePath::from_bytes(name).to_string());
    if let Some(path) = [&violation.path, &violation.path_as_passed]
        .into_iter()
        .find(|path| !path.is_empty())
    {
        return format!("\"{}\"", named(path));
    }
    let what = match violation.role.as_str() {
        "elf-interpreter" => "the ELF interpreter of",
        "mapping" => "memory of",
        "" => "a process,",
        _ => "a file without a path, started by",
    };
    format!("{what} \"{}\"", named(&violation.comm))
}

/// That events were lost, and why.
pub fn gap_message(gap: &v1::Gap) -> String {
    let (first, last) = (gap.first_sequence, gap.last_sequence);
    let events = match super::lost_events(gap) {
        1 => format!("event {first} is lost"),
        count if gap.ranges.len() > 1 => format!("{count} events between {first} and {last} are lost"),
        count => format!("{count} events, {first} to {last}, are lost"),
    };
    let cause = match gap.cause.as_str() {
        "ring-buffer-full" => {
            "the kernel's ring buffer was full. Verdicts were not affected; give the agent a larger ring buffer"
        }
        "spool-full" => {
            "the agent's spool was full, and these were the least and oldest in it. Give it more room, or bring central back"
        }
        "event-too-large" => "an event was larger than the spool takes",
        "spool-corrupt" => "part of the agent's spool could not be read back. Check the disk that holds it",
        "agent-down" => {
            "more happened than the kernel's ring buffer holds while the agent was not running. Verdicts were not affected; see its log for why it ended"
        }
        other => return format!("{events}: {}.", escaped_and_cut(other, 80)),
    };
    format!("{events}: {cause}.")
}

/// What is to be known of a container, and what to do next.
pub fn notice_message(notice: &v1::ContainerNotice) -> String {
    let image = || {
        let digest = notice
            .container
            .as_ref()
            .map_or("", |container| &container.image_digest);
        escaped_and_cut(digest, 80)
    };
    let why = || match notice.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({})", escaped_and_cut(reason, 200)),
    };
    match (notice.notice.as_str(), notice.cause.as_str()) {
        ("late-start", cause) => {
            let what = match cause {
                "timeout" => "the agent could not answer the runtime in time",
                "unresolved" => "what this container is could not be found out",
                _ => "its policy was not in force in time",
            };
            format!(
                "the container's first program may have started before its own policy held: {what}. Until then the node's verdict for \
                 containers that nobody has named held. See the agent's log; if it lasts, `latticectl doctor`."
            )
        }
        ("denied-image", "kill-failed") => format!(
            "the container runs image {}, which is on the denylist{}, and it could not be killed. It starts nothing any more; end it by its \
             runtime.",
            image(),
            why()
        ),
        ("denied-image", _) if notice.effective_action == "kill" => format!(
            "the container ran image {}, which is on the denylist{}, and was killed. Deploy another image.",
            image(),
            why()
        ),
        ("denied-image", _) => format!(
            "the container runs image {}, which is on the denylist{}. It starts nothing any more, and what it runs goes on: replace it.",
            image(),
            why()
        ),
        ("no-policy", "not-loaded") => format!(
            "the container starts what it likes: its policy{} could not be given to the node's kernel, and its \"mapFull\" says open. The \
             agent's log on the node says why, and which option makes a full map larger.",
            why()
        ),
        ("no-policy", _) => "the container starts what it likes: none of its namespace's policies is for it, and their \"missing\" says open. \
             closed would refuse it."
            .to_owned(),
        (other, _) => format!("notice {} of the container.", escaped_and_cut(other, 40)),
    }
}

fn what(violation: &v1::Violation) -> String {
    let (_, is_open) = reason_and_openness(&violation.reason);
    match violation.effective_action.as_str() {
        "none" if is_open => "was let through".to_owned(),
        "none" if violation.reason == "running-unlisted" => match violation.signal_return_code {
            Some(code) => format!("was running already, and the signal to it failed with {code}"),
            None => "was running already".to_owned(),
        },
        "none" if violation.reason == "mapped-anonymous" => "was made executable".to_owned(),
        "none" if violation.reason == "mapping" => "was mapped executable (enforce would refuse it)".to_owned(),
        "none" => "would have been killed (the mode is monitor)".to_owned(),
        "deny" => "was refused".to_owned(),
        "kill" | "deny+kill" => match violation.signal_return_code {
            Some(code) if code != 0 && violation.effective_action == "deny+kill" => {
                format!("was refused (the signal besides failed with {code})")
            }
            Some(code) if code != 0 => format!("should have been killed, but the signal failed with {code}"),
            _ if violation.reason == "running-unlisted" => "was running already, and was killed".to_owned(),
            _ => "was killed before its first instruction".to_owned(),
        },
        other => format!("was judged (action {})", escaped_and_cut(other, 40)),
    }
}

fn why(violation: &v1::Violation, reason: &str) -> String {
    let policy = policy_name(violation.policy.as_ref());
    match reason {
        "unlisted" => match violation.drift.as_str() {
            "unlisted-in-image" => format!("the image holds it, but {policy} does not list it"),
            "not-in-image" => format!("{policy} does not list it, and the image does not hold it"),
            "modified" => format!("its content is not what {policy} and the image have at this path"),
            "memfd" => format!("it lies in memory only (memfd), and {policy} does not list it"),
            "deleted" => format!("its file was deleted, and {policy} does not list it"),
            _ => format!("{policy} does not list it"),
        },
        "role" => format!("{policy} lists it, but not {}", role(&violation.role)),
        "applet" => {
            format!("{policy} lists this program of many applets, but not under the name that it was called by")
        }
        "origin" => format!("{policy} lists it, but not for a start {}", origin(&violation.origin)),
        "denylisted" => "its digest is on the denylist, which holds in every mode".to_owned(),
        "unresolved" => "neither its content nor its path could be had for certain".to_owned(),
        "mapping" => match violation.drift.as_str() {
            "unlisted-in-image" => format!("{policy} lets only what its map names be loaded as code"),
            _ => format!("code is loaded from the image alone, and {policy} does not name this file in its map"),
        },
        "running-unlisted" => format!("{policy}, which came later, does not list it"),
        "mapped-anonymous" => "no file holds this code".to_owned(),
        "bpf" => "bpf(2) is closed to containers with a policy".to_owned(),
        "signal" => "nobody in a container may signal Lattice's agent".to_owned(),
        "trace" => "nobody in a container may look into Lattice's agent".to_owned(),
        "pins" => "nobody in a container may touch what holds Lattice's programs".to_owned(),
        "missing" if is_not_loaded(violation) => {
            format!("{policy} is the container's, and could not be given to the node's kernel")
        }
        "missing" => "no policy matches the container".to_owned(),
        "unknown" => "the agent does not know the container".to_owned(),
        "pending" => "the container's policy had not arrived yet".to_owned(),
        other => format!("reason {}", escaped_and_cut(other, 40)),
    }
}

fn advice(violation: &v1::Violation, reason: &str) -> &'static str {
    let (_, is_open) = reason_and_openness(&violation.reason);
    match reason {
        _ if is_open => "The policy's \"fail\" says open for this case; closed would refuse it.",
        "unlisted" => match violation.drift.as_str() {
            "not-in-image" | "memfd" | "deleted" | "modified" => {
                "The image did not bring these bytes: find out what wrote them; if they belong there, build them into the image."
            }
            _ => "If the service needs it, name it in its command, probes or hooks; else find out what started it.",
        },
        "role" if violation.role == "target" => {
            "Start the program itself; if this one is to start by itself, list it as target."
        }
        "role" => "Give the entry this role if that is intended; else find out what uses it so.",
        "applet" => {
            "If the service needs this applet, its command, probes or hooks must name it; the name is the caller's word, so a listed shell's is worth as much as that shell."
        }
        "origin" => {
            "If the application itself is to start it, its command must name it; else find out what in it tried."
        }
        "denylisted" => "Find out how it came into the container; the denylist is lifted by whoever set it.",
        "unresolved" => {
            "A file on a volume, FUSE or a network file system needs a path entry; a file being written, another try."
        }
        "mapping" => "Find out what brought the file; if it belongs there, build it into the image or name it in map.",
        "running-unlisted" if violation.effective_action == "kill" => {
            "Find out what started it, and replace the container if it is not to be trusted."
        }
        "running-unlisted" => "It goes on until it ends: find out what started it, and replace the container.",
        "mapped-anonymous" => "A compiler at run time does this; elsewhere find out why.",
        "bpf" => {
            "If the container is to use it, start the agent with --allow-bpf and its namespace; else find out what tried."
        }
        "signal" | "trace" | "pins" => "Find out what tried: it had no reason to.",
        "missing" if is_not_loaded(violation) => {
            "The agent's log on the node says why, and which option makes a full map larger; until then the policy's \"mapFull\" holds."
        }
        "missing" => "`latticectl service list` says where its chain stopped.",
        "unknown" => "`latticectl status` lists the containers that the agent knows.",
        "pending" => "Nothing, unless it lasts; then `latticectl status` says what the node waits for.",
        _ => "`latticectl policy list` shows what the policy allows.",
    }
}

/// Whether the container has a policy that the kernel could not be given.
fn is_not_loaded(violation: &v1::Violation) -> bool {
    violation
        .policy
        .as_ref()
        .is_some_and(|policy| policy.no_match == "not-loaded")
}

/// `unresolved-open` is `unresolved`, let through.
fn reason_and_openness(reason: &str) -> (&str, bool) {
    match reason.strip_suffix("-open") {
        Some(reason) => (reason, true),
        None => (reason, false),
    }
}

fn policy_name(policy: Option<&v1::PolicyReference>) -> String {
    match policy {
        Some(policy) if !policy.name.is_empty() => {
            format!(
                "policy {}/{}",
                escaped_and_cut(&policy.namespace, 63),
                escaped_and_cut(&policy.name, 253)
            )
        }
        _ => "the policy".to_owned(),
    }
}

fn role(word: &str) -> &'static str {
    match word {
        "target" => "as a command of its own",
        "script-interpreter" => "as the interpreter of a script",
        "elf-interpreter" => "as the loader of a program",
        _ => "in this role",
    }
}

fn origin(word: &str) -> &'static str {
    match word {
        "init" => "by the application's own processes",
        "exec-session" => "from an exec session",
        _ => "from where this one came",
    }
}

/// An escaped text, cut.
fn cut(text: &str) -> String {
    match text.char_indices().nth(PATH_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
