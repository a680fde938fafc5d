//! What can be written after `latticectl`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind, parser::ValueSource};
use clap_complete::Shell;
use lattice_api::object::Timespan;
use lattice_policy::{Denied, FileDigest, ImageDigest, Mode};

const EXAMPLES: &str = "\
Examples:
  latticectl status                                    what the agent of this machine sees
  latticectl events --follow                           what is refused, or would be
  latticectl mode set --namespace payments enforce     kill what no policy lists
  latticectl deny file 9f86… --reason 'incident 17'    refuse these bytes on every node, at once
  latticectl rollout status                            how far each namespace is on the way to enforce
  latticectl policy check payment-service.yaml         what a file means, or what is wrong
  latticectl doctor                                    what this node can refuse, and what to change
  latticectl --central https://lattice.example.com:7443 service list
                                                       how far each service came

Exit codes:
  0 done or allowed    1 refused, denied, differing or not representable
  2 could not find out    64 usage";

/// Asks Lattice what it sees and does, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "latticectl", version, after_help = EXAMPLES, max_term_width = 120, subcommand_required = true)]
pub(crate) struct Arguments {
    /// Socket of the agent on this machine
    #[arg(
        long,
        global = true,
        value_name = "SOCKET",
        env = "LATTICE_AGENT",
        default_value = "/run/lattice/agent.sock",
        help_heading = "Whom to ask"
    )]
    pub(crate) agent: PathBuf,
    /// Ask central instead: its address, https://HOST:PORT
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "LATTICE_CENTRAL",
        help_heading = "Whom to ask"
    )]
    pub(crate) central: Option<String>,
    /// Certificate that shows central who asks (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "LATTICE_CLIENT_CERT",
        help_heading = "Whom to ask"
    )]
    pub(crate) client_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "LATTICE_CLIENT_KEY",
        help_heading = "Whom to ask"
    )]
    pub(crate) client_key: Option<PathBuf>,
    /// Certificate authority that central's certificate must come from (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "LATTICE_CA",
        help_heading = "Whom to ask"
    )]
    pub(crate) ca: Option<PathBuf>,
    /// Seconds to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds, help_heading = "Whom to ask")]
    pub(crate) timeout: Duration,
    /// How to show results
    #[arg(short, long, global = true, value_enum, default_value_t = OutputForm::Table)]
    pub(crate) output: OutputForm,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// For people
    Table,
    /// For programs: one versioned document (events: one a line)
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Nodes, containers, which policy holds for each in which mode, and counters
    Status,
    /// What was refused, or would have been in monitor, and why
    #[command(
        after_help = "Examples:\n  latticectl events --limit 20\n  latticectl events --follow -n payments\n  latticectl events -o json | jq 'select(.violation.drift == \"not-in-image\")'"
    )]
    Events {
        /// Stay, and show what comes
        #[arg(short, long)]
        follow: bool,
        /// Only events of this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
        /// At most so many stored events, the newest; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// What happens to a program that no policy lists
    Mode {
        #[command(subcommand)]
        verb: ModeVerb,
    },
    /// What is refused on every node, in every mode: an image by its digest, a file by its content
    Deny {
        #[command(subcommand)]
        verb: DenyVerb,
    },
    /// How namespaces get from monitor to enforce: where each is, what is to be reviewed, and who agrees
    #[command(
        after_help = "Examples:\n  latticectl rollout status -n payments\n  latticectl rollout misses -n payments\n  latticectl rollout approve -n payments\n\nWhat a LatticeRollout says, and what each phase means: docs/rollout.md."
    )]
    Rollout {
        #[command(subcommand)]
        verb: RolloutVerb,
    },
    /// Execution policies
    Policy {
        #[command(subcommand)]
        verb: PolicyVerb,
    },
    /// Services
    Service {
        #[command(subcommand)]
        verb: ServiceVerb,
    },
    /// What this node's kernel, cgroups and runtime offer, found by trying; what is therefore not refused, and what to change
    #[command(
        after_help = "Asks the agent of this machine; where none runs, runs `lattice-agent probe`. As root.\n\nExit codes: 0 this node can \
                      enforce, 1 it cannot, or not in the required tier, 2 it could not be found out.\n\nExamples:\n  latticectl doctor\n  \
                      latticectl doctor --require-tier 1 -o json"
    )]
    Doctor {
        /// Exit with 1 where the node has only a lower tier
        #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u32).range(1..=2))]
        require_tier: Option<u32>,
        /// The agent's program, for where no agent runs [default: beside latticectl, or on PATH]
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Custom resource definitions of Lattice's kinds, for a cluster
    #[command(after_help = "Example:\n  latticectl crds | kubectl apply --server-side -f -")]
    Crds,
    /// Completions for a shell
    #[command(after_help = "Example:\n  latticectl completion bash > /etc/bash_completion.d/latticectl")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModeVerb {
    /// Sets the mode of a namespace; it wins over the policies' own, and holds until it is cleared
    #[command(
        after_help = "Examples:\n  latticectl mode set --namespace payments enforce\n  latticectl mode set --namespace payments monitor --no-wait"
    )]
    Set {
        /// The namespace
        #[arg(short, long, value_name = "NS")]
        namespace: String,
        /// monitor: it runs, with an event; enforce: refused and killed; deny: refused without the signal
        #[arg(value_parser = mode)]
        mode: Mode,
        /// Return before the agents have applied it
        #[arg(long)]
        no_wait: bool,
    },
    /// Takes back what `mode set` set, so that the policies' own modes hold
    Clear {
        /// The namespace
        #[arg(short, long, value_name = "NS")]
        namespace: String,
        /// Return before the agents have applied it
        #[arg(long)]
        no_wait: bool,
    },
    /// Which mode holds for each policy, and who says so
    Get {
        /// Only this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DenyVerb {
    /// Containers of an image start nothing any more
    #[command(
        after_help = "Examples:\n  latticectl deny image sha256:9f86… --reason 'CVE-2026-1234'\n  latticectl deny image sha256:9f86… --kill-running --reason 'incident 17'\n\nThe digest is the one that `latticectl status` shows for the container."
    )]
    Image {
        /// Its digest: sha256: and 64 hexadecimal digits
        #[arg(value_name = "DIGEST")]
        digest: ImageDigest,
        /// Kill what runs of it; else that is reported, and goes on
        #[arg(long)]
        kill_running: bool,
        #[command(flatten)]
        change: DenyChange,
    },
    /// A file's content starts nowhere, at whatever path
    #[command(
        after_help = "Example:\n  latticectl deny file \"$(sha256sum < miner | cut -d' ' -f1)\" --reason 'incident 17'"
    )]
    File {
        /// SHA-256 of its content: 64 hexadecimal digits, sha256: before them or not
        #[arg(value_name = "DIGEST", value_parser = file_digest)]
        digest: FileDigest,
        #[command(flatten)]
        change: DenyChange,
    },
    /// Takes a denial back
    #[command(
        after_help = "Example:\n  latticectl deny remove file 9f86… --reason 'it was the wrong build'\n\nWho set it, when and why stays: `latticectl deny list --history`."
    )]
    Remove {
        /// What it is of
        #[arg(value_name = "image|file", value_parser = ["image", "file"])]
        of: String,
        /// The digest
        #[arg(value_name = "DIGEST")]
        digest: String,
        #[command(flatten)]
        change: DenyChange,
    },
    /// What is denied, by whom, since when and why
    List {
        /// What was lifted too; central only
        #[arg(long)]
        history: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutVerb {
    /// Where each workload is, what it waits for, and what is open
    #[command(after_help = "Examples:\n  latticectl rollout status\n  latticectl rollout status -n payments -o json")]
    Status {
        /// Only this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
    },
    /// What happened, when, by whom and why
    #[command(after_help = "Example:\n  latticectl rollout history -n payments --limit 20")]
    History {
        /// Only this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
        /// At most so many, the newest; 0 for all
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// What started, or tried to, and no list names: to be listed, or dismissed
    #[command(
        after_help = "Examples:\n  latticectl rollout misses -n payments\n  latticectl rollout misses --all -o json\n\nExits with 1 while any is open. A miss is over when its policy lists it (write it into the LatticeService: a command, a probe, a hook),\nor when somebody dismisses it: latticectl rollout dismiss."
    )]
    Misses {
        /// Only this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
        /// Those that are listed or dismissed too
        #[arg(long)]
        all: bool,
    },
    /// Says of misses that they are not to be listed; they do not keep anything from being enforced any more
    #[command(
        after_help = "Example:\n  latticectl rollout dismiss -n payments 3f0c2a9b7d11 --reason 'penetration test 12'"
    )]
    Dismiss {
        /// Which, as `latticectl rollout misses` shows them
        #[arg(required = true, value_name = "ID")]
        misses: Vec<String>,
        #[command(flatten)]
        which: RolloutTarget,
        /// Why; kept with who and when
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Agrees that what was seen is enough to enforce
    #[command(
        after_help = "Examples:\n  latticectl rollout approve -n payments\n  latticectl rollout approve -n payments --gate 5b1f0c --reason 'reviewed with the team'\n\nAn approval is of one operator's certificate, for what `status` shows as the gate, and for 24 hours. Cedar must permit\nPromoteEnforcement for it."
    )]
    Approve {
        #[command(flatten)]
        which: RolloutTarget,
        /// Only this gate, by its first digits; else what is asked now
        #[arg(long, value_name = "HASH", default_value = "")]
        gate: String,
        /// Kept with who and when
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// Return before the agents have applied it
        #[arg(long)]
        no_wait: bool,
    },
    /// What a rollout would have come to, had these policies been the lists: goes through what is recorded, and changes nothing
    #[command(
        after_help = "Examples:\n  latticectl rollout simulate candidate.yaml\n  latticectl rollout simulate --since 2w candidate.yaml -o json\n\nExits with 0 where nothing that is recorded would be refused, with 1 where something would, and with 2 where that cannot be said:\nwhat is allowed is not recorded, so an entry that the candidate has no more is an open question."
    )]
    Simulate {
        /// ExecPolicies and at most one LatticeRollout, of one namespace; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What was recorded within so much time, like 2w or 36h [default: all that is kept]
        #[arg(long, value_name = "SPAN")]
        since: Option<Timespan>,
    },
    /// Promotes nothing until it is resumed; what is enforced stays so
    #[command(after_help = "Example:\n  latticectl rollout pause -n payments --reason 'incident 17'")]
    Pause {
        /// The namespace
        #[arg(short, long, value_name = "NS")]
        namespace: String,
        /// Why; kept with who and when
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Goes on; a workload that was taken back begins in monitoring anew
    #[command(
        after_help = "Examples:\n  latticectl rollout resume -n payments --reason 'incident 17 is over'\n  latticectl rollout resume -n payments --workload server --reason 'the probe is listed now'"
    )]
    Resume {
        #[command(flatten)]
        which: RolloutTarget,
        /// Why; kept with who and when
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Takes back to monitor what the rollout enforces, at once; it stays there until it is resumed
    #[command(
        after_help = "Example:\n  latticectl rollout rollback -n payments --workload server --reason 'it does not start'"
    )]
    Rollback {
        #[command(flatten)]
        which: RolloutTarget,
        /// Why; kept with who and when
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Return before the agents have applied it
        #[arg(long)]
        no_wait: bool,
    },
}

