//! The uplink against a hub over real mTLS: events arrive once central is there and only leave the spool when it acknowledged
//! them; policies arrive, are answered and survive.

mod hostile;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lattice_agent::{
    spool::Spool,
    uplink::{Connection, NodeIdentity, PolicySink, Settings, Uplink, denylist::CentralDenylist, last_good},
};
use lattice_api::v1::{
    Acknowledgement, AgentMessage, Applied, Denial, Denylist, Event, Gap, Hello, HubMessage, NamespaceMode, PolicySet,
    Standings,
    agent_hub_server::{AgentHub, AgentHubServer},
    agent_message, event, hub_message,
};
use lattice_policy::{Denied, ExecPolicy, Mode};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

const SECONDS: Duration = Duration::from_secs(20);

/// What a hub saw, over all its lives.
#[derive(Default)]
struct Seen {
    hellos: Vec<Hello>,
    events: Vec<Event>,
    applied: Vec<Applied>,
    denylist_applied: Vec<Applied>,
    standings: Vec<Standings>,
}

#[derive(Clone)]
struct Hub {
    seen: Arc<Mutex<Seen>>,
    set: PolicySet,
    denylist: Denylist,
    acknowledges: bool,
}

#[tonic::async_trait]
impl AgentHub for Hub {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<HubMessage, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        assert!(request.peer_certs().is_some(), "the agent came without a certificate");
        let mut incoming = request.into_inner();
        let (outgoing, queue) = mpsc::channel(16);
        let hub = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                let answer = match message.kind.unwrap() {
                    agent_message::Kind::Hello(hello) => {
                        hub.seen.lock().unwrap().hellos.push(hello);
                        // As central does: denials first.
                        let denials = hub_message::Kind::Denylist(hub.denylist.clone());
                        if outgoing.send(Ok(HubMessage { kind: Some(denials) })).await.is_err() {
                            return;
                        }
                        hub_message::Kind::Policies(hub.set.clone())
                    }
                    agent_message::Kind::Applied(applied) => {
                        hub.seen.lock().unwrap().applied.push(applied);
                        continue;
                    }
                    agent_message::Kind::DenylistApplied(applied) => {
                        hub.seen.lock().unwrap().denylist_applied.push(applied);
                        continue;
                    }
                    agent_message::Kind::Standings(standings) => {
                        hub.seen.lock().unwrap().standings.push(standings);
                        continue;
                    }
                    agent_message::Kind::Events(batch) => {
                        let sequences = batch.events.iter().map(|event| event.sequence).collect();
                        let boot_id = batch.events[0].boot_id.clone();
                        hub.seen.lock().unwrap().events.extend(batch.events);
                        if !hub.acknowledges {
                            continue;
                        }
                        hub_message::Kind::Acknowledgement(Acknowledgement { boot_id, sequences })
                    }
                };
                if outgoing.send(Ok(HubMessage { kind: Some(answer) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(
            ReceiverStream::new(queue).map(|message| message),
        )))
    }
}

struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: String| fs::write(folder.path().join(name), content).unwrap();
        for authority in ["ca", "other-ca"] {
            let ca_key = rcgen::KeyPair::generate().unwrap();
            let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
            ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            ca.distinguished_name.push(rcgen::DnType::CommonName, authority);
            write(&format!("{authority}.pem"), ca.self_signed(&ca_key).unwrap().pem());
            let issuer = rcgen::Issuer::new(ca, ca_key);
            if authority == "ca" {
                for (name, host) in [("server", "localhost"), ("node", "node-a.node.lattice")] {
                    let key = rcgen::KeyPair::generate().unwrap();
                    let certificate = rcgen::CertificateParams::new(vec![host.into()])
                        .unwrap()
                        .signed_by(&key, &issuer)
                        .unwrap();
                    write(&format!("{name}.pem"), certificate.pem());
                    write(&format!("{name}.key"), key.serialize_pem());
                }
            }
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// A central with threads of its own, so that ending it ends its connections too, as a kill does.
struct Central(Option<Runtime>);

impl Central {
    fn serve(hub: Hub, certificates: &Certificates, address: SocketAddr) -> Self {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(
                certificates.text("server.pem"),
                certificates.text("server.key"),
            ))
            .client_ca_root(Certificate::from_pem(certificates.text("ca.pem")));
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(AgentHubServer::new(hub));
        let listener = listen(address);
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self(Some(runtime))
    }
}

