//! The peak of this process; alone in its binary, since tests beside it would give memory back meanwhile.
#![cfg(target_os = "linux")]

use hecate_train::machine::ProcessMemory;

#[test]
fn touching_memory_shows_in_the_peak() {
    let before = ProcessMemory::look_up().unwrap();
    let block = vec![1u8; 64 << 20];
    let after = ProcessMemory::look_up().unwrap();
    assert_eq!(block.iter().map(|&b| usize::from(b)).sum::<usize>(), block.len());
    assert!(after.peak_bytes >= after.resident_bytes);
    assert!(after.peak_bytes >= before.resident_bytes + (60 << 20), "{before:?} {after:?}");
}
