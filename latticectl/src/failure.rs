//! Why there is no answer, or not the one that was asked for: a sentence, what to do, and the exit code.

use std::{io, path::PathBuf};

use lattice_policy::escape::for_terminal;
use tonic::Code;

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The other side cannot be reached.
    #[error("{whom} cannot be reached: {reason}. {advice}")]
    Unreachable {
        whom: String,
        reason: String,
        advice: &'static str,
    },
    /// The other side answered with an error.
    #[error("{}", refusal(whom, status))]
    Answer { whom: String, status: Box<tonic::Status> },
    /// No answer in time.
    #[error("{whom} did not answer within {seconds} s. Try again with a longer --timeout.")]
    TimedOut { whom: String, seconds: u64 },
    /// The other side ended a stream that was to go on.
    #[error("{whom} ended the stream. Run the command again to go on; what it stored meanwhile comes first.")]
    StreamEnded { whom: String },
    /// The answer cannot be read by this release.
    #[error("what {whom} answered cannot be read: {reason}")]
    Unreadable { whom: String, reason: String },
    /// A file cannot be read.
    #[error("{}: {reason}", for_terminal(&path.display().to_string()))]
    File { path: PathBuf, reason: String },
    /// Something that the operating system refused.
    #[error("cannot {what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// Files were read, and something in them is wrong; it has been shown.
    #[error("{count} finding{} in the files", if *count == 1 { "" } else { "s" })]
    Findings { count: usize },
    /// Some agents have not applied what was set.
    #[error(
        "only {applied} of {connected} connected agents have applied it so far. `latticectl status` shows what keeps the others."
    )]
    NotApplied { applied: u32, connected: u32 },
    /// Misses were shown that nobody has reviewed.
    #[error(
        "{count} miss{} open: name the program in the service's command, probes or hooks, or dismiss it with a reason",
        if *count == 1 { " is" } else { "es are" }
    )]
    OpenMisses { count: usize },
    /// A candidate would refuse what is recorded.
    #[error(
        "the candidate would have refused what is recorded: list it, or dismiss it with a reason once it is a miss"
    )]
    WouldRefuse,
    /// What a candidate refuses is not all recorded.
    #[error(
        "nothing that is recorded would be refused, but the candidate refuses what the lists in force allow, or has policies of which nothing is known; see above"
    )]
    NotRecorded,
    /// The agent's program did not say what the node offers.
    #[error("no agent answers, and {} does not say what this node offers: {}. Name it with --program.", for_terminal(&program.display().to_string()), for_terminal(reason))]
    Program { program: PathBuf, reason: String },
    /// The node was looked at: it has no tier.
    #[error("nothing can be enforced on this node; what is missing is above")]
    NothingEnforced,
    /// The node was looked at, as far as possible.
    #[error("what this node can enforce could not be found out; see above, and run this as root on the node")]
    NotFoundOut,
    /// The node was looked at: its tier is not the one that was asked for.
    #[error("this node has tier {found}, and tier {required} is required")]
    TierTooLow { required: u32, found: u32 },
    /// Whoever read the output has closed it; that is no error.
    #[error("the output was closed")]
    ReaderGone,
}

impl Failure {
    /// 1 for no, 2 for don't know.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Findings { .. }
            | Self::OpenMisses { .. }
            | Self::WouldRefuse
            | Self::NotApplied { .. }
            | Self::NothingEnforced
            | Self::TierTooLow { .. } => 1,
            Self::Answer { status, .. } => match status.code() {
                Code::PermissionDenied
                | Code::Unauthenticated
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::NotFound
                | Code::AlreadyExists
                | Code::Aborted
                | Code::OutOfRange => 1,
                _ => 2,
            },
            _ => 2,
        }
    }
}

fn refusal(whom: &str, status: &tonic::Status) -> String {
    let message = for_terminal(status.message());
    let (verb, advice) = match status.code() {
        Code::PermissionDenied => ("refused", " Use a certificate with the role operator."),
        Code::Unauthenticated => ("does not know who asks", " Check --client-cert and --client-key."),
        Code::Unimplemented => ("cannot do this", ""),
        Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound => ("refused", ""),
        Code::Unavailable => ("is not available", " Try again; if it lasts, look at its log."),
        _ => ("answered with an error", " Look at its log."),
    };
    let message = match message.is_empty() {
        true => format!("{:?}", status.code()),
        false => message,
    };
    format!("{whom} {verb}: {}.{advice}", message.trim_end_matches('.'))
}
