//! Settings: every one a flag, the same keys in a TOML file, flags win.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::{enrolment::ServiceAccount, identity::is_node_name};

/// The central service of Lattice: verifies signed images, asks Cedar, derives what may start, and hands it to the agents.
///
/// With --local it reads TrustPolicy, LatticeService, LatticeRollout, ExecPolicy, Secret, CedarPolicy (*.yaml) and Cedar policies
/// (*.cedar) from a directory and watches them; with --kubernetes it watches the same kinds at an API server, and writes to their
/// status. Whatever is malformed is named, and the last good state stays in force.
///
/// Agents and latticectl connect by gRPC with client certificates: `<node>.node.lattice` makes an agent's,
/// `operator.lattice` an operator's. `lattice-central init-tls` makes them for use on one machine. In a cluster, with --identity, central
/// makes them itself: agents get theirs for a token of their service account that is bound to their node.
#[derive(Debug, Parser)]
#[command(name = "lattice-central", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of the service.
    #[command(flatten)]
    pub serve: ServeArguments,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a certificate authority and the certificates of central, operators and nodes, for local use.
    ///
    /// Writes ca, server, operator, metrics and node-NAME (.crt and .key, mode 0600). What exists is kept, the authority too, so
    /// the command can be repeated with more nodes.
    InitTls(InitTlsArguments),
    /// Print the Cedar schema that policies are validated against.
    Schema,
    /// Ask the running central whether it is well, as a kubelet's probe does.
    #[command(after_help = "Exit codes: 0 it is, 1 it is not, 2 it does not answer, 64 usage.")]
    Health(HealthArguments),
}

/// Flags of `health`.
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// The state directory of the central that is asked.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    pub state: PathBuf,
    /// Ask whether it is ready, instead of whether it is healthy.
    #[arg(long)]
    pub ready: bool,
}

const STATE: &str = "/var/lib/lattice/central";

/// Flags of `init-tls`.
#[derive(Debug, Args)]
pub struct InitTlsArguments {
    /// Where the files go.
    #[arg(long, value_name = "DIR")]
    pub directory: PathBuf,
    /// A node that gets a certificate; may be repeated.
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// A name or address of central besides localhost, 127.0.0.1 and ::1; may be repeated.
    #[arg(long = "server-name", value_name = "NAME")]
    pub server_names: Vec<String>,
}

