//! Words: what a shell would make one argument of, before any expansion.

use super::ShellError;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes, quotes removed.
    Literal(Vec<u8>),
    /// `$NAME`, `${NAME}`, `$1`, `$@`, `$0`: a parameter without any operator.
    Variable(String),
    /// Anything else that only a run can tell, as written.
    Dynamic(String),
}

/// One word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word {
    /// Its pieces, in order.
    pub parts: Vec<Part>,
    /// Some of it was quoted: it is no reserved word and no assignment.
    pub quoted: bool,
    /// Holds an unquoted `*`, `?` or `[`, or a leading `~`, or braces with a comma.
    pub pattern: bool,
    /// Texts of `$(…)`, backticks and `<(…)` in it: they hold commands of their own.
    pub substitutions: Vec<Vec<u8>>,
    /// The line that it begins in, from 1.
    pub line: usize,
}

impl Word {
    /// Its bytes, where no run is needed to tell them.
    pub fn literal(&self) -> Option<Vec<u8>> {
        if self.pattern {
            return None;
        }
        self.text()
    }

    /// Its bytes, where only file names may still be expanded from them.
    pub fn text(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => bytes.extend_from_slice(literal),
                _ => return None,
            }
        }
        Some(bytes)
    }

    /// Its bytes, where it is one unquoted literal: what may be a reserved word.
    pub fn bare(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [Part::Literal(bytes)] if !self.quoted => Some(bytes),
            _ => None,
        }
    }

    /// As a person would write it, for messages.
    pub fn shown(&self) -> String {
        let text = |part: &Part| match part {
            Part::Literal(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Part::Variable(name) => format!("${name}"),
            Part::Dynamic(text) => text.clone(),
        };
        self.parts.iter().map(text).collect()
    }

    fn push_literal(&mut self, bytes: &[u8]) {
        if let Some(Part::Literal(last)) = self.parts.last_mut() {
            last.extend_from_slice(bytes);
        } else {
            self.parts.push(Part::Literal(bytes.to_vec()));
        }
    }

    fn push_dynamic(&mut self, text: &[u8]) {
        self.parts
            .push(Part::Dynamic(String::from_utf8_lossy(text).into_owned()));
    }
}

/// A place in the text.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    pub(super) line: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(super) fn advance(&mut self, count: usize) {
        let end = (self.at + count).min(self.text.len());
        self.line += self.text[self.at..end].iter().filter(|byte| **byte == b'\n').count();
        self.at = end;
    }

    pub(super) fn take(&mut self, prefix: &[u8]) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.advance(prefix.len());
        }
        found
    }
}

fn ends_word(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t' | b'\n' | b'\r' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')'
    )
}

/// Reads one word; the cursor stands at its first byte.
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Word, ShellError> {
    let mut word = Word {
        line: cursor.line,
        ..Word::default()
    };
    if cursor.peek() == Some(b'~') {
        word.pattern = true;
    }
    let mut brace = false;
    while let Some(byte) = cursor.peek() {
        if ends_word(byte) {
            let is_process = matches!(byte, b'<' | b'>') && cursor.rest().get(1) == Some(&b'(');
            if is_process && word.parts.is_empty() {
                let start = cursor.at;
                cursor.advance(2);
                word.substitutions.push(until_parenthesis(cursor)?.to_vec());
                word.push_dynamic(&cursor.text[start..cursor.at]);
                continue;
            }
            break;
        }
        match byte {
            b'\\' => {
                cursor.advance(1);
                if !cursor.take(b"\n") {
                    word.quoted = true;
                    word.push_literal(&cursor.rest()[..cursor.rest().len().min(1)]);
                    cursor.advance(1);
                }
            }
            b'\'' => {
                word.quoted = true;
                let line = cursor.line;
                cursor.advance(1);
                let end = cursor.rest().iter().position(|byte| *byte == b'\'');
                let end = end.ok_or(ShellError::Unterminated {
                    what: "a single-quoted text",
                    line,
                })?;
                word.push_literal(&cursor.rest()[..end]);
                cursor.advance(end + 1);
            }
            b'"' => double_quoted(cursor, &mut word)?,
            b'$' if cursor.rest().get(1) == Some(&b'\'') => ansi_quoted(cursor, &mut word)?,
            b'$' => dollar(cursor, &mut word)?,
            b'`' => backticks(cursor, &mut word)?,
            _ => {
                word.pattern |=
                    matches!(byte, b'*' | b'?') || (byte == b'[' && cursor.rest().len() > 1 && !single(cursor));
                brace |= byte == b'{';
                word.pattern |= brace && byte == b',';
                word.push_literal(&[byte]);
                cursor.advance(1);
            }
        }
    }
    if word.parts.is_empty() && word.quoted {
        word.parts.push(Part::Literal(Vec::new()));
    }
    Ok(word)
}

