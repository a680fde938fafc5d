//! A path inside a container: bytes, since Linux does not ask for UTF-8.

use std::fmt;

use crate::escape::Escaped;

/// An absolute path in a container's file system, as bytes.
///
/// [`Display`](fmt::Display) is [`Escaped`], so that a hostile name never reaches a terminal raw and the text can be read back
/// by [`FilePath::from_escaped`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Vec<u8>);

/// The kernel takes paths of at most so many bytes (PATH_MAX without the closing NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// Why a path can be none that the kernel reports for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It does not begin with `/`.
    #[error("is not an absolute path")]
    NotAbsolute,
    /// It is longer than [`MAX_PATH_BYTES`].
    #[error("is longer than the {MAX_PATH_BYTES} bytes that the kernel takes")]
    TooLong,
    /// It contains a NUL byte.
    #[error("contains a NUL byte")]
    Nul,
    /// It has an empty, `.` or `..` part, or a `/` at its end.
    #[error(
        "has an empty, \".\" or \"..\" part or a \"/\" at its end, which no path of a file has after the kernel resolved it"
    )]
    NotNormal,
}

impl InvalidPath {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NotAbsolute => "Begin it with \"/\".",
            Self::TooLong => "Shorten it.",
            Self::Nul => "Remove the NUL byte.",
            Self::NotNormal => "Write the path in its shortest form, such as \"/usr/bin/curl\".",
        }
    }
}

impl FilePath {
    /// Whether this can be the path of a file as the kernel reports it.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub fn check(&self) -> Result<(), InvalidPath> {
        let Some(below_root) = self.0.strip_prefix(b"/") else {
            return Err(InvalidPath::NotAbsolute);
        };
        if self.0.len() > MAX_PATH_BYTES {
            return Err(InvalidPath::TooLong);
        }
        if self.0.contains(&0) {
            return Err(InvalidPath::Nul);
        }
        match below_root
            .split(|byte| *byte == b'/')
            .any(|part| matches!(part, b"" | b"." | b".."))
        {
            true => Err(InvalidPath::NotNormal),
            false => Ok(()),
        }
    }

    /// The path with exactly these bytes.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes as the kernel has them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the text form back. A text without backslashes stands for itself.
    ///
    /// Returns `None` where a backslash begins neither `\\` nor `\xNN`.
    pub fn from_escaped(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            if first != b'\\' {
                bytes.push(first);
                rest = after;
                continue;
            }
            match after {
                [b'\\', tail @ ..] => {
                    bytes.push(b'\\');
                    rest = tail;
                }
                [b'x', high, low, tail @ ..] => {
                    let digit = |byte: &u8| char::from(*byte).to_digit(16);
                    bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                    rest = tail;
                }
                _ => return None,
            }
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(formatter)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{self}\"")
    }
}

impl From<&str> for FilePath {
    fn from(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        assert_eq!(
            FilePath::from_bytes(*b"/a\x1b[2J\xff\\").to_string(),
            "/a\\x1b[2J\\xff\\\\"
        );
    }

    #[track_caller]
    fn check(path: &str, expected: Result<(), InvalidPath>) {
        assert_eq!(FilePath::from(path).check(), expected, "{path:?}");
    }

    #[test]
    fn paths_of_files() {
        check("/bin/sh", Ok(()));
        check("/...", Ok(()));
        check("bin/sh", Err(InvalidPath::NotAbsolute));
        check("", Err(InvalidPath::NotAbsolute));
        check("/", Err(InvalidPath::NotNormal));
        check("/bin/", Err(InvalidPath::NotNormal));
        check("/bin/../sh", Err(InvalidPath::NotNormal));
        check("//sh", Err(InvalidPath::NotNormal));
        check("/a\0b", Err(InvalidPath::Nul));
        check(&format!("/{}", "a".repeat(4094)), Ok(()));
        check(&format!("/{}", "a".repeat(4095)), Err(InvalidPath::TooLong));
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: Vec<u8>) {
            let path = FilePath::from_bytes(bytes);
            prop_assert_eq!(FilePath::from_escaped(&path.to_string()), Some(path));
        }
    }
}
