//! A file system that lies: one program, which is the listed one for who opens it first, and another for everybody later.
//!
//! No more of the protocol than a program needs to be started (`include/uapi/linux/fuse.h`).

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

/// Name of its one file.
pub const PROGRAM: &str = "program";

const ROOT: u64 = 1;
const FILE: u64 = 2;
/// Length of `struct fuse_in_header`.
const REQUEST_HEADER: usize = 40;
/// What one answer can hold.
const LARGEST_WRITE: u32 = 128 << 10;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The two contents, equally long.
struct Liar {
    first: Vec<u8>,
    later: Vec<u8>,
    openings: u64,
}

/// Mounts it at a folder, and serves it until it is unmounted.
///
/// # Errors
/// When there is no FUSE here, or the kernel refuses.
pub fn mount_liar(at: &Path, first: Vec<u8>, later: Vec<u8>) -> Result<()> {
    fs::create_dir_all(at)?;
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("cannot open /dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("liar"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot mount FUSE at {}", at.display()))?;
    let mut liar = Liar {
        first,
        later,
        openings: 0,
    };
    // Ends with the mount.
    thread::spawn(move || while liar.serve(&device).is_ok() {});
    Ok(())
}

impl Liar {
    fn serve(&mut self, mut device: &File) -> io::Result<()> {
        let mut request = vec![0; LARGEST_WRITE as usize + 4096];
        let length = match device.read(&mut request) {
            Ok(length) => length,
            // The request was withdrawn meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(()),
            Err(error) => return Err(error),
        };
        let request = &request[..length];
        let operation = word(request, 4);
        if matches!(operation, FORGET | INTERRUPT | BATCH_FORGET) {
            return Ok(());
        }
        let answer = self.answer(
            operation,
            long(request, 16),
            request.get(REQUEST_HEADER..).unwrap_or_default(),
        );
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let total = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
        let mut reply = total.to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(long(request, 8).to_ne_bytes());
        reply.extend(body);
        device.write_all(&reply)
    }

    fn answer(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        match operation {
            INIT => {
                // 7.31, the readahead that is asked for, no flags, two small numbers, the largest write; zeros for the rest of 64 bytes.
                let mut reply = Vec::new();
                for value in [7, 31, word(body, 8), 0, 0, LARGEST_WRITE] {
                    reply.extend(value.to_ne_bytes());
                }
                reply.resize(64, 0);
                Ok(reply)
            }
            LOOKUP if body.strip_suffix(b"\0") == Some(PROGRAM.as_bytes()) => {
                // Nothing is valid for any time, so that each opening asks.
                let mut reply = FILE.to_ne_bytes().to_vec();
                reply.resize(40, 0);
                reply.extend(self.attributes(FILE));
                Ok(reply)
            }
            LOOKUP => Err(Errno::ENOENT),
            GETATTR => {
                let mut reply = vec![0; 16];
                reply.extend(self.attributes(node));
                Ok(reply)
            }
            OPEN => {
                self.openings += 1;
                let mut reply = self.openings.to_ne_bytes().to_vec();
                reply.resize(16, 0);
                Ok(reply)
            }
            READ => {
                let content = if long(body, 0) <= 1 { &self.first } else { &self.later };
                let from = usize::try_from(long(body, 8))
                    .map_err(|_| Errno::EINVAL)?
                    .min(content.len());
                let to = from.saturating_add(word(body, 16) as usize).min(content.len());
                Ok(content[from..to].to_vec())
            }
            RELEASE | FLUSH => Ok(Vec::new()),
            _ => Err(Errno::ENOSYS),
        }
    }

    /// `struct fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, size): (u32, u64) = match node {
            ROOT => (0o040_755, 0),
            _ => (0o100_755, self.first.len() as u64),
        };
        let mut reply = Vec::new();
        for value in [node, size, size.div_ceil(512), 0, 0, 0] {
            reply.extend(value.to_ne_bytes());
        }
        // Three fractions of times, the mode, one link, root's, no device, the block size, no flags.
        for value in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            reply.extend(value.to_ne_bytes());
        }
        reply
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}
