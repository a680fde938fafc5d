//! Modes, and identity by content.

use std::fs;

use lattice_policy::Mode;

use crate::guest::{
    canaries,
    policy::Policy,
    trial::{Case, Cause, Expected, cause},
};

/// The file is nobody's.
pub(super) const NOT_IN_IMAGE: Cause = cause("unlisted", "target", "not-in-image");
/// The path is listed, with other bytes.
pub(super) const MODIFIED: Cause = cause("unlisted", "target", "modified");

pub(super) const CASES: &[Case] = &[
    Case {
        name: "enforce_runs_listed_and_kills_unlisted",
        prepare: |place| {
            let policy = Policy::enforce().allow(&place.canary("good", "good")?)?;
            place.canary("bad", "bad")?;
            Ok(policy)
        },
        run: |trial| {
            let (good, bad) = (trial.path("good"), trial.path("bad"));
            trial.exec(&good, Expected::Runs)?;
            trial.exec(&bad, Expected::Killed(NOT_IN_IMAGE))?;
            trial.exec(&bad, Expected::Killed(NOT_IN_IMAGE))?;
            trial.exec(&good, Expected::Runs)
        },
    },
    Case {
        name: "a_size_that_no_entry_has_is_unlisted_without_a_hash",
        prepare: |place| {
            let policy = Policy::enforce().allow(&place.canary("good", "good")?)?;
            let bytes = fs::read(place.canary("longer", "bad")?)?;
            canaries::write(&place.path("longer"), &[bytes, vec![0]].concat())?;
            Ok(policy)
        },
        run: |trial| {
            let longer = trial.path("longer");
            trial.exec(&longer, Expected::Killed(NOT_IN_IMAGE))?;
            trial.golden("of-a-size-that-no-entry-has")
        },
    },
    Case {
        name: "monitor_lets_run_and_says_what_would_have_been",
        prepare: |place| {
            place.canary("bad", "bad")?;
            Policy::new(Mode::Monitor).allow(&place.canary("good", "good")?)
        },
        run: |trial| {
            let (good, bad) = (trial.path("good"), trial.path("bad"));
            trial.exec(&good, Expected::Runs)?;
            trial.exec(&bad, Expected::Noted(NOT_IN_IMAGE))?;
            trial.golden("in-monitor")
        },
    },
    Case {
        name: "deny_refuses_without_a_signal",
        prepare: |place| {
            place.canary("bad", "bad")?;
            Policy::new(Mode::Deny).allow(&place.canary("good", "good")?)
        },
        run: |trial| {
            let (good, bad) = (trial.path("good"), trial.path("bad"));
            trial.exec(&bad, Expected::Denied(NOT_IN_IMAGE))?;
            trial.golden("in-deny")?;
            trial.exec(&good, Expected::Runs)
        },
    },
    Case {
        name: "an_empty_list_lets_nothing_start",
        prepare: |place| {
            place.canary("any", "any")?;
            Ok(Policy::enforce())
        },
        run: |trial| {
            let any = trial.path("any");
            trial.exec(&any, Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "one_changed_byte_of_an_allowed_program_dies",
        prepare: |place| {
            let program = place.canary("program", "good")?;
            let policy = Policy::enforce().allow(&program)?;
            let mut bytes = fs::read(&program)?;
            // Of the variant, so that the program still runs where nobody looks.
            let at = bytes
                .windows(14)
                .position(|window| window == b"LATTICE-CANARY")
                .unwrap_or_default();
            bytes[at] ^= 0x20;
            canaries::write(&program, &bytes)?;
            Ok(policy)
        },
        run: |trial| {
            let program = trial.path("program");
            trial.exec(&program, Expected::Killed(MODIFIED))
        },
    },
    Case {
        name: "equal_bytes_run_at_any_path",
        prepare: |place| {
            let policy = Policy::enforce().allow(&place.canary("program", "good")?)?;
            place.canary("elsewhere/another name", "good")?;
            Ok(policy)
        },
        run: |trial| {
            let copy = trial.path("elsewhere/another name");
            trial.exec(&copy, Expected::Runs)
        },
    },
    Case {
        name: "a_file_that_changes_after_it_ran_is_judged_anew",
        prepare: |place| Policy::enforce().allow(&place.canary("program", "good")?),
        run: |trial| {
            let program = trial.path("program");
            trial.exec(&program, Expected::Runs)?;
            // The same inode: written in place.
            let mut bytes = fs::read(&program)?;
            let at = bytes
                .windows(14)
                .position(|window| window == b"LATTICE-CANARY")
                .unwrap_or_default();
            bytes[at] ^= 0x20;
            fs::write(&program, &bytes)?;
            trial.exec(&program, Expected::Killed(MODIFIED))
        },
    },
];
