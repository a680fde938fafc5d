//! Images built in the test, and the two servers that serve them: Debian's docker-registry, and one that lies.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of it")]

pub mod hostile;
pub mod real;

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use lattice_registry::{Limits, RegistryClient, RegistryEndpoint};
use sha2::{Digest, Sha256};

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An archive of these files; a content that begins with `-> ` is a symbolic link.
pub fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        if let Some(target) = content.strip_prefix(b"-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder
                .append_link(&mut header, name, std::str::from_utf8(target).unwrap())
                .unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// An image: its blobs and its manifest.
#[derive(Debug, Clone)]
pub struct TestImage {
    pub blobs: Vec<Vec<u8>>,
    pub manifest: String,
}

/// An image of these archives; every second layer is zstd.
pub fn image(entrypoint: &str, archives: &[Vec<u8>]) -> TestImage {
    let mut blobs = Vec::new();
    let mut layers = Vec::new();
    for (number, archive) in archives.iter().enumerate() {
        let (media_type, blob) = if number % 2 == 0 {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(archive).unwrap();
            (GZIP, encoder.finish().unwrap())
        } else {
            (ZSTD, zstd::encode_all(archive.as_slice(), 3).unwrap())
        };
        layers.push(descriptor(media_type, &blob));
        blobs.push(blob);
    }
    let diff_ids: Vec<String> = archives
        .iter()
        .map(|archive| format!("{:?}", digest(archive)))
        .collect();
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{{\"Entrypoint\":[{entrypoint:?}]}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
        diff_ids.join(",")
    );
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":{MANIFEST:?},\"config\":{},\"layers\":[{}]}}",
        descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        layers.join(",")
    );
    blobs.push(config.into_bytes());
    TestImage { blobs, manifest }
}

pub fn descriptor(media_type: &str, blob: &[u8]) -> String {
    format!(
        "{{\"mediaType\":{media_type:?},\"digest\":{:?},\"size\":{}}}",
        digest(blob),
        blob.len()
    )
}

/// The smallest file that has an ELF header and no interpreter.
pub fn static_elf() -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes
}

pub fn endpoint(port: u16) -> RegistryEndpoint {
    RegistryEndpoint {
        host: format!("127.0.0.1:{port}"),
        plain_http: true,
        ..RegistryEndpoint::default()
    }
}

pub fn client(port: u16) -> RegistryClient {
    RegistryClient::new(vec![endpoint(port)], Limits::default()).unwrap()
}
