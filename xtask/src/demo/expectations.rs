//! What the demo expects of each step, as data. A step plays and observes; only here is said what is right.

use std::fmt;

use super::report::EventSeen;

/// How a program is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// With exit status 0.
    Well,
    /// By SIGKILL: its own, or what a shell says of the program in it.
    Killed,
    /// By SIGKILL, or its start is refused: the first program of an exec session may die either way, since the runtime waits
    /// for it.
    Refused,
}

impl fmt::Display for Ends {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Well => "exit 0",
            Self::Killed => "signal 9",
            Self::Refused => "signal 9 or not started",
        })
    }
}

/// An event that has to come.
#[derive(Debug)]
pub(super) struct WantedEvent {
    /// End of the program's path; what finds the event.
    pub(super) path: &'static str,
    pub(super) role: &'static str,
    /// One of these. What one tier knows by its content, the other cannot resolve.
    pub(super) reasons: &'static [&'static str],
    /// Whether the program ran (monitor), or was refused.
    pub(super) ran: bool,
}

impl WantedEvent {
    /// How an event of this path differs.
    pub(super) fn differences(&self, event: &EventSeen) -> Vec<String> {
        let mut differences = Vec::new();
        if !self.reasons.contains(&event.reason.as_str()) {
            differences.push(format!(
                "{}: reason {} instead of {}",
                self.path,
                event.reason,
                self.reasons.join(" or ")
            ));
        }
        if event.role != self.role {
            differences.push(format!("{}: role {} instead of {}", self.path, event.role, self.role));
        }
        let ran = event.effective_action == "none";
        if ran != self.ran || event.effective_action.is_empty() {
            let wanted = if self.ran { "none" } else { "a refusal" };
            differences.push(format!(
                "{}: action {} instead of {wanted}",
                self.path, event.effective_action
            ));
        }
        differences
    }
}

/// What one part of a step has to show.
#[derive(Debug)]
pub(super) struct Expectation {
    pub(super) step: u8,
    /// For programs.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    pub(super) ends: Option<Ends>,
    /// Whether the canary is to leave its mark; None where no canary takes part.
    pub(super) mark: Option<bool>,
    pub(super) events: &'static [WantedEvent],
    /// No event about what the step does may come.
    pub(super) is_silent: bool,
    pub(super) facts: &'static [(&'static str, &'static str)],
}

impl fmt::Display for Expectation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.ends.map(|ends| ends.to_string()));
        parts.extend(
            self.mark
                .map(|left| if left { "mark left" } else { "no mark" }.to_owned()),
        );
        parts.extend(self.events.iter().map(|event| {
            let action = if event.ran { "none" } else { "refused" };
            format!("event: …{} {} ({action})", event.path, event.reasons.join("|"))
        }));
        if self.is_silent {
            parts.push("no event".to_owned());
        }
        parts.extend(self.facts.iter().map(|(name, value)| format!("{name}: {value}")));
        formatter.write_str(&parts.join("\n"))
    }
}

/// The base of every expectation below.
const NOTHING: Expectation = Expectation {
    step: 0,
    name: "",
    title: "",
    ends: None,
    mark: None,
    events: &[],
    is_silent: false,
    facts: &[],
};

const UNLISTED: &[&str] = &["unlisted"];
/// Content outside the image's layers: tier 1 hashes it and finds it unlisted; tier 2 does not take it for an identity.
const FOREIGN: &[&str] = &["unlisted", "unresolved"];

