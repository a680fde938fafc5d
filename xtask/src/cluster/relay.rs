//! A port of this machine's loopback that leads to the API server inside.
//!
//! A socket belongs to the network in which it was made: we listen before we enter the cluster's, and connect after.

use std::{
    fs, io,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::Path,
    process::ExitCode,
    thread,
};

use anyhow::{Context, Result};
use nix::{sched::CloneFlags, unistd::setsid};

use super::component::enter_namespace;

const API_SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6443);

/// Passes connections on until it is ended.
///
/// # Errors
///
/// Where it cannot listen, or the namespace cannot be entered.
pub(super) fn run(holder: u32, processes: &Path, port_file: &Path) -> Result<ExitCode> {
    setsid().context("cannot leave the terminal's session")?;
    fs::write(processes, "0").with_context(|| format!("cannot enter {}", processes.display()))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on the loopback")?;
    let port = listener.local_addr().context("cannot find our own port")?.port();
    enter_namespace(holder, "net", CloneFlags::CLONE_NEWNET)?;
    fs::write(port_file, format!("{port}\n")).with_context(|| format!("cannot write {}", port_file.display()))?;
    for client in listener.incoming() {
        let client = client.context("cannot take a connection")?;
        // A thread is in the namespaces of the one that started it.
        thread::spawn(move || {
            if let Err(error) = pass_on(&client) {
                eprintln!("relay: {error}");
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn pass_on(client: &TcpStream) -> io::Result<()> {
    let server = TcpStream::connect(API_SERVER)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let upwards = thread::spawn(move || {
        let copied = io::copy(&mut from_client, &mut to_server);
        // The other side may have closed already.
        let _ = to_server.shutdown(Shutdown::Write);
        copied
    });
    let (mut from_server, mut to_client) = (server, client);
    let copied = io::copy(&mut from_server, &mut to_client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = upwards.join();
    copied.map(drop)
}
