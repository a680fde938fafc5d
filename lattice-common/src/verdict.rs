//! The verdict: one pure function from the facts of an exec to what is done about it.
//!
//! Both tiers call it at every exec; nothing about its result is cached, so a flip of the mode or a revoked entry holds from
//! the next exec on.

/// Defines a set of named `u32` values that cross the kernel boundary. Not an enum: the other side may be of another release.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$word_meta:meta])* $word:ident = $value:literal $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(transparent)]
        pub struct $name(pub u32);

        impl $name {
            $($(#[$word_meta])* pub const $word: Self = Self($value);)+
            /// Every value with a meaning.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// The word that events, metrics and tables use; `None` for a value of another release.
            pub const fn text(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)+
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// What is done about a refusal. Any other value acts as [`Mode::DENY`], so that garbage never opens.
    Mode {
        /// It runs, with an event.
        MONITOR = 1 "monitor",
        /// -EPERM and SIGKILL.
        ENFORCE = 2 "enforce",
        /// -EPERM alone.
        DENY = 3 "deny",
    }
}

words! {
    /// The chosen meaning of a failure. Any other value acts as [`FailAction::CLOSED`]; so does memory that nobody has filled.
    FailAction {
        /// Refused without a signal.
        CLOSED = 0 "closed",
        /// Refused with SIGKILL.
        KILL = 1 "kill",
        /// Allowed, counted, with an event.
        OPEN = 2 "open",
    }
}

words! {
    /// How a file takes part in an exec.
    Role {
        /// The file that execve names.
        TARGET = 0 "target",
        /// The file that the `#!` line (or binfmt_misc) names.
        SCRIPT_INTERPRETER = 1 "script-interpreter",
        /// The file that PT_INTERP names.
        ELF_INTERPRETER = 2 "elf-interpreter",
        /// A file that a running program maps executable.
        MAPPING = 3 "mapping",
    }
}

words! {
    /// Where the calling task came from; one bit each, as in [`EntryRule`](crate::abi::EntryRule).
    Origin {
        /// A descendant of the container's first process.
        INIT = 1 "init",
        /// A descendant of a process that entered from outside: probe, hook, `kubectl exec`.
        EXEC_SESSION = 2 "exec-session",
        /// Already there when the agent came; only entries `from: any` hold for it.
        UNKNOWN = 4 "unknown",
    }
}

words! {
    /// To what the calling task belongs.
    Membership {
        /// No container of ours: the host's own processes.
        OUTSIDE = 1 "outside",
        /// The container runtime at work inside the container's cgroup, by its digest.
        RUNTIME_HELPER = 2 "runtime-helper",
        /// A container with a policy.
        MEMBER = 3 "member",
        /// A container without a policy.
        MISSING_POLICY = 4 "missing-policy",
        /// A cgroup below a known pod that no map knows yet.
        PENDING = 5 "pending",
        /// A cgroup below the managed root that no map knows.
        UNKNOWN = 6 "unknown",
    }
}

words! {
    /// What is known of the file.
    Identity {
        /// Its digest is listed.
        LISTED_DIGEST = 1 "listed-digest",
        /// Its path is listed.
        LISTED_PATH = 2 "listed-path",
        /// It is known, and no entry names it.
        UNLISTED = 3 "unlisted",
        /// Neither digest nor path could be had.
        UNRESOLVED = 4 "unresolved",
        /// A file of the container's own image, as the image has it.
        IN_IMAGE = 5 "in-image",
        /// No file: memory that turns executable.
        ANONYMOUS = 6 "anonymous",
    }
}

words! {
    /// What is judged. A mapping comes with what its policy says of code loading; any other value acts as [`Act::MAP_LISTED`].
    Act {
        /// A file of an exec.
        EXEC = 0 "exec",
        /// A mapping, under `codeLoading: off`.
        MAP_OFF = 1 "map-off",
        /// A mapping, under `codeLoading: note`.
        MAP_NOTE = 2 "map-note",
        /// A mapping, under `codeLoading: image`.
        MAP_IMAGE = 3 "map-image",
        /// A mapping, under `codeLoading: listed`.
        MAP_LISTED = 4 "map-listed",
        /// A call of bpf(2); granted where any origin is allowed.
        BPF = 5 "bpf",
        /// A signal to the agent.
        SIGNAL = 6 "signal",
        /// Tracing the agent, or reading its memory.
        TRACE = 7 "trace",
        /// Removing or replacing a pin of Lattice.
        PINS = 8 "pins",
    }
}

words! {
    /// Why a program was allowed or refused; each is a counter, `lattice_verdicts_total{reason="…"}`.
    Reason {
        /// Allowed: the caller belongs to no container of ours.
        OUTSIDE = 0 "outside",
        /// Allowed: the container runtime's own program.
        RUNTIME_HELPER = 1 "runtime-helper",
        /// Allowed: the digest is listed for this role and origin.
        LISTED_DIGEST = 2 "listed-digest",
        /// Allowed: the path is listed for this role and origin.
        LISTED_PATH = 3 "listed-path",
        /// Allowed: no policy for this container, and its namespace says `missing: open`.
        MISSING_OPEN = 4 "missing-open",
        /// Allowed with an event: `unresolved: open`.
        UNRESOLVED_OPEN = 5 "unresolved-open",
        /// Allowed with an event: an unknown cgroup, and the node says `open`.
        UNKNOWN_OPEN = 6 "unknown-open",
        /// Allowed with an event: a pending container, and its namespace says `open`.
        PENDING_OPEN = 7 "pending-open",
        /// Allowed: a mapping that nobody is to judge: code loading is off, or there is no policy.
        MAPPED_FREELY = 8 "mapped-freely",
        /// Allowed: a mapping of a file of the container's own image.
        MAPPED_IMAGE = 9 "mapped-image",
        /// Allowed: a mapping of a file that the policy's `map` names.
        MAPPED_LISTED = 10 "mapped-listed",
        /// Allowed: memory that turns executable, as of a compiler at run time; one event a program.
        MAPPED_ANONYMOUS = 11 "mapped-anonymous",
        /// Allowed: bpf(2) by a container without a policy, or of a namespace that it was granted to.
        GRANTED = 12 "granted",
        /// Refused: no entry names it.
        UNLISTED = 16 "unlisted",
        /// Refused: listed, but not in this role (the ELF loader as a command, say).
        ROLE = 17 "role",
        /// Refused: listed, but not from here (a probe's shell started by the application, say).
        ORIGIN = 18 "origin",
        /// Refused: on the denylist, whatever the mode.
        DENYLISTED = 19 "denylisted",
        /// Refused: neither digest nor path could be had.
        UNRESOLVED = 20 "unresolved",
        /// Refused: no policy for this container.
        MISSING = 21 "missing",
        /// Refused: a cgroup below the managed root that no map knows.
        UNKNOWN = 22 "unknown",
        /// Refused: a container whose policy is still on its way.
        PENDING = 23 "pending",
        /// Refused: an executable mapping of a file that is not the image's and that `map` does not name.
        MAPPING = 24 "mapping",
        /// Refused in every mode: a call of bpf(2).
        BPF = 25 "bpf",
        /// Refused in every mode: a signal to the agent.
        SIGNAL = 26 "signal",
        /// Refused in every mode: tracing the agent.
        TRACE = 27 "trace",
        /// Refused in every mode: a change of Lattice's pins.
        PINS = 28 "pins",
        /// Refused: a program of many applets, listed for others than the one that its name calls.
        APPLET = 29 "applet",
    }
}

words! {
    /// What is done.
    Effect {
        /// It runs; counted, no event.
        RUN = 1 "run",
        /// It runs, with an event.
        NOTE = 2 "none",
        /// -EPERM, with an event. Where no hook can return an error this becomes a kill.
        DENY = 3 "deny",
        /// -EPERM and SIGKILL, with an event.
        KILL = 4 "deny+kill",
    }
}

/// Everything that the verdict depends on, as the hook found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What is judged.
    pub act: Act,
    /// To what the caller belongs.
    pub membership: Membership,
    /// What is known of the file.
    pub identity: Identity,
    /// Origins for which the matching entry allows `role`, as a set of [`Origin`] bits; 0 without a match or for another role.
    pub allowed_origins: u32,
    /// Whether the matching entry allows any other role.
    pub other_role: bool,
    /// Whether the identity is listed in this role under other names.
    pub other_name: bool,
    /// Where the caller came from.
    pub origin: Origin,
    /// Whether the digest is on the denylist.
    pub denylisted: bool,
    /// The mode that holds for the container, or for the pending container's namespace; ENFORCE for an unknown cgroup.
    pub mode: Mode,
    /// What the failure at hand means: of `unresolved`, `missing`, `pending` or `unknown`, the one that `membership` and
    /// `identity` call for.
    pub fail: FailAction,
}

/// What is done, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
}

