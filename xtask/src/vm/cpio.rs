//! Writes the archive that Linux unpacks as its first root: cpio in the "newc" form.
//!
//! The format is that of Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources: per file a
//! header of 110 ASCII bytes, the name with its NUL, the content, each padded to four bytes, and a trailer.

use std::io::{self, Read, Write};

/// Where the header of the format puts a name's NUL and the padding.
const ALIGNMENT: u64 = 4;
const TRAILER: &str = "TRAILER!!!";

/// One file's header; `mode` carries the file type too, as in `stat`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Major and minor number of a device file.
    pub(crate) device: (u32, u32),
}

/// An archive under way. Nothing is complete before [`Writer::finish`].
pub(crate) struct Writer<W> {
    output: W,
    position: u64,
    next_inode: u32,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Self {
        Self {
            output,
            position: 0,
            next_inode: 1,
        }
    }

    /// Adds a file. `name` is relative to the root and has no leading slash.
    ///
    /// # Errors
    ///
    /// Where writing or reading fails, `size` does not fit the format's 32 bits, or `content` ends early.
    pub(crate) fn append(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        size: u64,
        mut content: impl Read,
    ) -> io::Result<()> {
        let size_field = u32::try_from(size).map_err(|_| {
            let name = String::from_utf8_lossy(name);
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name}: {size} bytes are too many for cpio's 4 GiB"),
            )
        })?;
        self.header(name, attributes, size_field)?;
        let copied = io::copy(&mut content.by_ref().take(size), &mut self.output)?;
        if copied != size {
            let name = String::from_utf8_lossy(name);
            let message = format!("{name}: ended after {copied} of {size} bytes; was it changed meanwhile?");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.position += size;
        self.pad()
    }

    /// Writes the trailer and hands the output back.
    ///
    /// # Errors
    ///
    /// Where writing fails.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header(TRAILER.as_bytes(), Attributes::default(), 0)?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn header(&mut self, name: &[u8], attributes: Attributes, size: u32) -> io::Result<()> {
        if name.contains(&0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a file name holds a NUL byte",
            ));
        }
        let name_size = u32::try_from(name.len() + 1)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a file name is longer than 4 GiB"))?;
        let inode = self.next_inode;
        self.next_inode += 1;
        let fields = [
            inode,
            attributes.mode,
            attributes.uid,
            attributes.gid,
            1, // links: each file is its own, hard links become copies
            0, // modification time: the same input gives the same archive
            size,
            0, // major and minor number of the device that holds the file
            0,
            attributes.device.0,
            attributes.device.1,
            name_size,
            0, // checksum: of the "crc" form only
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.write(header.as_bytes())?;
        self.write(name)?;
        self.write(&[0])?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.position.next_multiple_of(ALIGNMENT) - self.position;
        self.write(&[0; ALIGNMENT as usize][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn archive(files: &[(&str, Attributes, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (name, attributes, content) in files {
            writer
                .append(name.as_bytes(), *attributes, content.len() as u64, *content)
                .unwrap();
        }
        writer.finish().unwrap()
    }

    fn regular(permissions: u32) -> Attributes {
        Attributes {
            mode: 0o100_000 | permissions,
            ..Attributes::default()
        }
    }

    #[track_caller]
    fn check_padding(name: &str, content: &[u8]) {
        let bytes = archive(&[(name, regular(0o644), content)]);
        assert_eq!(bytes.len() % 4, 0, "{name}: the archive is not padded");
        let content_at = (110 + name.len() + 1).next_multiple_of(4);
        assert_eq!(
            &bytes[content_at..content_at + content.len()],
            content,
            "{name}: the content is misplaced"
        );
        let trailer_at = (content_at + content.len()).next_multiple_of(4);
        assert_eq!(
            &bytes[trailer_at..trailer_at + 6],
            b"070701",
            "{name}: the next header is misplaced"
        );
    }

    #[test]
    fn names_and_contents_of_every_remainder_are_padded() {
        for name in ["a", "ab", "abc", "abcd", "abcde"] {
            for content in [&b""[..], b"1", b"12", b"123", b"1234"] {
                check_padding(name, content);
            }
        }
    }

    #[test]
    fn header_fields_are_where_the_format_puts_them() {
        let attributes = Attributes {
            mode: 0o020_600,
            uid: 7,
            gid: 8,
            device: (5, 1),
        };
        let bytes = archive(&[("console", attributes, b"")]);
        let field = |index: usize| {
            std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index])
                .unwrap()
                .to_owned()
        };
        assert_eq!(field(1), format!("{:08x}", 0o020_600));
        assert_eq!((field(2), field(3)), ("00000007".into(), "00000008".into()));
        assert_eq!((field(9), field(10)), ("00000005".into(), "00000001".into()));
        assert_eq!(field(11), "00000008", "the name's size counts its NUL");
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let error = Writer::new(Vec::new())
            .append(b"log", regular(0o644), 10, &b"short"[..])
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_name_with_a_nul_is_an_error() {
        Writer::new(Vec::new())
            .append(b"a\0b", regular(0o644), 0, &b""[..])
            .unwrap_err();
    }

    /// busybox's cpio is the independent reader.
    #[test]
    fn another_program_reads_the_archive() {
        let Some(busybox) = crate::workspace::find_program("busybox") else {
            panic!("busybox is missing: run `cargo xtask setup`");
        };
        let folder = tempfile::tempdir().unwrap();
        let directory = Attributes {
            mode: 0o040_755,
            ..Attributes::default()
        };
        let symlink = Attributes {
            mode: 0o120_777,
            ..Attributes::default()
        };
        let bytes = archive(&[
            ("usr", directory, b""),
            ("usr/tool", regular(0o750), b"content of odd length"),
            ("link", symlink, b"usr/tool"),
        ]);
        fs::write(folder.path().join("archive"), bytes).unwrap();
        let status = Command::new(busybox)
            .args(["cpio", "-idF", "archive"])
            .current_dir(folder.path())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let tool = folder.path().join("usr/tool");
        assert_eq!(fs::read(&tool).unwrap(), b"content of odd length");
        assert_eq!(tool.metadata().unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(
            fs::read_link(folder.path().join("link")).unwrap().to_str(),
            Some("usr/tool")
        );
    }
}
