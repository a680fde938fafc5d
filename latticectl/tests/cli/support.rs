//! A real server of the Control service, and the built program run against it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use lattice_api::v1::{
    self,
    control_server::{Control, ControlServer},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::{net::TcpListener, net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

/// What a server answers; an `Err` is answered as it is.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) status: v1::GetStatusResponse,
    pub(crate) events: Vec<v1::Event>,
    pub(crate) set_mode: Result<v1::SetModeResponse, Status>,
    pub(crate) modes: Vec<v1::EffectiveMode>,
    pub(crate) policies: Vec<v1::ExecPolicy>,
    pub(crate) services: Result<Vec<v1::ServiceStatus>, Status>,
    pub(crate) node_report: Result<v1::NodeReport, Status>,
    pub(crate) deny: Result<v1::DenyResponse, Status>,
    pub(crate) denials: v1::ListDenialsResponse,
    pub(crate) rollouts: Result<Vec<v1::Rollout>, Status>,
    pub(crate) misses: Vec<v1::RolloutMiss>,
    pub(crate) transitions: Vec<v1::RolloutTransition>,
    pub(crate) change_rollout: Result<v1::ChangeRolloutResponse, Status>,
    pub(crate) simulation: Result<v1::SimulateRolloutResponse, Status>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            status: v1::GetStatusResponse::default(),
            events: Vec::new(),
            set_mode: Ok(v1::SetModeResponse::default()),
            modes: Vec::new(),
            policies: Vec::new(),
            services: Err(Status::unimplemented("an agent reads no services: ask central")),
            node_report: Err(Status::unimplemented("central is on no node: ask the agent")),
            deny: Err(Status::unimplemented("an agent denies what central says: ask central")),
            denials: v1::ListDenialsResponse::default(),
            rollouts: Ok(Vec::new()),
            misses: Vec::new(),
            transitions: Vec::new(),
            change_rollout: Ok(v1::ChangeRolloutResponse::default()),
            simulation: Ok(v1::SimulateRolloutResponse::default()),
        }
    }
}

