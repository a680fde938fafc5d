//! The guest side of the VM suite; also the actor that enters a cgroup and starts a program there in some way.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use lattice_tests::guest::{self, host::Host};

/// In place of the first case: how many refused execs in a row there are to be.
const REFUSED_EXECS: &str = "--refused-execs";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((word, rest)) if word == guest::actor::VERB => guest::actor::act(rest),
        Some((word, rest)) if word == guest::flood::VERB => guest::flood::work(rest),
        Some((word, [number, rest @ ..])) if word == REFUSED_EXECS => {
            let Ok(refused_execs) = number.parse() else {
                eprintln!("{REFUSED_EXECS} {number}: no number");
                return ExitCode::from(64);
            };
            let host = Host::vm();
            Host { refused_execs, ..host }.settle();
            guest::run(guest::cases::all(), rest)
        }
        _ => guest::run(guest::cases::all(), &arguments),
    }
}
