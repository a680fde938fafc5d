//! Any bytes are a spool segment up to the first frame that is not whole, and whatever event is in one can be shown.
#![no_main]

use lattice_api::event::{to_json_line, to_line};
use libfuzzer_sys::fuzz_target;

#[path = "../../lattice-agent/src/spool/frame.rs"]
#[allow(dead_code, reason = "the file as it is; the target uses a part")]
mod frame;

use frame::read_segment;

fn check(bytes: &[u8]) {
    let mut events = Vec::new();
    let used = read_segment(bytes, |event| events.push(event));
    assert!(used <= bytes.len());
    // The same again: what was whole stays whole.
    let mut again = Vec::new();
    assert_eq!(read_segment(&bytes[..used], |event| again.push(event)), used);
    assert_eq!(events, again);
    for event in &events {
        for shown in [to_line(event), to_json_line(event)] {
            assert!(shown.chars().all(|character| !character.is_control()), "{shown:?}");
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Behind a header that holds: no chance finds a checksum.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), bytes).to_le_bytes();
    check(&[&length[..], &checksum, bytes].concat());
});
