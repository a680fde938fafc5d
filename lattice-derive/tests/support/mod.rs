//! Images out of a few lines of text, for tests.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of it")]

use std::sync::Arc;

use lattice_derive::{
    DiffId, ElfInterpreter, FileContent, FileFacts, Image, ImageConfig, LayerBuilder, LayerSummary, ScriptText,
};
use lattice_policy::{FileDigest, FilePath, ImageDigest};

pub const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
pub const IMAGE: ImageDigest = ImageDigest([0xaa; 32]);

/// A digest that is a function of the text.
pub fn digest(text: &str) -> FileDigest {
    let mut bytes = [0_u8; 32];
    for (index, byte) in text.bytes().enumerate() {
        let slot = index % 32;
        bytes[slot] = bytes[slot].wrapping_mul(31).wrapping_add(byte);
    }
    FileDigest(bytes)
}

fn facts(name: &str, mode: u32, content: FileContent) -> FileFacts {
    let (sha256, size_bytes) = (digest(name), name.len() as u64);
    FileFacts {
        sha256,
        size_bytes,
        mode,
        content,
        capabilities: false,
        multicall: false,
    }
}

pub fn elf(name: &str) -> FileFacts {
    facts(
        name,
        0o755,
        FileContent::Elf {
            interpreter: ElfInterpreter::Path(FilePath::from(LOADER)),
        },
    )
}

pub fn static_elf(name: &str) -> FileFacts {
    facts(
        name,
        0o755,
        FileContent::Elf {
            interpreter: ElfInterpreter::None,
        },
    )
}

pub fn script(text: &str) -> FileFacts {
    facts(
        text,
        0o755,
        FileContent::Script(ScriptText {
            bytes: text.as_bytes().to_vec(),
            complete: true,
        }),
    )
}

/// One layer. A line is `elf PATH`, `static PATH`, `multicall PATH`, `setuid PATH`, `script PATH TEXT` (`\n` for a new line),
/// `plain PATH TEXT` (text without execute permission), `data PATH`, `dir PATH`, `link PATH TARGET`, `hard PATH TARGET`.
pub fn layer(number: u8, lines: &str) -> Arc<LayerSummary> {
    let mut layer = LayerBuilder::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (what, path, rest) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap_or_default(),
        );
        let name = path.as_bytes();
        let text = rest.replace("\\n", "\n");
        let done = match what {
            "elf" => layer.file(name, elf(&format!("{number}{path}"))),
            "static" => layer.file(name, static_elf(&format!("{number}{path}"))),
            "multicall" => layer.file(
                name,
                FileFacts {
                    multicall: true,
                    ..static_elf(path)
                },
            ),
            "setuid" => layer.file(
                name,
                FileFacts {
                    mode: 0o4755,
                    ..elf(path)
                },
            ),
            "script" => layer.file(name, script(&text)),
            "plain" => layer.file(
                name,
                FileFacts {
                    mode: 0o644,
                    ..script(&text)
                },
            ),
            "data" => layer.other(name),
            "dir" => layer.directory(name),
            "link" => layer.symlink(name, rest.as_bytes()),
            "hard" => layer.hard_link(name, rest.as_bytes()),
            _ => panic!("{line}"),
        };
        done.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    layer.finish(DiffId([number; 32])).into()
}

/// An image of these layers, lowest first.
pub fn image(layers: &[&str], config: ImageConfig) -> Image {
    let layers: Vec<_> = layers
        .iter()
        .zip(1..)
        .map(|(lines, number)| layer(number, lines))
        .collect();
    let diff_ids = layers.iter().map(|layer| layer.diff_id()).collect();
    Image::new(IMAGE, ImageConfig { diff_ids, ..config }, layers).unwrap()
}

pub fn words(line: &str) -> Vec<String> {
    line.split('|')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What a Debian image has of a shell, curl and wget.
pub const DEBIAN: &str = "
    dir usr
    link bin usr/bin
    link lib64 usr/lib64
    elf usr/lib64/ld-linux-x86-64.so.2
    elf usr/bin/dash
    link usr/bin/sh dash
    elf usr/bin/bash
    elf usr/bin/curl
    elf usr/bin/wget
    elf usr/bin/env
    elf usr/bin/sleep
    elf usr/bin/python3.11
    link usr/bin/python3 python3.11
    script usr/bin/which #!/bin/sh\\necho
    static app/server
    data etc/passwd
";
