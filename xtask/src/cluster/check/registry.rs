//! The images of a service, signed and unsigned, in the cluster's own registry.

use anyhow::{Context, Result};

use super::super::{place::Place, registry};
use crate::{
    demo::{
        registry::{CONTENT, Registry},
        sign::Signer,
    },
    oci::Image,
};

/// A repository of which the image is signed, and one of which it is not. The image is the same.
pub(super) const SIGNED: &str = "payment-service";
pub(super) const UNSIGNED: &str = "unsigned";

pub(super) struct Pushed {
    pub(super) public_key: String,
    digest: String,
}

impl Pushed {
    /// Pushes and signs by a registry on the loopback, over whose content the cluster's own then runs.
    ///
    /// # Errors
    ///
    /// Where a registry does not come up, or the image cannot be signed.
    pub(super) fn make(place: &Place, image: &Image) -> Result<Self> {
        let folder = place.run().join("registry");
        super::super::place::create(&folder)?;
        let loopback = Registry::start_alone(&folder)?;
        let signer = Signer::generate(&folder, "release")?;
        for repository in [SIGNED, UNSIGNED] {
            loopback.push(repository, "1", image)?;
        }
        let digest = image.digest();
        signer.sign(&loopback, SIGNED, &digest)?;
        let public_key = signer.public_key()?;
        drop(loopback);
        registry::start(place, &folder.join(CONTENT)).context("the cluster's registry")?;
        Ok(Self { public_key, digest })
    }

    /// By its digest, as central demands.
    pub(super) fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}@{}", registry::HOST, self.digest)
    }
}