/// Settings as they are written, on the command line or in the file; both have the same keys.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServeArguments {
    /// Read settings from this TOML file, whose keys are the names of these flags; flags win.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Directory with the objects: *.yaml, *.yml, *.json and *.cedar, not below it.
    #[arg(long, value_name = "DIR")]
    pub local: Option<PathBuf>,
    /// Take the objects from the API server of this pod's cluster, or of --kubeconfig.
    #[arg(long, conflicts_with = "local")]
    #[serde(default)]
    pub kubernetes: bool,
    /// The API server and how to speak to it, for where central does not run in a pod; says --kubernetes too.
    #[arg(long, value_name = "FILE", conflicts_with = "local")]
    pub kubeconfig: Option<PathBuf>,
    /// Address for agents and latticectl [default: 127.0.0.1:7443].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Directory for the store, created with mode 0700 [default: /var/lib/lattice/central].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Certificate of this server, PEM [default: /etc/lattice/tls/server.crt].
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM [default: /etc/lattice/tls/server.key].
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authority of the client certificates, PEM [default: /etc/lattice/tls/ca.crt].
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Be the authority of a cluster's agents and operators: keep its key in the Secret NAME-authority, show its certificate in the
    /// ConfigMap NAME-authority and an operator's in the Secret NAME-operator, all in central's namespace. Needs --kubernetes and --agents.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tls_cert", "tls_key", "client_ca"])]
    pub identity: Option<String>,
    /// The service account of the agents that may enrol with --identity.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub agents: Option<String>,
    /// Address where agents enrol with --identity [default: 127.0.0.1:7444].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub enrolment_listen: Option<SocketAddr>,
    /// A name or address of central, for its certificate with --identity; may be repeated [default: localhost, 127.0.0.1 and ::1].
    #[arg(long = "server-name", value_name = "NAME")]
    #[serde(default)]
    pub server_name: Vec<String>,
    /// Seconds for which an agent's certificate holds with --identity; agents renew theirs when half of it is over [default: 86400].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=2_592_000))]
    pub node_certificate_seconds: Option<u64>,
    /// Address for metrics, over TLS, for who has a certificate of the same authority with the name metrics.lattice [default: none]. With
    /// --identity such a certificate is in the Secret NAME-metrics.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Answer the API server's admission reviews at this address, with a certificate of --identity. Needs --admission-webhook.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admission_listen: Option<SocketAddr>,
    /// The ValidatingWebhookConfiguration that leads there: central writes its authority into it, and nothing else.
    #[arg(long, value_name = "NAME")]
    pub admission_webhook: Option<String>,
    /// The ConfigMap in central's namespace into which central writes the registries that TrustPolicies name, for a
    /// ValidatingAdmissionPolicy. Needs --admission-webhook.
    #[arg(long, value_name = "NAME")]
    pub admission_registries: Option<String>,
    /// Seconds for which the certificate of --admission-listen holds; it is renewed when half of it is over [default: 2592000].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(60..=31_536_000))]
    pub admission_certificate_seconds: Option<u64>,
    /// A registry (host or host:port) that speaks HTTP without TLS; may be repeated. It must be named by a TrustPolicy too.
    #[arg(long = "plain-http-registry", value_name = "HOST:PORT")]
    #[serde(default)]
    pub plain_http_registry: Vec<String>,
    /// Authorities (PEM) that count for this registry's certificate in the place of the system's; may be repeated.
    #[arg(long = "registry-ca", value_name = "HOST:PORT=FILE")]
    #[serde(default)]
    pub registry_ca: Vec<String>,
    /// Seconds after which a verified service is verified again [default: 300].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub verify_seconds: Option<u64>,
    /// Seconds to finish what is under way when asked to stop [default: 5].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=600))]
    pub drain_seconds: Option<u64>,
    /// What is logged: error, warn, info, debug, trace, or a filter by target [default: info,kube_client=off].
    #[arg(long, value_name = "FILTER", env = "LATTICE_LOG")]
    pub log: Option<String>,
}

/// Where the objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectsFrom {
    /// In the files of a directory.
    Directory(PathBuf),
    /// At an API server.
    Cluster {
        /// Which one and how; `None` in a pod.
        kubeconfig: Option<PathBuf>,
    },
}

impl fmt::Display for ObjectsFrom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(formatter, "{}", path.display()),
            Self::Cluster { kubeconfig: Some(path) } => write!(formatter, "API server of {}", path.display()),
            Self::Cluster { kubeconfig: None } => formatter.write_str("API server"),
        }
    }
}

/// What it takes to be the authority of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySettings {
    /// What the names of its objects begin with.
    pub name: String,
    /// Whose tokens count.
    pub agents: ServiceAccount,
    /// Where agents enrol.
    pub listen: SocketAddr,
    /// Central's own names.
    pub server_names: Vec<String>,
    /// How long an agent's certificate holds.
    pub certificate_lifetime: Duration,
    /// Set where central answers admission reviews.
    pub admission: Option<AdmissionSettings>,
}

/// What it takes to answer the API server's admission reviews.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Where.
    pub listen: SocketAddr,
    /// The ValidatingWebhookConfiguration.
    pub webhook: String,
    /// The ConfigMap of the trusted registries, where there is one.
    pub registries: Option<String>,
    /// How long the listener's certificate holds.
    pub certificate_lifetime: Duration,
}

