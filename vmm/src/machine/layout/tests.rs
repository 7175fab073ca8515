use std::collections::BTreeMap;

use super::*;

const TEXT: Extent = Extent { start: 0x20_0000, bytes: 0x12_345, access: Access::ReadExecute };
const CONSTANTS: Extent = Extent { start: 0x40_0000, bytes: 0x20_0001, access: Access::Read };
const STATE: Extent = Extent { start: 0x80_0000, bytes: 0x2001, access: Access::ReadWrite };
const MEMORY: u64 = 32 << 20;

fn words(map: &MemoryMap) -> BTreeMap<u64, u64> {
    let mut bytes = BTreeMap::new();
    map.write_supervisor(&mut |address, piece| {
        bytes.extend((address..).zip(piece.iter().copied()));
    });
    let mut words = BTreeMap::new();
    for (address, byte) in bytes {
        *words.entry(address & !7).or_insert(0) |= u64::from(byte) << (address % 8 * 8);
    }
    words
}

/// What the tables say about an address: its frame, and whether CPL 3 may write and execute there.
fn walk(words: &BTreeMap<u64, u64>, address: u64) -> Option<(u64, bool, bool)> {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let mut table = PML4;
    let (mut writable, mut executable, mut user) = (true, true, true);
    for shift in [39, 30, 21, 12] {
        let entry = *words.get(&(table + (address >> shift & 0x1ff) * 8))?;
        if entry & PRESENT == 0 {
            return None;
        }
        assert_eq!(entry & 1 << 5, 1 << 5, "accessed bit of {address:#x} at level {shift}");
        writable &= entry & WRITABLE != 0;
        user &= entry & USER != 0;
        executable &= entry & NO_EXECUTE == 0;
        if shift == 12 || entry & LARGE != 0 {
            assert_eq!(entry & 1 << 6, 1 << 6, "dirty bit of {address:#x}");
            let mask = (1 << shift) - 1;
            return user.then_some(((entry & FRAME & !mask) | address & mask, writable, executable));
        }
        table = entry & FRAME;
    }
    None
}

#[test]
fn tables_give_cpl_3_exactly_the_regions_of_the_map() {
    let map = MemoryMap::new(&[TEXT, CONSTANTS, STATE], MEMORY).unwrap();
    let words = words(&map);
    for address in (0..MEMORY + (4 << 20)).step_by(4096).chain([1 << 30, 1 << 37, 1 << 39, 1 << 46]) {
        let region = map.regions().iter().find(|region| region.range.contains(&address));
        let expected = region.map(|region| {
            (address, region.access == Access::ReadWrite, region.access == Access::ReadExecute)
        });
        assert_eq!(walk(&words, address), expected, "{address:#x}");
    }
    assert_eq!(walk(&words, abi::DOORBELL), Some((abi::DOORBELL, true, false)));
}

#[test]
fn no_region_is_writable_and_executable_and_the_supervisor_is_out_of_reach() {
    let map = MemoryMap::new(&[TEXT, CONSTANTS, STATE], MEMORY).unwrap();
    let span = |pointer, length| Span::new(pointer, length).unwrap();
    for address in (0x1000..0x2_0000u64).step_by(4096).filter(|address| *address != abi::MAILBOX) {
        assert!(!map.may_read(span(address, 1)) && !map.may_write(span(address, 1)), "{address:#x}");
    }
    assert!(map.may_read(span(TEXT.start, 0x20_0000)) && !map.may_write(span(TEXT.start, 1)));
    assert!(map.may_read(span(CONSTANTS.start, 8)) && !map.may_write(span(CONSTANTS.start, 8)));
    assert!(map.may_write(span(STATE.start, MEMORY - STATE.start)));
    assert!(!map.may_read(span(TEXT.start, 0x20_0001)), "text and constants are two regions");
    assert!(!map.may_write(span(STATE.start - 1, 2)) && !map.may_read(span(MEMORY - 1, 2)));
    assert!(
        map.may_write(span(u64::MAX, 0)) && map.may_read(span(0, 0)),
        "an empty range is always acceptable"
    );
}

