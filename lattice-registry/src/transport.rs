//! One GET request, with everything that may happen to it: tokens, redirects, retries, limits.
//!
//! Written on reqwest and not on oci-client 0.18, which reads manifests of any size, sends credentials to whatever realm
//! a registry names, follows `urls` of descriptors to any host, and knows no 429.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use lattice_policy::ImageDigest;
use reqwest::{Response, StatusCode, Url, header};
use sha2::{Digest, Sha256};

use crate::{
    endpoint::{ClientLimits, Connection, authority},
    error::RegistryError,
    token::{self, Challenge},
};

const REDIRECTS_MAX: u32 = 5;
/// Waits of our own where the registry names none.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// What a request is for.
pub(crate) struct Request<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) repository: &'a str,
    pub(crate) url: Url,
    pub(crate) accept: &'static str,
    /// For messages.
    pub(crate) what: String,
    /// Blobs may lie elsewhere; documents may not.
    pub(crate) may_redirect: bool,
}

impl Request<'_> {
    fn host(&self) -> String {
        self.connection.host().to_owned()
    }

    fn failed(&self, source: reqwest::Error, limits: &ClientLimits) -> RegistryError {
        let (host, what) = (self.host(), self.what.clone());
        if source.is_timeout() && !source.is_connect() {
            return RegistryError::TimedOut {
                host,
                what,
                limit: limits.idle_timeout,
            };
        }
        RegistryError::Unreachable {
            host,
            what,
            source: Arc::new(source),
        }
    }
}

/// Sends requests; keeps tokens until they expire.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) limits: ClientLimits,
    /// By registry and repository: the whole `Authorization` header.
    tokens: Mutex<HashMap<(String, String), (String, Instant)>>,
}

impl Transport {
    pub(crate) fn new(limits: ClientLimits) -> Self {
        Self {
            limits,
            tokens: Mutex::default(),
        }
    }

    /// The answer with status 200.
    pub(crate) async fn get(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let error = match self.try_once(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let asked = match &error {
                RegistryError::RateLimited { retry_after, .. } => retry_after.unwrap_or(wait),
                RegistryError::Unreachable { .. } | RegistryError::ServerError { .. } => wait,
                _ => return Err(error),
            };
            if tries >= self.limits.tries || asked > self.limits.retry_wait {
                return Err(error);
            }
            tracing::debug!(
                host = request.connection.host(),
                what = request.what,
                ?asked,
                "request is tried again"
            );
            tokio::time::sleep(asked).await;
            tries += 1;
            wait *= 2;
        }
    }

