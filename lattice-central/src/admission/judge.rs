//! Whether each image of a review may run: denied nowhere, verified, and permitted by Cedar.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use lattice_api::v1::Denylist;
use lattice_policy::ImageDigest;
use tokio::{sync::watch, task::JoinSet};

use super::{
    facts::{Facts, Proven},
    object::{Named, Workload},
    review::Review,
};
use crate::{
    gate::{Action, Gate, Question, ServiceIdentity},
    images::{ImageReference, Images},
    objects::{ObjectSet, Trust},
    verification::{self, Unproven, facts},
};

/// Of what is no LatticeService: the environment for which policies are strictest.
const ENVIRONMENT: &str = "production";
/// How cosign signs so that it is found; the key is the user's.
const SIGN: &str =
    "cosign sign --key cosign.key --new-bundle-format=false --use-signing-config=false --tlog-upload=false";

/// Why an image may not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One word for programs.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// The command that comes next.
    pub command: String,
    /// Another try may end differently without anyone changing anything.
    pub is_transient: bool,
    /// It is on the denylist, which holds in every stage.
    pub is_denied: bool,
}

/// An image that may not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where it is named, and by what.
    pub named: Named,
    /// Why.
    pub finding: Finding,
}

/// What there is to say of a review.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The images that may not run, in the object's order.
    pub refused: Vec<Refused>,
    /// What policies with the outcome `warn` or `info` say, and that a tag may move.
    pub warnings: Vec<String>,
}

/// Judges by what holds at the moment.
pub struct Judge {
    objects: OnceLock<watch::Receiver<ObjectSet>>,
    denied: watch::Receiver<Arc<Denylist>>,
    images: Arc<Images>,
    facts: Facts,
}

impl Judge {
    /// One that knows no objects yet.
    pub fn new(images: Arc<Images>, denied: watch::Receiver<Arc<Denylist>>) -> Self {
        Self {
            objects: OnceLock::new(),
            denied,
            images,
            facts: Facts::default(),
        }
    }

    /// All objects were seen: from now on it judges by these.
    pub fn follow(&self, objects: watch::Receiver<ObjectSet>) {
        // They are told once.
        let _ = self.objects.set(objects);
    }

