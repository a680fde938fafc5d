//! The documents that describe an image: index, manifest, configuration. Only what is used is read.

use std::collections::BTreeMap;

use lattice_derive::{DiffId, ImageConfig, Platform};
use lattice_policy::ImageDigest;
use serde::Deserialize;

use crate::{
    error::RegistryError,
    scan::{Compression, LayerDescriptor},
};

/// What we ask for at a manifest's address.
pub(crate) const ACCEPT_MANIFEST: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A pointer to a blob or manifest. Its `urls` are never read: foreign addresses are not followed.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    platform: Option<DescribedPlatform>,
    urls: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct DescribedPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Descriptor {
    pub(crate) fn digest(&self, what: &str) -> Result<ImageDigest, RegistryError> {
        let malformed = |error: lattice_policy::InvalidDigest| malformed(what, error.to_string());
        self.digest.parse().map_err(malformed)
    }

    pub(crate) fn is_foreign(&self) -> bool {
        self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
            || self.media_type.contains("foreign")
            || self.media_type.contains("nondistributable")
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    manifests: Vec<Descriptor>,
}

/// An image's manifest.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentType {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// An index or a manifest.
pub(crate) enum Described {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

pub(crate) fn malformed(what: &str, reason: String) -> RegistryError {
    RegistryError::Malformed {
        what: what.to_owned(),
        reason,
    }
}

fn json<'a, T: Deserialize<'a>>(what: &str, body: &'a [u8]) -> Result<T, RegistryError> {
    serde_json::from_slice(body).map_err(|error| malformed(what, error.to_string()))
}

/// Reads what lies at a manifest's address. `header` is the registry's word for what it is.
pub(crate) fn parse(what: &str, header: Option<&str>, body: &[u8]) -> Result<Described, RegistryError> {
    let document: DocumentType = json(what, body)?;
    let media_type = match (document.media_type.as_deref(), header) {
        // One document must not be two things to two readers.
        (Some(own), Some(header)) if own != header => {
            return Err(malformed(
                what,
                format!("it calls itself {own:?}, and the registry calls it {header:?}"),
            ));
        }
        (Some(own), _) => own.to_owned(),
        (None, Some(header)) => header.to_owned(),
        (None, None) => String::new(),
    };
    if document.manifests.is_some() && document.layers.is_some() {
        return Err(malformed(what, "it has both manifests and layers".into()));
    }
    if INDEX_TYPES.contains(&media_type.as_str()) {
        return json::<Index>(what, body).map(|index| Described::Index(index.manifests));
    }
    if MANIFEST_TYPES.contains(&media_type.as_str()) {
        return json(what, body).map(Described::Manifest);
    }
    Err(RegistryError::MediaType {
        what: what.to_owned(),
        media_type,
    })
}

/// The manifest of an index that is for `wanted`.
pub(crate) fn choose<'a>(
    image: &str,
    all: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, RegistryError> {
    let of = |described: &DescribedPlatform| Platform {
        os: described.os.clone(),
        architecture: described.architecture.clone(),
        variant: described.variant.clone(),
    };
    let matches = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().map(of).is_some_and(|platform| {
            platform.os == wanted.os
                && platform.architecture == wanted.architecture
                && (wanted.variant.is_none() || platform.variant == wanted.variant)
        })
    };
    all.iter().find(matches).ok_or_else(|| {
        // BuildKit's attestations are for "unknown/unknown".
        let platforms = all
            .iter()
            .filter_map(|one| one.platform.as_ref())
            .filter(|one| one.os != "unknown")
            .map(of);
        let mut found: Vec<String> = platforms.map(|platform| platform.to_string()).take(20).collect();
        if found.is_empty() {
            found.push("no platform at all".into());
        }
        RegistryError::NoPlatform {
            image: image.to_owned(),
            wanted: wanted.to_string(),
            found: found.join(", "),
        }
    })
}

#[derive(Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    config: Option<ConfigSection>,
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigSection {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Reads an image's configuration.
pub(crate) fn parse_config(what: &str, body: &[u8]) -> Result<ImageConfig, RegistryError> {
    let document: ConfigDocument = json(what, body)?;
    let section = document.config.unwrap_or_default();
    let diff_ids: Result<Vec<DiffId>, _> = document.rootfs.diff_ids.iter().map(|text| text.parse()).collect();
    let variable = |text: String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text, String::new()),
    };
    Ok(ImageConfig {
        entrypoint: section.entrypoint.unwrap_or_default(),
        cmd: section.cmd.unwrap_or_default(),
        env: section.env.unwrap_or_default().into_iter().map(variable).collect(),
        working_dir: section.working_dir.unwrap_or_default(),
        user: section.user.unwrap_or_default(),
        diff_ids: diff_ids.map_err(|error| malformed(what, format!("rootfs.diff_ids: {error}")))?,
        platform: Platform {
            os: document.os,
            architecture: document.architecture,
            variant: document.variant,
        },
    })
}

