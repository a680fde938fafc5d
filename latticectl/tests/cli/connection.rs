//! The way to whoever answers: flags, environment, mTLS, and what is said when nobody does.

use std::{fs, path::Path};

use crate::support::{Answers, Pki, RunningServer, latticectl, shown};
use lattice_api::v1;

fn central_answers() -> Answers {
    let status = v1::GetStatusResponse {
        role: "central".to_owned(),
        version: "0.1.0".to_owned(),
        ..Default::default()
    };
    Answers {
        status,
        services: Ok(Vec::new()),
        ..Default::default()
    }
}

#[test]
fn central_is_asked_by_mtls() {
    let (folder, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let (_server, address) = RunningServer::with_tls(&pki, central_answers());
    let flags = pki.write(folder.path());
    let url = format!("https://localhost:{}", address.port());
    let output = latticectl()
        .args(["--central", &url])
        .args(&flags)
        .arg("status")
        .output()
        .unwrap();
    let by_flags = shown(output);
    assert!(
        by_flags.code == 0 && by_flags.stdout.starts_with("central 0.1.0\n"),
        "{by_flags:?}"
    );

    let output = latticectl()
        .env("LATTICE_CENTRAL", &url)
        .env("LATTICE_CA", &flags[1])
        .env("LATTICE_CLIENT_CERT", &flags[3])
        .env("LATTICE_CLIENT_KEY", &flags[5])
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(shown(output), by_flags);
}

#[test]
fn whom_central_does_not_know_it_does_not_answer() {
    let (folder, pki, other) = (tempfile::tempdir().unwrap(), Pki::new(), Pki::new());
    let (_server, address) = RunningServer::with_tls(&pki, central_answers());
    let mut flags = pki.write(folder.path());
    let other_folder = folder.path().join("other");
    fs::create_dir(&other_folder).unwrap();
    let other_flags = other.write(&other_folder);
    let url = format!("https://localhost:{}", address.port());
    // A client certificate of another authority.
    let own_authority = flags[1].clone();
    flags[3..].clone_from_slice(&other_flags[3..]);
    let output = latticectl()
        .args(["--central", &url])
        .args(&flags)
        .arg("status")
        .output()
        .unwrap();
    let refused = shown(output);
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""), "{refused:?}");
    assert!(refused.stderr.contains("ertificate"), "{refused:?}");
    // A server of another authority is not asked at all.
    flags[1] = other_flags[1].clone();
    assert_ne!(flags[1], own_authority);
    let output = latticectl()
        .args(["--central", &url])
        .args(&flags)
        .arg("status")
        .output()
        .unwrap();
    let distrusted = shown(output);
    assert_eq!(distrusted.code, 2);
    assert!(distrusted.stderr.contains("cannot be reached"), "{distrusted:?}");
}

#[track_caller]
fn check_unreachable(socket: &Path, reason: &str) {
    let shown = shown(latticectl().arg("--agent").arg(socket).arg("status").output().unwrap());
    assert_eq!((shown.code, shown.stdout.as_str()), (2, ""));
    assert_eq!(
        shown.stderr,
        format!(
            "latticectl: the agent at {} cannot be reached: {reason}. Start lattice-agent, run this as root, or name its socket with --agent.\n",
            socket.display()
        )
    );
}

#[test]
fn an_agent_that_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    check_unreachable(&folder.path().join("none.sock"), "there is no such socket");
    let abandoned = folder.path().join("abandoned.sock");
    drop(std::os::unix::net::UnixListener::bind(&abandoned).unwrap());
    check_unreachable(&abandoned, "nothing listens there");
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("silent.sock");
    // It accepts, by its backlog, and says nothing.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let shown = shown(
        latticectl()
            .arg("--agent")
            .arg(&socket)
            .args(["status", "--timeout", "1"])
            .output()
            .unwrap(),
    );
    assert_eq!(shown.code, 2);
    assert!(shown.stderr.contains("did not answer within 1 s"), "{shown:?}");
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let (folder, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let flags = pki.write(folder.path());
    let run = || {
        shown(
            latticectl()
                .args(["--central", "https://localhost:1"])
                .args(&flags)
                .arg("status")
                .output()
                .unwrap(),
        )
    };
    fs::write(&flags[5], "no key").unwrap();
    let no_key = run();
    assert_eq!(no_key.code, 2);
    assert!(
        no_key.stderr.contains("operator.key: this is not a PEM file"),
        "{no_key:?}"
    );
    fs::remove_file(&flags[5]).unwrap();
    let missing = run();
    assert!(
        missing.code == 2 && missing.stderr.contains("operator.key: No such file"),
        "{missing:?}"
    );
}
