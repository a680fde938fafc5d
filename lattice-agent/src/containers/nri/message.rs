//! ttrpc's messages (containerd/ttrpc, PROTOCOL.md), as far as NRI uses them: one request, one response, no streams.
//!
//! ```text
//!   0        4        8      9      10
//!   ├────────┼────────┼──────┼──────┼─────────┤   big endian
//!    bytes    stream    type   flags   data: a Request or a Response
//! ```

use prost::Message as _;

/// Before each message's data.
pub(super) const HEADER_BYTES: usize = 10;
/// The protocol's own limit for a message's data.
pub(super) const DATA_BYTES: usize = 4 << 20;

/// Status of a call that succeeded, in gRPC's numbers.
pub(super) const OK: i32 = 0;
/// Status of a call of a method that there is not.
pub(super) const UNIMPLEMENTED: i32 = 12;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// ttrpc's request.proto.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
}

/// ttrpc's request.proto.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) payload: Vec<u8>,
}

/// google/rpc/status.proto.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// What came on a connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Received {
    /// A call of ours; the answer has the same stream.
    Request { stream: u32, request: Request },
    /// The answer to a call of ours.
    Response { stream: u32, response: Response },
}

/// What no peer sends that keeps to the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// Too long.
    #[error("the peer announces a message of {length} bytes, more than {DATA_BYTES}")]
    Length {
        /// As announced.
        length: u32,
    },
    /// Neither a request nor a response, or a stream.
    #[error("the peer sent a message of type {kind} with flags {flags:#x}, which NRI has no use for")]
    Kind {
        /// The header's type.
        kind: u8,
        /// The header's flags.
        flags: u8,
    },
    /// The envelope is no protobuf.
    #[error("the peer sent a message whose envelope cannot be read")]
    Envelope(#[source] prost::DecodeError),
}

/// A message in bytes, with its header.
fn encode(stream: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + data.len());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(data);
    bytes
}

impl Request {
    pub(super) fn to_bytes(&self, stream: u32) -> Vec<u8> {
        encode(stream, REQUEST, &self.encode_to_vec())
    }
}

impl Response {
    /// The call succeeded.
    pub(super) fn of(message: &impl prost::Message) -> Self {
        Self {
            status: None,
            payload: message.encode_to_vec(),
        }
    }

    pub(super) fn failed(code: i32, message: &str) -> Self {
        Self {
            status: Some(Status {
                code,
                message: message.into(),
            }),
            payload: Vec::new(),
        }
    }

    pub(super) fn to_bytes(&self, stream: u32) -> Vec<u8> {
        encode(stream, RESPONSE, &self.encode_to_vec())
    }
}

/// Puts the bytes of one connection together to messages. Holds at most one message that is not complete, and one frame.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// Takes what came; returns the messages that are complete with it, in order.
    ///
    /// # Errors
    /// At the first message that the protocol does not have. Nothing on this connection can be understood after that.
    pub(super) fn take(&mut self, part: &[u8]) -> Result<Vec<Received>, MessageError> {
        self.bytes.extend_from_slice(part);
        let mut messages = Vec::new();
        let mut read = 0;
        while let Some((message, length)) = first(&self.bytes[read..])? {
            messages.push(message);
            read += length;
        }
        self.bytes.drain(..read);
        Ok(messages)
    }
}

/// The first message of `bytes` and its length with the header, if it is complete. A header is judged as soon as it is there.
fn first(bytes: &[u8]) -> Result<Option<(Received, usize)>, MessageError> {
    let Some((&[a, b, c, d, e, f, g, h, kind, flags], rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (length, stream) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let wanted = usize::try_from(length)
        .ok()
        .filter(|wanted| *wanted <= DATA_BYTES)
        .ok_or(MessageError::Length { length })?;
    if !matches!((kind, flags), (REQUEST | RESPONSE, 0)) {
        return Err(MessageError::Kind { kind, flags });
    }
    let Some(data) = rest.get(..wanted) else {
        return Ok(None);
    };
    let message = if kind == REQUEST {
        let request = Request::decode(data).map_err(MessageError::Envelope)?;
        Received::Request { stream, request }
    } else {
        let response = Response::decode(data).map_err(MessageError::Envelope)?;
        Received::Response { stream, response }
    };
    Ok(Some((message, HEADER_BYTES + wanted)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, payload: &[u8]) -> Request {
        Request {
            service: "nri.pkg.api.v1alpha1.Plugin".into(),
            method: method.into(),
            payload: payload.into(),
            timeout_nano: 2_000_000_000,
        }
    }

    #[test]
    fn the_header_is_that_of_the_protocol() {
        let bytes = Response::of(&()).to_bytes(7);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 7, 2, 0]);
        assert_eq!(&request("A", b"").to_bytes(1)[4..10], [0, 0, 0, 1, 1, 0]);
    }

    #[test]
    fn what_the_protocol_does_not_have_is_refused_by_its_header() {
        let header = |length: u32, kind: u8, flags: u8| {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend([0, 0, 0, 1, kind, flags]);
            Assembler::default().take(&bytes)
        };
        assert!(header(DATA_BYTES as u32, REQUEST, 0).unwrap().is_empty());
        assert!(matches!(
            header(DATA_BYTES as u32 + 1, REQUEST, 0),
            Err(MessageError::Length { .. })
        ));
        assert!(matches!(header(0, 3, 0), Err(MessageError::Kind { kind: 3, .. })));
        assert!(matches!(
            header(0, REQUEST, 2),
            Err(MessageError::Kind { flags: 2, .. })
        ));
        let mut bytes = encode(1, REQUEST, &[0xff; 3]);
        bytes.extend([0; 100]);
        assert!(matches!(
            Assembler::default().take(&bytes),
            Err(MessageError::Envelope(_))
        ));
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            cut in 1_usize..64,
        ) {
            let sent: Vec<_> = payloads.iter().map(|payload| request("StateChange", payload)).collect();
            let bytes: Vec<u8> = sent.iter().zip(1..).flat_map(|(request, stream)| request.to_bytes(stream)).collect();
            let mut assembler = Assembler::default();
            let mut received = Vec::new();
            for part in bytes.chunks(cut) {
                received.extend(assembler.take(part).unwrap());
            }
            let expected: Vec<_> = sent
                .into_iter()
                .zip(1..)
                .map(|(request, stream)| Received::Request { stream, request })
                .collect();
            prop_assert_eq!(received, expected);
            prop_assert!(assembler.bytes.is_empty());
        }

        #[test]
        fn garbage_is_refused_or_waited_for(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Assembler::default().take(&bytes);
        }
    }
}
