//! Reads images: reference to digest, digest to documents, documents to layers' summaries.

use std::{collections::BTreeMap, io, str::FromStr, sync::Arc};

use bytes::Bytes;
use futures::StreamExt;
use lattice_derive::{DeriveError, DiffId, Image, ImageConfig, LayerSummary, Platform};
use lattice_policy::ImageDigest;
use moka::future::Cache;
use oci_spec::distribution::Reference;
use tokio::sync::mpsc;

use crate::{
    endpoint::{ClientLimits, Connection, RegistryEndpoint, connections},
    error::RegistryError,
    manifest::{self, ACCEPT_MANIFEST, Described, Descriptor},
    scan::{LayerDescriptor, ScanLimits, scan_layer},
    transport::{Request, Transport},
};

/// Pieces of a layer that wait for the scanner: a few hundred KiB.
const PIECES_MAX: usize = 16;

/// A reference that was resolved: from here on only the digest counts.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// As it was given.
    pub reference: String,
    /// Host of the registry.
    pub registry: String,
    /// Repository in the registry.
    pub repository: String,
    /// Whether the reference was a tag, and named no digest.
    pub by_tag: bool,
    /// Digest of the manifest or index.
    pub digest: ImageDigest,
    media_type: Option<String>,
    body: Bytes,
}

/// One layer of a cosign `.sig` manifest, unjudged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLayer {
    /// The layer's media type.
    pub media_type: String,
    /// The layer's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The layer's exact bytes; their digest is the manifest's.
    pub payload: Vec<u8>,
}

/// What a derivation needs of an image.
#[derive(Debug, Clone)]
pub struct ImageFacts {
    /// Digest of the manifest or index that the reference resolved to.
    pub digest: ImageDigest,
    /// Digest of the platform's manifest; the same where the reference is no index.
    pub platform_digest: ImageDigest,
    /// The configuration.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Arc<LayerSummary>>,
}

impl ImageFacts {
    /// Merges the layers: what `lattice_derive::derive` takes.
    ///
    /// # Errors
    /// When the layers are not those of the configuration, which `inspect_image` rules out.
    pub fn into_image(self) -> Result<Image, DeriveError> {
        Image::new(self.digest, self.config, self.layers)
    }
}

/// What a client may spend.
#[derive(Debug, Clone)]
pub struct Limits {
    /// On requests.
    pub client: ClientLimits,
    /// On one layer.
    pub scan: ScanLimits,
    /// Bytes of summaries that stay in memory.
    pub cache_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            client: ClientLimits::default(),
            scan: ScanLimits::default(),
            cache_bytes: 64 << 20,
        }
    }
}

/// Contacts the registries that it was given, and no other host.
pub struct RegistryClient {
    connections: BTreeMap<String, Connection>,
    transport: Transport,
    limits: Limits,
    summaries: Cache<DiffId, Arc<LayerSummary>>,
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RegistryClient")
            .field("registries", &self.connections.keys())
            .finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// A client for these registries.
    ///
    /// # Errors
    /// When one of them has plain HTTP and is not on loopback, or certificate authorities that cannot be read.
    pub fn new(endpoints: Vec<RegistryEndpoint>, limits: Limits) -> Result<Self, RegistryError> {
        let weight =
            |_: &DiffId, summary: &Arc<LayerSummary>| u32::try_from(summary.memory_bytes()).unwrap_or(u32::MAX);
        let summaries = Cache::builder()
            .weigher(weight)
            .max_capacity(limits.cache_bytes)
            .build();
        let connections = connections(endpoints, &limits.client)?;
        Ok(Self {
            connections,
            transport: Transport::new(limits.client.clone()),
            limits,
            summaries,
        })
    }

    /// Asks the registry once what a reference means. A reference with a digest must be answered with these very bytes.
    ///
    /// # Errors
    /// When the reference is not valid, its registry is not listed, or the manifest cannot be had.
    pub async fn resolve(&self, reference: &str) -> Result<ResolvedImage, RegistryError> {
        let invalid = |reason: String| RegistryError::Reference {
            reference: reference.to_owned(),
            reason,
        };
        let parsed = Reference::from_str(reference).map_err(|error| invalid(error.to_string()))?;
        let digest: Option<ImageDigest> = parsed
            .digest()
            .map(str::parse)
            .transpose()
            .map_err(|error: lattice_policy::InvalidDigest| invalid(error.to_string()))?;
        let connection = self.connection(parsed.registry())?;
        let at = match &digest {
            Some(digest) => digest.to_string(),
            None => parsed.tag().unwrap_or("latest").to_owned(),
        };
        let what = format!("image {reference}");
        let document = self
            .manifest(connection, parsed.repository(), &at, what, digest)
            .await?;
        Ok(ResolvedImage {
            reference: reference.to_owned(),
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            by_tag: digest.is_none(),
            digest: document.digest,
            media_type: document.media_type,
            body: document.body,
        })
    }