/// `[` alone, or `[[`, is a command and no pattern.
fn single(cursor: &Cursor<'_>) -> bool {
    let rest = cursor.rest();
    let rest = rest
        .strip_prefix(b"[[")
        .or_else(|| rest.strip_prefix(b"["))
        .unwrap_or(rest);
    rest.first().is_none_or(|byte| ends_word(*byte))
}

fn double_quoted(cursor: &mut Cursor<'_>, word: &mut Word) -> Result<(), ShellError> {
    let line = cursor.line;
    word.quoted = true;
    cursor.advance(1);
    loop {
        match cursor.peek() {
            None => {
                return Err(ShellError::Unterminated {
                    what: "a double-quoted text",
                    line,
                });
            }
            Some(b'"') => {
                cursor.advance(1);
                return Ok(());
            }
            Some(b'\\') => {
                match cursor.rest().get(1) {
                    Some(b'\n') => {}
                    Some(next @ (b'$' | b'`' | b'"' | b'\\')) => word.push_literal(&[*next]),
                    Some(next) => word.push_literal(&[b'\\', *next]),
                    None => word.push_literal(b"\\"),
                }
                cursor.advance(2);
            }
            Some(b'$') => dollar(cursor, word)?,
            Some(b'`') => backticks(cursor, word)?,
            Some(byte) => {
                word.push_literal(&[byte]);
                cursor.advance(1);
            }
        }
    }
}

/// `$'…'`: literal unless it has escapes, which we do not decode.
fn ansi_quoted(cursor: &mut Cursor<'_>, word: &mut Word) -> Result<(), ShellError> {
    let (start, line) = (cursor.at, cursor.line);
    word.quoted = true;
    cursor.advance(2);
    let mut escaped = false;
    loop {
        match cursor.peek() {
            None => {
                return Err(ShellError::Unterminated {
                    what: "a $'…' text",
                    line,
                });
            }
            Some(b'\\') => {
                escaped = true;
                cursor.advance(2);
            }
            Some(b'\'') => break,
            Some(_) => cursor.advance(1),
        }
    }
    if escaped {
        word.push_dynamic(&cursor.text[start..=cursor.at]);
    } else {
        word.push_literal(&cursor.text[start + 2..cursor.at]);
    }
    cursor.advance(1);
    Ok(())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn dollar(cursor: &mut Cursor<'_>, word: &mut Word) -> Result<(), ShellError> {
    let (start, line) = (cursor.at, cursor.line);
    cursor.advance(1);
    match cursor.peek() {
        Some(b'(') if cursor.rest().starts_with(b"((") && arithmetic_end(cursor).is_some() => {
            let end = arithmetic_end(cursor).unwrap_or(2);
            cursor.advance(end);
            word.push_dynamic(&cursor.text[start..cursor.at]);
        }
        Some(b'(') => {
            cursor.advance(1);
            word.substitutions.push(until_parenthesis(cursor)?.to_vec());
            word.push_dynamic(&cursor.text[start..cursor.at]);
        }
        Some(b'{') => {
            cursor.advance(1);
            let inner = until_brace(cursor, line)?;
            let is_simple = !inner.is_empty() && inner.iter().all(|byte| is_name_byte(*byte));
            if is_simple || matches!(inner, b"@" | b"*") {
                word.parts
                    .push(Part::Variable(String::from_utf8_lossy(inner).into_owned()));
            } else {
                nested_substitutions(inner, line, word)?;
                word.push_dynamic(&cursor.text[start..cursor.at]);
            }
        }
        Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
            let length = cursor.rest().iter().take_while(|byte| is_name_byte(**byte)).count();
            word.parts.push(Part::Variable(
                String::from_utf8_lossy(&cursor.rest()[..length]).into_owned(),
            ));
            cursor.advance(length);
        }
        Some(byte) if byte.is_ascii_digit() || b"@*#?-$!".contains(&byte) => {
            word.parts.push(Part::Variable(char::from(byte).to_string()));
            cursor.advance(1);
        }
        _ => word.push_literal(b"$"),
    }
    Ok(())
}