    async fn try_once(&self, request: &Request<'_>) -> Result<Response, RegistryError> {
        let mut url = request.url.clone();
        let mut redirects = 0;
        let mut is_authorized = false;
        loop {
            let mut get = request
                .connection
                .client
                .get(url.clone())
                .header(header::ACCEPT, request.accept);
            let is_own = request.connection.is_own(&url);
            if let Some(token) = self.known_token(request).filter(|_| is_own) {
                get = get.header(header::AUTHORIZATION, token);
            }
            let response = get.send().await.map_err(|error| request.failed(error, &self.limits))?;
            let (host, what, status) = (request.host(), request.what.clone(), response.status());
            match status {
                StatusCode::OK => return Ok(response),
                StatusCode::UNAUTHORIZED if is_own && !is_authorized => {
                    is_authorized = true;
                    self.authorize(request, &response).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Unauthorized {
                        host,
                        what,
                        status: status.as_u16(),
                    });
                }
                StatusCode::NOT_FOUND => return Err(RegistryError::NotFound { host, what }),
                StatusCode::TOO_MANY_REQUESTS => {
                    return Err(RegistryError::RateLimited {
                        host,
                        what,
                        retry_after: retry_after(&response),
                    });
                }
                _ if status.is_redirection() => {
                    url = self.redirect(request, &url, &response)?;
                    redirects += 1;
                    if redirects > REDIRECTS_MAX {
                        return Err(RegistryError::Status {
                            host,
                            what,
                            status: status.as_u16(),
                        });
                    }
                }
                _ if status.is_server_error() => {
                    return Err(RegistryError::ServerError {
                        host,
                        what,
                        status: status.as_u16(),
                    });
                }
                _ => {
                    return Err(RegistryError::Status {
                        host,
                        what,
                        status: status.as_u16(),
                    });
                }
            }
        }
    }

    fn redirect(&self, request: &Request<'_>, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        let target = location.and_then(|location| from.join(location).ok());
        let others: &[String] = if request.may_redirect {
            &request.connection.endpoint.blob_hosts
        } else {
            &[]
        };
        match target {
            Some(target) if request.connection.leads_to(&target, others) => Ok(target),
            target => Err(RegistryError::Redirect {
                host: request.host(),
                what: request.what.clone(),
                // The query of such a URL is often a signature: it is not shown.
                target: target.as_ref().and_then(authority).unwrap_or_else(|| "nowhere".into()),
            }),
        }
    }

    fn known_token(&self, request: &Request<'_>) -> Option<String> {
        let key = (request.host(), request.repository.to_owned());
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(&key)
            .filter(|(_, until)| *until > Instant::now())
            .map(|(token, _)| token.clone())
    }

    async fn authorize(&self, request: &Request<'_>, response: &Response) -> Result<(), RegistryError> {
        let refused = || RegistryError::Unauthorized {
            host: request.host(),
            what: request.what.clone(),
            status: 401,
        };
        let header = response
            .headers()
            .get(header::WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok());
        let challenge = header.and_then(token::parse_challenge).ok_or_else(refused)?;
        let credentials = request.connection.endpoint.credentials.as_ref();
        let (token, lifetime) = match challenge {
            Challenge::Basic => (token::basic(credentials.ok_or_else(refused)?), token::LIFETIME_DEFAULT),
            Challenge::Bearer { realm, service } => self.fetch_token(request, &realm, service.as_deref()).await?,
        };
        let key = (request.host(), request.repository.to_owned());
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (_, until)| *until > Instant::now());
        tokens.insert(key, (token, Instant::now() + lifetime));
        Ok(())
    }

    async fn fetch_token(
        &self,
        request: &Request<'_>,
        realm: &str,
        service: Option<&str>,
    ) -> Result<(String, Duration), RegistryError> {
        let connection = request.connection;
        let parsed = Url::parse(realm)
            .ok()
            .filter(|url| connection.leads_to(url, &connection.endpoint.token_hosts));
        let Some(mut url) = parsed else {
            let realm = Url::parse(realm)
                .ok()
                .as_ref()
                .and_then(authority)
                .unwrap_or_else(|| "an unreadable address".into());
            return Err(RegistryError::TokenHost {
                host: request.host(),
                realm,
            });
        };
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)));
        // Our own scope: the registry is not asked what else we might like to read.
        url.query_pairs_mut()
            .append_pair("scope", &format!("repository:{}:pull", request.repository));
        let mut get = connection.client.get(url);
        if let Some(credentials) = &connection.endpoint.credentials {
            get = get.header(header::AUTHORIZATION, token::basic(credentials));
        }
        let response = get.send().await.map_err(|error| request.failed(error, &self.limits))?;
        let status = response.status();
        let what = format!("a token for {}", request.what);
        match status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => {
                return Err(RegistryError::RateLimited {
                    host: request.host(),
                    what,
                    retry_after: retry_after(&response),
                });
            }
            _ if status.is_server_error() => {
                return Err(RegistryError::ServerError {
                    host: request.host(),
                    what,
                    status: status.as_u16(),
                });
            }
            _ => {
                return Err(RegistryError::Unauthorized {
                    host: request.host(),
                    what,
                    status: status.as_u16(),
                });
            }
        }
        let body = self.body(request, response, token::ANSWER_BYTES_MAX).await?;
        token::parse_answer(&body).ok_or_else(|| RegistryError::Malformed {
            what,
            reason: "the token service's answer has no token".into(),
        })
    }

    /// A whole body, if it is not longer than `limit_bytes`.
    pub(crate) async fn body(
        &self,
        request: &Request<'_>,
        response: Response,
        limit_bytes: u64,
    ) -> Result<Bytes, RegistryError> {
        let too_large = || RegistryError::TooLarge {
            host: request.host(),
            what: request.what.clone(),
            limit_bytes,
        };
        if response.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| self.body_failed(request, error, body.len() as u64))?;
            if (body.len() + piece.len()) as u64 > limit_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.into())
    }

    pub(crate) fn body_failed(
        &self,
        request: &Request<'_>,
        error: reqwest::Error,
        received_bytes: u64,
    ) -> RegistryError {
        if error.is_timeout() {
            return request.failed(error, &self.limits);
        }
        RegistryError::Truncated {
            host: request.host(),
            what: request.what.clone(),
            received_bytes,
        }
    }

    /// A document: asked for, read and, where its digest is known, held against it; all within the time limit.
    pub(crate) async fn document(
        &self,
        request: &Request<'_>,
        expected: Option<ImageDigest>,
        limit_bytes: u64,
    ) -> Result<Document, RegistryError> {
        let limit = self.limits.document_timeout;
        let read = async {
            let response = self.get(request).await?;
            let media_type = response
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok());
            let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
            let body = self.body(request, response, limit_bytes).await?;
            Ok::<_, RegistryError>((media_type, body))
        };
        let timed_out = |_| RegistryError::TimedOut {
            host: request.host(),
            what: request.what.clone(),
            limit,
        };
        let (media_type, body) = tokio::time::timeout(limit, read).await.map_err(timed_out)??;
        let digest = ImageDigest(Sha256::digest(&body).into());
        match expected {
            Some(expected) if expected != digest => Err(RegistryError::DigestMismatch {
                host: request.host(),
                what: request.what.clone(),
                expected,
                found: digest,
            }),
            _ => Ok(Document {
                digest,
                media_type,
                body,
            }),
        }
    }
}

/// A document and its digest.
pub(crate) struct Document {
    pub(crate) digest: ImageDigest,
    /// As the registry says.
    pub(crate) media_type: Option<String>,
    pub(crate) body: Bytes,
}

/// Seconds only: a date would need a clock that agrees with the registry's.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
