//! Images, made without a builder: files to layers, layers to an image, an image to an archive that runtimes import.
//!
//! Equal files make equal bytes: no times, no owners of this machine, and an order that is always the same.

pub(crate) mod files;

use std::{io::Write, path::Path};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a registry is given: blobs, and what refers to them.
pub(crate) struct Image {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    /// `sha256:…` of the manifest.
    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// An archive in OCI's layout, as container runtimes import it under this name.
    ///
    /// # Errors
    ///
    /// Where JSON cannot be written, which it can.
    pub(crate) fn archive(&self, name: &str) -> Result<Vec<u8>> {
        let mut index = descriptor(MANIFEST_TYPE, &self.manifest);
        index["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [index]});
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, content: &[u8]| {
            let mut header = files::header(tar::EntryType::Regular, 0o644, content.len() as u64);
            files::append(&mut builder, &mut header, Path::new(path), content)
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add(
            "index.json",
            &serde_json::to_vec(&index).context("cannot write an index")?,
        )?;
        for blob in self.blobs.iter().chain([&self.manifest]) {
            add(&digest(blob).replace("sha256:", "blobs/sha256/"), blob)?;
        }
        builder.into_inner().context("cannot end an archive")
    }
}

/// `sha256:…`
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An image of these layers, the lowest first, with this configuration of its containers.
///
/// # Errors
///
/// Where one cannot be compressed.
pub(crate) fn assemble(archives: Vec<Vec<u8>>, configuration: &Value) -> Result<Image> {
    let diff_ids: Vec<String> = archives.iter().map(|archive| digest(archive)).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": configuration,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).context("cannot write the image's configuration")?;
    let mut blobs = Vec::new();
    let mut layers = Vec::new();
    for archive in archives {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&archive).context("cannot compress a layer")?;
        let layer = encoder.finish().context("cannot compress a layer")?;
        layers.push(descriptor(LAYER_TYPE, &layer));
        blobs.push(layer);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config),
        "layers": layers,
    });
    blobs.push(config);
    Ok(Image {
        blobs,
        manifest: serde_json::to_vec(&manifest).context("cannot write the image's manifest")?,
    })
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}
