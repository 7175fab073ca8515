//! Damaged and malicious files.

use super::*;
use crate::page_tree::ZERO_LEAF;
use proptest::prelude::*;

/// Name, offset and length of each header field.
const FIELDS: [(&str, usize, usize); 18] = [
    ("magic", 0, 8),
    ("version", 8, 4),
    ("kind", 12, 4),
    ("machine_version", 16, 4),
    ("reserved", 20, 4),
    ("memory_bytes", 24, 8),
    ("image", 32, 32),
    ("platform", 64, 32),
    ("page_root", 96, 32),
    ("parent", 128, 32),
    ("cpu", 160, 32),
    ("device", 192, 32),
    ("inputs", 224, 8),
    ("doorbells", 232, 8),
    ("entries", 240, 4),
    ("cpu_bytes", 244, 4),
    ("device_bytes", 248, 4),
    ("log_bytes", 252, 4),
];

fn with_field(bytes: &[u8], at: usize, len: usize, value: u64) -> Vec<u8> {
    let mut field = value.to_le_bytes().to_vec();
    field.resize(len.max(8), if value == u64::MAX { 0xff } else { 0 });
    let mut damaged = bytes.to_vec();
    damaged[at..at + len].copy_from_slice(&field[..len]);
    damaged
}

#[test]
fn a_checkpoint_cut_at_any_byte_is_refused() {
    let mut recorder = Recorder::start();
    let parent = recorder.checkpoint(&[1]);
    let child = recorder.checkpoint(&[2]);
    for (bytes, parent) in [(full_bytes(&parent), None), (incremental_bytes(&child, &parent), Some(&parent))]
    {
        for len in 0..bytes.len() {
            let error = refusal(&bytes[..len], parent);
            assert_eq!(error.kind(), "SnapshotInvalid", "cut to {len} of {} bytes: {error}", bytes.len());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(refusal(&longer, parent), CheckpointError::SnapshotInvalid { field: "length", .. }));
    }
}

#[test]
fn each_header_field_at_0_1_and_max_is_refused() {
    let mut recorder = Recorder::start();
    let parent = recorder.checkpoint(&[1]);
    let child = recorder.checkpoint(&[2, 3]);
    for (bytes, parent) in [(full_bytes(&parent), None), (incremental_bytes(&child, &parent), Some(&parent))]
    {
        for (name, at, len) in FIELDS {
            for value in [0, 1, u64::MAX] {
                let damaged = with_field(&bytes, at, len, value);
                if damaged == bytes {
                    continue;
                }
                let error = refusal(&damaged, parent);
                assert!(
                    ["SnapshotInvalid", "RootMismatch"].contains(&error.kind()),
                    "{name} = {value:#x}: {error}"
                );
            }
        }
    }
}

