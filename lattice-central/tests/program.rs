//! The program itself: started, killed, started again.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{
    Agent, NODES, PATIENCE, Place, channel, event, hello, operator,
    program::{Program, command, free_address},
    stored,
};
use lattice_api::v1::{self as wire, control_client::ControlClient};
use tonic::Code;

/// A policy document for a workload that allows one path.
fn document(name: &str, path: &str) -> String {
    format!(
        "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: {name}, namespace: payments}}\n\
         spec:\n  target: {{workload: {name}}}\n  mode: monitor\n  entries:\n  - path: {path}\n    sha256: \"{}\"\n",
        "9f".repeat(32)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_is_stored_twice() {
    const EVENTS: u64 = 4_000;
    let place = Place::new();
    let address = free_address();
    let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
    let mut kills = 0;
    while acknowledged.len() < EVENTS as usize {
        let mut program = Program::start(&place, address);
        let mut agent = Agent::connect(&place, address, NODES[0]).await;
        // What was acknowledged before the kill is there after it.
        let on_disk = stored(&place.settings.state);
        for sequence in &acknowledged {
            assert_eq!(
                on_disk.get(&format!("{}/{sequence}", NODES[0])),
                Some(&1),
                "event {sequence}"
            );
        }
        let unacknowledged: Vec<u64> = (1..=EVENTS)
            .filter(|sequence| !acknowledged.contains(sequence))
            .collect();
        let kill_after = acknowledged.len() + 600;
        let outbound = agent.outbound.clone();
        let sending = tokio::spawn(async move {
            for batch in unacknowledged.chunks(17) {
                let events = batch
                    .iter()
                    .map(|sequence| event(NODES[0], *sequence, "payments"))
                    .collect();
                let kind = Some(wire::agent_message::Kind::Events(wire::EventBatch { events }));
                if outbound.send(wire::AgentMessage { kind }).await.is_err() {
                    return;
                }
            }
        });
        while acknowledged.len() < EVENTS as usize {
            match agent.receive().await {
                Ok(wire::hub_message::Kind::Acknowledgement(some)) => acknowledged.extend(some.sequences),
                Ok(wire::hub_message::Kind::Policies(_) | wire::hub_message::Kind::Denylist(_)) => {}
                Err(_) => break,
            }
            if acknowledged.len() >= kill_after && program.child.try_wait().unwrap().is_none() {
                program.child.kill().unwrap(); // SIGKILL
                program.child.wait().unwrap();
                kills += 1;
            }
        }
        sending.abort();
    }
    assert!(kills >= 4, "{kills} kills");
    let on_disk = stored(&place.settings.state);
    assert_eq!(on_disk.len(), EVENTS as usize);
    assert!(on_disk.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_served_and_the_last_good_state_stays_in_force() {
    let place = Place::new();
    let file = place.objects().join("policy.yaml");
    fs::write(&file, document("server", "/app/server")).unwrap();
    let program = Program::start(&place, free_address());
    let mut agent = Agent::connect(&place, program.address, NODES[0]).await;
    let path = |set: &wire::PolicySet| {
        set.policies
            .first()
            .map(|policy| String::from_utf8_lossy(&policy.entries[0].path).into_owned())
    };
    let mut set = agent.policies().await;
    while set.policies.is_empty() {
        set = agent.policies().await;
    }
    assert_eq!(path(&set).as_deref(), Some("/app/server"));

    // Wrong: named with file, line and field, and the old one stays.
    fs::write(&file, document("server", "/app/other").replace("  mode:", "  moed:")).unwrap();
    let mut control = operator(&place, program.address).await;
    let deadline = Instant::now() + PATIENCE;
    let message = loop {
        let services = control
            .list_services(wire::ListServicesRequest::default())
            .await
            .unwrap()
            .into_inner()
            .services;
        if let Some(service) = services.iter().find(|service| service.name == "policy.yaml") {
            assert_eq!(
                (
                    service.conditions[0].status.as_str(),
                    service.conditions[0].reason.as_str()
                ),
                ("False", "InvalidFile")
            );
            break service.conditions[0].message.clone();
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(message.contains("policy.yaml:6:3: spec.moed"), "{message}");
    let policies = control
        .list_policies(wire::ListPoliciesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .policies;
    assert_eq!(policies, set.policies);

    // Right again: reaches the agent without a restart.
    fs::write(&file, document("server", "/app/other")).unwrap();
    let set = agent.policies().await;
    assert_eq!(path(&set).as_deref(), Some("/app/other"));
    let services = control
        .list_services(wire::ListServicesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .services;
    assert_eq!(services, []);
    fs::remove_file(&file).unwrap();
    assert_eq!(agent.policies().await.policies, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_it_ends_in_time_with_streams_open() {
    let place = Place::new();
    let mut program = Program::start(&place, free_address());
    let mut agent = Agent::connect(&place, program.address, NODES[0]).await;
    agent.policies().await;
    let pid = program.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = agent.ended().await;
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled),
        "{status:?}"
    );
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(ended) = program.child.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_on_one_state_directory_are_refused() {
    let place = Place::new();
    let _program = Program::start(&place, free_address());
    let second = command(&place, free_address()).stderr(Stdio::piped()).output().unwrap();
    refused(&second, 2, "another lattice-central runs on this state directory");
    // The first is as it was.
    Agent::connect_as(&place, _program.address, "node-worker-1", hello(NODES[0]))
        .await
        .unwrap();
}

#[track_caller]
fn refused(output: &Output, code: i32, expected: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(expected), "{text}");
    assert!(output.stdout.is_empty());
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lattice-central"))
        .args(arguments)
        .env_remove("LATTICE_LOG")
        .output()
        .unwrap()
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let place = Place::new();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (local, state) = (path(&place.objects()), path(&place.settings.state));
    refused(&run(&["--no-such-flag"]), 64, "--no-such-flag");
    refused(&run(&[]), 64, "--local DIR is missing");
    let config = place.directory.path().join("central.toml");
    fs::write(&config, "local = \"/x\"\nlisten-on = 1\n").unwrap();
    refused(
        &run(&["--config", &path(&config)]),
        64,
        "central.toml:2: unknown field `listen-on`",
    );
    refused(
        &run(&["--config", "/absent.toml"]),
        64,
        "/absent.toml: cannot read the configuration file: No such file",
    );
    refused(
        &run(&["--local", "/absent", "--state", &state]),
        2,
        "--local /absent: cannot list the directory of objects",
    );
    refused(
        &run(&["--local", &local, "--state", &state, "--tls-cert", "/absent.crt"]),
        2,
        "/absent.crt: cannot read the server certificate; `lattice-central init-tls --directory DIR` makes one",
    );
    refused(
        &run(&["--local", &local, "--state", "/proc/absent"]),
        2,
        "--state /proc/absent: cannot use the state directory",
    );
    let damaged = place.directory.path().join("damaged");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("central.sqlite"), "no database".repeat(100)).unwrap();
    refused(
        &run(&["--local", &local, "--state", &path(&damaged)]),
        2,
        "central.sqlite: file is not a database",
    );
}

/// What central answers to whoever has this certificate; `None` where it answers nothing.
async fn scrape(place: &Place, address: SocketAddr, name: Option<&str>) -> Option<String> {
    let read = |file: String| fs::read(place.tls().join(file)).unwrap();
    let authority = reqwest::Certificate::from_pem(&read("ca.crt".to_owned())).unwrap();
    let mut client = reqwest::Client::builder().tls_certs_only([authority]);
    if let Some(name) = name {
        let pair = [read(format!("{name}.key")), read(format!("{name}.crt"))].concat();
        client = client.identity(reqwest::Identity::from_pem(&pair).unwrap());
    }
    let url = format!("https://127.0.0.1:{}/metrics", address.port());
    let answer = client.build().unwrap().get(url).send().await.ok()?;
    assert_eq!(answer.status(), 200);
    answer.text().await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_who_has_a_certificate_for_them() {
    let mut place = Place::new();
    let address = free_address();
    place.settings.metrics_listen = Some(address);
    let program = Program::start(&place, free_address());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = scrape(&place, address, Some("metrics")).await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        if text.contains("\nlattice_central_ready 1\n") {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for other in [None, Some("operator"), Some("node-worker-1"), Some("server")] {
        assert_eq!(scrape(&place, address, other).await, None, "{other:?}");
    }
    // And it opens nothing else.
    let scraper = channel(program.address, place.client_tls(Some("metrics"))).await;
    let scraper = ControlClient::new(scraper.unwrap())
        .get_status(wire::GetStatusRequest::default())
        .await;
    assert_eq!(scraper.unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn certificates_are_made_by_the_program() {
    let directory = tempfile::tempdir().unwrap();
    let tls = directory.path().join("tls");
    let made = run(&[
        "init-tls",
        "--directory",
        tls.to_str().unwrap(),
        "--node",
        "a",
        "--node",
        "b",
    ]);
    assert_eq!(made.status.code(), Some(0));
    let listed = String::from_utf8(made.stdout).unwrap();
    assert_eq!(listed.lines().count(), 12);
    assert!(listed.lines().all(|path| Path::new(path).is_file()));
    refused(
        &run(&["init-tls", "--directory", tls.to_str().unwrap(), "--node", "A B"]),
        2,
        "node name \"A B\"",
    );
    let schema = run(&["schema"]);
    assert!(
        String::from_utf8(schema.stdout)
            .unwrap()
            .contains("action DeployImage, AllowTagReference")
    );
}