/// The layers of a manifest, each with the diff_id that the configuration gives it.
pub(crate) fn layers(
    image: &str,
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<Vec<LayerDescriptor>, RegistryError> {
    if manifest.layers.is_empty() {
        return Err(RegistryError::NoLayers {
            image: image.to_owned(),
        });
    }
    if manifest.layers.len() != config.diff_ids.len() {
        let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
        return Err(malformed(
            &format!("image {image}"),
            format!("its manifest has {layers} layers, and its configuration {diff_ids} diff_ids"),
        ));
    }
    let layer = |(descriptor, diff_id): (&Descriptor, &DiffId)| {
        let what = format!("layer {} of image {image}", descriptor.digest);
        if descriptor.is_foreign() {
            return Err(RegistryError::ForeignLayer { what });
        }
        let compression = match descriptor.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Compression::None
            }
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Compression::Gzip
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Compression::Zstd
            }
            other => {
                return Err(RegistryError::MediaType {
                    what,
                    media_type: other.to_owned(),
                });
            }
        };
        let digest = descriptor.digest(&what)?;
        Ok(LayerDescriptor {
            digest,
            size_bytes: descriptor.size,
            compression,
            diff_id: *diff_id,
        })
    };
    manifest.layers.iter().zip(&config.diff_ids).map(layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    #[track_caller]
    fn refused(header: Option<&str>, body: &str, part: &str) {
        let error = parse("manifest x", header, body.as_bytes())
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn documents_that_are_refused() {
        refused(Some(MANIFEST), "{", "malformed");
        refused(Some("text/plain"), "{}", "\"text/plain\"");
        refused(None, "{}", "not supported");
        refused(
            Some(MANIFEST),
            &format!("{{\"mediaType\":{:?},\"manifests\":[]}}", INDEX_TYPES[0]),
            "calls itself",
        );
        refused(
            Some(MANIFEST),
            "{\"manifests\":[],\"layers\":[]}",
            "both manifests and layers",
        );
        refused(Some(MANIFEST), "{\"layers\":[]}", "missing field `config`");
        refused(
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            "{}",
            "not supported",
        );
    }

    fn descriptor(media_type: &str, more: &str) -> Descriptor {
        let text = format!("{{\"mediaType\":{media_type:?},\"digest\":{DIGEST:?},\"size\":1{more}}}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn platforms() {
        let of = |os: &str, architecture: &str| {
            descriptor(
                MANIFEST,
                &format!(",\"platform\":{{\"os\":{os:?},\"architecture\":{architecture:?}}}"),
            )
        };
        let wanted = Platform::default();
        let all = [of("unknown", "unknown"), of("linux", "arm64"), of("linux", "amd64")];
        assert_eq!(
            choose("x", &all, &wanted)
                .unwrap()
                .platform
                .as_ref()
                .unwrap()
                .architecture,
            "amd64"
        );
        let error = choose("x", &all[..2], &wanted).unwrap_err().to_string();
        assert_eq!(
            error,
            "image x is not built for linux/amd64, but for linux/arm64; build it for linux/amd64"
        );
        assert!(
            choose("x", &[], &wanted)
                .unwrap_err()
                .to_string()
                .contains("no platform at all")
        );
    }

    #[test]
    fn layers_that_are_refused() {
        #[track_caller]
        fn check(layers: &[Descriptor], diff_ids: usize, part: &str) {
            let manifest = Manifest {
                config: descriptor("", ""),
                layers: layers.to_vec(),
            };
            let config = ImageConfig {
                diff_ids: vec![DiffId([0; 32]); diff_ids],
                ..ImageConfig::default()
            };
            let error = super::layers("x", &manifest, &config).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        check(&[], 0, "image x has no layers");
        check(&[descriptor(gzip, "")], 2, "1 layers, and its configuration 2 diff_ids");
        check(
            &[descriptor(gzip, ",\"urls\":[\"http://169.254.169.254/\"]")],
            1,
            "foreign URLs are never followed",
        );
        check(
            &[descriptor(
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "",
            )],
            1,
            "foreign",
        );
        check(
            &[descriptor(
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "",
            )],
            1,
            "foreign",
        );
        check(
            &[descriptor("application/vnd.oci.image.layer.v1.tar+xz", "")],
            1,
            "not supported",
        );
    }

    #[test]
    fn configurations() {
        let body = format!(
            "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{{\"Entrypoint\":null,\"Cmd\":[\"a\"],\
             \"Env\":[\"PATH=/a=b\",\"X\"]}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{DIGEST:?}]}}}}"
        );
        let config = parse_config("configuration", body.as_bytes()).unwrap();
        assert_eq!(config.cmd, ["a"]);
        assert_eq!(
            config.env,
            [("PATH".to_owned(), "/a=b".to_owned()), ("X".to_owned(), String::new())]
        );
        let error = parse_config("configuration", b"{\"rootfs\":{\"diff_ids\":[\"sha256:0\"]}}")
            .unwrap_err()
            .to_string();
        assert!(error.contains("rootfs.diff_ids"), "{error}");
    }
}
