//! One file, as its bytes pass by: is it of interest, and what is it?

use lattice_derive::{FileContent, FileFacts, SCRIPT_BYTES_MAX, SCRIPT_HEAD_BYTES, ScriptText, path, shebang};
use lattice_policy::FileDigest;
use memchr::memmem;
use sha2::{Digest, Sha256};

use super::elf::{ELF_HEAD_BYTES, ElfProbe};

/// What programs of many applets say of themselves.
const MULTICALL_MARKERS: [&[u8]; 2] = [b"BusyBox v", b"toybox 0."];
const MARKER_BYTES_MAX: usize = 9;
const SHELLS: [&[u8]; 8] = [b"sh", b"bash", b"dash", b"ash", b"ksh", b"mksh", b"zsh", b"busybox"];

/// Both kinds of beginning fit.
const HEAD_BYTES: usize = if ELF_HEAD_BYTES > SCRIPT_BYTES_MAX {
    ELF_HEAD_BYTES
} else {
    SCRIPT_BYTES_MAX
};

pub(super) struct FileProbe {
    is_loader_name: bool,
    mode: u32,
    size_bytes: u64,
    capabilities: bool,
    script_bytes_left: usize,
    head: Vec<u8>,
    /// `None` where the file is of no interest.
    hasher: Option<Sha256>,
    taken_bytes: u64,
    elf: Option<ElfProbe>,
    multicall: bool,
    /// The end of the last piece: a marker may lie across two.
    tail: Vec<u8>,
}

impl FileProbe {
    pub(super) fn new(name: &[u8], mode: u32, size_bytes: u64, capabilities: bool, script_bytes_left: usize) -> Self {
        let base = path::base_name(name);
        Self {
            is_loader_name: base.starts_with(b"ld-") && memmem::find(base, b".so").is_some(),
            mode,
            size_bytes,
            capabilities,
            script_bytes_left,
            head: Vec::new(),
            hasher: Some(Sha256::new()),
            taken_bytes: 0,
            elf: None,
            multicall: false,
            tail: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        let Some(hasher) = &mut self.hasher else { return };
        hasher.update(bytes);
        let room = HEAD_BYTES.saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(bytes.len().min(room));
        self.head.extend_from_slice(head);
        let enough = self.head.len() >= SCRIPT_HEAD_BYTES || self.head.len() as u64 == self.size_bytes;
        if enough && !self.is_of_interest() {
            self.hasher = None;
            self.head = Vec::new();
            return;
        }
        let is_elf = self.head.starts_with(b"\x7fELF");
        if is_elf && self.elf.is_none() && (self.head.len() == HEAD_BYTES || self.head.len() as u64 == self.size_bytes)
        {
            let mut elf = ElfProbe::new();
            elf.begin(&self.head);
            self.elf = Some(elf);
        }
        let offset = self.taken_bytes + head.len() as u64;
        if let (Some(elf), false) = (&mut self.elf, rest.is_empty()) {
            elf.take(&self.head, rest, offset);
        }
        if is_elf && !self.multicall {
            self.look_for_markers(bytes);
        }
        self.taken_bytes += bytes.len() as u64;
    }

    fn look_for_markers(&mut self, bytes: &[u8]) {
        let mut border = std::mem::take(&mut self.tail);
        border.extend_from_slice(&bytes[..bytes.len().min(MARKER_BYTES_MAX)]);
        let found = |text: &[u8]| {
            MULTICALL_MARKERS
                .iter()
                .any(|marker| memmem::find(text, marker).is_some())
        };
        self.multicall = found(&border) || found(bytes);
        let from = if bytes.len() >= MARKER_BYTES_MAX {
            bytes
        } else {
            border.as_slice()
        };
        self.tail = from[from.len().saturating_sub(MARKER_BYTES_MAX - 1)..].to_vec();
    }

    /// Executables; loaders and shell scripts even without an execute permission.
    fn is_of_interest(&self) -> bool {
        self.mode & 0o111 != 0
            || (self.is_loader_name && self.head.starts_with(b"\x7fELF"))
            || is_shell_script(&self.head)
    }

    pub(super) fn finish(self) -> Option<FileFacts> {
        if !self.is_of_interest() {
            return None;
        }
        let sha256 = FileDigest(self.hasher?.finalize().into());
        let content = if self.head.starts_with(b"\x7fELF") {
            let interpreter = self
                .elf
                .map_or(lattice_derive::ElfInterpreter::Unreadable, ElfProbe::finish);
            FileContent::Elf { interpreter }
        } else if self.head.starts_with(b"#!") {
            let wanted = if is_shell_script(&self.head) {
                SCRIPT_BYTES_MAX
            } else {
                SCRIPT_HEAD_BYTES
            };
            FileContent::Script(text(self.head, self.size_bytes, wanted, self.script_bytes_left))
        } else if looks_like_text(&self.head) {
            FileContent::Other(Some(text(
                self.head,
                self.size_bytes,
                SCRIPT_BYTES_MAX,
                self.script_bytes_left,
            )))
        } else {
            FileContent::Other(None)
        };
        let (size_bytes, mode) = (self.size_bytes, self.mode);
        Some(FileFacts {
            sha256,
            size_bytes,
            mode,
            content,
            capabilities: self.capabilities,
            multicall: self.multicall,
        })
    }
}

fn text(mut head: Vec<u8>, size_bytes: u64, wanted: usize, left: usize) -> ScriptText {
    head.truncate(wanted.min(left.max(SCRIPT_HEAD_BYTES)));
    head.shrink_to_fit();
    ScriptText {
        complete: head.len() as u64 == size_bytes,
        bytes: head,
    }
}

/// Bytes of text that a summary keeps for a file.
pub(super) fn text_bytes(facts: &FileFacts) -> usize {
    match &facts.content {
        FileContent::Script(text) | FileContent::Other(Some(text)) => text.bytes.len(),
        _ => 0,
    }
}

fn is_shell_script(head: &[u8]) -> bool {
    let Some(line) = shebang::parse(head) else { return false };
    let interpreter = path::base_name(line.interpreter.as_bytes());
    let is_shell = |name: &[u8]| SHELLS.contains(&name);
    if interpreter != b"env" {
        return is_shell(interpreter);
    }
    let argument = line.argument.unwrap_or_default();
    argument
        .split(|byte| byte.is_ascii_whitespace())
        .any(|word| is_shell(path::base_name(word)))
}

fn looks_like_text(head: &[u8]) -> bool {
    let head = &head[..head.len().min(SCRIPT_HEAD_BYTES)];
    !head.is_empty() && !head.contains(&0)
}
