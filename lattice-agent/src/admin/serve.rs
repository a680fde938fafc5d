//! The listener itself.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use futures::StreamExt as _;
use lattice_scrape::OPEN_METRICS;
use tokio::net::{TcpListener, UnixStream};

use super::{
    AdminAddress, AgentFacts, Facts,
    health::{Condition, all_hold, text},
    metrics,
};
use crate::control::{ControlSocket, Incoming, SocketError};

/// How long the agent's state may take to be read; longer means that it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Wait after a connection that could not be taken: there may be no descriptor left.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const METRICS: &str = "/metrics";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Who knows. Called where it may block.
pub trait Source: Send + Sync + 'static {
    /// Whether the agent does its work.
    fn health(&self) -> Vec<Condition>;

    /// Whether what is to be enforced is enforced.
    fn readiness(&self) -> Vec<Condition>;

    /// What is counted.
    fn facts(&self) -> Facts;
}

/// Why the listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not ours.
    #[error("--admin: cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("--admin")]
    Socket(#[source] SocketError),
}

/// A bound listener.
pub struct Admin {
    bound: Bound,
}

enum Bound {
    Tcp(TcpListener),
    Unix(ControlSocket),
}

impl Admin {
    /// Binds.
    ///
    /// # Errors
    /// When the address is taken or the socket cannot be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn bind(address: &AdminAddress) -> Result<Self, AdminError> {
        let bound = match address {
            AdminAddress::Loopback(address) => {
                let listener = TcpListener::bind(address).await.map_err(|source| AdminError::Listen {
                    address: *address,
                    source,
                })?;
                Bound::Tcp(listener)
            }
            AdminAddress::Unix(path) => Bound::Unix(ControlSocket::bind(path).map_err(AdminError::Socket)?),
        };
        Ok(Self { bound })
    }

    /// The port that was given, where the address left it open.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.bound {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        source: Arc<dyn Source>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router = Router::new()
            .route(METRICS, get(answer_metrics))
            .route("/healthz", get(answer_health))
            .route("/readyz", get(answer_readiness))
            .with_state(source);
        match self.bound {
            Bound::Tcp(listener) => axum::serve(listener, router).with_graceful_shutdown(stop).await,
            Bound::Unix(socket) => {
                let listener = RootOnly(socket.incoming());
                axum::serve(listener, router).with_graceful_shutdown(stop).await
            }
        }
    }
}

/// The metrics alone, for who is elsewhere.
pub fn metrics_router(source: Arc<dyn Source>) -> Router {
    Router::new().route(METRICS, get(answer_metrics)).with_state(source)
}

/// The socket, for root and the agent's own user.
struct RootOnly(Incoming);

impl Listener for RootOnly {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.0.next().await {
                Some(Ok(stream)) => return (stream, ()),
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection to the admin socket could not be taken");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                // The stream has no end.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Asks where it may block, and not for ever.
async fn ask<Answer: Send + 'static>(
    source: Arc<dyn Source>,
    question: impl FnOnce(&dyn Source) -> Answer + Send + 'static,
) -> Option<Answer> {
    let asked = tokio::task::spawn_blocking(move || question(&*source));
    tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
}

async fn answer_metrics(State(source): State<Arc<dyn Source>>) -> Response {
    let facts = ask(source, |source| {
        let (health, ready) = (all_hold(&source.health()), all_hold(&source.readiness()));
        metrics::text(&source.facts(), AgentFacts::now(), health, ready)
    });
    match facts.await {
        Some(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        None => hanging(),
    }
}

async fn answer_health(State(source): State<Arc<dyn Source>>) -> Response {
    conditions(ask(source, |source| source.health()).await)
}

async fn answer_readiness(State(source): State<Arc<dyn Source>>) -> Response {
    conditions(ask(source, |source| source.readiness()).await)
}

fn conditions(answer: Option<Vec<Condition>>) -> Response {
    let Some(conditions) = answer else { return hanging() };
    let status = match all_hold(&conditions) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(CONTENT_TYPE, PLAIN)], text(&conditions)).into_response()
}

fn hanging() -> Response {
    let text = format!("state: not to be had within {} s\n", PATIENCE.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, PLAIN)], text).into_response()
}
