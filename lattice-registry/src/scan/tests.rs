use std::io::Write;

use flate2::{Compression as Level, write::GzEncoder};
use lattice_derive::{ElfInterpreter, FileContent, FileFacts};
use lattice_policy::{FileDigest, ImageDigest};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::*;

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn describe(blob: &[u8], archive: &[u8], compression: Compression) -> LayerDescriptor {
    LayerDescriptor {
        digest: ImageDigest(digest(blob)),
        size_bytes: blob.len() as u64,
        compression,
        diff_id: DiffId(digest(archive)),
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

/// An archive of these regular files.
fn archive(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, mode, content) in files {
        let mut header = header(EntryType::Regular, content.len() as u64, *mode);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn scan_with(archive: &[u8], limits: &ScanLimits) -> Result<LayerSummary, LayerError> {
    scan_layer(archive, &describe(archive, archive, Compression::None), limits)
}

fn scan(archive: &[u8]) -> Result<LayerSummary, LayerError> {
    scan_with(archive, &ScanLimits::default())
}

fn kept(summary: &LayerSummary) -> Vec<(String, FileFacts)> {
    summary
        .files()
        .map(|(path, facts)| (path.to_string(), facts.clone()))
        .collect()
}

#[track_caller]
fn check_error(result: Result<LayerSummary, LayerError>, part: &str) {
    let error = result.expect_err("refused").to_string();
    assert!(error.contains(part) && error.starts_with("layer sha256:"), "{error}");
}

const SCRIPT: &[u8] = b"#!/bin/sh\nexec \"$@\"\n";

#[test]
fn every_packing_gives_the_same_summary() {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let archive = archive(&[
        ("app/server", 0o755, &program),
        ("entry.sh", 0o755, SCRIPT),
        ("etc/motd", 0o644, b"hello"),
    ]);
    let (first, second) = archive.split_at(archive.len() / 3);
    let mut members = gzip(first);
    members.extend(gzip(second));
    let mut frames = zstd::encode_all(first, 3).unwrap();
    // A skippable frame, as zstd:chunked writes its table of contents.
    frames.extend(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd");
    frames.extend(zstd::encode_all(second, 3).unwrap());
    let packings = [
        (archive.clone(), Compression::None),
        (gzip(&archive), Compression::Gzip),
        (members, Compression::Gzip),
        (zstd::encode_all(archive.as_slice(), 3).unwrap(), Compression::Zstd),
        (frames, Compression::Zstd),
    ];
    let expected = scan(&archive).unwrap();
    for (blob, compression) in packings {
        let found = scan_layer(
            blob.as_slice(),
            &describe(&blob, &archive, compression),
            &ScanLimits::default(),
        )
        .unwrap();
        assert_eq!(found, expected, "{compression:?}");
    }
    let kept = kept(&expected);
    let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["/app/server", "/entry.sh"]);
    assert_eq!(kept[0].1.sha256, FileDigest(digest(&program)));
    assert_eq!(kept[0].1.size_bytes, program.len() as u64);
    let FileContent::Elf {
        interpreter: ElfInterpreter::Path(loader),
    } = &kept[0].1.content
    else {
        panic!()
    };
    assert!(loader.to_string().contains("/ld-"), "{loader}");
    let FileContent::Script(text) = &kept[1].1.content else {
        panic!()
    };
    assert_eq!((text.bytes.as_slice(), text.complete), (SCRIPT, true));
}

#[test]
fn what_is_kept_of_a_file() {
    #[track_caller]
    fn check(name: &str, mode: u32, content: &[u8], expected: Option<&str>) {
        let summary = scan(&archive(&[(name, mode, content)])).unwrap();
        let found = kept(&summary).pop().map(|(_, facts)| match facts.content {
            FileContent::Elf { .. } if facts.multicall => "multicall".to_owned(),
            FileContent::Elf { .. } => "elf".to_owned(),
            FileContent::Script(text) => format!("script {}{}", text.bytes.len(), if text.complete { "" } else { "…" }),
            FileContent::Other(Some(text)) => format!("text {}", text.bytes.len()),
            FileContent::Other(None) => "other".to_owned(),
        });
        assert_eq!(found.as_deref(), expected, "{name}");
    }
    let elf = [&b"\x7fELF\x02\x01"[..], &[0; 100]].concat();
    let marked = [elf.as_slice(), &[b'x'; 100_000], b"BusyBox v1.36", &[b'y'; 70_000]].concat();
    let across = [elf.as_slice(), &vec![0; DATA_PIECE - elf.len() - 4], b"BusyBox v1.36"].concat();
    let long_shell = [b"#!/usr/bin/env bash\n".as_slice(), &[b'a'; 100_000]].concat();
    let long_python = [b"#!/usr/bin/env python3\n".as_slice(), &[b'a'; 100_000]].concat();
    check("a", 0o755, &elf, Some("elf"));
    check("a", 0o644, &elf, None);
    check("lib64/ld-linux-x86-64.so.2", 0o644, &elf, Some("elf"));
    check("bin/sh", 0o755, &marked, Some("multicall"));
    check("bin/sh", 0o755, &across, Some("multicall"));
    check("a", 0o644, SCRIPT, Some("script 20"));
    check("a", 0o755, &long_shell, Some("script 65536…"));
    check("a", 0o755, &long_python, Some("script 256…"));
    check("a", 0o644, &long_python, None);
    check("a", 0o755, b"echo hello", Some("text 10"));
    check("a", 0o755, b"\0\x01", Some("other"));
    check("a", 0o755, b"", Some("other"));
    check("a", 0o100, b"x", Some("text 1"));
}

/// The tape's pieces; a marker across two of them must be found.
const DATA_PIECE: usize = 64 * 1024;

#[test]
fn names_links_and_attributes() {
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/{}", "d".repeat(200), "n".repeat(120));
    builder
        .append_data(&mut header(EntryType::Regular, 1, 0o4755), &long, &b"x"[..])
        .unwrap();
    builder
        .append_pax_extensions([("SCHILY.xattr.security.capability", &b"\x01\n\x02"[..])])
        .unwrap();
    builder
        .append_data(&mut header(EntryType::Regular, 1, 0o755), "ping", &b"x"[..])
        .unwrap();
    builder
        .append_link(&mut header(EntryType::Link, 0, 0o755), "ping6", "ping")
        .unwrap();
    builder
        .append_link(&mut header(EntryType::Symlink, 0, 0o777), "link", "ping")
        .unwrap();
    builder
        .append_data(&mut header(EntryType::Fifo, 0, 0o755), "pipe", &b""[..])
        .unwrap();
    let summary = scan(&builder.into_inner().unwrap()).unwrap();
    let kept = kept(&summary);
    let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [format!("/{long}").as_str(), "/ping", "/ping6"]);
    assert_eq!(kept[0].1.mode, 0o4755);
    assert!(kept[1].1.capabilities && kept[2].1.capabilities && !kept[0].1.capabilities);
}

#[test]
fn the_last_of_two_entries_wins() {
    let summary = scan(&archive(&[
        ("a", 0o755, b"one"),
        ("a", 0o755, b"two"),
        ("b", 0o755, b"x"),
        ("b", 0o644, b"y"),
    ]))
    .unwrap();
    let kept = kept(&summary);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].1.sha256, FileDigest(digest(b"two")));
    assert_eq!(summary.executable_count(), 1);
}

