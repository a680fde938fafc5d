//! The gate: what was verified is one thing, whether it may be used is another, and Cedar policies say it.
//!
//! ```text
//!   *.cedar ──► policies (strict, against lattice.cedarschema) ──► Gate ──► Decision: allowed, or denied with a sentence
//!   facts ──────────────────────── Question ─────────────────────────┘
//! ```
//!
//! Default deny. A policy that cannot be evaluated denies too. `@outcome("warn")` and `("info")` only show.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::SystemTime,
};

use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision as CedarDecision, Effect, Entities, Entity, EntityId,
    EntityTypeName, EntityUid, Policy, PolicyId, Request, RestrictedExpression,
};
use chrono::{DateTime, SecondsFormat, Utc};

mod explain;
mod policies;

pub use policies::{PolicyProblem, PolicySource, SCHEMA_SOURCE};

use self::{
    explain::Explainer,
    policies::{Named, Outcome, Policies},
};

/// Who asks, and for what service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceIdentity {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub name: String,
    /// development, staging or production.
    pub environment: String,
}

/// What is known of an image when the gate is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// The reference in full: `registry/repository@sha256:…` or `registry/repository:tag`.
    pub reference: String,
    /// `host` or `host:port`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// The tag, where the reference has one.
    pub tag: Option<String>,
    /// The digest, once resolved.
    pub digest: Option<String>,
    /// Names of the keys that signed the digest.
    pub signers: Vec<String>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// May the service run this image?
    DeployImage(ImageFacts),
    /// May the service name its image by a tag?
    AllowTagReference(ImageFacts),
    /// May the service read this secret?
    AccessExternalSecret {
        /// Name of the secret store.
        store: String,
        /// Key in it.
        key: String,
    },
    /// May the actor take a workload of the namespace from monitor to enforce?
    PromoteEnforcement,
}

/// A question to the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// For which service.
    pub service: ServiceIdentity,
    /// What.
    pub action: Action,
    /// Who wants it; `lattice-central` when it derives by itself.
    pub actor: String,
    /// When.
    pub time: SystemTime,
}

/// The gate's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// `None` where it is allowed, else the sentence that says which policy decided, on what fact, and what to do.
    pub denial: Option<String>,
    /// What policies with the outcome `warn` say.
    pub warnings: Vec<String>,
    /// What policies with the outcome `info` say.
    pub notes: Vec<String>,
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

/// A set of policies that passed validation.
#[derive(Debug, Clone)]
pub struct Gate {
    policies: Policies,
}

impl Default for Gate {
    /// No policies: everything is denied.
    fn default() -> Self {
        Self {
            policies: Policies::none(),
        }
    }
}

impl Gate {
    /// Reads and validates policies. None at all is valid, and denies everything.
    ///
    /// # Errors
    /// Every problem found, with file and line; then none of the policies counts.
    pub fn read(sources: &[PolicySource]) -> Result<Self, Vec<PolicyProblem>> {
        Policies::read(sources).map(|policies| Self { policies })
    }

    /// Answers a question.
    pub fn decide(&self, question: &Question) -> Decision {
        let attributes = question.attributes();
        let (request, entities) = match self.request(question, &attributes) {
            Ok(prepared) => prepared,
            Err(problem) => {
                let denial = format!(
                    "{} is denied: the question could not be put to Cedar: {problem}",
                    question.title()
                );
                return Decision {
                    denial: Some(denial),
                    warnings: Vec::new(),
                    notes: Vec::new(),
                };
            }
        };
        let authorizer = Authorizer::new();
        let value_of = |name: &str| attributes.get(name).map(Attribute::shown);
        let explainer = Explainer {
            authorizer: &authorizer,
            request: &request,
            entities: &entities,
            value_of: &value_of,
        };

        let response = authorizer.is_authorized(&request, &self.policies.deciding, &entities);
        // Cedar leaves out a policy that fails to evaluate, a forbid too; here that denies.
        let failed = response.diagnostics().errors().next().map(|error| {
            format!(
                "{} is denied: a policy could not be evaluated: {error}. Correct the policy; until then nothing that it \
                 speaks of is allowed",
                question.title()
            )
        });
        let denial = failed.or_else(|| match response.decision() {
            CedarDecision::Allow => None,
            CedarDecision::Deny => Some(self.denial(question, response.diagnostics().reason(), &explainer)),
        });

        let (mut warnings, mut notes) = (Vec::new(), Vec::new());
        let shown = authorizer.is_authorized(&request, &self.policies.showing, &entities);
        for id in sorted(shown.diagnostics().reason()) {
            let (origin, text) = (
                &self.policies.origins[id],
                self.forbidding(id, &self.policies.showing, &explainer),
            );
            match origin.outcome {
                Outcome::Warn => warnings.push(text),
                Outcome::Info | Outcome::Decide => notes.push(text),
            }
        }
        warnings.extend(
            shown
                .diagnostics()
                .errors()
                .map(|error| format!("a policy could not be evaluated: {error}")),
        );
        Decision {
            denial,
            warnings,
            notes,
        }
    }

