//! Ways around an exec list, tried from within a container by somebody who has a listed shell, busybox and more. One container a case.

use std::path::Path;

use anyhow::Result;
use lattice_policy::{Mode, Origin, Role};
use nix::{errno::Errno, sys::signal::Signal};

use super::{
    container::UNLISTED,
    content::{MODIFIED, NOT_IN_IMAGE},
};
use crate::guest::{
    actor::{HERE, VERB, Way},
    canaries,
    container::{Container, SERVER, loader, prepare},
    host::is_tier_1,
    policy::Policy,
    trial::{Case, Cause, Expected, Trial, cause, path_word},
};
use crate::material::find;

const MEMORY: Cause = cause("unlisted", "target", "memfd");
const DELETED: Cause = cause("unlisted", "target", "deleted");
const FOREIGN: Cause = cause("mapping", "mapping", "not-in-image");
const UNLISTED_INTERPRETER: Cause = cause("role", "script-interpreter", "unlisted-in-image");

/// The actor is listed: it stands for whatever an attacker makes of a listed program that he controls.
pub(super) fn policy() -> Result<Policy> {
    let both = [Role::Target, Role::ScriptInterpreter];
    Policy::new(Mode::Enforce)
        .allow_image(SERVER, &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/dash", &both, Origin::Any)?
        .allow_image("/usr/bin/busybox", &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/actor", &[Role::Target], Origin::Any)?
        .allow_image("/usr/bin/good", &[Role::Target], Origin::Any)?
        .allow_image("/app/listed-script", &[Role::Target], Origin::Any)?
        .allow_image(loader()?, &[Role::ElfInterpreter], Origin::Any)
}

/// A session that begins with the actor.
fn act(container: &Container, trial: &mut Trial<'_>, way: Way, words: &[&str], expected: Expected) -> Result<()> {
    let words = [&["/usr/bin/actor", VERB, HERE, way.word()], words].concat();
    container.session(trial, &words, expected)
}

/// A session that begins with a line for the shell.
fn line(container: &Container, trial: &mut Trial<'_>, line: &str, expected: Expected) -> Result<()> {
    container.session(trial, &["/bin/sh", "-c", line], expected)
}

/// What the front falls open for in tier 2, and `docs/kernel-support.md` says so.
fn hole_in_tier_2(expected: Expected) -> Expected {
    if is_tier_1() { expected } else { Expected::Hole }
}

/// The runtime's programs pass on their way to the container's first one, by their content: it is public, and nothing of it is to pass once
/// the container's own root is entered.
fn runtimes_own_program(trial: &mut Trial<'_>) -> Result<()> {
    let container = Container::start(trial)?;
    let mark = trial.new_mark()?;
    let program = mark.with_file_name("runtime");
    canaries::write_static(&program, "runtime")?;
    if !trial.is_control() {
        for program in [find("runc")?, program] {
            let argument = ["--runtime-program".to_owned(), path_word(&program)];
            trial.node.more_arguments.extend(argument);
        }
        trial.node.restart(Signal::SIGTERM)?;
    }
    let killed = Expected::Killed(NOT_IN_IMAGE);
    let result = container
        .session(trial, &["/marks/runtime"], killed)
        .and_then(|()| container.session(trial, &["/bin/sh", "-c", "exec /marks/runtime"], killed))
        .and_then(|()| container.session(trial, &["/usr/bin/good"], Expected::Runs));
    container.end()?;
    if !trial.is_control() {
        trial.node.more_arguments.clear();
        trial.node.restart(Signal::SIGTERM)?;
    }
    result
}

/// A case: its container, and what is done in it.
macro_rules! case {
    ($name:literal, $run:expr) => {
        Case {
            name: $name,
            prepare: |place| prepare(place).and_then(|()| policy()),
            run: |trial| {
                let container = Container::start(trial)?;
                let run: fn(&Container, &mut Trial<'_>) -> Result<()> = $run;
                run(&container, trial)?;
                container.end()
            },
        }
    };
}

/// The unlisted program, on the image and of its own size.
const BAD: &str = "/usr/bin/longer";

pub(super) const CASES: &[Case] = &[
    case!(
        "from_inside_by_descriptor_thread_child_or_another_name",
        |container, trial| {
            for (way, trick) in [
                (Way::Descriptor, "execveat with AT_EMPTY_PATH"),
                (Way::ProcDescriptor, "/proc/self/fd"),
                (Way::Thread, "thread that is not the first"),
                (Way::Child, "vfork"),
                (Way::OtherName, "argv[0] of a listed program"),
            ] {
                trial.trick(trick);
                act(container, trial, way, &["/usr/bin/good"], Expected::Runs)?;
                act(container, trial, way, &[BAD], Expected::Killed(UNLISTED))?;
            }
            Ok(())
        }
    ),
    case!("from_inside_memory_and_files_without_a_name", |container, trial| {
        act(
            container,
            trial.trick("sealed memfd"),
            Way::SealedMemory,
            &[BAD],
            Expected::Killed(MEMORY.in_tier_2(DELETED)),
        )?;
        act(
            container,
            trial.trick("O_TMPFILE"),
            Way::Nameless,
            &["/dev", BAD],
            Expected::Killed(DELETED),
        )?;
        let deleted = format!("cp {BAD} /tmp/x && exec /usr/bin/actor {VERB} {HERE} deleted /tmp/x");
        line(
            container,
            trial.trick("deleted file"),
            &deleted,
            Expected::Killed(DELETED),
        )
    }),
    case!(
        "from_inside_links_and_copies_under_strange_names",
        |container, trial| {
            let killed = Expected::Killed(NOT_IN_IMAGE);
            line(
                container,
                trial.trick("hard link"),
                &format!("ln {BAD} /tmp/hard && exec /tmp/hard"),
                killed,
            )?;
            // As long as eight names, each of the greatest length.
            let long = "n=nnnnnnnnnn; n=$n$n$n$n$n$n$n$n$n$n$n$n$n$n$n$n$n$n$n$n; d=/tmp/$n/$n/$n/$n/$n/$n/$n/$n; busybox mkdir -p $d";
            line(
                container,
                trial.trick("long path"),
                &format!("{long} && cp {BAD} $d/x && exec $d/x"),
                killed,
            )?;
            let name = r#"n=$(printf '/tmp/\377\001\n\033[31m'x)"#;
            line(
                container,
                trial.trick("name that is not UTF-8"),
                &format!(r#"{name}; cp {BAD} "$n" && exec "$n""#),
                killed,
            )?;
            let longer = "cp /usr/bin/good /tmp/good && echo >> /tmp/good && exec /tmp/good";
            line(
                container,
                trial.trick("changed copy of a listed program"),
                longer,
                killed,
            )
        }
    ),
    case!("from_inside_a_symbolic_link_is_what_it_leads_to", |container, trial| {
        let link = format!("ln -s {BAD} /tmp/good && exec /tmp/good");
        line(container, trial, &link, Expected::Killed(UNLISTED))
    }),
    case!(
        "from_inside_a_listed_path_is_exchanged_with_another_file",
        |container, trial| {
            let exchange = format!(
                "cp {BAD} /usr/bin/other && exec /usr/bin/actor {VERB} {HERE} after-exchange /usr/bin/other /usr/bin/good /usr/bin/good"
            );
            line(container, trial, &exchange, Expected::Killed(MODIFIED))
        }
    ),
    case!(
        "from_inside_a_listed_path_is_mounted_over_in_an_own_namespace",
        |container, trial| {
            act(
                container,
                trial,
                Way::AfterBind,
                &[BAD, "/usr/bin/good", "/usr/bin/good"],
                Expected::Killed(UNLISTED),
            )
        }
    ),
    Case {
        name: "from_inside_a_listed_path_by_the_root_of_a_child",
        prepare: |place| {
            prepare(place)?;
            // By path alone, which is all that a policy for Tetragon can say.
            let mut policy = policy()?;
            policy
                .0
                .entries
                .retain(|entry| entry.path.as_bytes() != b"/usr/bin/good");
            Ok(policy.allow_path(Path::new("/usr/bin/good")))
        },
        run: |trial| {
            let container = Container::start(trial)?;
            container.session(trial, &["/usr/bin/good"], Expected::Runs)?;
            act(
                &container,
                trial,
                Way::ThroughRoot,
                &[BAD, "/usr/bin/good", "/usr/bin/good"],
                Expected::Killed(UNLISTED),
            )?;
            // The file itself, by such a path, is no other.
            let own = ["/bin/sh", "-c", "exec /proc/self/root/usr/bin/good"];
            container.session(trial, &own, Expected::Runs)?;
            container.end()
        },
    },
    Case {
        name: "from_inside_the_runtimes_own_program_on_a_volume",
        prepare: |place| prepare(place).and_then(|()| policy()),
        run: runtimes_own_program,
    },
    case!("from_inside_a_listed_path_of_an_own_root", |container, trial| {
        let root = format!(
            "busybox mkdir -p /tmp/root/usr/bin && cp {BAD} /tmp/root/usr/bin/good && \
             exec /usr/bin/actor {VERB} {HERE} after-own-chroot /tmp/root /usr/bin/good"
        );
        line(container, trial, &root, Expected::Killed(MODIFIED))
    }),
    case!("from_inside_code_that_a_listed_program_loads", |container, trial| {
        let refused = hole_in_tier_2(Expected::Denied(FOREIGN));
        for (trick, verb) in [
            ("library that is not the image's", "map"),
            ("library made executable later", "protect"),
            ("library under READ_IMPLIES_EXEC", "map-implied"),
            ("library under remap_file_pages", "map-again"),
        ] {
            let load = format!("cp {BAD} /tmp/library && exec /usr/bin/good {verb} /tmp/library");
            line(container, trial.trick(trick), &load, refused)?;
        }
        // Kernels of today are built without it, and say ENOSYS.
        trial.trick("library by uselib");
        let load = format!("cp {BAD} /tmp/library && exec /usr/bin/good use /tmp/library");
        line(container, trial, &load, Expected::Fails(Errno::ENOSYS as i32))?;
        trial.trick("memfd mapped executable");
        let memory = hole_in_tier_2(Expected::Denied(cause("mapping", "mapping", "memfd")));
        container.session(trial, &["/usr/bin/good", "map-memory"], memory)?;
        trial.trick("System V segment attached executable");
        let segment = hole_in_tier_2(Expected::Denied(cause("mapping", "mapping", "deleted")));
        container.session(trial, &["/usr/bin/good", "map-segment"], segment)?;
        // The last: programs that need this library do not start after it.
        trial.trick("changed library of the image");
        let library = "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1";
        let changed = format!("touch {library} && exec /usr/bin/good map {library}");
        line(container, trial, &changed, refused)
    }),
    case!("from_inside_other_calls_and_other_places", |container, trial| {
        trial.trick("32-bit execve");
        container.session(trial, &["/usr/bin/good", "compat", "/usr/bin/good"], Expected::Runs)?;
        container.session(trial, &["/usr/bin/good", "compat", BAD], Expected::Killed(UNLISTED))?;
        trial.trick("detached copy of a mount");
        let detached = |name| ["/usr/bin/good", "detached", "/usr/bin", name];
        container.session(trial, &detached("good"), Expected::Runs)?;
        container.session(trial, &detached("longer"), Expected::Killed(UNLISTED))?;
        trial.trick("double fork");
        let fork = format!(
            "( ( {BAD}; echo $? > /tmp/end ) & ); while ! [ -s /tmp/end ]; do :; done; read end < /tmp/end; exit $end"
        );
        line(container, trial, &fork, Expected::Killed(UNLISTED))?;
        trial.trick("loader as a command");
        let by_loader = [loader()?, "/usr/bin/dash", "-c", "exec /usr/bin/good"];
        let as_target = Expected::Killed(cause("role", "target", "unlisted-in-image"));
        container.session(trial, &by_loader, as_target)?;
        let killed = Expected::Killed(NOT_IN_IMAGE);
        for (trick, attempt) in [
            ("file on a tmpfs", format!("cp {BAD} /dev/x && exec /dev/x")),
            ("file on a volume", format!("cp {BAD} /marks/x && exec /marks/x")),
            (
                "path with dots and slashes",
                format!("cp {BAD} /tmp/x && cd /tmp && exec ./..//tmp/./x"),
            ),
            (
                "chain of scripts",
                "for n in 1 2 3; do printf '#!/tmp/s%s\\n' $((n + 1)) > /tmp/s$n; done; \
                 printf '#!/usr/bin/dash\\nexec /usr/bin/good\\n' > /tmp/s4; busybox chmod +x /tmp/s1 /tmp/s2 /tmp/s3 /tmp/s4; exec /tmp/s1"
                    .to_owned(),
            ),
        ] {
            line(container, trial.trick(trick), &attempt, killed)?;
        }
        trial.trick("listed path truncated and written anew");
        let anew = format!("busybox cat {BAD} > /usr/bin/good && exec /usr/bin/good");
        line(container, trial, &anew, Expected::Killed(MODIFIED))
    }),
    case!("from_inside_scripts_of_the_image", |container, trial| {
        container.session(trial, &["/app/listed-script"], Expected::Runs)?;
        // The front does not know whether a script that is not listed lies in a layer.
        let killed = Expected::Killed(UNLISTED.in_tier_2(NOT_IN_IMAGE));
        trial.trick("unlisted script");
        container.session(trial, &["/app/unlisted-script"], killed)?;
        container.application(trial, "exec /app/unlisted-script", killed)?;
        trial.trick("script of a script");
        container.session(trial, &["/app/script-of-a-script"], killed)
    }),
    case!("from_inside_a_script_on_tmpfs", |container, trial| {
        line(
            container,
            trial,
            "cp /app/unlisted-script /dev/script && exec /dev/script",
            hole_in_tier_2(Expected::Killed(NOT_IN_IMAGE)),
        )
    }),
    case!("from_inside_a_script_without_a_known_start", |container, trial| {
        line(
            container,
            trial,
            "exec /app/without-a-start",
            hole_in_tier_2(Expected::Killed(UNLISTED)),
        )
    }),
    case!(
        "from_inside_an_interpreter_that_is_no_interpreter",
        |container, trial| {
            // The shell is listed in that role, busybox is not.
            let script = "printf '#!/usr/bin/busybox sh\\nexec /usr/bin/good\\n' > /dev/script && busybox chmod +x /dev/script && exec /dev/script";
            let cause = if is_tier_1() {
                NOT_IN_IMAGE
            } else {
                UNLISTED_INTERPRETER
            };
            line(container, trial, script, Expected::Killed(cause))
        }
    ),
];
