//! Central's own authority in a cluster, and the API server's word on tokens.
//!
//! ```text
//!   Secret NAME-authority ◄── made once ── Authority ──► server certificate (this process alone, new at each start)
//!   ConfigMap NAME-authority ◄── ca.crt ──────┤────────► agents' certificates (enrolment)
//!   Secret NAME-operator ◄── for latticectl ──┤
//!   Secret NAME-metrics ◄─── for Prometheus ──┘
//! ```
//!
//! The chart makes these objects empty, so that central may be allowed to fill these and no others. None of them is ever logged.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec},
        core::v1::{ConfigMap, Secret},
    },
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    authority::{Authority, AuthorityError, Holder, Pair, remaining_of_pem},
    enrolment::{AUDIENCE, Review},
    images::with_causes,
    settings::IdentitySettings,
};

/// Keys of the objects, as `kubernetes.io/tls` Secrets have them.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
/// Who writes, to the API server.
const FIELD_MANAGER: &str = "lattice-central";
const SERVER_LIFETIME: Duration = Duration::from_secs(825 * 86_400);
/// Of certificates that are shown in Secrets.
const SHOWN_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// One that holds no longer than this is made anew.
const SHOWN_RENEWED: Duration = Duration::from_secs(30 * 86_400);
/// The objects are looked at so often: somebody may have deleted or changed them.
const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// The API server is asked again after this, and at ever longer intervals.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// An API server that answers later does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why central has no identity in the cluster.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What is kept cannot be used. It is never overwritten.
    #[error(
        "Secret {namespace}/{name} cannot be used as central's authority; restore it, or delete its data to have a new authority made \
         (agents and operators then need new certificates, which agents get by themselves)"
    )]
    Unusable {
        /// Namespace of the Secret.
        namespace: String,
        /// Its name.
        name: String,
        /// The reason.
        #[source]
        source: AuthorityError,
    },
    /// Only one half is there.
    #[error(
        "Secret {namespace}/{name} has only one of {CERTIFICATE} and {KEY}; restore it, or delete its data to have a new authority made"
    )]
    Half {
        /// Namespace of the Secret.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A certificate cannot be made.
    #[error("a certificate for central cannot be made; --server-name must be a DNS name or an address")]
    Certificate(#[source] rcgen::Error),
    /// No new authority can be made.
    #[error("no authority can be made")]
    Generate(#[source] AuthorityError),
    /// The API server did not do what it was asked, which is tried again.
    #[error("{what} cannot be read or written")]
    Api {
        /// The object.
        what: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// It did not answer.
    #[error("the API server does not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
}

impl IdentityError {
    fn is_passing(&self) -> bool {
        matches!(self, Self::Api { .. } | Self::Silent)
    }
}

/// What central is in its cluster.
pub struct ClusterIdentity {
    /// Signs the agents' certificates.
    pub authority: Arc<Authority>,
    /// What central shows to who connects.
    pub server: Pair,
}

/// Reads the authority, or makes it where there is none yet, and shows its certificate to the cluster; where somebody is to read metrics, a
/// certificate for that too. An API server that does not answer
/// is asked again, for ever.
///
/// # Errors
/// When what is kept cannot be used.
pub async fn obtain(
    client: Client,
    namespace: &str,
    settings: &IdentitySettings,
    has_scrapers: bool,
) -> Result<ClusterIdentity, IdentityError> {
    let objects = Objects {
        secrets: Api::namespaced(client.clone(), namespace),
        config_maps: Api::namespaced(client, namespace),
        namespace: namespace.to_owned(),
        name: settings.name.clone(),
        has_scrapers,
    };
    let mut wait = FIRST_WAIT;
    let mut is_said = false;
    let authority = loop {
        match objects.in_time(objects.authority()).await {
            Ok(authority) => break Arc::new(authority),
            Err(error) if error.is_passing() => {
                if !is_said {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error = with_causes(error), "central has no identity yet; trying again");
                    is_said = true;
                }
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(error) => return Err(error),
        }
    };
    let server = authority
        .issue(&Holder::Server(settings.server_names.clone()), SERVER_LIFETIME)
        .map_err(IdentityError::Certificate)?;
    tokio::spawn(keep_shown(objects, authority.clone()));
    Ok(ClusterIdentity { authority, server })
}

/// Agents and operators find what they need, whatever somebody does to the objects.
async fn keep_shown(objects: Objects, authority: Arc<Authority>) {
    let mut is_said = false;
    loop {
        let shown = objects.in_time(objects.show(&authority)).await;
        let wait = match shown {
            Ok(()) => {
                is_said = false;
                LOOK_INTERVAL
            }
            Err(error) => {
                if !is_said {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error = with_causes(error),
                        "what agents and operators need cannot be shown to them; trying again"
                    );
                    is_said = true;
                }
                LONGEST_WAIT
            }
        };
        sleep(wait).await;
    }
}

struct Objects {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    namespace: String,
    name: String,
    /// Whether somebody is to read metrics.
    has_scrapers: bool,
}

impl Objects {
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, IdentityError>>) -> Result<T, IdentityError> {
        timeout(ANSWER_WITHIN, work).await.unwrap_or(Err(IdentityError::Silent))
    }

    fn authority_name(&self) -> String {
        format!("{}-authority", self.name)
    }

    /// The authority that is kept; a new one, kept, where there is none.
    async fn authority(&self) -> Result<Authority, IdentityError> {
        let name = self.authority_name();
        let secret = self.secret(&name).await?;
        match secret.as_ref().map(pair_of).unwrap_or_default() {
            (Some(certificate), Some(key)) => {
                Authority::from_pair(Pair { certificate, key }).map_err(|source| IdentityError::Unusable {
                    namespace: self.namespace.clone(),
                    name,
                    source,
                })
            }
            (None, None) => {
                let authority = Authority::generate().map_err(IdentityError::Generate)?;
                let pair = authority.pair();
                let data = [(CERTIFICATE, &pair.certificate), (KEY, &pair.key)];
                // Another central that is as new loses: it reads this one's at its next try.
                self.write_secret(&name, secret.as_ref(), &data).await?;
                tracing::info!(secret = %name, "a new authority was made for the agents and operators of this cluster");
                Ok(authority)
            }
            _ => Err(IdentityError::Half {
                namespace: self.namespace.clone(),
                name,
            }),
        }
    }

    async fn show(&self, authority: &Authority) -> Result<(), IdentityError> {
        self.show_authority(&authority.pair().certificate).await?;
        self.show_certificate(authority, "operator", &Holder::Operator).await?;
        if self.has_scrapers {
            self.show_certificate(authority, "metrics", &Holder::Scraper).await?;
        }
        Ok(())
    }

    async fn show_authority(&self, certificate: &str) -> Result<(), IdentityError> {
        let name = self.authority_name();
        let failed = failed("ConfigMap", &self.namespace, &name);
        let there = self.config_maps.get_opt(&name).await.map_err(&failed)?;
        let data = BTreeMap::from([(AUTHORITY.to_owned(), certificate.to_owned())]);
        match there {
            Some(there) if there.data.as_ref().and_then(|data| data.get(AUTHORITY)) == data.get(AUTHORITY) => Ok(()),
            Some(_) => {
                let patch = Patch::Merge(json!({"data": data}));
                let patched = self.config_maps.patch(&name, &parameters(), &patch).await;
                patched.map(drop).map_err(failed)
            }
            None => {
                let config_map = ConfigMap {
                    metadata: self.metadata(&name),
                    data: Some(data),
                    ..ConfigMap::default()
                };
                let created = self.config_maps.create(&PostParams::default(), &config_map).await;
                created.map(drop).map_err(failed)
            }
        }
    }

    /// A certificate for whoever may read this Secret in central's namespace.
    async fn show_certificate(&self, authority: &Authority, role: &str, holder: &Holder) -> Result<(), IdentityError> {
        let name = format!("{}-{role}", self.name);
        let secret = self.secret(&name).await?;
        let own = &authority.pair().certificate;
        let is_good = secret.as_ref().is_some_and(|secret| {
            let (certificate, key) = pair_of(secret);
            let left = certificate.and_then(|certificate| remaining_of_pem(&certificate, SystemTime::now()));
            key.is_some()
                && text_of(secret, AUTHORITY).as_ref() == Some(own)
                && left.is_some_and(|left| left > SHOWN_RENEWED)
        });
        if is_good {
            return Ok(());
        }
        let issued = authority
            .issue(holder, SHOWN_LIFETIME)
            .map_err(IdentityError::Certificate)?;
        let data = [(CERTIFICATE, &issued.certificate), (KEY, &issued.key), (AUTHORITY, own)];
        self.write_secret(&name, secret.as_ref(), &data).await?;
        tracing::info!(secret = %name, role, "a certificate was made");
        Ok(())
    }

    async fn secret(&self, name: &str) -> Result<Option<Secret>, IdentityError> {
        let read = self.secrets.get_opt(name).await;
        read.map_err(failed("Secret", &self.namespace, name))
    }

    /// Where somebody was faster, this is refused.
    async fn write_secret(
        &self,
        name: &str,
        there: Option<&Secret>,
        data: &[(&str, &String)],
    ) -> Result<(), IdentityError> {
        let failed = failed("Secret", &self.namespace, name);
        let data: BTreeMap<String, ByteString> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        let written = match there {
            Some(there) => {
                let patch = Patch::Merge(json!({
                    "metadata": {"resourceVersion": there.resource_version()},
                    "data": data,
                }));
                self.secrets.patch(name, &parameters(), &patch).await
            }
            None => {
                let secret = Secret {
                    metadata: self.metadata(name),
                    data: Some(data),
                    ..Secret::default()
                };
                self.secrets.create(&PostParams::default(), &secret).await
            }
        };
        written.map(drop).map_err(failed)
    }

    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn failed(kind: &str, namespace: &str, name: &str) -> impl Fn(kube::Error) -> IdentityError + use<> {
    let what = format!("{kind} {namespace}/{name}");
    move |source| IdentityError::Api {
        what: what.clone(),
        source: Box::new(source),
    }
}

fn pair_of(secret: &Secret) -> (Option<String>, Option<String>) {
    (text_of(secret, CERTIFICATE), text_of(secret, KEY))
}

fn text_of(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    let text = String::from_utf8(value.0.clone()).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// Who says what a token is worth.
#[tonic::async_trait]
pub trait Reviewer: Send + Sync + 'static {
    /// What there is to say of this token.
    ///
    /// # Errors
    /// Why nobody could be asked.
    async fn review(&self, token: &str) -> Result<Review, String>;
}

/// The API server, by TokenReview.
pub struct ApiServerReviewer {
    reviews: Api<TokenReview>,
}

impl ApiServerReviewer {
    /// By this client.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
        }
    }
}

#[tonic::async_trait]
impl Reviewer for ApiServerReviewer {
    async fn review(&self, token: &str) -> Result<Review, String> {
        let asked = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let answer = timeout(ANSWER_WITHIN, self.reviews.create(&parameters, &asked)).await;
        let answer = answer
            .map_err(|_| "the API server does not answer".to_owned())?
            .map_err(|error| with_causes(&error))?;
        let status = answer
            .status
            .ok_or_else(|| "the API server said nothing of it".to_owned())?;
        let user = status.user.unwrap_or_default();
        Ok(Review {
            authenticated: status.authenticated.unwrap_or_default(),
            audiences: status.audiences.unwrap_or_default(),
            username: user.username.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
            error: status.error.unwrap_or_default(),
        })
    }
}
