use super::*;
use crate::tests::fixture::*;

fn open(folder: &Path) -> Memory {
    Memory::open(folder, SERVICE).unwrap()
}

#[test]
fn the_head_survives_a_restart_and_never_goes_back() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::new(9, 1));
    let mut memory = open(folder.path());
    assert_eq!((memory.size(), memory.needs(&log.certificate(4, &[0, 1])).unwrap()), (0, None));
    memory.advance(log.certificate(4, &[0, 1]), &[]).unwrap();
    assert_eq!(memory.needs(&log.certificate(8, &[0, 1])).unwrap(), Some((5, 9)));
    memory.advance(log.certificate(8, &[1, 2]), &log.consistency(5, 9)).unwrap();
    drop(memory);
    let mut memory = open(folder.path());
    assert_eq!(memory.size(), 9);
    let old = memory.advance(log.certificate(4, &[0, 1]), &[]).map_err(|error| error.kind());
    assert_eq!(old, Err("StaleHead"));
    assert!(memory.advance(log.certificate(8, &[2, 3]), &[]).is_ok(), "the same again");
    assert_eq!(memory.size(), 9);
}

/// Commands in a script run side by side and have one memory.
#[test]
fn a_head_that_another_process_moved_is_not_moved_back_nor_passed_without_a_proof() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::new(9, 1));
    let (mut slow, mut fast) = (open(folder.path()), open(folder.path()));
    slow.advance(log.certificate(2, &[0, 1]), &[]).unwrap();
    let first = fast.advance(log.certificate(6, &[0, 1]), &[]).map_err(|error| error.kind());
    assert_eq!((first, fast.size()), (Err("Conflict"), 3));
    fast.advance(log.certificate(6, &[0, 1]), &log.consistency(3, 7)).unwrap();
    let second =
        slow.advance(log.certificate(4, &[0, 1]), &log.consistency(3, 5)).map_err(|error| error.kind());
    assert_eq!((second, slow.size(), open(folder.path()).size()), (Err("StaleHead"), 7, 7));

    let mut other = open(folder.path());
    other.advance(log.certificate(7, &[0, 1]), &log.consistency(7, 8)).unwrap();
    let passed =
        slow.advance(log.certificate(8, &[0, 1]), &log.consistency(7, 9)).map_err(|error| error.kind());
    assert_eq!(passed, Err("Conflict"));
    slow.advance(log.certificate(8, &[0, 1]), &log.consistency(8, 9)).unwrap();
    assert_eq!(open(folder.path()).size(), 9);
}

#[test]
fn a_log_that_does_not_extend_the_known_one_is_refused_and_not_written() {
    let (folder, log, fork) = (tempfile::tempdir().unwrap(), Log::new(9, 1), Log::new(9, 2));
    let mut memory = open(folder.path());
    memory.advance(log.certificate(4, &[0, 1]), &[]).unwrap();
    for path in [fork.consistency(5, 9), log.consistency(5, 9), Vec::new()] {
        let refused = memory.advance(fork.certificate(8, &[0, 1]), &path).map_err(|error| error.kind());
        assert_eq!(refused, Err("ConflictingCertificates"));
    }
    let same_size = memory.advance(fork.certificate(4, &[0, 1]), &[]).map_err(|error| error.kind());
    assert_eq!(same_size, Err("ConflictingCertificates"));
    assert_eq!(open(folder.path()).head().unwrap().certificate, log.certificate(4, &[0, 1]));
}

#[test]
fn a_damaged_or_foreign_head_is_not_forgotten() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::new(5, 1));
    open(folder.path()).advance(log.certificate(4, &[0, 1]), &[]).unwrap();
    let path = folder.path().join(format!("{SERVICE}.head"));
    let bytes = fs::read(&path).unwrap();
    let other = ServiceId::from_bytes([8; 32]);
    fs::write(folder.path().join(format!("{other}.head")), &bytes).unwrap();
    assert_eq!(Memory::open(folder.path(), other).map_err(|error| error.kind()).err(), Some("DecodeError"));
    for damaged in [&bytes[..bytes.len() - 1], &[][..], &[bytes.clone(), vec![0]].concat(), &vec![0; 1 << 20]]
    {
        fs::write(&path, damaged).unwrap();
        assert_eq!(
            Memory::open(folder.path(), SERVICE).map_err(|error| error.kind()).err(),
            Some("DecodeError")
        );
    }
}

#[test]
fn evidence_is_kept_once_and_a_bounded_number_of_times() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::new(5, 1));
    let memory = open(folder.path());
    let first = memory.keep(&log.receipts[0]).unwrap();
    assert_eq!(memory.keep(&log.receipts[0]).unwrap(), first);
    assert_eq!(fs::read_dir(folder.path().join(EVIDENCE)).unwrap().count(), 1);
    let many =
        (0..EVIDENCE_MAX as u64 + 10).map(|number| ServiceReceipt { log_index: number, ..log.receipts[0] });
    many.for_each(|receipt| drop(memory.keep(&receipt)));
    assert_eq!(fs::read_dir(folder.path().join(EVIDENCE)).unwrap().count(), EVIDENCE_MAX);
}

use quorate_attest::service::ServiceReceipt;