impl Decision {
    /// Whether the program starts.
    #[inline(always)]
    pub const fn runs(self) -> bool {
        matches!(self.effect, Effect::RUN | Effect::NOTE)
    }
}

impl Facts {
    /// The facts in one register, eight bits each in the order of the fields: as such they cross into a BPF function that the
    /// verifier checks once, rather than with every combination that leads to it.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.membership.0 & 0xff) as u64
            | ((self.identity.0 & 0xff) as u64) << 8
            | ((self.allowed_origins & 0xff) as u64) << 16
            | (self.other_role as u64) << 24
            | ((self.act.0 & 0xf) as u64) << 25
            | (self.other_name as u64) << 29
            | ((self.origin.0 & 0xff) as u64) << 32
            | (self.denylisted as u64) << 40
            | ((self.mode.0 & 0xff) as u64) << 48
            | ((self.fail.0 & 0xff) as u64) << 56
    }

    /// What [`Facts::pack`] packed.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        Self {
            act: Act((packed >> 25 & 0xf) as u32),
            membership: Membership((packed & 0xff) as u32),
            identity: Identity((packed >> 8 & 0xff) as u32),
            allowed_origins: (packed >> 16 & 0xff) as u32,
            other_role: packed >> 24 & 1 == 1,
            other_name: packed >> 29 & 1 == 1,
            origin: Origin((packed >> 32 & 0xff) as u32),
            denylisted: packed >> 40 & 1 == 1,
            mode: Mode((packed >> 48 & 0xff) as u32),
            fail: FailAction((packed >> 56 & 0xff) as u32),
        }
    }
}

