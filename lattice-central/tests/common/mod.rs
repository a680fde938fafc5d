//! A central with real TLS on the loopback, and agents and operators that talk to it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of it")]

pub mod node;
pub mod program;
pub mod registry;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lattice_api::v1::{
    self as wire, agent_hub_client::AgentHubClient, agent_message::Kind, control_client::ControlClient,
};
use lattice_central::{
    board::Board,
    denials::Denials,
    init_tls::{TlsRequest, init_tls},
    nodes::Nodes,
    objects::ObjectSet,
    rollout::driver::Rollouts,
    server::{BoundServer, Counters, Shared},
    settings::{ObjectsFrom, Settings},
    standings::Standings,
    store::Store,
};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

/// Longer than anything here should take, on a loaded machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Directories, certificates and settings of a central that may be started several times.
pub struct Place {
    pub directory: TempDir,
    pub settings: Settings,
}

pub const NODES: [&str; 2] = ["worker-1", "worker-2"];

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tls = directory.path().join("tls");
        let nodes = NODES.map(str::to_owned).to_vec();
        init_tls(&TlsRequest {
            directory: tls.clone(),
            nodes,
            server_names: Vec::new(),
        })
        .unwrap();
        let local = directory.path().join("objects");
        fs::create_dir(&local).unwrap();
        let settings = Settings {
            objects: ObjectsFrom::Directory(local),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            state: directory.path().join("state"),
            tls_cert: tls.join("server.crt"),
            tls_key: tls.join("server.key"),
            client_ca: tls.join("ca.crt"),
            identity: None,
            metrics_listen: None,
            plain_http_registries: Vec::new(),
            registry_authorities: BTreeMap::new(),
            verify_interval: Duration::from_secs(300),
            drain: Duration::from_secs(2),
            log: "info".to_owned(),
        };
        fs::create_dir(&settings.state).unwrap();
        Self { directory, settings }
    }

    pub fn objects(&self) -> PathBuf {
        self.directory.path().join("objects")
    }

    pub fn tls(&self) -> PathBuf {
        self.directory.path().join("tls")
    }

    /// A channel with the certificate of this name (`operator`, `node-worker-1`); `None` for no certificate.
    pub fn client_tls(&self, name: Option<&str>) -> ClientTlsConfig {
        let read = |file: String| fs::read(self.tls().join(file)).unwrap();
        let tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(read("ca.crt".to_owned())));
        match name {
            Some(name) => tls.identity(Identity::from_pem(
                read(format!("{name}.crt")),
                read(format!("{name}.key")),
            )),
            None => tls,
        }
    }
}

pub async fn channel(address: SocketAddr, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    Channel::from_shared(format!("https://{address}"))
        .unwrap()
        .tls_config(tls)?
        .connect()
        .await
}