#[test]
fn golden_digest_of_the_supervisor_region() {
    // A change here changes the genesis of every VM and so needs a new machine version.
    let digest = |segments: &[Extent], memory_bytes| {
        let mut hasher = blake3::Hasher::new();
        for (address, word) in words(&MemoryMap::new(segments, memory_bytes).unwrap()) {
            hasher.update(&address.to_le_bytes()).update(&word.to_le_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    };
    let digests = [digest(&[TEXT, CONSTANTS, STATE], MEMORY), digest(&[TEXT], 16 << 30)];
    assert_eq!(digests, ["8690ab749d42ee9d", "a9f6c05862b7ea02"]);
}

#[test]
fn heap_follows_the_last_segment() {
    let heap = |segments: &[Extent]| MemoryMap::new(segments, MEMORY).unwrap().heap_start();
    assert_eq!(heap(&[TEXT, CONSTANTS, STATE]), 0x80_3000);
    assert_eq!(heap(&[TEXT, CONSTANTS]), 0x80_0000);
    assert_eq!(heap(&[TEXT]), 0x40_0000);
    let full = Extent { bytes: MEMORY - STATE.start, ..STATE };
    assert_eq!(heap(&[TEXT, full]), MEMORY);
}

#[test]
fn regions_merge_only_with_equal_rights() {
    let second = Extent { start: 0x40_0000, ..TEXT };
    let ranges = |segments: &[Extent]| {
        let map = MemoryMap::new(segments, MEMORY).unwrap();
        map.regions().iter().map(|region| region.range.clone()).collect::<Vec<_>>()
    };
    let (mailbox, stack) = (0x6000..0x7000, 0x10_0000..0x20_0000);
    assert_eq!(
        ranges(&[TEXT, second]),
        [mailbox.clone(), stack.clone(), 0x20_0000..0x60_0000, 0x60_0000..MEMORY]
    );
    let data = Extent { start: 0x20_0000, ..STATE };
    assert_eq!(ranges(&[data]), [mailbox, stack, 0x20_0000..MEMORY]);
}

#[test]
fn segments_and_sizes_that_make_no_machine_are_refused() {
    let with = |change: &dyn Fn(&mut Extent)| {
        let mut state = STATE;
        change(&mut state);
        MemoryMap::new(&[TEXT, CONSTANTS, state], MEMORY).unwrap_err()
    };
    assert!(matches!(with(&|s| s.bytes = 0), LayoutError::SegmentPlace { index: 2, .. }));
    assert!(matches!(with(&|s| s.start += 4096), LayoutError::SegmentPlace { index: 2, .. }));
    assert!(matches!(with(&|s| s.start = 0), LayoutError::SegmentPlace { index: 2, .. }));
    assert!(matches!(with(&|s| s.start = 0x60_0000), LayoutError::SegmentOrder { index: 2, .. }));
    assert!(matches!(with(&|s| s.start = TEXT.start), LayoutError::SegmentOrder { index: 2, .. }));
    assert!(matches!(with(&|s| s.start = MEMORY), LayoutError::SegmentEnd { index: 2, .. }));
    assert!(matches!(with(&|s| s.bytes = u64::MAX), LayoutError::SegmentEnd { index: 2, .. }));
    assert!(matches!(with(&|s| s.start = u64::MAX << 21), LayoutError::SegmentEnd { index: 2, .. }));
    assert_eq!(MemoryMap::new(&[], MEMORY), Err(LayoutError::NoSegment));
    for bytes in [0, 4 << 20, (8 << 20) + 4096, (16 << 30) + (2 << 20), u64::MAX] {
        assert_eq!(MemoryMap::new(&[TEXT], bytes), Err(LayoutError::MemoryBytes(bytes)));
    }
}
