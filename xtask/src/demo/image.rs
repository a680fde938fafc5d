//! The image of the payment service: Debian's own shell, curl, wget and chmod with their libraries, and the server.
//!
//! Not busybox: there one file is every program, and its digest says nothing about which of them starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{vm::libraries::LibraryResolver, workspace};

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Where the server is in the image.
pub(super) const SERVER: &str = "/app/server";

/// Programs of Debian packages that the image has.
const TOOLS: [&str; 4] = ["dash", "curl", "wget", "chmod"];
/// Links of a Debian with merged /usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// No real chain of links is longer (the kernel's own limit).
const MAX_LINKS: usize = 40;

/// What a registry is given: blobs, and what refers to them.
pub(crate) struct Image {
    pub(super) blobs: Vec<Vec<u8>>,
    pub(super) manifest: Vec<u8>,
}

impl Image {
    /// `sha256:…` of the manifest.
    pub(super) fn digest(&self) -> String {
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
            let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
            append(&mut builder, &mut header, Path::new(path), content)
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
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A path of the image, without its first slash, and what is there.
type Files = BTreeMap<PathBuf, Entry>;

#[derive(Debug)]
enum Entry {
    File { content: Vec<u8>, mode: u32 },
    Link(PathBuf),
    Folder { mode: u32 },
}

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

/// All that is in a folder, as if the folder were the root.
fn files_below(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", next.display()))?.path();
            let place = Path::new("/").join(path.strip_prefix(folder).unwrap_or(&path));
            if let Ok(target) = fs::read_link(&path) {
                files.insert(without_root(&place), Entry::Link(target));
            } else if path.is_dir() {
                pending.push(path);
            } else {
                add_as(&mut files, &place.to_string_lossy(), &path)?;
            }
        }
    }
    Ok(files)
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
    for name in MERGED {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            files.insert(name.into(), Entry::Link(target));
        }
    }
    files
}

fn add_all(files: &mut Files, paths: &BTreeSet<PathBuf>) -> Result<()> {
    paths.iter().try_for_each(|path| add(files, path))
}

/// Adds what is at an absolute path of this machine, under the path that it has once /usr is merged; links with their
/// targets.
fn add(files: &mut Files, path: &Path) -> Result<()> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} is no file", path.display());
        };
        let folder = fs::canonicalize(folder).with_context(|| format!("cannot follow {}", folder.display()))?;
        let real = folder.join(name);
        let Ok(target) = fs::read_link(&real) else {
            return add_as(files, &real.to_string_lossy(), &real);
        };
        path = folder.join(&target);
        files.insert(without_root(&real), Entry::Link(target));
    }
    bail!("{} is at the end of too many links", path.display())
}

fn add_as(files: &mut Files, place: &str, source: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let metadata = source
        .metadata()
        .with_context(|| format!("cannot read {}", source.display()))?;
    let mode = metadata.permissions().mode() & 0o755;
    files.insert(without_root(Path::new(place)), Entry::File { content, mode });
    Ok(())
}

fn without_root(path: &Path) -> PathBuf {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect()
}

/// A layer as a tar archive, each folder before what is in it. `seen` has the folders of the layers below.
fn archive(files: &Files, seen: &mut BTreeSet<PathBuf>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in files {
        let mut parents: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .filter(|path| path.components().count() > 0)
            .collect();
        parents.reverse();
        for parent in parents {
            if seen.insert(parent.to_path_buf()) && !files.contains_key(parent) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                append(&mut builder, &mut header, parent, &[])?;
            }
        }
        match entry {
            Entry::File { content, mode } => {
                let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
                append(&mut builder, &mut header, path, content)?;
            }
            Entry::Folder { mode } => {
                seen.insert(path.clone());
                let mut header = header(tar::EntryType::Directory, *mode, 0);
                append(&mut builder, &mut header, path, &[])?;
            }
            Entry::Link(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                builder
                    .append_link(&mut header, path, target)
                    .with_context(|| format!("cannot archive {}", path.display()))?;
            }
        }
    }
    builder.into_inner().context("cannot end an archive")
}

fn append(builder: &mut tar::Builder<Vec<u8>>, header: &mut tar::Header, path: &Path, content: &[u8]) -> Result<()> {
    builder
        .append_data(header, path, content)
        .with_context(|| format!("cannot archive {}", path.display()))
}

/// Without times and owners of this machine, so that equal files make an equal digest.
fn header(kind: tar::EntryType, mode: u32, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size_bytes);
    header
}

/// An image of these layers.
///
/// # Errors
///
/// Where one cannot be compressed.
pub(crate) fn assemble(archives: Vec<Vec<u8>>) -> Result<Image> {
    let diff_ids: Vec<String> = archives.iter().map(|archive| digest(archive)).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": [SERVER],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
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

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_with_their_targets_and_folders_before_files() {
        let mut files = base_files();
        add(&mut files, Path::new("/bin/sh")).unwrap();
        let archive = archive(&files, &mut BTreeSet::new()).unwrap();
        let mut reader = tar::Archive::new(archive.as_slice());
        let mut folders = BTreeSet::from([PathBuf::new()]);
        let mut regular = BTreeSet::new();
        for entry in reader.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().into_owned();
            assert!(
                folders.contains(path.parent().unwrap()),
                "{} comes too early",
                path.display()
            );
            if entry.header().entry_type().is_dir() {
                assert!(folders.insert(path.clone()), "{} twice", path.display());
            }
            if entry.header().entry_type().is_file() {
                regular.insert(path);
            }
        }
        let shell = without_root(&fs::canonicalize("/bin/sh").unwrap());
        assert!(
            regular.contains(&shell),
            "{} is missing from {regular:?}",
            shell.display()
        );
    }

    #[test]
    fn equal_files_make_an_equal_digest() {
        let server = workspace::find_program("true").unwrap();
        assert_eq!(build(&server).unwrap().digest(), build(&server).unwrap().digest());
    }
}