/// Length of `((…))` from its first parenthesis; `None` where the two do not close together.
fn arithmetic_end(cursor: &Cursor<'_>) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, byte) in cursor.rest().iter().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 1 && cursor.rest().get(index + 1) != Some(&b')') {
                    return None;
                }
                if depth == 0 {
                    return Some(index + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Substitutions inside `${…}`: its operand is a word list like any other, quotes included.
fn nested_substitutions(inner: &[u8], line: usize, word: &mut Word) -> Result<(), ShellError> {
    let mut nested = Cursor {
        text: inner,
        at: 0,
        line,
    };
    let mut found = Word::default();
    while let Some(byte) = nested.peek() {
        match byte {
            b'\\' => nested.advance(2),
            b'$' => dollar(&mut nested, &mut found)?,
            b'`' => backticks(&mut nested, &mut found)?,
            _ => nested.advance(1),
        }
    }
    word.substitutions.append(&mut found.substitutions);
    Ok(())
}

fn backticks(cursor: &mut Cursor<'_>, word: &mut Word) -> Result<(), ShellError> {
    let (start, line) = (cursor.at, cursor.line);
    cursor.advance(1);
    let mut inner = Vec::new();
    loop {
        match cursor.peek() {
            None => {
                return Err(ShellError::Unterminated {
                    what: "a `…` substitution",
                    line,
                });
            }
            Some(b'`') => break,
            Some(b'\\') => {
                if let Some(next) = cursor.rest().get(1) {
                    if !matches!(next, b'`' | b'\\' | b'$') {
                        inner.push(b'\\');
                    }
                    inner.push(*next);
                }
                cursor.advance(2);
            }
            Some(byte) => {
                inner.push(byte);
                cursor.advance(1);
            }
        }
    }
    cursor.advance(1);
    word.substitutions.push(inner);
    word.push_dynamic(&cursor.text[start..cursor.at]);
    Ok(())
}

/// The text up to the `)` that closes a `(` just read; the cursor ends behind it.
fn until_parenthesis<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], ShellError> {
    let text = until(cursor, b'(', b')', "a $(…) substitution")?;
    Ok(text)
}

fn until_brace<'a>(cursor: &mut Cursor<'a>, _line: usize) -> Result<&'a [u8], ShellError> {
    until(cursor, b'{', b'}', "a ${…} expansion")
}

fn until<'a>(cursor: &mut Cursor<'a>, open: u8, close: u8, what: &'static str) -> Result<&'a [u8], ShellError> {
    let (start, line) = (cursor.at, cursor.line);
    let mut depth = 1_usize;
    let mut word_start = true;
    while let Some(byte) = cursor.peek() {
        let was_word_start = std::mem::replace(&mut word_start, ends_word(byte));
        match byte {
            b'\\' => cursor.advance(2),
            b'\'' if open == b'(' => {
                cursor.advance(1);
                let end = cursor.rest().iter().position(|byte| *byte == b'\'');
                cursor.advance(end.map_or(usize::MAX / 2, |end| end + 1));
            }
            b'"' => double_quoted(cursor, &mut Word::default())?,
            b'#' if open == b'(' && was_word_start => {
                let end = cursor.rest().iter().position(|byte| *byte == b'\n');
                cursor.advance(end.unwrap_or(cursor.rest().len()));
            }
            _ => {
                cursor.advance(1);
                if byte == open {
                    depth += 1;
                } else if byte == close {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(&cursor.text[start..cursor.at - 1]);
                    }
                }
            }
        }
    }
    Err(ShellError::Unterminated { what, line })
}
