//! `latticectl completion SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{arguments::Arguments, failure::Failure};

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "latticectl", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(|source| Failure::Io {
        what: "write the completions".to_owned(),
        source,
    })
}
