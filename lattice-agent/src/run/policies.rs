//! Policies that are there before anybody is asked: those kept from central, and those in files.

use std::{io, path::Path, sync::Arc, thread};

use anyhow::Result;
use lattice_agent::{
    policy_files::PolicyFiles,
    policy_sources::{PolicySources, Unknown},
    policy_watch::PolicyWatch,
    uplink::{PolicySink as _, last_good},
};

pub(super) fn load_last_good(folder: &Path, sources: &PolicySources) {
    let unknown = "central was not reached yet, and nothing was kept from an earlier start";
    sources.note_unknown(Unknown::Central, Some(unknown.to_owned()));
    match last_good::load(folder) {
        Ok(Some(set)) => match sources.apply(set.policies, set.namespace_modes) {
            Ok(()) => tracing::info!(revision = set.revision, "the last good policies are in force"),
            Err(error) => tracing::error!(error, "not all of the last good policies are in force"),
        },
        Ok(None) => tracing::info!("no policies were kept from an earlier start"),
        Err(error) => tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "the last good policies are not used: containers that were enforced before this start stay as they were until central is reached"
        ),
    }
}

pub(super) fn refresh(files: &mut PolicyFiles, sources: &PolicySources) -> Result<()> {
    let changes = files.refresh()?;
    for problem in &changes.problems {
        tracing::error!("{problem}");
    }
    for note in &changes.notes {
        tracing::warn!("{note}");
    }
    sources.note_broken_files(files.broken());
    let unknown = files.unknown();
    let was_unknown = sources.is_unknown(Unknown::Files);
    sources.note_unknown(
        Unknown::Files,
        (unknown > 0).then(|| {
            format!(
                "{unknown} of the policy files cannot be understood, and nothing is known of what they held before; `latticectl policy check` \
                 says what is wrong"
            )
        }),
    );
    if changes.is_changed || was_unknown != (unknown > 0) {
        let policies = files.policies();
        let count = policies.len();
        match sources.set_files(policies) {
            Ok(()) => tracing::info!(policies = count, "policies from files are in force"),
            Err(error) => tracing::error!(error, "not all policies from files are in force"),
        }
    }
    Ok(())
}

/// Takes up every change from now on, on a thread of its own.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn follow(mut files: PolicyFiles, sources: Arc<PolicySources>) -> io::Result<()> {
    let mut watch = PolicyWatch::new(files.folder());
    thread::Builder::new().name("policy-files".into()).spawn(move || {
        let mut said = String::new();
        loop {
            watch.wait();
            match refresh(&mut files, &sources) {
                Ok(()) => said.clear(),
                Err(error) => {
                    let error = format!("{error:#}");
                    if error != said {
                        tracing::error!(error, "the policy folder cannot be read; what is in force stays");
                        said = error;
                    }
                }
            }
        }
    })?;
    Ok(())
}
