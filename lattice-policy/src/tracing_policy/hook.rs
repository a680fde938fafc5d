//! Which hooks judge the start of a program, and how each is written.

use super::{
    decision::Hook,
    notes::Notes,
    schema::{self, OTHER_HOOK},
    selector::{self, PathArgument},
};
use crate::document::{Field, Object};

/// Which starts a hook sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// The file that execve names, and then a script's interpreter.
    EachStage,
    /// The file that execve names.
    NamedFile,
    /// execve's argument, as it was passed.
    ExecveArgument,
    /// execveat's argument, as it was passed.
    ExecveatArgument,
}

/// A hook that was read.
pub(super) struct ReadHook {
    pub(super) sees: Sees,
    pub(super) hook: Hook,
    pub(super) message: Option<String>,
    /// From the short form, where one stands for both system calls.
    pub(super) is_short: bool,
}

#[derive(Clone, Copy)]
enum Known {
    Judges(Sees),
    /// It sees only the program that finally runs.
    FinalOnly,
}

const FUNCTIONS: [(&str, Known); 5] = [
    ("security_bprm_check", Known::Judges(Sees::EachStage)),
    ("security_bprm_creds_for_exec", Known::Judges(Sees::NamedFile)),
    ("security_bprm_creds_from_file", Known::FinalOnly),
    ("security_bprm_committing_creds", Known::FinalOnly),
    ("security_bprm_committed_creds", Known::FinalOnly),
];
const LSM_HOOKS: [(&str, Known); 5] = [
    ("bprm_check_security", Known::Judges(Sees::EachStage)),
    ("bprm_creds_for_exec", Known::Judges(Sees::NamedFile)),
    ("bprm_creds_from_file", Known::FinalOnly),
    ("bprm_committing_creds", Known::FinalOnly),
    ("bprm_committed_creds", Known::FinalOnly),
];
const SYSTEM_CALLS: [(&str, Known); 2] = [
    ("sys_execve", Known::Judges(Sees::ExecveArgument)),
    ("sys_execveat", Known::Judges(Sees::ExecveatArgument)),
];
/// Also good in the short form, and nowhere else.
const SHORT_CALLS: [(&str, Known); 2] = [
    ("execve", Known::Judges(Sees::ExecveArgument)),
    ("execveat", Known::Judges(Sees::ExecveatArgument)),
];

/// An item of `kprobes` or `fentries`; with `is_short` one of the short form's `tracing`.
pub(super) fn read_function(item: &Field<'_>, is_short: bool, notes: &Notes) -> Option<ReadHook> {
    let object = item.object()?;
    let call = object.required("call");
    let syscall_field = object.field("syscall");
    // The schema's default; the documentation says false.
    let is_system_call = match syscall_field.is_present() {
        true => syscall_field.boolean().unwrap_or(true),
        false => true,
    };
    let sees = call.non_empty_text().and_then(|name| {
        let system_call = || {
            let short = SHORT_CALLS.iter().filter(|_| is_short);
            SYSTEM_CALLS.iter().chain(short).find(|(known, _)| *known == name)
        };
        match (FUNCTIONS.iter().find(|(known, _)| *known == name), system_call()) {
            (Some(_), _) if is_system_call => {
                let message = match syscall_field.is_present() {
                    true => "this is no system call",
                    false => "without the field \"syscall\" Tetragon takes this for a system call, and finds none of this name",
                };
                call.report(Some(name), message, "Write syscall: false.");
                None
            }
            (_, Some(_)) if !is_system_call => {
                call.report(Some(name), "this is a system call", "Write syscall: true.");
                None
            }
            (Some((_, known)), _) | (_, Some((_, known))) => judging(&call, name, *known),
            (None, None) => {
                report_other_call(&call, name, is_system_call);
                None
            }
        }
    });
    if is_system_call && sees.is_some() && !is_short {
        if !syscall_field.is_present() {
            let message =
                "absent, \"syscall\" is true by the schema and false by Tetragon's documentation; read as true";
            notes.add(&call, message, "Write syscall: true.");
        }
        let message = "Tetragon compares what the caller passed, which can be relative, a link, or changed meanwhile; Lattice compares \
                       the path of the file that is opened, links resolved";
        notes.add(
            &call,
            message,
            "List resolved paths, such as /usr/bin/dash for /bin/sh.",
        );
    }
    for (field, reason) in [
        ("data", "only the started file is looked at"),
        ("returnArgAction", "it follows sockets"),
    ] {
        schema::refuse(&object, field, reason, "Remove it.");
    }
    // Only what is logged; and Tetragon's own leniency about what a kernel lacks, which Lattice does not share.
    if !schema::is_blank(&object.field("return")) {
        object.field("return").boolean();
    }
    schema::note(notes, &object, "returnArg", "Lattice logs no return value");
    if let Some(ignore) = object
        .field("ignore")
        .node()
        .and_then(|_| object.field("ignore").object())
    {
        if ignore.field("callNotFound").is_present() {
            ignore.field("callNotFound").boolean();
        }
        ignore.finish();
    }
    read_rest(&object, sees, is_short, notes)
}

