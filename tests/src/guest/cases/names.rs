//! Many names for one file, and one name for many.

use std::{fs, os::unix::fs::symlink};

use super::content::{MODIFIED, NOT_IN_IMAGE};
use crate::guest::{
    policy::Policy,
    trial::{Case, Expected},
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a_symbolic_link_is_what_it_leads_to",
        prepare: |place| {
            let policy = Policy::enforce().allow(&place.canary("good", "good")?)?;
            place.canary("bad", "bad")?;
            symlink("good", place.path("to-good"))?;
            symlink("bad", place.path("to-bad"))?;
            symlink("to-bad", place.path("to-to-bad"))?;
            Ok(policy)
        },
        run: |trial| {
            for (link, expected) in [
                ("to-good", Expected::Runs),
                ("to-bad", Expected::Killed(NOT_IN_IMAGE)),
                ("to-to-bad", Expected::Killed(NOT_IN_IMAGE)),
            ] {
                trial.exec(&trial.path(link), expected)?;
            }
            Ok(())
        },
    },
    Case {
        name: "a_listed_name_linked_to_other_bytes_dies",
        prepare: |place| {
            let listed = place.canary("listed", "good")?;
            let policy = Policy::enforce().allow(&listed)?;
            let bad = place.canary("bad", "bad")?;
            fs::remove_file(&listed)?;
            symlink(bad, listed)?;
            Ok(policy)
        },
        run: |trial| trial.exec(&trial.path("listed"), Expected::Killed(NOT_IN_IMAGE)),
    },
    Case {
        name: "a_hard_link_is_the_same_file",
        prepare: |place| {
            let good = place.canary("good", "good")?;
            let bad = place.canary("bad", "bad")?;
            let policy = Policy::enforce().allow(&good)?;
            fs::hard_link(good, place.path("also-good"))?;
            fs::hard_link(bad, place.path("also-bad"))?;
            Ok(policy)
        },
        run: |trial| {
            trial.exec(&trial.path("also-good"), Expected::Runs)?;
            trial.exec(&trial.path("also-bad"), Expected::Killed(NOT_IN_IMAGE))
        },
    },
    Case {
        name: "a_file_renamed_over_a_listed_one_dies",
        prepare: |place| {
            place.canary("new", "bad")?;
            Policy::enforce().allow(&place.canary("program", "good")?)
        },
        run: |trial| {
            let program = trial.path("program");
            trial.exec(&program, Expected::Runs)?;
            fs::rename(trial.path("new"), &program)?;
            trial.exec(&program, Expected::Killed(MODIFIED))
        },
    },
    Case {
        name: "a_file_mounted_over_a_listed_one_dies",
        prepare: |place| {
            place.canary("new", "bad")?;
            Policy::enforce().allow(&place.canary("program", "good")?)
        },
        run: |trial| {
            let program = trial.path("program");
            crate::guest::overlay::bind(&trial.path("new"), &program)?;
            trial.exec(&program, Expected::Killed(MODIFIED))
        },
    },
];
