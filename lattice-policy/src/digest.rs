//! SHA-256 digests, by role: a file's is not an image's.

use std::{fmt, str::FromStr};

/// What is wrong with a digest's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// The text does not begin with `sha256:`.
    #[error("digest {0:?} does not begin with \"sha256:\"")]
    Algorithm(String),
    /// Not exactly 64 lower-case hexadecimal digits.
    #[error("{0:?} is not 64 lower-case hexadecimal digits")]
    Hex(String),
}

/// SHA-256 of a file's content, as the image layer had it. Text form: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileDigest(pub [u8; 32]);

/// Digest of an image's manifest or index. Text form: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest(pub [u8; 32]);

fn parse_hex(text: &str) -> Result<[u8; 32], InvalidDigest> {
    let invalid = || InvalidDigest::Hex(text.chars().take(80).collect());
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(invalid());
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
    Ok(bytes)
}

impl FromStr for FileDigest {
    type Err = InvalidDigest;

    /// # Errors
    /// When the text is not exactly 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        parse_hex(text).map(Self)
    }
}

impl FromStr for ImageDigest {
    type Err = InvalidDigest;

    /// # Errors
    /// When the text is not `sha256:` and exactly 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text
            .strip_prefix("sha256:")
            .ok_or_else(|| InvalidDigest::Algorithm(text.chars().take(80).collect()))?;
        parse_hex(digits).map(Self)
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for FileDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FileDigest({self})")
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ImageDigest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let text = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(text.parse::<FileDigest>().unwrap().to_string(), text);
        let image = format!("sha256:{text}");
        assert_eq!(image.parse::<ImageDigest>().unwrap().to_string(), image);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for text in ["", "9f86", &"G".repeat(64), &"A".repeat(64), &"a".repeat(65), "é"] {
            assert!(text.parse::<FileDigest>().is_err(), "{text}");
        }
        assert!("sha512:00".parse::<ImageDigest>().is_err());
        assert!("a".repeat(64).parse::<ImageDigest>().is_err());
    }
}
