//! Words, operators, comments, here-documents.

use super::{
    ShellError,
    word::{self, Cursor, Word},
};

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    /// `;`, `&`, `&&`, `||`, `|`, `|&`, `;;`, `;&`, `;;&`, `(`, `)`.
    Operator(&'static str),
    Newline,
    /// A redirection; its target, if it has one, is the next word.
    Redirection,
}

const OPERATORS: [&str; 11] = [";;&", ";;", ";&", "&&", "||", "|&", ";", "&", "|", "(", ")"];
const REDIRECTIONS: [&[u8]; 10] = [b"&>>", b"<<<", b"&>", b">>", b">&", b"<&", b"<>", b">|", b">", b"<"];

/// A here-document whose text begins after the next newline.
struct Pending {
    delimiter: Vec<u8>,
    strips_tabs: bool,
    expands: bool,
    line: usize,
}

/// All tokens of a text.
pub(super) fn tokens(text: &[u8]) -> Result<Vec<Token>, ShellError> {
    let mut cursor = Cursor { text, at: 0, line: 1 };
    let mut found = Vec::new();
    let mut pending: Vec<Pending> = Vec::new();
    while let Some(byte) = cursor.peek() {
        match byte {
            b' ' | b'\t' | b'\r' => cursor.advance(1),
            b'\\' if cursor.rest().get(1) == Some(&b'\n') => cursor.advance(2),
            b'#' => {
                let end = cursor.rest().iter().position(|byte| *byte == b'\n');
                cursor.advance(end.unwrap_or(cursor.rest().len()));
            }
            b'\n' => {
                cursor.advance(1);
                found.push(Token::Newline);
                for document in pending.drain(..) {
                    if let Some(word) = here_document(&mut cursor, &document)? {
                        // It is no argument, but its substitutions run.
                        found.extend([Token::Redirection, Token::Word(word)]);
                    }
                }
            }
            b'<' | b'>' if cursor.rest().get(1) == Some(&b'(') => found.push(Token::Word(word::read(&mut cursor)?)),
            b'<' if cursor.rest().starts_with(b"<<") && !cursor.rest().starts_with(b"<<<") => {
                cursor.advance(2);
                let strips_tabs = cursor.take(b"-");
                while matches!(cursor.peek(), Some(b' ' | b'\t')) {
                    cursor.advance(1);
                }
                let word = word::read(&mut cursor)?;
                let delimiter = word.shown().into_bytes();
                pending.push(Pending {
                    delimiter,
                    strips_tabs,
                    expands: !word.quoted,
                    line: word.line,
                });
            }
            _ => {
                if let Some(redirection) = REDIRECTIONS.iter().find(|operator| cursor.rest().starts_with(operator)) {
                    cursor.advance(redirection.len());
                    drop_descriptor(&mut found, &cursor, redirection.len());
                    found.push(Token::Redirection);
                } else if let Some(operator) = OPERATORS
                    .iter()
                    .find(|operator| cursor.rest().starts_with(operator.as_bytes()))
                {
                    cursor.advance(operator.len());
                    found.push(Token::Operator(operator));
                } else {
                    let before = cursor.at;
                    let word = word::read(&mut cursor)?;
                    if cursor.at == before {
                        cursor.advance(1);
                    } else if !word.parts.is_empty() {
                        found.push(Token::Word(word));
                    }
                }
            }
        }
    }
    match pending.first() {
        Some(document) => Err(ShellError::Unterminated {
            what: "a here-document",
            line: document.line,
        }),
        None => Ok(found),
    }
}

/// `2>`: the digits directly before a redirection name a descriptor and are no argument.
fn drop_descriptor(found: &mut Vec<Token>, cursor: &Cursor<'_>, operator_bytes: usize) {
    let Some(Token::Word(word)) = found.last() else { return };
    let Some(bytes) = word.bare() else { return };
    let before = &cursor.text[..cursor.at - operator_bytes];
    if bytes.iter().all(u8::is_ascii_digit) && before.ends_with(bytes) {
        found.pop();
    }
}

/// Skips the document. Its substitutions are returned as a word where it expands any.
fn here_document(cursor: &mut Cursor<'_>, document: &Pending) -> Result<Option<Word>, ShellError> {
    let mut body = Vec::new();
    loop {
        if cursor.rest().is_empty() {
            return Err(ShellError::Unterminated {
                what: "a here-document",
                line: document.line,
            });
        }
        let end = cursor.rest().iter().position(|byte| *byte == b'\n');
        let line = &cursor.rest()[..end.unwrap_or(cursor.rest().len())];
        cursor.advance(end.map_or(line.len(), |end| end + 1));
        let tabs = if document.strips_tabs {
            line.iter().take_while(|byte| **byte == b'\t').count()
        } else {
            0
        };
        if line[tabs..] == document.delimiter {
            break;
        }
        body.extend_from_slice(line);
        body.push(b'\n');
    }
    if !document.expands || !body.iter().any(|byte| matches!(byte, b'$' | b'`')) {
        return Ok(None);
    }
    // Quotes mean nothing in a here-document: read it as one double-quoted word.
    let mut quoted = vec![b'"'];
    for byte in body {
        if byte == b'"' {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    let mut inner = Cursor {
        text: &quoted,
        at: 0,
        line: document.line,
    };
    word::read(&mut inner).map(Some)
}
