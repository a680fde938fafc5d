//! One escape for everything that others wrote and people will read.

use std::fmt::{self, Write as _};

/// Shows bytes so that a terminal obeys none of them: control characters, characters that reorder or hide text, and bytes
/// that are not UTF-8 become `\xNN` for each byte, a backslash becomes `\\`.
///
/// [`crate::FilePath::from_escaped`] reads the text back.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl<'a> Escaped<'a> {
    /// Escapes a text.
    pub fn text(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

/// Whether a character could make a terminal do something, or make a line read differently from what it says.
fn is_unsafe_to_show(character: char) -> bool {
    character.is_control()
        // Direction marks, embeddings, overrides and isolates, line separators, the byte order mark.
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character == '\\' {
                    formatter.write_str("\\\\")?;
                } else if is_unsafe_to_show(character) {
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        write!(formatter, "\\x{byte:02x}")?;
                    }
                } else {
                    formatter.write_char(character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// A sentence that may hold escaped parts, made safe for a terminal: what it would obey becomes `\xNN`, backslashes stay.
pub fn for_terminal(sentence: &str) -> String {
    sentence
        .chars()
        .fold(String::with_capacity(sentence.len()), |mut shown, character| {
            match is_unsafe_to_show(character) {
                false => shown.push(character),
                true => shown.push_str(&Escaped::text(character.encode_utf8(&mut [0; 4])).to_string()),
            }
            shown
        })
}

/// JSON that says the same, and of which a terminal obeys nothing: what is not safe to show becomes `\uNNNN`.
///
/// Such characters can only stand inside of strings, where an escape means the same; line breaks between values stay.
pub fn json_for_terminal(json: &str) -> String {
    json.chars()
        .fold(String::with_capacity(json.len()), |mut shown, character| {
            match u16::try_from(u32::from(character)) {
                // 0xfffe and 0xffff are no characters, and YAML does not take them raw.
                Ok(unit) if character != '\n' && (is_unsafe_to_show(character) || unit >= 0xfffe) => {
                    shown.push_str(&format!("\\u{unit:04x}"));
                }
                _ => shown.push(character),
            }
            shown
        })
}

/// The escaped text, cut after `characters` characters with `…` at the end.
pub fn escaped_and_cut(text: &str, characters: usize) -> String {
    // Cut before escaping, so that the work for a text of megabytes stays small.
    let mut kept: String = text.chars().take(characters).collect();
    let is_cut = kept.len() < text.len();
    kept = Escaped::text(&kept).to_string();
    if is_cut {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing() {
        assert_eq!(Escaped(b"a\x1b[2J\n\xff\\").to_string(), "a\\x1b[2J\\x0a\\xff\\\\");
        assert_eq!(Escaped::text("a\u{202e}b").to_string(), "a\\xe2\\x80\\xaeb");
        assert_eq!(Escaped::text("Grüße").to_string(), "Grüße");
    }

    #[test]
    fn sentences_keep_their_backslashes() {
        assert_eq!(for_terminal("\"/a\\x1b\"\u{1b}[2J\n"), "\"/a\\x1b\"\\x1b[2J\\x0a");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(escaped_and_cut("abcdef", 3), "abc…");
        assert_eq!(escaped_and_cut("abc", 3), "abc");
    }
}
