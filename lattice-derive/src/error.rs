//! What can go wrong with a derivation, in words that say what to do.

use std::fmt;

use lattice_policy::{FilePath, ImageDigest};

use crate::{image::DiffId, shell::ShellError, tree::LookupError};

/// Where in a specification a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandField {
    /// `Entrypoint` and `Cmd` of the image.
    Entrypoint,
    /// `command` and `args` of the container.
    Command,
    /// `readinessProbe.exec`.
    ReadinessProbe,
    /// `livenessProbe.exec`.
    LivenessProbe,
    /// `startupProbe.exec`.
    StartupProbe,
    /// `lifecycle.postStart.exec`.
    PostStart,
    /// `lifecycle.preStop.exec`.
    PreStop,
    /// A utility that the platform permits in exec sessions.
    Utility,
    /// Every executable of the image (scope `image`).
    Image,
}

impl fmt::Display for CommandField {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Entrypoint => "entrypoint",
            Self::Command => "container command",
            Self::ReadinessProbe => "readiness probe",
            Self::LivenessProbe => "liveness probe",
            Self::StartupProbe => "startup probe",
            Self::PostStart => "postStart hook",
            Self::PreStop => "preStop hook",
            Self::Utility => "permitted utility",
            Self::Image => "image scope",
        })
    }
}

/// What is wrong with one command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No directory of PATH has it.
    #[error(
        "not found in PATH {path_variable} of image {image}; install it in the image, or take it out of the command"
    )]
    NotInPath {
        /// The value that was used.
        path_variable: FilePath,
        /// The image.
        image: ImageDigest,
    },
    /// Its path leads nowhere.
    #[error("{lookup}, in image {image}; correct the path, or add the file to the image")]
    NotFound {
        /// Where the look-up ended.
        lookup: LookupError,
        /// The image.
        image: ImageDigest,
    },
    /// Its path is a directory.
    #[error("{path} is a directory of image {image}; name a program in it")]
    Directory {
        /// The directory.
        path: FilePath,
        /// The image.
        image: ImageDigest,
    },
    /// What its first line or PT_INTERP names is missing.
    #[error("{path} needs the interpreter {interpreter}, but {lookup}; add the interpreter to image {image}")]
    Interpreter {
        /// The program.
        path: FilePath,
        /// What it names.
        interpreter: FilePath,
        /// Where the look-up ended.
        lookup: LookupError,
        /// The image.
        image: ImageDigest,
    },
    /// The ELF loader as a program: it would start any file it is given.
    #[error("{path} is the ELF loader, which may serve as interpreter only; name the program itself")]
    Loader {
        /// The loader.
        path: FilePath,
    },
    /// Neither ELF nor a readable `#!` line.
    #[error("{path} is neither an ELF file nor a script with a #! line, so the kernel cannot start it; add a #! line")]
    NoFormat {
        /// The file.
        path: FilePath,
    },
    /// The ELF file's layout hides its interpreter from a single pass.
    #[error("PT_INTERP of {path} lies before its program headers and cannot be read from a stream; link the file anew")]
    UnreadableElf {
        /// The file.
        path: FilePath,
    },
    /// Interpreters of interpreters.
    #[error(
        "{path} has more than 5 interpreters one behind the other, which Linux refuses; shorten the chain of #! lines"
    )]
    ShebangDepth {
        /// The script.
        path: FilePath,
    },
    /// Only a run can tell.
    #[error("cannot be known before it runs: {what}; write the program's name out, or list it by hand")]
    CannotBeKnown {
        /// What it depends on.
        what: String,
    },
    /// A wrapper's option that we do not know.
    #[error("option {option} of {wrapper} is not known, so that the program it starts cannot be told; list it by hand")]
    UnknownOption {
        /// The wrapper.
        wrapper: String,
        /// The option.
        option: String,
    },
    /// The text is not to be had.
    #[error(
        "the text of {path} is not to be had (not a shell script, or longer than 64 KiB); list by hand what it starts"
    )]
    NoText {
        /// The file.
        path: FilePath,
    },
    /// The text cannot be read as shell.
    #[error("cannot be read as shell text: {0}; simplify it, or list by hand what it starts")]
    Shell(ShellError),
    /// What a supervisor starts stands in its configuration.
    #[error("what {supervisor} starts stands in its configuration, which is not read; list it by hand")]
    Supervisor {
        /// The supervisor.
        supervisor: String,
    },
    /// A multicall program called by its own name.
    #[error("{name} called by its own name may run any of its applets; call the applet by its own name")]
    OwnName {
        /// The name.
        name: String,
    },
}

/// One command and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} command {word:?} of container {container}: {problem}")]
pub struct CommandProblem {
    /// The container.
    pub container: String,
    /// Where the command stands.
    pub field: CommandField,
    /// The word that names the program.
    pub word: String,
    /// What is wrong.
    pub problem: Problem,
}

/// Why there is no list. It is all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// A command of the specification cannot start.
    #[error(transparent)]
    Command(#[from] Box<CommandProblem>),
    /// Neither the image nor the container says what to start.
    #[error("container {container}: neither image {image} nor the container names a command; set command")]
    NoCommand {
        /// The container.
        container: String,
        /// The image.
        image: ImageDigest,
    },
    /// The caller has no image for this container.
    #[error("container {container}: its image was not read; read it first")]
    NoImage {
        /// The container.
        container: String,
    },
    /// Two containers of one name.
    #[error("two containers have the name {container}; give each its own")]
    DuplicateContainer {
        /// The name.
        container: String,
    },
    /// The image has nothing to run.
    #[error("image {image} has no layers; build it with at least one")]
    NoLayers {
        /// The image.
        image: ImageDigest,
    },
    /// The layers are not those that the image's configuration lists.
    #[error("image {image}: layer {index} is {found}, but its configuration lists {expected}; read the image anew")]
    WrongLayer {
        /// The image.
        image: ImageDigest,
        /// Number of the layer, from 0.
        index: usize,
        /// What was given.
        found: String,
        /// What the configuration lists.
        expected: String,
    },
    /// More programs or steps than a list may have.
    #[error("container {container}: the derivation takes more than {limit} steps; simplify its scripts")]
    TooLarge {
        /// The container.
        container: String,
        /// The limit.
        limit: usize,
    },
}

/// What a person should know about a list that was derived all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Diagnostic {
    /// A command that an image's script, an alternative or a variable names; it is not listed.
    #[error("{0}")]
    NotListed(CommandProblem),
    /// Runtimes differ in what they show there.
    #[error(
        "container {container}: layer {layer} writes below {path}, which an older layer has as a symbolic link to {target}; \
         overlayfs hides the link, other runtimes write through it; add an entry for the directory or write to {target}"
    )]
    HiddenLink {
        /// The container.
        container: String,
        /// The directory.
        path: FilePath,
        /// What the link says.
        target: FilePath,
        /// The layer.
        layer: DiffId,
    },
}