/// Settings after defaults; nothing in them needs a second look.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the objects are.
    pub objects: ObjectsFrom,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Directory for the store.
    pub state: PathBuf,
    /// Certificate of this server.
    pub tls_cert: PathBuf,
    /// Its key.
    pub tls_key: PathBuf,
    /// Authority of the client certificates.
    pub client_ca: PathBuf,
    /// Set where central is the authority itself; then the three files above are not.
    pub identity: Option<IdentitySettings>,
    /// Where metrics are served, if they are.
    pub metrics_listen: Option<SocketAddr>,
    /// Registries without TLS.
    pub plain_http_registries: Vec<String>,
    /// Files of authorities, by registry.
    pub registry_authorities: BTreeMap<String, PathBuf>,
    /// After this a verified service is verified again.
    pub verify_interval: Duration,
    /// Time to finish when asked to stop.
    pub drain: Duration,
    /// The log filter.
    pub log: String,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("{path}: cannot read the configuration file")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that is none.
    #[error("{path}:{line}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, with the key.
        problem: String,
    },
    /// A value is out of its range.
    #[error("{path}: {key} = {value} is not between {least} and {most}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// No source of objects.
    #[error(
        "--local DIR is missing: the directory with the TrustPolicy, LatticeService, Secret and *.cedar files; or --kubernetes, to take \
         them from an API server"
    )]
    NoObjects,
    /// Two sources of objects.
    #[error("--local and --kubernetes (or --kubeconfig) are both set, also counting the configuration file; keep one")]
    TwoSources,
    /// An authority for the agents of no cluster.
    #[error("--identity needs --kubernetes and --agents NAMESPACE/NAME, the service account of the agents")]
    IdentityIncomplete,
    /// No service account, or no name of an object.
    #[error("{0}")]
    IdentityValue(String),
    /// Not a registry and a file.
    #[error("--registry-ca {0:?} is not HOST:PORT=FILE")]
    RegistryAuthority(String),
    /// Half of what admission takes.
    #[error("--admission-listen and --admission-webhook NAME belong together")]
    AdmissionIncomplete,
    /// Settings of --identity without it.
    #[error("{0} is for --identity, which is not set")]
    WithoutIdentity(&'static str),
}

impl ServeArguments {
    /// Joins flags, the file and defaults.
    ///
    /// # Errors
    /// When the file cannot be read or is invalid, or there is no source of objects.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => Self::default(),
        };
        let default = |path: &str| PathBuf::from(path);
        let mut plain_http_registries = self.plain_http_registry;
        if plain_http_registries.is_empty() {
            plain_http_registries = file.plain_http_registry;
        }
        let mut registry_ca = self.registry_ca;
        if registry_ca.is_empty() {
            registry_ca = file.registry_ca;
        }
        // A flag says whence, whatever the file does.
        let own = objects_from(self.local, self.kubernetes, self.kubeconfig)?;
        let of_file = objects_from(file.local, file.kubernetes, file.kubeconfig)?;
        let objects = own.or(of_file).ok_or(SettingsError::NoObjects)?;
        let mut server_names = self.server_name;
        if server_names.is_empty() {
            server_names = file.server_name;
        }
        let identity = IdentityArguments {
            name: self.identity.or(file.identity),
            agents: self.agents.or(file.agents),
            listen: self.enrolment_listen.or(file.enrolment_listen),
            server_names,
            certificate_seconds: self.node_certificate_seconds.or(file.node_certificate_seconds),
            admission: AdmissionArguments {
                listen: self.admission_listen.or(file.admission_listen),
                webhook: self.admission_webhook.or(file.admission_webhook),
                registries: self.admission_registries.or(file.admission_registries),
                certificate_seconds: self
                    .admission_certificate_seconds
                    .or(file.admission_certificate_seconds),
            },
        };
        Ok(Settings {
            identity: identity.resolve(&objects)?,
            objects,
            listen: self
                .listen
                .or(file.listen)
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7443))),
            state: self.state.or(file.state).unwrap_or_else(|| default(STATE)),
            tls_cert: self
                .tls_cert
                .or(file.tls_cert)
                .unwrap_or_else(|| default("/etc/lattice/tls/server.crt")),
            tls_key: self
                .tls_key
                .or(file.tls_key)
                .unwrap_or_else(|| default("/etc/lattice/tls/server.key")),
            client_ca: self
                .client_ca
                .or(file.client_ca)
                .unwrap_or_else(|| default("/etc/lattice/tls/ca.crt")),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            plain_http_registries,
            registry_authorities: registry_authorities(&registry_ca)?,
            verify_interval: Duration::from_secs(self.verify_seconds.or(file.verify_seconds).unwrap_or(300)),
            drain: Duration::from_secs(self.drain_seconds.or(file.drain_seconds).unwrap_or(5)),
            log: self.log.or(file.log).unwrap_or_else(|| LOG.to_owned()),
        })
    }
}

