//! The program itself, as a process.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command},
    time::{Duration, Instant},
};

use super::{PATIENCE, Place};

/// A running lattice-central, killed when dropped.
pub struct Program {
    pub child: Child,
    pub address: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn command(place: &Place, address: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice-central"));
    let settings = &place.settings;
    command
        .arg("--local")
        .arg(place.objects())
        .arg("--state")
        .arg(&settings.state)
        .args(["--listen", &address.to_string(), "--drain-seconds", "2"])
        .arg("--tls-cert")
        .arg(&settings.tls_cert)
        .arg("--tls-key")
        .arg(&settings.tls_key)
        .arg("--client-ca")
        .arg(&settings.client_ca)
        .args(
            settings
                .metrics_listen
                .iter()
                .flat_map(|address| ["--metrics-listen".to_owned(), address.to_string()]),
        )
        .args(
            settings
                .plain_http_registries
                .iter()
                .flat_map(|host| ["--plain-http-registry", host]),
        )
        .stderr(
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(log(place))
                .unwrap(),
        );
    command
}

pub fn log(place: &Place) -> std::path::PathBuf {
    place.directory.path().join("central.log")
}

impl Program {
    pub fn start(place: &Place, address: SocketAddr) -> Self {
        let child = command(place, address).spawn().unwrap();
        let program = Self { child, address };
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(log(place)).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        program
    }
}
