//! The image and the objects that the cases work with.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};

use crate::{
    demo::{image, programs},
    oci::Image,
    vm::libraries::LibraryResolver,
    workspace,
};

/// No registry has the name.
pub(super) const IMAGE: &str = "localhost/payment-service:1";

const WORKLOADS: &str = include_str!("../../../cluster/objects/workloads.yaml");
const FIRST_PROGRAM: &str = include_str!("../../../cluster/objects/first-program.yaml");
const POLICIES: &str = include_str!("../../../cluster/objects/policies.yaml");

pub(super) struct Material {
    pub(super) image: Image,
    /// ExecPolicy documents that list the server, and its probe's programs for the probe.
    pub(super) policies: String,
}

impl Material {
    /// # Errors
    ///
    /// Where a program of the image cannot be built or read.
    pub(super) fn make() -> Result<Self> {
        let server = programs::server()?;
        let libraries = LibraryResolver::for_this_machine().resolve(&server)?;
        let loader = libraries
            .iter()
            .find(|path| path.to_string_lossy().contains("/ld-linux"))
            .ok_or_else(|| anyhow!("the server has no ELF interpreter"))?;
        let tool = |name: &str| -> Result<String> {
            let path = workspace::find_program(name).ok_or_else(|| anyhow!("no {name}: run `cargo xtask setup`"))?;
            sha256(&path)
        };
        let policies = POLICIES
            .replace("@SERVER@", &sha256(&server)?)
            .replace("@LOADER@", &sha256(loader)?)
            .replace("@LOADER_PATH@", &loader.display().to_string())
            .replace("@SHELL@", &tool("dash")?)
            .replace("@CURL@", &tool("curl")?);
        Ok(Self {
            image: image::assemble(image::layers(&server, None)?)?,
            policies,
        })
    }

    pub(super) fn workloads(&self, namespace: &str) -> String {
        fill(WORKLOADS, namespace)
    }

    pub(super) fn first_program(&self, namespace: &str) -> String {
        fill(FIRST_PROGRAM, namespace)
    }
}

fn fill(template: &str, namespace: &str) -> String {
    template.replace("@NAMESPACE@", namespace).replace("@IMAGE@", IMAGE)
}

fn sha256(path: &Path) -> Result<String> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex::encode(Sha256::digest(content)))
}