fn registry_authorities(values: &[String]) -> Result<BTreeMap<String, PathBuf>, SettingsError> {
    let parts = values.iter().map(|value| match value.split_once('=') {
        Some((host, file)) if !host.is_empty() && !file.is_empty() => Ok((host.to_owned(), PathBuf::from(file))),
        _ => Err(SettingsError::RegistryAuthority(value.clone())),
    });
    parts.collect()
}

struct IdentityArguments {
    name: Option<String>,
    agents: Option<String>,
    listen: Option<SocketAddr>,
    server_names: Vec<String>,
    certificate_seconds: Option<u64>,
    admission: AdmissionArguments,
}

struct AdmissionArguments {
    listen: Option<SocketAddr>,
    webhook: Option<String>,
    registries: Option<String>,
    certificate_seconds: Option<u64>,
}

impl AdmissionArguments {
    fn resolve(self) -> Result<Option<AdmissionSettings>, SettingsError> {
        if let Some(registries) = self.registries.as_ref().filter(|name| !is_node_name(name)) {
            return Err(SettingsError::IdentityValue(format!(
                "--admission-registries {registries:?} is no name of an object"
            )));
        }
        match (self.listen, self.webhook) {
            (None, None) if self.certificate_seconds.is_none() && self.registries.is_none() => Ok(None),
            (Some(listen), Some(webhook)) if is_node_name(&webhook) => Ok(Some(AdmissionSettings {
                listen,
                webhook,
                registries: self.registries,
                certificate_lifetime: Duration::from_secs(self.certificate_seconds.unwrap_or(30 * 86_400)),
            })),
            (Some(_), Some(webhook)) => Err(SettingsError::IdentityValue(format!(
                "--admission-webhook {webhook:?} is no name of an object"
            ))),
            _ => Err(SettingsError::AdmissionIncomplete),
        }
    }
}

impl IdentityArguments {
    fn resolve(self, objects: &ObjectsFrom) -> Result<Option<IdentitySettings>, SettingsError> {
        let Some(name) = self.name else {
            let set = [
                ("--agents", self.agents.is_some()),
                ("--enrolment-listen", self.listen.is_some()),
                ("--server-name", !self.server_names.is_empty()),
                ("--node-certificate-seconds", self.certificate_seconds.is_some()),
                ("--admission-listen", self.admission.listen.is_some()),
                ("--admission-webhook", self.admission.webhook.is_some()),
                ("--admission-registries", self.admission.registries.is_some()),
                (
                    "--admission-certificate-seconds",
                    self.admission.certificate_seconds.is_some(),
                ),
            ];
            return match set.into_iter().find(|(_, is_set)| *is_set) {
                Some((flag, _)) => Err(SettingsError::WithoutIdentity(flag)),
                None => Ok(None),
            };
        };
        let (ObjectsFrom::Cluster { .. }, Some(agents)) = (objects, self.agents) else {
            return Err(SettingsError::IdentityIncomplete);
        };
        if !is_node_name(&name) {
            return Err(SettingsError::IdentityValue(format!(
                "--identity {name:?} is no name of an object"
            )));
        }
        let agents = agents
            .parse()
            .map_err(|problem| SettingsError::IdentityValue(format!("--agents: {problem}")))?;
        let mut server_names = self.server_names;
        if server_names.is_empty() {
            server_names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        }
        Ok(Some(IdentitySettings {
            name,
            agents,
            listen: self.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7444))),
            server_names,
            certificate_lifetime: Duration::from_secs(self.certificate_seconds.unwrap_or(86_400)),
            admission: self.admission.resolve()?,
        }))
    }
}

/// The client of the API server tells of each failed try; that it fails is told once, by whoever asks it.
const LOG: &str = "info,kube_client=off";