#[test]
fn each_header_field_at_0_1_and_max_is_refused_though_sealed_again() {
    let mut recorder = Recorder::start();
    let parent = recorder.checkpoint(&[1]);
    let child = recorder.checkpoint(&[2, 3]);
    for (bytes, parent) in [(full_bytes(&parent), None), (incremental_bytes(&child, &parent), Some(&parent))]
    {
        for (name, at, len) in FIELDS {
            for value in [0, 1, u64::MAX] {
                let mut damaged = with_field(&bytes, at, len, value);
                if damaged == bytes {
                    continue;
                }
                if seal_at(&damaged) + SEAL_BYTES <= damaged.len() {
                    seal_again(&mut damaged);
                }
                match decode(&damaged, parent) {
                    // Names of things outside the file: restoring compares them.
                    Ok(checkpoint) => {
                        assert!(
                            ["image", "platform"].contains(&name) && parent.is_none(),
                            "{name} = {value:#x}"
                        );
                        assert!(checkpoint.restore(&worker()).is_err(), "{name} = {value:#x}");
                    }
                    Err(error) => {
                        assert!(
                            ["SnapshotInvalid", "RootMismatch"].contains(&error.kind()),
                            "{name}: {error}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn refusals_name_field_or_component() {
    let mut recorder = Recorder::start();
    let bytes = full_bytes(&recorder.checkpoint(&[1]));
    let expect = |at: usize, flip: u8, wanted: &str| {
        let mut damaged = bytes.clone();
        damaged[at] ^= flip;
        if at >= HEADER_BYTES || at >= 96 {
            seal_again(&mut damaged);
        }
        let error = refusal(&damaged, None);
        let got = match &error {
            CheckpointError::SnapshotInvalid { field, .. } => field,
            CheckpointError::RootMismatch { component } => component,
            CheckpointError::Cpu(error) => error.kind(),
            other => panic!("byte {at}: {other}"),
        };
        assert_eq!(got, wanted, "byte {at}: {error}");
    };
    expect(0, 1, "magic");
    expect(8, 2, "version");
    expect(12, 3, "parent");
    expect(20, 1, "reserved");
    expect(24, 1, "memory_bytes");
    expect(40, 1, "seal");
    expect(96, 1, "memory");
    expect(160, 1, "cpu");
    expect(192, 1, "device");
    expect(224, 1, "inputs");
    expect(HEADER_BYTES, 1, "SnapshotInvalid");
    expect(HEADER_BYTES + 8, 1, "cpu");
    expect(HEADER_BYTES + 152, 1, "RegisterRefused");
    let device = HEADER_BYTES + crate::cpu::CpuState::BYTES;
    expect(device, 1, "device");
    expect(device + 17, 2, "device");
    expect(device + 18, 1, "input_log");
    let table = device + 18 + 12 + 32;
    expect(table + 3, 1, "table");
    expect(table + 4, 1, "memory");
}

#[test]
fn a_flipped_bit_in_any_of_1000_pages_is_detected_and_the_page_named() {
    let mut recorder = Recorder::start();
    // One untouched VM has few pages: fill memory with numbered ones.
    let mut checkpoint = recorder.checkpoint(&[1]);
    checkpoint.pages = numbered_pages(2048);
    let bytes = full_bytes(&checkpoint);
    let table = decode_indexes(&bytes);
    assert!(table.len() >= 1000);
    let pages_at = seal_at(&bytes) + SEAL_BYTES;
    let mut random = 0x5eed_u64;
    println!("seed {random:#x}");
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let chosen =
        [0, table.len() - 1].into_iter().chain((0..998).map(|_| next() % table.len()).collect::<Vec<_>>());
    for place in chosen {
        let mut damaged = bytes.clone();
        let bit = next() % (4096 * 8);
        damaged[pages_at + place * 4096 + bit / 8] ^= 1 << (bit % 8);
        match refusal(&damaged, None) {
            CheckpointError::ChunkHashMismatch { index } => assert_eq!(index, table[place], "bit {bit}"),
            other => panic!("page {}: {other}", table[place]),
        }
    }
}

#[test]
fn exchanged_pages_are_detected() {
    let mut recorder = Recorder::start();
    let bytes = full_bytes(&recorder.checkpoint(&[1]));
    let table = decode_indexes(&bytes);
    let at = seal_at(&bytes) + SEAL_BYTES;
    let mut swapped = bytes.clone();
    swapped[at..at + 4096].copy_from_slice(&bytes[at + 4096..at + 8192]);
    swapped[at + 4096..at + 8192].copy_from_slice(&bytes[at..at + 4096]);
    assert!(
        matches!(refusal(&swapped, None), CheckpointError::ChunkHashMismatch { index } if index == table[0])
    );
}

#[test]
fn a_page_exchanged_together_with_its_leaf_is_another_state() {
    let mut recorder = Recorder::start();
    let mut bytes = full_bytes(&recorder.checkpoint(&[1]));
    let pages_at = seal_at(&bytes) + SEAL_BYTES;
    let table_at = seal_at(&bytes) - 36 * decode_indexes(&bytes).len();
    bytes[pages_at] ^= 1;
    let page: &crate::page_tree::Page = bytes[pages_at..pages_at + 4096].try_into().unwrap();
    let leaf = crate::page_tree::hash_page(page);
    bytes[table_at + 4..table_at + 36].copy_from_slice(&leaf);
    seal_again(&mut bytes);
    assert!(matches!(refusal(&bytes, None), CheckpointError::RootMismatch { component: "memory" }));
}

#[test]
fn a_full_checkpoint_with_an_entry_for_a_zero_page_is_not_canonical() {
    let mut recorder = Recorder::start();
    let mut bytes = full_bytes(&recorder.checkpoint(&[1]));
    let table_at = seal_at(&bytes) - 36 * decode_indexes(&bytes).len();
    bytes[table_at + 4..table_at + 36].copy_from_slice(&ZERO_LEAF);
    seal_again(&mut bytes);
    assert!(matches!(refusal(&bytes, None), CheckpointError::SnapshotInvalid { field: "table", .. }));
}

fn decode_indexes(bytes: &[u8]) -> Vec<u32> {
    let end = seal_at(bytes);
    let entries = u32::from_le_bytes(bytes[240..244].try_into().unwrap()) as usize;
    bytes[end - 36 * entries..end]
        .chunks(36)
        .map(|e| u32::from_le_bytes(e[..4].try_into().unwrap()))
        .collect()
}

fn numbered_pages(count: u32) -> PageSnapshot {
    let page = |index: u32| {
        let mut page = [0; 4096];
        page[..4].copy_from_slice(&(index + 1).to_le_bytes());
        page[4092..].copy_from_slice(&(index ^ 0xabcd).to_le_bytes());
        page
    };
    // Every third page stays zero.
    let indexes: Vec<u32> = (0..count).filter(|index| index % 3 != 0).collect();
    let mut tree = crate::page_tree::PageTree::zero(count);
    tree.update(&indexes.iter().map(|i| (*i, crate::page_tree::hash_page(&page(*i)))).collect::<Vec<_>>());
    let mut pages = PageSnapshot::expecting(tree);
    for index in indexes {
        pages.receive(index, std::sync::Arc::new(page(index))).unwrap();
    }
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        prop_assert!(decode(&bytes, None).is_err());
    }

    #[test]
    fn any_header_behind_a_valid_start_is_refused_without_a_panic(
        memory in 4u64..8192, rest in prop::collection::vec(any::<u8>(), 0..5000), entries: u32, device in 0u32..30,
        log in 0u32..2100,
    ) {
        let mut bytes = b"QRTCKPT\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
        bytes.extend((memory << 21).to_le_bytes());
        bytes.extend([7; 96]);
        bytes.extend([0; 32]);
        bytes.extend([7; 80]);
        for word in [entries % 5000, 3115, device, log] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(rest);
        if seal_at(&bytes) + SEAL_BYTES <= bytes.len() {
            seal_again(&mut bytes);
        }
        prop_assert!(decode(&bytes, None).is_err());
    }
}