#[test]
fn blobs_that_are_not_what_the_manifest_says() {
    let archive = archive(&[("app", 0o755, &[7; 200_000])]);
    for (blob, compression) in [
        (archive.clone(), Compression::None),
        (gzip(&archive), Compression::Gzip),
        (zstd::encode_all(archive.as_slice(), 3).unwrap(), Compression::Zstd),
    ] {
        let descriptor = describe(&blob, &archive, compression);
        let scan = |blob: &[u8]| scan_layer(blob, &descriptor, &ScanLimits::default());
        for length in [0, 1, blob.len() / 2, blob.len() - 1] {
            check_error(
                scan(&blob[..length]),
                &format!("is truncated: {length} of {} bytes", blob.len()),
            );
        }
        check_error(scan(&[blob.as_slice(), b"x"].concat()), "is longer than");
        for at in [0, blob.len() / 2, blob.len() - 1] {
            let mut changed = blob.clone();
            changed[at] ^= 1;
            check_error(scan(&changed), "has another digest");
        }
    }
    let other = LayerDescriptor {
        diff_id: DiffId([1; 32]),
        ..describe(&archive, &archive, Compression::None)
    };
    check_error(
        scan_layer(archive.as_slice(), &other, &ScanLimits::default()),
        "but the image's configuration says sha256:0101",
    );
    check_error(
        scan_layer(
            archive.as_slice(),
            &describe(&archive, &archive, Compression::Gzip),
            &ScanLimits::default(),
        ),
        "cannot be decompressed",
    );
}

