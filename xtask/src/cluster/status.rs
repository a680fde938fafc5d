//! `cluster status`: what is up, and where.

use std::process::ExitCode;

use anyhow::Result;

use super::{components, place::Place, programs, running::Running};
use crate::process;

/// Whether the namespaces are held.
pub(super) fn is_up(place: &Place) -> bool {
    is_alive(place, "holder")
}

fn is_alive(place: &Place, name: &str) -> bool {
    Running::read(&place.process_files().join(name)).is_some_and(Running::is_alive)
}

/// Of every cluster of this checkout, and what they are built of. Ends with 1 where none is up.
///
/// # Errors
///
/// Where the pins cannot be read.
pub(super) fn of_all() -> Result<ExitCode> {
    println!("programs:");
    for (name, version, is_built) in programs::versions()? {
        println!("  {name:<12}{version}{}", if is_built { "" } else { "  not built yet" });
    }
    let mut is_any_up = false;
    for place in Place::every() {
        is_any_up |= is_up(&place);
        print(&place)?;
    }
    if !is_any_up {
        println!("no cluster is up: cargo xtask cluster up");
    }
    Ok(code(is_any_up))
}

/// Ends with 1 where not all of it is up.
///
/// # Errors
///
/// Where the control groups cannot be found.
pub(super) fn of_one(place: &Place) -> Result<ExitCode> {
    print(place)?;
    Ok(code(components::NAMES.iter().all(|name| is_alive(place, name))))
}

fn code(is_up: bool) -> ExitCode {
    if is_up { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(place: &Place) -> Result<()> {
    println!("cluster {}: {}", place.name, if is_up(place) { "up" } else { "down" });
    if !is_up(place) {
        return Ok(());
    }
    for name in components::NAMES {
        match Running::read(&place.process_files().join(name)) {
            Some(running) if running.is_alive() => println!("  {name:<24}process {}", running.pid),
            Some(_) => println!("  {name:<24}ended; see {}", place.log(name).display()),
            None => println!("  {name:<24}was not started"),
        }
    }
    let groups = place.control_groups()?;
    println!("  {:<24}{}", "control group", groups.unified().display());
    println!("  {:<24}{}", "kubeconfig", place.kubeconfig().display());
    println!("  {:<24}{}", "logs", place.logs().display());
    let nodes =
        process::capture(programs::kubectl(place)?.args(["get", "nodes", "--no-headers", "--request-timeout=5s"]));
    match nodes {
        Ok(nodes) => nodes.lines().for_each(|line| println!("  {:<24}{line}", "node")),
        Err(error) => println!("  {:<24}does not answer: {error:#}", "API server"),
    }
    Ok(())
}
