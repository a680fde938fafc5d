//! The burn-in clock: it counts only time of which everything is known.
//!
//! ```text
//!   complete ──covers──► complete: counts      complete ──► not: does not      not ──► complete: does not, but the next will
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a track was looked at with nothing missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurnInClock {
    /// In all.
    pub elapsed: Duration,
    /// Since the last miss.
    pub quiet: Duration,
    /// Why it stands still; `None` while it runs.
    pub hold: Option<String>,
    /// Whether the evidence was complete when it was last looked at. Not kept: what was before a restart, nobody saw.
    #[serde(skip)]
    was_complete: bool,
    /// Whether something was missed since it was last looked at.
    #[serde(skip)]
    was_disturbed: bool,
}

impl BurnInClock {
    /// Takes the time since the last look, and why not everything is known now; what of it counted is the answer.
    pub fn advance(&mut self, covers: Duration, hold: Option<String>) -> Duration {
        let is_complete = hold.is_none();
        let counted = if is_complete && self.was_complete {
            covers
        } else {
            Duration::ZERO
        };
        self.elapsed += counted;
        // What disturbed it happened somewhere in this time.
        if !std::mem::take(&mut self.was_disturbed) {
            self.quiet += counted;
        }
        (self.hold, self.was_complete) = (hold, is_complete);
        counted
    }

    /// Something was missed: quiet begins anew.
    pub fn disturbed(&mut self) {
        self.quiet = Duration::ZERO;
        self.was_disturbed = true;
    }

    /// All begins anew, from the next look on.
    pub fn restart(&mut self) {
        (self.elapsed, self.quiet) = (Duration::ZERO, Duration::ZERO);
        self.was_complete = false;
    }
}
