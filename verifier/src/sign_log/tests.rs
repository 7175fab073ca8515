use proptest::prelude::*;

use super::*;
use device::Device;

pub(crate) mod device;

fn entry(number: usize) -> Entry {
    // Lengths that differ, bytes that include zeros, so that a cut can fall on any of them.
    let payload = (0..(number * 37) % 300 + 1).map(|at| (number + at) as u8).collect();
    Entry { kind: (number % 3) as u8 + 1, payload }
}

/// A device with `count` entries, and the logical end of its log.
fn filled(count: usize) -> (Device, u64) {
    let (bytes, ..) = image(&[entry(0)]).unwrap();
    let device = Device::with(&bytes);
    let mut log = SignLog::open(device.clone()).unwrap().log;
    for number in 1..count {
        let Entry { kind, payload } = entry(number);
        log.append(kind, &payload).unwrap();
    }
    (device, log.size())
}

fn read(bytes: &[u8]) -> Result<Opened<Device>, SignLogError> {
    SignLog::open(Device::with(bytes))
}

#[test]
fn entries_survive_and_come_back_in_order() {
    let (device, end) = filled(50);
    let opened = read(&device.synced()).unwrap();
    assert_eq!(opened.entries, (0..50).map(entry).collect::<Vec<_>>());
    assert_eq!((opened.torn, opened.log.size()), (None, end));
    assert_eq!(device.synced().len() as u64 % GROWTH_BYTES, 0, "space is reserved ahead of the end");
}

#[test]
fn a_tail_torn_at_each_of_the_last_4096_bytes_is_cut_and_a_copy_kept() {
    let (device, end) = filled(60);
    let bytes = &device.synced()[..end as usize + 4096];
    assert!(end > 5000, "long enough: {end}");
    for cut in (end as usize - 4096)..end as usize {
        // Torn in a file with zeros ahead, and in one that ends there.
        let mut zeroed = bytes.to_vec();
        zeroed[cut..].fill(0);
        for torn in [zeroed, bytes[..cut].to_vec()] {
            let device = Device::with(&torn);
            let opened = SignLog::open(device.clone()).unwrap();
            let kept = opened.entries.len();
            assert_eq!(opened.entries, (0..kept).map(entry).collect::<Vec<_>>());
            assert!(kept < 60);
            if opened.torn.is_some() {
                assert_eq!(device.edit(|disk| disk.broken.clone()), Some(torn), "cut at {cut}");
            }
            // What is left can be continued and read again; growing the file makes that slow, so not at every byte.
            if cut % 64 != 0 {
                continue;
            }
            let mut log = opened.log;
            log.append(9, b"next").unwrap();
            let again = read(&device.synced()).unwrap();
            assert_eq!(again.entries.len(), kept + 1, "cut at {cut}");
            assert_eq!(again.torn, None);
        }
    }
}

#[test]
fn each_flipped_byte_of_a_record_in_the_middle_is_fatal() {
    let (device, _) = filled(12);
    let bytes = device.synced();
    let start = (0..5).map(|number| FRAME_HEADER_BYTES + entry(number).payload.len()).sum::<usize>();
    let length = FRAME_HEADER_BYTES + entry(5).payload.len();
    for at in start..start + length {
        for bit in [0x01, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            let error = read(&flipped).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), ("WalCorrupt", 74), "byte {at}");
            assert!(
                matches!(error, SignLogError::WalCorrupt { offset } if offset == start as u64),
                "byte {at}"
            );
        }
    }
}

#[test]
fn exchanged_duplicated_and_removed_records_are_fatal() {
    let (device, end) = filled(6);
    let bytes = &device.synced()[..end as usize];
    let mut frames = Vec::new();
    let mut at = 0;
    for number in 0..6 {
        let length = FRAME_HEADER_BYTES + entry(number).payload.len();
        frames.push(&bytes[at..at + length]);
        at += length;
    }
    let orders: [&[usize]; 4] = [&[0, 2, 1, 3, 4, 5], &[0, 1, 1, 2], &[0, 1, 3, 4, 5], &[1, 2, 3]];
    for order in orders {
        let forged: Vec<u8> = order.iter().flat_map(|number| frames[*number].to_vec()).collect();
        assert_eq!(read(&forged).unwrap_err().kind(), "WalCorrupt", "{order:?}");
    }
}

