//! Which image a container was made from, as far as containerd's stores prove it.
//!
//! A name in the image store can be given to another image at any time. So the digest that the name stands for counts only if
//! the container's root snapshot stands on the layers of that image: the name of a committed snapshot is the chain of its
//! layers' digests (OCI image specification, "Layer ChainID").

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use lattice_policy::ImageDigest;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::client::{Client, ClientError};

/// The OCI distribution specification's own limit for a manifest.
const DOCUMENT_BYTES: usize = 4 << 20;
const PLATFORMS: usize = 64;
const LAYERS: usize = 1024;
const KEPT_IMAGES: usize = 512;

/// An image, for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variant {
    chain_id: String,
    labels: HashMap<String, String>,
}

/// An image that a container was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProvenImage {
    /// What its name stands for: a manifest or an index.
    pub(super) digest: ImageDigest,
    /// Labels of its configuration.
    pub(super) labels: HashMap<String, String>,
}

/// Why the image is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// Containerd could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The container has no image.
    #[error("the container was made without an image")]
    None,
    /// The name is not in the store (any more).
    #[error("the image store has no {0:?} any more")]
    Gone(String),
    /// The target is no SHA-256 digest.
    #[error("the image store's digest is not usable")]
    Digest(#[from] lattice_policy::InvalidDigest),
    /// The container's root has other layers.
    #[error(
        "{reference:?} now stands for an image with other layers than the container's root: the name was given away"
    )]
    OtherLayers {
        /// The image's name.
        reference: String,
    },
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFileSystem,
    config: Option<Settings>,
}

#[derive(Deserialize)]
struct RootFileSystem {
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(rename = "Labels")]
    labels: Option<HashMap<String, String>>,
}

/// Containerd's namespace, the digest there, and what it holds.
type KeptImage = (String, ImageDigest, Arc<Vec<Variant>>);

/// Variants of images by namespace and digest; content of a digest never changes.
#[derive(Debug, Default)]
pub(super) struct ImageCache {
    kept: Mutex<VecDeque<KeptImage>>,
}

impl ImageCache {
    /// The image that the container with this root snapshot was made from.
    pub(super) async fn prove(
        &self,
        client: &Client,
        namespace: &str,
        reference: &str,
        snapshotter: &str,
        snapshot_key: &str,
    ) -> Result<ProvenImage, ImageError> {
        if reference.is_empty() || snapshot_key.is_empty() {
            return Err(ImageError::None);
        }
        let (target, parent) = tokio::join!(
            client.image_target(namespace, reference),
            client.snapshot_parent(namespace, snapshotter, snapshot_key)
        );
        let gone = || ImageError::Gone(reference.chars().take(256).collect());
        let digest: ImageDigest = target?.ok_or_else(gone)?.parse()?;
        let parent = parent?.unwrap_or_default();
        let variants = self.variants(client, namespace, digest).await?;
        let proven = variants.iter().find(|variant| stands_on(&parent, &variant.chain_id));
        let other = || ImageError::OtherLayers {
            reference: reference.chars().take(256).collect(),
        };
        Ok(ProvenImage {
            digest,
            labels: proven.ok_or_else(other)?.labels.clone(),
        })
    }

    async fn variants(
        &self,
        client: &Client,
        namespace: &str,
        digest: ImageDigest,
    ) -> Result<Arc<Vec<Variant>>, ClientError> {
        let hit = |kept: &VecDeque<KeptImage>| {
            kept.iter()
                .find(|entry| entry.0 == namespace && entry.1 == digest)
                .map(|entry| Arc::clone(&entry.2))
        };
        // A poisoned lock still guards a whole list: each change of it is one push or pop.
        if let Some(variants) = hit(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(variants);
        }
        let variants = Arc::new(read_variants(client, namespace, digest).await?);
        if !variants.is_empty() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back((namespace.into(), digest, Arc::clone(&variants)));
            if kept.len() > KEPT_IMAGES {
                kept.pop_front();
            }
        }
        Ok(variants)
    }
}

/// A user-namespaced container stands on a copy of the layers with shifted owners, named `<chain>-<uid>-<gid>`.
fn stands_on(parent: &str, chain_id: &str) -> bool {
    parent.strip_prefix(chain_id).is_some_and(|rest| {
        rest.is_empty() || rest.starts_with('-') && rest.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
    })
}

async fn read_variants(client: &Client, namespace: &str, digest: ImageDigest) -> Result<Vec<Variant>, ClientError> {
    let Some(document) = read_document::<Document>(client, namespace, &digest.to_string()).await? else {
        return Ok(Vec::new());
    };
    let manifests: Vec<String> = document
        .manifests
        .into_iter()
        .take(PLATFORMS)
        .map(|manifest| manifest.digest)
        .collect();
    let mut configurations: Vec<String> = document.config.into_iter().map(|config| config.digest).collect();
    for manifest in manifests {
        // Only the platform that was pulled is in the store.
        let document = read_document::<Document>(client, namespace, &manifest).await?;
        configurations.extend(
            document
                .and_then(|document| document.config)
                .map(|config| config.digest),
        );
    }
    let mut variants = Vec::new();
    for digest in configurations {
        let Some(configuration) = read_document::<Configuration>(client, namespace, &digest).await? else {
            continue;
        };
        if let Some(chain_id) = chain_id(&configuration.rootfs.diff_ids) {
            let labels = configuration
                .config
                .and_then(|config| config.labels)
                .unwrap_or_default();
            variants.push(Variant { chain_id, labels });
        }
    }
    Ok(variants)
}

/// A blob that is no such document is as good as none: nothing is proven by it.
async fn read_document<Kind: for<'json> Deserialize<'json>>(
    client: &Client,
    namespace: &str,
    digest: &str,
) -> Result<Option<Kind>, ClientError> {
    let content = client.content(namespace, digest, DOCUMENT_BYTES).await?;
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

/// ChainID(L0) = L0; ChainID(L0..Ln) = sha256(ChainID(L0..Ln-1) + " " + Ln).
fn chain_id(diff_ids: &[String]) -> Option<String> {
    if diff_ids.len() > LAYERS {
        return None;
    }
    let (first, others) = diff_ids.split_first()?;
    Some(others.iter().fold(first.clone(), |chain, layer| {
        format!("sha256:{}", hex::encode(Sha256::digest(format!("{chain} {layer}"))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_those_of_the_image_specification() {
        let layers = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(&layers[..1]), Some("sha256:a".into()));
        // printf 'sha256:a sha256:b' | sha256sum
        let both = "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8";
        assert_eq!(chain_id(&layers).as_deref(), Some(both));
    }

    #[test]
    fn a_root_stands_on_its_chain_or_a_shifted_copy() {
        assert!(stands_on("sha256:ab", "sha256:ab"));
        assert!(stands_on("sha256:ab-100000-100000", "sha256:ab"));
        assert!(!stands_on("sha256:abc", "sha256:ab"));
        assert!(!stands_on("sha256:ab-x", "sha256:ab"));
        assert!(!stands_on("", "sha256:ab"));
    }
}