    /// Judges a review; `None` as long as the objects are not known.
    pub async fn judge(self: &Arc<Self>, review: &Review) -> Option<Judgement> {
        let court = self.court(review)?;
        let mut by_image: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, named) in review.images.iter().enumerate() {
            by_image.entry(&named.image).or_default().push(index);
        }
        let mut asked = JoinSet::new();
        for (image, indices) in by_image {
            let (judge, court, image) = (self.clone(), court.clone(), image.to_owned());
            asked.spawn(async move {
                let judged = judge.judge_image(&court, &image).await;
                (indices, judged)
            });
        }
        let mut judgement = Judgement::default();
        let mut refused = BTreeMap::new();
        while let Some(judged) = asked.join_next().await {
            // A panic is printed where it happens; an image without an answer is a refused one.
            let Ok((indices, judged)) = judged else {
                return None;
            };
            match judged {
                Ok(warnings) => judgement.warnings.extend(warnings),
                Err(finding) => {
                    for index in indices {
                        let named = review.images[index].clone();
                        let finding = finding.clone();
                        refused.insert(index, Refused { named, finding });
                    }
                }
            }
        }
        judgement.warnings.sort();
        judgement.refused = refused.into_values().collect();
        Some(judgement)
    }

    fn court(&self, review: &Review) -> Option<Arc<Court>> {
        let objects = self.objects.get()?.borrow();
        let Workload { service, name } = &review.workload;
        let key = |service: &String| (review.namespace.clone(), service.clone());
        let service = service.as_ref().and_then(|service| objects.services.get(&key(service)));
        Some(Arc::new(Court {
            trust: objects.trust.clone(),
            gate: objects.gate.clone(),
            service: service.map(|service| {
                let spec = &service.spec;
                let containers = spec.init_containers.iter().chain(&spec.containers);
                let repositories = containers.filter_map(|container| {
                    let reference: ImageReference = container.image.parse().ok()?;
                    Some((reference.registry, reference.repository))
                });
                Service {
                    identity: ServiceIdentity {
                        namespace: review.namespace.clone(),
                        name: service.name.clone(),
                        environment: spec.environment.to_string(),
                    },
                    repositories: repositories.collect(),
                }
            }),
            workload: ServiceIdentity {
                namespace: review.namespace.clone(),
                name: name.clone(),
                environment: ENVIRONMENT.to_owned(),
            },
            actor: review.user.clone(),
        }))
    }

    /// What is said of an image that may run; why it may not.
    async fn judge_image(&self, court: &Court, image: &str) -> Result<Vec<String>, Finding> {
        let mut warnings = Vec::new();
        // What is denied needs no registry for an answer.
        if let Ok(ImageReference {
            digest: Some(digest), ..
        }) = image.parse()
        {
            self.check_denied(digest)?;
        }
        let (reference, keys) = verification::trusted(&court.trust, image).map_err(|unproven| {
            let command = match unproven.reason {
                "InvalidReference" => "kubectl explain pod.spec.containers.image",
                _ => "kubectl describe trustpolicies.lattice.dev",
            };
            Finding::unproven(unproven, command.to_owned())
        })?;
        if reference.digest.is_none() {
            let action = Action::AllowTagReference(facts(&reference, None, &[]));
            // A valid reference has no character that means something to a shell.
            court.ask(
                &reference,
                action,
                "TagNotAllowed",
                &format!("crane digest {image}"),
                &mut warnings,
            )?;
        }
        let reach = format!("curl -fsSI https://{}/v2/", reference.registry);
        let client = self.images.client(&court.trust);
        let client = client.map_err(|error| Finding::unproven(Unproven::from(&error), reach.clone()))?;
        let proven = self.facts.prove(&client, &court.trust, image, &reference, keys).await;
        let proven = proven.map_err(|unproven| {
            let command = match unproven.reason {
                "Unsigned" | "SignedByOtherKey" | "SignatureOfOtherImage" | "MalformedSignature" => {
                    format!("{SIGN} {image}")
                }
                "NotFound" => format!("crane manifest {image}"),
                _ => reach,
            };
            Finding::unproven(unproven, command)
        })?;
        let Proven { digest, signers } = proven;
        if reference.digest.is_none() {
            self.check_denied(digest)?;
            warnings.push(format!(
                "{image} is {digest} now, which is verified; a tag can be moved to another image, a digest cannot"
            ));
        }
        let action = Action::DeployImage(facts(&reference, Some(digest), &signers));
        let policies = "kubectl get cedarpolicies.lattice.dev --output yaml";
        court.ask(&reference, action, "NotPermitted", policies, &mut warnings)?;
        Ok(warnings)
    }

    fn check_denied(&self, digest: ImageDigest) -> Result<(), Finding> {
        let digest = digest.to_string();
        let list = self.denied.borrow();
        let mut denials = list.denials.iter();
        match denials.find(|denial| denial.kind == "image" && denial.digest == digest) {
            None => Ok(()),
            Some(denial) => Err(Finding {
                reason: "Denied",
                message: format!(
                    "{digest} is denied on every node, in every stage: {}",
                    denial.reason.escape_debug()
                ),
                command: "latticectl deny list".to_owned(),
                is_transient: false,
                is_denied: true,
            }),
        }
    }
}

/// What a review is judged by; it does not change meanwhile.
struct Court {
    trust: Arc<Trust>,
    gate: Arc<Gate>,
    service: Option<Service>,
    workload: ServiceIdentity,
    actor: String,
}

/// The LatticeService that a pod's label names.
struct Service {
    identity: ServiceIdentity,
    /// Registry and repository of each image that it names itself.
    repositories: Vec<(String, String)>,
}

impl Court {
    /// A label is whoever's word who makes the pod: it makes an image the service's only where the service names the image's repository.
    fn identity(&self, reference: &ImageReference) -> &ServiceIdentity {
        let own = self.service.as_ref().filter(|service| {
            let mut repositories = service.repositories.iter();
            repositories
                .any(|(registry, repository)| *registry == reference.registry && *repository == reference.repository)
        });
        own.map_or(&self.workload, |service| &service.identity)
    }

    fn ask(
        &self,
        reference: &ImageReference,
        action: Action,
        reason: &'static str,
        command: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), Finding> {
        let decision = self.gate.decide(&Question {
            service: self.identity(reference).clone(),
            action,
            actor: self.actor.clone(),
            time: SystemTime::now(),
        });
        warnings.extend(decision.warnings);
        warnings.extend(decision.notes);
        match decision.denial {
            None => Ok(()),
            Some(denial) => Err(Finding {
                reason,
                message: denial,
                command: command.to_owned(),
                is_transient: false,
                is_denied: false,
            }),
        }
    }
}

impl Finding {
    fn unproven(unproven: Unproven, command: String) -> Self {
        Self {
            is_transient: unproven.is_transient(),
            reason: unproven.reason,
            message: unproven.message,
            command,
            is_denied: false,
        }
    }
}
