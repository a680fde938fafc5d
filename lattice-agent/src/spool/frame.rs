//! One event in a segment: length (u32, little endian), CRC-32C of length and payload (u32, little endian), payload (protobuf).

use lattice_api::v1::Event;
use prost::Message;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 8;
/// More than any event that the kernel side can fill: its record has some KiB.
pub(super) const PAYLOAD_BYTES: usize = 1 << 20;

/// What lies at a place in a segment.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// An event, and the length of its frame.
    Event(Box<Event>, usize),
    /// The end.
    End,
    /// Not a whole frame.
    Broken,
}

fn checksum(length: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), payload)
}

/// The frame of an event, or `None` if it is too large.
pub(super) fn encode(event: &Event) -> Option<Vec<u8>> {
    let payload = event.encode_to_vec();
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_BYTES)?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&checksum(length, &payload).to_le_bytes());
    frame.extend_from_slice(&payload);
    Some(frame)
}

/// What the bytes begin with.
pub(super) fn decode(bytes: &[u8]) -> Frame {
    if bytes.is_empty() {
        return Frame::End;
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Frame::Broken;
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let (length, expected) = (
        u32::from_le_bytes([l0, l1, l2, l3]),
        u32::from_le_bytes([c0, c1, c2, c3]),
    );
    let whole = usize::try_from(length).ok().filter(|length| *length <= PAYLOAD_BYTES);
    let Some(payload) = whole.and_then(|length| rest.get(..length)) else {
        return Frame::Broken;
    };
    if checksum(length, payload) != expected {
        return Frame::Broken;
    }
    match Event::decode(payload) {
        Ok(event) => Frame::Event(Box::new(event), HEADER_BYTES + payload.len()),
        Err(_) => Frame::Broken,
    }
}

/// Reads a segment's bytes from the beginning and hands out its events, up to the first that is no whole one. Returns the bytes that
/// they take. Any bytes may be given; no event is larger than 1 MiB.
pub fn read_segment(bytes: &[u8], mut take: impl FnMut(Event)) -> usize {
    let mut at = 0;
    while let Frame::Event(event, length) = decode(bytes.get(at..).unwrap_or_default()) {
        at += length;
        take(*event);
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(sequence: u64) -> Event {
        Event {
            node: "n".into(),
            boot_id: "b".into(),
            sequence,
            ..Event::default()
        }
    }

    #[test]
    fn zeroes_are_no_event() {
        // A file that was extended and not written, as after a power loss. CRC-32C of four zeroes is not zero.
        assert_eq!(decode(&[0; 64]), Frame::Broken);
        assert_eq!(decode(&[]), Frame::End);
    }

    #[test]
    fn too_large_is_refused() {
        assert!(
            encode(&Event {
                node: "x".repeat(PAYLOAD_BYTES),
                ..event(1)
            })
            .is_none()
        );
    }

    proptest! {
        #[test]
        fn damage_is_noticed(sequence: u64, at: prop::sample::Index, bit in 0..8u8) {
            let mut frame = encode(&event(sequence)).unwrap();
            prop_assert_eq!(decode(&frame), Frame::Event(Box::new(event(sequence)), frame.len()));
            prop_assert_eq!(decode(&frame[..at.index(frame.len())]), if at.index(frame.len()) == 0 { Frame::End } else { Frame::Broken });
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            prop_assert_eq!(decode(&frame), Frame::Broken);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(read_segment(&bytes, |_| ()) <= bytes.len());
        }

        #[test]
        fn a_payload_that_is_no_event_is_broken_however_its_checksum_holds(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let length = u32::try_from(payload.len()).unwrap();
            let frame = [&length.to_le_bytes(), &checksum(length, &payload).to_le_bytes(), &payload[..]].concat();
            let mut events = Vec::new();
            let used = read_segment(&frame, |event| events.push(event));
            prop_assert_eq!(used, if events.is_empty() { 0 } else { frame.len() });
            for event in events {
                prop_assert!(encode(&event).is_some());
            }
        }
    }
}
