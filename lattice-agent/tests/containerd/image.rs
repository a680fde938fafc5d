//! A tiny image: one layer with a static busybox and a file that tells images apart, as an OCI archive.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes the archive into `folder`; returns its path and the digest of its manifest.
pub(crate) fn build(folder: &Path, name: &str, marker: &str, labels: &BTreeMap<&str, &str>) -> (PathBuf, String) {
    let busybox = fs::read(super::daemon::find("busybox").unwrap()).unwrap();
    let files = [
        ("bin/busybox", 0o755, &busybox[..]),
        ("marker", 0o644, marker.as_bytes()),
    ];
    build_of(
        folder,
        name,
        &files,
        &json!({"Entrypoint": ["/bin/busybox"], "Labels": labels}),
    )
}

/// The same of any files, with an image configuration's `config`.
pub(crate) fn build_of(folder: &Path, name: &str, files: &[(&str, u32, &[u8])], config: &Value) -> (PathBuf, String) {
    let layer = tar(files);
    let layer_digest = digest(&layer);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
    .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let blob = |content: &[u8]| format!("blobs/{}", digest(content).replace(':', "/"));
    let archive = tar(&[
        ("oci-layout", 0o644, br#"{"imageLayoutVersion": "1.0.0"}"#),
        ("index.json", 0o644, index.as_bytes()),
        (&blob(&layer), 0o644, &layer),
        (&blob(config.as_bytes()), 0o644, config.as_bytes()),
        (&blob(manifest.as_bytes()), 0o644, manifest.as_bytes()),
    ]);
    let path = folder.join(format!("{}.tar", &digest(&archive)[7..19]));
    fs::write(&path, archive).unwrap();
    (path, digest(manifest.as_bytes()))
}

pub(crate) fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

fn tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_cksum();
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}