    /// The layers of the image's cosign `.sig` manifest; none where it has no such tag.
    ///
    /// # Errors
    /// When the manifest or a payload cannot be had. That there is no signature is no error.
    pub async fn signatures(&self, image: &ResolvedImage) -> Result<Vec<SignatureLayer>, RegistryError> {
        let connection = self.connection(&image.registry)?;
        let tag = format!("{}.sig", image.digest.to_string().replace(':', "-"));
        let what = format!("the signatures of image {}", image.reference);
        let document = match self
            .manifest(connection, &image.repository, &tag, what.clone(), None)
            .await
        {
            Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
            other => other?,
        };
        let Described::Manifest(found) = manifest::parse(&what, document.media_type.as_deref(), &document.body)? else {
            return Err(manifest::malformed(&what, "it is an index".into()));
        };
        let mut layers = Vec::new();
        for descriptor in found.layers.iter().take(self.limits.client.signatures) {
            let what = format!("signature {} of image {}", descriptor.digest, image.reference);
            if descriptor.is_foreign() {
                return Err(RegistryError::ForeignLayer { what });
            }
            let payload = self
                .blob(
                    connection,
                    &image.repository,
                    descriptor,
                    what,
                    self.limits.client.signature_bytes,
                )
                .await?;
            layers.push(SignatureLayer {
                media_type: descriptor.media_type.clone(),
                annotations: descriptor.annotations.clone(),
                payload: payload.to_vec(),
            });
        }
        Ok(layers)
    }

    /// Reads configuration and layers of a resolved image, for one platform.
    ///
    /// # Errors
    /// When the image is not for that platform, has no layers, or anything of it cannot be had or is not what it should be.
    pub async fn read_image(&self, image: &ResolvedImage, platform: &Platform) -> Result<ImageFacts, RegistryError> {
        let connection = self.connection(&image.registry)?;
        let reference = image.reference.as_str();
        let what = format!("image {reference}");
        let (platform_digest, found) = match manifest::parse(&what, image.media_type.as_deref(), &image.body)? {
            Described::Manifest(found) => (image.digest, found),
            Described::Index(all) => {
                let chosen = manifest::choose(reference, &all, platform)?;
                let what = format!("image {reference} for {platform}");
                let digest = chosen.digest(&what)?;
                let document = self
                    .manifest(
                        connection,
                        &image.repository,
                        &digest.to_string(),
                        what.clone(),
                        Some(digest),
                    )
                    .await?;
                match manifest::parse(&what, document.media_type.as_deref(), &document.body)? {
                    Described::Manifest(found) => (digest, found),
                    Described::Index(_) => return Err(manifest::malformed(&what, "an index names an index".into())),
                }
            }
        };
        if found.layers.len() > self.limits.client.layers {
            let reason = format!(
                "it has {} layers; {} are the most",
                found.layers.len(),
                self.limits.client.layers
            );
            return Err(manifest::malformed(&what, reason));
        }
        if found.layers.is_empty() {
            return Err(RegistryError::NoLayers {
                image: reference.to_owned(),
            });
        }
        let what = format!("the configuration of image {reference}");
        let body = self
            .blob(
                connection,
                &image.repository,
                &found.config,
                what.clone(),
                self.limits.client.config_bytes,
            )
            .await?;
        let config = manifest::parse_config(&what, &body)?;
        if (&config.platform.os, &config.platform.architecture) != (&platform.os, &platform.architecture) {
            let (wanted, found) = (platform.to_string(), config.platform.to_string());
            return Err(RegistryError::NoPlatform {
                image: reference.to_owned(),
                wanted,
                found,
            });
        }
        let mut layers = Vec::new();
        // One after the other: memory and cores are shared with those who wait for an answer.
        for descriptor in manifest::layers(reference, &found, &config)? {
            layers.push(self.layer(connection, &image.repository, descriptor).await?);
        }
        Ok(ImageFacts {
            digest: image.digest,
            platform_digest,
            config,
            layers,
        })
    }

