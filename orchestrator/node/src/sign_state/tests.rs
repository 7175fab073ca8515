use std::io;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use quorate_attest::key::SecretKey;

use super::*;

/// A device in memory.
#[derive(Clone, Debug, Default)]
struct Device(Arc<Mutex<Vec<u8>>>);

impl Storage for Device {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        let length = disk.len().max(end);
        disk.resize(length, 0);
        disk[offset as usize..end].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn keep_broken(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap() = bytes.to_vec();
        Ok(())
    }
}

fn identity() -> Identity {
    Identity::new(GroupId::from_bytes([9; 32]), SecretKey::from_seed([1; 32]).public())
}

fn new_device() -> Device {
    let device = Device::default();
    SignLog::open(device.clone()).unwrap().log.rewrite(&[identity().entry()]).unwrap();
    device
}

fn journal(device: &Device) -> SignJournal<Device> {
    SignJournal::restore(SignLog::open(device.clone()).unwrap(), identity()).unwrap()
}

fn promises(first: u64, contents: &[u8]) -> Promises {
    Promises { first, digests: contents.iter().map(|byte| [*byte; 32]).collect(), grants: Vec::new() }
}

fn grant(generation: u64, content: u8) -> Promises {
    let decision = StatementDigest::from_bytes([content; 32]);
    let grant = Grant { vm: VmId::from_bytes([5; 32]), generation: Generation(generation), decision };
    Promises { grants: vec![grant], ..Promises::default() }
}

#[test]
fn a_second_receipt_for_one_index_is_refused_also_after_a_restart() {
    let device = new_device();
    let mut first = journal(&device);
    first.record(&promises(0, &[1, 2, 3])).unwrap();
    drop(first);
    let journal = journal(&device);
    assert_eq!(journal.state().next(), 3);
    assert_eq!(journal.state().check(&promises(1, &[2, 3, 4])), Ok(()), "the same again, and one more");
    assert_eq!(journal.state().check(&promises(1, &[2, 9])), Err(Contradiction::Receipt { index: 2 }));
}

#[test]
fn a_generation_is_granted_once_wherever_in_the_log_the_grant_stands() {
    let device = new_device();
    let mut journal = journal(&device);
    journal.record(&grant(4, 1)).unwrap();
    let state = journal.state();
    assert_eq!(state.check(&grant(4, 1)), Ok(()));
    let vm = VmId::from_bytes([5; 32]);
    assert_eq!(state.check(&grant(4, 2)), Err(Contradiction::Grant { vm, generation: Generation(4) }));
    assert_eq!(state.check(&grant(5, 2)), Ok(()));
}

#[test]
fn nothing_below_the_window_is_signed_again() {
    let mut state = SignState::default();
    for first in 0..3 {
        state.record(&promises(first * WINDOW as u64, &vec![1; WINDOW]));
    }
    assert_eq!((state.floor(), state.next()), (2 * WINDOW as u64, 3 * WINDOW as u64));
    let mut gap = state.clone();
    gap.record(&promises(gap.next() + 10, &[1]));
    assert_eq!(
        (gap.floor(), gap.next()),
        (state.next() + 10, state.next() + 11),
        "nothing in the gap either"
    );
}

#[test]
fn a_sign_log_of_somebody_else_is_no_sign_state() {
    let device = new_device();
    let other = Identity::new(GroupId::from_bytes([8; 32]), SecretKey::from_seed([1; 32]).public());
    let error = SignJournal::restore(SignLog::open(device).unwrap(), other).unwrap_err();
    assert_eq!(error.kind(), "SignStateMissing");
}

#[test]
fn a_safety_stop_survives_a_restart_and_a_compaction() {
    let device = new_device();
    let mut first = journal(&device);
    first.record(&promises(0, &[1, 2, 3])).unwrap();
    first.stop("ConflictingCertificates").unwrap();
    let mut second = journal(&device);
    assert_eq!(second.stopped(), Some("ConflictingCertificates"));
    second.compact().unwrap();
    let third = journal(&device);
    assert_eq!((third.stopped(), third.state().next()), (Some("ConflictingCertificates"), 3));
}

proptest! {
    #[test]
    fn what_was_recorded_is_what_a_restart_knows(
        batches in prop::collection::vec((0u64..4, prop::collection::vec(any::<u8>(), 1..6), any::<bool>()), 0..20),
    ) {
        let device = new_device();
        let mut journal = journal(&device);
        for (back, contents, compact) in batches {
            let first = journal.state().next().saturating_sub(back);
            let batch = promises(first, &contents);
            if journal.state().check(&batch).is_ok() {
                journal.record(&batch).unwrap();
            }
            if compact {
                journal.compact().unwrap();
            }
            let again = self::journal(&device);
            prop_assert_eq!(again.state(), journal.state());
        }
    }

    #[test]
    fn any_bytes_as_promises_decode_to_what_encodes_to_them_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(decoded) = from_bytes::<Promises>(&bytes, PAYLOAD_BYTES_MAX) {
            prop_assert_eq!(to_bytes(&decoded), bytes);
        }
    }
}