#[test]
fn bytes_behind_the_archive_are_hashed_too() {
    let mut archive = archive(&[("a", 0o755, b"x")]);
    archive.extend([0; 10_000]);
    scan(&archive).unwrap();
    let without_end = archive[..1024].to_vec();
    scan(&without_end).unwrap();
}

#[test]
fn a_source_that_fails_is_named() {
    struct Failing;
    impl std::io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("cable pulled"))
        }
    }
    let descriptor = LayerDescriptor {
        size_bytes: 10,
        ..describe(b"", b"", Compression::None)
    };
    check_error(
        scan_layer(Failing, &descriptor, &ScanLimits::default()),
        "could not be read on: cable pulled",
    );
}

#[test]
fn bombs() {
    // 64 MiB of zeros in one file, packed to 64 KiB.
    let archive = archive(&[("zeros", 0o755, &vec![0; 64 << 20])]);
    let blob = gzip(&archive);
    let descriptor = describe(&blob, &archive, Compression::Gzip);
    let scan = |limits: ScanLimits| scan_layer(blob.as_slice(), &descriptor, &limits);
    scan(ScanLimits::default()).unwrap();
    check_error(
        scan(ScanLimits {
            uncompressed_bytes: 1 << 20,
            ..Default::default()
        }),
        "too large: uncompressed bytes beyond 1048576",
    );
    check_error(
        scan(ScanLimits {
            ratio: 100,
            ratio_free_bytes: 1 << 20,
            ..Default::default()
        }),
        "for each compressed one beyond 100",
    );
}

#[test]
fn a_layer_that_expands_without_end_is_refused_early() {
    /// A gzip member of a tar header that promises much, and then zeros for ever.
    struct Endless {
        members: Vec<u8>,
        at: usize,
    }
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.members.len() - self.at);
            buffer[..count].copy_from_slice(&self.members[self.at..self.at + count]);
            self.at = (self.at + count) % self.members.len();
            Ok(count)
        }
    }
    let descriptor = LayerDescriptor {
        size_bytes: u64::MAX,
        ..describe(b"", b"", Compression::Gzip)
    };
    let limits = ScanLimits {
        uncompressed_bytes: 8 << 20,
        ..Default::default()
    };
    let mut first = header(EntryType::Regular, 0o7777_7777, 0o755);
    first.set_path("big").unwrap();
    first.set_cksum();
    let mut members = gzip(&[first.as_bytes().as_slice(), &vec![0; 1 << 20]].concat());
    members.extend(gzip(&vec![0; 1 << 20]));
    check_error(
        scan_layer(Endless { members, at: 0 }, &descriptor, &limits),
        "too large: uncompressed bytes",
    );
}

#[test]
fn floods_of_entries_and_names() {
    let mut builder = Builder::new(Vec::new());
    for number in 0..2000 {
        builder
            .append_data(
                &mut header(EntryType::Regular, 0, 0o644),
                format!("f{number}"),
                &b""[..],
            )
            .unwrap();
    }
    let archive = builder.into_inner().unwrap();
    scan(&archive).unwrap();
    check_error(
        scan_with(
            &archive,
            &ScanLimits {
                entries: 1000,
                ..Default::default()
            },
        ),
        "archive entries beyond 1000",
    );
    check_error(
        scan_with(
            &archive,
            &ScanLimits {
                kept_bytes: 1000,
                ..Default::default()
            },
        ),
        "the names of its files beyond 1000",
    );
    let mut builder = Builder::new(Vec::new());
    builder
        .append_pax_extensions([("comment", "x".repeat(5000).as_bytes())])
        .unwrap();
    let archive = builder.into_inner().unwrap();
    scan(&archive).unwrap();
    check_error(
        scan_with(
            &archive,
            &ScanLimits {
                extension_bytes: 4096,
                ..Default::default()
            },
        ),
        "bytes of one extension header beyond 4096",
    );
}

