//! `lattice-agent`: see `--help`.

mod cli;
mod config_file;
mod enrol_command;
mod health_command;
mod probe_command;
mod run;
mod seccomp_command;
mod uninstall;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("LATTICE_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let command_line = match config_file::with_file(std::env::args_os().collect()) {
        Ok(command_line) => command_line,
        Err(error) => {
            eprintln!("lattice-agent: {error}");
            return ExitCode::from(cli::USAGE);
        }
    };
    let arguments = match cli::Arguments::try_parse_from(command_line) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cli::USAGE } else { 0 });
        }
    };
    match arguments.command {
        cli::Command::Run(settings) => run::run(&settings),
        cli::Command::Probe(settings) => probe_command::run(&settings),
        cli::Command::Health(settings) => health_command::run(&settings),
        cli::Command::Enrol(settings) => enrol_command::run(&settings),
        cli::Command::SeccompProfile(settings) => seccomp_command::run(&settings),
        cli::Command::ProbeChild { cgroup, program } => Ok(lattice_agent::probe::child(&cgroup, &program)),
        cli::Command::FrontWatchdog { agent } => Ok(lattice_agent::front::watchdog::main(agent)),
        cli::Command::Uninstall(settings) => uninstall::uninstall(&settings),
    }
    .unwrap_or_else(|error| {
        eprintln!("lattice-agent: {error:#}");
        ExitCode::from(cli::CANNOT)
    })
}
