//! NRI's trunk: several connections over one socket, each frame with the number of its connection and its length before it
//! (containerd/nri, pkg/net/multiplex/mux.go).
//!
//! ```text
//!   0        4        8
//!   ├────────┼────────┼──────────────┤   big endian
//!   connection  bytes    payload
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The connection on which the runtime calls its plugin.
pub(super) const PLUGIN_CONNECTION: u32 = 1;
/// The connection on which the plugin calls its runtime.
pub(super) const RUNTIME_CONNECTION: u32 = 2;

/// Longer than any frame of a peer that keeps to the protocol: a ttrpc message of 4 MiB with its header.
pub(super) const FRAME_BYTES: usize = super::message::HEADER_BYTES + super::message::DATA_BYTES;
/// What we put into one frame. The runtime reads each frame with one call, into a buffer of this size at least, and fails where
/// the frame is larger than that (`conn.Read` of mux.go under Go's `bufio.Reader`).
const WRITTEN_BYTES: usize = 4096;
/// How much room is made ahead of what has really come.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Why nothing more can be read from a trunk.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrunkError {
    /// The socket failed, or ended within a frame.
    #[error("the NRI socket cannot be read or written")]
    Io(#[from] io::Error),
    /// A frame that no peer of this protocol sends.
    #[error("the peer announces a frame of {length} bytes, more than {FRAME_BYTES}: it does not speak NRI's protocol")]
    FrameLength {
        /// As announced.
        length: u32,
    },
}

/// Reads a frame; `None` where the peer has closed the socket between two.
///
/// # Errors
/// When the socket fails or ends within a frame, or the frame is too long. Memory is taken only for what has come.
pub(super) async fn read_frame(trunk: &mut (impl AsyncRead + Unpin)) -> Result<Option<(u32, Vec<u8>)>, TrunkError> {
    let mut header = [0; 8];
    if trunk.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    trunk.read_exact(&mut header[1..]).await?;
    let [a, b, c, d, e, f, g, h] = header;
    let (connection, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let wanted = usize::try_from(length)
        .ok()
        .filter(|wanted| *wanted <= FRAME_BYTES)
        .ok_or(TrunkError::FrameLength { length })?;
    let mut payload = Vec::with_capacity(wanted.min(READ_AHEAD_BYTES));
    trunk.take(wanted as u64).read_to_end(&mut payload).await?;
    if payload.len() < wanted {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some((connection, payload)))
}

/// Writes bytes of a connection, in as many frames as it takes.
///
/// # Errors
/// When the socket fails.
pub(super) async fn write_frames(
    trunk: &mut (impl AsyncWrite + Unpin),
    connection: u32,
    bytes: &[u8],
) -> Result<(), TrunkError> {
    let mut framed = Vec::with_capacity(bytes.len() + 8);
    for part in bytes.chunks(WRITTEN_BYTES) {
        framed.extend_from_slice(&connection.to_be_bytes());
        framed.extend_from_slice(&(part.len() as u32).to_be_bytes());
        framed.extend_from_slice(part);
    }
    trunk.write_all(&framed).await?;
    trunk.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(mut bytes: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, TrunkError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut frames = Vec::new();
            while let Some(frame) = read_frame(&mut bytes).await? {
                frames.push(frame);
            }
            Ok(frames)
        })
    }

    fn written(connection: u32, bytes: &[u8]) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut trunk = Vec::new();
        runtime.block_on(write_frames(&mut trunk, connection, bytes)).unwrap();
        trunk
    }

    #[test]
    fn frames_have_the_layout_of_the_reference() {
        assert_eq!(written(2, b"abc"), b"\0\0\0\x02\0\0\0\x03abc");
        assert_eq!(
            read_all(b"\0\0\0\x01\0\0\0\x01x\0\0\0\x07\0\0\0\0").unwrap(),
            [(1, b"x".to_vec()), (7, Vec::new())]
        );
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let mut bytes = vec![0, 0, 0, 1];
        bytes.extend_from_slice(&(FRAME_BYTES as u32 + 1).to_be_bytes());
        assert!(matches!(read_all(&bytes), Err(TrunkError::FrameLength { .. })));
        assert!(matches!(read_all(&[0xff; 8]), Err(TrunkError::FrameLength { .. })));
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        for bytes in [&b"\0\0\0"[..], b"\0\0\0\x01\0\0\0\x02x"] {
            let error = read_all(bytes).unwrap_err();
            assert!(
                matches!(&error, TrunkError::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof),
                "{error:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(connection: u32, bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            let frames = read_all(&written(connection, &bytes)).unwrap();
            prop_assert!(frames.iter().all(|(of, part)| *of == connection && part.len() <= WRITTEN_BYTES));
            prop_assert_eq!(frames.into_iter().flat_map(|(_, part)| part).collect::<Vec<_>>(), bytes);
        }

        #[test]
        fn garbage_ends_in_an_error_or_in_frames(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }
}
