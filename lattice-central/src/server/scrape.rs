//! Metrics for a Prometheus: the same numbers as `latticectl status` shows, over TLS, for who has a certificate for it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use lattice_scrape::{Credentials, Listener, OPEN_METRICS};
use tokio::sync::watch;

use super::{ServerError, Shared, read};
use crate::{authority::Pair, health::Health, metrics, settings::Settings};

/// The listener: bound, but not answering yet.
pub struct BoundMetrics {
    listener: Listener,
    credentials: Credentials,
    address: SocketAddr,
}

impl BoundMetrics {
    /// Binds, with the certificates of the settings' files.
    ///
    /// # Errors
    /// When a file cannot be read or used, or the address cannot be bound.
    pub async fn bind(listen: SocketAddr, settings: &Settings) -> Result<Self, ServerError> {
        let certificate = read(&settings.tls_cert, "server certificate")?;
        let key = read(&settings.tls_key, "server key")?;
        let authority = read(&settings.client_ca, "authority of client certificates")?;
        let whence = || {
            format!(
                "{}, {}, {}",
                settings.tls_cert.display(),
                settings.tls_key.display(),
                settings.client_ca.display()
            )
        };
        let credentials = Credentials::new(&certificate, &key, &authority);
        let credentials = credentials.map_err(|error| ServerError::Scraping(whence(), error))?;
        Self::at(listen, credentials).await
    }

    /// Binds, with a certificate that was made for this process.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind_as(listen: SocketAddr, server: &Pair, authority: &str) -> Result<Self, ServerError> {
        let credentials = Credentials::new(
            server.certificate.as_bytes(),
            server.key.as_bytes(),
            authority.as_bytes(),
        )
        .map_err(|error| ServerError::Scraping("--identity".to_owned(), error))?;
        Self::at(listen, credentials).await
    }

    async fn at(listen: SocketAddr, credentials: Credentials) -> Result<Self, ServerError> {
        let failed = |error| ServerError::Listen(listen, error);
        let listener = Listener::bind(listen).await.map_err(failed)?;
        let address = listener.address().map_err(failed)?;
        Ok(Self {
            listener,
            credentials,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped.
    pub async fn serve(self, shared: Arc<Shared>, health: Arc<Health>) {
        let (_held, credentials) = watch::channel(Some(self.credentials));
        let router = Router::new()
            .route("/metrics", get(answer))
            .with_state(Answered { shared, health });
        let Err(error) = self.listener.serve(credentials, router).await;
        tracing::error!(%error, "metrics are served to nobody any more");
    }
}

#[derive(Clone)]
struct Answered {
    shared: Arc<Shared>,
    health: Arc<Health>,
}

async fn answer(State(Answered { shared, health }): State<Answered>) -> Response {
    let is_ready = health.is_ready(&shared.store).await;
    let text = metrics::text(&shared.counted().await, is_ready);
    ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}