    fn denial<'a>(
        &self,
        question: &Question,
        forbidding: impl Iterator<Item = &'a PolicyId>,
        explainer: &Explainer<'_>,
    ) -> String {
        let title = question.title();
        let ids = sorted(forbidding);
        if !ids.is_empty() {
            let reasons: Vec<_> = ids
                .iter()
                .map(|id| self.forbidding(id, &self.policies.deciding, explainer))
                .collect();
            let advice = ids.iter().find_map(|id| self.policies.origins[*id].advice.as_deref());
            return format!(
                "{title} is denied: {}. {}",
                reasons.join("; "),
                advice.unwrap_or(&question.advice())
            );
        }
        let mut candidates: Vec<(&Policy, String)> = self
            .policies
            .deciding
            .policies()
            .filter(|policy| policy.effect() == Effect::Permit && question.is_named_by(&policy.action_constraint()))
            .map(|policy| {
                let named = Named(policy.id(), &self.policies.origins[policy.id()]);
                let wants = if explainer.head_matches(policy) {
                    explainer.unmet(policy).join(" and ")
                } else {
                    "another principal or resource".to_owned()
                };
                (policy, format!("{named} wants {wants}"))
            })
            .collect();
        candidates.sort_by(|left, right| left.1.cmp(&right.1));
        if candidates.is_empty() {
            return format!(
                "{title} is denied: no policy permits it, and none is written for this action. {}",
                question.advice()
            );
        }
        let advice = candidates
            .iter()
            .find_map(|(policy, _)| self.policies.origins[policy.id()].advice.as_deref());
        let wants: Vec<_> = candidates.iter().map(|(_, text)| text.as_str()).collect();
        format!(
            "{title} is denied: no policy permits it. {}. {}",
            wants.join("; "),
            advice.unwrap_or(&question.advice())
        )
    }

    /// What a forbid policy that holds says.
    fn forbidding(&self, id: &PolicyId, set: &cedar_policy::PolicySet, explainer: &Explainer<'_>) -> String {
        let named = Named(id, &self.policies.origins[id]);
        let holding = set.policy(id).map(|policy| explainer.met(policy)).unwrap_or_default();
        let says = match self.policies.origins[id].outcome {
            Outcome::Decide => "forbids it",
            Outcome::Warn => "warns of it",
            Outcome::Info => "notes it",
        };
        if holding.is_empty() {
            format!("policy {named} {says}")
        } else {
            format!("policy {named} {says}, since {}", holding.join(" and "))
        }
    }

    fn request(
        &self,
        question: &Question,
        attributes: &BTreeMap<String, Attribute>,
    ) -> Result<(Request, Entities), String> {
        let of = |variable: &str| -> HashMap<String, RestrictedExpression> {
            attributes
                .iter()
                .filter_map(|(name, value)| {
                    Some((
                        name.strip_prefix(variable)?.strip_prefix('.')?.to_owned(),
                        value.expression(),
                    ))
                })
                .collect()
        };
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let ServiceIdentity { namespace, name, .. } = &question.service;
        let principal = match &question.action {
            Action::PromoteEnforcement => uid("Actor", &question.actor)?,
            _ => uid("Service", &format!("{namespace}/{name}"))?,
        };
        let resource = match &question.action {
            Action::DeployImage(image) | Action::AllowTagReference(image) => uid("Image", &image.reference)?,
            Action::AccessExternalSecret { store, key } => uid("ExternalSecret", &format!("{store}/{key}"))?,
            Action::PromoteEnforcement => uid("Namespace", namespace)?,
        };
        let entities = [
            Entity::new(principal.clone(), of("principal"), HashSet::new()).map_err(|error| text(&error))?,
            Entity::new(resource.clone(), of("resource"), HashSet::new()).map_err(|error| text(&error))?,
        ];
        let schema = Some(self.policies.schema.as_ref());
        let entities = Entities::from_entities(entities, schema).map_err(|error| text(&error))?;
        let context = Context::from_pairs(of("context")).map_err(|error| text(&error))?;
        let action = uid("Action", question.action.name())?;
        let request = Request::new(principal, action, resource, context, schema).map_err(|error| text(&error))?;
        Ok((request, entities))
    }
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::DeployImage(_) => "DeployImage",
            Self::AllowTagReference(_) => "AllowTagReference",
            Self::AccessExternalSecret { .. } => "AccessExternalSecret",
            Self::PromoteEnforcement => "PromoteEnforcement",
        }
    }
}