#[test]
fn a_budget_bounds_the_text_of_scripts() {
    let script = [SCRIPT, &[b'#'; 5000]].concat();
    let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    let files: Vec<(&str, u32, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), 0o755, script.as_slice()))
        .collect();
    let summary = scan_with(
        &archive(&files),
        &ScanLimits {
            script_bytes: 12_000,
            ..Default::default()
        },
    )
    .unwrap();
    let complete = kept(&summary)
        .iter()
        .filter(|(_, facts)| matches!(&facts.content, FileContent::Script(text) if text.complete))
        .count();
    assert_eq!(complete, 2);
}

#[test]
fn archives_that_are_refused() {
    #[track_caller]
    fn check(configure: impl FnOnce(&mut Builder<Vec<u8>>), part: &str) {
        let mut builder = Builder::new(Vec::new());
        configure(&mut builder);
        check_error(scan(&builder.into_inner().unwrap()), part);
    }
    fn append(builder: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType) {
        let mut header = header(kind, 0, 0o755);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    }
    check(|it| append(it, b"../../etc/passwd", EntryType::Regular), "\"..\"");
    check(|it| append(it, b"a/.wh.b/c", EntryType::Regular), "reserved prefix");
    check(
        |it| append(it, b"x", EntryType::new(b'V')),
        "entry x: entry type 'V' is not supported",
    );
    let deep = format!("{}a", "d/".repeat(3000));
    check(
        |it| {
            it.append_pax_extensions([("path", deep.as_bytes())]).unwrap();
            append(it, b"x", EntryType::Regular);
        },
        "longer than 4096",
    );
    check(
        |it| {
            it.append_pax_extensions([("size", &b"1"[..])]).unwrap();
            append(it, b"x", EntryType::Regular);
        },
        "entry x: its size is 0 in one header and 1 in another",
    );
    check(
        |it| {
            it.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
            append(it, b"x", EntryType::Regular);
        },
        "stored as a sparse file",
    );
    check(
        |it| {
            let mut global = header(EntryType::XGlobalHeader, 9, 0o644);
            global.set_cksum();
            it.append(&global, &b"9 path=x\n"[..]).unwrap();
        },
        "a global header changes path",
    );
    let mut archive = archive(&[("a", 0o755, b"x")]);
    archive[0] = b'b';
    check_error(scan(&archive), "wrong checksum");
    check_error(scan(b"no archive at all"), "in the middle of a block");
    check_error(scan(&[b'x'; 512]), "checksum");
}

#[test]
fn stargz_files_are_not_of_the_image() {
    let summary = scan(&archive(&[
        ("stargz.index.json", 0o755, b"{}"),
        (".no.prefetch.landmark", 0o755, b"x"),
    ]))
    .unwrap();
    assert_eq!(summary.executable_count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000), which in 0..3) {
        let compression = [Compression::None, Compression::Gzip, Compression::Zstd][which as usize];
        let _ = scan_layer(bytes.as_slice(), &describe(&bytes, &bytes, compression), &ScanLimits::default());
    }

    #[test]
    fn a_changed_archive_never_passes_for_the_old_one(at in 0_usize..4096, byte: u8) {
        let archive = archive(&[("a", 0o755, SCRIPT), ("b/c", 0o644, b"x")]);
        let mut changed = archive.clone();
        let at = at % changed.len();
        changed[at] = byte;
        let result = scan_layer(changed.as_slice(), &describe(&archive, &archive, Compression::None), &ScanLimits::default());
        prop_assert_eq!(result.is_ok(), changed == archive);
        let _ = scan(&changed);
    }
}