    /// [`Self::resolve`] and [`Self::read_image`] for Linux on x86-64.
    ///
    /// # Errors
    /// As those two.
    pub async fn inspect_image(&self, reference: &str) -> Result<ImageFacts, RegistryError> {
        let image = self.resolve(reference).await?;
        self.read_image(&image, &Platform::default()).await
    }

    fn connection(&self, host: &str) -> Result<&Connection, RegistryError> {
        self.connections
            .get(host)
            .ok_or_else(|| RegistryError::NotAllowed { host: host.to_owned() })
    }

    async fn manifest(
        &self,
        connection: &Connection,
        repository: &str,
        at: &str,
        what: String,
        expected: Option<ImageDigest>,
    ) -> Result<crate::transport::Document, RegistryError> {
        let url = connection.url(&format!("{repository}/manifests/{at}"))?;
        let request = Request {
            connection,
            repository,
            url,
            accept: ACCEPT_MANIFEST,
            what,
            may_redirect: false,
        };
        self.transport
            .document(&request, expected, self.limits.client.manifest_bytes)
            .await
    }

    /// A small blob, whole.
    async fn blob(
        &self,
        connection: &Connection,
        repository: &str,
        descriptor: &Descriptor,
        what: String,
        limit_bytes: u64,
    ) -> Result<Bytes, RegistryError> {
        let digest = descriptor.digest(&what)?;
        if descriptor.size > limit_bytes {
            return Err(RegistryError::TooLarge {
                host: connection.host().to_owned(),
                what,
                limit_bytes,
            });
        }
        let url = connection.url(&format!("{repository}/blobs/{digest}"))?;
        let request = Request {
            connection,
            repository,
            url,
            accept: "*/*",
            what,
            may_redirect: true,
        };
        let document = self.transport.document(&request, Some(digest), descriptor.size).await?;
        Ok(document.body)
    }

    /// The summary of a layer: from memory, from a scan that runs already, or from a scan of our own.
    async fn layer(
        &self,
        connection: &Connection,
        repository: &str,
        descriptor: LayerDescriptor,
    ) -> Result<Arc<LayerSummary>, RegistryError> {
        let scan = self.scan(connection, repository, &descriptor);
        self.summaries
            .try_get_with(descriptor.diff_id, scan)
            .await
            .map_err(|error: Arc<RegistryError>| (*error).clone())
    }

    async fn scan(
        &self,
        connection: &Connection,
        repository: &str,
        descriptor: &LayerDescriptor,
    ) -> Result<Arc<LayerSummary>, RegistryError> {
        let what = format!("layer {}", descriptor.digest);
        let limits = &self.limits.client;
        let host = connection.host().to_owned();
        if descriptor.size_bytes > limits.layer_bytes {
            return Err(RegistryError::TooLarge {
                host,
                what,
                limit_bytes: limits.layer_bytes,
            });
        }
        let url = connection.url(&format!("{repository}/blobs/{}", descriptor.digest))?;
        let request = Request {
            connection,
            repository,
            url,
            accept: "*/*",
            what: what.clone(),
            may_redirect: true,
        };
        let limit = limits.layer_timeout;
        let read = async {
            let response = self.transport.get(&request).await?;
            let (sender, receiver) = mpsc::channel::<Bytes>(PIECES_MAX);
            let (descriptor, scan_limits) = (descriptor.clone(), self.limits.scan.clone());
            let scanner = tokio::task::spawn_blocking(move || {
                scan_layer(
                    PieceReader {
                        receiver,
                        piece: Bytes::new(),
                    },
                    &descriptor,
                    &scan_limits,
                )
            });
            let mut stream = response.bytes_stream();
            let mut received_bytes = 0;
            let mut failure = None;
            while let Some(piece) = stream.next().await {
                match piece {
                    Ok(piece) => {
                        received_bytes += piece.len() as u64;
                        if sender.send(piece).await.is_err() {
                            // The scanner has seen enough; it says why.
                            break;
                        }
                    }
                    Err(error) => {
                        failure = Some(self.transport.body_failed(&request, error, received_bytes));
                        break;
                    }
                }
            }
            drop(sender);
            let scanned = scanner
                .await
                .map_err(|error| manifest::malformed(&what, format!("the scanner failed on it: {error}")))?;
            match failure {
                Some(failure) => Err(failure),
                None => Ok(Arc::new(scanned?)),
            }
        };
        let timed_out = |_| RegistryError::TimedOut {
            host,
            what: what.clone(),
            limit,
        };
        tokio::time::timeout(limit, read).await.map_err(timed_out)?
    }
}

/// Pieces from the network, for a scanner that blocks.
struct PieceReader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl io::Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
