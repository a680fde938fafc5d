//! The image of the payment service: Debian's own shell, curl, wget and chmod with their libraries, and the server.
//!
//! Not busybox: there one file is every program, and its digest says nothing about which of them starts.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

use crate::{
    oci::{
        self, CONFIG_TYPE, Image, MANIFEST_TYPE, descriptor, digest,
        files::{Entry, Files, add, add_all, add_as, archive, files_below, merged_folders},
    },
    vm::libraries::LibraryResolver,
    workspace,
};

/// Where the server is in the image.
pub(super) const SERVER: &str = "/app/server";

/// Programs of Debian packages that the image has.
const TOOLS: [&str; 4] = ["dash", "curl", "wget", "chmod"];

/// Builds the image.
///
/// # Errors
///
/// Where a program or one of its libraries cannot be found or read.
pub(super) fn build(server: &Path) -> Result<Image> {
    assemble(layers(server, None)?)
}

/// The image's layers as archives, the lowest first: three, as a base image, an operator's additions and the application
/// make them, and on top what a folder holds, where one is named.
///
/// # Errors
///
/// Where a program or one of its libraries cannot be found or read.
pub(crate) fn layers(server: &Path, added: Option<&Path>) -> Result<Vec<Vec<u8>>> {
    let resolver = LibraryResolver::for_this_machine();
    let (mut base, mut tools, mut application) = (base_files(), Files::new(), Files::new());
    let mut libraries = resolver.resolve(server)?;
    for name in TOOLS {
        let program = workspace::find_program(name).ok_or_else(|| anyhow!("no {name}: run `cargo xtask setup`"))?;
        let real = fs::canonicalize(&program).with_context(|| format!("cannot follow {}", program.display()))?;
        if real.file_name() != program.file_name() {
            bail!(
                "{} is {}: the demo's image needs {name} as a file of its own; install Debian's package",
                program.display(),
                real.display()
            );
        }
        libraries.extend(resolver.resolve(&real)?);
        add(&mut tools, &real)?;
    }
    tools.insert("usr/bin/sh".into(), Entry::Link("dash".into()));
    add_all(&mut base, &libraries)?;
    add_as(&mut application, SERVER, server)?;
    let mut layers = vec![base, tools, application];
    if let Some(folder) = added {
        layers.push(files_below(folder)?);
    }
    let mut seen = BTreeSet::new();
    layers.iter().map(|files| archive(files, &mut seen)).collect()
}

fn base_files() -> Files {
    let text = |content: &str| Entry::File {
        content: content.as_bytes().to_vec(),
        mode: 0o644,
    };
    let mut files = Files::from([
        (PathBuf::from("tmp"), Entry::Folder { mode: 0o1777 }),
        ("marks".into(), Entry::Folder { mode: 0o755 }),
        ("proc".into(), Entry::Folder { mode: 0o755 }),
        ("sys".into(), Entry::Folder { mode: 0o755 }),
        ("dev".into(), Entry::Folder { mode: 0o755 }),
        ("root".into(), Entry::Folder { mode: 0o700 }),
        (
            "etc/passwd".into(),
            text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ),
        ("etc/group".into(), text("root:x:0:\nnogroup:x:65534:\n")),
        ("etc/hosts".into(), text("127.0.0.1 localhost\n")),
        ("etc/nsswitch.conf".into(), text("hosts: files\n")),
    ]);
    files.extend(merged_folders());
    files
}

/// The image of these layers, which starts the server.
///
/// # Errors
///
/// Where one cannot be compressed.
pub(crate) fn assemble(archives: Vec<Vec<u8>>) -> Result<Image> {
    oci::assemble(
        archives,
        &json!({
            "Entrypoint": [SERVER],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        }),
    )
}

/// The image by which a signature is stored: one layer, the payload, with the signature as an annotation.
///
/// # Errors
///
/// Where JSON cannot be written, which it can.
pub(super) fn of_signature(payload: Vec<u8>, payload_type: &str, annotation: (&str, &str)) -> Result<Image> {
    let mut layer = descriptor(payload_type, &payload);
    layer["annotations"] = json!({annotation.0: annotation.1});
    let config = json!({
        "architecture": "",
        "os": "",
        "created": "0001-01-01T00:00:00Z",
        "history": [{"created": "0001-01-01T00:00:00Z"}],
        "rootfs": {"type": "layers", "diff_ids": [digest(&payload)]},
        "config": {},
    });
    let config = serde_json::to_vec(&config).context("cannot write a signature's configuration")?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config),
        "layers": [layer],
    });
    Ok(Image {
        blobs: vec![payload, config],
        manifest: serde_json::to_vec(&manifest).context("cannot write a signature's manifest")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_make_an_equal_digest() {
        let server = workspace::find_program("true").unwrap();
        assert_eq!(build(&server).unwrap().digest(), build(&server).unwrap().digest());
    }
}
