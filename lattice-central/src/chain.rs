//! The chain for one service, from its image references to its policies: all of it, or nothing.
//!
//! ```text
//!   reference ─► TrustPolicy? ─► tag? ask AllowTagReference, resolve once ─► digest
//!   digest ─► signatures ─► a trusted key's? ─► ask DeployImage, AccessExternalSecret ─► layers ─► derive ─► policies
//! ```
//!
//! It stops at the first gate that does not open, and says which, why, and what to do. After the first step only the digest
//! counts, never the tag. Only registries that a TrustPolicy names are contacted.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::SystemTime,
};

use lattice_api::object::{Container, LatticeService};
use lattice_derive::{Image, Platform};
use lattice_policy::{ExecPolicy, ImageDigest};
use lattice_registry::{RegistryClient, RegistryError, ResolvedImage};

use crate::{
    conditions::{Holds, Step},
    gate::{Action, Gate, Question, ServiceIdentity},
    images::Images,
    objects::Trust,
    specification::service_spec,
    verification::{self, Unproven, Verified, facts},
};

/// By whom a derivation is asked for.
const ACTOR: &str = "lattice-central";

/// What the chain came to.
#[derive(Debug)]
pub enum Outcome {
    /// All of it went through.
    Derived {
        /// One a container; their generation is the board's to set.
        policies: Vec<ExecPolicy>,
        /// The image of each container, by its digest.
        images: BTreeMap<String, String>,
        /// What was done at ImageVerified, Authorized and Derived.
        done: [String; 3],
        /// What policies with the outcome `warn` or `info` say, and what the derivation did not list.
        notes: Vec<String>,
    },
    /// It stopped.
    Stopped(Stop),
}

/// Where and why the chain stopped.
#[derive(Debug)]
pub struct Stop {
    /// At which step.
    pub step: Step,
    /// False, or Unknown where it could not be found out.
    pub holds: Holds,
    /// One word for programs.
    pub reason: &'static str,
    /// What happened, to what, and what to do.
    pub message: String,
    /// What was done at the steps before.
    pub done: Vec<String>,
}

impl Stop {
    fn refused(step: Step, reason: &'static str, message: String) -> Self {
        Self {
            step,
            holds: Holds::False,
            reason,
            message,
            done: Vec::new(),
        }
    }

    fn registry(step: Step, container: &str, error: &RegistryError) -> Self {
        let unproven = Unproven::from(error);
        Self {
            step,
            holds: unproven.holds,
            reason: unproven.reason,
            message: format!("container {container}: {}", unproven.message),
            done: Vec::new(),
        }
    }

    /// Whether another try may end differently without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        self.holds == Holds::Unknown
    }
}

/// What a run of the chain goes by; it does not change while it runs.
#[derive(Clone)]
pub struct Chain {
    /// The service.
    pub service: Arc<LatticeService>,
    /// Whose signatures count.
    pub trust: Arc<Trust>,
    /// The Cedar policies.
    pub gate: Arc<Gate>,
    /// The registries.
    pub images: Arc<Images>,
}

impl Chain {
    /// Whether a run now would go by the same things.
    pub fn is_same(&self, other: &Self) -> bool {
        self.service == other.service && self.trust == other.trust && Arc::ptr_eq(&self.gate, &other.gate)
    }

    /// Runs the chain once.
    pub async fn run(&self) -> Outcome {
        let mut done = Vec::new();
        match self.run_steps(&mut done).await {
            Ok(outcome) => outcome,
            Err(stop) => Outcome::Stopped(Stop { done, ..stop }),
        }
    }