impl Question {
    /// `DeployImage of IMAGE for payments/payment-service`.
    fn title(&self) -> String {
        let (action, service) = (
            self.action.name(),
            format!("{}/{}", self.service.namespace, self.service.name),
        );
        match &self.action {
            Action::DeployImage(image) | Action::AllowTagReference(image) => {
                format!("{action} of {} for {service}", image.reference)
            }
            Action::AccessExternalSecret { store, key } => format!("{action} of {store}/{key} for {service}"),
            Action::PromoteEnforcement => format!("{action} of namespace {} by {}", self.service.namespace, self.actor),
        }
    }

    /// What to do about a denial.
    fn advice(&self) -> String {
        match &self.action {
            Action::DeployImage(_) => {
                "Bring about the fact that is missing (a signature by the wanted key, say), or have \
                 the policies' owner permit DeployImage for this service"
                    .to_owned()
            }
            Action::AllowTagReference(image) => format!(
                "Name the image by its digest, {}/{}@sha256:…, since a tag can be moved to another image; or have the \
                 policies' owner permit AllowTagReference for it",
                image.registry, image.repository
            ),
            Action::AccessExternalSecret { .. } => {
                "Remove the secret from the service, or have the policies' owner permit AccessExternalSecret for it"
                    .to_owned()
            }
            Action::PromoteEnforcement => {
                "Ask somebody who may, or have the policies' owner permit PromoteEnforcement for this operator"
                    .to_owned()
            }
        }
    }

    fn is_named_by(&self, constraint: &ActionConstraint) -> bool {
        let is_this = |id: &EntityUid| id.id().unescaped() == self.action.name();
        match constraint {
            ActionConstraint::Any => true,
            ActionConstraint::In(ids) => ids.iter().any(is_this),
            ActionConstraint::Eq(id) => is_this(id),
        }
    }

    /// All attributes, by the name under which policies know them.
    fn attributes(&self) -> BTreeMap<String, Attribute> {
        let text = |text: &str| Attribute::Text(text.to_owned());
        let ServiceIdentity {
            namespace,
            name,
            environment,
        } = &self.service;
        let mut attributes = BTreeMap::from([
            ("context.namespace".to_owned(), text(namespace)),
            ("context.service".to_owned(), text(name)),
            ("context.environment".to_owned(), text(environment)),
            ("context.actor".to_owned(), text(&self.actor)),
            ("context.time".to_owned(), Attribute::Time(self.time)),
        ]);
        if !matches!(self.action, Action::PromoteEnforcement) {
            attributes.insert("principal.namespace".to_owned(), text(namespace));
            attributes.insert("principal.name".to_owned(), text(name));
            attributes.insert("principal.environment".to_owned(), text(environment));
        }
        match &self.action {
            Action::DeployImage(image) | Action::AllowTagReference(image) => {
                let mut set = |name: &str, value| attributes.insert(format!("resource.{name}"), value);
                set("registry", text(&image.registry));
                set("repository", text(&image.repository));
                set("signed", Attribute::Flag(!image.signers.is_empty()));
                set("signers", Attribute::Texts(image.signers.clone()));
                if let Some(tag) = &image.tag {
                    set("tag", text(tag));
                }
                if let Some(digest) = &image.digest {
                    set("digest", text(digest));
                }
            }
            Action::AccessExternalSecret { store, key } => {
                attributes.insert("resource.store".to_owned(), text(store));
                attributes.insert("resource.key".to_owned(), text(key));
            }
            Action::PromoteEnforcement => {
                attributes.insert("resource.name".to_owned(), text(namespace));
            }
        }
        attributes
    }
}

/// A value that policies can ask for.
enum Attribute {
    Text(String),
    Texts(Vec<String>),
    Flag(bool),
    Time(SystemTime),
}

impl Attribute {
    fn expression(&self) -> RestrictedExpression {
        match self {
            Self::Text(text) => RestrictedExpression::new_string(text.clone()),
            Self::Texts(texts) => {
                RestrictedExpression::new_set(texts.iter().cloned().map(RestrictedExpression::new_string))
            }
            Self::Flag(flag) => RestrictedExpression::new_bool(*flag),
            Self::Time(time) => RestrictedExpression::new_datetime(utc_text(*time)),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Texts(texts) => format!("{texts:?}"),
            Self::Flag(flag) => flag.to_string(),
            Self::Time(time) => utc_text(*time),
        }
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind
        .parse()
        .map_err(|error: cedar_policy::ParseErrors| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn sorted<'a>(ids: impl Iterator<Item = &'a PolicyId>) -> Vec<&'a PolicyId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort();
    ids
}

/// `2026-11-21T06:34:54Z`, as Cedar's `datetime` reads it.
fn utc_text(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