fn objects_from(
    local: Option<PathBuf>,
    is_kubernetes: bool,
    kubeconfig: Option<PathBuf>,
) -> Result<Option<ObjectsFrom>, SettingsError> {
    match (local, is_kubernetes || kubeconfig.is_some()) {
        (Some(_), true) => Err(SettingsError::TwoSources),
        (Some(path), false) => Ok(Some(ObjectsFrom::Directory(path))),
        (None, true) => Ok(Some(ObjectsFrom::Cluster { kubeconfig })),
        (None, false) => Ok(None),
    }
}

fn read_file(path: &Path) -> Result<ServeArguments, SettingsError> {
    let path = path.to_owned();
    let text = fs::read_to_string(&path).map_err(|source| SettingsError::Unreadable {
        path: path.clone(),
        source,
    })?;
    let read: ServeArguments = toml::from_str(&text).map_err(|error| {
        let before = text
            .get(..error.span().map_or(0, |span| span.start))
            .unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        SettingsError::Invalid {
            path: path.clone(),
            line,
            problem: error.message().to_owned(),
        }
    })?;
    let checked = [
        ("verify-seconds", read.verify_seconds, 1, 86_400),
        ("drain-seconds", read.drain_seconds, 0, 600),
        ("node-certificate-seconds", read.node_certificate_seconds, 60, 2_592_000),
        (
            "admission-certificate-seconds",
            read.admission_certificate_seconds,
            60,
            31_536_000,
        ),
    ];
    for (key, value, least, most) in checked {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            return Err(SettingsError::Range {
                path,
                key,
                value,
                least,
                most,
            });
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn resolve(file: &str, flags: &[&str]) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("central.toml");
        fs::write(&path, file).unwrap();
        let mut arguments = vec!["lattice-central", "--config", path.to_str().unwrap()];
        arguments.extend(flags);
        let line = CommandLine::try_parse_from(arguments).map_err(|error| error.to_string())?;
        line.serve.resolve().map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refused(file: &str, expected: &str) {
        let error = resolve(file, &[]).expect_err("must be refused");
        assert!(error.contains("central.toml") && error.contains(expected), "{error}");
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn flags_win_over_the_file() {
        let file =
            "local = \"/objects\"\nlisten = \"127.0.0.1:1\"\nplain-http-registry = [\"a:1\"]\nverify-seconds = 7\n";
        let settings = resolve(file, &["--listen", "127.0.0.1:2"]).unwrap();
        assert_eq!(settings.objects, ObjectsFrom::Directory("/objects".into()));
        assert_eq!(settings.listen.port(), 2);
        assert_eq!(settings.plain_http_registries, ["a:1"]);
        assert_eq!(settings.verify_interval, Duration::from_secs(7));
        assert_eq!(settings.state, Path::new("/var/lib/lattice/central"));
    }

    #[test]
    fn every_flag_is_a_key_of_the_file() {
        let keys: Vec<_> = CommandLine::command()
            .get_arguments()
            .filter_map(|argument| argument.get_long().map(str::to_owned))
            .filter(|long| !["config", "help", "version"].contains(&long.as_str()))
            .collect();
        assert!(keys.len() > 8);
        for key in keys {
            // A value of no right type: a known key is refused for its type, an unknown one as unknown.
            let error = resolve(&format!("{key} = {{}}"), &[]).expect_err("must be refused");
            assert!(!error.contains("unknown field"), "{key}: {error}");
        }
    }

    #[test]
    fn refusals_name_file_line_and_key() {
        refused(
            "local = \"/o\"\n\nlisen = \"127.0.0.1:1\"\n",
            "central.toml:3: unknown field `lisen`",
        );
        refused("local = \"/o\"\nlisten = \"nowhere\"\n", "central.toml:2: ");
        refused("local = ", "central.toml:1: ");
        refused(
            "local = \"/o\"\nverify-seconds = 0\n",
            "verify-seconds = 0 is not between 1 and 86400",
        );
        assert!(resolve("", &[]).unwrap_err().contains("--local DIR is missing"));
        let both = resolve("local = \"/o\"\nkubernetes = true\n", &[]).unwrap_err();
        assert!(both.contains("both set"), "{both}");
    }

    #[test]
    fn a_registry_has_its_own_authorities() {
        let settings = resolve("local = \"/o\"\nregistry-ca = [\"r:5000=/ca\"]\n", &[]).unwrap();
        assert_eq!(
            settings.registry_authorities,
            BTreeMap::from([("r:5000".to_owned(), "/ca".into())])
        );
        for bad in ["r", "=f", "r="] {
            let error = resolve("local = \"/o\"\n", &["--registry-ca", bad]).unwrap_err();
            assert!(error.contains("is not HOST:PORT=FILE"), "{error}");
        }
    }

    #[test]
    fn an_authority_of_a_cluster_knows_its_agents() {
        let whole = [
            "--kubernetes",
            "--identity",
            "lattice-central",
            "--agents",
            "lattice-system/agent",
        ];
        let identity = resolve("", &whole).unwrap().identity.unwrap();
        assert_eq!(identity.agents, "lattice-system/agent".parse().unwrap());
        assert_eq!(identity.certificate_lifetime, Duration::from_secs(86_400));
        assert!(identity.server_names.contains(&"localhost".to_owned()));
        assert_eq!(resolve("", &["--kubernetes"]).unwrap().identity, None);
        let error = |file: &str, flags: &[&str]| resolve(file, flags).unwrap_err();
        assert!(error("", &whole[..3]).contains("needs --kubernetes and --agents"));
        assert!(error("local = \"/o\"\nidentity = \"a\"\nagents = \"a/b\"\n", &[]).contains("needs --kubernetes"));
        assert!(error("", &["--kubernetes", "--server-name", "a"]).contains("--server-name is for --identity"));
        assert!(error("", &["--kubernetes", "--identity", "a", "--agents", "b"]).contains("is not NAMESPACE/NAME"));
        assert!(error("", &["--kubernetes", "--identity", "A", "--agents", "a/b"]).contains("no name of an object"));
        let mut both = whole.to_vec();
        both.extend(["--tls-cert", "/c"]);
        assert!(error("", &both).contains("cannot be used with"));
        let with = |more: &[&'static str]| [&whole[..], more].concat();
        let answering = with(&[
            "--admission-listen",
            "0.0.0.0:1",
            "--admission-webhook",
            "lattice-central",
        ]);
        let admission = resolve("", &answering).unwrap().identity.unwrap().admission.unwrap();
        assert_eq!(admission.certificate_lifetime, Duration::from_secs(2_592_000));
        assert!(error("", &with(&["--admission-listen", "0.0.0.0:1"])).contains("belong together"));
        assert!(error("", &with(&["--admission-webhook", "a"])).contains("belong together"));
        assert!(error("", &with(&["--admission-registries", "a"])).contains("belong together"));
        assert!(error("", &["--kubernetes", "--admission-webhook", "a"]).contains("is for --identity"));
        let file = "kubernetes = true\nidentity = \"a\"\nagents = \"a/b\"\nnode-certificate-seconds = 5\n";
        assert!(error(file, &[]).contains("node-certificate-seconds = 5 is not between 60"));
    }

    #[test]
    fn objects_come_from_one_place_and_flags_win() {
        let from = |file: &str, flags: &[&str]| resolve(file, flags).unwrap().objects;
        let in_a_pod = ObjectsFrom::Cluster { kubeconfig: None };
        assert_eq!(from("kubernetes = true\n", &[]), in_a_pod);
        assert_eq!(from("local = \"/o\"\n", &["--kubernetes"]), in_a_pod);
        assert_eq!(
            from("kubernetes = true\n", &["--local", "/o"]),
            ObjectsFrom::Directory("/o".into())
        );
        let kubeconfig = Some("/k".into());
        assert_eq!(from("", &["--kubeconfig", "/k"]), ObjectsFrom::Cluster { kubeconfig });
        let error = resolve("", &["--local", "/o", "--kubernetes"]).unwrap_err();
        assert!(error.contains("cannot be used with"), "{error}");
    }
}