    async fn run_steps(&self, done: &mut Vec<String>) -> Result<Outcome, Stop> {
        let mut notes = Vec::new();
        // By reference, so that two containers with one tag cannot come to two images.
        let mut by_reference: BTreeMap<&str, Verified> = BTreeMap::new();
        let mut signed = Vec::new();
        for Container { name, image, .. } in self.containers() {
            if !by_reference.contains_key(image.as_str()) {
                by_reference.insert(image, self.verify(name, image, &mut notes).await?);
            }
            let verified = &by_reference[image.as_str()];
            signed.push(format!(
                "{name}: {} signed by {}",
                verified.resolved.digest,
                verified.signers.join(", ")
            ));
        }
        done.push(signed.join("; "));

        for verified in by_reference.values() {
            self.ask(
                Action::DeployImage(verified.facts()),
                Step::Authorized,
                "Denied",
                &mut notes,
            )?;
        }
        for secret in &self.service.spec.secrets {
            let (store, key) = (secret.external_ref.store.clone(), secret.external_ref.key.clone());
            self.ask(
                Action::AccessExternalSecret { store, key },
                Step::Authorized,
                "SecretDenied",
                &mut notes,
            )?;
        }
        done.push("Cedar permits every image and secret".to_owned());

        let pinned = self.containers().map(|container| {
            let verified = &by_reference[container.image.as_str()];
            (container.name.clone(), verified.facts().reference)
        });
        let pinned: BTreeMap<String, String> = pinned.collect();
        let mut images: BTreeMap<String, Arc<Image>> = BTreeMap::new();
        let mut read: BTreeMap<ImageDigest, Arc<Image>> = BTreeMap::new();
        for Container { name, image, .. } in self.containers() {
            let resolved = &by_reference[image.as_str()].resolved;
            let image = match read.entry(resolved.digest) {
                Entry::Occupied(entry) => entry.get().clone(),
                Entry::Vacant(entry) => entry.insert(self.read(name, resolved).await?).clone(),
            };
            images.insert(name.clone(), image);
        }
        let spec = service_spec(&self.service);
        let settings = lattice_derive::Settings::default();
        // Merging layers and walking scripts takes processor time that other tasks should not wait for.
        let derived = tokio::task::spawn_blocking(move || lattice_derive::derive(&spec, &images, &settings)).await;
        let derivations = derived
            .map_err(|error| Stop::refused(Step::Derived, "DerivationFailed", error.to_string()))?
            .map_err(|error| Stop::refused(Step::Derived, "NotDerivable", error.to_string()))?;
        let counts: Vec<_> = derivations
            .iter()
            .map(|derivation| format!("{}: {} entries", derivation.container, derivation.policy.entries.len()))
            .collect();
        done.push(counts.join("; "));
        notes.extend(
            derivations
                .iter()
                .flat_map(|derivation| derivation.diagnostics.iter().map(ToString::to_string)),
        );
        let policies = derivations.into_iter().map(|derivation| derivation.policy).collect();
        let done = <[String; 3]>::try_from(std::mem::take(done)).unwrap_or_default();
        Ok(Outcome::Derived {
            policies,
            images: pinned,
            done,
            notes,
        })
    }

    fn containers(&self) -> impl Iterator<Item = &Container> {
        self.service
            .spec
            .init_containers
            .iter()
            .chain(&self.service.spec.containers)
    }

    /// From a reference to a digest that a trusted key signed.
    async fn verify(&self, container: &str, image: &str, notes: &mut Vec<String>) -> Result<Verified, Stop> {
        let stop = |unproven: Unproven| Stop {
            step: Step::ImageVerified,
            holds: unproven.holds,
            reason: unproven.reason,
            message: format!("container {container}, image {image}: {}", unproven.message),
            done: Vec::new(),
        };
        let (reference, keys) = verification::trusted(&self.trust, image).map_err(stop)?;
        if reference.digest.is_none() {
            self.ask(
                Action::AllowTagReference(facts(&reference, None, &[])),
                Step::ImageVerified,
                "TagNotAllowed",
                notes,
            )?;
        }
        let client = self.client().map_err(|error| stop(Unproven::from(&error)))?;
        verification::verify(&client, image, reference, keys)
            .await
            .map_err(stop)
    }

    /// The layers of a verified image.
    async fn read(&self, container: &str, image: &ResolvedImage) -> Result<Arc<Image>, Stop> {
        let unread = |error: RegistryError| Stop::registry(Step::Derived, container, &error);
        let client = self.client().map_err(unread)?;
        let facts = client.read_image(image, &Platform::default()).await.map_err(unread)?;
        let image = facts
            .into_image()
            .map_err(|error| Stop::refused(Step::Derived, "NotDerivable", error.to_string()))?;
        Ok(Arc::new(image))
    }

    fn client(&self) -> Result<Arc<RegistryClient>, RegistryError> {
        self.images.client(&self.trust)
    }

    /// Asks Cedar; a denial stops the chain.
    fn ask(&self, action: Action, step: Step, reason: &'static str, notes: &mut Vec<String>) -> Result<(), Stop> {
        let decision = self.gate.decide(&Question {
            service: ServiceIdentity {
                namespace: self.service.namespace.clone(),
                name: self.service.name.clone(),
                environment: self.service.spec.environment.to_string(),
            },
            action,
            actor: ACTOR.to_owned(),
            time: SystemTime::now(),
        });
        notes.extend(
            decision
                .warnings
                .into_iter()
                .map(|warning| format!("warning: {warning}")),
        );
        notes.extend(decision.notes.into_iter().map(|note| format!("info: {note}")));
        match decision.denial {
            None => Ok(()),
            Some(denial) => Err(Stop::refused(step, reason, denial)),
        }
    }
}
