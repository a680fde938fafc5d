//! Any bytes are a record of the ring buffer, or refused; what is read has no text longer than its room.
#![no_main]

use lattice_common::abi::{
    ExecRecord, RECORD_ANCESTORS, RECORD_ARGUMENTS, RECORD_ARGV_BYTES, RECORD_NAME_BYTES, RECORD_PATH_BYTES,
    record_kind,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../lattice-agent/src/events/record.rs"]
#[allow(dead_code, reason = "the file as it is; the target uses a part")]
mod record;

use record::{Record, decode};

fn check(bytes: &[u8]) -> bool {
    let Ok(Record::Exec(record)) = decode(bytes) else {
        return false;
    };
    let fits = |text: &Option<Vec<u8>>, room: usize| text.as_ref().is_none_or(|text| text.len() <= room);
    assert!(fits(&record.path, RECORD_PATH_BYTES));
    assert!(fits(&record.name, RECORD_NAME_BYTES));
    let argv = record.argv.unwrap_or_default();
    assert!(argv.len() <= RECORD_ARGUMENTS as usize);
    assert!(argv.iter().map(Vec::len).sum::<usize>() <= RECORD_ARGV_BYTES);
    assert!(record.ancestors.len() <= RECORD_ANCESTORS);
    true
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Of the right length and kind, whatever else it says.
    let mut whole = vec![0; size_of::<ExecRecord>()];
    for (place, byte) in whole.iter_mut().zip(bytes) {
        *place = *byte;
    }
    whole[..4].copy_from_slice(&record_kind::EXEC.to_ne_bytes());
    assert!(check(&whole), "a record of the right length and kind was refused");
});
