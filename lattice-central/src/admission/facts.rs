//! What was proven of a digest, kept for a while: who asks at the same time waits for one look, and the registry is asked once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lattice_policy::ImageDigest;
use lattice_registry::RegistryClient;
use lattice_verify::TrustedKey;
use moka::{Expiry, future::Cache};
use tokio::sync::Semaphore;

use crate::{
    images::ImageReference,
    objects::Trust,
    verification::{self, Unproven, Verified},
};

/// A signature that held counts for so long; a key that is withdrawn ends it at once.
const PROVEN_FOR: Duration = Duration::from_secs(300);
/// An image that is not signed may be signed soon.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Digests that are kept, each some hundred bytes.
const DIGESTS_MAXIMUM: u64 = 10_000;
/// Images that are looked at in registries at the same time.
const LOOKS_AT_A_TIME: usize = 16;

/// What was proven of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// What the reference meant.
    pub digest: ImageDigest,
    /// Names of the keys that signed it.
    pub signers: Vec<String>,
}

/// Registry, repository and digest: a signature lies beside the image, so the same bytes elsewhere are another question. And by which
/// TrustPolicies and keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    registry: String,
    repository: String,
    digest: ImageDigest,
    trust: u64,
}

type Fact = Result<Proven, Unproven>;

struct Lifetimes;

impl Expiry<Question, Fact> for Lifetimes {
    fn expire_after_create(&self, _: &Question, fact: &Fact, _: Instant) -> Option<Duration> {
        Some(if fact.is_ok() { PROVEN_FOR } else { REFUSED_FOR })
    }
}

/// What is known of images.
pub struct Facts {
    known: Cache<Question, Fact>,
    /// By which trust, and how many there were before it.
    trust: Mutex<(u64, Arc<Trust>)>,
    looks: Semaphore,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            known: Cache::builder()
                .max_capacity(DIGESTS_MAXIMUM)
                .expire_after(Lifetimes)
                .build(),
            trust: Mutex::default(),
            looks: Semaphore::new(LOOKS_AT_A_TIME),
        }
    }
}

impl Facts {
    /// What there is to say of an image, by these keys, which are of this trust. What only a tag names is looked at each time.
    ///
    /// # Errors
    /// Why nothing is proven of it.
    pub async fn prove(
        &self,
        client: &RegistryClient,
        trust: &Arc<Trust>,
        image: &str,
        reference: &ImageReference,
        keys: &[TrustedKey],
    ) -> Fact {
        let look = async {
            // Never closed.
            let _permit = self.looks.acquire().await;
            let verified = verification::verify(client, image, reference.clone(), keys).await?;
            let Verified { resolved, signers, .. } = verified;
            Ok(Proven {
                digest: resolved.digest,
                signers,
            })
        };
        let Some(digest) = reference.digest else {
            return look.await;
        };
        let question = Question {
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
            digest,
            trust: self.generation(trust),
        };
        // An error is told to all who wait, and is not kept; what was found out for good is a value.
        let known = self.known.try_get_with(question, async {
            match look.await {
                Err(unproven) if unproven.is_transient() => Err(unproven),
                fact => Ok(fact),
            }
        });
        known.await.unwrap_or_else(|transient| Err(transient.as_ref().clone()))
    }

    /// Counts the trusts. What was proven by another than this is not asked for any more, also where a look that began before ends now.
    fn generation(&self, trust: &Arc<Trust>) -> u64 {
        // A number and a pointer, which are whole after each step.
        let mut current = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.1, trust) {
            if current.1 != *trust {
                current.0 += 1;
                self.known.invalidate_all();
            }
            current.1 = trust.clone();
        }
        current.0
    }
}