impl Decision {
    /// The decision in one register.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.effect.0 as u64 | (self.reason.0 as u64) << 32
    }

    /// What [`Decision::pack`] packed.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        Self {
            effect: Effect(packed as u32),
            reason: Reason((packed >> 32) as u32),
        }
    }
}

/// Judges one file of one exec, one mapping, or one reach for Lattice itself.
///
/// The order is the precedence: a denylisted digest is refused for members in every mode; failures have the meaning that was
/// chosen for them; then the entry's role and origin; what is left is unlisted.
#[inline(always)]
pub const fn verdict(facts: Facts) -> Decision {
    match facts.act {
        Act::EXEC => exec(facts),
        Act::BPF => match facts.membership {
            Membership::MISSING_POLICY => allow(Reason::GRANTED),
            _ if facts.allowed_origins != 0 => allow(Reason::GRANTED),
            _ => guarded(facts, Reason::BPF),
        },
        Act::SIGNAL => guarded(facts, Reason::SIGNAL),
        Act::TRACE => guarded(facts, Reason::TRACE),
        Act::PINS => guarded(facts, Reason::PINS),
        _ => mapping(facts),
    }
}

/// What no container may do, whatever the mode.
#[inline(always)]
const fn guarded(facts: Facts, reason: Reason) -> Decision {
    match facts.membership {
        Membership::OUTSIDE => allow(Reason::OUTSIDE),
        Membership::RUNTIME_HELPER => allow(Reason::RUNTIME_HELPER),
        _ => Decision {
            effect: Effect::DENY,
            reason,
        },
    }
}