/// What a change of a rollout is for.
#[derive(Debug, clap::Args)]
pub(crate) struct RolloutTarget {
    /// The namespace
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: String,
    /// Only this workload of it
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) workload: String,
}

/// What every change of the denylist says.
#[derive(Debug, clap::Args)]
pub(crate) struct DenyChange {
    /// Why; kept with who and when
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Return before the agents have applied it
    #[arg(long)]
    pub(crate) no_wait: bool,
}

impl DenyVerb {
    /// # Errors
    /// When the digest to be removed is none.
    fn check(&self) -> Result<(), clap::Error> {
        match self {
            Self::Remove { of, digest, .. } => Denied::parse(of, digest).map(drop).map_err(|error| {
                let message = format!("invalid value {digest:?} for '<DIGEST>': {error}");
                Arguments::command().error(ErrorKind::ValueValidation, message)
            }),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// The policies that are in force
    List {
        /// Only this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
    },
    /// Checks files and says in a sentence each what their objects mean; asks nobody
    #[command(
        after_help = "Examples:\n  latticectl policy check policies/*.yaml\n  latticectl policy check - < policy.yaml\n\nExits with 1 if anything is wrong, after all of it was named with file, line and field."
    )]
    Check {
        /// YAML or JSON files; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Writes policies in another form, on standard output; asks nobody
    #[command(
        after_help = "Examples:\n  latticectl policy convert --to exec-policy tetragon.yaml > policy.yaml\n  latticectl policy list -o json | jq -c '.items[]' | latticectl policy convert --to tracing-policy -\n\nWhat the other form does not say is on standard error, a line each. A policy for Tetragon carries the whole ExecPolicy in an\nannotation, so that nothing is lost on the way back. Exits with 1, and writes nothing, if anything cannot be represented."
    )]
    Convert {
        /// The form
        #[arg(long, value_enum, value_name = "FORM")]
        to: PolicyForm,
        /// Leave the annotation out: what is lost then is named
        #[arg(long)]
        plain: bool,
        /// YAML or JSON files; - is standard input
        #[arg(default_value = "-", value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// What a policy can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyForm {
    /// Lattice's own
    ExecPolicy,
    /// Tetragon's: TracingPolicyNamespaced
    TracingPolicy,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// The services that central has read, and how far each came
    List {
        /// Only this namespace
        #[arg(short, long, value_name = "NS")]
        namespace: Option<String>,
    },
}

