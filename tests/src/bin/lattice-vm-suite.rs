//! The guest side of the VM suite; also the actor that enters a cgroup and starts a program there in some way.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use lattice_tests::guest;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((word, rest)) if word == guest::actor::VERB => guest::actor::act(rest),
        _ => guest::run(guest::cases::all(), &arguments),
    }
}
