//! What can be denied, whoever asks for it: an image by its digest, or a file by its content.

use std::{fmt, str::FromStr};

use crate::{FileDigest, ImageDigest, InvalidDigest};

/// A digest that is refused, by what it is of. Text form: `image sha256:<hex>` or `file sha256:<hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Denied {
    /// Containers of this image start nothing any more.
    Image(ImageDigest),
    /// This content starts nowhere.
    File(FileDigest),
}

/// What is wrong with a denied digest's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDenied {
    /// Neither an image nor a file.
    #[error("{0:?} is neither image nor file")]
    Kind(String),
    /// No digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

impl Denied {
    /// From a kind and a digest, which for files may lack `sha256:`.
    ///
    /// # Errors
    /// When the kind is none, or the digest is not 64 lower-case hexadecimal digits.
    pub fn parse(kind: &str, digest: &str) -> Result<Self, InvalidDenied> {
        match kind {
            "image" => Ok(Self::Image(digest.parse()?)),
            "file" => Ok(Self::File(digest.strip_prefix("sha256:").unwrap_or(digest).parse()?)),
            other => Err(InvalidDenied::Kind(other.chars().take(80).collect())),
        }
    }

    /// `image` or `file`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::File(_) => "file",
        }
    }

    /// The digest, of both with `sha256:`.
    pub fn digest(&self) -> String {
        match self {
            Self::Image(digest) => digest.to_string(),
            Self::File(digest) => format!("sha256:{digest}"),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind(), self.digest())
    }
}

impl FromStr for Denied {
    type Err = InvalidDenied;

    /// # Errors
    /// As [`Denied::parse`].
    fn from_str(text: &str) -> Result<Self, InvalidDenied> {
        let (kind, digest) = text.split_once(' ').unwrap_or((text, ""));
        Self::parse(kind, digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[track_caller]
    fn check(kind: &str, digest: &str, expected: Result<&str, &str>) {
        match (Denied::parse(kind, digest), expected) {
            (Ok(denied), Ok(text)) => {
                assert_eq!(denied.to_string(), text);
                assert_eq!(text.parse(), Ok(denied));
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn kinds_and_digests_are_told_apart() {
        let prefixed = format!("sha256:{DIGITS}");
        check("image", &prefixed, Ok(&format!("image {prefixed}")));
        check("file", &prefixed, Ok(&format!("file {prefixed}")));
        check("file", DIGITS, Ok(&format!("file {prefixed}")));
        check("image", DIGITS, Err("does not begin with"));
        check("file", &DIGITS.to_uppercase(), Err("64 lower-case"));
        check("Image", &prefixed, Err("neither image nor file"));
        check("", "", Err("neither"));
    }
}
