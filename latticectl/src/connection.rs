//! The way to whoever answers: the agent's Unix socket, or central by mTLS.

use std::{error::Error, fs, io, path::Path, time::Duration};

use lattice_api::v1::control_client::ControlClient;
use lattice_policy::escape::for_terminal;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{arguments::Arguments, failure::Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that carries a stream of events is asked for a sign of life so often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// An answer may have so many bytes: all policies of a large installation.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// PEM files are small; whatever is larger is something else.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// An open connection, and how to call the other side in sentences.
pub(crate) struct Connection {
    pub(crate) client: ControlClient<Channel>,
    pub(crate) whom: String,
    advice: &'static str,
    timeout: Duration,
}

impl Connection {
    pub(crate) async fn open(arguments: &Arguments) -> Result<Self, Failure> {
        let (endpoint, whom, advice) = match &arguments.central {
            Some(url) => (
                central(arguments, url)?,
                format!("central at {}", for_terminal(url)),
                "Check the address, and that the certificates come from the same authority.",
            ),
            None => (
                agent(&arguments.agent)?,
                format!("the agent at {}", for_terminal(&arguments.agent.display().to_string())),
                "Start lattice-agent, run this as root, or name its socket with --agent.",
            ),
        };
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT.min(arguments.timeout));
        let endpoint = endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = endpoint.connect().await.map_err(|error| Failure::Unreachable {
            whom: whom.clone(),
            reason: innermost(&error),
            advice,
        })?;
        let client = ControlClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self {
            client,
            whom,
            advice,
            timeout: arguments.timeout,
        })
    }

    /// Waits for an answer, but not for ever.
    pub(crate) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(status)),
            Err(_) => Err(Failure::TimedOut {
                whom: self.whom.clone(),
                seconds: self.timeout.as_secs(),
            }),
        }
    }

    /// What an error means: the other side's own answer, or that the connection broke on the way.
    pub(crate) fn refused(&self, status: tonic::Status) -> Failure {
        if let Some(source) = status.source() {
            // A status that this side made of an error of the transport; with TLS 1.3 a refused client certificate comes so.
            let (whom, reason) = (self.whom.clone(), innermost(source));
            return Failure::Unreachable {
                whom,
                reason,
                advice: self.advice,
            };
        }
        Failure::Answer {
            whom: self.whom.clone(),
            status: Box::new(status),
        }
    }
}

fn agent(socket: &Path) -> Result<Endpoint, Failure> {
    let file = |reason: &str| Failure::File {
        path: socket.to_owned(),
        reason: reason.to_owned(),
    };
    let path = socket
        .to_str()
        .ok_or_else(|| file("the path of the socket is not UTF-8"))?;
    Endpoint::from_shared(format!("unix:{path}")).map_err(|error| file(&innermost(&error)))
}

fn central(arguments: &Arguments, url: &str) -> Result<Endpoint, Failure> {
    let unusable = |error: tonic::transport::Error| Failure::Unreachable {
        whom: format!("central at {}", for_terminal(url)),
        reason: innermost(&error),
        advice: "Write the address like https://lattice.example.com:7443, and give PEM files that belong together.",
    };
    // The arguments are settled: with central all three are there.
    let read = |path: &Option<_>| read_pem(path.as_deref().unwrap_or(Path::new("")));
    let identity = Identity::from_pem(read(&arguments.client_cert)?, read(&arguments.client_key)?);
    let authority = Certificate::from_pem(read(&arguments.ca)?);
    let tls = ClientTlsConfig::new().ca_certificate(authority).identity(identity);
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(unusable)?;
    endpoint.tls_config(tls).map_err(unusable)
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |reason: String| Failure::File {
        path: path.to_owned(),
        reason,
    };
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if metadata.len() > MAX_PEM_BYTES {
        return Err(failed(format!("{} bytes are too many for a PEM file", metadata.len())));
    }
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    match bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        true => Ok(bytes),
        false => Err(failed(
            "this is not a PEM file: it has no line that begins with \"-----BEGIN \"".to_owned(),
        )),
    }
}

/// The cause of causes: transport errors wrap what people can act on.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let reason = match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::NotFound) => "there is no such socket".to_owned(),
        Some(io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
        Some(io::ErrorKind::ConnectionRefused) => "nothing listens there".to_owned(),
        _ => error.to_string(),
    };
    for_terminal(reason.trim_end_matches('.'))
}
