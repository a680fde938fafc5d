//! The program: parse everything, then bind, then run, then drain. See the library for what it does.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, error::ErrorKind};
use lattice_central::{
    central::Central,
    gate::SCHEMA_SOURCE,
    health::Answer,
    init_tls::{TlsRequest, init_tls},
    settings::{Command, CommandLine, HealthArguments, InitTlsArguments, Settings},
};
use tokio::signal::unix::{SignalKind, signal};

/// Usage: also clap's own errors.
const EXIT_USAGE: u8 = 64;
/// It answers, and is not well.
const EXIT_NOT_WELL: u8 = 1;
/// It could not be done.
const EXIT_FAILED: u8 = 2;

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Nobody is left to tell where this cannot be printed.
            let _ = error.print();
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if is_help {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_USAGE)
            };
        }
    };
    let done = match line.command {
        Some(Command::InitTls(arguments)) => make_certificates(arguments),
        Some(Command::Health(arguments)) => return ask_health(&arguments),
        Some(Command::Schema) => {
            print!("{SCHEMA_SOURCE}");
            Ok(())
        }
        None => match line.serve.resolve() {
            Ok(settings) => serve(&settings),
            Err(error) => {
                eprintln!("lattice-central: {:#}", anyhow::Error::from(error));
                return ExitCode::from(EXIT_USAGE);
            }
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lattice-central: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn ask_health(arguments: &HealthArguments) -> ExitCode {
    let answer = match Answer::ask(&arguments.state) {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!(
                "lattice-central: none answers at --state {}: {error}",
                arguments.state.display()
            );
            return ExitCode::from(EXIT_FAILED);
        }
    };
    print!("{answer}");
    let is_well = if arguments.ready {
        answer.is_ready()
    } else {
        answer.is_healthy()
    };
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_NOT_WELL)
    }
}

fn make_certificates(arguments: InitTlsArguments) -> anyhow::Result<()> {
    let InitTlsArguments {
        directory,
        nodes,
        server_names,
    } = arguments;
    for path in init_tls(&TlsRequest {
        directory,
        nodes,
        server_names,
    })? {
        println!("{}", path.display());
    }
    Ok(())
}

fn serve(settings: &Settings) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log).context("--log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    // Fails only where a provider is set already, which is then this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        let mut stop = std::pin::pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(drain = ?settings.drain, "stopping");
        });
        // It may wait for an API server.
        let central = tokio::select! {
            central = Central::prepare(settings) => central?,
            () = &mut stop => return Ok(()),
        };
        tracing::info!(
            listen = %central.address(),
            enrolment = ?central.enrolment_address(),
            metrics = ?central.metrics_address(),
            admission = ?central.admission_address(),
            objects = %settings.objects,
            state = %settings.state.display(),
            plain_http_registries = ?settings.plain_http_registries,
            "lattice-central {} is ready",
            env!("CARGO_PKG_VERSION"),
        );
        central.run(stop).await?;
        Ok(())
    })
}