/// A hub and control service over a board and a store, without the rest of central.
pub struct Central {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    /// What the directory would say.
    pub objects: watch::Sender<ObjectSet>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Central {
    pub async fn start(place: &Place) -> Self {
        let (store, remembered) = Store::open(&place.settings.state).unwrap();
        let (stop, stopping) = watch::channel(false);
        let denials = Denials::new(store.clone(), &remembered);
        let last_cursor = *store.last_cursor().borrow();
        let (objects_sender, objects) = watch::channel(ObjectSet::default());
        let rollouts = Rollouts::new(&remembered, last_cursor);
        rollouts.follow(objects);
        let board = Arc::new(Board::new(store.clone(), remembered));
        let nodes = Nodes::default();
        let shared = Arc::new(Shared {
            board,
            denials,
            rollouts,
            nodes,
            standings: Standings::default(),
            store,
            counters: Counters::default(),
            stopping,
        });
        let bound = BoundServer::bind(&place.settings).await.unwrap();
        let address = bound.address();
        let serving = shared.clone();
        let serving = tokio::spawn(async move { bound.serve(serving).await.unwrap() });
        Self {
            shared,
            address,
            objects: objects_sender,
            stop,
            serving,
        }
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        timeout(PATIENCE, self.serving).await.expect("ends").unwrap();
    }

    pub async fn control(&self, place: &Place) -> ControlClient<Channel> {
        operator(place, self.address).await
    }
}

pub async fn operator(place: &Place, address: SocketAddr) -> ControlClient<Channel> {
    ControlClient::new(channel(address, place.client_tls(Some("operator"))).await.unwrap())
}

/// An agent's end of a stream.
pub struct Agent {
    pub node: String,
    pub outbound: mpsc::Sender<wire::AgentMessage>,
    pub inbound: Streaming<wire::HubMessage>,
}

pub fn hello(node: &str) -> wire::Hello {
    wire::Hello {
        node: node.to_owned(),
        boot_id: "boot-1".to_owned(),
        agent_version: "0.1.0".to_owned(),
        tier: 1,
        kernel_release: "6.12.0".to_owned(),
    }
}

pub fn event(node: &str, sequence: u64, namespace: &str) -> wire::Event {
    let container = wire::Container {
        namespace: namespace.to_owned(),
        ..wire::Container::default()
    };
    let violation = wire::Violation {
        container: Some(container),
        ..wire::Violation::default()
    };
    wire::Event {
        node: node.to_owned(),
        boot_id: "boot-1".to_owned(),
        sequence,
        time_unix_nanos: sequence,
        kind: Some(wire::event::Kind::Violation(violation)),
    }
}

impl Agent {
    /// Connects with the node's certificate and says what `hello` says.
    pub async fn connect_as(
        place: &Place,
        address: SocketAddr,
        certificate: &str,
        hello: wire::Hello,
    ) -> Result<Self, Status> {
        let channel = channel(address, place.client_tls(Some(certificate)))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (outbound, receiver) = mpsc::channel(64);
        let node = hello.node.clone();
        outbound
            .send(wire::AgentMessage {
                kind: Some(Kind::Hello(hello)),
            })
            .await
            .unwrap();
        let mut client = AgentHubClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
        let inbound = client.connect(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self {
            node,
            outbound,
            inbound,
        })
    }

    pub async fn connect(place: &Place, address: SocketAddr, node: &str) -> Self {
        Self::connect_as(place, address, &format!("node-{node}"), hello(node))
            .await
            .unwrap()
    }

    pub async fn send(&self, kind: Kind) {
        self.outbound
            .send(wire::AgentMessage { kind: Some(kind) })
            .await
            .unwrap();
    }

    pub async fn send_events(&self, events: Vec<wire::Event>) {
        self.send(Kind::Events(wire::EventBatch { events })).await;
    }

    pub async fn receive(&mut self) -> Result<wire::hub_message::Kind, Status> {
        let message = timeout(PATIENCE, self.inbound.message())
            .await
            .expect("central answers in time")?;
        message
            .and_then(|message| message.kind)
            .ok_or_else(|| Status::cancelled("the stream ended"))
    }

    pub async fn policies(&mut self) -> wire::PolicySet {
        loop {
            if let wire::hub_message::Kind::Policies(set) = self.receive().await.unwrap() {
                return set;
            }
        }
    }

    pub async fn denylist(&mut self) -> wire::Denylist {
        loop {
            if let wire::hub_message::Kind::Denylist(list) = self.receive().await.unwrap() {
                return list;
            }
        }
    }

    pub async fn acknowledged(&mut self) -> Vec<u64> {
        loop {
            if let wire::hub_message::Kind::Acknowledgement(acknowledgement) = self.receive().await.unwrap() {
                return acknowledgement.sequences;
            }
        }
    }

    pub async fn apply(&self, revision: u64, error: &str) {
        self.send(Kind::Applied(wire::Applied {
            revision,
            error: error.to_owned(),
        }))
        .await;
    }

    /// The status with which central ends the stream.
    pub async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.receive().await {
                return status;
            }
        }
    }
}

/// How often each `node/sequence` is stored.
pub fn stored(state: &Path) -> BTreeMap<String, usize> {
    let connection = rusqlite::Connection::open(state.join("central.sqlite")).unwrap();
    let mut statement = connection.prepare("SELECT node, sequence FROM events").unwrap();
    let rows = statement
        .query_map([], |row| {
            Ok(format!("{}/{}", row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })
        .unwrap();
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.unwrap()).or_insert(0) += 1;
    }
    counts
}
