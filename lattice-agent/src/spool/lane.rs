//! Events by importance: what is dropped last, and sent first.

use lattice_api::v1::{Event, event::Kind};

/// How many lanes there are.
pub(super) const LANES: usize = 3;
/// What was refused, and gaps: the evidence.
pub(super) const REFUSED: usize = 0;
/// What would have been refused.
pub(super) const WOULD_BE_REFUSED: usize = 1;
/// What was let through by a `fail: open`, and counts of repeats.
pub(super) const NOTED: usize = 2;

/// The lane of an event; 0 is the most important.
pub(super) fn lane_of(event: &Event) -> usize {
    match &event.kind {
        Some(Kind::Violation(violation)) if violation.last_unix_nanos != 0 || violation.reason.ends_with("-open") => {
            NOTED
        }
        Some(Kind::Violation(violation)) if violation.effective_action == "none" => WOULD_BE_REFUSED,
        Some(Kind::Notice(notice)) if notice.notice == "no-policy" => NOTED,
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use lattice_api::v1::{ContainerNotice, Gap, Violation};

    use super::*;

    #[track_caller]
    fn check(kind: Kind, expected: usize) {
        let event = Event {
            kind: Some(kind),
            ..Event::default()
        };
        assert_eq!(lane_of(&event), expected);
    }

    fn violation(action: &str, reason: &str, last_unix_nanos: u64) -> Kind {
        Kind::Violation(Violation {
            effective_action: action.into(),
            reason: reason.into(),
            last_unix_nanos,
            ..Violation::default()
        })
    }

    #[test]
    fn importance() {
        check(violation("deny+kill", "unlisted", 0), REFUSED);
        check(violation("deny", "unresolved", 0), REFUSED);
        check(Kind::Gap(Gap::default()), REFUSED);
        let notice = |notice: &str| {
            Kind::Notice(ContainerNotice {
                notice: notice.into(),
                ..ContainerNotice::default()
            })
        };
        check(notice("denied-image"), REFUSED);
        check(notice("no-policy"), NOTED);
        check(violation("none", "unlisted", 0), WOULD_BE_REFUSED);
        check(violation("none", "unresolved-open", 0), NOTED);
        check(violation("deny+kill", "unlisted", 1), NOTED);
        // What this release does not know is not the first to go.
        check(violation("quarantine", "new", 0), REFUSED);
    }
}