#[test]
fn a_record_of_another_log_does_not_continue_this_one() {
    let (ours, end) = filled(4);
    let (bytes, ..) = image(&[
        Entry { kind: 1, payload: b"other identity".to_vec() },
        entry(1),
        entry(2),
        entry(3),
        entry(4),
    ])
    .unwrap();
    let ours = &ours.synced()[..end as usize];
    let fifth = FRAME_HEADER_BYTES + entry(4).payload.len();
    let theirs = &bytes[..bytes.iter().rposition(|b| *b != 0).unwrap() + 1];
    let forged = [ours, &theirs[theirs.len() - fifth..]].concat();
    assert_eq!(read(&forged).unwrap_err().kind(), "WalCorrupt");
}

#[test]
fn an_empty_or_zeroed_log_has_no_entries_and_a_broken_first_record_is_not_cut() {
    assert!(read(&[]).unwrap().entries.is_empty());
    assert!(read(&[0; 4096]).unwrap().entries.is_empty());
    let (device, _) = filled(1);
    let mut bytes = device.synced();
    bytes[FRAME_HEADER_BYTES] ^= 1;
    assert!(matches!(read(&bytes), Err(SignLogError::WalCorrupt { offset: 0 })));
}

#[test]
fn a_failed_sync_ends_the_log_for_every_i_and_is_never_repeated() {
    for failing in 1..=9 {
        let (bytes, ..) = image(&[entry(0)]).unwrap();
        let device = Device::with(&bytes);
        let mut log = SignLog::open(device.clone()).unwrap().log;
        device.fail_sync(failing);
        let results: Vec<_> = (1..10).map(|number| log.append(1, &entry(number).payload)).collect();
        let failed = results.iter().position(Result::is_err).unwrap();
        assert_eq!(failed, failing - 1);
        assert_eq!(results[failed].as_ref().unwrap_err().exit_code(), 74);
        assert!(results[failed..].iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == "StorageSyncFailed")));
        assert_eq!(device.edit(|disk| disk.syncs), failing + 1, "no second sync after the failure");
        // What was acknowledged is there; what was not may be missing.
        let survivors = read(&device.synced()).unwrap().entries;
        assert_eq!(survivors.len(), failing);
    }
}

#[test]
fn record_that_only_memory_held_is_made_durable_before_it_is_relied_on() {
    let (device, _) = filled(3);
    // Killed between write and sync: the file shows the record, the device does not have it.
    let (written, synced) = (device.synced(), filled(2).0.synced());
    let killed = Device::with(&synced);
    killed.edit(|disk| disk.written = written);
    assert_eq!(SignLog::open(killed.clone()).unwrap().entries.len(), 3);
    assert_eq!(read(&killed.synced()).unwrap().entries.len(), 3);
    killed.fail_sync(1);
    assert_eq!(SignLog::open(killed).unwrap_err().kind(), "StorageSyncFailed");
}

#[test]
fn short_writes_are_completed() {
    let (bytes, ..) = image(&[entry(0)]).unwrap();
    let device = Device::with(&bytes);
    device.edit(|disk| disk.write_at_most = Some(7));
    let mut log = SignLog::open(device.clone()).unwrap().log;
    for number in 1..20 {
        let Entry { kind, payload } = entry(number);
        log.append(kind, &payload).unwrap();
    }
    assert_eq!(read(&device.synced()).unwrap().entries.len(), 20);
}