const fn target(path: &'static str, reasons: &'static [&'static str], ran: bool) -> WantedEvent {
    WantedEvent {
        path,
        role: "target",
        reasons,
        ran,
    }
}

const fn interpreter(ran: bool) -> WantedEvent {
    WantedEvent {
        path: "ld-linux-x86-64.so.2",
        role: "elf-interpreter",
        reasons: FOREIGN,
        ran,
    }
}

/// Everything, in the order of play.
pub(super) const EXPECTATIONS: &[Expectation] = &[
    Expectation {
        step: 1,
        name: "image-signed",
        title: "the image is pushed and signed",
        facts: &[("image", "in the registry"), ("signature", "in the registry")],
        ..NOTHING
    },
    Expectation {
        step: 2,
        name: "tag-refused",
        title: "a tag instead of a digest is refused",
        facts: &[
            ("stopped at", "ImageVerified"),
            ("reason", "TagNotAllowed"),
            ("message names AllowTagReference", "yes"),
            ("policy", "none"),
        ],
        ..NOTHING
    },
    Expectation {
        step: 2,
        name: "policy-derived",
        title: "by digest: verified, permitted, derived",
        facts: &[
            ("signed by", "signing-keys/cosign-public"),
            ("reason", "InForce"),
            (
                "entries",
                "/app/server /bin/sh /lib64/ld-linux-x86-64.so.2 /usr/bin/curl",
            ),
        ],
        ..NOTHING
    },
    Expectation {
        step: 3,
        name: "container-found",
        title: "the agent has the policy and finds the container",
        facts: &[
            ("agent", "connected"),
            ("policy of the container", "payments/payment-service"),
            ("mode", "monitor"),
            ("first exec judged", "yes"),
            ("healthz", "200"),
        ],
        ..NOTHING
    },
    Expectation {
        step: 4,
        name: "monitor-attack",
        title: "monitor: the attack runs and is reported",
        ends: Some(Ends::Well),
        mark: Some(true),
        events: &[
            target("/usr/bin/wget", UNLISTED, true),
            target("/tmp/backdoor", FOREIGN, true),
        ],
        facts: &[("downloads", "1")],
        ..NOTHING
    },
    Expectation {
        step: 4,
        name: "monitor-changed-copy",
        title: "monitor: curl with one byte changed runs",
        ends: Some(Ends::Well),
        events: &[target("/tmp/curl", FOREIGN, true)],
        ..NOTHING
    },
    Expectation {
        step: 4,
        name: "monitor-loader",
        title: "monitor: a replaced ELF interpreter runs",
        ends: Some(Ends::Well),
        mark: Some(true),
        events: &[interpreter(true)],
        ..NOTHING
    },
    Expectation {
        step: 4,
        name: "monitor-application-shell",
        title: "monitor: the application starts the probe's shell",
        ends: Some(Ends::Well),
        events: &[target("sh", &["origin"], true)],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-set",
        title: "the mode changes live",
        facts: &[("mode", "enforce"), ("agent", "the same process")],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-attack",
        title: "enforce: the same attack dies at wget",
        ends: Some(Ends::Killed),
        mark: Some(false),
        events: &[target("/usr/bin/wget", UNLISTED, false)],
        facts: &[("downloads", "0")],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-changed-copy",
        title: "enforce: curl with one byte changed dies",
        ends: Some(Ends::Refused),
        events: &[target("/tmp/curl", FOREIGN, false)],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-loader",
        title: "enforce: a replaced ELF interpreter does not run",
        ends: Some(Ends::Refused),
        mark: Some(false),
        events: &[interpreter(false)],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-loader-as-command",
        title: "enforce: the ELF loader as a command is refused",
        ends: Some(Ends::Refused),
        events: &[target("ld-linux-x86-64.so.2", &["role"], false)],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-probe",
        title: "enforce: the probe goes on working",
        ends: Some(Ends::Well),
        is_silent: true,
        facts: &[("output", "ok")],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-application-shell",
        title: "enforce: the application cannot start the probe's shell",
        ends: Some(Ends::Refused),
        events: &[target("sh", &["origin"], false)],
        ..NOTHING
    },
    Expectation {
        step: 5,
        name: "enforce-server",
        title: "enforce: the server answers",
        facts: &[("healthz", "200")],
        ..NOTHING
    },
    Expectation {
        step: 6,
        name: "http-probe-derived",
        title: "an HTTP probe: the list has neither sh nor curl",
        facts: &[("entries", "/app/server /lib64/ld-linux-x86-64.so.2")],
        ..NOTHING
    },
    Expectation {
        step: 6,
        name: "http-probe-shell",
        title: "sh dies",
        ends: Some(Ends::Refused),
        events: &[target("sh", UNLISTED, false)],
        ..NOTHING
    },
    Expectation {
        step: 6,
        name: "http-probe-curl",
        title: "curl dies",
        ends: Some(Ends::Refused),
        events: &[target("/usr/bin/curl", UNLISTED, false)],
        ..NOTHING
    },
    Expectation {
        step: 6,
        name: "http-probe-server",
        title: "the server answers",
        facts: &[("healthz", "200")],
        ..NOTHING
    },
    Expectation {
        step: 7,
        name: "unsigned-refused",
        title: "an unsigned twin: no policy, no workload",
        facts: &[
            ("stopped at", "ImageVerified"),
            ("reason", "Unsigned"),
            ("policy", "none"),
            ("containers", "0"),
            ("message says what to do", "yes"),
        ],
        ..NOTHING
    },
    Expectation {
        step: 7,
        name: "other-key-refused",
        title: "signed by another key: no policy, no workload",
        facts: &[
            ("stopped at", "ImageVerified"),
            ("reason", "SignedByOtherKey"),
            ("policy", "none"),
            ("containers", "0"),
            ("message says what to do", "yes"),
        ],
        ..NOTHING
    },
    Expectation {
        step: 8,
        name: "agent-killed",
        title: "the agent is killed: wget still dies, and is reported later",
        ends: Some(Ends::Refused),
        events: &[target("/usr/bin/wget", UNLISTED, false)],
        facts: &[("downloads", "0"), ("event before the agent is back", "no")],
        ..NOTHING
    },
    Expectation {
        step: 8,
        name: "agent-back",
        title: "the agent is back: enforce holds, the server answers",
        ends: Some(Ends::Refused),
        events: &[target("/usr/bin/wget", UNLISTED, false)],
        facts: &[("mode", "enforce"), ("downloads", "0"), ("healthz", "200")],
        ..NOTHING
    },
];
