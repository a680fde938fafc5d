//! The derivation itself: a service and its images in, one policy a container out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lattice_policy::{CodeLoading, ExecPolicy, FailSemantics, FilePath, ImageDigest, Mode, Origin, Scope, Target};

use crate::{
    entries::{self, EntryEvidence},
    error::{CommandField, DeriveError, Diagnostic},
    expand::{self, Argument},
    image::ImageConfig,
    image_scope,
    layer::LayerSummary,
    path,
    service::{ContainerSpec, ServiceSpec},
    tree::ImageTree,
    walk::{Place, Walk, shown},
};

/// What container runtimes set where neither image nor container sets PATH.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A verified image that was read: configuration and merged layers.
#[derive(Debug, Clone)]
pub struct Image {
    digest: ImageDigest,
    config: ImageConfig,
    tree: ImageTree,
}

impl Image {
    /// Merges the layers of the image that `digest` names.
    ///
    /// # Errors
    /// When there are no layers, or they are not those that `config` lists, in its order.
    pub fn new(digest: ImageDigest, config: ImageConfig, layers: Vec<Arc<LayerSummary>>) -> Result<Self, DeriveError> {
        if layers.is_empty() {
            return Err(DeriveError::NoLayers { image: digest });
        }
        for index in 0..layers.len().max(config.diff_ids.len()) {
            let found = layers.get(index).map(|layer| layer.diff_id());
            let expected = config.diff_ids.get(index).copied();
            if found != expected {
                let text = |id: Option<crate::DiffId>| id.map_or_else(|| "missing".into(), |id| id.to_string());
                let (found, expected) = (text(found), text(expected));
                return Err(DeriveError::WrongLayer {
                    image: digest,
                    index,
                    found,
                    expected,
                });
            }
        }
        Ok(Self {
            digest,
            config,
            tree: ImageTree::merge(layers),
        })
    }

    /// The digest that the image was verified by.
    pub fn digest(&self) -> ImageDigest {
        self.digest
    }

    /// Its configuration.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its merged file system.
    pub fn tree(&self) -> &ImageTree {
        &self.tree
    }
}

/// What the platform chooses for the policies that are derived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What happens to what is not listed.
    pub mode: Mode,
    /// What internal failures mean.
    pub fail: FailSemantics,
    /// What may be mapped executable.
    pub code_loading: CodeLoading,
    /// How wide the list is.
    pub scope: Scope,
    /// Generation of the policies.
    pub generation: u64,
    /// Programs that exec sessions may start besides, where an image has them.
    pub utilities: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Monitor,
            fail: FailSemantics::default(),
            code_loading: CodeLoading::default(),
            scope: Scope::default(),
            generation: 1,
            utilities: Vec::new(),
        }
    }
}

/// The list of one container, and why it is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The container.
    pub container: String,
    /// What may start in it.
    pub policy: ExecPolicy,
    /// For each of the policy's entries, in order.
    pub evidence: Vec<EntryEvidence>,
    /// What was not listed, and other things to know.
    pub diagnostics: Vec<Diagnostic>,
}

/// Derives the policies of all containers of a service: init containers first, then containers, each in order.
/// `images` is by the container's name.
///
/// # Errors
/// When any container has no list: then the service has none.
pub fn derive(
    service: &ServiceSpec,
    images: &BTreeMap<String, Arc<Image>>,
    settings: &Settings,
) -> Result<Vec<Derivation>, DeriveError> {
    let mut names = BTreeSet::new();
    let all = service.init_containers.iter().chain(&service.containers);
    all.map(|container| {
        if !names.insert(container.name.as_str()) {
            return Err(DeriveError::DuplicateContainer {
                container: container.name.clone(),
            });
        }
        let image = images.get(&container.name).ok_or_else(|| DeriveError::NoImage {
            container: container.name.clone(),
        })?;
        derive_container(service, container, image, settings)
    })
    .collect()
}

