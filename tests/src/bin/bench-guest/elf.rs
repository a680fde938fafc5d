//! Programs that are written byte by byte: no compiler, no C library, the same instructions on every machine.
//!
//! The exec that is measured must be the kernel's work and nothing else; so the target exits at once, and the loop around
//! it is a dozen instructions beside its three system calls.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

const BASE: u64 = 0x40_0000;
const PAGE_BYTES: u64 = 4096;
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;

/// `exit(0)`.
const EXIT: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// `spin COUNT PROGRAM [ARGUMENT]…`: vfork, execve, wait4, COUNT times; then writes as eight bytes how many of them ended
/// with status 0.
const SPIN: [u8; 147] = [
    0x48, 0x8b, 0x74, 0x24, 0x10, // mov rsi, [rsp+16]: argv[1]
    0x45, 0x31, 0xe4, // xor r12d, r12d: the count
    0x45, 0x31, 0xed, // xor r13d, r13d: the good ones
    0x0f, 0xb6, 0x06, // parse: movzx eax, byte [rsi]
    0x84, 0xc0, // test al, al
    0x74, 0x0e, // jz loop
    0x45, 0x6b, 0xe4, 0x0a, // imul r12d, r12d, 10
    0x45, 0x8d, 0x64, 0x04, 0xd0, // lea r12d, [r12+rax-'0']
    0x48, 0xff, 0xc6, // inc rsi
    0xeb, 0xeb, // jmp parse
    0xb8, 58, 0, 0, 0, // loop: mov eax, vfork
    0x0f, 0x05, // syscall
    0x85, 0xc0, // test eax, eax
    0x74, 0x49, // jz child
    0xb8, 61, 0, 0, 0, // mov eax, wait4
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov rdi, -1
    0x48, 0x89, 0xe6, // mov rsi, rsp: over argc, which nobody needs any more
    0x31, 0xd2, // xor edx, edx
    0x45, 0x31, 0xd2, // xor r10d, r10d
    0x0f, 0x05, // syscall
    0x83, 0x3c, 0x24, 0x00, // cmp dword [rsp], 0
    0x0f, 0x94, 0xc0, // sete al
    0x0f, 0xb6, 0xc0, // movzx eax, al
    0x41, 0x01, 0xc5, // add r13d, eax
    0x41, 0xff, 0xcc, // dec r12d
    0x75, 0xcd, // jnz loop
    0x4c, 0x89, 0x2c, 0x24, // mov [rsp], r13
    0xb8, 1, 0, 0, 0, // mov eax, write
    0xbf, 1, 0, 0, 0, // mov edi, 1
    0x48, 0x89, 0xe6, // mov rsi, rsp
    0xba, 8, 0, 0, 0, // mov edx, 8
    0x0f, 0x05, // syscall
    0xb8, 60, 0, 0, 0, // mov eax, exit
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
    0xb8, 59, 0, 0, 0, // child: mov eax, execve
    0x48, 0x8b, 0x7c, 0x24, 0x18, // mov rdi, [rsp+24]: argv[2]
    0x48, 0x8d, 0x74, 0x24, 0x18, // lea rsi, [rsp+24]: argv from there on
    0x31, 0xd2, // xor edx, edx
    0x0f, 0x05, // syscall
    0xb8, 60, 0, 0, 0, // mov eax, exit: refused
    0xbf, 1, 0, 0, 0, // mov edi, 1
    0x0f, 0x05, // syscall
];

/// What the loop's output says.
pub(crate) fn good_ones(output: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(output.try_into().ok()?))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Executable,
    /// What a PT_INTERP may name: it runs wherever it is mapped.
    Shared,
}

/// The loop.
pub(crate) fn spin() -> Vec<u8> {
    elf(Kind::Executable, None, &SPIN, 4096)
}

/// A static program that exits at once, in a file of `size_bytes`; `tag` makes its content another.
pub(crate) fn static_program(size_bytes: usize, tag: u8) -> Vec<u8> {
    let mut file = elf(Kind::Executable, None, &EXIT, size_bytes);
    if let Some(last) = file.last_mut() {
        *last = tag;
    }
    file
}

/// A program whose ELF interpreter is `interpreter`.
pub(crate) fn dynamic_program(interpreter: &Path) -> Vec<u8> {
    elf(Kind::Executable, Some(interpreter), &EXIT, 4096)
}

/// An ELF interpreter that exits at once.
pub(crate) fn loader() -> Vec<u8> {
    elf(Kind::Shared, None, &EXIT, 4096)
}

/// Writes a program as an executable file.
///
/// # Errors
///
/// Where the file cannot be written.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn elf(kind: Kind, interpreter: Option<&Path>, code: &[u8], size_bytes: usize) -> Vec<u8> {
    let interpreter = interpreter.map(|path| [path.as_os_str().as_encoded_bytes(), b"\0"].concat());
    let headers = 2 + u64::from(interpreter.is_some());
    let base = if kind == Kind::Executable { BASE } else { 0 };
    let code_at = HEADER_BYTES + headers * PROGRAM_HEADER_BYTES;
    let interpreter_at = code_at + code.len() as u64;
    let used = interpreter_at + interpreter.as_ref().map_or(0, |name| name.len() as u64);

    let mut file = Vec::with_capacity(size_bytes);
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(if kind == Kind::Executable { 2u16 } else { 3 }.to_le_bytes());
    file.extend(0x3eu16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for address in [base + code_at, HEADER_BYTES, 0] {
        file.extend(address.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for size in [HEADER_BYTES, PROGRAM_HEADER_BYTES, headers, 0, 0, 0] {
        file.extend((size as u16).to_le_bytes());
    }
    let mut program_header = |kind: u32, flags: u32, offset: u64, bytes: u64, align: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for field in [offset, base + offset, base + offset, bytes, bytes, align] {
            file.extend(field.to_le_bytes());
        }
    };
    if let Some(name) = &interpreter {
        program_header(3, 4, interpreter_at, name.len() as u64, 1);
    }
    // Whole pages: 6.1 clears the rest of an interpreter's last page, and cannot where the page is not writable.
    let loaded = used.next_multiple_of(PAGE_BYTES);
    program_header(1, 5, 0, loaded, PAGE_BYTES);
    // PT_GNU_STACK: the stack is not executable.
    program_header(0x6474_e551, 6, 0, 0, 16);
    file.extend(code);
    file.extend(interpreter.unwrap_or_default());
    file.resize(size_bytes.max(loaded as usize), 0);
    file
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_programs_run_here_as_they_shall_in_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("spin"), &spin()).unwrap();
        write(&path("static"), &static_program(8192, 1)).unwrap();
        write(&path("loader"), &loader()).unwrap();
        write(&path("dynamic"), &dynamic_program(&path("loader"))).unwrap();
        for (program, good) in [("static", 12), ("dynamic", 12), ("missing", 0)] {
            let output = Command::new(path("spin"))
                .arg("12")
                .arg(path(program))
                .output()
                .unwrap();
            assert!(output.status.success(), "{program}: {}", output.status);
            assert_eq!(good_ones(&output.stdout), Some(good), "{program}");
        }
        assert_eq!(fs::metadata(path("static")).unwrap().len(), 8192);
    }
}
