//! PT_INTERP of an ELF file that passes by once: header, program headers and the path are picked up as they come.
//!
//! What the kernel reads: fs/binfmt_elf.c, `load_elf_phdrs` and `load_elf_binary`.

use std::ops::Range;

use lattice_derive::ElfInterpreter;
use lattice_policy::FilePath;

/// Bytes of the file's beginning that are at hand when the rest passes by.
pub(super) const ELF_HEAD_BYTES: usize = 64 * 1024;
const PT_INTERP: u32 = 3;
const PATH_BYTES_MAX: u64 = 4096;

/// Reads numbers of the file's own width and byte order.
#[derive(Debug, Clone, Copy)]
struct Layout {
    wide: bool,
    big_endian: bool,
}

impl Layout {
    fn of(head: &[u8]) -> Option<Self> {
        let wide = match head.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let big_endian = match head.get(5)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        Some(Self { wide, big_endian })
    }

    fn number(self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let field = bytes.get(at..at + length)?;
        let push = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big_endian {
            field.iter().fold(0, push)
        } else {
            field.iter().rev().fold(0, push)
        })
    }

    /// Where the program headers lie. Empty where there are none; `None` where the kernel would refuse the file.
    fn program_headers(self, head: &[u8]) -> Option<Range<u64>> {
        let (offset, entry, count, size) = if self.wide {
            (
                self.number(head, 32, 8)?,
                self.number(head, 54, 2)?,
                self.number(head, 56, 2)?,
                56,
            )
        } else {
            (
                self.number(head, 28, 4)?,
                self.number(head, 42, 2)?,
                self.number(head, 44, 2)?,
                32,
            )
        };
        if count == 0 {
            return Some(0..0);
        }
        // The kernel takes at most 64 KiB of them.
        (entry == size && count * size <= 65_536).then_some(())?;
        Some(offset..offset.checked_add(count * size)?)
    }

    /// Where the first PT_INTERP lies; `Some(None)` where there is none.
    fn interpreter(self, headers: &[u8]) -> Option<Option<Range<u64>>> {
        for header in headers.chunks_exact(if self.wide { 56 } else { 32 }) {
            if self.number(header, 0, 4)? != u64::from(PT_INTERP) {
                continue;
            }
            let (offset, size) = if self.wide {
                (self.number(header, 8, 8)?, self.number(header, 32, 8)?)
            } else {
                (self.number(header, 4, 4)?, self.number(header, 16, 4)?)
            };
            (2..=PATH_BYTES_MAX).contains(&size).then_some(())?;
            return Some(Some(offset..offset.checked_add(size)?));
        }
        Some(None)
    }
}

#[derive(Debug)]
enum State {
    /// The beginning is not complete.
    Head,
    Headers(Range<u64>),
    Path(Range<u64>),
    Done(ElfInterpreter),
}

/// Picks PT_INTERP out of a file's bytes.
#[derive(Debug)]
pub(super) struct ElfProbe {
    state: State,
    caught: Vec<u8>,
}

impl ElfProbe {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head,
            caught: Vec::new(),
        }
    }

    /// The file's beginning is complete: [`ELF_HEAD_BYTES`], or all of it.
    pub(super) fn begin(&mut self, head: &[u8]) {
        let range = Layout::of(head).and_then(|layout| layout.program_headers(head));
        self.state = match range {
            Some(range) if range.is_empty() => State::Done(ElfInterpreter::None),
            Some(range) => State::Headers(range),
            None => State::Done(ElfInterpreter::Unreadable),
        };
        self.advance(head, head.len() as u64);
    }

    /// Bytes behind the beginning; `offset` is that of the first of them.
    pub(super) fn take(&mut self, head: &[u8], bytes: &[u8], offset: u64) {
        let mut from = 0;
        // One piece may hold the headers and, behind them, the path.
        while let State::Headers(range) | State::Path(range) = &self.state {
            let next = range.start + self.caught.len() as u64;
            let start = next.max(offset + from) - offset;
            let end = range.end.min(offset + bytes.len() as u64).saturating_sub(offset);
            if start >= end || next < offset + from {
                return;
            }
            // Both are at most the piece's length.
            self.caught.extend_from_slice(&bytes[start as usize..end as usize]);
            from = end;
            if offset + end < range.end {
                return;
            }
            let passed = offset + end;
            self.advance(head, passed);
        }
    }

    /// The file ended.
    pub(super) fn finish(self) -> ElfInterpreter {
        match self.state {
            State::Done(interpreter) => interpreter,
            _ => ElfInterpreter::Unreadable,
        }
    }

    /// Goes on as far as what is at hand allows. `passed` bytes of the file went by.
    fn advance(&mut self, head: &[u8], passed: u64) {
        loop {
            let (State::Headers(range) | State::Path(range)) = &self.state else {
                return;
            };
            let length = range.end - range.start;
            if (self.caught.len() as u64) < length {
                let in_head = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                match in_head.and_then(|(start, end)| head.get(start..end)) {
                    Some(bytes) => self.caught = bytes.to_vec(),
                    None if range.start >= head.len() as u64 && range.start >= passed => return,
                    None if range.start < head.len() as u64 && passed == head.len() as u64 => {
                        // Begins in what is at hand and goes on behind it.
                        self.caught = head[range.start as usize..].to_vec();
                        return;
                    }
                    None => {
                        self.state = State::Done(ElfInterpreter::Unreadable);
                        return;
                    }
                }
            }
            let caught = std::mem::take(&mut self.caught);
            self.state = match &self.state {
                State::Headers(_) => match Layout::of(head).and_then(|layout| layout.interpreter(&caught)) {
                    Some(Some(range)) => State::Path(range),
                    Some(None) => State::Done(ElfInterpreter::None),
                    None => State::Done(ElfInterpreter::Unreadable),
                },
                _ => State::Done(path(&caught)),
            };
        }
    }
}