/// Derives the policy of one container.
///
/// # Errors
/// When one of its commands cannot start, or cannot be followed.
pub fn derive_container(
    service: &ServiceSpec,
    container: &ContainerSpec,
    image: &Image,
    settings: &Settings,
) -> Result<Derivation, DeriveError> {
    let mut walk = Walk::new(&image.tree, &container.name, image.digest);
    let environment = expand::environment(&container.env);
    for one in commands(container, image, &environment)? {
        walk.start(&place(one.field, &one.line, container, image, &environment), &one.words)?;
    }
    for utility in &settings.utilities {
        let words = [Argument::from(utility.as_str())];
        let mut place = place(
            CommandField::Utility,
            &shown(utility.as_bytes()),
            container,
            image,
            &environment,
        );
        place.strict = false;
        if walk.find(&place, utility.as_bytes()).is_ok() {
            walk.start(&place, &words)?;
        }
    }
    if settings.scope == Scope::Image {
        walk.uses.extend(image_scope::uses(&image.tree));
    }
    let (entries, evidence) = entries::entries(&image.tree, &walk.uses).into_iter().unzip();
    let mut diagnostics = walk.diagnostics;
    diagnostics.extend(image.tree.hidden_links().iter().map(|link| Diagnostic::HiddenLink {
        container: container.name.clone(),
        path: link.path.clone(),
        target: link.target.clone(),
        layer: link.layer,
    }));
    let policy = ExecPolicy {
        namespace: service.namespace.clone(),
        name: policy_name(service, container),
        target: Target {
            workload: Some(service.name.clone()),
            container: Some(container.name.clone()),
            image_digest: Some(image.digest),
        },
        mode: settings.mode,
        fail: settings.fail,
        code_loading: settings.code_loading,
        scope: settings.scope,
        generation: settings.generation,
        entries,
        map: Vec::new(),
    };
    Ok(Derivation {
        container: container.name.clone(),
        policy,
        evidence,
        diagnostics,
    })
}

/// The service's name for its first container, `SERVICE.CONTAINER` for the others: a container's name has no dot.
fn policy_name(service: &ServiceSpec, container: &ContainerSpec) -> String {
    match service.containers.first() {
        Some(first) if first.name == container.name => service.name.clone(),
        _ => format!("{}.{}", service.name, container.name),
    }
}

/// One command of the specification.
struct Command {
    field: CommandField,
    /// As written, for the reasons.
    line: String,
    words: Vec<Argument>,
}

/// All commands, by Kubernetes' rules: `command` replaces the image's entrypoint and drops its cmd; `$(NAME)` is expanded
/// in `command`, `args` and probes, but neither in the image's words nor in hooks.
fn commands(
    container: &ContainerSpec,
    image: &Image,
    environment: &BTreeMap<String, Option<String>>,
) -> Result<Vec<Command>, DeriveError> {
    let literal = |words: &[String]| {
        words
            .iter()
            .map(|word| Argument::from(word.as_str()))
            .collect::<Vec<_>>()
    };
    let expanded = |words: &[String]| expand::arguments(words, environment);
    let (field, mut words) = if container.command.is_empty() {
        (CommandField::Entrypoint, literal(&image.config.entrypoint))
    } else {
        (CommandField::Command, expanded(&container.command))
    };
    if !container.args.is_empty() {
        words.extend(expanded(&container.args));
    } else if container.command.is_empty() {
        words.extend(literal(&image.config.cmd));
    }
    if words.is_empty() {
        return Err(DeriveError::NoCommand {
            container: container.name.clone(),
            image: image.digest,
        });
    }
    let mut all = vec![Command {
        field,
        line: line(&words),
        words,
    }];
    let probes = [
        (CommandField::StartupProbe, expanded(&container.startup_probe)),
        (CommandField::ReadinessProbe, expanded(&container.readiness_probe)),
        (CommandField::LivenessProbe, expanded(&container.liveness_probe)),
        (CommandField::PostStart, literal(&container.post_start)),
        (CommandField::PreStop, literal(&container.pre_stop)),
    ];
    let given = probes.into_iter().filter(|(_, words)| !words.is_empty());
    all.extend(given.map(|(field, words)| Command {
        field,
        line: line(&words),
        words,
    }));
    Ok(all)
}

fn line(words: &[Argument]) -> String {
    let text = |word: &Argument| match word {
        Argument::Known(bytes) => shown(bytes),
        Argument::Unknown(text) => shown(text.as_bytes()),
    };
    words.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn place(
    field: CommandField,
    line: &str,
    container: &ContainerSpec,
    image: &Image,
    environment: &BTreeMap<String, Option<String>>,
) -> Place {
    let from_image = image
        .config
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map(|(_, value)| value.as_str());
    let path_variable = match environment.get("PATH") {
        Some(value) => value.as_ref().map(|value| value.as_bytes().to_vec()),
        None => Some(from_image.unwrap_or(DEFAULT_PATH).as_bytes().to_vec()),
    };
    let working_dir = container
        .working_dir
        .as_deref()
        .filter(|directory| !directory.is_empty());
    let working_dir = working_dir.unwrap_or(&image.config.working_dir);
    let cause = match field {
        CommandField::Entrypoint => format!("entrypoint of image {}: {line}", image.digest),
        _ => format!("{field} of container {}: {line}", container.name),
    };
    let from = match field {
        CommandField::Entrypoint | CommandField::Command => Origin::Any,
        _ => Origin::ExecSession,
    };
    Place {
        field,
        from,
        strict: true,
        path_variable,
        directory: Some(path::absolute(&FilePath::from("/"), working_dir.as_bytes())),
        chain: vec![cause],
        depth: 0,
    }
}
