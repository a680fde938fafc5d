//! `matchActions`: what happens when a selector matches.

use super::{decision::Outcome, notes::Notes, schema};
use crate::document::{Field, Object};

/// More than so many actions Tetragon does not take.
const MAX_ACTIONS: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Post,
    NoPost,
    Sigkill,
    Signal,
    Override,
    /// With the reason why Lattice has nothing for it.
    Other(&'static str),
}

const SIDE_EFFECT: &str = "it makes the node contact others when a program starts";
const SOCKETS: &str = "it follows sockets";
const ENFORCER: &str = "the enforcer acts on system calls, by a program that Lattice does not have";
const SET: &str = "it changes what the traced function sees";

const ACTIONS: [(&str, Action); 12] = [
    ("Post", Action::Post),
    ("NoPost", Action::NoPost),
    ("Sigkill", Action::Sigkill),
    ("Signal", Action::Signal),
    ("Override", Action::Override),
    ("GetUrl", Action::Other(SIDE_EFFECT)),
    ("DnsLookup", Action::Other(SIDE_EFFECT)),
    ("TrackSock", Action::Other(SOCKETS)),
    ("UntrackSock", Action::Other(SOCKETS)),
    ("NotifyEnforcer", Action::Other(ENFORCER)),
    ("CleanupEnforcerNotification", Action::Other(ENFORCER)),
    ("Set", Action::Other(SET)),
];

/// Reads the list of actions; without any Tetragon posts an event.
pub(super) fn read(selector: &Object<'_>, notes: &Notes) -> Option<Outcome> {
    let field = selector.field("matchActions");
    let items = match schema::is_blank(&field) {
        true => Vec::new(),
        false => field.items(),
    };
    if items.len() > MAX_ACTIONS {
        let message = format!("{} actions, and Tetragon takes at most {MAX_ACTIONS}", items.len());
        field.report(None, message, "Remove those that say the same.");
        return None;
    }
    let read: Vec<Option<Action>> = items.iter().map(|item| read_action(item, notes)).collect();
    let actions: Vec<Action> = read.into_iter().collect::<Option<_>>()?;
    let outcome = actions
        .iter()
        .map(|action| match action {
            Action::Sigkill | Action::Signal => Outcome::Kill,
            Action::Override => Outcome::Deny,
            Action::NoPost => Outcome::Run,
            Action::Post | Action::Other(_) => Outcome::Post,
        })
        .max()
        .unwrap_or(Outcome::Post);
    if actions.contains(&Action::NoPost) {
        if outcome > Outcome::Post {
            notes.add(
                &field,
                "Lattice reports every refusal, also with NoPost",
                "Nothing to do.",
            );
        } else {
            return Some(Outcome::Run);
        }
    }
    Some(outcome)
}

fn read_action(item: &Field<'_>, notes: &Notes) -> Option<Action> {
    let object = item.object()?;
    let name = object.required("action");
    let action = name.choice(&ACTIONS);
    let signal = object.field("argSig");
    let error = object.field("argError");
    for field in [
        "rateLimit",
        "rateLimitScope",
        "kernelStackTrace",
        "userStackTrace",
        "imaHash",
    ] {
        let message = "this changes only what Tetragon logs; Lattice's events have their own rates and fields, the file's SHA-256 among them";
        schema::note(notes, &object, field, message);
    }
    for field in [
        "argUrl",
        "argFqdn",
        "argSock",
        "argIndex",
        "argValue",
        "argRegs",
        "argNewSymbol",
        "argNewAddr",
        "argNewOffset",
    ] {
        schema::refuse(
            &object,
            field,
            "the action that it belongs to does not exist here",
            "Remove it.",
        );
    }
    object.finish();
    match action? {
        Action::Other(reason) => {
            let message = format!("Lattice cannot represent this: {reason}");
            name.report(
                name.text(),
                message,
                "Remove the action if the policy is right without it.",
            );
            None
        }
        Action::Signal if signal.integer::<u32>() != Some(9) => {
            signal.report(
                None,
                "Lattice cannot represent this: a refused program is killed by signal 9, or gets EPERM",
                "Write argSig: 9, or the action Sigkill.",
            );
            None
        }
        Action::Override if error.integer::<i32>() != Some(-1) => {
            error.report(
                None,
                "Lattice cannot represent this: a refused start returns EPERM, which is -1",
                "Write argError: -1.",
            );
            None
        }
        action => Some(action),
    }
}
