//! The node: the agent, when there is one, and what it told.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::{
    agent::{self, Agent},
    corpus::Corpus,
    events::Told,
    host::{Runtime, host, in_run},
    overlay::Overlay,
    policy::{NAMESPACE, folder},
    trial::{Place, path_word},
};

/// In a case's folder: the digest of its container's image.
pub const IMAGE_FILE: &str = "image-digest";

/// Policies of an agent that is started apart, in a folder that is emptied.
///
/// # Errors
/// When the folder cannot be made.
pub fn apart_folder() -> Result<PathBuf> {
    let folder = in_run("policies-apart");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn remove_pins() -> Result<()> {
    // Natively it complains of programs that are loaded still, which other agents on this kernel may have; of ours the pins tell.
    let said = agent::uninstall();
    ensure!(!agent::pins().exists(), "uninstall left pins: {said:?}");
    Ok(())
}

/// The agent under test and its arguments.
#[derive(Default)]
pub struct Node {
    agent: Option<Agent>,
    containers: Vec<String>,
    /// Arguments besides policies and containers.
    pub more_arguments: Vec<String>,
    /// All that any agent told.
    pub told: Told,
    /// What came of the corpus.
    pub corpus: Corpus,
}

impl Node {
    /// A container of a place, for the next start.
    ///
    /// # Errors
    /// When its cgroup cannot be made.
    pub fn add(&mut self, place: &Place) -> Result<()> {
        if host().runtime != Runtime::Runc {
            return Ok(());
        }
        fs::create_dir_all(&place.cgroup)?;
        self.add_cgroup(&place.cgroup, &place.workload());
        // A case with an overlay of this name has it for the container's root, as a runtime would have mounted it.
        let merged = Overlay::at(place.path("overlay")).merged();
        if merged.exists()
            && let Some(container) = self.containers.last_mut()
        {
            container.push_str(&format!(",root={}", merged.display()));
        }
        // One with a file of this name says there of which image the container is.
        if let (Ok(image), Some(container)) = (fs::read_to_string(place.path(IMAGE_FILE)), self.containers.last_mut()) {
            container.push_str(&format!(",image={image}"));
        }
        Ok(())
    }

    /// A container, for the next start.
    pub fn add_cgroup(&mut self, cgroup: &Path, workload: &str) {
        self.containers
            .push(format!("{}={NAMESPACE}/{workload}/c", cgroup.display()));
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(&mut self) -> Result<()> {
        let mut arguments = vec!["--policies".to_owned(), path_word(&folder())];
        if let Runtime::Containerd { socket, .. } = &host().runtime {
            arguments.extend(["--containerd".to_owned(), path_word(socket)]);
            arguments.extend(["--managed-root".to_owned(), path_word(&host().cgroups)]);
        }
        for container in &self.containers {
            arguments.extend(["--cgroup".to_owned(), container.clone()]);
        }
        arguments.extend(self.more_arguments.iter().cloned());
        self.agent = Some(Agent::start(&arguments, &self.told)?);
        Ok(())
    }

    /// Starts the agent with arguments that are all the case's own, on maps that are made anew: of what sizes and with which policies is
    /// up to it. Ends with [`Node::end_apart`].
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_apart(&mut self, arguments: &[String]) -> Result<()> {
        self.end(Signal::SIGTERM)?;
        remove_pins()?;
        self.agent = Some(Agent::start(arguments, &self.told)?);
        Ok(())
    }

    /// Ends an agent that was started apart, where there is one, and starts the usual one.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn end_apart(&mut self) -> Result<()> {
        if self.has_agent() {
            self.end(Signal::SIGTERM)?;
        }
        remove_pins()?;
        self.start()
    }

    /// Starts an agent that was started apart anew, on what it left pinned.
    ///
    /// # Errors
    /// When none runs, or it does not become ready.
    pub fn restart_apart(&mut self, signal: Signal, arguments: &[String]) -> Result<()> {
        self.end(signal)?;
        self.agent = Some(Agent::start(arguments, &self.told)?);
        Ok(())
    }

    /// The running agent.
    ///
    /// # Errors
    /// When none runs.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent runs")
    }

    /// Ends the agent with a signal.
    ///
    /// # Errors
    /// When none runs.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.agent.take().context("no agent runs")?.end(signal)
    }

    /// Ends the agent with a signal, and starts it again.
    ///
    /// # Errors
    /// When none runs, or it does not become ready.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.end(signal)?;
        self.start()
    }

    /// Whether one runs.
    pub fn has_agent(&self) -> bool {
        self.agent.is_some()
    }
}