/// A central that was there before may still be about to leave.
fn listen(address: SocketAddr) -> std::net::TcpListener {
    let deadline = Instant::now() + SECONDS;
    loop {
        match std::net::TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true).unwrap();
                return listener;
            }
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

type Put = (Vec<ExecPolicy>, BTreeMap<String, Mode>);

#[derive(Default)]
struct Maps {
    put: Mutex<Vec<Put>>,
    denied: Mutex<Vec<Vec<Denied>>>,
    refuses: bool,
}

impl PolicySink for Maps {
    fn apply(&self, policies: Vec<ExecPolicy>, modes: BTreeMap<String, Mode>) -> Result<(), String> {
        self.put.lock().unwrap().push((policies, modes));
        if self.refuses {
            Err("the map is full".into())
        } else {
            Ok(())
        }
    }

    fn deny(&self, list: CentralDenylist) -> Result<(), String> {
        self.denied.lock().unwrap().push(list.denials.into_keys().collect());
        if self.refuses {
            Err("the map is full".into())
        } else {
            Ok(())
        }
    }
}

fn policy_set(revision: u64, mode: &str) -> PolicySet {
    let policy = "apiVersion: lattice.dev/v1alpha1
kind: ExecPolicy
metadata: {name: shop, namespace: payments}
spec: {entries: [{path: /app/server}]}
";
    let policies = lattice_policy::read_documents("shop.yaml", policy.as_bytes()).unwrap();
    let namespace_modes = vec![NamespaceMode {
        namespace: "payments".into(),
        mode: mode.into(),
    }];
    PolicySet {
        revision,
        policies: policies.iter().map(Into::into).collect(),
        namespace_modes,
    }
}

fn denylist(revision: u64, denied: &[(&str, u8)]) -> Denylist {
    let denial = |(kind, digest): &(&str, u8)| Denial {
        kind: (*kind).into(),
        digest: format!("sha256:{}", format!("{digest:02x}").repeat(32)),
        reason: "a test".into(),
        ..Denial::default()
    };
    Denylist {
        revision,
        denials: denied.iter().map(denial).collect(),
    }
}

fn event(sequence: u64) -> Event {
    let kind = Some(event::Kind::Gap(Gap {
        first_sequence: sequence,
        last_sequence: sequence,
        cause: "agent-down".into(),
        ranges: Vec::new(),
    }));
    Event {
        node: "node-a".into(),
        boot_id: "boot".into(),
        sequence,
        time_unix_nanos: 1,
        kind,
    }
}

fn uplink(certificates: &Certificates, address: SocketAddr, authority: &str, state: &Path) -> Uplink {
    Uplink::prepare(Settings {
        central: format!("https://localhost:{}", address.port()),
        identity: NodeIdentity::Files {
            certificate: certificates.path("node.pem"),
            key: certificates.path("node.key"),
        },
        certificate_authority: certificates.path(authority),
        hello: Hello {
            node: "node-a".into(),
            boot_id: "boot".into(),
            ..Hello::default()
        },
        state: state.into(),
    })
    .unwrap()
}