impl Arguments {
    /// A flag wins over the environment, and central over the agent where both come from there.
    ///
    /// # Errors
    /// When both are flags, or central's URL or a file that it needs is not there.
    pub(crate) fn settled(mut self, matches: &ArgMatches) -> Result<Self, clap::Error> {
        if let Verb::Deny { verb } = &self.verb {
            verb.check()?;
        }
        let is_flag = |name| source(matches, name) == Some(ValueSource::CommandLine);
        if is_flag("agent") && is_flag("central") {
            let message = "--agent and --central cannot be used together: one of them answers";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        // An empty variable in the environment says nothing.
        if is_flag("agent") || (!is_flag("central") && self.central.as_deref() == Some("")) {
            self.central = None;
        }
        let Some(central) = &self.central else { return Ok(self) };
        if !central.starts_with("https://") {
            let message = "--central must begin with https://, since central speaks to nobody in the clear";
            return Err(Self::command().error(ErrorKind::ValueValidation, message));
        }
        for (flag, value) in [
            ("client-cert", &self.client_cert),
            ("client-key", &self.client_key),
            ("ca", &self.ca),
        ] {
            if value.is_none() {
                let message = format!("--central needs --{flag} FILE: central answers only whom it can identify");
                return Err(Self::command().error(ErrorKind::MissingRequiredArgument, message));
            }
        }
        Ok(self)
    }
}

/// Where a global argument comes from, whether it stands before or after the verb.
fn source(matches: &ArgMatches, name: &str) -> Option<ValueSource> {
    let here = matches.value_source(name);
    let below = matches.subcommand().and_then(|(_, below)| source_below(below, name));
    here.max(below)
}

fn source_below(matches: &ArgMatches, name: &str) -> Option<ValueSource> {
    matches.try_contains_id(name).ok().filter(|known| *known)?;
    source(matches, name)
}

fn mode(text: &str) -> Result<Mode, String> {
    text.parse()
        .map_err(|_| "the modes are monitor, enforce and deny".to_owned())
}

fn file_digest(text: &str) -> Result<FileDigest, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.parse().map_err(|error| format!("{error}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err("a whole number of seconds, at least 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sound() {
        Arguments::command().debug_assert();
    }
}