/// A refused mapping is -EPERM and no signal: the program is an allowed one, and its loader goes on without the file or gives up.
#[inline(always)]
const fn mapping(facts: Facts) -> Decision {
    match facts.membership {
        Membership::OUTSIDE | Membership::RUNTIME_HELPER => allow(Reason::MAPPED_FREELY),
        _ if facts.denylisted => Decision {
            effect: Effect::KILL,
            reason: Reason::DENYLISTED,
        },
        Membership::MEMBER => match (facts.act, facts.identity) {
            (Act::MAP_OFF, _) => allow(Reason::MAPPED_FREELY),
            (_, Identity::LISTED_DIGEST | Identity::LISTED_PATH) if facts.allowed_origins & facts.origin.0 != 0 => {
                allow(Reason::MAPPED_LISTED)
            }
            (Act::MAP_NOTE | Act::MAP_IMAGE, Identity::IN_IMAGE) => allow(Reason::MAPPED_IMAGE),
            (_, Identity::ANONYMOUS) => Decision {
                effect: Effect::NOTE,
                reason: Reason::MAPPED_ANONYMOUS,
            },
            (Act::MAP_NOTE, _) => refused(Mode::MONITOR, Reason::MAPPING),
            (_, Identity::UNRESOLVED) => failed(facts, Reason::UNRESOLVED_OPEN, Reason::UNRESOLVED),
            _ => match facts.mode {
                Mode::MONITOR => refused(Mode::MONITOR, Reason::MAPPING),
                _ => refused(Mode::DENY, Reason::MAPPING),
            },
        },
        // What such a task was allowed to start without a policy may load what it likes.
        _ => allow(Reason::MAPPED_FREELY),
    }
}

#[inline(always)]
const fn exec(facts: Facts) -> Decision {
    match facts.membership {
        Membership::OUTSIDE => allow(Reason::OUTSIDE),
        Membership::RUNTIME_HELPER => allow(Reason::RUNTIME_HELPER),
        _ if facts.denylisted => Decision {
            effect: Effect::KILL,
            reason: Reason::DENYLISTED,
        },
        // Open means that the owner wants containers without a policy to run: an event for each of their execs would bury all
        // others, so the agent reports the container once, and the counter counts every exec.
        Membership::MISSING_POLICY => match facts.fail {
            FailAction::OPEN => allow(Reason::MISSING_OPEN),
            _ => failed(facts, Reason::MISSING_OPEN, Reason::MISSING),
        },
        Membership::PENDING => failed(facts, Reason::PENDING_OPEN, Reason::PENDING),
        Membership::MEMBER => match facts.identity {
            Identity::LISTED_DIGEST => listed(facts, Reason::LISTED_DIGEST),
            Identity::LISTED_PATH => listed(facts, Reason::LISTED_PATH),
            Identity::UNLISTED => refused(facts.mode, Reason::UNLISTED),
            _ => failed(facts, Reason::UNRESOLVED_OPEN, Reason::UNRESOLVED),
        },
        _ => failed(facts, Reason::UNKNOWN_OPEN, Reason::UNKNOWN),
    }
}

#[inline(always)]
const fn allow(reason: Reason) -> Decision {
    Decision {
        effect: Effect::RUN,
        reason,
    }
}

#[inline(always)]
const fn listed(facts: Facts, reason: Reason) -> Decision {
    if facts.allowed_origins & facts.origin.0 != 0 {
        allow(reason)
    } else if facts.allowed_origins != 0 {
        refused(facts.mode, Reason::ORIGIN)
    } else if facts.other_name {
        refused(facts.mode, Reason::APPLET)
    } else if facts.other_role {
        refused(facts.mode, Reason::ROLE)
    } else {
        refused(facts.mode, Reason::UNLISTED)
    }
}

#[inline(always)]
const fn refused(mode: Mode, reason: Reason) -> Decision {
    let effect = match mode {
        Mode::MONITOR => Effect::NOTE,
        Mode::ENFORCE => Effect::KILL,
        _ => Effect::DENY,
    };
    Decision { effect, reason }
}

/// In monitor nothing is refused for a failure of ours; else it means what was chosen.
#[inline(always)]
const fn failed(facts: Facts, open: Reason, closed: Reason) -> Decision {
    match (facts.fail, facts.mode) {
        (FailAction::OPEN, _) => Decision {
            effect: Effect::NOTE,
            reason: open,
        },
        (_, Mode::MONITOR) => Decision {
            effect: Effect::NOTE,
            reason: closed,
        },
        (FailAction::KILL, _) => Decision {
            effect: Effect::KILL,
            reason: closed,
        },
        _ => Decision {
            effect: Effect::DENY,
            reason: closed,
        },
    }
}

#[cfg(test)]
mod tests;
