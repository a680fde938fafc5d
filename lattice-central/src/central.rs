//! The whole of it: prepare everything, then run, then drain.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use lattice_registry::RegistryError;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    admission::{
        certificate::{CertificateError, RenewedCertificate},
        floor,
        judge::Judge,
        listener::{Admission, BoundAdmission, ListenerError},
        notices::Notices,
        webhook,
    },
    applier::Applier,
    board::Board,
    cluster_identity::{self, ApiServerReviewer, IdentityError},
    denials::Denials,
    health::{self, Health, HealthError},
    images::Images,
    nodes::Nodes,
    objects::{self, ClusterError, ClusterSource, DirectoryReader, ObjectSet},
    reconciler::Reconciler,
    rollout::driver::Rollouts,
    server::{BoundEnrolment, BoundMetrics, BoundServer, Counters, Enroller, ServerError, Shared},
    settings::{ObjectsFrom, Settings},
    standings::Standings,
    store::{Store, StoreError},
};

/// Why central could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CentralError {
    /// The directory of objects cannot be listed.
    #[error("--local {path}: cannot list the directory of objects; create it, or name another")]
    Objects {
        /// The directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The API server's objects cannot be had.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The state directory cannot be used.
    #[error("--state {path}: cannot use the state directory; name one that this user may write")]
    State {
        /// The directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Another lattice-central has it.
    #[error("--state {path}: another lattice-central runs on this state directory; stop it, or name another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A registry that may not be spoken to without TLS.
    #[error("--plain-http-registry")]
    PlainHttp(#[from] RegistryError),
    /// The authorities of a registry cannot be read.
    #[error("--registry-ca {path}: cannot read it")]
    RegistryAuthorityFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Or not used.
    #[error("--registry-ca")]
    RegistryAuthority(#[source] RegistryError),
    /// The listener.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The authority of the cluster's agents.
    #[error("--identity")]
    Identity(#[from] IdentityError),
    /// The certificate of the admission listener.
    #[error(transparent)]
    AdmissionCertificate(#[from] CertificateError),
    /// The admission listener.
    #[error(transparent)]
    AdmissionListener(#[from] ListenerError),
    /// The socket of `lattice-central health`.
    #[error(transparent)]
    Health(#[from] HealthError),
}

/// Where the objects come from.
enum Source {
    /// A directory, which was read.
    Directory(watch::Receiver<ObjectSet>),
    /// An API server, which was not asked yet: what held before a restart is given to the agents without it.
    Cluster(ClusterSource),
}

impl Source {
    fn applier(&self) -> Option<Applier> {
        match self {
            Self::Directory(_) => None,
            Self::Cluster(source) => Some(source.applier()),
        }
    }

    async fn objects(self, shared: Arc<Shared>) -> watch::Receiver<ObjectSet> {
        match self {
            Self::Directory(objects) => objects,
            Self::Cluster(source) => source.watch(shared).await,
        }
    }
}

/// What answers admission reviews, as far as it is there before anything is judged.
struct BoundWebhook {
    bound: BoundAdmission,
    certificate: Arc<RenewedCertificate>,
    /// The ValidatingWebhookConfiguration, and what belongs into it.
    configuration: String,
    authority: String,
    /// The ConfigMap of the trusted registries, and its namespace.
    registries: Option<(String, String)>,
    client: Client,
}

/// What listens.
struct Bound {
    server: BoundServer,
    enrolment: Option<BoundEnrolment>,
    metrics: Option<BoundMetrics>,
    admission: Option<BoundWebhook>,
}

/// A central that is ready to run: everything was read, and the address is bound.
pub struct Central {
    bound: BoundServer,
    enrolment: Option<BoundEnrolment>,
    metrics: Option<BoundMetrics>,
    admission: Option<BoundWebhook>,
    health: Arc<Health>,
    telling: JoinHandle<()>,
    shared: Arc<Shared>,
    objects: Source,
    images: Arc<Images>,
    stop: watch::Sender<bool>,
    verify_interval: Duration,
    drain: Duration,
    /// Held as long as central runs.
    _lock: File,
}

impl Central {
    /// Reads everything and binds.
    ///
    /// # Errors
    /// When a directory, the store, a certificate or the address cannot be used. Faults in objects are no errors: they are
    /// logged and shown, and the rest goes on.
    pub async fn prepare(settings: &Settings) -> Result<Self, CentralError> {
        let lock = take_state_directory(&settings.state)?;
        let (store, remembered) = Store::open(&settings.state)?;
        let health = Arc::new(Health::default());
        let telling = health::tell(&settings.state, health.clone(), store.clone())?;
        let last_good = settings.state.join("last-good");
        let objects = match &settings.objects {
            ObjectsFrom::Directory(path) => {
                let failed = |source| CentralError::Objects {
                    path: path.clone(),
                    source,
                };
                let reader = DirectoryReader::open(path, &last_good).map_err(failed)?;
                Source::Directory(objects::watch(reader).map_err(failed)?)
            }
            ObjectsFrom::Cluster { kubeconfig } => {
                Source::Cluster(ClusterSource::open(kubeconfig.as_deref(), &last_good).await?)
            }
        };
        let images = Arc::new(
            Images::new(&settings.plain_http_registries)?
                .with_authorities(read_authorities(&settings.registry_authorities)?)
                .map_err(CentralError::RegistryAuthority)?,
        );
        let Bound {
            server: bound,
            enrolment,
            metrics,
            admission,
        } = bind(settings, &objects).await?;
        let (stop, stopping) = watch::channel(false);
        let denials = Denials::new(store.clone(), &remembered);
        let last_cursor = *store.last_cursor().borrow();
        let rollouts = Rollouts::new(&remembered, last_cursor);
        let board = Arc::new(Board::new(store.clone(), remembered));
        let (nodes, counters) = (Nodes::default(), Counters::default());
        let shared = Arc::new(Shared {
            board,
            denials,
            rollouts,
            nodes,
            standings: Standings::default(),
            store,
            counters,
            stopping,
        });
        let (verify_interval, drain) = (settings.verify_interval, settings.drain);
        Ok(Self {
            bound,
            enrolment,
            metrics,
            admission,
            health,
            telling,
            shared,
            objects,
            images,
            stop,
            verify_interval,
            drain,
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// Where agents enrol, where they do.
    pub fn enrolment_address(&self) -> Option<SocketAddr> {
        self.enrolment.as_ref().map(BoundEnrolment::address)
    }

    /// Where metrics are served, where they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(BoundMetrics::address)
    }

    /// Where admission reviews are answered, where they are.
    pub fn admission_address(&self) -> Option<SocketAddr> {
        self.admission.as_ref().map(|webhook| webhook.bound.address())
    }

    /// Runs until `stop` is done, then lets open streams end, for as long as the drain deadline allows.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), CentralError> {
        let (board, stopping) = (self.shared.board.clone(), self.shared.stopping.clone());
        let (objects, images, verify_interval) = (self.objects, self.images, self.verify_interval);
        let applier = objects.applier();
        let registries = self.admission.as_ref().and_then(BoundWebhook::registries);
        let judge = Arc::new(Judge::new(images.clone(), self.shared.denials.list()));
        let admitting = self
            .admission
            .map(|webhook| webhook.run(judge.clone(), self.shared.clone(), self.health.clone()));
        let (shared, health) = (self.shared.clone(), self.health.clone());
        let reconciling = tokio::spawn(async move {
            let objects = objects.objects(shared.clone()).await;
            health.objects();
            judge.follow(objects.clone());
            if let Some((client, namespace, name)) = registries {
                // It ends with the objects.
                tokio::spawn(floor::keep(client, namespace, name, objects.clone()));
            }
            shared.rollouts.follow(objects.clone());
            Reconciler::new(board, images, verify_interval, objects, applier)
                .run(stopping)
                .await;
        });
        let rolling_out = tokio::spawn(Rollouts::run(self.shared.clone()));
        let mut enrolling = self
            .enrolment
            .map(|bound| tokio::spawn(bound.serve(self.shared.clone())));
        let enrolment_ended = async {
            match &mut enrolling {
                Some(serving) => serving.await,
                None => std::future::pending().await,
            }
        };
        let scraping = self.metrics.map(|bound| {
            let (shared, health) = (self.shared.clone(), self.health.clone());
            tokio::spawn(bound.serve(shared, health))
        });
        let mut serving = tokio::spawn(self.bound.serve(self.shared));
        self.health.serving();
        let ended = tokio::select! {
            ended = &mut serving => Some(ended),
            ended = enrolment_ended => Some(ended),
            () = stop => None,
        };
        self.stop.send_replace(true);
        let result = match ended {
            Some(ended) => Some(ended),
            None => timeout(self.drain, &mut serving).await.ok(),
        };
        reconciling.abort();
        self.telling.abort();
        if let Some(scraping) = scraping {
            scraping.abort();
        }
        // Who still waits for an answer is told by the API server that there is none, and what the stage makes of that.
        for task in admitting.into_iter().flatten() {
            task.abort();
        }
        if let Some(enrolling) = enrolling {
            // Nobody's evidence is on the way there.
            enrolling.abort();
        }
        // What it was about to keep is found out again after the next start.
        rolling_out.abort();
        match result {
            Some(Ok(served)) => Ok(served?),
            // The server's task panicked, which has been printed already.
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => {
                tracing::warn!(drain = ?self.drain, "streams were still open at the end of the drain");
                serving.abort();
                Ok(())
            }
        }
    }
}

impl BoundWebhook {
    fn registries(&self) -> Option<(Client, String, String)> {
        let (namespace, name) = self.registries.clone()?;
        Some((self.client.clone(), namespace, name))
    }

    fn run(self, judge: Arc<Judge>, shared: Arc<Shared>, health: Arc<Health>) -> [JoinHandle<()>; 3] {
        let Self {
            bound,
            certificate,
            configuration,
            authority,
            client,
            ..
        } = self;
        health.admission(certificate.clone());
        let stopping = shared.stopping.clone();
        let admission = Admission::new(judge, shared, Some(Notices::begin(client.clone())));
        [
            tokio::spawn(bound.serve(admission, stopping)),
            tokio::spawn(async move { certificate.keep().await }),
            tokio::spawn(webhook::keep(client, configuration, authority, move || {
                health.believed()
            })),
        ]
    }
}

/// With the certificates of the settings' files, or with those of an authority of central's own.
async fn bind(settings: &Settings, objects: &Source) -> Result<Bound, CentralError> {
    let (Some(identity), Source::Cluster(cluster)) = (&settings.identity, objects) else {
        let metrics = match settings.metrics_listen {
            Some(address) => Some(BoundMetrics::bind(address, settings).await?),
            None => None,
        };
        return Ok(Bound {
            server: BoundServer::bind(settings).await?,
            enrolment: None,
            metrics,
            admission: None,
        });
    };
    let has_scrapers = settings.metrics_listen.is_some();
    let own = cluster_identity::obtain(cluster.client(), cluster.namespace(), identity, has_scrapers).await?;
    let authority = &own.authority.pair().certificate;
    let server = BoundServer::bind_as(settings.listen, &own.server, authority).await?;
    let enroller = Enroller {
        authority: own.authority.clone(),
        reviewer: Arc::new(ApiServerReviewer::new(cluster.client())),
        agents: identity.agents.clone(),
        lifetime: identity.certificate_lifetime,
    };
    let enrolment = BoundEnrolment::bind(identity.listen, &own.server, enroller).await?;
    let metrics = match settings.metrics_listen {
        Some(address) => Some(BoundMetrics::bind_as(address, &own.server, authority).await?),
        None => None,
    };
    let admission = match &identity.admission {
        None => None,
        Some(admission) => {
            let names = identity.server_names.clone();
            let certificate = RenewedCertificate::new(own.authority.clone(), names, admission.certificate_lifetime)?;
            let certificate = Arc::new(certificate);
            Some(BoundWebhook {
                bound: BoundAdmission::bind(admission.listen, certificate.clone()).await?,
                certificate,
                configuration: admission.webhook.clone(),
                authority: authority.clone(),
                registries: admission
                    .registries
                    .clone()
                    .map(|name| (cluster.namespace().to_owned(), name)),
                client: cluster.client(),
            })
        }
    };
    Ok(Bound {
        server,
        enrolment: Some(enrolment),
        metrics,
        admission,
    })
}

fn read_authorities(files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Vec<u8>>, CentralError> {
    let read = files.iter().map(|(registry, path)| match fs::read(path) {
        Ok(authorities) => Ok((registry.clone(), authorities)),
        Err(source) => Err(CentralError::RegistryAuthorityFile {
            path: path.clone(),
            source,
        }),
    });
    read.collect()
}

/// Creates the directory where it is absent, and keeps another central off it.
fn take_state_directory(path: &Path) -> Result<File, CentralError> {
    let failed = |source| CentralError::State {
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let lock = File::create(path.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(CentralError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