/// An item of `lsmhooks`.
pub(super) fn read_lsm(item: &Field<'_>, notes: &Notes) -> Option<ReadHook> {
    let object = item.object()?;
    let field = object.required("hook");
    let sees = field.non_empty_text().and_then(|name| {
        if let Some((_, known)) = LSM_HOOKS.iter().find(|(known, _)| *known == name) {
            return judging(&field, name, *known);
        }
        let bare = name.trim_start_matches("bpf_lsm_").trim_start_matches("security_");
        if bare != name {
            let advice = format!("Write {bare}, if that is the hook.");
            field.report(Some(name), "Tetragon names LSM hooks without a prefix", &advice);
        } else {
            field.report(
                Some(name),
                "Lattice cannot represent this: the hook does not judge the start of a program",
                OTHER_HOOK,
            );
        }
        None
    });
    read_rest(&object, sees, false, notes)
}

fn judging(field: &Field<'_>, name: &str, known: Known) -> Option<Sees> {
    match known {
        Known::Judges(sees) => Some(sees),
        Known::FinalOnly => {
            let message = "Lattice cannot represent this: the hook sees only the program that finally runs, not the script that was \
                           started, and Lattice judges scripts too";
            let advice = "Use lsmhooks bprm_check_security, and list the scripts as well as their interpreters.";
            field.report(Some(name), message, advice);
            None
        }
    }
}

fn report_other_call(call: &Field<'_>, name: &str, is_system_call: bool) {
    let near = ["execve", "execveat"].iter().find(|bare| {
        name.strip_suffix(**bare)
            .is_some_and(|prefix| matches!(prefix, "" | "__x64_sys_" | "__se_sys_" | "do_"))
    });
    if let Some(near) = near
        && is_system_call
    {
        let message = "Tetragon finds no system call of this name, since it puts the architecture before it";
        call.report(Some(name), message, &format!("Write sys_{near}."));
    } else if name.starts_with("list:") {
        call.report(
            Some(name),
            "Lattice cannot represent this: lists of functions are not expanded",
            "Write an item for each function, with call: sys_execve and sys_execveat.",
        );
    } else {
        call.report(
            Some(name),
            "Lattice cannot represent this: the function does not judge the start of a program",
            OTHER_HOOK,
        );
    }
}

/// What functions and LSM hooks have in common.
fn read_rest(object: &Object<'_>, sees: Option<Sees>, is_short: bool, notes: &Notes) -> Option<ReadHook> {
    let argument = read_arguments(object, sees, is_short, notes);
    // Also where the hook or its argument is wrong, so that one run shows everything.
    let stand_in = PathArgument {
        function_index: function_index(sees),
        listed_index: None,
    };
    let selectors = selector::read(object, argument.unwrap_or(stand_in), notes);
    let message_field = object.field("message");
    let message = match schema::is_blank(&message_field) {
        true => None,
        false => message_field.text().map(str::to_owned),
    };
    schema::note(notes, object, "tags", "Lattice's events have no tags");
    argument?;
    Some(ReadHook {
        sees: sees?,
        hook: Hook { selectors: selectors? },
        message,
        is_short,
    })
}

fn function_index(sees: Option<Sees>) -> u32 {
    u32::from(sees == Some(Sees::ExecveatArgument))
}

/// Finds the argument that is the started file, and sees that it is taken as what it is.
fn read_arguments(object: &Object<'_>, sees: Option<Sees>, is_short: bool, notes: &Notes) -> Option<PathArgument> {
    let function_index = function_index(sees);
    let type_name = match sees {
        Some(Sees::ExecveArgument | Sees::ExecveatArgument) => "string",
        _ => "linux_binprm",
    };
    let field = object.field("args");
    let items = schema::items(object, "args");
    let mut found = None;
    let mut is_right = true;
    for (position, item) in (0u32..).zip(&items) {
        let Some(argument) = item.object() else {
            is_right = false;
            continue;
        };
        let index = argument.required("index").integer::<u32>();
        let type_field = argument.required("type");
        let found_type = type_field.non_empty_text();
        let is_path = index == Some(function_index) && sees.is_some();
        let reason = "the started file itself is compared, nothing that is reached from it";
        for name in ["resolve", "source", "btfType", "btfTypeModule"] {
            match is_path {
                true => schema::refuse(&argument, name, reason, "Remove it."),
                false => drop(argument.field(name)),
            }
        }
        for name in ["sizeArgIndex", "returnCopy", "maxData", "label"] {
            argument.field(name);
        }
        argument.finish();
        if !is_path {
            if sees.is_some() {
                let message = "Tetragon only logs this argument; Lattice's events have their own fields";
                notes.add(item, message, "Nothing to do.");
            }
        } else if found_type.is_some_and(|found| found != type_name) {
            let message = format!("Lattice cannot represent this: only the file as {type_name} is compared");
            type_field.report(found_type, message, &format!("Write type: {type_name}."));
            is_right = false;
        } else {
            found = Some(position);
        }
    }
    if found.is_none() && is_right && sees.is_some() && !(is_short && items.is_empty()) {
        let message = format!("no argument is the started file, which is argument {function_index} of this hook");
        let advice = format!("Add {{index: {function_index}, type: {type_name}}}.");
        field.report(None, message, &advice);
        return None;
    }
    is_right.then_some(PathArgument {
        function_index,
        listed_index: found,
    })
}
