//! How far a service came: ImageVerified, Authorized, Derived, Ready, in this order. The first that is not True says where
//! the chain stopped, why, and what to do.

use crate::board::Key;

/// A step of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Every image resolved and signed by a trusted key.
    ImageVerified,
    /// Cedar permits it.
    Authorized,
    /// The list was derived from the image's layers.
    Derived,
    /// The list is in force and given to the agents.
    Ready,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 4] = [Self::ImageVerified, Self::Authorized, Self::Derived, Self::Ready];

    /// The condition's type.
    pub fn word(self) -> &'static str {
        match self {
            Self::ImageVerified => "ImageVerified",
            Self::Authorized => "Authorized",
            Self::Derived => "Derived",
            Self::Ready => "Ready",
        }
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// It could not be found out, or has not been yet.
    Unknown,
}

impl Holds {
    /// True, False or Unknown.
    pub fn word(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which step.
    pub step: Step,
    /// Whether it holds.
    pub holds: Holds,
    /// One word for programs.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
}

/// A condition of any object, as it is told; since when it holds is found out where it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: Holds,
    /// One word for programs.
    pub reason: String,
    /// The sentence for people.
    pub message: String,
}

impl Told {
    /// A condition.
    pub fn new(kind: &'static str, holds: Holds, reason: &str, message: String) -> Self {
        Self {
            kind,
            holds,
            reason: reason.to_owned(),
            message,
        }
    }
}

/// The conditions of one service, one for each step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConditions(Vec<Condition>);

impl ServiceConditions {
    /// The chain went through. `messages` has one sentence a step.
    pub fn ready(messages: [String; 4]) -> Self {
        let reasons = ["Verified", "Permitted", "Derived", "InForce"];
        let conditions = Step::ALL.into_iter().zip(reasons).zip(messages);
        Self(
            conditions
                .map(|((step, reason), message)| Condition {
                    step,
                    holds: Holds::True,
                    reason: reason.to_owned(),
                    message,
                })
                .collect(),
        )
    }

    /// The chain stopped at a step. `done` has one sentence for each step before it; `in_force` says what holds meanwhile.
    pub fn stopped(
        step: Step,
        holds: Holds,
        reason: impl Into<String>,
        message: impl Into<String>,
        done: &[String],
        in_force: &str,
    ) -> Self {
        let (reason, message) = (reason.into(), message.into());
        let conditions = Step::ALL.into_iter().enumerate().map(|(place, other)| {
            if other < step {
                let message = done.get(place).cloned().unwrap_or_default();
                Condition {
                    step: other,
                    holds: Holds::True,
                    reason: "Done".to_owned(),
                    message,
                }
            } else if other == step && step != Step::Ready {
                Condition {
                    step: other,
                    holds,
                    reason: reason.clone(),
                    message: message.clone(),
                }
            } else if other == Step::Ready {
                let at = if step == Step::Ready {
                    String::new()
                } else {
                    format!("stopped at {}: ", step.word())
                };
                Condition {
                    step: other,
                    holds: Holds::False,
                    reason: reason.clone(),
                    message: format!("{at}{message}. {in_force}"),
                }
            } else {
                let message = format!("not reached: stopped at {}", step.word());
                Condition {
                    step: other,
                    holds: Holds::Unknown,
                    reason: "NotReached".to_owned(),
                    message,
                }
            }
        });
        Self(conditions.collect())
    }

    /// A file of objects that cannot be read.
    pub fn unreadable(message: String) -> Self {
        Self(vec![Condition {
            step: Step::Ready,
            holds: Holds::False,
            reason: "InvalidFile".to_owned(),
            message,
        }])
    }

    /// In order.
    pub fn all(&self) -> &[Condition] {
        &self.0
    }

    /// As they are told.
    pub fn told(&self) -> Vec<Told> {
        let told = self.0.iter();
        told.map(|condition| {
            Told::new(
                condition.step.word(),
                condition.holds,
                &condition.reason,
                condition.message.clone(),
            )
        })
        .collect()
    }

    /// Adds a sentence to the last condition's message.
    #[must_use]
    pub fn with_note(mut self, note: &str) -> Self {
        if let Some(last) = self.0.last_mut()
            && !note.is_empty()
        {
            last.message = format!("{}. {note}", last.message.trim_end_matches('.'));
        }
        self
    }

    /// One line that says how far the service came.
    pub fn log(&self, (namespace, name): &Key) {
        match self.0.iter().find(|condition| condition.holds != Holds::True) {
            Some(Condition { step, reason, .. }) => {
                let message = self.0.last().map(|last| last.message.as_str()).unwrap_or_default();
                tracing::warn!(%namespace, %name, step = step.word(), %reason, "{message}");
            }
            None => {
                let message = self.0.last().map(|last| last.message.as_str()).unwrap_or_default();
                tracing::info!(%namespace, %name, "ready: {message}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(conditions: &ServiceConditions) -> Vec<String> {
        let show = |condition: &Condition| {
            let Condition {
                step,
                holds,
                reason,
                message,
            } = condition;
            format!("{} {} {reason}: {message}", step.word(), holds.word())
        };
        conditions.all().iter().map(show).collect()
    }

    #[test]
    fn a_chain_that_stopped_says_where() {
        let done = ["signed by a".to_owned()];
        let conditions = ServiceConditions::stopped(
            Step::Authorized,
            Holds::False,
            "Denied",
            "policy x forbids it",
            &done,
            "No policy is in force",
        );
        assert_eq!(
            shown(&conditions),
            [
                "ImageVerified True Done: signed by a",
                "Authorized False Denied: policy x forbids it",
                "Derived Unknown NotReached: not reached: stopped at Authorized",
                "Ready False Denied: stopped at Authorized: policy x forbids it. No policy is in force",
            ]
        );
    }

    #[test]
    fn a_chain_that_stopped_at_its_end_says_it_once() {
        let conditions = ServiceConditions::stopped(Step::Ready, Holds::False, "NameTaken", "taken", &[], "As before");
        assert_eq!(conditions.all().len(), 4);
        assert_eq!(conditions.all()[3].message, "taken. As before");
    }
}