#[test]
fn a_full_device_is_noticed_before_anything_is_acknowledged() {
    let (bytes, ..) = image(&[entry(0)]).unwrap();
    let device = Device::with(&bytes);
    device.edit(|disk| disk.capacity = Some(GROWTH_BYTES as usize + 100_000));
    let mut log = SignLog::open(device.clone()).unwrap().log;
    let payload = vec![7u8; 200_000];
    let acknowledged = (0..).take_while(|_| log.append(1, &payload).is_ok()).count();
    assert_eq!(acknowledged, 5);
    let error = log.append(1, &payload).unwrap_err();
    assert!(matches!(error, SignLogError::Poisoned));
    device.edit(|disk| disk.capacity = None);
    let opened = read(&device.edit(|disk| disk.written.clone())).unwrap();
    assert_eq!((opened.entries.len(), opened.torn), (6, None), "nothing but zeros was written past the end");
}

#[test]
fn a_rewritten_log_holds_the_new_entries_and_goes_on() {
    let (device, _) = filled(30);
    let mut log = SignLog::open(device.clone()).unwrap().log;
    log.rewrite(&[entry(3), entry(4)]).unwrap();
    log.append(1, &entry(5).payload).unwrap();
    let kept = read(&device.synced()).unwrap().entries;
    assert_eq!(kept[..2], [entry(3), entry(4)]);
    assert_eq!(kept.len(), 3);
}

#[test]
fn empty_and_oversize_entries_are_refused_without_poisoning_the_log() {
    let (device, _) = filled(1);
    let mut log = SignLog::open(device).unwrap().log;
    assert_eq!(log.append(1, &[]).unwrap_err().kind(), "MessageTooLarge");
    assert_eq!(log.append(1, &vec![1; PAYLOAD_BYTES_MAX + 1]).unwrap_err().kind(), "MessageTooLarge");
    log.append(1, &vec![1; PAYLOAD_BYTES_MAX]).unwrap();
}

fn identity() -> Entry {
    Entry { kind: 1, payload: b"identity".to_vec() }
}

#[test]
fn two_processes_on_one_data_directory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    DataDir::init(folder.path(), &identity()).unwrap();
    let (_held, _) = DataDir::open(folder.path()).unwrap();
    let error = DataDir::open(folder.path()).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), ("DataDirLocked", 75));
}

#[test]
fn missing_empty_or_zeroed_sign_state_is_refused_and_init_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join(LOG_FILE);
    let error = DataDir::open(folder.path()).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), ("SignStateMissing", 78));
    for content in [Vec::new(), vec![0; 4096]] {
        std::fs::write(&log, content).unwrap();
        assert_eq!(DataDir::open(folder.path()).unwrap_err().kind(), "SignStateMissing");
        assert_eq!(DataDir::init(folder.path(), &identity()).unwrap_err().kind(), "AlreadyInitialised");
    }
    assert_eq!(DataDir::open(&folder.path().join("absent")).unwrap_err().kind(), "SignStateMissing");
}

#[test]
fn torn_tail_of_a_file_leaves_a_broken_copy_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    DataDir::init(folder.path(), &identity()).unwrap();
    let (held, mut opened) = DataDir::open(folder.path()).unwrap();
    opened.log.append(2, b"kept").unwrap();
    opened.log.append(2, b"torn").unwrap();
    let end = opened.log.size();
    drop((held, opened));
    let path = folder.path().join(LOG_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[end as usize - 2..].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let (_, opened) = DataDir::open(folder.path()).unwrap();
    assert_eq!(opened.entries.len(), 2);
    assert_eq!(opened.torn, Some(FRAME_HEADER_BYTES as u64 + 2));
    assert_eq!(std::fs::read(folder.path().join("sign-log.broken")).unwrap(), bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_whatever_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn any_damage_is_a_refusal_or_a_prefix(count in 2usize..20, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let (device, end) = filled(count);
        let mut bytes = device.synced();
        bytes[at.index(end as usize)] ^= flip;
        if let Ok(opened) = read(&bytes) {
            prop_assert_eq!(opened.entries.len(), count - 1, "only the last record can be taken for a torn one");
            prop_assert_eq!(opened.entries, (0..count - 1).map(entry).collect::<Vec<_>>());
        }
    }
}
