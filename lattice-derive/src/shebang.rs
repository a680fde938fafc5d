//! The `#!` line, read as Linux reads it (fs/binfmt_script.c): 256 bytes, one optional argument.

use lattice_policy::FilePath;

/// Scripts that are interpreted by scripts, as deep as Linux goes.
pub const SHEBANG_DEPTH_MAX: usize = 5;

const KERNEL_HEAD_BYTES: usize = 256;

/// What a `#!` line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shebang {
    /// The interpreter, as written; a relative path is relative to the working directory.
    pub interpreter: FilePath,
    /// All that follows it, as one argument.
    pub argument: Option<Vec<u8>>,
}

/// Reads the first line of a script. `None` where Linux answers ENOEXEC.
pub fn parse(head: &[u8]) -> Option<Shebang> {
    let head = &head[..head.len().min(KERNEL_HEAD_BYTES)];
    let after = head.strip_prefix(b"#!")?;
    let (line, line_ended) = match after.iter().position(|byte| *byte == b'\n' || *byte == 0) {
        Some(end) => (&after[..end], true),
        None => (after, head.len() < KERNEL_HEAD_BYTES),
    };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = &line[line.iter().position(|byte| !is_blank(byte))?..];
    let line = &line[..line.iter().rposition(|byte| !is_blank(byte))? + 1];
    let end = line.iter().position(is_blank);
    if end.is_none() && !line_ended {
        // The interpreter's name may go on beyond what the kernel reads.
        return None;
    }
    let (interpreter, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = &rest[rest.iter().position(|byte| !is_blank(byte)).unwrap_or(rest.len())..];
    Some(Shebang {
        interpreter: FilePath::from_bytes(interpreter),
        argument: (!rest.is_empty()).then(|| rest.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &[u8], expected: Option<(&str, Option<&str>)>) {
        let expected = expected.map(|(interpreter, argument)| Shebang {
            interpreter: FilePath::from(interpreter),
            argument: argument.map(|text| text.as_bytes().to_vec()),
        });
        assert_eq!(parse(head), expected);
    }

    #[test]
    fn first_lines() {
        check(b"#!/bin/sh\necho", Some(("/bin/sh", None)));
        check(b"#! \t/bin/sh -e  \n", Some(("/bin/sh", Some("-e"))));
        check(
            b"#!/usr/bin/env -S python3 -u\n",
            Some(("/usr/bin/env", Some("-S python3 -u"))),
        );
        check(b"#!/bin/sh", Some(("/bin/sh", None)));
        check(b"#!\n/bin/sh", None);
        check(b"#!   \t \n", None);
        check(b"\x7fELF", None);
        check(b"#!/bin/sh\r\n", Some(("/bin/sh\r", None)));
    }

    #[test]
    fn an_interpreter_cut_at_256_bytes_is_refused() {
        let mut head = b"#!/".to_vec();
        head.resize(300, b'a');
        check(&head, None);
        let mut head = b"#!/bin/sh ".to_vec();
        head.resize(300, b'a');
        let argument = "a".repeat(246);
        check(&head, Some(("/bin/sh", Some(&argument))));
    }
}