/// The kernel wants the last byte to be NUL and takes what is before the first one.
fn path(bytes: &[u8]) -> ElfInterpreter {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) if end > 0 && bytes.last() == Some(&0) => ElfInterpreter::Path(FilePath::from_bytes(&bytes[..end])),
        _ => ElfInterpreter::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A 64-bit file with program headers and path at these offsets.
    fn file(headers_at: usize, path_at: usize, path: &[u8], size: usize) -> Vec<u8> {
        let mut bytes = vec![0_u8; size];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32..40].copy_from_slice(&(headers_at as u64).to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&2_u16.to_le_bytes());
        let second = headers_at + 56;
        bytes[second..second + 4].copy_from_slice(&PT_INTERP.to_le_bytes());
        bytes[second + 8..second + 16].copy_from_slice(&(path_at as u64).to_le_bytes());
        bytes[second + 32..second + 40].copy_from_slice(&(path.len() as u64).to_le_bytes());
        bytes[path_at..path_at + path.len()].copy_from_slice(path);
        bytes
    }

    fn probe(bytes: &[u8], piece: usize) -> ElfInterpreter {
        let head = &bytes[..bytes.len().min(ELF_HEAD_BYTES)];
        let mut probe = ElfProbe::new();
        probe.begin(head);
        let mut offset = head.len();
        for bytes in bytes[head.len()..].chunks(piece) {
            probe.take(head, bytes, offset as u64);
            offset += bytes.len();
        }
        probe.finish()
    }

    #[track_caller]
    fn check(headers_at: usize, path_at: usize, expected: Option<&str>) {
        let bytes = file(headers_at, path_at, b"/lib/ld.so\0", 400_000);
        let expected = expected.map_or(ElfInterpreter::Unreadable, |path| {
            ElfInterpreter::Path(FilePath::from(path))
        });
        for piece in [1, 7, 4096, 1 << 20] {
            assert_eq!(probe(&bytes, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn wherever_headers_and_path_lie() {
        check(64, 0x318, Some("/lib/ld.so"));
        check(64, 300_000, Some("/lib/ld.so"));
        check(300_000, 0x318, Some("/lib/ld.so"));
        check(200_000, 300_000, Some("/lib/ld.so"));
        check(200_000, 200_112, Some("/lib/ld.so"));
        check(ELF_HEAD_BYTES - 50, 300_000, Some("/lib/ld.so"));
        check(64, ELF_HEAD_BYTES - 5, Some("/lib/ld.so"));
        check(300_000, 200_000, None);
    }

    #[test]
    fn what_the_kernel_refuses() {
        for path in [&b"/lib/ld.so"[..], b"\0\0", b"x"] {
            assert_eq!(
                probe(&file(64, 0x318, path, 4096), 1),
                ElfInterpreter::Unreadable,
                "{path:?}"
            );
        }
        let static_file = &file(64, 0x318, b"/x\0", 4096)[..64];
        let mut none = static_file.to_vec();
        none[56] = 0;
        assert_eq!(probe(&none, 1), ElfInterpreter::None);
        assert_eq!(probe(static_file, 1), ElfInterpreter::Unreadable);
    }

    #[test]
    fn the_test_program_itself() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let ElfInterpreter::Path(path) = probe(&bytes, 4096) else {
            panic!("no interpreter")
        };
        assert!(path.to_string().contains("ld-"), "{path}");
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), wide in 1_u8..3, order in 1_u8..3) {
            for (place, byte) in bytes.iter_mut().zip([0x7f, b'E', b'L', b'F', wide, order]) {
                *place = byte;
            }
            probe(&bytes, 5);
            let mut probe = ElfProbe::new();
            let (head, rest) = bytes.split_at(bytes.len() / 2);
            probe.begin(head);
            probe.take(head, rest, head.len() as u64);
            probe.finish();
        }
    }
}
