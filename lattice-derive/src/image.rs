//! What an image's configuration says, as far as a derivation needs it.

use std::{fmt, str::FromStr};

use lattice_policy::{ImageDigest, InvalidDigest};

/// SHA-256 of a layer's uncompressed tar stream, as `rootfs.diff_ids` has it. Text form: `sha256:` and 64 digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId(pub [u8; 32]);

impl FromStr for DiffId {
    type Err = InvalidDigest;

    /// # Errors
    /// When the text is not `sha256:` and exactly 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        text.parse::<ImageDigest>().map(|digest| Self(digest.0))
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        ImageDigest(self.0).fmt(formatter)
    }
}

impl fmt::Debug for DiffId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DiffId({self})")
    }
}

/// The platform that an image is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// As Go names it, e.g. `linux`.
    pub os: String,
    /// As Go names it, e.g. `amd64`.
    pub architecture: String,
    /// E.g. `v7` of `arm`.
    pub variant: Option<String>,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        self.variant
            .iter()
            .try_for_each(|variant| write!(formatter, "/{variant}"))
    }
}

/// The part of an image's configuration that decides what starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// `Entrypoint`; empty where the image has none.
    pub entrypoint: Vec<String>,
    /// `Cmd`; empty where the image has none.
    pub cmd: Vec<String>,
    /// `Env`, in order, split at the first `=`.
    pub env: Vec<(String, String)>,
    /// `WorkingDir`; empty stands for `/`.
    pub working_dir: String,
    /// `User`, unparsed; empty stands for root.
    pub user: String,
    /// `rootfs.diff_ids`, lowest layer first.
    pub diff_ids: Vec<DiffId>,
    /// What the image is built for.
    pub platform: Platform,
}
