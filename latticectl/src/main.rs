//! The command line of Lattice: asks the agent of this machine, or central, and says what they answered.
//!
//! ```text
//!   arguments ──► connection (Unix socket, or mTLS) ──► verb ──► output: table or JSON on stdout
//!                                                        └─────► failure: a sentence on stderr, and the exit code
//! ```
//!
//! Exit codes: 0 done or allowed, 1 refused, denied, differing or not representable, 2 could not find out, 64 usage.
#![forbid(unsafe_code)]

mod arguments;
mod connection;
mod failure;
mod output;
mod verb;

use std::process::ExitCode;

use arguments::{Arguments, Verb};
use clap::{CommandFactory, FromArgMatches};
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let matches = match Arguments::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage_exit(&error),
    };
    let arguments = match Arguments::from_arg_matches(&matches).and_then(|arguments| arguments.settled(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => return usage_exit(&error),
    };
    let mut output = Output::new(arguments.output);
    match run(&arguments, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("latticectl: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and version are answers; everything else that clap says is about usage.
fn usage_exit(error: &clap::Error) -> ExitCode {
    // A reader that has gone away changes nothing about the usage.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(64)
    } else {
        ExitCode::SUCCESS
    }
}

fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    // What needs nobody else comes first.
    match &arguments.verb {
        Verb::Completion { shell } => return verb::completion::run(*shell),
        Verb::Crds => return verb::crds::run(),
        Verb::Policy {
            verb: arguments::PolicyVerb::Check { files },
        } => return verb::policy_check::run(files, output),
        Verb::Policy {
            verb: arguments::PolicyVerb::Convert { to, plain, files },
        } => return verb::policy_convert::run(*to, *plain, files, output),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Io {
            what: "start the runtime".to_owned(),
            source,
        })?;
    runtime.block_on(verb::run(arguments, output))
}
