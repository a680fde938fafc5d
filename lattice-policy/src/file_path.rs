//! A path inside a container: bytes, since Linux does not ask for UTF-8.

use std::fmt;

/// An absolute path in a container's file system, as bytes.
///
/// [`Display`](fmt::Display) escapes control characters and bytes that are not UTF-8 as `\xNN`, and a backslash as `\\`, so that a
/// hostile name never reaches a terminal raw and the text can be read back by [`FilePath::from_escaped`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Vec<u8>);

impl FilePath {
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
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character == '\\' {
                    formatter.write_str("\\\\")?;
                } else if character.is_control() {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        write!(formatter, "\\x{byte:02x}")?;
                    }
                } else {
                    write!(formatter, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
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
        assert_eq!(FilePath::from_bytes(*b"/a\x1b[2J\xff\\").to_string(), "/a\\x1b[2J\\xff\\\\");
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: Vec<u8>) {
            let path = FilePath::from_bytes(bytes);
            prop_assert_eq!(FilePath::from_escaped(&path.to_string()), Some(path));
        }
    }
}