/// The server's end: answers, and keeps what it was asked.
#[derive(Clone)]
struct Answerer {
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Answerer {
    fn note(&self, request: &impl std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{request:?}"));
    }
}

#[tonic::async_trait]
impl Control for Answerer {
    type ListEventsStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.answers.status.clone()))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<Self::ListEventsStream>, Status> {
        let request = request.into_inner();
        self.note(&request);
        let (sender, receiver) = mpsc::channel(16);
        let events = self.answers.events.clone();
        tokio::spawn(async move {
            for event in events {
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if request.follow {
                // Until the client goes away.
                sender.closed().await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn set_mode(&self, request: Request<v1::SetModeRequest>) -> Result<Response<v1::SetModeResponse>, Status> {
        self.note(&request.into_inner());
        self.answers.set_mode.clone().map(Response::new)
    }

    async fn get_mode(&self, request: Request<v1::GetModeRequest>) -> Result<Response<v1::GetModeResponse>, Status> {
        self.note(&request.into_inner());
        Ok(Response::new(v1::GetModeResponse {
            modes: self.answers.modes.clone(),
        }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        self.note(&request.into_inner());
        Ok(Response::new(v1::ListPoliciesResponse {
            policies: self.answers.policies.clone(),
        }))
    }

    async fn list_services(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        self.note(&request.into_inner());
        let services = self.answers.services.clone()?;
        Ok(Response::new(v1::ListServicesResponse { services }))
    }

    async fn deny(&self, request: Request<v1::DenyRequest>) -> Result<Response<v1::DenyResponse>, Status> {
        self.note(&request.into_inner());
        self.answers.deny.clone().map(Response::new)
    }

    async fn lift_denial(&self, request: Request<v1::LiftDenialRequest>) -> Result<Response<v1::DenyResponse>, Status> {
        self.note(&request.into_inner());
        self.answers.deny.clone().map(Response::new)
    }

    async fn list_denials(
        &self,
        request: Request<v1::ListDenialsRequest>,
    ) -> Result<Response<v1::ListDenialsResponse>, Status> {
        self.note(&request.into_inner());
        Ok(Response::new(self.answers.denials.clone()))
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        self.note(&request.into_inner());
        let rollouts = self.answers.rollouts.clone()?;
        Ok(Response::new(v1::ListRolloutsResponse { rollouts }))
    }

    async fn list_rollout_misses(
        &self,
        request: Request<v1::ListRolloutMissesRequest>,
    ) -> Result<Response<v1::ListRolloutMissesResponse>, Status> {
        self.note(&request.into_inner());
        let misses = self.answers.misses.clone();
        Ok(Response::new(v1::ListRolloutMissesResponse { misses }))
    }

    async fn list_rollout_history(
        &self,
        request: Request<v1::ListRolloutHistoryRequest>,
    ) -> Result<Response<v1::ListRolloutHistoryResponse>, Status> {
        self.note(&request.into_inner());
        let transitions = self.answers.transitions.clone();
        Ok(Response::new(v1::ListRolloutHistoryResponse { transitions }))
    }

    async fn change_rollout(
        &self,
        request: Request<v1::ChangeRolloutRequest>,
    ) -> Result<Response<v1::ChangeRolloutResponse>, Status> {
        self.note(&request.into_inner());
        self.answers.change_rollout.clone().map(Response::new)
    }

    async fn simulate_rollout(
        &self,
        request: Request<v1::SimulateRolloutRequest>,
    ) -> Result<Response<v1::SimulateRolloutResponse>, Status> {
        self.note(&request.into_inner());
        self.answers.simulation.clone().map(Response::new)
    }

    async fn get_node_report(
        &self,
        request: Request<v1::GetNodeReportRequest>,
    ) -> Result<Response<v1::NodeReport>, Status> {
        self.note(&request.into_inner());
        self.answers.node_report.clone().map(Response::new)
    }
}

/// A running server; it ends with the value.
pub(crate) struct RunningServer {
    _runtime: tokio::runtime::Runtime,
    asked: Arc<Mutex<Vec<String>>>,
}

impl RunningServer {
    /// Listens on a Unix socket, as the agent does.
    pub(crate) fn on_socket(path: &Path, answers: Answers) -> Self {
        let (runtime, answerer) = (tokio::runtime::Runtime::new().unwrap(), answerer(answers));
        let asked = answerer.asked.clone();
        let listener = {
            let _context = runtime.enter();
            UnixListenerStream::new(UnixListener::bind(path).unwrap())
        };
        let serving = Server::builder()
            .add_service(ControlServer::new(answerer))
            .serve_with_incoming(listener);
        runtime.spawn(serving);
        Self {
            _runtime: runtime,
            asked,
        }
    }

    /// Listens on loopback and asks for a certificate, as central does.
    pub(crate) fn with_tls(pki: &Pki, answers: Answers) -> (Self, SocketAddr) {
        let (runtime, answerer) = (tokio::runtime::Runtime::new().unwrap(), answerer(answers));
        let asked = answerer.asked.clone();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&pki.server.0, &pki.server.1))
            .client_ca_root(Certificate::from_pem(&pki.authority));
        let _context = runtime.enter();
        let serving = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(ControlServer::new(answerer))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(serving);
        drop(_context);
        (
            Self {
                _runtime: runtime,
                asked,
            },
            address,
        )
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answerer(answers: Answers) -> Answerer {
    Answerer {
        answers,
        asked: Arc::default(),
    }
}

/// A certificate authority and what it signed, as PEM: certificate, key.
pub(crate) struct Pki {
    pub(crate) authority: String,
    pub(crate) server: (String, String),
    pub(crate) operator: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let signed = |name: &str, purpose| {
            let key = KeyPair::generate().unwrap();
            let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
            parameters.extended_key_usages = vec![purpose];
            (
                parameters.signed_by(&key, &authority).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        Self {
            server: signed("localhost", ExtendedKeyUsagePurpose::ServerAuth),
            operator: signed("operator.lattice", ExtendedKeyUsagePurpose::ClientAuth),
            authority: authority.pem(),
        }
    }

    /// Writes what a client needs, and returns the flags that name it.
    pub(crate) fn write(&self, folder: &Path) -> Vec<String> {
        let write = |name: &str, text: &str| -> String {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        vec![
            "--ca".to_owned(),
            write("ca.crt", &self.authority),
            "--client-cert".to_owned(),
            write("operator.crt", &self.operator.0),
            "--client-key".to_owned(),
            write("operator.key", &self.operator.1),
        ]
    }
}

/// The built program, without any setting from outside.
pub(crate) fn latticectl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latticectl"));
    for name in [
        "LATTICE_AGENT",
        "LATTICE_CENTRAL",
        "LATTICE_CLIENT_CERT",
        "LATTICE_CLIENT_KEY",
        "LATTICE_CA",
        "COLUMNS",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a run showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

pub(crate) fn shown(output: Output) -> Shown {
    Shown {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().expect("latticectl ended by a signal"),
    }
}

/// Runs the program against a server on a socket that answers so.
pub(crate) fn ask(answers: Answers, arguments: &[&str]) -> (Shown, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let server = RunningServer::on_socket(&socket, answers);
    let output = latticectl()
        .arg("--agent")
        .arg(&socket)
        .args(arguments)
        .output()
        .unwrap();
    (shown(output), server.asked())
}

/// Compares with `tests/golden/NAME`; `UPDATE_GOLDEN=1 cargo test` writes it anew.
#[track_caller]
pub(crate) fn check_golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{name}");
}