async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = timeout(SECONDS, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("not within {SECONDS:?}: {what}"));
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_central_comes_and_goes() {
    let (certificates, state) = (Certificates::new(), tempfile::tempdir().unwrap());
    let spool = Arc::new(Spool::open(&state.path().join("spool"), 1 << 20).unwrap());
    let (seen, maps) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Maps::default()));
    let address = free_address();
    for sequence in 1..=1000 {
        spool.append(&[event(sequence)]).unwrap();
    }
    // Nobody is there yet.
    let uplink = uplink(&certificates, address, "ca.pem", state.path());
    let (connection, scraping) = (uplink.connection(), uplink.scraping());
    assert!(scraping.borrow().is_none());
    let running = tokio::spawn(uplink.run(Arc::clone(&spool), Arc::clone(&maps) as Arc<dyn PolicySink>));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*connection.borrow(), Connection::Away);
    // Who scrapes the agent needs no central.
    assert!(scraping.borrow().is_some());

    // A central that dies before it commits anything.
    let hub = Hub {
        seen: Arc::clone(&seen),
        set: policy_set(1, "monitor"),
        denylist: denylist(1, &[("image", 1), ("file", 2)]),
        acknowledges: false,
    };
    let first = Central::serve(hub.clone(), &certificates, address);
    wait_for("all events came", || seen.lock().unwrap().events.len() >= 1000).await;
    assert_eq!(spool.metrics().pending_events, 1000);
    wait_for("the policies are answered", || seen.lock().unwrap().applied.len() == 1).await;
    assert_eq!(*connection.borrow(), Connection::Connected);
    drop(first);
    wait_for("its end is noticed", || *connection.borrow() == Connection::Away).await;

    // The next one commits.
    let hub = Hub {
        set: policy_set(2, "enforce"),
        denylist: denylist(3, &[("file", 2), ("planet", 3)]),
        acknowledges: true,
        ..hub
    };
    let _second = Central::serve(hub, &certificates, address);
    spool.append(&[event(1001)]).unwrap();
    wait_for("all is acknowledged", || spool.metrics().pending_events == 0).await;
    spool.append(&[event(1002)]).unwrap();
    wait_for("what comes later is acknowledged", || {
        spool.metrics().pending_events == 0 && spool.highest("boot") == 1002
    })
    .await;
    running.abort();
    let seen = seen.lock().unwrap();
    let sequences: BTreeSet<u64> = seen.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=1002).collect());
    assert_eq!(seen.events.len(), 2002, "events were sent more often than needed");
    assert!(seen.hellos.len() >= 2 && seen.hellos.iter().all(|hello| hello.node == "node-a"));
    let revisions: Vec<(u64, &str)> = seen
        .applied
        .iter()
        .map(|applied| (applied.revision, applied.error.as_str()))
        .collect();
    assert_eq!(revisions, [(1, ""), (2, "")]);
    let put = maps.put.lock().unwrap();
    assert_eq!(
        put.last().unwrap().1,
        BTreeMap::from([("payments".to_owned(), Mode::Enforce)])
    );
    let kept = last_good::load(state.path()).unwrap().unwrap();
    assert_eq!((kept.revision, kept.policies.len()), (2, 1));

    // What the second list has that this release does not know is named; the rest is in force, and the whole is kept.
    let answers: Vec<(u64, &str)> = seen
        .denylist_applied
        .iter()
        .map(|applied| (applied.revision, applied.error.as_str()))
        .collect();
    let unknown = "not all of it is understood, the rest is in force: \"planet\" is neither image nor file";
    assert_eq!(answers, [(1, ""), (3, unknown)]);
    let denied: Vec<usize> = maps.denied.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(denied, [2, 1]);
    let kept = last_good::load_denylist(state.path()).unwrap().unwrap();
    assert_eq!((kept.revision, kept.denials.len()), (3, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_set_is_answered_and_changes_nothing() {
    let (certificates, state) = (Certificates::new(), tempfile::tempdir().unwrap());
    let spool = Arc::new(Spool::open(&state.path().join("spool"), 1 << 20).unwrap());
    for (set, refuses, expected, calls) in [
        (policy_set(3, "off"), false, "\"off\" is none of", 0),
        (policy_set(4, "enforce"), true, "the map is full", 1),
    ] {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let maps = Arc::new(Maps {
            refuses,
            ..Maps::default()
        });
        let hub = Hub {
            seen: Arc::clone(&seen),
            set,
            denylist: denylist(5, &[("image", 1)]),
            acknowledges: true,
        };
        let address = free_address();
        let _central = Central::serve(hub, &certificates, address);
        let uplink = uplink(&certificates, address, "ca.pem", state.path());
        let running = tokio::spawn(uplink.run(Arc::clone(&spool), Arc::clone(&maps) as Arc<dyn PolicySink>));
        wait_for("an answer", || !seen.lock().unwrap().applied.is_empty()).await;
        running.abort();
        let error = seen.lock().unwrap().applied[0].error.clone();
        assert!(error.contains(expected), "{error}");
        assert_eq!(maps.put.lock().unwrap().len(), calls);
        assert_eq!(last_good::load(state.path()).unwrap().is_some(), calls == 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_of_another_authority_gets_nothing() {
    let (certificates, state) = (Certificates::new(), tempfile::tempdir().unwrap());
    let spool = Arc::new(Spool::open(&state.path().join("spool"), 1 << 20).unwrap());
    spool.append(&[event(1)]).unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let hub = Hub {
        seen: Arc::clone(&seen),
        set: policy_set(1, "monitor"),
        denylist: denylist(1, &[("image", 1), ("file", 2)]),
        acknowledges: true,
    };
    let address = free_address();
    let _central = Central::serve(hub, &certificates, address);
    let uplink = uplink(&certificates, address, "other-ca.pem", state.path());
    let running = tokio::spawn(uplink.run(Arc::clone(&spool), Arc::new(Maps::default())));
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.abort();
    assert!(seen.lock().unwrap().hellos.is_empty());
    assert_eq!(spool.metrics().pending_events, 1);
}
